"""One file to record payloads: the pure heart of packing.

A file goes through the learned codec when its format is understood, its images come back exactly, and the
result is smaller than the file stored verbatim. In every other case, whatever went wrong, it is stored
verbatim (Zstandard, or raw where that is smaller). Nothing leaves here that was not decoded and compared
first.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

from callic_archive.archive.attempts import attempt
from callic_archive.archive.codecs import Codec, Image
from callic_archive.archive.digests import HashSink, content_sha256, same_image, sha256
from callic_archive.archive.image_coding import decode_image
from callic_archive.archive.packed import IMAGE_COST, Packed, PackOptions, Piece, cost_of
from callic_archive.archive.verbatim import (
    is_jpeg,
    measured_pieces,
    recoded_jpeg,
    stored_pieces,
    stored_size,
)
from callic_archive.container.layout import RecordType
from callic_archive.errors import CallicError, ProofFailed, SourceError
from callic_archive.images import tiff_jpeg
from callic_archive.images.detached import FOUND
from callic_archive.images.jpeg_streams import Tables
from callic_archive.images.raster_search import context_of
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import (
    Context,
    Limits,
    Parsed,
    examine,
    images_equal,
    parse_again,
    rebuild,
)
from callic_archive.images.unread import check_jpeg_ends, reason_of

# bytes of an index line; a file of so many images that it would be longer is stored verbatim
MAX_ROW = 8 << 20
# differences of compressed bytes below 1/64 of a file are taken without a look at what they are worth
FEW = 64
# Reasons why a file was not taken apart that leave it open whether its samples lie there as they are
SEARCHED = frozenset({"no-pixels", "coding", "samples", "colour", "sparse", "header", "variant"})
DEAR = 8  # differences may take an eighth of what a file takes without them
Parser = Callable[[bytes | memoryview], Parsed | None]


def pack_one(
    data: bytes | memoryview,
    *,
    codec: Callable[[], Codec] | None,
    options: PackOptions | None = None,
    digest: str | None = None,
    context: Context | None = None,
    parser: Parser | None = None,
) -> Packed:
    """Turn the bytes of one file into pieces.

    ``codec`` gives the codec and is called for understood images only; None stores verbatim without looking.
    ``digest`` is the file's SHA-256 where it is known already; ``context`` what beside it tells how to read
    it; ``parser`` takes it apart where it is no file but a piece of one. Never raises for anything in ``data``:
    failures of parsers and codecs come back as ``failure``, with the file stored verbatim. What ``codec``
    itself raises, and every EnvironmentFailure, is no matter of this file and passes through.
    """
    options = options or PackOptions()
    digest = digest or sha256(data)
    size = memoryview(data).nbytes
    if size == 0:
        return Packed(digest, 0, "none", "bytes", iter(()))
    if codec is None:
        return Packed(digest, size, "stored", "bytes", stored_pieces(data))
    failure: CallicError | None = None
    reason: str | None = None
    taken = attempt(lambda: take_apart(data, digest, options, context, parser))
    # of what only looks like a raster nothing is promised
    otherwise = "not-smaller" if context is None or context.name != FOUND else None
    if isinstance(taken, NotTaken) and taken.reason in SEARCHED and parser is None:
        otherwise = taken.reason
        taken = _searched(data, digest, options) or taken
    if isinstance(taken, Taken):
        packed = attempt(partial(_encode, data, digest, taken, codec(), options))
        if isinstance(packed, Packed):
            return packed
        failure, reason = packed, otherwise
    elif isinstance(taken, NotTaken):
        reason = taken.reason
    else:
        failure = taken
    pieces = stored_pieces(data, tables=_tables(data, options))
    recoded = recoded_jpeg(data) if is_jpeg(data) else None
    if recoded is not None:
        pieces = iter(recoded)
    elif failure is None and reason is None and parser is None:
        failure, reason = attempt(partial(check_jpeg_ends, data)), reason_of(data)
    return Packed(
        digest, size, "stored", "bytes", pieces, failure=failure, reason=None if failure else reason
    )


@dataclass(frozen=True)
class Taken:
    """A file as images and what surrounds them, of which ``rebuild`` was proven to make it again."""

    parsed: Parsed
    fidelity: Literal["bytes", "content"]
    parser: Parser | None


def take_apart(
    data: bytes | memoryview,
    digest: str,
    options: PackOptions,
    context: Context | None,
    parser: Parser | None,
) -> Taken | NotTaken | None:
    """The file as images with what ``rebuild`` was proven to give, or why it should rather be stored.

    None of what claims to be no image.
    """
    parsed = examine(data, "", options.limits, context) if parser is None else parser(data)
    if parsed is None or isinstance(parsed, NotTaken):
        return parsed
    if not parsed.images:
        return NotTaken("no-pixels")
    fidelity = prove_rebuild(parsed, digest, options, parser)
    if fidelity == "content" and options.fidelity == "bytes":
        return NotTaken("content-only")
    if len(json.dumps(parsed.recipe)) + 600 * len(parsed.images) > MAX_ROW:
        return NotTaken("many-images")
    return Taken(parsed, fidelity, parser)


def _searched(data: bytes | memoryview, digest: str, options: PackOptions) -> Taken | None:
    """The file as rasters that show in it, whatever it claims to be; None where there are none."""
    view = memoryview(data).cast("B")
    context = context_of(lambda offset, length: bytes(view[offset : offset + length]), len(view), "")
    if context is None:
        return None
    taken = attempt(lambda: take_apart(data, digest, options, context, None))
    return taken if isinstance(taken, Taken) else None


def _tables(data: bytes | memoryview, options: PackOptions) -> Tables:
    """What JPEG streams in the file may lack."""
    return tiff_jpeg.tables(memoryview(data).cast("B"), options.limits)


@dataclass(frozen=True)
class _Way:
    """One way to keep what surrounds the images: its pieces, and all bytes but those of the images."""

    parsed: Parsed
    surround: list[Piece]
    cost: int
    saved: int  # bytes that JPEG streams in the surround saved; they would in the file as it is as well


def _ways(data: bytes | memoryview, taken: Taken, options: PackOptions) -> list[_Way]:
    """What was proven; where that holds many differences of compressed bytes, also the file without them."""
    size = memoryview(data).nbytes
    tables = Tables(_tables(data, options).streams)  # streams lie at other places in the surround
    choices = [taken.parsed]
    many = int(taken.parsed.recipe.get("differences", 0)) > size // FEW or taken.fidelity == "content"
    if taken.parsed.lighter is not None and options.fidelity == "auto" and many:
        lighter = taken.parsed.lighter()
        if lighter is not None:
            choices = [lighter] if taken.fidelity == "content" else [taken.parsed, lighter]
    ways = []
    for parsed in choices:
        measured = list(measured_pieces(parsed.surround, RecordType.SURROUND, None, tables))
        surround = [piece for piece, _ in measured]
        saved = sum(plain - len(piece.payload) for piece, plain in measured)
        total = IMAGE_COST + len(json.dumps(parsed.recipe)) // 3
        total += sum(cost_of(len(piece.payload)) for piece in surround)
        ways.append(_Way(parsed, surround, total, saved))
    return ways


def _encode(
    data: bytes | memoryview, digest: str, taken: Taken, codec: Codec, options: PackOptions
) -> Packed | None:
    """The file through the codec, or None when that is not smaller. Raises what codecs raise."""
    size = memoryview(data).nbytes
    images = taken.parsed.images
    ways = _ways(data, taken, options)
    streams: list[Piece] = []
    proofs: list[bool] = []
    pixels, least = 0, min(way.cost for way in ways)
    for image in images:
        coded = options.coder(image, codec)
        pixels += cost_of(len(coded.payload))
        if least + pixels >= cost_of(size):  # it has grown: no image after this one can shrink it again
            return None
        proofs.append(coded.proven)
        streams.append(Piece(RecordType.CODESTREAM, coded.payload, coded.coding, image.nbytes, coded.stream))
    packed = _joined(data, digest, taken, ways, streams, pixels, options)
    if packed is not None and options.verify:
        for number, (image, piece) in enumerate(zip(images, streams, strict=True)):
            if not proofs[number] and not same_image(image, _decoded(piece, codec)):
                raise ProofFailed(f"image {number} did not come back from its codestream as it was")
    return packed


def with_images(
    data: bytes | memoryview,
    digest: str,
    taken: Taken,
    streams: Sequence[Piece],
    pixels: int,
    options: PackOptions,
) -> Packed | None:
    """The file with images that others coded, and proved, for about ``pixels`` bytes; None where that is not smaller.

    Raises what putting it together raises.
    """
    return _joined(data, digest, taken, _ways(data, taken, options), streams, pixels, options)


def _joined(
    data: bytes | memoryview,
    digest: str,
    taken: Taken,
    ways: Sequence[_Way],
    streams: Sequence[Piece],
    pixels: int,
    options: PackOptions,
) -> Packed | None:
    """The file as what surrounds its images, in the best of ``ways``, and the images; or None."""
    least = min(way.cost for way in ways)
    saved = ways[0].saved
    stored = stored_size(data, stop=2 * max(way.cost for way in ways) - least + pixels + saved) - saved
    if stored <= least + pixels:
        return None
    # The very file, where what that takes is small beside the rest; else its content.
    total = least + pixels
    way = next((w for w in ways if DEAR * (w.cost - least) <= total and w.cost + pixels < stored), ways[-1])
    parsed, fidelity = way.parsed, taken.fidelity
    if parsed is not taken.parsed:
        fidelity = prove_rebuild(parsed, digest, options, taken.parser)
    return Packed(
        digest,
        memoryview(data).nbytes,
        "image",
        fidelity,
        iter([*way.surround, *streams]),
        format=parsed.format,
        recipe=parsed.recipe,
        content_sha256=content_sha256(parsed.format, parsed.recipe, parsed.surround, parsed.images),
    )


def _decoded(piece: Piece, codec: Codec) -> Image:
    if piece.stream is None:
        raise ProofFailed("an image has no description")
    return decode_image(piece.payload, piece.coding, piece.stream, codec)


def prove_rebuild(
    parsed: Parsed, digest: str, options: PackOptions, parser: Parser | None = None
) -> Literal["bytes", "content"]:
    """What ``rebuild`` really gives for this file: ``bytes``, or ``content`` after comparing pixels and
    metadata.

    Raises RebuildMismatch (from ``rebuild``) or ProofFailed when it gives neither.
    """
    if parsed.fidelity == "bytes":
        sink = HashSink()
        rebuild(parsed.format, parsed.recipe, parsed.surround, parsed.images, cast("Any", sink))
        if sink.hexdigest() == digest:
            return "bytes"
        if options.fidelity == "bytes":
            return "content"
    elif options.fidelity == "bytes":
        return "content"
    made = io.BytesIO()
    rebuild(parsed.format, parsed.recipe, parsed.surround, parsed.images, made)
    if sha256(made.getbuffer()) == digest:
        return "bytes"
    if not content_equal(parsed, made.getbuffer(), options.limits, parser):
        raise ProofFailed("the file put together again has not the same pixels and metadata")
    return "content"


def content_equal(
    parsed: Parsed, again: bytes | memoryview, limits: Limits, parser: Parser | None = None
) -> bool:
    """Whether the file ``again`` has the pixels and metadata of ``parsed``."""
    try:
        other = parser(again) if parser else parse_again(again, parsed.format, parsed.recipe, limits)
    except SourceError:
        return False
    return other is not None and images_equal(parsed, other)

