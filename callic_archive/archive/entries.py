"""One line of the index: what an entry is, and which records bring it back.

An ENTRY record says the same, shorter (``entry_record``), so a lost index is rebuilt by reading those.
``docs/format/archive.md`` describes the fields.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.content import MOST_EXTENTS, Extents
from callic_archive.archive.parts import MAX_SIZE, Part, check_digest, one_of, time_stamp, whole_number
from callic_archive.archive.pieces import Picture, PieceRow, pictures_from, pieces_from
from callic_archive.container.names import name_from_json, name_to_json
from callic_archive.errors import ContainerError, EntryDamaged

Json = Any
Fidelity = Literal["bytes", "content"]
Method = Literal["image", "stored", "sparse", "pieces", "none"]

_KINDS = ("file", "directory", "symlink")
_METHODS = ("image", "stored", "sparse", "pieces", "none")
_FIDELITIES = ("bytes", "content")
_REASON = re.compile(r"[a-z][a-z-]{0,31}")  # later versions may know more of them


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or symbolic link of an archive."""

    path: str
    kind: Literal["file", "directory", "symlink"]
    mode: int
    mtime_ns: int
    size: int = 0
    target: str | None = None
    sha256: str | None = None  # of the source file, of a sparse one see ``sparse_digest``; files only
    fidelity: Fidelity = "bytes"
    method: Method = "none"  # "none": nothing to store
    format: str | None = None  # image entries: format family,
    recipe: Mapping[str, Json] = field(default_factory=dict)  # how to put the file together again,
    content_sha256: str | None = None  # and digest of pixels, recipe and surrounding bytes
    parts: tuple[Part, ...] = ()
    problem: tuple[str, str] | None = None  # error code and sentence, where packing had to fall back
    reason: str | None = None  # a code of ``images.reasons``: why an image file is stored verbatim
    extents: Extents | None = None  # where the file has data; all else of it is a hole
    link: str | None = None  # path of the entry that is another name of the same file or symbolic link
    pieces: tuple[PieceRow, ...] = ()  # of a file that was cut into pieces

    @property
    def packed_size(self) -> int:
        """Bytes of the places that hold this entry's content, headers of records included; of a band set its share."""
        return sum(part.stored for part in self.parts)

    @property
    def is_image(self) -> bool:
        """Whether its images went through the codec."""
        return self.method in ("image", "pieces")

    @property
    def kept_as(self) -> str:
        """How a file is kept, in the word that every verb shows: its image format, ``jpeg``, ``jpegs``, ``stored``, ``sparse``
        or ``empty``."""
        if any(part.coding == "jpeg" for part in self.parts):
            return "jpeg"
        if (self.format is None or not self.images) and any(part.coding == "jpegs" for part in self.parts):
            return "jpegs"
        return self.format or ("empty" if self.method == "none" else self.method)

    @property
    def samples(self) -> int:
        """Samples of all its images."""
        return sum(part.stream.samples for part in self.parts if part.stream is not None)

    @property
    def images(self) -> tuple[StreamInfo | Picture, ...]:
        """Shape and type of each image that went through the codec; none of a file that did not."""
        if self.method == "pieces":
            return pictures_from(self.recipe)
        return tuple(part.stream for part in self.parts if part.stream is not None)

    def models(self) -> set[str]:
        """Digests of the models it needs."""
        return {digest for part in self.parts if part.stream is not None for digest in part.stream.models}

    def adapters(self) -> set[str]:
        """Digests of the adapters it needs that lie outside its codestreams."""
        return {digest for part in self.parts if part.stream is not None for digest in part.stream.adapters}

    def as_json(self) -> dict[str, Json]:
        """The index line. Fields that say nothing are left out."""
        row: dict[str, Json] = {
            **name_to_json(self.path),
            "kind": self.kind,
            "mode": self.mode,
            "mtime_ns": self.mtime_ns,
        }
        if self.kind == "symlink":
            row |= name_to_json(self.target or "", "target")
        if self.kind == "file":
            row |= {
                "size": self.size,
                "sha256": self.sha256,
                "fidelity": self.fidelity,
                "method": self.method,
                "parts": [part.as_json() for part in self.parts],
            }
        if self.extents is not None:
            row["extents"] = [list(extent) for extent in self.extents]
        if self.link is not None:
            row |= name_to_json(self.link, "link")
        if self.method == "image":
            row |= {
                "format": self.format,
                "recipe": dict(self.recipe),
                "content_sha256": self.content_sha256,
            }
        if self.method == "pieces":
            row |= {"format": self.format, "recipe": dict(self.recipe)}
            row["pieces"] = [piece.as_json() for piece in self.pieces]
        if self.problem is not None:
            row["problem"] = {"code": self.problem[0], "message": self.problem[1]}
        if self.reason is not None:
            row["reason"] = self.reason
        return row

    @classmethod
    def from_json(cls, row: object) -> Entry:
        """Check and read an index line. Raises EntryDamaged (E502), naming the path when it can be read."""
        if not isinstance(row, Mapping):
            raise EntryDamaged("an index line is not a JSON object")
        try:
            path = name_from_json(row)
        except ContainerError as error:
            raise EntryDamaged(f"an index line has no readable path: {error}") from error
        try:
            return cls._read(path, row)
        except (KeyError, TypeError, ValueError, ContainerError) as error:
            raise EntryDamaged(f"the index line of {path!r} is not valid: {error}") from error

    @classmethod
    def _read(cls, path: str, row: Mapping[str, Json]) -> Entry:
        kind = one_of(row, "kind", _KINDS)
        entry = cls(
            path,
            kind,
            whole_number(row["mode"], "mode", 0o7777),
            time_stamp(row["mtime_ns"]),
        )
        if "problem" in row:
            problem = row["problem"]
            entry = replace(entry, problem=(str(problem["code"]), str(problem["message"])))
        if kind == "symlink":
            link = name_from_json(row, "link") if "link" in row else None
            return replace(entry, target=name_from_json(row, "target"), link=link)
        if kind == "directory":
            return entry
        method = one_of(row, "method", _METHODS)
        entry = replace(
            entry,
            size=whole_number(row["size"], "size", MAX_SIZE),
            sha256=check_digest(row["sha256"]),
            fidelity=one_of(row, "fidelity", _FIDELITIES),
            method=method,
            parts=tuple(Part.from_json(part) for part in _list(row, "parts")),
        )
        if "reason" in row:
            entry = replace(entry, reason=_reason(row["reason"]))
        if "extents" in row:
            entry = replace(entry, extents=_extents(_list(row, "extents"), entry.size))
        if "link" in row:
            entry = replace(entry, link=name_from_json(row, "link"))
        if method in ("image", "pieces"):
            if not isinstance(row["recipe"], dict) or not isinstance(row["format"], str):
                raise ValueError("an image entry needs a format and a recipe")
            entry = replace(entry, format=row["format"], recipe=row["recipe"])
        if method == "image":
            entry = replace(entry, content_sha256=check_digest(row["content_sha256"]))
        elif method == "pieces":
            images = len(pictures_from(entry.recipe))
            pieces = pieces_from(row["pieces"], entry.size, images, len(entry.parts))
            entry = replace(entry, pieces=pieces)
        elif method == "sparse":
            if entry.extents is None or entry.fidelity != "bytes":
                raise ValueError("a sparse entry needs extents and comes back byte for byte")
            if sum(part.size for part in entry.parts) != sum(length for _, length in entry.extents):
                raise ValueError("its parts do not add up to its extents")
        elif sum(part.size for part in entry.parts) != entry.size:
            raise ValueError("its parts do not add up to its size")
        if method != "image" and any(p.stream is not None and p.stream.plane is not None for p in entry.parts):
            raise ValueError("only whole images are planes of a codestream")
        return entry


def relocated(entry: Entry, like: Entry) -> Entry:
    """``entry`` with the content, and so the records, of the entry ``like``, which has the same SHA-256."""
    return replace(
        like,
        path=entry.path,
        mode=entry.mode,
        mtime_ns=entry.mtime_ns,
        extents=like.extents if like.method == "sparse" else entry.extents,
        link=None,
    )


def share_of(entry: Entry, pieces: Iterable[int]) -> Entry:
    """``entry`` with some of its pieces alone (by number), and their parts."""
    starts = [0]
    for piece in entry.pieces:
        starts.append(starts[-1] + piece.parts)
    chosen = list(pieces)
    parts = tuple(part for n in chosen for part in entry.parts[starts[n] : starts[n + 1]])
    rows = tuple(entry.pieces[n] for n in chosen)
    exact: Fidelity = "content" if any(piece.fidelity == "content" for piece in rows) else "bytes"
    return replace(entry, pieces=rows, parts=parts, fidelity=exact)


def shares_of(entry: Entry, size: int) -> list[Entry]:
    """``entry`` as shares of at least ``size`` bytes of the file each, but for the last."""
    groups: list[list[int]] = [[]]
    taken = 0
    for number, piece in enumerate(entry.pieces):
        if taken >= size:
            groups.append([])
            taken = 0
        groups[-1].append(number)
        taken += piece.size
    return [share_of(entry, group) for group in groups]


def joined(entry: Entry, shares: Iterable[Entry]) -> Entry:
    """``entry`` with the pieces and parts of ``shares``, in the order of the file."""
    shares = sorted(shares, key=lambda share: share.pieces[0].first)
    return replace(
        entry,
        pieces=tuple(piece for share in shares for piece in share.pieces),
        parts=tuple(part for share in shares for part in share.parts),
        fidelity="content" if any(share.fidelity == "content" for share in shares) else "bytes",
        problem=next((share.problem for share in shares if share.problem is not None), entry.problem),
    )


def sparse_digest(size: int, extents: Extents) -> hashlib._Hash:
    """A SHA-256 that has taken in what comes before the data of a sparse file: ``[size,[[offset,length],...]]``.

    So the holes, of which there may be terabytes, cost nothing, and yet each has its say.
    """
    head = json.dumps([size, [list(extent) for extent in extents]], separators=(",", ":"))
    return hashlib.sha256(head.encode() + b"\n")


def _reason(value: Json) -> str:
    if not isinstance(value, str) or not _REASON.fullmatch(value):
        raise ValueError("its reason is no short code")
    return value


def _extents(values: list[Json], size: int) -> Extents:
    if len(values) > MOST_EXTENTS:
        raise ValueError(f"it has {len(values)} extents, more than {MOST_EXTENTS}")
    extents = []
    end = 0
    for value in values:
        offset, length = value
        if type(offset) is not int or type(length) is not int:
            raise TypeError("an extent is no pair of whole numbers")
        if offset < end or length < 1 or offset + length > size:
            raise ValueError("its extents overlap, are empty, or lie beyond its end")
        end = offset + length
        extents.append((offset, length))
    return tuple(extents)


def with_whole_digests(entry: Entry, known: Iterable[str]) -> Entry:
    """``entry`` with the whole digests of models and adapters where it has their first digits only."""

    def whole(starts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(next((d for d in known if d.startswith(start)), start) for start in starts)

    known = tuple(known)
    parts = []
    for part in entry.parts:
        stream = part.stream
        if stream is not None and (stream.models or stream.adapters):
            stream = replace(stream, models=whole(stream.models), adapters=whole(stream.adapters))
            part = replace(part, stream=stream)
        parts.append(part)
    return replace(entry, parts=tuple(parts))


def _list(row: Mapping[str, Json], name: str) -> list[Json]:
    if not isinstance(row[name], list):
        raise TypeError(f"{name} is not a list")
    return list(row[name])
