"""What predicting bands from each other gives, on training images: bits a sample with and without it.

    python -m pipelines.benchmarks.bands --side 512

One line of JSON an image: planes each alone, planes as the encoder grouped them before (three jointly), and as it codes
them now, which decision 0014 rests on; JPEG XL beside it.
"""

from __future__ import annotations

import json
from unittest.mock import patch

import click
import imagecodecs
import numpy as np
from PIL import Image as Pillow

from callic_archive.codec.codestream import parse
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.model.weights import ModelSet
from pipelines.benchmarks.eval_sets import Image, centre, shared_data

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
        for day in ("20090818", "20140720", "20170827")
    },
}


def scene(names: list[str]) -> Image:
    """The bands as one image (H, W, C)."""
    planes = []
    for name in names:
        values = np.array(Pillow.open(shared_data() / "train" / name))
        planes.append(values.astype(np.uint16 if values.itemsize > 1 else np.uint8))
    return np.dstack(planes)


def coded(image: Image, models: ModelSet, threads: int) -> bytes:
    """The codestream without adapters."""
    return encode_image(image, models=models, options=EncodeOptions(threads=threads))


@click.command()
@click.option("--side", default=512, show_default=True, help="Side of the centre that is coded.")
@click.option("--threads", default=1, show_default=True)
def main(side: int, threads: int) -> None:
    """Print bits a sample of each scene."""
    models = ModelSet.default()
    for name, files in SCENES.items():
        image = centre(scene(files), side)
        count = image.shape[2]
        alone = sum(len(coded(image[:, :, c], models, threads)) for c in range(count))
        with patch("callic_archive.codec.planning.fit_prediction", lambda *_: None):
            before = len(coded(image, models, threads))
        now = coded(image, models, threads)
        jxl = sum(
            len(imagecodecs.jpegxl_encode(np.ascontiguousarray(image[:, :, c]), lossless=True, effort=7))
            for c in range(count)
        )
        row = {
            "alone": alone, "without prediction": before, "with": len(now), "JPEG XL e7, planes alone": jxl,
        }  # fmt: skip
        weights = [g.prediction and g.prediction.weights for g in parse(now).groups]
        bits = {kind: round(8 * size / image.size, 3) for kind, size in row.items()}
        print(json.dumps({"scene": name, "shape": image.shape, **bits, "weights": weights}), flush=True)


if __name__ == "__main__":
    main()
