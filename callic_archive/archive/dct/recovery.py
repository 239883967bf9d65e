"""From pixels to the coefficients of the JPEG stream that they were decoded from, where they were.

Much of what is kept as PNG or TIFF was a JPEG stream once: map tiles, slides cut into patches, radiographs from the web. A
decoder rounds in few places, so its pixels tell what it was given, and what is found is right where it decodes to the pixels
again. ``layouts`` says how the stream may have been laid out, ``estimation`` what its coefficients are then; what does not come
back, ``coding`` keeps beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.dct.decoding import YCC, YCC_9, Image, Layout, pixels_of
from callic_archive.archive.dct.estimation import Stream, of_layout
from callic_archive.archive.dct.layouts import grid, layouts

LEAST_SIDE = 48  # pixels of an image that is looked at
MOST_PIXELS = 1 << 26  # of an image, as each takes some thirty bytes while its coefficients are looked for
TRIED = 128  # pixels of the side of what layouts are tried on
ENOUGH, CLEAR = 0.5, 0.9  # of these that must come back for all to be tried, and for no other layout to be
_DETAIL = 8  # that counts most: what is held at 0 and 255 has more, and tells less


@dataclass(frozen=True)
class Recovered:
    """What was found, and the image that it decodes to."""

    stream: Stream
    image: Image


def recovered(image: NDArray[Any]) -> Recovered | None:
    """The coefficients that an image (H, W) or (H, W, 3), uint8, was decoded from; None where it seems not to have been."""
    layout = _layout_of(image)
    stream = None if layout is None else of_layout(image, layout)
    if stream is None:
        return None
    found = [Recovered(one, pixels_of(one.planes, one.tables, one.layout)) for one in _opinions(stream)]
    return min(found, key=lambda one: np.count_nonzero(one.image != image))


def seems_decoded(image: NDArray[Any]) -> bool:
    """Whether a part of the image shows coefficients, so that ``recovered`` is likely to find those of all."""
    return _layout_of(image) is not None


def _layout_of(image: NDArray[Any]) -> Layout | None:
    """The layout of which the most of the middle of the image comes back; None where too little does."""
    if image.dtype != np.uint8 or min(image.shape[:2]) < LEAST_SIDE or image.shape[0] * image.shape[1] > MOST_PIXELS:
        return None
    if image.ndim == 3 and image.shape[2] != 3:
        return None
    begin = grid(image)
    if begin is None:
        return None
    part = _telling(image)
    best, most = None, ENOUGH
    for layout in layouts(part, *begin):
        found = of_layout(part, layout)
        share = 0.0 if found is None else _share(part, found)
        if share > most:
            best, most = layout, share
        if share > CLEAR:
            break
    if best is None:
        return None
    return replace(best, height=image.shape[0], width=image.shape[1], ends_below=True, ends_right=True)


def _opinions(stream: Stream) -> list[Stream]:
    """The same with the other opinion on YCbCr too, where that is what its components are: parts do not tell which is right."""
    colour = {YCC: YCC_9, YCC_9: YCC}.get(stream.layout.colour)
    return [stream] if colour is None else [stream, replace(stream, layout=replace(stream.layout, colour=colour))]


def _telling(image: Image) -> Image:
    """A part of an image, from a multiple of sixteen rows and columns on, that has more of detail and colour than others."""
    parts = []
    for down in _starts(image.shape[0]):
        for across in _starts(image.shape[1]):
            parts.append(image[down : down + TRIED, across : across + TRIED])

    def varied(part: Image) -> float:
        colour = part.astype(np.int16) if part.ndim == 2 else part[:, :, 0].astype(np.int16) - part[:, :, 1]
        within: NDArray[np.bool_] = np.logical_and(part > 0, part < 255)
        known: NDArray[np.bool_] = within if part.ndim == 2 else np.all(within, axis=2)
        return float((np.minimum(np.abs(np.diff(colour, axis=1)), _DETAIL) * known[:, 1:]).mean())

    return np.ascontiguousarray(max(parts, key=varied))


def _starts(side: int) -> list[int]:
    return sorted({int(share * max(0, side - TRIED)) // 16 * 16 for share in (0.5, 0.25, 0.75)})


def _share(image: Image, found: Stream) -> float:
    """Of the pixels of the image, how many come back."""
    differ = pixels_of(found.planes, found.tables, found.layout) != image
    return 1 - float(np.mean(differ.any(axis=2) if image.ndim == 3 else differ))
