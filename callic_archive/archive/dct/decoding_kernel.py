"""What a JPEG decoder computes, in integers: the inverse transform, chroma samples made as many as pixels, and colours.

This is the arithmetic of the decoder that nearly all programs have (libjpeg and libjpeg-turbo with their accurate integer
transform), written down as matrices and tables: docs/format/dct.md has the same in words. Each of its steps rounds, and only a
decoder that rounds in the same places gives back the pixels that somebody saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Coefficients = NDArray[np.int16]
Table = NDArray[np.uint16]
Samples = NDArray[np.uint8]
Numbers = NDArray[np.int64]
Int = Any

BITS = 13  # binary places of the transform's constants
KEPT = 2  # binary places that the first pass leaves


def _matrix(even: dict[int, tuple[int, ...]], odd: dict[int, tuple[int, ...]]) -> NDArray[np.int64]:
    """Row k: what a coefficient of frequency k adds to the samples of its column or row, in 1 / 2^BITS, of halves of rows."""
    halves = {**even, **odd}
    rows = [(*halves[k], *(v if k % 2 == 0 else -v for v in halves[k][::-1])) for k in range(8)]
    return np.array(rows, np.int64)


#: Of eight samples, and of sixteen: sums of the constants with which the transforms are factored, which is why some are one off.
MATRIX = _matrix(
    {
        0: (8192, 8192, 8192, 8192), 2: (10703, 4433, -4433, -10703), 4: (8192, -8192, -8192, 8192),
        6: (4433, -10704, 10704, -4433),
    },
    {
        1: (11363, 9633, 6437, 2260), 3: (9633, -2259, -11362, -6436), 5: (6437, -11362, 2261, 9633),
        7: (2260, -6436, 9633, -11363),
    },
)  # fmt: skip
MATRIX_16 = _matrix(
    {
        0: (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192), 2: (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
        4: (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
        6: (9632, -2260, -11363, -6436, 6436, 11363, 2260, -9632),
    },
    {
        1: (11529, 11086, 10217, 8956, 7350, 5461, 3363, 1136), 3: (11086, 7350, 1136, -5461, -10217, -11529, -8955, -3363),
        5: (10217, 1136, -8955, -11086, -3363, 7349, 11529, 5461), 7: (8956, -5461, -11086, 1137, 11529, 3363, -10217, -7350),
    },
)  # fmt: skip
MIDDLE = 128  # what samples are coded less of
#: What Cb and Cr, less MIDDLE, add to red, green (two) and blue, in 1 / 65536. Of Cb in green there are two opinions.
RED_CR, GREEN_CR, BLUE_CB = 91881, -46802, 116130
GREEN_CB = (-22554, -22553)


@njit(cache=True, nogil=True, forceinline=True)
def held(value: Int) -> Int:
    """The number from 0 to 255 that is nearest."""
    return min(max(value, np.int64(0)), np.int64(255))


@njit(cache=True, nogil=True)
def inverse(
    coefficients: Coefficients, table: Table, vertical: Numbers, horizontal: Numbers, work: Numbers, out: Numbers
) -> None:
    """The samples (rows * columns) of one block of quantised coefficients (64), not yet held between 0 and 255.

    vertical (8, rows), horizontal (8, columns): MATRIX or MATRIX_16; ``work``: 8 * rows numbers.
    """
    rows, columns = vertical.shape[1], horizontal.shape[1]
    for u in range(8):
        for y in range(rows):
            total = np.int64(1) << (BITS - KEPT - 1)
            for v in range(8):
                level = np.int64(coefficients[8 * v + u])
                if level:
                    total += vertical[v, y] * level * np.int64(table[8 * v + u])
            work[8 * y + u] = total >> (BITS - KEPT)
    for y in range(rows):
        for x in range(columns):
            total = np.int64(1) << (BITS + KEPT + 2)
            for u in range(8):
                total += horizontal[u, x] * work[8 * y + u]
            out[columns * y + x] = (total >> (BITS + KEPT + 3)) + MIDDLE


@njit(cache=True, nogil=True)
def decode_blocks(coefficients: Coefficients, table: Table, vertical: Numbers, horizontal: Numbers, out: Samples) -> None:
    """Blocks (rows, columns, 64) to samples."""
    tall, wide = vertical.shape[1], horizontal.shape[1]
    work, block = np.zeros(8 * tall, np.int64), np.zeros(tall * wide, np.int64)
    for row in range(coefficients.shape[0]):
        for column in range(coefficients.shape[1]):
            inverse(coefficients[row, column], table, vertical, horizontal, work, block)
            for y in range(tall):
                for x in range(wide):
                    out[tall * row + y, wide * column + x] = held(block[wide * y + x])


@njit(cache=True, nogil=True)
def spread(
    samples: Samples, down: Int, across: Int, smooth: Int, top: Int, left: Int, rows: Int, columns: Int, out: Samples
) -> None:
    """Chroma samples, each of ``down`` x ``across`` pixels, to pixels ``out`` (H, W), whose first is the pixel (top, left) of
    the samples' own. ``rows``, ``columns``: samples that there are for neighbours; those at the edge stand for what is beyond.

    ``smooth``: neighbours have a share of a quarter each way, else samples are repeated.
    """
    for y in range(out.shape[0]):
        whole_y = y + top
        row = whole_y // down
        other = row
        if smooth and down == 2:
            other = min(max(row + (2 * (whole_y & 1) - 1), 0), rows - 1)
        for x in range(out.shape[1]):
            whole_x = x + left
            column = whole_x // across
            if not smooth:
                out[y, x] = samples[row, column]
                continue
            beside = column
            if across == 2:
                beside = min(max(column + (2 * (whole_x & 1) - 1), 0), columns - 1)
            if down == 1:
                out[y, x] = (3 * np.int64(samples[row, column]) + np.int64(samples[row, beside]) + 1 + (whole_x & 1)) >> 2
            elif across == 1:
                out[y, x] = (3 * np.int64(samples[row, column]) + np.int64(samples[other, column]) + 1 + (whole_y & 1)) >> 2
            else:
                near = 3 * np.int64(samples[row, column]) + np.int64(samples[other, column])
                far = 3 * np.int64(samples[row, beside]) + np.int64(samples[other, beside])
                out[y, x] = (3 * near + far + 8 - (whole_x & 1)) >> 4


@njit(cache=True, nogil=True)
def colours(luma: Samples, blue: Samples, red: Samples, green_cb: Int, out: Samples) -> None:
    """Y, Cb and Cr of pixels (H, W) as RGB (H, W, 3); ``green_cb``: one of GREEN_CB."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            light = np.int64(luma[y, x])
            cb, cr = np.int64(blue[y, x]) - MIDDLE, np.int64(red[y, x]) - MIDDLE
            out[y, x, 0] = held(light + ((RED_CR * cr + 32768) >> 16))
            out[y, x, 1] = held(light + ((green_cb * cb + GREEN_CR * cr + 32768) >> 16))
            out[y, x, 2] = held(light + ((BLUE_CB * cb + 32768) >> 16))
