"""Where the tables of JPEG tiles and strips of a TIFF stand: JPEGTables (TIFF technical note 2), a stream without image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import SourceError
from callic_archive.images.jpeg_streams import EOI, SOI, Tables
from callic_archive.images.source import Limits, sniff
from callic_archive.images.tiff_ifd import JPEG_TABLES, TiffReader

_LONGEST = 1 << 16  # bytes
_MOST = 1 << 10


def tables(data: memoryview, limits: Limits) -> Tables:
    """The tables of all directories, and which blocks are meant; none for what is no TIFF, or a broken one."""
    if sniff(data) != "tiff":
        return Tables()
    streams: list[bytes] = []
    places: list[NDArray[np.int64]] = []
    numbers: list[NDArray[np.int32]] = []
    blocks = 0
    try:
        for page in TiffReader(data, limits).directories():
            stream = page.all(JPEG_TABLES)[:_LONGEST].astype(np.uint8).tobytes()
            if stream[:2] != SOI or stream[-2:] != EOI or len(stream) < 6:
                continue
            if stream not in streams:
                streams.append(stream)
            offsets = page.all(324 if 324 in page.fields else 273).astype(np.int64)
            blocks += len(offsets)
            limits.check_blocks(blocks)
            places.append(offsets)
            numbers.append(np.full(len(offsets), streams.index(stream), np.int32))
            if len(streams) >= _MOST:
                break
    except (SourceError, ValueError, OverflowError):
        pass  # what was read until there still serves
    if not places:
        return Tables(tuple(streams))
    every, which = np.concatenate(places), np.concatenate(numbers)
    order = np.argsort(every, kind="stable")
    return Tables(tuple(streams), every[order], which[order])
