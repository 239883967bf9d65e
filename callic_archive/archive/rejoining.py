"""Files that were cut: their pieces one by one, each proven by its own digest, so that no more than one is in memory."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from callic_archive.archive.codecs import Box, Image
from callic_archive.archive.digests import content_sha256, sha256
from callic_archive.archive.entries import Entry
from callic_archive.archive.pieces import Picture, PieceRow, covers, in_order, pictures_from
from callic_archive.archive.placing import Placing
from callic_archive.errors import DigestMismatch, EntryDamaged
from callic_archive.images.pieces import parse_piece, piece_images
from callic_archive.images.source import Limits, Parsed, images_equal, rebuild

if TYPE_CHECKING:
    from callic_archive.archive.parts import Part
    from callic_archive.archive.reading import Archive

_BLOCK = 8 << 20  # bytes read at a time, where a file is hashed
Fidelity = Literal["bytes", "content"]
Span = tuple[int, int]  # offset and length in the file


class _Bounded(io.BytesIO):
    """A file that no recipe makes longer than its piece."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > self._most:
            raise EntryDamaged("a piece came out longer than its place in the file")
        return super().write(data)


def shares(entry: Entry) -> Iterator[Entry]:
    """The pieces of an entry, each as an entry that has it alone."""
    start = 0
    for piece in entry.pieces:
        yield replace(entry, pieces=(piece,), parts=entry.parts[start : start + piece.parts])
        start += piece.parts


def write_share(archive: Archive, share: Entry, out: BinaryIO) -> Fidelity:
    """Write the pieces that ``share`` has to their places in the file ``out``. Raises as ``piece_bytes``."""
    fidelity: Fidelity = "bytes"
    placing = Placing(out, share)
    for one in shares(share):
        data, found = piece_bytes(archive, one)
        write_piece(placing, one.pieces[0], data)
        fidelity = fidelity if found == "bytes" else found
    return fidelity


def piece_bytes(archive: Archive, share: Entry, *, prove: bool = False) -> tuple[memoryview, Fidelity]:
    """The bytes of the one piece of ``share``, and what they were proven to be; see ``Archive.restore``.

    Raises CallicError, ValueError and their kin.
    """
    piece, parts = share.pieces[0], share.parts
    form: Mapping[str, Any] = {}
    if piece.images:
        form, parts = _form(archive, parts), parts[1:]
    if piece.method == "stored":
        if sum(part.size for part in parts) != piece.size:
            raise EntryDamaged("the parts of a piece do not add up to its size")
        data = memoryview(b"".join(archive.read_bytes(part) for part in parts))
        if sha256(data) != piece.sha256:
            raise DigestMismatch("a restored piece does not have the SHA-256 that was stored at packing")
        return data, "bytes"
    surround = b"".join(archive.read_bytes(part) for part in parts if part.stream is None)
    coded = [part for part in parts if part.stream is not None]
    Limits().check_decoded(sum(part.size for part in coded), piece.size)
    images = [archive.decode(part) for part in coded]
    format, out = share.format or "", _Bounded(piece.size)
    rebuild(format, form, surround, images, out)
    made = out.getbuffer()
    if len(made) != piece.size:
        raise EntryDamaged("a piece came out shorter than its place in the file")
    if sha256(made) == piece.sha256:
        return made, "bytes"
    if content_sha256(format, form, surround, images) != piece.content_sha256:
        raise DigestMismatch("the decoded pixels do not have the digest that was stored at packing")
    if prove:
        again = parse_piece(format, form, made)
        if again is None:
            raise DigestMismatch("a restored piece is not understood as the images it was")
        known = Parsed(format, "content", tuple(images), surround, dict(form), again.volatile)
        if not images_equal(known, again):
            raise DigestMismatch("a restored piece does not hold the packed pixels and metadata")
    return made, "content"


def form_of_share(archive: Archive, share: Entry) -> Mapping[str, Any]:
    """How the blocks of the one piece of ``share``, which has images, lie in it. Raises EntryDamaged and its kin."""
    return _form(archive, share.parts)


def _form(archive: Archive, parts: tuple[Part, ...]) -> Mapping[str, Any]:
    """What tells how the blocks of a piece lie in it: JSON, the first of its parts."""
    if not parts or parts[0].stream is not None:
        raise EntryDamaged("a piece of images does not say how its blocks lie in it")
    try:
        form = json.loads(archive.read_bytes(parts[0]))
    except RecursionError as error:
        raise EntryDamaged("the form of a piece is nested too deeply") from error
    if not isinstance(form, dict):
        raise EntryDamaged("the form of a piece is no JSON object")
    return form


def restore_pieces(archive: Archive, entry: Entry, out: BinaryIO, *, prove: bool = False) -> Fidelity:
    """Write the file of ``entry`` to ``out``, which can be sought and read, piece by piece."""
    check_whole(entry)
    digest = hashlib.sha256() if in_order(entry.pieces) else None
    fidelity: Fidelity = "bytes"
    placing = Placing(out, entry)
    for share in shares(entry):
        data, found = piece_bytes(archive, share, prove=prove)
        write_piece(placing, share.pieces[0], data)
        fidelity = fidelity if found == "bytes" else found
        if digest is not None:
            digest.update(data)
    placing.resize(entry.size)
    if digest is None:
        digest = digest_of(out)
    return judged(entry, digest, fidelity)


def judged(entry: Entry, digest: hashlib._Hash, fidelity: Fidelity) -> Fidelity:
    """What a file of this digest is, whose pieces were all right. Raises DigestMismatch."""
    if digest.hexdigest() == entry.sha256:
        return "bytes"
    if fidelity == "bytes":
        raise DigestMismatch("the restored bytes do not have the SHA-256 that was stored at packing")
    return fidelity


def check_whole(entry: Entry) -> None:
    """Raise EntryDamaged where the pieces of ``entry``, if it has any, are not the whole file, each byte once."""
    if entry.method == "pieces" and not covers(entry.pieces, entry.size):
        raise EntryDamaged("its pieces overlap, or are not the whole of it")


def write_piece(placing: Placing, piece: PieceRow, data: memoryview) -> None:
    """Write the bytes of a piece to their places in the file."""
    at = 0
    for offset, length in piece.spans:
        placing.write_at(offset, data[at : at + length])
        at += length


def digest_of(file: BinaryIO) -> hashlib._Hash:
    """SHA-256 of a file, from its beginning."""
    digest = hashlib.sha256()
    file.flush()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest


def prove_pieces(archive: Archive, entry: Entry) -> Fidelity:
    """Decode and compare every piece of ``entry``, which may be some of a file's pieces. Raises as ``restore``.

    Where they are the whole file in its own order, its digest is compared as well.
    """
    whole = bool(entry.pieces) and entry.pieces[0].first == 0 and in_order(entry.pieces)
    digest, size = hashlib.sha256(), 0
    fidelity: Fidelity = "bytes"
    for share in shares(entry):
        data, found = piece_bytes(archive, share, prove=True)
        fidelity = fidelity if found == "bytes" else found
        if whole:
            digest.update(data)
            size += len(data)
    return judged(entry, digest, fidelity) if whole and size == entry.size else fidelity


def same_pieces(archive: Archive, entry: Entry, read: Callable[[Iterable[Span]], bytes]) -> bool:
    """Whether a file, of which ``read`` gives the bytes of spans, holds the pixels and metadata of ``entry``."""
    for share in shares(entry):
        piece = share.pieces[0]
        found = read(piece.spans)
        if sha256(found) == piece.sha256:
            continue
        if piece.fidelity == "bytes":
            return False
        made, _ = piece_bytes(archive, share)
        if made != found:
            form = _form(archive, share.parts)
            one, other = (parse_piece(share.format or "", form, data) for data in (made, found))
            if one is None or other is None or not images_equal(one, other):
                return False
    return True


def image_of_pieces(archive: Archive, entry: Entry, number: int, region: Box | None = None) -> Image:
    """Image ``number`` of a file that was cut, or the part in ``region``: of pieces that have no part in it
    nothing is read.
    """
    picture: Picture = pictures_from(entry.recipe)[number]
    height, width = picture.shape[:2]
    top, left, bottom, right = region or (0, 0, height, width)
    shape = (bottom - top, right - left, *picture.shape[2:])
    if region is None:
        check_whole(entry)
        Limits().check_decoded(
            int(np.prod(shape, dtype=object)) * np.dtype(picture.dtype).itemsize, entry.size
        )
    out = np.full(shape, picture.fill, picture.dtype)
    for share in shares(entry):
        piece = share.pieces[0]
        for place, (of, y, x) in enumerate(piece.images):
            if of == number and y < bottom and x < right:
                part = _part(archive, share, place, (top - y, left - x, bottom - y, right - x))
                if part is not None:
                    image, dy, dx = part
                    row, column = y + dy - top, x + dx - left
                    target = out[row : row + image.shape[0], column : column + image.shape[1]]
                    if target.shape != image.shape or target.dtype != image.dtype:
                        raise EntryDamaged("a piece has images of another shape than its file")
                    target[...] = image
    return out


def _part(archive: Archive, share: Entry, place: int, wanted: Box) -> tuple[Image, int, int] | None:
    """What image ``place`` of a piece has of a region, and where in it that begins; None where it has nothing."""
    piece = share.pieces[0]
    if piece.method == "image":
        coded = [part for part in share.parts if part.stream is not None]
        if len(coded) != len(piece.images):
            raise EntryDamaged("a piece has another number of images than its index line says")
        stream = coded[place].stream
        box = _clipped(wanted, stream.shape if stream is not None else (0, 0))
        return None if box is None else (archive.decode(coded[place], box), box[0], box[1])
    if not share.parts:
        raise EntryDamaged("a piece has no parts")
    # Stored as it is: its form tells the size of its images, and whether it must be read at all.
    form = _form(archive, share.parts)
    data, _ = piece_bytes(archive, share)
    images = piece_images(share.format or "", form, data)
    if len(images) != len(piece.images):
        raise EntryDamaged("a piece has another number of images than its index line says")
    box = _clipped(wanted, images[place].shape)
    if box is None:
        return None
    top, left, bottom, right = box
    return images[place][top:bottom, left:right], top, left


def _clipped(box: Box, shape: tuple[int, ...]) -> Box | None:
    top, left = max(0, box[0]), max(0, box[1])
    bottom, right = min(box[2], shape[0]), min(box[3], shape[1])
    return (top, left, bottom, right) if top < bottom and left < right else None
