"""Filtered Zstandard: an image by differences of its samples, their bytes sorted, in one frame. It needs no model and no library
of image coding, and finds what comes again far away. docs/format/archive.md, section 7, is the specification.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from callic_archive.archive.codecs import Image

_PREDICTORS = ("none", "left", "above")
_SHUFFLED = 16
_TRIED = 1 << 20  # bytes of samples on which filters are compared
_LEVEL, _LEVEL_LARGE, _LARGE = 19, 9, 4 << 20
_FED = 1 << 20  # bytes at a time
_NEAR = 12  # binary logarithm of the bytes that count as near
_LONGEST = 26  # binary logarithm of the widest window: decoders take up to 27 unasked

Words = NDArray[Any]


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
