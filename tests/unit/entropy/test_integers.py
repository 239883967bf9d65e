"""Adapter weights under the zero-mean discretised logistic."""

from __future__ import annotations

import numpy as np
import pytest

from callic_archive.entropy.integers import (
    DEFAULT_LIMIT,
    SCALE_COUNT,
    best_scale,
    decode_weights,
    encode_weights,
    scale_of,
    weight_bits,
)
from callic_archive.entropy.range_coder import RangeDecoder, RangeEncoder
from callic_archive.errors import EntropyInputError
from tests.unit.entropy.cases import TABLES


@pytest.mark.parametrize("scale_index", [0, 7, 20, 63])
@pytest.mark.parametrize("limit", [0, 1, 127, DEFAULT_LIMIT])
def test_round_trip_of_anything_in_the_limit(scale_index: int, limit: int) -> None:
    rng = np.random.default_rng(scale_index)
    values = np.concatenate([rng.integers(-limit, limit, 300, endpoint=True), [0, limit, -limit]]).astype(
        np.int32
    )
    encoder = RangeEncoder()
    encode_weights(encoder, values, scale_index, TABLES, limit)
    decoder = RangeDecoder(encoder.finish())
    assert np.array_equal(decode_weights(decoder, len(values), scale_index, TABLES, limit), values)
    decoder.finish()


def test_golden_bytes() -> None:
    encoder = RangeEncoder()
    encode_weights(encoder, np.array([[0, 1, -1], [2, -300, 0]]), 24, TABLES)
    encode_weights(encoder, np.array([0, 0, 1, 0]), 10, TABLES, limit=3)
    assert encoder.finish().hex() == "8377fb25d597"


def test_zeros_are_cheap_where_the_scale_is_narrow() -> None:
    zero = np.zeros(1, np.int32)
    costs = [weight_bits(zero, index, TABLES) for index in range(SCALE_COUNT)]
    assert costs[0] < 0.001
    assert costs[7] < 0.05
    assert np.all(np.diff(costs[:60]) > -1e-9)
    assert scale_of(0) == 1 / 32
    assert scale_of(63) == 2.0**10.75


def test_best_scale_finds_the_spread() -> None:
    rng = np.random.default_rng(1)
    u = rng.random(4000)
    values = np.round(8 * np.log(u / (1 - u))).astype(np.int32)
    assert abs(best_scale(values, TABLES) - 32) <= 1  # scale 8 = 2^(32/4 - 5)
    assert best_scale(np.zeros(9, np.int32), TABLES) == 0


def test_limits_are_kept() -> None:
    encoder = RangeEncoder()
    too_far = DEFAULT_LIMIT + 1
    for value, index, limit in (4, 0, 3), (-4, 0, 3), (0, 64, 3), (0, -1, 3), (0, 0, too_far), (0, 0, -1):
        with pytest.raises(EntropyInputError):
            encode_weights(encoder, np.array([value]), index, TABLES, limit)
    with pytest.raises(EntropyInputError):
        encode_weights(encoder, np.array([1 << 40]), 0, TABLES)
    with pytest.raises(EntropyInputError):
        encode_weights(encoder, np.array([0.5]), 0, TABLES)  # type: ignore[arg-type]
    assert encoder.finish() == b""
