"""The quantised coefficients of baseline JPEG files, for tests: Huffman coding, one scan, no restart markers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

ZIGZAG = np.array(
    sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) & 1 else i % 8)), np.int64
)  # fmt: skip


def coefficients(jpeg: bytes) -> tuple[list[NDArray[np.int16]], list[NDArray[np.uint16]]]:
    """The planes (block rows, block columns, 64), whole MCUs, and the table (64) of each component, all in row-major order.

    Raises ValueError where the file is not of the kind told above.
    """
    quantisation: dict[int, NDArray[np.uint16]] = {}
    codes: dict[int, NDArray[np.int64]] = {}
    frame: list[tuple[int, int, int, int]] = []
    height = width = 0
    place = 2
    while True:
        marker, size = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        body = jpeg[place + 4 : place + 2 + size]
        place += 2 + size
        if marker == 0xDB:
            while body:
                wide, name = body[0] >> 4, body[0] & 15
                entries = np.frombuffer(body, ">u2" if wide else "u1", 64, 1)
                quantisation[name] = np.zeros(64, np.uint16)
                quantisation[name][ZIGZAG] = entries
                body = body[1 + 64 * (1 + wide) :]
        elif marker == 0xC4:
            while body:
                counts = list(body[1:17])
                codes[body[0]] = _lookup(counts, body[17 : 17 + sum(counts)])
                body = body[17 + sum(counts) :]
        elif marker in (0xC0, 0xC1):
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            frame = [
                (body[6 + 3 * i], body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15, body[8 + 3 * i]) for i in range(body[5])
            ]
        elif marker == 0xDA:
            if body[0] != len(frame):
                raise ValueError("more than one scan")
            trees = [(body[2 + 2 * i] >> 4, body[2 + 2 * i] & 15) for i in range(body[0])]
            break
        elif marker == 0xDD or 0xC2 <= marker <= 0xCF:
            raise ValueError("not a baseline file without restart markers")
    scan = np.frombuffer(jpeg[place : jpeg.rindex(b"\xff\xd9")].replace(b"\xff\x00", b"\xff") + bytes(8), "u1")
    if len(frame) == 1:
        frame = [(frame[0][0], 1, 1, frame[0][3])]
    across, down = max(f[1] for f in frame), max(f[2] for f in frame)
    columns, rows = -(-width // (8 * across)), -(-height // (8 * down))
    planes = [np.zeros((rows * v, columns * h, 64), np.int16) for _, h, v, _ in frame]
    position = np.zeros(1, np.int64)
    last = np.zeros(len(frame), np.int64)
    dc = [codes[t[0]] for t in trees]
    ac = [codes[16 + t[1]] for t in trees]
    for row in range(rows):
        for column in range(columns):
            for i, (_, h, v, _) in enumerate(frame):
                part = planes[i][row * v : row * v + v, column * h : column * h + h]
                _blocks(scan, position, last, i, dc[i], ac[i], part, ZIGZAG)
    return planes, [quantisation[f[3]] for f in frame]


def _lookup(counts: list[int], symbols: bytes) -> NDArray[np.int64]:
    """For each 16 bits: 256 * length + symbol of the code that they begin with."""
    table = np.zeros(65536, np.int64)
    code, k = 0, 0
    for length in range(1, 17):
        for _ in range(counts[length - 1]):
            table[code << (16 - length) : (code + 1) << (16 - length)] = 256 * length + symbols[k]
            code, k = code + 1, k + 1
        code <<= 1
    return table


@njit(cache=True)
def _bits(scan: Any, place: Any, count: Any) -> Any:
    result = np.int64(0)
    for i in range(place, place + count):
        byte = np.int64(scan[i >> 3]) if i >> 3 < len(scan) else 0
        result = 2 * result + ((byte >> (7 - (i & 7))) & 1)
    return result


@njit(cache=True)
def _value(scan: Any, position: Any, size: Any) -> Any:
    value = _bits(scan, position[0], size)
    position[0] += size
    return value if size == 0 or value >> (size - 1) else value - (1 << size) + 1


@njit(cache=True)
def _blocks(scan: Any, position: Any, last: Any, which: Any, dc: Any, ac: Any, part: Any, zigzag: Any) -> None:
    for row in range(part.shape[0]):
        for column in range(part.shape[1]):
            entry = dc[_bits(scan, position[0], 16)]
            position[0] += entry >> 8
            last[which] += _value(scan, position, entry & 255)
            part[row, column, 0] = last[which]
            k = 1
            while k < 64:
                entry = ac[_bits(scan, position[0], 16)]
                position[0] += entry >> 8
                run, size = (entry & 255) >> 4, entry & 15
                if size == 0 and run < 15:
                    break
                k += run
                if size > 0 and k < 64:
                    part[row, column, zigzag[k]] = _value(scan, position, size)
                k += 1
