"""MGH (FreeSurfer volumes, ``.mgh``; ``.mgz`` is gzip of it): integers of 8, 16 and 32 bits and floats, big-endian.

Behind the samples may stand a footer of scan parameters and tags, which stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from struct import unpack_from
from typing import Any, BinaryIO

from callic_archive.errors import TruncatedSource
from callic_archive.images.layout import Image, Layout
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import volume

_START = 284  # byte at which the samples begin, whatever the header says
_MEANINGS = {0: "u1", 1: "i4", 3: "f4", 4: "i2", 10: "u2"}
#: 32 bits are taken as bit patterns.
_TYPES = {0: "|u1", 1: ">u4", 3: ">u4", 4: ">i2", 10: ">u2"}


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Single rows of voxels, and what FreeSurfer hardly writes (tensors, bitmaps), are not taken."""
    return parse_spliced("mgh", data, layouts(data, limits), limits)


def sample_type(header: memoryview) -> str:
    """The numpy type of the samples. Raises KeyError."""
    return _MEANINGS[unpack_from(">i", header, 20)[0]]


def layouts(data: memoryview, limits: Limits) -> list[Layout]:
    """Where the samples lie. Raises NotTaken and SourceError subclasses."""
    if len(data) < _START:
        raise TruncatedSource("the MGH file ends inside its header")
    *sizes, kind = unpack_from(">5i", data, 4)
    dtype = _TYPES.get(kind)
    if dtype is None:
        raise NotTaken("samples")
    size = math.prod(sizes) * int(dtype[2])
    if _START + size > len(data):
        raise TruncatedSource(f"the MGH header promises {size} bytes of samples, {len(data) - _START} follow")
    found = volume(dtype, sizes, _START, limits)
    if not found:
        raise NotTaken("axes")
    return found


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_spliced(recipe, surround, images, out)
