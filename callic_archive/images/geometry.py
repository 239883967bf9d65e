"""Height, width and sample type of files that hold one plane, told by a few bytes of their headers.

Serves to find files that may be bands of one scene without reading them. What it says is no promise: whoever goes by it
takes the files apart all the same.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from callic_archive.errors import SourceError
from callic_archive.images.npy import header_of

Read = Callable[[int, int], bytes]  # (offset, most) -> bytes
SUFFIXES = frozenset({"tif", "tiff", "btf", "png", "npy", "pgm", "pnm"})  # of files that are worth a look
_HEAD = 4096
_MOST_FIELDS = 1024  # of a directory; those that are asked for here come first, as they are sorted
_SAMPLE_TYPES = {(8, 1): "uint8", (16, 1): "uint16", (16, 2): "int16"}  # bits, SampleFormat
_NPY_TYPES = {"|u1": "uint8", "<u2": "uint16", ">u2": "uint16", "<i2": "int16", ">i2": "int16"}
_PGM = re.compile(rb"P5\s+(\d{1,9})\s+(\d{1,9})\s+(\d{1,5})\s")


@dataclass(frozen=True)
class Geometry:
    """Of the first image of a file."""

    height: int
    width: int
    dtype: str  # uint8, uint16 or int16

    @property
    def bytes(self) -> int:
        """Of its samples."""
        return self.height * self.width * np.dtype(self.dtype).itemsize


def geometry(read: Read) -> Geometry | None:
    """The geometry of a TIFF, PNG, NPY or PGM file of one plane, which ``read`` reads; None of all others.

    Raises what ``read`` raises.
    """
    head = read(0, _HEAD)
    try:
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            found = _tiff(head, read)
        elif head[:8] == b"\x89PNG\r\n\x1a\n":
            found = _png(head)
        elif head[:6] == b"\x93NUMPY":
            found = _npy(head)
        else:
            found = _pgm(head)
    except (SourceError, struct.error, ValueError, LookupError):
        return None
    return found if found is not None and found.height > 0 and found.width > 0 else None


def _tiff(head: bytes, read: Read) -> Geometry | None:
    order, big = "<" if head[:1] == b"I" else ">", 43 in (head[2], head[3])
    (first,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    (count,) = struct.unpack(order + ("Q" if big else "H"), read(first, 8 if big else 2))
    entry, word = (20, 8) if big else (12, 4)
    rows = read(first + (8 if big else 2), entry * min(count, _MOST_FIELDS))
    fields = {}
    for at in range(0, len(rows) - entry + 1, entry):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), rows, at)
        if kind in (3, 4) and number == 1:
            (fields[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), rows, at + 4 + word)
    if fields.get(277, 1) != 1:
        return None
    dtype = _SAMPLE_TYPES.get((fields.get(258, 1), fields.get(339, 1)))
    return Geometry(fields[257], fields[256], dtype) if dtype else None


def _png(head: bytes) -> Geometry | None:
    width, height, depth, colours = struct.unpack_from(">IIBB", head, 16)
    dtype = _SAMPLE_TYPES.get((depth, 1))
    return Geometry(height, width, dtype) if dtype and colours == 0 else None


def _npy(head: bytes) -> Geometry | None:
    header, _ = header_of(head)
    shape, kind = header["shape"], _NPY_TYPES.get(str(header["descr"]))
    return Geometry(shape[0], shape[1], kind) if kind is not None and len(shape) == 2 else None


def _pgm(head: bytes) -> Geometry | None:
    found = _PGM.match(head)
    if found is None:
        return None
    width, height, largest = (int(text) for text in found.groups())
    return Geometry(height, width, "uint8" if largest < 256 else "uint16")
