"""The coefficients and tables that an image was decoded from, if it has a given layout.

The coefficients of a block lie close to multiples of their steps, so samples tell the steps, and these the coefficients. Chroma
is found first, as it tells which luma samples are certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.dct.decoding import (
    GRAY,
    INTERPOLATED,
    RGB,
    YCC_9,
    Coefficients,
    Image,
    Layout,
    Table,
    matrices,
    samples_of,
    spread_out,
)  # fmt: skip
from callic_archive.archive.dct.samples import (
    PATTERNS,
    by_components,
    certain_samples,
    inside_image,
    padded,
    settled,
    transformed,
)
from callic_archive.archive.dct.tables import likely_table

_FINER = 3  # times as fine as those of luma no encoder makes the steps of chroma
_VALUES = 200  # of each coefficient that tell its step
_STRAY = 0.03
EXACT = 1 / 12  # mean square error of a sample that was rounded
_AT_END = 4.0  # of one that was held at 0 or 255, more than of what lies between its bounds,
_HALF_SEEN, _GUESSED, _BEYOND = 0.35, 64.0, 4096.0  # of a chroma sample of which some pixels are known, none, none in the image
_REPEATS = 4
_ROUNDING = 0.32  # of a sample, in samples, and a little more


@dataclass(frozen=True)
class Stream:
    """Coefficients (rows, columns, 64) and table (64) of each component, and how they become pixels."""

    layout: Layout
    planes: tuple[Coefficients, ...]
    tables: tuple[Table, ...]


def of_layout(image: Image, layout: Layout, tables: Sequence[Table] = ()) -> Stream | None:
    """What is found if the image has that layout, and those tables if there are any; None where it has no steps to speak of."""
    given: Sequence[Table | None] = tables or [None] * layout.components
    if layout.colour == GRAY:
        found = [_plane(image, image, layout, 0, given[0])]
    elif layout.colour == RGB:
        channels = [np.ascontiguousarray(image[:, :, channel]) for channel in range(3)]
        found = [_plane(channel, channel, layout, number, given[number]) for number, channel in enumerate(channels)]
    else:
        luma, blue, red, known, _ = by_components(image, layout.colour)
        told, quality = _luma_table(luma, known, layout)
        table = given[1] if given[1] is not None else _chroma_table((blue, red), known, layout, quality)
        if _FINER * np.mean(table) < np.mean(told):  # such steps fit to samples of any other layout
            return None
        chroma = [(_chroma(pixels, known, layout, number, table), table) for number, pixels in ((1, blue), (2, red))]
        layout = _ended(image, layout, chroma, (blue, red), known)
        spread = [spread_out(samples_of(*one, layout, number), layout, number) for number, one in enumerate(chroma, 1)]
        found = [_plane(*_light_bounds(image, layout.colour, *spread), layout, 0, given[0]), *chroma]
    if max(float(np.mean(table)) for _, table in found) < 2:
        return None
    return Stream(layout, tuple(plane for plane, _ in found), tuple(table for _, table in found))


def _luma_table(luma: Image, known: Image, layout: Layout) -> tuple[Table, int]:
    """The table of luma and its quality, as far as luma is certain."""
    certain = padded(known, layout, 0, 0) > 0
    samples = padded(luma, layout, 0, 128).astype(np.float32)
    values, good = transformed(samples, certain & (samples > 0) & (samples < 255), (8, 8))
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


def _light_bounds(image: Image, colour: int, blue: Image, red: Image) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    from callic_archive.archive.dct.decoding_kernel import GREEN_CB
    from callic_archive.archive.dct.recovery_kernel import light_bounds

    low, high = np.empty(image.shape[:2], np.int16), np.empty(image.shape[:2], np.int16)
    light_bounds(image, GREEN_CB[colour == YCC_9], blue, red, low, high)
    return low, high


def _plane(
    low: NDArray[Any], high: NDArray[Any], layout: Layout, component: int, table: Table | None
) -> tuple[Coefficients, Table]:
    """Coefficients and table of a component that has a sample for each pixel, which lies between bounds (H, W)."""
    crossed = low > high
    low, high = np.where(crossed, 0, low).astype(np.int16), np.where(crossed, 255, high).astype(np.int16)
    low, high = padded(low, layout, component, 0), padded(high, layout, component, 255)
    samples = (low.astype(np.float32) + high) / 2
    certain = (low == high) & (low > 0) & (low < 255)
    doubts = np.where(certain, EXACT, np.square((high - low).astype(np.float32)) / 4 + _AT_END)
    values, good = transformed(samples, certain, layout.block(component))
    if table is None:
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
            samples, certain = settled(pixels, known, layout, component), certain_samples(known, layout, component)[0]
            values, good = transformed(samples, certain, (8, 8))
            samples = np.rint(samples)
        else:
            certain = padded(known, layout, component, 0) > 0
            samples = padded(pixels, layout, component, 128).astype(np.float32)
            values, good = transformed(samples, certain, layout.block(component))
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


def _chroma(pixels: Image, known: Image, layout: Layout, component: int, table: Table) -> Coefficients:
    """Coefficients of a chroma component, of which pixels (H, W) are known."""
    if not layout.spread_later(component):
        return _chroma_of_each(pixels, known, layout, component, table)
    certain, seen = certain_samples(known, layout, component)
    doubts = np.full(certain.shape, _BEYOND)
    doubts[inside_image(layout, component)] = _GUESSED
    doubts = np.where(certain, EXACT, np.where(seen, _HALF_SEEN, doubts))
    slack = np.where(certain, 0.7, np.where(seen, 1.6, 255.0))
    decoded = None
    for _ in range(_REPEATS):
        samples = settled(pixels, known, layout, component, decoded)
        values, good = transformed(samples, certain, layout.block(component))
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
    certain = padded(known, layout, component, 0) > 0
    samples = padded(pixels, layout, component, 128)
    low, high = np.where(certain, samples, 0).astype(np.int16), np.where(certain, samples, 255).astype(np.int16)
    samples = samples.astype(np.float32)
    values, good = transformed(samples, certain, layout.block(component))
    guessed = padded(np.full(known.shape, _GUESSED), layout, component, int(_BEYOND))
    return _fitted(samples, np.where(certain, EXACT, guessed), low, high, values, good, table, layout, component)
