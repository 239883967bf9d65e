"""Image samples <-> packed planes: value packing, plane groups, and the grid of tiles.

Packing is lossless and keeps *all* allocated bits: nothing is said to be unused that a file could hold. A
channel is either shifted to start at zero or, where its histogram has gaps that a model would pay for,
mapped to the ranks of its used values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.generic]
#: Sample types the codec takes, by their code in the codestream.
DTYPES: dict[int, np.dtype[np.generic]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.uint16),
    3: np.dtype(np.int16),
}
#: Channels that one image may have.
MAX_CHANNELS = 255
#: A map of used values must save this many times its own cost before it is taken.
MAP_MARGIN = 2.0


@dataclass(frozen=True)
class Packing:
    """How one channel's samples become levels ``low..high`` (inclusive).

    ``values`` None: level = sample - offset. Otherwise level = rank of the sample among the sorted
    ``values``.
    """

    offset: int
    low: int
    high: int
    values: NDArray[np.int32] | None = None

    @property
    def span(self) -> int:
        """Number of levels that the model's depth must cover (8-bit data keeps its absolute levels)."""
        return self.high + 1

    def pack(self, samples: Samples) -> NDArray[np.int32]:
        """Samples of any shape -> levels (int32)."""
        if self.values is None:
            return samples.astype(np.int32) - np.int32(self.offset)
        lowest = int(self.values[0])
        ranks = np.zeros(int(self.values[-1]) - lowest + 1, np.int32)
        ranks[self.values - lowest] = np.arange(self.values.size, dtype=np.int32)
        packed: NDArray[np.int32] = ranks[samples.astype(np.int32) - lowest]
        return packed

    def unpack(self, levels: NDArray[np.int32], dtype: np.dtype[np.generic]) -> Samples:
        """Levels -> samples of ``dtype``, exactly as they were."""
        if self.values is None:
            return (levels + np.int32(self.offset)).astype(dtype)
        return self.values[levels].astype(dtype)


@dataclass
class DecodedPlanes:
    """Planes of an image (H, W, C) as far as they were asked for: those numbered in ``done`` are decoded. ``canvas``: what
    ``samples`` is a window of, as planes that are guides were decoded beyond it."""

    samples: Samples
    done: set[int]
    canvas: Samples


def _histogram(samples: Samples) -> tuple[int, NDArray[np.int64]]:
    """(least sample, counts from there to the largest), read in pieces so that no int64 copy of the image
    appears."""
    least, largest = int(samples.min()), int(samples.max())
    counts = np.zeros(largest - least + 1, np.int64)
    rows = max(1, (1 << 22) // max(1, samples.shape[-1]))
    for start in range(0, samples.shape[0], rows):
        part = samples[start : start + rows].astype(np.int32).ravel() - least
        counts += np.bincount(part, minlength=counts.size)
    return least, counts


def choose_packing(samples: Samples) -> Packing:
    """Packing of one channel (h, w) of uint8, uint16 or int16 samples."""
    least, counts = _histogram(samples)
    used = np.flatnonzero(counts)
    eight_bit = samples.dtype == np.uint8
    offset = 0 if eight_bit else least  # 8-bit levels stay absolute: the models know what 0 and 255 mean
    plain = Packing(offset, least - offset, least - offset + counts.size - 1)
    if used.size in (1, counts.size):
        return plain
    # Bits that gaps would cost where noise spans several levels, against the map's own bits (gaps,
    # Golomb-like).
    gaps = np.diff(used)
    around = np.empty(used.size)
    around[1:-1] = (used[2:] - used[:-2]) / 2
    around[0], around[-1] = gaps[0], gaps[-1]
    saved = float((counts[used] * np.log2(around)).sum())
    map_bits = float((np.log2(gaps) + 2.0).sum())
    if saved < MAP_MARGIN * map_bits + 256:
        return plain
    return Packing(0, 0, used.size - 1, (used + least).astype(np.int32))


def plane_groups(channels: int, alone: bool = False) -> list[tuple[int, int]]:
    """(first channel, count) of planes coded jointly: the first three of three or more, all others alone.

    ``alone``: none jointly.
    """
    if channels >= 3 and not alone:
        return [(0, 3)] + [(c, 1) for c in range(3, channels)]
    return [(c, 1) for c in range(channels)]


@dataclass(frozen=True)
class TileGrid:
    """Rectangles that cover an image; tiles of one row (column) share their height (width)."""

    height: int
    width: int
    tile_height: int
    tile_width: int

    @staticmethod
    def balanced(height: int, width: int, limit: int) -> TileGrid:
        """Equal tiles no larger than ``limit`` a side, so that no sliver is left at the border."""
        down, across = -(-height // limit), -(-width // limit)
        return TileGrid(height, width, -(-height // down), -(-width // across))

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """(top, left, bottom, right) of every tile in raster order."""
        return [
            (top, left, min(self.height, top + self.tile_height), min(self.width, left + self.tile_width))
            for top in range(0, self.height, self.tile_height)
            for left in range(0, self.width, self.tile_width)
        ]
