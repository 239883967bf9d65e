"""Is the archive still what was packed: its bag, its records, its decoded entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from callic_archive.archive.digests import HashSink
from callic_archive.archive.entries import Entry
from callic_archive.archive.reading import Archive, naming
from callic_archive.archive.rejoining import prove_pieces
from callic_archive.archive.scan import Problem
from callic_archive.archive.subset import Subset
from callic_archive.archive.unpacking import OTHER_BYTES, ReadJob, ReadResult, Restored, Watch, open_for
from callic_archive.container.bag import validate_bag
from callic_archive.container.layout import IndexEntry, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.container.scan import Damage
from callic_archive.errors import CallicError, DigestMismatch, EnvironmentFailure, ReadFailure

_SHOWN = 5  # entries named for one damaged place


@dataclass(frozen=True)
class VerifyJob:
    """How deep to look."""

    read: ReadJob
    full: bool = True  # decode and compare; else record checksums only


def verify_batch(job: VerifyJob, batch: Sequence[Entry], watch: Watch | None = None) -> ReadResult:
    """Check entries; what is damaged is named and stops nothing."""
    archive = open_for(job.read)
    done: list[Restored] = []
    seen: dict[object, Restored] = {}  # files of equal content share records; those are decoded once
    for number, entry in enumerate(batch):
        if job.read.stop_file.exists():
            return ReadResult(tuple(done), tuple(batch[number:]))
        content = (entry.parts, entry.sha256, entry.content_sha256, entry.fidelity)
        twin = seen.get(content)
        if twin is None or twin.problem is not None:
            twin = seen[content] = _verify(archive, entry, job.full)
        done.append(replace(twin, entry=entry))
        if watch is not None:
            watch(done[-1])
    return ReadResult(tuple(done))


def _verify(archive: Archive, entry: Entry, full: bool) -> Restored:
    try:
        if not full:
            archive.check_records(entry)
            return Restored(entry, entry.fidelity)
        if entry.method == "pieces":
            with naming(entry):
                fidelity = prove_pieces(archive, entry)
        else:
            fidelity = archive.restore(entry, HashSink(), prove=True)  # type: ignore[arg-type]
        if fidelity != entry.fidelity:
            raise DigestMismatch(OTHER_BYTES)
    except CallicError as error:
        if isinstance(error, EnvironmentFailure) and not isinstance(error, ReadFailure):
            raise
        return Restored(entry, None, Problem.of(entry.path, error, kept=False))
    return Restored(entry, fidelity)


def verify_bag(
    archive: Archive, on_file: Callable[[str, int], None] | None = None, subset: Subset | None = None
) -> Iterator[Problem]:
    """What is wrong with the bag: tag files, missing or added files, SHA-256 of payload files (of ``subset``).

    Of shards that differ from their SHA-256 the damaged places are named too.
    """
    damaged = set()
    for problem in validate_bag(
        archive.root, on_file=on_file, wanted=None if subset is None else subset.__contains__
    ):
        yield Problem(problem.path, problem.code, problem.detail, kept=False, exit_code=3)
        damaged.add(problem.path)
    yield from _shard_damage([path for path in archive.shards() if f"data/{path.name}" in damaged])


def _shard_damage(shards: Sequence[Path]) -> Iterator[Problem]:
    """Damaged places: of records, also of those that no entry needs, and of the shards' own index."""
    for path in shards:
        try:
            with ShardReader(path) as reader:
                for item in reader.scan():
                    if isinstance(item, Damage):
                        yield _damage_problem(item)
        except CallicError as error:
            yield Problem.of(f"data/{path.name}", error, kept=False)


def _name(record: IndexEntry) -> str:
    """The path that a record belongs to, or the adapter that it is."""
    return f"adapter {record.key[:16]}" if record.ref.type is RecordType.ADAPTER else record.key


def _damage_problem(damage: Damage) -> Problem:
    names = sorted({_name(record) for record in damage.records if record.key})
    text = f"{damage.detail} (bytes {damage.offset} to {damage.offset + damage.length})"
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        text += f"; records of {', '.join(names[:_SHOWN])}{more} lie there"
    shard = f"data/{damage.shard}"
    return Problem(shard, damage.code, text, kept=False, exit_code=3, others=tuple(names[:_SHOWN]))
