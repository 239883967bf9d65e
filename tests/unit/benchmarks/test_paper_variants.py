"""The ablations of table 4: causal under the scan, of MCG's size, and trained on equal terms."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from callic_archive.model.config import MGCFConfig, causal_taps
from callic_archive.model.mgcf import MGCF, PlaneStats
from pipelines.benchmarks.paper.budget import Budget, Material, compare, relative_rate, train
from pipelines.benchmarks.paper.variants import (
    MaskedConvolution,
    MaskedNeighbourhoodAttention,
    Mixer,
    build,
    kilo_macs,
    parameters,
)

SMALL = MGCFConfig(channels=3, dim=16, depth=2, kernel=5, mlp_ratio=2, mixtures=2)
MIXERS = get_args(Mixer)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_changed_pixel_reaches_later_groups_only(mixer: Mixer) -> None:
    model = build(SMALL, mixer, 3).eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    height, width = 9, 11
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    group = 2 * i + j
    rng = np.random.default_rng(4)
    base = rng.integers(0, 256, (3, height, width)).astype(np.float32)
    places = [tuple(int(rng.integers(0, n)) for n in base.shape) for _ in range(30)]
    batch = np.stack([base] * (1 + len(places)))
    for moved, place in zip(batch[1:], places, strict=True):
        moved[place] = 255 - moved[place]
    with torch.no_grad():
        head, skip = model(torch.from_numpy(batch), PlaneStats.eight_bit(len(batch)))
    for moves in ((head[1:] - head[0]).abs().amax(dim=3), (skip[1:] - skip[0]).abs().amax(dim=1)):
        for difference, (_, row, column) in zip(moves, places, strict=True):
            assert difference[group <= group[row, column]].max() < 1e-4
        assert moves.max() > 1e-2, "the test must see changes where they are allowed"


def test_attention_equals_its_definition_pixel_by_pixel() -> None:
    torch.manual_seed(1)
    config = MGCFConfig(channels=1, dim=8, depth=1, kernel=3, mixtures=2)
    layer = MaskedNeighbourhoodAttention(config, heads=2)
    layer.position.data.normal_()
    x = torch.randn(2, 4, 5, 8)
    with torch.no_grad():
        found = layer(x)
        q, k, v = layer.q(x), layer.k(x), layer.v(x)
        for n, i, j in np.ndindex(2, 4, 5):
            parts = []
            for h in range(2):
                near = [
                    (t, i + di, j + dj)
                    for t, (di, dj) in enumerate(causal_taps(3, include_group=True))
                    if 0 <= i + di < 4 and 0 <= j + dj < 5
                ]
                scores = torch.stack(
                    [
                        q[n, i, j, 2 * h : 2 * h + 2] @ k[n, a, b, 2 * h : 2 * h + 2] / 2**0.5
                        + layer.position[t, h]
                        for t, a, b in near
                    ]
                )
                weights = scores.softmax(0)
                parts.append(
                    sum(w * v[n, a, b, 4 * h : 4 * h + 4] for w, (_, a, b) in zip(weights, near, strict=True))
                )
            assert torch.allclose(layer.o(torch.cat(parts)), found[n, i, j], atol=1e-5)


def test_heads_must_fit() -> None:
    with pytest.raises(ValueError, match="12 channels cannot be cut into 4 heads"):
        MaskedNeighbourhoodAttention(MGCFConfig(dim=12))


def test_all_variants_have_about_mcgs_size() -> None:
    config = MGCFConfig()
    gate = build(config, "gate", 1)
    assert parameters(gate) == sum(p.numel() for p in MGCF(config).parameters())
    for mixer in MIXERS:
        other = build(config, mixer, 1)
        assert abs(parameters(other) / parameters(gate) - 1) < 0.02
        assert abs(kilo_macs(other) / kilo_macs(gate) - 1) < 0.02


def test_macs_count_every_weight_that_a_pixel_meets() -> None:
    taps = len(causal_taps(SMALL.kernel, include_group=True))
    d, hidden = SMALL.dim, SMALL.hidden
    rest = SMALL.features * d + d * SMALL.outputs + 3 * 5 + 2 * 2 * d * hidden
    assert kilo_macs(build(SMALL, "gate", 1)) * 1e3 == rest + 2 * (3 * d * d + taps * d)
    attention = 2 * (3 * d * d + taps * (d // 2 + d))
    assert kilo_macs(build(SMALL, "attention", 1)) * 1e3 == rest + attention
    assert kilo_macs(build(SMALL, "plain", 1)) * 1e3 == rest + 2 * (3 * d * d + taps * 3 * d // 2)


def test_what_the_variants_share_starts_from_the_same_values() -> None:
    states = [build(SMALL, mixer, 7).state_dict() for mixer in MIXERS]
    shared = [name for name in states[0] if ".mcg." not in name]
    assert shared
    for other in states[1:]:
        assert all(torch.equal(states[0][name], other[name]) for name in shared)


def crops(count: int, side: int, seed: int) -> tuple[torch.Tensor, PlaneStats]:
    """Smooth colours with noise: something to learn."""
    rng = np.random.default_rng(seed)
    i, j = np.indices((side, side))
    x = 128 + 80 * np.sin(0.3 * i + 0.2 * j)[None, None] + rng.normal(0, 4, (count, 3, side, side))
    levels = torch.from_numpy(np.clip(np.rint(x), 0, 255).astype(np.float32))
    return levels, PlaneStats.eight_bit(count)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_variant_learns_and_is_measured(mixer: Mixer) -> None:
    budget = Budget(steps=12, batch=1, crop=16, rate=5e-3)
    batches = tuple(crops(1, 16, seed) for seed in range(12))
    found = Material(batches, {"smooth": crops(2, 16, 50)}, crops(5, 16, 60))
    before = compare(build(SMALL, mixer, 1), Material((), found.held, found.kodak), budget)
    after = compare(build(SMALL, mixer, 1), found, budget)
    assert after["held_out"]["smooth"] < before["held_out"]["smooth"] - 0.05
    assert after["kodak"] < before["kodak"] - 0.05
    assert after["train_cpu_seconds"] > before["train_cpu_seconds"]
    assert after["forward_cpu_seconds_per_megapixel"] > 0


def test_training_repeats() -> None:
    budget = Budget(steps=3, batch=1, crop=16)
    batches = tuple(crops(1, 16, seed) for seed in range(3))
    models = [build(SMALL, "gate", 2) for _ in range(2)]
    for model in models:
        train(model, batches, budget)
    first, second = (model.state_dict() for model in models)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [relative_rate(step, 100) for step in range(101)]
    assert rates[0] < rates[2] < rates[4]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def test_plain_convolutions_have_no_value_path() -> None:
    layer = MaskedConvolution(SMALL)
    assert {name for name, _ in layer.named_parameters()} == {
        "a.weight", "a.bias", "o.weight", "o.bias", "kernel", "kernel_bias",
    }  # fmt: skip
