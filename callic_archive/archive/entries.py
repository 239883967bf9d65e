"""One line of the index: what an entry is, and which records bring it back.

The same JSON object is the payload of the entry's ENTRY record, so a lost index is rebuilt by reading those.
``docs/format/archive.md`` describes the fields.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.content import MOST_EXTENTS, Extents
from callic_archive.container.fs import name_from_json, name_to_json
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.errors import ContainerError, EntryDamaged

Json = Any
Fidelity = Literal["bytes", "content"]
Method = Literal["image", "stored", "sparse", "none"]

_HEX64 = re.compile(r"[0-9a-f]{64}")
_KINDS = ("file", "directory", "symlink")
_METHODS = ("image", "stored", "sparse", "none")
_FIDELITIES = ("bytes", "content")
_CODINGS = ("raw", "zstd", "codestream")
MAX_SIZE = 1 << 62


@dataclass(frozen=True, slots=True)
class Part:
    """One record of an entry."""

    ref: RecordRef
    coding: Literal["raw", "zstd", "codestream"]
    size: int  # bytes before coding; of a codestream: bytes of samples
    stream: StreamInfo | None = None


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
    extents: Extents | None = None  # where the file has data; all else of it is a hole
    link: str | None = None  # path of the entry that is another name of the same file

    @property
    def packed_size(self) -> int:
        """Bytes of the records that hold this entry's content, headers included."""
        return sum(part.ref.length for part in self.parts)

    @property
    def samples(self) -> int:
        """Samples of all its images."""
        return sum(part.stream.samples for part in self.parts if part.stream is not None)

    @property
    def images(self) -> tuple[StreamInfo, ...]:
        """Shape, type and needs of each image that went through the codec; none of a file that did not."""
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
                "parts": [_part_json(part) for part in self.parts],
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
        if self.problem is not None:
            row["problem"] = {"code": self.problem[0], "message": self.problem[1]}
        return row

    def to_bytes(self) -> bytes:
        """The payload of the ENTRY record."""
        return json.dumps(self.as_json(), sort_keys=True, separators=(",", ":")).encode()

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
    def from_bytes(cls, payload: bytes) -> Entry:
        """Read the payload of an ENTRY record. Raises EntryDamaged (E502)."""
        try:
            row = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise EntryDamaged(f"an ENTRY record is not JSON: {error}") from error
        return cls.from_json(row)

    @classmethod
    def _read(cls, path: str, row: Mapping[str, Json]) -> Entry:
        kind = _one_of(row, "kind", _KINDS)
        entry = cls(path, kind, _integer(row, "mode", 0o7777), _integer(row, "mtime_ns", None))
        if "problem" in row:
            problem = row["problem"]
            entry = replace(entry, problem=(str(problem["code"]), str(problem["message"])))
        if kind == "symlink":
            return replace(entry, target=name_from_json(row, "target"))
        if kind == "directory":
            return entry
        method = _one_of(row, "method", _METHODS)
        entry = replace(
            entry,
            size=_integer(row, "size", MAX_SIZE),
            sha256=_digest(row, "sha256"),
            fidelity=_one_of(row, "fidelity", _FIDELITIES),
            method=method,
            parts=tuple(_part(part) for part in _list(row, "parts")),
        )
        if "extents" in row:
            entry = replace(entry, extents=_extents(_list(row, "extents"), entry.size))
        if "link" in row:
            entry = replace(entry, link=name_from_json(row, "link"))
        if method == "image":
            if not isinstance(row["recipe"], dict) or not isinstance(row["format"], str):
                raise ValueError("an image entry needs a format and a recipe")
            entry = replace(
                entry,
                format=row["format"],
                recipe=row["recipe"],
                content_sha256=_digest(row, "content_sha256"),
            )
        elif method == "sparse":
            if entry.extents is None or entry.fidelity != "bytes":
                raise ValueError("a sparse entry needs extents and comes back byte for byte")
            if sum(part.size for part in entry.parts) != sum(length for _, length in entry.extents):
                raise ValueError("its parts do not add up to its extents")
        elif sum(part.size for part in entry.parts) != entry.size:
            raise ValueError("its parts do not add up to its size")
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


def sparse_digest(size: int, extents: Extents) -> hashlib._Hash:
    """A SHA-256 that has taken in what comes before the data of a sparse file: ``[size,[[offset,length],...]]``.

    So the holes, of which there may be terabytes, cost nothing, and yet each has its say.
    """
    head = json.dumps([size, [list(extent) for extent in extents]], separators=(",", ":"))
    return hashlib.sha256(head.encode() + b"\n")


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


def _part_json(part: Part) -> dict[str, Json]:
    row: dict[str, Json] = {"record": part.ref.as_json(), "coding": part.coding, "size": part.size}
    if part.stream is not None:
        stream = part.stream
        row["stream"] = {
            "shape": list(stream.shape),
            "dtype": stream.dtype,
            "coder": stream.coder,
            "models": list(stream.models),
            "adapters": list(stream.adapters),
            "adapter_bytes": stream.adapter_bytes,
        }
    return row


def _part(value: object) -> Part:
    if not isinstance(value, Mapping):
        raise TypeError("a part is not an object")
    ref = RecordRef.from_json(value["record"])
    stream = None
    coding = _one_of(value, "coding", _CODINGS)
    if (coding == "codestream") != (ref.type is RecordType.CODESTREAM):
        raise ValueError(f"a {ref.type.name} record cannot have the coding {coding!r}")
    if coding == "codestream":
        raw = value["stream"]
        shape = tuple(int(extent) for extent in raw["shape"])
        if not 2 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError(f"an image has the shape {shape}")
        stream = StreamInfo(
            shape,
            str(raw["dtype"]),
            str(raw["coder"]),
            tuple(_check_digest(d) for d in raw["models"]),
            tuple(_check_digest(d) for d in raw["adapters"]),
            _integer(raw, "adapter_bytes", MAX_SIZE),
        )
    return Part(ref, coding, _integer(value, "size", MAX_SIZE), stream)


def _one_of(row: Mapping[str, Json], name: str, allowed: tuple[str, ...]) -> Any:
    if row[name] not in allowed:
        raise ValueError(f"{name} is {row[name]!r}, not one of {', '.join(allowed)}")
    return row[name]


def _integer(row: Mapping[str, Json], name: str, most: int | None) -> int:
    value = row[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, not a whole number")
    if (most is not None and not 0 <= value <= most) or not -MAX_SIZE < value < MAX_SIZE:
        raise ValueError(f"{name} is {value}, out of range")
    return value


def _list(row: Mapping[str, Json], name: str) -> list[Json]:
    if not isinstance(row[name], list):
        raise TypeError(f"{name} is not a list")
    return list(row[name])


def _digest(row: Mapping[str, Json], name: str) -> str:
    return _check_digest(row[name])


def _check_digest(value: object) -> str:
    if not isinstance(value, str) or not _HEX64.fullmatch(value):
        raise ValueError(f"{value!r} is no SHA-256")
    return value
