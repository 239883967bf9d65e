"""MetaImage in one file (``.mha``, as ITK writes it): integers and floats, raw or in one zlib stream (MetaIO's definition).

The text header is read for where the samples lie and nothing else; it stays as it is. That of samples in one other file
(``.mhd``) says so too. Samples written as text, and those in several files, are left.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.detached import Detached, is_name
from callic_archive.images.layout import Image, Layout
from callic_archive.images.members import deflated, rebuild_members
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import volume
from callic_archive.images.streams import inflate

_MAX_HEADER = 1 << 20
#: MET_LONG is left: writers disagree about its size.
_MEANINGS = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_FLOAT": "f4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_DOUBLE": "f8",
}  # fmt: skip
#: 32 and 64 bits are taken as bit patterns.
_TYPES = {name: letter if letter[1] in "12" else f"u{letter[1]}" for name, letter in _MEANINGS.items()}
_MOST_CHANNELS = 64  # as in NRRD and TIFF
_MOST_AXES = 10  # MetaIO's own limit
_ADLER = 4  # bytes of the checksum behind a zlib stream


def _header(data: memoryview) -> tuple[dict[str, str], int]:
    """The fields of the header, and where the samples behind it begin. Raises NotTaken where none follow."""
    fields, at = _fields(bytes(data[:_MAX_HEADER]))
    if "ElementDataFile" not in fields:
        raise NotTaken("variant")
    if fields["ElementDataFile"].upper() != "LOCAL":
        raise NotTaken("no-pixels")
    return fields, at


def _fields(text: bytes) -> tuple[dict[str, str], int]:
    """The fields of a header, and where it ends. Raises NotTaken where they are none of an image."""
    fields: dict[str, str] = {}
    at = 0
    while "ElementDataFile" not in fields:
        end = text.find(b"\n", at)
        if end < 0:
            break
        name, equals, value = text[at:end].decode("latin-1").partition("=")
        if equals:
            fields.setdefault(name.strip(), value.strip())
        at = end + 1
    if fields.get("ObjectType", "Image") != "Image":
        raise NotTaken("variant")
    return fields, at


def _numbers(fields: Mapping[str, str], name: str, default: str = "") -> list[int]:
    try:
        return [int(word) for word in fields.get(name, default).split()]
    except ValueError as error:
        raise MalformedSource(f"the MetaImage field {name} holds no numbers") from error


def _is_true(fields: Mapping[str, str], name: str) -> bool:
    return fields.get(name, "False")[:1] in ("T", "t", "1")


def _type(fields: Mapping[str, str]) -> str:
    return fields.get("ElementType", "").upper().removesuffix("_ARRAY")


def sample_type(header: memoryview) -> str:
    """The numpy type of the samples. Raises NotTaken, KeyError."""
    return _MEANINGS[_type(_header(header)[0])]


@dataclass(frozen=True)
class _Form:
    """What a header says of the samples."""

    dtype: str
    sizes: tuple[int, ...]
    channels: int
    packed: bool
    skipped: int  # bytes before the samples; -1: they are what their file ends with

    @property
    def size(self) -> int:
        """Bytes of the samples."""
        return math.prod(self.sizes) * self.channels * int(self.dtype[2])

    def layouts(self, start: int, length: int, limits: Limits) -> list[Layout]:
        """Where they lie in a file of ``length`` bytes, counted from ``start``. Raises NotTaken, SourceError."""
        at = length - self.size if self.skipped < 0 else start + self.skipped
        if at < start or at + self.size > length:
            raise TruncatedSource(f"the MetaImage promises {self.size} bytes of samples, {length - start} follow")
        found = volume(self.dtype, self.sizes, at, limits, self.channels) if self.channels <= _MOST_CHANNELS else []
        if not found:
            raise NotTaken("axes")
        return found


def _form(fields: Mapping[str, str]) -> _Form:
    """Raises NotTaken for samples as text and those of types of unsure size, and MalformedSource."""
    if not _is_true(fields, "BinaryData"):
        raise NotTaken("coding")
    letter = _TYPES.get(_type(fields))
    if letter is None:
        raise NotTaken("samples")
    sizes = _numbers(fields, "DimSize")
    channels = _numbers(fields, "ElementNumberOfChannels", "1")
    if _numbers(fields, "NDims") != [len(sizes)] or not 1 <= len(sizes) <= _MOST_AXES or min(sizes) < 1:
        raise MalformedSource("the MetaImage fields NDims and DimSize contradict each other")
    if len(channels) != 1 or channels[0] < 1:
        raise MalformedSource("the MetaImage field ElementNumberOfChannels is no number of channels")
    big = any(_is_true(fields, name) for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    dtype = ("|" if letter[1] == "1" else ">" if big else "<") + letter
    skipped = _numbers(fields, "HeaderSize", "0")
    packed = _is_true(fields, "CompressedData")
    if len(skipped) != 1 or skipped[0] < -1 or (packed and skipped[0]):
        raise NotTaken("coding")
    return _Form(dtype, tuple(sizes), channels[0], packed, skipped[0])


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Samples as text, in other files, and of types of unsure size are not taken."""
    fields, start = _header(data)
    form = _form(fields)
    if form.skipped:
        raise NotTaken("coding")
    if not form.packed:
        return parse_spliced("metaimage", data, form.layouts(start, len(data), limits), limits)
    raw, begin, end = inflated(data, start, limits)
    inner = parse_spliced("metaimage", raw, form.layouts(0, len(raw), limits), limits)
    return deflated("metaimage", data, (begin, end), raw, inner, bytes(data[start:begin]), limits)


def detached(header: memoryview, name: str) -> Detached:
    """What a header says of the file ``name`` beside it. Raises NotTaken, also where it names another, and SourceError."""
    fields, _ = _fields(bytes(header[:_MAX_HEADER]) + b"\n")
    if not is_name(fields.get("ElementDataFile", ""), name):
        raise NotTaken("variant")
    form = _form(fields)
    return Detached(_MEANINGS[_type(fields)], form.layouts, "zlib" if form.packed else "")


def inflated(data: memoryview, start: int, limits: Limits) -> tuple[memoryview, int, int]:
    """What the zlib stream at ``start`` (RFC 1950) holds, and where the deflate stream in it begins and ends.

    Raises SourceError subclasses.
    """
    begin = start + 2
    told = int.from_bytes(data[start:begin], "big")
    if begin > len(data) or told % 31 or told >> 8 & 15 != 8 or told & 32:
        raise MalformedSource("the MetaImage's samples are said to be a zlib stream, and are not")
    raw, length = inflate(data[begin:], limits)
    end = begin + length
    if end + _ADLER > len(data):
        raise TruncatedSource("the MetaImage ends inside the checksum of its samples")
    if int.from_bytes(data[end : end + _ADLER], "big") != zlib.adler32(raw):
        raise MalformedSource("the MetaImage's samples do not have their checksum")
    return raw, begin, end


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    if "members" in recipe:
        rebuild_members(recipe, surround, images, out)
    else:
        rebuild_spliced(recipe, surround, images, out)
