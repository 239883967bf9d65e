"""Writing the bits of deflate blocks: the only place where a re-created stream comes into being."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.images.deflate.headers import symbol_of
from callic_archive.images.deflate.huffman import (
    DISTANCE_BASE,
    DISTANCE_EXTRA,
    LENGTH_BASE,
    LENGTH_EXTRA,
    LENGTH_SYMBOL,
    PRECODE_ORDER,
    codes,
    distance_symbol,
)
from callic_archive.images.deflate.parser import AGAIN, HCLEN, HDIST, HLIT, LONG258, OPERATIONS

Ints = NDArray[np.int64]
Tokens = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Int = Any

# The state of a writer: bytes written (counted on even where there is no room for them), bits that wait, how many.
BYTES, BITS, WAITING = range(3)


@njit(cache=True, nogil=True, forceinline=True)
def put(w: Ints, out: Bytes, value: Int, bits: Int) -> None:
    """``bits`` (to 32) bits, lowest first. What does not fit into ``out`` is dropped."""
    w[BITS] |= value << w[WAITING]
    w[WAITING] += bits
    while w[WAITING] >= 8:
        if w[BYTES] < len(out):
            out[w[BYTES]] = w[BITS] & 255
        w[BYTES] += 1
        w[BITS] >>= 8
        w[WAITING] -= 8


@njit(cache=True, nogil=True)
def put_header(w: Ints, out: Bytes, header: Ints, precode: Ints, operations: Ints) -> None:
    """What follows the type of a dynamic block, up to its first token."""
    put(w, out, header[HLIT] - 257, 5)
    put(w, out, header[HDIST] - 1, 5)
    put(w, out, header[HCLEN] - 4, 4)
    for i in range(header[HCLEN]):
        put(w, out, precode[PRECODE_ORDER[i]], 3)
    code = np.zeros(19, np.int64)
    codes(precode, 19, code)
    k = np.int64(0)
    for i in range(header[OPERATIONS]):
        symbol = symbol_of(header, k, operations[i])
        times = operations[i] & (AGAIN - 1)
        put(w, out, code[symbol], precode[symbol])
        if symbol == 16:
            put(w, out, times - 3, 2)
        elif symbol == 17:
            put(w, out, times - 3, 3)
        elif symbol == 18:
            put(w, out, times - 11, 7)
        k += max(times, 1)


@njit(cache=True, nogil=True, forceinline=True)
def put_tokens(w: Ints, out: Bytes, header: Ints, tokens: Tokens, n: Int, raw: Bytes, at: Int) -> None:
    """``n`` tokens for the raw bytes from ``at`` on, and the end of the block."""
    literals, distances = np.zeros(288, np.int64), np.zeros(32, np.int64)
    codes(header[:288], 288, literals)
    codes(header[288:320], 32, distances)
    for i in range(n):
        token = np.int64(tokens[i])
        if token == 0:
            value = raw[at]
            put(w, out, literals[value], header[value])
            at += 1
            continue
        length, distance = (token >> 16) & 0x3FF, token & 0xFFFF
        symbol = LENGTH_SYMBOL[length]
        if token & LONG258:
            symbol -= 1
        put(w, out, literals[symbol], header[symbol])
        put(w, out, length - LENGTH_BASE[symbol - 257], LENGTH_EXTRA[symbol - 257])
        symbol = distance_symbol(distance)
        put(w, out, distances[symbol], header[288 + symbol])
        put(w, out, distance - DISTANCE_BASE[symbol], DISTANCE_EXTRA[symbol])
        at += length
    put(w, out, literals[256], header[256])
