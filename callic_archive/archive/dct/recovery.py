"""From pixels to the coefficients of the JPEG stream that they were decoded from, where they were.

Much of what is kept as PNG or TIFF was a JPEG stream once: map tiles, slides cut into patches, radiographs from the web. A
decoder rounds in few places, so its pixels tell what it was given: RGB values come from one Y, Cb and Cr each, the coefficients
of a block lie close to multiples of their steps, and what is found is right where it decodes to the pixels again. Chroma is found
first, as it tells which luma samples are certain. What does not come back, ``coding`` keeps beside the coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.dct.decoding import (
    GRAY,
    INTERPOLATED,
    REPEATED,
    RGB,
    TRANSFORMED,
    YCC,
    YCC_9,
    Coefficients,
    Image,
    Layout,
    Table,
    matrices,
    pixels_of,
    samples_of,
    spread_out,
)  # fmt: skip
from callic_archive.archive.dct.tables import likely_table

LEAST_SIDE = 48  # pixels of an image that is looked at
MOST_PIXELS = 1 << 26  # of an image, as each takes some thirty bytes while its coefficients are looked for
TRIED = 128  # pixels of the side of what layouts are tried on
ENOUGH, CLEAR = 0.5, 0.9  # of these that must come back for all to be tried, and for no other layout to be
_NEAR = 0.33  # by which a block's pixels are off where rounding is all, at most
_BENEFIT = 32  # of the doubt, in pixels
_FINER = 3  # times as fine as those of luma no encoder makes the steps of chroma
_PLACES = 2  # of the blocks of chroma that are tried, where they are 16 pixels apart
_SPREADS, _LAYOUTS = 0.5, 6  # of pixels that chroma samples must give, and layouts at most
_MARGIN, _FEWER = 0.01, 0.8  # by which the grid's place must have more zeros than any other, or times as many others
_WINDOWS, _WINDOW = 12, 72
_DETAIL = 8  # that counts most: what is held at 0 and 255 has more, and tells less
_COLOURS = 0.97  # of pixels that YCbCr gives
_VALUES = 200  # of each coefficient that tell its step
_STRAY = 0.03
EXACT = 1 / 12  # mean square error of a sample that was rounded
_AT_END = 4.0  # of one that was held at 0 or 255, more than of what lies between its bounds,
_HALF_SEEN, _GUESSED, _BEYOND = 0.35, 64.0, 4096.0  # of a chroma sample of which some pixels are known, none, none in the image
_REPEATS = 4
_TURNS = 10  # of settling samples on pixels
_ROUNDING = 0.32  # of a sample, in samples, and a little more


@dataclass(frozen=True)
class Stream:
    """Coefficients (rows, columns, 64) and table (64) of each component, and how they become pixels."""

    layout: Layout
    planes: tuple[Coefficients, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Recovered:
    """What was found, and the image that it decodes to."""

    stream: Stream
    image: Image


def _basis(samples: int) -> NDArray[np.float64]:
    """What coefficients add to so many samples, (8, samples)."""
    k, n = np.mgrid[:8, :samples]
    basis: NDArray[np.float64] = 0.5 * np.cos((2 * n + 1) * k * np.pi / (2 * samples))
    basis[0] /= np.sqrt(2)
    return basis


PATTERNS = {
    (tall, wide): np.einsum("vy,ux->vuyx", _basis(tall), _basis(wide)).reshape(64, -1) for tall in (8, 16) for wide in (8, 16)
}
#: Places of coefficients that are of no frequency 0.
_MIXED = [place for place in range(64) if place % 8 and place // 8]
#: (64, 49): of the samples of a block those coefficients.
_BOTH_WAYS = PATTERNS[8, 8][_MIXED].T.astype(np.float32)


def recovered(image: NDArray[Any]) -> Recovered | None:
    """The coefficients that an image (H, W) or (H, W, 3), uint8, was decoded from; None where it seems not to have been."""
    layout = _layout_of(image)
    stream = None if layout is None else _of_layout(image, layout)
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
    begin = _grid(image)
    if begin is None:
        return None
    part = _telling(image)
    best, most = None, ENOUGH
    for layout in _layouts(part, *begin):
        found = _of_layout(part, layout)
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


# -- where the grid lies -------------------------------------------------------------------------------------


def _grid(image: Image) -> tuple[int, int] | None:
    """Rows and columns of pixels (0 to 7) that the first blocks begin before the image, None where there are no blocks."""
    shares = np.zeros((8, 8))
    windows = _windows(image)
    if image.ndim == 3:
        seen = [_by_components(window, YCC) for window in windows]
        if np.mean([share for *_, share in seen]) < _COLOURS:
            windows = [window[:, :, 1] for window in windows]  # perhaps its channels are components
        else:
            windows = [luma for luma, *_ in seen]
    for y in range(8):
        for x in range(8):
            blocks = np.concatenate([_blocks(window[(8 - y) % 8 :, (8 - x) % 8 :]) for window in windows])
            shares[y, x] = np.mean(np.abs(blocks @ _BOTH_WAYS) < 0.9)
    best = np.unravel_index(shares.argmax(), shares.shape)
    top = shares[best]
    shares[best] = 0
    second = shares.max()
    clear = top > second + _MARGIN or 1 - top < _FEWER * (1 - second)
    return (int(best[0]), int(best[1])) if clear else None


def _blocks(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Its whole blocks, (blocks, 64)."""
    rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
    return plane[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(-1, 64).astype(np.float32)


def _windows(image: Image) -> list[Image]:
    """Parts of the image that begin at multiples of eight, spread over it."""
    height, width = image.shape[:2]
    if height * width <= _WINDOWS * _WINDOW * _WINDOW:
        return [image]
    windows = []
    for number in range(_WINDOWS):  # a low-discrepancy walk
        top = int((0.5 + number * 0.7548776662) % 1.0 * max(1, height - _WINDOW)) // 8 * 8
        left = int((0.5 + number * 0.5698402910) % 1.0 * max(1, width - _WINDOW)) // 8 * 8
        windows.append(np.ascontiguousarray(image[top : top + _WINDOW, left : left + _WINDOW]))
    return windows


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


# -- layouts -------------------------------------------------------------------------------------------------


def _layouts(part: Image, top: int, left: int) -> Iterator[Layout]:
    """The layouts that a part of an image may have, of which those of fewer samples come first."""
    height, width = part.shape[:2]
    if part.ndim == 2:
        yield Layout(height, width, GRAY, top=top, left=left)
        return
    colour = max((YCC, YCC_9), key=lambda tried: _by_components(part, tried)[4])
    _, blue, red, known, share = _by_components(part, colour)
    if share < _COLOURS:
        yield Layout(height, width, RGB, top=top, left=left)
        return
    found = []
    for chroma in (INTERPOLATED, REPEATED, TRANSFORMED):
        for down, across in ((2, 2), (1, 2), (2, 1)):
            places = [
                Layout(height, width, colour, down, across, chroma, lower, further, False, False)
                for lower in (range(top, 16, 8) if down == 2 else (top,))
                for further in (range(left, 16, 8) if across == 2 else (left,))
            ]
            if chroma != TRANSFORMED:  # all places spread alike, but in one there are blocks
                places = sorted(places, key=lambda layout: -_zeros((blue, red), known, layout))[:_PLACES]
            for layout in places:
                seen = [_spreads(pixels, known, layout) for pixels in (blue, red)]
                share = (sum(right for right, _ in seen) + _BENEFIT) / (sum(count for _, count in seen) + 2 * _BENEFIT)
                if share > _SPREADS:
                    found.append((round(share, 1), down * across, layout))
    yield from (layout for *_, layout in sorted(found, key=lambda one: (-one[0], -one[1]))[:_LAYOUTS])
    yield Layout(height, width, colour, top=top, left=left)


def _zeros(components: tuple[Image, Image], known: Image, layout: Layout) -> float:
    """The share of coefficients of chroma that are near zero."""
    near = count = 0
    for number, pixels in enumerate(components, 1):
        samples, (certain, _) = _settled(pixels, known, layout, number), _certain(known, layout, number)
        values, good = _transformed(samples, certain, (8, 8))
        mixed = values[good][:, _MIXED]
        near, count = near + int(np.count_nonzero(np.abs(mixed) < 1.5)), count + mixed.size
    return near / max(1, count)


def _spreads(pixels: Image, known: Image, layout: Layout) -> tuple[int, int]:
    """How many pixels of a chroma component whole samples give, of how many that are known and tell."""
    if layout.chroma == TRANSFORMED:
        return _transforms(pixels, known, layout)
    samples = _settled(pixels, known, layout, 1)
    spread = spread_out(np.clip(np.rint(samples), 0, 255).astype(np.uint8), layout, 1)
    shown = (known > 0) & _varied(pixels)
    shown[:4] = shown[-4:] = shown[:, :4] = shown[:, -4:] = False
    return int(np.count_nonzero((spread == pixels)[shown])), int(np.count_nonzero(shown))


def _varied(pixels: Image) -> NDArray[np.bool_]:
    """Where pixels differ from their neighbours: elsewhere any way of spreading samples gives the same."""
    signed = pixels.astype(np.int16)
    differ = np.zeros(pixels.shape, bool)
    differ[:, 1:] |= np.abs(np.diff(signed, axis=1)) > 1
    differ[1:] |= np.abs(np.diff(signed, axis=0)) > 1
    return differ


def _transforms(pixels: Image, known: Image, layout: Layout) -> tuple[int, int]:
    """The same of blocks that are transformed to more samples than they have coefficients: of those that are known whole."""
    samples = _padded(pixels, layout, 1, 128).astype(np.float32)
    values, good = _transformed(samples, _padded(known, layout, 1, 0) > 0, layout.block(1))
    if not good.any():
        return 0, 0
    patterns = PATTERNS[layout.block(1)]
    back = values[good].astype(np.float64) @ patterns + 128
    (tall, wide), (rows, columns) = layout.block(1), layout.blocks(1)
    aims = samples.reshape(rows, tall, columns, wide).swapaxes(1, 2)[good].reshape(len(back), -1)
    varied = np.ptp(aims, axis=1) > 5
    near = np.sqrt(np.mean(np.square(back - aims), axis=1)) < _NEAR
    return tall * wide * int(np.count_nonzero(near & varied)), tall * wide * int(np.count_nonzero(varied))


# -- coefficients --------------------------------------------------------------------------------------------


def _of_layout(image: Image, layout: Layout) -> Stream | None:
    """What is found if the image has that layout; None where it has no steps to speak of."""
    if layout.colour == GRAY:
        found = [_plane(image, image, layout, 0)]
    elif layout.colour == RGB:
        channels = [np.ascontiguousarray(image[:, :, channel]) for channel in range(3)]
        found = [_plane(channel, channel, layout, number) for number, channel in enumerate(channels)]
    else:
        luma, blue, red, known, _ = _by_components(image, layout.colour)
        told, quality = _luma_table(luma, known, layout)
        table = _chroma_table((blue, red), known, layout, quality)
        if _FINER * np.mean(table) < np.mean(told):  # such steps fit to samples of any other layout
            return None
        chroma = [(_chroma(pixels, known, layout, number, table), table) for number, pixels in ((1, blue), (2, red))]
        layout = _ended(image, layout, chroma, (blue, red), known)
        spread = [spread_out(samples_of(*one, layout, number), layout, number) for number, one in enumerate(chroma, 1)]
        found = [_plane(*_light_bounds(image, layout.colour, *spread), layout, 0), *chroma]
    if max(float(np.mean(table)) for _, table in found) < 2:
        return None
    return Stream(layout, tuple(plane for plane, _ in found), tuple(table for _, table in found))


def _luma_table(luma: Image, known: Image, layout: Layout) -> tuple[Table, int]:
    """The table of luma and its quality, as far as luma is certain."""
    certain = _padded(known, layout, 0, 0) > 0
    samples = _padded(luma, layout, 0, 128).astype(np.float32)
    values, good = _transformed(samples, certain & (samples > 0) & (samples < 255), (8, 8))
    return likely_table(_likely(values, samples, good, np.full(64, _ROUNDING)))


def _ended(
    image: Image, layout: Layout, chroma: list[tuple[Coefficients, Table]], pixels: tuple[Image, Image], known: Image
) -> Layout:
    """The layout with the ends of chroma that give more of the pixels there."""
    if (layout.down, layout.across) == (1, 1) or layout.chroma != INTERPOLATED:
        return layout
    samples = [samples_of(*one, layout, number) for number, one in enumerate(chroma, 1)]

    def wrong(tried: Layout) -> int:
        count = 0
        for number, (sample, aim) in enumerate(zip(samples, pixels, strict=True), 1):
            differ = (spread_out(sample, tried, number) != aim) & (known > 0)
            count += int(np.count_nonzero(differ[-1])) + int(np.count_nonzero(differ[:, -1]))
        return count

    ends = [(below, right) for below in (True, False) for right in (True, False)]
    return min((replace(layout, ends_below=below, ends_right=right) for below, right in ends), key=wrong)


def _by_components(image: Image, colour: int) -> tuple[Image, Image, Image, Image, float]:
    """Y, Cb, Cr of pixels (H, W, 3), which are certain, and the share that have any of pixels without 0 and 255."""
    from callic_archive.archive.dct.decoding_kernel import GREEN_CB
    from callic_archive.archive.dct.recovery_kernel import components

    luma, blue, red, known = (np.empty(image.shape[:2], np.uint8) for _ in range(4))
    share = components(np.ascontiguousarray(image), GREEN_CB[colour == YCC_9], luma, blue, red, known)
    return luma, blue, red, known, float(share)


def _light_bounds(image: Image, colour: int, blue: Image, red: Image) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    from callic_archive.archive.dct.decoding_kernel import GREEN_CB
    from callic_archive.archive.dct.recovery_kernel import light_bounds

    low, high = np.empty(image.shape[:2], np.int16), np.empty(image.shape[:2], np.int16)
    light_bounds(image, GREEN_CB[colour == YCC_9], blue, red, low, high)
    return low, high


def _padded(plane: NDArray[Any], layout: Layout, component: int, fill: int) -> NDArray[Any]:
    """Pixels (H, W) in their blocks."""
    (top, left), (rows, columns), (tall, wide) = layout.offset(component), layout.blocks(component), layout.block(component)
    out = np.full((tall * rows, wide * columns), fill, plane.dtype)
    out[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return out


def _plane(low: NDArray[Any], high: NDArray[Any], layout: Layout, component: int) -> tuple[Coefficients, Table]:
    """Coefficients and table of a component that has a sample for each pixel, which lies between bounds (H, W)."""
    crossed = low > high
    low, high = np.where(crossed, 0, low).astype(np.int16), np.where(crossed, 255, high).astype(np.int16)
    low, high = _padded(low, layout, component, 0), _padded(high, layout, component, 255)
    samples = (low.astype(np.float32) + high) / 2
    certain = (low == high) & (low > 0) & (low < 255)
    doubts = np.where(certain, EXACT, np.square((high - low).astype(np.float32)) / 4 + _AT_END)
    values, good = _transformed(samples, certain, layout.block(component))
    table, _ = likely_table(_likely(values, samples, good, np.full(64, _ROUNDING)))
    return _fitted(samples, doubts, low, high, values, good, table, layout, component), table


def _fitted(
    samples: NDArray[np.float32], doubts: NDArray[Any], low: NDArray[np.int16], high: NDArray[np.int16],
    values: NDArray[np.float32], good: NDArray[np.bool_], table: Table, layout: Layout, component: int,
) -> Coefficients:  # fmt: skip
    from callic_archive.archive.dct.recovery_kernel import fit_blocks

    levels = np.zeros(values.shape, np.int16)
    doubts = doubts.astype(np.float32)
    patterns = PATTERNS[layout.block(component)]
    fit_blocks(
        samples, doubts, low, high, table, _power(values, good, table), patterns, *matrices(layout, component), levels
    )
    return levels


def _transformed(
    samples: NDArray[np.float32], certain: NDArray[np.bool_], block: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Real coefficients of blocks of samples, and which blocks are certain."""
    from callic_archive.archive.dct.recovery_kernel import transformed

    tall, wide = block
    rows, columns = samples.shape[0] // tall, samples.shape[1] // wide
    values = np.empty((rows, columns, 64), np.float32)
    transformed(samples, PATTERNS[block], tall, wide, values)
    good: NDArray[np.bool_] = np.all(certain.reshape(rows, tall, columns, wide), axis=(1, 3))
    return values, good


def _likely(
    values: NDArray[np.float32], samples: NDArray[np.float32], good: NDArray[np.bool_], noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How likely steps are, (64, 256)."""
    from callic_archive.archive.dct.recovery_kernel import steps_likely

    likely = np.zeros((64, 256))
    steps_likely(values, samples, good, noise, _STRAY, _VALUES, likely)
    return likely


def _chroma_table(components: tuple[Image, Image], known: Image, layout: Layout, quality: int) -> Table:
    """The table of Cb and Cr, which is one nearly always."""
    likely = np.zeros((64, 256))
    for component, pixels in enumerate(components, 1):
        if layout.spread_later(component):
            samples, certain = _settled(pixels, known, layout, component), _certain(known, layout, component)[0]
            values, good = _transformed(samples, certain, (8, 8))
            samples = np.rint(samples)
        else:
            certain = _padded(known, layout, component, 0) > 0
            samples = _padded(pixels, layout, component, 128).astype(np.float32)
            values, good = _transformed(samples, certain, layout.block(component))
        likely += _likely(values, samples, good, _noise(layout))
    return likely_table(likely, quality)[0]


def _noise(layout: Layout) -> NDArray[np.float64]:
    """Of the coefficients (64) of samples that are known by their pixels: rounding, and that of pixels, of which interpolation
    leaves the less the higher the frequency."""
    if not layout.spread_later(1):
        return np.full(64, _ROUNDING / np.sqrt(layout.down * layout.across))
    low = 0.75 + 0.25 * np.cos(np.pi * np.arange(8) / 8)
    vertical = low if layout.chroma == INTERPOLATED and layout.down == 2 else np.ones(8)
    horizontal = low if layout.chroma == INTERPOLATED and layout.across == 2 else np.ones(8)
    share = _ROUNDING / np.sqrt(layout.down * layout.across) / np.outer(vertical, horizontal)
    noise: NDArray[np.float64] = np.hypot(_ROUNDING, share).ravel()
    return noise


def _power(values: NDArray[np.float32], good: NDArray[np.bool_], table: Table) -> NDArray[np.float64]:
    """Mean squares of coefficients, as far as they are known; the first differs from that before it by as much as the next."""
    steps = table.astype(np.float64)
    known = values[good].astype(np.float64)
    if len(known) < 4:
        return np.square(steps) * 4
    levels = np.rint(known / steps) * steps
    power: NDArray[np.float64] = np.mean(np.square(levels), axis=0) + 0.01 * np.square(steps)
    power[0] = 16 * max(power[1], power[8])
    return power


def _settled(pixels: Image, known: Image, layout: Layout, component: int, start: NDArray[np.float32] | None = None) -> Any:
    """Samples (8 * rows, 8 * columns) of a component, real numbers, that spread to its known pixels."""
    from callic_archive.archive.dct.recovery_kernel import nudge

    (top, left), (down, across), reach = layout.offset(component), layout.steps(component), layout.reach(component)
    rows, columns = layout.blocks(component)
    off = np.zeros(pixels.shape, np.float32)
    samples = start
    if samples is None:
        samples = np.zeros((8 * rows, 8 * columns), np.float32)
        nudge(pixels, np.ones_like(known), down, across, False, top, left, *reach, 1.0, samples, off)
        inside = _inside(layout, component)
        samples[: inside[0].start] = samples[inside[0].start]  # what the image does not reach is as its edge
        samples[inside[0].stop :] = samples[inside[0].stop - 1]
        samples[:, : inside[1].start] = samples[:, inside[1].start, None]
        samples[:, inside[1].stop :] = samples[:, inside[1].stop - 1, None]
    for turn in range(_TURNS):
        rate = 1.0 if turn == _TURNS - 1 else 1.6  # the least that neighbours leave of a detail is a quarter
        nudge(pixels, known, down, across, layout.chroma == INTERPOLATED, top, left, *reach, rate, samples, off)
    return samples


def _chroma(pixels: Image, known: Image, layout: Layout, component: int, table: Table) -> Coefficients:
    """Coefficients of a chroma component, of which pixels (H, W) are known."""
    if not layout.spread_later(component):
        return _chroma_of_each(pixels, known, layout, component, table)
    certain, seen = _certain(known, layout, component)
    doubts = np.full(certain.shape, _BEYOND)
    doubts[_inside(layout, component)] = _GUESSED
    doubts = np.where(certain, EXACT, np.where(seen, _HALF_SEEN, doubts))
    slack = np.where(certain, 0.7, np.where(seen, 1.6, 255.0))
    decoded = None
    for _ in range(_REPEATS):
        samples = _settled(pixels, known, layout, component, decoded)
        values, good = _transformed(samples, certain, layout.block(component))
        low = np.ceil(np.clip(samples - slack, 0, 255)).astype(np.int16)
        high = np.floor(np.clip(samples + slack, 0, 255)).astype(np.int16)
        levels = _fitted(samples, doubts, low, high, values, good, table, layout, component)
        back = samples_of(levels, table, layout, component)
        wrong = (spread_out(back, layout, component) != pixels) & (known > 0)
        if not wrong.any() or (decoded is not None and np.array_equal(back, decoded)):
            break
        decoded = back.astype(np.float32)
    return levels


def _chroma_of_each(pixels: Image, known: Image, layout: Layout, component: int, table: Table) -> Coefficients:
    """The same where each pixel has a sample."""
    certain = _padded(known, layout, component, 0) > 0
    samples = _padded(pixels, layout, component, 128)
    low, high = np.where(certain, samples, 0).astype(np.int16), np.where(certain, samples, 255).astype(np.int16)
    samples = samples.astype(np.float32)
    values, good = _transformed(samples, certain, layout.block(component))
    guessed = _padded(np.full(known.shape, _GUESSED), layout, component, int(_BEYOND))
    return _fitted(samples, np.where(certain, EXACT, guessed), low, high, values, good, table, layout, component)


def _inside(layout: Layout, component: int) -> tuple[slice, slice]:
    """Rows and columns of the samples that have pixels in the image."""
    (top, left), (down, across) = layout.offset(component), layout.steps(component)
    below, right = -(-(top + layout.height) // down), -(-(left + layout.width) // across)
    return slice(top // down, below), slice(left // across, right)


def _certain(known: Image, layout: Layout, component: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which samples (8 * rows, 8 * columns) have known pixels alone, and which have any."""
    (top, left), (down, across), (rows, columns) = layout.offset(component), layout.steps(component), layout.blocks(component)
    full = np.zeros((8 * rows * down, 8 * columns * across), bool)
    full[top : top + layout.height, left : left + layout.width] = known > 0
    each = full.reshape(8 * rows, down, 8 * columns, across)
    every: NDArray[np.bool_] = np.all(each, axis=(1, 3))
    some: NDArray[np.bool_] = np.any(each, axis=(1, 3))
    return every, some


def _share(image: Image, found: Stream) -> float:
    """Of the pixels of the image, how many come back."""
    differ = pixels_of(found.planes, found.tables, found.layout) != image
    return 1 - float(np.mean(differ.any(axis=2) if image.ndim == 3 else differ))
