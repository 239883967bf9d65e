"""Which layouts an image may have that was decoded from a JPEG stream: where its blocks lie, and how chroma was spread."""

from __future__ import annotations

from collections.abc import Iterator
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
    Image,
    Layout,
    spread_out,
)  # fmt: skip
from callic_archive.archive.dct.samples import (
    MIXED,
    PATTERNS,
    by_components,
    certain_samples,
    padded,
    settled,
    transformed,
)

_NEAR = 0.33  # by which a block's pixels are off where rounding is all, at most
_BENEFIT = 32  # of the doubt, in pixels
_PLACES = 2  # of the blocks of chroma that are tried, where they are 16 pixels apart
_SPREADS, _LAYOUTS = 0.5, 6  # of pixels that chroma samples must give, and layouts at most
_MARGIN, _FEWER = 0.01, 0.8  # by which the grid's place must have more zeros than any other, or times as many others
_WINDOWS, _WINDOW = 12, 72
_COLOURS = 0.97  # of pixels that YCbCr gives
#: (64, 49): of the samples of a block the coefficients of no frequency 0.
_BOTH_WAYS = PATTERNS[8, 8][MIXED].T.astype(np.float32)


# -- where the grid lies -------------------------------------------------------------------------------------


def grid(image: Image) -> tuple[int, int] | None:
    """Rows and columns of pixels (0 to 7) that the first blocks begin before the image, None where there are no blocks."""
    shares = np.zeros((8, 8))
    windows = _windows(image)
    if image.ndim == 3:
        seen = [by_components(window, YCC) for window in windows]
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


# -- layouts -------------------------------------------------------------------------------------------------


def layouts(part: Image, top: int, left: int) -> Iterator[Layout]:
    """The layouts that a part of an image may have, of which those of fewer samples come first."""
    height, width = part.shape[:2]
    if part.ndim == 2:
        yield Layout(height, width, GRAY, top=top, left=left)
        return
    colour = max((YCC, YCC_9), key=lambda tried: by_components(part, tried)[4])
    _, blue, red, known, share = by_components(part, colour)
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
        samples, (certain, _) = settled(pixels, known, layout, number), certain_samples(known, layout, number)
        values, good = transformed(samples, certain, (8, 8))
        mixed = values[good][:, MIXED]
        near, count = near + int(np.count_nonzero(np.abs(mixed) < 1.5)), count + mixed.size
    return near / max(1, count)


def _spreads(pixels: Image, known: Image, layout: Layout) -> tuple[int, int]:
    """How many pixels of a chroma component whole samples give, of how many that are known and tell."""
    if layout.chroma == TRANSFORMED:
        return _transforms(pixels, known, layout)
    samples = settled(pixels, known, layout, 1)
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
    samples = padded(pixels, layout, 1, 128).astype(np.float32)
    values, good = transformed(samples, padded(known, layout, 1, 0) > 0, layout.block(1))
    if not good.any():
        return 0, 0
    patterns = PATTERNS[layout.block(1)]
    back = values[good].astype(np.float64) @ patterns + 128
    (tall, wide), (rows, columns) = layout.block(1), layout.blocks(1)
    aims = samples.reshape(rows, tall, columns, wide).swapaxes(1, 2)[good].reshape(len(back), -1)
    varied = np.ptp(aims, axis=1) > 5
    near = np.sqrt(np.mean(np.square(back - aims), axis=1)) < _NEAR
    return tall * wide * int(np.count_nonzero(near & varied)), tall * wide * int(np.count_nonzero(varied))
