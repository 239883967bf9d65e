"""What lies in a destination already: an earlier run restored it, if it is what the archive has, and it is left as it is.

So the same command goes on where a stopped one was, and nothing is ever replaced for that. Two looks: one at the names,
before anything is written, and one at all bytes when the file's turn has come.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from callic_archive.archive.comparing import content_difference
from callic_archive.archive.entries import Entry, Fidelity
from callic_archive.archive.reading import Archive
from callic_archive.container.extraction import ExtractionRoot, Identity, identity_of
from callic_archive.errors import ReadFailure

_COARSE = 2 * 10**9  # ns; the coarsest times that file systems keep


def names_of(entries: Iterable[Entry]) -> dict[str, int]:
    """How many names each file with several has, by each of its paths."""
    files = [entry for entry in entries if entry.kind == "file"]
    counts = Counter(entry.link or entry.path for entry in files)
    return {e.path: counts[e.link or e.path] for e in files if counts[e.link or e.path] > 1}


def seems_restored(entry: Entry, info: os.stat_result, names: int = 1) -> bool:
    """Whether a file may be that of the entry, without a look at its bytes.

    It must be our own, and have no name beside those of the archive: whoever writes to one name writes to all.
    """
    return (
        stat.S_ISREG(info.st_mode)
        and (info.st_size == entry.size or entry.is_image)  # of these the compressed bytes may be others
        and stat.S_IMODE(info.st_mode) == entry.mode & 0o1777
        and abs(info.st_mtime_ns - entry.mtime_ns) < _COARSE
        and info.st_uid == os.geteuid()
        and info.st_nlink <= names
    )


def link_restored(entry: Entry, path: Path) -> bool:
    """Whether ``path`` is the symbolic link of the entry."""
    return path.is_symlink() and os.readlink(path) == entry.target


def restored_already(
    archive: Archive, root: ExtractionRoot, entry: Entry, names: int = 1
) -> tuple[Fidelity, Identity] | None:
    """Fidelity and identity of the entry's file where it lies in ``root`` already, and all of it is right.

    Raises SymlinkInPath, UnsafePath, EnvironmentFailure, and what reading the entry raises.
    """
    info = root.look(entry.path)
    if info is None or not seems_restored(entry, info, names):
        return None
    enough: Fidelity = "content" if entry.is_image else entry.fidelity
    try:
        difference, fidelity = content_difference(archive, entry, str(root.root / entry.path), enough)
    except (OSError, ReadFailure):
        return None
    now = root.look(entry.path)
    if difference is not None or now is None or identity_of(now) != identity_of(info):
        return None
    return fidelity, identity_of(now)
