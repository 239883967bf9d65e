r"""Pretrain a base model: resumable, seeded, with EMA weights and a held-out figure per domain.

    python -m pipelines.pretrain rgb8 --minutes 60 --run runs/rgb8
    python -m pipelines.pretrain gray16 --minutes 60 --run runs/gray16 --device cuda --batch 64 --compile
    python -m pipelines.pretrain rgb8 --minutes 60 --run runs/next \
        --start callic_archive/model/weights_data/rgb8.safetensors

The schedule is a cosine over ``--minutes`` of training time, summed over all resumed runs, so a lease of any
length ends with a finished model. ``RUN/checkpoint.pt`` holds everything needed to go on; ``RUN/log.jsonl``
has one line a report.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see callic_archive/cli/main.py

import numba
import torch
from torch import nn

from callic_archive.model.allocator import keep_freed_memory
from callic_archive.model.config import MGCFConfig
from callic_archive.model.dequantize import float_model
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.weights import load_model
from pipelines.training_data import CropSource

CHANNELS = {"rgb8": 3, "gray16": 1}
WARMUP_STEPS = 100


def learning_rate(progress: float, step: int) -> float:
    """Relative rate: linear warm-up, then a cosine to one hundredth."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def batch_shape(progress: float, batch: int, crop: int) -> tuple[int, int]:
    """Number and side of a step's crops: more pixels in the second half, where gradients must be quieter, and
    larger crops in the last third, since tiles are coded whole and have few pixels near a border."""
    if progress < 0.5:
        return batch, crop
    if progress < 0.67:
        return 2 * batch, crop
    return max(1, batch // 2), 2 * crop


def make_optimizers(model: MGCF, rate: float, hidden: str) -> list[torch.optim.Optimizer]:
    """Adam for all, or Muon for the blocks' matrices and Adam for the rest."""
    matrices = [
        p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks") and "kernel" not in n
    ]
    if hidden == "adam":
        return [torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98), fused=True)]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(rest, lr=rate, betas=(0.9, 0.98), fused=True),
    ]


@torch.no_grad()
def evaluate(
    model: MGCF, crops: dict[str, tuple[torch.Tensor, PlaneStats]], device: torch.device, dtype: torch.dtype
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


def starting_point(path: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Float weights of an earlier run, and the training that went into them (for the record, oldest first)."""
    if path.suffix == ".pt":
        state = torch.load(path, map_location="cpu", weights_only=True)
        done = {"steps": state["step"], "megapixels": round(state["pixels"] / 1e6, 1)}
        return state["ema"], [*state["earlier"], done]
    shipped = load_model(path)
    done = shipped.metadata["training"]
    before = {key: done[key] for key in ("steps", "megapixels")} | {"sha256": shipped.digest}
    return float_model(shipped.weights).state_dict(), [*done.get("earlier", []), before]


def _save(path: Path, payload: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(payload, temporary)
    os.replace(temporary, path)


@click.command()
@click.argument("kind", type=click.Choice(sorted(CHANNELS)))
@click.option(
    "--data", type=click.Path(path_type=Path), default=None, help="the train folder [../shared/data/train]"
)
@click.option(
    "--run", "run_dir", type=click.Path(path_type=Path), required=True, help="checkpoints and log go here"
)
@click.option(
    "--minutes", type=float, required=True, help="length of the whole schedule, resumed runs included"
)
@click.option(
    "--batch", type=int, default=4, show_default=True, help="crops a step in the first half; then twice the pixels"
)
@click.option("--crop", type=int, default=64, show_default=True)
@click.option("--rate", type=float, default=2e-3, show_default=True)
@click.option("--optimizer", type=click.Choice(["adam", "muon"]), default="muon", show_default=True)
@click.option("--ema", type=float, default=0.998, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=int, default=None, help="CPU threads [all]")
@click.option("--compile", "use_compile", is_flag=True, help="torch.compile the loss")
@click.option("--float32", is_flag=True, help="no bfloat16 autocast")
@click.option("--seed", type=int, default=1)
@click.option(
    "--report", type=float, default=60.0, show_default=True, help="seconds between reports and checkpoints"
)
@click.option("--dim", type=int, default=128)
@click.option("--depth", type=int, default=3)
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    help="start from an integer model (.safetensors) or from another run's checkpoint (.pt)",
)
def main(
    kind: str,
    data: Path | None,
    run_dir: Path,
    minutes: float,
    batch: int,
    crop: int,
    rate: float,
    optimizer: str,
    ema: float,
    device: str,
    threads: int | None,
    use_compile: bool,
    float32: bool,
    seed: int,
    report: float,
    dim: int,
    depth: int,
    start: Path | None,
) -> None:
    """Train the base model KIND."""
    click.get_current_context().with_resource(keep_freed_memory())
    if threads:
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)  # of the depth-wise loops
    torch.manual_seed(seed)
    root = data or Path(os.environ.get("CALLIC_SHARED", "../shared")) / "data" / "train"
    run_dir.mkdir(parents=True, exist_ok=True)
    where = torch.device(device)
    dtype = torch.float32 if float32 else torch.bfloat16
    config = MGCFConfig(channels=CHANNELS[kind], dim=dim, depth=depth)
    model, average = MGCF(config).to(where), MGCF(config).to(where)
    average.load_state_dict(model.state_dict())
    earlier: list[dict[str, Any]] = []
    if start:
        weights, earlier = starting_point(start)
        model.load_state_dict(weights)
        average.load_state_dict(weights)
    optimizers = make_optimizers(model, rate, optimizer)
    step, trained, pixels = 0, 0.0, 0
    checkpoint = run_dir / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=where, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["ema"])
        for opt, saved in zip(optimizers, state["optimizers"], strict=True):
            opt.load_state_dict(saved)
        step, trained, pixels = state["step"], state["seconds"], state["pixels"]
        earlier = state["earlier"]
    source = CropSource(root, config.channels, seed + step)
    held = source.validation(6, 128)
    bits = torch.compile(model.bits) if use_compile else model.bits
    log = (run_dir / "log.jsonl").open("a")
    begin, last, running = time.monotonic() - trained, time.monotonic(), None
    while True:
        trained = time.monotonic() - begin
        progress = trained / (60 * minutes)
        count, side = batch_shape(progress, batch, crop)
        x, stats = source.batch(count, side)
        x = x.to(where)
        stats = stats.map(lambda v: v.to(where))
        for opt in optimizers:
            opt.zero_grad(set_to_none=True)
            for group in opt.param_groups:
                group["lr"] = rate * learning_rate(progress, step)
        with torch.autocast(where.type, dtype=dtype, enabled=not float32):
            # Every crop counts alike in relative terms: noisy 16-bit crops would otherwise drown the smooth
            # ones.
            loss = bits(x, stats).mean(dim=(1, 2)).clamp_max(48.0).mean() / config.channels
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in optimizers:
            opt.step()
        step, pixels = step + 1, pixels + count * side * side
        decay = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        value = float(loss.detach())
        running = value if running is None else 0.98 * running + 0.02 * value
        finished = progress >= 1.0
        if finished or time.monotonic() - last > report:
            figures = evaluate(average, held, where, dtype)
            line = {
                "step": step,
                "minutes": round(trained / 60, 2),
                "megapixels": round(pixels / 1e6, 2),
                "train_bpsp": round(running, 4),
                "held_out": {d: round(v, 4) for d, v in figures.items()},
                "mean": round(sum(figures.values()) / len(figures), 4),
                "config": asdict(config),
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            click.echo(json.dumps({k: v for k, v in line.items() if k != "config"}))
            _save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "ema": average.state_dict(),
                    "step": step,
                    "seconds": trained,
                    "pixels": pixels,
                    "earlier": earlier,
                    "optimizers": [o.state_dict() for o in optimizers],
                    "config": asdict(config),
                },
            )
            last = time.monotonic()
        if finished:
            return


if __name__ == "__main__":
    main()
