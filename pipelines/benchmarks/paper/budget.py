"""Short trainings that compare models: every one sees the same crops in the same order, for as many steps."""

from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from callic_archive.model.allocator import keep_freed_memory
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.scaling import unit_shift
from pipelines.benchmarks.eval_sets import centre, kodak, shared_data
from pipelines.training_data import CropSource

Crops = tuple[Tensor, PlaneStats]
#: Crops a forward pass when bits are measured.
CHUNK = 4


@dataclass(frozen=True)
class Budget:
    """How long to train and on what: ``steps`` of ``batch`` crops of ``crop`` x ``crop`` pixels.

    Evaluated on the centres (``held_side`` a side) of ``held`` held-out images a domain and of ``kodak``
    Kodak images.
    """

    steps: int = 240
    batch: int = 2
    crop: int = 64
    rate: float = 2e-3
    seed: int = 1
    held: int = 6
    kodak: int = 24
    held_side: int = 128
    threads: int = 1

    @property
    def megapixels(self) -> float:
        """Pixels that a training sees, in millions."""
        return self.steps * self.batch * self.crop**2 / 1e6

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, as recorded; the threads too, since they change processor seconds a little."""
        return asdict(self)


@dataclass(frozen=True)
class Material:
    """What all models of a comparison are trained and measured on."""

    batches: tuple[Crops, ...]
    held: dict[str, Crops]
    kodak: Crops


def kodak_crops(count: int, side: int) -> Crops:
    """Centres of the first Kodak images, (N, 3, side, side), with the unit shift that an encoder would choose."""
    planes = [centre(kodak(number + 1), side).transpose(2, 0, 1) for number in range(count)]
    shifts = torch.tensor([float(unit_shift(p.astype(np.uint16))) for p in planes])
    eight = PlaneStats.eight_bit(count)
    x = torch.from_numpy(np.stack(planes).astype(np.float32))
    return x, PlaneStats(shifts, eight.depth, eight.mid, eight.top)


@lru_cache(maxsize=1)
def material(budget: Budget) -> Material:
    """Draw everything once. Needs the image data (see ``eval_sets.shared_data``)."""
    source = CropSource(shared_data() / "train", 3, budget.seed)
    return Material(
        tuple(source.batch(budget.batch, budget.crop) for _ in range(budget.steps)),
        source.validation(budget.held, budget.held_side),
        kodak_crops(budget.kodak, budget.held_side),
    )


def limit_threads(count: int) -> None:
    """Threads of torch's products and of the compiled loops."""
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, len(os.sched_getaffinity(0))))


def relative_rate(step: int, steps: int) -> float:
    """Warm-up over a twentieth of the steps, then a cosine to one hundredth."""
    warm = min(1.0, (step + 1) / max(1.0, 0.05 * steps))
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def optimizers(model: MGCF, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks' linear layers, Adam for all else, as base models are trained."""
    matrices = [m.weight for m in model.blocks.modules() if isinstance(m, nn.Linear)]
    chosen = {id(p) for p in matrices}
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam([p for p in model.parameters() if id(p) not in chosen], lr=rate, betas=(0.9, 0.98)),
    ]


def train(model: MGCF, batches: tuple[Crops, ...], budget: Budget) -> None:
    """Train in place, one step a batch; at the end the model holds the averaged weights."""
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    steps = optimizers(model, budget.rate)
    model.train()
    for number, (x, stats) in enumerate(batches):
        for optimizer in steps:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = budget.rate * relative_rate(number, len(batches))
        loss = model.bits(x, stats).mean(dim=(1, 2)).clamp_max(48.0).mean() / model.config.channels
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steps:
            optimizer.step()
        decay = min(0.99, (number + 1) / (number + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
    model.load_state_dict(average)


@torch.no_grad()
def bpsp(model: MGCF, crops: Crops) -> float:
    """Bits per sample of crops (N, C, H, W), by float inference."""
    model.eval()
    x, stats = crops
    total = 0.0
    for start in range(0, len(x), CHUNK):
        part = stats.map(lambda v, start=start: v[start : start + CHUNK])  # type: ignore[misc]
        total += float(model.bits(x[start : start + CHUNK], part).double().sum())
    return total / x.numel()


def _warm_up(model: MGCF, budget: Budget) -> None:
    """Load and compile all that training uses, on a copy: the first model of a process would pay for all."""
    crop = (torch.zeros(1, model.config.channels, 8, 8), PlaneStats.eight_bit(1))
    train(copy.deepcopy(model), (crop,), budget)


def compare(model: MGCF, found: Material, budget: Budget) -> dict[str, Any]:
    """Train a model, then measure it: bits of each held-out domain and of Kodak, processor seconds of both."""
    limit_threads(budget.threads)
    with keep_freed_memory():
        _warm_up(model, budget)
        start = time.process_time()
        train(model, found.batches, budget)
        trained = time.process_time()
        held = {domain: bpsp(model, crops) for domain, crops in found.held.items()}
        middle = time.process_time()
        on_kodak = bpsp(model, found.kodak)
        ended = time.process_time()
    x = found.kodak[0]
    return {
        "held_out": held,
        "kodak": on_kodak,
        "train_cpu_seconds": round(trained - start, 2),
        "forward_cpu_seconds_per_megapixel": (ended - middle) / (x.shape[0] * x.shape[2] * x.shape[3] / 1e6),
    }
