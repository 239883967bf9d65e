"""Arrays of few different values: what they are, and each sample by its rank among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_BLOCK = 1 << 20  # samples at a time


def few_values(array: Array, most: int) -> Array | None:
    """All values of unsigned or signed integers, in order; None where they are more than ``most``."""
    flat = array.reshape(-1)
    if array.itemsize <= 2:
        taken = np.zeros(1 << (8 * array.itemsize), bool)
        taken[_patterns(flat)] = True
        found = np.flatnonzero(taken).astype(f"u{array.itemsize}").view(array.dtype)
        return np.sort(found) if found.size <= most else None
    values = flat[:0]
    for at in range(0, flat.size, _BLOCK):
        values = np.union1d(values, flat[at : at + _BLOCK])
        if values.size > most:
            return None
    return values


def ranks_of(array: Array, values: Array, dtype: np.dtype[Any]) -> Array:
    """For each sample its place among ``values``, which are all and in order."""
    flat = array.reshape(-1)
    if array.itemsize <= 2:
        table = np.zeros(1 << (8 * array.itemsize), dtype)
        table[_patterns(values)] = np.arange(values.size)
        return table[_patterns(flat)].reshape(array.shape)
    ranks = np.empty(flat.size, dtype)
    for at in range(0, flat.size, _BLOCK):
        ranks[at : at + _BLOCK] = np.searchsorted(values, flat[at : at + _BLOCK])
    return ranks.reshape(array.shape)


def _patterns(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")
