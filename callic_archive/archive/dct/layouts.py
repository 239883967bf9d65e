"""Which layouts an image may have that was decoded from a JPEG stream: where its blocks lie, and how chroma was spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
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
_SPREADS = 0.5  # of pixels that chroma samples must give
#: Ways of spreading chroma, the usual one first, and how many layouts of each are tried: any explains chroma that hardly varies.
WAYS = {INTERPOLATED: 3, REPEATED: 2, TRANSFORMED: 3}
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


def in_components(part: Image) -> bool:
    """Whether pixels (H, W, 3) come from Y, Cb and Cr."""
    return max(by_components(part, colour)[4] for colour in (YCC, YCC_9)) >= _COLOURS


def layouts(part: Image, top: int, left: int) -> Iterator[Layout]:
    """The layouts that a part of an image may have, likely ones first."""
    height, width = part.shape[:2]
    if part.ndim == 2:
        yield Layout(height, width, GRAY, top=top, left=left)
        return
    if not in_components(part):
        yield Layout(height, width, RGB, top=top, left=left)
        return
    found = fewer_samples(part, top, left)
    yield from (layout for _, layout in found)
    yield Layout(height, width, _colour(part), top=top, left=left)


def fewer_samples(part: Image, top: int, left: int, ways: Mapping[int, int] = WAYS) -> list[tuple[float, Layout]]:
    """The layouts with fewer samples of chroma than of luma, likely ones first, each with the share of chroma's pixels that it
    explains. ``ways``: of spreading chroma, and how many layouts of each at most."""
    colour = _colour(part)
    _, blue, red, known, _ = by_components(part, colour)
    found = []
    for chroma, most in ways.items():
        height, width = part.shape[:2]
        whole = Layout(height, width, colour, chroma=chroma, top=top, left=left, ends_below=False, ends_right=False)
        places = _places(whole, (blue, red), known)
        likely = [(share, layout) for layout in places if (share := _share((blue, red), known, layout)) > _SPREADS]
        found += sorted(likely, key=_first)[:most]
    return sorted(found, key=_first)


def _colour(part: Image) -> int:
    return max((YCC, YCC_9), key=lambda tried: by_components(part, tried)[4])


def _first(one: tuple[float, Layout]) -> tuple[float, int]:
    """Orders layouts by what they explain, then by how few samples explain it."""
    share, layout = one
    return -round(share, 1), -layout.down * layout.across


def _places(whole: Layout, components: tuple[Image, Image], known: Image) -> list[Layout]:
    """The layouts with fewer samples of chroma, at each place that its blocks may have then."""
    found = []
    for down, across in ((2, 2), (1, 2), (2, 1)):
        places = [
            replace(whole, down=down, across=across, top=top, left=left)
            for top in (range(whole.top, 16, 8) if down == 2 else (whole.top,))
            for left in (range(whole.left, 16, 8) if across == 2 else (whole.left,))
        ]
        if whole.chroma != TRANSFORMED:  # all places spread alike, but in one there are blocks
            places = sorted(places, key=lambda layout: -_zeros(components, known, layout))[:_PLACES]
        found += places
    return found


def _share(components: tuple[Image, Image], known: Image, layout: Layout) -> float:
    """Of the pixels of chroma that tell, how many whole samples give; a half where there are none."""
    seen = [_spreads(pixels, known, layout) for pixels in components]
    return (sum(right for right, _ in seen) + _BENEFIT) / (sum(count for _, count in seen) + 2 * _BENEFIT)


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
