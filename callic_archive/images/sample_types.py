"""What samples are: signed, floating point, complex. Files are taken apart into bits, and their headers tell the rest.

A header is read again for that, out of the bytes that surround the images; so nothing is stored for it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import RebuildMismatch, SourceError
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Context, Limits
from callic_archive.images.splice import around

Image = NDArray[Any]
_NATIVE = ("png", "pnm", "bmp", "jp2", "jls", "ljpeg")  # formats whose samples are what their images are
_LARGEST = 1 << 44  # bytes of a file that is laid out
_BROKEN = (
    SourceError, NotTaken, RebuildMismatch, ValueError, LookupError, TypeError, AttributeError, RecursionError,
    ArithmeticError, MemoryError, OSError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class SampleType:
    """A numpy type, and, where numbers fill only the lowest bits of a sample, how many: others can be there, such as overlays.

    The type has the byte order of this machine; but that of a complex number taken as one word has the order in which
    it is stored, since its halves change places with its bytes.
    """

    name: str
    bits: int = 0

    def of(self, image: Image) -> Image:
        """The image (H, W) or (H, W, C) with samples of this type; as it is where they cannot be that."""
        try:
            wanted = np.dtype(self.name)
        except TypeError:  # a header may say anything
            return image
        if wanted.kind == "c" and image.shape[2:] == (2,) and wanted.itemsize == 2 * image.itemsize:
            found: Image = np.ascontiguousarray(image).view(wanted)[..., 0]
            return found
        if wanted.itemsize != image.itemsize:
            return image
        if wanted.kind == "c" and not wanted.isnative:
            half = np.array(4 * image.itemsize, image.dtype)
            image = image >> half | image << half
        found = image.view(wanted.newbyteorder("="))
        if self.bits:
            unused = np.array(8 * image.itemsize - self.bits, wanted)
            found = found << unused >> unused
        return found


Types = list[tuple[SampleType, ...]]  # of each image: one for all of it, or of each page that lies in it


def tells_all(format: str, dtype: str) -> bool:
    """Whether samples of ``dtype`` in such a file can be nothing but that."""
    kind = np.dtype(dtype)
    if kind.itemsize > 2 or format == "dicom":  # of which samples may have bits that are none of theirs
        return False
    if kind.kind == "i" or format in _NATIVE:
        return True
    if format in ("gzip", "zip", "tar", "zarr", "hdf5", "npy"):  # half floats, truth values
        return False
    return kind.itemsize == 1 or format != "tiff"


@dataclass(frozen=True)
class Header:
    """A file of which samples may be missing, and how many bytes of it are there."""

    data: memoryview
    there: int


def laid_out(pieces: Iterable[tuple[int, bytes]], size: int) -> Header:
    """Bytes in their places in a file of ``size``, which takes no memory for what is between them."""
    if not 0 < size <= _LARGEST:
        raise ValueError("no file is of that size")
    out = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # reading what is not there takes none, too
    there = 0
    for offset, data in pieces:
        out[offset : offset + len(data)] = data
        there += len(data)
    return Header(memoryview(out).toreadonly(), there)


def types_of(format: str, recipe: Mapping[str, Any], surround: bytes, context: Context | None = None) -> Types | None:
    """The types of the images of a file that was taken apart; None where its header does not tell.

    ``context`` as for ``source.parse``.
    """
    try:
        if "members" in recipe and format not in ("nrrd", "metaimage", "raw"):
            return _of_members(recipe, surround)
        return types_in(format, _header(format, recipe, surround, context), recipe, context)
    except _BROKEN:
        return None


def types_in(
    format: str, header: Header, recipe: Mapping[str, Any], context: Context | None = None
) -> Types | None:
    """As ``types_of``, from the file itself, of which samples need not be there."""
    try:
        if format in _NATIVE:
            return None
        if format == "tiff":
            found = import_module("callic_archive.images.tiff").sample_types(header.data, Limits(), header.there)
            return [tuple(SampleType(name) for name in names) for names in found]
        if format == "zarr":
            return _of_zarr(header.data, recipe, context)
        if format == "hdf5":
            names = import_module("callic_archive.images.hdf5").sample_types(header.data)
            return [(SampleType(name),) for name in names]
        if format == "raw":
            name = import_module("callic_archive.images.raw_file").sample_type(context)
            return [(SampleType(name),)] * _count(recipe)
        told = import_module(f"callic_archive.images.{format}").sample_type(header.data)
        one = SampleType(*told) if isinstance(told, tuple) else SampleType(told)
        return [(one,)] * _count(recipe)
    except _BROKEN:
        return None


def _header(format: str, recipe: Mapping[str, Any], surround: bytes, context: Context | None) -> Header:
    if format in ("tiff", "hdf5") or (format == "zarr" and context is None):
        found = list(around(recipe, surround))
        return laid_out(found, max(offset + len(data) for offset, data in found))
    return Header(memoryview(surround), len(surround))


def _count(recipe: Mapping[str, Any]) -> int:
    """Images of a file of one type, at most."""
    from callic_archive.images.layout import layouts_from_json

    if "members" in recipe:
        return sum(int(member["images"]) for member in recipe["members"])
    if "layouts" in recipe:
        return sum(layout.images for layout in layouts_from_json(recipe["layouts"]))
    if "images" in recipe:  # of a file that was cut
        return len(recipe["images"])
    return -(-int(recipe["frames"]) // int(recipe["stack"]))


def _of_members(recipe: Mapping[str, Any], surround: bytes) -> Types | None:
    from callic_archive.images.members import sides_of

    found: Types = []
    at = 0
    for member, side in zip(recipe["members"], sides_of(recipe), strict=True):
        at += int(member["before"])
        own = surround[at : at + int(member["surround"])]
        inner = types_of(str(member["format"]), member["recipe"], own)
        count = int(member["images"])
        if inner is not None and len(inner) != count:
            inner = None
        found += inner if inner is not None else [()] * count
        at += len(own) + side
    return found


def _of_zarr(header: memoryview, recipe: Mapping[str, Any], context: Context | None) -> Types:
    from callic_archive.images.zarr_metadata import array_form
    from callic_archive.images.zarr_zip import outline

    if context is not None:
        return [(SampleType(array_form(context.name, context.document).chunk.sample_type),)] * _count(recipe)
    return [(SampleType(group.sample_type),) for group in outline(header, Limits())]


def page_type(types: Sequence[tuple[SampleType, ...]] | None, image: int, frame: int) -> SampleType | None:
    """The type of a page, where it is known."""
    if types is None or image >= len(types) or not types[image]:
        return None
    own = types[image]
    return own[frame] if len(own) > frame else own[0] if len(own) == 1 else None
