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

from callic_archive.codec.codestream import parse
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.model.weights import ModelSet
from pipelines.benchmarks.eval_sets import Image, centre, shared_data
from pipelines.scenes import NAIP_DAYS, SCENES, scene

#: Years of one place that show what the others do.
LEFT_OUT = {day for day in NAIP_DAYS if day not in ("20090818", "20140720", "20170827")}

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
        if any(day in name for day in LEFT_OUT):
            continue
        image = centre(scene(shared_data() / "train", files), side)
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
