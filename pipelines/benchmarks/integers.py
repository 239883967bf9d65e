"""The price of integers: bits per sample of the float32 checkpoint and of its roundings, on the same
crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callic_archive.codec.engine import Engine
from callic_archive.codec.planning import plan_group
from callic_archive.images.planes import choose_packing
from callic_archive.model.config import MGCFConfig
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.quantize import quantize
from callic_archive.model.weights import IntegerModel, IntegerWeights, ModelSet, to_arrays
from callic_archive.training.measure import float_bits, integer_bits
from pipelines.benchmarks.eval_sets import centre, counted_images, files, shared_data
from pipelines.benchmarks.record import ROOT, Grid, percent, say
from pipelines.training_data import CropSource

NAME = "integers"
#: Where models are measured, by the planes that they code together.
WHERE = {3: ("kodak",), 1: ("ct", "mr", "satellite_16bit", "microscopy")}
#: The key of the model that ships among those of other widths of weights.
SHIPPED = "shipped"
Crop = tuple[Tensor, PlaneStats]


def crops(name: str, channels: int, side: int, limit: int | None) -> list[Crop]:
    """Centre crops of a set as levels (1, C, h, w), with statistics as the encoder would choose them for
    the image.

    Of images with more planes than the model codes, the first ones are taken; pages other than the first
    are left out.
    """
    found = []
    models = ModelSet.default()
    for item in counted_images(files(name, limit)):
        image = item.image if item.image.ndim == 3 else item.image[:, :, None]
        if item.number or image.shape[2] < channels:
            continue
        image = image[:, :, :channels]
        packings = [choose_packing(image[:, :, c]) for c in range(channels)]
        plan = plan_group(image, range(channels), packings, models)
        crop = centre(image, side)
        levels = plan.levels(crop, (0, 0, *crop.shape[:2])).astype(np.float32)
        top = max(p.high for p in packings)
        columns = [
            torch.tensor([float(v)]) for v in (plan.plane.shift, plan.plane.depth, plan.plane.mid, top)
        ]
        found.append((torch.from_numpy(levels)[None], PlaneStats(*columns)))
    return found


def _integer_total(weights: IntegerWeights, found: list[Crop]) -> float:
    return sum(Engine("numpy").map(lambda crop: integer_bits(weights, *crop), found))


def _same(a: IntegerWeights, b: IntegerWeights) -> bool:
    left, right = to_arrays(a), to_arrays(b)
    return all(np.array_equal(left[name], right[name]) for name in left)


def measure_model(
    shipped: IntegerModel, checkpoint: Path, side: int, limit: int | None, bits: list[int]
) -> dict[str, Any]:
    """Float and integer bits of one model on its sets."""
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    model = MGCF(MGCFConfig(**saved["config"]))
    model.load_state_dict(saved["ema"])
    model.eval()
    say(f"{shipped.name}: loading calibration crops, rounding")
    source = CropSource(shared_data() / "train", model.config.channels, seed=7, varied=0.4)  # as the export does
    calibration = [source.batch(8, 64) for _ in range(6)]
    coarse = int(shipped.metadata["training"].get("weights_of_so_many_binary_places_less", 0))
    again = quantize(model, calibration, coarse=coarse)
    rounded = {SHIPPED: shipped.weights}
    rounded |= {str(width): quantize(model, calibration, weight_limit=(1 << (width - 1)) - 1) for width in bits}
    rows = []
    for name in WHERE[shipped.channels]:
        found = crops(name, model.config.channels, side, limit)
        samples = sum(x.numel() for x, _ in found)
        if not samples:
            continue
        say(f"{shipped.name} on {name}: {len(found)} crops, {samples:,} samples")
        in_float = sum(float_bits(model, *crop) for crop in found)
        totals = {width: _integer_total(weights, found) for width, weights in rounded.items()}
        rows.append(
            {
                "set": name,
                "crops": len(found),
                "samples": samples,
                "float_bpsp": in_float / samples,
                "integer_bpsp": {width: total / samples for width, total in totals.items()},
            }
        )
    return {
        "model": shipped.name,
        "checkpoint_steps": int(saved["step"]),
        "is_shipped": _same(again, shipped.weights),
        "sets": rows,
    }


def measure(checkpoints: dict[str, Path], side: int, limit: int | None, bits: list[int]) -> dict[str, Any]:
    """Every model whose checkpoint is there; the others as their training record states."""
    results: dict[str, Any] = {"side": side, "measured": [], "recorded": []}
    for shipped in ModelSet.default():
        checkpoint = checkpoints.get(shipped.name, Path("runs") / shipped.name / "checkpoint.pt")
        if checkpoint.exists():
            results["measured"].append(measure_model(shipped, checkpoint, side, limit, bits))
        else:
            say(f"{shipped.name}: no checkpoint, taking the training record's figure")
            manifest = json.loads((ROOT / "manifests" / "models" / f"{shipped.name}.json").read_text())
            results["recorded"].append(
                {"model": shipped.name, "percent": manifest["price_of_integers_percent"]}
            )
    return results


def _together(sets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All sets of a model as one: the price of a collection of them all."""
    if len(sets) < 2:
        return []
    samples = sum(line["samples"] for line in sets)
    widths = set.intersection(*(set(line["integer_bpsp"]) for line in sets))

    def mean(values: list[float]) -> float:
        return float(np.average(values, weights=[line["samples"] for line in sets]))

    return [
        {
            "set": "all of these",
            "crops": sum(line["crops"] for line in sets),
            "samples": samples,
            "float_bpsp": mean([line["float_bpsp"] for line in sets]),
            "integer_bpsp": {w: mean([line["integer_bpsp"][w] for line in sets]) for w in widths},
        }
    ]


def grids(record: dict[str, Any]) -> list[Grid]:
    """One row a set; the price is against float32."""
    found = record["result"]
    # "shipped" before the numbers of bits, most first
    widths = sorted({w for m in found["measured"] for s in m["sets"] for w in s["integer_bpsp"]}, reverse=True)
    rows, notes = [], []
    for model in found["measured"]:
        if not model["is_shipped"]:
            notes.append(
                f"The checkpoint of {model['model']} ({model['checkpoint_steps']:,} steps) is not the "
                f"one that the shipped model "
                "was rounded from."
            )
        for line in [*model["sets"], *_together(model["sets"])]:
            prices = [
                percent(100 * (line["integer_bpsp"][w] / line["float_bpsp"] - 1), 3)
                if w in line["integer_bpsp"]
                else "-"
                for w in widths
            ]
            whole = line["integer_bpsp"].get(SHIPPED)
            rows.append(
                (
                    f"{model['model']} on {line['set']}",
                    f"{line['crops']}",
                    f"{line['samples']:,}",
                    f"{line['float_bpsp']:.4f}",
                    "-" if whole is None else f"{whole:.4f}",
                    *prices,
                )
            )
    for line in found["recorded"]:
        rows.append(
            (f"{line['model']}, held-out training crops", "-", "-", "-", "-", percent(line["percent"], 3))
        )
        notes.append(
            f"{line['model']}: no checkpoint at hand; the figure is that of its training record "
            f"(manifests/models/{line['model']}.json)."
        )
    title = f"Price of integers, centre crops of at most {found['side']}x{found['side']}"
    notes.append(
        "Activations have 10 bits, depth-wise kernels 8 in all columns; the width is that of the other "
        "layers' weights. The models that ship have 8 bits, of which the last ones may be zero (decision 0024)."
    )
    columns = ("model and set", "crops", "samples", "float32 bpsp", "integer bpsp as shipped")
    titles = tuple("price as shipped" if w == SHIPPED else f"price, {w}-bit weights" for w in widths or [SHIPPED])
    padded = [row + ("-",) * (len(columns) + len(titles) - len(row)) for row in rows]
    return [Grid(title, columns + titles, padded, " ".join(notes))]
