"""The five PNG row filters (PNG specification, chapter 9), undone and applied in compiled loops.

Rows are (H, 1 + row bytes) uint8: the filter type, then the bytes; ``bpp`` is the distance to the byte on the
left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@njit(cache=True)
def _paeth(a: Any, b: Any, c: Any) -> Any:
    """Whichever of left, above and upper left is nearest to left + above - upper left; ties in this order."""
    pa, pb = abs(b - c), abs(a - c)
    pc = abs(a + b - 2 * c)
    if pa <= pb and pa <= pc:
        return a
    return b if pb <= pc else c


@njit(cache=True)
def _undo(rows: Any, bpp: int) -> int:
    height, width = rows.shape
    for y in range(height):
        kind = rows[y, 0]
        row = rows[y]
        if kind == 0:
            continue
        if kind == 1:
            for x in range(1 + bpp, width):
                row[x] = (np.int32(row[x]) + row[x - bpp]) & 255
        elif kind == 2:
            if y:
                up = rows[y - 1]
                for x in range(1, width):
                    row[x] = (np.int32(row[x]) + up[x]) & 255
        elif kind == 3:
            for x in range(1, width):
                a = np.int32(row[x - bpp]) if x > bpp else np.int32(0)
                b = np.int32(rows[y - 1, x]) if y else np.int32(0)
                row[x] = (np.int32(row[x]) + ((a + b) >> 1)) & 255
        elif kind == 4:
            if y == 0:
                for x in range(1 + bpp, width):
                    row[x] = (np.int32(row[x]) + row[x - bpp]) & 255
            else:
                up = rows[y - 1]
                for x in range(1, 1 + bpp):
                    row[x] = (np.int32(row[x]) + up[x]) & 255
                for x in range(1 + bpp, width):
                    guess = _paeth(np.int32(row[x - bpp]), np.int32(up[x]), np.int32(up[x - bpp]))
                    row[x] = (np.int32(row[x]) + guess) & 255
        else:
            return y
    return -1


@njit(cache=True)
def _apply(pixels: Any, above: Any, kinds: Any, bpp: int, out: Any) -> None:
    height, width = pixels.shape
    for y in range(height):
        kind = kinds[y]
        row = pixels[y]
        up = pixels[y - 1] if y else above
        out[y, 0] = kind
        for x in range(width):
            a = np.int32(row[x - bpp]) if x >= bpp else np.int32(0)
            b = np.int32(up[x])
            guess: Any = np.int32(0)
            if kind == 1:
                guess = a
            elif kind == 2:
                guess = b
            elif kind == 3:
                guess = (a + b) >> 1
            elif kind == 4:
                guess = _paeth(a, b, np.int32(up[x - bpp]) if x >= bpp else np.int32(0))
            out[y, 1 + x] = (np.int32(row[x]) - guess) & 255


def undo_filters(rows: Bytes, bpp: int) -> int:
    """Undo the filters of all rows in place.

    Returns -1, or the first row whose filter type does not exist.
    """
    return int(_undo(rows, bpp))


def apply_filters(pixels: Bytes, above: Bytes, kinds: Bytes, bpp: int) -> Bytes:
    """Filter ``pixels`` (h, row bytes), which lie below the row ``above``, with the types ``kinds`` (h,)."""
    out = np.empty((pixels.shape[0], pixels.shape[1] + 1), np.uint8)
    _apply(pixels, above, kinds, bpp, out)
    return out
