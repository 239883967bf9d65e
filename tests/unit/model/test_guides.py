"""Guides: planes that are known before, as every way to compute sees them, in integers and in floats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from callic_archive.codec.crops import collate
from callic_archive.errors import DamagedModel
from callic_archive.model.config import GUIDE_FEATURES, MGCFConfig
from callic_archive.model.dequantize import float_model
from callic_archive.model.guided import guided, with_guide
from callic_archive.model.integer import LIKENESS, NO_GUIDE, SUBTRACTED, CpuModel, Geometry, Plane
from callic_archive.model.integer_torch import TorchModel
from callic_archive.model.mgcf import MGCF
from callic_archive.model.quantize import quantize
from callic_archive.model.reference import ReferenceModel
from callic_archive.model.weights import IntegerWeights, load_model, model_file
from tests.unit.model.builders import at_once, limit_weights, random_weights, step_by_step, tiny_models

GUIDED = MGCFConfig(channels=1, dim=32, depth=2, kernel=5, mlp_ratio=2, mixtures=2, guides=1)
WEIGHTS = {"random": random_weights(GUIDED, 1), "limit": limit_weights(replace(GUIDED, depth=1))}


def planes(height: int, width: int, top: int, seed: int) -> NDArray[np.int32]:
    """Levels of a plane and of its guide."""
    found: NDArray[np.int32] = np.random.default_rng(seed).integers(0, top + 1, (2, height, width)).astype(np.int32)
    return found


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("use", [LIKENESS, SUBTRACTED, NO_GUIDE])
def test_every_way_to_compute_gives_the_same_integers(name: str, use: int) -> None:
    weights, geometry = WEIGHTS[name], Geometry(9, 11, 5, 7)
    for shift, depth in ((0, 8), (4, 16)):
        plane = Plane(shift, depth, 1 << (depth - 1), use)
        levels = planes(9, 11, (1 << depth) - 1, shift)[: 2 if use else 1]
        expected = ReferenceModel(weights).parameters(levels, geometry, plane)
        for model in (CpuModel(weights), CpuModel(weights, short=False), TorchModel(weights, "cpu")):
            for compute in (at_once, step_by_step):
                head, skip = compute(model.tile(geometry, plane, levels.copy()), geometry)
                assert np.array_equal(head, expected[0]), (type(model), compute, plane)
                assert np.array_equal(skip, expected[1])


def test_what_is_to_come_of_a_guide_is_seen_and_of_the_plane_is_not() -> None:
    weights, geometry, plane = WEIGHTS["random"], Geometry(8, 8, 8, 8), Plane(2, 8, 128, LIKENESS)
    levels = planes(8, 8, 255, 3)
    before = at_once(CpuModel(weights).tile(geometry, plane, levels.copy()), geometry)[0].reshape(8, 8, -1)
    for row, changes in ((0, False), (1, True)):
        changed = levels.copy()
        changed[row, 5, 5] ^= 128
        after = at_once(CpuModel(weights).tile(geometry, plane, changed), geometry)[0].reshape(8, 8, -1)
        assert bool((after[4, 4] != before[4, 4]).any()) == changes
        assert bool((after[5, 5] != before[5, 5]).any()) == changes


def test_a_model_that_is_given_a_guide_says_what_it_said() -> None:
    (base,) = (m for m in tiny_models() if m.channels == 1)
    taught, geometry, levels = with_guide(base), Geometry(9, 9, 9, 9), planes(9, 9, 255, 5)
    assert (base.guides, taught.guides, with_guide(taught)) == (0, 1, taught)
    assert taught.weights.config.features == base.weights.config.features + GUIDE_FEATURES
    expected = at_once(CpuModel(base.weights).tile(geometry, Plane(0, 8, 128), levels[:1].copy()), geometry)
    for use in (NO_GUIDE, LIKENESS, SUBTRACTED):
        tile = CpuModel(taught.weights).tile(geometry, Plane(0, 8, 128, use), levels[: 2 if use else 1].copy())
        assert np.array_equal(at_once(tile, geometry)[0], expected[0])


def test_model_files_name_guides_where_there_are_any() -> None:
    (base,) = (m for m in tiny_models() if m.channels == 1)
    assert "guides" not in base.weights.config.as_dict()
    raw = with_guide(base).raw
    assert load_model(raw).weights.config == replace(base.weights.config, guides=1)
    for wrong in (b'\\"guides\\": 2', b'\\"guides\\": 0'):
        with pytest.raises(DamagedModel):
            load_model(raw.replace(b'\\"guides\\": 1', wrong))
    with pytest.raises(ValueError, match="guide"):
        MGCFConfig(channels=3, guides=1)


def test_a_guide_is_refused_where_the_model_takes_none() -> None:
    (base,) = (m for m in tiny_models() if m.channels == 1)
    with pytest.raises(ValueError, match="no guide"):
        CpuModel(base.weights).tile(Geometry(4, 4, 4, 4), Plane(0, 8, 128, LIKENESS), planes(4, 4, 255, 0))


def trained(seed: int = 0) -> MGCF:
    torch.manual_seed(seed)
    model = MGCF(GUIDED)
    with torch.no_grad():
        model.embed.weight[:, 6:].uniform_(-0.2, 0.2)
    return model


def batch(width: int = 32) -> tuple[torch.Tensor, object]:
    crops = [planes(16, width, 255, seed).astype(np.uint16) for seed in range(3)]
    return collate(crops, [(2, 8, 128, 255, use) for use in (1, -1, 0)])


def test_the_fused_step_agrees_with_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, stats) = trained(), batch()
    found = []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr("callic_archive.model.mgcf.can_fuse", lambda *_: False)
        model.zero_grad()
        bits = model.bits(x, stats)  # type: ignore[arg-type]
        bits.mean().backward()
        found.append((bits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
    assert found[0][1].keys() == found[1][1].keys()
    for name, grad in found[0][1].items():
        assert torch.allclose(grad, found[1][1][name], rtol=1e-3, atol=1e-5), name
    assert float(found[0][1]["embed.weight"][:, 6:].abs().max()) > 0


def test_integers_say_what_floats_say() -> None:
    model, (x, stats) = trained().eval(), batch()
    weights: IntegerWeights = quantize(model, [(x, stats)])  # type: ignore[list-item]
    again = float_model(weights)
    assert again.config == GUIDED
    assert torch.allclose(again.embed.weight, model.embed.weight, atol=2e-3)
    features, _ = model.inputs(x, stats)  # type: ignore[arg-type]
    geometry = Geometry(16, 32, 16, 32)
    for n, use in enumerate((LIKENESS, SUBTRACTED, NO_GUIDE)):
        plane, levels = Plane(2, 8, 128, use), x[n].numpy().astype(np.int32)[: 2 if use else 1]
        integers = np.zeros((16, 32, GUIDED.features), np.int64)
        reference = ReferenceModel(weights)
        integers[:], skip = reference.features(levels[:1].astype(np.int64), plane)
        if use:
            reference.guide(levels[1].astype(np.int64), skip[:, :, 0], plane, integers[:, :, -10:])
        units = np.append(np.full(9, 1 / 16), 1 / 64)
        assert np.allclose(integers[:, :, 6:] * units, features[n, :, :, 6:].detach().numpy(), atol=0.1), use
        assert at_once(CpuModel(weights).tile(geometry, plane, levels), geometry)[0].shape == (512, GUIDED.outputs)


def test_weights_with_a_guide_keep_their_bounds() -> None:
    weights = guided(random_weights(replace(GUIDED, guides=0), 2))
    assert load_model(model_file("guided", weights, tiny_models().for_channels(1).mixture, {})).guides == 1  # type: ignore[union-attr]
