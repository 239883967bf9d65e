"""Training images whose files are bands of one scene, as images and as what predictions leave of their bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from callic_archive.codec.planning import sample_boxes
from callic_archive.codec.prediction import EarlierPlanes, fit_prediction, fixed
from callic_archive.images.planes import choose_packing

Image = NDArray[np.generic]

NAIP_DAYS = ("20090818", "20100629", "20120731", "20140720", "20150926", "20160816", "20170827")
#: Bands of one scene, by the names of their files in ``train/``.
SCENES = {
    "sentinel-like mosaic, 3 bands": [f"gray16/sat-misc/mosaic_cog1-{i}.png" for i in range(3)],
    "Landsat 8, bands 2 and 3": [f"gray16/landsat8/tiny_LC80460282016177LGN00_B{i}.png" for i in (2, 3)],
    "scene, 2 bands": [f"gray16/sat-misc/scene_band{i}-0.png" for i in (1, 2)],
    **{
        f"NAIP {day}, red, green, blue, near infrared": [
            f"rgb8/satellite/naip-m_4709963_se_14_1_{day}.webp",
            f"gray16/naip-nir/m_4709963_se_14_1_{day}.png",
        ]
        for day in NAIP_DAYS
    },
}


def scene(train: Path, names: list[str]) -> Image:
    """The bands as one image (H, W, C). ``train``: the folder that ``names`` are in."""
    planes = []
    for name in names:
        values = np.array(Pillow.open(train / name))
        planes.append(values.astype(np.uint16 if values.itemsize > 1 else np.uint8))
    return np.dstack(planes)


def predicted_planes(image: Image) -> list[tuple[NDArray[np.uint16], int]]:
    """What is coded in place of bands that are predicted from others: levels (H, W), and how many there are.

    Of three planes of 8 bits the codec predicts none, as it codes them jointly; of others each that earlier ones help, and
    here the bands are taken in both directions.
    """
    count = image.shape[2]
    packings = {c: choose_packing(image[:, :, c]) for c in range(count)}
    planes, boxes = EarlierPlanes(image, packings), sample_boxes(*image.shape[:2])
    found = []
    for order in (range(count), range(count - 1, -1, -1)):
        for place, channel in enumerate(order):
            if place == 0 or (image.itemsize == 1 and channel < 3):
                continue
            prediction = fit_prediction(channel, packings[channel], list(order[:place]), planes, boxes)
            if prediction is None:
                continue
            prediction, highest = fixed(prediction, image, channel, planes)
            if highest < 1 << 16:
                levels = prediction.coded(image, channel, planes, (0, 0, *image.shape[:2]))
                found.append((levels.astype(np.uint16), highest + 1))
    return found
