"""Random access to the records of a shard: pread only, every byte that is returned was checked.

Nothing that the file says is trusted for an allocation beyond the file's own size. A reader holds one
descriptor and no position, so threads may share it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from callic_archive import errors
from callic_archive.container import layout
from callic_archive.container.layout import IndexEntry, RecordHeader, RecordRef, RecordType
from callic_archive.container.scan import BUDGET_FILE_LENGTHS, Damage, ScannedRecord, Scanner

_BLOCK = 4096
_CHUNK = 1 << 20


def shard_name(path: Path) -> str:
    """The name that references use: the file's name without ``.partial``."""
    return path.name.removesuffix(layout.PARTIAL_SUFFIX)


class ShardReader:
    """A sealed or partial shard, open for reading.

    Raises NotAShard (E401), UnsupportedShardVersion (E402) and, when the header is damaged and no INDEX or
    END tells the id, ShardHeaderDamaged (E403); passing ``shard_id`` reads such a shard all the same.
    ``header_damage`` says whether the header itself was intact. OSError on opening is ReadFailure (E612).
    """

    def __init__(self, path: Path, *, shard_id: bytes | None = None) -> None:
        self.path = path
        self.name = shard_name(path)
        self.header_damage: Damage | None = None
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is waited for by nobody
        except OSError as error:
            raise errors.ReadFailure(f"cannot open {path}: {error.strerror or error}") from error
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise errors.NotAShard(f"{path} is no regular file")
            self.size = os.fstat(self._fd).st_size
            self.shard_id = self._identify(shard_id)
        except BaseException:
            self.close()
            raise
        self._spans: list[RecordRef] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- bytes ----------------------------------------------------------------------------------------------

    def _pread(self, offset: int, size: int) -> bytes:
        """``size`` bytes at ``offset``, fewer only at the file's end. Raises ReadFailure (E612)."""
        pieces: list[bytes] = []
        try:
            while size > 0:
                piece = os.pread(self._fd, size, offset)
                if not piece:
                    break
                pieces.append(piece)
                offset, size = offset + len(piece), size - len(piece)
        except OSError as error:
            raise errors.ReadFailure(
                f"cannot read {self.path} at byte {offset}: {error.strerror or error}"
            ) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _pread_lenient(self, offset: int, size: int) -> bytes:
        """As ``_pread``, but blocks that the storage cannot give come back as zeros, which pass no check."""
        try:
            return self._pread(offset, size)
        except errors.ReadFailure:
            size = max(0, min(size, self.size - offset))
            if size <= _BLOCK:
                return bytes(size)
            head = -offset % _BLOCK or _BLOCK
            return b"".join(
                self._pread_lenient(start, stop - start)
                for start, stop in _blocks(offset, offset + size, head)
            )

    # -- identity -------------------------------------------------------------------------------------------

    def _identify(self, expected: bytes | None) -> bytes:
        raw = self._pread_lenient(0, layout.SHARD_HEADER_SIZE)
        found = layout.decode_shard_header(raw)
        if found is not None:
            version, shard_id = found
            if version != layout.FORMAT_VERSION:
                raise errors.UnsupportedShardVersion(
                    f"{self.path} is a shard of format version {version}; this program reads version "
                    f"{layout.FORMAT_VERSION}"
                )
            if expected is not None and expected != shard_id:
                raise errors.WrongRecord(f"{self.path} is another shard than the one asked for")
            return shard_id
        detail = "the shard header is damaged or cut short"
        length = min(self.size, layout.SHARD_HEADER_SIZE)
        self.header_damage = Damage(self.name, 0, length, errors.ShardHeaderDamaged.code, detail)
        shard_id_found = expected or self._id_from_end() or self._id_from_index()
        if shard_id_found is not None:
            return shard_id_found
        if raw.startswith(layout.SHARD_MAGIC) or self._any_record():
            raise errors.ShardHeaderDamaged(
                f"the header of {self.path} is damaged, and no INDEX or END record tells the shard's id"
            )
        raise errors.NotAShard(f"{self.path} is no shard of this format")

    def _self_naming(self, offset: int, most: int) -> tuple[RecordHeader, bytes] | None:
        """A whole INDEX or END of at most ``most`` bytes at ``offset``; its payload begins with the id."""
        header = layout.decode_record_header(self._pread_lenient(offset, layout.RECORD_HEADER_SIZE))
        if header is None or not layout.describes_shard(header):
            return None
        fits = header.total_length <= min(most, self.size - offset)
        if not fits or header.payload_length < layout.SHARD_ID_SIZE:
            return None
        if not layout.head_is_intact(header, self._pread_lenient(offset, header.payload_start)):
            return None
        record = self._pread_lenient(offset, header.total_length)
        payload = record[header.payload_start : -layout.CHECKSUM_SIZE]
        shard_id = payload[: layout.SHARD_ID_SIZE]
        if header.shard_tag != shard_id[: layout.SHARD_TAG_SIZE]:
            return None
        hasher = layout.RecordHash(shard_id, record[: -layout.CHECKSUM_SIZE])
        return (header, payload) if hasher.digest() == record[-layout.CHECKSUM_SIZE :] else None

    def _id_from_end(self) -> bytes | None:
        offset = self.size - layout.END_SIZE
        found = self._self_naming(offset, layout.END_SIZE) if offset >= layout.SHARD_HEADER_SIZE else None
        if found is None or found[0].type_code != RecordType.END:
            return None
        shard_id = found[1][: layout.SHARD_ID_SIZE]
        try:
            layout.decode_end(found[1], offset=offset, shard_id=shard_id)
        except errors.ShardIndexDamaged:
            return None
        return shard_id

    def _id_from_index(self) -> bytes | None:
        """Search for an INDEX that stands where it says; one of a shard stored inside this one does not."""
        budget = BUDGET_FILE_LENGTHS * self.size + layout.MAX_INDEX_PAYLOAD  # against forged headers
        for offset in self._find(layout.RECORD_MAGIC + bytes((layout.FORMAT_VERSION, RecordType.INDEX))):
            header = layout.decode_record_header(self._pread_lenient(offset, layout.RECORD_HEADER_SIZE))
            budget -= min(header.total_length, self.size) if header else 0
            found = self._self_naming(offset, self.size) if budget > 0 else None
            if found is None:
                continue
            header, payload = found
            shard_id = payload[: layout.SHARD_ID_SIZE]
            try:
                layout.check_index(payload, offset=offset, sequence=header.sequence, shard_id=shard_id)
            except errors.ShardIndexDamaged:
                continue
            return shard_id
        return None

    def _any_record(self) -> bool:
        budget = BUDGET_FILE_LENGTHS * self.size + layout.MAX_INDEX_PAYLOAD
        for offset in self._find(layout.RECORD_MAGIC):
            header = layout.decode_record_header(self._pread_lenient(offset, layout.RECORD_HEADER_SIZE))
            if header is None:
                continue
            budget -= header.payload_start
            if layout.head_is_intact(header, self._pread_lenient(offset, header.payload_start)):
                return True
            if budget < 0:
                break
        return False

    def _find(self, pattern: bytes) -> Iterator[int]:
        for start in range(0, self.size, _CHUNK):
            window = self._pread_lenient(start, _CHUNK + len(pattern) - 1)
            at = window.find(pattern)
            while at >= 0:
                yield start + at
                at = window.find(pattern, at + 1)

    # -- one record -----------------------------------------------------------------------------------------

    def _open_record(self, ref: RecordRef, key: str | None) -> tuple[RecordHeader, bytes]:
        """Header and head bytes of the record at ``ref``, all but payload and checksum compared."""
        where = f"record {ref.sequence} at byte {ref.offset} of {self.name}"
        if ref.shard != self.name:
            raise errors.WrongRecord(f"{where}: the reference is into another shard, {ref.shard}")
        if ref.offset < layout.SHARD_HEADER_SIZE or ref.offset + ref.length > self.size:
            raise errors.ShardTruncated(f"{where}: the shard ends before it, at byte {self.size}")
        header = layout.decode_record_header(self._pread(ref.offset, layout.RECORD_HEADER_SIZE))
        if header is None or header.payload_start > self.size - ref.offset:
            raise errors.RecordHeaderDamaged(f"{where}: no record begins there")
        head = self._pread(ref.offset, header.payload_start)
        if not layout.head_is_intact(header, head):
            raise errors.RecordHeaderDamaged(f"{where}: the record's header or key is damaged")
        same = (
            header.shard_tag == self.shard_id[: layout.SHARD_TAG_SIZE]
            and header.type_code == ref.type
            and header.sequence == ref.sequence
            and header.total_length == ref.length
        )
        stored_key = layout.decode_key(head[layout.RECORD_HEADER_SIZE :])
        if not same or (key is not None and stored_key != key):
            raise errors.WrongRecord(
                f"{where}: an intact record, but not the one asked for (type {header.type_code}, number "
                f"{header.sequence}, key {stored_key!r})"
            )
        return header, head

    def chunks(self, ref: RecordRef, *, key: str | None = None, size: int = 8 << 20) -> Iterator[bytes]:
        """The payload in pieces of at most ``size`` bytes, for records larger than memory.

        The checksum is known only at the end: RecordChecksumMismatch (E405) may come after pieces were given,
        so the caller must discard what it made of them. Other errors as ``read``.
        """
        header, head = self._open_record(ref, key)
        hasher = layout.RecordHash(self.shard_id, head)
        position, stop = ref.offset + header.payload_start, ref.offset + ref.length - layout.CHECKSUM_SIZE
        while position < stop:
            piece = self._pread(position, min(size, stop - position))
            if not piece:
                raise errors.ShardTruncated(f"{self.path} became shorter while it was read")
            hasher.update(piece)
            position += len(piece)
            yield piece
        if hasher.digest() != self._pread(stop, layout.CHECKSUM_SIZE):
            raise errors.RecordChecksumMismatch(
                f"record {ref.sequence} at byte {ref.offset} of {self.name}: payload or checksum is damaged"
            )

    def read(self, ref: RecordRef, *, key: str | None = None) -> bytes:
        """The payload of ``ref`` after all checks; ``key``, when given, must be the record's own.

        Raises WrongRecord (E406), RecordHeaderDamaged (E404), RecordChecksumMismatch (E405), ShardTruncated
        (E407), ReadFailure (E612).
        """
        pieces = list(self.chunks(ref, key=key, size=max(1, ref.length)))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_unproven(self, ref: RecordRef, key: str, most: int) -> bytes:
        """The payload of ``ref`` without any check, for those whose payloads prove themselves in parts.

        ``key`` is the record's own, should its header be damaged; blocks that the storage cannot give are zeros.
        Raises WrongRecord where the payload would have more than ``most`` bytes, or none; ShardTruncated, ReadFailure.
        """
        if ref.offset + ref.length > self.size:
            raise errors.ShardTruncated(f"{self.name} ends before the record at byte {ref.offset}")
        header = layout.decode_record_header(self._pread_lenient(ref.offset, layout.RECORD_HEADER_SIZE))
        start = layout.RECORD_HEADER_SIZE + len(layout.encode_key(key))
        if header is not None and header.total_length == ref.length:
            head = self._pread_lenient(ref.offset, header.payload_start)
            start = header.payload_start if layout.head_is_intact(header, head) else start
        size = ref.length - start - layout.CHECKSUM_SIZE
        if not 0 < size <= most:
            raise errors.WrongRecord(
                f"the record at byte {ref.offset} of {self.name} has another key, or is too long"
            )
        return self._pread_lenient(ref.offset + start, size)

    # -- all records ----------------------------------------------------------------------------------------

    @property
    def sealed(self) -> bool:
        """Whether an intact END stands at the end."""
        try:
            self._end()
        except errors.ContainerError:
            return False
        return True

    def _end(self) -> layout.EndPayload:
        offset = self.size - layout.END_SIZE
        found = self._self_naming(offset, layout.END_SIZE) if offset >= layout.SHARD_HEADER_SIZE else None
        if found is None or found[0].type_code != RecordType.END:
            raise errors.ShardNotSealed(f"{self.path} does not end in an intact END record")
        return layout.decode_end(found[1], offset=offset, shard_id=self.shard_id)

    def _index_refs(self) -> Iterator[RecordRef]:
        """The INDEX records from the last to the first, each checked."""
        end = self._end()
        offset, length, end_sequence = end.index_offset, end.index_length, None
        while True:
            found = self._self_naming(offset, length) if offset >= layout.SHARD_HEADER_SIZE else None
            if found is None or found[0].type_code != RecordType.INDEX or found[0].total_length != length:
                raise errors.ShardIndexDamaged(f"the INDEX record at byte {offset} of {self.name} is damaged")
            header, payload = found
            number = header.sequence
            head = layout.check_index(payload, offset=offset, sequence=number, shard_id=self.shard_id)
            if end_sequence is not None and header.sequence != end_sequence:
                raise errors.ShardIndexDamaged(f"the INDEX records of {self.name} do not follow each other")
            yield RecordRef(self.name, offset, length, RecordType.INDEX, header.sequence)
            if head.first_offset == layout.SHARD_HEADER_SIZE:
                if head.first_sequence != 0:
                    raise errors.ShardIndexDamaged(f"the first INDEX of {self.name} does not begin at 0")
                return
            first = next(layout.iter_index(payload, self.name, offset=offset, sequence=header.sequence))
            offset, length, end_sequence = first.ref.offset, first.ref.length, first.ref.sequence

    def index(self) -> Iterator[IndexEntry]:
        """All records before END in file order, from the INDEX records alone (no record header is read).

        Raises ShardNotSealed (E408) or ShardIndexDamaged (E409) before the first entry; ``rebuild_index``
        helps.
        """
        for ref in reversed(list(self._index_refs())):
            payload = self.read(ref)
            yield from layout.iter_index(payload, self.name, offset=ref.offset, sequence=ref.sequence)
            last = IndexEntry(ref, "")
        yield last

    def rebuild_index(self) -> tuple[list[IndexEntry], list[Damage]]:
        """What ``index`` would give, found by reading the whole shard, and all damage met on the way."""
        entries: list[IndexEntry] = []
        damages: list[Damage] = []
        for item in self.scan():
            if isinstance(item, Damage):
                damages.append(item)
            elif item.ref.type is not RecordType.END:
                entries.append(IndexEntry(item.ref, item.key))
        return entries, damages

    def _names_in(self, start: int, end: int) -> list[IndexEntry]:
        """Records that intact INDEX records list within [start, end)."""
        if self._spans is None:
            self._spans = []
            try:
                for ref in self._index_refs():
                    self._spans.append(ref)
            except (errors.ContainerError, errors.ReadFailure):
                pass  # the names that later INDEX records give are still good
        names: list[IndexEntry] = []
        for ref in reversed(self._spans):
            try:
                payload = self.read(ref)
                if ref.offset <= start or layout.decode_index_head(payload).first_offset >= end:
                    continue
                for entry in layout.iter_index(payload, self.name, offset=ref.offset, sequence=ref.sequence):
                    if entry.ref.offset < end and entry.ref.offset + entry.ref.length > start:
                        names.append(entry)
            except (errors.ContainerError, errors.ReadFailure):
                continue
        return names

    def scan(self) -> Iterator[ScannedRecord | Damage]:
        """Everything in the shard in file order: whole records and damaged ranges. Never raises on damage.

        Records outside of the reported ranges are proven whole. A shard without END yields a last Damage of
        length 0 with E408.
        """
        if self.header_damage is not None:
            yield self.header_damage
        yield from Scanner(self.name, self.size, self.shard_id, self._pread_lenient, self._names_in).run()


def _blocks(start: int, stop: int, first: int) -> Iterator[tuple[int, int]]:
    """[start, stop) cut at multiples of the block size; ``first`` is the length of the first piece."""
    edge = min(start + first, stop)
    while start < stop:
        yield start, edge
        start, edge = edge, min(edge + _BLOCK, stop)
