"""The codings of an image beside the learned one: JPEG XL and WebP through their libraries, filtered Zstandard, and images
of many bits by those of fewer (``wide``).

Whatever the coding, an image may be coded as narrower samples of equal value: labels that a program saved as
32-bit integers or floats are 8- or 16-bit images to every codec.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import numpy as np
import zstandard
from numpy.typing import NDArray

from callic_archive.archive import isolated, wide
from callic_archive.archive.codecs import Box, Decoder, Image, StreamInfo
from callic_archive.errors import EntryDamaged

SAMPLES = "samples zstd"  # the coder that index lines name
DTYPES = ("uint8", "uint16", "int16", "uint32", "uint64")
_FLOATS = {"uint32": np.float32, "uint64": np.float64}
_PREDICTORS = ("none", "left", "above")
_SHUFFLED = 16
_TRIED = 1 << 20  # bytes of samples on which filters are compared
_LEVEL, _LEVEL_LARGE, _LARGE = 19, 9, 4 << 20
_FED = 1 << 20  # bytes at a time
_NEAR = 12  # binary logarithm of the bytes that count as near
_LONGEST = 26  # binary logarithm of the widest window: decoders take up to 27 unasked
_BIAS = np.uint16(0x8000)
_STORED = {"uint8": "uint8", "uint16": "uint16", "int16": "uint16", "uint32": "float32"}
_REPEATS = 2.0  # times that plain Zstandard may take, up to JPEG XL's size at effort 7, of an image that repeats itself

Words = NDArray[Any]


# -- narrowing -----------------------------------------------------------------------------------------------


def narrowed(image: Image) -> tuple[Image, Literal["integer", "float"]] | None:
    """A 32- or 64-bit image as uint8, uint16 or int16 of equal values, read as integers or as floats; or None."""
    if image.dtype.name not in _FLOATS or image.size == 0:
        return None
    if int(image.max()) <= 0xFFFF:
        return image.astype(np.uint8 if int(image.max()) <= 0xFF else np.uint16), "integer"
    signed = np.ascontiguousarray(image).view(f"i{image.itemsize}")
    if int(signed.min()) >= -0x8000 and int(signed.max()) <= 0x7FFF:
        return signed.astype(np.int16), "integer"  # widening repeats the sign
    floats = np.ascontiguousarray(image).view(_FLOATS[image.dtype.name])
    low, high = floats.min(), floats.max()  # NaN fails both comparisons
    if not (low >= -0x8000 and high <= (0xFFFF if low >= 0 else 0x7FFF)):
        return None
    narrow = floats.astype(np.int16 if low < 0 else np.uint8 if high <= 0xFF else np.uint16)
    same = np.array_equal(widened(narrow, image.dtype.name, "float"), image)  # fractions and -0.0 differ
    return (narrow, "float") if same else None


def widened(image: Image, dtype: str, meaning: str) -> Image:
    """The inverse of ``narrowed``. Raises ValueError for types that there are not."""
    if dtype not in _FLOATS or meaning not in ("integer", "float"):
        raise ValueError(f"samples cannot be widened to {dtype} by {meaning} value")
    if meaning == "integer":
        return image.astype(dtype)
    return image.astype(_FLOATS[dtype]).view(dtype)


# -- filtered Zstandard --------------------------------------------------------------------------------------


def encode_samples(image: Image) -> bytes:
    """One byte for the filter, then a Zstandard frame of the filtered samples. See docs/format/archive.md."""
    words = _words(image)
    some = words[: max(1, _TRIED * len(words) // max(1, words.nbytes))]
    quick = zstandard.ZstdCompressor(level=3)
    filters = [
        predictor + shuffled
        for predictor in range(len(_PREDICTORS))
        for shuffled in ((0, _SHUFFLED) if image.itemsize * words.shape[2] > 1 else (0,))
    ]
    best = min(filters, key=lambda chosen: len(quick.compress(_filtered(some, chosen))))
    level = _LEVEL if words.nbytes <= _LARGE else _LEVEL_LARGE
    return bytes([best]) + _compressor(level, words.nbytes).compress(_filtered(words, best))


def repeats_coded(image: Image, *, near: bool = False) -> int:
    """Bytes of the samples as they are, coded in no time with all that comes again however far away, or only if it is
    ``near``: within the last rows, where any model sees it too.
    """
    usual = zstandard.ZstdCompressionParameters.from_level(1, window_log=_NEAR)
    chosen = zstandard.ZstdCompressor(compression_params=usual) if near else _compressor(1, image.nbytes)
    coder = chosen.compressobj(size=image.nbytes)
    view = np.ascontiguousarray(image).reshape(-1).view(np.uint8).data
    return sum(len(coder.compress(view[at : at + _FED])) for at in range(0, len(view), _FED)) + len(coder.flush())


def _compressor(level: int, size: int) -> zstandard.ZstdCompressor:
    """With a window that holds all of ``size`` bytes, if it can be, and finds long repeats all over it."""
    window = max(10, min(_LONGEST, (max(1, size) - 1).bit_length()))
    usual = zstandard.ZstdCompressionParameters.from_level(level, source_size=size)
    if window <= usual.window_log:
        return zstandard.ZstdCompressor(level=level)
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            level, source_size=size, window_log=window, enable_ldm=True, write_content_size=True
        )
    )


def decode_samples(payload: bytes, shape: tuple[int, ...], dtype: str) -> Image:
    """The inverse of ``encode_samples``. Raises ValueError on any other payload."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    height, width, channels = (*shape, 1) if len(shape) == 2 else shape
    payload = bytes(payload)
    chosen = payload[0] if payload else 255
    predictor, shuffled = chosen % _SHUFFLED, chosen // _SHUFFLED
    if predictor >= len(_PREDICTORS) or shuffled > 1:
        raise ValueError(f"samples have no filter {chosen}")
    try:
        if zstandard.frame_content_size(payload[1:]) != size:
            raise ValueError("the Zstandard frame of samples promises another size than the index")
        flat = zstandard.ZstdDecompressor().decompress(payload[1:], max_output_size=size)
    except zstandard.ZstdError as error:
        raise ValueError(f"the Zstandard frame of samples is damaged: {error}") from error
    if len(flat) != size:
        raise ValueError("the Zstandard frame of samples is cut off")
    data = np.frombuffer(flat, np.uint8)
    if shuffled:
        data = np.ascontiguousarray(data.reshape(channels * kind.itemsize, height * width).T)
    words = data.reshape(-1).view(f"<u{kind.itemsize}").reshape(height, width, channels)
    words = words.astype(f"u{kind.itemsize}")
    if predictor:
        axis = 1 if predictor == 1 else 0
        words = words.cumsum(axis=axis, dtype=words.dtype)
    return words.reshape(shape).view(kind)


def _words(image: Image) -> Words:
    """(H, W, C) of unsigned integers."""
    whole = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("="))
    return whole.reshape(*image.shape[:2], -1).view(f"u{image.itemsize}")


def _filtered(words: Words, chosen: int) -> bytes:
    predictor = chosen % _SHUFFLED
    if predictor:
        axis = 1 if predictor == 1 else 0
        words = np.diff(words, axis=axis, prepend=words.dtype.type(0))
    stored = np.ascontiguousarray(words, dtype=words.dtype.newbyteorder("<"))
    if chosen < _SHUFFLED:
        return stored.tobytes()
    table = stored.reshape(-1).view(np.uint8).reshape(-1, words.shape[2] * words.itemsize)
    return np.ascontiguousarray(table.T).tobytes()


# -- libraries -----------------------------------------------------------------------------------------------


def encode_foreign(image: Image, coding: str, effort: int) -> bytes:
    """JPEG XL or WebP without loss. Raises ForeignCodecMissing, ForeignCodecFailed."""
    plain = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("="))
    if plain.dtype == np.int16:
        plain = plain.view(np.uint16) ^ _BIAS
    elif plain.dtype == np.uint32:
        plain = plain.view(np.float32)
    return isolated.ask(
        f"encode_{coding}", plain.tobytes(), memory=plain.nbytes,
        shape=list(plain.shape), dtype=plain.dtype.name, effort=effort,
    )  # fmt: skip


def thorough(image: Image, quick: float) -> int:
    """The effort of JPEG XL that is worth its time after effort 7, which took ``quick`` bytes: 9, or 8.

    Where an image repeats itself, effort 9 looks for the best of all repeats: 384 x 384 pixels of a small tile take 20
    to 100 seconds. Effort 8 takes less than a second there, often for fewer bytes; at worst for a sixth more, and then
    filtered Zstandard is smaller than both. That plain Zstandard is far smaller than effort 7, which looks for no repeats,
    tells such images; photographs never do.
    """
    return 8 if _REPEATS * repeats_coded(image) <= quick else 9


def decode_foreign(payload: bytes, coding: str, shape: tuple[int, ...], dtype: str) -> Image:
    """The image. Raises ForeignCodecMissing, ForeignCodecFailed, ValueError."""
    stored = _STORED.get(dtype)
    if stored is None:
        raise ValueError(f"{coding} holds no {dtype}")
    size = math.prod(shape) * np.dtype(stored).itemsize
    raw = isolated.ask(
        f"decode_{coding}", payload, memory=size, most=max(size, 4096), shape=list(shape), dtype=stored
    )
    if len(raw) != size:
        raise EntryDamaged(f"a {coding} stream holds {len(raw)} bytes of samples instead of {size}")
    image = np.frombuffer(raw, stored).reshape(shape)
    return (image ^ _BIAS).view(np.int16) if dtype == "int16" else image.view(dtype)


_versions: dict[str, str] = {}


def library(coding: str) -> str:
    """The library that codes, with its version, as index lines name it. Raises ForeignCodecMissing."""
    if not _versions:
        _versions.update(json.loads(isolated.ask("versions", b"", memory=0)))
    return _versions[coding]


# -- reading -------------------------------------------------------------------------------------------------


def _joined(
    payload: bytes, shape: tuple[int, ...], dtype: str, decoder: Decoder | None, region: Box | None
) -> Image:
    """A wide image, or its ``region``, from those that it was split into."""
    parts = wide.read(payload, shape, dtype)

    def decoded(stream: wide.Stream, region: Box | None) -> Image:
        told = StreamInfo(stream.shape, stream.dtype, "", (), ())
        return decode_image(bytes(stream.payload), stream.coding, told, decoder, region)

    low = None if parts.low is None else decoded(parts.low, region)
    table = None if parts.table is None else decoded(parts.table, None)
    return parts.joined(decoded(parts.high, region), low, table)


def decode_image(
    payload: bytes, coding: str, stream: StreamInfo, decoder: Decoder | None, region: Box | None = None
) -> Image:
    """The image of a part whose index line says ``stream``, or its ``region``; ``decoder`` is the learned one.

    Of a codestream only what the region needs is decoded, of other codings all.

    Raises CallicError, ValueError.
    """
    dtype = stream.coded_dtype or stream.dtype
    if dtype not in DTYPES or stream.dtype not in DTYPES:
        raise EntryDamaged(f"an image has samples of the unknown type {dtype}")
    if coding == "codestream":
        if decoder is None:
            raise EntryDamaged("no decoder was given to read images with")
        info = decoder.inspect(payload)
        if (info.shape, info.dtype) != (stream.shape, dtype):
            raise EntryDamaged("a codestream holds an image of another shape than the index says")
        image = decoder.decode(payload, region) if region else decoder.decode(payload)
        region = None
    elif coding == "wide":
        image = _joined(payload, stream.shape, dtype, decoder, region)
        region = None
    elif coding == "samples":
        image = decode_samples(payload, stream.shape, dtype)
    else:
        image = decode_foreign(payload, coding, stream.shape, dtype)
    if region is not None:
        top, left, bottom, right = region
        image = np.array(image[top:bottom, left:right], order="C")
    return widened(image, stream.dtype, stream.meaning) if stream.coded_dtype else image
