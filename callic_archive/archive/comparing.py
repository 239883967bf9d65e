"""An archive beside a tree: every difference in what an archive promises to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from callic_archive.archive.content import OpenFile, opened, read_source
from callic_archive.archive.entries import Entry, Fidelity, sparse_digest
from callic_archive.archive.reading import Archive, naming
from callic_archive.archive.rejoining import check_whole, same_pieces
from callic_archive.archive.scan import Problem, Scan, Source, scan
from callic_archive.errors import (
    CallicError,
    EnvironmentFailure,
    ForeignCodecMissing,
    ReadFailure,
    SpecialFile,
    TorchacUnavailableError,
    TreeDiffers,
)
from callic_archive.images.source import Parsed, images_equal, parse

_KINDS = {"file": "a file", "directory": "a folder", "symlink": "a link"}


@dataclass(frozen=True)
class Scope:
    """What is compared: kinds, link targets and contents always."""

    metadata: bool = True  # modes, times, and which names are one file


def compare_with(
    archive: Archive,
    entries: Sequence[Entry],
    tree: Path,
    watch: Callable[[Entry], None],
    scope: Scope | None = None,
) -> Iterator[Problem]:
    """Differences between the archive and the tree that holds its top folders; also what either lacks.

    ``entries`` are those whose contents are compared; all others of ``archive`` are still looked for. Set-id
    bits of files are left out, since unpacking does not give them back. Raises EnvironmentFailure.
    """
    scope = scope or Scope()
    known = {entry.path for entry in archive.entries}
    chosen = {entry.path for entry in entries}
    found = _scan(tree, known)
    there = {source.path: source for source in found.sources}
    links = _Links(there) if scope.metadata else None
    for entry in archive.entries:
        source = there.get(entry.path)
        if source is None:
            yield _problem(entry.path, "it is missing in the tree")
        else:
            for difference in _differences(archive, entry, source, scope, entry.path in chosen):
                yield _problem(entry.path, difference)
            apart = links.difference(entry) if links is not None else None
            if apart is not None:
                yield _problem(entry.path, apart)
        if entry.path in chosen:
            watch(entry)
    for source in found.sources:
        if source.path not in known:
            yield _problem(source.path, "it is in the tree and not in the archive")
    # of pipes and the like archives hold nothing; where one stands for an entry, that is missing already
    yield from (p for p in found.problems if p.kept is False and p.code != SpecialFile.code)


def _problem(path: str, difference: str) -> Problem:
    return Problem.of(path, TreeDiffers(difference), kept=False)


def _scan(tree: Path, known: set[str]) -> Scan:
    """What lies in the tree under the names of the archive's tops, and nothing beside them."""
    tops = sorted({path.split("/", 1)[0] for path in known} - {"", ".", ".."})
    result = Scan()
    for top in tops:
        if (tree / top).is_symlink() or (tree / top).exists():
            one = scan([str(tree / top)])
            result.sources += one.sources
            result.problems += one.problems
    return result


class _Links:
    """Which names are one file, in the tree and in the archive."""

    def __init__(self, there: dict[str, Source]) -> None:
        self._there = there
        self._leaders: dict[tuple[int, int], Entry] = {}

    def difference(self, entry: Entry) -> str | None:
        """What is wrong with the name of a file; leaders come before the names that link to them or not at
        all.
        """
        source = self._there[entry.path]
        if entry.kind != source.kind or entry.kind == "directory":
            return None
        one = "one file" if entry.kind == "file" else "one link"
        if entry.link is not None:
            leader = self._there.get(entry.link)
            if leader is None or leader.identity != source.identity:
                return f"it is {one} with {entry.link!r} in the archive, and not in the tree"
            return None
        if source.names < 2:
            return None
        other = self._leaders.setdefault(source.identity, entry)
        if other is not entry:
            return f"it is {one} with {other.path!r} in the tree, and not in the archive"
        return None


def _differences(
    archive: Archive, entry: Entry, source: Source, scope: Scope, content: bool
) -> Iterator[str]:
    if entry.kind != source.kind:
        yield f"it is {_KINDS[entry.kind]} in the archive and {_KINDS[source.kind]} in the tree"
        return
    if entry.kind == "symlink" and entry.target != source.target:
        yield f"it is a link to {entry.target!r} in the archive and to {source.target!r} in the tree"
    if scope.metadata:
        promised = 0o1777 if entry.kind == "file" else 0o3777
        if entry.kind != "symlink" and (entry.mode ^ source.mode) & promised:
            yield f"its mode is {entry.mode:04o} in the archive and {source.mode:04o} in the tree"
        if entry.mtime_ns != source.mtime_ns:
            apart = (source.mtime_ns - entry.mtime_ns) / 1e9
            yield f"its time of modification is {apart:+.9f} s from that in the archive"
    if entry.kind == "file" and content:
        try:
            difference, _ = content_difference(archive, entry, source.file)
        except OSError as error:
            difference = f"it cannot be read in the tree: {error.strerror or error}"
        except (ForeignCodecMissing, TorchacUnavailableError) as error:
            difference = f"its pixels cannot be compared: {error}"
        if difference is not None:
            yield difference


def content_difference(
    archive: Archive, entry: Entry, path: str, fidelity: Fidelity | None = None
) -> tuple[str | None, Fidelity]:
    """In what way a file does not hold what the entry does, in words, or None; and how well it could.

    Of an entry whose ``fidelity`` (its own, where none is given) is ``content``, equal pixels and metadata are enough.
    Raises OSError, ForeignCodecMissing, TorchacUnavailableError, EnvironmentFailure.
    """
    fidelity = fidelity or entry.fidelity
    with opened(path) as file:
        if file.size != entry.size and fidelity == "bytes":
            return f"it has {entry.size} bytes in the archive and {file.size} in the tree", fidelity
        if same_bytes(entry, file):
            return None, "bytes"
    if fidelity == "content":
        same = _same_content(archive, entry, path)
        return None if same else "its pixels or metadata differ in the tree", fidelity
    return "it has the same size and other bytes in the tree", fidelity


def same_bytes(entry: Entry, file: OpenFile) -> bool:
    """Whether a file has every byte of the source of ``entry``. Raises OSError."""
    if entry.method != "sparse":
        digest = hashlib.sha256()
        for piece in file.pieces():
            digest.update(piece)
        return digest.hexdigest() == entry.sha256
    extents = entry.extents or ()
    digest = sparse_digest(entry.size, extents)
    for piece in file.pieces(extents):
        digest.update(piece)
    return digest.hexdigest() == entry.sha256 and _holes_are_empty(file, entry)


def _holes_are_empty(file: OpenFile, entry: Entry) -> bool:
    """Whether a file holds zeros wherever the entry has holes; holes of the file itself are not read."""
    data = ((0, file.size),) if file.extents is None else file.extents
    ends = [0, *(offset + length for offset, length in entry.extents or ())]
    begins = [*(offset for offset, _ in entry.extents or ()), entry.size]
    number = 0
    for begin, end in zip(ends, begins, strict=True):
        while number < len(data) and sum(data[number]) <= begin:
            number += 1
        at = number
        while at < len(data) and data[at][0] < end:
            start, stop = max(begin, data[at][0]), min(end, sum(data[at]))
            for piece in file.pieces(((start, stop - start),)):
                if piece.count(0) != len(piece):
                    return False
            at += 1
    return True


def _same_content(archive: Archive, entry: Entry, path: str) -> bool:
    """Whether a file that may come back with other compressed bytes holds the packed pixels and metadata."""
    try:
        if entry.method == "pieces":
            with opened(path) as file, naming(entry):
                check_whole(entry)
                return file.size == entry.size and same_pieces(
                    archive, entry, lambda spans: b"".join(file.pieces(tuple(spans)))
                )
        found = parse(read_source(path)[0])
        if found is None:
            return False
        surround, images = archive.pieces(entry)
    except (ForeignCodecMissing, TorchacUnavailableError):
        raise
    except EnvironmentFailure as error:
        if isinstance(error, ReadFailure):
            return False
        raise
    except CallicError:
        return False
    known = Parsed(entry.format or "", "content", tuple(images), surround, dict(entry.recipe), found.volatile)
    return images_equal(known, found)
