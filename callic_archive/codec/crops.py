"""Training crops: their statistics as the encoder would choose them, turned and stacked to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from callic_archive.model.mgcf import PlaneStats
from callic_archive.model.scaling import depth_of, unit_shift

#: Packed levels of a plane group, (C, H, W).
Levels = NDArray[np.uint16]
#: (shift, depth, mid, top, guide) of a plane group, see ``PlaneStats``.
Statistics = tuple[int, int, int, int, int]
#: Crops of one held-out domain, with their statistics.
Crops = tuple[torch.Tensor, PlaneStats]


class BatchSource(Protocol):
    """Where training gets its crops."""

    def batch(self, count: int, size: int) -> Crops:
        """``count`` crops (N, C, size, size) float32 with statistics."""
        ...


def statistics(planes: Levels, levels: int) -> Statistics:
    """(shift, depth, mid, top, guide) as the encoder would choose them for these planes, without a guide."""
    depth = depth_of(levels)
    return unit_shift(planes), depth, 1 << (depth - 1), levels - 1, 0


def collate(crops: Sequence[Levels], stats: Sequence[Statistics]) -> Crops:
    """Stack crops (C, H, W) and their statistics to float32 tensors."""
    x = torch.from_numpy(np.stack(crops).astype(np.float32))
    columns = torch.tensor(stats, dtype=torch.float32)
    return x, PlaneStats(*columns.unbind(1))


def random_crop(planes: Levels, size: int, rng: np.random.Generator, *, turned: bool = True) -> Levels:
    """A random square of planes (C, H, W), ``turned`` to one of eight orientations; smaller planes are padded by
    reflection."""
    _, h, w = planes.shape
    pad_h, pad_w = max(0, size - h), max(0, size - w)
    if pad_h or pad_w:
        planes = np.pad(planes, ((0, 0), (0, pad_h), (0, pad_w)), mode="symmetric")
        _, h, w = planes.shape
    top, left = int(rng.integers(h - size + 1)), int(rng.integers(w - size + 1))
    crop = planes[:, top : top + size, left : left + size]
    turn = int(rng.integers(8)) if turned else 0
    if turn & 1:
        crop = crop[:, ::-1]
    if turn & 2:
        crop = crop[:, :, ::-1]
    if turn & 4:
        crop = crop.transpose(0, 2, 1)
    return np.ascontiguousarray(crop)
