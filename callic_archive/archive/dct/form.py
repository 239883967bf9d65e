"""How decoded pixels lie in an image: turned or mirrored, as viewers do it, blue before red, beside an alpha channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.dct.decoding import Image

TURNS = range(8)
TRANSPOSED = 4  # of a turn: rows and columns are exchanged


@dataclass(frozen=True)
class Form:
    """turn: 1 for rows in reverse, 2 for columns in reverse, then 4 for both exchanged; reverse: whether channels are in reverse;
    alpha: the value that a last channel has, but for what differs; None where there is no such channel."""

    turn: int = 0
    reverse: bool = False
    alpha: int | None = None

    def image_of(self, decoded: Image) -> Image:
        """The image (H, W), (H, W, 2), (H, W, 3) or (H, W, 4) of decoded pixels (h, w) or (h, w, 3)."""
        image = decoded[:: -1 if self.turn & 1 else 1, :: -1 if self.turn & 2 else 1]
        image = image.swapaxes(0, 1) if self.turn & TRANSPOSED else image
        image = image[:, :, ::-1] if self.reverse else image
        if self.alpha is not None:
            last = np.full((*image.shape[:2], 1), self.alpha, np.uint8)
            image = np.concatenate([image if image.ndim == 3 else image[:, :, None], last], axis=2)
        return np.ascontiguousarray(image)

    def decoded_of(self, image: NDArray[Any]) -> NDArray[Any]:
        """The inverse, as a view."""
        if self.alpha is not None:
            image = image[:, :, 0] if image.shape[2] == 2 else image[:, :, :-1]
        image = image[:, :, ::-1] if self.reverse else image
        image = image.swapaxes(0, 1) if self.turn & TRANSPOSED else image
        return image[:: -1 if self.turn & 1 else 1, :: -1 if self.turn & 2 else 1]

    def begin_of(self, begin: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
        """Where the first blocks of decoded pixels begin, 0 to 7 rows and columns before them, from where blocks of the image
        (H, W) do."""
        top, left = begin
        height, width = shape[:2]
        if self.turn & TRANSPOSED:
            top, left, height, width = left, top, width, height
        return -(top + height) % 8 if self.turn & 1 else top, -(left + width) % 8 if self.turn & 2 else left


def plain_form(image: NDArray[Any]) -> Form | None:
    """The form of an image of bytes as it lies there; None where it has channels that decoded pixels have not."""
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
        return Form()
    if image.ndim != 3 or image.shape[2] not in (2, 4):
        return None
    return Form(alpha=int(np.bincount(image[:, :, -1].ravel(), minlength=256).argmax()))  # mostly it is opaque
