"""Pieces of files that cannot be restored whole: the records of them that are, each with its place.

A fragment proves less than a file: its records passed their checksums, and nothing more is known.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import numpy as np
import zstandard

from callic_archive.archive.codecs import Image
from callic_archive.archive.entries import Entry
from callic_archive.archive.pack_one import CHUNK, expand
from callic_archive.archive.parts import Part
from callic_archive.archive.placing import Placing
from callic_archive.archive.reading import Archive, naming
from callic_archive.archive.rejoining import piece_bytes, shares, write_piece
from callic_archive.archive.salvaging import Orphan
from callic_archive.container.fs import ExtractionRoot
from callic_archive.container.layout import RecordType
from callic_archive.errors import CallicError, EntryDamaged, EnvironmentFailure, ReadFailure, WriteFailure

_ZSTANDARD = b"\x28\xb5\x2f\xfd"
FOLDER = "callic-fragments"  # in the destination, so that no fragment is taken for a file


@dataclass(frozen=True)
class Fragments:
    """What came back of one file."""

    files: tuple[str, ...] = ()  # paths in the destination
    restored_bytes: int = 0
    missing: tuple[tuple[int, int], ...] = ()  # (offset, length) in a file stored verbatim


def of_entry(archive: Archive, entry: Entry, root: ExtractionRoot) -> Fragments:
    """Write what is left of a damaged file. Raises OutOfSpace."""
    if entry.method == "pieces":
        return _pieces(archive, entry, root)
    if entry.method == "image":
        written = list(_images(archive, entry, root))
        return Fragments(tuple(path for path, _ in written), sum(size for _, size in written))
    spans = list(_spans(entry))
    pieces = [(spans_of, _payload(archive, part)) for spans_of, part in spans]
    there = [(spans_of, data) for spans_of, data in pieces if data is not None]
    missing = tuple(span for spans_of, data in pieces if data is None for span in spans_of)
    if not there:
        return Fragments((), 0, missing)
    name = f"{FOLDER}/{entry.path}"

    def write(out: BinaryIO) -> None:
        for spans_of, data in there:
            view = memoryview(data)
            for offset, length in spans_of:
                out.seek(offset)
                out.write(view[:length])
                view = view[length:]
        out.seek(0)
        out.truncate(entry.size)

    return Fragments(_written(root, name, write), sum(len(data) for _, data in there), missing)


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


def _pieces(archive: Archive, entry: Entry, root: ExtractionRoot) -> Fragments:
    """The pieces of a large file that are whole, each where it belongs."""
    restored, missing = 0, list[tuple[int, int]]()

    def write(out: BinaryIO) -> None:
        nonlocal restored
        placing = Placing(out, entry)
        for share in shares(entry):
            piece = share.pieces[0]
            try:
                with naming(entry):
                    data, _ = piece_bytes(archive, share)
            except EnvironmentFailure as error:
                if not isinstance(error, ReadFailure):
                    raise
                missing.extend(piece.spans)
                continue
            except CallicError:
                missing.extend(piece.spans)
                continue
            write_piece(placing, piece, data)
            restored += len(data)
        if not restored:
            raise EntryDamaged("no piece of it is whole")
        placing.resize(entry.size)

    return Fragments(_written(root, f"{FOLDER}/{entry.path}", write), restored, tuple(missing))


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


def _payload(archive: Archive, part: Part) -> bytes | None:
    try:
        return archive.read_bytes(part)
    except EnvironmentFailure as error:
        if not isinstance(error, ReadFailure):
            raise
    except (CallicError, ValueError, MemoryError):
        pass
    return None


def _unpacked(payload: bytes) -> bytes:
    """A STORED or SURROUND payload of unknown coding: unfolded where it is a Zstandard frame, else as it is."""
    try:
        size = zstandard.frame_content_size(payload)
        if 0 < size <= CHUNK:
            return expand(payload, "zstd", size)
    except (ValueError, zstandard.ZstdError):
        pass
    return payload


def _spans(entry: Entry) -> Iterator[tuple[list[tuple[int, int]], Part]]:
    """Each part with the places of the file that it fills."""
    extents = list(entry.extents or ()) if entry.method == "sparse" else [(0, entry.size)]
    extents.reverse()
    for part in entry.parts:
        left, places = part.size, []
        while left and extents:
            offset, length = extents.pop()
            taken = min(left, length)
            places.append((offset, taken))
            left -= taken
            if taken < length:
                extents.append((offset + taken, length - taken))
        yield places, part


def _put(data: bytes, out: BinaryIO) -> None:
    out.write(data)


def _written(root: ExtractionRoot, path: str, write: Callable[[BinaryIO], object]) -> tuple[str, ...]:
    """The path when it could be written; a name that cannot be costs its fragment alone. Raises OutOfSpace."""
    try:
        with root.create_file(path) as out:
            write(out)
    except EnvironmentFailure as error:
        if not isinstance(error, WriteFailure):
            raise
        return ()
    except CallicError:
        return ()
    return (path,)
