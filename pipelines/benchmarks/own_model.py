"""What a model of one's own gives over the collection's adapter: both fitted to a set, both measured on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from callic_archive.codec.adapt import AdaptOptions, collect, collection_steps, fit
from callic_archive.codec.engine import Engine
from callic_archive.model.weights import ModelSet, load_model
from pipelines.benchmarks.adaptation import estimated
from pipelines.benchmarks.eval_sets import counted_images, files, shared_data
from pipelines.benchmarks.record import ROOT, SCRATCH, Grid, context, load, percent, say, write

NAME = "own-model"
#: Sets of one kind of image each, as a collection would be.
SETS = ("ct", "mr", "histology", "satellite_16bit")


def _train(source: Path, base: str, steps: int, threads: int) -> tuple[Path, dict[str, Any], float]:
    """Run ``callic-archive train``; the model, the summary and seconds."""
    model = SCRATCH / "own.safetensors"
    for old in (model, model.with_name(model.name + ".partial")):
        shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    model.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "callic_archive.cli.main", "train", str(source), "-o", str(model)),
        *("--base", base, "--steps", str(steps), "--threads", str(threads), "--json", "--quiet"),
    ]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return model, json.loads(done.stdout.splitlines()[-1]), time.monotonic() - begin


def measure(name: str, steps: int, threads: int, *, small: bool) -> dict[str, Any]:
    """Bits of a set (by exact inference on its sampled blocks) with the base model, the adapter, and a model of its own;
    ``small``: all that of the small base models."""
    engine, shipped = Engine("numpy", threads=threads), ModelSet.default()
    shipped = shipped.smaller() if small else shipped
    images = [item.image for item in counted_images(files(name, None)) if item.number == 0]
    pixels = float(sum(image.shape[0] * image.shape[1] for image in images))
    options = AdaptOptions(steps=collection_steps(pixels), threads=threads)
    limit = min(options.max_patches, options.steps * (options.patches or options.max_patches))
    found = collect(images, shipped, limit, options.seed)
    digest = max(found, key=lambda key: sum(len(plan.channels) for _, plan in found[key][1]))
    patches, plans = found[digest]
    say(f"{name}: an adapter of {options.steps} steps")
    begin = time.monotonic()
    adapter = fit(shipped.get(digest), patches, pixels, options)
    adapting = time.monotonic() - begin
    say(f"{name}: a model of {steps} steps")
    path, summary, training = _train(shared_data() / "eval" / name, shipped.get(digest).name, steps, threads)
    own = load_model(path)
    others = [model for model in shipped if model.channels != own.channels]
    own_plans = collect(images, ModelSet([own, *others]), limit, options.seed)[own.digest][1]
    return {
        "samples": sum(image.shape[0] * image.shape[1] * len(plan.channels) for image, plan in plans),
        "base_bits": estimated(plans, None, engine),
        "adapted_bits": estimated(plans, adapter, engine),
        "adapter_bytes": len(adapter.payload),
        "adapting_seconds": round(adapting, 1),
        "own_bits": estimated(own_plans, None, engine),
        "steps": steps,
        "training_seconds": round(training, 1),
        "trained": {key: summary[key] for key in ("held_out_before", "held_out", "model_bytes", "megapixels")},
    }


def update(sets: list[str], steps: int, threads: int, *, small: bool) -> dict[str, Any]:
    """Measure sets and add them to the record."""
    record = load(NAME) or {"benchmark": NAME, "result": {}}
    for name in sets:
        label = f"{name}, small" if small else name
        record["result"][label] = {**measure(name, steps, threads, small=small), "context": context()}
        write(NAME, {**record, **context()})
    return record


def grids(record: dict[str, Any]) -> list[Grid]:
    """One row a set."""
    rows = []
    for label, found in record["result"].items():
        base, told = found["base_bits"], found["trained"]
        weights = 8.0 * found["adapter_bytes"]
        saved = (base - found["own_bits"]) / base
        rows.append(
            (
                label,
                f"{base / found['samples']:.4f}",
                percent(100 * (found["adapted_bits"] / base - 1)),
                percent(100 * ((found["adapted_bits"] + weights) / base - 1)),
                f"{found['adapting_seconds']:.0f}",
                percent(-100 * saved),
                percent(100 * (told["held_out"] / told["held_out_before"] - 1)),
                f"{found['steps']} steps, {told['megapixels']:.1f} Mpx",
                f"{found['training_seconds']:.0f}",
                f"{told['model_bytes'] / saved / 1e6:.1f} MB" if saved > 0 else "never",
            )
        )
    columns = (
        "set",
        "bpsp, base model",
        "adapter: pixels",
        "with its weights",
        "seconds",
        "own model: pixels",
        "held-out crops",
        "trained",
        "seconds of training",
        "pays beside the base model from",
    )
    note = (
        "The adapter and the model were each fitted to the set and measured on it by exact inference on up to 12 "
        "blocks of 96x96 an image; held-out crops are of files that training did not see. Small: from the small base model, "
        "else from the large one. A model of one's own costs nothing where it stands in for the base model altogether; "
        "where the archive carries that too, it pays from so many bytes of code on."
    )
    return [Grid("A model of one's own", columns, rows, note)]
