"""NRRD with an attached header: integers and floats, raw or gzip encoding (teem's definition of NRRD 1 to 5).

The text header is read for where the samples lie and nothing else; it stays as it is. A detached one says so of the one
file that it names. Samples in several files, text, hex and bzip2 are left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.detached import Detached, is_name
from callic_archive.images.gzip_file import likely_level, unpack_one
from callic_archive.images.layout import Image, Layout
from callic_archive.images.members import deflated, rebuild_members
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import volume

_MAX_HEADER = 1 << 20
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    # taken as bit patterns:
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "f4": ("float",),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f8": ("double",),
}  # fmt: skip
_MEANINGS = {name: letter for letter, names in _TYPES.items() for name in names}
_LETTERS = {name: letter if letter[1] in "12" else f"u{letter[1]}" for name, letter in _MEANINGS.items()}
_COLOUR = ("vector", "list", "color", "colour", "point", "normal", "rgb", "rgba", "hsv", "xyz", "complex")
_MOST_SAMPLES = 64  # samples a voxel, as in TIFF


def _header(data: memoryview) -> tuple[dict[str, str], int]:
    """The fields of the header, names in lower case, and where the data behind it begins."""
    text = bytes(data[:_MAX_HEADER])
    ends = [text.find(blank) + len(blank) for blank in (b"\n\n", b"\n\r\n") if blank in text]
    if not ends:
        if b"data file:" in text.lower() or b"datafile:" in text.lower():
            return {"data file": ""}, len(data)
        raise TruncatedSource("the NRRD header does not end")
    start = min(ends)
    fields: dict[str, str] = {}
    for line in text[:start].decode("latin-1").splitlines()[1:]:
        name, colon, value = line.partition(": ")
        if colon and not line.startswith("#"):
            fields.setdefault(name.strip().lower().replace("datafile", "data file"), value.strip())
    return fields, start


def _numbers(text: str, name: str) -> list[int]:
    try:
        return [int(word) for word in text.split()]
    except ValueError as error:
        raise MalformedSource(f"the NRRD field {name} holds no numbers") from error


def _type(fields: Mapping[str, str]) -> str:
    return " ".join(fields.get("type", "").lower().split())


def sample_type(header: memoryview) -> str:
    """The numpy type of the samples. Raises SourceError subclasses, KeyError."""
    return _MEANINGS[_type(_header(header)[0])]


@dataclass(frozen=True)
class _Form:
    """What a header says of the samples."""

    dtype: str
    sizes: tuple[int, ...]
    kinds: tuple[str, ...]
    packed: bool
    lines: int  # to skip, before what is packed is unpacked
    skipped: int  # bytes to skip behind these, after that; -1: the samples are what the file ends with

    def layouts(self, start: int, length: int, limits: Limits) -> list[Layout]:
        """Where the samples lie in a file of ``length`` bytes, counted from ``start``. Raises NotTaken, SourceError."""
        size = math.prod(self.sizes) * int(self.dtype[2])
        at = length - size if self.skipped == -1 else start + self.skipped
        if at < start or at + size > length:
            raise TruncatedSource(f"the NRRD promises {size} bytes of samples, {length - start} follow")
        found = _layouts(self.dtype, self.sizes, self.kinds, at, limits)
        if not found:
            raise NotTaken("axes")
        return found


def _form(fields: Mapping[str, str]) -> _Form:
    """Raises NotTaken for blocks and text, and MalformedSource."""
    letter = _LETTERS.get(_type(fields))
    encoding = fields.get("encoding", "").lower()
    if letter is None or encoding not in ("raw", "gz", "gzip"):
        raise NotTaken("samples" if letter is None else "coding")
    sizes = _numbers(fields.get("sizes", ""), "sizes")
    if not sizes or _numbers(fields.get("dimension", ""), "dimension") != [len(sizes)] or min(sizes) < 1:
        raise MalformedSource("the NRRD fields dimension and sizes contradict each other")
    itemsize = int(letter[1])
    endian = fields.get("endian", "").lower()
    if itemsize > 1 and endian not in ("little", "big"):
        raise MalformedSource("the NRRD header does not tell the byte order")
    dtype = ("|" if itemsize == 1 else "<" if endian == "little" else ">") + letter
    skips = [_numbers(fields.get(f"{what} skip", "0"), f"{what} skip") for what in ("line", "byte")]
    if any(len(skip) != 1 for skip in skips):
        raise MalformedSource("the NRRD field of a skip holds no single number")
    if skips[1][0] < -1:
        raise MalformedSource("the NRRD skips a negative number of bytes")
    kinds = tuple(fields.get("kinds", "").lower().split())
    return _Form(dtype, tuple(sizes), kinds, encoding != "raw", skips[0][0], skips[1][0])


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Blocks, text and detached samples are not taken."""
    fields, start = _header(data)
    if "data file" in fields:
        raise NotTaken("no-pixels")
    form = _form(fields)
    start = _skip_lines(form.lines, data, start)
    if not form.packed:
        return parse_spliced("nrrd", data, form.layouts(start, len(data), limits), limits)
    raw, begin, end = unpack_one(data, start, limits)
    inner = parse_spliced("nrrd", raw, form.layouts(0, len(raw), limits), limits)
    return deflated("nrrd", data, (begin, end), raw, inner, likely_level(data, start), limits)


def detached(header: memoryview, name: str) -> Detached:
    """What a header says of the file ``name`` beside it. Raises NotTaken, also where it names another, and SourceError."""
    if bytes(header[:7]) != b"NRRD000":
        raise NotTaken("variant")
    fields, _ = _header(memoryview(bytes(header[: _MAX_HEADER - 2]) + b"\n\n"))
    if not is_name(fields.get("data file", ""), name):
        raise NotTaken("variant")
    form = _form(fields)
    begin = partial(_skip_lines, form.lines)
    return Detached(_MEANINGS[_type(fields)], form.layouts, "gzip" if form.packed else "", begin)


def _skip_lines(lines: int, data: memoryview, start: int = 0) -> int:
    if not 0 <= lines <= _MAX_HEADER:
        raise MalformedSource("the NRRD skips an impossible number of lines")
    text = bytes(data[start : start + _MAX_HEADER]) if lines else b""
    at = 0
    for _ in range(lines):
        at = text.find(b"\n", at) + 1
        if not at:
            raise TruncatedSource("the NRRD has fewer lines before its samples than it says")
    return start + at


def _layouts(
    dtype: str, sizes: Sequence[int], kinds: Sequence[str], at: int, limits: Limits
) -> list[Layout]:
    named = bool(kinds) and any(word in kinds[0] for word in _COLOUR)
    few = not kinds and len(sizes) >= 3 and sizes[0] in (2, 3, 4)
    if len(sizes) >= 3 and 1 < sizes[0] <= _MOST_SAMPLES and (named or few):
        layouts = volume(dtype, sizes[1:], at, limits, sizes[0])
        if layouts:
            return layouts
    return volume(dtype, sizes, at, limits)


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    if "members" in recipe:
        rebuild_members(recipe, surround, images, out)
    else:
        rebuild_spliced(recipe, surround, images, out)
