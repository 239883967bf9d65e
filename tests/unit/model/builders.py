"""Small models for tests: the conformance models, random integers, and one at the limit of every bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.model import tables
from callic_archive.model.config import COMPAND_KNEE, TAPS, MGCFConfig, causal_taps
from callic_archive.model.integer import Geometry, Plane, scan_order
from callic_archive.model.weights import (
    BlockWeights,
    Depthwise,
    IntegerWeights,
    Linear,
    ModelSet,
    feature_limits,
    load_model,
)

CONFORMANCE = Path(__file__).parents[2] / "conformance"
I32 = NDArray[np.int32]
GRAY = MGCFConfig(channels=1, dim=16, depth=1, kernel=3, mlp_ratio=4, mixtures=2)
RGB = MGCFConfig(channels=3, dim=32, depth=2, kernel=5, mlp_ratio=2, mixtures=3)


@lru_cache(maxsize=1)
def tiny_models() -> ModelSet:
    """The two models of the conformance vectors: ``tiny-gray`` and ``tiny-rgb``."""
    return ModelSet([load_model(CONFORMANCE / f"model-{name}.safetensors") for name in ("gray", "rgb")])


def random_weights(config: MGCFConfig, seed: int) -> IntegerWeights:
    """Random integers over their whole stored ranges, with shifts that often but not always saturate."""
    rng = np.random.default_rng(seed)

    def linear(out: int, inner: int, largest: int, shift: int) -> Linear:
        return Linear(
            rng.integers(-largest, largest + 1, (out, inner)).astype(np.int32),
            rng.integers(-(1 << 14), 1 << 14, out).astype(np.int32),
            rng.integers(max(0, shift - 2), shift + 3, out).astype(np.int32),
        )

    d, hidden = config.dim, config.hidden
    taps = len(causal_taps(config.kernel, include_group=True))
    blocks = []
    for _ in range(config.depth):
        kernel = linear(d, taps, 127, 7)
        blocks.append(
            BlockWeights(
                a=linear(d, d, 127, 6),
                v=linear(d, d, 127, 6),
                o=linear(d, d, 127, 4),
                dw=Depthwise(np.ascontiguousarray(kernel.weight.T), kernel.bias, kernel.shift),
                up=linear(hidden, d, 127, 5),
                down=linear(d, hidden, 127, 4),
                product_shift=int(rng.integers(0, 10)),
                swish=tables.activation_table("swish", 8, 6),
                gelu=tables.activation_table("gelu", 8, 6),
            )
        )
    return IntegerWeights(
        config,
        rng.integers(-9000, 9000, (config.channels, len(TAPS) - 1)).astype(np.int32),
        linear(d, config.features, 255, 4),
        tuple(blocks),
        linear(config.outputs, d, 8191, 16),
        tables.compand_table(COMPAND_KNEE),
        tables.rsqrt_table(d),
        1 << 14,
        6,
        {str(i): {"a": 5, "v": 5, "dw": 7, "up": 7} for i in range(config.depth)},
    )


def limit_weights(config: MGCFConfig = GRAY, *, shift: int = 0, bias: bool = False) -> IntegerWeights:
    """A model whose accumulators reach their bounds on zeros: inputs saturate with the weights' signs."""
    d, hidden = config.dim, config.hidden
    sign = np.where(np.arange(d) % 2 == 0, 1, -1).astype(np.int64)
    largest = (1 << 24) - 1

    def finish(weight: NDArray[np.int64], bound: int) -> Linear:
        out = weight.shape[0]
        room = (1 << 30) - 1 - bound if bias else 0
        signs = np.where(np.arange(out) % 2 == 0, 1, -1)
        return Linear(weight.astype(np.int32), (room * signs).astype(np.int32), np.full(out, shift, np.int32))

    def linear(out: int, signs: NDArray[np.int64]) -> Linear:
        each = largest // (tables.ACT_MAX * signs.size)
        rows = np.where(np.arange(out) % 2 == 0, 1, -1)[:, None]
        return finish(rows * signs[None, :] * each, each * tables.ACT_MAX * signs.size)

    limits = feature_limits(config)
    each = largest // int(limits.sum())
    feature_signs = np.ones(limits.size, np.int64)
    feature_signs[-1 - config.channels : -1] = -1  # the level of zeros is far below the middle
    embed = finish(sign[:, None] * feature_signs[None, :] * each, each * int(limits.sum()))
    taps = len(causal_taps(config.kernel, include_group=True))
    kernel = linear(d, np.ones(taps, np.int64))
    ones = np.ones(hidden, np.int64)
    full = np.full(2 * tables.ACT_HALF, tables.ACT_MAX, np.int16)
    block = BlockWeights(
        a=replace(linear(d, sign), weight=np.abs(linear(d, sign).weight) * sign[None, :].astype(np.int32)),
        v=linear(d, sign),
        o=linear(d, sign),
        dw=Depthwise(np.ascontiguousarray(kernel.weight.T), kernel.bias, kernel.shift),
        up=linear(hidden, sign),
        down=linear(d, ones),
        product_shift=0,
        swish=full,
        gelu=full,
    )
    head = Linear(
        ((2**31 - 1) * sign[None, :] * np.ones((config.outputs, 1), np.int64)).astype(np.int32),
        np.full(config.outputs, -(2**31) + 1, np.int32),
        np.full(config.outputs, min(30, shift + 20), np.int32),
    )
    return IntegerWeights(
        config,
        np.zeros((config.channels, len(TAPS) - 1), np.int32),
        embed,
        (block,) * config.depth,
        head,
        np.full(tables.COMPAND_SIZE, tables.COMPAND_MAX, np.int16),
        np.full(tables.RSQRT_HIGH - tables.RSQRT_LOW, (1 << 24) - 1, np.int32),
        (1 << 40) - 1,
        6,
        {str(i): {"a": 5, "v": 5, "dw": 7, "up": 7} for i in range(config.depth)},
    )


def step_by_step(tile: Any, geometry: Geometry) -> tuple[I32, NDArray[np.int64]]:
    """Head and skip of all pixels in raster order, computed group by group as a decoder does."""
    order, starts = scan_order(geometry)
    parts = [tile.parameters(order[a:b]) for a, b in pairwise(starts)]
    head, skip = in_raster_order(order, *(np.concatenate(p) for p in zip(*parts, strict=True)))
    return head, skip


def at_once(tile: Any, geometry: Geometry) -> tuple[I32, NDArray[np.int64]]:
    """Head and skip of all pixels in raster order, in one pass as an encoder may."""
    order, _ = scan_order(geometry)
    head, skip = in_raster_order(order, *tile.parameters(order))
    return head, skip


def in_raster_order(order: I32, *arrays: NDArray[Any]) -> Any:
    """Rows of the scan order put back into raster order."""
    found = [np.empty_like(a) for a in arrays]
    for target, source in zip(found, arrays, strict=True):
        target[order] = source
    return tuple(found)


def groups_of(geometry: Geometry) -> NDArray[np.int64]:
    """Group of every pixel (h, w)."""
    i, j = np.indices((geometry.height, geometry.width))
    found: NDArray[np.int64] = 2 * (i % geometry.patch_height) + j % geometry.patch_width
    return found


def level_trials(channels: int, height: int, width: int, top: int, seed: int) -> Iterator[I32]:
    """Noise, extremes, and a smooth picture, (C, h, w) in 0..top."""
    rng = np.random.default_rng(seed)
    yield rng.integers(0, top + 1, (channels, height, width)).astype(np.int32)
    yield (rng.integers(0, 2, (channels, height, width)) * top).astype(np.int32)
    i, j = np.indices((height, width)) / max(height, width)
    smooth = top * (0.5 + 0.2 * np.sin(7 * i) + 0.2 * np.cos(5 * j))
    yield np.clip(smooth + rng.normal(0, top / 100 + 1, (channels, height, width)), 0, top).astype(np.int32)


PLANES = {
    1: (Plane(0, 8, 128), Plane(9, 16, 1 << 15), Plane(15, 12, 2048)),
    3: (Plane(0, 8, 128), Plane(3, 13, 4096)),
}
