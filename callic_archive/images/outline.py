"""Where the samples of a file lie, found from its header alone: no block is decoded and no sample touched."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from callic_archive.errors import SourceError
from callic_archive.images.layout import Layout
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Context, Limits, sniff
from callic_archive.images.tiff_codecs import Packing
from callic_archive.images.zarr_blocks import Group

_MOST = 1 << 50  # bytes of samples of a file
Rasters = list["Raster"]
_BROKEN = (
    SourceError, ValueError, LookupError, TypeError, RecursionError, ArithmeticError, struct.error, zlib.error
)  # fmt: skip


@dataclass(frozen=True)
class Raster:
    """One stored raster, and how its blocks are packed: not at all, as TIFF packs them, or as zarr does."""

    layout: Layout
    packing: Packing | None = None
    group: Group | None = None

    @property
    def missing(self) -> frozenset[int]:
        """Blocks of which nothing is stored: they have the fill value."""
        return self.group.missing if self.group is not None else frozenset()

    @property
    def fill(self) -> int:
        """The value of missing blocks, as a sample of the image."""
        if self.group is None:
            return 0
        value = self.group.fill + (128 if self.layout.dtype == "|i1" else 0)
        info = np.iinfo(self.layout.native)
        return value if info.min <= value <= info.max else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each of its images: (H, W) or (H, W, C)."""
        layout = self.layout
        size = (layout.width, layout.height) if layout.transpose else (layout.height, layout.width)
        return size if layout.split or layout.samples == 1 else (*size, layout.samples)


@dataclass(frozen=True)
class Outline:
    """The rasters of a file of ``size`` bytes, in the order of its images."""

    format: str
    rasters: tuple[Raster, ...]
    size: int

    @property
    def decoded_bytes(self) -> int:
        """Bytes of samples of all its images."""
        return sum(raster.layout.decoded_bytes for raster in self.rasters)


def _plain(module: str, data: memoryview, limits: Limits) -> Rasters:
    found: Sequence[Layout] = import_module(f"callic_archive.images.{module}").layouts(data, limits)
    return [Raster(layout) for layout in found]


def _tiff(data: memoryview, limits: Limits) -> Rasters:
    from callic_archive.images.tiff import pages

    return [Raster(layout, packing) for layout, packing in pages(data, limits)]


def _zip(data: memoryview, limits: Limits) -> Rasters:
    from callic_archive.images.zarr_zip import outline as groups

    return [Raster(group.layout, None, group) for group in groups(data, limits)]


def _hdf5(data: memoryview, limits: Limits) -> Rasters:
    from callic_archive.images.hdf5 import outline as groups

    return [Raster(group.layout, None, group) for group in groups(data, limits)]


def _raw(context: Context, data: memoryview, limits: Limits) -> Rasters:
    from callic_archive.images.raw_file import layouts

    return [Raster(layout) for layout in layouts(data, context, limits)]


def _chunk(context: Context, data: memoryview, limits: Limits) -> Rasters:
    from callic_archive.images.zarr_chunk import outline as group_of

    group = group_of(data, context, limits)
    return [] if group is None else [Raster(group.layout, None, group)]


_FINDERS: dict[str, tuple[str, Callable[[memoryview, Limits], Rasters]]] = {
    name: (name, partial(_plain, name)) for name in ("npy", "pnm", "bmp", "nifti", "mgh", "dicom")
} | {"tiff": ("tiff", _tiff), "zip": ("zarr", _zip), "hdf5": ("hdf5", _hdf5)}


def has_outline(head: memoryview | bytes) -> bool:
    """Whether files that begin like this can have an outline."""
    return sniff(head) in _FINDERS


def outline(
    data: memoryview | bytes,
    context: Context | None = None,
    limits: Limits | None = None,
    *,
    empty: bool = False,
) -> Outline | None:
    """The outline of a file; None where its format has none, or it is broken in any way.

    ``parse`` tells what is wrong with a broken file. ``context`` as for ``parse``. With ``empty`` also one without any
    raster, of a sound file that has none which a model takes.
    """
    if context is not None and context.format == "raw":
        found = _outline(data, context, limits, empty=False)
        return found or _outline(data, None, limits, empty=empty)
    return _outline(data, context, limits, empty=empty)


def _outline(
    data: memoryview | bytes, context: Context | None, limits: Limits | None, *, empty: bool
) -> Outline | None:
    view = memoryview(data).cast("B")
    # no more than a piece of it will ever be in memory
    limits = replace(limits or Limits(), max_decoded_bytes=_MOST)
    name: str
    find: Callable[[memoryview, Limits], Rasters]
    if context is not None:
        name, find = context.format, partial(_raw if context.format == "raw" else _chunk, context)
    else:
        known = _FINDERS.get(sniff(view) or "")
        if known is None:
            return None
        name, find = known
    try:
        try:
            rasters = find(view, limits)
        except NotTaken:
            rasters = []
        limits.check_images(sum(raster.layout.images for raster in rasters))
        limits.check_blocks(sum(raster.layout.count for raster in rasters))
        found = Outline(name, tuple(rasters), len(view))
        limits.check_decoded(found.decoded_bytes, len(view))
    except _BROKEN:
        return None
    return found if rasters or empty else None


def form_of(rasters: Sequence[Raster]) -> dict[str, Any]:
    """Rasters as JSON: with it the bytes of a piece of a file are read without the file's header."""
    from callic_archive.images.layout import layouts_to_json, runs_of

    form: dict[str, Any] = {"layouts": layouts_to_json([raster.layout for raster in rasters])}
    if any(raster.group is not None for raster in rasters):
        groups = [raster.group or Group(raster.layout, ()) for raster in rasters]
        form["steps"] = [[list(step) for step in group.steps] for group in groups]
        form["missing"] = [runs_of(sorted(group.missing)) for group in groups]
        form["fill"] = [group.fill for group in groups]
    elif any(raster.packing is not None and raster.packing.codec != "none" for raster in rasters):
        packings = [raster.packing or Packing("none", 1) for raster in rasters]
        form["packings"] = [[packing.codec, packing.predictor] for packing in packings]
    return form
