"""The training step: fused against plain, and the share of the machine's matrix throughput at which it works."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn

from callic_archive.model import mgcf
from callic_archive.model.allocator import keep_freed_memory
from callic_archive.model.config import MGCFConfig
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.weights import ModelSet
from callic_archive.training.trainer import Trainer, TrainOptions, limit_threads
from pipelines.benchmarks.eval_sets import centre, kodak
from pipelines.benchmarks.record import Grid, context
from pipelines.benchmarks.speed import interleaved

NAME = "step"
#: Crops a step, and their side: as in the first half of a training.
CROPS, SIDE = 4, 64
#: The square product whose rate counts as the machine's.
PRODUCT = 2048


class _Same:
    """The same batch every time, so that nothing but the step is timed."""

    def __init__(self, channels: int) -> None:
        levels = centre(kodak(5), CROPS * SIDE)[: SIDE, :, : channels].astype("float32")
        planes = torch.from_numpy(levels).permute(2, 0, 1)
        self._x = torch.stack(planes.split(SIDE, dim=2)).contiguous()

    def batch(self, count: int, size: int) -> tuple[torch.Tensor, PlaneStats]:
        return self._x, PlaneStats.eight_bit(len(self._x))


def operations(config: MGCFConfig) -> float:
    """Floating-point operations of one step's matrix products: two a weight and pixel forward, four backward."""
    weights = sum(
        module.in_features * module.out_features for module in MGCF(config).modules() if isinstance(module, nn.Linear)
    )
    return 6.0 * weights * CROPS * SIDE * SIDE


def matrix_rate(kind: torch.dtype) -> float:
    """Operations a second of a large product in this type: the best of ten."""
    a, b = torch.randn(PRODUCT, PRODUCT).to(kind), torch.randn(PRODUCT, PRODUCT).to(kind)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2.0 * PRODUCT**3 / min(seconds)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Steps inside are left to autograd."""
    with mock.patch.object(mgcf, "can_fuse", return_value=False):
        yield


def _step(trainer: Trainer, source: _Same, *, fused: bool) -> Callable[[], None]:
    def function() -> None:
        with contextlib.nullcontext() if fused else plain():
            trainer.step(source)

    return function


def measure(threads: int, repeats: int) -> dict[str, Any]:
    """Seconds a step of every shipped model, fused and plain, in bfloat16 and in float32, and both rates of the machine."""
    limit_threads(threads)
    rows = []
    with keep_freed_memory():
        rates = {"bfloat16": matrix_rate(torch.bfloat16), "float32": matrix_rate(torch.float32)}
        for model in ModelSet.default():
            config = model.weights.config
            source = _Same(config.channels)
            sides: dict[str, Callable[[], None]] = {}
            for kind in rates:
                options = TrainOptions(minutes=1e9, rate=1e-6, batch=CROPS, crop=SIDE, float32=kind == "float32")
                trainer = Trainer(config, options)
                sides |= {f"{kind}, {'fused' if f else 'plain'}": _step(trainer, source, fused=f) for f in (True, False)}
            seconds = {name: found["wall"] for name, found in interleaved(sides, repeats).items()}
            rows.append({"model": model.name, "operations": operations(config), "seconds": seconds})
    instructions = os.environ.get("ONEDNN_MAX_CPU_ISA", "all that the processor has")
    return {instructions: {"threads": threads, "rates": rates, "models": rows, "context": context()}}


def grids(record: dict[str, Any]) -> list[Grid]:
    """One table for each set of instructions that matrix products were allowed."""
    found = []
    for instructions, part in record["result"].items():
        rows = []
        for row in part["models"]:
            for kind, rate in part["rates"].items():
                fused, slow = (row["seconds"][f"{kind}, {side}"] for side in ("fused", "plain"))
                shares = (f"{100 * row['operations'] / seconds / rate:.0f} %" for seconds in (slow, fused))
                ratio = f"{slow / fused:.2f}"
                rows.append((row["model"], kind, f"{1e3 * slow:.0f}", f"{1e3 * fused:.0f}", ratio, *shares))
        rates = ", ".join(f"{kind} {rate / 1e9:.0f} Gflop/s" for kind, rate in part["rates"].items())
        title = f"A step of {CROPS} crops of {SIDE} x {SIDE}, {part['threads']} thread(s), instructions: {instructions}"
        columns = ("model", "products in", "plain, ms", "fused, ms", "times as fast", "plain, of the matrix rate", "fused")
        note = f"Matrix rate: a product of {PRODUCT} x {PRODUCT}: {rates}. Medians of interleaved runs, optimizer and all."
        found.append(Grid(title, columns, rows, note))
    return found
