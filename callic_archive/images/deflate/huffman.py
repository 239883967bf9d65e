"""Huffman codes of RFC 1951: code lengths as two families of compressors choose them, and the codes themselves.

Lengths are ambiguous: symbols of equal count may change places, and codes longer than allowed are shortened in
one way or another. ``heap_lengths`` breaks ties as zlib's heap does, ``sorted_lengths`` as compressors that
sort symbols by count. Where a stream has other lengths, the differences are coded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Int = Any
BROKEN = -1

LITERALS, DISTANCES, PRECODES = 286, 30, 19
LENGTH_BASE = np.array(
    [
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        13,
        15,
        17,
        19,
        23,
        27,
        31,
        35,
        43,
        51,
        59,
        67,
        83,
        99,
        115,
        131,
        163,
        195,
        227,
        258,
    ],
    np.int64,
)
LENGTH_EXTRA = np.array([0] * 8 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 4 + [0], np.int64)
DISTANCE_EXTRA = np.array([0, 0] + [i // 2 for i in range(28)], np.int64)
DISTANCE_BASE = np.concatenate(([1], 1 + np.cumsum(1 << DISTANCE_EXTRA)[:-1])).astype(np.int64)
_SYMBOLS = np.zeros(259, np.int64)
for _i, _base in enumerate(LENGTH_BASE):
    _SYMBOLS[_base:] = 257 + _i
LENGTH_SYMBOL = _SYMBOLS
PRECODE_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int64)


@njit(cache=True, nogil=True)
def distance_symbol(distance: Int) -> Int:
    """The symbol 0 .. 29 of a distance 1 .. 32768."""
    d = distance - 1
    if d < 2:
        return d
    bits = np.int64(0)
    while d >> (bits + 1):
        bits += 1
    return 2 * bits + ((d >> (bits - 1)) & 1)


@njit(cache=True, nogil=True)
def _before(key: Ints, depth: Ints, a: Int, b: Int) -> bool:
    return bool(key[a] < key[b] or (key[a] == key[b] and depth[a] <= depth[b]))


@njit(cache=True, nogil=True)
def _sift(heap: Ints, size: Int, k: Int, key: Ints, depth: Ints) -> None:
    node = heap[k]
    child = 2 * k
    while child <= size:
        if child < size and _before(key, depth, heap[child + 1], heap[child]):
            child += 1
        if _before(key, depth, node, heap[child]):
            break
        heap[k] = heap[child]
        k = child
        child *= 2
    heap[k] = node


@njit(cache=True, nogil=True)
def _shorten(amount: Ints, most: Int, over: Int) -> None:
    """Make room for ``over`` codes that were cut to ``most`` bits, by lengthening the longest shorter ones."""
    while over > 0:
        bits = most - 1
        while amount[bits] == 0:
            bits -= 1
        amount[bits] -= 1
        amount[bits + 1] += 2
        amount[most] -= 1
        over -= 2


@njit(cache=True, nogil=True)
def heap_lengths(counts: Ints, n: Int, most: Int, lengths: Ints) -> None:
    """Code lengths (n,) for ``counts`` (n,) of at most ``most`` bits, as zlib chooses them; at least two codes."""
    key = np.zeros(2 * n + 2, np.int64)
    depth = np.zeros(2 * n + 2, np.int64)
    parent = np.zeros(2 * n + 2, np.int64)
    bits_of = np.zeros(2 * n + 2, np.int64)
    heap = np.zeros(2 * n + 2, np.int64)
    order = np.zeros(2 * n + 2, np.int64)  # nodes as they left the heap
    size = np.int64(0)
    last: Any = np.int64(-1)
    for i in range(n):
        key[i] = counts[i]
        lengths[i] = 0
        if counts[i] > 0:
            size += 1
            heap[size] = i
            last = i
    while size < 2:
        if last < 2:
            last += 1
            extra = last
        else:
            extra = np.int64(0)
        key[extra] = 1
        size += 1
        heap[size] = extra
    for k in range(size // 2, 0, -1):
        _sift(heap, size, k, key, depth)
    node, out = np.int64(n), np.int64(0)
    while size >= 2:
        a = heap[1]
        heap[1] = heap[size]
        size -= 1
        _sift(heap, size, 1, key, depth)
        b = heap[1]
        order[out] = a
        order[out + 1] = b
        out += 2
        key[node] = key[a] + key[b]
        depth[node] = max(depth[a], depth[b]) + 1
        parent[a] = node
        parent[b] = node
        heap[1] = node
        node += 1
        _sift(heap, size, 1, key, depth)
    amount = np.zeros(most + 2, np.int64)
    over = np.int64(0)
    for k in range(out - 1, -1, -1):  # from the root down; the root itself has length 0
        child = order[k]
        deep = bits_of[parent[child]] + 1
        if deep > most:
            deep = most
            over += 1
        bits_of[child] = deep
        if child < n:
            amount[deep] += 1
            lengths[child] = deep
    if over == 0:
        return
    _shorten(amount, most, over)
    taken = np.int64(0)
    for bits in range(most, 0, -1):
        left = amount[bits]
        while left > 0:
            symbol = order[taken]
            taken += 1
            if symbol < n:
                lengths[symbol] = bits
                left -= 1


@njit(cache=True, nogil=True)
def sorted_lengths(counts: Ints, n: Int, most: Int, lengths: Ints) -> None:
    """Code lengths (n,) where the rarest, of equal counts the first, symbols have the longest codes."""
    keys = np.empty(n, np.int64)
    used = np.int64(0)
    for i in range(n):
        lengths[i] = 0
        if counts[i] > 0:
            keys[used] = counts[i] * 512 + i
            used += 1
    if used < 2:
        lengths[0] = 1
        lengths[keys[0] & 511 if used and keys[0] & 511 else 1] = 1
        return
    keys = np.sort(keys[:used])
    total = np.zeros(2 * used, np.int64)
    parent = np.zeros(2 * used, np.int64)
    for i in range(used):
        total[i] = keys[i] >> 9
    leaf, inner = np.int64(0), used
    for node in range(used, 2 * used - 1):
        for _ in range(2):
            if leaf < used and (inner >= node or total[leaf] <= total[inner]):
                child = leaf
                leaf += 1
            else:
                child = inner
                inner += 1
            total[node] += total[child]
            parent[child] = node
    bits_of = np.zeros(2 * used, np.int64)
    amount = np.zeros(most + 2, np.int64)
    amount[1] = 2
    for node in range(2 * used - 3, used - 1, -1):  # inner nodes below the root: each splits one code in two
        bits = bits_of[parent[node]] + 1
        bits_of[node] = bits
        if bits >= most:
            bits = most - 1
            while amount[bits] == 0:
                bits -= 1
        amount[bits] -= 1
        amount[bits + 1] += 2
    k = np.int64(0)
    for bits in range(most, 0, -1):
        for _ in range(amount[bits]):
            lengths[keys[k] & 511] = bits
            k += 1


@njit(cache=True, nogil=True)
def codes(lengths: Ints, n: Int, out: Ints) -> None:
    """The codes (n,) of RFC 1951, 3.2.2, each with its bits in the order in which they are written."""
    amount = np.zeros(17, np.int64)
    for i in range(n):
        amount[lengths[i]] += 1
    following = np.zeros(17, np.int64)
    code = np.int64(0)
    amount[0] = 0
    for bits in range(1, 16):
        code = (code + amount[bits - 1]) << 1
        following[bits] = code
    for i in range(n):
        size = lengths[i]
        if size:
            code = following[size]
            following[size] += 1
            turned = np.int64(0)
            for _ in range(size):
                turned = 2 * turned + (code & 1)
                code >>= 1
            out[i] = turned


@njit(cache=True, nogil=True)
def decoding_table(lengths: Ints, n: Int, amount: Ints, symbols: Ints) -> Int:
    """Tables for ``read``: codes of each length (16,), and symbols in order of their codes (n,).

    Returns BROKEN for lengths that no prefix code has.
    """
    amount[:] = 0
    for i in range(n):
        amount[lengths[i]] += 1
    amount[0] = 0
    room = np.int64(1)
    for bits in range(1, 16):
        room = 2 * room - amount[bits]
        if room < 0:
            return BROKEN
    place = np.zeros(17, np.int64)
    for bits in range(1, 16):
        place[bits + 1] = place[bits] + amount[bits]
    for i in range(n):
        if lengths[i]:
            symbols[place[lengths[i]]] = i
            place[lengths[i]] += 1
    return 0
