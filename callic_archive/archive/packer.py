"""What a worker does: read sources, pack each, write its own shards, return small index rows.

Every process (and thread) that packs has one ``Packer`` with one open shard, kept from batch to batch, so
that a shard grows to its full size. A batch may run twice, here or elsewhere: whoever collects the results
takes the first entry of a path.
"""

from __future__ import annotations

import hashlib
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from callic_archive.archive.codecs import Codec, CodecPlan
from callic_archive.archive.content import WHOLE_BELOW, OpenFile, opened
from callic_archive.archive.context import ContextFinder, read_beside
from callic_archive.archive.digests import sha256
from callic_archive.archive.entries import Entry, relocated, sparse_digest
from callic_archive.archive.jpeg_recoding import recoding
from callic_archive.archive.pack_bands import CodedBands, Member, code_bands, read_members, related
from callic_archive.archive.pack_one import pack_one
from callic_archive.archive.pack_pieces import (
    CutFile,
    PieceBatch,
    cut_file,
    new_copy,
    pack_piece,
    remove_copy,
    write_copy,
)
from callic_archive.archive.packed import Packed, PackOptions, Piece
from callic_archive.archive.sampling import outline_if_large
from callic_archive.archive.scan import Problem, Source, unreadable
from callic_archive.archive.shard_sink import SHARD_BYTES, ShardSink
from callic_archive.archive.verbatim import streamed_pieces
from callic_archive.container.layout import RecordType
from callic_archive.container.writer import SealedShard
from callic_archive.errors import CallicError, ProofFailed, SourceChanged, UnexpectedFailure, WorkerKiller
from callic_archive.images.outline import has_outline
from callic_archive.images.source import Context, sniff


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
    bands: bool = False  # they may be bands of one scene; those that are not come back as ``loose``

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
    cuts: tuple[CutFile, ...] = ()  # files too large for one worker: their pieces are still to be packed
    shares: tuple[Entry, ...] = ()  # pieces that were
    loose: tuple[Source, ...] = ()  # files that are no bands of a scene, or gain nothing by it: not packed yet
    seconds: float = 0.0


Watch = Callable[[Source, Entry | None], None]


class Packer:
    """Packs batches of one job, one after the other."""

    def __init__(self, job: PackJob) -> None:
        self.job = job
        self.sink = ShardSink(job.data, job.shard_bytes)
        self._codec: Codec | None = None
        self._piece_codec: tuple[CodecPlan, Codec] | None = None
        self._contexts = ContextFinder(read_beside)

    def codec(self) -> Codec:
        """The codec, opened when the first image asks for it."""
        if self._codec is None:
            self._codec = self.job.plan.open(threads=self.job.threads)
        return self._codec

    def run(self, batch: Batch, watch: Watch | None = None) -> BatchResult:
        """Pack a batch. Raises EnvironmentFailure when nothing can be written, ModelError when there is no
        codec.
        """
        with recoding(quick=self.job.options.quick_jpeg):
            return self._run(batch, watch)

    def _run(self, batch: Batch, watch: Watch | None) -> BatchResult:
        begin = time.monotonic()
        known = {entry.sha256: entry for entry in batch.known}
        entries: list[Entry] = []
        cuts: list[CutFile] = []
        problems: list[Problem] = []
        left: tuple[Source, ...] = ()
        for number, source in enumerate(batch.sources):
            if self.job.stop_file.exists():
                left = batch.sources[number:]
                break
            entry, found = self._file(source, known, batch.verbatim)
            problems.extend(found)
            if isinstance(entry, CutFile):
                cuts.append(entry)
                continue
            if entry is not None:
                entries.append(entry)
                if entry.is_image or entry.sha256 not in known:
                    known[entry.sha256] = entry
            if watch is not None:
                watch(source, entry)
        seconds = time.monotonic() - begin
        sealed = self.sink.take_sealed()
        return BatchResult(tuple(entries), tuple(problems), left, sealed, tuple(cuts), seconds=seconds)

    def run_bands(self, batch: Batch, watch: Watch | None = None) -> BatchResult:
        """Pack those files of a batch that are bands of one scene. Raises EnvironmentFailure and ModelError."""
        begin = time.monotonic()
        stopping = self.job.stop_file.exists
        members = read_members(batch.sources, self.job.options, self.job.stop_file.parent, stopping)
        entries: dict[str, Entry] = {}
        problems: list[Problem] = []
        for some in related(members):
            if stopping():
                break
            coded = code_bands(some, self.codec(), self.job.options)
            if isinstance(coded, (ProofFailed, UnexpectedFailure)):
                text = f"as one image with {len(some) - 1} other bands it cannot be coded; each is packed alone: {coded}"
                problems.append(Problem(some[0].source.file, coded.code, _plain(text), kept=True))
            if isinstance(coded, CallicError):
                continue  # if it was no failure of the set, each file by itself will tell
            for member, entry in self._write_bands(coded):
                entries[entry.path] = entry
                if watch is not None:
                    watch(member.source, entry)
        others = tuple(source for source in batch.sources if source.path not in entries)
        left, loose = (others, ()) if stopping() else ((), others)
        sealed, seconds = self.sink.take_sealed(), time.monotonic() - begin
        done = tuple(entries.values())
        return BatchResult(done, tuple(problems), left, sealed, seconds=seconds, loose=loose)

    def _write_bands(self, coded: CodedBands) -> Iterator[tuple[Member, Entry]]:
        """Write a set: first what its files share, then the entries that make it count."""
        refs = {
            payload: self.sink.append(RecordType.CODESTREAM, payload, coded.files[0][0].entry.path)
            for payload in coded.payloads
        }

        def placed(piece: Piece) -> Piece:
            shared = piece.stream is not None and piece.stream.plane is not None
            return replace(piece, written=refs[piece.payload]) if shared else piece

        for member, packed in coded.files:
            ready = replace(packed, pieces=map(placed, packed.pieces))
            yield member, self.sink.write(described(member.entry, packed), ready)

    def run_pieces(self, batch: PieceBatch) -> BatchResult:
        """Pack pieces of a large file. Raises EnvironmentFailure and ModelError.

        Where a stop is asked for, what is left of them is packed by the next run.
        """
        with recoding(quick=self.job.options.quick_jpeg):
            return self._run_pieces(batch)

    def _run_pieces(self, batch: PieceBatch) -> BatchResult:
        begin = time.monotonic()
        shares: list[Entry] = []
        problems: list[Problem] = []

        def codec() -> Codec:
            if self._piece_codec is None or self._piece_codec[0] != batch.plan:
                self._piece_codec = batch.plan, batch.plan.open(threads=self.job.threads)
            return self._piece_codec[1]

        left: tuple[Source, ...] = ()
        for piece in batch.pieces:
            if self.job.stop_file.exists():
                left = (batch.source,)
                break
            share, parts, problem = pack_piece(batch, piece, codec, self.job.options)
            shares.append(self.sink.write_share(share, parts))
            problems += [problem] if problem is not None else []
        sealed, seconds = self.sink.take_sealed(), time.monotonic() - begin
        return BatchResult((), tuple(problems), left, sealed, shares=tuple(shares), seconds=seconds)

    def _file(
        self, source: Source, known: dict[str | None, Entry], verbatim: bool
    ) -> tuple[Entry | CutFile | None, list[Problem]]:
        try:
            with opened(source.file) as file:
                entry, problems = self._open_file(source, file, known, verbatim)
                change = file.change()
        except OSError as error:
            return None, [unreadable(source.file, error)]
        if change is not None:
            text = f"{change}; what was read is kept. Pack again once nothing writes to it"
            problems.append(Problem.of(source.file, SourceChanged(text), kept=True))
        return entry, problems

    def _open_file(
        self, source: Source, file: OpenFile, known: dict[str | None, Entry], verbatim: bool
    ) -> tuple[Entry | CutFile, list[Problem]]:
        """Pack one file. Raises OSError where it cannot be read, EnvironmentFailure where nothing can be
        written.
        """
        entry = Entry(source.path, "file", stat.S_IMODE(file.info.st_mode), file.info.st_mtime_ns)
        context = None if verbatim else self._contexts.of_file(file, source.path.count("/"))
        image = not verbatim and (context is not None or sniff(file.head()) is not None)
        holes = file.size - file.data_bytes
        if file.extents is not None and (not image or 2 * holes > file.size):
            return self._streamed(replace(entry, method="sparse", extents=file.extents), file, known, source)
        entry = replace(entry, extents=file.extents)
        if not image and file.size >= WHOLE_BELOW:
            return self._streamed(replace(entry, method="stored"), file, known, source, verbatim)
        may_cut = image and (context is not None or has_outline(file.head()))
        copy = new_copy(self.job.stop_file.parent / "copies") if may_cut else None
        kept = False
        try:
            if file.size < WHOLE_BELOW:
                data: bytes | memoryview = file.read()
                digest = sha256(data)
            else:
                data, digest = file.private_copy(self.job.stop_file.parent, copy)
            packed = self._whole(entry, source, file, data, digest, known, verbatim, context, copy)
            kept = isinstance(packed[0], CutFile)
            return packed
        finally:
            if copy is not None and not kept:
                remove_copy(copy)

    def _whole(
        self,
        entry: Entry,
        source: Source,
        file: OpenFile,
        data: bytes | memoryview,
        digest: str,
        known: dict[str | None, Entry],
        verbatim: bool,
        context: Context | None,
        copy: Path | None,
    ) -> tuple[Entry | CutFile, list[Problem]]:
        """Pack, or cut, the file of which all bytes are ``data``; the latter leaves them in ``copy``."""
        size = len(data)
        if size < file.size:  # it shrank, and its holes are no longer where they were
            entry = replace(entry, extents=None)
        twin = known.get(digest)
        if twin is not None and (twin.size != size or twin.method == "sparse"):
            twin = None
        if twin is not None and (twin.is_image or (twin.problem is None and context is None)):
            return self._again(entry, twin, source)
        # What lies beside a twin may have kept it from being taken apart, or called it broken; not so this file.
        if copy is not None:
            cut, size = None, self.job.options.piece_bytes
            found = outline_if_large(data, context, self.job.options.limits, size)
            if found is not None:
                cut = cut_file(source, entry, data, digest, found, copy, self.job.plan, size)
            if cut is not None:
                if not copy.exists():
                    write_copy(copy, data)
                return cut, []
        packed = pack_one(
            data,
            codec=None if verbatim else self.codec,
            options=self.job.options,
            digest=digest,
            context=context,
        )
        failure = WorkerKiller(KILLER) if verbatim else packed.failure
        entry, problems = _with_failure(entry, source, failure)
        if twin is not None and packed.method == "stored":
            return self.sink.write(replace(relocated(entry, twin), problem=entry.problem)), problems
        return self.sink.write(described(entry, packed), packed), problems

    def _streamed(
        self,
        entry: Entry,
        file: OpenFile,
        known: dict[str | None, Entry],
        source: Source,
        verbatim: bool = False,
    ) -> tuple[Entry, list[Problem]]:
        """Store a large or sparse file verbatim while reading it, hashing the very bytes that are written."""
        sparse = entry.extents if entry.method == "sparse" else None

        def fresh() -> hashlib._Hash:
            return hashlib.sha256() if sparse is None else sparse_digest(file.size, sparse)

        if any(e.size == file.size and e.method == entry.method for e in known.values()):
            digest = fresh()
            for piece in file.pieces(sparse, fill=sparse is not None):
                digest.update(piece)
            twin = known.get(digest.hexdigest())
            if twin is not None and (twin.size, twin.method) == (file.size, entry.method):
                return self._again(entry, twin, source)
        digest = fresh()
        data = file.pieces(sparse, fill=sparse is not None)
        pieces = streamed_pieces(data, file.data_bytes, digest.update, recode=not verbatim)

        def complete(entry: Entry, read: int) -> Entry:
            size = file.size if sparse is not None else read
            extents = entry.extents if size == file.size else None
            method = entry.method if size or sparse is not None else "none"
            return replace(entry, size=size, extents=extents, method=method, sha256=digest.hexdigest())

        entry, problems = _with_failure(entry, source, WorkerKiller(KILLER) if verbatim else None)
        packed = Packed("", file.size, "stored", "bytes", pieces)
        return self.sink.write(entry, packed, complete), problems

    def _again(self, entry: Entry, twin: Entry, source: Source) -> tuple[Entry, list[Problem]]:
        """The entry of a file of which a twin was packed before."""
        entry = relocated(entry, twin)
        problems = [] if entry.problem is None else [Problem(source.file, *entry.problem, kept=True)]
        return self.sink.write(entry), problems

    def close(self) -> tuple[SealedShard, ...]:
        """Seal the open shard; what was sealed and not told yet."""
        self.sink.seal()
        return self.sink.take_sealed()


def _plain(message: str) -> str:
    """A message as Unicode text, whatever names it quotes; the index holds nothing else."""
    return message.encode("utf-8", "backslashreplace").decode()


KILLER = "every worker process that took it ended; it is stored verbatim, unseen"


def described(entry: Entry, packed: Packed) -> Entry:
    """``entry`` with what packing found out, without parts."""
    return replace(
        entry,
        size=packed.size,
        sha256=packed.sha256,
        fidelity=packed.fidelity,
        method=packed.method,
        format=packed.format,
        recipe=packed.recipe,
        content_sha256=packed.content_sha256,
        reason=packed.reason,
    )


def _with_failure(entry: Entry, source: Source, failure: CallicError | None) -> tuple[Entry, list[Problem]]:
    if failure is None:
        return entry, []
    problem = Problem.of(source.file, failure, kept=True)
    return replace(entry, problem=(problem.code, _plain(problem.message))), [problem]


# -- the packers of this process -----------------------------------------------------------------------------

_packers: dict[tuple[str, int], Packer] = {}


def pack_batch(job: PackJob, batch: Batch | PieceBatch, watch: Watch | None = None) -> BatchResult:
    """Pack ``batch`` with this thread's packer of the run; ``watch`` hears of files, not of pieces."""
    key = (job.token, threading.get_ident())
    packer = _packers.get(key)
    if packer is None:
        packer = _packers[key] = Packer(job)
    if isinstance(batch, PieceBatch):
        return packer.run_pieces(batch)
    return packer.run_bands(batch, watch) if batch.bands else packer.run(batch, watch)


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
        sink.write(Entry(s.path, s.kind, s.mode, s.mtime_ns, target=s.target, link=s.link))
        for s in sources
        if s.kind != "file"
    ]
