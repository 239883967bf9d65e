"""Where files may be written: asked before anything is begun, so that what is refused costs nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from callic_archive.archive.entries import Entry
from callic_archive.archive.reading import INDEX
from callic_archive.archive.unfinished import PARTIAL
from callic_archive.container.fs import check_relative, safe_join
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


def check_folder(path: Path) -> None:
    """Raise UsageError where ``path`` is no folder, and none can be made there."""
    for place in (path, *path.parents):
        if os.path.lexists(place):
            if not place.is_dir():
                error = UsageError(f"{place} is no folder, so nothing can be restored below {path}; choose another place")
                error.paths = (str(place),)
                raise error
            return


def check_destination(
    entries: Iterable[Entry],
    destination: Path,
    *,
    overwrite: bool = False,
    advice: str = "unpack to an empty folder, or allow it with --overwrite",
) -> None:
    """Raise DestinationExists when something is in the way: a link or file where a folder would be, or, unless
    ``overwrite`` says so, what would be replaced; ``advice`` says what to do about that.
    """
    entries = list(entries)
    blocked = list(_no_folders(entries, destination))
    if blocked:
        raise _in_the_way(
            blocked, "no folder, as the archive has there, and neither followed nor replaced; unpack to an empty folder"
        )
    found = [] if overwrite else list(_existing(entries, destination))
    if found:
        raise _in_the_way(found, f"there already and not replaced; {advice}")


def _in_the_way(paths: list[str], text: str) -> DestinationExists:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    error = DestinationExists(f"{', '.join(paths[:_SHOWN])}{more} {'are' if len(paths) > 1 else 'is'} {text}")
    error.paths = tuple(paths[:_SHOWN])
    return error


def _existing(entries: Iterable[Entry], destination: Path) -> Iterator[str]:
    """Files and links that would be written and are there."""
    for entry in entries:
        if entry.kind != "directory":
            try:
                path = safe_join(destination, entry.path)
            except ContainerError:
                continue  # refused later, by name
            if os.path.lexists(path):
                yield str(path)


def _no_folders(entries: Iterable[Entry], destination: Path) -> Iterator[str]:
    """What is there, and is no folder, where the entries have folders."""
    there = {"": True}  # by path: whether a folder is there
    for entry in entries:
        try:
            check_relative(entry.path)
        except ContainerError:
            continue  # refused later, by name
        folder = entry.path if entry.kind == "directory" else entry.path.rpartition("/")[0]
        new = []
        while folder not in there:
            new.append(folder)
            folder = folder.rpartition("/")[0]
        for path in reversed(new):
            mode = _mode(destination / path) if there[folder] else None
            there[path] = mode is not None and stat.S_ISDIR(mode)
            if mode is not None and not there[path]:
                yield str(destination / path)
            folder = path


def _mode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return None  # it is not there, or nobody can tell; then the entry will say so
