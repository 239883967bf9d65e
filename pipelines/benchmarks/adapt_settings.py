"""Settings of adaptation on held-out training images: bits of pixels, bits of the adapter, CPU seconds.

    python -m pipelines.benchmarks.adapt_settings natural,histology before,default --steps 24

One line of JSON a run, so that a long comparison can be stopped and gone on with at any time; decision 0009 has
the table that chose the defaults.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from PIL import Image as Pillow

from callic_archive.codec.adapt import AdaptOptions, collect, fit
from callic_archive.codec.engine import Engine
from callic_archive.errors import InexactModel
from callic_archive.model.adapter import AdapterShape
from callic_archive.model.weights import ModelSet
from pipelines.benchmarks.adaptation import estimated
from pipelines.benchmarks.eval_sets import Image, centre, shared_data
from pipelines.training_data import held_out

#: Training folders by short name, and the side of the centre crop.
KINDS = {
    "natural": ("rgb8/natural", 512),
    "histology": ("rgb8/histology", 512),
    "enlarged": ("rgb8/natural", 256),
    "satellite": ("rgb8/satellite", 512),
    "ct": ("gray16/ct-philips", 512),
    "mr": ("gray16/mr-t1", 192),
    "microscopy": ("gray16/micro-cellprofiler", 512),
    "satellite-16": ("gray16/sat-misc", 256),
}
#: What was used before decision 0009.
_OLD = AdaptOptions(
    rate=1e-2,
    prior_scale=0.05,
    start_share=0.2,
    shape=AdapterShape(7, 7, 2),
    patches=8,
    per_factor=False,
    warmup=0.0,
)
_SLOW = replace(_OLD, rate=3e-3, prior_scale=0.02)
_WHOLE = replace(_SLOW, start_share=1.0)
_FACTOR = replace(_WHOLE, per_factor=True, warmup=0.15)
VARIANTS = {
    "default": AdaptOptions(),
    "warm": replace(_WHOLE, warmup=0.15),
    "factor": _FACTOR,
    "factor-nowarm": replace(_FACTOR, warmup=0.0),
    "factor-slower": replace(_FACTOR, rate=1.5e-3),
    "factor-five": replace(_FACTOR, rate=5e-3),
    "factor-ten": replace(_FACTOR, rate=1e-2),
    "factor-rank3": replace(_FACTOR, shape=AdapterShape(3, 3, 1)),
    "factor-rank3-five": replace(_FACTOR, rate=5e-3, shape=AdapterShape(3, 3, 1)),
    "factor-rank3-ten": replace(_FACTOR, rate=1e-2, shape=AdapterShape(3, 3, 1)),
    "factor-rank2-five": replace(_FACTOR, rate=5e-3, shape=AdapterShape(2, 2, 1)),
    "factor-share": replace(_FACTOR, start_share=0.2),
    "before": _OLD,
    "slow": _SLOW,
    "slow-whole": _WHOLE,
    "slower": replace(_SLOW, rate=1.5e-3),
    "slow-prior1": replace(_SLOW, prior_scale=0.01),
    "slow-prior5": replace(_SLOW, prior_scale=0.05),
    "five": replace(_SLOW, rate=5e-3),
    "five-whole": replace(_WHOLE, rate=5e-3),
    "rank3": replace(_SLOW, shape=AdapterShape(3, 3, 1)),
    "rank2": replace(_SLOW, rate=5e-3, shape=AdapterShape(2, 2, 1)),
    "rank12": replace(_SLOW, shape=AdapterShape(12, 12, 3)),
    "no-depthwise": replace(_SLOW, shape=AdapterShape(7, 7, 0)),
}


def validation_image(kind: str) -> tuple[str, Image]:
    """The first held-out training image of a kind that is large enough, its centre."""
    folder, side = KINDS[kind]
    for path in sorted((shared_data() / "train" / folder).iterdir()):
        if path.suffix not in (".png", ".webp") or not held_out(path.name):
            continue
        with Pillow.open(path) as opened:
            image = np.asarray(opened.convert("RGB") if folder.startswith("rgb8") else opened)
        if min(image.shape[:2]) >= side and (image.ndim == 2 or folder.startswith("rgb8")):
            part = centre(image, side)
            if kind == "enlarged":  # to twice the size: statistics that no base model has seen
                part = np.asarray(
                    Pillow.fromarray(part).resize((2 * side, 2 * side), Pillow.Resampling.BICUBIC)
                )
            return path.name, part
    raise FileNotFoundError(f"no held-out image of {side} pixels a side in {folder}")


def measure(image: Image, options: AdaptOptions) -> dict[str, float]:
    """Percent of the code length without an adapter: pixels, adapter, both; and CPU seconds of fitting."""
    models, engine = ModelSet.default(), Engine("numpy", threads=options.threads)
    (digest, (patches, plans)), *_ = collect([image], models, 4096, 0).items()
    base = estimated(plans, None, engine)
    begin = time.process_time()
    adapter = fit(models.get(digest), patches, float(image.shape[0] * image.shape[1]), options)
    seconds = time.process_time() - begin
    own = 8.0 * len(adapter.payload)
    try:
        pixels = estimated(plans, adapter, engine)
    except InexactModel:
        pixels = float("inf")
    return {
        "pixels": round(100 * (pixels / base - 1), 3),
        "adapter": round(100 * own / base, 3),
        "net": round(100 * ((pixels + own) / base - 1), 3),
        "bytes": own / 8,
        "cpu_seconds": round(seconds, 1),
    }


@click.command()
@click.argument("kinds")
@click.argument("variants")
@click.option("--steps", type=int, default=24, show_default=True)
@click.option("--patches", type=int, default=8, show_default=True, help="a step")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--log", type=click.Path(path_type=Path), default=None, help="append the lines here too")
def main(kinds: str, variants: str, steps: int, patches: int, threads: int, log: Path | None) -> None:
    """Measure VARIANTS on KINDS, both lists with commas; ``all`` stands for all of them."""
    for kind in KINDS if kinds == "all" else kinds.split(","):
        name, image = validation_image(kind)
        for variant in VARIANTS if variants == "all" else variants.split(","):
            options = replace(VARIANTS[variant], steps=steps, patches=patches, threads=threads)
            found = measure(image, options)
            line = {
                "kind": kind,
                "file": name,
                "variant": variant,
                "steps": steps,
                "patches": patches,
                **found,
            }
            click.echo(json.dumps(line))
            if log is not None:
                with log.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
