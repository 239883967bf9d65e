"""How fast weights move: the learning rate over a run, and the optimizers."""

from __future__ import annotations

import math

import torch

from callic_archive.model.mgcf import MGCF

#: The rate rises for so many steps, or for this share of the training where that is shorter.
WARMUP_STEPS, WARMUP = 100, 0.05


def learning_rate(progress: float, step: int) -> float:
    """Relative rate: linear warm-up, then a cosine to one hundredth. ``progress``: share of the training that is done."""
    warm = min(1.0, max((step + 1) / WARMUP_STEPS, progress / WARMUP))
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def batch_shape(progress: float, batch: int, crop: int) -> tuple[int, int]:
    """Number and side of a step's crops: more pixels in the second half, where gradients must be quieter, and
    larger crops in the last third, since tiles are coded whole and have few pixels near a border."""
    if progress < 0.5:
        return batch, crop
    if progress < 0.67:
        return 2 * batch, crop
    return max(1, batch // 2), 2 * crop


def block_matrices(model: MGCF) -> list[torch.nn.Parameter]:
    """Weights of the blocks' linear layers."""
    return [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks") and "kernel" not in n]


def make_optimizers(model: MGCF, rate: float, hidden: str) -> list[torch.optim.Optimizer]:
    """Adam for all, or Muon for the blocks' matrices and Adam for the rest."""
    matrices = block_matrices(model)
    if hidden == "adam":
        return [torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98), fused=True)]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(rest, lr=rate, betas=(0.9, 0.98), fused=True),
    ]


def follow(average: MGCF, model: MGCF, decay: float, done: int) -> None:
    """Move the average's weights towards the model's, faster where few steps are ``done``."""
    decay = min(decay, (done + 1) / (done + 10))
    with torch.no_grad():
        for a, p in zip(average.parameters(), model.parameters(), strict=True):
            a.lerp_(p, 1 - decay)
