"""What rounding costs: float model, integer model and dequantised model agree closely in bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from callic_archive.entropy.mixture import MixtureTables, ideal_bits
from callic_archive.errors import InexactModel
from callic_archive.model import tables
from callic_archive.model.config import MGCFConfig
from callic_archive.model.dequantize import float_model
from callic_archive.model.integer import CpuModel, Geometry, Plane
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.quantize import (
    Traces,
    finer_gates,
    head_units,
    quantize,
    quantize_linear,
    trace,
    with_gates_of,
)
from callic_archive.model.weights import IntegerWeights, ModelSet, check_exact
from pipelines.mint_conformance import scene, tiny_model
from tests.unit.model.builders import at_once, tiny_models

SIDE = 32


def picture(channels: int, seed: int) -> NDArray[np.int32]:
    """Levels (C, h, w)."""
    values = scene(np.random.default_rng(seed), SIDE, SIDE, channels, 255)
    return np.ascontiguousarray(values.transpose(2, 0, 1).astype(np.int32))


def integer_bits(weights: IntegerWeights, levels: NDArray[np.int32]) -> float:
    channels = levels.shape[0]
    geometry = Geometry(SIDE, SIDE, SIDE, SIDE)
    head, skip = at_once(CpuModel(weights).tile(geometry, Plane(0, 8, 128), levels), geometry)
    symbols = np.ascontiguousarray(levels.reshape(channels, -1).T)
    bits = ideal_bits(
        head, skip, [0] * channels, [0] * channels, [255] * channels, MixtureTables.build(), symbols
    )
    return float(bits.sum())


def float_bits(model: MGCF, levels: NDArray[np.int32]) -> float:
    with torch.no_grad():
        x = torch.from_numpy(levels.astype(np.float32))[None]
        return float(model.bits(x, PlaneStats.eight_bit(1)).sum())


def compare_heads(weights: IntegerWeights, floats: MGCF, levels: NDArray[np.int32]) -> None:
    """Head rows and skips of an integer model against those of a float model, in the integers' units."""
    with torch.no_grad():
        x = torch.from_numpy(levels.astype(np.float32))[None]
        raw, skip = floats(x, PlaneStats.eight_bit(1))
    geometry = Geometry(SIDE, SIDE, SIDE, SIDE)
    head, skips = at_once(CpuModel(weights).tile(geometry, Plane(0, 8, 128), levels), geometry)
    expected = raw[0].reshape(head.shape).numpy() * head_units(floats)
    assert expected.std(axis=0).min() > 3, "outputs that depend on the pixels"
    assert np.abs(head - expected).mean() < 0.03 * expected.std(axis=0).mean()
    assert np.abs(skips / 256 - skip[0].reshape(len(levels), -1).numpy().T).max() < 0.05


@pytest.mark.parametrize("channels", [1, 3])
def test_a_quantised_model_computes_what_the_float_model_does(channels: int) -> None:
    config = MGCFConfig(channels=channels, dim=16, depth=2, kernel=5, mlp_ratio=2, mixtures=3)
    model = tiny_model(config, seed=20 + channels)
    crops = torch.from_numpy(np.stack([picture(channels, s) for s in range(3)]).astype(np.float32))
    weights = quantize(model, [(crops, PlaneStats.eight_bit(len(crops)))])
    compare_heads(weights, model, picture(channels, 9))
    # What adaptation starts from is the integer model, in floats.
    compare_heads(weights, float_model(weights), picture(channels, 9))


def test_the_conformance_models_dequantise_to_what_they_compute() -> None:
    for model in tiny_models():
        compare_heads(model.weights, float_model(model.weights), picture(model.channels, 3))


def test_rounding_of_the_shipped_models_costs_next_to_nothing() -> None:
    """In bits, with trained weights: the goal is 0.05 % on photographs; a small crop scatters more."""
    for model in ModelSet.default():
        levels = picture(model.channels, 3)
        floats = float_bits(float_model(model.weights), levels)
        rounded = integer_bits(model.weights, levels)
        assert 1 < rounded / levels.size < 8
        assert abs(rounded / floats - 1) < 0.01


def test_quantised_layers_keep_their_bound() -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(0, 3, (8, 600)), rng.normal(0, 1, 8)
    weight[3] = 0.0
    layer = quantize_linear(weight, bias, 6, 4, 127, tables.ACT_MAX)
    assert layer.bound(tables.ACT_MAX) < 1 << 24
    assert np.abs(layer.weight).max() <= 127
    assert not layer.weight[3].any()
    scale = 2.0 ** (layer.shift - 6 + 4)
    kept = np.abs(layer.weight / scale[:, None] - weight).max(axis=1)
    assert (kept <= 0.5 / scale + 1e-9).all()


def test_weights_rounded_later_make_up_for_those_rounded_before() -> None:
    """Where inputs go together, as those of a trained model do, the outputs keep closer to what they were."""
    rng = np.random.default_rng(2)
    inputs = rng.normal(0, 1, (4000, 6)) @ rng.normal(0, 1, (6, 24)) + rng.normal(0, 0.2, (4000, 24))
    weight, bias = rng.normal(0, 1, (16, 24)), np.zeros(16)
    moments = inputs.T @ inputs / len(inputs)

    def off(moments: NDArray[np.float64] | None) -> float:
        layer = quantize_linear(weight, bias, 6, 4, 127, tables.ACT_MAX, coarse=4, moments=moments)
        assert not (layer.weight % 16).any(), "whole multiples of a coarse step"
        kept = layer.weight / 2.0 ** (layer.shift - 6 + 4)[:, None]
        return float((((kept - weight) @ inputs.T) ** 2).mean())

    assert off(moments) < 0.5 * off(None)


def test_coarse_weights_keep_the_grid_of_fine_ones() -> None:
    """So that an adapter that is merged into them loses nothing to rounding."""
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(0, 1, (8, 40)), rng.normal(0, 1, 8)
    fine, coarse = (
        quantize_linear(weight, bias, 6, 4, 127, tables.ACT_MAX, coarse=places) for places in (0, 3)
    )
    assert np.array_equal(fine.shift, coarse.shift)
    assert np.abs(fine.weight - coarse.weight).max() in (3, 4)
    assert (coarse.weight % 8 == 0).all()


def gray_traces() -> tuple[MGCF, Traces]:
    model = float_model(tiny_models().for_channels(1).weights)  # type: ignore[union-attr]
    x = torch.from_numpy(picture(1, 3).astype(np.float32))[None]
    return model, trace(model, [(x, PlaneStats.eight_bit(1))])


def places(traces: Traces) -> dict[str, int]:
    return {name: seen.fraction(tables.ACT_MAX) for name, seen in traces.items() if name.endswith(".swish")}


def test_gates_get_more_places_for_as_long_as_the_code_gets_shorter() -> None:
    _, traces = gray_traces()
    before = places(traces)
    wanted = {name: number + 1 + (name == "0.swish") for name, number in before.items()}
    asked: list[dict[str, int]] = []

    def price() -> float:
        asked.append(places(traces))
        return sum(abs(asked[-1][name] - number) for name, number in wanted.items())

    finer_gates(traces, price)
    assert places(traces) == wanted
    assert asked[0] == before


def test_gates_whose_code_gets_longer_or_whose_bounds_break_keep_their_places() -> None:
    _, traces = gray_traces()
    before = places(traces)
    finer_gates(traces, lambda: float(sum(places(traces).values())))
    assert places(traces) == before

    def broken() -> float:
        if places(traces) != before:
            raise InexactModel("too large")
        return 1.0

    finer_gates(traces, broken)
    assert places(traces) == before


def test_gates_are_rounded_as_they_were_before_settling() -> None:
    model, traces = gray_traces()
    chosen = {name: number + 1 for name, number in places(traces).items()}
    for name, number in chosen.items():
        traces[name].fractions[tables.ACT_MAX] = number
    _, later = gray_traces()
    weights = quantize(model, with_gates_of(later, traces))
    assert {f"{block}.swish": found["swish"] for block, found in weights.fractions.items()} == chosen
    assert weights.fractions.keys() == {str(n) for n in range(model.config.depth)}


def test_weights_too_large_for_their_output_are_refused() -> None:
    with pytest.raises(InexactModel, match="too large"):
        quantize_linear(np.full((2, 4), 1e6), np.zeros(2), 6, 10, 127, tables.ACT_MAX)


def test_tables_are_what_the_specification_says() -> None:
    compand = tables.compand_table(16.0)
    assert compand[0] == 0
    assert compand[16] == round(16 * 16 * np.arcsinh(1 / 16))
    assert (np.diff(compand) >= 0).all()
    assert compand.max() <= tables.COMPAND_MAX
    rsqrt = tables.rsqrt_table(128)
    assert rsqrt[0] == round(2**22 * np.sqrt(128 / 1024.5))
    assert (np.diff(rsqrt) <= 0).all()
    for kind in ("swish", "gelu"):
        table = tables.activation_table(kind, 8, 6)
        assert table[2048] == 0
        assert table[2048 + 512] == round(64 * (2 / (1 + np.exp(-2)) if kind == "swish" else 1.9544997361))
    with pytest.raises(ValueError, match="relu"):
        tables.activation_table("relu", 8, 6)


def test_what_is_quantised_is_proven_exact() -> None:
    for model in tiny_models():
        check_exact(model.weights)
