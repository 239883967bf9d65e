"""JPEG-LS (ITU-T T.87) with the thresholds of the standard, without loss or nearly so: read, and coded again by CharLS.

The standard leaves an encoder no choice once it was told what ``Choices`` names. Coding what was decoded from a nearly
lossless code once more mostly gives the same code, since every sample lies on a step already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, RebuildMismatch, TruncatedSource
from callic_archive.images.frame_code import Header

_SOF, _SOS, _EOI = 0xF7, 0xDA, 0xD9
_END = bytes((0xFF, _EOI))


@dataclass(frozen=True)
class Choices:
    """What an encoder is told besides the samples."""

    bits: int  # of a sample, 2..16
    near: int  # by which a sample may differ, 0..255; 0: without loss
    interleave: int  # 0: a scan for each sample of a pixel, 1: line by line, 2: pixel by pixel

    @property
    def dtype(self) -> str:
        """Of the samples as CharLS takes them."""
        return "uint8" if self.bits <= 8 else "uint16"


def read_header(code: bytes) -> Header[Choices]:
    """The headers of a code. Raises MalformedSource and TruncatedSource."""
    if code[:2] != b"\xff\xd8":
        raise MalformedSource("a frame said to be JPEG-LS does not begin as one")
    at = 2
    frame: tuple[int, int, int, int] | None = None
    while True:
        if at + 4 > len(code):
            raise TruncatedSource("a JPEG-LS frame ends inside its headers")
        marker, length = code[at + 1], int.from_bytes(code[at + 2 : at + 4], "big")
        body = code[at + 4 : at + 2 + length]
        if code[at] != 0xFF or length < 2 or len(body) != length - 2 or marker == _EOI:
            raise MalformedSource("a JPEG-LS frame has broken headers")
        at += 2 + length
        if marker == _SOF and len(body) >= 6:
            frame = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5], body[0]
        elif marker == _SOS:
            if frame is None or len(body) < 4 or len(body) != 4 + 2 * body[0]:
                raise MalformedSource("a JPEG-LS frame has broken headers")
            height, width, samples, bits = frame
            return Header(height, width, samples, Choices(bits, body[-3], body[-2]), at)


def decode(code: bytes, header: Header[Choices]) -> NDArray[Any] | None:
    """The samples (H, W, C), uint8 or uint16. None for what CharLS does not take. Raises MalformedSource."""
    import jpeg_ls

    choices, shape = header.choices, header.shape
    if not (2 <= choices.bits <= 16 and choices.interleave <= 2):
        return None
    # without a marker to stop at, CharLS reads on behind a code that is cut off, for seconds
    whole = code if code.endswith(_END) else code + _END
    try:
        raw, told = jpeg_ls.decode_buffer(whole)
    except (RuntimeError, ValueError) as error:
        raise MalformedSource("a JPEG-LS frame cannot be decoded") from error
    if (told["height"], told["width"], told["components"], told["bits_per_sample"]) != (*shape, choices.bits):
        return None
    flat = np.frombuffer(raw, choices.dtype)
    if flat.size != math.prod(shape):
        return None
    if choices.interleave == 0:
        return np.moveaxis(flat.reshape(shape[2], *shape[:2]), 0, 2)
    return flat.reshape(shape)


def encode(image: NDArray[Any], choices: Choices) -> bytes:
    """The bytes of CharLS's code for ``image`` (H, W, C) behind the headers of its first scan. Raises RebuildMismatch."""
    import jpeg_ls

    if not (2 <= choices.bits <= 16 and 0 <= choices.near <= 255 and 0 <= choices.interleave <= 2):
        raise RebuildMismatch("the recipe names a JPEG-LS code that cannot be")
    height, width, samples = image.shape
    if int(image.max()) >= 1 << choices.bits or not 1 <= samples <= 4:
        raise RebuildMismatch("the recipe names a JPEG-LS code of fewer bits than the samples have")
    plain = image.astype(choices.dtype)
    raw = (np.moveaxis(plain, 2, 0) if choices.interleave == 0 else plain).tobytes()
    try:
        code = bytes(
            jpeg_ls.encode_buffer(raw, height, width, samples, choices.bits, choices.near, choices.interleave)
        )
    except (RuntimeError, ValueError) as error:
        raise RebuildMismatch("the recipe names a JPEG-LS code that cannot be made") from error
    return code[read_header(code).begin :]
