"""What a compressor of zlib's kind would do next: hash chains of earlier strings, searched with its limits.

The guess for a place depends on the raw bytes, on the strings entered so far, and on ``Limits`` alone, never on a
library. A compressor whose limits these are is guessed right at every token; of others most tokens are.

    strings (m,)   ``head`` by hash, then ``prev`` by place modulo RING: the latest earlier place of the same hash, or -1
    s (8,)         the state of a search: see the names below
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Strings = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Int = Any

RING = 1 << 16
# Indices of the array of limits.
LAZY, GOOD, PATIENT, NICE, CHAIN, REACH, BITS, SHORTEST, NEAR, FIRST, TOKENS, FORGET = range(12)
# Indices of the state: next place to enter, place of a search done ahead with its length and distance; what the last guess
# found at its place (length, distance) and one place on (length), and how much work was done.
ENTERED, AHEAD, AHEAD_LENGTH, AHEAD_DISTANCE, LENGTH, DISTANCE, NEXT_LENGTH, WORK = range(8)


@dataclass(frozen=True)
class Limits:
    """How a compressor searches. All are integers that go into the differences (docs/format/deflate.md).

    ``style`` 0: takes the first match; 1: looks one place ahead, as zlib from level 4 on; 2: weighs length against
    distance one place ahead, 3: two places ahead, as libdeflate.
    """

    style: int = 1
    good: int = 8  # from this length on, a quarter of the chain for the place ahead
    patient: int = (
        16  # style 1: from this length on no look ahead; style 0: to this length all strings are entered
    )
    nice: int = 128  # from this length on a search ends
    chain: int = 128  # strings looked at
    reach: int = 32506  # largest distance
    bits: int = 15  # of the hash
    shortest: int = 3  # shortest match taken
    near: int = 4096  # largest distance of a match of three bytes
    first: int = 1  # lowest place that matches may begin at
    tokens: int = 16383  # tokens of a full block
    forget: int = 0  # 1: no match reaches back over an empty stored block (a full flush)

    def array(self) -> Ints:
        """As the compiled functions take them."""
        return np.array(astuple(self), np.int64)


# Number of bits that each limit takes among the differences.
WIDTHS = np.array([2, 9, 9, 9, 13, 16, 5, 3, 16, 1, 20, 1], np.int64)


@njit(cache=True, nogil=True)
def sound(limits: Ints) -> bool:
    """Whether limits read from an archive are such that a search with them stays inside its arrays."""
    return bool(
        limits[CHAIN] >= 1
        and limits[REACH] <= 32768
        and 8 <= limits[BITS] <= 18
        and limits[SHORTEST] >= 3
        and limits[NICE] >= 3
        and limits[TOKENS] >= 1
    )


@njit(cache=True, nogil=True, forceinline=True)
def hash_of(raw: Bytes, at: Int, bits: Int) -> Int:
    """zlib's hash of three bytes."""
    shift = (bits + 2) // 3
    value = (np.int64(raw[at]) << (2 * shift)) ^ (np.int64(raw[at + 1]) << shift) ^ np.int64(raw[at + 2])
    return value & ((np.int64(1) << bits) - 1)


@njit(cache=True, nogil=True, forceinline=True)
def enter(raw: Bytes, strings: Strings, s: Ints, bits: Int, to: Int) -> None:
    """Enter all strings before place ``to``."""
    heads = np.int64(1) << bits
    last = min(to, len(raw) - 2)
    at = s[ENTERED]
    while at < last:
        h = hash_of(raw, at, bits)
        strings[heads + (at & (RING - 1))] = strings[h]
        strings[h] = at
        at += 1
    if to > s[ENTERED]:
        s[ENTERED] = to


@njit(cache=True, nogil=True, forceinline=True)
def first_candidate(raw: Bytes, strings: Strings, s: Ints, bits: Int, at: Int) -> Int:
    """The latest place before ``at`` with the same hash, or -1."""
    if at + 3 > len(raw):
        return np.int64(-1)
    if at < s[ENTERED]:
        return np.int64(strings[(np.int64(1) << bits) + (at & (RING - 1))])
    return np.int64(strings[hash_of(raw, at, bits)])


@njit(cache=True, nogil=True, forceinline=True)
def following(strings: Strings, heads: Int, place: Int) -> Int:
    """The place before ``place`` in its chain, or -1."""
    found = np.int64(strings[heads + (place & (RING - 1))])
    return found if found < place else np.int64(-1)


@njit(cache=True, nogil=True, forceinline=True)
def common(raw: Bytes, a: Int, b: Int, most: Int) -> Int:
    """How many bytes from ``a`` and ``b`` on are equal, up to ``most``."""
    n = np.int64(0)
    while n < most and raw[np.uint64(a + n)] == raw[np.uint64(b + n)]:
        n += 1
    return n


@njit(cache=True, nogil=True, forceinline=True)
def search(raw: Bytes, strings: Strings, s: Ints, limits: Ints, at: Int, best: Int, chain: Int) -> Any:
    """(length, distance) of the first longest match at ``at`` that is longer than ``best``; else (best, 0)."""
    distance = np.int64(0)
    most = min(np.int64(258), len(raw) - at)
    if most <= best:
        return best, distance
    bits = limits[BITS]
    heads = np.int64(1) << bits
    nice = min(limits[NICE], most)
    place = first_candidate(raw, strings, s, bits, at)
    farthest = at - limits[REACH]
    lowest = max(limits[FIRST], farthest)
    steps = np.int64(1)
    tail, last = raw[at + best], raw[at]
    while place >= lowest and chain > 0:
        steps += 1
        if raw[np.uint64(place + best)] == tail and raw[np.uint64(place)] == last:
            n = common(raw, place, at, most)
            steps += n >> 3
            if n > best:
                best = n
                distance = at - place
                if n >= nice:
                    break
                tail = raw[at + best]
        chain -= 1
        earlier = np.int64(strings[np.uint64(heads + (place & (RING - 1)))])
        # zlib takes its largest distance from the head of a chain only; a place that is no earlier was overwritten.
        if earlier >= place or earlier == farthest:
            break
        place = earlier
    s[WORK] += steps
    return best, distance


@njit(cache=True, nogil=True, forceinline=True)
def _weight(length: Int, distance: Int) -> Int:
    """Four times the length less the size of the distance in bits."""
    size = np.int64(0)
    while distance > 1:
        distance >>= 1
        size += 1
    return 4 * length - size


@njit(cache=True, nogil=True, forceinline=True)
def guess(raw: Bytes, strings: Strings, s: Ints, limits: Ints, at: Int) -> Any:
    """(length, distance) of the token expected at ``at``; length 0 for a literal."""
    if s[AHEAD] == at + 1:  # the match two places ahead, for which style 3 writes two literals
        s[LENGTH] = s[DISTANCE] = s[NEXT_LENGTH] = 0
        return np.int64(0), np.int64(0)
    if s[AHEAD] == at:
        length, distance = s[AHEAD_LENGTH], s[AHEAD_DISTANCE]
    else:
        length, distance = search(raw, strings, s, limits, at, np.int64(2), limits[CHAIN])
    s[AHEAD] = -1
    s[LENGTH] = length if distance > 0 else 0
    s[DISTANCE] = distance
    s[NEXT_LENGTH] = 0
    if distance == 0 or length < limits[SHORTEST] or (length == 3 and distance > limits[NEAR]):
        return np.int64(0), np.int64(0)
    style = limits[LAZY]
    if style == 0 or (style == 1 and length >= limits[PATIENT]) or (style > 1 and length >= limits[NICE]):
        return length, distance
    enter(raw, strings, s, limits[BITS], at + 1)
    if style == 1:
        chain = limits[CHAIN] >> 2 if length >= limits[GOOD] else limits[CHAIN]
        longer, far = search(raw, strings, s, limits, at + 1, length, chain)
        if far == 0 or longer < limits[SHORTEST]:
            return length, distance
        s[NEXT_LENGTH] = longer
    else:
        longer, far = search(raw, strings, s, limits, at + 1, length - 1, limits[CHAIN] >> 1)
        if far == 0 or _weight(longer, far) - _weight(length, distance) <= 2:
            if style == 2:
                return length, distance
            enter(raw, strings, s, limits[BITS], at + 2)
            longer, far = search(raw, strings, s, limits, at + 2, length - 1, limits[CHAIN] >> 2)
            if far == 0 or _weight(longer, far) - _weight(length, distance) <= 6:
                return length, distance
            at += 1
        s[NEXT_LENGTH] = longer
    s[AHEAD] = at + 1
    s[AHEAD_LENGTH] = longer
    s[AHEAD_DISTANCE] = far
    return np.int64(0), np.int64(0)


@njit(cache=True, nogil=True, forceinline=True)
def took(raw: Bytes, strings: Strings, s: Ints, limits: Ints, at: Int, length: Int) -> None:
    """Enter the strings of the token at ``at``, ``length`` raw bytes long, and go behind it."""
    if length > 1:
        s[AHEAD] = -1
    if limits[LAZY] == 0 and length > limits[PATIENT]:
        enter(raw, strings, s, limits[BITS], at + 1)
        s[ENTERED] = max(s[ENTERED], at + length)
    else:
        enter(raw, strings, s, limits[BITS], at + length)
