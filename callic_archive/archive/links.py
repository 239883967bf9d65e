"""Which file brings back which names: hard links of a selection, and names that a destination mixes up."""

from __future__ import annotations

import os
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from callic_archive.archive.entries import Entry
from callic_archive.archive.scan import Problem
from callic_archive.container.fs import writing
from callic_archive.errors import UnsafeEntry


@dataclass(frozen=True)
class LinkPlan:
    """What is written, and what is linked to it afterwards."""

    files: tuple[Entry, ...]
    links: tuple[Entry, ...]  # each with the path of one of ``files``


def plan_links(wanted: Iterable[Entry]) -> LinkPlan:
    """Sort files by how they come back; none is among them that is refused (``refusals``).

    Where the first name of a file is not wanted, the next one that is takes its place.
    """
    files: list[Entry] = []
    links: list[Entry] = []
    leaders: dict[str, str] = {}
    wanted = [entry for entry in wanted if entry.kind == "file"]
    for entry in wanted:
        if entry.link is None:
            files.append(entry)
            leaders[entry.path] = entry.path
    for entry in wanted:
        if entry.link is None:
            continue
        if entry.link in leaders:
            links.append(replace(entry, link=leaders[entry.link]))
        else:
            leaders[entry.link] = entry.path
            files.append(replace(entry, link=None))
    return LinkPlan(tuple(files), tuple(links))


def is_other_name(entry: Entry, leader: Entry) -> bool:
    """Whether ``entry`` can be another name of ``leader``.

    The mode is that of the file: a run that went on may have found it changed after one record was written.
    """
    return replace(leader, path=entry.path, link=entry.link, mode=entry.mode) == entry


def without_mixed_up(entries: Sequence[Entry], destination: Path) -> tuple[list[Entry], list[Problem]]:
    """Entries that can stand side by side in ``destination``, and the problems of the others.

    Where a file system takes ``A`` and ``a`` for one name, the second would replace the first, or be written
    through it. Raises EnvironmentFailure when the destination cannot be made.
    """
    first: dict[str, Entry] = {}
    mixed: dict[str, Entry] = {}  # path -> the entry that has the name already
    for entry in entries:
        other = first.setdefault(_folded(entry.path), entry)
        if other is not entry and not other.kind == entry.kind == "directory":
            mixed[entry.path] = other
    if not mixed or _tells_case_apart(destination):
        return list(entries), []
    problems = []
    for path, other in mixed.items():
        text = f"its name differs from {other.path!r} only in a way that the destination does not tell apart"
        problems.append(Problem.of(path, UnsafeEntry(text), kept=False))
    return [entry for entry in entries if entry.path not in mixed], problems


def _folded(path: str) -> str:
    return path if path.isascii() and path.islower() else unicodedata.normalize("NFC", path).casefold()


def _tells_case_apart(destination: Path) -> bool:
    with writing(destination):
        destination.mkdir(parents=True, exist_ok=True)
        name = f".callic-{secrets.token_hex(8)}"
        probe = destination / f"{name}x"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        return not os.path.lexists(destination / f"{name}X")
    finally:
        with suppress(OSError):
            probe.unlink()
