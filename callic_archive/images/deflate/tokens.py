"""Tokens as guesses and differences: nearly nothing where a compressor does what was expected of it.

``code_token`` serves both directions (see ``coder``). A token that was guessed costs one well-predicted bit. Of another
one its kind is coded, then its length against the longest match that the search knows, then its distance as a number of
matches nearer than it, which is mostly 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.images.deflate import coder
from callic_archive.images.deflate.coder import BROKEN, DECODE, NUMBER, STATUS, bit, number, plain
from callic_archive.images.deflate.matcher import (
    BITS,
    DISTANCE,
    LENGTH,
    NEXT_LENGTH,
    WORK,
    common,
    first_candidate,
    following,
    guess,
    took,
)
from callic_archive.images.deflate.parser import LONG258

Ints = NDArray[np.int64]
Int = Any
Array = Any

_KINDS = 48
# Contexts, by the place of the first.
HIT = 0  # 4 histories x kinds
MATCH = HIT + 4 * _KINDS  # kinds: is an unexpected token a literal?
SAME = MATCH + _KINDS  # 2 x 10: is the length that of the longest match known?
LONGER = SAME + 20
NEARBY = LONGER + 20  # 2 x 4
INSIDE = NEARBY + 8  # 4
LONG = INSIDE + 4  # 258 as 227 + 31
SHORTER_BY = LONG + 1  # 3 numbers
LONGER_BY = SHORTER_BY + 3 * NUMBER
UNKNOWN = LONGER_BY + 3 * NUMBER
RANK = UNKNOWN + NUMBER  # 4 numbers
TOKEN_CONTEXTS = RANK + 4 * NUMBER
MOST_RANK = 1024  # matches looked at for a distance; beyond, it is written out


@njit(cache=True, nogil=True, forceinline=True)
def _size(length: Int) -> Int:
    """Class 0 .. 9 of a length; 0 for none."""
    if length < 6:
        return max(length - 2, 0)
    if length < 8:
        return np.int64(4)
    if length < 12:
        return np.int64(5)
    if length < 20:
        return np.int64(6)
    if length < 64:
        return np.int64(7)
    return np.int64(8) if length < 258 else np.int64(9)


@njit(cache=True, nogil=True, forceinline=True)
def _kind(length: Int, distance: Int, s: Ints) -> Int:
    """The class of a guess."""
    if length == 0:
        if s[LENGTH] == 0:
            return np.int64(0)
        if s[NEXT_LENGTH] == 0:
            return np.int64(1)
        more = s[NEXT_LENGTH] - s[LENGTH]
        return np.int64(2) + min(max(more, 0), 3) + (4 if s[LENGTH] > 6 else 0)
    far = 0 if distance <= 64 else 1 if distance <= 1024 else 2 if distance <= 8192 else 3
    return 10 + 4 * (_size(length) - 1) + far


@njit(cache=True, nogil=True)
def _at_rank(
    raw: Array, strings: Array, s: Ints, bits: Int, at: Int, length: Int, rank: Int, distance: Int
) -> Int:
    """The ``rank``-th nearest place with a match of ``length`` (rank >= 0), or the rank of ``distance`` (rank < 0).

    -1 where there is none among the strings looked at. In the first case the result is a distance.
    """
    heads = np.int64(1) << bits
    place = first_candidate(raw, strings, s, bits, at)
    passed = np.int64(0)
    for _ in range(MOST_RANK):
        if place < 0 or at - place > 32768:
            break
        if rank < 0 and at - place == distance:
            s[WORK] += passed
            return passed
        s[WORK] += 1
        if raw[place + length - 1] == raw[at + length - 1]:
            n = common(raw, place, at, length)
            s[WORK] += n >> 3
            if n == length:
                if passed == rank:
                    return at - place
                passed += 1
        place = following(strings, heads, place)
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _code_distance(
    c: Array,
    b: Array,
    p: Array,
    raw: Array,
    strings: Array,
    s: Ints,
    limits: Ints,
    at: Int,
    length: Int,
    distance: Int,
) -> Int:
    context = min(length - 3, 3)
    rank = np.int64(-1)
    if c[coder.DIRECTION] != DECODE:
        rank = _at_rank(raw, strings, s, limits[BITS], at, length, np.int64(-1), distance)
    if bit(c, b, p, INSIDE + context, np.int64(rank < 0)):
        return plain(c, b, 15, distance - 1) + 1
    rank = number(c, b, p, RANK + context * NUMBER, rank)
    if c[coder.DIRECTION] == DECODE:
        distance = _at_rank(raw, strings, s, limits[BITS], at, length, rank, np.int64(0))
    return distance


@njit(cache=True, nogil=True, forceinline=True)
def code_token(
    c: Array,
    b: Array,
    p: Array,
    raw: Array,
    strings: Array,
    s: Ints,
    limits: Ints,
    at: Int,
    token: Int,
    past: Int,
) -> Any:
    """(token, history) at ``at``; of an encoder ``token`` goes in. Sets the coder's status to BROKEN on nonsense."""
    length, distance = (token >> 16) & 0x3FF, token & 0xFFFF
    expected, from_here = guess(raw, strings, s, limits, at)
    kind = _kind(expected, from_here, s)
    wrong = np.int64(length != expected or distance != from_here)
    wrong = bit(c, b, p, HIT + past * _KINDS + kind, wrong)
    past = ((past << 1) | wrong) & 3
    if not wrong:
        length, distance = expected, from_here
    else:
        match = np.int64(1)
        if expected:
            match = bit(c, b, p, MATCH + kind, np.int64(length > 0))
        if not match:
            length = distance = np.int64(0)
        else:
            known, side = s[LENGTH], np.int64(expected > 0)
            most = min(np.int64(258), len(raw) - at)
            size = _size(known)
            if known == 0:
                length = number(c, b, p, UNKNOWN, length - 3) + 3
            elif bit(c, b, p, SAME + 10 * side + size, np.int64(length != known)) == 0:
                length = known
            elif bit(c, b, p, LONGER + 10 * side + size, np.int64(length > known)):
                length = known + 1 + number(c, b, p, LONGER_BY + NUMBER * (size // 4), length - known - 1)
            else:
                length = known - 1 - number(c, b, p, SHORTER_BY + NUMBER * (size // 4), known - 1 - length)
            if length < 3 or length > most:
                c[STATUS] = BROKEN
                return token, past
            nearby = np.int64(0)
            if known >= length and not (expected and known == length):
                nearby = bit(
                    c, b, p, NEARBY + 4 * side + min(length - 3, 3), np.int64(distance == s[DISTANCE])
                )
            if nearby:
                distance = s[DISTANCE]
            else:
                distance = _code_distance(c, b, p, raw, strings, s, limits, at, length, distance)
            if distance < 1 or distance > min(at, np.int64(32768)):
                c[STATUS] = BROKEN
                return token, past
    mark = np.int64(0)
    if length == 258:
        mark = LONG258 * bit(c, b, p, LONG, np.int64((token & LONG258) > 0))
    took(raw, strings, s, limits, at, max(length, 1))
    return mark | length << 16 | distance, past
