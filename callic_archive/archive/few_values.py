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
    values = flat[:0]
    for at in range(0, flat.size, _BLOCK):
        values = np.union1d(values, flat[at : at + _BLOCK])
        if values.size > most:
            return None
    return values


def ranks_of(array: Array, values: Array, dtype: np.dtype[Any]) -> Array:
    """For each sample its place among ``values``, which are all and in order."""
    flat = array.reshape(-1)
    ranks = np.empty(flat.size, dtype)
    for at in range(0, flat.size, _BLOCK):
        ranks[at : at + _BLOCK] = np.searchsorted(values, flat[at : at + _BLOCK])
    return ranks.reshape(array.shape)
