"""Every compiled function of the entropy coder, in one file.

One file on purpose: numba's on-disk cache is keyed by the source file of the outermost function, so a kernel that called
into another module would go on running that module's old code after an edit.

Number formats (``docs/format/entropy.md`` has the bounds and their proofs):

* *levels*: sample values; *fine* units: 1/256 of a level. The edge below sample value ``x`` is ``256 x - 128`` fine.
* ``t``: (edge - mean) / scale with ``T_BITS`` = 20 fraction bits, saturated at +-20.
* sigmoids and CDF values: 28 bits, 0 .. 2^28 inclusive. Mixture weights: 16 bits, summing to exactly 2^16.

All model arithmetic is int64 and cannot overflow; all coder arithmetic is uint64. The two never meet in one expression
without a cast, because numba turns int64 with uint64 into float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

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

OK = 0
TRUNCATED = 1  # the decoder needed more bytes than any valid stream of this length could need
CORRUPT = 2  # the code value lies outside every interval
OUT_OF_RANGE = 3  # a symbol to encode lies outside lo .. hi

_TOP = np.uint64(1 << 56)
_EIGHT = np.uint64(8)
_BYTE_SHIFT = np.uint64(56)
_PROB_BITS_U = np.uint64(PROB_BITS)
_ZERO_U = np.uint64(0)
_ONE_U = np.uint64(1)

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """``numba.njit`` as used everywhere here: cached, without the GIL, integer division without zero checks."""
    return cast(_F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


# -- mixture: head row -> weights, means, scales -> CDF -----------------------------------------------------------


@compiled
def set_weights(row: I32, exp: I32, pi: I64) -> None:
    """Fill ``pi`` (K,) with the mixture weights of one head row; they sum to exactly 2^16."""
    components = pi.shape[0]
    best = 0
    for k in range(1, components):
        if row[k] > row[best]:
            best = k
    last = exp.shape[0] - 1
    total = 0
    for k in range(components):
        d = np.int64(row[best]) - np.int64(row[k])
        weight = np.int64(exp[min(d, last)])
        pi[k] = weight
        total += weight
    rest = WEIGHT_ONE
    for k in range(components):
        share = (pi[k] << WEIGHT_BITS) // total
        pi[k] = share
        rest -= share
    pi[best] += rest


@compiled
def set_channel(
    row: I32, c: int, channels: int, skip: int, unit: int, x: I64, inv: I32, mu: I64, mant: I64, shr: I64
) -> None:
    """Means (``mu[c]``, fine units) and scales (``mant``, ``shr``) of channel ``c`` given the coded channels ``x[:c]``.

    Bounds: |m| <= 2^31, unit <= 16, so |m << unit| <= 2^47; |256 x - mu| < 2^25 + 2^26 < 2^27 and |coef| < 2^10, so
    each product is below 2^37 and the sum below 2^48; the result is clipped to +-2^26.
    """
    components = mant.shape[0]
    mean0 = components + c * components
    scale0 = components + (channels + c) * components
    coef0 = components + 2 * channels * components + (c * (c - 1) // 2) * components
    base = min(max(skip, -FINE_LIMIT), FINE_LIMIT)
    for k in range(components):
        m = base + (np.int64(row[mean0 + k]) << unit)
        for j in range(c):
            coef = min(max(np.int64(row[coef0 + j * components + k]), -COEF_MAX), COEF_MAX)
            m += (coef * (256 * x[j] - mu[j, k]) + 128) >> 8
        mu[c, k] = min(max(m, -FINE_LIMIT), FINE_LIMIT)
        scale = min(max(np.int64(row[scale0 + k]), SCALE_MIN), SCALE_MAX)
        mant[k] = np.int64(inv[scale & 31]) << 4
        shr[k] = (scale >> 5) + 8 + unit  # 0 .. 35


@compiled
def sigmoid_at(edge: int, mu: int, mant: int, shr: int, sigmoid: I32) -> int:
    """28-bit logistic CDF at ``edge``: |edge - mu| < 2^27 and mant <= 2^20, so the product stays below 2^47."""
    t = ((edge - mu) * mant) >> shr
    t = min(max(t, -T_LIMIT), T_LIMIT) + T_LIMIT
    i = t >> STEP_BITS
    below = np.int64(sigmoid[i])
    return below + (((np.int64(sigmoid[i + 1]) - below) * (t & STEP_MASK)) >> STEP_BITS)


@compiled
def cdf_at(x: int, lo: int, hi: int, pi: I64, mu: I64, mant: I64, shr: I64, sigmoid: I32) -> int:
    """C(x): 28-bit probability mass below ``x``; C(lo) = 0, C(hi + 1) = 2^28, strictly increasing between."""
    if x <= lo:
        return 0
    if x > hi:
        return PROB_ONE
    edge = 256 * x - 128
    mass = 0
    for k in range(pi.shape[0]):
        mass += pi[k] * sigmoid_at(edge, mu[k], mant[k], shr[k], sigmoid)
    return (((mass >> WEIGHT_BITS) * (PROB_ONE - (hi - lo + 1))) >> PROB_BITS) + (x - lo)


@compiled
def interval(
    x: int, lo: int, hi: int, pi: I64, mu: I64, mant: I64, shr: I64, sigmoid: I32, share: I64
) -> tuple[int, int]:
    """(C(x), C(x + 1) - C(x)), and in ``share`` (K,) each component's own mass on ``x`` plus one, for the posterior."""
    edge = 256 * x - 128
    below = 0
    above = 0
    for k in range(pi.shape[0]):
        left = 0
        if x > lo:
            left = sigmoid_at(edge, mu[k], mant[k], shr[k], sigmoid)
        right = PROB_ONE
        if x < hi:
            right = sigmoid_at(edge + 256, mu[k], mant[k], shr[k], sigmoid)
        below += pi[k] * left
        above += pi[k] * right
        share[k] = right - left + 1
    usable = PROB_ONE - (hi - lo + 1)
    cum = 0
    if x > lo:
        cum = (((below >> WEIGHT_BITS) * usable) >> PROB_BITS) + (x - lo)
    end = PROB_ONE
    if x < hi:
        end = (((above >> WEIGHT_BITS) * usable) >> PROB_BITS) + (x + 1 - lo)
    return cum, end - cum


@compiled
def set_posterior(pi: I64, share: I64) -> None:
    """Replace ``pi`` by the posterior weights given ``share``. Sum of pi * share < 2^45, so the shifted value < 2^61."""
    total = 0
    for k in range(pi.shape[0]):
        share[k] *= pi[k]
        total += share[k]
    rest = WEIGHT_ONE
    best = 0
    for k in range(pi.shape[0]):
        value = (share[k] << WEIGHT_BITS) // total
        pi[k] = value
        rest -= value
        if value > pi[best]:
            best = k
    pi[best] += rest


# -- range coder: state machine over uint64 -----------------------------------------------------------------------
# state = [low, range, bytes written] (encoder) or [code - low, range, bytes fetched] (decoder);
# between symbols 2^56 <= range < 2^64.


@compiled
def add_carry(buffer: U8, length: int) -> None:
    """Add one to the number that ``buffer[:length]`` spells. It never passes the first byte: the code value is < 1."""
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
def peek(state: U64, bits: np.uint64) -> np.uint64:
    """The value below 2^bits that tells the next symbol; 2^bits or more means a corrupt stream."""
    return np.uint64(state[0] // (state[1] >> bits))


@compiled
def take(state: U64, data: U8, cum: np.uint64, freq: np.uint64, bits: np.uint64) -> int:
    """Remove [cum, cum + freq) / 2^bits; the mirror of ``put``. Fetches zeros for up to 8 bytes after the end."""
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


# -- whole calls --------------------------------------------------------------------------------------------------


@compiled
def find(
    target: int, lo: int, hi: int, pi: I64, mu: I64, mant: I64, shr: I64, sigmoid: I32, quantile: I32
) -> int:
    """The x in lo .. hi with C(x) <= target < C(x + 1).

    Any search gives the same x, since C is strictly increasing. This one inverts the likeliest component and gallops
    out from there.
    """
    best = 0
    for k in range(1, pi.shape[0]):
        if pi[k] > pi[best]:
            best = k
    # scale in fine units = 2^(shr + 20) / mant; quantile is in 1/32 of a scale; so levels are 2^(shr + 7) q / mant.
    reach = (np.int64(1) << (shr[best] + 12)) // mant[best]  # one scale in levels
    away = (np.int64(quantile[target >> (PROB_BITS - QUANTILE_BITS)]) << (shr[best] + 7)) // mant[best]
    x = min(max(((mu[best] + 128) >> 8) + away, lo), hi)
    step = max(reach >> 3, 1)
    a = lo
    b = hi + 1
    if cdf_at(x, lo, hi, pi, mu, mant, shr, sigmoid) <= target:
        a = x
        while a + step < b:
            if cdf_at(a + step, lo, hi, pi, mu, mant, shr, sigmoid) > target:
                b = a + step
            else:
                a += step
                step *= 2
    else:
        b = x
        while b - step > a:
            if cdf_at(b - step, lo, hi, pi, mu, mant, shr, sigmoid) <= target:
                a = b - step
            else:
                b -= step
                step *= 2
    while b - a > 1:
        middle = (a + b) >> 1
        if cdf_at(middle, lo, hi, pi, mu, mant, shr, sigmoid) <= target:
            a = middle
        else:
            b = middle
    return a


@compiled
def encode_pixels(
    head: I32, skip: I64, unit: I64, lo: I64, hi: I64, exp: I32, inv: I32, sigmoid: I32, symbols: I32,
    state: U64, buffer: U8,
) -> int:  # fmt: skip
    """Code ``symbols`` (n, C); ``buffer`` has room for 4 n C more bytes. Stops at the first symbol out of range."""
    n, channels = symbols.shape
    components = head.shape[1] // (1 + 2 * channels + channels * (channels - 1) // 2)
    pi = np.empty(components, np.int64)
    mu = np.empty((channels, components), np.int64)
    mant = np.empty(components, np.int64)
    shr = np.empty(components, np.int64)
    share = np.empty(components, np.int64)
    x = np.empty(channels, np.int64)
    for i in range(n):
        set_weights(head[i], exp, pi)
        for c in range(channels):
            value = np.int64(symbols[i, c])
            if value < lo[c] or value > hi[c]:
                return OUT_OF_RANGE
            x[c] = value
            set_channel(head[i], c, channels, skip[i, c], unit[c], x, inv, mu, mant, shr)
            if lo[c] == hi[c]:
                continue
            cum, freq = interval(value, lo[c], hi[c], pi, mu[c], mant, shr, sigmoid, share)
            put(state, buffer, np.uint64(cum), np.uint64(freq), _PROB_BITS_U)
            if c + 1 < channels:
                set_posterior(pi, share)
    return OK


@compiled
def decode_pixels(
    head: I32, skip: I64, unit: I64, lo: I64, hi: I64, exp: I32, inv: I32, sigmoid: I32, quantile: I32,
    symbols: I32, state: U64, data: U8,
) -> int:  # fmt: skip
    """Fill ``symbols`` (n, C) from ``data``; the mirror of :func:`encode_pixels`."""
    n, channels = symbols.shape
    components = head.shape[1] // (1 + 2 * channels + channels * (channels - 1) // 2)
    pi = np.empty(components, np.int64)
    mu = np.empty((channels, components), np.int64)
    mant = np.empty(components, np.int64)
    shr = np.empty(components, np.int64)
    share = np.empty(components, np.int64)
    x = np.empty(channels, np.int64)
    for i in range(n):
        set_weights(head[i], exp, pi)
        for c in range(channels):
            set_channel(head[i], c, channels, skip[i, c], unit[c], x, inv, mu, mant, shr)
            if lo[c] == hi[c]:
                x[c] = lo[c]
                symbols[i, c] = lo[c]
                continue
            target = np.int64(peek(state, _PROB_BITS_U))
            if target >= PROB_ONE:
                return CORRUPT
            value = find(target, lo[c], hi[c], pi, mu[c], mant, shr, sigmoid, quantile)
            x[c] = value
            symbols[i, c] = value
            cum, freq = interval(value, lo[c], hi[c], pi, mu[c], mant, shr, sigmoid, share)
            status = take(state, data, np.uint64(cum), np.uint64(freq), _PROB_BITS_U)
            if status != OK:
                return status
            if c + 1 < channels:
                set_posterior(pi, share)
    return OK


@compiled
def intervals(
    head: I32, skip: I64, unit: I64, lo: I64, hi: I64, exp: I32, inv: I32, sigmoid: I32, symbols: I32,
    cums: I32, freqs: I32,
) -> int:  # fmt: skip
    """The intervals [cum, cum + freq) / 2^28 that :func:`encode_pixels` would code, without coding them."""
    n, channels = symbols.shape
    components = head.shape[1] // (1 + 2 * channels + channels * (channels - 1) // 2)
    pi = np.empty(components, np.int64)
    mu = np.empty((channels, components), np.int64)
    mant = np.empty(components, np.int64)
    shr = np.empty(components, np.int64)
    share = np.empty(components, np.int64)
    x = np.empty(channels, np.int64)
    for i in range(n):
        set_weights(head[i], exp, pi)
        for c in range(channels):
            value = np.int64(symbols[i, c])
            if value < lo[c] or value > hi[c]:
                return OUT_OF_RANGE
            x[c] = value
            set_channel(head[i], c, channels, skip[i, c], unit[c], x, inv, mu, mant, shr)
            if lo[c] == hi[c]:
                cums[i, c] = 0
                freqs[i, c] = PROB_ONE
                continue
            cum, freq = interval(value, lo[c], hi[c], pi, mu[c], mant, shr, sigmoid, share)
            cums[i, c] = cum
            freqs[i, c] = freq
            if c + 1 < channels:
                set_posterior(pi, share)
    return OK


@compiled
def channel_tables(
    head: I32, skip: I64, unit: I64, lo: I64, hi: I64, exp: I32, inv: I32, sigmoid: I32, symbols: I32,
    channel: int, tables: U16,
) -> int:  # fmt: skip
    """16-bit CDF rows (n, N + 1) of one channel, given ``symbols[:, :channel]``; the last entry, 2^16, wraps to 0."""
    n, channels = symbols.shape
    components = head.shape[1] // (1 + 2 * channels + channels * (channels - 1) // 2)
    pi = np.empty(components, np.int64)
    mu = np.empty((channels, components), np.int64)
    mant = np.empty(components, np.int64)
    shr = np.empty(components, np.int64)
    share = np.empty(components, np.int64)
    x = np.empty(channels, np.int64)
    levels = hi[channel] - lo[channel] + 1
    for i in range(n):
        set_weights(head[i], exp, pi)
        for c in range(channel):
            value = np.int64(symbols[i, c])
            if value < lo[c] or value > hi[c]:
                return OUT_OF_RANGE
            x[c] = value
            set_channel(head[i], c, channels, skip[i, c], unit[c], x, inv, mu, mant, shr)
            if lo[c] < hi[c]:
                interval(value, lo[c], hi[c], pi, mu[c], mant, shr, sigmoid, share)
                set_posterior(pi, share)
        set_channel(head[i], channel, channels, skip[i, channel], unit[channel], x, inv, mu, mant, shr)
        for v in range(levels + 1):
            fine = cdf_at(lo[channel] + v, lo[channel], hi[channel], pi, mu[channel], mant, shr, sigmoid)
            tables[i, v] = np.uint16((((fine * (65536 - levels)) >> PROB_BITS) + v) & 65535)
    return OK


@compiled
def encode_intervals(cums: I64, freqs: I64, bits: int, state: U64, buffer: U8) -> None:
    """Code plain intervals [cum, cum + freq) / 2^bits."""
    for i in range(cums.shape[0]):
        put(state, buffer, np.uint64(cums[i]), np.uint64(freqs[i]), np.uint64(bits))


@compiled
def decode_intervals(cdf: I64, bits: int, symbols: I64, state: U64, data: U8) -> int:
    """Fill ``symbols`` with indices into the one table ``cdf`` (L + 1,), cdf[0] = 0, cdf[L] = 2^bits."""
    for i in range(symbols.shape[0]):
        target = np.int64(peek(state, np.uint64(bits)))
        if target >= cdf[cdf.shape[0] - 1]:
            return CORRUPT
        a = 0
        b = cdf.shape[0] - 1
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
        target = np.int64(peek(state, np.uint64(bits)))
        if target >> bits != 0:
            return CORRUPT
        values[i] = target
        status = take(state, data, np.uint64(target), _ONE_U, np.uint64(bits))
        if status != OK:
            return status
    return OK
