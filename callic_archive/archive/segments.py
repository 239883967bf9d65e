"""Images of areas that have one value each, such as labels and masks: a pixel is mostly what one of its neighbours is.

Which one is told by adaptive binary contexts of what is equal around it, in the manner of JBIG2's template but with any number of
values; a value that no neighbour has is told by itself. In volumes whose slices lie below each other the slice before is a
neighbour too. docs/format/archive.md, section 7, is the specification.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.archive.few_values import few_values, ranks_of
from callic_archive.archive.filtered import decode_samples, encode_samples
from callic_archive.images.deflate.coder import (
    BROKEN,
    DECODE,
    ENCODE,
    OK,
    STATUS,
    Bytes,
    Coder,
    Contexts,
    bit,
    coder,
    contexts,
    finish,
    start,
)

Image = NDArray[Any]
Ranks = NDArray[np.int32]
Int = Any

MOST_VALUES = 1 << 16
LEAST_PIXELS = 16  # for each value: of an image with more values no area is large
LEAST_ROWS, ALIKE = 8, 0.5  # of slices, and pixels that are alike in the next, for these to be tried
_HEAD = struct.Struct("<III")  # values, rows to the slice before, bytes of the table
# contexts of whether a pixel is what a neighbour is, by what else is
_WEST = 0
_NORTH = _WEST + (1 << 14)
_EAST = _NORTH + (1 << 10)
_CORNER = _EAST + (1 << 4)
_BEFORE = _CORNER + (1 << 3)
_NEW = _BEFORE + (1 << 2)  # 4: whether a value is one more than all so far, by whether the last two were
_TREE = _NEW + 4  # 256: its first eight bits
_REST = _TREE + 256  # 16: others, by their place
_CONTEXTS = _REST + 16


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


def encode_segments(image: Image) -> bytes | None:
    """An image (H, W) or (H, W, C) by its table of values and their ranks; None where it has too many values for that."""
    found = _ranked(image)
    if found is None:
        return None
    table, ranks = found
    told = encode_samples(table)
    slices = [0, *_slice_rows(ranks)]
    coded, rows = min(((_encoded(ranks, table.shape[1], rows), rows) for rows in slices), key=lambda one: len(one[0]))
    return _HEAD.pack(table.shape[1], rows, len(told)) + told + coded


def decode_segments(payload: bytes, shape: tuple[int, ...], dtype: str) -> Image:
    """The inverse of ``encode_segments``. Raises ValueError for any other payload."""
    if len(payload) < _HEAD.size:
        raise ValueError("an image of segments is cut off")
    values, rows, length = _HEAD.unpack_from(payload)
    begin = _HEAD.size + length
    if not 1 <= values <= MOST_VALUES or begin > len(payload):
        raise ValueError("an image of segments has no such table of values")
    table = decode_samples(payload[_HEAD.size : begin], (1, values, *shape[2:]), dtype)[0]
    c, p = coder(), contexts(_CONTEXTS)
    ranks = np.zeros(shape[:2], np.int32)
    data = np.frombuffer(payload, np.uint8, offset=begin).copy()  # compiled loops take no read-only arrays
    start(c, data, DECODE)
    code_ranks(c, data, p, ranks, values, min(rows, shape[0]))
    if c[STATUS] != OK:
        raise ValueError("an image of segments has a rank beyond its values")
    return np.ascontiguousarray(table[ranks])


def _encoded(ranks: Ranks, values: int, slice_rows: int) -> bytes:
    c, p = coder(), contexts(_CONTEXTS)
    buffer = np.zeros(4 * ranks.size + 64, np.uint8)
    start(c, buffer, ENCODE)
    code_ranks(c, buffer, p, ranks.copy(), values, slice_rows)
    return buffer[: finish(c, buffer)].tobytes()


def _ranked(image: Image) -> tuple[Image, Ranks] | None:
    """Table (1, values) or (1, values, C) of the values of pixels, and the rank of each pixel (H, W)."""
    most = min(MOST_VALUES, max(2, image.shape[0] * image.shape[1] // LEAST_PIXELS))
    plain = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("="))
    if plain.ndim == 2:
        keys = plain
    elif plain.shape[2] * plain.itemsize <= 8:
        wide = np.zeros((*plain.shape[:2], 8), np.uint8)
        wide[:, :, : plain.shape[2] * plain.itemsize] = plain.reshape(*plain.shape[:2], -1).view(np.uint8)
        keys = wide.view(np.uint64)[:, :, 0]
    else:
        return None
    found = few_values(keys, most)
    if found is None:
        return None
    table = found if plain.ndim == 2 else found.view(np.uint8).reshape(-1, 8)[:, : plain.shape[2] * plain.itemsize]
    table = np.ascontiguousarray(table).view(plain.dtype).reshape(1, -1, *plain.shape[2:])
    return table, ranks_of(keys, found, np.dtype(np.int32))


def _slice_rows(ranks: Ranks) -> list[int]:
    """Rows of slices that may lie below each other, for a look at the one before: where most pixels are what they were there."""
    height, width = ranks.shape
    some = ranks[:, :: max(1, width // 64)]
    likely = [(0.0, 0)]
    for rows in range(LEAST_ROWS, height // 2 + 1):
        if height % rows == 0:
            likely.append((float(np.mean(some[rows:] == some[:-rows])), rows))
    share, rows = max(likely, key=lambda one: (round(one[0], 2), -one[1]))
    return [rows] if share > ALIKE else []
