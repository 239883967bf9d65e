"""JPEG 2000 without loss (ITU-T T.800) as OpenJPEG codes it: one tile, one layer, the reversible transform.

The format leaves an encoder many choices, so only what OpenJPEG writes (and JasPer, for the same choices) comes back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, RebuildMismatch, TruncatedSource
from callic_archive.images.frame_code import Header
from callic_archive.images.reasons import NotTaken

_SIZ, _COD, _SOT, _SOD = 0x51, 0x52, 0x90, 0x93


@dataclass(frozen=True)
class Choices:
    """What an encoder is told besides the samples."""

    resolutions: int  # levels of the wavelet transform and one, 1..33
    mct: bool  # the colour transform
    bits: int  # of a sample, 1..16
    signed: bool


def read_header(code: bytes) -> Header[Choices]:
    """The headers of a code.

    Raises NotTaken for one that OpenJPEG as it is called here does not make, MalformedSource and TruncatedSource.
    """
    if code[4:8] == b"jP  ":
        raise NotTaken("variant")  # in boxes, which DICOM does not allow
    if code[:4] != b"\xff\x4f\xff\x51":
        raise MalformedSource("a frame said to be JPEG 2000 does not begin as one")
    at = 2
    size: tuple[int, int, int, int, bool] | None = None
    coding: tuple[int, bool] | None = None
    while True:
        if at + 4 > len(code):
            raise TruncatedSource("a JPEG 2000 frame ends inside its headers")
        marker, length = code[at + 1], int.from_bytes(code[at + 2 : at + 4], "big")
        if marker == _SOD and code[at] == 0xFF:
            break
        body = code[at + 4 : at + 2 + length]
        if code[at] != 0xFF or length < 2 or len(body) != length - 2:
            raise MalformedSource("a JPEG 2000 frame has broken headers")
        if marker == _SIZ:
            size = _size(body)
        elif marker == _COD:
            coding = _coding(body)
        at += 2 + length
    if size is None or coding is None:
        raise MalformedSource("a JPEG 2000 frame has no headers")
    height, width, samples, bits, signed = size
    return Header(height, width, samples, Choices(coding[0], coding[1], bits, signed), at + 2)


def _size(body: bytes) -> tuple[int, int, int, int, bool]:
    """(height, width, samples, bits, signed) of an image in one tile. Raises NotTaken for others."""
    if len(body) < 36:
        raise MalformedSource("a JPEG 2000 frame has broken headers")
    width, height, x, y, across, down, tx, ty = (
        int.from_bytes(body[i : i + 4], "big") for i in range(2, 34, 4)
    )
    samples = int.from_bytes(body[34:36], "big")
    parts = body[36 : 36 + 3 * samples]
    if len(parts) != 3 * samples or not samples or any((x, y, tx, ty)) or across < width or down < height:
        raise NotTaken("encoder")
    if parts != parts[:3] * samples or parts[1:3] != b"\1\1" or (parts[0] & 127) > 15:
        raise NotTaken("encoder")
    return height, width, samples, (parts[0] & 127) + 1, bool(parts[0] & 128)


def _coding(body: bytes) -> tuple[int, bool]:
    """(resolutions, colour transform) of the coding that is done here. Raises NotTaken for others."""
    if len(body) < 10:
        raise MalformedSource("a JPEG 2000 frame has broken headers")
    if body[9] != 1:
        raise NotTaken("lossy")
    layers = int.from_bytes(body[2:4], "big")
    # no precincts, one layer, blocks of 64 x 64 without styles
    if body[0] or layers != 1 or body[6:9] != b"\4\4\0" or body[5] > 32:
        raise NotTaken("encoder")
    return body[5] + 1, bool(body[4])


def decode(code: bytes, header: Header[Choices]) -> NDArray[Any] | None:
    """The samples (H, W, C): uint8, uint16 or int16. None for others. Raises MalformedSource."""
    import imagecodecs

    try:
        image: NDArray[Any] = np.asarray(imagecodecs.jpeg2k_decode(code, numthreads=1))
    except RuntimeError as error:
        raise MalformedSource("a JPEG 2000 frame cannot be decoded") from error
    if image.size != math.prod(header.shape) or image.dtype not in ("u1", "u2", "i2"):
        return None
    return image.reshape(header.shape)


def encode(image: NDArray[Any], choices: Choices) -> bytes:
    """The bytes of OpenJPEG's code for ``image`` (H, W, C) behind its headers. Raises RebuildMismatch."""
    import imagecodecs

    if not (1 <= choices.resolutions <= 33 and 1 <= choices.bits <= 8 * image.itemsize):
        raise RebuildMismatch("the recipe names a JPEG 2000 code that cannot be")
    try:
        code = imagecodecs.jpeg2k_encode(
            image[..., 0] if image.shape[2] == 1 else image, level=0, codecformat="j2k", reversible=True,
            resolutions=choices.resolutions, mct=choices.mct, bitspersample=choices.bits, numthreads=1,
        )  # fmt: skip
        header = read_header(bytes(code))
        if header.choices.resolutions != choices.resolutions:  # it thinks that these are too many for so small an image
            code = _by_pillow(image, choices)
            header = read_header(code)
    except (RuntimeError, NotTaken, OSError, TypeError, ValueError) as error:
        raise RebuildMismatch("the recipe names a JPEG 2000 code that cannot be made") from error
    return bytes(code[header.begin :])


def _by_pillow(image: NDArray[Any], choices: Choices) -> bytes:
    """The whole code, as Pillow has OpenJPEG make it, of samples of 8 or 16 bits. Raises OSError, TypeError, ValueError."""
    import io

    from PIL import Image

    if choices.bits != 8 * image.itemsize or choices.signed:
        raise ValueError("Pillow codes no samples of so many bits")
    out = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    picture.save(out, "JPEG2000", no_jp2=True, irreversible=False, num_resolutions=choices.resolutions, mct=int(choices.mct))
    return out.getvalue()
