"""NPY: one array of numpy's own format (numpy.lib.format, versions 1 to 3).

(H, W), (H, W, C) with C in 2..4, and (C, H, W) bytes with C in 3..4 are one image; other leading axes are
pages. Samples of more than 16 bits are taken as bit patterns.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.layout import DTYPES, MOST_SAMPLES, Image, Layout, apart
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import stacked

_MAX_HEADER = (
    1 << 16
)  # bytes; numpy itself reads no longer header than 10000 characters without being told to


def header_of(data: memoryview | bytes) -> tuple[dict[str, Any], int]:
    """The header dictionary and the offset of the first sample. Raises MalformedSource and TruncatedSource."""
    if len(data) < 10:
        raise TruncatedSource("the NPY file ends inside its header")
    major, minor = data[6], data[7]
    if major not in (1, 2, 3) or minor != 0:
        raise MalformedSource(f"NPY version {major}.{minor} does not exist")
    start = 10 if major == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    if length > _MAX_HEADER:
        raise MalformedSource(f"the NPY header claims {length} bytes")
    if len(data) < start + length:
        raise TruncatedSource("the NPY file ends inside its header")
    try:
        text = bytes(data[start : start + length]).decode("utf-8" if major == 3 else "latin-1")
        header = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise MalformedSource("the NPY header is no Python dictionary") from error
    if not isinstance(header, dict) or not {"descr", "fortran_order", "shape"} <= header.keys():
        raise MalformedSource("the NPY header lacks descr, fortran_order or shape")
    shape = header["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise MalformedSource("the NPY header's shape is no tuple of sizes")
    return header, start + length


def _stored_as(descr: object) -> str:
    """The sample type of a layout; what is wide, float or boolean is taken as its bit patterns."""
    if not isinstance(descr, str) or descr in DTYPES:
        return str(descr)
    if descr == "|b1":
        return "|u1"
    wide = len(descr) == 3 and descr[0] in "<>" and descr[1:] in ("i4", "f4", "i8", "f8", "c8", "f2")
    return f"{descr[0]}u{descr[2]}" if wide else ""


def sample_type(header: memoryview) -> str:
    """The numpy type of the samples, of complex ones with its byte order. Raises SourceError subclasses."""
    descr = str(header_of(header)[0]["descr"])
    return "?" if descr == "|b1" else descr if descr[1:2] == "c" else descr[1:]


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Object arrays, structured types, and fewer than two axes are not taken."""
    return parse_spliced("npy", data, layouts(data, limits), limits)


def layouts(data: memoryview, limits: Limits) -> list[Layout]:
    """Where the samples lie. Raises NotTaken and SourceError subclasses."""
    header, start = header_of(data)
    dtype, shape = _stored_as(header["descr"]), header["shape"]
    if dtype not in DTYPES:
        raise NotTaken("samples")
    if len(shape) < 2 or 0 in shape:
        raise NotTaken("axes")
    size = int(dtype[2])
    if start + math.prod(shape) * size > len(data):
        raise TruncatedSource(
            f"the NPY header promises {math.prod(shape) * size} bytes, {len(data) - start} follow"
        )
    if header["fortran_order"]:
        return _fortran(dtype, shape, start, limits)
    pages, (height, width, samples), planar = _pages(shape, dtype)
    plane, step = height * width * size, height * width * size * samples
    spp = 1 if planar else samples
    first = Layout(
        height, width, samples, dtype, height, width, width * spp * size,
        offsets=tuple(start + plane * p for p in range(samples)) if planar else (start,), planar=planar,
    )  # fmt: skip
    limits.check_images(pages)
    return stacked([replace(first, offsets=tuple(o + i * step for o in first.offsets)) for i in range(pages)])


def _pages(shape: tuple[int, ...], dtype: str) -> tuple[int, tuple[int, int, int], bool]:
    """(pages, (H, W, samples), planar) of an array in C order."""
    if len(shape) >= 3 and shape[-1] in (2, 3, 4):
        return math.prod(shape[:-3]), (shape[-3], shape[-2], shape[-1]), False
    if len(shape) >= 3 and 4 < shape[-1] <= min(MOST_SAMPLES, *(n // 4 for n in shape[-3:-1])):
        pixels = shape[-3], shape[-2], shape[-1]  # bands of a scene: nothing else is so much shorter than its pixels
        if not apart(shape[-1], int(dtype[2])):
            return math.prod(shape[:-3]), pixels, False
    if len(shape) >= 3 and shape[-3] in (3, 4) and dtype == "|u1":
        return math.prod(shape[:-3]), (shape[-2], shape[-1], shape[-3]), True
    return math.prod(shape[:-2]), (shape[-2], shape[-1], 1), False


def _fortran(dtype: str, shape: tuple[int, ...], start: int, limits: Limits) -> list[Layout]:
    # Column by column: the stored raster is the transposed image; a third axis gives planes or pages.
    size = int(dtype[2])
    rows, columns = shape[1], shape[0]
    planes = math.prod(shape[2:])
    limits.check_images(planes)
    step = rows * columns * size
    page = Layout(rows, columns, 1, dtype, rows, columns, columns * size, (start,), transpose=True)
    if len(shape) == 3 and shape[2] in (2, 3, 4):
        offsets = tuple(start + step * p for p in range(planes))
        return stacked([replace(page, samples=planes, planar=True, offsets=offsets)])
    return stacked([replace(page, offsets=(start + step * p,)) for p in range(planes)])


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_spliced(recipe, surround, images, out)
