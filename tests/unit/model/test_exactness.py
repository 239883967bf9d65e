"""Full pass == step by step == int64 reference: every layer, every backend, at random and at the limits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from callic_archive.model import kernels, reference, tables
from callic_archive.model.config import MGCFConfig
from callic_archive.model.integer import CpuModel, Geometry, Plane, scan_order
from callic_archive.model.integer_torch import TorchModel
from callic_archive.model.reference import ReferenceModel
from callic_archive.model.weights import IntegerWeights, check_exact
from tests.unit.model.builders import (
    GRAY,
    PLANES,
    RGB,
    at_once,
    in_raster_order,
    level_trials,
    limit_weights,
    random_weights,
    step_by_step,
    tiny_models,
)

Log = dict[str, NDArray[np.int64]]
#: Wide enough for products of int16 on every processor that has them.
WIDE = MGCFConfig(channels=1, dim=32, depth=1, kernel=3, mlp_ratio=4, mixtures=2)
WEIGHTS: dict[str, IntegerWeights] = {
    "random-gray": random_weights(GRAY, 1),
    "random-rgb": random_weights(RGB, 2),
    "random-deep": random_weights(MGCFConfig(channels=1, dim=16, depth=3, kernel=7, mixtures=1), 3),
    "limit": limit_weights(),
    "limit-vectors": limit_weights(WIDE),
    "limit-bias-vectors": limit_weights(WIDE, bias=True),
    "random-vectors": random_weights(WIDE, 4),
    "limit-bias": limit_weights(bias=True),
    "limit-bias-shift": limit_weights(shift=30, bias=True),
    **{m.name: m.weights for m in tiny_models()},
}


def backends(weights: IntegerWeights) -> tuple[Any, ...]:
    """Every way to compute that this machine has; where products of int16 are taken, float32 ones too."""
    own = CpuModel(weights)
    return (own, TorchModel(weights, "cpu"), *([CpuModel(weights, short=False)] if own.short else []))


# -- head and skip ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_way_to_compute_gives_the_same_integers(name: str) -> None:
    weights = WEIGHTS[name]
    check_exact(weights)
    geometry = Geometry(9, 11, 5, 7)
    models: tuple[Any, ...] = backends(weights)
    for plane in PLANES[weights.config.channels]:
        for levels in level_trials(weights.config.channels, 9, 11, (1 << plane.depth) - 1, plane.shift):
            expected = ReferenceModel(weights).parameters(levels, geometry, plane)
            for model in models:
                for compute in (at_once, step_by_step):
                    found = compute(model.tile(geometry, plane, levels), geometry)
                    assert [a.dtype for a in found] == [np.int32, np.int64]
                    assert np.array_equal(found[0], expected[0]), (type(model), compute, plane)
                    assert np.array_equal(found[1], expected[1]), (type(model), compute, plane)


@pytest.mark.parametrize("name", ["random-rgb", "tiny-gray"])
def test_any_cut_into_runs_of_groups_gives_the_same(name: str) -> None:
    weights = WEIGHTS[name]
    geometry, plane = Geometry(6, 17, 6, 9), Plane(0, 8, 128)
    levels = next(level_trials(weights.config.channels, 6, 17, 255, 5))
    order, starts = scan_order(geometry)
    rng = np.random.default_rng(6)
    models: tuple[Any, ...] = backends(weights)
    for model in models:
        whole = model.tile(geometry, plane, levels).parameters(order)
        for _ in range(5):
            inner = rng.choice(starts[1:-1], rng.integers(1, 6), replace=False)
            cuts = np.concatenate([[0], np.sort(inner), [order.size]])
            tile = model.tile(geometry, plane, levels)
            parts = [tile.parameters(order[a:b]) for a, b in pairwise(cuts)]
            for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
                assert np.array_equal(np.concatenate(found), expected)


def test_the_number_of_blas_threads_changes_nothing() -> None:
    weights = random_weights(MGCFConfig(channels=1, dim=64, depth=1, kernel=3, mixtures=2), 8)
    geometry, plane = Geometry(40, 40, 40, 40), Plane(2, 10, 512)
    levels = next(level_trials(1, 40, 40, 1023, 9))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(at_once(CpuModel(weights).tile(geometry, plane, levels), geometry))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def test_a_decoder_that_knows_nothing_of_later_pixels_gets_the_same() -> None:
    """Levels are filled in as they are decoded; what stands in their place before must not matter."""
    weights, geometry, plane = WEIGHTS["tiny-rgb"], Geometry(7, 9, 5, 5), Plane(0, 8, 128)
    levels = next(level_trials(3, 7, 9, 255, 4))
    expected = at_once(CpuModel(weights).tile(geometry, plane, levels), geometry)
    order, starts = scan_order(geometry)
    for rubbish in (0, 255, -(2**31), 2**31 - 1):
        known = np.full_like(levels, rubbish)
        tile, parts = CpuModel(weights).tile(geometry, plane, known), []
        for a, b in pairwise(starts):
            parts.append(tile.parameters(order[a:b]))
            known.reshape(3, -1)[:, order[a:b]] = levels.reshape(3, -1)[:, order[a:b]]
        found = in_raster_order(order, *(np.concatenate(p) for p in zip(*parts, strict=True)))
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_gpu_gives_the_same_integers(name: str) -> None:
    weights = WEIGHTS[name]
    geometry = Geometry(9, 11, 5, 7)
    for plane in PLANES[weights.config.channels]:
        for levels in level_trials(weights.config.channels, 9, 11, (1 << plane.depth) - 1, plane.shift):
            expected = ReferenceModel(weights).parameters(levels, geometry, plane)
            for compute in (at_once, step_by_step):
                found = compute(TorchModel(weights, "cuda").tile(geometry, plane, levels), geometry)
                assert np.array_equal(found[0], expected[0])
                assert np.array_equal(found[1], expected[1])


def test_tiles_refuse_levels_of_another_shape_or_type() -> None:
    model = CpuModel(WEIGHTS["tiny-gray"])
    for levels in (
        np.zeros((1, 4, 5), np.int32),
        np.zeros((3, 4, 4), np.int32),
        np.zeros((1, 4, 4), np.int64),
    ):
        with pytest.raises(ValueError, match="levels are"):
            model.tile(Geometry(4, 4, 4, 4), Plane(0, 8, 128), levels)  # type: ignore[arg-type]


# -- layer by layer -----------------------------------------------------------------------------------------


def reference_log(
    weights: IntegerWeights, levels: NDArray[np.int32], plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> Log:
    """Inputs of every layer of the reference, (pixels, width) in raster order, by name."""
    log: Log = {}
    names = ["embed"]
    for i in range(weights.config.depth):
        names += [f"{i}.{part}" for part in ("a", "v", "o", "up", "down")]
    queue = [*names, "head"]
    original = reference._linear

    def linear(x: Any, layer: Any) -> Any:
        log[queue.pop(0)] = x.reshape(-1, x.shape[-1]).copy()
        return original(x, layer)

    class Logging(ReferenceModel):
        def depthwise(self, a: Any, layer: Any) -> Any:
            block = next(i for i, b in enumerate(self.weights.blocks) if b.dw is layer)
            log[f"{block}.cache"] = a.reshape(-1, a.shape[-1]).copy()
            return super().depthwise(a, layer)

        def normalise(self, stream: Any) -> Any:
            log[f"stream {sum(k.startswith('stream') for k in log)}"] = stream.reshape(
                -1, stream.shape[-1]
            ).copy()
            return super().normalise(stream)

    monkeypatch.setattr(reference, "_linear", linear)
    geometry = Geometry(*levels.shape[1:], *levels.shape[1:])
    Logging(weights).parameters(levels, geometry, plane)
    monkeypatch.undo()
    assert not queue
    return log


def cpu_log(
    weights: IntegerWeights,
    levels: NDArray[np.int32],
    plane: Plane,
    monkeypatch: pytest.MonkeyPatch,
    steps: bool,
) -> tuple[Log, dict[str, int]]:
    """The same inputs as the compiled backend sees them, and the largest accumulator of every layer."""
    geometry = Geometry(*levels.shape[1:], *levels.shape[1:])
    order, starts = scan_order(geometry)
    cuts = starts if steps else np.array([0, order.size])
    rows_seen: list[dict[str, Any]] = []
    peaks: dict[str, int] = {}

    def note(name: str, value: NDArray[Any]) -> None:
        rows_seen[-1][name] = value.astype(np.int64)

    def peak(name: str, acc: NDArray[Any]) -> None:
        assert np.array_equal(acc, np.rint(acc)), "an accumulator is no integer"
        peaks[name] = max(peaks.get(name, 0), int(np.abs(acc).max()))

    def wrap(name: str, after: Any) -> None:
        original = getattr(kernels, name)

        def wrapped(*args: Any) -> None:
            if name == "add_stream":
                part = "o" if state["adds"] % 2 == 0 else "down"
                peak(f"{state['adds'] // 2}.{part}", args[0])
                state["adds"] += 1
            original(*args)
            after(*args)

        monkeypatch.setattr(kernels, name, wrapped)

    state = {"adds": 0, "norms": 0}

    def normalised(stream: Any, rsqrt: Any, eps: Any, fine: Any, out: Any) -> None:
        block, second = divmod(state["norms"], 2)
        note(f"stream {state['norms']}", stream)
        for part in ("up",) if second else ("a", "v"):
            note(f"{block}.{part}", out)
        state["norms"] += 1

    def stored(acc: Any, bias: Any, shift: Any, rows: Any, cache: Any) -> None:
        block = state["norms"] // 2
        peak(f"{block}.a", acc)
        note(f"{block}.cache", cache[rows])

    def gated(*args: Any) -> None:
        block, radius = state["norms"] // 2, weights.config.kernel // 2
        peak(f"{block}.v", args[9])
        note(f"{block}.o", args[13])
        sums = np.abs(weights.blocks[block].dw.kernel.astype(np.int64)).sum(axis=0).max()
        peaks[f"{block}.dw"] = int(sums) * int(np.abs(args[0]).max()) if radius else 0

    def activated(acc: Any, bias: Any, shift: Any, table: Any, out: Any) -> None:
        block = (state["norms"] - 1) // 2
        peak(f"{block}.up", acc)
        note(f"{block}.down", out)

    def finished(acc: Any, *_: Any) -> None:
        peak("head", acc)

    wrap("features", lambda *args: note("embed", args[6]))
    wrap("start_stream", lambda acc, *_: peak("embed", acc))
    wrap("normalise", normalised)
    wrap("store_cache", stored)
    wrap("gate", gated)
    wrap("activate", activated)
    wrap("add_stream", lambda acc, bias, shift, stream: note("head", stream))
    wrap("finish_head", finished)
    tile = CpuModel(weights).tile(geometry, plane, levels)
    for a, b in pairwise(cuts):
        rows_seen.append({})
        state.update(adds=0, norms=0)
        tile.parameters(order[a:b])
    monkeypatch.undo()
    log = {k: in_raster_order(order, np.concatenate([r[k] for r in rows_seen]))[0] for k in rows_seen[0]}
    return log, peaks


@pytest.mark.parametrize("steps", [False, True], ids=["full-pass", "step-by-step"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_every_layer_equals_the_reference(name: str, steps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = WEIGHTS[name]
    plane = PLANES[weights.config.channels][-1]
    for levels in level_trials(weights.config.channels, 6, 7, (1 << plane.depth) - 1, 17):
        expected = reference_log(weights, levels, plane, monkeypatch)
        found, _ = cpu_log(weights, levels, plane, monkeypatch, steps)
        assert set(found) == set(expected)
        for layer, values in expected.items():
            assert np.array_equal(found[layer], values), layer


@pytest.mark.parametrize("name", ["random-rgb", "limit-bias", "tiny-gray"])
def test_the_caches_of_torch_equal_those_of_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = WEIGHTS[name]
    plane = PLANES[weights.config.channels][0]
    levels = next(level_trials(weights.config.channels, 6, 7, 255, 23))
    expected = reference_log(weights, levels, plane, monkeypatch)
    tile = TorchModel(weights, "cpu").tile(Geometry(6, 7, 6, 7), plane, levels)
    step_by_step(tile, tile.geometry)
    for i, cache in enumerate(tile.caches):
        assert np.array_equal(cache[:-1].numpy().astype(np.int64), expected[f"{i}.cache"])
        assert not cache[-1].any(), "the row that stands for pixels outside must stay zero"


# -- at the limit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shift", [0, 1, 30])
def test_accumulators_reach_the_bound_and_never_pass_it(
    bias: bool, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, plane = limit_weights(shift=shift, bias=bias), Plane(15, 8, 128)
    check_exact(weights)
    levels = np.zeros((1, 5, 6), np.int32)
    if shift < 30:
        _, peaks = cpu_log(weights, levels, plane, monkeypatch, False)
        for layer, value in peaks.items():
            if layer != "head":
                assert value < 1 << 24, layer
                assert value > 0.99 * (1 << 24), (layer, value)
        assert 1 << 49 < peaks["head"] < 1 << 53
    geometry = Geometry(5, 6, 5, 6)
    expected = ReferenceModel(weights).parameters(levels, geometry, plane)
    for model in (CpuModel(weights), TorchModel(weights, "cpu")):
        found = at_once(model.tile(geometry, plane, levels), geometry)
        assert np.array_equal(found[0], expected[0])


def test_layer_norm_over_its_whole_range() -> None:
    """Streams from constant to all-extreme, small and large epsilon, against plain integers."""
    rng = np.random.default_rng(5)
    for dim in (2, 16, 256):
        rows = [np.zeros(dim), np.full(dim, 32767), np.full(dim, -32767), np.arange(dim) % 2 * 65534 - 32767]
        rows += [rng.normal(0, 10.0**e, dim) for e in range(5)]
        rows += [np.eye(1, dim).ravel() * v for v in (1, -1, 32767, -32767)]
        stream = np.clip(np.rint(rows), -32767, 32767).astype(np.int32)
        for eps in (1 << 14, 123_456_789, (1 << 40) - 1):
            for table in (tables.rsqrt_table(dim), np.full(3072, (1 << 24) - 1, np.int32)):
                weights = random_weights(MGCFConfig(channels=1, dim=dim, depth=1, kernel=3, mixtures=1), 1)
                object.__setattr__(weights, "eps", eps)
                object.__setattr__(weights, "rsqrt", table)
                expected = ReferenceModel(weights).normalise(stream.astype(np.int64))
                out = np.empty(stream.shape, np.float32)
                kernels.normalise(stream, table, eps, dim.bit_length() - 1, out)
                assert np.array_equal(out, expected)
                tile = TorchModel(weights, "cpu").tile(
                    Geometry(1, 1, 1, 1), Plane(0, 8, 128), np.zeros((1, 1, 1), np.int32)
                )
                assert np.array_equal(tile._normalise(torch.from_numpy(stream).long()).numpy(), expected)
