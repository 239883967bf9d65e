"""The form of a ``jpegs`` part: a table, the bytes around JPEG streams, and the recoded streams that give those back.

docs/format/archive.md, section 8, is the specification. Table, rest and each recoded stream have a checksum of their own,
so that of a damaged part, too, what is whole is known to be (``jpeg_parts.left_of``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, chain

import zstandard

from callic_archive.container.layout import decode_varint, encode_varint
from callic_archive.images.jpeg_streams import EOI, parted, read

TABLE = 16 << 20  # bytes of a table, at most
_LEVEL, _LEVEL_LARGE, _LARGE = 19, 9, 1 << 20


@dataclass(frozen=True)
class Group:
    """A recoded stream (``jpeg_recoding``), and what of the JPEG stream that it gives back is used."""

    packed: int  # its bytes
    size: int  # bytes of the JPEG stream
    count: int  # streams that were joined, or 0: the last ``take`` bytes are one stream
    take: int  # pieces of coded data of each stream
    check: int  # CRC-32 of these

    @property
    def streams(self) -> int:
        """How many it gives."""
        return max(1, self.count)

    def parts(self, jpeg: bytes) -> list[bytes]:
        """The coded data of its streams. Raises ValueError."""
        if len(jpeg) != self.size:
            raise ValueError(f"a JPEG stream has {len(jpeg)} bytes instead of {self.size}")
        if not self.count:
            return [jpeg[len(jpeg) - self.take :]]
        told = read(memoryview(jpeg))
        if told is None or told.scans != 1 or jpeg[told.scan_end :] != EOI:
            raise ValueError("what should be a joined JPEG stream is none")
        parts = parted(jpeg[told.coded : told.scan_end], self.count, self.take)
        if parts is None:
            raise ValueError("a joined JPEG stream has another number of restarts than it should")
        return parts


@dataclass(frozen=True)
class Table:
    """Which JPEG streams there are, and where in the part their bytes lie."""

    groups: tuple[Group, ...]
    gaps: tuple[int, ...]  # surrounding bytes before each row
    lengths: tuple[int, ...]
    streams: tuple[int, ...]  # of which stream each row has the next bytes


def checksum(packed: bytes) -> int:
    """Of a recoded stream."""
    return zlib.crc32(packed)


def zstd(data: bytes) -> bytes:
    """A frame that states its content size and has a checksum."""
    level = _LEVEL if len(data) <= _LARGE else _LEVEL_LARGE
    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=True).compress(data)


def table_bytes(table: Table) -> bytes:
    """The numbers of a table; ``read_table`` reads them."""
    steps = [b - a for a, b in zip((0, *table.streams), table.streams, strict=False)]
    numbers = chain(
        [len(table.groups)],
        *((group.packed, group.size, group.count, group.take, group.check) for group in table.groups),
        [len(table.gaps)], table.gaps, table.lengths,
        (2 * step if step >= 0 else -2 * step - 1 for step in steps),
    )  # fmt: skip
    return b"".join(map(encode_varint, numbers))


def frame(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """A Zstandard frame of up to ``most`` bytes behind its length, and where it ends. Raises ValueError and others."""
    length, at = decode_varint(data, at)
    body = data[at : at + length]
    told = zstandard.frame_content_size(body) if len(body) == length else -1
    if not 0 <= told <= most:
        raise ValueError("a part with JPEG streams has a frame that is cut off or too large")
    raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=told)
    if len(raw) != told:
        raise ValueError("a frame in a part with JPEG streams is cut off")
    return raw, at + length


def proven_frame(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """The same of a frame that must have a checksum, which is compared. Raises as ``frame``."""
    found = frame(data, at, most)
    _, begin = decode_varint(data, at)
    if not zstandard.get_frame_parameters(data[begin : found[1]]).has_checksum:
        raise ValueError("a frame in a part with JPEG streams has no checksum")
    return found


def read_table(data: bytes, room: int | None) -> Table:
    """The table, whose recoded streams must have ``room`` bytes where that is known. Raises ValueError, ContainerError."""
    at = 0

    def numbers(count: int) -> list[int]:
        nonlocal at
        if count > len(data) - at:
            raise ValueError("the table of a part with JPEG streams is cut off")
        found = []
        for _ in range(count):
            value, at = decode_varint(data, at)
            found.append(value)
        return found

    (count,) = numbers(1)
    flat = numbers(5 * count)
    groups = tuple(Group(*flat[i : i + 5]) for i in range(0, len(flat), 5))
    (rows,) = numbers(1)
    gaps, lengths = numbers(rows), numbers(rows)
    steps = [value // 2 if value % 2 == 0 else -(value + 1) // 2 for value in numbers(rows)]
    if at != len(data) or room not in (None, sum(group.packed for group in groups)):
        raise ValueError("the table of a part with JPEG streams does not fit to what follows it")
    return Table(groups, tuple(gaps), tuple(lengths), tuple(accumulate(steps)))


def assembled(table: Table, rest: bytes, size: int, jpeg: Callable[[int], bytes]) -> bytes:
    """The bytes of a part; ``jpeg`` gives the JPEG stream of a group. Raises ValueError."""
    streams: list[bytes] = []
    held = 0
    for number, group in enumerate(table.groups):
        parts = group.parts(jpeg(number))
        held += sum(map(len, parts))
        if held > size:  # each is used, so together they are not longer than the part
            raise ValueError("a part with JPEG streams has streams that it does not use")
        streams += parts
    around, out = memoryview(rest), bytearray()
    used = done = 0
    before = -1
    for gap, length, number in zip(table.gaps, table.lengths, table.streams, strict=True):
        if not 0 <= number < len(streams):
            raise ValueError("a part with JPEG streams asks for one that it does not have")
        if number != before or done == len(streams[number]):
            done = 0
        if done + length > len(streams[number]):
            raise ValueError("a part with JPEG streams asks for more bytes than one has")
        out += around[used : used + gap]
        out += streams[number][done : done + length]
        used, done, before = used + gap, done + length, number
    out += around[used:]
    return bytes(out)


def left_runs(table: Table, rest: bytes | None, streams: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
    """The bytes of a part of which some streams, or the rest, are lost: runs (offset, bytes), ascending and apart."""
    runs: list[tuple[int, bytearray]] = []
    position = used = done = 0
    before = -1

    def put(data: bytes | memoryview) -> None:
        if len(data):
            if runs and runs[-1][0] + len(runs[-1][1]) == position:
                runs[-1][1].extend(data)
            else:
                runs.append((position, bytearray(data)))

    for gap, length, number in zip(table.gaps, table.lengths, table.streams, strict=True):
        if rest is not None:
            put(rest[used : used + gap])
        used, position = used + gap, position + gap
        stream = streams.get(number)
        if stream is not None:
            done = 0 if number != before or done == len(stream) else done
            if done + length <= len(stream):
                put(stream[done : done + length])
        done, before, position = done + length, number, position + length
    if rest is not None:
        put(rest[used:])
    return [(at, bytes(run)) for at, run in runs]
