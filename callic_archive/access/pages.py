"""The pages of a file as its format has them: slices and frames that were coded below each other, one by one again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import RebuildMismatch
from callic_archive.images.layout import layouts_from_json
from callic_archive.images.sample_types import SampleType, Types, page_type

Image = NDArray[Any]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Page:
    """Frame ``frame`` of ``frames`` that lie below each other in coded image ``image``. ``signed``: its bytes are int8,
    coded with their sign bit turned."""

    image: int
    frame: int = 0
    frames: int = 1
    signed: bool = False
    type: SampleType | None = None  # what the samples are, where they are known to be that

    def shape(self, whole: Sequence[int]) -> tuple[int, ...]:
        """Of the page, where ``whole`` is that of the coded image."""
        return (whole[0] // self.frames, *whole[1:])

    def box(self, whole: Sequence[int], region: Box | None) -> Box | None:
        """Where a region of the page, or all of it, lies in the coded image; None for the whole image."""
        if region is None and self.frames == 1:
            return None
        height, width = self.shape(whole)[:2]
        top, left, bottom, right = region or (0, 0, height, width)
        above = self.frame * height
        return above + top, left, above + bottom, right

    def samples(self, image: Image) -> Image:
        """The samples as the file means them."""
        if self.signed and image.dtype == np.uint8:
            image, usual = image ^ np.uint8(0x80), SampleType("i1")
            return (self.type or usual).of(image)
        return image if self.type is None else self.type.of(image)


def pages_of(
    recipe: Mapping[str, Any] | None, shapes: Sequence[Sequence[int]], types: Types | None = None
) -> list[Page]:
    """The pages of a file that was taken apart with ``recipe`` into coded images of ``shapes``, with samples of ``types``."""
    if types is not None and len(types) != len(shapes):
        types = None
    try:
        stacks = list(_stacks(recipe or {}))
    except (RebuildMismatch, KeyError, TypeError, ValueError):
        stacks = []
    if len(stacks) != len(shapes):
        return [Page(number, type=page_type(types, number, 0)) for number in range(len(shapes))]
    pages = []
    for number, ((frames, signed), shape) in enumerate(zip(stacks, shapes, strict=True)):
        whole = frames if frames > 0 and shape[0] % frames == 0 else 1
        pages += [Page(number, n, whole, signed, page_type(types, number, n)) for n in range(whole)]
    return pages


def _stacks(recipe: Mapping[str, Any]) -> Iterator[tuple[int, bool]]:
    """(frames, whether they are signed bytes) of each coded image, as far as recipes tell."""
    if "members" in recipe:
        for member in recipe["members"]:
            count = int(member["images"])
            found = list(_stacks(member["recipe"] or {}))
            yield from found if len(found) == count else [(1, False)] * count
    elif "layouts" in recipe:
        for layout in layouts_from_json(recipe["layouts"]):
            for _ in range(layout.images):
                yield layout.frames, layout.dtype == "|i1"
    elif "stack" in recipe and "frames" in recipe:
        left, each = int(recipe["frames"]), int(recipe["stack"])
        while left > 0 and each > 0:
            yield min(each, left), False
            left -= each
