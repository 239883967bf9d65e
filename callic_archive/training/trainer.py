"""The training loop: resumable, seeded, with EMA weights and held-out figures.

The schedule is a cosine over minutes of training time, summed over all resumed runs, so a lease of any length
ends with a finished model. A checkpoint holds everything needed to go on.
"""

from __future__ import annotations

import os
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from callic_archive.codec.crops import BatchSource, Crops
from callic_archive.codec.train_schedule import batch_shape, learning_rate, make_optimizers
from callic_archive.errors import DamagedCheckpoint
from callic_archive.model.config import MGCFConfig
from callic_archive.model.dequantize import float_model
from callic_archive.model.mgcf import MGCF
from callic_archive.model.weights import IntegerModel, load_model


@dataclass(frozen=True)
class TrainOptions:
    """``minutes``: length of the whole schedule, resumed runs included, unless ``steps`` say it.
    ``batch``: crops a step in the first
    half, then twice the pixels. ``report``: seconds between reports and checkpoints."""

    minutes: float
    batch: int = 4
    crop: int = 64
    rate: float = 2e-3
    optimizer: str = "muon"
    ema: float = 0.998
    device: str = "cpu"
    use_compile: bool = False
    float32: bool = False
    seed: int = 1
    report: float = 60.0
    steps: int | None = None


@dataclass(frozen=True)
class Start:
    """Float weights to begin with, and the training that went into them (for the record, oldest first)."""

    weights: dict[str, torch.Tensor]
    earlier: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """How far training is. ``held_out``: bits per sample of each domain under the averaged weights."""

    step: int
    minutes: float
    megapixels: float
    train_bpsp: float
    held_out: dict[str, float]
    finished: bool

    @property
    def mean(self) -> float:
        """Mean over the held-out domains."""
        return sum(self.held_out.values()) / max(1, len(self.held_out))


def limit_threads(count: int) -> None:
    """Train on at most this many CPU threads: those of torch, and of the depth-wise loops."""
    import numba

    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.get_num_threads()))


def starting_point(path: Path) -> Start:
    """What an earlier run (``.pt``) or an integer model (``.safetensors``) gives to begin with."""
    if path.suffix == ".pt":
        state = read_checkpoint(path)
        done = {"steps": state["step"], "megapixels": round(state["pixels"] / 1e6, 1)}
        return Start(state["ema"], [*state["earlier"], done])
    return starting_model(load_model(path))


def starting_model(model: IntegerModel) -> Start:
    """The weights of an integer model, dequantised, and what its record says of its training."""
    done = model.metadata.get("training")
    done = done if isinstance(done, Mapping) else {}
    before = {key: done[key] for key in ("steps", "megapixels") if key in done} | {"sha256": model.digest}
    earlier = done.get("earlier", [])
    return Start(
        float_model(model.weights).state_dict(), [*(earlier if isinstance(earlier, list) else []), before]
    )


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint, read without running anything that it may hold. Raises DamagedCheckpoint."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not {"ema", "step", "pixels", "earlier"} <= set(state):
            raise ValueError("parts of it are missing")
    except (
        RuntimeError,
        ValueError,
        TypeError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        text = f"{path} is no checkpoint of this program, or damaged ({error}); remove it to begin anew"
        raise DamagedCheckpoint(text) from error
    return dict(state)


@torch.no_grad()
def evaluate(
    model: MGCF, crops: Mapping[str, Crops], device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Bits per subpixel of each domain's held-out crops."""
    model.eval()
    figures = {}
    for domain, (x, stats) in crops.items():
        total = 0.0
        for i in range(0, x.shape[0], 4):
            part = stats.map(lambda v, i=i: v[i : i + 4].to(device))  # type: ignore[misc]
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                total += float(model.bits(x[i : i + 4].to(device), part).double().sum())
        figures[domain] = total / x.numel()
    model.train()
    return figures


class Trainer:
    """A model in training, its average, its optimizers and its clock."""

    def __init__(self, config: MGCFConfig, options: TrainOptions, start: Start | None = None) -> None:
        torch.manual_seed(options.seed)
        self.config, self.options = config, options
        self.device = torch.device(options.device)
        self.dtype = torch.float32 if options.float32 else torch.bfloat16
        self.model, self.average = MGCF(config).to(self.device), MGCF(config).to(self.device)
        self.average.load_state_dict(self.model.state_dict())
        self.earlier: list[dict[str, Any]] = []
        if start is not None:
            self.model.load_state_dict(start.weights)
            self.average.load_state_dict(start.weights)
            self.earlier = start.earlier
        self.optimizers = make_optimizers(self.model, options.rate, options.optimizer)
        self.steps, self.seconds, self.pixels = 0, 0.0, 0
        self._loss: float | None = None
        # CPUs have compiled loops of their own (model/fused.py).
        compiles = options.use_compile and self.device.type != "cpu"
        self._bits = torch.compile(self.model.bits) if compiles else self.model.bits

    # -- checkpoints -----------------------------------------------------------------------------------------

    def resume(self, checkpoint: Path) -> None:
        """Go on where ``checkpoint`` stands. Raises DamagedCheckpoint."""
        state = read_checkpoint(checkpoint, self.device)
        try:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["ema"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.steps, self.seconds, self.pixels = state["step"], state["seconds"], state["pixels"]
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{checkpoint} is of another model or optimizer ({error})") from error
        self.earlier = state["earlier"]

    def save(self, checkpoint: Path) -> None:
        """Write a checkpoint; the one before stays whole until the new one is. Raises OSError."""
        state = {
            "model": self.model.state_dict(),
            "ema": self.average.state_dict(),
            "step": self.steps,
            "seconds": self.seconds,
            "pixels": self.pixels,
            "earlier": self.earlier,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "config": asdict(self.config),
        }
        temporary = checkpoint.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, checkpoint)

    # -- training --------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the schedule that is done; may pass 1 a little."""
        if self.options.steps is not None:
            return self.steps / self.options.steps
        return self.seconds / (60 * self.options.minutes)

    def step(self, source: BatchSource) -> float:
        """One step on a batch; its loss in bits per sample."""
        options = self.options
        count, side = batch_shape(self.progress, options.batch, options.crop)
        x, stats = source.batch(count, side)
        x = x.to(self.device)
        stats = stats.map(lambda v: v.to(self.device))
        for opt in self.optimizers:
            opt.zero_grad(set_to_none=True)
            for group in opt.param_groups:
                group["lr"] = options.rate * learning_rate(self.progress, self.steps)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=not options.float32):
            # Every crop counts alike in relative terms: noisy 16-bit crops would otherwise drown the smooth
            # ones.
            loss = self._bits(x, stats).mean(dim=(1, 2)).clamp_max(48.0).mean() / self.config.channels
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for opt in self.optimizers:
            opt.step()
        self.steps, self.pixels = self.steps + 1, self.pixels + count * side * side
        decay = min(options.ema, (self.steps + 1) / (self.steps + 10))
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.model.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        return float(loss.detach())

    def run(
        self,
        source: BatchSource,
        held: Mapping[str, Crops],
        checkpoint: Path,
        *,
        stopping: Callable[[], bool] = lambda: False,
        tick: Callable[[Trainer], None] = lambda trainer: None,
    ) -> Iterator[Report]:
        """Train until the schedule ends or ``stopping`` says so, which is asked after each step.

        Yields a report every ``options.report`` seconds and one at the end, each after its checkpoint; the
        last one is ``finished`` unless training was stopped. ``tick`` is called after each step.
        """
        begin, last = time.monotonic() - self.seconds, time.monotonic()
        finished = self.progress >= 1.0
        while True:
            if not finished:
                value = self.step(source)
                self._loss = value if self._loss is None else 0.98 * self._loss + 0.02 * value
                self.seconds = time.monotonic() - begin
                finished = self.progress >= 1.0
                tick(self)
            stopped = not finished and stopping()
            if finished or stopped or time.monotonic() - last > self.options.report:
                self.save(checkpoint)
                if stopped:
                    return
                yield self.report(held, finished=finished)
                last = time.monotonic()
            if finished:
                return

    def report(self, held: Mapping[str, Crops], *, finished: bool = False) -> Report:
        """Where training stands."""
        figures = evaluate(self.average, held, self.device, self.dtype)
        return Report(self.steps, self.seconds / 60, self.pixels / 1e6, self._loss or 0.0, figures, finished)
