"""BMP: uncompressed 24- and 32-bit colour and 8-bit gray, bottom up or top down (BITMAPINFOHEADER family)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import unpack_from
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.layout import Image, Layout
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced

_BGR = (0x00FF0000, 0x0000FF00, 0x000000FF)
_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def _is_gray(data: memoryview, start: int, colours: int, entry: int) -> bool:
    """True when palette entry i is the gray value i for all the entries."""
    table = bytes(data[start : start + colours * entry])
    return len(table) == colours * entry and all(
        table[i * entry : i * entry + 3] == bytes((i, i, i)) for i in range(colours)
    )


def parse(data: memoryview, limits: Limits) -> Parsed | None:
    """See ``source.parse``.

    Palettes, run-length coding, 1-, 4- and 16-bit pixels and embedded JPEG or PNG give None.
    """
    found = layouts(data, limits)
    return parse_spliced("bmp", data, found, limits) if found else None


def layouts(data: memoryview, limits: Limits) -> list[Layout]:
    """Where the samples lie; empty where ``parse`` gives None. Raises SourceError subclasses."""
    if len(data) < 26:
        raise TruncatedSource("the BMP file ends inside its header")
    first, header = unpack_from("<II", data, 10)
    if header not in _HEADERS:
        return []  # two letters are a weak magic: this is most likely no BMP
    if len(data) < 14 + header:
        raise TruncatedSource("the BMP file ends inside its header")
    compression = colours = 0
    if header == 12:
        width, height, _, bits = unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = unpack_from("<iiHHI", data, 18)
        (colours,) = unpack_from("<I", data, 46)
    flip, height = height > 0, abs(height)
    order: tuple[int, ...] = ()
    if width <= 0 or height == 0:
        raise MalformedSource(f"a BMP of {width} x {height} pixels cannot be")
    if bits == 24 and compression == 0:
        samples, order = 3, (2, 1, 0)
    elif bits == 32 and (compression == 0 or (compression in (3, 6) and _masks(data) == _BGR)):
        samples, order = 4, (2, 1, 0, 3)
    elif bits == 8 and compression == 0 and colours in (0, 256) and first >= 14 + header:
        entry = 3 if header == 12 else 4
        if not _is_gray(data, 14 + header, 256, entry):
            return []
        samples = 1
    else:
        return []
    pitch = (width * bits + 31) // 32 * 4
    if first < 14 + header:
        raise MalformedSource("the BMP's pixels start inside its header")
    if first + pitch * height > len(data):
        raise TruncatedSource(
            f"the BMP promises {pitch * height} bytes of pixels, {max(0, len(data) - first)} follow"
        )
    return [Layout(height, width, samples, "|u1", height, width, pitch, (first,), order=order, flip=flip)]


def _masks(data: memoryview) -> tuple[int, ...]:
    # Red, green and blue masks stand at byte 54, whether the header counts them as its own or not.
    return tuple(unpack_from("<III", data, 54)) if len(data) >= 66 else ()


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_spliced(recipe, surround, images, out)
