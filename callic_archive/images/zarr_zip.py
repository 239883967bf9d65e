"""ZIP files that hold zarr stores (zarr's ZipStore, OME-Zarr's zipped form): their chunks as images.

Only members that are stored without compression are looked into, as such stores write them; everything else
of the file is surrounding bytes. A ZIP without array metadata is no image.
"""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field

from callic_archive.errors import SourceError
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.zarr_blocks import Group, Span, parse_groups, placed, rebuild
from callic_archive.images.zarr_chunk import chunk_group
from callic_archive.images.zarr_metadata import (
    DOCUMENTS,
    MAX_DOCUMENT,
    ArrayForm,
    array_form,
    is_key_folder,
    may_be_key,
)

__all__ = ["parse", "rebuild"]
_LOCAL_HEADER = 30  # bytes before a member's name
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_MOST_DOCUMENTS = 64 << 20  # bytes of all metadata documents of one ZIP
_LEVELS = 34  # parts of a chunk's key at most


class _View(io.RawIOBase):
    """A memory map as the file that ``zipfile`` wants, without a copy."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, len(self._data))[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, target: object) -> int:
        out = memoryview(target).cast("B")  # type: ignore[arg-type]
        piece = self._data[self._at : self._at + len(out)]
        out[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


@dataclass
class _Array:
    """An array of the ZIP, and where its chunks lie."""

    form: ArrayForm
    spans: dict[tuple[int, ...], Span] = field(default_factory=dict)  # by place in the grid


def parse(data: memoryview, limits: Limits) -> Parsed | None:
    """See ``source.parse``. Broken ZIPs and those without arrays that a model takes give None."""
    groups = outline(data, limits)
    return parse_groups(data, groups, limits) if groups else None


def outline(data: memoryview, limits: Limits) -> list[Group]:
    """The chunks in the ZIP, none decoded; empty where ``parse`` gives None. Raises SourceError subclasses."""
    try:
        with zipfile.ZipFile(io.BufferedReader(_View(data))) as opened:
            members = opened.infolist()
            arrays = _arrays(opened, members)
    except (*_BROKEN, NotImplementedError, EOFError, OSError, RuntimeError, UnicodeError):
        return []
    if not arrays:
        return []
    limits.check_blocks(len(members))
    for member in members:
        found = _array_of(member.filename, arrays)
        if found is not None and member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:
            span = _span(data, member)
            if span is not None:
                array, place = found
                array.spans[place] = span  # of members with one name the last counts
    return [group for array in arrays.values() for group in _groups(data, array, limits)]


def _arrays(opened: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> dict[str, _Array]:
    found: dict[str, _Array] = {}
    budget = _MOST_DOCUMENTS
    for member in members:  # of members with one name the last counts
        folder, _, name = member.filename.rpartition("/")
        if name in DOCUMENTS and member.file_size <= MAX_DOCUMENT:
            with opened.open(member) as stream:
                document = stream.read(MAX_DOCUMENT + 1)
            budget -= len(document)
            if budget < 0:
                return {}  # no store has so much to say about itself
            found.pop(folder, None)
            with suppress(SourceError, NotTaken):  # its chunks stay as they are, and so does the document
                found[folder] = _Array(array_form(name, document))
    return found


def _array_of(name: str, arrays: dict[str, _Array]) -> tuple[_Array, tuple[int, ...]] | None:
    """The array of which a member is a chunk, and the chunk's place in it."""
    parts = name.split("/")
    if not may_be_key(parts[-1]):
        return None
    for level in range(1, min(len(parts), _LEVELS) + 1):
        array = arrays.get("/".join(parts[:-level]))
        if array is not None:
            key = "/".join(parts[-level:])
            return (array, array.form.place(key)) if array.form.is_key(key) else None
        if level < len(parts) and not is_key_folder(parts[-level - 1]):
            return None
    return None


def _span(data: memoryview, member: zipfile.ZipInfo) -> Span | None:
    """Where the bytes of a stored member lie; None where its headers contradict each other."""
    at = member.header_offset
    head = bytes(data[at : at + _LOCAL_HEADER])
    if len(head) < _LOCAL_HEADER or head[:4] != b"PK\x03\x04" or member.compress_size != member.file_size:
        return None
    start = at + _LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    fits = 0 < member.file_size <= len(data) - start
    return (start, member.file_size) if fits else None


def _groups(data: memoryview, array: _Array, limits: Limits) -> list[Group]:
    """One group for all chunks of an array, at their places where most of them are there, or one for each shard."""
    form, grid, spans = array.form.chunk, array.form.grid, array.spans
    places = sorted(spans)
    if form.shard is not None:
        found = [chunk_group(data, array.form, spans[place], limits) for place in places]
        return [group for group in found if group is not None]
    group = placed(form, grid, spans, limits)
    return [group] if group is not None else []
