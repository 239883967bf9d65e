"""What is fuzzed of large files: their outlines, the pieces that these are cut into, and the forms of pieces."""

from __future__ import annotations

import io
import json
import random
from functools import lru_cache
from typing import Any

import numpy as np

from callic_archive.errors import SourceError
from callic_archive.images import cutting, parse, rebuild
from callic_archive.images.geometry import geometry
from callic_archive.images.outline import outline
from callic_archive.images.pieces import parse_piece, piece_images
from callic_archive.images.source import Context
from tests.fuzzing import seeds
from tests.fuzzing.mutate import broken, broken_json
from tests.fuzzing.targets import (
    LIMITS,
    Target,
    Wrong,
    break_chunk,
    chunk_of,
    chunk_seeds,
    raw_of,
    raw_seeds,
    settled,
)

PIECE = 200  # bytes of samples of a piece: seeds have some hundred
_FAMILIES = ("tiff", "npy", "pnm", "bmp", "nifti", "mgh", "dicom", "zarr-zip", "hdf5")


def outlined(data: bytes, context: Context | None = None) -> str:
    """Pieces are the whole file, each byte once; each comes back, and holds what the file holds at its place."""
    found = outline(data, context, LIMITS)
    if found is None:
        return "none"
    pieces = cutting.cut(found, PIECE)
    if pieces is None:
        return "whole"
    end = 0
    for offset, length in sorted(span for piece in pieces for span in cutting.spans_of(piece)):
        if offset != end or length < 1:
            raise Wrong("pieces overlap, or are not the whole file")
        end += length
    if end != len(data):
        raise Wrong("pieces have another number of bytes than their file")
    try:
        parsed = parse(data, "", LIMITS, context)
    except SourceError:
        parsed = None
    whole = None if parsed is None or parsed.format != found.format else parsed.images
    outcomes = {_piece(found.format, piece, data, whole) for piece in pieces}
    return f"{'' if whole is None else 'understood '}{' '.join(sorted(outcomes))}"


def _piece(format: str, piece: cutting.Piece, data: bytes, whole: tuple[Any, ...] | None) -> str:
    body = b"".join(data[o : o + n] for o, n in cutting.spans_of(piece))
    if len(body) != piece.size:
        raise Wrong("a piece has another size than its spans")
    if not piece.images:
        return "rest"
    form = json.loads(json.dumps(piece.form))
    try:
        parsed = parse_piece(format, form, body, LIMITS)
        images = piece_images(format, form, body)
    except SourceError as error:
        return error.code
    if len(images) != len(piece.images):
        raise Wrong("a piece has another number of images than was said")
    if whole is not None:
        for image, place in zip(images, piece.images, strict=True):
            of = whole[place.number]
            height, width = image.shape[:2]
            same = of[place.top : place.top + height, place.left : place.left + width]
            if not np.array_equal(same, image):
                raise Wrong("a piece does not hold the samples of its file")
    if parsed is None:
        return "stored"
    if not all(np.array_equal(a, b) for a, b in zip(parsed.images, images, strict=True)):
        raise Wrong("a piece has other images when it is stored")
    if parsed.fidelity == "bytes":
        out = io.BytesIO()
        recipe = json.loads(json.dumps(parsed.recipe))
        rebuild(parsed.format, recipe, parsed.surround, [np.array(i, order="C") for i in parsed.images], out)
        if out.getvalue() != body:
            raise Wrong("a piece did not come back")
    return parsed.fidelity


def outline_seeds() -> list[bytes]:
    return [data for name in _FAMILIES for data in seeds.IMAGES[name]()]


def outlined_chunk(data: bytes) -> str:
    """The same of files that hold chunks of zarr arrays."""
    context, body = chunk_of(data)
    return outlined(body, context)


def outlined_raw(data: bytes) -> str:
    """The same of samples whose header is a file of its own."""
    context, body = raw_of(data)
    return outlined(body, context)


# -- forms of pieces ----------------------------------------------------------------------------------------------


def form(data: bytes) -> str:
    """A form, which an archive may say anything in, and the bytes of a piece that is stored as it is."""
    format, _, rest = data.partition(b"\n")
    text, _, body = rest.partition(b"\0\0\0")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(found, dict):
        return "no form"
    name = format.decode("latin-1")
    settled(lambda: str(parse_piece(name, found, body, LIMITS) is None))
    return settled(lambda: f"{min(2, len(piece_images(name, found, body)))} images")


@lru_cache(maxsize=1)
def form_seeds() -> list[bytes]:
    made = []
    files = [(data, None) for data in outline_seeds()]
    files += [(data, context) for context, data in [*seeds.zarr_chunks(), *seeds.raw_files()]]
    for data, context in files:
        found = outline(data, context, LIMITS)
        for piece in (found and cutting.cut(found, PIECE)) or []:
            if piece.images:
                body = b"".join(data[o : o + n] for o, n in cutting.spans_of(piece))
                text = json.dumps(piece.form).encode()
                made.append(found.format.encode() + b"\n" + text + b"\0\0\0" + body)
    return made[::3]


def break_form(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The form as JSON, or bytes of the piece."""
    head, _, body = seed.partition(b"\0\0\0")
    if rng.random() < 0.3:
        return head + b"\0\0\0" + broken(body, rng)
    format, _, text = head.partition(b"\n")
    return format + b"\n" + json.dumps(broken_json(json.loads(text), rng)).encode() + b"\0\0\0" + body


def header(data: bytes) -> str:
    """Height, width and sample type as a few bytes of a header tell them; what is coded has the same, if it is taken."""

    def read(offset: int, most: int) -> bytes:
        if offset > 1 << 62:
            raise OverflowError
        return data[offset : offset + most]

    try:
        found = geometry(read)
    except OverflowError:
        return "far"
    if found is None:
        return "none"
    if found.height < 1 or found.width < 1 or found.bytes < 1:
        raise Wrong("a geometry of nothing")
    return found.dtype


def header_seeds() -> list[bytes]:
    return [seed for family in ("tiff", "png", "npy", "pnm") for seed in seeds.IMAGES[family]()]


TARGETS: dict[str, Target] = {
    "geometry": Target(header, header_seeds),
    "outline": Target(outlined, outline_seeds),
    "outline-chunk": Target(outlined_chunk, chunk_seeds, break_chunk),
    "outline-raw": Target(outlined_raw, raw_seeds),
    "piece": Target(form, form_seeds, break_form),
}
