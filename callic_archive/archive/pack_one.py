"""One file to record payloads: the pure heart of packing.

A file goes through the learned codec when its format is understood, its images come back exactly, and the
result is smaller than the file stored verbatim. In every other case, whatever went wrong, it is stored
verbatim (Zstandard, or raw where that is smaller). Nothing leaves here that was not decoded and compared
first.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar, cast

import zstandard

from callic_archive.archive import isolated, jpeg_parts
from callic_archive.archive.candidates import Coder, smallest
from callic_archive.archive.codecs import Codec, Image, StreamInfo
from callic_archive.archive.digests import content_sha256, same_image, sha256
from callic_archive.archive.image_coding import decode_image
from callic_archive.archive.mapped import blocks
from callic_archive.archive.parts import Coding
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.errors import (
    CallicError,
    DeviceFailed,
    EnvironmentFailure,
    ForeignCodecFailed,
    ForeignCodecMissing,
    ProofFailed,
    SourceError,
    UnexpectedFailure,
)
from callic_archive.images import tiff_jpeg
from callic_archive.images.cutting import PIECE
from callic_archive.images.jpeg_streams import Tables, find
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

# bytes of a file in one STORED or SURROUND record: bounds memory, and what one damaged record costs
CHUNK = 64 << 20
ZSTD_LEVEL = 9
ZSTD_LEVEL_SMALL = 19  # below SMALL bytes the strongest level costs nothing that is felt
SMALL = 1 << 20
# bytes of an index line; a file of so many images that it would be longer is stored verbatim
MAX_ROW = 8 << 20
# differences of compressed bytes below 1/64 of a file are taken without a look at what they are worth
FEW = 64
DEAR = 8  # differences may take an eighth of what a file takes without them
MEMORY_OF_JPEG = 8  # bytes of samples that a byte of a JPEG file stands for, about
Parser = Callable[[bytes | memoryview], Parsed | None]
INLINE = 4096  # bytes of payload up to which a piece lies in its entry's own record
# bytes, about: of an entry's lines for one more piece, for its record where it has one, and for an image's digest
PIECE_COST, RECORD_COST, IMAGE_COST = 30, 80, 100


@dataclass(frozen=True)
class PackOptions:
    """What ``pack_one`` may do."""

    # "bytes" stores a file verbatim where only its content would come back
    fidelity: Literal["auto", "bytes"] = "auto"
    verify: bool = True  # False leaves out the decoding of codestreams, never the proof of the rebuilding
    limits: Limits = field(default_factory=Limits)
    piece_bytes: int = PIECE  # of the pieces of large files, about; files from four times as much are cut
    coder: Coder = smallest  # how images are coded
    bands: bool = True  # whether files that are bands of one scene are coded as one image


@dataclass(frozen=True)
class Piece:
    """The payload of one record and what it is."""

    type: RecordType
    payload: bytes
    coding: Coding
    size: int  # bytes before coding
    stream: StreamInfo | None = None
    written: RecordRef | None = None  # where it lies already, with what it shares its record with


@dataclass(frozen=True)
class Packed:
    """One file, ready to be written. ``pieces`` may be consumed once; large verbatim files are compressed on
    the way.
    """

    sha256: str
    size: int
    method: Literal["image", "stored", "sparse", "pieces", "none"]
    fidelity: Literal["bytes", "content"]
    pieces: Iterator[Piece]
    format: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    content_sha256: str | None = None
    failure: CallicError | None = None  # what went wrong with a file that claims to be an image, or
    reason: str | None = None  # one of ``REASONS``, why it was stored verbatim


class HashSink:
    """A write-only file that keeps nothing but the SHA-256 and the number of bytes."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Take in bytes."""
        self._digest.update(data)
        count = memoryview(data).nbytes
        self.size += count
        return count

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def flush(self) -> None:
        """Nothing to do."""

    def hexdigest(self) -> str:
        """SHA-256 of all bytes so far."""
        return self._digest.hexdigest()


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
    if isinstance(taken, Taken):
        packed = attempt(partial(_encode, data, digest, taken, codec(), options))
        if isinstance(packed, Packed):
            return packed
        failure, reason = packed, "not-smaller"
    elif isinstance(taken, NotTaken):
        reason = taken.reason
    else:
        failure = taken
    pieces = stored_pieces(data, tables=_tables(data, options))
    if is_jpeg(data):
        pieces = iter(recoded_jpeg(data) or pieces)
    return Packed(
        digest, size, "stored", "bytes", pieces, failure=failure, reason=None if failure else reason
    )


def is_jpeg(data: bytes | memoryview) -> bool:
    """Whether a file claims to be a JPEG that one record can hold."""
    return bytes(data[:3]) == b"\xff\xd8\xff" and len(data) <= CHUNK


def recoded_jpeg(data: bytes | memoryview) -> list[Piece] | None:
    """A JPEG file as JPEG XL that gives back its very bytes; None where that fails or saves nothing."""
    try:
        payload = isolated.ask("encode_jpeg", data, memory=MEMORY_OF_JPEG * len(data))
        if len(payload) >= len(data) or expand(payload, "jpeg", len(data)) != data:
            return None
    except (ForeignCodecMissing, ForeignCodecFailed, ValueError):
        return None
    return [Piece(RecordType.STORED, payload, "jpeg", len(data))]


@dataclass(frozen=True)
class Taken:
    """A file as images and what surrounds them, of which ``rebuild`` was proven to make it again."""

    parsed: Parsed
    fidelity: Literal["bytes", "content"]
    parser: Parser | None


T = TypeVar("T")


def attempt(step: Callable[[], T]) -> T | CallicError:
    """What ``step`` gives, or the failure that it is for this one file."""
    try:
        return step()
    except EnvironmentFailure:
        raise
    except CallicError as error:
        return error
    except MemoryError as error:
        return UnexpectedFailure(f"there was not enough memory to look into it ({error})")
    except Exception as error:
        if is_device_failure(error):
            raise DeviceFailed(f"the GPU failed: {type(error).__name__}: {error}") from error
        failure = UnexpectedFailure(f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure


def is_device_failure(error: BaseException) -> bool:
    """Whether an error of torch leaves the process with a GPU that cannot be trusted any more."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OutOfMemoryError", "AcceleratorError"}) or "CUDA error" in str(error)


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
        measured = list(_measured(parsed.surround, RecordType.SURROUND, None, tables))
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


def cost_of(payload: int) -> int:
    """Bytes that a piece of ``payload`` bytes costs an archive, about."""
    return payload + PIECE_COST + (RECORD_COST if payload > INLINE else 0)


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


def stored_pieces(
    data: bytes | memoryview, *, level: int | None = None, tables: Tables | None = None
) -> Iterator[Piece]:
    """The file verbatim, in chunks, each Zstandard or raw, whichever is smaller; with ``tables``, which may be empty,
    also with the JPEG streams in it as JPEG XL.
    """
    return (piece for piece, _ in _measured(data, RecordType.STORED, level, tables))


def stored_size(data: bytes | memoryview, *, stop: int) -> int:
    """Bytes that it costs to store the file verbatim; counting ends early once it exceeds ``stop``."""
    total = 0
    for piece in stored_pieces(data):
        total += cost_of(len(piece.payload))
        if total > stop:
            break
    return total


def streamed_pieces(
    data: Iterable[bytes], size: int, seen: Callable[[bytearray], None], *, recode: bool = False
) -> Iterator[Piece]:
    """About ``size`` bytes stored verbatim as they come; ``seen`` is shown each chunk that went into a piece.

    What ``seen`` hashes is what the records hold, whatever happened to the source meanwhile. With ``recode`` the JPEG
    streams in it become JPEG XL where that is smaller.
    """
    compressor = _compressor(ZSTD_LEVEL_SMALL if size <= SMALL else ZSTD_LEVEL)
    tables = Tables() if recode else None
    chunk = bytearray()
    for block in data:
        view = memoryview(block)
        while view:
            taken = CHUNK - len(chunk)
            chunk += view[:taken]
            view = view[taken:]
            if len(chunk) == CHUNK:
                end = _before_open(chunk) if recode else CHUNK
                rest = chunk[end:]
                del chunk[end:]
                seen(chunk)
                yield _smallest(RecordType.STORED, chunk, compressor, tables)[0]
                chunk = rest
    if chunk:
        seen(chunk)
        yield _smallest(RecordType.STORED, chunk, compressor, tables)[0]


def _before_open(chunk: bytearray | memoryview) -> int:
    """Bytes of a chunk before a JPEG stream that goes on behind it; all where there is none, or it is too long."""
    begin = find(memoryview(chunk)).open
    return begin if begin is not None and 2 * begin >= len(chunk) else len(chunk)


def _measured(
    data: bytes | memoryview, type: RecordType, level: int | None, tables: Tables | None
) -> Iterator[tuple[Piece, int]]:
    """The bytes in chunks, and beside each how many it takes without a look for JPEG streams."""
    view = memoryview(data).cast("B")
    if level is None:
        level = ZSTD_LEVEL_SMALL if len(view) <= SMALL else ZSTD_LEVEL
    compressor = _compressor(level)
    at = 0
    for chunk in blocks(view, CHUNK, None if tables is None else _before_open):
        yield _smallest(type, chunk, compressor, None if tables is None else tables.at(at))
        at += len(chunk)


def _smallest(
    type: RecordType,
    chunk: bytearray | memoryview,
    compressor: zstandard.ZstdCompressor,
    tables: Tables | None,
) -> tuple[Piece, int]:
    """A chunk as a piece, and how many bytes that has without a look for JPEG streams."""
    plain = _piece(type, chunk, compressor)
    if tables is not None:
        payload = attempt(lambda: jpeg_parts.encode(chunk, tables))
        if isinstance(payload, bytes) and len(payload) < len(plain.payload):
            return Piece(type, payload, "jpegs", len(chunk)), len(plain.payload)
    return plain, len(plain.payload)


def verbatim_piece(type: RecordType, data: bytes) -> Piece:
    """The bytes of one piece, Zstandard or raw, whichever is smaller."""
    return _piece(type, data, _compressor(ZSTD_LEVEL_SMALL if len(data) <= SMALL else ZSTD_LEVEL))


def _compressor(level: int) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)


def _piece(
    type: RecordType, chunk: bytes | bytearray | memoryview, compressor: zstandard.ZstdCompressor
) -> Piece:
    packed = compressor.compress(chunk)
    if len(packed) < len(chunk) and expand(packed, "zstd", len(chunk)) == chunk:
        return Piece(type, packed, "zstd", len(chunk))
    return Piece(type, bytes(chunk), "raw", len(chunk))


def expand(payload: bytes, coding: str, size: int, base: bytes | None = None) -> bytes:
    """Undo ``raw``, ``zstd`` (made against ``base``, if any), ``jpeg`` or ``jpegs``.

    Raises ValueError when the result does not have ``size`` bytes, ForeignCodecMissing, ForeignCodecFailed.
    """
    if coding == "zstd":
        if size > CHUNK:
            raise ValueError(f"a record promises {size} bytes, more than the {CHUNK} that one may hold")
        try:
            # else the frame itself would choose what is allocated
            if zstandard.frame_content_size(payload) != size:
                raise ValueError("the Zstandard frame promises another size than the index")
            known = zstandard.ZstdCompressionDict(base or b"", dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            decompressor = zstandard.ZstdDecompressor(dict_data=known if base else None)
            payload = decompressor.decompress(payload, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(f"the Zstandard frame is damaged: {error}") from error
    elif coding == "jpeg":
        if size > CHUNK:
            raise ValueError(f"a JPEG of {size} bytes, more than {CHUNK}, is not recoded")
        memory = MEMORY_OF_JPEG * max(size, len(payload))
        payload = isolated.ask("decode_jpeg", payload, memory=memory, most=max(size, 4096))
    elif coding == "jpegs":
        if size > CHUNK:
            raise ValueError(f"a record promises {size} bytes, more than the {CHUNK} that one may hold")
        payload = jpeg_parts.decode(payload, size)
    elif coding != "raw":
        raise ValueError(f"{coding!r} is no coding of bytes")
    if len(payload) != size:
        raise ValueError(f"a record holds {len(payload)} bytes instead of {size}")
    return payload
