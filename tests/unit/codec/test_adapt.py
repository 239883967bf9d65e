"""RPFT and adapters in codestreams: the schedule, that fitting pays, that what does not pay is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from callic_archive.codec.adapt import (
    AdaptOptions,
    collect,
    fit,
    fit_image,
    train_adapters,
)
from callic_archive.codec.adapt_schedule import patch_order, share
from callic_archive.codec.adapter_syntax import read_adapter, write_adapter
from callic_archive.codec.codestream import inspect, parse
from callic_archive.codec.decoder import decode_image
from callic_archive.codec.encoder import EncodeOptions, choose_adapter, encode_image
from callic_archive.codec.engine import Engine, mixture_tables
from callic_archive.codec.planning import check_image, estimate_bits, plan_group
from callic_archive.errors import MismatchedAdapter, UnknownModel
from callic_archive.images.planes import choose_packing
from callic_archive.model.adapter import AdapterShape, merge, merged
from pipelines.mint_conformance import random_adapter, scene, with_adapter
from tests.unit.model.builders import tiny_models

ENGINE = Engine("numpy", "cpu", 1)


def texture(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """A regular texture that the tiny models have never seen: what adaptation is for."""
    i, j = np.indices((side, side))
    values = (
        128 + 60 * np.sin(2.1 * i) * np.cos(1.3 * j) + np.random.default_rng(seed).normal(0, 2, (side, side))
    )
    found: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return found


# -- schedule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "exponent", "tail", "steps"), [(0.2, 1, 0.1, 50), (0.2, 0.3, 0.1, 30), (1, 1, 0, 7)]
)
def test_the_share_follows_the_formula(start: float, exponent: float, tail: float, steps: int) -> None:
    options = AdaptOptions(steps=steps, start_share=start, exponent=exponent, tail=tail)
    shares = [share(t, options) for t in range(steps + 1)]
    for t, found in enumerate(shares):
        x = min(max(t / (steps * (1 - tail)), 0.0), 1.0)
        assert math.isclose(found, start + (1 - start) * (x * x * (3 - 2 * x)) ** exponent, abs_tol=1e-12)
    assert shares == sorted(shares)
    assert math.isclose(shares[0], start)
    assert math.isclose(shares[-1], 1.0)


def test_the_share_is_half_way_in_the_middle_and_whole_in_the_tail() -> None:
    options = AdaptOptions(steps=100, start_share=0.2, exponent=1.0, tail=0.1)
    assert math.isclose(share(45, options), 0.6)
    assert share(90, options) == share(100, options) == 1.0
    assert share(1, AdaptOptions(steps=0)) == 1.0


def test_patches_are_taken_up_in_the_order_that_was_asked_for() -> None:
    falling = np.array([1, 3, 4, 0, 2])
    assert patch_order(falling, AdaptOptions()).tolist() == [1, 3, 4, 0, 2]
    assert patch_order(falling, AdaptOptions(order="ascending")).tolist() == [2, 0, 4, 3, 1]
    many = np.arange(100)
    shuffled = patch_order(many, AdaptOptions(order="random", seed=1)).tolist()
    assert sorted(shuffled) == list(range(100))
    assert shuffled not in (list(range(100)), list(range(99, -1, -1)))
    assert shuffled == patch_order(many, AdaptOptions(order="random", seed=1)).tolist()
    assert shuffled != patch_order(many, AdaptOptions(order="random", seed=2)).tolist()


def test_fitting_sees_the_first_patches_of_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = collect([texture(128)], tiny_models(), 64, 0)
    (patches, _), model = next(iter(found.values())), next(iter(tiny_models()))
    seen: list[list[int]] = []
    original = type(patches).tensors

    def tensors(self: Any, index: NDArray[np.int64], device: str) -> Any:
        seen.append(index.tolist())
        return original(self, index, device)

    monkeypatch.setattr(type(patches), "tensors", tensors)
    monkeypatch.setattr("callic_archive.codec.adapt._rates", lambda *_: np.array([2.0, 4.0, 1.0, 3.0]))
    for order, expected in (("descending", [1, 3, 0, 2]), ("ascending", [2, 0, 3, 1])):
        seen.clear()
        options = AdaptOptions(
            steps=10,
            patches=None,
            start_share=0.2,
            tail=0.1,
            shape=AdapterShape(1, 0, 0),
            threads=1,
            order=order,
        )
        fit(model, patches, 1e4, options)
        assert seen[0] == expected[:1]
        assert seen[-1] == expected
        assert all(step == expected[: len(step)] for step in seen)


def test_depthwise_kernels_can_be_left_alone() -> None:
    before, after, cost = fitted(128, 20, AdapterShape(2, 2, 0))
    assert after < before
    assert cost > 0


# -- the coded form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [AdapterShape(0, 0, 0), AdapterShape(1, 0, 2), AdapterShape(7, 7, 2)], ids=str
)
def test_adapters_come_back_as_they_were(shape: AdapterShape) -> None:
    for model in tiny_models():
        rng = np.random.default_rng(1)
        spreads = [0, 1, 5, 1023]
        values = {
            name: rng.integers(-spreads[n % 4], spreads[n % 4] + 1, size).astype(np.int32)
            for n, (name, size) in enumerate(shape.factors(model.weights.config).items())
        }
        adapter = write_adapter(model.digest, shape, values, mixture_tables(model))
        again = read_adapter(adapter.to_bytes(), tiny_models())
        assert (again.digest, again.model_digest, again.shape) == (adapter.digest, model.digest, shape)
        assert all(np.array_equal(again.differences[name], values[name]) for name in values)


def test_weights_left_alone_cost_a_byte_a_factor() -> None:
    model = next(iter(tiny_models()))
    shape = AdapterShape()
    factors = shape.factors(model.weights.config)
    zeros = {n: np.zeros(s, np.int32) for n, s in factors.items()}
    payload = write_adapter(model.digest, shape, zeros, mixture_tables(model)).payload
    assert len(payload) == 4 + 1 + 8 + 3 + len(factors) + 1 + 4


def test_adapters_are_found_by_any_key_and_must_fit() -> None:
    gray, rgb = tiny_models()
    image = scene(np.random.default_rng(2), 10, 11, 1, 255)[:, :, 0].astype(np.uint8)
    mine, other = (random_adapter(m, AdapterShape(1, 1, 1), 6, 5) for m in (gray, rgb))
    raw = with_adapter(image, tiny_models(), mine, inside=False)
    assert inspect(raw).adapter_digests == (mine.digest[:16],)
    found = decode_image(raw, models=tiny_models(), adapters={"any": other, "key": mine})
    assert np.array_equal(found, image)
    with pytest.raises(UnknownModel, match=mine.digest[:16]):
        decode_image(raw, models=tiny_models(), adapters={"any": other})
    foreign = with_adapter(image, tiny_models(), mine, inside=True)
    group = parse(foreign).groups[0]
    assert group.inside
    swapped = foreign.replace(mine.payload, mine.payload)
    assert np.array_equal(decode_image(swapped, models=tiny_models()), image)


def test_an_adapter_of_another_model_is_no_candidate() -> None:
    gray, rgb = tiny_models()
    image = check_image(texture(40))
    plan = plan_group(image, [0], [choose_packing(image[:, :, 0])], tiny_models())
    foreign = random_adapter(rgb, AdapterShape(1, 1, 1), 6, 5)
    assert choose_adapter(image, plan, [foreign], ENGINE) is None
    assert plan.model is gray
    assert MismatchedAdapter.code == "E304"


# -- fitting ------------------------------------------------------------------------------------------------


def fitted(side: int, steps: int, shape: AdapterShape) -> tuple[float, float, int]:
    """(bits before, bits after, bits of the adapter) for a texture."""
    found = collect([texture(side)], tiny_models(), 64, 0)
    (patches, plans), model = next(iter(found.values())), next(iter(tiny_models()))
    assert patches.levels.shape[1:] == (1, 64, 64)
    calls: list[tuple[int, int]] = []
    options = AdaptOptions(steps=steps, rate=1e-2, patches=4, shape=shape, seed=1, threads=1)
    adapter = fit(model, patches, float(side * side), options, lambda *done: calls.append(done))
    assert calls == [(n + 1, steps) for n in range(steps)]
    assert read_adapter(adapter.payload, tiny_models()).digest == adapter.digest
    image, plan = plans[0]
    before, after = (estimate_bits(image, plan, a, ENGINE) for a in (None, adapter))
    return before, after, 8 * len(adapter.payload)


def test_fitting_reduces_the_bits_of_the_pixels() -> None:
    before, after, cost = fitted(128, 20, AdapterShape(2, 2, 1))
    assert after < 0.995 * before
    assert cost > 0


def test_an_own_adapter_is_kept_only_where_it_pays() -> None:
    image = texture(192)
    plain = encode_image(image, models=tiny_models(), options=EncodeOptions(threads=1))
    own = encode_image(image, models=tiny_models(), options=EncodeOptions(adapt="image", steps=15, threads=1))
    group = parse(own).groups[0]
    assert group.inside
    assert inspect(own).adapter_bytes == len(group.adapter)
    assert len(own) < len(plain)
    assert np.array_equal(decode_image(own, models=tiny_models()), image)
    # One step on a single patch of noise cannot pay for itself, and below a patch nothing is fitted at all.
    for poor, steps in (
        (np.random.default_rng(1).integers(0, 256, (64, 64)).astype(np.uint8), 1),
        (texture(63), 3),
    ):
        options = EncodeOptions(adapt="image", steps=steps, threads=1)
        assert encode_image(poor, models=tiny_models(), options=options) == encode_image(
            poor, models=tiny_models()
        )


def test_an_own_adapter_lies_on_that_of_the_collection() -> None:
    options = AdaptOptions(steps=12, patches=4, shape=AdapterShape(2, 2, 1), threads=1)
    images = [texture(128, seed) for seed in range(2)]
    [shared] = train_adapters(images, models=tiny_models(), options=options, total_pixels=1e9)
    image = texture(192, 9)[:, ::-1].copy()

    def coded(**how: Any) -> bytes:
        return encode_image(
            image, models=tiny_models(), adapters=[shared], options=EncodeOptions(threads=1, **how)
        )

    raw = coded(adapt="image", steps=25)
    group = parse(raw).groups[0]
    assert group.inside
    assert group.under.hex() == shared.digest[:16]
    assert inspect(raw).adapter_digests == (shared.digest[:16],)
    assert inspect(raw).adapter_bytes == len(group.adapter)
    assert len(raw) < len(coded())
    assert np.array_equal(decode_image(raw, models=tiny_models(), adapters={"a": shared}), image)
    with pytest.raises(UnknownModel, match=shared.digest[:16]):
        decode_image(raw, models=tiny_models())


def test_what_is_merged_decides_the_name_of_prepared_weights() -> None:
    gray = next(iter(tiny_models()))
    first, second = (random_adapter(gray, AdapterShape(1, 1, 1), 6, seed) for seed in (5, 6))
    both = replace(second, under=first)
    assert both.digests == (first.digest, second.digest)
    assert both.digest == second.digest
    one, two = merged(gray.weights, second), merged(gray.weights, both)
    assert not np.array_equal(one.blocks[0].a.weight, two.blocks[0].a.weight)
    below = merged(gray.weights, first)
    again = merge(below, second.shape, second.differences)
    assert np.array_equal(two.blocks[0].a.weight, again.blocks[0].a.weight)


def test_an_adapter_that_breaks_a_bound_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from callic_archive.codec import adapt

    model = next(iter(tiny_models()))
    shape = AdapterShape(1, 0, 0)
    huge = {n: np.full(s, 1023, np.int32) for n, s in shape.factors(model.weights.config).items()}
    broken = write_adapter(model.digest, shape, huge, mixture_tables(model))
    monkeypatch.setattr(adapt, "fit", lambda *args, **kwargs: broken)
    image = check_image(texture(64))
    plan = plan_group(image, [0], [choose_packing(image[:, :, 0])], tiny_models())
    assert fit_image(image, plan, None, ENGINE, steps=1) is None
    assert train_adapters([texture(64)], models=tiny_models(), total_pixels=1e12) == ()
    assert choose_adapter(image, plan, [broken], ENGINE) is None


def test_a_shared_adapter_pays_over_many_pixels_only() -> None:
    options = AdaptOptions(steps=12, patches=4, shape=AdapterShape(2, 2, 1), threads=1)
    images = [texture(128, seed) for seed in range(2)]
    shared = train_adapters(images, models=tiny_models(), options=options, total_pixels=1e9)
    assert [a.model_digest for a in shared] == [next(iter(tiny_models())).digest]
    assert train_adapters([texture(64)], models=tiny_models(), options=options, total_pixels=10) == ()
    assert train_adapters([texture(40)], models=tiny_models(), options=options) == ()
    assert train_adapters([], models=tiny_models(), options=options) == ()
    another = texture(100, 7)
    raw = encode_image(another, models=tiny_models(), adapters=shared, options=EncodeOptions(threads=1))
    assert inspect(raw).adapter_digests == (shared[0].digest[:16],)
    assert len(raw) < len(encode_image(another, models=tiny_models(), options=EncodeOptions(threads=1)))
    assert np.array_equal(decode_image(raw, models=tiny_models(), adapters={"a": shared[0]}), another)


def test_fitting_leaves_the_model_and_gradients_alone() -> None:
    model = next(iter(tiny_models()))
    before = model.weights.blocks[0].a.weight.copy()
    fitted(64, 2, AdapterShape(1, 1, 1))
    assert np.array_equal(model.weights.blocks[0].a.weight, before)
    assert torch.is_grad_enabled()
