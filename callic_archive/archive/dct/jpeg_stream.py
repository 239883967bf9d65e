"""Sequential JPEG streams by their coefficients: what is not coded data as it is, and the coefficients in fewer bytes.

docs/format/jpeg.md is the specification. A stream is taken only if its coded data come back from the coefficients bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import zstandard
from numpy.typing import NDArray

from callic_archive.archive.dct.jpeg_frame import Header, canonical, read_header
from callic_archive.archive.dct.tables import STANDARD
from callic_archive.container.layout import decode_varint, encode_varint
from callic_archive.errors import ContainerError

#: What a payload begins with; JPEG XL files, which may stand in its place, begin with 00 or FF.
MAGIC = b"JPGc"
#: Coefficients of a stream, at most: they take two bytes of memory each, and four while they are coded.
MOST_COEFFICIENTS = 384 << 20
_ZEROS, _ONES, _TOLD = range(3)  # what fills up the last byte before a restart and at the end
_LEVEL = 19
_MOST_BLOCKS = 1024  # that a byte of coefficients stands for

Plane = NDArray[np.int16]
Numbers = NDArray[np.int64]

# Of ITU-T T.81, annex K.3: counts of codes by their lengths, and symbols, for luma and chroma.
_DC = bytes(range(12))
_DC_COUNTS = (
    "00010501010101010100000000000000",
    "00030101010101010101010000000000",
)
_AC_COUNTS = (
    "0002010303020403050504040000017d",
    "00020102040403040705040400010277",
)
_AC = (
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a4344"
    "45464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3"
    "b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa",
    "0001020311040521310612415107617113223281081442"
    "91a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a63646566676869"
    "6a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5"
    "d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa",
)


@dataclass(frozen=True)
class Scan:
    """Coded data of one scan as coefficients, and what else they take to be made again."""

    planes: list[Plane]  # of each component, (block rows, block columns, 64)
    fill: int  # _ZEROS, _ONES or _TOLD
    pads: bytes  # of _TOLD, for each segment between restarts


@lru_cache(maxsize=1)
def prefix() -> bytes:
    """What frames are compressed against: quantisation tables and Huffman codes that most encoders have."""
    from callic_archive.archive.dct.huffman_kernel import ZIGZAG

    parts = [STANDARD[:, ZIGZAG].astype(np.uint8).tobytes()]
    for number in (0, 1):
        parts.append(bytes((0xFF, 0xC4, 0, 31, number)) + bytes.fromhex(_DC_COUNTS[number]) + _DC)
        parts.append(bytes((0xFF, 0xC4, 0, 181, 16 + number)) + bytes.fromhex(_AC_COUNTS[number] + _AC[number]))
    return b"".join(parts)


def encode(jpeg: bytes | memoryview) -> bytes | None:
    """A JPEG stream by its coefficients; ``decode`` gives it back, which whoever keeps it should prove.

    None where it is of another kind, or its coded data are not those that the coefficients give. Takes some four bytes of
    memory for each coefficient, of which there are no more than the stream can hold.
    """
    from callic_archive.archive.dct.coefficients import encode_coefficients

    taken = _taken(jpeg)
    if taken is None:
        return None
    header, scan, end = taken
    kept = b"".join((jpeg[: header.size], scan.pads, jpeg[end:]))
    frame = _compressor(len(kept)).compress(kept)
    coefficients = encode_coefficients(scan.planes, _tables(header))
    if not _likely(header, len(coefficients)):
        return None
    return b"".join((MAGIC, bytes([scan.fill]), encode_varint(len(frame)), frame, coefficients))


def comes_back(jpeg: bytes | memoryview) -> bool:
    """Whether ``encode`` takes a stream."""
    return _taken(jpeg) is not None


def _taken(jpeg: bytes | memoryview) -> tuple[Header, Scan, int] | None:
    """A stream's header, scan, and where what these give ends in it; None where they do not give it."""
    try:
        header = read_header(jpeg)
        _check_size(header, len(jpeg))
    except ValueError:
        return None
    coded = memoryview(jpeg)[header.size :]
    scan = _read(header, np.frombuffer(coded, np.uint8))
    made = None if scan is None else _written(header, scan, len(coded))
    if scan is None or made is None or made != coded[: len(made)]:
        return None
    return header, scan, header.size + len(made)


def start() -> None:
    """Load the compiled loops, which takes its time once and not for each stream: a stream of one block of zeros."""
    tables = b"\xff\xdb\0\x43\0" + bytes([1] * 64) + prefix()[64 * len(STANDARD) :]
    frame = b"\xff\xc0\0\x0b\x08\0\x08\0\x08\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0"
    packed = encode(b"\xff\xd8" + tables + frame + b"\x2b\xff\xd9")
    decode(packed or b"", 1 << 10)


def decode(payload: bytes | memoryview, most: int) -> bytes:
    """The JPEG stream, of ``most`` bytes or fewer, that ``encode`` got. Raises ValueError for what it does not write."""
    from callic_archive.archive.dct.coefficients import decode_coefficients

    payload = bytes(payload)
    if not payload.startswith(MAGIC) or len(payload) < len(MAGIC) + 2:
        raise ValueError("no JPEG stream by its coefficients")
    fill = payload[len(MAGIC)]
    try:
        length, at = decode_varint(payload, len(MAGIC) + 1)
        frame = payload[at : at + length]
        size = zstandard.frame_content_size(frame) if len(frame) == length else -1
        if not 0 <= size <= most or fill > _TOLD:
            raise ValueError("a JPEG stream by its coefficients is cut off, or too large")
        kept = zstandard.ZstdDecompressor(dict_data=_prefix()).decompress(frame, max_output_size=size)
    except (ContainerError, zstandard.ZstdError) as error:
        raise ValueError(f"a JPEG stream by its coefficients is damaged: {error}") from error
    header = read_header(kept)
    _check_size(header, most)
    behind = header.size + (header.segments if fill == _TOLD else 0)
    pads, tail = kept[header.size : behind], kept[behind:]
    if len(kept) < behind:
        raise ValueError("a JPEG stream by its coefficients is cut off")
    coefficients = memoryview(payload)[at + length :]
    if not _likely(header, len(coefficients)):
        raise ValueError("a JPEG stream by its coefficients has more of them than it can hold")
    planes = decode_coefficients(coefficients, header.shapes, _tables(header))
    made = _written(header, Scan(planes, fill, pads), most - header.size - len(tail))
    if made is None:
        raise ValueError("a JPEG stream by its coefficients is longer than it should be, or has no code for one")
    return b"".join((kept[: header.size], made, tail))


def _check_size(header: Header, most: int) -> None:
    """Sizes are the header's own word. Raises ValueError where ``most`` bytes cannot hold as many blocks: no code is shorter
    than a bit, and each block has two, one for its DC and one for its end."""
    blocks = _blocks(header)
    if 2 * blocks > 8 * most or 64 * blocks > MOST_COEFFICIENTS or 2 * header.segments > 2 + most:
        raise ValueError("a JPEG stream declares more pixels than it can hold")


def _likely(header: Header, size: int) -> bool:
    """Whether ``size`` bytes of coefficients may stand for as many blocks: however well all is foreseen, a byte holds no more
    than some 900 of them; but zeros at the end are left out, so those of a blank image may be hardly any."""
    return _blocks(header) <= _MOST_BLOCKS * (size + _MOST_BLOCKS)


def _blocks(header: Header) -> int:
    return sum(rows * columns for rows, columns in header.shapes)


def _levels(planes: list[Plane]) -> tuple[Plane, Plane, Plane, Plane]:
    """Planes as the kernel has them."""
    one, two, three, four = [plane.reshape(-1) for plane in planes] + [np.zeros(0, np.int16)] * (4 - len(planes))
    return one, two, three, four


def _tables(header: Header) -> list[NDArray[np.uint16]]:
    return [header.tables[component.quantization] for component in header.components]


def _layout(header: Header, numbers: dict[int, int]) -> Numbers:
    """As the kernel has it. ``numbers`` of codes by their classes and names in the header."""
    together = zip(header.components, header.choices, header.shapes, strict=True)
    return np.array(
        [(one.across, one.down, numbers[dc], numbers[ac], wide) for one, (dc, ac), (_, wide) in together], np.int64
    )


def _interval(header: Header) -> int:
    rows, columns = header.units
    return header.interval or rows * columns


def _read(header: Header, coded: NDArray[np.uint8]) -> Scan | None:
    """The coefficients of coded data; None where these are broken."""
    from callic_archive.archive.dct.huffman_kernel import OK, ROOM, read_scan, unstuffed

    plain = np.zeros(len(coded) + ROOM, np.uint8)
    ends = np.zeros(header.segments, np.int64)
    if unstuffed(coded, plain, ends) != header.segments:
        return None
    numbers = {name: number for number, name in enumerate(sorted({n for pair in header.choices for n in pair}))}
    lookups = np.zeros((len(numbers), 1 << 16), np.int32)
    for name, number in numbers.items():
        for symbol, code, length in canonical(*header.codes[name]):
            lookups[number, code << (16 - length) : (code + 1) << (16 - length)] = 256 * length + symbol
    layout = _layout(header, numbers)
    planes = [np.zeros((*shape, 64), np.int16) for shape in header.shapes]
    pads, seen = np.zeros(header.segments, np.uint8), np.zeros(2, np.bool_)
    status = read_scan(plain, ends, lookups, layout, *header.units, _interval(header), _levels(planes), pads, seen)
    if status != OK:
        return None
    if seen.all():
        return Scan(planes, _TOLD, pads.tobytes())
    return Scan(planes, _ZEROS if seen[0] else _ONES, b"")


def _written(header: Header, scan: Scan, most: int) -> bytes | None:
    """The coded data of coefficients; None where they would be longer than ``most`` or a symbol has no code."""
    from callic_archive.archive.dct.huffman_kernel import OK, write_scan

    numbers = {name: number for number, name in enumerate(sorted({n for pair in header.choices for n in pair}))}
    codes = np.zeros((len(numbers), 256), np.int64)
    for name, number in numbers.items():
        for symbol, code, length in canonical(*header.codes[name]):
            codes[number, symbol] = 256 * code + length
    if scan.fill == _TOLD:
        pads = np.frombuffer(scan.pads, np.uint8)
    else:
        pads = np.full(header.segments, 255 if scan.fill == _ONES else 0, np.uint8)
    out, state = np.empty(max(0, most) + 1, np.uint8), np.zeros(4, np.int64)  # each byte needs room for a zero behind it
    write_scan(
        out, codes, _layout(header, numbers), *header.units, _interval(header), _levels(scan.planes), pads, state
    )
    return out[: state[0]].tobytes() if state[3] == OK and state[0] <= most else None


@lru_cache(maxsize=1)
def _prefix() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(prefix(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _compressor(size: int) -> zstandard.ZstdCompressor:
    level = _LEVEL if size <= 1 << 20 else 9
    return zstandard.ZstdCompressor(level=level, dict_data=_prefix(), write_content_size=True, write_checksum=False)
