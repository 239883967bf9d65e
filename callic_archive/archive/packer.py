"""What a worker does: read sources, pack each, write its own shards, return small index rows.

Every process (and thread) that packs has one ``Packer`` with one open shard, kept from batch to batch, so
that a shard grows to its full size. A batch may run twice, here or elsewhere: whoever collects the results
takes the first entry of a path.
"""

from __future__ import annotations

import mmap
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from callic_archive.archive.bases import Bases
from callic_archive.archive.codecs import Codec, CodecPlan
from callic_archive.archive.digests import sha256
from callic_archive.archive.entries import Entry, relocated
from callic_archive.archive.entry_record import Inline, Position, encode_entry, finished_parts
from callic_archive.archive.pack_one import INLINE, Packed, PackOptions, Piece, pack_one
from callic_archive.archive.parts import Part, Place
from callic_archive.archive.scan import Problem, Source, unreadable
from callic_archive.archive.staging import claim_shard
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.container.writer import SealedShard, ShardWriter
from callic_archive.errors import SourceChanged, WorkerKiller

# bytes; smaller files are read: a file that shrinks under a memory map kills the process
MAPPED_FROM = 64 << 20
SHARD_BYTES = 8 << 30
INLINE_TOTAL = 16384  # bytes of small pieces that lie in the record of one entry


@dataclass(frozen=True)
class PackJob:
    """What all batches of a run share. Picklable."""

    token: str  # names the run
    data: Path  # the staging folder's data folder
    stop_file: Path
    plan: CodecPlan
    options: PackOptions
    threads: int | None = None  # of one codec call
    shard_bytes: int = SHARD_BYTES


@dataclass(frozen=True)
class Batch:
    """Files for one worker, about 10 to 60 s of work."""

    sources: tuple[Source, ...]
    known: tuple[Entry, ...] = ()  # packed before, maybe of the same content as one of ``sources``
    verbatim: bool = False  # do not look into the files: one of them ended worker processes

    @property
    def bytes(self) -> int:
        """Bytes of its files."""
        return sum(source.size for source in self.sources)


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch; ``left`` were not begun because a stop was asked for."""

    entries: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()
    left: tuple[Source, ...] = ()
    sealed: tuple[SealedShard, ...] = ()  # shards that became full meanwhile
    seconds: float = 0.0


Watch = Callable[[Source, Entry | None], None]


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

    def write(self, entry: Entry, packed: Packed | None = None) -> Entry:
        """Write the pieces of ``packed`` and the ENTRY that makes them count; the entry with its parts."""
        parts: list[Part | Inline] = list(entry.parts)
        bases: list[tuple[int, Piece, str]] = []
        if packed is not None:
            parts, room = [], INLINE_TOTAL
            for piece in packed.pieces:
                part, kind = self._place(piece, entry, room)
                if isinstance(part, Inline):
                    room -= len(part.payload)
                if kind:
                    bases.append((len(parts), piece, kind))
                parts.append(part)
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


class Packer:
    """Packs batches of one job, one after the other."""

    def __init__(self, job: PackJob) -> None:
        self.job = job
        self.sink = ShardSink(job.data, job.shard_bytes)
        self._codec: Codec | None = None

    def codec(self) -> Codec:
        """The codec, opened when the first image asks for it."""
        if self._codec is None:
            self._codec = self.job.plan.open(threads=self.job.threads)
        return self._codec

    def run(self, batch: Batch, watch: Watch | None = None) -> BatchResult:
        """Pack a batch. Raises EnvironmentFailure when nothing can be written, ModelError when there is no
        codec.
        """
        begin = time.monotonic()
        known = {entry.sha256: entry for entry in batch.known}
        entries: list[Entry] = []
        problems: list[Problem] = []
        left: tuple[Source, ...] = ()
        for number, source in enumerate(batch.sources):
            if self.job.stop_file.exists():
                left = batch.sources[number:]
                break
            entry, found = self._file(source, known, batch.verbatim)
            problems.extend(found)
            if entry is not None:
                entries.append(entry)
                known.setdefault(entry.sha256, entry)
            if watch is not None:
                watch(source, entry)
        seconds = time.monotonic() - begin
        return BatchResult(tuple(entries), tuple(problems), left, self.sink.take_sealed(), seconds)

    def _file(
        self, source: Source, known: dict[str | None, Entry], verbatim: bool
    ) -> tuple[Entry | None, list[Problem]]:
        try:
            data, info = read_source(source.file)
            digest = sha256(data)
        except OSError as error:
            return None, [unreadable(source.file, error)]
        problems: list[Problem] = []
        mode = stat.S_IMODE(info.st_mode)
        entry = Entry(source.path, "file", mode, info.st_mtime_ns, size=info.st_size, sha256=digest)
        twin = known.get(digest)
        if twin is not None and twin.size == info.st_size:
            entry, packed = relocated(entry, twin), None
            if entry.problem is not None:
                problems.append(Problem(source.file, *entry.problem, kept=True))
        else:
            packed = pack_one(
                data, codec=None if verbatim else self.codec, options=self.job.options, digest=digest
            )
            failure = WorkerKiller(KILLER) if verbatim else packed.failure
            if failure is not None:
                problem = Problem.of(source.file, failure, kept=True)
                problems.append(problem)
                entry = replace(entry, problem=(problem.code, _plain(problem.message)))
            entry = described(entry, packed)
        entry = self.sink.write(entry, packed)
        if _changed(source.file, info):
            text = "it changed while it was read; what was read is kept. Pack again once nothing writes to it"
            problems.append(Problem.of(source.file, SourceChanged(text), kept=True))
        return entry, problems

    def close(self) -> tuple[SealedShard, ...]:
        """Seal the open shard; what was sealed and not told yet."""
        self.sink.seal()
        return self.sink.take_sealed()


def _suffix(path: str) -> str:
    name = path.rsplit("/", 1)[-1].lower()
    return name.rsplit(".", 1)[-1] if "." in name else ""


def _plain(message: str) -> str:
    """A message as Unicode text, whatever names it quotes; the index holds nothing else."""
    return message.encode("utf-8", "backslashreplace").decode()


KILLER = "every worker process that took it ended; it is stored verbatim, unseen"


def described(entry: Entry, packed: Packed) -> Entry:
    """``entry`` with what packing found out, without parts."""
    return replace(
        entry,
        size=packed.size,
        fidelity=packed.fidelity,
        method=packed.method,
        format=packed.format,
        recipe=packed.recipe,
        content_sha256=packed.content_sha256,
    )


def read_source(file: str) -> tuple[bytes | memoryview, os.stat_result]:
    """The bytes of a file, memory-mapped when it is large, and its state when opened. Raises OSError."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe put in its place must not block
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError("it is no regular file any more")
        if info.st_size >= MAPPED_FROM:
            return memoryview(mmap.mmap(fd, info.st_size, prot=mmap.PROT_READ)), info
        with os.fdopen(fd, "rb", closefd=False) as stream:
            data = stream.read()
        if len(data) != info.st_size:
            info = os.fstat(fd)
        return data, info
    finally:
        os.close(fd)


def _changed(file: str, before: os.stat_result) -> bool:
    try:
        now = os.stat(file)
    except OSError:
        return True
    return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


# -- the packers of this process -----------------------------------------------------------------------------

_packers: dict[tuple[str, int], Packer] = {}


def pack_batch(job: PackJob, batch: Batch, watch: Watch | None = None) -> BatchResult:
    """Pack ``batch`` with this thread's packer of the run."""
    key = (job.token, threading.get_ident())
    packer = _packers.get(key)
    if packer is None:
        packer = _packers[key] = Packer(job)
    return packer.run(batch, watch)


def finish_packers(token: str) -> tuple[SealedShard, ...]:
    """Seal all open shards of the run in this process. Raises EnvironmentFailure."""
    sealed: list[SealedShard] = []
    for key in [key for key in _packers if key[0] == token]:
        sealed.extend(_packers[key].close())
        del _packers[key]
    return tuple(sealed)


def abandon_packers(token: str) -> None:
    """Close all open shards of the run as they are, to be recovered by the next run."""
    for key in [key for key in _packers if key[0] == token]:
        _packers.pop(key).sink.abandon()


def write_plain(sink: ShardSink, sources: Iterable[Source]) -> list[Entry]:
    """ENTRY records of folders and links, which have no content."""
    return [
        sink.write(Entry(s.path, s.kind, s.mode, s.mtime_ns, target=s.target))
        for s in sources
        if s.kind != "file"
    ]
