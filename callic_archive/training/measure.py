"""Code length of crops under a float model and under its integers: the price of rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from callic_archive.codec.crops import Crops
from callic_archive.entropy.mixture import MixtureTables, ideal_bits
from callic_archive.model.integer import CpuModel, Geometry, Plane, scan_order
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.weights import IntegerWeights


def integer_bits(weights: IntegerWeights, x: torch.Tensor, stats: PlaneStats) -> float:
    """Code length in bits of crops (N, C, H, W) under the integer model and the integer CDF."""
    model, tables, total = CpuModel(weights), MixtureTables.build(), 0.0
    for i in range(x.shape[0]):
        levels = x[i].numpy().astype(np.int32)
        count, height, width = levels.shape
        plane = Plane(int(stats.shift[i]), int(stats.depth[i]), int(stats.mid[i]))
        geometry = Geometry(height, width, height, width)
        order, _ = scan_order(geometry)
        tile = model.tile(geometry, plane, levels)
        flat = levels.reshape(count, -1)
        for start in range(0, order.size, 4096):
            rows = order[start : start + 4096]
            head, skip = tile.parameters(rows)
            symbols = np.ascontiguousarray(flat[:, rows].T)
            bounds = [plane.shift] * count, [0] * count, [int(stats.top[i])] * count
            total += float(ideal_bits(head, skip, *bounds, tables, symbols).sum())
    return total


def float_bits(model: MGCF, x: torch.Tensor, stats: PlaneStats) -> float:
    """Code length in bits of the same crops under the float32 model."""
    total = 0.0
    with torch.no_grad():
        for i in range(x.shape[0]):
            total += float(model.bits(x[i : i + 1], stats.map(lambda v, i=i: v[i : i + 1])).double().sum())  # type: ignore[misc]
    return total


def bits_per_sample(crops: Mapping[str, Crops], model: MGCF | IntegerWeights) -> float:
    """Mean code length of all crops together, in bits a sample."""
    bits = samples = 0.0
    for x, stats in crops.values():
        bits += float_bits(model, x, stats) if isinstance(model, MGCF) else integer_bits(model, x, stats)
        samples += x.numel()
    return bits / max(1.0, samples)
