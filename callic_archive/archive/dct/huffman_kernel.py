"""The compiled loops of ``jpeg_stream``: coefficients out of the coded data of one scan, and these again out of them.

Arrays, for all functions here:

    levels    4 times (n) int16: the coefficients of each component by block rows, block columns, and 64 in row-major order;
              nothing for those that there are not
    layout    (components, 5) int64: blocks across and down in a unit (MCU), the numbers of the tables of DC and AC, and the
              block columns
    ends      (segments) int64: where each segment, which is what lies between restarts, ends in ``plain``
    pads      (segments) uint8: the bits that fill up the last byte of each
    plain     (n) uint8: coded data without the zeros behind FF and without restarts; ROOM bytes more than that
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Block = NDArray[np.int16]
Levels = tuple[Block, Block, Block, Block]
Numbers = NDArray[np.int64]
Lookup = NDArray[np.int32]
Int = Any

ROOM = 8
OK, BROKEN, FULL = range(3)
LEAST, MOST = -2048, 2047  # what ``coefficients`` takes
_END, _SIXTEEN = 0x00, 0xF0  # symbols: only zeros are left; sixteen zeros
_RESTART = 0xD0

ZIGZAG = np.array(
    sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) & 1 else i % 8)), np.int64
)
_LENGTHS = np.array([n.bit_length() for n in range(4096)], np.int64)


@njit(cache=True, nogil=True)
def unstuffed(data: Bytes, plain: Bytes, ends: Numbers) -> int:
    """Fill ``plain`` and ``ends`` from coded data, as far as restarts come in their order; how many segments there are."""
    count, found, at = 0, 0, 0
    while at < len(data):
        value = data[at]
        if value == 0xFF:
            if at + 1 >= len(data):
                break
            following = data[at + 1]
            if _RESTART <= following < _RESTART + 8:
                if found + 1 >= len(ends) or following != _RESTART + found % 8:
                    break
                ends[found] = count
                found += 1
                at += 2
                continue
            if following != 0:
                break
            at += 1
        plain[count] = value
        count += 1
        at += 1
    ends[found] = count
    return found + 1


@njit(cache=True, nogil=True, forceinline=True)
def _ahead(plain: Bytes, place: Int) -> Int:
    """The 32 bits from bit number ``place`` on, which is in ``plain`` but for its ROOM."""
    at = place >> 3
    word = np.int64(0)
    for i in range(5):
        word = word << 8 | np.int64(plain[at + i])
    return (word >> (8 - (place & 7))) & 0xFFFFFFFF


@njit(cache=True, nogil=True, forceinline=True)
def _number(ahead: Int, used: Int, size: Int) -> Int:
    """The number of ``size`` bits behind the first ``used`` of the 32."""
    value = (ahead >> (32 - used - size)) & ((np.int64(1) << size) - 1)
    if size > 0 and value >> (size - 1) == 0:
        value -= (np.int64(1) << size) - 1
    return value


@njit(cache=True, nogil=True)
def _read_block(plain: Bytes, place: Int, end: Int, dc: Lookup, ac: Lookup, last: Int, block: Block) -> Int:
    """Read a block (64, zeros at first) from bit ``place`` on; the bit behind it, or -1 where it is broken. ``end``: of the
    segment, in bits."""
    ahead = _ahead(plain, place)
    entry = np.int64(dc[ahead >> 16])
    length, size = entry >> 8, entry & 255
    if length == 0 or size > 15:
        return -1
    value = last + _number(ahead, length, size)
    place += length + size
    if place > end or value < LEAST or value > MOST:
        return -1
    block[0] = value
    k: Int = 1
    while k < 64:
        ahead = _ahead(plain, place)
        entry = np.int64(ac[ahead >> 16])
        length, size, run = entry >> 8, entry & 15, (entry & 255) >> 4
        if length == 0:
            return -1
        place += length + size
        if place > end:
            return -1
        if size == 0:
            if run == 0:
                return place
            if run != 15:
                return -1
            k += 16
            continue
        k += run
        if k > 63:
            return -1
        value = _number(ahead, length, size)
        if value < LEAST or value > MOST:
            return -1
        block[ZIGZAG[k]] = value
        k += 1
    return place


@njit(cache=True, nogil=True)
def read_scan(
    plain: Bytes, ends: Numbers, lookups: Lookup, layout: Numbers, rows: Int, columns: Int, interval: Int, levels: Levels,
    pads: Bytes, seen: NDArray[np.bool_],
) -> int:  # fmt: skip
    """Read ``rows`` of ``columns`` units into ``levels``, which are zeros; a restart lies before each ``interval`` of them.

    lookups: (tables, 65536), for 16 bits 256 * length + symbol of the code that they begin with, or 0; ``seen`` (2): whether a
    0 and a 1 is among the bits that fill up bytes. OK, or BROKEN where this is no such scan.
    """
    components = layout.shape[0]
    last = np.zeros(components, np.int64)
    place: Int = np.int64(0)
    segment = 0
    for unit in range(rows * columns):
        if unit > 0 and unit % interval == 0:
            if (place + 7) >> 3 != ends[segment]:
                return BROKEN
            _read_pad(plain, place, pads, segment, seen)
            place = 8 * ends[segment]
            segment += 1
            last[:] = 0
        row, column = unit // columns, unit % columns
        for c in range(components):
            for y in range(layout[c, 1]):
                for x in range(layout[c, 0]):
                    begin = 64 * ((row * layout[c, 1] + y) * layout[c, 4] + column * layout[c, 0] + x)
                    block = levels[c][begin : begin + 64]
                    place = _read_block(
                        plain, place, 8 * ends[segment], lookups[layout[c, 2]], lookups[layout[c, 3]], last[c], block
                    )
                    if place < 0:
                        return BROKEN
                    last[c] = block[0]
    _read_pad(plain, place, pads, segment, seen)
    return OK


@njit(cache=True, nogil=True)
def _read_pad(plain: Bytes, place: Int, pads: Bytes, segment: Int, seen: NDArray[np.bool_]) -> None:
    count = -place & 7
    if count:
        value = plain[place >> 3] & ((1 << count) - 1)
        pads[segment] = value
        seen[0] |= value != (1 << count) - 1
        seen[1] |= value != 0


@njit(cache=True, nogil=True, forceinline=True)
def _put(out: Bytes, state: Numbers, code: Int, length: Int) -> None:
    """Write the lowest ``length`` bits, up to 32, of ``code``. ``state`` (4): the bytes written, the bits that wait for a byte
    to be full and how many they are, and the status."""
    waiting = state[1] << length | code
    count = state[2] + length
    while count >= 8:
        count -= 8
        byte = (waiting >> count) & 255
        if state[0] + 2 > len(out):
            state[3] = FULL
            count &= 7
            break
        out[state[0]] = byte
        state[0] += 1
        if byte == 0xFF:
            out[state[0]] = 0
            state[0] += 1
    state[1] = waiting & ((np.int64(1) << count) - 1)
    state[2] = count


@njit(cache=True, nogil=True, forceinline=True)
def _put_number(out: Bytes, state: Numbers, codes: Numbers, run: Int, value: Int) -> None:
    """A symbol, of ``run`` and the bits of ``value``, and these bits."""
    size = _LENGTHS[abs(value)]
    entry = codes[run << 4 | size]
    if entry == 0:
        state[3] = BROKEN
        return
    low = (value if value >= 0 else value - 1) & ((np.int64(1) << size) - 1)
    _put(out, state, (entry >> 8) << size | low, (entry & 255) + size)


@njit(cache=True, nogil=True)
def _write_block(out: Bytes, state: Numbers, dc: Numbers, ac: Numbers, last: Int, block: Block) -> None:
    _put_number(out, state, dc, 0, np.int64(block[0]) - last)
    run = 0
    for k in range(1, 64):
        value = np.int64(block[ZIGZAG[k]])
        if value == 0:
            run += 1
            continue
        while run > 15:
            _put_number(out, state, ac, _SIXTEEN >> 4, np.int64(0))
            run -= 16
        _put_number(out, state, ac, run, value)
        run = 0
    if run:
        _put_number(out, state, ac, _END >> 4, np.int64(0))


@njit(cache=True, nogil=True)
def write_scan(
    out: Bytes, codes: Numbers, layout: Numbers, rows: Int, columns: Int, interval: Int, levels: Levels, pads: Bytes,
    state: Numbers,
) -> None:  # fmt: skip
    """The inverse of ``unstuffed`` and ``read_scan``. ``levels`` are LEAST .. MOST.

    codes: (tables, 256), for each symbol 256 * code + length, or 0. ``state`` (4, zeros at first) has the bytes that were
    written in its first number, and in its last OK, FULL where ``out`` is too small, or BROKEN where a symbol has no code.
    """
    components = layout.shape[0]
    last = np.zeros(components, np.int64)
    segment = 0
    for unit in range(rows * columns):
        if unit > 0 and unit % interval == 0:
            _write_pad(out, state, pads[segment])
            if state[0] + 2 > len(out):
                state[3] = FULL
                return
            out[state[0]] = 0xFF
            out[state[0] + 1] = _RESTART + segment % 8
            state[0] += 2
            segment += 1
            last[:] = 0
        row, column = unit // columns, unit % columns
        for c in range(components):
            for y in range(layout[c, 1]):
                for x in range(layout[c, 0]):
                    begin = 64 * ((row * layout[c, 1] + y) * layout[c, 4] + column * layout[c, 0] + x)
                    block = levels[c][begin : begin + 64]
                    _write_block(out, state, codes[layout[c, 2]], codes[layout[c, 3]], last[c], block)
                    last[c] = block[0]
        if state[3] != OK:
            return
    _write_pad(out, state, pads[segment])


@njit(cache=True, nogil=True)
def _write_pad(out: Bytes, state: Numbers, pad: Int) -> None:
    count = -state[2] & 7
    _put(out, state, np.int64(pad) & ((1 << count) - 1), count)
