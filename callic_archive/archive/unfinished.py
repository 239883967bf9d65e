"""A folder ``X.partial`` in which X is made: who may write it, and for which settings it was begun."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from callic_archive.container.fs import check_file, writing
from callic_archive.errors import DestinationExists, OtherRun, UsageError

PARTIAL = ".partial"
_ABSENT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


_LONGEST = 60  # characters of a setting that a message shows


def _told(name: str, then: Any, now: Any) -> str:
    """What a message says of a setting that differs: both values where they are short, as lists of models are not."""
    words = repr(then), repr(now)
    return f"{name}: then {words[0]}, now {words[1]}" if max(map(len, words)) <= _LONGEST else f"{name}: others now"


class UnfinishedFolder:
    """What is being made lies in ``root`` until it gets its name; a context manager that holds the folder's lock."""

    def __init__(self, destination: Path) -> None:
        """Raises UsageError for a path without a name, such as ``.`` or ``/``."""
        if not destination.name:
            raise UsageError(f"{destination} is a folder that is there; name what is to be made in it: {destination / 'NAME'}")
        self.destination = destination
        self.root = destination.with_name(destination.name + PARTIAL)
        self._lock: int | None = None
        self.committing: Callable[[], None] = lambda: None  # called when nothing may stop it from getting its name any more

    def identities(self) -> frozenset[tuple[int, int]]:
        """(device, inode) of the folder and of the destination where they exist: a scan leaves them out."""
        found = set()
        for path in (self.root, self.destination):
            with contextlib.suppress(OSError):
                info = path.stat()
                found.add((info.st_dev, info.st_ino))
        return frozenset(found)

    def check(self) -> None:
        """Raise DestinationExists, MissingPath or WriteFailure when nothing can be made where it should be."""
        if os.path.lexists(self.destination):
            raise DestinationExists(
                f"{self.destination} exists already and is not replaced; choose another name, or remove it"
            )
        check_file(self.destination)

    def take_lock(self, lock: Path) -> None:
        """Hold the file ``lock`` (flock) until ``release``; the system gives it back however the process ends.

        Raises OtherRun when another process holds it, OutOfSpace and WriteFailure.
        """
        with writing(lock):
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
                os.close(fd)
                raise OtherRun(
                    f"{self.root} is being written by another command ({holder or 'unknown process'}); "
                    f"wait for it, or choose another destination"
                ) from error
            # some cluster file systems have no locks; then nobody guards
            if error.errno not in _ABSENT_LOCKS:
                os.close(fd)
                raise
        # a full disk must not keep what is nearly finished from being completed
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        self._lock = fd

    def read_settings(self, job: Path) -> Mapping[str, Any]:
        """The settings that the folder was begun for. Raises OtherRun where nobody can tell them any more."""
        try:
            found = json.loads(job.read_text("utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no JSON object")
        except (OSError, ValueError, RecursionError) as error:
            raise OtherRun(
                f"{job} cannot be read ({error}), so nobody can tell for what {self.root} was begun; "
                f"remove the folder to begin anew"
            ) from error
        return found

    def compare_settings(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Raise OtherRun, which names what differs, unless the folder was begun for what is ``wanted`` now."""
        different = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        if different:
            listed = "; ".join(_told(name, found.get(name), wanted.get(name)) for name in different)
            error = OtherRun(
                f"{self.root} was begun by another command ({listed}). "
                f"Run that command again to go on with it, or remove the folder to begin anew"
            )
            lists = [settings.get(k) for k in different for settings in (found, wanted)]
            error.paths = tuple(one for some in lists if isinstance(some, list) for one in some if isinstance(one, str))
            raise error

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
