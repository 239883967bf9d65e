"""Integer mixture parameters and the tables that turn them into a CDF.

A *head row* is the network's output for one pixel of ``C`` channels: ``K`` components, ``P = C(C-1)/2``
pairs::

    [K logits | C*K means | C*K log-scales | P*K coefficients]

    logits        1/128 nat
    means         1/256 unit, offset from the linear skip prediction; a unit is 2^shift levels
    log-scales    1/32 octave relative to the unit: scale = 2^(index / 32) units, clipped to -256 .. 383
    coefficients  1/256, clipped to +-1023; pair order (1,0), (2,0), (2,1), (3,0), ...

Source: discretised logistic mixture with joint channels of PixelCNN++ (Salimans et al. 2017), conditioned on
the earlier channels' residuals instead of their values; integer form: ``docs/format/entropy.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from callic_archive.entropy import kernels
from callic_archive.entropy.kernels import I32, I64
from callic_archive.errors import EntropyInputError, EntropyTableError

MAX_CHANNELS = 4
MAX_COMPONENTS = 32
MAX_SHIFT = 16
MAX_LEVELS = 1 << 16
VALUE_LIMIT = 1 << 17  # -VALUE_LIMIT <= lo <= hi < VALUE_LIMIT
EXP_LENGTH = 1536  # exp(-1508.5 / 128) * 2^16 rounds to zero
SIGMOID_STEPS = 2 * 20 * 32


@dataclass(frozen=True)
class HeadLayout:
    """Which columns of a head row mean what, for ``channels`` C in 1..4 and ``components`` K in 1..32."""

    channels: int
    components: int

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MAX_CHANNELS or not 1 <= self.components <= MAX_COMPONENTS:
            raise EntropyInputError(
                f"A mixture head has 1 to {MAX_CHANNELS} channels and 1 to {MAX_COMPONENTS} components, "
                f"not {self.channels} and {self.components}."
            )

    @property
    def pairs(self) -> int:
        """P, the number of (channel, earlier channel) pairs."""
        return self.channels * (self.channels - 1) // 2

    @property
    def width(self) -> int:
        """n_out, the length of a head row: 50 for RGB with five components, 15 for gray."""
        return self.components * (1 + 2 * self.channels + self.pairs)

    @property
    def logits(self) -> slice:
        """Columns of the K logits."""
        return slice(0, self.components)

    @property
    def means(self) -> slice:
        """Columns of the C*K means, channel-major."""
        return slice(self.components, self.components * (1 + self.channels))

    @property
    def scales(self) -> slice:
        """Columns of the C*K log-scale indices, channel-major."""
        return slice(self.components * (1 + self.channels), self.components * (1 + 2 * self.channels))

    @property
    def coefficients(self) -> slice:
        """Columns of the P*K coefficients, pair-major."""
        return slice(self.components * (1 + 2 * self.channels), self.width)

    @staticmethod
    def from_width(width: int, channels: int) -> HeadLayout:
        """The layout of rows of ``width`` for ``channels``; raises EntropyInputError when there is none."""
        parts = 1 + 2 * channels + channels * (channels - 1) // 2
        if channels < 1 or width % parts != 0:
            raise EntropyInputError(f"A head row of {width} values does not suit {channels} channels.")
        return HeadLayout(channels, width // parts)


@dataclass(frozen=True, eq=False)
class MixtureTables:
    """The three tables that the CDF rests on. A decoder takes them from the model file.

    exp           (L,)    int32, exp[d] = 2^16 exp(-d / 128), not increasing, exp[0] = 2^16, exp[L-1] = 0
    inv_mantissa  (32,)   int32, inv[f] = 2^16 2^(-f / 32), strictly decreasing from 2^16, all above 2^15
    sigmoid       (1282,) int32, sigmoid[i] = 2^28 / (1 + exp(-(i - 640) / 32)), not decreasing, 0 at i = 0,
    2^28                       at i = 1280 and again at 1281
    """

    exp: I32
    inv_mantissa: I32
    sigmoid: I32
    quantile: I32 = field(init=False, repr=False)
    """(1024,) the decoder's first guess, found by searching ``sigmoid``: t in 1/32 for each probability."""

    def __post_init__(self) -> None:
        for name in ("exp", "inv_mantissa", "sigmoid"):
            table = np.array(getattr(self, name))
            if table.ndim != 1 or table.dtype.kind not in "iu" or table.size > 1 << 20:
                raise EntropyTableError(f"Mixture table {name} is not a short list of integers.")
            if table.size and (int(table.min()) < 0 or int(table.max()) > kernels.PROB_ONE):
                raise EntropyTableError(f"Mixture table {name} leaves 0 .. 2^28.")
            table = np.ascontiguousarray(table, np.int32)
            table.setflags(write=False)
            object.__setattr__(self, name, table)
        exp, inv, sigmoid = self.exp, self.inv_mantissa, self.sigmoid
        sigmoid_length = SIGMOID_STEPS + 2
        if exp.size < 2 or exp[0] != 1 << 16 or exp[-1] != 0 or np.any(np.diff(exp) > 0):
            raise EntropyTableError("Mixture table exp must fall from 2^16 to 0.")
        if inv.size != 32 or inv[0] != 1 << 16 or inv[-1] <= 1 << 15 or np.any(np.diff(inv) >= 0):
            raise EntropyTableError("Mixture table inv_mantissa must be 32 values from 2^16 down, over 2^15.")
        if (
            sigmoid.size != sigmoid_length
            or sigmoid[0] != 0
            or sigmoid[-2] != kernels.PROB_ONE
            or sigmoid[-1] != kernels.PROB_ONE
            or np.any(np.diff(sigmoid) < 0)
        ):
            raise EntropyTableError(
                f"Mixture table sigmoid must be {sigmoid_length} values from 0 up to 2^28."
            )
        buckets = np.arange(1 << kernels.QUANTILE_BITS)
        middles = (2 * buckets + 1) << (kernels.PROB_BITS - kernels.QUANTILE_BITS - 1)
        quantile = (np.searchsorted(sigmoid, middles) - SIGMOID_STEPS // 2).astype(np.int32)
        quantile.setflags(write=False)
        object.__setattr__(self, "quantile", quantile)

    @staticmethod
    def build() -> MixtureTables:
        """Compute the tables from their definitions, for writing a model file. Only here do floats appear."""
        exp = [round(65536 * math.exp(-d / 128)) for d in range(EXP_LENGTH)]
        inv = [round(65536 * 2.0 ** (-f / 32)) for f in range(32)]
        steps = range(-SIGMOID_STEPS // 2, SIGMOID_STEPS // 2 + 1)
        sigmoid = [round(kernels.PROB_ONE / (1 + math.exp(-i / 32))) for i in steps]
        sigmoid[0], sigmoid[-1] = 0, kernels.PROB_ONE
        sigmoid.append(kernels.PROB_ONE)
        return MixtureTables(np.array(exp), np.array(inv), np.array(sigmoid))

    def as_dict(self) -> dict[str, I32]:
        """The arrays for a model file: keys ``exp``, ``inv_mantissa``, ``sigmoid``."""
        return {"exp": self.exp, "inv_mantissa": self.inv_mantissa, "sigmoid": self.sigmoid}

    @staticmethod
    def from_dict(arrays: Mapping[str, npt.NDArray[Any]]) -> MixtureTables:
        """Tables from a model file; raises EntropyTableError on any missing or malformed one."""
        missing = [name for name in ("exp", "inv_mantissa", "sigmoid") if name not in arrays]
        if missing:
            raise EntropyTableError(f"The model file lacks the mixture table {missing[0]}.")
        return MixtureTables(arrays["exp"], arrays["inv_mantissa"], arrays["sigmoid"])


@dataclass(frozen=True, eq=False)
class PixelParameters:
    """Checked arguments of one coding call, as the kernels take them: C-contiguous, within all bounds."""

    layout: HeadLayout
    head: I32  # (n, n_out)
    skip: I64  # (n, C)
    shift: I64  # (C,)
    lo: I64  # (C,)
    hi: I64  # (C,)

    @property
    def n(self) -> int:
        """Number of pixels."""
        return int(self.head.shape[0])


def check_parameters(
    head: npt.NDArray[np.integer],
    skip: npt.NDArray[np.integer],
    shift: npt.ArrayLike,
    lo: npt.ArrayLike,
    hi: npt.ArrayLike,
) -> PixelParameters:
    """Check shapes, types and ranges of one call; raises EntropyInputError.

    head (n, n_out) int32; skip (n, C) int32 or int64, 1/256 level; shift (C,) in 0..16; lo <= hi (C,),
    inclusive value range of each channel, at most 65536 levels, within +-2^17.
    """
    if skip.ndim != 2 or head.ndim != 2 or skip.shape[0] != head.shape[0]:
        raise EntropyInputError(f"Head {head.shape} and skip {skip.shape} are not (n, n_out) and (n, C).")
    if head.dtype != np.int32 or skip.dtype not in (np.int32, np.int64):
        raise EntropyInputError(f"Head must be int32, skip int32 or int64; got {head.dtype}, {skip.dtype}.")
    channels = skip.shape[1]
    layout = HeadLayout.from_width(head.shape[1], channels)
    per_channel = []
    for name, values in (("shift", shift), ("lo", lo), ("hi", hi)):
        array = np.asarray(values)
        if array.shape != (channels,) or array.dtype.kind not in "iu":
            raise EntropyInputError(f"{name} must hold {channels} integers, one for each channel.")
        per_channel.append(np.ascontiguousarray(array, np.int64))
    shifts, lows, highs = per_channel
    if shifts.min() < 0 or shifts.max() > MAX_SHIFT:
        raise EntropyInputError(f"Unit shifts must lie in 0 .. {MAX_SHIFT}.")
    if (
        lows.min() < -VALUE_LIMIT
        or highs.max() >= VALUE_LIMIT
        or np.any(lows > highs)
        or np.any(highs - lows >= MAX_LEVELS)
    ):
        raise EntropyInputError("A channel's value range is empty, has over 65536 levels, or leaves +-2^17.")
    return PixelParameters(
        layout, np.ascontiguousarray(head), np.ascontiguousarray(skip, np.int64), shifts, lows, highs
    )


def check_symbols(symbols: npt.NDArray[np.integer], n: int, channels: int) -> I32:
    """``symbols`` (n, C) as C-contiguous int32; raises EntropyInputError."""
    if symbols.shape != (n, channels) or symbols.dtype != np.int32:
        raise EntropyInputError(
            f"Symbols must be int32 {(n, channels)}, not {symbols.dtype} {symbols.shape}."
        )
    return np.ascontiguousarray(symbols)


def intervals(
    head: npt.NDArray[np.integer],
    skip: npt.NDArray[np.integer],
    shift: npt.ArrayLike,
    lo: npt.ArrayLike,
    hi: npt.ArrayLike,
    tables: MixtureTables,
    symbols: npt.NDArray[np.integer],
) -> tuple[I32, I32]:
    """(cum, freq), each (n, C) int32: the intervals [cum, cum + freq) / 2^28 with which ``symbols`` are
    coded.

    Where a channel has one level the interval is whole: (0, 2^28). Raises EntropyInputError.
    """
    p = check_parameters(head, skip, shift, lo, hi)
    values = check_symbols(symbols, p.n, p.layout.channels)
    cums = np.empty(values.shape, np.int32)
    freqs = np.empty(values.shape, np.int32)
    status = kernels.pixel_intervals(
        p.head, p.skip, p.shift, p.lo, p.hi, tables.exp, tables.inv_mantissa, tables.sigmoid,
        values, cums, freqs,
    )  # fmt: skip
    if status != kernels.OK:
        raise EntropyInputError("A symbol lies outside its channel's value range.")
    return cums, freqs


def ideal_bits(
    head: npt.NDArray[np.integer],
    skip: npt.NDArray[np.integer],
    shift: npt.ArrayLike,
    lo: npt.ArrayLike,
    hi: npt.ArrayLike,
    tables: MixtureTables,
    symbols: npt.NDArray[np.integer],
) -> npt.NDArray[np.float64]:
    """(n, C) code length of each symbol in bits under the integer CDF. For reporting: no bit rests on it."""
    _, freqs = intervals(head, skip, shift, lo, hi, tables, symbols)
    return kernels.PROB_BITS - np.log2(freqs.astype(np.float64))
