"""The int64 reference: exact inference written plainly, one whole map a layer, no floats, no speed.

It shares no code with the backends, so that a mistake cannot hide in both. Layers are functions of whole
maps (h, w, D).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from callic_archive.model.integer import Geometry, Plane
from callic_archive.model.weights import Depthwise, IntegerWeights, Linear

I64 = NDArray[np.int64]


def _round_shift(value: I64, shift: NDArray[np.int32] | int) -> I64:
    """floor(value / 2^shift + 1/2)."""
    step = np.int64(1) << np.asarray(shift, np.int64)
    rounded: I64 = (2 * value + step) // (2 * step)
    return rounded


def _linear(x: I64, layer: Linear) -> I64:
    return _round_shift(x @ layer.weight.astype(np.int64).T + layer.bias, layer.shift)


class ReferenceModel:
    """Exact inference of one model in int64."""

    def __init__(self, weights: IntegerWeights) -> None:
        self.weights = weights

    def parameters(
        self, levels: NDArray[np.int32], geometry: Geometry, plane: Plane
    ) -> tuple[NDArray[np.int32], I64]:
        """Head (h*w, outputs) and skip (h*w, C) of all pixels, in raster order. levels (C, h, w), and the guide behind them
        where there is one."""
        channels, (height, width) = self.weights.config.channels, levels.shape[1:]
        head = np.zeros((height, width, self.weights.config.outputs), np.int32)
        skip = np.zeros((height, width, channels), np.int64)
        for top in range(0, height, geometry.patch_height):
            for left in range(0, width, geometry.patch_width):
                box = (slice(top, top + geometry.patch_height), slice(left, left + geometry.patch_width))
                head[box], skip[box] = self.patch(levels[(slice(None), *box)].astype(np.int64), plane)
        return head.reshape(height * width, -1), skip.reshape(height * width, channels)

    def patch(self, x: I64, plane: Plane) -> tuple[I64, I64]:
        """Head (h, w, outputs) and skip (h, w, C) of one patch (C, h, w), or (C + 1, h, w) with a guide."""
        w = self.weights
        features, skip = self.features(x[: w.config.channels], plane)
        if plane.guide:
            self.guide(x[-1], skip[:, :, 0], plane, features[:, :, -10:])
        stream = np.clip(_linear(features, w.embed), -32767, 32767)
        for block in w.blocks:
            normal = self.normalise(stream)
            a = np.clip(_linear(normal, block.a), -511, 511)
            gate = self.table(block.swish, self.depthwise(a, block.dw))
            v = np.clip(_linear(normal, block.v), -511, 511)
            product = np.clip(_round_shift(gate * v, block.product_shift), -511, 511)
            stream = np.clip(stream + _linear(product, block.o), -32767, 32767)
            hidden = self.table(block.gelu, _linear(self.normalise(stream), block.up))
            stream = np.clip(stream + _linear(hidden, block.down), -32767, 32767)
        limit = (1 << 26) - 1
        return np.clip(_linear(stream, w.head), -limit, limit), skip

    def features(self, x: I64, plane: Plane) -> tuple[I64, I64]:
        """Embedding inputs (h, w, features) and skip (h, w, C), pixel by pixel."""
        channels, height, width = x.shape
        out = np.zeros((height, width, self.weights.config.features), np.int64)
        skip = np.zeros((height, width, channels), np.int64)
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    known = x[c]
                    if i == 0 and j == 0:
                        west = north = np.int64(plane.mid)
                    else:
                        west = known[i, j - 1] if j else known[i - 1, j]
                        north = known[i - 1, j] if i else west
                    taps = [
                        west,
                        north,
                        known[i - 1, j - 1] if i and j else north,
                        known[i - 1, j + 1] if i and j + 1 < width else north,
                        known[i, j - 2] if j >= 2 else west,
                        known[i - 2, j] if i >= 2 else north,
                    ]
                    weighted = sum(
                        int(k) * int(t - west) for k, t in zip(self.weights.skip[c], taps[1:], strict=True)
                    )
                    skip[i, j, c] = 256 * int(west) + (weighted + 32) // 64
                    for t in range(4):
                        step = 1 << (4 + plane.shift)
                        q = (2 * (256 * int(taps[t]) - int(skip[i, j, c])) + step) // (2 * step)
                        size = int(self.weights.compand[min(abs(q), len(self.weights.compand) - 1)])
                        out[i, j, t * channels + c] = -size if q < 0 else size
                    step = 1 << (plane.depth - 8)
                    level = (2 * 4 * int(west - plane.mid) + step) // (2 * step)
                    out[i, j, 4 * channels + c] = min(max(level, -512), 512)
        out[:, :, 5 * channels] = 4 * plane.shift
        return out, skip

    def guide(self, known: I64, skip: I64, plane: Plane, out: I64) -> None:
        """The last ten embedding inputs (h, w, 10), of a guide (h, w), pixel by pixel."""
        height, width = known.shape
        step = 1 << (4 + plane.shift)
        around = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
        for i in range(height):
            for j in range(width):
                here = int(known[i, j])
                inside = [0 <= i + di < height and 0 <= j + dj < width for di, dj in around]
                there = [int(known[i + di, j + dj]) if ok else here for (di, dj), ok in zip(around, inside, strict=True)]
                for t, difference in enumerate([*(256 * (value - here) for value in there), 256 * here - int(skip[i, j])]):
                    q = (2 * difference + step) // (2 * step)
                    size = int(self.weights.compand[min(abs(q), len(self.weights.compand) - 1)])
                    out[i, j, t] = -size if q < 0 else size
                out[i, j, 9] = 64 if plane.guide == 1 else -64

    def normalise(self, stream: I64) -> I64:
        """LayerNorm without gain and bias, 6 binary places, 10 bits."""
        size = stream.shape[-1]
        mean = (2 * 16 * stream.sum(axis=-1, keepdims=True) + size) // (2 * size)
        delta = 16 * stream - mean
        squares = (delta * delta).sum(axis=-1, keepdims=True) + self.weights.eps
        out = np.empty_like(stream)
        for index in np.ndindex(stream.shape[:-1]):
            v, k = int(squares[index][0]), 0
            while v >> k >= 4096:
                k += 2
            factor = int(self.weights.rsqrt[(v >> k) - 1024])
            step = 1 << (16 + k // 2)
            out[index] = np.clip((2 * delta[index] * factor + step) // (2 * step), -511, 511)
        return out

    def depthwise(self, a: I64, layer: Depthwise) -> I64:
        """Masked depth-wise convolution of one patch, zero outside; taps with 2 di + dj <= 0 in raster
        order."""
        height, width, _ = a.shape
        radius = self.weights.config.kernel // 2
        padded = np.pad(a, ((radius, radius), (radius, radius), (0, 0)))
        total = np.zeros_like(a)
        tap = 0
        for di in range(-radius, radius + 1):
            for dj in range(-radius, radius + 1):
                if 2 * di + dj > 0:
                    continue
                part = padded[radius + di : radius + di + height, radius + dj : radius + dj + width]
                total += part * layer.kernel[tap].astype(np.int64)
                tap += 1
        return _round_shift(total + layer.bias, layer.shift)

    def table(self, values: NDArray[np.int16], index: I64) -> I64:
        """Activation by table: 4096 entries, the middle one is zero."""
        return values.astype(np.int64)[np.clip(index, -2048, 2047) + 2048]
