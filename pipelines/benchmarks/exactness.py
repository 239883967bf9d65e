"""Are the integers the same everywhere? Backends, runs of any length, threads, processes, instruction
sets, causality."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.codec.exactness import check_backends
from callic_archive.model import tables
from callic_archive.model.integer import CpuModel, Geometry, Plane, scan_order
from callic_archive.model.weights import EXACT_FLOAT32, IntegerModel, IntegerWeights, ModelSet, feature_limits
from pipelines.benchmarks.decode_one import fingerprint
from pipelines.benchmarks.eval_sets import Image, centre, counted_images, files, kodak
from pipelines.benchmarks.record import ROOT, Grid, say, yes

NAME = "exactness"
#: Instruction sets of an older machine, for the libraries that choose kernels by the processor.
OLD_MACHINE = {
    "OPENBLAS_CORETYPE": "Sandybridge",
    "ATEN_CPU_CAPABILITY": "default",
    "NUMBA_CPU_NAME": "x86-64",
}
Backend = Literal["numpy", "torch"]
WRITERS: Sequence[tuple[Backend, int]] = (("numpy", 1), ("numpy", 2), ("torch", 2))
Readers = Sequence[tuple[str, Backend, int, dict[str, str]]]
READERS: Readers = (
    ("numpy, 1 thread", "numpy", 1, {}),
    ("numpy, 2 threads", "numpy", 2, {}),
    ("numpy, 2 threads, no AVX2 or AVX-512", "numpy", 2, OLD_MACHINE),
    ("torch, 2 threads", "torch", 2, {}),
)


def sample_images() -> dict[str, Image]:
    """Small images of the kinds that the models code."""
    ct = next(counted_images(files("ct", 1))).image
    sat = next(item.image for item in counted_images(files("satellite_16bit")) if item.image.ndim == 3)
    rgb = centre(kodak(5), 72, 80)
    with_plane = np.concatenate([centre(rgb, 40), centre(rgb, 40)[:, :, :1] // 2], axis=2)
    return {
        "RGB 72x80": rgb,
        "RGBA 40x40": with_plane,
        "CT, 12 bit, 64x64": centre(ct, 64),
        "satellite, 3 x 16 bit, 40x56": centre(sat, 40, 56),
        "gray 1x1": rgb[:1, :1, 1],
    }


def processes() -> list[dict[str, Any]]:
    """Codestreams written here with several settings, decoded by other processes with others."""
    models, rows = ModelSet.default(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, image in sample_images().items():
            written = [
                encode_image(
                    image, models=models, options=EncodeOptions(backend=backend, threads=threads, tile=48)
                )
                for backend, threads in WRITERS
            ]
            path = Path(folder) / "stream"
            path.write_bytes(written[0])
            row = {"image": name, "bytes": len(written[0]), "same_streams": len(set(written)) == 1}
            for reader, backend, threads, environment in READERS:
                say(f"{name}: decoding with {reader}")
                command = [
                    sys.executable,
                    "-m",
                    "pipelines.benchmarks.decode_one",
                    str(path),
                    backend,
                    str(threads),
                ]
                done = subprocess.run(
                    command,
                    cwd=ROOT,
                    env=os.environ | environment,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=False,
                )
                row[reader] = done.stdout.strip() == fingerprint(image)
            rows.append(row)
    return rows


def _maps(
    model: CpuModel, geometry: Geometry, plane: Plane, levels: NDArray[np.int32], cuts: list[int]
) -> list[bytes]:
    """Head, skip and every block's activation map, computed in runs that end at ``cuts``."""
    order, _ = scan_order(geometry)
    tile = model.tile(geometry, plane, levels)
    parts = [tile.parameters(order[a:b]) for a, b in pairwise(cuts)]
    head, skip = (np.concatenate([p[n] for p in parts]) for n in (0, 1))
    return [head.tobytes(), skip.tobytes(), *(cache.tobytes() for cache in tile.caches)]


def runs(model: IntegerModel) -> dict[str, Any]:
    """One full pass, CCI group by group, and runs of random length: heads, skips and the maps of all
    blocks."""
    rng = np.random.default_rng(1)
    geometry, plane = Geometry(70, 90, 64, 64), Plane(0, 8, 128)
    levels = rng.integers(0, 256, (model.channels, 70, 90)).astype(np.int32)
    order, starts = scan_order(geometry)
    cpu = CpuModel(model.weights)
    full = _maps(cpu, geometry, plane, levels, [0, order.size])
    chosen = sorted({0, order.size, *rng.choice(starts, 20).tolist()})
    return {
        "model": model.name,
        "groups": len(starts) - 1,
        "step_by_step": _maps(cpu, geometry, plane, levels, starts.tolist()) == full,
        "random_runs": _maps(cpu, geometry, plane, levels, chosen) == full,
    }


def causality(model: IntegerModel, trials: int = 40) -> dict[str, Any]:
    """Change a pixel: parameters of its group and of all earlier ones must stay, later ones must change."""
    rng = np.random.default_rng(2)
    geometry, plane = Geometry(24, 26, 24, 26), Plane(0, 8, 128)
    levels = rng.integers(0, 256, (model.channels, 24, 26)).astype(np.int32)
    order, starts = scan_order(geometry)
    cpu = CpuModel(model.weights)
    head, skip = cpu.tile(geometry, plane, levels).parameters(order)
    kept = reached = 0
    for pixel in rng.choice(order.size, trials, replace=False).tolist():
        changed = levels.copy()
        changed[rng.integers(model.channels), pixel // 26, pixel % 26] ^= 0x5A
        other_head, other_skip = cpu.tile(geometry, plane, changed).parameters(order)
        position = int(np.flatnonzero(order == pixel)[0])
        end = int(starts[np.searchsorted(starts, position, side="right")])  # of the pixel's own group
        kept += np.array_equal(head[:end], other_head[:end]) and np.array_equal(skip[:end], other_skip[:end])
        reached += end == order.size or not np.array_equal(head[end:], other_head[end:])
    return {"model": model.name, "trials": trials, "kept": int(kept), "reached": int(reached)}


def largest_bound(weights: IntegerWeights) -> tuple[str, int]:
    """The layer whose accumulator could come closest to the exact range of float32, and how far it could
    go."""
    bounds = {"embed": weights.embed.bound(feature_limits(weights.config))}
    for i, block in enumerate(weights.blocks):
        for part in ("a", "v", "o", "up", "down"):
            bounds[f"{i}.{part}"] = getattr(block, part).bound(tables.ACT_MAX)
        bounds[f"{i}.dw"] = int(np.abs(block.dw.kernel.astype(np.int64)).sum(axis=0).max()) * tables.ACT_MAX
    name = max(bounds, key=lambda key: bounds[key])
    return name, int(bounds[name])


def measure() -> dict[str, Any]:
    """Everything; a difference is a result, not an error."""
    models = ModelSet.default()
    say("comparing backends with the int64 reference")
    reports = [vars(report) for report in check_backends(models)]
    say("runs of any length, causality, bounds")
    bounds = []
    for model in models:
        layer, bound = largest_bound(model.weights)
        bounds.append({"model": model.name, "layer": layer, "bound": bound, "limit": EXACT_FLOAT32})
    return {
        "backends": reports,
        "runs": [runs(model) for model in models],
        "causality": [causality(model) for model in models],
        "bounds": bounds,
        "processes": processes(),
    }


def grids(record: dict[str, Any]) -> list[Grid]:
    """Tables of what was found."""
    found = record["result"]
    backends = [(r["name"], r["device"], yes(r["exact"]), r["detail"]) for r in found["backends"]]
    inside = [
        (
            f"{run['model']}: CCI = one full pass (head, skip, maps of all blocks; {run['groups']} groups)",
            yes(run["step_by_step"]),
        )
        for run in found["runs"]
    ]
    inside += [
        (f"{run['model']}: runs of random length = one full pass", yes(run["random_runs"]))
        for run in found["runs"]
    ]
    for row in found["causality"]:
        held = row["kept"] == row["trials"] and row["reached"] == row["trials"]
        inside.append((f"{row['model']}: {row['trials']} changed pixels reach later groups only", yes(held)))
    for row in found["bounds"]:
        share = row["bound"] / row["limit"]
        text = (
            f"{row['model']}: no accumulator beyond {share:.1%} of 2^24 for any input (layer {row['layer']})"
        )
        inside.append((text, yes(share < 1)))
    readers = [reader for reader, *_ in READERS]
    across = [
        (
            row["image"],
            f"{row['bytes']:,}",
            yes(row["same_streams"]),
            *(yes(row[reader]) for reader in readers),
        )
        for row in found["processes"]
    ]
    return [
        Grid("Backends against the int64 reference", ("backend", "device", "exact", "detail"), backends),
        Grid("Inside one backend (numpy)", ("claim", "holds"), inside),
        Grid(
            "Written in one process, decoded in another",
            ("image", "bytes", "same bytes from numpy (1 and 2 threads) and torch", *readers),
            across,
        ),
    ]
