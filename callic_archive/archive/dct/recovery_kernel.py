"""The compiled loops of ``recovery``: YCbCr of RGB, chroma samples of pixels, coefficients of samples that may be unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.archive.dct.decoding_kernel import (
    BLUE_CB,
    GREEN_CR,
    MIDDLE,
    RED_CR,
    Coefficients,
    Numbers,
    Samples,
    Table,
    held,
    inverse,
)  # fmt: skip

Floats = NDArray[np.float32]
Patterns = NDArray[np.float64]  # (64, samples of a block): what each coefficient adds to them
Int = Any

TURNED = 8  # levels of a block that may be turned
SETTLING = 8  # rounds of guessing uncertain samples
ROUNDS = 4  # of taking in bounds
LARGEST = 2047.0
SURE = 0.1  # mean square error up to which a sample is certain: a little more than that of rounding


@njit(cache=True, nogil=True)
def components(image: Samples, green_cb: Int, luma: Samples, blue: Samples, red: Samples, known: Samples) -> float:
    """Y, Cb and Cr of which RGB (H, W, 3) was made; of which share of the pixels without 0 and 255 some were found.

    ``known``: 1 where they are certain, 0 where a guess: where a channel is 0 or 255, or no Y, Cb and Cr give the colour.
    """
    found = held_apart = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            r, g, b = np.int64(image[y, x, 0]), np.int64(image[y, x, 1]), np.int64(image[y, x, 2])
            light = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
            cb0 = ((-11059 * r - 21709 * g + 32768 * b + 32768) >> 16) + MIDDLE
            cr0 = ((32768 * r - 27439 * g - 5329 * b + 32768) >> 16) + MIDDLE
            luma[y, x], blue[y, x], red[y, x] = held(light), held(cb0), held(cr0)
            ends = r == 0 or g == 0 or b == 0 or r == 255 or g == 255 or b == 255
            known[y, x] = 0
            good = False
            for step in range(9):
                cb, cr = cb0 + (step % 3 + 1) % 3 - 1, cr0 + (step // 3 + 1) % 3 - 1
                if cb < 0 or cr < 0 or cb > 255 or cr > 255:
                    continue
                to_r = (RED_CR * (cr - MIDDLE) + 32768) >> 16
                to_g = (green_cb * (cb - MIDDLE) + GREEN_CR * (cr - MIDDLE) + 32768) >> 16
                to_b = (BLUE_CB * (cb - MIDDLE) + 32768) >> 16
                here = g - to_g
                if 0 < g < 255:
                    pass
                elif 0 < r < 255:
                    here = r - to_r
                else:
                    here = b - to_b
                here = held(here)
                if held(here + to_r) == r and held(here + to_g) == g and held(here + to_b) == b:
                    luma[y, x], blue[y, x], red[y, x] = here, cb, cr
                    good = True
                    break
            if ends:
                held_apart += 1
            elif good:
                found += 1
                known[y, x] = 1
    return (found + 1) / (known.size - held_apart + 1)


@njit(cache=True, nogil=True)
def light_bounds(
    image: Samples, green_cb: Int, blue: Samples, red: Samples, low: NDArray[np.int16], high: NDArray[np.int16]
) -> None:
    """The values of Y (H, W) that give RGB (H, W, 3) with these Cb and Cr: from ``low`` to ``high``, none where those cross."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            cb, cr = np.int64(blue[y, x]) - MIDDLE, np.int64(red[y, x]) - MIDDLE
            least, most = np.int64(0), np.int64(255)
            for channel in range(3):
                if channel == 0:
                    more = (RED_CR * cr + 32768) >> 16
                elif channel == 1:
                    more = (green_cb * cb + GREEN_CR * cr + 32768) >> 16
                else:
                    more = (BLUE_CB * cb + 32768) >> 16
                value = np.int64(image[y, x, channel])
                if value > 0:
                    least = max(least, value - more)
                if value < 255:
                    most = min(most, value - more)
            low[y, x], high[y, x] = least, most


@njit(cache=True, nogil=True)
def nudge(
    pixels: Samples, known: Samples, down: Int, across: Int, smooth: Int, top: Int, left: Int, rows: Int, columns: Int,
    rate: float, samples: Floats, off: Floats,
) -> None:  # fmt: skip
    """Move samples towards what pixels ask for: by ``rate`` times the mean of what the known pixels that lie in each are off.

    What is spread is as in ``decoding_kernel.spread``, but not rounded; ``off``: room for as many numbers as there are pixels.
    """
    height, width = pixels.shape
    for y in range(height):
        row = (y + top) // down
        other = row
        if smooth and down == 2:
            other = min(max(row + (2 * ((y + top) & 1) - 1), 0), rows - 1)
        for x in range(width):
            if not known[y, x]:
                continue
            column = (x + left) // across
            beside = column
            if smooth and across == 2:
                beside = min(max(column + (2 * ((x + left) & 1) - 1), 0), columns - 1)
            near = 0.75 * samples[row, column] + 0.25 * samples[other, column]
            far = 0.75 * samples[row, beside] + 0.25 * samples[other, beside]
            off[y, x] = pixels[y, x] - (0.75 * near + 0.25 * far)
    for row in range(top // down, rows):
        for column in range(left // across, columns):
            total, count = 0.0, 0
            for y in range(max(row * down - top, 0), min((row + 1) * down - top, height)):
                for x in range(max(column * across - left, 0), min((column + 1) * across - left, width)):
                    if known[y, x]:
                        total += off[y, x]
                        count += 1
            if count:
                samples[row, column] += np.float32(rate * total / count)


@njit(cache=True, nogil=True, forceinline=True)
def _forward(block: NDArray[np.float64], patterns: Patterns, out: NDArray[np.float64]) -> None:
    for k in range(64):
        total = 0.0
        for n in range(len(block)):
            total += patterns[k, n] * block[n]
        out[k] = total * (64.0 / len(block))


@njit(cache=True, nogil=True)
def transformed(samples: Floats, patterns: Patterns, tall: Int, wide: Int, out: Floats) -> None:
    """Samples, less MIDDLE, of blocks of ``tall`` rows and ``wide`` columns, as real coefficients (rows, columns, 64)."""
    block, found = np.zeros(tall * wide), np.zeros(64)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            for y in range(tall):
                for x in range(wide):
                    block[wide * y + x] = samples[tall * row + y, wide * column + x] - MIDDLE
            _forward(block, patterns, found)
            for k in range(64):
                out[row, column, k] = found[k]


@njit(cache=True, nogil=True)
def _misses(pixels: NDArray[np.int64], low: NDArray[np.int16], high: NDArray[np.int16]) -> int:
    wrong = 0
    for k in range(len(pixels)):
        value = held(pixels[k])
        if value < low[k] or value > high[k]:
            wrong += 1
    return wrong


@njit(cache=True, nogil=True)
def _turned(
    levels: Coefficients, real: NDArray[np.float64], table: Table, low: NDArray[np.int16], high: NDArray[np.int16], wrong: Int,
    vertical: Numbers, horizontal: Numbers, works: Numbers, pixels: Numbers,
) -> Int:  # fmt: skip
    """Turn up to three of the levels (64) that were rounded with least certainty the other way, if fewer are wrong then."""
    doubtful = np.zeros(TURNED, np.int64)
    doubt = np.zeros(64)
    for k in range(64):
        doubt[k] = abs(real[k] / table[k] - levels[k]) + (0.25 / table[k])
    for n in range(TURNED):
        doubtful[n] = np.argmax(doubt)
        doubt[doubtful[n]] = -1.0
    best = np.zeros(3, np.int64)
    step = np.zeros(64, np.int64)
    for k in range(64):
        step[k] = 1 if real[k] / table[k] > levels[k] else -1
    fewest = wrong
    for a in range(TURNED):
        for b in range(a, TURNED):
            for c in range(b, TURNED):
                if c == b and b != a:
                    continue  # (a, a, a) is one, (a, a, c) two, (a, b, c) three
                ka, kb, kc = doubtful[a], doubtful[b], doubtful[c]
                levels[ka] += step[ka]
                if kb != ka:
                    levels[kb] += step[kb]
                if kc != kb and kc != ka:
                    levels[kc] += step[kc]
                inverse(levels, table, vertical, horizontal, works, pixels)
                now = _misses(pixels, low, high)
                levels[ka] -= step[ka]
                if kb != ka:
                    levels[kb] -= step[kb]
                if kc != kb and kc != ka:
                    levels[kc] -= step[kc]
                if now < fewest:
                    fewest = now
                    best[0], best[1], best[2] = ka + 1, kb + 1, kc + 1
                    if now == 0:
                        break
            if fewest == 0:
                break
        if fewest == 0:
            break
    if fewest < wrong:
        ka, kb, kc = best[0] - 1, best[1] - 1, best[2] - 1
        levels[ka] += step[ka]
        if kb != ka:
            levels[kb] += step[kb]
        if kc != kb and kc != ka:
            levels[kc] += step[kc]
    return fewest


@njit(cache=True, nogil=True)
def _inverted(matrix: NDArray[np.float64]) -> None:
    """The inverse of a symmetric, positive matrix, in its place (Gauss and Jordan)."""
    size = len(matrix)
    for pivot in range(size):
        scale = 1.0 / matrix[pivot, pivot]
        matrix[pivot, pivot] = 1.0
        for n in range(size):
            matrix[pivot, n] *= scale
        for m in range(size):
            if m != pivot:
                share = matrix[m, pivot]
                matrix[m, pivot] = 0.0
                for n in range(size):
                    matrix[m, n] -= share * matrix[pivot, n]


@njit(cache=True, nogil=True)
def _likeliest(
    aim: NDArray[np.float64], doubt: NDArray[np.float64], table: Table, power: NDArray[np.float64], mean: float,
    patterns: Patterns, levels: Coefficients, real: NDArray[np.float64], spread: NDArray[np.float64],
) -> None:  # fmt: skip
    """The likeliest levels (64) of samples ``aim``, less MIDDLE, of which ``doubt`` is the mean square error: the surest is
    rounded first, and what that says of the others is taken in before the next is.

    power: mean squares of coefficients; ``mean``: what the first one is about;
    ``real``: coefficients before they were rounded; ``spread`` (64, 64): room.
    """
    right = np.zeros(64)
    for k in range(64):
        for m in range(64):
            spread[k, m] = 0.0
        spread[k, k] = 1.0 / power[k]
    right[0] = mean / power[0]
    for n in range(len(aim)):
        for k in range(64):
            weight = patterns[k, n] / doubt[n]
            right[k] += weight * aim[n]
            for m in range(64):
                spread[k, m] += weight * patterns[m, n]
    _inverted(spread)
    expected = np.zeros(64)
    for k in range(64):
        for m in range(64):
            expected[k] += spread[k, m] * right[m]
    left = np.ones(64, np.bool_)
    column = np.zeros(64)
    for _ in range(64):
        k, least = 0, np.inf
        for m in range(64):
            if left[m] and spread[m, m] < least * np.float64(table[m]) * np.float64(table[m]):
                k, least = m, spread[m, m] / (np.float64(table[m]) * np.float64(table[m]))
        left[k] = False
        level = min(max(np.rint(expected[k] / table[k]), -LARGEST), LARGEST)
        levels[k] = np.int16(level)
        real[k] = expected[k]
        pivot = spread[k, k]
        if pivot > 1e-9:
            change = (level * table[k] - expected[k]) / pivot
            for m in range(64):
                column[m] = spread[m, k]
            for m in range(64):
                if left[m]:
                    expected[m] += change * column[m]
                    share = column[m] / pivot
                    for n in range(64):
                        spread[m, n] -= share * column[n]


@njit(cache=True, nogil=True)
def fit_blocks(
    samples: Floats, doubts: Floats, low: NDArray[np.int16], high: NDArray[np.int16], table: Table, power: NDArray[np.float64],
    patterns: Patterns, vertical: Numbers, horizontal: Numbers, levels: Coefficients,
) -> int:  # fmt: skip
    """Coefficients (rows, columns, 64) of ``samples`` of which ``doubts`` are the mean square errors, and whose decoded samples
    lie between ``low`` and ``high``, where such are found; how many samples do not.
    """
    tall, wide = vertical.shape[1], horizontal.shape[1]
    count = tall * wide
    block, doubt, real = np.zeros(count), np.zeros(count), np.zeros(64)
    works, pixels = np.zeros(8 * tall, np.int64), np.zeros(count, np.int64)
    least, most, tried = np.zeros(count, np.int16), np.zeros(count, np.int16), np.zeros(64, np.int16)
    room = np.zeros((64, 64))
    wrong_in_all = 0
    before = 0.0
    for row in range(levels.shape[0]):
        for column in range(levels.shape[1]):
            plain = True
            for y in range(tall):
                for x in range(wide):
                    k = wide * y + x
                    least[k], most[k] = low[tall * row + y, wide * column + x], high[tall * row + y, wide * column + x]
                    block[k] = samples[tall * row + y, wide * column + x] - MIDDLE
                    doubt[k] = doubts[tall * row + y, wide * column + x]
                    plain = plain and doubt[k] <= SURE
            fewest = count + 1
            for _ in range(1 if plain else SETTLING):  # what is not certain is taken for what came of it
                _forward(block, patterns, real)
                for k in range(64):
                    tried[k] = np.int16(min(max(np.rint(real[k] / table[k]), -LARGEST), LARGEST))
                inverse(tried, table, vertical, horizontal, works, pixels)
                wrong = _misses(pixels, least, most)
                if wrong < fewest:
                    fewest = wrong
                    levels[row, column] = tried
                if wrong == 0 or plain:
                    break
                moved = False
                for k in range(count):
                    if doubt[k] > SURE:
                        value = np.float64(pixels[k])
                        if value < least[k] and least[k] > 0:
                            value = np.float64(least[k])
                        if value > most[k] and most[k] < 255:
                            value = np.float64(most[k])
                        moved = moved or value - MIDDLE != block[k]
                        block[k] = value - MIDDLE
                if not moved:
                    break
            if plain and fewest:
                fewest = _turned(levels[row, column], real, table, least, most, fewest, vertical, horizontal, works, pixels)
            if not plain and fewest:
                for y in range(tall):
                    for x in range(wide):
                        block[wide * y + x] = samples[tall * row + y, wide * column + x] - MIDDLE
                for turn in range(ROUNDS):
                    _likeliest(block, doubt, table, power, before, patterns, tried, real, room)
                    inverse(tried, table, vertical, horizontal, works, pixels)
                    wrong = _misses(pixels, least, most)
                    if wrong and (turn == ROUNDS - 1 or wrong < 8):
                        wrong = _turned(tried, real, table, least, most, wrong, vertical, horizontal, works, pixels)
                    if wrong < fewest:
                        fewest = wrong
                        levels[row, column] = tried
                    if wrong == 0:
                        break
                    inverse(tried, table, vertical, horizontal, works, pixels)
                    more = False  # what is beyond its bounds lies at the nearer one, rather
                    for k in range(count):
                        value = held(pixels[k])
                        if doubt[k] > SURE and (value < least[k] or value > most[k]):
                            more = True
                            doubt[k] = SURE
                            block[k] = np.float64(least[k] if value < least[k] else most[k]) - MIDDLE
                    if not more:
                        break
            before = np.float64(levels[row, column, 0]) * table[0]
            wrong_in_all += fewest
    return wrong_in_all


@njit(cache=True, nogil=True)
def _stride(count: Int) -> Int:
    """A number with no divisor in common with ``count``, so that its multiples visit all places, near ones far apart."""
    stride = np.int64(0.618 * count) | 1
    while True:
        a, b = count, stride
        while b:
            a, b = b, a % b
        if a == 1:
            return stride
        stride += 1


@njit(cache=True, nogil=True)
def steps_likely(
    values: Floats, samples: Floats, good: NDArray[np.bool_], noise: NDArray[np.float64], stray: float, most: Int,
    out: NDArray[np.float64],
) -> None:  # fmt: skip
    """For each coefficient (64) and step 1 .. 255 how much likelier the step makes ``values`` (rows, columns, 64) of ``good``
    blocks to be its multiples, but for noise and a share ``stray`` that may be anything, than that there is no step (log).

    noise (64): that of rounding ``samples``, which is as independent as these are varied: over a flat block all errors are equal.
    At most ``most`` values count for each coefficient, of blocks all over the image: a sky tells little, and that wrongly.
    """
    tall, wide = samples.shape[0] // values.shape[0], samples.shape[1] // values.shape[1]
    counts = np.zeros(64, np.int64)
    before, loose = np.nan, 0.0
    blocks = values.shape[0] * values.shape[1]
    stride = _stride(blocks)
    for turn in range(blocks):
        row, column = divmod(turn * stride % blocks, values.shape[1])
        if not good[row, column]:
            continue
        up, side = 0, 0
        for y in range(tall):
            for x in range(wide):
                here = samples[tall * row + y, wide * column + x]
                up += y > 0 and abs(samples[tall * row + y - 1, wide * column + x] - here) > 0.5
                side += x > 0 and abs(samples[tall * row + y, wide * column + x - 1] - here) > 0.5
        for k in range(64):
            spread = noise[k]
            if k < 8 and up < tall * wide // 3:
                spread *= np.sqrt(tall)
            if k % 8 == 0 and side < tall * wide // 3:
                spread *= np.sqrt(wide)
            value = np.float64(values[row, column, k])
            if k == 0:  # levels of brightness lie close together, so all may be near to one multiple of much
                value, before = value - before, value
                spread, loose = np.hypot(spread, loose), spread
                if np.isnan(value):
                    continue
            if abs(value) <= (5 if k else 3) * spread or counts[k] >= most:
                continue
            surely = abs(value) > 5 * spread  # not zero, of which all would be multiples: others can but contradict
            counts[k] += surely
            scale = 1.0 / (spread * np.sqrt(2 * np.pi))
            for step in range(1, 256):
                if step > 2 * spread:
                    off = value - step * np.rint(value / step)
                    near = np.exp(-0.5 * (off / spread) ** 2)
                    if step < 6 * spread:  # the next multiple may be the right one
                        near += np.exp(-0.5 * ((step - abs(off)) / spread) ** 2)
                    gain = np.log((1 - stray) * step * scale * near + stray)
                    out[k, step] += gain if surely else min(gain, 0.0)
