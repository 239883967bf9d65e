"""Files written so that they survive a power cut, and paths that stay inside their destination.

Extraction never resolves a path as a string: every directory is opened relative to its parent's descriptor
with O_NOFOLLOW, so a symbolic link that was unpacked before, or planted meanwhile, leads no later file out.
"""

from __future__ import annotations

import base64
import binascii
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from callic_archive.errors import (
    EnvironmentFailure,
    InvalidName,
    MissingPath,
    OutOfSpace,
    SymlinkInPath,
    TargetExists,
    UnsafePath,
    UsageError,
    WriteFailure,
)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
WRITE_CHUNK = 8 << 20
_HALT = 64  # levels; in trees deeper than that every so many keep a descriptor, or walking would be quadratic
_MOST_HALTS = 128


# -- durable writing ---------------------------------------------------------------------------------------


def write_failure(error: OSError, path: object) -> EnvironmentFailure:
    """The failure that a write error on ``path`` is: OutOfSpace (E610) or WriteFailure (E611)."""
    reason = error.strerror or str(error)
    failure: EnvironmentFailure = WriteFailure(f"cannot write {path}: {reason}")
    if error.errno in _SPACE:
        failure = OutOfSpace(f"cannot write {path}: {reason}; free or grant space, then run the same command again")
    failure.paths = () if isinstance(path, int) else (str(path),)
    return failure


def _folder_failure(error: OSError, path: str) -> EnvironmentFailure:
    """As ``write_failure``, where a name was to be made or replaced: what forbids that is the folder's mode, not the
    file's.
    """
    if error.errno != errno.EACCES:
        return write_failure(error, path)
    failure = WriteFailure(
        f"cannot write {path}: this user may not change the folder that it lies in; make that writable (chmod u+rwx), or "
        "choose another destination"
    )
    failure.paths = (path,)
    return failure


@contextmanager
def _in_folder(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _folder_failure(error, path) from error


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn every OSError inside into the EnvironmentFailure that ``write_failure`` names."""
    try:
        yield
    except OSError as error:
        raise write_failure(error, path) from error


def check_folder(path: Path) -> None:
    """Raise what writing into the folder ``path``, or making it, would end with, as far as that can be told before.

    Raises UsageError where a file stands in its place or on the way to it, WriteFailure where nothing may be written.
    """
    place = path
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        so = "" if place == path else f", so {path} cannot be made"
        error = UsageError(f"{place} is no folder{so}; choose another place")
        error.paths = (str(path), str(place))
        raise error
    if not os.access(place, os.W_OK | os.X_OK):
        read_only = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
        number = errno.EROFS if read_only else errno.EACCES
        raise write_failure(OSError(number, os.strerror(number)), place)


def check_file(path: Path) -> None:
    """Raise what writing the file ``path`` would end with, as far as that can be told before: MissingPath, UsageError,
    WriteFailure.
    """
    if not path.parent.is_dir():
        raise MissingPath(f"{path.parent} is no folder, so {path.name} cannot be made in it")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it: {path / 'NAME'}")
    check_folder(path.parent)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` at the descriptor's position. Raises OSError."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view[:WRITE_CHUNK]) :]


def fsync_file(path: Path | int) -> None:
    """Force a file's bytes and size to the storage; a path or an open descriptor."""
    with writing(path):
        if isinstance(path, int):
            os.fsync(path)
            return
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def fsync_dir(path: Path | int) -> None:
    """Force a directory's names to the storage, so that a rename in it survives a power cut."""
    with writing(path):
        fd = path if isinstance(path, int) else os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # unknown to some network file systems
                raise
        finally:
            if not isinstance(path, int):
                os.close(fd)


def atomic_write(path: Path, data: bytes | Iterable[bytes], *, durable: bool = True) -> None:
    """Write a whole file or nothing: temporary sibling, fsync, rename over ``path``, fsync of the directory.

    An existing ``path`` is replaced; a reader sees the old bytes or the new. Raises OutOfSpace or
    WriteFailure.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    chunks: Iterable[bytes] = (data,) if isinstance(data, bytes) else data
    with writing(path):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            for chunk in chunks:
                with writing(path):
                    write_all(fd, chunk)
            if durable:
                fsync_file(fd)
        finally:
            os.close(fd)
        with writing(path):
            os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        fsync_dir(path.parent)


# -- names -------------------------------------------------------------------------------------------------


def name_to_json(name: str | bytes, field: str = "path") -> dict[str, str]:
    """A file name as JSON fields: ``{"path": text}``, with ``"path_base64"`` when its bytes are not UTF-8.

    The readable form of a name that is not UTF-8 shows each stray byte as ``\\xNN``. Raises InvalidName.
    """
    try:
        raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidName(f"the name {name!r} cannot be stored: {error.reason}") from error
    try:
        return {field: raw.decode("utf-8")}
    except UnicodeDecodeError:
        readable = raw.decode("utf-8", "backslashreplace")
        return {field: readable, f"{field}_base64": base64.b64encode(raw).decode("ascii")}


def name_from_json(entry: Mapping[str, Any], field: str = "path") -> str:
    """The name that ``name_to_json`` wrote, stray bytes as surrogate escapes (what ``os`` functions take).

    Raises InvalidName (E443) when the fields are missing or contradict each other.
    """
    readable, coded = entry.get(field), entry.get(f"{field}_base64")
    if not isinstance(readable, str) or not (coded is None or isinstance(coded, str)):
        raise InvalidName(f"an index entry has no readable {field!r}")
    if coded is None:
        try:
            readable.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidName(f"the {field} {readable!r} is no Unicode text") from error
        return readable
    try:
        raw = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidName(f"the {field}_base64 of {readable!r} is no base64") from error
    if name_to_json(raw, field) != {field: readable, f"{field}_base64": coded}:
        raise InvalidName(f"the {field} {readable!r} and its base64 form contradict each other")
    return raw.decode("utf-8", "surrogateescape")


# -- paths -------------------------------------------------------------------------------------------------


def check_relative(path: str) -> tuple[str, ...]:
    """The parts of a relative path with ``/`` between them.

    Raises UnsafePath (E440) when it is empty or absolute, or has an empty part, ``.``, ``..`` or NUL.
    """
    parts = tuple(path.split("/"))
    if "\0" in path:
        raise UnsafePath(f"the path {path!r} holds a NUL byte")
    if any(part in ("", ".", "..") for part in parts):
        raise UnsafePath(f"the path {path!r} is absolute or not plain, and could leave the destination")
    return parts


def safe_join(root: Path, path: str) -> Path:
    """``root`` / ``path`` after ``check_relative``; symbolic links on disk are ExtractionRoot's matter."""
    return root.joinpath(*check_relative(path))


def link_leaves_root(path: str, target: str) -> bool:
    """Whether a symbolic link at ``path`` with this target would point out of the tree, by its text alone."""
    depth = len(check_relative(path)) - 1
    if target.startswith("/"):
        return True
    for part in target.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            return True
    return False


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
            raise _folder_failure(error, path) from error

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
            temporary = f".callic-{secrets.token_hex(8)}.tmp"
            with _in_folder(path):
                if not overwrite and not equal:
                    self._refuse_existing(parent, name, path)
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(temporary, flags, 0o666, dir_fd=parent)
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
            with _in_folder(path):
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
        with self._parent(path) as (parent, name), _in_folder(path):
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
