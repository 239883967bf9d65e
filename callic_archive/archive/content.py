"""Source files opened and read so that nothing goes by unnoticed: changes, holes, paths of any length.

No memory map of a source is ever made: a file that shrinks under one kills the process, and one that changes
under it gives a digest of bytes that no record holds. Large images are read once into a private copy.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from callic_archive.container.fs import write_all, writing
from callic_archive.images.source import HEAD

Extents = tuple[tuple[int, int], ...]  # (offset, length) of data, ascending; between them are holes

# bytes; larger files are read in pieces, images among them through a private copy on the disk
WHOLE_BELOW = 64 << 20
PIECE = 8 << 20  # bytes of one read
SPARSE_FROM = 64 << 10  # bytes of holes below which a file is as good as dense
MOST_EXTENTS = 1 << 16  # more are joined, the smallest holes first
_LONGEST = 4000  # bytes of a path that one system call surely takes (PATH_MAX is 4096)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


@contextmanager
def reaching(file: str) -> Iterator[tuple[int | None, str]]:
    """A ``dir_fd`` and a name with which system calls reach ``file``, however long its path is. Raises OSError."""
    rest = os.fsencode(file)
    fd: int | None = None
    try:
        while len(rest) > _LONGEST:
            cut = rest.rfind(b"/", 1, _LONGEST)
            if cut < 0:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            inner = os.open(rest[:cut], _FOLDER, dir_fd=fd)
            if fd is not None:
                os.close(fd)
            fd, rest = inner, rest[cut:].lstrip(b"/")
        yield fd, os.fsdecode(rest)
    finally:
        if fd is not None:
            os.close(fd)


def open_folder(file: str, *, follow: bool = False) -> int:
    """A descriptor of a folder; a link in its place is refused unless ``follow``. Raises OSError."""
    with reaching(file) as (folder, name):
        return os.open(name, _FOLDER | (0 if follow else os.O_NOFOLLOW), dir_fd=folder)


def look(file: str) -> os.stat_result:
    """``lstat`` of a path of any length. Raises OSError."""
    with reaching(file) as (folder, name):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)


@dataclass(frozen=True)
class OpenFile:
    """A regular file, open for reading, with its state when it was opened."""

    file: str
    fd: int
    info: os.stat_result
    extents: Extents | None  # None: no holes worth the mention

    @property
    def size(self) -> int:
        """Bytes when it was opened; what is appended later is not read."""
        return self.info.st_size

    @property
    def data_bytes(self) -> int:
        """Bytes that lie in no hole."""
        return self.size if self.extents is None else sum(length for _, length in self.extents)

    def head(self, size: int = HEAD) -> bytes:
        """Its first bytes. Raises OSError."""
        return os.pread(self.fd, size, 0)

    def window(self, offset: int, length: int) -> bytes:
        """So many bytes from ``offset`` on, zeros where the file shrank meanwhile. Raises OSError."""
        found = bytearray()
        while len(found) < length and (piece := os.pread(self.fd, length - len(found), offset + len(found))):
            found += piece
        return bytes(found.ljust(length, b"\0"))

    def read(self) -> bytes:
        """All of it, fewer bytes where it shrank meanwhile. Raises OSError."""
        return b"".join(self.pieces(((0, self.size),)))

    def pieces(self, extents: Extents | None = None, *, fill: bool = False) -> Iterator[bytes]:
        """The bytes of ``extents`` (all of it by default), a few megabytes at a time. Raises OSError.

        Where the file shrank meanwhile they end early, or with ``fill`` go on as zeros, as a hole reads.
        """
        for offset, length in ((0, self.size),) if extents is None else extents:
            end = offset + length
            while offset < end:
                piece = os.pread(self.fd, min(PIECE, end - offset), offset)
                if not piece:
                    if not fill:
                        return
                    piece = bytes(min(PIECE, end - offset))
                yield piece
                offset += len(piece)

    def private_copy(self, folder: Path | None, named: Path | None = None) -> tuple[memoryview, str]:
        """A copy that nobody else can change, mapped from a nameless file in ``folder``, and its SHA-256.

        With ``named`` the copy has that name, for other processes to read it.

        Raises OSError where the source cannot be read, OutOfSpace or WriteFailure where the copy cannot be
        written.
        """
        digest = hashlib.sha256()
        size = 0
        place = folder or Path(tempfile.gettempdir())
        with ExitStack() as closing:
            with writing(place):
                if named is None:
                    copy = closing.enter_context(tempfile.TemporaryFile(dir=place, buffering=0))
                else:
                    named.parent.mkdir(exist_ok=True)
                    copy = closing.enter_context(named.open("x+b", buffering=0))
            for piece in self.pieces():
                digest.update(piece)
                size += len(piece)
                with writing(place):
                    write_all(copy.fileno(), piece)
            view = memoryview(mmap.mmap(copy.fileno(), size, prot=mmap.PROT_READ) if size else b"")
        return view, digest.hexdigest()

    def change(self) -> str | None:
        """What happened to the file since it was opened, in words; None when nothing did."""
        try:
            now = look(self.file)
        except FileNotFoundError:
            return "it was removed while it was read"
        except OSError:
            return "it became unreachable while it was read"
        if (now.st_dev, now.st_ino) != (self.info.st_dev, self.info.st_ino):
            return "another file took its place while it was read"
        if now.st_size < self.size:
            return "it shrank while it was read"
        if now.st_size > self.size:
            return "it grew while it was read"
        return "it changed while it was read" if now.st_mtime_ns != self.info.st_mtime_ns else None


@contextmanager
def opened(file: str) -> Iterator[OpenFile]:
    """Open a regular file, never through a link in its place. Raises OSError."""
    with reaching(file) as (folder, name):
        fd = os.open(name, _FILE, dir_fd=folder)  # a pipe put in its place must not block
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError("it is no regular file any more")
        yield OpenFile(file, fd, info, _extents(fd, info))
    finally:
        os.close(fd)


def read_source(file: str, copies: Path | None = None) -> tuple[bytes | memoryview, os.stat_result]:
    """The bytes of a file, and its state when opened; a large one as a private copy in ``copies``. Raises
    OSError.
    """
    with opened(file) as source:
        data = source.read() if source.size < WHOLE_BELOW else source.private_copy(copies)[0]
        return data, source.info


def _extents(fd: int, info: os.stat_result) -> Extents | None:
    """Where a file has data, or None when it has no holes to speak of, or nobody can tell."""
    size = info.st_size
    if info.st_blocks * 512 + SPARSE_FROM > size or not hasattr(os, "SEEK_DATA"):
        return None
    found: list[tuple[int, int]] = []
    position = 0
    try:
        while position < size:
            try:
                begin = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole until the end
                    break
                raise
            position = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
            if begin >= position:
                break
            found.append((begin, position - begin))
            if len(found) >= 4 * MOST_EXTENTS:
                found = _joined(found)
    except OSError:  # a file system that cannot tell
        return None
    found = _joined(found)
    return tuple(found) if size - sum(length for _, length in found) >= SPARSE_FROM else None


def _joined(extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most ``MOST_EXTENTS`` extents: those with the smallest holes between them become one."""
    if len(extents) <= MOST_EXTENTS:
        return extents
    ends = [offset + length for offset, length in extents]
    holes = sorted(extents[n + 1][0] - ends[n] for n in range(len(extents) - 1))
    most = holes[-MOST_EXTENTS]  # holes up to this one are filled
    joined = [extents[0]]
    for offset, length in extents[1:]:
        start, before = joined[-1]
        if offset - (start + before) <= most:
            joined[-1] = (start, offset + length - start)
        else:
            joined.append((offset, length))
    return joined
