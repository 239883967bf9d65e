"""Walking a shard from its first byte to its last without trusting any of them.

``scan`` never raises on damage: it yields whole records and ``Damage`` ranges, which together cover the file.
After a damaged place it looks for the next record magic and goes on from the first record that proves itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from callic_archive import errors
from callic_archive.container import layout
from callic_archive.container.layout import IndexEntry, RecordHeader, RecordRef, RecordType

WINDOW = 1 << 20
# Work on false or damaged candidates is bounded by this many file lengths (plus WINDOW * 64), so that a file
# made of forged headers cannot make a scan quadratic. Honest damage costs less than two.
BUDGET_FILE_LENGTHS = 4
MOST_NAMES = 1000

ReadAt = Callable[[int, int], bytes]  # (offset, size) -> up to size bytes; unreadable blocks are zeros
NamesIn = Callable[[int, int], list[IndexEntry]]  # (start, end) -> records that intact INDEX records list


@dataclass(frozen=True)
class ScannedRecord:
    """A whole record that passed all its checks; ``payload_*`` are bytes in the shard."""

    ref: RecordRef
    key: str
    payload_offset: int
    payload_length: int


@dataclass(frozen=True)
class Damage:
    """Bytes [offset, offset + length) of a shard without a whole record; length 0: wrong order or not sealed.

    ``code`` is that of the error class in ``errors.py``; ``records`` are the lost records as far as their
    headers or an INDEX still name them (at most 1000).
    """

    shard: str
    offset: int
    length: int
    code: str
    detail: str
    records: tuple[IndexEntry, ...] = ()


@dataclass(frozen=True)
class _Probe:
    """What lies at an offset: nothing (no header), a named but damaged record, or a whole one."""

    offset: int
    header: RecordHeader | None
    key: bytes = b""
    whole: bool = False
    payload: bytes = b""  # of INDEX and END only; others are hashed in pieces and not kept

    @property
    def end(self) -> int:
        return self.offset + (self.header.total_length if self.header else 0)


class Scanner:
    """One pass over a shard of ``size`` bytes whose id is known."""

    def __init__(self, name: str, size: int, shard_id: bytes, read_at: ReadAt, names_in: NamesIn) -> None:
        self._name = name
        self._size = size
        self._id = shard_id
        self._tag = shard_id[: layout.SHARD_TAG_SIZE]
        self._read_at = read_at
        self._names_in = names_in
        self._budget = BUDGET_FILE_LENGTHS * size + 64 * WINDOW
        self._window_start = 0
        self._window = b""

    # -- reading --------------------------------------------------------------------------------------------

    def _bytes(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, through a window so that small records cost no call each."""
        size = min(size, self._size - offset)
        if size <= 0:
            return b""
        if size > WINDOW:
            return self._read_at(offset, size)
        start = offset - self._window_start
        if start < 0 or start + size > len(self._window):
            self._window = self._read_at(offset, WINDOW)
            self._window_start, start = offset, 0
        return self._window[start : start + size]

    def _head(self, offset: int) -> tuple[RecordHeader, bytes] | None:
        """Header and key at ``offset`` when magic, shard tag and CRC hold."""
        header = layout.decode_record_header(self._bytes(offset, layout.RECORD_HEADER_SIZE))
        if header is None or header.shard_tag != self._tag:
            return None
        head = self._bytes(offset, header.payload_start)
        if layout.head_is_intact(header, head):
            return header, head
        self._budget -= len(head)
        return None

    def _probe(self, offset: int) -> _Probe:
        found = self._head(offset)
        if found is None:
            return _Probe(offset, None)
        header, head = found
        key = head[layout.RECORD_HEADER_SIZE :]
        end = offset + header.total_length
        if end > self._size:
            return _Probe(offset, header, key)
        keep = layout.describes_shard(header)
        hasher, kept = layout.RecordHash(self._id, head), []
        position, stop = offset + header.payload_start, end - layout.CHECKSUM_SIZE
        while position < stop:
            piece = self._bytes(position, min(WINDOW, stop - position))
            if not piece:  # the file became shorter while it was read
                break
            hasher.update(piece)
            if keep:
                kept.append(piece)
            position += len(piece)
        whole = position == stop and hasher.digest() == self._bytes(stop, layout.CHECKSUM_SIZE)
        if not whole:
            self._budget -= header.payload_length
        return _Probe(offset, header, key, whole, b"".join(kept) if whole else b"")

    # -- after damage ---------------------------------------------------------------------------------------

    def _follows(self, end: int) -> bool:
        """Whether a record that ends here is credible: the file ends too, or another header follows."""
        return end == self._size or self._head(end) is not None

    def _resync(self, start: int) -> _Probe | None:
        """The next place with a whole record, or with a named one that its successor makes credible."""
        position = start
        while position < self._size and self._budget > 0:
            window = self._read_at(position, WINDOW + len(layout.RECORD_MAGIC) - 1)
            at = window.find(layout.RECORD_MAGIC)
            while at >= 0 and self._budget > 0:
                probe = self._probe(position + at)
                if probe.whole or (probe.header and probe.end <= self._size and self._follows(probe.end)):
                    return probe
                at = window.find(layout.RECORD_MAGIC, at + 1)
            position += WINDOW
        return None

    def _damage(self, start: int, end: int, error: type[errors.ContainerError], detail: str) -> Damage:
        names = tuple(self._names_in(start, end)[:MOST_NAMES]) if end > start else ()
        return Damage(self._name, start, end - start, error.code, detail, names)

    def _named(self, probe: _Probe, end: int, error: type[errors.ContainerError], detail: str) -> Damage:
        assert probe.header is not None
        try:
            known = RecordType(probe.header.type_code)
        except ValueError:
            return self._damage(probe.offset, end, error, detail)
        ref = RecordRef(self._name, probe.offset, probe.header.total_length, known, probe.header.sequence)
        entry = IndexEntry(ref, layout.decode_key(probe.key))
        others = [n for n in self._names_in(probe.offset, end) if n.ref.offset != probe.offset]
        return Damage(
            self._name, probe.offset, end - probe.offset, error.code, detail, (entry, *others)[:MOST_NAMES]
        )

    def _broken(self, probe: _Probe) -> tuple[list[Damage], _Probe | None]:
        """The damage that begins at ``probe`` and where the walk goes on (None: at the file's end)."""
        start = probe.offset
        if probe.header is not None and probe.end <= self._size and self._follows(probe.end):
            after = self._probe(probe.end) if probe.end < self._size else None
            detail = "the payload or checksum of this record is damaged"
            return [self._named(probe, probe.end, errors.RecordChecksumMismatch, detail)], after
        after = self._resync(start + 1)
        end = after.offset if after else self._size
        if probe.header is None:
            detail = "no intact record begins here" + self._gave_up(after)
            return [self._damage(start, end, errors.RecordHeaderDamaged, detail)], after
        if probe.end > self._size:
            detail = f"the shard ends or goes on otherwise {probe.end - end} bytes before this record's end"
            return [self._named(probe, end, errors.ShardTruncated, detail)], after
        detail = "the payload of this record is damaged, and so is what follows it" + self._gave_up(after)
        if end <= probe.end:
            return [self._named(probe, end, errors.RecordChecksumMismatch, detail)], after
        rest = self._damage(probe.end, end, errors.UnknownBytes, "no intact record begins here")
        return [self._named(probe, probe.end, errors.RecordChecksumMismatch, detail), rest], after

    def _gave_up(self, after: _Probe | None) -> str:
        if after is None and self._budget <= 0:
            return "; the search was given up, the file is full of forged or broken headers"
        return ""

    # -- the walk -------------------------------------------------------------------------------------------

    def run(self) -> Iterator[ScannedRecord | Damage]:
        """Yield everything after the shard header, in file order."""
        expected, exact, sealed = 0, True, False
        probe: _Probe | None = (
            self._probe(layout.SHARD_HEADER_SIZE) if self._size > layout.SHARD_HEADER_SIZE else None
        )
        while probe is not None:
            if not probe.whole:
                damages, after = self._broken(probe)
                yield from damages
                if probe.header is not None and probe.header.sequence >= expected:
                    expected = probe.header.sequence + 1
                exact, probe = False, after
                continue
            header = probe.header
            assert header is not None
            if header.sequence < expected or (exact and header.sequence != expected):
                detail = f"record {header.sequence} stands where record {expected} was expected"
                yield self._damage(probe.offset, probe.offset, errors.SequenceBroken, detail)
            expected, exact = header.sequence + 1, True
            item = self._record(probe, header)
            yield item
            if isinstance(item, ScannedRecord) and item.ref.type is RecordType.END:
                sealed = True
                if probe.end < self._size:
                    detail = "bytes follow the END record"
                    yield self._damage(probe.end, self._size, errors.TrailingBytes, detail)
                break
            probe = self._probe(probe.end) if probe.end < self._size else None
        if not sealed:
            detail = "the shard has no intact END record"
            yield self._damage(self._size, self._size, errors.ShardNotSealed, detail)

    def _record(self, probe: _Probe, header: RecordHeader) -> ScannedRecord | Damage:
        """A whole record as an item; INDEX and END must also agree with the place where they stand."""
        try:
            record_type = RecordType(header.type_code)
        except ValueError:
            detail = f"an intact record of the unknown type {header.type_code}"
            return self._damage(probe.offset, probe.end, errors.UnknownRecordType, detail)
        ref = RecordRef(self._name, probe.offset, header.total_length, record_type, header.sequence)
        try:
            if record_type is RecordType.INDEX:
                layout.check_index(
                    probe.payload, offset=probe.offset, sequence=header.sequence, shard_id=self._id
                )
            elif record_type is RecordType.END:
                layout.decode_end(probe.payload, offset=probe.offset, shard_id=self._id)
        except errors.ShardIndexDamaged as error:
            return Damage(self._name, probe.offset, header.total_length, error.code, str(error))
        key = layout.decode_key(probe.key)
        return ScannedRecord(ref, key, probe.offset + header.payload_start, header.payload_length)
