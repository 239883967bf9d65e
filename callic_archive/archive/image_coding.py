"""The codings of an image beside the learned one: JPEG XL and WebP through their libraries, filtered Zstandard,
areas of one value each (``segments``), images of many bits by those of fewer (``wide``), and coefficients (``dct``).

Whatever the coding, an image may be coded as narrower samples of equal value: labels that a program saved as
32-bit integers or floats are 8- or 16-bit images to every codec.
"""

from __future__ import annotations

import json
import math
from typing import Literal

import numpy as np

from callic_archive.archive import isolated, wide
from callic_archive.archive.codecs import Box, Decoder, Image, StreamInfo
from callic_archive.archive.dct import coding as dct
from callic_archive.archive.filtered import decode_samples, repeats_coded
from callic_archive.archive.segments import decode_segments
from callic_archive.errors import EntryDamaged

SAMPLES, SEGMENTS, DCT = "samples zstd", "segments", "dct"  # coders that index lines name
DTYPES = ("uint8", "uint16", "int16", "uint32", "uint64")
_FLOATS = {"uint32": np.float32, "uint64": np.float64}
_BIAS = np.uint16(0x8000)
_STORED = {"uint8": "uint8", "uint16": "uint16", "int16": "uint16", "uint32": "float32"}
_REPEATS = 2.0  # times that plain Zstandard may take, up to JPEG XL's size at effort 7, of an image that repeats itself

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


def _of_coefficients(payload: bytes, shape: tuple[int, ...], dtype: str) -> Image:
    """An image that was decoded from a JPEG stream, from its coefficients and what differs."""
    found = dct.read(payload, shape, dtype)
    if not found.coding:
        return found.image
    told = StreamInfo(shape, dtype, "", (), ())
    differences = decode_image(bytes(found.differences), found.coding, told, None)
    return found.image + differences


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
    elif coding == "dct":
        image = _of_coefficients(payload, stream.shape, dtype)
    elif coding == "segments":
        image = decode_segments(payload, stream.shape, dtype)
    else:
        image = decode_foreign(payload, coding, stream.shape, dtype)
    if region is not None:
        top, left, bottom, right = region
        image = np.array(image[top:bottom, left:right], order="C")
    return widened(image, stream.dtype, stream.meaning) if stream.coded_dtype else image
