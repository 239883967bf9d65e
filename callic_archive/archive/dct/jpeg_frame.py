"""The header of a sequential JPEG stream of one scan: its components, quantisation tables, Huffman codes and restarts.

ITU-T T.81, annex B. Only what the coded data need is read; everything else in a header is bytes that stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_ZIGZAG = np.array(
    sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) & 1 else i % 8)), np.int64
)
_SOF, _DHT, _DQT, _DRI, _SOS = (0xC0, 0xC1), 0xC4, 0xDB, 0xDD, 0xDA
_OTHERS = frozenset({0xFE, *range(0xE0, 0xF0)})
_SYMBOLS = 256  # of a Huffman code at most


@dataclass(frozen=True)
class Component:
    """One component of a frame."""

    name: int
    across: int  # blocks in a unit (MCU)
    down: int
    quantization: int  # number of its table


@dataclass
class Header:
    """What the bytes before the coded data say."""

    size: int = 0  # these bytes
    height: int = 0
    width: int = 0
    interval: int = 0  # units between restarts, 0: there are none
    components: list[Component] = field(default_factory=list)
    choices: list[tuple[int, int]] = field(default_factory=list)  # of each component the codes of DC and AC
    tables: dict[int, NDArray[np.uint16]] = field(default_factory=dict)  # (64) each, in row-major order
    codes: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)  # class and number: counts of lengths, symbols

    @property
    def units(self) -> tuple[int, int]:
        """Rows and columns of units of the scan."""
        tall, wide = (8 * max(c.down for c in self.components), 8 * max(c.across for c in self.components))
        return -(-self.height // tall), -(-self.width // wide)

    @property
    def segments(self) -> int:
        """Into how many restarts cut the coded data."""
        rows, columns = self.units
        return -(-rows * columns // self.interval) if self.interval else 1

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Block rows and block columns of each component, whole units."""
        rows, columns = self.units
        return [(rows * c.down, columns * c.across) for c in self.components]


def read_header(data: bytes | memoryview) -> Header:
    """The header at the beginning of ``data``, up to the end of its first segment SOS.

    Raises ValueError for what is none, and for other kinds of streams than those with 8 bits and one to four components, all
    in one scan, by Huffman codes, sequentially.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        raise ValueError("no JPEG stream")
    header = Header()
    at = 2
    while True:
        if at + 4 > len(data) or data[at] != 0xFF:
            raise ValueError("a JPEG header is cut off or broken")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = bytes(data[at + 4 : at + 2 + length])
        if length < 2 or len(body) != length - 2:
            raise ValueError("a JPEG header is cut off")
        at += 2 + length
        if marker in _SOF:
            _frame(header, body)
        elif marker == _DQT:
            _quantization(header, body)
        elif marker == _DHT:
            _huffman(header, body)
        elif marker == _DRI:
            _check(len(body) == 2)
            header.interval = int.from_bytes(body, "big")
        elif marker == _SOS:
            _scan(header, body)
            header.size = at
            return header
        elif marker not in _OTHERS:
            raise ValueError("a JPEG stream of another kind")


def _check(sound: bool) -> None:
    if not sound:
        raise ValueError("a segment of a JPEG header is broken or of another kind")


def _frame(header: Header, body: bytes) -> None:
    _check(not header.components and len(body) > 6 and len(body) == 6 + 3 * body[5] and body[5] <= 4 and body[0] == 8)
    header.height, header.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    for name, sampling, table in zip(body[6::3], body[7::3], body[8::3], strict=True):
        across, down = sampling >> 4, sampling & 15
        _check(1 <= across <= 4 and 1 <= down <= 4)
        if body[5] == 1:  # units of scans of one component are blocks
            across = down = 1
        header.components.append(Component(name, across, down, table))
    _check(header.height > 0 and header.width > 0)


def _quantization(header: Header, body: bytes) -> None:
    while body:
        wide = body[0] >> 4
        _check(wide <= 1 and len(body) > 64 * (1 + wide))
        steps = np.frombuffer(body, ">u2" if wide else np.uint8, 64, 1)
        table = np.zeros(64, np.uint16)
        table[_ZIGZAG] = steps
        header.tables[body[0] & 15] = table
        body = body[1 + 64 * (1 + wide) :]


def _huffman(header: Header, body: bytes) -> None:
    while body:
        counts = body[1:17]
        count = sum(counts)
        symbols = body[17 : 17 + count]
        _check(len(counts) == 16 and count <= _SYMBOLS and len(symbols) == count)
        room = 0
        for length, number in enumerate(counts):
            room += number << (15 - length)
        _check(room <= 1 << 16)
        header.codes[body[0]] = counts, symbols
        body = body[17 + count :]


def _scan(header: Header, body: bytes) -> None:
    components = header.components
    _check(len(components) > 0 and len(body) == 4 + 2 * len(components) and body[0] == len(components))
    _check(body[-3:] == b"\0\x3f\0")
    for component, name, choice in zip(components, body[1:-3:2], body[2:-3:2], strict=True):
        dc, ac = choice >> 4, 16 | choice & 15
        _check(name == component.name and dc in header.codes and ac in header.codes)
        _check(component.quantization in header.tables and bool(header.tables[component.quantization].all()))
        header.choices.append((dc, ac))


def canonical(counts: bytes, symbols: bytes) -> list[tuple[int, int, int]]:
    """The code of each symbol: (symbol, code, length). ``counts``: how many codes have 1 to 16 bits."""
    found, code, at = [], 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[at : at + count]:
            found.append((symbol, code, length))
            code += 1
        at += count
        code <<= 1
    return found
