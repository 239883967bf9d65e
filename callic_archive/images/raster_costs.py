"""What samples would take if rows of a given length were predicted from their neighbours: the measure of a search for rasters.

Differences are taken modulo the range of the samples, so that signed and unsigned ones look alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_RUN = 128  # samples that share one measure of how large differences are
_GLANCE, _SELDOM = 1 << 13, 0.5  # samples that tell whether few values are used, and how many may differ
_OF_A_VALUE = 0.6  # of a value's bits a table of values takes

Samples = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """How samples lie: their type as stored, how many make a pixel, and the pixels of a row."""

    dtype: str
    samples: int
    width: int

    @property
    def itemsize(self) -> int:
        """Bytes of a sample."""
        return int(self.dtype[2])

    @property
    def pitch(self) -> int:
        """Bytes of a row."""
        return self.width * self.samples * self.itemsize


class Values(NamedTuple):
    """Samples as integers that differ little where values do, and the bits that a table of their values would take."""

    samples: Samples  # int32 for up to 16 bits, else int64
    table: float


def values_of(raw: bytes | memoryview, dtype: str) -> Values:
    """Whole samples from the first byte on. Where few values are used these are counted through: programs that scale or shift
    what was recorded leave gaps."""
    count = len(raw) // int(dtype[2])
    found = np.frombuffer(raw, dtype, count)
    if found.itemsize == 1:
        return Values(found.astype(np.int32), 0.0)
    keys = found.astype(np.int32) if found.itemsize == 2 else _in_order(found)
    some = np.unique(keys[:: max(1, count // _GLANCE)])
    gapless = found.itemsize == 2 and bool((np.diff(some) == 1).any())
    if len(some) < 2 or gapless or len(some) > _SELDOM * min(count, _GLANCE):
        return Values(keys, 0.0)
    values, ranks = np.unique(keys, return_inverse=True)
    ranks = ranks.astype(keys.dtype)
    if found.itemsize == 2:  # signed or not: what is below 0 goes on where the largest gap ends
        gaps = np.diff(values, append=values[0] + (1 << 16))
        ranks = (ranks - int(gaps.argmax()) - 1) % len(values)
    return Values(ranks, _OF_A_VALUE * 8 * found.itemsize * len(values))


def samples_of(raw: bytes | memoryview, dtype: str) -> Samples:
    """The samples of ``values_of`` alone."""
    return values_of(raw, dtype).samples


def _in_order(found: Samples) -> Samples:
    """Floats in the order of their bits; integers below half of their range keep theirs, too."""
    sign = np.array(8 * found.itemsize - 1, found.dtype)
    negative = (found >> sign).astype(bool)
    keys = np.where(negative, ~found, found | np.array(1, found.dtype) << sign)
    # of 64 bits the lowest are left out, so that sums of two stay below what int64 holds
    ordered: Samples = (keys >> np.array(2 if found.itemsize == 8 else 0, found.dtype)).astype(np.int64)
    return ordered


def bits_beside(samples: Samples, dtype: str, pixel: int) -> Samples:
    """Bits of runs of samples (of ``_RUN``) where each is predicted from the one ``pixel`` samples before."""
    return _bits(wrapped(samples[pixel:] - samples[:-pixel], dtype))


def bits_in_rows(samples: Samples, dtype: str, pixel: int, row: int) -> Samples:
    """The same where each is predicted from neighbours to the left and above: rows have ``row`` samples. What lies in the
    first row counts nothing."""
    here = samples[row + pixel :]
    left, above, corner = samples[row:-pixel], samples[pixel:-row], samples[: -row - pixel]
    middle = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
    left_over = [wrapped(here - guess, dtype) for guess in (middle, (left + above) >> 1)]
    if pixel > 1:  # what one sample of a pixel shows, another may, too
        left_over += [wrapped(some[1:] - some[:-1], dtype) for some in left_over]
    return min((_bits(some) for some in left_over), key=lambda bits: float(bits.sum()))


def run_bytes(dtype: str) -> int:
    """Bytes of the runs of samples that are measured together."""
    return _RUN * int(dtype[2])


def apart(samples: Samples, dtype: str, distance: int) -> float:
    """How much samples differ, on average, that lie ``distance`` samples from each other."""
    return float(np.log1p(np.abs(wrapped(samples[distance:] - samples[:-distance], dtype))).mean())


def wrapped(differences: Samples, dtype: str) -> Samples:
    """Differences modulo the range of samples, where that is smaller than what they are counted in."""
    if dtype[2] not in "12":
        return differences
    half = 1 << (8 * int(dtype[2]) - 1)
    return (differences + half & 2 * half - 1) - half


def _bits(differences: Samples) -> Samples:
    """Bits of runs, as of a two-sided geometric distribution with the mean that a run has."""
    whole = len(differences) // _RUN * _RUN
    mean = np.abs(differences[:whole]).reshape(-1, _RUN).mean(axis=1, dtype=np.float64)
    return _RUN * _entropy(mean)


def _entropy(mean: Samples) -> Samples:
    """Bits of a two-sided geometric distribution whose magnitudes have this mean."""
    mean = np.maximum(mean, 1e-3)
    root = np.sqrt(1 + mean * mean)
    theta = mean / (root + 1)  # from mean = 2 theta / (1 - theta^2)
    rest = (1 + 1 / (root + mean)) / (root + 1)  # 1 - theta, also where theta is as good as 1
    bits: Samples = np.log2((1 + theta) / rest) - mean * np.log2(theta)
    return bits
