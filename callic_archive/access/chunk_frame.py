"""The bytes of one array chunk as the zarr and numcodecs codecs write them: a codestream, or Zstandard.

    frame = magic (8F 43 4C 5A) | u8 version 1 | u8 form | u8 byte order | body

Form 0 is a Zstandard frame of the chunk's bytes, form 1 a codestream of its samples with leading axes below
each other, form 2 a codestream whose channels are the first of three axes. Byte order 1 says that the chunk's
samples are big-endian. ``docs/format/zarr.md`` is the specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zstandard
from numpy.typing import NDArray

from callic_archive.access.images import decode_image, encode_image
from callic_archive.codec.codestream import inspect
from callic_archive.errors import ChunkFrameError
from callic_archive.images.zarr_blocks import raster_of

MAGIC = b"\x8fCLZ"
VERSION = 1
_HEAD = len(MAGIC) + 3
_ZSTD, _STACK, _PLANES = 0, 1, 2
LEAST_SAMPLES = 1024  # below this a codestream's own header outweighs what it saves
MAX_CHUNK = 1 << 31  # bytes of a chunk, as in other codecs of numcodecs
_TYPES = ("u1", "i1", "u2", "i2", "b1")


@dataclass(frozen=True)
class FrameOptions:
    """How chunks are coded. ``level`` is that of Zstandard, where the learned codec does not serve."""

    coder: Literal["range", "torchac"] = "range"
    level: int = 9

    def __post_init__(self) -> None:
        coder: object = self.coder
        level: object = self.level
        if coder not in ("range", "torchac"):
            raise ValueError(f"there is no coder {self.coder!r}, only range and torchac")
        if type(level) is not int or not 1 <= level <= 22:
            raise ValueError(f"level is {self.level!r}, not a whole number from 1 to 22")


def encode_chunk(chunk: NDArray[Any], options: FrameOptions) -> bytes:
    """The frame of a chunk in C order, the shortest of the forms that can hold it. Never fails for its content.

    The bytes of ``chunk`` come back, in its own byte order; its shape only helps to predict them.
    """
    big = chunk.dtype.str[0] == ">"
    raw = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
    compressor = zstandard.ZstdCompressor(level=options.level, write_content_size=True, write_checksum=True)
    best = _head(_ZSTD, big) + compressor.compress(raw.data)
    taken = _image(chunk)
    if taken is not None:
        form, image = taken
        coded = _head(form, big) + encode_image(image, coder=options.coder, threads=1)
        best = min(best, coded, key=len)
    return best


def _head(form: int, big: bool) -> bytes:
    return MAGIC + bytes((VERSION, form, int(big)))


def _image(chunk: NDArray[Any]) -> tuple[int, NDArray[Any]] | None:
    """Form and image of a chunk, or None where the learned codec does not take it."""
    kind = chunk.dtype.str[1:]
    if kind not in _TYPES or chunk.size < LEAST_SAMPLES:
        return None
    raster = raster_of(chunk.shape)
    if raster is None or raster[0] >= 1 << 31 or raster[1] >= 1 << 31:
        return None
    native = np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("="))
    if native.dtype.itemsize == 1:
        native = native.view(np.uint8)  # bits as they are: neighbours stay neighbours but around zero
    axes = [n for n in chunk.shape if n > 1]
    if len(axes) == 3 and axes[0] == 3 and raster[2] == 1 and native.dtype == np.uint8:
        return _PLANES, np.moveaxis(native.reshape(axes), 0, 2)
    rows, columns, samples = raster
    return _STACK, native.reshape((rows, columns, samples) if samples > 1 else (rows, columns))


def decode_chunk(frame: memoryview | bytes, size: int | None = None) -> NDArray[np.uint8]:
    """The bytes of the chunk that a frame holds. ``size``: how many there must be, if that is known.

    Raises ChunkFrameError, and what ``decode_image`` raises.
    """
    view = memoryview(frame).cast("B")
    if len(view) < _HEAD or bytes(view[:4]) != MAGIC:
        raise ChunkFrameError("these bytes are no chunk of the callic codec")
    version, form, big = view[4:_HEAD]
    if version != VERSION:
        raise ChunkFrameError(f"the chunk has version {version}; this program reads version {VERSION}")
    if form > _PLANES or big > 1:
        raise ChunkFrameError("the chunk has an unknown form")
    most = MAX_CHUNK if size is None else size
    if form == _ZSTD:
        return np.frombuffer(_unfold(view[_HEAD:], most, size), np.uint8)
    info = inspect(view[_HEAD:])
    promised = int(np.prod(info.shape, dtype=object)) * np.dtype(info.dtype).itemsize
    if promised > most or (size is not None and promised != size):
        raise ChunkFrameError(f"the chunk promises {promised} bytes, {most} are expected")
    image = decode_image(view[_HEAD:], threads=1)
    if form == _PLANES:
        if image.ndim != 3:
            raise ChunkFrameError("a chunk of planes has none")
        image = np.moveaxis(image, 2, 0)
    stored = image.dtype.newbyteorder(">" if big else "<")
    return np.ascontiguousarray(image, dtype=stored).reshape(-1).view(np.uint8)


def _unfold(body: memoryview, most: int, size: int | None) -> bytes:
    try:
        told = zstandard.frame_content_size(body)
        # A block of Zstandard has at most 128 KiB and at least three bytes: no frame unfolds further.
        if not 0 <= told <= min(most, (len(body) + 64) << 16) or (size is not None and told != size):
            raise ChunkFrameError(f"the chunk promises {told} bytes, {most} are expected")
        raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=told, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ChunkFrameError(f"the chunk is damaged: {error}") from error
    return raw
