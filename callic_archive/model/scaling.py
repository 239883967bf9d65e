"""How a plane's values are presented to a model: the unit shift and the depth, chosen by the encoder, sent
in the header."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: A typical local difference is brought to about this many units.
TARGET_UNITS = 3.0
MAX_SHIFT = 15


def depth_of(levels: int) -> int:
    """Bits of a value range of ``levels`` values, at least 8 (below that the model would see amplified
    steps)."""
    return max(8, int(levels - 1).bit_length())


def unit_shift(planes: NDArray[np.generic]) -> int:
    """Shift s so that the median non-zero local difference of planes (C, H, W) lies near ``TARGET_UNITS *
    2^s`` levels.

    The median ignores flat background and strong edges, so s follows the noise. Flat or 1-pixel planes give
    0.
    """
    values = planes.astype(np.int32)
    parts = []
    if values.shape[2] > 1:
        parts.append(np.abs(np.diff(values, axis=2)).ravel())
    if values.shape[1] > 1:
        parts.append(np.abs(np.diff(values, axis=1)).ravel())
    if not parts:
        return 0
    difference = np.concatenate(parts)
    difference = difference[difference > 0]
    if difference.size == 0:
        return 0
    return int(
        np.clip(np.floor(np.log2(max(float(np.median(difference)) / TARGET_UNITS, 1.0))), 0, MAX_SHIFT)
    )
