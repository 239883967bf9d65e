"""Arrays to codestreams and back, with the models that ship."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from callic_archive.access.regions import Region, box_of

if TYPE_CHECKING:
    from callic_archive.model.weights import ModelSet

Image = NDArray[Any]


@lru_cache(maxsize=4)
def model_set(models: tuple[Path, ...] = ()) -> ModelSet:
    """The models that ship, or those of ``models`` (files), loaded and checked once. Raises ModelError."""
    from callic_archive.model.weights import ModelSet

    return ModelSet.from_paths(models) if models else ModelSet.default()


def encode_image(
    array: ArrayLike,
    *,
    coder: Literal["range", "torchac"] = "range",
    adapt: Literal["none", "image"] = "none",
    steps: int = 50,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    models: Sequence[Path] = (),
) -> bytes:
    """The codestream of an image of shape (H, W) or (H, W, C), C from 1 to 4, of uint8, uint16 or int16.

    The bytes decode to the same samples on any machine that has the models; they are named by digest inside.
    ``adapt="image"`` fits a small adapter with ``steps`` steps of training, much slower and smaller.
    Raises UnsupportedImage (E223), ModelError and UsageError.
    """
    from callic_archive.codec.encoder import EncodeOptions
    from callic_archive.codec.encoder import encode_image as encode

    options = EncodeOptions(coder=coder, adapt=adapt, steps=steps, device=device, threads=threads)
    image = np.asarray(array)
    return encode(image, models=model_set(tuple(Path(path) for path in models)), options=options)


def decode_image(
    codestream: bytes | bytearray | memoryview,
    *,
    region: Region | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    models: Sequence[Path] = (),
    max_pixels: int | None = None,
) -> Image:
    """The image of a codestream: shape, type and samples as they were given to ``encode_image``.

    ``region`` decodes only the tiles it touches; slices of rows and columns, or (top, left, bottom, right).
    ``max_pixels`` refuses images of more samples before any memory is taken for them.
    Raises CodestreamError on damage, UnknownModel when a model is not at hand, RegionError.
    """
    from callic_archive.codec.codestream import MAX_PIXELS, inspect
    from callic_archive.codec.decoder import decode_image as decode

    view = memoryview(codestream).cast("B")
    return decode(
        view,
        models=model_set(tuple(Path(path) for path in models)),
        device=device,
        threads=threads,
        region=None if region is None else box_of(region, inspect(view).shape),
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
    )
