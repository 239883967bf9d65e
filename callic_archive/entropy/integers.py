"""Signed integers under a zero-mean discretised logistic: how adapter weights are coded.

The mixture coder with one channel, one component and a constant head, so there is nothing here to drift from
it. Scales are a quarter octave apart, from 2^-5 steps, where a zero costs under 0.001 bit, to 2^10.75.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from callic_archive.entropy.kernels import I32, I64
from callic_archive.entropy.mixture import MixtureTables, ideal_bits
from callic_archive.entropy.range_coder import RangeDecoder, RangeEncoder
from callic_archive.errors import EntropyInputError

SCALE_COUNT = 64
DEFAULT_LIMIT = 32767


def scale_of(scale_index: int) -> float:
    """The logistic scale, in integer steps, that ``scale_index`` in 0..63 stands for: 2^(index / 4 - 5)."""
    return float(2.0 ** (scale_index / 4 - 5))


def _arguments(n: int, scale_index: int, limit: int) -> tuple[I32, I64, list[int], list[int], list[int]]:
    if not 0 <= scale_index < SCALE_COUNT:
        raise EntropyInputError(f"Scale index {scale_index} lies outside 0 .. {SCALE_COUNT - 1}.")
    if not 0 <= limit <= DEFAULT_LIMIT:
        raise EntropyInputError(f"The limit of coded integers must lie in 0 .. {DEFAULT_LIMIT}, not {limit}.")
    head = np.zeros((n, 3), np.int32)
    head[:, 2] = 8 * scale_index - 160
    return head, np.zeros((n, 1), np.int64), [0], [-limit], [limit]


def _column(ints: npt.NDArray[np.integer], limit: int) -> I32:
    if ints.dtype.kind not in "iu" or np.any(ints > limit) or np.any(ints < -limit):
        raise EntropyInputError(f"The integers to code must lie within +-{limit}.")
    return np.ascontiguousarray(ints, np.int32).reshape(-1, 1)


def encode_weights(
    encoder: RangeEncoder,
    ints: npt.NDArray[np.integer],
    scale_index: int,
    tables: MixtureTables,
    limit: int = DEFAULT_LIMIT,
) -> None:
    """Code ``ints`` (any shape, |value| <= limit) in C order. The decoder needs n, scale_index and limit."""
    values = _column(ints, limit)
    encoder.encode_pixels(*_arguments(len(values), scale_index, limit), tables, values)


def decode_weights(
    decoder: RangeDecoder, n: int, scale_index: int, tables: MixtureTables, limit: int = DEFAULT_LIMIT
) -> I32:
    """Decode ``n`` integers (n,) int32; the mirror of :func:`encode_weights`."""
    return decoder.decode_pixels(*_arguments(n, scale_index, limit), tables).reshape(-1)


def weight_bits(
    ints: npt.NDArray[np.integer], scale_index: int, tables: MixtureTables, limit: int = DEFAULT_LIMIT
) -> float:
    """Code length of ``ints`` in bits, for choosing a scale. Reporting only."""
    values = _column(ints, limit)
    return float(ideal_bits(*_arguments(len(values), scale_index, limit), tables, values).sum())


def best_scale(ints: npt.NDArray[np.integer], tables: MixtureTables, limit: int = DEFAULT_LIMIT) -> int:
    """The scale index with the shortest code for ``ints``; the lowest on ties."""
    costs = [weight_bits(ints, index, tables, limit) for index in range(SCALE_COUNT)]
    return int(np.argmin(costs))
