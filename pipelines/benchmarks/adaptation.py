"""What adaptation gains and what it costs: pixels' bits, weights' bits, seconds; for single images and
whole sets."""

from __future__ import annotations

import time
from typing import Any

from callic_archive.codec.adapt import AdaptOptions, collect, collection_steps, fit
from callic_archive.codec.engine import Engine
from callic_archive.codec.planning import GroupPlan, estimate_bits, sample_boxes
from callic_archive.errors import InexactModel
from callic_archive.model.adapter import Adapter
from callic_archive.model.weights import ModelSet
from pipelines.benchmarks.eval_sets import Image, counted_images, files
from pipelines.benchmarks.record import Grid, context, load, percent, say, write

NAME = "adapt"
Plans = list[tuple[Image, GroupPlan]]


def estimated(plans: Plans, adapter: Adapter | None, engine: Engine) -> float:
    """Pixel bits of all planes, from exact inference on up to 12 blocks of 96x96 an image, scaled to its
    size."""
    total = 0.0
    for image, plan in plans:
        boxes = sample_boxes(*image.shape[:2])
        seen = sum((bottom - top) * (right - left) for top, left, bottom, right in boxes)
        total += estimate_bits(image, plan, adapter, engine) * image.shape[0] * image.shape[1] / seen
    return total


def one(images: list[Image], options: AdaptOptions) -> dict[str, Any]:
    """Fit one adapter a model to some images; sums over the models. Adapters that do not pay are counted
    as not taken."""
    engine = Engine("numpy", threads=options.threads)
    each_step = options.patches or options.max_patches
    found = collect(
        images, ModelSet.default(), min(options.max_patches, options.steps * each_step), options.seed
    )
    row = {
        "samples": 0.0,
        "base_bits": 0.0,
        "adapted_bits": 0.0,
        "weight_bits": 0.0,
        "kept_bits": 0.0,
        "seconds": 0.0,
    }
    taken = 0
    for digest, (patches, plans) in found.items():
        pixels = float(sum(image.shape[0] * image.shape[1] for image, _ in plans))
        start = time.perf_counter()
        adapter = fit(ModelSet.default().get(digest), patches, pixels, options)
        row["seconds"] += time.perf_counter() - start
        base = estimated(plans, None, engine)
        try:
            adapted = estimated(plans, adapter, engine)
        except InexactModel:
            adapted = base
        own = 8.0 * len(adapter.payload)
        row["samples"] += sum(image.shape[0] * image.shape[1] * len(plan.channels) for image, plan in plans)
        row["base_bits"] += base
        row["adapted_bits"] += adapted
        row["weight_bits"] += own
        row["kept_bits"] += min(base, adapted + own)
        taken += adapted + own < base
    return {**row, "steps": options.steps, "adapters": len(found), "taken": taken}


def update(sets: list[str], images: int, limit: int | None, steps: int, threads: int) -> dict[str, Any]:
    """Measure single images and the whole set, for each set, and add them to the record."""
    record = load(NAME) or {"benchmark": NAME, "result": {}}
    for name in sets:
        counted = [item.image for item in counted_images(files(name, limit)) if item.number == 0]
        alone = []
        for number, image in enumerate(counted[:images]):
            say(f"{name}: image {number + 1} of {min(images, len(counted))}")
            alone.append(one([image], AdaptOptions(steps=steps, threads=threads)))
        say(f"{name}: {len(counted)} images together")
        total = float(sum(image.shape[0] * image.shape[1] for image in counted))
        together = one(counted, AdaptOptions(steps=collection_steps(total), threads=threads))
        label = name if limit is None else f"{name} (first {limit})"
        record["result"][label] = {"image": alone, "collection": together, "context": context()}
        write(NAME, {**record, **context()})
    return record


def _row(label: str, way: str, parts: list[dict[str, Any]]) -> tuple[str, ...]:
    total = {key: sum(part[key] for part in parts) for key in parts[0]}
    base = total["base_bits"]
    return (
        label,
        way,
        f"{base / total['samples']:.4f}",
        percent(100 * (total["adapted_bits"] / base - 1)),
        percent(100 * total["weight_bits"] / base),
        percent(100 * ((total["adapted_bits"] + total["weight_bits"]) / base - 1)),
        percent(100 * (total["kept_bits"] / base - 1)),
        f"{total['taken']}/{total['adapters']}",
        f"{parts[0]['steps']}",
        f"{total['seconds'] / len(parts):.0f}",
    )


def grids(record: dict[str, Any]) -> list[Grid]:
    """Two rows a set."""
    rows = []
    for label, found in record["result"].items():
        if found["image"] and all(part["samples"] for part in found["image"]):
            rows.append(_row(label, f"image (mean of {len(found['image'])})", found["image"]))
        if found["collection"]["samples"]:
            rows.append(_row(label, "collection", [found["collection"]]))
    columns = (
        "set",
        "--adapt",
        "bpsp before",
        "pixels",
        "weights",
        "sum",
        "with what is kept",
        "adapters that pay",
        "steps",
        "seconds of training",
    )
    note = (
        "Pixels are measured by exact inference on up to 12 blocks of 96x96 an image, overviews of TIFFs "
        "left out; percentages "
        "are of the bits before. An adapter is kept only where the sum is negative."
    )
    return [Grid("What adaptation gains and costs", columns, rows, note)]
