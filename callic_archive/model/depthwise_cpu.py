"""Compiled loops of the training-time depth-wise convolution (float32, channels-last)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def row_count(shape: Sequence[int]) -> int:
    """Number of (image, row) pairs, over which the loops are parallel."""
    return int(shape[0] * shape[1])


@njit(cache=True, parallel=True, fastmath=True)
def forward(x: FloatArray, kernel: FloatArray, taps: IntArray, out: FloatArray) -> None:
    """out[n, i, j] = sum over taps of kernel[t] * x[n, i + di, j + dj]; x, out (N, H, W, C), kernel (T,
    C)."""
    n, h, w, c = x.shape
    for row in prange(n * h):
        image, i = row // h, row % h
        line = out[image, i]
        line[:] = 0.0
        for t in range(taps.shape[0]):
            si, dj = i + taps[t, 0], taps[t, 1]
            if si < 0 or si >= h:
                continue
            weight = kernel[t]
            for j in range(max(0, -dj), min(w, w - dj)):
                source, target = x[image, si, j + dj], line[j]
                for ch in range(c):
                    target[ch] += weight[ch] * source[ch]


@njit(cache=True, parallel=True, fastmath=True)
def weight_gradient(x: FloatArray, grad: FloatArray, taps: IntArray, partial: FloatArray) -> None:
    """partial[row, t] += sum_j grad[row, j] * x[row + di, j + dj]; summed over rows by the caller."""
    n, h, w, c = x.shape
    for row in prange(n * h):
        image, i = row // h, row % h
        for t in range(taps.shape[0]):
            si, dj = i + taps[t, 0], taps[t, 1]
            if si < 0 or si >= h:
                continue
            total = partial[row, t]
            for j in range(max(0, -dj), min(w, w - dj)):
                source, target = x[image, si, j + dj], grad[image, i, j]
                for ch in range(c):
                    total[ch] += target[ch] * source[ch]
