"""What coarse rounding cost, made up for: training on the weights that are kept fine beside those that are rounded.

Biases, depth-wise kernels, the embedding and the head are a tenth of the weights, and rounded finely. Where the blocks' matrices
are rounded to a few bits, a short training of the others takes back two fifths to seven tenths of the loss, so that matrices may
be rounded more coarsely (decision 0030).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from callic_archive.codec.crops import Crops
from callic_archive.codec.train_schedule import block_matrices, follow, learning_rate
from callic_archive.model.allocator import keep_freed_memory
from callic_archive.model.dequantize import float_model
from callic_archive.model.mgcf import MGCF
from callic_archive.model.processor import native_bfloat16
from callic_archive.model.weights import IntegerWeights

#: Steps: a share of those of the training before, at most so many; the rate at its highest; the average of the weights.
SHARE, MOST, RATE, EMA = 1 / 8, 150, 1e-3, 0.95


def settling_steps(steps: int) -> int:
    """Steps that follow a training of so many."""
    return max(1, min(MOST, int(SHARE * steps)))


def settled(
    weights: IntegerWeights, batch: Callable[[], Crops], steps: int, device: str = "cpu", *, rate: float = RATE, ema: float = EMA
) -> MGCF:
    """The float model of ``weights`` after training on ``batch``: matrices of its blocks are what they were, and round to that
    again. What ``batch`` raises stops it."""
    model, average = (float_model(weights).to(device) for _ in range(2))
    fixed = {id(p) for p in block_matrices(model)} | {id(p) for n, p in model.named_parameters() if "norm" in n}
    free = [p for p in model.parameters() if id(p) not in fixed]
    optimizer = torch.optim.Adam(free, lr=rate, betas=(0.9, 0.98), fused=True)
    kind, native = torch.device(device).type, native_bfloat16(device)
    with keep_freed_memory():
        for step in range(steps):
            x, stats = batch()
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=native):
                loss = model.bits(x.to(device), stats.map(lambda v: v.to(device))).mean()
            model.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(free, 1.0)
            optimizer.param_groups[0]["lr"] = rate * learning_rate(step / steps, step)
            optimizer.step()
            follow(average, model, ema, step)
    return average.cpu().eval()
