"""Appending records to a shard so that a kill at any instant loses at most the record in hand.

A shard is written as ``NAME.partial`` and takes its name only when it is sealed. Nothing is buffered in the
process: what ``append`` returned is in the operating system's hands, and ``flush(fsync=True)`` puts it on the
storage. When the disk is full an append leaves the shard as it was, so the caller may free space and go on.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from callic_archive import errors
from callic_archive.container import fs, layout
from callic_archive.container.layout import BytesLike, IndexEntry, RecordRef, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.container.scan import Damage

CHECKPOINT_BYTES = 64 << 20
CHECKPOINT_RECORDS = 16384
_JOIN_BELOW = 64 << 10  # smaller payloads are written with header and checksum in one call


@dataclass(frozen=True)
class SealedShard:
    """A finished shard: file name, size in bytes, SHA-256 (hex) of the bytes that had to be written."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Recovery:
    """What reopening a partial shard found: records kept, bytes cut off, whole records lost beyond damage.

    ``discarded`` is more than 0 only when something else than a kill happened (power cut, broken storage):
    records stood whole behind a damaged place, and were cut off with it. ``damage`` is the first damage, if
    any.
    """

    records: tuple[IndexEntry, ...]
    truncated_bytes: int
    discarded: int
    damage: Damage | None


class ShardWriter:
    """Writes one shard; ``path`` is the final name. One writer a shard, from ``O_EXCL`` creation to the seal.

    ``shard_id`` (16 bytes, random, never used twice) is bound into every record. As a context manager it
    closes the file without sealing, which leaves ``.partial`` for ``recover``. Raises ShardExists (E414),
    WriterClosed (E415), ContainerLimit (E413), and OutOfSpace or WriteFailure (E610, E611), never errors of
    a source.
    """

    recovery: Recovery | None = None

    def __init__(
        self,
        path: Path,
        *,
        shard_id: bytes,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        checkpoint_records: int = CHECKPOINT_RECORDS,
    ) -> None:
        header = layout.encode_shard_header(shard_id)
        self._prepare(path, shard_id, checkpoint_bytes, checkpoint_records)
        if path.exists():
            raise errors.ShardExists(f"the shard {path} already exists; sealed shards never change")
        try:
            self._fd = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError as error:
            raise errors.ShardExists(f"{self.partial} already exists: recover it, or remove it") from error
        except OSError as error:
            raise fs.write_failure(error, self.partial) from error
        try:
            self._put(header)
            self.flush(fsync=True)
            fs.fsync_dir(path.parent)
        except BaseException:  # nothing was stored yet, so nothing is kept
            self.close()
            with suppress(OSError):
                os.unlink(self.partial)
            raise

    def _prepare(self, path: Path, shard_id: bytes, checkpoint_bytes: int, checkpoint_records: int) -> None:
        self.path = path
        self.name = path.name
        self.partial = path.with_name(path.name + layout.PARTIAL_SUFFIX)
        self.shard_id = shard_id
        self._checkpoint_bytes = checkpoint_bytes
        self._checkpoint_records = checkpoint_records
        self._fd = -1
        self._size = 0
        self._sequence = 0
        self._sha256 = hashlib.sha256()
        self._last_index: RecordRef | None = None
        self._index_start = layout.SHARD_HEADER_SIZE
        self._pending = layout.IndexBuilder(layout.SHARD_HEADER_SIZE, 0)

    # -- after a kill ---------------------------------------------------------------------------------------

    @classmethod
    def recover(
        cls,
        path: Path,
        *,
        shard_id: bytes | None = None,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        checkpoint_records: int = CHECKPOINT_RECORDS,
    ) -> Self:
        """Reopen ``path``'s partial file, cut it after its last whole record, and go on from there.

        ``path`` is the final name, or that of the partial file itself. The kept records are in ``.recovery``.
        A file cut inside its 32-byte header holds no record and is begun anew (``shard_id``, or a new random
        id). A shard killed between END and rename is reopened before its END; sealing it again gives the same
        bytes. Raises ShardExists when the sealed file is already there, ShardHeaderDamaged or NotAShard, and
        ReadFailure (also when there is no partial file).
        """
        path = path.with_name(path.name.removesuffix(layout.PARTIAL_SUFFIX))
        self = cls.__new__(cls)
        self._prepare(path, shard_id or b"", checkpoint_bytes, checkpoint_records)
        if path.exists():
            raise errors.ShardExists(f"the shard {path} is already sealed; open it with a reader")
        try:
            size = self.partial.stat().st_size
            self._fd = os.open(self.partial, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise errors.ReadFailure(f"cannot reopen {self.partial}: {error.strerror}") from error
        try:
            if size < layout.SHARD_HEADER_SIZE:
                self._begin_anew(shard_id or secrets.token_bytes(layout.SHARD_ID_SIZE), size)
            else:
                self._take_over(shard_id)
        except BaseException:
            self.close()
            raise
        return self

    def _begin_anew(self, shard_id: bytes, size: int) -> None:
        self.shard_id = shard_id
        with fs.writing(self.partial):
            os.ftruncate(self._fd, 0)
        self._put(layout.encode_shard_header(shard_id))
        self.flush(fsync=True)
        self.recovery = Recovery((), size, 0, None)

    def _take_over(self, shard_id: bytes | None) -> None:
        kept: list[IndexEntry] = []
        first: Damage | None = None
        discarded = 0
        with ShardReader(self.partial, shard_id=shard_id) as reader:
            self.shard_id = reader.shard_id
            header_damaged = reader.header_damage is not None
            end = layout.SHARD_HEADER_SIZE
            for item in reader.scan():
                if isinstance(item, Damage):
                    if item is not reader.header_damage and item.code != errors.ShardNotSealed.code:
                        first = first or item
                elif first is not None:
                    discarded += 1
                elif item.ref.type is not RecordType.END:
                    kept.append(IndexEntry(item.ref, item.key))
                    end = item.ref.offset + item.ref.length
            size = reader.size
        with fs.writing(self.partial):
            if header_damaged:
                os.pwrite(self._fd, layout.encode_shard_header(self.shard_id), 0)
            os.ftruncate(self._fd, end)
            os.fsync(self._fd)
            os.lseek(self._fd, 0, os.SEEK_SET)
            while block := os.read(self._fd, 1 << 20):
                self._sha256.update(block)
                self._size += len(block)
        if self._size != end:
            raise errors.WriteFailure(f"{self.partial} changed meanwhile: another process writes it")
        for entry in kept:
            self._note(entry.ref, layout.encode_key(entry.key))
        self.recovery = Recovery(tuple(kept), size - end, discarded, first)

    # -- writing --------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; without ``seal`` the partial file stays for ``recover``."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def record_count(self) -> int:
        """Records written so far, INDEX records included."""
        return self._sequence

    def _put(self, *parts: bytes | memoryview) -> None:
        """Write all parts or none of them."""
        if self._fd < 0:
            raise errors.WriterClosed(f"the writer of {self.name} is closed")
        state = self._sha256.copy()
        try:
            if sum(len(part) for part in parts) < _JOIN_BELOW:
                parts = (b"".join(parts),)
            for part in parts:
                fs.write_all(self._fd, part)
                state.update(part)
        except BaseException as error:
            # Also on KeyboardInterrupt: half a record must not stay in front of the next one.
            try:
                os.ftruncate(self._fd, self._size)
                os.lseek(self._fd, self._size, os.SEEK_SET)
            except OSError:
                self.close()  # recover() will cut it
            if isinstance(error, OSError):
                raise fs.write_failure(error, self.partial) from error
            raise
        self._sha256 = state
        self._size += sum(len(part) for part in parts)

    def _note(self, ref: RecordRef, key: bytes) -> None:
        """Take a written record into the next INDEX, and count it."""
        if ref.type is RecordType.INDEX:
            self._last_index = ref
            self._index_start = ref.offset
            self._pending = layout.IndexBuilder(ref.offset, ref.sequence)
        self._pending.add(ref.type, ref.length, key)
        self._sequence = ref.sequence + 1

    def _append(self, record_type: RecordType, payload: BytesLike, key: bytes) -> RecordRef:
        view = memoryview(payload).cast("B")
        head = layout.encode_record_head(record_type, self._sequence, key, len(view), self.shard_id)
        hasher = layout.RecordHash(self.shard_id, head)
        hasher.update(view)
        offset = self._size
        try:
            self._put(head, view, hasher.digest())
            ref = RecordRef(self.name, offset, self._size - offset, record_type, self._sequence)
            self._note(ref, key)
        except errors.CallicError:
            raise
        except BaseException:  # interrupted, so the counts may be off; recover() sets them right
            self.close()
            raise
        return ref

    def append(self, record_type: RecordType, payload: BytesLike, *, key: str) -> RecordRef:
        """Write one record and return where it lies. ``payload`` may be an mmap; it is not copied when large.

        ``key`` names what the record belongs to (at most 65535 bytes of UTF-8, surrogate escapes allowed) and
        is bound into the checksum. INDEX and END are the writer's own: ValueError.
        """
        if record_type in (RecordType.INDEX, RecordType.END):
            raise ValueError(f"{record_type.name} records are written by checkpoint() and seal() only")
        ref = self._append(RecordType(record_type), payload, layout.encode_key(key))
        if (
            self._pending.count >= self._checkpoint_records
            or self._size - self._index_start >= self._checkpoint_bytes
            or self._pending.size >= layout.MAX_INDEX_PAYLOAD // 4
        ):
            # The record itself is stored: a checkpoint that finds the disk full must not make it look lost.
            with suppress(errors.EnvironmentFailure):
                self._write_index()
        return ref

    def _write_index(self) -> RecordRef:
        """Write an INDEX unless the last record is one already; return the last one."""
        last = self._last_index
        if last is None or last.sequence != self._sequence - 1:
            last = self._append(RecordType.INDEX, self._pending.payload(self.shard_id), b"")
        return last

    def checkpoint(self) -> None:
        """Write an INDEX of the records since the last one and force everything to the storage."""
        self._write_index()
        self.flush(fsync=True)

    def flush(self, fsync: bool = True) -> None:
        """Force what was appended to the storage; without ``fsync`` nothing is left to do (no buffer)."""
        if self._fd < 0:
            raise errors.WriterClosed(f"the writer of {self.name} is closed")
        if fsync:
            fs.fsync_file(self._fd)

    def seal(self) -> SealedShard:
        """Finish: trailer INDEX, END, fsync, rename, fsync of the directory. Closes the writer.

        At every instant the shard is either ``.partial`` or complete. After OutOfSpace or WriteFailure it may
        be called again.
        """
        index = self._write_index()
        size, sequence, state = self._size, self._sequence, self._sha256.copy()
        try:
            self._append(
                RecordType.END, layout.encode_end(self.shard_id, size, index.offset, index.length), b""
            )
            self.flush(fsync=True)
            if self.path.exists():
                raise errors.ShardExists(f"the shard {self.path} appeared while its partial file was written")
            with fs.writing(self.path):
                os.rename(self.partial, self.path)
        except BaseException:  # take END back, so that the writer can go on or be sealed again
            if self._fd >= 0 and self._size != size:
                with suppress(OSError):
                    os.ftruncate(self._fd, size)
                    os.lseek(self._fd, size, os.SEEK_SET)
                self._size, self._sequence, self._sha256 = size, sequence, state
                self._note(index, b"")
            raise
        self.close()
        fs.fsync_dir(self.path.parent)
        return SealedShard(self.name, self._size, self._sha256.hexdigest())
