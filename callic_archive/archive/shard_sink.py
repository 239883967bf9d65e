"""Where a packer writes: records in a shard of its own, entry after entry, and a new shard when it is full."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from callic_archive.archive.bases import Bases
from callic_archive.archive.entries import Entry
from callic_archive.archive.entry_record import Inline, Position, encode_entry, finished_parts
from callic_archive.archive.packed import INLINE, Packed, Piece
from callic_archive.archive.parts import Part, Place
from callic_archive.archive.staging import claim_shard
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.container.writer import SealedShard, ShardWriter

SHARD_BYTES = 8 << 30
INLINE_TOTAL = 16384  # bytes of small pieces that lie in the record of one entry


class ShardSink:
    """Writes records to a shard of its own and begins a new one when it is full."""

    def __init__(self, data: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._data = data
        self._limit = shard_bytes
        self._writer: ShardWriter | None = None
        self._sealed: list[SealedShard] = []
        self._bases = Bases()

    @property
    def partial(self) -> Path | None:
        """The open shard's file."""
        return self._writer.partial if self._writer is not None else None

    def take_sealed(self) -> tuple[SealedShard, ...]:
        """The shards sealed since the last call."""
        sealed, self._sealed = tuple(self._sealed), []
        return sealed

    def _open(self) -> ShardWriter:
        if self._writer is None:
            path, shard_id = claim_shard(self._data)
            self._writer = ShardWriter(path, shard_id=shard_id)
            self._bases.clear()
        return self._writer

    def append(self, type: RecordType, payload: bytes, key: str) -> RecordRef:
        """Write one record; see ShardWriter.append."""
        return self._open().append(type, payload, key=key)

    def write(
        self,
        entry: Entry,
        packed: Packed | None = None,
        complete: Callable[[Entry, int], Entry] = lambda entry, size: entry,
    ) -> Entry:
        """Write the pieces of ``packed`` and the ENTRY that makes them count; the entry with its parts.

        ``complete`` adds to the entry what is known only once all pieces, of so many bytes, went by.
        """
        parts: list[Part | Inline] = list(entry.parts)
        bases: list[tuple[int, Piece, str]] = []
        if packed is not None:
            parts, room = [], INLINE_TOTAL
            for piece in packed.pieces:
                if piece.written is not None:
                    parts.append(Part(piece.written, piece.coding, piece.size, piece.stream))
                    continue
                part, kind = self._place(piece, entry, room)
                if isinstance(part, Inline):
                    room -= len(part.payload)
                if kind:
                    bases.append((len(parts), piece, kind))
                parts.append(part)
        entry = complete(replace(entry, parts=()), sum(part.size for part in parts))
        writer = self._open()
        at = Position(writer.name, writer.size, writer.record_count)
        payload, places = encode_entry(entry, parts, at)
        ref = writer.append(RecordType.ENTRY, payload, key=entry.path)
        entry = replace(entry, parts=finished_parts(parts, ref, places))
        for number, piece, kind in bases:
            self._bases.remember(piece, kind, entry.parts[number].place)
        if writer.size >= self._limit:
            self.seal()
        return entry

    def _place(self, piece: Piece, entry: Entry, room: int) -> tuple[Part | Inline, str]:
        """A piece as part of ``entry``, written unless it is small; and its kind if others may resemble it."""
        writer, kind = self._open(), f"{piece.type} {entry.format or _suffix(entry.path)}"

        def copy(payload: bytes) -> Place:
            return Place(writer.append(piece.type, payload, key=entry.path))

        found, base = self._bases.shorten(piece, kind, copy)
        remembered = kind if base is None else ""
        if len(found.payload) <= min(INLINE, room):
            return Inline(found.payload, found.coding, found.size, found.stream, base), remembered
        ref = self.append(found.type, found.payload, entry.path)
        return Part(ref, found.coding, found.size, found.stream, None, base), remembered

    def write_share(self, share: Entry, pieces: Iterable[Piece]) -> Entry:
        """Write a piece of a large file, and the PIECE record that makes it count; the share with its parts."""
        written: list[Part | Inline] = []
        for piece in pieces:
            ref = self.append(piece.type, piece.payload, share.path)
            written.append(Part(ref, piece.coding, piece.size, piece.stream))
        writer = self._open()
        payload, _ = encode_entry(share, written, Position(writer.name, writer.size, writer.record_count))
        writer.append(RecordType.PIECE, payload, key=share.path)
        if writer.size >= self._limit:
            self.seal()
        return replace(share, parts=tuple(part for part in written if isinstance(part, Part)))

    def seal(self) -> None:
        """Finish the open shard, if any."""
        if self._writer is not None:
            self._sealed.append(self._writer.seal())
            self._writer = None

    def abandon(self) -> None:
        """Close the open shard as it is; it can be recovered."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _suffix(path: str) -> str:
    name = path.rsplit("/", 1)[-1].lower()
    return name.rsplit(".", 1)[-1] if "." in name else ""
