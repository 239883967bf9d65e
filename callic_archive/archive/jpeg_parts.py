"""Bytes in which JPEG streams lie, coded as JPEG XL files and the bytes around them: the coding ``jpegs``.

A small tile is a poor JPEG XL file: its tables cost more than the better coding gains. So tiles with equal headers
become one tall JPEG stream first, without any recoding, since coded data between restarts depend on nothing before
them. What is not coded data stays among the surrounding bytes, and a stream that is there twice is kept once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain

import zstandard

from callic_archive.archive import isolated
from callic_archive.container.layout import decode_varint, encode_varint
from callic_archive.errors import ContainerError, ForeignCodecFailed, ForeignCodecMissing
from callic_archive.images.jpeg_streams import (
    EOI,
    TALLEST,
    Found,
    Stream,
    Tables,
    find,
    joined,
    parted,
    place_in,
    read,
    with_tables,
)

_PIXELS, _BYTES = 8 << 20, 4 << 20  # of a joined stream
_LEAST = 64  # bytes of coded data; smaller streams are left alone
_SAVING = 32  # bytes that a JPEG XL file must save
_FAILURES = 128  # refused streams after which the rest of a part is left alone
_MOST_TABLES = 64  # streams of tables of one part that are remembered
_TRIED = 3  # streams of tables that are tried for one that lacks them
_ROWS = 1 << 20
_TABLE = 16 << 20  # bytes
_AROUND = 1 << 18  # bytes of a JPEG stream beside the coded data that it brings
_MEMORY = 8  # bytes of samples that a byte of JPEG stands for, about
_LEVEL, _LEVEL_LARGE, _LARGE = 19, 9, 1 << 20


@dataclass(frozen=True)
class _Group:
    """A JPEG XL file, and what of the JPEG stream that it gives back is used."""

    packed: int  # bytes of the JPEG XL file
    size: int  # bytes of the JPEG stream
    count: int  # streams that were joined, or 0: the last ``take`` bytes are one stream
    take: int  # pieces of coded data of each stream

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
class _Table:
    groups: tuple[_Group, ...]
    gaps: tuple[int, ...]  # surrounding bytes before each row
    lengths: tuple[int, ...]
    streams: tuple[int, ...]  # of which stream each row has the next bytes


# -- packing -------------------------------------------------------------------------------------------------


def encode(
    data: bytes | bytearray | memoryview, tables: Tables | None = None, found: Found | None = None
) -> bytes | None:
    """``data`` with the JPEG streams in it as JPEG XL; None where there are none that this makes smaller.

    ``found`` are those streams where they are known already. What is given was taken apart again and compared.
    """
    view = memoryview(data).cast("B")
    found = found or find(view)
    if not found.streams:
        return None
    tables = tables or Tables()
    more = [table for table in found.tables[:_MOST_TABLES] if table not in tables.streams]
    work = _Work(view, replace(tables, streams=(*tables.streams, *more)))
    try:
        work.run(found.streams)
    except ForeignCodecMissing:
        return None
    return work.finish() if work.groups else None


@dataclass
class _Work:
    """The streams of one part on their way to JPEG XL."""

    data: memoryview
    tables: Tables
    groups: list[_Group] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    jpegs: list[bytes] = field(default_factory=list)
    taken: dict[bytes, int] = field(default_factory=dict)  # digest of a stream: its number
    whole: set[bytes] = field(
        default_factory=set
    )  # digests of those of which not the coded data alone are cut
    places: list[tuple[Stream, bytes]] = field(default_factory=list)
    count: int = 0
    failures: int = 0
    lucky: int = -2  # the tables that fitted last

    def run(self, streams: Sequence[Stream]) -> None:
        """Take all that can be taken. Raises ForeignCodecMissing."""
        kinds: dict[tuple[bytes, int], list[tuple[Stream, bytes]]] = {}
        seen: set[bytes] = set()
        for stream in streams:
            content = stream.read(self.data)
            jpeg = stream.jpeg
            if len(content) < _LEAST or len(self.places) >= _ROWS:
                continue
            number = self._tables_of(stream)
            if number is None:
                continue
            digest = hashlib.sha256(b"%d " % number + content).digest()
            self.places.append((stream, digest))
            if digest in seen:
                continue
            seen.add(digest)
            # streams that cannot be joined are a kind each
            head = content[: jpeg.coded] if jpeg.segments else digest
            kinds.setdefault((head, number), []).append((stream, digest))
        for (head, number), alike in kinds.items():
            for batch in _batches(alike):
                self._take(batch, head, number)

    def _tables_of(self, stream: Stream) -> int | None:
        """The number of its tables, -1 where it needs none, -2 where all are tried; None where there are none."""
        if stream.jpeg.quantization and stream.jpeg.huffman:
            return -1
        if not self.tables.streams:
            return None
        known = self.tables.number(stream.spans[0][0])
        return -2 if known is None else known

    def _take(self, batch: list[tuple[Stream, bytes]], head: bytes, number: int) -> None:
        for tables in self._choices(number):
            if len(batch) == 1:
                done = self._single(batch[0], tables)
            else:
                done = self._joined(batch, head, tables)
                if done is None and tables in (number, self.lucky):  # one of them may be broken
                    sound = self._sound(batch, head, tables)
                    done = self._joined(sound, head, tables) if len(sound) > 1 else None
            if done is not None:
                self.lucky = tables
                return

    def _sound(
        self, batch: list[tuple[Stream, bytes]], head: bytes, tables: int
    ) -> list[tuple[Stream, bytes]]:
        """Those of a batch, which was refused, that are not broken."""
        middle = len(batch) // 2
        found: list[tuple[Stream, bytes]] = []
        for half in (batch[:middle], batch[middle:]):
            if self.failures >= _FAILURES:
                break
            # some faults show only where a restart follows, so the first is there twice
            if self._recoded([*half, half[0]], head, tables) is not None:
                found += half
            elif len(half) > 1:
                found += self._sound(half, head, tables)
        return found

    def _choices(self, number: int) -> list[int]:
        if number != -2:
            return [number]
        every = range(len(self.tables.streams))
        return sorted(every, key=lambda n: (n != self.lucky, n))[:_TRIED]

    def _recoded(
        self, batch: list[tuple[Stream, bytes]], head: bytes, tables: int
    ) -> tuple[bytes, bytes, int] | None:
        """Streams joined as JPEG XL, the joined stream, and the bytes that it stands for; None where it is refused."""
        if self.failures >= _FAILURES:
            return None
        jpeg = batch[0][0].jpeg
        codes = []
        for stream, _ in batch:
            content = stream.read(self.data)
            codes.append(content[stream.jpeg.coded : stream.jpeg.scan_end])
        made = joined(jpeg, head, self.tables.streams[tables] if tables >= 0 else b"", codes)
        told = read(memoryview(made))
        packed = None
        if (
            told is not None
            and told.scan_end + len(EOI) == len(made)
            and parted(made[told.coded : told.scan_end], len(codes), jpeg.segments) == codes
        ):
            packed = _recoded(made, jpeg.rows * jpeg.width * len(codes))
        if packed is None:
            self.failures += 1
            return None
        return packed, made, sum(map(len, codes))

    def _joined(self, batch: list[tuple[Stream, bytes]], head: bytes, tables: int) -> bool | None:
        """Several streams as one. None where it was refused, False where nothing was saved."""
        found = self._recoded(batch, head, tables)
        if found is None:
            return None
        packed, made, size = found
        if len(packed) + _SAVING > size:
            return False
        self._keep(_Group(len(packed), len(made), len(batch), batch[0][0].jpeg.segments), packed, made)
        for _, digest in batch:
            self.taken[digest] = self.count
            self.count += 1
        return True

    def _single(self, one: tuple[Stream, bytes], tables: int) -> bool | None:
        if self.failures >= _FAILURES:
            return None
        stream, digest = one
        made = content = stream.read(self.data)
        cut = 0
        if tables >= 0:
            made, cut = with_tables(content, self.tables.streams[tables]), 2
        packed = _recoded(made, stream.jpeg.height * stream.jpeg.width)
        if packed is None:
            self.failures += 1
            return None
        if len(packed) + _SAVING > len(content):
            return False
        self._keep(_Group(len(packed), len(made), 0, len(content) - cut), packed, made)
        self.taken[digest] = self.count
        self.whole.add(digest)
        self.count += 1
        return True

    def _keep(self, group: _Group, packed: bytes, jpeg: bytes) -> None:
        self.groups.append(group)
        self.files.append(packed)
        self.jpegs.append(jpeg)

    def finish(self) -> bytes | None:
        """The payload, proven; None where it does not give the data back."""
        sizes = [
            len(part)
            for group, jpeg in zip(self.groups, self.jpegs, strict=True)
            for part in group.parts(jpeg)
        ]
        gaps, lengths, streams = [], [], []
        around: list[memoryview] = []
        at = 0
        for stream, digest in self.places:
            number = self.taken.get(digest)
            if number is None:
                continue
            jpeg = stream.jpeg
            begin, end = (
                (jpeg.end - sizes[number], jpeg.end) if digest in self.whole else (jpeg.coded, jpeg.scan_end)
            )
            for offset, length in place_in(stream.spans, begin, end):
                around.append(self.data[at:offset])
                gaps.append(offset - at)
                lengths.append(length)
                streams.append(number)
                at = offset + length
        around.append(self.data[at:])
        table = _Table(tuple(self.groups), tuple(gaps), tuple(lengths), tuple(streams))
        rest = b"".join(around)
        if _assembled(table, rest, len(self.data), self.jpegs.__getitem__) != self.data:
            return None
        heads = [_zstd(_table_bytes(table)), _zstd(rest)]
        return b"".join([*(encode_varint(len(head)) + head for head in heads), *self.files])


def _batches(alike: list[tuple[Stream, bytes]]) -> Iterator[list[tuple[Stream, bytes]]]:
    """Streams of one kind, as many at once as one joined stream may have."""
    jpeg = alike[0][0].jpeg
    most = max(1, min(TALLEST // jpeg.rows, _PIXELS // max(1, jpeg.rows * jpeg.width)))
    batch: list[tuple[Stream, bytes]] = []
    size = 0
    for one in alike:
        if batch and (len(batch) >= most or size + one[0].jpeg.end > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one[0].jpeg.end
    yield batch


def _recoded(jpeg: bytes, pixels: int) -> bytes | None:
    """A JPEG stream as JPEG XL that gives it back, or None. Raises ForeignCodecMissing."""
    memory = max(_MEMORY * len(jpeg), 3 * pixels)
    try:
        packed = isolated.ask("encode_jpeg", jpeg, memory=memory)
        if isolated.ask("decode_jpeg", packed, memory=memory, most=max(4096, len(jpeg))) != jpeg:
            return None
    except ForeignCodecFailed:
        return None
    return packed


def _zstd(data: bytes) -> bytes:
    level = _LEVEL if len(data) <= _LARGE else _LEVEL_LARGE
    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(data)


def _table_bytes(table: _Table) -> bytes:
    steps = [b - a for a, b in zip((0, *table.streams), table.streams, strict=False)]
    numbers = chain(
        [len(table.groups)],
        *((group.packed, group.size, group.count, group.take) for group in table.groups),
        [len(table.gaps)], table.gaps, table.lengths,
        (2 * step if step >= 0 else -2 * step - 1 for step in steps),
    )  # fmt: skip
    return b"".join(map(encode_varint, numbers))


# -- reading -------------------------------------------------------------------------------------------------


def decode(payload: bytes, size: int) -> bytes:
    """The ``size`` bytes that ``encode`` took. Raises ValueError, ForeignCodecMissing, ForeignCodecFailed."""
    try:
        head, at = _frame(payload, 0, _TABLE)
        rest, at = _frame(payload, at, size)
        table = _read_table(head, len(payload) - at)
    except (ContainerError, zstandard.ZstdError) as error:
        raise ValueError(f"a part with JPEG streams is damaged: {error}") from error
    if len(rest) + sum(table.lengths) != size or sum(table.gaps) > len(rest):
        raise ValueError(f"a part with JPEG streams does not hold {size} bytes")
    starts = [at, *accumulate((group.packed for group in table.groups), initial=at)][1:]
    for group in table.groups:
        if group.size > size + _AROUND or (not group.count and group.take > group.size):
            raise ValueError("a part with JPEG streams promises larger ones than it can hold")

    def jpeg(number: int) -> bytes:
        group = table.groups[number]
        body = payload[starts[number] : starts[number] + group.packed]
        memory = _MEMORY * max(group.size, len(body))
        return isolated.ask("decode_jpeg", body, memory=memory, most=max(4096, group.size))

    return _assembled(table, rest, size, jpeg)


def _frame(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """A Zstandard frame of up to ``most`` bytes behind its length, and where it ends. Raises ValueError and others."""
    length, at = decode_varint(data, at)
    frame = data[at : at + length]
    told = zstandard.frame_content_size(frame) if len(frame) == length else -1
    if not 0 <= told <= most:
        raise ValueError("a part with JPEG streams has a frame that is cut off or too large")
    raw = zstandard.ZstdDecompressor().decompress(frame, max_output_size=told)
    if len(raw) != told:
        raise ValueError("a frame in a part with JPEG streams is cut off")
    return raw, at + length


def _read_table(data: bytes, room: int) -> _Table:
    """The table, whose JPEG XL files must have ``room`` bytes. Raises ValueError, ContainerError."""
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
    flat = numbers(4 * count)
    groups = tuple(_Group(*flat[i : i + 4]) for i in range(0, len(flat), 4))
    (rows,) = numbers(1)
    gaps, lengths = numbers(rows), numbers(rows)
    steps = [value // 2 if value % 2 == 0 else -(value + 1) // 2 for value in numbers(rows)]
    if at != len(data) or sum(group.packed for group in groups) != room:
        raise ValueError("the table of a part with JPEG streams does not fit to what follows it")
    return _Table(groups, tuple(gaps), tuple(lengths), tuple(accumulate(steps)))


def _assembled(table: _Table, rest: bytes, size: int, jpeg: Callable[[int], bytes]) -> bytes:
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
