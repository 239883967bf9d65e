"""What a staging folder holds already: the entries of its shards, sealed or cut off in the middle.

A partial shard is cut after its last whole record and sealed, so that what was packed before a kill is packed
once only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from callic_archive.archive.entries import Entry
from callic_archive.archive.entry_record import decode_entry
from callic_archive.container.fs import writing
from callic_archive.container.layout import PARTIAL_SUFFIX, IndexEntry, RecordRef, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.container.writer import SealedShard, ShardWriter
from callic_archive.errors import ContainerError, EntryDamaged

Key = TypeVar("Key")


@dataclass
class Recovered:
    """Entries and adapters found in shards, and what had to be dropped."""

    entries: dict[str, Entry] = field(default_factory=dict)  # by path; the last one of a path wins
    shares: dict[str, list[Entry]] = field(default_factory=dict)  # by path: pieces of large files
    adapters: dict[str, RecordRef] = field(default_factory=dict)  # by digest
    sealed: list[SealedShard] = field(default_factory=list)  # shards that were sealed now
    notes: list[str] = field(default_factory=list)


def recover_shards(shards: Iterable[Path]) -> Recovered:
    """Take up ``shards``; those that hold nothing whole are removed. Raises EnvironmentFailure."""
    result = Recovered()
    shards = list(shards)
    for path in shards:
        name = path.name.removesuffix(PARTIAL_SUFFIX)
        try:
            if path.name.endswith(PARTIAL_SUFFIX):
                _recover_partial(path, result)
            else:
                _recover_sealed(path, result)
        except ContainerError as error:
            result.notes.append(f"{name} was damaged and is packed again ({error})")
            with writing(path):
                path.unlink()
    result.entries = _with_all_parts(result.entries, shards)
    for file, pieces in result.shares.items():
        result.shares[file] = [*_with_all_parts(dict(enumerate(pieces)), shards).values()]
    return result


def _recover_partial(path: Path, result: Recovered) -> None:
    with ShardWriter.recover(path) as writer:
        found = writer.recovery
        if found is None or not _useful(found.records):
            with writing(path):
                path.unlink()
            return
        if found.damage is not None and found.discarded:
            result.notes.append(
                f"{writer.name} was damaged at byte {found.damage.offset}; "
                f"{found.discarded} records after that place are packed again"
            )
        with ShardReader(path, shard_id=writer.shard_id) as reader:
            _collect(reader, found.records, result)
        result.sealed.append(writer.seal())


def _recover_sealed(path: Path, result: Recovered) -> None:
    with ShardReader(path) as reader:
        _collect(reader, tuple(reader.index()), result)


def _useful(records: Iterable[IndexEntry]) -> bool:
    kinds = (RecordType.ENTRY, RecordType.PIECE, RecordType.ADAPTER)
    return any(record.ref.type in kinds for record in records)


def _collect(reader: ShardReader, records: Iterable[IndexEntry], result: Recovered) -> None:
    for record in records:
        if record.ref.type in (RecordType.ENTRY, RecordType.PIECE):
            try:
                entry = decode_entry(reader.read(record.ref, key=record.key), record.key, record.ref)
            except EntryDamaged as error:
                result.notes.append(
                    f"an entry of {reader.name} is not readable and is packed again ({error})"
                )
                continue
            if record.ref.type is RecordType.ENTRY:
                result.entries[entry.path] = entry
            elif len(entry.pieces) == 1:
                result.shares.setdefault(entry.path, []).append(entry)
        elif record.ref.type is RecordType.ADAPTER:
            result.adapters[record.key] = record.ref


def _with_all_parts(entries: dict[Key, Entry], shards: Iterable[Path]) -> dict[Key, Entry]:
    """Drop entries whose content lies in a shard that was lost (files of equal content share records)."""
    folders = {path.parent for path in shards}
    there = {path.name for folder in folders for path in folder.glob("shard-*.cla")}
    return {p: e for p, e in entries.items() if all(part.shards <= there for part in e.parts)}
