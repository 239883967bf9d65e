"""One block of a TIFF, packed with LZW, deflate, PackBits or Zstandard: decoded, and packed by an encoder of a known name.

The encoders are those that writers use: libtiff's LZW (two releases) and PackBits, imagecodecs' ones, zlib,
libdeflate and Zstandard at their levels. Predictors are undone and applied here too.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.layout import Layout
from callic_archive.images.reasons import NotTaken

Bytes = NDArray[np.uint8]
Encoder = tuple[str, int, int]  # (library, level, memory level; of Zstandard 1: a stream that does not tell its size)

NONE, DIFFERENCES, FLOATS = 1, 2, 3  # predictors
_CODECS = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate", 32773: "packbits", 50000: "zstd"}
_LOSSY = (6, 7, 33003, 33004, 33005, 34712, 34892, 50001, 50002, 52546)  # JPEG, JPEG 2000, WebP and JPEG XL, mostly
#: No code expands further.
RATIO = {"none": 1, "lzw": 4096, "deflate": 1040, "packbits": 64, "zstd": 1 << 15}
#: What decoders skip behind a code; behind Zstandard they do not.
FILL = {"none": b"\0", "lzw": b"\0", "deflate": b"\0", "packbits": b"\x80", "zstd": b""}
SLACK = 4096  # bytes of filling that a block may have beyond twice its raw size
_ZLIB = [("zlib", level, memory) for level in (6, 9, 1, 5, 4, 3, 2, 7, 8) for memory in (8, 9)]
_ZSTD_LEVELS = (9, 3, 1, 22, 19, *(n for n in range(1, 23) if n not in (9, 3, 1, 22, 19)))
ENCODERS: dict[str, list[Encoder]] = {
    "none": [("none", 0, 0)],
    "lzw": [("libtiff", 0, 0), ("libtiff", 1, 0), ("imagecodecs", 0, 0)],
    "packbits": [("libtiff", 0, 0), ("imagecodecs", 0, 0)],
    "deflate": _ZLIB + [("libdeflate", level, 0) for level in (7, 6, 1, 9, 12, 2, 3, 4, 5, 8, 10, 11)],
    "zstd": [("zstd", level, stream) for level in _ZSTD_LEVELS for stream in (1, 0)],
}
CODECS = tuple(ENCODERS)
_WINDOW = 1 << 27  # bytes that a Zstandard decoder may keep


@dataclass(frozen=True)
class Packing:
    """How the blocks of one raster are packed: codec, and predictor 1 (none), 2 (differences) or 3 (of floats)."""

    codec: str
    predictor: int

    def fits(self, layout: Layout) -> bool:
        """Whether blocks of ``layout`` can be packed so."""
        return (
            self.codec in CODECS
            and bool(layout.lengths) == (self.codec != "none")
            and (self.predictor == NONE or (self.predictor in (DIFFERENCES, FLOATS) and self._predicts(layout)))
        )

    def _predicts(self, layout: Layout) -> bool:
        whole = layout.pitch == layout.block_columns * layout.spp * layout.itemsize
        return whole and not layout.bits and self.codec in ("lzw", "deflate", "zstd")


def packings(compression: int, predictor: int, fill_order: int) -> Packing:
    """The packing that the three TIFF tags name. Raises NotTaken when it is lossy, bit-reversed or not known."""
    codec = _CODECS.get(compression)
    if codec is None:
        raise NotTaken("lossy" if compression in _LOSSY else "coding")
    if fill_order != 1:
        raise NotTaken("coding")
    if codec in ("none", "packbits"):
        predictor = NONE  # libtiff knows predictors for the other codes only, and ignores the tag elsewhere
    if predictor not in (NONE, DIFFERENCES, FLOATS):
        raise NotTaken("coding")
    return Packing(codec, predictor)


# -- decoding ------------------------------------------------------------------------------------------------


def _inflate(code: memoryview, size: int) -> Bytes:
    engine = zlib.decompressobj()
    try:
        return np.frombuffer(engine.decompress(code, size), np.uint8)
    except zlib.error as error:
        raise MalformedSource("a deflate block is broken: what it holds cannot be unpacked") from error


def _unfold(code: memoryview, size: int) -> Bytes:
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(code)
        return np.frombuffer(reader.read(size), np.uint8)
    except zstandard.ZstdError as error:
        raise MalformedSource(f"a Zstandard block is broken: {error}") from error


def unpack(code: memoryview, size: int, packing: Packing) -> Bytes:
    """One block decoded to exactly ``size`` bytes, predictor still applied. Raises SourceError subclasses."""
    from callic_archive.images.tiff_lzw import lzw_decode, packbits_decode

    raw: Bytes | None
    if packing.codec == "none":
        raw = np.frombuffer(code, np.uint8)[:size]
    elif packing.codec == "deflate":
        raw = _inflate(code, size)
    elif packing.codec == "zstd":
        raw = _unfold(code, size)
    elif packing.codec == "packbits":
        raw = packbits_decode(np.frombuffer(code, np.uint8), size)
    else:
        raw = lzw_decode(np.frombuffer(code, np.uint8), size)
        if raw is None:
            raise MalformedSource("an LZW block is broken")
    if len(raw) < size:
        raise TruncatedSource(f"a block of the TIFF decodes to {len(raw)} bytes, its pixels need {size}")
    return raw


# -- predictors ----------------------------------------------------------------------------------------------


def undo_predictor(raw: Bytes, layout: Layout, predictor: int) -> Bytes:
    """The samples of a raw block as they are stored without a predictor."""
    if predictor == NONE:
        return raw
    if predictor == FLOATS:
        return _joined_floats(raw, layout)
    samples = _samples(raw, layout)
    native = samples.dtype.newbyteorder("=")
    total = np.cumsum(samples, axis=1, dtype=native)
    return total.astype(samples.dtype, copy=False).reshape(-1).view(np.uint8)


def apply_predictor(raw: Bytes, layout: Layout, predictor: int) -> Bytes:
    """The inverse of ``undo_predictor``."""
    if predictor == NONE:
        return raw
    if predictor == FLOATS:
        return _parted_floats(raw, layout)
    samples = _samples(raw, layout)
    native = samples.astype(samples.dtype.newbyteorder("="))
    native[:, 1:] -= native[:, :-1].copy()
    return native.astype(samples.dtype, copy=False).reshape(-1).view(np.uint8)


def _samples(raw: Bytes, layout: Layout) -> NDArray[Any]:
    """Raw bytes of a block as unsigned samples (rows, columns, spp) in stored byte order."""
    dtype = layout.dtype.replace("i", "u")
    return raw.view(dtype).reshape(-1, layout.block_columns, layout.spp)


def _joined_floats(raw: Bytes, layout: Layout) -> Bytes:
    """Predictor 3 (TIFF technical note 3): a row is differences of bytes, of all its samples the highest byte first."""
    row = layout.block_columns * layout.spp
    total = np.cumsum(raw.reshape(-1, row * layout.itemsize // layout.spp, layout.spp), axis=1, dtype=np.uint8)
    planes = total.reshape(-1, layout.itemsize, row)
    if layout.dtype[0] == "<":
        planes = planes[:, ::-1]
    return np.ascontiguousarray(planes.transpose(0, 2, 1)).reshape(-1)


def _parted_floats(raw: Bytes, layout: Layout) -> Bytes:
    row = layout.block_columns * layout.spp
    planes = raw.reshape(-1, row, layout.itemsize).transpose(0, 2, 1)
    if layout.dtype[0] == "<":
        planes = planes[:, ::-1]
    whole = np.ascontiguousarray(planes).reshape(-1, row * layout.itemsize // layout.spp, layout.spp)
    whole[:, 1:] -= whole[:, :-1].copy()
    return whole.reshape(-1)


# -- packing -------------------------------------------------------------------------------------------------


@cache
def zlib_header(encoder: Encoder) -> bytes:
    """The two bytes with which a zlib stream of an encoder begins."""
    return _encode_deflate(b"", encoder)[:2]


def _encode_deflate(raw: bytes, encoder: Encoder) -> bytes:
    library, level, memory = encoder
    if library == "zlib":
        engine = zlib.compressobj(level, zlib.DEFLATED, 15, memory)
        return engine.compress(raw) + engine.flush()
    import imagecodecs

    return bytes(imagecodecs.deflate_encode(raw, level=level, raw=False))


def _encode_zstd(raw: bytes, encoder: Encoder) -> bytes:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=encoder[1])
    if not encoder[2]:
        return compressor.compress(raw)
    engine = compressor.compressobj()
    return engine.compress(raw) + engine.flush()


def pack(raw: Bytes, layout: Layout, codec: str, encoder: Encoder) -> bytes:
    """One block (predictor applied) packed by ``encoder``."""
    from callic_archive.images.tiff_lzw import lzw_encode, packbits_encode

    if codec == "deflate":
        return _encode_deflate(raw.tobytes(), encoder)
    if codec == "zstd":
        return _encode_zstd(raw.tobytes(), encoder)
    if encoder[0] == "imagecodecs":
        import imagecodecs

        if codec == "lzw":
            return bytes(imagecodecs.lzw_encode(raw.tobytes()))
        return bytes(imagecodecs.packbits_encode(raw.reshape(-1, layout.pitch)))
    if codec == "packbits":
        return packbits_encode(raw, layout.pitch)
    if codec == "lzw":
        return lzw_encode(raw, bool(encoder[1]))
    return raw.tobytes()
