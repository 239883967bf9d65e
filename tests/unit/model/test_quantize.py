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
from callic_archive.model.packed_file import pack_model
from callic_archive.model.quantize import layer_steps, quantize, quantize_linear
from callic_archive.model.steps import Steps, steps_of, variances_left
from callic_archive.model.traces import Inputs, Traces, finer_gates, head_units, trace, with_gates_of
from callic_archive.model.weights import IntegerWeights, ModelSet, check_exact, model_file
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
    inputs = rng.normal(0, 1, (4000, 6)) @ rng.normal(0, 1, (6, 24)) + rng.normal(0, 0.2, (4000, 24)) + 1.0
    weight, bias = rng.normal(0, 1, (16, 24)), np.zeros(16)
    seen = Inputs()
    seen.add(torch.from_numpy(inputs))
    assert np.allclose(seen.covariance, np.cov(inputs.T, bias=True), atol=1e-4)
    assert np.allclose(seen.mean, inputs.mean(0), atol=1e-5)

    def off(found: Inputs | None) -> NDArray[np.float64]:
        layer = quantize_linear(weight, bias, 6, 4, 127, tables.ACT_MAX, coarse=4, inputs=found)
        assert not (layer.weight % 16).any(), "whole multiples of a coarse step"
        unit = 2.0 ** (layer.shift - 6 + 4)[:, None]
        error: NDArray[np.float64] = (layer.weight / unit - weight) @ inputs.T + layer.bias[:, None] / unit / 2**6
        return error

    assert (off(seen) ** 2).mean() < 0.25 * (off(None) ** 2).mean()
    assert np.abs(off(seen).mean(1)).max() < 0.01, "the bias makes up for what is off on average"


def test_steps_are_those_that_make_code_and_weights_smallest() -> None:
    """The sum that they are the least of, taken as what it is: the rounding errors of many weights, and their bits."""
    rng = np.random.default_rng(4)
    deviations, slopes, pixels = np.array([0.5, 2.0]), np.array([0.3, 7.0]), 4e4
    weight = rng.normal(0, 1, (2, 20_000))

    def nats(row: int, step: float) -> float:
        rounded = np.rint(weight[row] / step)
        errors = (rounded * step - weight[row]).reshape(-1, 2) * deviations
        code = pixels * slopes[row] / 2 * (errors**2).sum(1).mean()
        counts = np.unique(rounded, return_counts=True)[1] / rounded.size
        return float(code - 2 * (counts * np.log(counts)).sum())

    found = steps_of(slopes, deviations**2, pixels).rows
    assert found[0] > 4 * found[1]
    for row in (0, 1):
        least = nats(row, found[row])
        assert least < min(nats(row, found[row] * factor) for factor in (0.5, 2.0))
        assert least < 1e-3 + min(nats(row, found[row] * factor) for factor in (0.8, 1.25))


def test_an_input_that_others_tell_may_be_rounded_coarsely() -> None:
    covariance = np.array([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 4.0]])
    assert np.allclose(variances_left(covariance), [1 - 0.99**2, 1.0, 4.0], rtol=0.03, atol=0.04)


@pytest.mark.parametrize("level", [0.0, 1.0, 3e4])
def test_inputs_that_do_not_vary_are_rounded_too(level: float) -> None:
    seen = Inputs()
    seen.add(torch.full((1000, 24), level) + torch.linspace(0, 1e-3, 24))
    weight = np.random.default_rng(6).normal(0, 1, (8, 24))
    steps = steps_of(np.ones(8), variances_left(seen.covariance), 1e6)
    layer = quantize_linear(weight, np.zeros(8), 6, 4, 127, tables.ACT_MAX, inputs=seen, steps=steps)
    unit = 2.0 ** -(layer.shift - 6 + 4)
    before, after = weight @ seen.mean, (layer.weight @ seen.mean + layer.bias / 2**6) * unit
    assert np.abs(after - before).max() <= 2**-5  # half of an output's unit


def test_a_layer_is_rounded_to_its_steps() -> None:
    rng = np.random.default_rng(5)
    weight, bias = rng.normal(0, 1, (4, 40)), rng.normal(0, 1, 4)
    steps = Steps(np.array([0.26, 0.12, 1e-9, 1.0]), np.array([0.3, 1e-9, 0.06, 0.25]))
    layer = quantize_linear(weight, bias, 6, 4, 127, tables.ACT_MAX, steps=steps)
    unit = 2.0 ** -(layer.shift - 6 + 4)
    found = layer.weight * unit[:, None]
    for row, step in enumerate((0.25, 0.125, 2.0**-6, 1.0)):  # the third is as fine as 127 of them allow
        assert (found[row] % step == 0).all()
        assert np.abs(found[row] - weight[row]).max() <= step / 2
        assert (layer.shift >= 0).all()
    found = layer.bias * unit / 2**6
    for row, step in enumerate((0.25, 2.0**-9, 2.0**-5, 0.25)):  # the second is as fine as its weights and inputs
        assert found[row] % step == 0
        assert abs(found[row] - bias[row]) <= step / 2


def test_layers_that_matter_more_are_rounded_more_finely_and_the_file_takes_less() -> None:
    model = float_model(tiny_models().for_channels(1).weights)  # type: ignore[union-attr]
    x = torch.from_numpy(picture(1, 3).astype(np.float32))[None]
    batches = [(x, PlaneStats.eight_bit(1))]
    traces = trace(model, batches, slopes=True)
    parts = ("a", "v", "dw", "o", "up", "down")
    assert traces.slopes.keys() == {"embed", "head", *(f"{b}.{p}" for b in range(model.config.depth) for p in parts)}
    sizes = []
    for pixels in (1e3, 1e6):
        steps = layer_steps(traces, pixels)
        name = "0.up"
        assert np.corrcoef(np.log(traces.slopes[name]), np.log(steps[name].rows))[0, 1] < -0.99
        weights = quantize(model, traces, steps=steps)
        sizes.append((integer_bits(weights, picture(1, 3)), len(pack_model(model_file("m", weights, {}, {})))))
    assert sizes[0][0] > sizes[1][0]
    assert sizes[0][1] < sizes[1][1]


def test_gradients_are_those_of_the_code_by_the_outputs() -> None:
    """By moving a bias, as the gradient's mean is by it what its mean square is the square of where there is one pixel."""
    model = float_model(tiny_models().for_channels(1).weights)  # type: ignore[union-attr]
    x = torch.from_numpy(picture(1, 3)[:, :1, :1].astype(np.float32))[None]
    stats = PlaneStats.eight_bit(1)
    slopes = trace(model, [(x, stats)], slopes=True).slopes
    model.zero_grad()
    (model.bits(x, stats).sum() * np.log(2)).backward()
    gradient = model.blocks[0].up.bias.grad.double().numpy()  # type: ignore[union-attr]
    assert np.allclose(slopes["0.up"], gradient**2, rtol=1e-3, atol=1e-12)
    gradient = model.head.bias.grad.double().numpy() / head_units(model)  # type: ignore[union-attr]
    assert np.allclose(slopes["head"], gradient**2, rtol=1e-3, atol=1e-12)


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
    return {name: seen.fraction(tables.ACT_MAX) for name, seen in traces.ranges.items() if name.endswith(".swish")}


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
        traces.ranges[name].fractions[tables.ACT_MAX] = number
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
