"""RPFT's schedule against all patches from the start: seconds, and bits with the adapter's own counted."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from PIL import Image as Pillow

from callic_archive.codec.adapt import AdaptOptions, collect, fit
from callic_archive.codec.encoder import encode_tile
from callic_archive.codec.engine import Engine, mixture_tables
from callic_archive.codec.planning import GroupPlan
from callic_archive.model.adapter import Adapter
from callic_archive.model.weights import ModelSet
from pipelines.benchmarks.eval_sets import Image, centre, shared_data
from pipelines.benchmarks.record import Grid, percent, say
from pipelines.training_data import held_out

NAME = "rpft"
#: Share of the patches at the first step, by schedule.
SCHEDULES = {"RPFT (share 0.2 to 1)": 0.2, "all patches from the start": 1.0}


def validation_image(folder: str, side: int) -> tuple[str, Image]:
    """The first held-out training image of at least side x side pixels, centre."""
    for path in sorted((shared_data() / "train" / "rgb8" / folder).iterdir()):
        if not held_out(path.name):
            continue
        with Pillow.open(path) as opened:
            image = np.asarray(opened.convert("RGB"))
        if min(image.shape[:2]) >= side:
            return path.name, centre(image, side)
    raise FileNotFoundError(f"no held-out image of {side} pixels a side in {folder}")


def pixel_bits(image: Image, plan: GroupPlan, adapter: Adapter | None) -> int:
    """Bits of the image as one tile's stream."""
    prepared = Engine("numpy").prepare(plan.model, adapter)
    levels = plan.levels(image, (0, 0, *image.shape[:2]))
    return 8 * len(
        encode_tile(levels, max(image.shape[:2]), plan, prepared, mixture_tables(plan.model), "range")
    )


def measure(steps: int, side: int, threads: int) -> dict[str, Any]:
    """Both schedules on a histology and on a natural image; every step takes its whole share, as in the
    paper."""
    rows = []
    for folder in ("histology", "natural"):
        name, image = validation_image(folder, side)
        found = collect([image], ModelSet.default(), 4096, 0)
        if len(found) != 1:
            raise RuntimeError(f"{name} has more than one group of planes")
        patches, plans = next(iter(found.values()))
        plan = plans[0][1]
        base = pixel_bits(image, plan, None)
        row: dict[str, Any] = {
            "kind": folder,
            "patches": len(patches.levels),
            "samples": image.size,
            "base_bits": base,
        }
        fit(
            plan.model, patches, float(side * side), AdaptOptions(steps=1, patches=4, threads=threads)
        )  # warm-up
        for title, start_share in SCHEDULES.items():
            options = AdaptOptions(steps=steps, patches=None, threads=threads, start_share=start_share)
            start, busy = time.perf_counter(), time.process_time()
            adapter = fit(plan.model, patches, float(side * side), options)
            row[title] = {
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - busy,
                "pixel_bits": pixel_bits(image, plan, adapter),
                "adapter_bits": 8 * len(adapter.payload),
            }
            say(f"{folder}, {title}: {row[title]['seconds']:.0f} s")
        rows.append(row)
    return {"steps": steps, "side": side, "threads": threads, "images": rows}


def grids(record: dict[str, Any]) -> list[Grid]:
    """One row an image and schedule."""
    found = record["result"]
    rows = []
    for row in found["images"]:
        rows.append((row["kind"], "none", "-", "-", f"{row['base_bits'] / row['samples']:.4f}", "-", "-"))
        whole = row["all patches from the start"]
        for title in SCHEDULES:
            got = row[title]
            pixels, own = got["pixel_bits"] / row["samples"], got["adapter_bits"] / row["samples"]
            rows.append(
                (
                    row["kind"],
                    title,
                    f"{got['seconds']:.0f}",
                    f"{got['cpu_seconds'] / whole['cpu_seconds']:.2f}",
                    f"{pixels:.4f}",
                    f"{own:.4f}",
                    percent(100 * ((got["pixel_bits"] + got["adapter_bits"]) / row["base_bits"] - 1)),
                )
            )
    columns = (
        "image",
        "schedule",
        "seconds",
        "CPU time, to all patches",
        "pixels bpsp",
        "adapter bpsp",
        "total, to no adapter",
    )
    title = (
        f"RPFT on {found['side']}x{found['side']} pixels, {found['steps']} steps, {found['threads']} threads"
    )
    note = "Held-out training images; each step takes its whole share of the patches."
    return [Grid(title, columns, rows, note)]
