"""Change one pixel: nothing of its group or of an earlier one may move, in integers and in floats alike."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from callic_archive.model.config import MGCFConfig
from callic_archive.model.integer import CpuModel, Geometry, Plane, scan_order
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.reference import ReferenceModel
from tests.unit.model.builders import at_once, groups_of, level_trials, random_weights

CONFIGS = {
    "gray": MGCFConfig(channels=1, dim=16, depth=2, kernel=7, mlp_ratio=2, mixtures=2),
    "rgb": MGCFConfig(channels=3, dim=16, depth=2, kernel=5, mlp_ratio=2, mixtures=2),
}


def patch_numbers(geometry: Geometry) -> NDArray[np.int64]:
    i, j = np.indices((geometry.height, geometry.width))
    return np.asarray(100 * (i // geometry.patch_height) + j // geometry.patch_width)


@pytest.mark.parametrize("name", CONFIGS)
def test_integers_depend_on_earlier_groups_of_the_same_patch_only(name: str) -> None:
    config = CONFIGS[name]
    weights = random_weights(config, 11)
    geometry, plane = Geometry(9, 13, 6, 8), Plane(0, 8, 128)
    levels = next(level_trials(config.channels, 9, 13, 255, 1))
    group, patch = groups_of(geometry), patch_numbers(geometry)
    rng = np.random.default_rng(2)

    def compute(x: NDArray[np.int32]) -> list[NDArray[np.int64]]:
        head, skip = at_once(CpuModel(weights).tile(geometry, plane, x), geometry)
        return [head.reshape(9, 13, -1).astype(np.int64), skip.reshape(9, 13, -1)]

    before = compute(levels)
    reached = np.zeros((9, 13), bool)
    for _ in range(60):
        c, i, j = (int(rng.integers(0, n)) for n in levels.shape)
        moved = levels.copy()
        moved[c, i, j] = 255 - moved[c, i, j]
        after = compute(moved)
        allowed = (patch == patch[i, j]) & (group > group[i, j])
        for one, other in zip(before, after, strict=True):
            differs = (one != other).any(axis=2)
            assert not (differs & ~allowed).any(), (c, i, j)
            reached |= differs
    assert reached.mean() > 0.5, "the test must see changes where they are allowed"


def test_the_reference_is_causal_too() -> None:
    weights = random_weights(CONFIGS["gray"], 12)
    geometry, plane = Geometry(7, 8, 7, 8), Plane(0, 8, 128)
    levels = next(level_trials(1, 7, 8, 255, 1))
    group = groups_of(geometry)
    before = ReferenceModel(weights).parameters(levels, geometry, plane)
    for i, j in ((0, 0), (3, 4), (6, 0), (2, 7)):
        moved = levels.copy()
        moved[0, i, j] ^= 255
        after = ReferenceModel(weights).parameters(moved, geometry, plane)
        for one, other in zip(before, after, strict=True):
            differs = np.any(one != other, axis=1).reshape(7, 8)
            assert not (differs & (group <= group[i, j])).any()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_float_model_depends_on_earlier_groups_only(name: str) -> None:
    config = CONFIGS[name]
    torch.manual_seed(5)
    model = MGCF(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    height, width = 8, 10
    group = torch.from_numpy(groups_of(Geometry(height, width, height, width)))
    base = next(level_trials(config.channels, height, width, 255, 3))
    rng = np.random.default_rng(4)
    places = [tuple(int(rng.integers(0, n)) for n in base.shape) for _ in range(24)]
    batch = np.stack([base] * (1 + len(places))).astype(np.float32)
    for moved, place in zip(batch[1:], places, strict=True):
        moved[place] = 255 - moved[place]
    with torch.no_grad():
        head, skip = model(torch.from_numpy(batch), PlaneStats.eight_bit(len(batch)))
    head_moves = (head[1:] - head[0]).abs().amax(dim=3)
    skip_moves = (skip[1:] - skip[0]).abs().amax(dim=1)
    for moves in (head_moves, skip_moves):
        for difference, (_, i, j) in zip(moves, places, strict=True):
            assert difference[group <= group[i, j]].max() < 1e-4
        assert moves.max() > 1e-2, "the test must see changes where they are allowed"


def test_the_scan_order_is_that_of_the_specification() -> None:
    order, starts = scan_order(Geometry(3, 5, 2, 3))
    expected = []
    boxes = [(r, c) for r in (0, 2) for c in (0, 3)]
    for number in range(2 * 2 + 3 - 2):
        group = []
        for top, left in boxes:
            for i in range(2):
                j = number - 2 * i
                if 0 <= j < 3 and top + i < 3 and left + j < 5:
                    group.append((top + i) * 5 + left + j)
        expected.append(group)
    assert [order[a:b].tolist() for a, b in pairwise(starts)] == expected
    assert sorted(order.tolist()) == list(range(15))


@pytest.mark.parametrize("sizes", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_geometries_are_positive(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Geometry(*sizes)
