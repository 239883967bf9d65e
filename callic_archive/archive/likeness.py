"""What images have in common: the detail that bands of one scene share, and slices of a volume hardly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.codecs import Image

BLOCKS, SIDE = 12, 96  # of the look for what two bands have in common
MUCH, LITTLE = 0.75, 0.1  # correlations of detail; slices of CT and MR have 0.3 to 0.7 (decisions 0014, 0016)
MOST_COMPARED = 48  # images of one size and type in a sample: each is compared with each


def alike(images: Sequence[Image]) -> list[list[int]]:
    """Numbers of images (H, W) of one size and type that show the same detail: sets of two or more, each ascending."""
    details = _details(images)
    return clusters(np.abs(np.array([[a @ b for b in details] for a in details])))


def as_scenes(images: Sequence[Image]) -> list[Image]:
    """The same images, but those of more than 8 bits that show the same detail as planes of one (H, W, C)."""
    return [as_scene([images[n] for n in numbers]) for numbers in scenes(images)]


def as_scene(bands: Sequence[Image]) -> Image:
    """One image, as it is, or several (H, W) as planes of one (H, W, C)."""
    return bands[0] if len(bands) == 1 else np.stack(bands).transpose(1, 2, 0)


def scenes(images: Sequence[Image]) -> list[list[int]]:
    """Numbers of images that are one scene: several of more than 8 bits that show the same detail, or one."""
    kinds: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        if image.ndim == 2 and image.itemsize > 1 and min(image.shape) >= SIDE:
            kinds[image.shape, image.dtype.name].append(number)
    found: list[list[int]] = []
    for numbers in kinds.values():
        for some in alike([images[n] for n in numbers]) if 1 < len(numbers) <= MOST_COMPARED else ():
            found.append([numbers[n] for n in some])
    gone = {number for some in found for number in some}
    return [[number] for number in range(len(images)) if number not in gone] + found


def clusters(near: NDArray[np.float64]) -> list[list[int]]:
    """Numbers of related images, by their correlations ``near`` (n, n): sets of two or more, each ascending.

    Those that are much alike, or alike to a third, are a set; what is related to some image of a set, but to none much,
    joins the set of the one that it is most alike. Near infrared is such a band, beside visible light.
    """
    left = list(range(len(near)))
    found: list[list[int]] = []
    while left:
        one = [left.pop(0)]
        for number in one:  # grows meanwhile
            more = [other for other in left if near[number, other] >= MUCH]
            left = [other for other in left if other not in more]
            one += more
        found.append(one)
    sets = [one for one in found if len(one) > 1]
    cores = [(number, one) for one in sets for number in tuple(one)]
    for one in found:
        if len(one) == 1 and cores:
            best, into = max(cores, key=lambda core: near[one[0], core[0]])
            if near[one[0], best] >= LITTLE:
                into += one
    return [sorted(one) for one in sets]


def _details(images: Sequence[Image]) -> list[NDArray[np.float64]]:
    """What the neighbours left and above do not tell of the samples of a few blocks, less its mean, of length 1."""
    details = []
    for image in images:
        parts = []
        for index in range(BLOCKS):  # the walk of the encoder's own look
            top = int((0.5 + index * 0.7548776662) % 1.0 * max(1, image.shape[0] - SIDE))
            left = int((0.5 + index * 0.5698402910) % 1.0 * max(1, image.shape[1] - SIDE))
            x = image[top : top + SIDE, left : left + SIDE].astype(np.float64)
            parts.append((x[1:, 1:] - x[1:, :-1] - x[:-1, 1:] + x[:-1, :-1]).ravel())
        detail = np.concatenate(parts)
        detail -= detail.mean() if detail.size else 0.0
        details.append(detail / (np.linalg.norm(detail) or 1.0))
    return details
