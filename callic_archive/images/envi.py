"""ENVI headers (text beside files of samples): bands one after the other (BSQ), line by line (BIL) or pixel by pixel (BIP).

Such a header is always detached, and the file that it means is named as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.detached import Detached
from callic_archive.images.layout import Layout, apart
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits
from callic_archive.images.stacks import volume

_MEANINGS = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
_MOST_BANDS = 1 << 16
_MOST_ROWS = 1 << 20  # of all bands, where each is a block; beyond, lines are slices of their bands


@dataclass(frozen=True)
class _Form:
    """What a header says of the samples."""

    dtype: str
    width: int
    height: int
    bands: int
    interleave: str
    offset: int

    def layouts(self, start: int, length: int, limits: Limits) -> list[Layout]:
        """Where they lie in a file of ``length`` bytes, counted from ``start``. Raises NotTaken, SourceError."""
        item = int(self.dtype[2])
        at, row, size = start + self.offset, self.width * item, self.width * self.height * self.bands * item
        if at + size > length:
            raise TruncatedSource(f"the ENVI header promises {size} bytes of samples, {max(0, length - at)} follow")
        if min(self.width, self.height) < 2:
            raise NotTaken("axes")
        limits.check_images(self.bands if apart(self.bands, item) else 1)
        if self.bands == 1:
            return volume(self.dtype, (self.width, self.height), at, limits)
        if self.interleave == "bip":
            return [self._layout(self.height, row * self.bands, (at,), False)]
        if self.interleave == "bsq":
            starts = tuple(at + band * row * self.height for band in range(self.bands))
            return [self._layout(self.height, row, starts, True)]
        if self.bands * self.height > _MOST_ROWS:
            return volume(self.dtype, (self.width, self.bands, self.height), at, limits)
        starts = tuple(at + (y * self.bands + band) * row for band in range(self.bands) for y in range(self.height))
        return [self._layout(1, row, starts, True)]

    def _layout(self, block_rows: int, pitch: int, offsets: tuple[int, ...], planar: bool) -> Layout:
        split = apart(self.bands, int(self.dtype[2]))
        return Layout(
            self.height, self.width, self.bands, self.dtype, block_rows, self.width, pitch, offsets, planar=planar, split=split
        )


def detached(header: memoryview, name: str) -> Detached:
    """What the header says of the file ``name`` beside it. Raises NotTaken and SourceError subclasses."""
    text = bytes(header).decode("latin-1").replace("\r\n", "\n")
    if not re.match(r"ENVI\s", text):
        raise NotTaken("variant")
    fields = _fields(text)
    if any(fields.get(f"{side} frame offsets", "0").strip("{} 0,\t\n") for side in ("major", "minor")):
        raise NotTaken("coding")
    meaning = _MEANINGS.get(_number(fields, "data type"))
    if meaning is None:
        raise NotTaken("samples")
    interleave = fields.get("interleave", "bsq").lower()
    width, height, bands = (_number(fields, what) for what in ("samples", "lines", "bands"))
    order, offset = _number(fields, "byte order", 0), _number(fields, "header offset", 0)
    if min(width, height, bands) < 1 or bands > _MOST_BANDS or offset < 0 or order not in (0, 1):
        raise MalformedSource("the ENVI header has impossible sizes")
    if interleave not in ("bsq", "bil", "bip"):
        raise MalformedSource("the ENVI header names no interleave")
    letter = meaning if meaning[1] in "12" else f"u{meaning[1]}"  # what is wider is taken as a bit pattern
    dtype = ("|" if letter[1] == "1" else "<>"[order]) + letter
    packed = name.lower().endswith(".gz") or _number(fields, "file compression", 0) == 1
    form = _Form(dtype, width, height, bands, interleave, offset)
    return Detached(meaning, form.layouts, "gzip" if packed else "")


def _fields(text: str) -> dict[str, str]:
    """Names, in lower case, and values; of lists, which may go on over many lines, the first line."""
    fields: dict[str, str] = {}
    inside = False
    for line in text.split("\n")[1:]:
        name, equals, value = line.partition("=")
        if not inside and equals:
            fields.setdefault(" ".join(name.lower().split()), value.strip())
            inside = "{" in value
        inside = inside and "}" not in line
    return fields


def _number(fields: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = fields.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[0-9]{1,18}", text):
        raise MalformedSource(f"the ENVI field {name} holds no number")
    return int(text)
