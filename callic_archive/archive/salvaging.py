"""What is left of a damaged or unfinished archive: found by reading everything, believing nothing twice.

Nothing in the archive is changed. Entries come from the lines of the index as far as it can be read, and from
the ENTRY records of all shards; the version whose records are whole wins. What a whole index does not list is
left where it is: a run that was stopped had packed it, and its source had gone or changed when that went on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from callic_archive.archive.entries import Entry, joined, with_whole_digests
from callic_archive.archive.entry_record import decode_entry
from callic_archive.archive.links import is_other_name
from callic_archive.archive.pieces import covers
from callic_archive.archive.reading import COPIES, INDEX, MODEL_SUFFIX, MODELS, Contents, contents_of
from callic_archive.archive.scan import Problem
from callic_archive.archive.unfinished import PARTIAL
from callic_archive.container.index import read_index
from callic_archive.container.layout import PARTIAL_SUFFIX, RecordRef, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.container.scan import Damage
from callic_archive.errors import (
    CallicError,
    ContainerError,
    EntryDamaged,
    IndexDamaged,
    MissingPath,
    NotAnArchive,
    ShardNotSealed,
)

_CONTENT = (RecordType.STORED, RecordType.SURROUND, RecordType.CODESTREAM)


@dataclass(frozen=True)
class Orphan:
    """A whole record of content whose entry nothing tells of any more; ``key`` was the file's path."""

    ref: RecordRef
    key: str


@dataclass
class Survey:
    """What is there."""

    root: Path
    unfinished: bool
    contents: Contents = field(default_factory=Contents)  # entries of which every record is whole
    damaged: list[Entry] = field(default_factory=list)  # files of which records are missing or broken
    orphans: list[Orphan] = field(default_factory=list)
    whole: set[RecordRef] = field(default_factory=set)
    damage: list[Damage] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    index_whole: bool = False
    unlisted: list[str] = field(default_factory=list)  # paths that a whole index of a finished archive leaves out

    @property
    def authoritative(self) -> bool:
        """Whether what the index does not list is not part of the archive."""
        return self.index_whole and not self.unfinished

    @property
    def unknown(self) -> int | None:
        """Entries that the archive once had and of which nothing is left; None when nobody can tell."""
        if self.index_whole:
            return 0
        header = self.contents.header
        return None if header is None else max(0, header.entries - len(self.contents.entries) - len(self.damaged))


def survey(root: Path, progress: Callable[[int], None] = lambda size: None) -> Survey:
    """Look through everything in ``root``; ``progress`` hears the size of each shard that was read.

    Raises MissingPath, and NotAnArchive when there are no shards at all or the format is a newer one.
    """
    root = _place(root)
    data = root / "data"
    shards = sorted(
        p for p in data.glob("shard-*.cla*") if p.name.endswith((".cla", ".cla" + PARTIAL_SUFFIX))
    )
    if not shards and not (data / INDEX).exists():
        raise NotAnArchive(f"{root} holds neither data/{INDEX} nor shards, so there is nothing to salvage")
    result = Survey(root, unfinished=root.name.endswith(PARTIAL) or (root / ".run").is_dir())
    indexed = _read_index(data / INDEX, result)
    found: dict[str, list[Entry]] = defaultdict(list)
    pieces: dict[str, list[Entry]] = defaultdict(list)
    keys: dict[RecordRef, str] = {}
    for path in shards:
        _read_shard(path, result, found, pieces, keys)
        progress(path.stat().st_size)
    for name, shares in pieces.items():
        found[name][:0] = _joined(shares)  # before entries that tell of all pieces
    models = (
        path.name.removesuffix(MODEL_SUFFIX)
        for folder in (MODELS, COPIES)
        for path in (data / folder).glob(f"*{MODEL_SUFFIX}")
    )
    _recognise(indexed, found, {*models, *result.contents.adapters})
    if result.authoritative:
        result.unlisted = _as_listed(indexed, found)
    _choose(indexed, found, result)
    entries = [*result.contents.entries, *result.damaged]
    known = {part.ref for entry in entries for part in entry.parts}
    # the first place of a base is content of some file, the others are copies of that
    known |= {p.ref for e in entries for part in e.parts if part.base for p in part.base.places[1:]}
    named = {entry.path for entry in entries}
    result.orphans = [
        Orphan(ref, key)
        for ref, key in keys.items()
        if not result.authoritative  # all that counts is listed
        and ref not in known
        and key not in named  # of a named path: an earlier attempt at the same file
    ]
    return result


def _place(root: Path) -> Path:
    if not root.exists():
        partial = root.with_name(root.name + PARTIAL)
        if not partial.is_dir():
            raise MissingPath(f"{root} does not exist; check the spelling")
        return partial
    if not (root / "data").is_dir():
        raise NotAnArchive(f"{root} has no folder data with shards; put what is left of them into one")
    return root


def _read_index(path: Path, result: Survey) -> dict[str, Entry]:
    """Entries of the index, as far as it can be read. Raises NotAnArchive for a newer format."""
    contents = result.contents
    try:
        if not path.is_file():
            raise IndexDamaged("the file is missing")
        contents_of(read_index(path), contents)
        result.index_whole = not contents.problems
    except ContainerError as error:
        if not result.unfinished:
            text = f"{INDEX} is not whole ({error}); entries were looked for in the shards"
            result.problems.append(Problem(f"data/{INDEX}", error.code, text, kept=True, exit_code=0))
    result.problems += contents.problems
    contents.problems = []
    entries, contents.entries = contents.entries, []
    return {entry.path: entry for entry in entries}


def _read_shard(
    path: Path,
    result: Survey,
    found: dict[str, list[Entry]],
    pieces: dict[str, list[Entry]],
    keys: dict[RecordRef, str],
) -> None:
    try:
        with ShardReader(path) as reader:
            for item in reader.scan():
                if isinstance(item, Damage):
                    if not (item.code == ShardNotSealed.code and path.name.endswith(PARTIAL_SUFFIX)):
                        result.damage.append(item)
                    continue
                result.whole.add(item.ref)
                if item.ref.type is RecordType.ADAPTER:
                    result.contents.adapters[item.key] = item.ref
                elif item.ref.type in (RecordType.ENTRY, RecordType.PIECE):
                    into = found if item.ref.type is RecordType.ENTRY else pieces
                    try:
                        payload = reader.read(item.ref, key=item.key)
                        into[item.key].append(decode_entry(payload, item.key, item.ref))
                    except (ContainerError, EntryDamaged) as error:
                        result.problems.append(Problem.of(item.key or f"data/{path.name}", error, kept=False))
                elif item.ref.type in _CONTENT:
                    keys[item.ref] = item.key
    except CallicError as error:
        text = f"nothing of it can be read: {error}"
        result.problems.append(Problem(f"data/{path.name}", error.code, text, kept=False, exit_code=3))


def _recognise(indexed: dict[str, Entry], found: dict[str, list[Entry]], digests: set[str]) -> None:
    """Give models and adapters that ENTRY records name by their first digits their whole digests, where these
    are known, so that entries of both sources can be compared.
    """
    for entry in indexed.values():
        digests |= entry.models() | entry.adapters()
    for path, versions in found.items():
        found[path] = [with_whole_digests(entry, digests) for entry in versions]


def _as_listed(indexed: dict[str, Entry], found: dict[str, list[Entry]]) -> list[str]:
    """Drop from ``found`` what the index does not list, paths and earlier contents; the paths, sorted."""
    unlisted = sorted(set(found) - set(indexed))
    for path in unlisted:
        del found[path]
    for path, versions in found.items():
        found[path] = [v for v in versions if _content(v) == _content(indexed[path])]
    return unlisted


def _content(entry: Entry) -> tuple[object, ...]:
    return entry.kind, entry.size, entry.sha256, entry.target


def _is_whole(entry: Entry, whole: set[RecordRef]) -> bool:
    """Whether all its records are, and of each base one; and of a large file all its pieces are there."""
    return (entry.method != "pieces" or covers(entry.pieces, entry.size)) and all(
        part.ref in whole and (part.base is None or any(place.ref in whole for place in part.base.places))
        for part in entry.parts
    )


def _joined(shares: list[Entry]) -> list[Entry]:
    """Large files of one path as far as their pieces are there: of an unfinished archive, or a lost entry."""
    files: dict[tuple[int, str | None], dict[int, Entry]] = defaultdict(dict)
    for share in shares:
        if len(share.pieces) == 1:
            files[share.size, share.sha256].setdefault(share.pieces[0].first, share)
    return [joined(next(iter(some.values())), some.values()) for some in files.values()]


def _choose(indexed: dict[str, Entry], found: dict[str, list[Entry]], result: Survey) -> None:
    """For each path the entry to restore: that of the index, else the latest of which all is whole."""
    for path in sorted({*indexed, *found}, key=lambda path: path.encode("utf-8", "surrogateescape")):
        versions = [*([indexed[path]] if path in indexed else []), *reversed(found.get(path, []))]
        if not versions:
            continue  # its record is whole and says nothing that can be read; that was told where it lies
        whole = next((entry for entry in versions if _is_whole(entry, result.whole)), None)
        if whole is not None:
            result.contents.entries.append(whole)
        else:
            result.damaged.append(versions[0])
    result.contents.entries = relinked(result.contents.entries)


def relinked(entries: Iterable[Entry]) -> list[Entry]:
    """Entries with those links alone whose first name is among them; others come back on their own."""
    entries = list(entries)
    known = {entry.path: entry for entry in entries if entry.link is None}
    result = []
    for entry in entries:
        leader = known.get(entry.link or "")
        if entry.link is not None and (leader is None or not is_other_name(entry, leader)):
            entry = replace(entry, link=None)
            known[entry.path] = entry
        result.append(entry)
    return result
