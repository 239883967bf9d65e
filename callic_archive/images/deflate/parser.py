"""A raw deflate stream (RFC 1951) as blocks and tokens, compared with what it is known to decode to.

    token    0 for a literal (its value is the next raw byte), else length << 16 | distance, and LONG258 where a length
             of 258 was written as 227 + 31
    block    (place of its first bit, kind 0..2, final, tokens or stored bytes, place in the raw bytes)

Nothing is trusted: whatever does not belong to a valid stream of exactly these raw bytes ends the parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.images.deflate.huffman import (
    BROKEN,
    DISTANCE_BASE,
    DISTANCE_EXTRA,
    LENGTH_BASE,
    LENGTH_EXTRA,
    PRECODE_ORDER,
    decoding_table,
)

Ints = NDArray[np.int64]
Tokens = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Int = Any

LONG258 = 1 << 26
STORED, FIXED, DYNAMIC = 0, 1, 2
MOST_BLOCKS = 1 << 20
AGAIN = 1 << 10  # in an operation: the length before is repeated (symbol 16), and not zeros (17, 18)
# What ``read_header`` leaves in ``header`` behind the 320 code lengths: three counts, and the number of operations.
HLIT, HDIST, HCLEN, OPERATIONS = 320, 321, 322, 323
HEADER = 324


@njit(cache=True, nogil=True, forceinline=True)
def take(body: Bytes, place: Int, bits: Int) -> Int:
    """``bits`` (to 16) bits from bit ``place`` on, lowest first. Bits behind the end are 0."""
    value, at = np.int64(0), place >> 3
    for i in range(3):
        if at + i < len(body):
            value |= np.int64(body[at + i]) << (8 * i)
    return (value >> (place & 7)) & ((1 << bits) - 1)


@njit(cache=True, nogil=True, forceinline=True)
def _symbol(body: Bytes, place: Int, amount: Ints, symbols: Ints) -> Any:
    """(symbol, place behind it); BROKEN where no code fits."""
    window = take(body, place, 16)
    code, first, index = np.int64(0), np.int64(0), np.int64(0)
    for bits in range(1, 16):
        code |= window & 1
        window >>= 1
        count = amount[bits]
        if code - first < count:
            return symbols[index + code - first], place + bits
        index += count
        first = (first + count) << 1
        code <<= 1
    return np.int64(BROKEN), place


@njit(cache=True, nogil=True)
def fixed_lengths(header: Ints) -> None:
    """The code lengths of RFC 1951, 3.2.6, as ``read_header`` gives others."""
    header[:144] = 8
    header[144:256] = 9
    header[256:280] = 7
    header[280:288] = 8
    header[288:320] = 5
    header[HLIT] = 288
    header[HDIST] = 32


@njit(cache=True, nogil=True)
def read_header(body: Bytes, place: Int, header: Ints, precode: Ints, operations: Ints) -> Int:
    """The code lengths of a dynamic block whose HLIT field is at bit ``place``; returns the place behind.

    ``header``: lengths of literals (0 .. 287) and distances (288 .. 319), then HLIT, HDIST, HCLEN. ``precode`` (19,).
    ``operations`` (320,): 0 for a length written out, else how often one is repeated (see AGAIN). BROKEN for an
    impossible header.
    """
    amount, symbols = np.zeros(17, np.int64), np.zeros(PRECODE_ORDER.size, np.int64)
    header[:] = 0
    precode[:] = 0
    hlit, hdist, hclen = (
        take(body, place, 5) + 257,
        take(body, place + 5, 5) + 1,
        take(body, place + 10, 4) + 4,
    )
    place += 14
    if hlit > 286 or hdist > 32:
        return np.int64(BROKEN)
    for i in range(hclen):
        precode[PRECODE_ORDER[i]] = take(body, place, 3)
        place += 3
    if decoding_table(precode, 19, amount, symbols) == BROKEN:
        return np.int64(BROKEN)
    k, used, previous = np.int64(0), np.int64(0), np.int64(-1)
    while k < hlit + hdist:
        symbol, place = _symbol(body, place, amount, symbols)
        if symbol == BROKEN or place > 8 * len(body):
            return np.int64(BROKEN)
        times: Any = np.int64(0)
        value = np.int64(0)
        if symbol < 16:
            value = symbol
        elif symbol == 16:
            times = 3 + take(body, place, 2)
            place += 2
            value = previous
        elif symbol == 17:
            times = 3 + take(body, place, 3)
            place += 3
        else:
            times = 11 + take(body, place, 7)
            place += 7
        if value < 0 or k + max(times, 1) > hlit + hdist:
            return np.int64(BROKEN)
        operations[used] = times | AGAIN if symbol == 16 else times
        used += 1
        previous = value
        for _ in range(max(times, 1)):
            header[k if k < hlit else 288 + k - hlit] = value
            k += 1
    header[HLIT] = hlit
    header[HDIST] = hdist
    header[HCLEN] = hclen
    header[OPERATIONS] = used
    return place


@njit(cache=True, nogil=True)
def _parse(body: Bytes, raw: Bytes, tokens: Tokens, blocks: Ints) -> Any:
    """(blocks, tokens, end in bits), the first negative when the stream is not one of ``raw``."""
    refused = (np.int64(-1), np.int64(0), np.int64(0))
    header, precode, operations = np.zeros(HEADER, np.int64), np.zeros(19, np.int64), np.zeros(320, np.int64)
    amount, symbols = np.zeros(17, np.int64), np.zeros(288, np.int64)
    amount_d, symbols_d = np.zeros(17, np.int64), np.zeros(32, np.int64)
    place, at, used, n = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    end = 8 * len(body)
    while True:
        if n >= blocks.shape[0] or place + 3 > end:
            return refused
        final, kind = take(body, place, 1), take(body, place + 1, 2)
        blocks[n, 0] = place
        blocks[n, 1] = kind
        blocks[n, 2] = final
        blocks[n, 4] = at
        place += 3
        if kind == STORED:
            place = (place + 7) & ~7
            size = take(body, place, 16)
            if place + 32 > end or size ^ take(body, place + 16, 16) != 0xFFFF:
                return refused
            place += 32
            if place + 8 * size > end or at + size > len(raw):
                return refused
            for i in range(size):
                if body[(place >> 3) + i] != raw[at + i]:
                    return refused
            place += 8 * size
            at += size
            blocks[n, 3] = size
        elif kind == 3:
            return refused
        else:
            if kind == FIXED:
                fixed_lengths(header)
            else:
                place = read_header(body, place, header, precode, operations)
                if place < 0:
                    return refused
            if decoding_table(header[:288], 288, amount, symbols) == BROKEN:
                return refused
            if decoding_table(header[288:320], 32, amount_d, symbols_d) == BROKEN:
                return refused
            first = used
            while True:
                symbol, place = _symbol(body, place, amount, symbols)
                if symbol == BROKEN or place > end:
                    return refused
                if symbol == 256:
                    break
                if used >= len(tokens):
                    return refused
                if symbol < 256:
                    if at >= len(raw) or raw[at] != symbol:
                        return refused
                    tokens[used] = 0
                    used += 1
                    at += 1
                    continue
                if symbol > 285:
                    return refused
                symbol -= 257
                length = LENGTH_BASE[symbol] + take(body, place, LENGTH_EXTRA[symbol])
                place += LENGTH_EXTRA[symbol]
                mark = np.int64(LONG258) if symbol == 27 and length == 258 else np.int64(0)
                symbol, place = _symbol(body, place, amount_d, symbols_d)
                if symbol == BROKEN or symbol > 29:
                    return refused
                distance = DISTANCE_BASE[symbol] + take(body, place, DISTANCE_EXTRA[symbol])
                place += DISTANCE_EXTRA[symbol]
                if place > end or distance > at or at + length > len(raw):
                    return refused
                for i in range(length):
                    if raw[at + i] != raw[at + i - distance]:
                        return refused
                tokens[used] = mark | length << 16 | distance
                used += 1
                at += length
            blocks[n, 3] = used - first
        n += 1
        if final:
            if at != len(raw):
                return refused
            return n, used, place


@dataclass(frozen=True)
class Stream:
    """A parsed stream: tokens (n,), blocks (m, 5), the stream's bytes, and how many of their bits are in use."""

    tokens: Tokens
    blocks: Ints
    body: Bytes
    end: int


def parse(body: Bytes, raw: Bytes) -> Stream | None:
    """The stream at the start of ``body`` that decodes to exactly ``raw``, or None when there is none such."""
    if len(raw) >= 1 << 31 or len(body) >= 1 << 31:
        return None
    # Every token takes a bit and gives a byte, every block takes ten bits: pages beyond what is used stay untouched.
    tokens = np.empty(min(len(raw), 8 * len(body)) + 1, np.int32)
    blocks = np.empty((min(MOST_BLOCKS, len(body) + 1), 5), np.int64)
    n, used, end = (int(v) for v in _parse(body, raw, tokens, blocks))
    if n < 0:
        return None
    return Stream(tokens[:used], blocks[:n], body[: (end + 7) // 8], end)
