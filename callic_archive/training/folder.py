"""The folder ``MODEL.partial`` of an unfinished training: who may go on with it, and its checkpoint.

job.json          the settings; another command never goes on with them
lock              held (flock) by the running command, released by the system however that ends
checkpoint.pt     everything needed to go on
log.jsonl         one line a report
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from callic_archive.container.fs import atomic_write, fsync_dir, fsync_file, writing
from callic_archive.errors import DamagedCheckpoint, DestinationExists, MissingPath, OtherRun

PARTIAL = ".partial"


class TrainingFolder:
    """A context manager that holds the folder's lock."""

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.root = destination.with_name(destination.name + PARTIAL)
        self._lock: int | None = None

    @property
    def checkpoint(self) -> Path:
        """Where training saves itself."""
        return self.root / "checkpoint.pt"

    def identities(self) -> frozenset[tuple[int, int]]:
        """(device, inode) of the folder where it exists: a scan leaves it out."""
        with contextlib.suppress(OSError):
            info = self.root.stat()
            return frozenset({(info.st_dev, info.st_ino)})
        return frozenset()

    def check(self) -> None:
        """Raise DestinationExists or MissingPath when the model cannot be made where it should be."""
        if os.path.lexists(self.destination):
            raise DestinationExists(
                f"{self.destination} exists already and is not replaced; choose another name, or remove it"
            )
        if not self.destination.parent.is_dir():
            raise MissingPath(
                f"{self.destination.parent} is no folder, so {self.destination.name} cannot be made in it"
            )

    def open(self, settings: Mapping[str, Any]) -> bool:
        """Make the folder or take up the one that is there; True when there is a checkpoint to go on from.

        Raises OtherRun, DamagedCheckpoint, OutOfSpace, WriteFailure.
        """
        with writing(self.root):
            self.root.mkdir(exist_ok=True)
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise OtherRun(
                    f"{self.root} is being written by another command; wait for it, or choose another name"
                ) from error
            # some cluster file systems have no locks; then nobody guards
        job = self.root / "job.json"
        wanted = json.loads(json.dumps(settings))
        if job.exists():
            self._compare(job, wanted)
        else:
            atomic_write(job, json.dumps(wanted, indent=1, sort_keys=True).encode())
        return self.checkpoint.exists()

    def _compare(self, job: Path, wanted: Mapping[str, Any]) -> None:
        try:
            found = dict(json.loads(job.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedCheckpoint(
                f"{job} cannot be read ({error}); remove {self.root} to begin anew"
            ) from error
        different = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        if different:
            listed = "; ".join(f"{k}: then {found.get(k)!r}, now {wanted.get(k)!r}" for k in different)
            raise OtherRun(
                f"{self.root} was begun by another command ({listed}). "
                f"Run that command again to go on with it, or remove the folder to begin anew"
            )

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log. Raises OutOfSpace, WriteFailure."""
        path = self.root / "log.jsonl"
        with writing(path), path.open("a") as stream:
            stream.write(json.dumps(dict(line)) + "\n")

    def commit(self, model: Path) -> None:
        """Give the finished file ``model``, which lies in the folder, its name, and remove the folder."""
        fsync_file(model)
        with writing(self.destination):
            # A link fails where the name is taken; a rename would replace what appeared meanwhile.
            try:
                os.link(model, self.destination)
            except FileExistsError:
                raise DestinationExists(
                    f"{self.destination} appeared while training and is not replaced; the model is {model}"
                ) from None
            except OSError:
                os.rename(model, self.destination)  # a file system without hard links
        fsync_dir(self.destination.parent)
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
