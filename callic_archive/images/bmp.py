"""BMP: uncompressed 24- and 32-bit colour, gray and palettes of 1, 4 and 8 bits, bottom up or top down.

An image of a palette has its indices as samples. (BITMAPINFOHEADER family.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import unpack_from
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.layout import Image, Layout
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced

_BGR = (0x00FF0000, 0x0000FF00, 0x000000FF)
_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Run-length coding, 16-bit pixels and embedded JPEG or PNG are not taken."""
    return parse_spliced("bmp", data, layouts(data, limits), limits)


def layouts(data: memoryview, limits: Limits) -> list[Layout]:
    """Where the samples lie. Raises NotTaken and SourceError subclasses."""
    if len(data) < 26:
        raise TruncatedSource("the BMP file ends inside its header")
    first, header = unpack_from("<II", data, 10)
    if header not in _HEADERS:
        raise NotTaken("variant")  # two letters are a weak magic: this is most likely no BMP
    if len(data) < 14 + header:
        raise TruncatedSource("the BMP file ends inside its header")
    compression = 0
    if header == 12:
        width, height, _, bits = unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = unpack_from("<iiHHI", data, 18)
    flip, height = height > 0, abs(height)
    order: tuple[int, ...] = ()
    if width <= 0 or height == 0:
        raise MalformedSource(f"a BMP of {width} x {height} pixels cannot be")
    if bits == 24 and compression == 0:
        samples, order = 3, (2, 1, 0)
    elif bits == 32 and (compression == 0 or (compression in (3, 6) and _masks(data) == _BGR)):
        samples, order = 4, (2, 1, 0, 3)
    elif bits in (1, 4, 8) and compression == 0:
        samples = 1
    else:
        raise NotTaken("coding" if compression in (1, 2, 4, 5) else "samples")
    pitch = (width * bits + 31) // 32 * 4
    if first < 14 + header:
        raise MalformedSource("the BMP's pixels start inside its header")
    if first + pitch * height > len(data):
        raise TruncatedSource(
            f"the BMP promises {pitch * height} bytes of pixels, {max(0, len(data) - first)} follow"
        )
    return [
        Layout(
            height, width, samples, "|u1", height, width, pitch, (first,), order=order, flip=flip,
            bits=bits if bits < 8 else 0,
        )
    ]  # fmt: skip


def _masks(data: memoryview) -> tuple[int, ...]:
    # Red, green and blue masks stand at byte 54, whether the header counts them as its own or not.
    return tuple(unpack_from("<III", data, 54)) if len(data) >= 66 else ()


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_spliced(recipe, surround, images, out)
