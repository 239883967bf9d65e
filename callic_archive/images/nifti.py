"""NIfTI-1 and NIfTI-2 in one file (``.nii``), either byte order: integers, floats and complex numbers, RGB24, RGBA32.

The header is read at the offsets of nifti1.h and nifti2.h. Of pairs, and those of Analyze 7.5, the ``.hdr`` file is such a
header without samples, and says where these lie in the ``.img`` file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from struct import unpack_from
from typing import Any, BinaryIO, NamedTuple

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.detached import Detached
from callic_archive.images.layout import Image, Layout
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import volume

# Data type -> how a voxel is taken, and its samples. What is wider than 16 bits is a bit pattern.
_TYPES = {2: ("u1", 1), 256: ("i1", 1), 4: ("i2", 1), 512: ("u2", 1), 8: ("u4", 1), 768: ("u4", 1), 1024: ("u8", 1),
          1280: ("u8", 1), 16: ("u4", 1), 64: ("u8", 1), 32: ("u4", 2), 1792: ("u8", 2), 128: ("u1", 3),
          2304: ("u1", 4)}  # fmt: skip
# What the samples are; a complex voxel has two.
_MEANINGS = {2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8", 16: "f4", 64: "f8",
             32: "c8", 1792: "c16", 128: "u1", 2304: "u1"}  # fmt: skip
#: Types that SPM added to Analyze 7.5, by those of NIfTI.
_OF_SPM = {130: 256, 132: 512, 136: 768}
_LARGEST = 1 << 40
_MAGIC, _MAGIC_2 = 344, 4  # where the magic number stands in versions 1 and 2


class _Header(NamedTuple):
    order: str  # of bytes: < or >
    code: int  # the data type
    dim: tuple[int, ...]  # all eight
    offset: int  # of the samples


def _header(data: memoryview) -> _Header:
    """Raises SourceError subclasses."""
    for order in "<>":
        size = unpack_from(order + "i", data)[0] if len(data) >= 4 else 0
        if size == 348 and len(data) >= 348:
            (offset,) = unpack_from(order + "f", data, 108)
            if not math.isfinite(offset) or offset != int(offset):
                raise MalformedSource("the NIfTI samples begin at no whole number of bytes")
            return _Header(
                order,
                unpack_from(order + "h", data, 70)[0],
                unpack_from(order + "8h", data, 40),
                int(offset),
            )
        if size == 540 and len(data) >= 540:
            (offset,) = unpack_from(order + "q", data, 168)
            return _Header(
                order,
                unpack_from(order + "h", data, 12)[0],
                unpack_from(order + "8q", data, 16),
                int(offset),
            )
    raise TruncatedSource("the NIfTI file ends inside its header")


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Samples of 128 bits, single bits, and single rows of voxels are not taken."""
    return parse_spliced("nifti", data, layouts(data, limits), limits)


def sample_type(header: memoryview) -> str:
    """The numpy type of the samples, without the scaling that the header tells of. Raises SourceError subclasses, KeyError."""
    return _MEANINGS[_header(header).code]


def layouts(data: memoryview, limits: Limits) -> list[Layout]:
    """Where the samples lie. Raises NotTaken and SourceError subclasses."""
    header = _header(data)
    if header.offset < 348:
        raise MalformedSource("the NIfTI samples begin inside the header")
    return _layouts(header, 0, len(data), limits)


def detached(header: memoryview, name: str) -> Detached:
    """What the header of a pair says of the file ``name`` beside it. Raises NotTaken and SourceError subclasses."""
    bare, size = name.lower().removesuffix(".gz"), bytes(header[:4])
    if not bare.endswith(".img"):
        raise NotTaken("variant")
    if size in (b"\x5c\1\0\0", b"\0\0\1\x5c"):
        magic = bytes(header[_MAGIC : _MAGIC + 4])
        analyze = magic not in (b"ni1\0", b"n+1\0")
    else:
        magic, analyze = bytes(header[_MAGIC_2 : _MAGIC_2 + 4]), False
    if not analyze and magic not in (b"ni1\0", b"ni2\0"):
        raise NotTaken("variant")
    found = _header(header)
    if analyze:  # which may leave axes out that it counts
        dim = found.dim[:3] + tuple(n or 1 for n in found.dim[3:])
        found = found._replace(dim=dim, code=_OF_SPM.get(found.code, found.code))
    if found.code not in _TYPES:
        raise NotTaken("samples")
    return Detached(_MEANINGS[found.code], partial(_layouts, found), "" if bare == name.lower() else "gzip")


def _layouts(header: _Header, start: int, length: int, limits: Limits) -> list[Layout]:
    """Where the samples lie in a file of ``length`` bytes, counted from ``start``."""
    order, code, dim, offset = header
    if code not in _TYPES:
        raise NotTaken("samples")
    if not 1 <= dim[0] <= 7 or not all(0 < n < _LARGEST for n in dim[1 : dim[0] + 1]):
        raise MalformedSource("the NIfTI dimensions are impossible")
    letter, samples = _TYPES[code]
    sizes = dim[1 : dim[0] + 1]
    dtype = ("|" if letter[1] == "1" else order) + letter
    size = math.prod(sizes) * samples * int(letter[1])
    if offset < 0:
        raise MalformedSource("the NIfTI samples begin before their file")
    if start + offset + size > length:
        raise TruncatedSource(
            f"the NIfTI header promises {size} bytes of samples, {max(0, length - start - offset)} follow"
        )
    found = volume(dtype, sizes, start + offset, limits, samples)
    if not found:
        raise NotTaken("axes")
    return found


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_spliced(recipe, surround, images, out)
