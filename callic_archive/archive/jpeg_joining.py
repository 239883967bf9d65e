"""JPEG streams of one part on their way to fewer bytes: those with equal headers joined, each result proven at once.

A small tile is poor by itself: its tables cost more than the better coding gains, and nothing is learned yet when it ends.
So tiles with equal headers become one tall JPEG stream first, without any recoding, since coded data between restarts depend
on nothing before them. What is not coded data stays among the surrounding bytes, and a stream that is there twice is kept once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from callic_archive.archive.dct.jpeg_stream import comes_back
from callic_archive.archive.jpeg_form import Group, Table, assembled, checksum, table_bytes, zstd
from callic_archive.archive.jpeg_limits import recodable
from callic_archive.archive.jpeg_recoding import recoded
from callic_archive.container.layout import encode_varint
from callic_archive.images.jpeg_streams import (
    EOI,
    TALLEST,
    Stream,
    Tables,
    joined,
    parted,
    place_in,
    read,
    with_tables,
)

_PIXELS, _BYTES = 8 << 20, 4 << 20  # of a joined stream
_LEAST = 64  # bytes of coded data; smaller streams are left alone
_SAVING = 32  # bytes that a recoded stream must save
_FAILURES = 128  # refused streams after which the rest of a part is left alone
_TRIED = 3  # streams of tables that are tried for one that lacks them
_ROWS = 1 << 20


@dataclass
class Joining:
    """The streams of one part on their way to fewer bytes."""

    data: memoryview
    tables: Tables
    groups: list[Group] = field(default_factory=list)
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
        """Take all that can be taken."""
        kinds: dict[tuple[bytes, int], list[tuple[Stream, bytes]]] = {}
        seen: set[bytes] = set()
        for stream in streams:
            content = stream.read(self.data)
            jpeg = stream.jpeg
            if len(content) < _LEAST or len(self.places) >= _ROWS or not recodable(jpeg):
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
            again = [*half, half[0]]
            if self._comes_back(again, head, tables) or self._recoded(again, head, tables) is not None:
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
        """Streams joined and recoded, the joined stream, and the bytes that it stands for; None where it is refused."""
        if self.failures >= _FAILURES:
            return None
        made, size = self._made(batch, head, tables)
        jpeg = batch[0][0].jpeg
        packed = recoded(made, jpeg.rows * jpeg.width * len(batch)) if made else None
        if packed is None:
            self.failures += 1
            return None
        return packed, made, size

    def _comes_back(self, batch: list[tuple[Stream, bytes]], head: bytes, tables: int) -> bool:
        """Whether streams joined come back from their coefficients, which takes a fiftieth of the time of coding these."""
        made, _ = self._made(batch, head, tables)
        return bool(made) and comes_back(made)

    def _made(self, batch: list[tuple[Stream, bytes]], head: bytes, tables: int) -> tuple[bytes, int]:
        """Streams joined, which is empty where these could not be parted again, and the bytes of their coded data."""
        codes = []
        for stream, _ in batch:
            content = stream.read(self.data)
            codes.append(content[stream.jpeg.coded : stream.jpeg.scan_end])
        jpeg = batch[0][0].jpeg
        made = joined(jpeg, head, self.tables.streams[tables] if tables >= 0 else b"", codes)
        told = read(memoryview(made))
        sound = (
            told is not None
            and told.scan_end + len(EOI) == len(made)
            and parted(made[told.coded : told.scan_end], len(codes), jpeg.segments) == codes
        )
        return made if sound else b"", sum(map(len, codes))

    def _joined(self, batch: list[tuple[Stream, bytes]], head: bytes, tables: int) -> bool | None:
        """Several streams as one. None where it was refused, False where nothing was saved."""
        found = self._recoded(batch, head, tables)
        if found is None:
            return None
        packed, made, size = found
        if len(packed) + _SAVING > size:
            return False
        take = batch[0][0].jpeg.segments
        self._keep(Group(len(packed), len(made), len(batch), take, checksum(packed)), packed, made)
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
        packed = recoded(made, stream.jpeg.height * stream.jpeg.width)
        if packed is None:
            self.failures += 1
            return None
        if len(packed) + _SAVING > len(content):
            return False
        self._keep(Group(len(packed), len(made), 0, len(content) - cut, checksum(packed)), packed, made)
        self.taken[digest] = self.count
        self.whole.add(digest)
        self.count += 1
        return True

    def _keep(self, group: Group, packed: bytes, jpeg: bytes) -> None:
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
        table = Table(tuple(self.groups), tuple(gaps), tuple(lengths), tuple(streams))
        rest = b"".join(around)
        if assembled(table, rest, len(self.data), self.jpegs.__getitem__) != self.data:
            return None
        heads = [zstd(table_bytes(table)), zstd(rest)]
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
