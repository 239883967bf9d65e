"""Where files may be written: asked before anything is begun, so that what is refused costs nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from callic_archive.archive.entries import Entry
from callic_archive.archive.reading import INDEX
from callic_archive.archive.resuming import link_restored, names_of, seems_restored
from callic_archive.archive.unfinished import PARTIAL
from callic_archive.container.names import check_relative, safe_join
from callic_archive.errors import ContainerError, DestinationExists, UsageError

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


def check_destination(
    entries: Iterable[Entry],
    destination: Path,
    *,
    overwrite: bool = False,
    advice: str = "unpack to an empty folder, or allow it with --overwrite",
) -> int:
    """How many files are there that an earlier run may have restored.

    Raises DestinationExists when something is in the way: a link or file where a folder would be, or, unless ``overwrite`` says
    so, what would be replaced; ``advice`` says what to do about that.
    """
    entries = list(entries)
    blocked = list(_no_folders(entries, destination))
    if blocked:
        raise _in_the_way(
            blocked, "no folder, as the archive has there, and neither followed nor replaced; unpack to an empty folder"
        )
    if overwrite:
        return 0
    others, there = _existing(entries, destination)
    if others:
        raise _in_the_way(others, f"there already and not replaced; {advice}")
    return there


def _in_the_way(paths: list[str], text: str) -> DestinationExists:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    error = DestinationExists(f"{', '.join(paths[:_SHOWN])}{more} {'are' if len(paths) > 1 else 'is'} {text}")
    error.paths = tuple(paths[:_SHOWN])
    return error


def _existing(entries: Sequence[Entry], destination: Path) -> tuple[list[str], int]:
    """What is where files and links would be written and is something else; and how many files may be what was."""
    others, there = [], 0
    names = names_of(entries)
    for entry in entries:
        if entry.kind == "directory":
            continue
        try:
            path = safe_join(destination, entry.path)
            info = os.lstat(path)
        except (ContainerError, OSError):
            continue  # not there, or refused later, by name
        if entry.kind == "file" and seems_restored(entry, info, names.get(entry.path, 1)):
            there += 1
        elif entry.kind == "file" or not link_restored(entry, path):
            others.append(str(path))
    return others, there


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
