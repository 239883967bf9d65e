"""Compiled integer loops of exact inference on CPUs: everything between two matrix products.

Each works on rows, one row a pixel, so that one pass over many pixels and a CCI step over one group run the
same code.
Matrix products arrive as int32 arrays, or as float32 (float64) arrays that hold exact integers (see
``weights.check_exact``); their inputs leave as int16, or as float32 with the same values.
All functions are serial and release the GIL; callers run several tiles in threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.model.config import GUIDE_TAPS
from callic_archive.model.tables import (
    ACT_HALF,
    ACT_MAX,
    COMPAND_IN,
    COMPAND_SIZE,
    GUIDED,
    NORM_FRACTION,
    RSQRT_BITS,
    RSQRT_HIGH,
    RSQRT_LOW,
    STREAM_MAX,
)

_ = NORM_FRACTION  # part of the rsqrt table's scale; named here because `normalise` rests on it
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Acc = F32 | I32
Narrow = F32 | I16
Int = Any
_GUIDE_ROWS = tuple(di for di, _ in GUIDE_TAPS)
_GUIDE_COLUMNS = tuple(dj for _, dj in GUIDE_TAPS)
#: Head outputs are cut here; the entropy coder's own bounds are wider.
HEAD_MAX = (1 << 26) - 1


@njit(cache=True, nogil=True)
def round_shift(value: Int, shift: Int) -> Int:
    """floor(value / 2^shift + 1/2)."""
    return (value + ((np.int64(1) << shift) >> 1)) >> shift


@njit(cache=True, nogil=True)
def features(
    x: I32, rows: I32, grid: I64, plane: I64, skip_weights: I32, compand: I16, out: F32, skip: I64
) -> None:
    """Embedding inputs and skip prediction of some pixels.

    x (C, h, w): levels known so far. rows (M,): flat indices. grid: (patch height, patch width). plane:
    (shift, depth, mid).
    out (M, features); skip (M, C) in 1/256 level. Neighbours outside the patch are replaced by the nearest
    known one.
    """
    channels, _, w = x.shape
    patch_h, patch_w = grid[0], grid[1]
    shift, depth, mid = plane[0], plane[1], plane[2]
    taps = np.empty(6, np.int64)
    for m in range(rows.shape[0]):
        i, j = np.int64(rows[m]) // w, np.int64(rows[m]) % w
        top, left = (i // patch_h) * patch_h, (j // patch_w) * patch_w
        right = min(w, left + patch_w)
        for c in range(channels):
            has_n, has_w = i > top, j > left
            north = np.int64(x[c, i - 1, j]) if has_n else np.int64(0)
            west = np.int64(x[c, i, j - 1]) if has_w else (north if has_n else mid)
            if not has_n:
                north = west
            taps[0] = west
            taps[1] = north
            taps[2] = np.int64(x[c, i - 1, j - 1]) if has_n and has_w else north
            taps[3] = np.int64(x[c, i - 1, j + 1]) if has_n and j + 1 < right else north
            taps[4] = np.int64(x[c, i, j - 2]) if j - 2 >= left else west
            taps[5] = np.int64(x[c, i - 2, j]) if i - 2 >= top else north
            total = np.int64(0)
            for t in range(5):
                total += np.int64(skip_weights[c, t]) * (taps[t + 1] - west)
            prediction = 256 * west + round_shift(total, np.int64(6))
            skip[m, c] = prediction
            for t in range(4):
                q = round_shift(256 * taps[t] - prediction, np.int64(8 - COMPAND_IN) + shift)
                magnitude = min(abs(q), np.int64(COMPAND_SIZE - 1))
                value = np.float32(compand[magnitude])
                out[m, t * channels + c] = -value if q < 0 else value
            out[m, 4 * channels + c] = np.float32(
                max(min(round_shift(4 * (west - mid), depth - 8), np.int64(512)), np.int64(-512))
            )
        out[m, 5 * channels] = np.float32(4 * shift)


@njit(cache=True, nogil=True)
def guide_features(
    guide: I32, rows: I32, size: I64, grid: I64, plane: I64, sign: Int, compand: I16, skip: I64, out: F32
) -> None:
    """What a guide tells of some pixels: how its neighbours differ from it, it from the skip prediction, and its use.

    guide (h, w): levels, all known. rows (M,), skip (M, 1); size (h, w), grid and plane as of ``features``. sign: +-1.
    out (M, GUIDE_FEATURES). A neighbour outside the patch differs by nothing.
    """
    h, w = size[0], size[1]
    patch_h, patch_w = grid[0], grid[1]
    down = np.int64(8 - COMPAND_IN) + plane[0]
    for m in range(rows.shape[0]):
        i, j = np.int64(rows[m]) // w, np.int64(rows[m]) % w
        top, left = (i // patch_h) * patch_h, (j // patch_w) * patch_w
        bottom, right = min(h, top + patch_h), min(w, left + patch_w)
        here = 256 * np.int64(guide[i, j])
        for t in range(len(GUIDE_TAPS) + 1):
            if t < len(GUIDE_TAPS):
                si, sj = i + _GUIDE_ROWS[t], j + _GUIDE_COLUMNS[t]
                inside = top <= si < bottom and left <= sj < right
                q = round_shift(256 * np.int64(guide[si, sj]) - here, down) if inside else np.int64(0)
            else:
                q = round_shift(here - skip[m, 0], down)
            value = np.float32(compand[min(abs(q), np.int64(COMPAND_SIZE - 1))])
            out[m, t] = -value if q < 0 else value
        out[m, len(GUIDE_TAPS) + 1] = np.float32(GUIDED * sign)


@njit(cache=True, nogil=True)
def start_stream(acc: Acc, bias: I32, shift: I32, stream: I32) -> None:
    """stream = requantised acc, saturated to 16 bits. All (M, D) but bias and shift (D,)."""
    for m in range(acc.shape[0]):
        for d in range(acc.shape[1]):
            half = (np.int32(1) << shift[d]) >> 1
            value = (np.int32(acc[m, d]) + bias[d] + half) >> shift[d]
            stream[m, d] = min(max(value, -STREAM_MAX), STREAM_MAX)


@njit(cache=True, nogil=True)
def add_stream(acc: Acc, bias: I32, shift: I32, stream: I32) -> None:
    """stream += requantised acc, saturated to 16 bits."""
    for m in range(acc.shape[0]):
        for d in range(acc.shape[1]):
            half = (np.int32(1) << shift[d]) >> 1
            value = stream[m, d] + ((np.int32(acc[m, d]) + bias[d] + half) >> shift[d])
            stream[m, d] = min(max(value, -STREAM_MAX), STREAM_MAX)


@njit(cache=True, nogil=True)
def normalise(stream: I32, rsqrt: I32, eps: Int, fine: Int, out: Narrow) -> None:
    """LayerNorm without gain and bias, in integers; out (M, D) holds 10-bit values with 6 binary places.

    With d = 16 x - round(16 mean) and v = sum d^2 + eps, the table gives 2^22 sqrt(D) / sqrt(v) from the top
    bits of v.
    |d| < 2^20 + 1 and the table is below 2^24, so every product fits 45 bits and v, for D <= 4096, fits 53
    bits.
    ``fine`` = log2(D): D is a power of two, so the mean needs a shift only.
    """
    n = stream.shape[1]
    for m in range(stream.shape[0]):
        total = np.int64(0)
        for d in range(n):
            total += stream[m, d]
        mean = np.int32(round_shift(16 * total, fine))
        v = np.int64(eps)
        for d in range(n):
            delta = np.int64(16 * stream[m, d] - mean)
            v += delta * delta
        k = np.int64(0)
        while (v >> k) >= RSQRT_HIGH:
            k += 2
        factor = np.int64(rsqrt[(v >> k) - RSQRT_LOW])
        shift = np.int64(RSQRT_BITS) + (k >> 1)
        half = np.int64(1) << (shift - 1)
        for d in range(n):
            value = (np.int64(16 * stream[m, d] - mean) * factor + half) >> shift
            out[m, d] = min(max(value, np.int64(-ACT_MAX)), np.int64(ACT_MAX))


@njit(cache=True, nogil=True)
def store_cache(acc: Acc, bias: I32, shift: I32, rows: I32, cache: I16) -> None:
    """cache[rows] = requantised acc, 10 bits. cache (pixels, D)."""
    for m in range(acc.shape[0]):
        line = cache[rows[m]]
        for d in range(acc.shape[1]):
            half = (np.int32(1) << shift[d]) >> 1
            value = (np.int32(acc[m, d]) + bias[d] + half) >> shift[d]
            line[d] = min(max(value, -ACT_MAX), ACT_MAX)


@njit(cache=True, nogil=True)
def gate(
    cache: I16,
    rows: I32,
    size: I64,
    grid: I64,
    taps: I64,
    kernel: I16,
    bias: I32,
    shift: I32,
    swish: I16,
    v_acc: Acc,
    v_bias: I32,
    v_shift: I32,
    product_shift: Int,
    out: Narrow,
) -> None:
    """out = requantise(swish(depth-wise convolution of the cached map) * V) for some pixels.

    cache (h*w, D) of 10-bit values; size (h, w); taps (T, 2); kernel (T, D). Taps outside the patch count as
    zero; taps of groups not yet coded do not exist in a causal kernel, so what the cache holds there is
    never read.
    """
    h, w = size[0], size[1]
    patch_h, patch_w = grid[0], grid[1]
    n = v_acc.shape[1]
    sums = np.empty(n, np.int32)
    for m in range(rows.shape[0]):
        i, j = np.int64(rows[m]) // w, np.int64(rows[m]) % w
        top, left = (i // patch_h) * patch_h, (j // patch_w) * patch_w
        bottom, right = min(h, top + patch_h), min(w, left + patch_w)
        for d in range(n):
            sums[d] = bias[d]
        for t in range(taps.shape[0]):
            si, sj = i + taps[t, 0], j + taps[t, 1]
            if si < top or si >= bottom or sj < left or sj >= right:
                continue
            source, weight = cache[si * w + sj], kernel[t]
            for d in range(n):
                sums[d] += np.int32(weight[d]) * np.int32(source[d])
        for d in range(n):
            half = (np.int32(1) << shift[d]) >> 1
            index = (sums[d] + half) >> shift[d]
            index = min(max(index, -ACT_HALF), ACT_HALF - 1) + ACT_HALF
            v_half = (np.int32(1) << v_shift[d]) >> 1
            v = (np.int32(v_acc[m, d]) + v_bias[d] + v_half) >> v_shift[d]
            v = min(max(v, -ACT_MAX), ACT_MAX)
            value = (np.int32(swish[index]) * v + ((np.int32(1) << product_shift) >> 1)) >> product_shift
            out[m, d] = min(max(value, -ACT_MAX), ACT_MAX)


@njit(cache=True, nogil=True)
def activate(acc: Acc, bias: I32, shift: I32, table: I16, out: Narrow) -> None:
    """out = table[requantised acc]: GELU of the MLP's hidden layer."""
    for m in range(acc.shape[0]):
        for d in range(acc.shape[1]):
            half = (np.int32(1) << shift[d]) >> 1
            index = (np.int32(acc[m, d]) + bias[d] + half) >> shift[d]
            out[m, d] = table[min(max(index, -ACT_HALF), ACT_HALF - 1) + ACT_HALF]


@njit(cache=True, nogil=True)
def finish_head(acc: F64, bias: I32, shift: I32, out: I32) -> None:
    """Head outputs in the entropy coder's units, cut to 27 bits."""
    for m in range(acc.shape[0]):
        for d in range(acc.shape[1]):
            value = round_shift(np.int64(acc[m, d]) + np.int64(bias[d]), np.int64(shift[d]))
            out[m, d] = min(max(value, np.int64(-HEAD_MAX)), np.int64(HEAD_MAX))
