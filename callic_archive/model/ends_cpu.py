"""Compiled loops of a training step on CPUs: its two ends, features before the network and the code length behind it.

What ``mgcf.MGCF.inputs`` and ``mgcf.mixture_bits`` say, sixteen pixels of a row at a time, so widths are multiples of 16.
Planes are flat: x and skip (N, C, H, W); features (F, N, H, W) and head outputs (O, N, H, W), whose pixels lie side by side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from callic_archive.model.config import (
    COMPAND_KNEE,
    COMPAND_LIMIT,
    EMBED_TAPS,
    LOG_SCALE_MAX,
    LOG_SCALE_MIN,
    MEAN_GAIN,
    TAPS,
)
from callic_archive.model.vectors import (
    LANES,
    choose,
    constant,
    exp,
    fma,
    inlined,
    larger,
    load,
    log,
    magnitude,
    root,
    signed,
    smaller,
    store,
    total,
)

F32 = NDArray[np.float32]
_TAPS, _EMBED = len(TAPS), EMBED_TAPS
_PER_NAT = 1 / math.log(2)


@inlined
def _neighbours(x: F32, plane: int, i: int, width: int, mid: np.float32, lines: F32) -> None:
    """The six causal neighbours of row ``i`` of a plane, one line each, as ``mgcf.neighbours`` defines them."""
    at = plane + i * width
    for j in range(width):
        lines[j] = x[at + j - 1] if j > 0 else (x[at - width] if i > 0 else mid)  # west
    for j in range(width):
        west = lines[j]
        lines[width + j] = x[at - width + j] if i > 0 else west
        lines[2 * width + j] = x[at - width + max(j - 1, 0)] if i > 0 else west
        lines[3 * width + j] = x[at - width + min(j + 1, width - 1)] if i > 0 else west
        lines[4 * width + j] = x[at + j - 2] if j > 1 else west
        lines[5 * width + j] = x[at - 2 * width + j] if i > 1 else lines[width + j]


@njit(cache=True, parallel=True)
def features(
    x: F32, weights: F32, shift: F32, depth: F32, mid: F32, shape: tuple[int, int, int, int], out: F32, skip: F32
) -> None:
    """``out``: features of the embedding; ``skip``: the linear prediction. weights (C * 5); shift, depth, mid (N,)."""
    images, channels, height, width = shape
    pixels = images * height * width
    for row in prange(images * height):
        image, i = row // height, row % height
        lines = np.empty(_TAPS * width, np.float32)
        unit, gain = constant(2.0 ** -shift[image]), constant(2.0 ** (8 - depth[image]))
        for c in range(channels):
            _neighbours(x, (image * channels + c) * height * width, i, width, mid[image], lines)
            for j in range(0, width, LANES):
                west = load(lines, j)
                guess = west
                for t in range(1, _TAPS):
                    guess = fma(constant(weights[c * (_TAPS - 1) + t - 1]), load(lines, t * width + j) - west, guess)
                store(skip, (image * channels + c) * height * width + i * width + j, guess)
                for t in range(_EMBED):
                    u = (load(lines, t * width + j) - guess) * unit
                    u = larger(smaller(u, constant(COMPAND_LIMIT)), constant(-COMPAND_LIMIT)) * constant(1 / COMPAND_KNEE)
                    size = magnitude(u)
                    value = log(size + root(fma(size, size, constant(1.0)))) * constant(COMPAND_KNEE)
                    store(out, (t * channels + c) * pixels + row * width + j, signed(larger(value, constant(0.0)), u))
                level = (west - constant(mid[image])) * gain
                store(out, (_EMBED * channels + c) * pixels + row * width + j, level)
        for j in range(0, width, LANES):
            store(out, (_EMBED + 1) * channels * pixels + row * width + j, constant(4.0 * shift[image]))


@njit(cache=True, parallel=True)
def features_backward(
    x: F32, skip: F32, shift: F32, mid: F32, shape: tuple[int, int, int, int], grad: F32, grad_skip: F32, out: F32
) -> None:
    """Gradients of the weights of the linear prediction, a row each (N * H, C * 5), from those of features and prediction."""
    images, channels, height, width = shape
    pixels = images * height * width
    for row in prange(images * height):
        image, i = row // height, row % height
        lines = np.empty(_TAPS * width, np.float32)
        sums = np.zeros((_TAPS - 1) * LANES, np.float32)
        unit = constant(2.0 ** -shift[image])
        for c in range(channels):
            plane = (image * channels + c) * height * width
            _neighbours(x, plane, i, width, mid[image], lines)
            sums[:] = 0
            for j in range(0, width, LANES):
                guess = load(skip, plane + i * width + j)
                slope = constant(0.0)
                for t in range(_EMBED):
                    u = (load(lines, t * width + j) - guess) * unit
                    beyond = constant(COMPAND_LIMIT) - magnitude(u)
                    u = u * constant(1 / COMPAND_KNEE)
                    g = load(grad, (t * channels + c) * pixels + row * width + j) / root(fma(u, u, constant(1.0)))
                    slope = slope + choose(beyond, g, constant(0.0))
                g = load(grad_skip, plane + i * width + j) - slope * unit
                for t in range(1, _TAPS):
                    n = (t - 1) * LANES
                    store(sums, n, fma(g, load(lines, t * width + j) - load(lines, j), load(sums, n)))
            for t in range(_TAPS - 1):
                out[row, c * (_TAPS - 1) + t] = total(load(sums, t * LANES))


@inlined
def _less_than_one(wide: Any, rest: Any) -> Any:
    """``1 - exp(-wide)``, given ``rest = exp(-wide)``; by its series where that would cancel."""
    p = fma(wide, constant(1 / 120), constant(-1 / 24))
    p = fma(wide, p, constant(1 / 6))
    p = fma(wide, p, constant(-0.5))
    return choose(constant(0.25) - wide, fma(wide, p, constant(1.0)) * wide, constant(1.0) - rest)


@inlined
def _log_mass(middle: Any, half: Any, low: Any, high: Any) -> Any:
    """Logarithm of a level's mass under a logistic distribution, and its derivatives with respect to ``middle`` and ``half``.

    ``middle``: the level's distance from the mean, ``half``: half its width, both in scales. ``low``, ``high``: 0 where the
    level owns the whole tail on that side, else 1. With s the logistic function, s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)),
    log s(u) = min(u, 0) - log(1 + exp(-|u|)), and the derivative of that is s(-u).
    """
    up, down = middle + half, half - middle
    e_up, e_down = exp(constant(0.0) - magnitude(up)), exp(constant(0.0) - magnitude(down))
    all_up, all_down = constant(1.0) + e_up, constant(1.0) + e_down
    of_up = high * (choose(up, e_up, constant(1.0)) / all_up)
    of_down = low * (choose(down, e_down, constant(1.0)) / all_down)
    wide = larger(half, constant(1e-9)) * constant(2.0)
    rest = exp(constant(0.0) - wide)
    inside, both = _less_than_one(wide, rest), low * high
    value = high * (smaller(up, constant(0.0)) - log(all_up)) + low * (smaller(down, constant(0.0)) - log(all_down))
    of_inside = both * choose(half - constant(1e-9), constant(2.0) * rest / inside, constant(0.0))
    return value + both * log(inside), of_up - of_down, of_up + of_down + of_inside


@njit(cache=True, parallel=True)
def mixture(
    head: F32, skip: F32, x: F32, shift: F32, top: F32, shape: tuple[int, int, int, int], mixtures: int,
    bits: F32, grad: F32, grad_skip: F32,
) -> None:  # fmt: skip
    """``bits`` (N, H, W), and their derivatives with respect to the head's outputs (may be ``head`` itself) and to ``skip``."""
    images, channels, height, width = shape
    pixels, count = images * height * width, mixtures * LANES
    for row in prange(images * height):
        image, i = row // height, row % height
        unit, highest = constant(2.0 ** -shift[image]), constant(top[image])
        prior, score = np.empty(count, np.float32), np.empty(count, np.float32)
        errors, pulls = np.empty(channels * count, np.float32), np.empty(channels * count, np.float32)
        widths = np.empty(channels * count, np.float32)
        for j in range(0, width, LANES):
            p = row * width + j
            most = load(head, p)
            for k in range(1, mixtures):
                most = larger(most, load(head, k * pixels + p))
            mass = constant(0.0)
            for k in range(mixtures):
                e = exp(load(head, k * pixels + p) - most)
                store(prior, k * LANES, e)
                mass = mass + e
            whole = most + log(mass)
            for k in range(mixtures):
                store(score, k * LANES, load(head, k * pixels + p) - whole)
                store(prior, k * LANES, load(prior, k * LANES) / mass)
            for c in range(channels):
                q = (image * channels + c) * height * width + i * width + j
                level = load(x, q)
                target = (level - load(skip, q)) * unit
                # The lowest and the highest level own their whole tail; levels are whole numbers.
                low = smaller(level, constant(1.0))
                high = larger(smaller(highest - level, constant(1.0)), constant(0.0))
                for k in range(mixtures):
                    mean = load(head, (mixtures * (1 + c) + k) * pixels + p)
                    raw = load(head, (mixtures * (1 + channels + c) + k) * pixels + p)
                    centred = fma(mean, constant(-MEAN_GAIN), target)
                    for b in range(c):
                        pair = mixtures * (1 + 2 * channels + c * (c - 1) // 2 + b) + k
                        centred = centred - load(head, pair * pixels + p) * load(errors, (b * mixtures + k) * LANES)
                    store(errors, (c * mixtures + k) * LANES, centred)
                    scale = larger(smaller(raw, constant(LOG_SCALE_MAX)), constant(LOG_SCALE_MIN))
                    inverse = exp(constant(0.0) - scale)
                    half = constant(0.5) * unit * inverse
                    middle = centred * inverse
                    value, of_middle, of_half = _log_mass(middle, half, low, high)
                    store(score, k * LANES, load(score, k * LANES) + value)
                    of_scale = constant(0.0) - inverse * (centred * of_middle + constant(0.5) * unit * of_half)
                    of_scale = choose(constant(LOG_SCALE_MAX) - raw, of_scale, constant(0.0))
                    store(pulls, (c * mixtures + k) * LANES, of_middle * inverse)
                    store(widths, (c * mixtures + k) * LANES, choose(raw - constant(LOG_SCALE_MIN), of_scale, constant(0.0)))
            most = load(score, 0)
            for k in range(1, mixtures):
                most = larger(most, load(score, k * LANES))
            mass = constant(0.0)
            for k in range(mixtures):
                e = exp(load(score, k * LANES) - most)
                store(score, k * LANES, e)
                mass = mass + e
            store(bits, p, (most + log(mass)) * constant(-_PER_NAT))
            each = constant(-_PER_NAT) / mass
            for k in range(mixtures):
                share = load(score, k * LANES) * each
                store(score, k * LANES, share)
                store(grad, k * pixels + p, fma(load(prior, k * LANES), constant(_PER_NAT), share))
            for back in range(channels):
                c = channels - 1 - back
                of_target = constant(0.0)
                for k in range(mixtures):
                    share = load(score, k * LANES)
                    pull = share * load(pulls, (c * mixtures + k) * LANES)
                    for later in range(c + 1, channels):  # what later channels' means take of this one's error
                        pair = mixtures * (1 + 2 * channels + later * (later - 1) // 2 + c) + k
                        weight = load(errors, (later * mixtures + k) * LANES)
                        pull = pull - weight * load(head, pair * pixels + p)
                    own = load(errors, (c * mixtures + k) * LANES)
                    store(pulls, (c * mixtures + k) * LANES, own)
                    store(errors, (c * mixtures + k) * LANES, pull)
                    store(grad, (mixtures * (1 + c) + k) * pixels + p, pull * constant(-MEAN_GAIN))
                    width_pull = share * load(widths, (c * mixtures + k) * LANES)
                    store(grad, (mixtures * (1 + channels + c) + k) * pixels + p, width_pull)
                    of_target = of_target + pull
                q = (image * channels + c) * height * width + i * width + j
                store(grad_skip, q, constant(0.0) - of_target * unit)
            for c in range(1, channels):
                for b in range(c):
                    for k in range(mixtures):
                        pair = mixtures * (1 + 2 * channels + c * (c - 1) // 2 + b) + k
                        product = load(errors, (c * mixtures + k) * LANES) * load(pulls, (b * mixtures + k) * LANES)
                        store(grad, pair * pixels + p, constant(0.0) - product)
