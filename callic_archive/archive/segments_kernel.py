"""The compiled loop of ``segments``: ranks of pixels, written and read by one function."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.images.deflate.coder import BROKEN, STATUS, Bytes, Coder, Contexts, bit

Ranks = NDArray[np.int32]
Int = Any

# contexts of whether a pixel is what a neighbour is, by what else is
_WEST = 0
_NORTH = _WEST + (1 << 14)
_EAST = _NORTH + (1 << 10)
_CORNER = _EAST + (1 << 4)
_BEFORE = _CORNER + (1 << 3)
_NEW = _BEFORE + (1 << 2)  # 4: whether a value is one more than all so far, by whether the last two were
_TREE = _NEW + 4  # 256: its first eight bits
_REST = _TREE + 256  # 16: others, by their place
CONTEXTS = _REST + 16


@njit(cache=True, nogil=True, forceinline=True)
def _at(x: Ranks, row: Int, column: Int) -> Int:
    """The rank at a place; 0 outside."""
    if row < 0 or column < 0 or column >= x.shape[1]:
        return np.int32(0)
    return x[row, column]


@njit(cache=True, nogil=True, forceinline=True)
def _alone(c: Coder, buffer: Bytes, p: Contexts, bits: Int, value: Int) -> Int:
    """A value by its bits, the highest first."""
    node, result = np.int64(1), np.int64(0)
    for place in range(bits - 1, -1, -1):
        context = _TREE + node if node < 256 else _REST + place
        one = bit(c, buffer, p, context, (value >> place) & 1)
        node = 2 * node + one
        result = 2 * result + one
    return result


@njit(cache=True, nogil=True)
def code_ranks(c: Coder, buffer: Bytes, p: Contexts, x: Ranks, values: Int, slice_rows: Int) -> None:
    """Write ranks 0 .. values - 1 (H, W), or read them into ``x``; ``slice_rows``: rows to the slice before, 0 for none."""
    bits = np.int64(0)
    while (1 << bits) < values:
        bits += 1
    most, news = np.int64(-1), np.int64(0)
    for row in range(x.shape[0]):
        before = row - slice_rows if slice_rows > 0 and row >= slice_rows else -1
        for column in range(x.shape[1]):
            value = np.int64(x[row, column])
            w, n = _at(x, row, column - 1), _at(x, row - 1, column)
            if column == 0:
                w = n
            nw, ne = _at(x, row - 1, column - 1), _at(x, row - 1, column + 1)
            nww, nee = _at(x, row - 1, column - 2), _at(x, row - 1, column + 2)
            nn, nnw, nne = _at(x, row - 2, column), _at(x, row - 2, column - 1), _at(x, row - 2, column + 1)
            ww, nnee, neee = _at(x, row, column - 2), _at(x, row - 2, column + 2), _at(x, row - 1, column + 3)
            t, te, ts = w, w, w
            if before >= 0:
                t, te, ts = _at(x, before, column), _at(x, before, column + 1), _at(x, before + 1, column)
            context = (
                (n == w) | (nw == w) << 1 | (ne == w) << 2 | (nww == w) << 3 | (nee == w) << 4 | (nn == w) << 5 | (nnw == w) << 6
                | (nne == w) << 7 | (ww == w) << 8 | (t == w) << 9 | (te == w) << 10 | (ts == w) << 11 | (nnee == w) << 12
                | (neee == w) << 13
            )  # fmt: skip
            if bit(c, buffer, p, _WEST + context, np.int64(value != w)) == 0:
                x[row, column] = w
                continue
            if values == 2:
                x[row, column] = 1 - w
                continue
            if n != w:
                context = (
                    (nw == n) | (ne == n) << 1 | (nee == n) << 2 | (nn == n) << 3 | (nne == n) << 4 | (nnw == n) << 5
                    | (t == n) << 6 | (te == n) << 7 | (nww == n) << 8 | (ts == n) << 9
                )  # fmt: skip
                if bit(c, buffer, p, _NORTH + context, np.int64(value != n)) == 0:
                    x[row, column] = n
                    continue
            if ne != w and ne != n:
                context = (nee == ne) | (nne == ne) << 1 | (t == ne) << 2 | (te == ne) << 3
                if bit(c, buffer, p, _EAST + context, np.int64(value != ne)) == 0:
                    x[row, column] = ne
                    continue
            if nw != w and nw != n and nw != ne:
                context = (nww == nw) | (nnw == nw) << 1 | (t == nw) << 2
                if bit(c, buffer, p, _CORNER + context, np.int64(value != nw)) == 0:
                    x[row, column] = nw
                    continue
            if t != w and t != n and t != ne and t != nw:
                context = (te == t) | (ts == t) << 1
                if bit(c, buffer, p, _BEFORE + context, np.int64(value != t)) == 0:
                    x[row, column] = t
                    continue
            new = np.int64(0)
            if most + 1 < values:
                new = bit(c, buffer, p, _NEW + (news & 3), np.int64(value == most + 1))
            news = 2 * news + new
            found = most + 1 if new else _alone(c, buffer, p, bits, value)
            if found >= values:
                c[STATUS] = BROKEN
                return
            most = max(most, found)
            x[row, column] = found
