"""Crops that training makes up: levels stay in range, the same seed gives the same, and smooth ones are smooth."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from callic_archive.codec.crops import statistics
from pipelines.camera import resampled, retaken, surface

WINDOW = np.ascontiguousarray(data.camera()[100:228, 100:228])[None].astype(np.uint16)


@pytest.mark.parametrize("seed", range(20))
def test_surfaces_are_smooth_and_use_their_range(seed: int) -> None:
    crop = surface(64, np.random.default_rng(seed))
    assert np.array_equal(crop, surface(64, np.random.default_rng(seed)))
    assert (crop.shape, crop.dtype, crop.min()) == ((1, 64, 64), np.uint16, 0)
    assert crop.max() > 255
    values = crop[0].astype(int)
    steps, left = np.abs(np.diff(values, axis=1)).mean(), np.abs(np.diff(np.diff(values, axis=1), axis=0)).mean()
    assert left < 1.5 * steps + 3  # of noise it would be twice as much
    assert steps < 0.2 * crop.max()
    shift, depth, *_ = statistics(crop, int(crop.max()) + 1)
    assert shift < depth


@pytest.mark.parametrize("seed", range(20))
def test_resampled_crops_differ_less_than_their_windows(seed: int) -> None:
    crop, highest = resampled(WINDOW, 96, 255, np.random.default_rng(seed))
    assert (crop.shape, crop.dtype) == ((1, 96, 96), np.uint16)
    assert crop.max() <= highest <= 65535
    detail = [np.abs(np.diff(part.astype(int), axis=2)).mean() / np.ptp(part) for part in (crop, WINDOW)]
    assert detail[0] < detail[1]


def test_varied_crops_stay_in_range() -> None:
    crop = retaken(WINDOW, 64, 255, np.random.default_rng(1))
    assert (crop.shape, crop.dtype) == ((1, 64, 64), np.uint16)
    assert crop.max() <= 255
