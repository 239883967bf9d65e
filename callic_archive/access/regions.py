"""Regions of an image: rows and columns, as slices, as numbers or as text, checked against its shape."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from callic_archive.archive.codecs import Box
from callic_archive.errors import RegionError

#: ``(top, left, bottom, right)``, ``(rows, columns)`` as slices, or one slice of rows.
Region: TypeAlias = tuple[int, int, int, int] | tuple[slice, slice] | tuple[slice] | slice

_NUMBERS = re.compile(r"\s*(-?\d{1,18})\s*,\s*(-?\d{1,18})\s*,\s*(-?\d{1,18})\s*,\s*(-?\d{1,18})\s*")
_SLICES = re.compile(r"\s*(-?\d{1,18})?\s*:\s*(-?\d{1,18})?\s*,\s*(-?\d{1,18})?\s*:\s*(-?\d{1,18})?\s*")


def region_of(text: str) -> Region:
    """A region as the command line takes it: ``TOP,LEFT,BOTTOM,RIGHT`` or ``Y0:Y1,X0:X1``. Raises RegionError."""
    match = _NUMBERS.fullmatch(text)
    if match is not None:
        top, left, bottom, right = (int(number) for number in match.groups())
        return top, left, bottom, right
    match = _SLICES.fullmatch(text)
    if match is None:
        raise RegionError(f"{text!r} is no region; write TOP,LEFT,BOTTOM,RIGHT or Y0:Y1,X0:X1")
    y0, y1, x0, x1 = (None if number is None else int(number) for number in match.groups())
    return slice(y0, y1), slice(x0, x1)


def box_of(region: Region | Any, shape: tuple[int, ...]) -> Box:
    """The region as (top, left, bottom, right) within an image of ``shape`` (H, W, ...).

    Ends that a slice leaves out are those of the image, and its negative numbers count from there. Unlike
    numpy, nothing is clipped. Raises RegionError when the region is empty, leaves the image, or is none.
    """
    height, width = shape[:2]
    whole = f"the image of {height} x {width} pixels"
    if isinstance(region, slice):
        region = (region,)
    if not isinstance(region, tuple) or not 1 <= len(region) <= 4:
        raise RegionError(
            f"{region!r} is no region; give (top, left, bottom, right) or slices of rows and columns"
        )
    if len(region) == 4 and all(_whole(end) for end in region):
        top, left, bottom, right = (int(end) for end in region)
    elif len(region) <= 2 and all(isinstance(part, slice) for part in region):
        parts: list[Any] = [*region, slice(None)][:2]
        top, bottom = _ends(parts[0], height, "rows")
        left, right = _ends(parts[1], width, "columns")
    else:
        raise RegionError(
            f"{region!r} is no region; give (top, left, bottom, right) or slices of rows and columns"
        )
    if top > bottom or left > right:
        raise RegionError(f"rows {top} to {bottom}, columns {left} to {right} run backwards")
    if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
        raise RegionError(f"rows {top} to {bottom}, columns {left} to {right} do not lie within {whole}")
    if top == bottom or left == right:
        raise RegionError(f"rows {top} to {bottom}, columns {left} to {right} of {whole} hold no pixel")
    return top, left, bottom, right


def _whole(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _ends(part: slice, length: int, what: str) -> tuple[int, int]:
    if part.step not in (None, 1):
        raise RegionError(f"{what} are taken one after the other, not in steps of {part.step}")
    ends = []
    for end, default in ((part.start, 0), (part.stop, length)):
        if end is not None and not _whole(end):
            raise RegionError(f"{what} are counted in whole numbers, not {end!r}")
        number = default if end is None else int(end)
        ends.append(number + length if number < 0 else number)
    return ends[0], ends[1]
