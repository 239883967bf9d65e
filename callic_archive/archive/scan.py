"""From the sources of a command to the list of what goes into the archive.

Paths are stored below a source's own name, as ``cp -r`` does: packing ``/data/scans`` gives ``scans/...``.
Links are kept as links and never followed, except a source written with a trailing slash, which the operating
system itself follows. Names are text with ``surrogateescape``, so names that are not UTF-8 survive unchanged.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from callic_archive.archive.content import look, open_folder, reaching
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
    names: int = 1  # hard links that the file system counts
    link: str | None = None  # path in the archive of the first name of the same file or link
    ctime_ns: int = 0  # when anything of it changed last, as the file system says: nobody can set that back


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
    the archive, which a leading ``/`` alone asks for too. ``*`` also matches ``/``. With ``include``, files
    that match none of its patterns are left out, and so are folders that lead to no included file;
    ``exclude`` leaves out what it matches and everything below.
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
        by_name = [p.rstrip("/") for p in self.include if "/" not in p.rstrip("/")]
        parts = path.split("/")
        if by_name and any(fnmatchcase(part, pattern) for part in parts for pattern in by_name):
            return True
        by_path = [p for p in self.include if "/" in p.rstrip("/")]
        return bool(by_path) and any(_matches("/".join(parts[: n + 1]), by_path) for n in range(len(parts)))


@dataclass
class Scan:
    """What a scan found: sources in the order of their paths, and what could not be taken."""

    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files together, each file once however many names it has."""
        return sum(source.size for source in self.sources if source.link is None)


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
    listed: Sequence[str] = (),
    one_file_system: bool = False,
    tick: Callable[[int], None] | None = None,
) -> Scan:
    """Walk ``sources``, and the paths ``listed``, which keep their folders (see ``archive.listed``).

    ``skip`` holds (device, inode) of folders to leave out, so that no archive packs itself. With
    ``one_file_system`` a folder on which another file system is mounted stays empty. ``tick`` hears how many
    things were found, now and then.

    Raises MissingPath when a source does not exist and UsageError when two sources would be stored under one
    name.
    """
    roots = _roots(sources)
    walk = _Walk(selection or Selection(), skip, one_file_system, tick)
    for name, source in roots.items():
        if os.path.islink(source.rstrip("/")) and not source.endswith("/"):
            walk.result.notes.append(
                f"{source} is a symbolic link and is stored as one; write {source}/ to pack what it points to"
            )
        walk.go(source, name)
    for file in listed:
        walk.listed(file)
    result = walk.result
    if walk.left_devices:
        result.notes.append(
            f"{walk.left_devices} folders are mount points of other file systems; they are kept without "
            "what is in them (--one-file-system)"
        )
    if walk.selection.include:
        result.sources = _drop_idle_folders(result.sources)
    result.sources.sort(key=lambda s: os.fsencode(s.path))
    result.sources = _linked(_distinct(result.sources))
    return result


def _roots(sources: Sequence[str]) -> dict[str, str]:
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
    return seen


class _Walk:
    """One walk over all sources. A folder is listed through its descriptor, so that its depth costs nothing."""

    def __init__(
        self,
        selection: Selection,
        skip: frozenset[tuple[int, int]],
        one_file_system: bool,
        tick: Callable[[int], None] | None,
    ) -> None:
        self.selection = selection
        self.result = Scan()
        self.left_devices = 0
        self._skip = skip
        self._one_file_system = one_file_system
        self._tick = tick
        self._above: set[str] = set()

    def go(self, top: str, name: str) -> None:
        """Take ``top``, stored as ``name``, and all that is below it."""
        follow = top.endswith("/")
        try:
            info = os.stat(top) if follow else look(top)
        except OSError as error:
            self.result.problems.append(unreadable(top, error))
            return
        pending = [(top, name)] if self._take(top, name, info, None) else []
        while pending:
            file, path = pending.pop()
            try:
                fd = open_folder(file, follow=follow and file == top)
                try:
                    pending.extend(self._children(fd, file, path, info.st_dev))
                finally:
                    os.close(fd)
            except OSError as error:
                self.result.problems.append(unreadable(file, error, "what is in it"))

    def listed(self, file: str) -> None:
        """Take a listed path with the folders that lead to it, and all below it."""
        path = os.path.normpath(file).lstrip("/")
        if path == ".":
            return
        parts, prefix = path.split("/"), "/" if file.startswith("/") else ""
        for n in range(1, len(parts)):
            above = "/".join(parts[:n])
            if self.selection.excluded(above):
                return
            if above in self._above:
                continue
            try:
                info = look(prefix + above)
                if not stat.S_ISDIR(info.st_mode):
                    raise OSError(f"{prefix + above} on the way to it is no folder")
            except OSError as error:
                self.result.problems.append(unreadable(file, error))
                return
            self._above.add(above)
            self.result.sources.append(_source(above, prefix + above, "directory", info))
        self.go(prefix + path, path)

    def _children(self, fd: int, file: str, path: str, device: int) -> Iterator[tuple[str, str]]:
        """Take what a folder holds; the folders in it that are to be walked."""
        if self._one_file_system and os.fstat(fd).st_dev != device:
            self.left_devices += 1
            return
        with os.scandir(fd) as listing:
            for item in listing:
                inner = os.path.join(file, item.name)
                name = f"{path}/{item.name}" if path else item.name
                try:
                    info = item.stat(follow_symlinks=False)
                except OSError as error:
                    if not self.selection.excluded(name):
                        self.result.problems.append(unreadable(inner, error))
                    continue
                if self._take(inner, name, info, fd):
                    yield inner, name

    def _take(self, file: str, path: str, info: os.stat_result, folder: int | None) -> bool:
        """Note one thing; whether it is a folder to be walked."""
        result = self.result
        if path and self.selection.excluded(path):
            return False
        if self._tick is not None and len(result.sources) % 1000 == 999:
            self._tick(len(result.sources))
        if stat.S_ISDIR(info.st_mode):
            if (info.st_dev, info.st_ino) in self._skip:
                return False
            if path:
                result.sources.append(_source(path, file, "directory", info))
            return True
        if not self.selection.included(path):
            return False
        if stat.S_ISREG(info.st_mode):
            result.sources.append(_source(path, file, "file", info))
        elif stat.S_ISLNK(info.st_mode):
            try:
                result.sources.append(_source(path, file, "symlink", info, _target(file, folder)))
            except OSError as error:
                result.problems.append(unreadable(file, error))
        else:
            what = _special_name(info.st_mode)
            error_ = SpecialFile(
                f"{file} is a {what} and is left out; archives hold files, folders and links"
            )
            result.problems.append(Problem.of(file, error_, kept=False))
        return False


def _target(file: str, folder: int | None) -> str:
    if folder is not None:
        return os.readlink(file.rsplit("/", 1)[-1], dir_fd=folder)
    with reaching(file) as (above, name):
        return os.readlink(name, dir_fd=above)


def _source(path: str, file: str, kind: Kind, info: os.stat_result, target: str | None = None) -> Source:
    return Source(
        path,
        file,
        kind,
        stat.S_IMODE(info.st_mode),
        info.st_mtime_ns,
        info.st_size if kind == "file" else 0,
        target,
        (info.st_dev, info.st_ino),
        1 if kind == "directory" else info.st_nlink,
        ctime_ns=info.st_ctime_ns,
    )


def _distinct(sources: list[Source]) -> list[Source]:
    """Sources in order, each path once: ``/`` and ``/etc`` both give ``etc``. Raises UsageError for others."""
    kept: list[Source] = []
    for source in sources:
        if not kept or kept[-1].path != source.path:
            kept.append(source)
        elif kept[-1].identity != source.identity:
            raise UsageError(
                f"{kept[-1].file} and {source.file} would both be stored as {source.path!r}; pack them into "
                "two archives, or pack the folder that holds them"
            )
    return kept


def _linked(sources: list[Source]) -> list[Source]:
    """The same sources; of a file, or symbolic link, with several names all but the first name the first."""
    first: dict[tuple[int, int], Source] = {}
    result = []
    for source in sources:
        if source.names > 1:
            leader = first.setdefault(source.identity, source)
            # packing looks at files again, at links no more: of one that changed meanwhile nothing is promised
            same = source.kind == "file" or (source.target, source.mtime_ns) == (leader.target, leader.mtime_ns)
            if leader is not source and leader.kind == source.kind and same:
                source = replace(source, link=leader.path)
        result.append(source)
    return result


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


def unreadable(file: str, error: OSError, what: str = "it") -> Problem:
    """The problem of a source that the system would not let us read."""
    reason = error.strerror or str(error)
    text = f"{what} cannot be read ({reason}) and is missing from the archive; mend it and pack again"
    return Problem.of(file, SourceUnreadable(text), kept=False)
