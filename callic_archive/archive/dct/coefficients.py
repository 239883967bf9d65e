"""Planes of quantised DCT coefficients, as JPEG has them, as bytes and back; see docs/format/dct.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.dct.coefficients_kernel import LEAST, MOST, code_plane, learner
from callic_archive.images.deflate.coder import (
    BROKEN,
    DECODE,
    ENCODE,
    FULL,
    OK,
    STATUS,
    Bytes,
    Coder,
    coder,
    finish,
    start,
)

Plane = NDArray[np.int16]
Table = NDArray[np.uint16]

_NONE = np.zeros((1, 1, 64), np.int16)


def encode_coefficients(planes: Sequence[Plane], tables: Sequence[Table]) -> bytes:
    """Planes of coefficients as bytes; ``decode_coefficients`` needs their shapes and the same tables.

    ``planes``: int16 (block rows, block columns, 64) for each component, quantised, in row-major order (8 * vertical +
    horizontal frequency), DC absolute; ``tables``: for each its 64 steps, 1 .. 65535, in the same order. Raises ValueError
    for coefficients outside -2048 .. 2047, and for planes and tables of other shapes.
    """
    for plane in planes:
        if plane.size and (plane.min() < LEAST or plane.max() > MOST):
            raise ValueError(f"a coefficient outside {LEAST} .. {MOST}")
    given = [np.array(plane, np.int16, order="C") for plane in planes]
    room = 1024 + sum(plane.size for plane in planes) // 2
    while True:
        buffer = np.zeros(room, np.uint8)
        c = coder()
        start(c, buffer, ENCODE)
        _code(c, buffer, given, tables)
        length = finish(c, buffer)
        if c[STATUS] != FULL:
            return buffer[:length].tobytes()
        room *= 4


def decode_coefficients(
    data: bytes | memoryview, shapes: Sequence[tuple[int, int]], tables: Sequence[Table]
) -> list[Plane]:
    """The planes that ``encode_coefficients`` got; ``shapes``: block rows and block columns of each.

    There are zeros without end behind ``data``. Raises ValueError for what no encoder writes, as far as that shows.
    """
    planes = [np.zeros((*shape, 64), np.int16) for shape in shapes]
    buffer = np.array(np.frombuffer(data, np.uint8))
    c = coder()
    start(c, buffer, DECODE)
    _code(c, buffer, planes, tables)
    if c[STATUS] == BROKEN:
        raise ValueError("coefficients that no encoder writes")
    return planes


def _code(c: Coder, buffer: Bytes, planes: Sequence[Plane], tables: Sequence[Table]) -> None:
    """One plane after the other. Plane 1 learns anew, since chroma is unlike luma; others go on from the one before."""
    if len(planes) != len(tables):
        raise ValueError(f"{len(planes)} planes and {len(tables)} tables")
    for plane, table in zip(planes, tables, strict=True):
        if plane.ndim != 3 or plane.shape[2] != 64 or plane.size == 0:
            raise ValueError(f"a plane of {plane.shape}")
        if table.shape != (64,) or table.min() < 1 or table.max() > 65535:
            raise ValueError("a table that has not 64 steps of 1 .. 65535")
    m, p = learner()
    for i, plane in enumerate(planes):
        if i == 1:
            m, p = learner()
        first, second = planes[0] if i > 0 else _NONE, planes[i - 1] if i > 1 else _NONE
        code_plane(c, buffer, m, p, plane, np.array(tables[i], np.int64), first, second, i)
        if c[STATUS] != OK:
            return
