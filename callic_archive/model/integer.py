"""Exact inference on CPUs: mixture parameters of chosen pixels, as integers that are the same everywhere.

Cache then Crop Inference (CCI): the masked convolutions read cached maps, everything else acts on single
pixels. A pixel's parameters depend on earlier groups only, so *any* run of consecutive groups can be computed
layer by layer once the groups before it are done. The decoder steps group by group; the encoder, which knows
all pixels, takes thousands of pixels a step through the very same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.model import int16_product, kernels
from callic_archive.model.config import GUIDE_FEATURES, causal_taps
from callic_archive.model.weights import IntegerWeights, Linear

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
#: Uses of a guide.
NO_GUIDE, LIKENESS, SUBTRACTED = 0, 1, 2
#: How the network is told of each.
GUIDE_SIGN = (0, 1, -1)


@dataclass(frozen=True)
class Geometry:
    """One tile: its size and the size of its patches, which are coded independently but advance together."""

    height: int
    width: int
    patch_height: int
    patch_width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.patch_height, self.patch_width) < 1:
            raise ValueError(f"sizes must be positive: {self}")


@lru_cache(maxsize=16)
def scan_order(geometry: Geometry) -> tuple[I32, I64]:
    """(order, starts): flat pixel indices sorted by (group, patch, row), and where each group begins.

    order (h*w,), starts (groups + 1,). Inside a patch ``group(i, j) = 2 i + j``; patches count in raster
    order.
    """
    i, j = np.divmod(np.arange(geometry.height * geometry.width, dtype=np.int64), geometry.width)
    group = 2 * (i % geometry.patch_height) + j % geometry.patch_width
    across = -(-geometry.width // geometry.patch_width)
    patch = (i // geometry.patch_height) * across + j // geometry.patch_width
    order = np.lexsort((i, patch, group)).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))]).astype(np.int64)
    return order, starts


@dataclass(frozen=True)
class Plane:
    """What the codestream header says of a plane group: unit shift, depth in bits (at least 8), stand-in
    level. ``guide``: what the guide is that stands behind the levels of the planes: NO_GUIDE where there is none, LIKENESS of
    the plane that is coded, or SUBTRACTED from it."""

    shift: int
    depth: int
    mid: int
    guide: int = NO_GUIDE


class _Matrix:
    """A linear layer ready for BLAS: weight (in, out) as float32 or float64 that hold integers."""

    def __init__(self, layer: Linear, dtype: type[np.floating] = np.float32) -> None:
        self.weight: NDArray[Any] = np.ascontiguousarray(layer.weight.T.astype(dtype))
        self.bias = np.ascontiguousarray(layer.bias)
        self.shift = np.ascontiguousarray(layer.shift)

    def times(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        """out (M, outputs) = x (M, inputs) @ weight."""
        np.matmul(x, self.weight, out=out)


class _ShortMatrix(_Matrix):
    """A linear layer for products of int16, which give int32."""

    def __init__(self, layer: Linear) -> None:
        super().__init__(layer)
        self.weight = int16_product.pack(layer.weight.T)

    def times(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        """out (M, outputs) = x (M, inputs) @ weight; M a multiple of ``int16_product.ROWS``."""
        int16_product.multiply(x, self.weight, out)


class CpuModel:
    """Weights laid out for the CPU backend; shared by all tiles that use the same model and adapter."""

    def __init__(self, weights: IntegerWeights, *, short: bool | None = None) -> None:
        """``short``: products of int16 instead of float32, the same integers sooner; None where they can be."""
        config = weights.config
        if config.dim & (config.dim - 1):
            raise ValueError("exact inference needs a power-of-two dim")
        self.weights = weights
        self.config = config
        self.fine = config.dim.bit_length() - 1
        self.taps = np.array(causal_taps(config.kernel, include_group=True), np.int64)
        self.embed = _Matrix(weights.embed)
        self.head = _Matrix(weights.head, np.float64)
        layers = [{p: getattr(b, p) for p in ("a", "v", "o", "up", "down")} for b in weights.blocks]
        if short is None:
            short = all(int16_product.fits(layer.weight.T) for block in layers for layer in block.values())
        self.short = short
        kind = _ShortMatrix if short else _Matrix
        self.blocks = [{name: kind(layer) for name, layer in block.items()} for block in layers]
        self.depthwise = [
            (np.ascontiguousarray(b.dw.kernel.astype(np.int16)), b.dw.bias, b.dw.shift)
            for b in weights.blocks
        ]

    def tile(self, geometry: Geometry, plane: Plane, levels: I32) -> CpuTile:
        """Begin a tile. ``levels`` (C, h, w) int32 is read in place: the decoder fills it in as it goes. Behind them stands the
        guide where there is one, (C + 1, h, w): levels from 0 to 65535, all known."""
        return CpuTile(self, geometry, plane, levels)


class CpuTile:
    """Activation caches of one tile."""

    def __init__(self, model: CpuModel, geometry: Geometry, plane: Plane, levels: I32) -> None:
        if plane.guide and not model.config.guides:
            raise ValueError("the model takes no guide")
        count = model.config.channels + bool(plane.guide)
        if levels.shape != (count, geometry.height, geometry.width) or levels.dtype != np.int32:
            raise ValueError(f"levels are {levels.dtype} {levels.shape}, the tile needs int32 {geometry}")
        self.model, self.levels, self.guide = model, levels, GUIDE_SIGN[plane.guide]
        self.size = np.array([geometry.height, geometry.width], np.int64)
        self.grid = np.array([geometry.patch_height, geometry.patch_width], np.int64)
        self.plane = np.array([plane.shift, plane.depth, plane.mid], np.int64)
        pixels = geometry.height * geometry.width
        self.caches = [np.zeros((pixels, model.config.dim), np.int16) for _ in model.blocks]

    def parameters(self, rows: I32) -> tuple[I32, I64]:
        """Head (M, outputs) int32 and skip (M, C) int64 of the pixels ``rows`` (flat indices, a run of the
        scan order).

        All groups before them must have been computed by earlier calls, with their levels in place.
        """
        model, weights, config = self.model, self.model.weights, self.model.config
        m = rows.shape[0]
        inputs = np.zeros((m, config.features), np.float32)
        skip = np.empty((m, config.channels), np.int64)
        kernels.features(
            self.levels[: config.channels], rows, self.grid, self.plane, weights.skip, weights.compand, inputs, skip
        )
        if self.guide:
            kernels.guide_features(
                self.levels[-1], rows, self.size, self.grid, self.plane, self.guide, weights.compand, skip,
                inputs[:, -GUIDE_FEATURES:],
            )  # fmt: skip
        stream = np.empty((m, config.dim), np.int32)
        start = inputs @ model.embed.weight
        kernels.start_stream(start, model.embed.bias, model.embed.shift, stream)
        # Inputs and results of products: their last rows may be there for the vectors' sake alone.
        narrow, sums = (np.int16, np.int32) if model.short else (np.float32, np.float32)
        full = -(-m // int16_product.ROWS) * int16_product.ROWS if model.short else m
        normals, accs = np.empty((full, config.dim), narrow), np.empty((full, config.dim), sums)
        wides, wide_accs = np.empty((full, config.hidden), narrow), np.empty((full, config.hidden), sums)
        normal, acc, wide, wide_acc = normals[:m], accs[:m], wides[:m], wide_accs[:m]
        for block, layers, (kernel, bias, shift), cache in zip(
            weights.blocks, model.blocks, model.depthwise, self.caches, strict=True
        ):
            a, v, o, up, down = (layers[p] for p in ("a", "v", "o", "up", "down"))
            kernels.normalise(stream, weights.rsqrt, weights.eps, model.fine, normal)
            a.times(normals, accs)
            kernels.store_cache(acc, a.bias, a.shift, rows, cache)
            v.times(normals, accs)
            kernels.gate(
                cache, rows, self.size, self.grid, model.taps, kernel, bias, shift, block.swish,
                acc, v.bias, v.shift, block.product_shift, normal,
            )  # fmt: skip
            o.times(normals, accs)
            kernels.add_stream(acc, o.bias, o.shift, stream)
            kernels.normalise(stream, weights.rsqrt, weights.eps, model.fine, normal)
            up.times(normals, wide_accs)
            kernels.activate(wide_acc, up.bias, up.shift, block.gelu, wide)
            down.times(wides, accs)
            kernels.add_stream(acc, down.bias, down.shift, stream)
        head = np.empty((m, config.outputs), np.int32)
        kernels.finish_head(
            stream.astype(np.float64) @ model.head.weight, model.head.bias, model.head.shift, head
        )
        return head, skip
