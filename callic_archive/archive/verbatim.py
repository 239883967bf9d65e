"""Bytes kept as they are: in chunks, each Zstandard or raw, with the JPEG streams in them recoded; and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import zstandard

from callic_archive.archive import jpeg_parts
from callic_archive.archive.attempts import attempt
from callic_archive.archive.jpeg_limits import recodable
from callic_archive.archive.jpeg_recoding import recoded, stream_of
from callic_archive.archive.mapped import blocks
from callic_archive.archive.packed import Piece, cost_of
from callic_archive.container.layout import RecordType
from callic_archive.images.jpeg_streams import Tables, find, read

# bytes of a file in one STORED or SURROUND record: bounds memory, and what one damaged record costs
CHUNK = 64 << 20
ZSTD_LEVEL = 9
ZSTD_LEVEL_SMALL = 19  # below SMALL bytes the strongest level costs nothing that is felt
SMALL = 1 << 20


def is_jpeg(data: bytes | memoryview) -> bool:
    """Whether a file claims to be a JPEG that one record can hold."""
    return bytes(data[:3]) == b"\xff\xd8\xff" and len(data) <= CHUNK


def recoded_jpeg(data: bytes | memoryview) -> list[Piece] | None:
    """A JPEG file in fewer bytes that give back its very own; None where that fails or saves nothing."""
    told = read(memoryview(data))
    if told is not None and not recodable(told):
        return None
    pixels = told.height * told.width if told is not None else 0
    payload = recoded(data, pixels)
    return None if payload is None else [Piece(RecordType.STORED, payload, "jpeg", len(data))]


def stored_pieces(
    data: bytes | memoryview, *, level: int | None = None, tables: Tables | None = None
) -> Iterator[Piece]:
    """The file verbatim, in chunks, each Zstandard or raw, whichever is smaller; with ``tables``, which may be empty,
    also with the JPEG streams in it recoded.
    """
    return (piece for piece, _ in measured_pieces(data, RecordType.STORED, level, tables))


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
    streams in it are recoded where that is smaller.
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


def measured_pieces(
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
        payload = stream_of(payload, size)
    elif coding == "jpegs":
        if size > CHUNK:
            raise ValueError(f"a record promises {size} bytes, more than the {CHUNK} that one may hold")
        payload = jpeg_parts.decode(payload, size)
    elif coding != "raw":
        raise ValueError(f"{coding!r} is no coding of bytes")
    if len(payload) != size:
        raise ValueError(f"a record holds {len(payload)} bytes instead of {size}")
    return payload
