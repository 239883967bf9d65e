"""Adapters: fixed starts, merging in integers against plain arithmetic, and bounds of what was merged."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from callic_archive.errors import InexactModel, MismatchedAdapter
from callic_archive.model.adapter import (
    START_STEPS,
    STEP_BITS,
    AdapterShape,
    layer_fractions,
    merge,
    start_factor,
)
from callic_archive.model.config import MGCFConfig, causal_taps
from callic_archive.model.integer import CpuModel, Geometry, Plane
from callic_archive.model.integer_torch import TorchModel
from callic_archive.model.reference import ReferenceModel
from callic_archive.model.weights import Depthwise, IntegerWeights, Linear
from tests.unit.model.builders import at_once, level_trials, step_by_step, tiny_models

SHAPE = AdapterShape(3, 2, 2)


def differences(
    weights: IntegerWeights, shape: AdapterShape, spread: int, seed: int
) -> dict[str, NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    shapes = shape.factors(weights.config)
    return {n: rng.integers(-spread, spread + 1, s).astype(np.int32) for n, s in shapes.items()}


def gray() -> IntegerWeights:
    return next(iter(tiny_models())).weights


def test_ranks_of_the_paper_give_its_number_of_weights() -> None:
    config = MGCFConfig()
    total = sum(rows * columns for rows, columns in AdapterShape().factors(config).values())
    assert 24_000 < total < 28_000


def test_factors_come_in_the_order_of_the_specification() -> None:
    names = list(AdapterShape(1, 1, 1).factors(MGCFConfig(channels=1, dim=8, depth=1, kernel=5)))
    parts = ["a.B", "a.A", "v.B", "v.A", "dw.X", "dw.Y", "dw.Z", "up.B", "up.A"]
    assert names == [f"0.{p}" for p in parts]
    assert AdapterShape(0, 0, 0).factors(MGCFConfig()) == {}


def test_starts_are_fixed_signs() -> None:
    assert not start_factor("0.a.B", (5, 2)).any()
    assert not start_factor("2.dw.X", (5, 2)).any()
    found = start_factor("0.a.A", (7, 128))
    bits = "".join(f"{byte:08b}" for n in range(4) for byte in hashlib.sha256(f"0.a.A/{n}".encode()).digest())
    expected = [START_STEPS if b == "1" else -START_STEPS for b in bits[: 7 * 128]]
    assert found.ravel().tolist() == expected
    assert 0.4 < (found > 0).mean() < 0.6
    assert not np.array_equal(found, start_factor("0.v.A", (7, 128)))


def test_an_adapter_of_zeros_changes_nothing() -> None:
    weights = gray()
    merged = merge(weights, SHAPE, differences(weights, SHAPE, 0, 1))
    for (_, before), (_, after) in zip(weights.adapted_layers(), merged.adapted_layers(), strict=True):
        for part in ("weight", "kernel", "bias", "shift"):
            if hasattr(before, part):
                assert np.array_equal(getattr(before, part), getattr(after, part))


@pytest.mark.parametrize("model", list(tiny_models()), ids=lambda m: m.name)
def test_merging_in_integers_is_merging_in_reals_rounded_once(model: object) -> None:
    weights: IntegerWeights = model.weights  # type: ignore[attr-defined]
    changes = differences(weights, SHAPE, 20, 2)
    merged = dict(merge(weights, SHAPE, changes).adapted_layers())
    unit = 2.0**-STEP_BITS
    factor = {n: (start_factor(n, v.shape) + v) * unit for n, v in changes.items()}
    moved = 0
    for name, layer in weights.adapted_layers():
        after = merged[name]
        fraction_in, fraction_out = layer_fractions(weights, name)
        scale = 2.0 ** (layer.shift.astype(np.float64) - fraction_in + fraction_out)
        if isinstance(layer, Linear):
            assert isinstance(after, Linear)
            delta = (factor[f"{name}.B"] @ factor[f"{name}.A"]) * scale[:, None]
            before_values, after_values = layer.weight, after.weight
        else:
            assert isinstance(after, Depthwise)
            taps = (
                np.array(causal_taps(weights.config.kernel, include_group=True)) + weights.config.kernel // 2
            )
            plane = factor[f"{name}.Y"][taps[:, 0]] * factor[f"{name}.Z"][taps[:, 1]]
            delta = (plane @ factor[f"{name}.X"].T) * scale[None, :]
            before_values, after_values = layer.kernel, after.kernel
        assert np.abs(after_values - (before_values + delta)).max() <= 0.5 + 1e-9
        moved += int((after_values != before_values).sum())
        assert np.array_equal(after.bias, layer.bias)
        assert np.array_equal(after.shift, layer.shift)
    assert moved > 100


def test_a_merged_model_is_as_exact_as_any() -> None:
    weights = gray()
    merged = merge(weights, SHAPE, differences(weights, SHAPE, 15, 3))
    geometry, plane = Geometry(8, 9, 5, 9), Plane(1, 9, 256)
    for levels in level_trials(1, 8, 9, 511, 4):
        expected = ReferenceModel(merged).parameters(levels, geometry, plane)
        plain = ReferenceModel(weights).parameters(levels, geometry, plane)
        assert not np.array_equal(expected[0], plain[0]), "the adapter must matter"
        for found in (
            at_once(CpuModel(merged).tile(geometry, plane, levels), geometry),
            step_by_step(CpuModel(merged).tile(geometry, plane, levels), geometry),
            at_once(TorchModel(merged, "cpu").tile(geometry, plane, levels), geometry),
        ):
            assert np.array_equal(found[0], expected[0])


def test_merged_weights_have_a_limit() -> None:
    weights = gray()
    shape = AdapterShape(1, 0, 0)
    changes = {n: np.full(s, 1023, np.int32) for n, s in shape.factors(weights.config).items()}
    with pytest.raises(InexactModel, match="4095"):
        merge(weights, shape, changes)


def test_a_merged_layer_must_stay_within_its_accumulator() -> None:
    """Each weight below the limit of 4095, and their sum above 2^24 all the same."""
    weights = gray()
    layer = weights.blocks[0].a
    heavy = replace(layer, weight=np.sign(layer.weight + 0.5).astype(np.int32) * 2050)
    near = weights.with_layers({"0.a": heavy})
    shape = AdapterShape(4, 0, 0)
    with pytest.raises(InexactModel, match=r"0\.a"):
        merge(near, shape, differences(weights, shape, 60, 5))


def test_binary_places_have_a_range() -> None:
    weights = gray()
    places = {k: dict(v) for k, v in weights.fractions.items()}
    places["0"]["up"] = 64
    with pytest.raises(InexactModel, match="binary places"):
        merge(
            replace(weights, fractions=places),
            AdapterShape(1, 0, 0),
            differences(weights, AdapterShape(1, 0, 0), 1, 1),
        )


def test_factors_of_another_shape_are_refused() -> None:
    weights = gray()
    changes = differences(weights, SHAPE, 3, 1)
    for broken in (
        {k: v for k, v in changes.items() if k != "0.a.A"},
        {**changes, "0.a.A": changes["0.a.A"].T.copy()},
        {**changes, "9.a.A": changes["0.a.A"]},
    ):
        with pytest.raises(MismatchedAdapter):
            merge(weights, SHAPE, broken)
