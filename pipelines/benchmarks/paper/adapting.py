"""Figures 3 and 4: adapting to single images, by the number of steps, and by RPFT's settings.

Both measure by exact inference and count the adapter's own bits. Images are centres of held-out training
images (one a kind) and of Kodak images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

from callic_archive.codec.adapt import AdaptOptions, PatchSet, collect, fit
from callic_archive.codec.planning import GroupPlan
from callic_archive.errors import InexactModel
from callic_archive.model.adapter import AdapterShape
from callic_archive.model.weights import ModelSet
from pipelines.benchmarks.eval_sets import Image, centre, kodak
from pipelines.benchmarks.paper import quoted
from pipelines.benchmarks.paper.budget import limit_threads
from pipelines.benchmarks.paper.kept import Kept
from pipelines.benchmarks.record import Grid, model_digests, percent
from pipelines.benchmarks.rpft import pixel_bits, validation_image

OURS = "schedule and ranks are the paper's, rate and prior this project's"
STEPS_NAME, CONFIGURATIONS_NAME = "paper-figure3", "paper-figure4"
HELD_OUT = ("histology", "natural")
BASE = "T = 0"
#: The paper's adapter and schedule; rate, prior and optimizer are this project's. Every figure here says what it changes.
PAPER = AdaptOptions(
    patches=None, start_share=0.2, exponent=1.0, tail=0.1, shape=AdapterShape(7, 7, 2), order="descending"
)
#: Figure 4: name -> (title, what differs from the default).
CONFIGURATIONS: dict[str, tuple[str, AdaptOptions]] = {
    "default": ("RPFT, default (b=0.2, e=1, d=0.1)", PAPER),
    "all": ("all patches from the start", replace(PAPER, start_share=1.0)),
    "e=0.3": ("e=0.3", replace(PAPER, exponent=0.3)),
    "e=0.1": ("e=0.1", replace(PAPER, exponent=0.1)),
    "increasing": ("increasing entropy", replace(PAPER, order="ascending")),
    "random": ("random order", replace(PAPER, order="random")),
    "no depth-wise": ("without depth-wise adaptation", replace(PAPER, shape=AdapterShape(7, 7, 0))),
}


def recorded(options: AdaptOptions) -> dict[str, Any]:
    """What decides the outcome of a fit besides the settings of the figure: rate, prior, shape, seed."""
    told = {"steps", "patches", "threads", "device"}
    return {key: value for key, value in asdict(options).items() if key not in told}


@lru_cache(maxsize=1)
def load_image(name: str, side: int) -> Image:
    """``kodak NN``, or the first held-out training image of a kind; its centre."""
    if name.startswith("kodak "):
        return centre(kodak(int(name.removeprefix("kodak "))), side)
    return validation_image(name, side)[1]


@lru_cache(maxsize=1)
def prepare(name: str, side: int) -> tuple[PatchSet, GroupPlan, int]:
    """Patches, plan and bits without an adapter of an image. Raises ValueError for one of several plane groups."""
    image = load_image(name, side)
    found = collect([image], ModelSet.default(), 4096, 0)
    if len(found) != 1:
        raise ValueError(f"{name} has no single group of planes of at least 64 pixels a side")
    patches, plans = next(iter(found.values()))
    return patches, plans[0][1], pixel_bits(image, plans[0][1], None)


def figures(name: str, side: int, options: AdaptOptions) -> dict[str, Any]:
    """Fit one adapter to one image: bits of pixels and weights, processor seconds. No steps: the base model."""
    image = load_image(name, side)
    patches, plan, base = prepare(name, side)
    row = {"image": name, "samples": int(image.size), "base_bits": base, "steps": options.steps}
    if options.steps == 0:
        return {**row, "pixel_bits": base, "adapter_bits": 0, "cpu_seconds": 0.0}
    start = time.process_time()
    adapter = fit(plan.model, patches, float(image.shape[0] * image.shape[1]), options)
    seconds = time.process_time() - start
    try:
        bits = pixel_bits(image, plan, adapter)
    except InexactModel:  # such an adapter is never used: the image stays as it is
        return {**row, "pixel_bits": base, "adapter_bits": 0, "cpu_seconds": seconds, "refused": True}
    return {
        **row,
        "pixel_bits": bits,
        "adapter_bits": 8 * len(adapter.payload),
        "cpu_seconds": round(seconds, 2),
    }


def image_names(held_out: Sequence[str], kodak_numbers: Sequence[int]) -> list[str]:
    """Names as ``load_image`` takes them."""
    return [*held_out, *(f"kodak {number:02d}" for number in kodak_numbers)]


def update_steps(
    images: Sequence[str], steps: Sequence[int], side: int, patches: int | None, threads: int,
    name: str = STEPS_NAME, *, again: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Figure 3: every image with every number of steps."""
    settings = {
        "images": list(images),
        "steps": list(steps),
        "side": side,
        "patches": patches,
        "options": recorded(PAPER),
        "models": model_digests(),
    }
    kept = Kept(name, settings, again=again)
    limit_threads(threads)
    for image in images:
        for count in steps:
            options = replace(PAPER, steps=count, patches=patches, threads=threads)
            kept.measure(
                f"{image}, T = {count}",
                lambda image=image, options=options: figures(image, side, options),  # type: ignore[misc]
            )
    return kept.record()


def update_configurations(
    images: Sequence[str], steps: int, side: int, threads: int,
    name: str = CONFIGURATIONS_NAME, *, again: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Figure 4: every image with every configuration, whole shares of the patches at every step."""
    settings = {
        "images": list(images),
        "steps": steps,
        "side": side,
        "threads": threads,
        "options": recorded(PAPER),
        "models": model_digests(),
    }
    kept = Kept(name, settings, again=again)
    limit_threads(threads)
    if kept.result.keys() != {f"{i}, {key}" for i in images for key in CONFIGURATIONS}:
        for image in images:
            for key, (_, options) in CONFIGURATIONS.items():
                chosen = replace(options, steps=steps, threads=threads)
                if f"{image}, {key}" not in kept.result:  # the first fit of a process also compiles
                    warm_up(image, side, threads)
                kept.measure(
                    f"{image}, {key}",
                    lambda image=image, chosen=chosen: figures(image, side, chosen),  # type: ignore[misc]
                )
    return kept.record()


@lru_cache(maxsize=1)
def warm_up(name: str, side: int, threads: int) -> None:
    """One short fit, so that no configuration pays for loading and compiling."""
    patches, plan, _ = prepare(name, side)
    fit(plan.model, patches, 1.0, replace(PAPER, steps=1, patches=1, threads=threads))


def _total(row: dict[str, Any]) -> float:
    return float(row["pixel_bits"] + row["adapter_bits"]) / float(row["samples"])


def mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Bits per sample (of pixels, of the adapter, both, without it) and seconds, mean over images."""
    n = len(rows)
    return {
        "pixels": sum(r["pixel_bits"] / r["samples"] for r in rows) / n,
        "adapter": sum(r["adapter_bits"] / r["samples"] for r in rows) / n,
        "total": sum(_total(r) for r in rows) / n,
        "base": sum(r["base_bits"] / r["samples"] for r in rows) / n,
        "seconds": sum(r["cpu_seconds"] for r in rows) / n,
    }


def grid_steps(record: dict[str, Any]) -> Grid:
    """Figure 3 as a table: one row an image, total bits by T."""
    s, found = record["settings"], record["result"]
    rows = []
    for image in s["images"]:
        cells = [found.get(f"{image}, T = {count}") for count in s["steps"]]
        rows.append((image, *(f"{_total(c):.4f}" if c else "not measured yet" for c in cells)))
    each = (
        "its whole share of the patches" if s["patches"] is None else f"{s['patches']} patches of its share"
    )
    note = (
        f"Centres of at most {s['side']}x{s['side']} pixels; each step takes {each}; {OURS}. Bits per sample, the adapter's own "
        "counted and the adapter kept at any price; in an archive it is dropped where it does not pay, so that "
        f"no image costs more than at T = 0. {quoted.FIGURE3_TEXT}"
    )
    return Grid(
        "Figure 3: bits per sample by steps of adaptation T",
        ("image", *(f"T = {count}" for count in s["steps"])),
        rows,
        note,
    )


def configuration_means(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Means by configuration, of those that are measured on all images."""
    s, found = record["settings"], record["result"]
    means = {}
    for key in CONFIGURATIONS:
        rows = [found[f"{image}, {key}"] for image in s["images"] if f"{image}, {key}" in found]
        if len(rows) == len(s["images"]):
            means[key] = mean_of(rows)
    return means


def grid_configurations(record: dict[str, Any]) -> Grid:
    """Figure 4 as a table: one row a configuration, means over the images."""
    s, means = record["settings"], configuration_means(record)
    whole = means.get("all")
    base_bits, base_seconds = quoted.FIGURE4["all"]
    rows = []
    for key, (title, _) in CONFIGURATIONS.items():
        quote, ratio = "-", "-"
        if key in quoted.FIGURE4:
            bits, seconds = quoted.FIGURE4[key]
            quote = percent(100 * (bits / base_bits - 1))
            ratio = f"{seconds / base_seconds:.2f}" if seconds and base_seconds else "-"
        if key not in means:
            rows.append((title, "not measured yet", *["-"] * 5, quote, ratio))
            continue
        m = means[key]
        rows.append(
            (
                title,
                f"{m['pixels']:.4f}",
                f"{m['adapter']:.4f}",
                f"{m['total']:.4f}",
                percent(100 * (m["total"] / m["base"] - 1)),
                percent(100 * (m["total"] / whole["total"] - 1)) if whole else "-",
                f"{m['seconds'] / whole['seconds']:.2f}" if whole and whole["seconds"] else "-",
                quote,
                ratio,
            )
        )
    note = (
        f"Means over {', '.join(s['images'])}; centres of {s['side']}x{s['side']} pixels, {s['steps']} steps, each of its "
        f"whole share of the patches; {OURS}. Time is processor time of the adaptation alone. In the paper, encoding time "
        "includes coding."
    )
    columns = (
        "configuration",
        "pixels bpsp",
        "adapter bpsp",
        "total bpsp",
        "to no adapter",
        "total, to all patches",
        "time, to all patches",
        "paper: bits, to all patches (quoted)",
        "paper: encoding time, to all patches (quoted)",
    )
    return Grid("Figure 4: configurations of RPFT", columns, rows, note)
