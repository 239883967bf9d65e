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
import os
from dataclasses import asdict
from pathlib import Path

import click

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see callic_archive/cli/main.py

from callic_archive.model.allocator import keep_freed_memory
from callic_archive.model.config import MGCFConfig
from callic_archive.training.trainer import Trainer, TrainOptions, limit_threads, starting_point
from pipelines.training_data import CropSource

CHANNELS = {"rgb8": 3, "gray16": 1}


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
    "--batch",
    type=int,
    default=4,
    show_default=True,
    help="crops a step in the first half; then twice the pixels",
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
    "--varied", type=float, default=0.4, show_default=True, help="share of crops as other cameras take them"
)
@click.option(
    "--smooth", type=float, default=0.1, show_default=True, help="share of single planes that are surfaces or resampled"
)
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
    varied: float,
    smooth: float,
    report: float,
    dim: int,
    depth: int,
    start: Path | None,
) -> None:
    """Train the base model KIND."""
    click.get_current_context().with_resource(keep_freed_memory())
    if threads:
        limit_threads(threads)
    root = data or Path(os.environ.get("CALLIC_SHARED", "../shared")) / "data" / "train"
    run_dir.mkdir(parents=True, exist_ok=True)
    options = TrainOptions(
        minutes, batch, crop, rate, optimizer, ema, device, use_compile, float32, seed, report
    )
    config = MGCFConfig(channels=CHANNELS[kind], dim=dim, depth=depth)
    trainer = Trainer(config, options, starting_point(start) if start else None)
    checkpoint = run_dir / "checkpoint.pt"
    if checkpoint.exists():
        trainer.resume(checkpoint)
    source = CropSource(root, config.channels, seed + trainer.steps, varied, smooth)
    held = source.validation(6, 128)
    log = (run_dir / "log.jsonl").open("a")
    for found in trainer.run(source, held, checkpoint):
        line = {
            "step": found.step,
            "minutes": round(found.minutes, 2),
            "megapixels": round(found.megapixels, 2),
            "train_bpsp": round(found.train_bpsp, 4),
            "held_out": {d: round(v, 4) for d, v in found.held_out.items()},
            "mean": round(found.mean, 4),
            "config": asdict(config),
        }
        log.write(json.dumps(line) + "\n")
        log.flush()
        click.echo(json.dumps({k: v for k, v in line.items() if k != "config"}))


if __name__ == "__main__":
    main()
