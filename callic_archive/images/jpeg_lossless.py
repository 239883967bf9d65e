"""JPEG lossless (ITU-T T.81, annex H; processes 14 and 14 SV1): one scan decoded, and coded again.

Once predictor and Huffman tables are told, which the headers do, the format leaves an encoder no choice but the bits that
fill the last byte. So the code of every writer can be made again from the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, RebuildMismatch, TruncatedSource

U16 = NDArray[np.uint16]
_SOF3, _DHT, _SOS, _DRI, _EOI = 0xC3, 0xC4, 0xDA, 0xDD, 0xD9
_OTHER_FRAMES = {0xC0, 0xC1, 0xC2, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
_CATEGORIES = 17


@dataclass(frozen=True)
class Scan:
    """What decides the code of a scan besides the samples."""

    precision: int  # bits a sample, 2..16
    predictor: int  # 1..7
    restart: int  # rows between two restart markers, 0: none
    tables: tuple[bytes, ...]  # for each component the body of its Huffman table: 16 counts, then the values

    def check(self, samples: int) -> None:
        """Raises RebuildMismatch on what no scan can be."""
        if not (2 <= self.precision <= 16 and 1 <= self.predictor <= 7 and self.restart >= 0):
            raise RebuildMismatch("the recipe names a scan of JPEG that cannot be")
        if len(self.tables) != samples or any(_codes(table) is None for table in self.tables):
            raise RebuildMismatch("the recipe names Huffman tables that cannot be")


@dataclass(frozen=True)
class Header:
    """The headers of one image of one scan, and where its entropy-coded bytes lie."""

    height: int
    width: int
    scan: Scan
    begin: int
    end: int


def _codes(table: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """(code, length) of each category (T.81, annex C), length 0 where there is none; None for a broken table."""
    if len(table) < 17 or len(table) != 16 + sum(table[:16]):
        return None
    codes, sizes = np.zeros(_CATEGORIES, np.int64), np.zeros(_CATEGORIES, np.int64)
    code, k = 0, 16
    for length in range(1, 17):
        for _ in range(table[length - 1]):
            if code >= 1 << length or table[k] >= _CATEGORIES or sizes[table[k]]:
                return None
            codes[table[k]], sizes[table[k]] = code, length
            code, k = code + 1, k + 1
        code <<= 1
    return codes, sizes


def read_header(code: bytes) -> Header | None:
    """The headers of a lossless JPEG image, or None for another JPEG process or several scans.

    Raises MalformedSource and TruncatedSource.
    """
    if code[:2] != b"\xff\xd8":
        raise MalformedSource("a frame said to be JPEG does not begin as one")
    at, restart = 2, 0
    tables: dict[int, bytes] = {}
    frame: tuple[int, int, int, list[int]] | None = None
    while True:
        while at + 1 < len(code) and code[at] == 0xFF and code[at + 1] == 0xFF:
            at += 1
        if at + 4 > len(code):
            raise TruncatedSource("a JPEG frame ends inside its headers")
        marker, size = code[at + 1], int.from_bytes(code[at + 2 : at + 4], "big")
        body = code[at + 4 : at + 2 + size]
        if code[at] != 0xFF or size < 2 or len(body) != size - 2:
            raise MalformedSource("a JPEG frame has broken headers")
        if marker in _OTHER_FRAMES:
            return None
        if marker == _DHT:
            k = 0
            while k + 17 <= len(body):
                end = k + 17 + sum(body[k + 1 : k + 17])
                tables[body[k]] = body[k + 1 : end]
                k = end
        elif marker == _DRI and len(body) == 2:
            restart = int.from_bytes(body, "big")
        elif marker == _SOF3:
            if frame is not None or len(body) < 6 or len(body) != 6 + 3 * body[5]:
                raise MalformedSource("a JPEG frame has broken headers")
            ids = [body[6 + 3 * c] for c in range(body[5])]
            if any(body[7 + 3 * c] != 0x11 for c in range(body[5])):
                return None
            frame = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[0], ids
        elif marker == _SOS:
            return _scan(code, body, at + 2 + size, frame, tables, restart)
        at += 2 + size


def _scan(
    code: bytes,
    body: bytes,
    begin: int,
    frame: tuple[int, int, int, list[int]] | None,
    tables: dict[int, bytes],
    restart: int,
) -> Header | None:
    if frame is None or not body or len(body) != 4 + 2 * body[0]:
        raise MalformedSource("a JPEG frame has broken headers")
    height, width, precision, ids = frame
    count = body[0]
    predictor, low = body[1 + 2 * count], body[3 + 2 * count] & 15
    if [body[1 + 2 * c] for c in range(count)] != ids or low or not 1 <= predictor <= 7 or not height:
        return None  # several scans, a point transform, or a height that is told later
    if not width or not 2 <= precision <= 16 or (restart and restart % width):
        return None
    chosen = tuple(tables.get(body[2 + 2 * c] >> 4, b"") for c in range(count))
    if any(_codes(table) is None for table in chosen):
        raise MalformedSource("a JPEG frame has a broken Huffman table, or none")
    end = code.rfind(b"\xff\xd9")
    if end < begin:
        raise TruncatedSource("a JPEG frame has no end")
    return Header(height, width, Scan(precision, predictor, restart // width, chosen), begin, end)


@njit(cache=True)
def _predict(image: Any, y: Any, x: Any, c: Any, first: Any, predictor: Any, half: Any) -> Any:
    """The prediction of a sample; ``first`` is the first row since the scan or its last restart began."""
    if y == first:
        return half if x == 0 else np.int64(image[y, x - 1, c])
    rb = np.int64(image[y - 1, x, c])
    if x == 0:
        return rb
    ra, rc = np.int64(image[y, x - 1, c]), np.int64(image[y - 1, x - 1, c])
    if predictor == 1:
        return ra
    if predictor == 2:
        return rb
    if predictor == 3:
        return rc
    if predictor == 4:
        return ra + rb - rc
    if predictor == 5:
        return ra + ((rb - rc) >> 1)
    if predictor == 6:
        return rb + ((ra - rc) >> 1)
    return (ra + rb) >> 1


@njit(cache=True)
def _decode(code: Any, lookup: Any, precision: int, predictor: int, restart: int, image: Any) -> Any:
    """Decode all samples; -1 when the code is broken, else 0. ``lookup`` (C, 65536): category << 8 | length."""
    height, width, samples = image.shape
    acc: Any = np.int64(0)
    bits: Any = 0
    i: Any = 0
    first: Any = 0
    fed: Any = 0
    for y in range(height):
        if restart and y and y % restart == 0:
            acc, bits, first, fed = np.int64(0), 0, y, 0
            if i + 2 > len(code) or code[i] != 255 or code[i + 1] != 208 + (y // restart - 1) % 8:
                return -1
            i += 2
        for x in range(width):
            for c in range(samples):
                while bits <= 32:
                    byte: Any = np.int64(255)
                    if i < len(code) and (code[i] != 255 or (i + 1 < len(code) and code[i + 1] == 0)):
                        byte = np.int64(code[i])
                        i += 2 if byte == 255 else 1
                    else:
                        fed += 8  # beyond the end of the segment
                    acc = ((acc << 8) | byte) & 0xFFFFFFFFFFFF
                    bits += 8
                entry: Any = np.int64(lookup[c, (acc >> (bits - 16)) & 0xFFFF])
                length: Any = entry & 255
                if length == 0:
                    return -1
                bits -= length
                category: Any = entry >> 8
                diff: Any = np.int64(0)
                if category == 16:
                    diff = np.int64(32768)
                elif category:
                    bits -= category
                    diff = (acc >> bits) & ((1 << category) - 1)
                    if diff < 1 << (category - 1):
                        diff += 1 - (1 << category)
                if bits < fed:
                    return -1
                guess: Any = _predict(image, y, x, c, first, predictor, 1 << (precision - 1))
                image[y, x, c] = (guess + diff) & 0xFFFF
    return 0


@njit(cache=True)
def _encode(
    image: Any, codes: Any, sizes: Any, precision: int, predictor: int, restart: int, pad: int, out: Any
) -> Any:
    """Write the scan's code to ``out``; its length, -1 when a table lacks a category, -2 when ``out`` is too short."""
    height, width, samples = image.shape
    acc: Any = np.int64(0)
    bits: Any = 0
    n: Any = 0
    first: Any = 0
    for y in range(height + 1):
        if y == height or (restart and y and y % restart == 0):
            if bits:
                spare: Any = 8 - bits
                byte: Any = ((acc << spare) | (((1 << spare) - 1) if pad else 0)) & 255
                out[n] = byte
                n += 1
                if byte == 255:
                    out[n] = 0
                    n += 1
            acc, bits, first = np.int64(0), 0, y
            if y == height:
                return n
            out[n] = 255
            out[n + 1] = 208 + (y // restart - 1) % 8
            n += 2
        if n + width * samples * 9 + 16 > len(out):
            return -2
        for x in range(width):
            for c in range(samples):
                guess: Any = _predict(image, y, x, c, first, predictor, 1 << (precision - 1))
                diff: Any = (np.int64(image[y, x, c]) - guess) & 0xFFFF
                if diff > 32768:
                    diff -= 65536
                size: Any = abs(diff)
                category: Any = 0
                while size >> category:
                    category += 1
                if sizes[c, category] == 0:
                    return -1
                acc = (acc << sizes[c, category]) | codes[c, category]
                bits += sizes[c, category]
                if 0 < category < 16:
                    extra: Any = diff if diff > 0 else diff + (1 << category) - 1
                    acc = (acc << category) | extra
                    bits += category
                while bits >= 8:
                    byte = (acc >> (bits - 8)) & 255
                    out[n] = byte
                    n += 1
                    if byte == 255:
                        out[n] = 0
                        n += 1
                    bits -= 8
                acc &= (1 << bits) - 1
    return n


def decode(code: bytes, header: Header, image: U16) -> None:
    """Fill ``image`` (H, W, C) from a scan. Raises MalformedSource when it does not hold as many samples."""
    scan = header.scan
    lookup = np.zeros((len(scan.tables), 1 << 16), np.int32)
    for c, table in enumerate(scan.tables):
        found = _codes(table)
        assert found is not None  # read_header has looked at it
        for category, (word, size) in enumerate(zip(*found, strict=True)):
            if size:
                lookup[c, word << (16 - size) : (word + 1) << (16 - size)] = category << 8 | size
    body = np.frombuffer(code, np.uint8)[header.begin : header.end]
    if _decode(body, lookup, scan.precision, scan.predictor, scan.restart, image):
        raise MalformedSource("the code of a JPEG frame is broken, or ends too early")


def encode(image: U16, scan: Scan, pad: int, most: int) -> bytes:
    """The entropy-coded bytes of ``image`` (H, W, C), if no more than ``most``; ``pad`` 0 or 1 fills the last byte.

    Raises RebuildMismatch where the tables have no code for a difference, and where more bytes come out.
    """
    scan.check(image.shape[2])
    found = [codes for codes in map(_codes, scan.tables) if codes is not None]
    codes, sizes = (np.stack(column) for column in zip(*found, strict=True))
    out = np.empty(most + image.shape[1] * image.shape[2] * 9 + 64, np.uint8)
    length = int(
        _encode(image, codes, sizes, scan.precision, scan.predictor, scan.restart, int(bool(pad)), out)
    )
    if not 0 <= length <= most:
        raise RebuildMismatch("the recipe's Huffman tables do not fit the pixels")
    return out[:length].tobytes()
