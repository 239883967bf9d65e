"""Samples and coefficients of the components of an image, and which of them are certain.

RGB values come from one Y, Cb and Cr each, but for those at 0 and 255; samples of chroma come from the pixels that they were
spread over; coefficients from a block's samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.dct.decoding import INTERPOLATED, YCC_9, Image, Layout

_TURNS = 10  # of settling samples on pixels


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
MIXED = [place for place in range(64) if place % 8 and place // 8]


def by_components(image: Image, colour: int) -> tuple[Image, Image, Image, Image, float]:
    """Y, Cb, Cr of pixels (H, W, 3), which are certain, and the share that have any of pixels without 0 and 255."""
    from callic_archive.archive.dct.decoding_kernel import GREEN_CB
    from callic_archive.archive.dct.recovery_kernel import components

    luma, blue, red, known = (np.empty(image.shape[:2], np.uint8) for _ in range(4))
    share = components(np.ascontiguousarray(image), GREEN_CB[colour == YCC_9], luma, blue, red, known)
    return luma, blue, red, known, float(share)


def padded(plane: NDArray[Any], layout: Layout, component: int, fill: int) -> NDArray[Any]:
    """Pixels (H, W) in their blocks."""
    (top, left), (rows, columns), (tall, wide) = layout.offset(component), layout.blocks(component), layout.block(component)
    out = np.full((tall * rows, wide * columns), fill, plane.dtype)
    out[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return out


def transformed(
    samples: NDArray[np.float32], certain: NDArray[np.bool_], block: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Real coefficients of blocks of samples, and which blocks are certain."""
    from callic_archive.archive.dct.recovery_kernel import transformed as transform

    tall, wide = block
    rows, columns = samples.shape[0] // tall, samples.shape[1] // wide
    values = np.empty((rows, columns, 64), np.float32)
    transform(samples, PATTERNS[block], tall, wide, values)
    good: NDArray[np.bool_] = np.all(certain.reshape(rows, tall, columns, wide), axis=(1, 3))
    return values, good


def settled(pixels: Image, known: Image, layout: Layout, component: int, start: NDArray[np.float32] | None = None) -> Any:
    """Samples (8 * rows, 8 * columns) of a component, real numbers, that spread to its known pixels."""
    from callic_archive.archive.dct.recovery_kernel import nudge

    (top, left), (down, across), reach = layout.offset(component), layout.steps(component), layout.reach(component)
    rows, columns = layout.blocks(component)
    off = np.zeros(pixels.shape, np.float32)
    samples = start
    if samples is None:
        samples = np.zeros((8 * rows, 8 * columns), np.float32)
        nudge(pixels, np.ones_like(known), down, across, False, top, left, *reach, 1.0, samples, off)
        inside = inside_image(layout, component)
        samples[: inside[0].start] = samples[inside[0].start]  # what the image does not reach is as its edge
        samples[inside[0].stop :] = samples[inside[0].stop - 1]
        samples[:, : inside[1].start] = samples[:, inside[1].start, None]
        samples[:, inside[1].stop :] = samples[:, inside[1].stop - 1, None]
    for turn in range(_TURNS):
        rate = 1.0 if turn == _TURNS - 1 else 1.6  # the least that neighbours leave of a detail is a quarter
        nudge(pixels, known, down, across, layout.chroma == INTERPOLATED, top, left, *reach, rate, samples, off)
    return samples


def inside_image(layout: Layout, component: int) -> tuple[slice, slice]:
    """Rows and columns of the samples that have pixels in the image."""
    (top, left), (down, across) = layout.offset(component), layout.steps(component)
    below, right = -(-(top + layout.height) // down), -(-(left + layout.width) // across)
    return slice(top // down, below), slice(left // across, right)


def certain_samples(known: Image, layout: Layout, component: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which samples (8 * rows, 8 * columns) have known pixels alone, and which have any."""
    (top, left), (down, across), (rows, columns) = layout.offset(component), layout.steps(component), layout.blocks(component)
    full = np.zeros((8 * rows * down, 8 * columns * across), bool)
    full[top : top + layout.height, left : left + layout.width] = known > 0
    each = full.reshape(8 * rows, down, 8 * columns, across)
    every: NDArray[np.bool_] = np.all(each, axis=(1, 3))
    some: NDArray[np.bool_] = np.any(each, axis=(1, 3))
    return every, some
