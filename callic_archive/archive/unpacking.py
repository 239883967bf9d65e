"""From an archive back to a tree. Files first, by anyone; links and the metadata of folders last, by one
process.

Everything is written relative to directory descriptors and under a temporary name until it is proven; see
``callic_archive.container.extraction.ExtractionRoot``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from callic_archive.archive.codecs import DecoderPlan
from callic_archive.archive.entries import Entry
from callic_archive.archive.reading import Archive, Contents, naming
from callic_archive.archive.rejoining import check_whole, digest_of, judged, write_share
from callic_archive.archive.resuming import link_restored, restored_already
from callic_archive.archive.scan import Problem, Selection
from callic_archive.container.extraction import ExtractionRoot, Identity, finish_file, identity_of
from callic_archive.errors import (
    CallicError,
    ContainerError,
    DigestMismatch,
    EnvironmentFailure,
    LinkNotKept,
    NoSuchEntry,
    ReadFailure,
    RestoreFailed,
    SymlinkInPath,
    TargetExists,
    UnsafeEntry,
    WriteFailure,
)


@dataclass(frozen=True)
class ReadJob:
    """What all batches of one reading run share. Picklable."""

    token: str
    root: Path
    plan: DecoderPlan
    contents: Contents  # without entries: each batch brings its own
    stop_file: Path
    threads: int | None = None


@dataclass(frozen=True)
class UnpackJob:
    """Where to and how. ``names`` are the numbers of names of files that have several, by path."""

    read: ReadJob
    destination: Path
    overwrite: bool = False
    names: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Restored:
    """What became of one entry: the fidelity reached, or the problem."""

    entry: Entry
    fidelity: str | None
    problem: Problem | None = None
    identity: Identity | None = None  # of the file that was written
    there: bool = False  # restored by an earlier run


@dataclass(frozen=True)
class ReadResult:
    """What became of a batch; ``left`` were not begun because a stop was asked for."""

    restored: tuple[Restored, ...]
    left: tuple[Entry, ...] = ()


OTHER_BYTES = (
    "its pixels and metadata are right, but its bytes are others than at packing: the compression library of this machine "
    "makes other ones, if its SHA-256 in the index is right"
)
Watch = Callable[[Restored], None]


def select(entries: Iterable[Entry], patterns: Sequence[str]) -> list[Entry]:
    """Entries that match any pattern, with the folders above them. Raises NoSuchEntry for a pattern without
    match.
    """
    entries = list(entries)
    if not patterns:
        return entries
    for pattern in patterns:
        one = Selection(include=(pattern,))
        if not any(one.included(entry.path) for entry in entries):
            raise NoSuchEntry(
                f"nothing in the archive matches {pattern!r}; `callic-archive list` shows what there is"
            )
    selection = Selection(include=tuple(patterns))
    wanted = {entry.path for entry in entries if selection.included(entry.path)}
    above = {parent for path in wanted for parent in _parents(path)}
    return [e for e in entries if e.path in wanted or (e.kind == "directory" and e.path in above)]


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rsplit("/", 1)[0]
        yield path


_archives: dict[str, Archive] = {}


def open_for(job: ReadJob) -> Archive:
    """The archive of a run, opened once a process."""
    archive = _archives.get(job.token)
    if archive is None:
        archive = _archives[job.token] = Archive(
            job.root, job.plan, threads=job.threads, contents=job.contents
        )
    return archive


def close_archives(token: str) -> None:
    """Close what this process opened for a run."""
    if token in _archives:
        _archives.pop(token).close()


@dataclass(frozen=True)
class ShareJob:
    """Into which unfinished file pieces are written."""

    read: ReadJob
    destination: Path
    path: str
    temporary: str


def unpack_shares(job: ShareJob, batch: Sequence[Entry], watch: Watch | None = None) -> ReadResult:
    """Write shares of one large file. Damage is told; EnvironmentFailure (disk full) ends the run."""
    archive = open_for(job.read)
    done: list[Restored] = []
    with ExtractionRoot(job.destination) as root, root.open_unfinished(job.path, job.temporary) as out:
        for number, share in enumerate(batch):
            if job.read.stop_file.exists():
                return ReadResult(tuple(done), tuple(batch[number:]))
            try:
                with naming(share):
                    done.append(Restored(share, write_share(archive, share, out)))
            except CallicError as error:
                if ends_run(error):
                    raise
                done.append(Restored(share, None, failed(share, error)))
            if watch is not None:
                watch(done[-1])
    return ReadResult(tuple(done))


Spread = Callable[[ShareJob, list[Entry]], list[Restored]]


def restore_spread(job: UnpackJob, entry: Entry, shares: list[Entry], spread: Spread) -> Restored:
    """Restore a large file of which ``spread`` lets others write the ``shares``. Raises EnvironmentFailure."""
    try:
        with ExtractionRoot(job.destination) as root:
            already = _already(open_for(job.read), root, entry, job)
        if already is not None:
            return already
        with (
            ExtractionRoot(job.destination) as root,
            root.create_shared(entry.path, overwrite=job.overwrite) as (out, temporary),
        ):
            check_whole(entry)
            out.truncate(entry.size)
            done = spread(ShareJob(job.read, job.destination, entry.path, temporary), shares)
            problem = next((restored.problem for restored in done if restored.problem is not None), None)
            if problem is not None:
                raise _ShareFailed(problem)
            exact = all(restored.fidelity == "bytes" for restored in done)
            fidelity = judged(entry, digest_of(out), "bytes" if exact else "content")
            identity = finish_file(out, entry.path, mode=entry.mode, mtime_ns=entry.mtime_ns)
    except _ShareFailed as failure:
        return Restored(entry, None, failure.problem)
    except CallicError as error:
        if ends_run(error):
            raise
        return Restored(entry, None, failed(entry, error))
    return _judged(entry, fidelity, identity)


class _ShareFailed(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def unpack_batch(job: UnpackJob, batch: Sequence[Entry], watch: Watch | None = None) -> ReadResult:
    """Restore files. Damage costs one entry; EnvironmentFailure (disk full) ends the run."""
    archive = open_for(job.read)
    done: list[Restored] = []
    with ExtractionRoot(job.destination) as root:
        for number, entry in enumerate(batch):
            if job.read.stop_file.exists():
                return ReadResult(tuple(done), tuple(batch[number:]))
            done.append(_restore(archive, root, entry, job))
            if watch is not None:
                watch(done[-1])
    return ReadResult(tuple(done))


def _restore(archive: Archive, root: ExtractionRoot, entry: Entry, job: UnpackJob) -> Restored:
    try:
        already = _already(archive, root, entry, job)
        if already is not None:
            return already
        with root.create_file(entry.path, overwrite=job.overwrite) as out:
            fidelity = archive.restore(entry, out)
            identity = finish_file(out, entry.path, mode=entry.mode, mtime_ns=entry.mtime_ns)
    except CallicError as error:
        if ends_run(error):
            raise
        return Restored(entry, None, failed(entry, error))
    return _judged(entry, fidelity, identity)


def _already(archive: Archive, root: ExtractionRoot, entry: Entry, job: UnpackJob) -> Restored | None:
    """What an earlier run made of the entry, if that is there and whole."""
    found = restored_already(archive, root, entry, job.names.get(entry.path, 1))
    return None if found is None else _judged(entry, *found, there=True)


def _judged(entry: Entry, fidelity: str, identity: Identity, there: bool = False) -> Restored:
    problem = None
    if fidelity != entry.fidelity:
        problem = Problem.of(entry.path, DigestMismatch(OTHER_BYTES), kept=True)
    return Restored(entry, fidelity, problem, identity, there)


def restore_links(
    job: UnpackJob, links: Iterable[Entry], written: Mapping[str, Identity], watch: Watch
) -> None:
    """Further names of files; ``written`` are the identities of those that this run wrote.

    A file whose first name was not restored comes back under the next one, and so does, as a copy, one that
    the file system does not let have several names. Raises EnvironmentFailure.
    """
    archive = open_for(job.read)
    there = {path: (path, identity) for path, identity in written.items()}
    with ExtractionRoot(job.destination) as root:
        for entry in links:
            if job.read.stop_file.exists():
                return
            leader = there.get(entry.link or "")
            refused: CallicError | None = None
            if leader is not None and _is(root, entry.path, leader[1]):
                watch(Restored(entry, entry.fidelity, there=True))
                continue
            if leader is not None:
                try:
                    root.make_hardlink(entry.path, *leader, overwrite=job.overwrite)
                    watch(Restored(entry, entry.fidelity))
                    continue
                except (WriteFailure, TargetExists) as error:
                    refused = error  # a copy may be there, of an earlier run
                except CallicError as error:
                    if ends_run(error):
                        raise
                    watch(Restored(entry, None, failed(entry, error)))
                    continue
            done = _restore(archive, root, entry, job)
            if done.identity is not None and leader is None:
                there[entry.link or ""] = (entry.path, done.identity)
            if refused is not None and done.problem is None:
                done = replace(done, problem=Problem.of(entry.path, _not_kept(entry, refused), kept=True))
            watch(done)


def _is(root: ExtractionRoot, path: str, identity: Identity) -> bool:
    """Whether a name is that of this file already."""
    try:
        info = root.look(path)
    except CallicError:  # told where it is written
        return False
    return info is not None and identity_of(info) == identity


def restore_rest(job: UnpackJob, entries: Sequence[Entry]) -> list[Problem]:
    """Folders, without what killed runs left in them, then links, then metadata of folders, deepest first. Raises
    EnvironmentFailure."""
    problems: list[Problem] = []
    folders = [entry for entry in entries if entry.kind == "directory"]
    with ExtractionRoot(job.destination) as root:

        def attempt(entry: Entry, step: Callable[[], None]) -> None:
            try:
                step()
            except LinkNotKept as error:
                problems.append(Problem.of(entry.path, error, kept=True))
            except CallicError as error:
                if ends_run(error):
                    raise
                problems.append(failed(entry, error))

        for entry in folders:
            attempt(entry, partial(root.make_directory, entry.path))
        for path in ("", *(entry.path for entry in folders)):  # now, as their times are set below
            root.sweep(path)
        links = [entry for entry in entries if entry.kind == "symlink"]
        made: dict[str, tuple[str, Identity]] = {}  # by first name: the name under which a link was made, and who it is
        for entry in sorted(links, key=lambda link: link.link is not None):
            attempt(entry, partial(_link, root, entry, job.overwrite, made))
        refused = {problem.path for problem in problems}
        for entry in sorted(folders, key=lambda folder: -folder.path.count("/")):
            if entry.path not in refused:
                metadata = partial(root.set_metadata, entry.path, mode=entry.mode, mtime_ns=entry.mtime_ns)
                attempt(entry, metadata)
    return problems


def _link(
    root: ExtractionRoot, entry: Entry, overwrite: bool, made: dict[str, tuple[str, Identity]]
) -> None:
    """Make a symbolic link, or give one that was ``made`` a further name; what is there already stays."""
    first = entry.link or entry.path
    refused: CallicError | None = None
    if root.look(entry.path) is not None and link_restored(entry, root.root / entry.path):
        if first in made and root.identify(entry.path) != made[first][1]:
            refused = WriteFailure("it is there already, and one of its own")
    elif first in made:
        try:
            root.make_hardlink(entry.path, *made[first], symbolic=True, overwrite=overwrite)
            return
        except WriteFailure as error:
            refused = error
            root.make_symlink(entry.path, entry.target or "", overwrite=overwrite)
    else:
        root.make_symlink(entry.path, entry.target or "", overwrite=overwrite)
    root.set_metadata(entry.path, mtime_ns=entry.mtime_ns)
    if refused is not None:
        raise _not_kept(entry, refused)
    made[first] = entry.path, root.identify(entry.path)


def _not_kept(entry: Entry, refused: CallicError) -> LinkNotKept:
    return LinkNotKept(f"it is another name of {entry.link!r}, but came back as a copy: {refused}")


def ends_run(error: CallicError) -> bool:
    """Whether a failure concerns all entries: a full disk does, a name that is too long or a bad sector does
    not.
    """
    return isinstance(error, EnvironmentFailure) and not isinstance(error, (ReadFailure, WriteFailure))


def failed(entry: Entry, error: CallicError) -> Problem:
    """The problem of an entry that was not restored."""
    if isinstance(error, (SymlinkInPath, TargetExists, WriteFailure)):  # of the destination: see ``refusals``
        error = RestoreFailed(str(error))
    elif isinstance(error, ContainerError):
        error = UnsafeEntry(str(error))
    return Problem.of(entry.path, error, kept=False)
