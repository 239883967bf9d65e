"""The evaluation sets: their files, and the images that are counted.

Counted are the images that :func:`callic_archive.images.source.parse` finds in a file, all pages included,
and channels that
repeat an earlier one only once (an X-ray stored as RGB is one plane). Float and 32-bit files are not
counted: no codec here
takes them, the archive keeps them verbatim.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.planning import find_copies
from callic_archive.images.source import parse
from pipelines.benchmarks.record import ROOT

Image = NDArray[Any]
SETS = ("kodak", "histology", "satellite_rgb", "satellite_16bit", "ct", "mr", "xray", "microscopy")


def shared_data() -> Path:
    """The folder of the public image data. Raises FileNotFoundError where it is not there."""
    root = Path(os.environ.get("CALLIC_SHARED", ROOT.parent / "shared")) / "data"
    if not (root / "eval").is_dir():
        raise FileNotFoundError("the evaluation data is not there; name its parent in CALLIC_SHARED")
    return root


@dataclass(frozen=True)
class Counted:
    """One image of a set: the file it lies in, its number there, and its samples (H, W) or (H, W, C)."""

    path: Path
    number: int
    image: Image


def files(name: str, limit: int | None = None) -> list[Path]:
    """Files of a set in order of their names, the first ``limit`` of them."""
    return sorted(path for path in (shared_data() / "eval" / name).iterdir() if path.is_file())[:limit]


def counted_images(paths: list[Path]) -> Iterator[Counted]:
    """The images of files, with repeated channels taken out; what is wider than 16 bits no model codes."""
    for path in paths:
        parsed = parse(path.read_bytes(), path.name)
        images = [image for image in parsed.images if image.itemsize <= 2] if parsed else []
        for number, image in enumerate(images):
            yield Counted(path, number, without_copies(image))


def without_copies(image: Image) -> Image:
    """The image (H, W, C) without channels that repeat an earlier one; (H, W) where one is left."""
    if image.ndim == 2:
        return image
    kept = [c for c, source in enumerate(find_copies(image)) if source == c]
    return np.ascontiguousarray(image[:, :, kept[0]] if len(kept) == 1 else image[:, :, kept])


def centre(image: Image, height: int, width: int | None = None) -> Image:
    """The centre of an image, at most height x width."""
    width = width or height
    top, left = max(0, image.shape[0] - height) // 2, max(0, image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def kodak(number: int) -> Image:
    """Kodak image 1..24, (H, W, 3) uint8."""
    parsed = parse((shared_data() / "eval" / "kodak" / f"{number:02d}.png").read_bytes())
    if parsed is None:
        raise ValueError(f"Kodak image {number} is no image")
    return parsed.images[0]
