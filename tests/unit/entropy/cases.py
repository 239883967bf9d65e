"""Inputs for the entropy tests: fixed, realistic and adversarial coding calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from callic_archive.entropy.mixture import HeadLayout, MixtureTables
from callic_archive.entropy.range_coder import RangeDecoder, RangeEncoder
from tests.unit.entropy import reference

TABLES = MixtureTables.build()
PLAIN_TABLES = reference.Tables(*(table.tolist() for table in TABLES.as_dict().values()))
INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Case:
    """Arguments of one call of encode_pixels."""

    head: npt.NDArray[np.int32]
    skip: npt.NDArray[np.int64]
    shift: list[int]
    lo: list[int]
    hi: list[int]
    symbols: npt.NDArray[np.int32]

    @property
    def context(self) -> tuple[Any, ...]:
        """What the decoder knows as well."""
        return self.head, self.skip, self.shift, self.lo, self.hi

    def part(self, rows: slice) -> Case:
        return Case(self.head[rows], self.skip[rows], self.shift, self.lo, self.hi, self.symbols[rows])

    def encode(self) -> bytes:
        encoder = RangeEncoder()
        encoder.encode_pixels(*self.context, TABLES, self.symbols)
        return encoder.finish()

    def decode(self, data: bytes) -> npt.NDArray[np.int32]:
        decoder = RangeDecoder(data)
        symbols = decoder.decode_pixels(*self.context, TABLES)
        decoder.finish()
        return symbols

    def plain(self) -> tuple[list[list[int]], list[list[int]], list[int], list[int], list[int]]:
        """The context as lists of int, for the reference."""
        return self.head.tolist(), self.skip.tolist(), self.shift, self.lo, self.hi


def fixed(n: int, components: int, shift: Sequence[int], lo: Sequence[int], hi: Sequence[int]) -> Case:
    """A plausible case made of :func:`reference.lcg` alone, so that golden bytes outlive every library."""
    channels = len(lo)
    layout = HeadLayout(channels, components)
    numbers = reference.lcg(20240917)
    head = np.zeros((n, layout.width), np.int32)
    skip = np.zeros((n, channels), np.int64)
    symbols = np.zeros((n, channels), np.int32)
    for i in range(n):
        for c in range(channels):
            span = hi[c] - lo[c] + 1
            symbols[i, c] = lo[c] + next(numbers) % span
            skip[i, c] = (
                256 * int(symbols[i, c]) + next(numbers) % (64 << 8 + shift[c]) - (32 << 8 + shift[c])
            )
        for column in range(layout.width):
            number = next(numbers)
            if column < layout.logits.stop:
                head[i, column] = number % 800 - 400
            elif column < layout.means.stop:
                head[i, column] = number % 4096 - 2048
            elif column < layout.scales.stop:
                head[i, column] = number % 160 + 40
            else:
                head[i, column] = number % 512 - 128
    return Case(head, skip, list(shift), list(lo), list(hi), symbols)


def realistic(n: int, channels: int, components: int, bits: int, seed: int) -> Case:
    """Symbols drawn from the mixtures that the head rows describe, about 4 bits each at 8 bits."""
    rng = np.random.default_rng(seed)
    layout = HeadLayout(channels, components)
    k_count, top, unit = components, (1 << bits) - 1, 2.0 ** max(0, bits - 8)
    scale = np.exp2(rng.normal(1.2, 0.9, (n, 1)))  # in units
    head = np.zeros((n, layout.width), np.int32)
    head[:, layout.logits] = rng.normal(0, 150, (n, k_count))
    head[:, layout.means] = np.round(rng.normal(0, 1, (n, channels * k_count)) * scale * 256)
    head[:, layout.scales] = np.round(32 * np.log2(scale) + rng.normal(0, 16, (n, channels * k_count)))
    head[:, layout.coefficients] = np.round(rng.normal(0.8, 0.1, (n, layout.pairs * k_count)) * 256)
    skip = np.round(rng.uniform(0.1 * top, 0.9 * top, (n, channels)) * 256).astype(np.int64)
    weights = np.exp(head[:, layout.logits] / 128.0)
    chosen = (np.cumsum(weights, 1) < rng.random((n, 1)) * weights.sum(1, keepdims=True)).sum(1)
    rows = np.arange(n)
    symbols = np.zeros((n, channels), np.int32)
    means = np.zeros((n, channels))
    for c in range(channels):
        means[:, c] = skip[:, c] / 256 + head[rows, k_count * (1 + c) + chosen] * unit / 256
        for j in range(c):
            column = layout.coefficients.start + (c * (c - 1) // 2 + j) * k_count
            means[:, c] += head[rows, column + chosen] / 256 * (symbols[:, j] - means[:, j])
        width = np.exp2(head[rows, k_count * (1 + channels + c) + chosen] / 32) * unit
        u = rng.uniform(1e-9, 1 - 1e-9, n)
        symbols[:, c] = np.clip(np.round(means[:, c] + width * np.log(u / (1 - u))), 0, top)
    shift = [max(0, bits - 8)] * channels
    return Case(head, skip, shift, [0] * channels, [top] * channels, symbols)


def adversarial(
    rng: np.random.Generator, n: int, channels: int, components: int, ranges: Sequence[tuple[int, int]]
) -> Case:
    """Head rows and skips of extremes, anything and small numbers, mixed; symbols anywhere in range."""
    layout = HeadLayout(channels, components)

    def mixed(shape: tuple[int, int], least: int, most: int) -> npt.NDArray[np.int64]:
        kinds = rng.integers(0, 4, shape)
        extreme = rng.choice(np.array([least, least + 1, -1, 0, 1, most - 1, most]), shape)
        anything = rng.integers(least, most, shape, endpoint=True)
        small = rng.integers(-500, 500, shape)
        near = rng.integers(-70000, 70000, shape)
        return np.choose(kinds, [extreme, anything, small, near]).astype(np.int64)

    lo = [r[0] for r in ranges]
    hi = [r[1] for r in ranges]
    symbols = rng.integers(lo, hi, (n, channels), endpoint=True)
    ends = rng.integers(0, 4, (n, channels))
    symbols = np.where(ends == 0, lo, np.where(ends == 1, hi, symbols)).astype(np.int32)
    int64 = np.iinfo(np.int64)
    return Case(
        mixed((n, layout.width), INT32.min, INT32.max).astype(np.int32),
        mixed((n, channels), int64.min, int64.max),
        [int(v) for v in rng.integers(0, 17, channels)],
        lo,
        hi,
        symbols,
    )
