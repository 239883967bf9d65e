"""LZW and PackBits exactly as libtiff writes them, so that most such TIFFs can be re-created byte for byte.

The encoders follow tif_lzw.c (LZWEncode, LZWPostEncode) and tif_packbits.c (PackBitsEncode) of libtiff step
by step, because their output depends on choices the formats leave open: when the string table is cleared
(full, or when the compression ratio, looked at every 10000 bytes, has not risen), and when two equal bytes
end a literal run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_CLEAR, _EOI, _FIRST, _LAST = 256, 257, 258, 4095
_CHECK_GAP = 10000  # bytes between two looks at the compression ratio
_BUCKETS = 1 << 14  # open addressing; at most 4096 entries, so a quarter full


@njit(cache=True)
def _lzw_encode(data: Any, out: Any, late_width: bool) -> int:
    """Write the LZW code of ``data`` to ``out``; returns its length.

    ``late_width``: the end code keeps the old width.
    """
    keys = np.full(_BUCKETS, -1, np.int64)
    codes = np.zeros(_BUCKETS, np.int64)
    n = 0
    acc: Any = 0
    nbits, free, maxcode = 9, _FIRST, 511
    checkpoint, ratio = _CHECK_GAP, 0
    in_count = 0
    acc, acc_bits, bits_out = _CLEAR, 9, 9  # every code starts with a clear
    if len(data):
        prefix: Any = np.int64(data[0])
        in_count = 1
        for i in range(1, len(data)):
            c = np.int64(data[i])
            in_count += 1
            key = (c << 12) | prefix
            h = (key * 40503) & (_BUCKETS - 1)
            while keys[h] != -1 and keys[h] != key:
                h = (h + 1) & (_BUCKETS - 1)
            if keys[h] == key:
                prefix = codes[h]
                continue
            acc = (acc << nbits) | prefix
            acc_bits += nbits
            bits_out += nbits
            while acc_bits >= 8:
                out[n] = (acc >> (acc_bits - 8)) & 255
                n += 1
                acc_bits -= 8
            acc &= (1 << acc_bits) - 1
            prefix = c
            keys[h] = key
            codes[h] = free
            free += 1
            clear = False
            if free == _LAST - 1:
                clear = True
            elif free > maxcode:
                nbits += 1
                maxcode = (1 << nbits) - 1
            elif in_count >= checkpoint:
                checkpoint = in_count + _CHECK_GAP
                if in_count > 0x007FFFFF:
                    now = bits_out >> 8
                    now = 0x7FFFFFFF if now == 0 else in_count // now
                else:
                    now = (in_count << 8) // bits_out
                if now <= ratio:
                    clear = True
                else:
                    ratio = now
            if clear:
                keys[:] = -1
                ratio = in_count = bits_out = 0
                free = _FIRST
                acc = (acc << nbits) | _CLEAR
                acc_bits += nbits
                bits_out += nbits
                nbits, maxcode = 9, 511
        acc = (acc << nbits) | prefix
        acc_bits += nbits
        free += 1
        if not late_width:
            if free == _LAST - 1:
                acc = (acc << nbits) | _CLEAR
                acc_bits += nbits
                nbits = 9
            elif free > maxcode:
                nbits += 1
    while acc_bits >= 8:
        out[n] = (acc >> (acc_bits - 8)) & 255
        n += 1
        acc_bits -= 8
    acc &= (1 << acc_bits) - 1
    acc = (acc << nbits) | _EOI
    acc_bits += nbits
    while acc_bits >= 8:
        out[n] = (acc >> (acc_bits - 8)) & 255
        n += 1
        acc_bits -= 8
    if acc_bits:
        out[n] = (acc << (8 - acc_bits)) & 255
        n += 1
    return n


@njit(cache=True)
def _lzw_decode(code: Any, out: Any) -> Any:
    """Decode ``code`` into ``out``; returns the bytes written, or -1 when the code is broken.

    Stops when ``out`` is full.
    """
    starts = np.zeros(4097, np.int64)  # the string of an entry, as it lies in what was already written
    sizes = np.zeros(4097, np.int64)
    n: Any = 0
    pos = acc_bits = 0
    acc: Any = 0
    nbits, free = 9, _FIRST
    previous, previous_start = -1, 0
    while n < len(out):
        while acc_bits < nbits:
            if pos >= len(code):
                return n
            acc = ((acc << 8) | np.int64(code[pos])) & 0xFFFFFFFF
            pos += 1
            acc_bits += 8
        value: Any = (acc >> (acc_bits - nbits)) & ((1 << nbits) - 1)
        acc_bits -= nbits
        if value == _EOI:
            return n
        if value == _CLEAR:
            nbits, free, previous = 9, _FIRST, -1
            continue
        begin = n
        if value < 256:
            out[n] = value
            n += 1
        elif previous >= 0 and _FIRST <= value < free:
            for j in range(min(sizes[value], len(out) - n)):
                out[n + j] = out[starts[value] + j]
            n += min(sizes[value], len(out) - n)
        elif previous >= 0 and value == free and free <= _LAST:
            size: Any = begin - previous_start
            for j in range(min(size, len(out) - n)):
                out[n + j] = out[previous_start + j]
            n += min(size, len(out) - n)
            if n < len(out):
                out[n] = out[previous_start]
                n += 1
        else:
            return -1
        if previous >= 0 and free <= _LAST:
            # The new entry is the previous string and the next byte, which lie side by side in the output.
            starts[free] = previous_start
            sizes[free] = begin - previous_start + 1
            free += 1
            if free == (1 << nbits) - 1 and nbits < 12:
                nbits += 1
        previous, previous_start = value, begin
    return n


@njit(cache=True)
def _packbits_encode(data: Any, row: int, out: Any) -> int:
    """Write the PackBits code of ``data``, row by row, to ``out``; returns its length."""
    n = 0
    for start in range(0, len(data), row):
        end = min(start + row, len(data))
        state, last, i = 0, 0, start  # states: 0 base, 1 literal, 2 run, 3 literal then run
        while i < end:
            b = data[i]
            count = 1
            i += 1
            while i < end and data[i] == b:
                count += 1
                i += 1
            while True:
                if state == 3:
                    if count == 1 and out[n - 2] == 255 and out[last] < 126:
                        out[last] += 2
                        state = 0 if out[last] == 127 else 1
                        out[n - 2] = out[n - 1]
                    else:
                        state = 2
                    continue
                if count > 1:
                    state = 3 if state == 1 else 2
                    if count > 128:
                        out[n] = 129
                        out[n + 1] = b
                        n += 2
                        count -= 128
                        continue
                    out[n] = 257 - count
                    out[n + 1] = b
                    n += 2
                elif state == 1:
                    out[last] += 1
                    if out[last] == 127:
                        state = 0
                    out[n] = b
                    n += 1
                else:
                    last = n
                    out[n] = 0
                    out[n + 1] = b
                    n += 2
                    state = 1
                break
    return n


@njit(cache=True)
def _packbits_decode(code: Any, out: Any) -> Any:
    """Decode ``code`` into ``out``; returns the bytes written. Stops when either ends."""
    n: Any = 0
    i: Any = 0
    while i < len(code) and n < len(out):
        head: Any = np.int64(code[i])
        i += 1
        if head < 128:
            size: Any = min(head + 1, len(code) - i, len(out) - n)
            for j in range(size):
                out[n + j] = code[i + j]
            i += head + 1
            n += size
        elif head > 128 and i < len(code):
            size = min(257 - head, len(out) - n)
            for j in range(size):
                out[n + j] = code[i]
            i += 1
            n += size
    return n


def lzw_encode(raw: Bytes, late_width: bool = False) -> bytes:
    """LZW as libtiff writes it.

    Older releases write the end code too narrow at some lengths: ``late_width``.
    """
    out = np.empty(len(raw) * 3 // 2 + len(raw) // 1024 + 64, np.uint8)
    return out[: _lzw_encode(raw, out, late_width)].tobytes()


def lzw_decode(code: Bytes, size: int) -> Bytes | None:
    """At most ``size`` bytes of an LZW code (most significant bit first); None when it is broken."""
    out = np.empty(size, np.uint8)
    written = int(_lzw_decode(code, out))
    return None if written < 0 else out[:written]


def packbits_encode(raw: Bytes, row: int) -> bytes:
    """PackBits as libtiff writes it; ``row`` bytes a row, and no packet crosses two rows."""
    rows = -(-len(raw) // row)
    out = np.empty(len(raw) + len(raw) // 64 + 2 * rows + 64, np.uint8)
    return out[: _packbits_encode(raw, row, out)].tobytes()


def packbits_decode(code: Bytes, size: int) -> Bytes:
    """At most ``size`` bytes of a PackBits code."""
    out = np.empty(size, np.uint8)
    return out[: int(_packbits_decode(code, out))]
