"""How a plane's values are presented to a model: the unit shift and the depth, chosen by the encoder, sent
in the header."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

#: A typical local difference is brought to about this many units.
TARGET_UNITS = 3.0
#: On smooth surfaces slopes are large and surprise nobody: there the unit follows what W + N - NW leaves, so many times.
PLANAR = 3.0
MAX_SHIFT = 15


def depth_of(levels: int) -> int:
    """Bits of a value range of ``levels`` values, at least 8 (below that the model would see amplified
    steps)."""
    return max(8, int(levels - 1).bit_length())


def unit_shift(planes: NDArray[np.generic]) -> int:
    """Shift s so that the median non-zero local difference of planes (C, H, W) lies near ``TARGET_UNITS *
    2^s`` levels, or where it is less, ``PLANAR`` times the median that a planar prediction leaves.

    The median ignores flat background and strong edges, so s follows the noise. Flat or 1-pixel planes give
    0.
    """
    values = planes.astype(np.int32)
    across, down = np.diff(values, axis=2), np.diff(values, axis=1)
    typical = _median((across, down))
    if typical > TARGET_UNITS:
        planar = _median((np.diff(across, axis=1),))
        typical = min(typical, PLANAR * planar) if planar else typical
    return int(np.clip(np.floor(np.log2(max(typical / TARGET_UNITS, 1.0))), 0, MAX_SHIFT))


def _median(parts: Iterable[NDArray[np.int32]]) -> float:
    """Of the absolute values that are not 0; 0 where there are none."""
    sizes = np.abs(np.concatenate([part.ravel() for part in parts]))
    sizes = sizes[sizes > 0]
    return float(np.median(sizes)) if sizes.size else 0.0
