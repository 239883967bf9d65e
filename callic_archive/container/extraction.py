"""A tree is unpacked into a folder, and nothing outside of it can be reached.

Extraction never resolves a path as a string: every directory is opened relative to its parent's descriptor
with O_NOFOLLOW, so a symbolic link that was unpacked before, or planted meanwhile, leads no later file out.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from callic_archive.container.fs import WRITE_CHUNK, folder_failure, fsync_file, in_folder, writing
from callic_archive.container.names import check_relative
from callic_archive.errors import CallicError, SymlinkInPath, TargetExists, UnsafePath, WriteFailure

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HALT = 64  # levels; in trees deeper than that every so many keep a descriptor, or walking would be quadratic
_MOST_HALTS = 128
_TEMPORARY = re.compile(r"\.callic-[0-9a-f]{16}\.tmp")


class _GuardedFile(io.FileIO):
    """A file whose own write errors are EnvironmentFailures, so nobody takes them for errors of a source."""

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd, "r+b")
        self._path = path

    def write(self, data: Any) -> int:
        with writing(self._path):
            return super().write(data) or 0

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:  # a size that this file system cannot hold concerns one file, not the run
            reason = error.strerror or str(error)
            raise WriteFailure(f"cannot make {self._path} {size} bytes long: {reason}") from error


Identity = tuple[int, int, int, int]  # of a file: device, inode, size, time of modification


def identity_of(info: os.stat_result) -> Identity:
    """What tells a file from others. An inode alone may be given to a new file once its file is gone."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


@contextmanager
def _times_that_fit() -> Iterator[None]:
    """A time that this system or file system cannot hold is not given back; what it belongs to is."""
    try:
        yield
    except OverflowError:
        return
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
            raise


def finish_file(file: BinaryIO, path: str, *, mode: int, mtime_ns: int) -> Identity:
    """Give an open file its permission bits and time, before it has a name; who it is from then on.

    Set-id bits are never given back: an archive must not hand out rights. Raises OutOfSpace and WriteFailure.
    """
    with writing(path):
        file.flush()
        fd = file.fileno()
        os.fchmod(fd, mode & 0o1777)
        with _times_that_fit():
            os.utime(fd, ns=(os.fstat(fd).st_atime_ns, mtime_ns))
        return identity_of(os.fstat(fd))


def _new_file(parent: int) -> tuple[int, str]:
    """Descriptor and name of a new file in a folder, locked so that nobody takes it for one that was left. Raises OSError."""
    while True:
        name = f".callic-{secrets.token_hex(8)}.tmp"
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=parent)
        with suppress(OSError):  # a file system without locks: there nothing is swept
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd, name
        os.close(fd)  # it was swept before it was locked


def _unlink_left(parent: int, name: str) -> None:
    """Remove an unfinished file of this user if nobody writes to it any more. Raises OSError where somebody does."""
    found = os.lstat(name, dir_fd=parent)
    if found.st_uid != os.geteuid():
        return
    if stat.S_ISREG(found.st_mode):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(fd)
    elif stat.S_ISLNK(found.st_mode):
        os.unlink(name, dir_fd=parent)


def _same_bytes(parent: int, one: str, other: str) -> bool:
    """Whether two names in a directory are regular files of the same bytes."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        with (
            open(one, "rb", opener=lambda name, _: os.open(name, flags, dir_fd=parent)) as a,
            open(other, "rb", opener=lambda name, _: os.open(name, flags, dir_fd=parent)) as b,
        ):
            found = [os.fstat(file.fileno()) for file in (a, b)]
            if not all(stat.S_ISREG(info.st_mode) for info in found) or found[0].st_size != found[1].st_size:
                return False
            while block := a.read(WRITE_CHUNK):
                if block != b.read(WRITE_CHUNK):
                    return False
    except OSError:
        return False
    return True


class ExtractionRoot:
    """A destination directory into which a tree is unpacked; nothing outside of it can be reached.

    Paths are relative with ``/`` between parts. All methods raise UnsafePath (E440) for paths that are not
    plain, SymlinkInPath (E441) where a directory on the way is a symbolic link or a file, TargetExists (E442)
    where something is already there, and OutOfSpace or WriteFailure (E610, E611) where the machine fails.
    """

    def __init__(self, root: Path) -> None:
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.root = root
        self._halts: list[
            tuple[str, int, int]
        ] = []  # path, number of parts, descriptor; each in the one before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the directory's descriptor."""
        while self._halts:
            os.close(self._halts.pop()[2])
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @staticmethod
    def _step(parent: int, part: str, path: str, create: bool) -> int:
        try:
            try:
                return os.open(part, _DIRECTORY, dir_fd=parent)
            except FileNotFoundError:
                if not create:
                    raise
            with suppress(FileExistsError):
                os.mkdir(part, 0o777, dir_fd=parent)
            return os.open(part, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                raise SymlinkInPath(
                    f"{path!r} leads through {part!r}, which is a symbolic link or no directory"
                ) from error
            raise folder_failure(error, path) from error

    @contextmanager
    def _parent(self, path: str, create: bool = True) -> Iterator[tuple[int, str]]:
        """Descriptor of the directory that holds ``path``, and its last part."""
        parts = check_relative(path)
        begin, start = self._nearest(path)
        fd = os.dup(start)
        try:
            for number, part in enumerate(parts[begin:-1], begin + 1):
                inner = self._step(fd, part, path, create)
                os.close(fd)
                fd = inner
                if number % _HALT == 0 and len(self._halts) < _MOST_HALTS:
                    self._halts.append(("/".join(parts[:number]) + "/", number, os.dup(fd)))
            yield fd, parts[-1]
        finally:
            os.close(fd)

    def _nearest(self, path: str) -> tuple[int, int]:
        """Number of parts and descriptor of the deepest kept directory above ``path``; others are let go."""
        while self._halts and not path.startswith(self._halts[-1][0]):
            os.close(self._halts.pop()[2])
        return self._halts[-1][1:] if self._halts else (0, self._fd)

    def look(self, path: str) -> os.stat_result | None:
        """``lstat`` of a path; None where nothing is."""
        try:
            with self._parent(path, create=False) as (parent, name):
                return os.lstat(name, dir_fd=parent)
        except FileNotFoundError:
            return None
        except WriteFailure as error:
            if isinstance(error.__cause__, FileNotFoundError):  # a folder on the way
                return None
            raise

    def make_directory(self, path: str) -> None:
        """Create a directory and those above it; an existing real directory is left as it is."""
        with self._parent(path) as (parent, name):
            os.close(self._step(parent, name, path, create=True))

    @contextmanager
    def create_file(
        self, path: str, *, overwrite: bool = False, durable: bool = False, equal: bool = False
    ) -> Iterator[BinaryIO]:
        """A new file to write to; it takes its name only when the block ends without an error.

        With ``overwrite`` an existing file or symbolic link is replaced, never written through. With ``equal`` a file of
        the very same bytes may be there already, and stays.
        """
        with self.create_shared(path, overwrite=overwrite, durable=durable, equal=equal) as (file, _):
            yield file

    @contextmanager
    def create_shared(
        self, path: str, *, overwrite: bool = False, durable: bool = False, equal: bool = False
    ) -> Iterator[tuple[BinaryIO, str]]:
        """Like ``create_file``; with the name under which ``open_unfinished`` opens the file meanwhile."""
        with self._parent(path) as (parent, name):
            with in_folder(path):
                if not overwrite and not equal:
                    self._refuse_existing(parent, name, path)
                fd, temporary = _new_file(parent)
                held = os.dup(fd)  # with the lock, until the file has its name
            try:
                with io.BufferedRandom(_GuardedFile(fd, path)) as file:
                    yield file, temporary
                    file.flush()
                    if durable:
                        fsync_file(fd)
                with writing(path):
                    try:
                        self._give_name(parent, temporary, name, path, overwrite)
                    except TargetExists:
                        if not equal or not _same_bytes(parent, temporary, name):
                            raise
                        os.unlink(temporary, dir_fd=parent)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            finally:
                os.close(held)

    @contextmanager
    def open_unfinished(self, path: str, temporary: str) -> Iterator[BinaryIO]:
        """A file that another process creates with ``create_shared``, to write parts of it."""
        if not _TEMPORARY.fullmatch(temporary):
            raise UnsafePath(f"{temporary!r} is no name of an unfinished file")
        with self._parent(path, create=False) as (parent, _):
            with writing(path):
                fd = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            with io.BufferedRandom(_GuardedFile(fd, path)) as file:
                yield file
                file.flush()

    def sweep(self, path: str = "") -> None:
        """Remove from a folder, by default the root, what runs that were killed left unfinished in it. Files that are still
        written are locked, and stay; so does what cannot be told from these, and where there is no such folder nothing is done.
        """
        with suppress(OSError, CallicError), self._parent(f"{path}/x" if path else "x", create=False) as (parent, _):
            for name in os.listdir(parent):
                if _TEMPORARY.fullmatch(name):
                    with suppress(OSError):
                        _unlink_left(parent, name)

    @staticmethod
    def _refuse_existing(parent: int, name: str, path: str) -> None:
        try:
            os.lstat(name, dir_fd=parent)
        except FileNotFoundError:
            return
        raise TargetExists(f"{path!r} is already there, and is not what would be written")

    def _give_name(self, parent: int, temporary: str, name: str, path: str, overwrite: bool) -> None:
        if overwrite:
            try:
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except IsADirectoryError as error:
                raise TargetExists(f"{path!r} is a directory; it is not replaced by a file") from error
            return
        try:  # link, unlike rename, refuses an existing name in one step
            os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError as error:
            raise TargetExists(f"{path!r} is already there, and is not what would be written") from error
        except OSError:  # a file system without hard links
            self._refuse_existing(parent, name, path)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            return
        os.unlink(temporary, dir_fd=parent)

    def identify(self, path: str) -> Identity:
        """Who the file or symbolic link at ``path`` is, which the caller has just made."""
        with self._parent(path, create=False) as (parent, name), writing(path):
            return identity_of(os.lstat(name, dir_fd=parent))

    def make_hardlink(
        self, path: str, existing: str, identity: Identity, *, symbolic: bool = False, overwrite: bool = False
    ) -> None:
        """Give the file at ``existing``, or the link if it is ``symbolic``, a further name, if it is the one of this
        ``identity``, which the caller wrote.

        Raises UnsafePath when anything else lies at ``existing`` by now: links are how rights to foreign files
        would be gained. WriteFailure may mean that the file system has no hard links.
        """
        with self._parent(existing, create=False) as (there, old), self._parent(path) as (parent, name):
            if not overwrite:
                self._refuse_existing(parent, name, path)
            temporary = f".callic-{secrets.token_hex(8)}.tmp"
            with in_folder(path):
                os.link(old, temporary, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)
            try:
                with writing(path):
                    found = os.lstat(temporary, dir_fd=parent)  # of the link: what was linked is judged
                    kind = stat.S_IFLNK if symbolic else stat.S_IFREG
                    if stat.S_IFMT(found.st_mode) != kind or identity_of(found) != identity:
                        raise UnsafePath(f"{existing!r} is not the file any more that was written there")
                    self._give_name(parent, temporary, name, path, overwrite)
            finally:  # renaming one name of a file to another does nothing
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)

    def make_symlink(self, path: str, target: str, *, overwrite: bool = False) -> None:
        """Create a symbolic link; its target is text, never followed (``link_leaves_root`` judges it)."""
        if not target or "\0" in target:
            raise UnsafePath(f"the symbolic link {path!r} has an empty target or one with a NUL byte")
        with self._parent(path) as (parent, name), in_folder(path):
            if overwrite:
                try:
                    os.unlink(name, dir_fd=parent)
                except FileNotFoundError:
                    pass
                except (IsADirectoryError, PermissionError) as error:
                    if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                        raise
                    raise TargetExists(f"{path!r} is a directory; it is not replaced by a link") from error
            try:
                os.symlink(target, name, dir_fd=parent)
            except FileExistsError as error:
                raise TargetExists(f"{path!r} is already there") from error

    def set_metadata(self, path: str, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
        """Give a file or directory its permission bits and modification time, a symbolic link its time only.

        set-user-id is never restored, set-group-id on directories only: an archive must not hand out rights.
        Set directories' last, deepest first, since writing into them changes their time.
        """
        with self._parent(path, create=False) as (parent, name), writing(path):
            found = os.lstat(name, dir_fd=parent)
            allowed = 0o3777 if stat.S_ISDIR(found.st_mode) else 0o1777
            changes = mode is not None and stat.S_IMODE(found.st_mode) != mode & allowed
            if mode is not None and changes and not stat.S_ISLNK(found.st_mode):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
                try:
                    allowed = 0o3777 if stat.S_ISDIR(os.fstat(fd).st_mode) else 0o1777
                    os.fchmod(fd, mode & allowed)
                finally:
                    os.close(fd)
            if mtime_ns is not None:
                with _times_that_fit():
                    os.utime(name, ns=(found.st_atime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
