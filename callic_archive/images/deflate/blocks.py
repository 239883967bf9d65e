"""A whole stream: blocks in turn, each its extent, its tokens, its header, in one function for both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.images.deflate.coder import (
    BROKEN,
    BUSY,
    DECODE,
    DIRECTION,
    NUMBER,
    STATUS,
    bit,
    number,
    plain,
)
from callic_archive.images.deflate.headers import (
    HEADER_CONTEXTS,
    best_joined,
    best_tree,
    code_header,
    count_operations,
    expected_operations,
    extent,
    lengths_of,
    trimmed,
)
from callic_archive.images.deflate.huffman import DISTANCE_EXTRA, LENGTH_EXTRA, LENGTH_SYMBOL, distance_symbol
from callic_archive.images.deflate.matcher import AHEAD, FORGET, RING, TOKENS, WORK, enter
from callic_archive.images.deflate.matcher import BITS as HASH_BITS
from callic_archive.images.deflate.parser import (
    DYNAMIC,
    FIXED,
    HDIST,
    HEADER,
    HLIT,
    LONG258,
    STORED,
    fixed_lengths,
    read_header,
    take,
)
from callic_archive.images.deflate.tokens import TOKEN_CONTEXTS, code_token
from callic_archive.images.deflate.writer import BYTES, WAITING, put, put_header, put_tokens

Ints = NDArray[np.int64]
Tokens = NDArray[np.int32]
Int = Any
Array = Any

# Contexts, by the place of the first.
HEADERS = TOKEN_CONTEXTS
STORE = HEADERS + HEADER_CONTEXTS  # 2: stored, by whether the block before was
FULL = STORE + 2  # 2: another number of tokens than a full block has
PART = FULL + 2  # 2: ends before the raw bytes do
COUNT = PART + 2  # a number: tokens
FIXES = COUNT + NUMBER  # 2: fixed or dynamic, by what was expected
FINAL = FIXES + 2  # 2: last block, by whether the raw bytes are at their end
SAME = FINAL + 2  # stored bytes: another number than before
AGREES = SAME + 1  # stored bytes: ends before the raw bytes do
STORED_BYTES = AGREES + 1  # a number
PAD = STORED_BYTES + NUMBER  # 2: bits behind the last block, before stored bytes
STREAM = PAD + 2  # for the callers: 1 and two numbers
CONTEXTS = STREAM + 1 + 2 * NUMBER


@njit(cache=True, nogil=True)
def _count(tokens: Tokens, n: Int, raw: Array, at: Int, literals: Ints, distances: Ints) -> Int:
    """Count the symbols of ``n`` tokens; returns the bits that they take behind their codes."""
    literals[:] = 0
    distances[:] = 0
    literals[256] = 1
    extra = np.int64(0)
    for i in range(n):
        token = np.int64(tokens[i])
        if token == 0:
            literals[raw[at]] += 1
            at += 1
            continue
        length = (token >> 16) & 0x3FF
        symbol = LENGTH_SYMBOL[length] - (1 if token & LONG258 else 0)
        literals[symbol] += 1
        extra += LENGTH_EXTRA[symbol - 257]
        symbol = distance_symbol(token & 0xFFFF)
        distances[symbol] += 1
        extra += DISTANCE_EXTRA[symbol]
        at += length
    return extra


@njit(cache=True, nogil=True)
def _fixed_expected(literals: Ints, distances: Ints, tree: Int, joined: Int) -> bool:
    """Whether the fixed codes take no more whole bytes than codes of the block's own."""
    header, operations = np.zeros(HEADER, np.int64), np.zeros(320, np.int64)
    fixed_lengths(header)
    fixed = np.int64(3)
    for i in range(286):
        fixed += literals[i] * header[i]
    for i in range(30):
        fixed += distances[i] * header[288 + i]
    header[:] = 0
    lengths_of(literals, np.int64(286), np.int64(15), tree, header[:288])
    lengths_of(distances, np.int64(30), np.int64(15), tree, header[288:320])
    own = np.int64(17)
    for i in range(286):
        own += literals[i] * header[i]
    for i in range(30):
        own += distances[i] * header[288 + i]
    header[HLIT] = extent(header, np.int64(286), np.int64(257))
    header[HDIST] = extent(header[288:320], np.int64(30), np.int64(1))
    expected_operations(header, joined, operations)
    counts, precode = np.zeros(19, np.int64), np.zeros(19, np.int64)
    own += count_operations(header, operations, counts)
    lengths_of(counts, np.int64(19), np.int64(7), tree, precode)
    own += 3 * trimmed(precode)
    for i in range(19):
        own += counts[i] * precode[i]
    return bool((fixed + 7) >> 3 <= (own + 7) >> 3)


@njit(cache=True, nogil=True)
def _code_stored(
    c: Array,
    b: Array,
    p: Array,
    raw: Array,
    body: Array,
    at: Int,
    place: Int,
    w: Ints,
    out: Array,
    size: Int,
    before: Int,
) -> Int:
    """The number of stored bytes from ``at`` on, and the bits before them; a decoder writes both and the bytes."""
    encoding = c[DIRECTION] != DECODE
    bits = (np.int64(0) - place - 3 if encoding else np.int64(0) - w[WAITING]) & 7
    pad = take(body, place + 3, bits) if encoding else np.int64(0)
    if bits and bit(c, b, p, PAD + 1, np.int64(pad > 0)):
        pad = plain(c, b, bits, pad)
    if bit(c, b, p, SAME, np.int64(size != before)):
        if bit(c, b, p, AGREES, np.int64(at + size != len(raw))):
            size = number(c, b, p, STORED_BYTES, size)
        else:
            size = len(raw) - at
    else:
        size = before
    if size > 65535 or at + size > len(raw):
        c[STATUS] = BROKEN
        return np.int64(0)
    if not encoding:
        put(w, out, pad, bits)
        put(w, out, size | (size ^ 0xFFFF) << 16, 32)
        for i in range(size):
            put(w, out, np.int64(raw[at + i]), 8)
    return size


@njit(cache=True, nogil=True)
def code_blocks(
    c: Array, b: Array, p: Array, raw: Array, strings: Array, s: Ints, limits: Ints, tokens: Tokens, blocks: Ints,
    body: Array, end: Int, out: Array, w: Ints, budget: Int, most: Int,
) -> Int:  # fmt: skip
    """Code the blocks of one stream; returns the raw bytes covered, and sets the coder's status where it fails.

    Encoders give ``tokens``, ``blocks``, ``body`` and ``end`` of a parsed stream, and may stop after ``most`` tokens.
    Decoders give room for tokens and for the stream in ``out``, with the state ``w`` of its writer.
    """
    encoding = c[DIRECTION] != DECODE
    strings[: np.int64(1) << limits[HASH_BITS]] = -1
    s[:] = 0
    s[AHEAD] = -1
    header, precode, operations = np.zeros(HEADER, np.int64), np.zeros(19, np.int64), np.zeros(320, np.int64)
    literals, distances, habits = np.zeros(288, np.int64), np.zeros(32, np.int64), np.zeros(2, np.int64)
    at, past, stored, before = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    event, number_of, base, coded = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    while True:
        kind = blocks[number_of, 1] if encoding else np.int64(0)
        amount = blocks[number_of, 3] if encoding else np.int64(0)
        place = blocks[number_of, 0] if encoding else np.int64(0)
        final = blocks[number_of, 2] if encoding else np.int64(0)
        stored = bit(c, b, p, STORE + stored, np.int64(kind == STORED))
        if stored:
            final = bit(c, b, p, FINAL, final)
            if not encoding:
                put(w, out, final, 3)
            size = _code_stored(c, b, p, raw, body, at, place, w, out, amount, before)
            if c[STATUS] != 0:
                return at
            before = size
            at += size
            s[AHEAD] = -1
            enter(raw, strings, s, limits[HASH_BITS], at)
            if size == 0 and limits[FORGET]:
                strings[: np.int64(1) << limits[HASH_BITS]] = -1
        else:
            begin = at
            until = np.int64(0)
            if encoding:
                until = blocks[number_of + 1, 4] if number_of + 1 < blocks.shape[0] else np.int64(len(raw))
            rest = np.int64(0)
            if bit(c, b, p, FULL + event, np.int64(amount != limits[TOKENS])):
                event = np.int64(1)
                if bit(c, b, p, PART + np.int64(at == len(raw)), np.int64(until != len(raw))):
                    amount = number(c, b, p, COUNT, amount)
                else:
                    rest = np.int64(1)
            else:
                event = np.int64(0)
                amount = limits[TOKENS]
            i = np.int64(0)
            while (i < amount) if (encoding or not rest) else (at < len(raw)):
                if at >= len(raw) or base + i >= len(tokens):
                    c[STATUS] = BROKEN
                    return at
                token = np.int64(tokens[base + i]) if encoding else np.int64(0)
                token, past = code_token(c, b, p, raw, strings, s, limits, at, token, past)
                if s[WORK] > budget:
                    c[STATUS] = BUSY
                if c[STATUS] != 0:
                    return at
                if not encoding:
                    tokens[i] = token
                at += max((token >> 16) & 0x3FF, 1)
                i += 1
                coded += 1
                if encoding and coded >= most:
                    return at
            amount = i
            final = bit(c, b, p, FINAL + np.int64(at == len(raw)), final)
            view = tokens[base : base + amount] if encoding else tokens[:amount]
            _count(view, amount, raw, begin, literals, distances)
            guess = np.int64(_fixed_expected(literals, distances, habits[0], habits[1]))
            fixed = bit(c, b, p, FIXES + guess, np.int64(kind == FIXED))
            if not encoding:
                put(w, out, final, 1)
                put(w, out, np.int64(FIXED if fixed else DYNAMIC), 2)
            if fixed:
                if not encoding:
                    fixed_lengths(header)
            else:
                if encoding:
                    read_header(body, place + 3, header, precode, operations)
                    habits[0] = best_tree(header, literals, distances)
                    habits[1] = best_joined(header, operations)
                else:
                    header[:] = 0
                    precode[:] = 0
                code_header(c, b, p[HEADERS:], literals, distances, habits, header, precode, operations)
                if c[STATUS] != 0:
                    return at
                if not encoding:
                    put_header(w, out, header, precode, operations)
            if encoding:
                base += amount
            else:
                put_tokens(w, out, header, view, amount, raw, begin)
        number_of += 1
        if not encoding and w[BYTES] > len(out):
            c[STATUS] = BROKEN
            return at
        if final:
            break
    bits = (np.int64(0) - end if encoding else np.int64(0) - w[WAITING]) & 7
    pad = take(body, end, bits) if encoding else np.int64(0)
    if bits:
        if bit(c, b, p, PAD, np.int64(pad > 0)):
            pad = plain(c, b, bits, pad)
        if not encoding:
            put(w, out, pad, bits)
    if at != len(raw):
        c[STATUS] = BROKEN
    return at


def empty_strings(bits: int) -> NDArray[np.int32]:
    """Room for the strings of a search with a hash of ``bits`` bits."""
    return np.empty((1 << bits) + RING, np.int32)
