"""From the sources of a command to the list of what goes into the archive.

Paths are stored below a source's own name, as ``cp -r`` does: packing ``/data/scans`` gives ``scans/...``.
Links are kept as links and never followed, except a source written with a trailing slash, which the operating
system itself follows. Names are text with ``surrogateescape``, so names that are not UTF-8 survive unchanged.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from callic_archive.errors import CallicError, MissingPath, SourceUnreadable, SpecialFile, UsageError

Kind = Literal["file", "directory", "symlink"]


@dataclass(frozen=True, slots=True)
class Source:
    """One thing that is to be archived, as it was found."""

    path: str  # in the archive: relative, "/" between the parts
    file: str  # on disk
    kind: Kind
    mode: int  # permission bits, 0 to 0o7777
    mtime_ns: int
    size: int  # bytes; 0 unless a file
    target: str | None = None  # of a symbolic link
    identity: tuple[int, int] = (0, 0)  # device and inode


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that went wrong with one path, and went no further."""

    path: str  # as shown to the user
    code: str
    message: str
    kept: bool  # True when the bytes are in the archive all the same
    exit_code: int = 1
    others: tuple[str, ...] = ()  # further paths that the message names

    @classmethod
    def of(cls, path: str, error: CallicError, *, kept: bool) -> Problem:
        """The problem that ``error`` is for ``path``."""
        return cls(path, error.code, str(error), kept, error.exit_code, error.paths)


@dataclass(frozen=True)
class Selection:
    """Which paths of the sources are wanted.

    A pattern without ``/`` is compared with every file or folder name, one with ``/`` with the whole path in
    the archive. ``*`` also matches ``/``. With ``include``, files that match none of its patterns are left
    out, and so are folders that lead to no included file; ``exclude`` leaves out what it matches and
    everything below.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def excluded(self, path: str) -> bool:
        """Whether ``path`` itself is excluded (not whether a folder above it is)."""
        return _matches(path, self.exclude)

    def included(self, path: str) -> bool:
        """Whether ``path`` or a folder above it is included."""
        if not self.include:
            return True
        parts = path.split("/")
        return any(_matches("/".join(parts[: n + 1]), self.include) for n in range(len(parts)))


@dataclass
class Scan:
    """What a scan found: sources in the order of their paths, and what could not be taken."""

    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(source.size for source in self.sources)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    name = path.rsplit("/", 1)[-1]
    return any(
        fnmatchcase(path if "/" in p.rstrip("/") else name, p.rstrip("/").lstrip("/")) for p in patterns
    )


def root_name(source: str) -> str:
    """The name below which a source is stored; empty for ``/``, whose children are stored directly."""
    return os.path.basename(os.path.abspath(source))


def scan(
    sources: Sequence[str],
    selection: Selection | None = None,
    *,
    skip: frozenset[tuple[int, int]] = frozenset(),
) -> Scan:
    """Walk ``sources``. ``skip`` holds (device, inode) of folders to leave out, so that no archive packs
    itself.

    Raises MissingPath when a source does not exist and UsageError when two sources would be stored under one
    name.
    """
    selection = selection or Selection()
    seen: dict[str, str] = {}
    for source in sources:
        name = root_name(source)
        if name in seen and os.path.abspath(seen[name]) != os.path.abspath(source):
            raise UsageError(
                f"{seen[name]} and {source} would both be stored as {name!r}; pack them into two archives, "
                f"or pack the folder that holds them"
            )
        if not os.path.lexists(source):
            raise MissingPath(f"{source} does not exist; check the spelling, or whether its disk is mounted")
        seen[name] = source
    result = Scan()
    for name, source in seen.items():
        if os.path.islink(source.rstrip("/")) and not source.endswith("/"):
            result.notes.append(
                f"{source} is a symbolic link and is stored as one; write {source}/ to pack what it points to"
            )
        _walk(source, name, selection, skip, result)
    if selection.include:
        result.sources = _drop_idle_folders(result.sources)
    result.sources.sort(key=lambda s: os.fsencode(s.path))
    return result


def _walk(top: str, name: str, selection: Selection, skip: frozenset[tuple[int, int]], result: Scan) -> None:
    pending = [(top, name)]
    while pending:
        file, path = pending.pop()
        if path and selection.excluded(path):
            continue
        try:
            info = os.stat(file) if file.endswith("/") else os.lstat(file)
        except OSError as error:
            result.problems.append(unreadable(file, error))
            continue
        if stat.S_ISDIR(info.st_mode):
            if (info.st_dev, info.st_ino) in skip:
                continue
            if path:
                result.sources.append(_source(path, file, "directory", info))
            pending.extend(_children(file, path, result))
        elif not selection.included(path):
            continue
        elif stat.S_ISREG(info.st_mode):
            result.sources.append(_source(path, file, "file", info))
        elif stat.S_ISLNK(info.st_mode):
            try:
                result.sources.append(_source(path, file, "symlink", info, os.readlink(file)))
            except OSError as error:
                result.problems.append(unreadable(file, error))
        else:
            what = _special_name(info.st_mode)
            error_ = SpecialFile(
                f"{file} is a {what} and is left out; archives hold files, folders and links"
            )
            result.problems.append(Problem.of(file, error_, kept=False))


def _children(file: str, path: str, result: Scan) -> Iterator[tuple[str, str]]:
    try:
        names = os.listdir(file)
    except OSError as error:
        result.problems.append(unreadable(file, error))
        return
    for name in names:
        yield os.path.join(file, name), f"{path}/{name}" if path else name


def _source(path: str, file: str, kind: Kind, info: os.stat_result, target: str | None = None) -> Source:
    size = info.st_size if kind == "file" else 0
    identity = (info.st_dev, info.st_ino)
    return Source(path, file, kind, stat.S_IMODE(info.st_mode), info.st_mtime_ns, size, target, identity)


def _drop_idle_folders(sources: list[Source]) -> list[Source]:
    wanted: set[str] = set()
    for source in sources:
        if source.kind != "directory":
            path = source.path
            while "/" in path:
                path = path.rsplit("/", 1)[0]
                wanted.add(path)
    return [s for s in sources if s.kind != "directory" or s.path in wanted]


def _special_name(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "named pipe"
    if stat.S_ISSOCK(mode):
        return "socket"
    return "device" if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else "special file"


def unreadable(file: str, error: OSError) -> Problem:
    """The problem of a source that the system would not let us read."""
    reason = error.strerror or str(error)
    text = f"it cannot be read ({reason}) and is missing from the archive; mend it and pack again"
    return Problem.of(file, SourceUnreadable(text), kept=False)
