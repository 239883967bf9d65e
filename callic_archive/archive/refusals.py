"""Entries that are restored nowhere, whatever the destination: no packer writes such, so an index may be hostile.

``unpack`` refuses them before anything is written, and ``verify`` names them by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from callic_archive.archive.entries import Entry
from callic_archive.archive.links import is_other_name
from callic_archive.archive.scan import Problem
from callic_archive.container.names import check_relative
from callic_archive.errors import UnsafeEntry, UnsafePath


def refusals(entries: Iterable[Entry]) -> dict[str, Problem]:
    """By path the problem of each entry that is refused. ``entries`` are all of the archive, in the order of their
    paths.
    """
    known = {entry.path: entry for entry in entries}
    through: dict[str, str] = {}  # path of a folder -> what is no folder on the way to it
    found = {}
    for entry in known.values():
        above = next((path for path in _above(entry.path) if path in known), None)
        if above is not None and (above in through or known[above].kind != "directory"):
            through[entry.path] = through.get(above, above)
        reason = _reason(entry, known, through.get(entry.path))
        if reason is not None:
            found[entry.path] = Problem.of(entry.path, UnsafeEntry(reason), kept=False)
    return found


def _reason(entry: Entry, known: Mapping[str, Entry], through: str | None) -> str | None:
    try:
        check_relative(entry.path)
    except UnsafePath as error:
        return str(error)
    if through is not None:
        return f"its path leads through {through!r}, which is no folder of this archive; it is refused"
    if entry.kind == "symlink" and (not entry.target or "\0" in entry.target):
        return "it is a symbolic link with an empty target or one with a NUL byte; it is refused"
    if entry.link is None:
        return None
    wrong = _wrong_link(entry, known.get(entry.link))
    return wrong and f"it claims to be another name of {entry.link!r}, {wrong}; it is refused"


def _wrong_link(entry: Entry, leader: Entry | None) -> str | None:
    if leader is None or leader.kind != entry.kind:
        return f"which is no {entry.kind} of this archive"
    if leader.link is not None:
        return "which is itself another name"
    return None if is_other_name(entry, leader) else "which is another file"


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rsplit("/", 1)[0]
        yield path
