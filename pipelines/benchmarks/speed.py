"""Speed as ratios, everything interleaved in one process, so that other load on the machine hits all sides
alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from callic_archive.codec.decoder import decode_image
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.codec.engine import Engine
from callic_archive.codec.planning import GroupPlan, plan_group
from callic_archive.images.planes import choose_packing
from callic_archive.model.dequantize import float_model
from callic_archive.model.integer import Geometry, scan_order
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.weights import ModelSet
from pipelines.benchmarks.eval_sets import Image, centre, kodak
from pipelines.benchmarks.record import Grid, say

NAME = "speed"
#: Side of the pieces in which the float model also runs: their activations stay in cache.
PIECE = 64


def plan_of(image: Image) -> GroupPlan:
    """How the codec would code an RGB image's planes."""
    packings = [choose_packing(image[:, :, c]) for c in range(image.shape[2])]
    return plan_group(image, range(image.shape[2]), packings, ModelSet.default())


def forward(model: MGCF, x: Tensor, stats: PlaneStats) -> None:
    """One float32 forward pass to the mixture parameters, without the loss."""
    with torch.no_grad():
        model(x, stats)


def _pieces(x: Tensor) -> list[Tensor]:
    """Batches of four pieces of PIECE x PIECE that cover the image but for a remainder below one piece a
    side."""
    parts = (
        x.unfold(2, PIECE, PIECE)
        .unfold(3, PIECE, PIECE)[0]
        .permute(1, 2, 0, 3, 4)
        .reshape(-1, x.shape[1], PIECE, PIECE)
    )
    return [part.contiguous() for part in parts.split(4)]


def interleaved(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median wall and processor seconds of each side, run in turn. The first round warms up and is not
    counted."""
    wall: dict[str, list[float]] = {name: [] for name in sides}
    busy: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name, function in sides.items():
            start, start_busy = time.perf_counter(), time.process_time()
            function()
            if number:
                wall[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - start_busy)
        say(f"  round {number} of {repeats}" + (" (warm-up)" if number == 0 else ""))
    return {
        name: {
            "wall": statistics.median(wall[name]),
            "cpu": statistics.median(busy[name]),
            "least": min(wall[name]),
        }
        for name in sides
    }


def whole_image(image: Image, threads: int, repeats: int) -> dict[str, Any]:
    """Encoding and decoding of one RGB image beside float32 forward passes of the same model, same thread
    count."""
    models = ModelSet.default()
    plan = plan_of(image)
    model = float_model(plan.model.weights).eval()
    levels = plan.levels(image, (0, 0, *image.shape[:2])).astype(np.float32)
    x, one = torch.from_numpy(levels)[None], PlaneStats.eight_bit(1)
    pieces = _pieces(x) if min(image.shape[:2]) >= PIECE else [x]
    covered = sum(piece.shape[0] for piece in pieces) * pieces[0].shape[2] * pieces[0].shape[3]
    share = image.shape[0] * image.shape[1] / covered
    stream = encode_image(image, models=models, options=EncodeOptions(threads=threads))
    if not np.array_equal(decode_image(stream, models=models, threads=threads), image):
        raise RuntimeError("the codec did not restore the image")

    def forward_pieces() -> None:
        for piece in pieces:
            forward(model, piece, PlaneStats.eight_bit(piece.shape[0]))

    seconds = interleaved(
        {
            "float_whole": lambda: forward(model, x, one),
            "float_pieces": forward_pieces,
            "encode": lambda: encode_image(image, models=models, options=EncodeOptions(threads=threads)),
            "decode": lambda: decode_image(stream, models=models, threads=threads),
        },
        repeats,
    )
    seconds["float_pieces"] = {key: value * share for key, value in seconds["float_pieces"].items()}
    return {"threads": threads, "pixels": image.shape[0] * image.shape[1], "seconds": seconds}


def cci(image: Image, patch: int, repeats: int) -> dict[str, Any]:
    """One patch: every step by CCI, against a full map at every step (integers, and float32). One thread
    each.

    Full maps are computed at every step for real; nothing is extrapolated. Entropy coding is left out of
    both.
    """
    part = centre(image, patch)
    plan = plan_of(image)
    levels = plan.levels(part, (0, 0, *part.shape[:2]))
    geometry = Geometry(*part.shape[:2], *part.shape[:2])
    order, starts = scan_order(geometry)
    prepared = Engine("numpy").prepare(plan.model, None)
    model = float_model(plan.model.weights).eval()
    x, stats = torch.from_numpy(levels.astype(np.float32))[None], PlaneStats.eight_bit(1)

    def by_cci() -> None:
        tile = prepared.tile(geometry, plan.plane, levels)
        for begin, end in pairwise(starts.tolist()):
            tile.parameters(order[begin:end])

    def full_integer() -> None:
        for _ in range(len(starts) - 1):
            prepared.tile(geometry, plan.plane, levels).parameters(order)

    def full_float() -> None:
        for _ in range(len(starts) - 1):
            forward(model, x, stats)

    with threadpool_limits(1, user_api="blas"):
        seconds = interleaved(
            {"cci": by_cci, "full_integer": full_integer, "full_float": full_float}, repeats
        )
    return {"side": patch, "steps": len(starts) - 1, "seconds": seconds}


def measure(number: int, threads: list[int], repeats: int, crop: int | None, patch: int) -> dict[str, Any]:
    """Ratios on one Kodak image at every thread count, then CCI on a patch of it."""
    image = kodak(number) if crop is None else centre(kodak(number), crop)
    rows = []
    for count in threads:
        say(f"Kodak {number:02d}, {count} threads")
        torch.set_num_threads(count)
        numba.set_num_threads(min(count, len(os.sched_getaffinity(0))))
        rows.append(whole_image(image, count, repeats))
    say(f"CCI against full maps, {patch}x{patch}")
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    return {
        "image": f"Kodak {number:02d}" + (f", centre {crop}x{crop}" if crop else ""),
        "repeats": repeats,
        "codec": rows,
        "cci": cci(image, patch, repeats),
    }


def grids(record: dict[str, Any]) -> list[Grid]:
    """Seconds and ratios; the float side is the faster of its two ways."""
    found = record["result"]
    rows = []
    for row in found["codec"]:
        seconds = row["seconds"]
        base = {
            key: min(seconds["float_whole"][key], seconds["float_pieces"][key]) for key in ("wall", "cpu")
        }
        rows.append(
            (
                f"{row['threads']}",
                f"{seconds['float_whole']['wall']:.2f}",
                f"{seconds['float_pieces']['wall']:.2f}",
                f"{seconds['encode']['wall']:.2f}",
                f"{seconds['decode']['wall']:.2f}",
                f"{seconds['encode']['wall'] / base['wall']:.2f}",
                f"{seconds['decode']['wall'] / base['wall']:.2f}",
                f"{seconds['encode']['cpu'] / base['cpu']:.2f}",
                f"{seconds['decode']['cpu'] / base['cpu']:.2f}",
            )
        )
    steps = found["cci"]
    own = steps["seconds"]["cci"]
    step_rows = [
        (name, f"{steps['seconds'][key]['wall']:.2f}", f"{steps['seconds'][key]['wall'] / own['wall']:.1f}")
        for key, name in (
            ("cci", "CCI"),
            ("full_integer", "full map every step, integers"),
            ("full_float", "full map every step, float32"),
        )
    ]
    columns = (
        "threads",
        "float32 s, whole image",
        "float32 s, 64x64 pieces",
        "encode s",
        "decode s",
        "encode / float32",
        "decode / float32",
        "encode / float32, CPU time",
        "decode / float32, CPU time",
    )
    return [
        Grid(
            f"One image ({found['image']}, {found['codec'][0]['pixels']:,} pixels), without adaptation",
            columns,
            rows,
            f"Medians of {found['repeats']} interleaved runs. The ratios are to the faster way of "
            f"running the same model once "
            "in float32 (its depth-wise layers are compiled loops over the causal taps alone). Targets: "
            "1.6 and 2.5.",
        ),
        Grid(
            f"CCI on one {steps['side']}x{steps['side']} patch, {steps['steps']} steps, one thread",
            ("way", "seconds", "times CCI"),
            step_rows,
            "Every map was computed at every step. Target: 10 times.",
        ),
    ]
