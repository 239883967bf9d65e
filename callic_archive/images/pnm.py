"""PNM: binary PBM (P4), PGM (P5), PPM (P6) and PAM (P7), also several in one file.

Samples above 255 are big-endian (netpbm).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, SourceError, TruncatedSource
from callic_archive.images.bit_packing import packed_bytes
from callic_archive.images.layout import Image, Layout
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import stacked

_MAX_HEADER = 1 << 16  # bytes of comments and numbers
_TOKEN = re.compile(rb"(?:[ \t\r\n\v\f]+|#[^\n\r]*[\n\r])*([^ \t\r\n\v\f#]+)")


def _numbers(head: bytes, start: int, count: int) -> tuple[list[int], int]:
    """``count`` decimal numbers after ``start``, and the position behind the last."""
    values: list[int] = []
    for _ in range(count):
        match = _TOKEN.match(head, start)
        if match is None:
            raise TruncatedSource("the PNM header ends before its numbers")
        if not match[1].isdigit() or len(match[1]) > 10:
            raise MalformedSource(f"{match[1][:20]!r} in the PNM header is no number")
        values.append(int(match[1]))
        start = match.end()
    return values, start


def _pam(head: bytes, start: int) -> tuple[int, int, int, int, int]:
    """(width, height, depth, maxval, offset) of a PAM header."""
    fields: dict[bytes, int] = {}
    for line in head[start:].split(b"\n"):
        start += len(line) + 1
        words = line.split()
        if words == [b"ENDHDR"]:
            if start > len(head):
                raise TruncatedSource("the PAM header ends before its samples")
            missing = {b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"} - fields.keys()
            if missing:
                raise MalformedSource(f"the PAM header lacks {sorted(missing)[0].decode()}")
            return fields[b"WIDTH"], fields[b"HEIGHT"], fields[b"DEPTH"], fields[b"MAXVAL"], start
        if len(words) >= 2 and words[0] in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"):
            if not words[1].isdigit() or len(words[1]) > 10:
                raise MalformedSource(f"{words[1][:20]!r} in the PAM header is no number")
            fields[words[0]] = int(words[1])
    raise TruncatedSource("the PAM header has no ENDHDR")


def _one(data: memoryview, start: int) -> tuple[Layout | None, int]:
    """The layout of the image at ``start`` (None when no model takes it) and the offset behind it."""
    head = bytes(data[start : start + _MAX_HEADER])
    magic = head[:2]
    if magic == b"P7":
        width, height, samples, maxval, used = _pam(head, 2)
    else:
        (width, height, *most), used = _numbers(head, 2, 2 if magic == b"P4" else 3)
        maxval = most[0] if most else 1
        samples = 3 if magic == b"P6" else 1
        if head[used : used + 1] not in (b" ", b"\t", b"\r", b"\n", b"\v", b"\f"):
            raise TruncatedSource("the PNM header ends before its samples")
        used += 1  # exactly one white space
    if not 1 <= maxval <= 65535:
        raise MalformedSource(f"PNM maxval {maxval} is not in 1..65535")
    size, bits = (1 if maxval < 256 else 2), int(magic == b"P4")
    pitch = packed_bytes(width, 1) if bits else width * samples * size
    first, end = start + used, start + used + height * pitch
    if end > len(data):
        raise TruncatedSource(f"the PNM header promises {end - first} bytes, {len(data) - first} follow")
    if not width * height * samples or samples > 4:
        return None, end
    dtype = "|u1" if size == 1 else ">u2"
    return Layout(height, width, samples, dtype, height, width, pitch, (first,), bits=bits), end


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. PAM depths above four are not taken; bytes behind the last image are kept."""
    return parse_spliced("pnm", data, layouts(data, limits), limits)


def layouts(data: memoryview, limits: Limits) -> list[Layout]:
    """Where the samples lie. Raises NotTaken and SourceError subclasses."""
    first = _TOKEN.match(bytes(data[:_MAX_HEADER]), 2)
    if first is None or not (first[1].isdigit() or bytes(data[:2]) == b"P7"):
        raise NotTaken("variant")  # a text that happens to begin like this
    layout, end = _one(data, 0)
    found = [layout]
    while (
        layout is not None
        and bytes(data[end : end + 2]) == bytes(data[:2])
        and len(found) <= limits.max_images
    ):
        try:
            layout, end = _one(data, end)
        except SourceError:
            break  # not an image after all: trailing bytes
        found.append(layout)
    taken = stacked([x for x in found if x is not None])
    if not taken:
        raise NotTaken("samples")
    return taken


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_spliced(recipe, surround, images, out)
