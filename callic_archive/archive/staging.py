"""The unfinished archive ``X.callic.partial``: who may write it, what it holds already, what is still to do.

It is the bag under construction plus a folder ``.run`` that vanishes before the final rename:

    .run/job.json     the settings; another command never goes on with them
    .run/lock         held (flock) by the running command, released by the system however that ends
    .run/stop         when it exists, workers end after the file in hand
    .run/claims/      one empty file a shard number, made with O_EXCL: two writers never share one
    .run/adapters/    adapters of the collection, so that going on does not train them again
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from callic_archive.container.fs import atomic_write, fsync_dir, writing
from callic_archive.errors import DestinationExists, MissingPath, OtherRun

PARTIAL = ".partial"
_RUN = ".run"
_ABSENT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


class Staging:
    """The folder ``X.callic.partial`` of one run; a context manager that holds its lock."""

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.root = destination.with_name(destination.name + PARTIAL)
        self._lock: int | None = None

    # -- places ----------------------------------------------------------------------------------------------

    @property
    def data(self) -> Path:
        """Where the shards are written."""
        return self.root / "data"

    @property
    def run(self) -> Path:
        """What is removed at the end."""
        return self.root / _RUN

    @property
    def adapters(self) -> Path:
        """Payloads of the collection's adapters, one file each."""
        return self.run / "adapters"

    @property
    def stop_file(self) -> Path:
        """Its existence asks workers to end after the file in hand."""
        return self.run / "stop"

    def identities(self) -> frozenset[tuple[int, int]]:
        """(device, inode) of staging folder and destination where they exist: a scan leaves them out."""
        found = set()
        for path in (self.root, self.destination):
            with contextlib.suppress(OSError):
                info = path.stat()
                found.add((info.st_dev, info.st_ino))
        return frozenset(found)

    # -- beginning and ending --------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise DestinationExists or MissingPath when the archive cannot be made where it should be."""
        if os.path.lexists(self.destination):
            raise DestinationExists(
                f"{self.destination} exists already and is not replaced; choose another name, or remove it"
            )
        if not self.destination.parent.is_dir():
            raise MissingPath(
                f"{self.destination.parent} is no folder, so {self.destination.name} cannot be made in it"
            )

    def open(self, settings: Mapping[str, Any]) -> bool:
        """Make the folder or take up the one that is there; True when there is something to go on with.

        Raises OtherRun when it belongs to a command with other ``settings`` or to one that is running now,
        and OutOfSpace or WriteFailure when it cannot be written.
        """
        resumed = self.run.is_dir()
        with writing(self.root):
            self.data.mkdir(parents=True, exist_ok=True)
            (self.run / "claims").mkdir(parents=True, exist_ok=True)
            self.adapters.mkdir(exist_ok=True)
            for shard in self.shards():
                (self.run / "claims" / shard.name.removesuffix(PARTIAL)).touch()
        self._take_lock()
        try:
            job = self.run / "job.json"
            wanted = json.loads(json.dumps(settings))
            if job.exists():
                self._compare(json.loads(job.read_text()), wanted)
            else:
                atomic_write(job, json.dumps(wanted, indent=1, sort_keys=True).encode())
            with writing(self.stop_file):
                self.stop_file.unlink(missing_ok=True)
        except BaseException:
            self.release()
            raise
        return resumed

    def _take_lock(self) -> None:
        with writing(self.run / "lock"):
            fd = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
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
        # a full disk must not keep a finished archive from being completed
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        self._lock = fd

    def _compare(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        different = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        if different:
            listed = "; ".join(f"{k}: then {found.get(k)!r}, now {wanted.get(k)!r}" for k in different)
            raise OtherRun(
                f"{self.root} was begun by another command ({listed}). "
                f"Run that command again to go on with it, or remove the folder to begin anew"
            )

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

    def commit(self) -> None:
        """Make the staged bag the archive: remove ``.run``, rename, fsync. Nothing is visible under the name
        before.
        """
        with writing(self.destination):
            shutil.rmtree(self.run)
            fsync_dir(self.root)
            if os.path.lexists(self.destination):
                raise DestinationExists(f"{self.destination} appeared while packing and is not replaced")
            os.rename(self.root, self.destination)
        fsync_dir(self.destination.parent)

    def request_stop(self) -> None:
        """Ask all workers to end after the file in hand."""
        with contextlib.suppress(OSError):
            self.stop_file.touch()

    def shards(self) -> Iterator[Path]:
        """Every shard of the staging folder, sealed or not, in the order of their names."""
        for path in sorted(self.data.glob("shard-*.cla*")):
            if path.name.endswith((".cla", ".cla.partial")):
                yield path


def claim_shard(data: Path) -> tuple[Path, bytes]:
    """A shard path that no other writer has or ever had, and an id for it. Raises OutOfSpace or WriteFailure."""
    claims = data.parent / _RUN / "claims"
    number = sum(1 for _ in os.scandir(claims))
    while True:
        name = f"shard-{number:05d}.cla"
        with writing(claims / name):
            try:
                os.close(os.open(claims / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            except FileExistsError:
                number += 1
                continue
        return data / name, uuid.uuid4().bytes
