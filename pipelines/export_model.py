"""Round a trained checkpoint to integers and put it into the package, with its training record.

    python -m pipelines.export_model rgb8 --run runs/rgb8

Writes ``callic_archive/model/weights_data/NAME.safetensors``, its digest into ``digests.json`` there, and
``manifests/models/NAME.json``: data, steps, held-out figures of the float and of the integer model, licence.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import torch

from callic_archive.codec.settling import settled
from callic_archive.entropy.mixture import MixtureTables
from callic_archive.model.config import MGCFConfig
from callic_archive.model.mgcf import MGCF
from callic_archive.model.quantize import quantize
from callic_archive.model.traces import finer_gates, trace, with_gates_of
from callic_archive.model.weights import save_model
from callic_archive.training.measure import float_bits, integer_bits
from pipelines.training_data import CropSource

#: Models that ship, in the order of preference: of those for as many planes the first is used unless it is declined.
NAMES = ("rgb8", "gray16", "rgb8-small", "gray16-small", "rgb8-tiny", "gray16-tiny", "rgb8-nano", "gray16-nano")
LICENCE = "Apache-2.0 (weights); trained on the sets named here, whose licences are listed with them"
PACKAGE = Path(__file__).resolve().parent.parent / "callic_archive" / "model" / "weights_data"
MANIFESTS = Path(__file__).resolve().parent.parent / "manifests" / "models"
#: Crops a step, rate and average of the training after rounding: of many kinds of images, so gentler than that of fitted models.
SETTLING_CROPS, SETTLING_RATE, SETTLING_EMA = (16, 64), 5e-4, 0.99
#: Source and licence of every training folder, as its publisher states them.
SOURCES = {
    "rgb8/natural": "CID22 (imazen/codec-corpus, CC BY-SA 4.0); CLIC2025 validation (Unsplash licence)",
    "rgb8/histology": "NuInsSeg (MIT); reference tiles of StainTools, torchstain, HEnorm_python (MIT)",
    "rgb8/satellite": "NAIP (opengeos/data, MIT); Sentinel-2 RGB (open-geo-tutorial, CC BY-SA)",
    "gray16/ct-philips": "neurolabusc/dcm_qa_ct (BSD-2)",
    "gray16/mr-t1": "datalad/example-dicom-structural (PDDL)",
    "gray16/mr-uih": "neurolabusc/dcm_qa_uih (BSD-2)",
    "gray16/micro-cellprofiler": "CellProfiler/examples (BSD-3)",
    "gray16/micro-neubias": "NEUBIAS/training-resources (see its LICENSE.md)",
    "gray16/landsat8": "mapbox/rio-toa, USGS Landsat 8 (public domain)",
    "gray16/sat-misc": "cogeotiff/rio-tiler (BSD-3); CosmiQ/solaris (Apache-2.0)",
    "gray16/naip-nir": "NAIP near infrared (opengeos/data, MIT, public domain)",
}
BANDS = "what bands predict of the Landsat 8 and Sentinel-2 scenes named here (decision 0014)"


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.option("--run", "run_dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--data", type=click.Path(path_type=Path), default=None, help="the train folder [../shared/data/train]"
)
@click.option(
    "--optimizer",
    default="Muon 1.5e-3 (rms-matched; Adam for all but the blocks' matrices), cosine, EMA 0.998",
    show_default=True,
    help="how the run was optimized, for the record",
)
@click.option(
    "--coarse",
    type=click.IntRange(0, 5),
    default=0,
    show_default=True,
    help="binary places of weights that stay zero, for a smaller file",
)
@click.option(
    "--settle",
    type=click.IntRange(0),
    default=800,
    show_default=True,
    help="steps of training on what is not rounded coarsely, after rounding",
)
def main(name: str, run_dir: Path, data: Path | None, optimizer: str, coarse: int, settle: int) -> None:
    """Export the model NAME from RUN."""
    root = data or Path(os.environ.get("CALLIC_SHARED", "../shared")) / "data" / "train"
    saved = torch.load(run_dir / "checkpoint.pt", weights_only=True, map_location="cpu")
    model = MGCF(MGCFConfig(**saved["config"]))
    model.load_state_dict(saved["ema"])
    model.eval()
    source = CropSource(root, model.config.channels, seed=7, varied=0.4, smooth=0.1)  # as trained
    calibration = [source.batch(8, 64) for _ in range(6)]
    traces = trace(model, calibration)
    trials = [source.batch(12, 64) for _ in range(3)]
    finer_gates(traces, lambda: sum(integer_bits(quantize(model, traces, coarse=coarse), *trial) for trial in trials))
    weights = quantize(model, traces, coarse=coarse, report=click.echo)
    if settle:
        after = settled(weights, lambda: source.batch(*SETTLING_CROPS), settle, rate=SETTLING_RATE, ema=SETTLING_EMA)
        weights = quantize(after, with_gates_of(trace(after, calibration), traces), coarse=coarse)
    figures: dict[str, dict[str, float]] = {}
    sums = [0.0, 0.0]
    for domain, (x, stats) in source.validation(3, 128).items():
        in_float, in_integers = float_bits(model, x, stats), integer_bits(weights, x, stats)
        sums = [sums[0] + in_float, sums[1] + in_integers]
        figures[domain] = {
            "float_bpsp": round(in_float / x.numel(), 4),
            "integer_bpsp": round(in_integers / x.numel(), 4),
        }
    price = 100 * (sums[1] / sums[0] - 1)
    record: dict[str, Any] = {
        "training": {
            "steps": saved["step"],
            "minutes": round(saved["seconds"] / 60, 1),
            "megapixels": round(saved["pixels"] / 1e6, 1),
            **({"earlier": saved["earlier"]} if saved["earlier"] else {}),
            "device": "CPU, 2 cores",
            "optimizer": optimizer,
            **({"weights_of_so_many_binary_places_less": coarse} if coarse else {}),
            **({"settling_steps": settle} if settle else {}),
            "data": {d: SOURCES.get(d.removeprefix("rgb:"), BANDS) for d in source.domains},
            "sampling_weights": source.domains,
        },
        "licence": LICENCE,
    }
    PACKAGE.mkdir(exist_ok=True)
    digest = save_model(
        PACKAGE / f"{name}.safetensors", name, weights, dict(MixtureTables.build().as_dict()), record
    )
    digests = PACKAGE / "digests.json"
    known = json.loads(digests.read_text()) if digests.exists() else {}
    known[name] = digest
    digests.write_text(json.dumps({n: known[n] for n in NAMES if n in known}, indent=2) + "\n")
    manifest = {
        "name": name,
        "sha256": digest,
        "bytes": (PACKAGE / f"{name}.safetensors").stat().st_size,
        "config": model.config.as_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        **record,
        "held_out": figures,
        "price_of_integers_percent": round(price, 4),
    }
    MANIFESTS.mkdir(parents=True, exist_ok=True)
    (MANIFESTS / f"{name}.json").write_text(json.dumps(manifest, indent=2) + "\n")
    click.echo(f"{name}: {digest}; held out {figures}; price of integers {price:+.4f} %")


if __name__ == "__main__":
    main()
