"""From the coefficients of a JPEG stream to pixels, as the decoders of libjpeg's family have them.

An image may be a part of what was coded: ``Layout`` says where it begins on the grid of blocks, and how samples lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Coefficients = NDArray[np.int16]
Table = NDArray[np.uint16]

GRAY, RGB, YCC, YCC_9 = range(4)  # what the components are; of YCbCr there are two opinions, the later since libjpeg 9
REPEATED, INTERPOLATED, TRANSFORMED = range(3)  # how chroma samples become as many as pixels


@dataclass(frozen=True)
class Layout:
    """How pixels follow from components.

    colour: GRAY (one component), RGB (three, each a channel), YCC or YCC_9; down, across: rows and columns of pixels that one
    chroma sample stands for, 1 or 2, and how they come about (``chroma``): REPEATED, INTERPOLATED (libjpeg to version 6b and
    libjpeg-turbo: neighbours have a share), TRANSFORMED (libjpeg from version 7 on: blocks are transformed to more samples);
    top, left: pixels of the first block of chroma that the image is without, 0 to 15; ends_below, ends_right: whether
    interpolation ends with the image, rather than with its blocks.
    """

    height: int
    width: int
    colour: int
    down: int = 1
    across: int = 1
    chroma: int = REPEATED
    top: int = 0
    left: int = 0
    ends_below: bool = True
    ends_right: bool = True

    @property
    def components(self) -> int:
        """How many there are."""
        return 1 if self.colour == GRAY else 3

    def is_chroma(self, component: int) -> bool:
        """Whether it is Cb or Cr."""
        return component > 0 and self.colour in (YCC, YCC_9)

    def offset(self, component: int) -> tuple[int, int]:
        """Pixels above and left of the image that belong to the first blocks of a component."""
        return (self.top, self.left) if self.is_chroma(component) else (self.top % 8, self.left % 8)

    def steps(self, component: int) -> tuple[int, int]:
        """Rows and columns of pixels to a sample of a component."""
        return (self.down, self.across) if self.is_chroma(component) else (1, 1)

    def blocks(self, component: int) -> tuple[int, int]:
        """Rows and columns of blocks of a component."""
        (top, left), (down, across) = self.offset(component), self.steps(component)
        return -(-(top + self.height) // (8 * down)), -(-(left + self.width) // (8 * across))

    def block(self, component: int) -> tuple[int, int]:
        """Rows and columns of samples of a block, once it is transformed."""
        down, across = self.steps(component) if self.chroma == TRANSFORMED else (1, 1)
        return 8 * down, 8 * across

    def spread_later(self, component: int) -> bool:
        """Whether its samples are not yet as many as pixels when they are transformed."""
        return self.steps(component) != (1, 1) and self.chroma != TRANSFORMED

    def reach(self, component: int) -> tuple[int, int]:
        """Rows and columns of samples that interpolation may look at."""
        (top, left), (down, across) = self.offset(component), self.steps(component)
        rows, columns = self.blocks(component)
        return (
            -(-(top + self.height) // down) if self.ends_below else 8 * rows,
            -(-(left + self.width) // across) if self.ends_right else 8 * columns,
        )


def matrices(layout: Layout, component: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the transform of a component, vertical and horizontal."""
    from callic_archive.archive.dct.decoding_kernel import MATRIX, MATRIX_16

    rows, columns = layout.block(component)
    return MATRIX if rows == 8 else MATRIX_16, MATRIX if columns == 8 else MATRIX_16


def samples_of(coefficients: Coefficients, table: Table, layout: Layout, component: int) -> Image:
    """Blocks (rows, columns, 64) of a component as samples."""
    from callic_archive.archive.dct.decoding_kernel import decode_blocks

    rows, columns = layout.block(component)
    out = np.empty((rows * coefficients.shape[0], columns * coefficients.shape[1]), np.uint8)
    decode_blocks(coefficients, table, *matrices(layout, component), out)
    return out


def spread_out(samples: Image, layout: Layout, component: int) -> Image:
    """The samples of a component as pixels (H, W)."""
    from callic_archive.archive.dct.decoding_kernel import spread

    (top, left), (down, across) = layout.offset(component), layout.steps(component)
    if not layout.spread_later(component):
        return samples[top : top + layout.height, left : left + layout.width]
    out = np.empty((layout.height, layout.width), np.uint8)
    spread(samples, down, across, layout.chroma == INTERPOLATED, top, left, *layout.reach(component), out)
    return out


def pixels_of(planes: Sequence[Coefficients], tables: Sequence[Table], layout: Layout) -> Image:
    """The image (H, W) or (H, W, 3) of its components' coefficients, each (rows, columns, 64)."""
    from callic_archive.archive.dct.decoding_kernel import GREEN_CB, colours

    parts = [
        spread_out(samples_of(plane, table, layout, number), layout, number)
        for number, (plane, table) in enumerate(zip(planes, tables, strict=True))
    ]
    if layout.colour == GRAY:
        return np.ascontiguousarray(parts[0])
    if layout.colour == RGB:
        return np.stack(parts, axis=2)
    out = np.empty((layout.height, layout.width, 3), np.uint8)
    colours(parts[0], parts[1], parts[2], GREEN_CB[layout.colour == YCC_9], out)
    return out
