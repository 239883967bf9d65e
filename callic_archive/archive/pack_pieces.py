"""Packing a large file piece by piece: cutting it, and what a worker does with each piece.

Whoever meets the file copies it, so that nobody changes it meanwhile, and cuts it. Its pieces then go to any workers;
each reads its own bytes alone. All share one adapter, fitted to samples of the whole file, where adapters are fitted.
"""

from __future__ import annotations

import json
import mmap
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from callic_archive.archive.candidates import for_models
from callic_archive.archive.codecs import Codec, CodecPlan, Image
from callic_archive.archive.digests import sha256
from callic_archive.archive.entries import Entry
from callic_archive.archive.pack_one import pack_one
from callic_archive.archive.packed import Packed, PackOptions, Piece
from callic_archive.archive.pieces import Picture, PieceRow
from callic_archive.archive.sampling import some_pieces
from callic_archive.archive.scan import Problem, Source
from callic_archive.archive.verbatim import stored_pieces, verbatim_piece
from callic_archive.container.fs import write_all, writing
from callic_archive.container.layout import RecordType
from callic_archive.errors import ReadFailure, WorkerKiller
from callic_archive.images import cutting, tiff_jpeg
from callic_archive.images.jpeg_streams import Tables, find
from callic_archive.images.outline import Outline
from callic_archive.images.pieces import parse_piece

SAMPLED = 12  # pieces of which a crop goes into the sample that an adapter is fitted to
KILLER = "every worker process that took a piece of it ended; that piece is stored verbatim, unseen"
CROP = 256  # pixels a side of such a crop


@dataclass(frozen=True)
class CutFile:
    """A file ready to be packed in pieces: its entry without any, and the private copy to read them from."""

    source: Source
    entry: Entry
    copy: Path
    pieces: tuple[cutting.Piece, ...]
    adapters: Mapping[str, bytes] = field(default_factory=dict)  # fitted to it: digest to payload
    piece_bytes: int = cutting.PIECE


@dataclass(frozen=True)
class PieceBatch:
    """Pieces of one file for one worker."""

    source: Source
    entry: Entry
    copy: Path
    pieces: tuple[cutting.Piece, ...]
    plan: CodecPlan
    verbatim: bool = False  # do not look into them: they ended worker processes

    @property
    def bytes(self) -> int:
        """Bytes of the pieces."""
        return sum(piece.size for piece in self.pieces)


def cut_file(
    source: Source,
    entry: Entry,
    data: bytes | memoryview,
    digest: str,
    found: Outline,
    copy: Path,
    plan: CodecPlan,
    size: int = cutting.PIECE,
) -> CutFile | None:
    """Cut the file of which ``copy`` has the bytes ``data`` into pieces of about ``size`` bytes of samples.

    None where it cannot be cut.
    """
    pieces = cutting.cut(found, size, partial(_before_open, memoryview(data).cast("B")))
    if pieces is None:
        return None
    pictures = [
        Picture(raster.shape, raster.layout.native.name, raster.fill).as_json()
        for raster in found.rasters
        for _ in range(raster.layout.images)
    ]
    entry = replace(
        entry,
        size=found.size,
        sha256=digest,
        method="pieces",
        format=found.format,
        recipe={"images": pictures},
    )
    adapters = _adapters(found, data, plan, size)
    return CutFile(source, entry, copy, tuple(pieces), adapters, size)


def _before_open(view: memoryview, offset: int, length: int) -> int:
    """Bytes before a JPEG stream that goes on behind these; all where there is none, or it is too long."""
    begin = find(view[offset : offset + length]).open
    return begin if begin is not None and 2 * begin >= length else length


def _adapters(found: Outline, data: bytes | memoryview, plan: CodecPlan, size: int) -> Mapping[str, bytes]:
    """Adapters for the file's images, where the plan has images fitted; empty where none pays."""
    if not plan.fits_images:
        return {}
    crops: list[Image] = []
    for sample in some_pieces(data, found, SAMPLED, size):
        crops += for_models([_crop(image) for image in sample.parsed.images[:2]])
    total = sum(raster.layout.height * raster.layout.width for raster in found.rasters)
    return plan.train(crops, total, lambda step, steps: None) if crops else {}


def _crop(image: Image) -> Image:
    top, left = max(0, image.shape[0] - CROP) // 2, max(0, image.shape[1] - CROP) // 2
    return np.array(image[top : top + CROP, left : left + CROP], order="C")


def new_copy(folder: Path) -> Path:
    """A name that no other copy has."""
    return folder / uuid.uuid4().hex


def write_copy(path: Path, data: bytes | memoryview) -> None:
    """Write the bytes of a file that fits into memory. Raises OutOfSpace, WriteFailure."""
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)


def batches_of(cut: CutFile, pieces: Sequence[cutting.Piece], plan: CodecPlan) -> list[PieceBatch]:
    """Pieces as batches: one of about ``cut.piece_bytes`` each, or several small ones."""
    batches: list[list[cutting.Piece]] = []
    taken = cut.piece_bytes
    for piece in pieces:
        if taken + piece.size > cut.piece_bytes:
            batches.append([])
            taken = 0
        batches[-1].append(piece)
        taken += piece.size
    return [PieceBatch(cut.source, cut.entry, cut.copy, tuple(batch), plan) for batch in batches]


def read_piece(copy: Path, piece: cutting.Piece) -> bytearray:
    """The bytes of a piece. Raises ReadFailure."""
    data = bytearray(piece.size)
    view, at = memoryview(data), 0
    try:
        fd = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for offset, length in cutting.spans_of(piece):
                while length:
                    count = os.preadv(fd, [view[at : at + length]], offset)
                    if not count:
                        raise ReadFailure(f"the copy {copy} of a source became shorter")
                    at, offset, length = at + count, offset + count, length - count
        finally:
            os.close(fd)
    except OSError as error:
        raise ReadFailure(f"cannot read the copy {copy} of a source: {error.strerror or error}") from error
    return data


def pack_piece(
    batch: PieceBatch, piece: cutting.Piece, codec: Callable[[], Codec], options: PackOptions
) -> tuple[Entry, list[Piece], Problem | None]:
    """One piece: the share of the entry that it is, the payloads of its parts, and what went wrong.

    Raises what ``pack_one`` raises.
    """
    format = batch.entry.format or ""
    data = memoryview(read_piece(batch.copy, piece))
    if piece.images or batch.verbatim:
        packed = pack_one(
            data,
            codec=None if batch.verbatim else codec,
            options=options,
            parser=partial(parse_piece, format, piece.form, limits=options.limits),
        )
    else:
        tables = _tables(batch.copy, piece, options)
        packed = Packed(sha256(data), len(data), "stored", "bytes", stored_pieces(data, tables=tables))
    parts = [replace(part, type=RecordType.STORED) if part.stream is None else part for part in packed.pieces]
    if piece.images:
        form: Mapping[str, Any] = packed.recipe if packed.method == "image" else piece.form
        parts.insert(0, verbatim_piece(RecordType.STORED, json.dumps(form, separators=(",", ":")).encode()))
    row = PieceRow(
        piece.offsets,
        piece.lengths,
        piece.size,
        packed.sha256,
        "image" if packed.method == "image" else "stored",
        packed.fidelity,
        len(parts),
        tuple((image.number, image.top, image.left) for image in piece.images),
        packed.content_sha256,
    )
    failure = WorkerKiller(KILLER) if batch.verbatim and piece.images else packed.failure
    problem = None if failure is None else Problem.of(batch.source.file, failure, kept=True)
    told = (
        None
        if problem is None
        else (problem.code, problem.message.encode("utf-8", "backslashreplace").decode())
    )
    share = replace(batch.entry, pieces=(row,), fidelity=packed.fidelity, problem=told)
    return share, parts, problem


def _tables(copy: Path, piece: cutting.Piece, options: PackOptions) -> Tables:
    """The tables that JPEG streams in a piece may lack. Raises ReadFailure."""
    try:
        with copy.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise ReadFailure(f"cannot read the copy {copy} of a source: {error}") from error
    found = tiff_jpeg.tables(memoryview(data), options.limits)
    # the places of streams are known where the piece is one run of bytes
    return found.at(piece.first) if len(cutting.spans_of(piece)) == 1 else Tables(found.streams)


def remove_copy(path: Path) -> None:
    """Remove a private copy that nobody needs any more."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
