"""Compiled loops of a training step on CPUs: all of a block but its matrix products, forward and backward.

Arrays are flat, pixels in rows and channels last. ``P`` pixels of ``D`` channels; ``narrow`` ones hold what goes into matrix
products, bfloat16 (as uint16) or float32, whichever the step works in; sums run in float32. What the backward pass needs
of a gate or a GELU are its derivatives, and these are stored in place of its inputs. Loops are parallel over chunks of
pixels, or over images and channels; each has sums of its own, added by the caller in a fixed order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from callic_archive.model.vectors import (
    LANES,
    constant,
    exp,
    fma,
    inlined,
    load,
    magnitude,
    signed,
    store,
    total,
)

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Narrow = Any
#: Pixels of a chunk.
CHUNK = 512
#: Channels that one pass of the depth-wise convolution takes: what a cache line of bfloat16 holds.
STRIPE = 2 * LANES
EPSILON = 1e-5


def groups_of(images: int, channels: int, threads: int) -> int:
    """Into how many groups the channels are cut, so that images times groups keep so many threads busy."""
    stripes, groups = channels // STRIPE, 1
    while images * groups < threads and stripes % (2 * groups) == 0:
        groups *= 2
    return groups


def chunks(pixels: int) -> int:
    """How many chunks, and so rows of partial sums, so many pixels make."""
    return -(-pixels // CHUNK)


@inlined
def _normalise_row(x: F32, at: int, hat: Narrow, width: int) -> np.float32:
    sums = constant(0.0)
    for c in range(0, width, LANES):
        sums = sums + load(x, at + c)
    mean = constant(total(sums) / width)
    squares = constant(0.0)
    for c in range(0, width, LANES):
        centred = load(x, at + c) - mean
        squares = fma(centred, centred, squares)
    scale = np.float32(1.0) / np.sqrt(total(squares) / np.float32(width) + np.float32(EPSILON))
    for c in range(0, width, LANES):
        store(hat, at + c, (load(x, at + c) - mean) * constant(scale))
    return np.float32(scale)


@njit(cache=True, parallel=True)
def add_normalise(x: F32, y: Narrow, bias: F32, hat: Narrow, scales: F32, width: int) -> None:
    """``x += y + bias``, then ``hat = (x - mean) * scale`` of each pixel, and the scale (P,): LayerNorm without its gain and
    offset."""
    pixels = scales.size
    for chunk in prange((pixels + CHUNK - 1) // CHUNK):
        for p in range(chunk * CHUNK, min(pixels, (chunk + 1) * CHUNK)):
            at = p * width
            for c in range(0, width, LANES):
                store(x, at + c, load(x, at + c) + load(y, at + c) + load(bias, c))
            scales[p] = _normalise_row(x, at, hat, width)


@njit(cache=True, parallel=True)
def add(x: F32, y: Narrow, bias: F32, width: int) -> None:
    """``x += y + bias``."""
    pixels = x.size // width
    for chunk in prange((pixels + CHUNK - 1) // CHUNK):
        for p in range(chunk * CHUNK, min(pixels, (chunk + 1) * CHUNK)):
            for c in range(0, width, LANES):
                store(x, p * width + c, load(x, p * width + c) + load(y, p * width + c) + load(bias, c))


@njit(cache=True, parallel=True)
def narrow_gradient(grad: F32, out: Narrow, sums: F32, width: int) -> None:
    """``out = grad``, rounded; sums (chunks, D) of it over pixels."""
    pixels = grad.size // width
    for chunk in prange((pixels + CHUNK - 1) // CHUNK):
        part = sums[chunk]
        for p in range(chunk * CHUNK, min(pixels, (chunk + 1) * CHUNK)):
            for c in range(0, width, LANES):
                value = load(grad, p * width + c)
                store(out, p * width + c, value)
                store(part, c, load(part, c) + value)


@njit(cache=True, parallel=True)
def normalise_backward(
    grad: F32, inner: Narrow, hat: Narrow, scales: F32, out: Narrow, sums: F32, width: int
) -> None:
    """``grad``, the gradient of what left a residual branch, becomes that of what entered it: ``grad += `` what comes back
    through ``add_normalise`` from ``inner``. ``out`` and ``sums`` as in ``narrow_gradient``."""
    pixels = scales.size
    for chunk in prange((pixels + CHUNK - 1) // CHUNK):
        part = sums[chunk]
        for p in range(chunk * CHUNK, min(pixels, (chunk + 1) * CHUNK)):
            at = p * width
            plain, along = constant(0.0), constant(0.0)
            for c in range(0, width, LANES):
                g = load(inner, at + c)
                plain = plain + g
                along = fma(g, load(hat, at + c), along)
            mean, slope = constant(-total(plain) / width), constant(-total(along) / width)
            scale = constant(scales[p])
            for c in range(0, width, LANES):
                g = fma(load(hat, at + c), slope, load(inner, at + c) + mean)
                value = fma(g, scale, load(grad, at + c))
                store(grad, at + c, value)
                store(out, at + c, value)
                store(part, c, load(part, c) + value)


@inlined
def _normal(x: Any, bell: Any) -> Any:
    """The normal distribution up to x; ``bell``: exp(-x^2 / 2). Abramowitz and Stegun, 7.1.26 (error below 1.5e-7)."""
    t = constant(1.0) / fma(magnitude(x), constant(0.3275911 * 0.7071067811865476), constant(1.0))
    q = fma(t, constant(1.061405429), constant(-1.453152027))
    q = fma(t, q, constant(1.421413741))
    q = fma(t, q, constant(-0.284496736))
    q = fma(t, q, constant(0.254829592))
    return constant(0.5) + signed(fma(q * t, bell * constant(-0.5), constant(0.5)), x)


@njit(cache=True, parallel=True)
def gelu(u: Narrow, bias: F32, out: Narrow, width: int) -> None:
    """``out = GELU(u + bias)``, and its derivative in place of ``u``."""
    pixels = u.size // width
    for chunk in prange((pixels + CHUNK - 1) // CHUNK):
        for p in range(chunk * CHUNK, min(pixels, (chunk + 1) * CHUNK)):
            for c in range(0, width, LANES):
                x = load(u, p * width + c) + load(bias, c)
                bell = exp(x * x * constant(-0.5))
                phi = _normal(x, bell)
                store(out, p * width + c, x * phi)
                store(u, p * width + c, fma(x * constant(0.3989422804014327), bell, phi))


@njit(cache=True, parallel=True)
def times_slope(grad: Narrow, slope: Narrow, sums: F32, width: int) -> None:
    """``grad *= slope``, and the sums (chunks, width) of it over pixels."""
    pixels = grad.size // width
    for chunk in prange((pixels + CHUNK - 1) // CHUNK):
        part = sums[chunk]
        for p in range(chunk * CHUNK, min(pixels, (chunk + 1) * CHUNK)):
            for c in range(0, width, LANES):
                value = load(grad, p * width + c) * load(slope, p * width + c)
                store(grad, p * width + c, value)
                store(part, c, load(part, c) + value)


@inlined
def _radius(taps: I64) -> int:
    radius = 0
    for t in range(taps.shape[0]):
        radius = max(radius, abs(taps[t, 0]), abs(taps[t, 1]))
    return radius


@inlined
def _offsets(taps: I64, sign: int, row: int, radius: int, line: int, offsets: I64) -> None:
    """Where in a ring of 2 * radius + 1 padded lines each tap of ``row`` lies, from the pixel's own column on."""
    ring = 2 * radius + 1
    for t in range(taps.shape[0]):
        di, dj = sign * taps[t, 0], sign * taps[t, 1]
        offsets[t] = ((row + di + ring) % ring) * line + (dj + radius) * STRIPE


@inlined
def _clear(lines: F32, start: int, line: int, whole: int, stripes: int) -> None:
    """One line of every stripe's ring becomes zeros."""
    for s in range(stripes):
        for n in range(s * whole + start, s * whole + start + line, LANES):
            store(lines, n, constant(0.0))


@inlined
def _fill(
    av: Narrow, bias: F32, row: int, stride: int, first: int, width: int, lines: F32, at: int, whole: int, stripes: int
) -> None:
    """One line of ``a`` with its bias, from pixel ``row`` on, into the rings of all stripes."""
    for j in range(width):
        source = (row + j) * stride + first
        for s in range(stripes):
            for c in range(0, STRIPE, LANES):
                value = load(av, source + s * STRIPE + c) + load(bias, first + s * STRIPE + c)
                store(lines, s * whole + at + j * STRIPE + c, value)


@inlined
def _convolve(
    lines: F32, base: int, offsets: I64, kernel: F32, channels: int, first: int, width: int, acc: F32, out: int
) -> None:
    """acc[out + j] = sum over taps of kernel[t] * lines[base + offsets[t] + j], one stripe of channels from ``first`` on: four
    pixels at a time share a tap's weights."""
    j = 0
    while j + 4 <= width:
        a0, a1, a2, a3 = constant(0.0), constant(0.0), constant(0.0), constant(0.0)
        b0, b1, b2, b3 = constant(0.0), constant(0.0), constant(0.0), constant(0.0)
        for t in range(offsets.size):
            at = base + offsets[t] + j * STRIPE
            k, m = load(kernel, t * channels + first), load(kernel, t * channels + first + LANES)
            a0 = fma(k, load(lines, at), a0)
            b0 = fma(m, load(lines, at + LANES), b0)
            a1 = fma(k, load(lines, at + STRIPE), a1)
            b1 = fma(m, load(lines, at + STRIPE + LANES), b1)
            a2 = fma(k, load(lines, at + 2 * STRIPE), a2)
            b2 = fma(m, load(lines, at + 2 * STRIPE + LANES), b2)
            a3 = fma(k, load(lines, at + 3 * STRIPE), a3)
            b3 = fma(m, load(lines, at + 3 * STRIPE + LANES), b3)
        store(acc, out, a0)
        store(acc, out + LANES, b0)
        store(acc, out + STRIPE, a1)
        store(acc, out + STRIPE + LANES, b1)
        store(acc, out + 2 * STRIPE, a2)
        store(acc, out + 2 * STRIPE + LANES, b2)
        store(acc, out + 3 * STRIPE, a3)
        store(acc, out + 3 * STRIPE + LANES, b3)
        j += 4
        out += 4 * STRIPE
    while j < width:
        a0, b0 = constant(0.0), constant(0.0)
        for t in range(offsets.size):
            at = base + offsets[t] + j * STRIPE
            a0 = fma(load(kernel, t * channels + first), load(lines, at), a0)
            b0 = fma(load(kernel, t * channels + first + LANES), load(lines, at + LANES), b0)
        store(acc, out, a0)
        store(acc, out + LANES, b0)
        j += 1
        out += STRIPE


@inlined
def _correlate(lines: F32, base: int, offsets: I64, row: F32, at: int, width: int, channels: int, first: int, out: F32) -> None:
    """out[t] += sum over j of row[at + j] * lines[base + offsets[t] + j], one stripe: four taps at a time, which share what is
    loaded of the row."""
    for c in range(0, STRIPE, LANES):
        t = 0
        while t + 4 <= offsets.size:
            s0, s1, s2, s3 = constant(0.0), constant(0.0), constant(0.0), constant(0.0)
            o0, o1, o2, o3 = base + offsets[t], base + offsets[t + 1], base + offsets[t + 2], base + offsets[t + 3]
            for n in range(c, c + width * STRIPE, STRIPE):
                g = load(row, at + n)
                s0 = fma(g, load(lines, o0 + n), s0)
                s1 = fma(g, load(lines, o1 + n), s1)
                s2 = fma(g, load(lines, o2 + n), s2)
                s3 = fma(g, load(lines, o3 + n), s3)
            where = t * channels + first + c
            store(out, where, load(out, where) + s0)
            store(out, where + channels, load(out, where + channels) + s1)
            store(out, where + 2 * channels, load(out, where + 2 * channels) + s2)
            store(out, where + 3 * channels, load(out, where + 3 * channels) + s3)
            t += 4
        while t < offsets.size:
            s0 = constant(0.0)
            for n in range(c, c + width * STRIPE, STRIPE):
                s0 = fma(load(row, at + n), load(lines, base + offsets[t] + n), s0)
            store(out, t * channels + first + c, load(out, t * channels + first + c) + s0)
            t += 1


@njit(cache=True, parallel=True)
def gate(
    av: Narrow, bias: F32, kernel: F32, kernel_bias: F32, taps: I64, shape: tuple[int, int, int, int], groups: int,
    out: Narrow, swish: Narrow, slope: Narrow,
) -> None:  # fmt: skip
    """Masked convolutional gating between its matrix products: ``out = swish(conv(a)) * v``.

    av (P, 2 D): a and v without their bias (2 D). kernel (T, D), taps (T, 2). Stored for the way back: the swish itself,
    and ``v swish'(conv(a))``. Each image is done in ``groups`` groups of channels, in parallel.
    """
    images, height, width, channels = shape
    radius, stripes = _radius(taps), channels // STRIPE // groups
    ring, line, pad = 2 * radius + 1, (width + 2 * radius) * STRIPE, radius * STRIPE
    whole = ring * line
    for task in prange(images * groups):
        image, first = task // groups, (task % groups) * stripes * STRIPE
        lines, offsets = np.zeros(stripes * whole, np.float32), np.empty(taps.shape[0], np.int64)
        acc = np.empty(stripes * width * STRIPE, np.float32)
        for new in range(height + radius):
            if new < height:
                row = (image * height + new) * width
                _fill(av, bias, row, 2 * channels, first, width, lines, (new % ring) * line + pad, whole, stripes)
            else:
                _clear(lines, (new % ring) * line, line, whole, stripes)
            i = new - radius
            if i < 0:
                continue
            _offsets(taps, 1, i, radius, line, offsets)
            for s in range(stripes):
                _convolve(lines, s * whole, offsets, kernel, channels, first + s * STRIPE, width, acc, s * width * STRIPE)
            for j in range(width):
                p = (image * height + i) * width + j
                for s in range(stripes):
                    for c in range(0, STRIPE, LANES):
                        channel = first + s * STRIPE + c
                        z = load(acc, (s * width + j) * STRIPE + c) + load(kernel_bias, channel)
                        v = load(av, p * 2 * channels + channels + channel) + load(bias, channels + channel)
                        share = constant(1.0) / (constant(1.0) + exp(constant(0.0) - z))
                        g = z * share
                        at = p * channels + channel
                        store(out, at, g * v)
                        store(swish, at, g)
                        store(slope, at, fma(g, constant(1.0) - share, share) * v)  # swish' = s + z s (1 - s)


@njit(cache=True, parallel=True)
def gate_backward(
    grad: Narrow, swish: Narrow, slope: Narrow, av: Narrow, bias: F32, kernel: F32, taps: I64,
    shape: tuple[int, int, int, int], groups: int, out: Narrow, kernel_sums: F32, sums: F32,
) -> None:  # fmt: skip
    """The way back through ``gate``: from ``grad`` (P, D) to ``out`` (P, 2 D), the gradients of a and v.

    kernel_sums (images, T * D) and sums (images, 3 * D) take the gradients of the kernel, of the bias of a and v, and of the
    kernel's bias; both begin with zeros.
    """
    images, height, width, channels = shape
    radius, stripes = _radius(taps), channels // STRIPE // groups
    ring, line, pad = 2 * radius + 1, (width + 2 * radius) * STRIPE, radius * STRIPE
    whole = ring * line
    for task in prange(images * groups):
        image, first = task // groups, (task % groups) * stripes * STRIPE
        inputs, outputs = np.zeros(stripes * whole, np.float32), np.zeros(stripes * whole, np.float32)
        forth, back = np.empty(taps.shape[0], np.int64), np.empty(taps.shape[0], np.int64)
        acc = np.empty(stripes * width * STRIPE, np.float32)
        own, kernels = sums[image], kernel_sums[image]
        for new in range(height + radius):
            start = (new % ring) * line
            if new >= height:
                _clear(inputs, start, line, whole, stripes)
                _clear(outputs, start, line, whole, stripes)
            else:
                row = (image * height + new) * width
                _fill(av, bias, row, 2 * channels, first, width, inputs, start + pad, whole, stripes)
                for j in range(width):
                    for s in range(stripes):
                        for c in range(0, STRIPE, LANES):
                            channel = first + s * STRIPE + c
                            p = (row + j) * channels + channel
                            g = load(grad, p)
                            v, z = g * load(swish, p), g * load(slope, p)
                            store(outputs, s * whole + start + pad + j * STRIPE + c, z)
                            store(out, (row + j) * 2 * channels + channels + channel, v)
                            store(own, channels + channel, load(own, channels + channel) + v)
                            store(own, 2 * channels + channel, load(own, 2 * channels + channel) + z)
            i = new - radius
            if i < 0:
                continue
            _offsets(taps, 1, i, radius, line, forth)
            _offsets(taps, -1, i, radius, line, back)
            for s in range(stripes):
                base, of = s * whole, first + s * STRIPE
                _correlate(inputs, base, forth, outputs, base + (i % ring) * line + pad, width, channels, of, kernels)
                _convolve(outputs, base, back, kernel, channels, of, width, acc, s * width * STRIPE)
            for j in range(width):
                p = ((image * height + i) * width + j) * 2 * channels
                for s in range(stripes):
                    for c in range(0, STRIPE, LANES):
                        channel = first + s * STRIPE + c
                        a = load(acc, (s * width + j) * STRIPE + c)
                        store(out, p + channel, a)
                        store(own, channel, load(own, channel) + a)
