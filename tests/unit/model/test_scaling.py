"""The unit that a plane's levels are counted in."""

from __future__ import annotations

import numpy as np
import pytest

from callic_archive.model.scaling import MAX_SHIFT, unit_shift

RNG = np.random.default_rng(3)
ROWS, COLUMNS = np.mgrid[:96, :128]


def planes(levels: np.ndarray) -> np.ndarray:
    return np.rint(levels).astype(np.int64)[None]


def noise(deviation: float) -> np.ndarray:
    return 30_000 + RNG.normal(0, deviation, ROWS.shape)


@pytest.mark.parametrize("shift", range(2, 10))
def test_it_follows_noise(shift: int) -> None:
    near = [unit_shift(planes(noise(factor * 3.0 * 2**shift))) for factor in (0.8, 1.5)]
    assert near[0] <= shift <= near[1] + 1


@pytest.mark.parametrize("slope", [0, 20, 100, 200])
def test_slopes_do_not_count(slope: int) -> None:
    flat = noise(4.0)
    assert abs(unit_shift(planes(flat + slope * COLUMNS + slope / 2 * ROWS)) - unit_shift(planes(flat))) <= 2


def test_planes_without_differences_have_the_least() -> None:
    assert unit_shift(planes(np.full((5, 7), 900.0))) == 0
    assert unit_shift(planes(np.full((1, 1), 900.0))) == 0
    assert unit_shift(planes(17.0 * COLUMNS[:1])) == unit_shift(planes(17.0 * COLUMNS))  # a prediction leaves nothing of it
    assert unit_shift(planes(65535.0 * (COLUMNS % 2))) <= MAX_SHIFT
