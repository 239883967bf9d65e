"""The unfinished archive ``X.callic.partial``: who may write it, what it holds already, what is still to do.

It is the bag under construction plus a folder ``.run`` that vanishes before the final rename:

    .run/job.json     the settings; another command never goes on with them
    .run/lock         held (flock) by the running command, released by the system however that ends
    .run/stop         when it exists, workers end after the file in hand
    .run/claims/      one empty file a shard number, made with O_EXCL: two writers never share one
    .run/copies/      private copies of large files, while their pieces are packed
    .run/adapters/    adapters of the collection, so that going on does not train them again; and which models were fitted
                      to it, which lie where the archive will have them
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from callic_archive.archive.unfinished import PARTIAL, UnfinishedFolder
from callic_archive.container.bag import TAG_FILES
from callic_archive.container.fs import atomic_write, fsync_dir, writing
from callic_archive.errors import DestinationExists, OtherRun

_RUN = ".run"


class Staging(UnfinishedFolder):
    """The folder ``X.callic.partial`` of one run; a context manager that holds its lock."""

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
    def models(self) -> Path:
        """Where the archive's models will lie, and those that were fitted to the collection do already."""
        return self.data / "models"

    @property
    def copies(self) -> Path:
        """Private copies of large files."""
        return self.run / "copies"

    @property
    def stop_file(self) -> Path:
        """Its existence asks workers to end after the file in hand."""
        return self.run / "stop"

    # -- beginning and ending --------------------------------------------------------------------------------

    def open(self, settings: Mapping[str, Any]) -> bool:
        """Make the folder or take up the one that is there; True when there is something to go on with.

        Raises OtherRun when it belongs to a command with other ``settings`` or to one that is running now,
        and OutOfSpace or WriteFailure when it cannot be written.
        """
        resumed = self.run.is_dir()
        if not resumed and os.path.lexists(self.root) and not self._ended():
            raise OtherRun(
                f"{self.root} is there, and is no unfinished archive of this program: choose another destination, or move it away"
            )
        with writing(self.root):
            (self.run / "claims").mkdir(parents=True, exist_ok=True)  # first: it tells whose the folder is
            self.data.mkdir(exist_ok=True)
            self.adapters.mkdir(exist_ok=True)
            for shard in self.shards():
                (self.run / "claims" / shard.name.removesuffix(PARTIAL)).touch()
        self.take_lock(self.run / "lock")
        try:
            job = self.run / "job.json"
            wanted = json.loads(json.dumps(settings))
            if job.exists():
                self.compare_settings(self.read_settings(job), wanted)
            else:
                atomic_write(job, json.dumps(wanted, indent=1, sort_keys=True).encode())
            with writing(self.stop_file):
                self.stop_file.unlink(missing_ok=True)
                shutil.rmtree(self.copies, ignore_errors=True)  # of a run that was killed
                self.copies.mkdir(exist_ok=True)
        except BaseException:
            self.release()
            raise
        return resumed

    def _ended(self) -> bool:
        """Whether the folder is empty, or a finished bag: a run can be killed just before that gets its name."""
        with writing(self.root):
            found = set(os.listdir(self.root)) if self.root.is_dir() and not self.root.is_symlink() else {""}
        return found <= {"data", *TAG_FILES} and (not found or found >= TAG_FILES)

    def commit(self) -> None:
        """Make the staged bag the archive: remove ``.run``, rename, fsync. Nothing is visible under the name
        before.
        """
        self.committing()
        with writing(self.destination):
            shutil.rmtree(self.run)
            fsync_dir(self.root)
            if os.path.lexists(self.destination):
                raise DestinationExists(f"{self.destination} appeared while packing and is not replaced")
            os.rename(self.root, self.destination)
        fsync_dir(self.destination.parent)

    @property
    def began_ns(self) -> int:
        """When the first of the runs that this folder went through began, by the clock of its file system."""
        with writing(self.root):
            return (self.run / "job.json").stat().st_mtime_ns

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
