"""Every compiled function of the entropy coder, in one file.

One file on purpose: numba's on-disk cache is keyed by the source file of the outermost function, so a kernel
that called into another module would go on running that module's old code after an edit.

Number formats (``docs/format/entropy.md`` has the bounds and their proofs):

* *levels*: sample values; *fine* units: 1/256 of a level. The edge below the value ``x`` is ``256 x - 128``
fine.
* ``t``: (edge - mean) / scale with ``T_BITS`` = 20 fraction bits, saturated at +-20.
* sigmoids and CDF values: 28 bits, 0 .. 2^28 inclusive. Mixture weights: 16 bits, summing to exactly 2^16.

All model arithmetic is int64 and cannot overflow; all coder arithmetic is uint64. The two never meet in one
expression without a cast, because numba turns int64 with uint64 into float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Int: TypeAlias = int | np.int64
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]

PROB_BITS = 28
PROB_ONE = 1 << PROB_BITS
WEIGHT_BITS = 16
WEIGHT_ONE = 1 << WEIGHT_BITS
T_BITS = 20
T_LIMIT = 20 << T_BITS  # |t| saturates here
STEP_BITS = 15  # one sigmoid table step is 2^15 units of t = 1/32
STEP_MASK = (1 << STEP_BITS) - 1
SCALE_MIN = -256  # log-scale index, 1/32 octave
SCALE_MAX = 383
COEF_MAX = 1023
FINE_LIMIT = 1 << 26  # skips and means are clipped to +- this many fine units
QUANTILE_BITS = 10  # resolution of the decoder's first guess; the result does not depend on it
MAX_TURNS = 12  # interpolations of its search before it turns to bisection, likewise

OK = 0
TRUNCATED = 1  # the decoder needed more bytes than any valid stream of this length could need
CORRUPT = 2  # the code value lies outside every interval
OUT_OF_RANGE = 3  # a symbol to encode lies outside lo .. hi

_TOP = np.uint64(1 << 56)
_EIGHT = np.uint64(8)
_BYTE_SHIFT = np.uint64(56)
_PROB_BITS_U = np.uint64(PROB_BITS)
_ONE_U = np.uint64(1)
_STEP_BITS_U = np.uint64(STEP_BITS)

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """``numba.njit`` as used everywhere here: cached, without the GIL, no zero checks before dividing."""
    return cast(_F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inlined(function: _F) -> _F:
    """The same for the innermost functions: a call with its array arguments costs more than they compute."""
    return cast(_F, numba.njit(nogil=True, error_model="numpy", inline="always")(function))


# -- mixture: head row -> weights, means, scales -> CDF ---------------------------------------------


@compiled
def clip(value: Int, least: Int, most: Int) -> Int:
    """``value`` limited to least .. most."""
    if value < least:
        return least
    if value > most:
        return most
    return value


@compiled
def set_weights(row: I32, exp: I32, pi: I64) -> None:
    """Fill ``pi`` (K,) with the mixture weights of one head row; they sum to exactly 2^16."""
    components = pi.shape[0]
    best = 0
    for k in range(1, components):
        if row[k] > row[best]:
            best = k
    last = exp.shape[0] - 1
    total = np.int64(0)
    for k in range(components):
        weight = np.int64(exp[clip(np.int64(row[best]) - np.int64(row[k]), 0, last)])
        pi[k] = weight
        total += weight
    rest = np.int64(WEIGHT_ONE)
    for k in range(components):
        share = (pi[k] << WEIGHT_BITS) // total
        pi[k] = share
        rest -= share
    pi[best] += rest


@compiled
def set_channel(
    row: I32, c: int, channels: int, skip: Int, unit: Int, x: I64, inv: I32, mu: I64, mant: I64, shr: I64
) -> None:
    """Means ``mu[c]`` (fine) and scales (``mant``, ``shr``) of channel ``c`` given the coded channels
    ``x[:c]``.

    Bounds: |m| <= 2^31 and unit <= 16, so |m << unit| <= 2^47; |256 x - mu| < 2^25 + 2^26 < 2^27 and
    |coef| < 2^10, so each product is below 2^37 and the sum below 2^48; the result is clipped to +-2^26.
    """
    components = mant.shape[0]
    mean0 = components + c * components
    scale0 = components + (channels + c) * components
    coef0 = components + 2 * channels * components + (c * (c - 1) // 2) * components
    base = clip(skip, -FINE_LIMIT, FINE_LIMIT)
    for k in range(components):
        m = base + (np.int64(row[mean0 + k]) << unit)
        for j in range(c):
            coef = clip(np.int64(row[coef0 + j * components + k]), -COEF_MAX, COEF_MAX)
            m += (coef * (256 * x[j] - mu[j, k]) + 128) >> 8
        mu[c, k] = clip(m, -FINE_LIMIT, FINE_LIMIT)
        scale = clip(np.int64(row[scale0 + k]), SCALE_MIN, SCALE_MAX)
        mant[k] = np.int64(inv[scale & 31]) << 4
        shr[k] = (scale >> 5) + 8 + unit  # 0 .. 35


@inlined
def sigmoid_at(edge: Int, mu: Int, mant: Int, shr: Int, sigmoid: I32) -> Int:
    """28-bit logistic CDF at ``edge``. |edge - mu| < 2^27 and mant <= 2^20: the product stays below 2^47."""
    t = np.int64(min(max(((edge - mu) * mant) >> shr, -T_LIMIT), T_LIMIT) + T_LIMIT)
    i = np.uint64(t) >> _STEP_BITS_U  # unsigned, or numba would look out for negative indices
    below = np.int64(sigmoid[i])
    return below + (((np.int64(sigmoid[i + _ONE_U]) - below) * (t & STEP_MASK)) >> STEP_BITS)


@compiled
def cdf_from_mass(mass: Int, x: Int, lo: Int, hi: Int) -> Int:
    """C(x) for lo < x <= hi from ``mass`` <= 2^44, the weighted sum of the sigmoids at its edge."""
    return (((mass >> WEIGHT_BITS) * (PROB_ONE - (hi - lo + 1))) >> PROB_BITS) + (x - lo)


@compiled
def cdf_at(x: Int, lo: Int, hi: Int, pi: I64, mu: I64, mant: I64, shr: I64, sigmoid: I32) -> Int:
    """C(x): 28-bit probability mass below ``x``; C(lo) = 0, C(hi + 1) = 2^28, strictly increasing between."""
    if x <= lo:
        return np.int64(0)
    if x > hi:
        return np.int64(PROB_ONE)
    mass = np.int64(0)
    for k in range(pi.shape[0]):
        mass += pi[k] * sigmoid_at(256 * x - 128, mu[k], mant[k], shr[k], sigmoid)
    return cdf_from_mass(mass, x, lo, hi)


@compiled
def interval(
    x: Int, lo: Int, hi: Int, pi: I64, mu: I64, mant: I64, shr: I64, sigmoid: I32, share: I64
) -> tuple[Int, Int]:
    """(C(x), C(x + 1) - C(x)); and in ``share`` (K,) each component's own mass on ``x`` plus one."""
    edge = 256 * x - 128
    below = np.int64(0)
    above = np.int64(0)
    for k in range(pi.shape[0]):
        left = np.int64(0)
        if x > lo:
            left = np.int64(sigmoid_at(edge, mu[k], mant[k], shr[k], sigmoid))
        right = np.int64(PROB_ONE)
        if x < hi:
            right = np.int64(sigmoid_at(edge + 256, mu[k], mant[k], shr[k], sigmoid))
        below += pi[k] * left
        above += pi[k] * right
        share[k] = right - left + 1
    cum = np.int64(0)
    if x > lo:
        cum = np.int64(cdf_from_mass(below, x, lo, hi))
    end = np.int64(PROB_ONE)
    if x < hi:
        end = np.int64(cdf_from_mass(above, x + 1, lo, hi))
    return cum, end - cum


@compiled
def set_posterior(pi: I64, share: I64) -> None:
    """Replace ``pi`` by the posterior weights given ``share``: pi * share <= 2^44 + 2^16, shifted < 2^61."""
    total = np.int64(0)
    for k in range(pi.shape[0]):
        share[k] *= pi[k]
        total += share[k]
    rest = np.int64(WEIGHT_ONE)
    best = 0
    for k in range(pi.shape[0]):
        value = (share[k] << WEIGHT_BITS) // total
        pi[k] = value
        rest -= value
        if value > pi[best]:
            best = k
    pi[best] += rest


# -- range coder: state machine over uint64 ---------------------------------------------------------
# state = [low, range, bytes written] (encoder) or [code - low, range, bytes fetched] (decoder);
# between symbols 2^56 <= range < 2^64.


@compiled
def add_carry(buffer: U8, length: Int) -> None:
    """Add one to the number in ``buffer[:length]``. The code value stays below 1, so it never runs out."""
    i = length - 1
    while i >= 0 and buffer[i] == 255:
        buffer[i] = 0
        i -= 1
    if i >= 0:
        buffer[i] += 1


@compiled
def put(state: U64, buffer: U8, cum: np.uint64, freq: np.uint64, bits: np.uint64) -> None:
    """Narrow to [cum, cum + freq) / 2^bits. Emits at most 4 bytes: range falls to 2^28 at the least."""
    low = state[0]
    step = state[1] >> bits
    add = step * cum
    low += add
    if low < add:
        add_carry(buffer, np.int64(state[2]))
    span = step * freq
    while span < _TOP:
        buffer[np.int64(state[2])] = np.uint8(low >> _BYTE_SHIFT)
        state[2] += _ONE_U
        low <<= _EIGHT
        span <<= _EIGHT
    state[0] = low
    state[1] = span


@compiled
def peek(state: U64, bits: np.uint64) -> Int:
    """The value that tells the next symbol: below 2^bits, or the stream is corrupt. Never above 2^36."""
    return np.int64(state[0] // (state[1] >> bits))


@compiled
def take(state: U64, data: U8, cum: np.uint64, freq: np.uint64, bits: np.uint64) -> int:
    """Remove [cum, cum + freq) / 2^bits; the mirror of ``put``. The 8 bytes after the end read as zeros."""
    step = state[1] >> bits
    code = state[0] - step * cum
    span = step * freq
    while span < _TOP:
        position = np.int64(state[2])
        code <<= _EIGHT
        span <<= _EIGHT
        if position < data.shape[0]:
            code |= np.uint64(data[position])
        elif position >= data.shape[0] + 8:
            return TRUNCATED
        state[2] += _ONE_U
    state[0] = code
    state[1] = span
    return OK


# -- whole calls ------------------------------------------------------------------------------------


@compiled
def find(
    target: Int, lo: Int, hi: Int, pi: I64, mu: I64, mant: I64, shr: I64, sigmoid: I32, quantile: I32
) -> Int:
    """The x in lo .. hi with C(x) <= target < C(x + 1).

    Any search gives the same x, since C is strictly increasing; this one is short: 3.5 evaluations of C for
    8-bit pixels and 7 for noisy 16-bit ones, where plain bisection takes 8 and 16. It inverts the likeliest
    component, steps as far as that component's density says until the target is between ``a`` and ``b``, and
    interpolates.
    """
    best = 0
    for k in range(1, pi.shape[0]):
        if pi[k] > pi[best]:
            best = k
    # A scale is 2^(shr + 20) / mant fine units = 2^(shr + 12) / mant levels; quantile is in 1/32 scale.
    scale = (np.int64(1) << (shr[best] + 12)) // mant[best]
    away = (np.int64(quantile[target >> (PROB_BITS - QUANTILE_BITS)]) << (shr[best] + 7)) // mant[best]
    part = target >> (PROB_BITS - 16)
    density = clip((part * (65536 - part)) >> 4, 1024, PROB_ONE)  # 2^28 p (1 - p) per scale
    x = np.int64(clip(((mu[best] + 128) >> 8) + away, lo, hi))
    a, below = np.int64(lo), np.int64(0)  # always C(a) = below <= target < above = C(b)
    b, above = np.int64(hi + 1), np.int64(PROB_ONE)
    value = np.int64(cdf_at(x, lo, hi, pi, mu, mant, shr, sigmoid))
    if value <= target:
        a, below = x, value
        step = ((target - value) * scale // density + 1) * 5 // 4
        while a + step < b:
            value = np.int64(cdf_at(a + step, lo, hi, pi, mu, mant, shr, sigmoid))
            if value > target:
                b, above = a + step, value
            else:
                a, below = a + step, value
                step *= 2
    else:
        b, above = x, value
        step = ((value - target) * scale // density + 1) * 5 // 4
        while b - step > a:
            value = np.int64(cdf_at(b - step, lo, hi, pi, mu, mant, shr, sigmoid))
            if value <= target:
                a, below = b - step, value
            else:
                b, above = b - step, value
                step *= 2
    turns = 0
    while b - a > 1:
        x = (a + b) >> 1
        if b - a > 4 and turns < MAX_TURNS:
            # Aim an eighth beyond the crossing, on the side of the far end, so that the next bracket is
            # narrow.
            aim = a + (target - below) * (b - a) // (above - below)
            margin = (b - a) >> 3 if turns > 0 else np.int64(0)
            x = np.int64(clip(aim + margin if aim < x else aim - margin, a + 1, b - 1))
        turns += 1
        value = np.int64(cdf_at(x, lo, hi, pi, mu, mant, shr, sigmoid))
        if value <= target:
            a, below = x, value
        else:
            b, above = x, value
    return a


@compiled
def scratch(channels: int, width: int) -> tuple[I64, I64, I64, I64, I64, I64]:
    """Working arrays (pi, mu, mant, shr, share, x) for pixels of ``channels`` with head rows of ``width``."""
    components = width // (1 + 2 * channels + channels * (channels - 1) // 2)
    return (
        np.empty(components, np.int64),
        np.empty((channels, components), np.int64),
        np.empty(components, np.int64),
        np.empty(components, np.int64),
        np.empty(components, np.int64),
        np.empty(channels, np.int64),
    )


@compiled
def pixel_intervals(
    head: I32, skip: I64, unit: I64, lo: I64, hi: I64, exp: I32, inv: I32, sigmoid: I32, symbols: I32,
    cums: I32, freqs: I32,
) -> int:  # fmt: skip
    """Fill ``cums`` and ``freqs`` (n, C): the intervals [cum, cum + freq) / 2^28 of ``symbols`` (n, C)."""
    n, channels = symbols.shape
    pi, mu, mant, shr, share, x = scratch(channels, head.shape[1])
    for i in range(n):
        set_weights(head[i], exp, pi)
        for c in range(channels):
            x[c] = symbols[i, c]
            if x[c] < lo[c] or x[c] > hi[c]:
                return OUT_OF_RANGE
            set_channel(head[i], c, channels, skip[i, c], unit[c], x, inv, mu, mant, shr)
            if lo[c] == hi[c]:
                cums[i, c] = 0
                freqs[i, c] = PROB_ONE
                continue
            cums[i, c], freqs[i, c] = interval(x[c], lo[c], hi[c], pi, mu[c], mant, shr, sigmoid, share)
            if c + 1 < channels:
                set_posterior(pi, share)
    return OK


@compiled
def encode_intervals(cums: I32, freqs: I32, bits: int, state: U64, buffer: U8) -> None:
    """Code intervals [cum, cum + freq) / 2^bits, each (n,); a whole one is no step of the coder."""
    for i in range(cums.shape[0]):
        if np.int64(freqs[i]) < (np.int64(1) << bits):
            put(state, buffer, np.uint64(cums[i]), np.uint64(freqs[i]), np.uint64(bits))


@compiled
def decode_pixels(
    head: I32, skip: I64, unit: I64, lo: I64, hi: I64, exp: I32, inv: I32, sigmoid: I32, quantile: I32,
    symbols: I32, state: U64, data: U8,
) -> int:  # fmt: skip
    """Fill ``symbols`` (n, C) from ``data``; the mirror of pixel_intervals and encode_intervals together."""
    n, channels = symbols.shape
    pi, mu, mant, shr, share, x = scratch(channels, head.shape[1])
    for i in range(n):
        set_weights(head[i], exp, pi)
        for c in range(channels):
            set_channel(head[i], c, channels, skip[i, c], unit[c], x, inv, mu, mant, shr)
            if lo[c] == hi[c]:
                x[c] = lo[c]
                symbols[i, c] = lo[c]
                continue
            target = peek(state, _PROB_BITS_U)
            if target >= PROB_ONE:
                return CORRUPT
            x[c] = find(target, lo[c], hi[c], pi, mu[c], mant, shr, sigmoid, quantile)
            symbols[i, c] = x[c]
            cum, freq = interval(x[c], lo[c], hi[c], pi, mu[c], mant, shr, sigmoid, share)
            status = take(state, data, np.uint64(cum), np.uint64(freq), _PROB_BITS_U)
            if status != OK:
                return status
            if c + 1 < channels:
                set_posterior(pi, share)
    return OK


@compiled
def channel_tables(
    head: I32, skip: I64, unit: I64, lo: I64, hi: I64, exp: I32, inv: I32, sigmoid: I32, symbols: I32,
    channel: int, tables: U16,
) -> int:  # fmt: skip
    """16-bit CDF rows (n, N + 1) of a channel given ``symbols[:, :channel]``; 2^16, the last, wraps to 0."""
    n, channels = symbols.shape
    pi, mu, mant, shr, share, x = scratch(channels, head.shape[1])
    levels = hi[channel] - lo[channel] + 1
    for i in range(n):
        set_weights(head[i], exp, pi)
        for c in range(channel):
            x[c] = symbols[i, c]
            if x[c] < lo[c] or x[c] > hi[c]:
                return OUT_OF_RANGE
            set_channel(head[i], c, channels, skip[i, c], unit[c], x, inv, mu, mant, shr)
            if lo[c] < hi[c]:
                interval(x[c], lo[c], hi[c], pi, mu[c], mant, shr, sigmoid, share)
                set_posterior(pi, share)
        set_channel(head[i], channel, channels, skip[i, channel], unit[channel], x, inv, mu, mant, shr)
        for v in range(levels + 1):
            fine = cdf_at(lo[channel] + v, lo[channel], hi[channel], pi, mu[channel], mant, shr, sigmoid)
            tables[i, v] = np.uint16((((fine * (65536 - levels)) >> PROB_BITS) + v) & 65535)
    return OK


@compiled
def decode_intervals(cdf: I64, bits: int, symbols: I64, state: U64, data: U8) -> int:
    """Fill ``symbols`` with indices into the one table ``cdf`` (L + 1,), cdf[0] = 0, cdf[L] = 2^bits."""
    last = cdf.shape[0] - 1
    for i in range(symbols.shape[0]):
        symbols[i] = 0
        if last == 1:
            continue
        target = peek(state, np.uint64(bits))
        if target >= cdf[last]:
            return CORRUPT
        a = 0
        b = last
        while b - a > 1:
            middle = (a + b) >> 1
            if cdf[middle] <= target:
                a = middle
            else:
                b = middle
        symbols[i] = a
        status = take(state, data, np.uint64(cdf[a]), np.uint64(cdf[a + 1] - cdf[a]), np.uint64(bits))
        if status != OK:
            return status
    return OK


@compiled
def decode_uniform(bits: int, values: I64, state: U64, data: U8) -> int:
    """Fill ``values`` with equally likely integers of ``bits`` bits."""
    for i in range(values.shape[0]):
        target = peek(state, np.uint64(bits))
        if target >= np.int64(1) << bits:
            return CORRUPT
        values[i] = target
        status = take(state, data, np.uint64(target), _ONE_U, np.uint64(bits))
        if status != OK:
            return status
    return OK
