"""The header of a dynamic block: code lengths guessed from what the block's tokens count up to, and differences.

A header is three layers: lengths of the codes for literals and distances, operations that write those lengths with
repetitions, and lengths of the codes for the operations (the precode). Each is guessed from the one above.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.images.deflate.coder import BROKEN, NUMBER, STATUS, bit, number, plain
from callic_archive.images.deflate.huffman import PRECODE_ORDER, heap_lengths, sorted_lengths
from callic_archive.images.deflate.parser import AGAIN, HCLEN, HDIST, HEADER, HLIT, OPERATIONS

Ints = NDArray[np.int64]
Int = Any
Array = Any

# Contexts, by the place of the first.
TREE = 0  # 2
EXTENT = TREE + 2  # 2
LENGTH = EXTENT + 2  # 3 codes x unused or used x 4 histories
UNUSED = LENGTH + 24  # 3 numbers: the length of a code that was expected to be unused
DOWN = UNUSED + 3 * NUMBER  # 3
STEP = DOWN + 3  # 3 x 2 numbers
JOINED = STEP + 6 * NUMBER  # 2
OPERATION = JOINED + 2  # 4
REPEAT = OPERATION + 4  # 2
TIMES = REPEAT + 2  # a number
ZEROS = TIMES + NUMBER  # 1
TRIM = ZEROS + 1  # 1
HEADER_CONTEXTS = TRIM + 1


@njit(cache=True, nogil=True)
def lengths_of(counts: Ints, n: Int, most: Int, tree: Int, lengths: Ints) -> None:
    """Code lengths (n,) as the compressors of family ``tree`` choose them: 0 zlib, 1 sorted by count."""
    if tree == 0:
        heap_lengths(counts, n, most, lengths)
    else:
        sorted_lengths(counts, n, most, lengths)


@njit(cache=True, nogil=True)
def value_at(header: Ints, k: Int) -> Int:
    """The k-th code length in the order in which they are written."""
    return header[k] if k < header[HLIT] else header[288 + k - header[HLIT]]


@njit(cache=True, nogil=True)
def expected_operation(header: Ints, k: Int, joined: Int) -> Int:
    """The operation that a compressor writes at the k-th length: as many repetitions as there can be.

    ``joined``: literals and distances are one list; else no repetition reaches from one into the other.
    """
    end = header[HLIT] + header[HDIST]
    begin = np.int64(0)
    if not joined:
        if k < header[HLIT]:
            end = header[HLIT]
        else:
            begin = header[HLIT]
    value = value_at(header, k)
    most = 138 if value == 0 else 6
    run = np.int64(1)
    while run < most and k + run < end and value_at(header, k + run) == value:
        run += 1
    if run < 3:
        return np.int64(0)
    if value == 0:
        return run
    return run | AGAIN if k > begin and value_at(header, k - 1) == value else np.int64(0)


@njit(cache=True, nogil=True)
def symbol_of(header: Ints, k: Int, operation: Int) -> Int:
    """The precode symbol of an operation at the k-th length."""
    if operation == 0:
        return value_at(header, k)
    if operation & AGAIN:
        return np.int64(16)
    return np.int64(17) if operation < 11 else np.int64(18)


@njit(cache=True, nogil=True)
def expected_operations(header: Ints, joined: Int, operations: Ints) -> None:
    """All expected operations of a header; their number goes to ``header``."""
    k, used = np.int64(0), np.int64(0)
    while k < header[HLIT] + header[HDIST]:
        operation = expected_operation(header, k, joined)
        operations[used] = operation
        used += 1
        k += max(operation & (AGAIN - 1), 1)
    header[OPERATIONS] = used


@njit(cache=True, nogil=True)
def count_operations(header: Ints, operations: Ints, counts: Ints) -> Int:
    """How often each precode symbol occurs, to ``counts`` (19,); returns the bits that follow them."""
    counts[:] = 0
    k, extra = np.int64(0), np.int64(0)
    for i in range(header[OPERATIONS]):
        symbol = symbol_of(header, k, operations[i])
        counts[symbol] += 1
        extra += 2 if symbol == 16 else 3 if symbol == 17 else 7 if symbol == 18 else 0
        k += max(operations[i] & (AGAIN - 1), 1)
    return extra


@njit(cache=True, nogil=True)
def trimmed(precode: Ints) -> Int:
    """How many lengths of the precode must be written: 4 .. 19."""
    n = np.int64(19)
    while n > 4 and precode[PRECODE_ORDER[n - 1]] == 0:
        n -= 1
    return n


@njit(cache=True, nogil=True)
def extent(counts: Ints, n: Int, least: Int) -> Int:
    """One more than the last of ``n`` symbols that occurs, at least ``least``."""
    while n > least and counts[n - 1] == 0:
        n -= 1
    return n


@njit(cache=True, nogil=True)
def _code_lengths(
    c: Array, b: Array, p: Array, expected: Ints, lengths: Ints, n: Int, most: Int, code: Int
) -> None:
    """Lengths (n,) against what was expected of them; ``code`` 0: literals, 1: distances, 2: the precode."""
    past = np.int64(0)
    for i in range(n):
        guess = expected[i]
        used = np.int64(guess > 0)
        wrong = bit(c, b, p, LENGTH + 8 * code + 4 * used + past, np.int64(lengths[i] != guess))
        past = ((past << 1) | wrong) & 3
        if not wrong:
            lengths[i] = guess
        elif not used:
            lengths[i] = 1 + number(c, b, p, UNUSED + NUMBER * code, lengths[i] - 1)
        elif bit(c, b, p, DOWN + code, np.int64(lengths[i] < guess)):
            lengths[i] = guess - 1 - number(c, b, p, STEP + NUMBER * (2 * code + 1), guess - 1 - lengths[i])
        else:
            lengths[i] = guess + 1 + number(c, b, p, STEP + NUMBER * 2 * code, lengths[i] - guess - 1)
        if lengths[i] < 0 or lengths[i] > most:
            c[STATUS] = BROKEN
            return


@njit(cache=True, nogil=True)
def _code_operations(c: Array, b: Array, p: Array, header: Ints, joined: Int, operations: Ints) -> None:
    k, used, past = np.int64(0), np.int64(0), np.int64(0)
    while k < header[HLIT] + header[HDIST]:
        guess = expected_operation(header, k, joined)
        operation = operations[used]
        wrong = bit(c, b, p, OPERATION + past, np.int64(operation != guess))
        past = ((past << 1) | wrong) & 3
        if not wrong:
            operation = guess
        elif bit(c, b, p, REPEAT + np.int64(guess > 0), np.int64(operation > 0)):
            zero = value_at(header, k) == 0
            times = 3 + number(c, b, p, TIMES, (operation & (AGAIN - 1)) - 3)
            again = np.int64(not zero)
            if zero:
                again = bit(c, b, p, ZEROS, np.int64(operation & AGAIN > 0))
            operation = times | (AGAIN if again else 0)
            if (
                times > (6 if again else 138)
                or k + times > header[HLIT] + header[HDIST]
                or (again and k == 0)
            ):
                c[STATUS] = BROKEN
                return
            for i in range(np.int64(0) - again, times):
                if value_at(header, k + i) != value_at(header, k):
                    c[STATUS] = BROKEN
                    return
        else:
            operation = np.int64(0)
        operations[used] = operation
        used += 1
        k += max(operation & (AGAIN - 1), 1)
    header[OPERATIONS] = used


@njit(cache=True, nogil=True)
def best_tree(header: Ints, literals: Ints, distances: Ints) -> Int:
    """The family whose lengths are nearest to those in ``header``."""
    expected, misses = np.zeros(288, np.int64), np.zeros(2, np.int64)
    for tree in range(2):
        lengths_of(literals, np.int64(286), np.int64(15), tree, expected)
        for i in range(286):
            misses[tree] += expected[i] != header[i]
        lengths_of(distances, np.int64(30), np.int64(15), tree, expected)
        for i in range(30):
            misses[tree] += expected[i] != header[288 + i]
    return np.int64(misses[1] < misses[0])


@njit(cache=True, nogil=True)
def best_joined(header: Ints, operations: Ints) -> Int:
    """Whether the operations look more like those of one list than of two."""
    made, n = np.zeros(320, np.int64), header[OPERATIONS]
    expected_operations(header, 1, made)
    same = n == header[OPERATIONS]
    for i in range(n):
        same = same and made[i] == operations[i]
    header[OPERATIONS] = n
    return np.int64(same)


@njit(cache=True, nogil=True)
def code_header(
    c: Array,
    b: Array,
    p: Array,
    literals: Ints,
    distances: Ints,
    habits: Ints,
    header: Ints,
    precode: Ints,
    operations: Ints,
) -> None:
    """Code, or fill in, ``header``, ``precode`` and ``operations`` (see ``parser.read_header``).

    ``literals`` (288,), ``distances`` (32,): how often each symbol occurs in the block, the end included. ``habits``
    (2,): tree family and joined lists of the header before. Encoders put their choices of the two there first.
    """
    tree, joined = habits[0], habits[1]
    tree = bit(c, b, p, TREE, tree)
    joined = bit(c, b, p, JOINED, joined)
    habits[0], habits[1] = tree, joined
    expected = np.zeros(288, np.int64)
    for code in range(2):
        counts = literals if code == 0 else distances
        n, most, place = (
            (np.int64(286), np.int64(286), HLIT) if code == 0 else (np.int64(30), np.int64(32), HDIST)
        )
        expected[:] = 0
        lengths_of(counts, n, np.int64(15), tree, expected)
        least = np.int64(257) if code == 0 else np.int64(1)
        guess = extent(expected, n, least)
        if bit(c, b, p, EXTENT + code, np.int64(header[place] != guess)):
            header[place] = plain(c, b, 5, header[place] - least) + least
        else:
            header[place] = guess
        if header[place] > most:
            c[STATUS] = BROKEN
            return
        view = header[:288] if code == 0 else header[288:320]
        _code_lengths(c, b, p, expected, view, header[place], np.int64(15), np.int64(code))
        if c[STATUS] != 0:
            return
    _code_operations(c, b, p, header, joined, operations)
    if c[STATUS] != 0:
        return
    counts = np.zeros(19, np.int64)
    count_operations(header, operations, counts)
    expected[:] = 0
    lengths_of(counts, np.int64(19), np.int64(7), tree, expected)
    _code_lengths(c, b, p, expected, precode, np.int64(19), np.int64(7), np.int64(2))
    if c[STATUS] != 0:
        return
    guess = trimmed(precode)
    if bit(c, b, p, TRIM, np.int64(header[HCLEN] != guess)):
        header[HCLEN] = plain(c, b, 4, header[HCLEN] - 4) + 4
    else:
        header[HCLEN] = guess
    if header[HCLEN] > 19:
        c[STATUS] = BROKEN


def empty_header() -> tuple[Ints, Ints, Ints]:
    """Room for a header, its precode and its operations."""
    return np.zeros(HEADER, np.int64), np.zeros(19, np.int64), np.zeros(320, np.int64)
