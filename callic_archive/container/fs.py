"""Files written so that they survive a power cut, and what a machine that cannot write them is called."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from callic_archive.errors import (
    EnvironmentFailure,
    MissingPath,
    OutOfSpace,
    UsageError,
    WriteFailure,
)

_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
WRITE_CHUNK = 8 << 20


def write_failure(error: OSError, path: object) -> EnvironmentFailure:
    """The failure that a write error on ``path`` is: OutOfSpace (E610) or WriteFailure (E611)."""
    reason = error.strerror or str(error)
    failure: EnvironmentFailure = WriteFailure(f"cannot write {path}: {reason}")
    if error.errno in _SPACE:
        failure = OutOfSpace(f"cannot write {path}: {reason}; free or grant space, then run the same command again")
    failure.paths = () if isinstance(path, int) else (str(path),)
    return failure


def folder_failure(error: OSError, path: str) -> EnvironmentFailure:
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
def in_folder(path: str) -> Iterator[None]:
    """As ``writing``, where names are made or replaced: see ``folder_failure``."""
    try:
        yield
    except OSError as error:
        raise folder_failure(error, path) from error


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


def unfinished_name(name: str) -> bool:
    """Whether it is a name under which ``atomic_write`` writes what has no name yet."""
    return re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", name) is not None


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
