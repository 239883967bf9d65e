"""Pieces of a large file: each is taken apart by itself, from its bytes and the form that its rasters have.

A piece is no file of its format, it has no header; what the header said of its blocks is its form (``form_of``).
``source.rebuild`` puts it together as it does whole files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from callic_archive.errors import MalformedSource, RebuildMismatch
from callic_archive.images.layout import Image, layouts_from_json, unrun
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed, guarded
from callic_archive.images.splice import parse_spliced
from callic_archive.images.tiff_codecs import Packing
from callic_archive.images.tiff_packed import parse_packed, unpacked
from callic_archive.images.zarr_blocks import Group, decoded, parse_groups
from callic_archive.images.zarr_codecs import check_step

T = TypeVar("T")


def parse_piece(
    format: str, form: Mapping[str, Any], data: memoryview | bytes, limits: Limits | None = None
) -> Parsed | None:
    """Like ``source.parse``, of one piece; None where that is kept as it is. Raises SourceError subclasses."""
    view = memoryview(data).cast("B")
    limits = limits or Limits()

    def step() -> Parsed | None:
        if "steps" in form:
            found = parse_groups(view, _groups(form), limits, format)
            return found if found.fidelity == "bytes" else None  # code of another length has no place in the file
        if "packings" in form:
            return parse_packed(view, _pages(form), limits)
        return parse_spliced(format, view, layouts_from_json(form["layouts"]), limits)

    try:
        return _followed(format, step)
    except NotTaken:
        return None


def piece_images(format: str, form: Mapping[str, Any], data: memoryview | bytes) -> tuple[Image, ...]:
    """The images of a piece that was stored as it is: decoded, without a look at how to repeat it.

    Raises SourceError subclasses.
    """
    view = memoryview(data).cast("B")
    limits = Limits()

    def step() -> tuple[Image, ...]:
        if "steps" in form:
            return decoded(view, _groups(form), limits)
        if "packings" in form:
            return unpacked(view, _pages(form), limits)
        return parse_spliced(format, view, layouts_from_json(form["layouts"]), limits).images

    return _followed(format, step)


def _followed(format: str, step: Callable[[], T]) -> T:
    try:
        return guarded(step, f"a piece of {format}", "")
    except RebuildMismatch as error:
        raise MalformedSource(f"the form of a piece cannot be: {error}") from error


def _groups(form: Mapping[str, Any]) -> list[Group]:
    layouts = layouts_from_json(form["layouts"])
    groups = []
    for layout, steps, missing, fill in zip(
        layouts, form["steps"], form["missing"], form["fill"], strict=True
    ):
        gone = frozenset(unrun(missing, layout.count))
        groups.append(Group(layout, tuple(check_step(step) for step in steps), gone, int(fill)))
    return groups


def _pages(form: Mapping[str, Any]) -> list[Any]:
    layouts = layouts_from_json(form["layouts"])
    packings = [Packing(str(codec), int(predictor)) for codec, predictor in form["packings"]]
    for layout, packing in zip(layouts, packings, strict=True):
        if not packing.fits(layout):
            raise MalformedSource("the form of a piece names a packing that its layout does not fit")
    return list(zip(layouts, packings, strict=True))
