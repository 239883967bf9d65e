"""The compiled loop of ``coefficients``: planes of quantised coefficients, written and read by one function."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.archive.dct.mixing import Mixer, clipped, mixed, mixer
from callic_archive.images.deflate.coder import BROKEN, OK, STATUS, Bytes, Coder, Contexts, bit, contexts

Plane = NDArray[np.int16]
Numbers = NDArray[np.int64]
Int = Any

LEAST, MOST = -2048, 2047  # coefficients

INPUTS = 10  # contexts of a coefficient
COUNT_INPUTS = 6  # of a count
_NODES = 32  # decisions that a coefficient may take in one context
_STEP = 64 * 256 * _NODES  # slots of one input
_COUNT_STEP = 256 * 64
_COUNTS = INPUTS * _STEP
_SLOTS = _COUNTS + 3 * COUNT_INPUTS * _COUNT_STEP
_KINDS = 32  # sets of weights by kind of coefficient and node start at 0; by place and kind of node at 4 * 32
_PLACES = 4 * _KINDS
_COUNT_SETS = _PLACES + 3 * 64
_SETS = _COUNT_SETS + 3 * 8
_TOTAL = 40000  # of the weights at first
_LONGEST = 13  # bits of a magnitude
_FAR = 1 << 16  # limit of what borders ask for

# Zigzag without the first row and column, then the first row, the first column (the highest frequency first) and DC
INTERIOR, LINE = 49, 7
ORDER = np.array(
    [
        *sorted((i for i in range(9, 64) if i % 8), key=lambda i: (i // 8 + i % 8, i // 8 * (-1) ** (i // 8 + i % 8 + 1))),
        *range(7, 0, -1), *range(56, 0, -8), 0,
    ],
    np.int64,
)  # fmt: skip
# 8192 c(k) cos(k pi / 16), c(0) = sqrt(1/2) and c(k) = 1: what coefficient k adds to the samples at the border
BORDER = np.array([5793, 8035, 7568, 6811, 5793, 4551, 3135, 1598], np.int64)
# first nodes of the bits below the highest one, by the number of bits
_BELOW = np.array([0, 0, 8, 9, 12, 19, 22, 25, 28], np.int64)


def _classes(steps: int) -> Numbers:
    """Classes of 0 .. 4095 on a scale of logarithms, ``steps`` (a power of two) of them to an octave; the smallest are exact."""
    few = steps.bit_length() - 1
    return np.array(
        [x if x < steps else steps * (x.bit_length() - few) + (x >> (x.bit_length() - 1 - few)) - steps for x in range(4096)]
    )


_COARSE, _FINE = _classes(2), _classes(4)


class Around(NamedTuple):
    """What is known of the blocks around one, and of the same place in other planes: (64) each, zeros where there is none."""

    above: Plane
    left: Plane
    corner: Plane  # above to the left
    farther: Plane  # above to the right
    beyond: Plane  # above the one above
    before: Plane  # to the left of the one to the left
    first: Plane  # of plane 0
    second: Plane  # of the plane before, from plane 2 on


def learner() -> tuple[Mixer, Contexts]:
    """What knows nothing yet."""
    m = mixer(_SLOTS, _SETS, INPUTS)
    m.weights[:] = _TOTAL // INPUTS
    m.weights[_COUNT_SETS:] = _TOTAL // COUNT_INPUTS
    return m, contexts(64 * 16)


@njit(cache=True, nogil=True, forceinline=True)
def _log(x: Int, most: Int) -> Int:
    """The class of a size, 0 .. most."""
    return min(_COARSE[min(x, 4095)], most)


@njit(cache=True, nogil=True, forceinline=True)
def _fine(x: Int) -> Int:
    """The finer class of a size, 0 .. 31."""
    return min(_FINE[min(x, 4095)], 31)


@njit(cache=True, nogil=True, forceinline=True)
def _signed(x: Int, most: Int) -> Int:
    """The class of a number with its sign, 0 .. 2 most."""
    return most + _log(x, most) if x >= 0 else most - _log(-x, most)


@njit(cache=True, nogil=True, forceinline=True)
def _quotient(numerator: Int, denominator: Int) -> Int:
    return (2 * numerator + denominator) // (2 * denominator)


@njit(cache=True, nogil=True, forceinline=True)
def _asked(amount: Int, step: Int) -> Int:
    """What a border asks for, in quarters of a step."""
    return clipped(_quotient(4 * amount, step), -_FAR, _FAR)


@njit(cache=True, nogil=True, forceinline=True)
def _magnitude(block: Plane, place: Int) -> Int:
    return abs(np.int64(block[place]))


@njit(cache=True, nogil=True, forceinline=True)
def _nonzeros(block: Plane, start: Int, end: Int) -> Int:
    count = np.int64(0)
    for k in range(start, end):
        count += block[ORDER[k]] != 0
    return count


@njit(cache=True, nogil=True)
def _value(
    c: Coder, buffer: Bytes, m: Mixer, p: Contexts, kind: Int, place: Int, nonzero: Int, value: Int
) -> Int:
    """A number below 2^13 in size, by ``m.at``: is it 0, its sign, how many bits it has, and these bits."""
    one, two = kind * _KINDS, _PLACES + place
    if not nonzero and mixed(c, buffer, m, INPUTS, 0, one, two, np.int64(value != 0)) == 0:
        return np.int64(0)
    negative = mixed(c, buffer, m, INPUTS, 1, one + 1, two + 64, np.int64(value < 0))
    two += 128
    size = abs(value)
    length: Int = np.int64(1)
    while length < _LONGEST:
        longer = np.int64(size >> length > 0)
        if length < 8:
            longer = mixed(c, buffer, m, INPUTS, 1 + length, one + 1 + length, two, longer)
        else:
            longer = bit(c, buffer, p, place * 16 + length, longer)
        if longer == 0:
            break
        length += 1
    result = np.int64(1)
    for i in range(length - 2, -1, -1):
        low = (size >> i) & 1
        if result < (8 if length <= 4 else 4):
            node = _BELOW[min(length, 8)] + result
            low = mixed(c, buffer, m, INPUTS, node, one + node, two, low)
        else:
            low = bit(c, buffer, p, place * 16 + i, low)
        result = 2 * result + low
    return -result if negative else result


@njit(cache=True, nogil=True)
def _count(c: Coder, buffer: Bytes, m: Mixer, part: Int, value: Int) -> Int:
    """How many coefficients of a part are not 0, by ``m.at``."""
    bits = 6 if part == 0 else 3
    one = _COUNT_SETS + 8 * part
    node = np.int64(1)
    for i in range(bits - 1, -1, -1):
        node = 2 * node + mixed(c, buffer, m, COUNT_INPUTS, node, one, one + bits - i, (value >> i) & 1)
    return node - (1 << bits)


@njit(cache=True, nogil=True, forceinline=True)
def _at_count(m: Mixer, near: Around, part: Int, start: Int, end: Int, counts: Numbers, q: Numbers, asked: Numbers) -> None:
    """The contexts of a count. ``counts`` (4, 3): of the block, above, to the left and above to the left or right."""
    above, left = counts[1, part], counts[2, part]
    both = above + left
    first, second = _nonzeros(near.first, start, end), _nonzeros(near.second, start, end)
    hint = np.int64(0)
    at = m.at
    if part == 0:
        for k in range(28):
            hint += min(_magnitude(near.above, ORDER[k]), 2) + min(_magnitude(near.left, ORDER[k]), 2)
        at[0] = both
        at[1] = _log(above, 15) * 16 + _log(left, 15)
        at[2] = _log(hint, 15) * 16 + _log(both, 15)
        at[3] = _log(counts[3, 0], 15) * 16 + _log(both, 15)
        at[4] = _log(first, 15) * 16 + _log(both, 15)
        at[5] = _log(first, 15) * 16 + _log(second, 15)
    else:
        for k in range(start, end):
            place = ORDER[k]
            hint += _log(2 * abs(asked[place >> 3 | place & 7]) // (BORDER[0] * q[place]), 4)
        interior, row = counts[0, 0], counts[0, 1] if part == 2 else np.int64(0)
        at[0] = above * 8 + left
        at[1] = interior
        at[2] = hint * 8 + _log(interior, 7)
        at[3] = (hint >> 1) * 16 + both
        at[4] = row * 16 + _log(interior, 15)
        at[5] = (first * 8 + second) * 4 + min(hint >> 3, 3)
    for i in range(COUNT_INPUTS):
        at[i] = _COUNTS + (part * COUNT_INPUTS + i) * _COUNT_STEP + at[i] * 64


@njit(cache=True, nogil=True, forceinline=True)
def _at_dc(
    m: Mixer, near: Around, counts: Numbers, off: Numbers, apart: Int, misfit_row: Int, misfit_column: Int, unit: Int, guess: Int,
    by_row: Int, by_column: Int,
) -> None:  # fmt: skip
    """The contexts of a DC. ``off`` (2): how far the guesses were off above and to the left."""
    at = m.at
    total = counts[0, 0]
    offs = _log(abs(off[0]) + abs(off[1]), 15)
    misfit = 4 * (misfit_row + misfit_column) // unit
    fit = _log(misfit, 15)
    at[0] = offs * 16 + fit
    at[1] = _signed(off[0], 7) * 16 + _signed(off[1], 7)
    at[2] = _log(4 * misfit_row // unit, 15) * 16 + _log(4 * misfit_column // unit, 15)
    at[3] = _log(abs(apart), 15) * 16 + offs
    at[4] = _signed(by_row - 4 * guess, 7) * 16 + _signed(by_column - 4 * guess, 7)
    at[5] = _signed(guess - near.above[0], 7) * 16 + _signed(guess - near.left[0], 7)
    at[6] = _signed(near.second[1], 7) * 16 + _signed(near.second[8], 7)
    at[7] = _fine(misfit)
    at[8] = _log(_magnitude(near.first, 1) + _magnitude(near.first, 8), 15) * 8 + _log(total, 7)
    at[9] = _log(total, 15) * 16 + offs
    for i in range(INPUTS):
        at[i] = i * _STEP + at[i] * _NODES


@njit(cache=True, nogil=True, forceinline=True)
def _at_ac(
    m: Mixer, near: Around, v: Int, u: Int, kind: Int, left: Int, still: Int, interior: Int, sizes: Numbers, step: Int,
    by_row: Int, by_column: Int, plane: Int,
) -> None:  # fmt: skip
    """The contexts of another coefficient: ``left`` of the ``still`` places from here on are not 0."""
    at = m.at
    place = 8 * v + u
    above, beside = _magnitude(near.above, place), _magnitude(near.left, place)
    corners = _magnitude(near.corner, place) + _magnitude(near.farther, place)
    around = 3 * (above + beside) + corners
    above_all, beside_all = 2 * above, 2 * beside
    if place > 8:
        above_all += _magnitude(near.above, place - 8)
        beside_all += _magnitude(near.left, place - 8)
    if place > 1 and u > 0:
        above_all += _magnitude(near.above, place - 1)
        beside_all += _magnitude(near.left, place - 1)
    if v < 7:
        above_all += _magnitude(near.above, place + 8)
        beside_all += _magnitude(near.left, place + 8)
    if u < 7:
        above_all += _magnitude(near.above, place + 1)
        beside_all += _magnitude(near.left, place + 1)
    inside = (
        3 * (sizes[v + 1, u + 2] + sizes[v + 2, u + 1] + sizes[v + 3, u + 2] + sizes[v + 2, u + 3])
        + 2 * (sizes[v + 1, u + 3] + sizes[v + 3, u + 1])
        + sizes[v, u + 2] + sizes[v + 2, u] + sizes[v + 4, u + 2] + sizes[v + 2, u + 4]
    ) // step  # fmt: skip
    lefts, a, b = _log(left, 15), _log(around, 15), _log(inside, 15)
    all_ = _fine(inside + ((around + above_all + beside_all) >> 1))
    at[0] = _log(above, 7) * 32 + _log(beside, 7) * 4 + (_log(corners, 7) >> 1)
    at[1] = _signed(by_row, 15) * 8 + (b >> 1)
    at[2] = _signed(by_column, 15) * 8 + (b >> 1)
    at[3] = left * 4 + (a >> 2)
    at[4] = interior * 4 + (b >> 2)
    if plane == 0:
        at[5] = _log(_magnitude(near.beyond, place) + _magnitude(near.before, place), 15) * 16 + a
    elif plane == 1:
        at[5] = _signed(near.first[place], 7) * 16 + b
    else:
        at[5] = _signed(near.second[place], 7) * 16 + _log(_magnitude(near.first, place), 15)
    at[6] = _signed(by_row, 7) * 16 + _signed(by_column, 7)
    at[7] = all_ * 8 + (lefts >> 1)
    for i in range(INPUTS):
        at[i] = i * _STEP + (place * 256 + at[i]) * _NODES
    at[8] = 8 * _STEP + ((min(still, 15) * 4 + kind) * 256 + lefts * 16 + b) * _NODES
    at[9] = 9 * _STEP + ((kind * 16 + 16 + lefts) * 32 + all_) * _NODES


@njit(cache=True, nogil=True)
def code_plane(
    c: Coder, buffer: Bytes, m: Mixer, p: Contexts, x: Plane, q: Numbers, first: Plane, second: Plane, plane: Int
) -> None:
    """Write plane number ``plane`` (rows, columns, 64), or read it into ``x``, with the table ``q``.

    ``first``: plane 0 for others, ``second``: the plane before from plane 2 on; otherwise one block of zeros.
    """
    rows, columns = x.shape[0], x.shape[1]
    none = np.zeros(64, np.int16)
    sizes = np.zeros((12, 12), np.int64)  # what is known of the block, dequantised, from [2, 2] on
    beneath, beside = np.zeros((columns, 8), np.int64), np.zeros(8, np.int64)  # borders of the blocks above and to the left,
    down, right = np.zeros(8, np.int64), np.zeros(8, np.int64)  # and what of it the block does not explain yet
    all_counts = np.zeros((2, columns + 2, 3), np.int64)
    all_off = np.zeros((2, columns + 2), np.int64)
    counts, off = np.zeros((4, 3), np.int64), np.zeros(2, np.int64)
    for row in range(rows):
        old, new = row & 1, (row + 1) & 1
        for column in range(columns):
            near = Around(
                x[row - 1, column] if row > 0 else none,
                x[row, column - 1] if column > 0 else none,
                x[row - 1, column - 1] if row > 0 and column > 0 else none,
                x[row - 1, column + 1] if row > 0 and column + 1 < columns else none,
                x[row - 2, column] if row > 1 else none,
                x[row, column - 2] if column > 1 else none,
                first[row * first.shape[0] // rows, column * first.shape[1] // columns],
                second[row * second.shape[0] // rows, column * second.shape[1] // columns],
            )
            here = x[row, column]
            sizes[:] = 0
            for i in range(8):
                down[i], right[i] = beneath[column, i], beside[i] if column > 0 else np.int64(0)
                beneath[column, i] = beside[i] = 0
            for i in range(3):
                counts[1, i] = all_counts[old, column + 1, i] if row > 0 else all_counts[new, column, i]
                counts[2, i] = all_counts[new, column, i] if column > 0 else counts[1, i]
                counts[3, i] = all_counts[old, column, i] + all_counts[old, column + 2, i]
            off[0], off[1] = all_off[old, column + 1], all_off[new, column] if column > 0 else np.int64(0)
            left = np.int64(0)
            kind, end = 0, 0
            for k in range(64):
                place = ORDER[k]
                v, u = place >> 3, place & 7
                if k == end and k < 63:
                    kind = 0 if k == 0 else kind + 1
                    end = INTERIOR if k == 0 else end + LINE
                    _at_count(m, near, kind, k, end, counts, q, down if kind == 1 else right)
                    left = _count(c, buffer, m, kind, _nonzeros(here, k, end))
                    if left > end - k:
                        c[STATUS] = BROKEN
                        return
                    counts[0, kind] = all_counts[new, column + 1, kind] = left
                if left == 0 and k < 63:
                    continue
                by_row = _asked(down[u], BORDER[v] * q[place]) if row > 0 else np.int64(0)
                by_column = _asked(right[v], BORDER[u] * q[place]) if column > 0 else np.int64(0)
                if k < 63:
                    _at_ac(m, near, v, u, kind, left, end - k, counts[0, 0], sizes, q[place], by_row, by_column, plane)
                    value = _value(c, buffer, m, p, kind, place, left == end - k, np.int64(here[place]))
                else:
                    misfit_row = misfit_column = np.int64(0)
                    for i in range(1, 8):
                        misfit_row += abs(down[i])
                        misfit_column += abs(right[i])
                    expected = by_row + by_column  # of which one is 0,
                    if row > 0 and column > 0:  # or the one that fits better counts for more
                        one, two = (misfit_column >> 10) + 8, (misfit_row >> 10) + 8
                        expected = _quotient(by_row * one + by_column * two, one + two)
                    guess = clipped((expected + 2) >> 2, LEAST, MOST)
                    _at_dc(
                        m, near, counts, off, by_row - by_column, misfit_row, misfit_column, BORDER[0] * q[0], guess, by_row,
                        by_column,
                    )  # fmt: skip
                    value = _value(c, buffer, m, p, 3, place, False, here[0] - guess)
                    all_off[new, column + 1] = value
                    value += guess
                if value < LEAST or value > MOST:
                    c[STATUS] = BROKEN
                    return
                here[place] = value
                if value != 0:
                    left -= 1
                    amount = value * q[place]
                    sizes[v + 2, u + 2] = abs(amount)
                    down[u] -= amount * BORDER[v]
                    right[v] -= amount * BORDER[u]
                    beneath[column, u] += -amount * BORDER[v] if v & 1 else amount * BORDER[v]
                    beside[v] += -amount * BORDER[u] if u & 1 else amount * BORDER[u]
            if c[STATUS] != OK:
                return
