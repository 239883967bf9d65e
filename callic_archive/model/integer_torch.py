"""Exact inference through torch, on any of its devices: the same integers as ``integer.py``, tested against
it.

Matrix products and convolutions run in float32 on integers whose sums stay below 2^24 (proven at load), the
head in float64 below 2^53; TF32 and reduced-precision accumulation are off. Everything else is int32 or
int64 arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callic_archive.model import tables
from callic_archive.model.config import GUIDE_FEATURES, GUIDE_TAPS, causal_taps
from callic_archive.model.integer import GUIDE_SIGN, Geometry, Plane
from callic_archive.model.kernels import HEAD_MAX
from callic_archive.model.weights import Depthwise, IntegerWeights, Linear

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


def _exact_settings() -> None:
    """Switch off every mode in which a float32 product may round its inputs or sums."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


class _Layer:
    """A linear or depth-wise layer on a device."""

    def __init__(self, layer: Linear | Depthwise, dtype: torch.dtype, device: str) -> None:
        weight = layer.weight.T if isinstance(layer, Linear) else layer.kernel
        self.weight = torch.from_numpy(np.ascontiguousarray(weight)).to(device, dtype)
        self.bias = torch.from_numpy(layer.bias.astype(np.int64)).to(device)
        self.shift = torch.from_numpy(layer.shift.astype(np.int64)).to(device)
        self.half = (torch.ones_like(self.shift) << self.shift) >> 1

    def requantise(self, acc: Tensor) -> Tensor:
        """int64 (M, D): (acc + bias) / 2^shift, rounded."""
        return (acc.to(torch.int64) + self.bias + self.half) >> self.shift


class TorchModel:
    """Weights laid out for the torch backend."""

    def __init__(self, weights: IntegerWeights, device: str) -> None:
        _exact_settings()
        self.weights, self.config, self.device = weights, weights.config, device
        self.taps = causal_taps(weights.config.kernel, include_group=True)
        self.embed = _Layer(weights.embed, torch.float32, device)
        self.head = _Layer(weights.head, torch.float64, device)
        self.blocks = [
            {p: _Layer(getattr(b, p), torch.float32, device) for p in ("a", "v", "o", "dw", "up", "down")}
            for b in weights.blocks
        ]
        self.swish = [self._table(b.swish) for b in weights.blocks]
        self.gelu = [self._table(b.gelu) for b in weights.blocks]
        self.compand, self.rsqrt = self._table(weights.compand), self._table(weights.rsqrt)
        self.skip = self._table(weights.skip)
        self.fine = weights.config.dim.bit_length() - 1

    def _table(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.device)

    def tile(self, geometry: Geometry, plane: Plane, levels: I32) -> TorchTile:
        """Begin a tile; ``levels`` (C, h, w) int32 is read in place."""
        return TorchTile(self, geometry, plane, levels)


class TorchTile:
    """Activation caches of one tile on a device. The last row of each cache stands for pixels outside the
    patch."""

    def __init__(self, model: TorchModel, geometry: Geometry, plane: Plane, levels: I32) -> None:
        self.model, self.geometry, self.plane, self.levels = model, geometry, plane, levels
        pixels = geometry.height * geometry.width
        self.caches = [
            torch.zeros((pixels + 1, model.config.dim), dtype=torch.float32, device=model.device)
            for _ in model.blocks
        ]

    def parameters(self, rows: I32) -> tuple[I32, I64]:
        """Head (M, outputs) int32 and skip (M, C) int64 of a run of the scan order."""
        with torch.inference_mode():
            index = torch.from_numpy(rows.astype(np.int64)).to(self.model.device)
            head, skip = self._compute(index)
            return head.to(torch.int32).cpu().numpy(), skip.cpu().numpy()

    def _compute(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        features, skip = self._features(rows)
        bound = tables.STREAM_MAX
        stream = model.embed.requantise(features @ model.embed.weight).clamp(-bound, bound)
        neighbours = self._neighbours(rows)
        for i, layers in enumerate(model.blocks):
            normal = self._normalise(stream)
            a = layers["a"].requantise(normal @ layers["a"].weight).clamp(-tables.ACT_MAX, tables.ACT_MAX)
            self.caches[i][rows] = a.to(torch.float32)
            sums = torch.zeros_like(normal)
            for t in range(len(model.taps)):
                sums += self.caches[i][neighbours[t]] * layers["dw"].weight[t]
            gate = self._lookup(model.swish[i], layers["dw"].requantise(sums))
            v = layers["v"].requantise(normal @ layers["v"].weight).clamp(-tables.ACT_MAX, tables.ACT_MAX)
            shift = model.weights.blocks[i].product_shift
            product = ((gate * v + ((1 << shift) >> 1)) >> shift).clamp(-tables.ACT_MAX, tables.ACT_MAX)
            o = layers["o"].requantise(product.to(torch.float32) @ layers["o"].weight)
            stream = (stream + o).clamp(-bound, bound)
            hidden = layers["up"].requantise(self._normalise(stream) @ layers["up"].weight)
            active = self._lookup(model.gelu[i], hidden).to(torch.float32)
            stream = (stream + layers["down"].requantise(active @ layers["down"].weight)).clamp(-bound, bound)
        head = model.head.requantise(stream.to(torch.float64) @ model.head.weight)
        return head.clamp(-HEAD_MAX, HEAD_MAX), skip

    def _lookup(self, table: Tensor, index: Tensor) -> Tensor:
        return table[index.clamp(-tables.ACT_HALF, tables.ACT_HALF - 1) + tables.ACT_HALF]

    def _normalise(self, stream: Tensor) -> Tensor:
        """float32 holding the 10-bit integers of ``kernels.normalise``."""
        model = self.model
        mean = (16 * stream.sum(dim=1, keepdim=True) + (1 << (model.fine - 1))) >> model.fine
        delta = 16 * stream - mean
        v = (delta * delta).sum(dim=1, keepdim=True) + model.weights.eps
        # v < 2^53 converts to float64 exactly, so frexp gives its bit length: shift to 11 or 12 bits, by an
        # even amount.
        bits = torch.frexp(v.to(torch.float64))[1].to(torch.int64)
        k = ((bits - 11).clamp_min(0) >> 1) << 1
        factor = model.rsqrt[(v >> k) - tables.RSQRT_LOW]
        shift = tables.RSQRT_BITS + (k >> 1)
        value = (delta * factor + (torch.ones_like(shift) << (shift - 1))) >> shift
        return value.clamp(-tables.ACT_MAX, tables.ACT_MAX).to(torch.float32)

    def _position(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(row, column, top, left, bottom, right) of each pixel and its patch."""
        g = self.geometry
        i, j = rows // g.width, rows % g.width
        top, left = (i // g.patch_height) * g.patch_height, (j // g.patch_width) * g.patch_width
        return (
            i,
            j,
            top,
            left,
            (top + g.patch_height).clamp_max(g.height),
            (left + g.patch_width).clamp_max(g.width),
        )

    def _neighbours(self, rows: Tensor) -> Tensor:
        """(taps, M) cache rows of the depth-wise taps; the last cache row where a tap leaves the patch."""
        i, j, top, left, bottom, right = self._position(rows)
        outside = self.geometry.height * self.geometry.width
        found = []
        for di, dj in self.model.taps:
            si, sj = i + di, j + dj
            inside = (si >= top) & (si < bottom) & (sj >= left) & (sj < right)
            found.append(torch.where(inside, si * self.geometry.width + sj, outside))
        return torch.stack(found)

    def _features(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding inputs (M, features) float32 and skip (M, C) int64, as ``kernels.features``."""
        model, width, plane = self.model, self.geometry.width, self.plane
        i, j, top, left, _, right = self._position(rows)
        channels = model.config.channels
        flat = torch.from_numpy(self.levels[:channels].reshape(channels, -1)).to(model.device, torch.int64)  # (C, h*w)

        def at(di: int, dj: int, valid: Tensor, otherwise: Tensor | int) -> Tensor:
            index = torch.where(valid, (i + di) * width + j + dj, 0)
            return torch.where(valid, flat[:, index], otherwise)

        has_n, has_w = i > top, j > left
        north = at(-1, 0, has_n, 0)
        west = at(0, -1, has_w, torch.where(has_n, north, plane.mid))
        north = torch.where(has_n, north, west)
        taps = torch.stack(
            [
                west,
                north,
                at(-1, -1, has_n & has_w, north),
                at(-1, 1, has_n & (j + 1 < right), north),
                at(0, -2, j - 2 >= left, west),
                at(-2, 0, i - 2 >= top, north),
            ]
        )  # (6, C, M)
        total = (model.skip.t()[:, :, None] * (taps[1:] - west)).sum(dim=0)
        skip = 256 * west + ((total + 32) >> 6)
        shift = 8 - tables.COMPAND_IN + plane.shift
        q = (256 * taps[:4] - skip + (1 << (shift - 1))) >> shift
        residual = model.compand[q.abs().clamp_max(tables.COMPAND_SIZE - 1)] * q.sign()
        drop = plane.depth - 8
        level = ((4 * (west - plane.mid) + ((1 << drop) >> 1)) >> drop).clamp(-512, 512)
        unit = torch.full_like(level[:1], 4 * plane.shift)
        features = torch.cat([residual.reshape(4 * channels, -1), level, unit])
        if model.config.guides:
            features = torch.cat([features, self._guide_features(rows, skip[0])])
        features = features.t()
        return features.to(torch.float32).contiguous(), skip.t().contiguous()

    def _guide_features(self, rows: Tensor, skip: Tensor) -> Tensor:
        """(GUIDE_FEATURES, M) as ``kernels.guide_features``, zeros where there is no guide; skip (M,)."""
        model, width, sign = self.model, self.geometry.width, GUIDE_SIGN[self.plane.guide]
        if not sign:
            return torch.zeros((GUIDE_FEATURES, rows.shape[0]), dtype=torch.int64, device=model.device)
        i, j, top, left, bottom, right = self._position(rows)
        guide = torch.from_numpy(self.levels[-1].reshape(-1)).to(model.device, torch.int64)
        here = guide[rows]
        differences = []
        for di, dj in GUIDE_TAPS:
            si, sj = i + di, j + dj
            inside = (si >= top) & (si < bottom) & (sj >= left) & (sj < right)
            differences.append(256 * (guide[torch.where(inside, si * width + sj, rows)] - here))
        shift = 8 - tables.COMPAND_IN + self.plane.shift
        q = (torch.stack([*differences, 256 * here - skip]) + (1 << (shift - 1))) >> shift
        found = model.compand[q.abs().clamp_max(tables.COMPAND_SIZE - 1)] * q.sign()
        return torch.cat([found, torch.full_like(found[:1], tables.GUIDED * sign)])
