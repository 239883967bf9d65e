"""Where files may be written: asked before anything is begun, so that what is refused costs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from callic_archive.archive.entries import Entry
from callic_archive.archive.reading import INDEX
from callic_archive.archive.unfinished import PARTIAL
from callic_archive.container.fs import safe_join
from callic_archive.errors import ContainerError, DestinationExists, MissingPath, UsageError

_SHOWN = 3  # existing files named in a refusal
_SIGNS = (INDEX, "shard-00000.cla", f"shard-00000.cla{PARTIAL}")  # one of them lies in the folder data of each archive


def check_outside(path: Path, archive: Path | None = None) -> None:
    """Raise UsageError where ``path`` would lie in an archive, finished or not: with a file that its manifest does not
    list none is what was packed. ``archive`` is one, whatever is left of it.
    """
    place, own = Path(os.path.realpath(path)), archive and Path(os.path.realpath(archive))
    for folder in (place, *place.parents):
        if folder == own or any(os.path.lexists(folder / "data" / name) for name in _SIGNS):
            error = UsageError(f"{path} lies in the archive {folder} itself, where nothing is written; choose another place")
            error.paths = (str(folder),)
            raise error


def check_file(path: Path) -> None:
    """Raise UsageError or MissingPath where no file can be written at ``path``."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it: {path / 'NAME'}")
    if not path.parent.is_dir():
        raise MissingPath(f"{path.parent} is no folder, so {path.name} cannot be written in it")


def check_destination(
    entries: Iterable[Entry], destination: Path, advice: str = "unpack to an empty folder, or allow it with --overwrite"
) -> None:
    """Raise DestinationExists, with ``advice``, when a file or link that would be written is there already."""
    found = []
    for entry in entries:
        if entry.kind != "directory":
            try:
                path = safe_join(destination, entry.path)
            except ContainerError:
                continue  # refused later, by name
            if os.path.lexists(path):
                found.append(str(path))
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        error = DestinationExists(
            f"{', '.join(found[:_SHOWN])}{more} exist already and are not replaced; {advice}"
        )
        error.paths = tuple(found[:_SHOWN])
        raise error
