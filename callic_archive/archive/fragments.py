"""Pieces of files that cannot be restored whole: the records of them that are, each with its place.

A fragment proves less than a file: its records, or the whole parts of a damaged one, passed their checksums, and nothing
more is known.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, TypeVar

import numpy as np
import zstandard

from callic_archive.archive.codecs import Image
from callic_archive.archive.dct import jpeg_stream
from callic_archive.archive.entries import Entry
from callic_archive.archive.jpeg_parts import left_of, size_of
from callic_archive.archive.parts import Part
from callic_archive.archive.placing import Placing
from callic_archive.archive.reading import Archive, naming
from callic_archive.archive.rejoining import piece_bytes, shares
from callic_archive.archive.salvaging import Orphan
from callic_archive.archive.verbatim import CHUNK, expand
from callic_archive.container.extraction import ExtractionRoot
from callic_archive.container.layout import RecordType
from callic_archive.errors import CallicError, EntryDamaged, EnvironmentFailure, ReadFailure, WriteFailure

_ZSTANDARD = b"\x28\xb5\x2f\xfd"
FOLDER = "callic-fragments"  # in the destination, so that no fragment is taken for a file
Span = tuple[int, int]  # offset and length


@dataclass(frozen=True)
class Fragments:
    """What came back of one file."""

    files: tuple[str, ...] = ()  # paths in the destination
    restored_bytes: int = 0
    missing: tuple[Span, ...] = ()  # (offset, length) in a file that was no image, or was cut into pieces


def of_entry(archive: Archive, entry: Entry, root: ExtractionRoot) -> Fragments:
    """Write what is left of a damaged file. Raises OutOfSpace."""
    if entry.method == "image":
        written = [*_images(archive, entry, root), *_surround(archive, entry, root)]
        return Fragments(tuple(path for path, _ in written), sum(size for _, size in written))
    return _in_place(archive, entry, root, _pieces if entry.method == "pieces" else _verbatim)


def of_orphans(
    archive: Archive, orphans: Iterable[Orphan], root: ExtractionRoot
) -> Iterator[tuple[str, str]]:
    """Write records that no entry tells of: (path the file had, path of the fragment). Raises OutOfSpace."""
    for orphan in orphans:
        name = f"{FOLDER}/{orphan.key}.record-{orphan.ref.sequence}"
        try:
            payload = archive.reader(orphan.ref.shard).read(orphan.ref, key=orphan.key)
            kind = _own_kind(payload, orphan.ref.type)
            if kind:
                data, name = payload, f"{name}.{kind}"
            elif orphan.ref.type is RecordType.CODESTREAM:
                data, name = _as_npy(archive.decoder().decode(payload)), f"{name}.npy"
            else:
                data = _unpacked(payload)
        except EnvironmentFailure as error:
            if not isinstance(error, ReadFailure):
                raise
            continue
        except (CallicError, ValueError, MemoryError):
            continue
        for path in _written(root, name, partial(_put, data)):
            yield orphan.key, path


# Bytes of a file, and the places where they belong; or the places of bytes that are lost.
_Left = Iterator[tuple[Sequence[Span], bytes | memoryview | None]]


def _in_place(
    archive: Archive, entry: Entry, root: ExtractionRoot, left: Callable[[Archive, Entry], _Left]
) -> Fragments:
    """A file of what is left, each byte in its place, and holes for the others; no more than one part in memory."""
    restored, missing = 0, list[Span]()

    def write(out: BinaryIO) -> None:
        nonlocal restored
        placing = Placing(out, entry)
        for spans, data in left(archive, entry):
            if data is None:
                missing.extend(spans)
                continue
            view = memoryview(data)
            for offset, length in spans:
                placing.write_at(offset, view[:length])
                view = view[length:]
            restored += len(data)
        if not restored:
            raise EntryDamaged("nothing of it is whole")
        placing.resize(entry.size)

    files = _written(root, f"{FOLDER}/{entry.path}", write)
    return Fragments(files, restored if files else 0, tuple(missing))


def _verbatim(archive: Archive, entry: Entry) -> _Left:
    """What is left of a file that was stored as it is."""
    extents = entry.extents if entry.method == "sparse" and entry.extents is not None else ((0, entry.size),)
    yield from _parts(archive, entry, entry.parts, extents)


def _pieces(archive: Archive, entry: Entry) -> _Left:
    """What is left of a large file: whole pieces, and whole parts of pieces that were stored as they are."""
    for share in shares(entry):
        piece = share.pieces[0]
        whole = _tried(entry, partial(piece_bytes, archive, share))
        if whole is not None:
            yield tuple(piece.spans), whole[0]
        elif piece.method == "stored":
            yield from _parts(archive, entry, share.parts[1 if piece.images else 0 :], tuple(piece.spans))
        else:
            yield tuple(piece.spans), None
    yield _gaps(entry), None  # pieces of which not even a PIECE record is left


def _gaps(entry: Entry) -> tuple[Span, ...]:
    """The places of a file that no piece of it has."""
    gaps, end = list[Span](), 0
    for offset, length in sorted(span for piece in entry.pieces for span in piece.spans):
        if offset > end:
            gaps.append((end, offset - end))
        end = max(end, offset + length)
    return (*gaps, (end, entry.size - end)) if end < entry.size else tuple(gaps)


def _parts(archive: Archive, entry: Entry, parts: Iterable[Part], places: Iterable[Span]) -> _Left:
    """What is left of parts that fill ``places`` one after the other."""
    room = _Room(places)
    for part in parts:
        end = 0
        for offset, data in _runs(archive, entry, part):
            if offset > end:
                yield room.take(offset - end), None
            yield room.take(len(data)), data
            end = offset + len(data)
        if part.size > end:
            yield room.take(part.size - end), None


class _Room:
    """Places of a file that are filled one after the other."""

    def __init__(self, places: Iterable[Span]) -> None:
        self._left = list(places)[::-1]

    def take(self, size: int) -> tuple[Span, ...]:
        """The next places for ``size`` bytes; fewer where there are no more."""
        taken: list[Span] = []
        while size and self._left:
            offset, length = self._left.pop()
            used = min(size, length)
            taken.append((offset, used))
            size -= used
            if used < length:
                self._left.append((offset + used, length - used))
        return tuple(taken)


def _runs(archive: Archive, entry: Entry, part: Part) -> list[tuple[int, bytes]]:
    """What of a part is whole: runs (offset, bytes). Of JPEG streams in a damaged record those that prove themselves."""
    data = _tried(entry, lambda: archive.read_bytes(part))
    if data is not None:
        return [(0, data)]
    if part.coding != "jpegs" or part.within is not None or part.size > CHUNK:
        return []
    found = _tried(entry, lambda: left_of(archive.read_unproven(part.ref, entry.path, 2 * CHUNK), part.size))
    return found or []


T = TypeVar("T")


def _tried(entry: Entry, step: Callable[[], T]) -> T | None:
    """What ``step`` gives; None where records are damaged. Raises what is the machine's fault."""
    try:
        with naming(entry):
            return step()
    except EnvironmentFailure as error:
        if not isinstance(error, ReadFailure):
            raise
    except CallicError:
        pass
    return None


def _images(archive: Archive, entry: Entry, root: ExtractionRoot) -> Iterator[tuple[str, int]]:
    for number, part in enumerate(part for part in entry.parts if part.stream is not None):
        try:
            data = _as_npy(archive.decode(part))
        except EnvironmentFailure as error:
            if not isinstance(error, ReadFailure):
                raise
            continue
        except (CallicError, ValueError, TypeError, MemoryError):
            continue
        name = f"{FOLDER}/{entry.path}.image-{number}.npy"
        for path in _written(root, name, partial(_put, data)):
            yield path, len(data)


def _surround(archive: Archive, entry: Entry, root: ExtractionRoot) -> Iterator[tuple[str, int]]:
    """The bytes around the images: headers, metadata, other pages. What of them is lost is zeros."""
    parts = [part for part in entry.parts if part.stream is None]
    size = 0

    def write(out: BinaryIO) -> None:
        nonlocal size
        for spans, data in _parts(archive, entry, parts, [(0, sum(part.size for part in parts))]):
            if data is not None:
                out.seek(spans[0][0])
                out.write(data)
                size += len(data)
        if not size:
            raise EntryDamaged("nothing of it is whole")
        out.truncate(sum(part.size for part in parts))

    for path in _written(root, f"{FOLDER}/{entry.path}.surround", write) if parts else ():
        yield path, size


def _as_npy(image: Image) -> bytes:
    out = io.BytesIO()
    np.save(out, image, allow_pickle=False)
    return out.getvalue()


def _own_kind(payload: bytes, type: RecordType) -> str:
    """The suffix of a record that is a file in itself, JPEG XL (of a JPEG file, too) or WebP, and of
    filtered samples, whose shape went with their entry.
    """
    if type is RecordType.CODESTREAM and payload[1:5] == _ZSTANDARD:
        return "samples"
    if payload.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return "jxl"
    return "webp" if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP" else ""


def _unpacked(payload: bytes) -> bytes:
    """A STORED or SURROUND payload of unknown coding: unfolded where it is a Zstandard frame, a JPEG file by its
    coefficients, or JPEG streams and what is around them, else as it is.
    """
    size = size_of(payload, CHUNK)
    if size is not None:
        return expand(payload, "jpegs", size)
    try:
        if payload.startswith(jpeg_stream.MAGIC):
            return jpeg_stream.decode(payload, CHUNK)
        size = zstandard.frame_content_size(payload)
        if 0 < size <= CHUNK:
            return expand(payload, "zstd", size)
    except (ValueError, zstandard.ZstdError):
        pass
    return payload


def _put(data: bytes, out: BinaryIO) -> None:
    out.write(data)


def _written(root: ExtractionRoot, path: str, write: Callable[[BinaryIO], object]) -> tuple[str, ...]:
    """The path when it could be written, or was by an earlier run; a name that cannot be costs its fragment alone. Raises
    OutOfSpace.
    """
    try:
        with root.create_file(path, equal=True) as out:
            write(out)
    except EnvironmentFailure as error:
        if not isinstance(error, WriteFailure):
            raise
        return ()
    except CallicError:
        return ()
    return (path,)
