"""An adaptive binary range coder whose two directions are one function, so that they cannot drift apart.

``bit(c, p, context, value)`` writes ``value`` when ``c`` belongs to an encoder and returns it; with a decoder
it ignores ``value`` and returns what was written. Whatever is built on it (numbers, tokens, headers) is written once and
serves both ways. All arithmetic is on integers below 2^63; docs/format/deflate.md has the same in words.

    c (7 int64)    low (of a decoder: code - low), range, place in the bytes, direction, status, the byte that waits
                   for a carry (-1: none yet), and how many FF bytes wait behind it
    p (n, 2)       for each context the probability of a 0 in 1/2^22, and how many bits it has seen (to 255)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Coder = NDArray[np.int64]
Contexts = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Int = Any

LOW, RANGE, PLACE, DIRECTION, STATUS, WAITING, RUN = range(7)
ENCODE, DECODE = 0, 1
OK, FULL, BROKEN, BUSY = range(4)  # status: fine; out of room; impossible content; more work than allowed

_TOP = 48  # bits of the range
_FLOOR = 1 << 40
_ONE = 1 << 22
_LEAST = 8  # no probability below 8 / 65536
_PATIENCE = 255
_RATES = np.array([131072 // (2 * n + 3) for n in range(_PATIENCE + 1)], np.int64)

NUMBER = 48  # contexts that one adaptive number needs


@njit(cache=True, nogil=True)
def start(c: Coder, buffer: Bytes, direction: Int) -> None:
    """Make ``c`` an encoder of an empty ``buffer`` or the decoder of a full one."""
    c[LOW] = 0
    c[RANGE] = (np.int64(1) << _TOP) - 1
    c[PLACE] = 0
    c[DIRECTION] = direction
    c[STATUS] = OK
    c[WAITING] = -1
    c[RUN] = 0
    if direction == DECODE:
        for _ in range(6):
            c[LOW] = (c[LOW] << 8) | (np.int64(buffer[c[PLACE]]) if c[PLACE] < len(buffer) else 0)
            c[PLACE] += 1


@njit(cache=True, nogil=True, forceinline=True)
def _put(c: Coder, buffer: Bytes, value: Int) -> None:
    if c[PLACE] >= len(buffer):
        c[STATUS] = FULL
        return
    buffer[c[PLACE]] = value
    c[PLACE] += 1


@njit(cache=True, nogil=True, forceinline=True)
def _shift(c: Coder, buffer: Bytes) -> None:
    """Move the top byte of ``low`` out. A byte waits until no carry can reach it any more."""
    top = c[LOW] >> (_TOP - 8)  # 0 .. 511: bit 8 is a carry
    c[LOW] = (c[LOW] & ((np.int64(1) << (_TOP - 8)) - 1)) << 8
    if top == 255:
        c[RUN] += 1
        return
    carry = top >> 8
    if c[WAITING] >= 0:
        _put(c, buffer, (c[WAITING] + carry) & 255)
    while c[RUN] > 0 and c[STATUS] == OK:
        _put(c, buffer, (255 + carry) & 255)
        c[RUN] -= 1
    c[WAITING] = top & 255


@njit(cache=True, nogil=True, forceinline=True)
def _narrow(c: Coder, buffer: Bytes, bound: Int, value: Int) -> Int:
    """One step of the coder: the lower part of the range, ``bound`` wide, is a 0."""
    if c[DIRECTION] == ENCODE:
        if value:
            c[LOW] += bound
            c[RANGE] -= bound
        else:
            c[RANGE] = bound
        while c[RANGE] < _FLOOR:
            c[RANGE] <<= 8
            _shift(c, buffer)
        return value
    if c[LOW] >= bound:
        c[LOW] -= bound
        c[RANGE] -= bound
        value = 1
    else:
        c[RANGE] = bound
        value = 0
    while c[RANGE] < _FLOOR:
        c[RANGE] <<= 8
        following = np.int64(0)
        if c[PLACE] < len(buffer):
            following = np.int64(buffer[c[PLACE]])
        c[LOW] = (c[LOW] << 8) | following
        c[PLACE] += 1
    return value


@njit(cache=True, nogil=True, forceinline=True)
def shared(c: Coder, buffer: Bytes, share: Int, value: Int) -> Int:
    """One bit that is 0 with a probability of ``share`` / 65536, 1 .. 65535."""
    return _narrow(c, buffer, (c[RANGE] >> 16) * share, value)


@njit(cache=True, nogil=True, forceinline=True)
def bit(c: Coder, buffer: Bytes, p: Contexts, context: Int, value: Int) -> Int:
    """One bit with the probability that ``context`` has learned."""
    chance = np.int64(p[context, 0])
    seen = np.int64(p[context, 1])
    value = shared(c, buffer, min(max(chance >> 6, _LEAST), 65536 - _LEAST), value)
    target = np.int64(0) if value else np.int64(_ONE - 1)
    p[context, 0] = chance + (((target - chance) * _RATES[seen]) >> 16)
    if seen < _PATIENCE:
        p[context, 1] = seen + 1
    return value


@njit(cache=True, nogil=True)
def plain(c: Coder, buffer: Bytes, bits: Int, value: Int) -> Int:
    """A number of ``bits`` bits, highest first, each as likely 0 as 1."""
    result = np.int64(0)
    for i in range(bits - 1, -1, -1):
        result = 2 * result + _narrow(c, buffer, c[RANGE] >> 1, (value >> i) & 1)
    return result


@njit(cache=True, nogil=True)
def number(c: Coder, buffer: Bytes, p: Contexts, base: Int, value: Int) -> Int:
    """A number from 0 to 2^31 - 2: its length in unary, then its bits, of which the first ones are learned.

    Takes NUMBER contexts from ``base``.
    """
    value += 1
    length = np.int64(0)
    while length < 31 and bit(c, buffer, p, base + length, np.int64(value >> (length + 1) > 0)):
        length += 1
    if length == 31:
        c[STATUS] = BROKEN
        return np.int64(0)
    result = np.int64(1)
    for i in range(length - 1, -1, -1):
        if result < 16:
            result = 2 * result + bit(c, buffer, p, base + 32 + result, (value >> i) & 1)
        else:
            result = 2 * result + _narrow(c, buffer, c[RANGE] >> 1, (value >> i) & 1)
    return result - 1


@njit(cache=True, nogil=True)
def finish(c: Coder, buffer: Bytes) -> Int:
    """End an encoder; returns the bytes written, without zeros at their end."""
    for _ in range(7):
        _shift(c, buffer)
    end = c[PLACE]
    while end > 0 and buffer[end - 1] == 0:
        end -= 1
    return end


def contexts(count: int) -> Contexts:
    """``count`` contexts that know nothing yet."""
    p = np.zeros((count, 2), np.int32)
    p[:, 0] = _ONE // 2
    return p


def coder() -> Coder:
    """The state of a coder; see ``start``."""
    return np.zeros(7, np.int64)
