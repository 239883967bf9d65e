"""The folder ``MODEL.partial`` of an unfinished training: who may go on with it, and its checkpoint.

job.json          the settings; another command never goes on with them
lock              held (flock) by the running command, released by the system however that ends
checkpoint.pt     everything needed to go on
log.jsonl         one line a report
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callic_archive.archive.unfinished import UnfinishedFolder
from callic_archive.container.fs import atomic_write, fsync_dir, fsync_file, writing
from callic_archive.errors import DamagedCheckpoint, DestinationExists


class TrainingFolder(UnfinishedFolder):
    """Where a model is trained."""

    @property
    def checkpoint(self) -> Path:
        """Where training saves itself."""
        return self.root / "checkpoint.pt"

    def open(self, settings: Mapping[str, Any]) -> bool:
        """Make the folder or take up the one that is there; True when there is a checkpoint to go on from.

        Raises OtherRun, DamagedCheckpoint, OutOfSpace, WriteFailure.
        """
        with writing(self.root):
            self.root.mkdir(exist_ok=True)
        self.take_lock(self.root / "lock")
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
        self.compare_settings(found, wanted)

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log. Raises OutOfSpace, WriteFailure."""
        path = self.root / "log.jsonl"
        with writing(path), path.open("a") as stream:
            stream.write(json.dumps(dict(line)) + "\n")

    def commit(self, model: Path) -> None:
        """Give the finished file ``model``, which lies in the folder, its name, and remove the folder."""
        fsync_file(model)
        self.committing()
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
