"""From pixels to the coefficients of the JPEG stream that they were decoded from, where they were.

Much of what is kept as PNG or TIFF was a JPEG stream once: map tiles, slides cut into patches, radiographs from the web. A
decoder rounds in few places, so its pixels tell what it was given, and what is found is right where it decodes to the pixels
again. ``layouts`` says how the stream may have been laid out, ``estimation`` what its coefficients are then; what does not come
back, ``coding`` keeps beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.dct.decoding import INTERPOLATED, YCC, YCC_9, Image, Layout, pixels_of
from callic_archive.archive.dct.estimation import Stream, of_layout
from callic_archive.archive.dct.form import TRANSPOSED, TURNS, Form, plain_form
from callic_archive.archive.dct.layouts import fewer_samples, grid, in_components, layouts

LEAST_SIDE = 48  # pixels of an image that is looked at
MOST_PIXELS = 1 << 26  # of an image, as each takes some thirty bytes while its coefficients are looked for
TRIED = 128  # pixels of the side of what layouts are tried on
ENOUGH, CLEAR = 0.5, 0.9  # of these that must come back for all to be tried, and for no other layout to be
SURE = 0.99  # that come back of what was not turned
_TURNED = 4  # layouts of turned images that are tried
_DETAIL = 8  # that counts most: what is held at 0 and 255 has more, and tells less


@dataclass(frozen=True)
class Recovered:
    """What was found, how what it decodes to lies in the image, and that image."""

    stream: Stream
    form: Form
    image: Image


@dataclass(frozen=True)
class _Tried:
    """What a part of an image is found to come from, and the share of its pixels that come back."""

    stream: Stream
    form: Form
    share: float


def recovered(image: NDArray[Any]) -> Recovered | None:
    """The coefficients that an image (H, W) or (H, W, C), uint8, was decoded from; None where it seems not to have been."""
    seen = _of_part(image)
    if seen is None:
        return None
    decoded = np.ascontiguousarray(seen.form.decoded_of(image))
    layout = replace(seen.stream.layout, height=decoded.shape[0], width=decoded.shape[1], ends_below=True, ends_right=True)
    stream = of_layout(decoded, layout)
    streams = [] if stream is None else _opinions(stream)
    if stream is None or not all(map(np.array_equal, stream.tables, seen.stream.tables)):  # parts have told tables better
        stream = of_layout(decoded, layout, seen.stream.tables)
        streams += [] if stream is None else _opinions(stream)
    if not streams:
        return None
    found = [(one, pixels_of(one.planes, one.tables, one.layout)) for one in streams]
    stream, pixels = min(found, key=lambda one: np.count_nonzero(one[1] != decoded))
    return Recovered(stream, seen.form, seen.form.image_of(pixels))


def seems_decoded(image: NDArray[Any]) -> bool:
    """Whether a part of the image shows coefficients, so that ``recovered`` is likely to find those of all."""
    return _of_part(image) is not None


def _of_part(image: NDArray[Any]) -> _Tried | None:
    """What the most of the middle of the image comes back from; None where too little does."""
    if image.dtype != np.uint8 or min(image.shape[:2]) < LEAST_SIDE or image.shape[0] * image.shape[1] > MOST_PIXELS:
        return None
    form = plain_form(image)
    begin = None if form is None else grid(form.decoded_of(image))
    if form is None or begin is None:
        return None
    part = _telling(form.decoded_of(image))
    if part.ndim == 3 and not in_components(part) and in_components(part[:, :, ::-1]):
        form, part = replace(form, reverse=True), np.ascontiguousarray(part[:, :, ::-1])
    best = _best(part, form, layouts(part, *begin))
    if best is None or best.share <= CLEAR:
        turned = _turned(image, form, begin) if part.ndim == 3 and in_components(part) else []
        found = [one for form, part, layout in turned if (one := _best(part, form, [layout])) is not None]
        best = max([*found, *([best] if best else [])], key=lambda one: one.share, default=None)
    if best is not None and best.share < SURE and not best.stream.layout.spread_later(1):  # if transposed, nearly all comes back
        best = max(best, _transposed(image, best, begin) or best, key=lambda one: one.share)
    return best


def _best(part: Image, form: Form, tried: Iterable[Layout]) -> _Tried | None:
    """The layout of which most of a part comes back, the first that is clear; None where none gives enough."""
    best, most = None, ENOUGH
    for layout in tried:
        found = of_layout(part, layout)
        share = 0.0 if found is None else _share(part, found)
        if found is not None and share > most:
            best, most = _Tried(found, form, share), share
        if share > CLEAR:
            break
    return best


def _turned(image: NDArray[Any], form: Form, begin: tuple[int, int]) -> list[tuple[Form, Image, Layout]]:
    """How else the image may lie, with a part of what it was then: interpolation tells, as it rounds differently where a pixel is
    the first of two and where it is the second."""
    found: list[tuple[float, tuple[Form, Image, Layout]]] = []
    for turn in TURNS[1:]:
        other = replace(form, turn=turn)
        part = _telling(other.decoded_of(image))
        for share, layout in fewer_samples(part, *other.begin_of(begin, image.shape), {INTERPOLATED: 1}):
            found.append((share, (other, part, layout)))
    found.sort(key=lambda one: -one[0])
    return [one for _, one in found[:_TURNED]]


def _transposed(image: NDArray[Any], seen: _Tried, begin: tuple[int, int]) -> _Tried | None:
    """What the part comes from if rows and columns were exchanged after decoding."""
    form = replace(seen.form, turn=TRANSPOSED)
    part = _telling(form.decoded_of(image))
    top, left = form.begin_of(begin, image.shape)
    return _best(part, form, layouts(part, top, left))


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
