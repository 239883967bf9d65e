"""Does this machine compute the integers that the bitstream is defined over? ``callic-archive doctor`` asks
here.

Every backend is compared with the int64 reference on random and on adversarial levels, at the shipped
models' own weights.
A backend that differs anywhere must never be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.engine import Engine
from callic_archive.model.integer import Geometry, Plane, scan_order
from callic_archive.model.reference import ReferenceModel
from callic_archive.model.weights import IntegerModel, ModelSet


@dataclass(frozen=True)
class BackendReport:
    """What a comparison found for one backend on one device."""

    name: str
    device: str
    exact: bool
    detail: str


def trial_levels(
    channels: int, height: int, width: int, top: int, seed: int = 0
) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """Random and adversarial levels (C, h, w) in 0..top: noise, extremes, alternation, steps, a ramp."""
    rng = np.random.default_rng(seed)
    shape = (channels, height, width)
    yield "noise", rng.integers(0, top + 1, shape).astype(np.int32)
    yield "extremes", (rng.integers(0, 2, shape) * top).astype(np.int32)
    yield "lowest", np.zeros(shape, np.int32)
    yield "highest", np.full(shape, top, np.int32)
    yield "alternating", (np.indices(shape).sum(axis=0) % 2 * top).astype(np.int32)
    yield "columns", np.broadcast_to(np.arange(width) % 2 * top, shape).astype(np.int32)
    yield (
        "ramp",
        np.broadcast_to(np.linspace(0, top, height * width).reshape(height, width), shape).astype(np.int32),
    )


def compare(model: IntegerModel, engine: Engine, *, side: int = 11) -> list[str]:
    """Names of the trials in which ``engine`` and the reference differ, in one full pass and step by step."""
    reference = ReferenceModel(model.weights)
    prepared = engine.prepare(model, None)
    geometry = Geometry(side, side + 3, 8, 8)
    order, starts = scan_order(geometry)
    planes = [Plane(0, 8, 128)] + ([Plane(4, 16, 1 << 15)] if model.channels == 1 else [])
    wrong = []
    for plane in planes:
        for name, levels in trial_levels(
            model.channels, geometry.height, geometry.width, (1 << plane.depth) - 1
        ):
            head, skip = reference.parameters(levels, geometry, plane)
            tile = prepared.tile(geometry, plane, levels)
            whole_head, whole_skip = tile.parameters(order)
            tile = prepared.tile(geometry, plane, levels)
            parts = [tile.parameters(order[a:b]) for a, b in pairwise(starts.tolist())]
            step_head = np.concatenate([p[0] for p in parts])
            same = (
                np.array_equal(whole_head, head[order])
                and np.array_equal(whole_skip, skip[order])
                and np.array_equal(step_head, head[order])
            )
            if not same:
                wrong.append(f"{model.name}/{name}/{plane.depth}-bit")
    return wrong


def available_engines() -> list[Engine]:
    """Every backend and device that this machine offers."""
    engines = [Engine("numpy", "cpu")]
    try:
        import torch
    except ImportError:
        return engines
    engines.append(Engine("torch", "cpu"))
    if torch.cuda.is_available():
        engines += [Engine("torch", f"cuda:{i}") for i in range(torch.cuda.device_count())]
    return engines


def check_backends(models: ModelSet | None = None) -> list[BackendReport]:
    """Compare every backend on this machine with the reference."""
    reports = []
    chosen = models or ModelSet.default()
    for engine in available_engines():
        try:
            wrong = [name for model in chosen for name in compare(model, engine)]
        except Exception as error:  # noqa: BLE001  # a broken driver raises anything; the report must still come
            reports.append(
                BackendReport(engine.backend, engine.device, False, f"{type(error).__name__}: {error}")
            )
            continue
        detail = (
            f"differs in {', '.join(wrong)}"
            if wrong
            else "equals the int64 reference, at once and step by step"
        )
        reports.append(BackendReport(engine.backend, engine.device, not wrong, detail))
    return reports
