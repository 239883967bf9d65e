"""Other ways to mix space in MGCF's blocks, for table 4: float training only, no codec ever runs them.

All see the same causal taps (those of the masked kernel, the current group included) and have about as many
parameters as MCG, so that what differs is the mechanism.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callic_archive.model.config import TAPS, MGCFConfig, causal_taps
from callic_archive.model.depthwise import masked_depthwise
from callic_archive.model.mgcf import MCG, MGCF, Block

Mixer = Literal["gate", "attention", "plain"]
#: Heads of the attention: 32 channels each at the paper's width.
HEADS = 4


class MaskedNeighbourhoodAttention(nn.Module):
    """Softmax attention of every pixel over its causal taps, with a learned bias a tap and head.

    After Neighborhood Attention (arXiv 2204.07143), with the taps of the scan in place of a full window.
    Queries and keys have half the width, so that four matrices hold as many weights as MCG's three.
    """

    def __init__(self, config: MGCFConfig, heads: int = HEADS) -> None:
        super().__init__()
        if config.dim % (2 * heads):
            raise ValueError(f"{config.dim} channels cannot be cut into {heads} heads of even width")
        self.taps, self.radius, self.heads = (
            causal_taps(config.kernel, include_group=True),
            config.kernel // 2,
            heads,
        )
        self.q = nn.Linear(config.dim, config.dim // 2)
        self.k = nn.Linear(config.dim, config.dim // 2)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.position = nn.Parameter(torch.zeros(len(self.taps), heads))
        self.scale = (config.dim // 2 // heads) ** -0.5

    def forward(self, x: Tensor) -> Tensor:  # (N, H, W, C) -> (N, H, W, C)
        n, height, width, _ = x.shape
        query = (self.q(x) * self.scale).view(n, height, width, self.heads, -1)
        keys, values = self._padded(self.k(x)), self._padded(self.v(x))
        known = self._padded(torch.ones(1, height, width, 1, dtype=torch.bool, device=x.device))
        scores = []
        for (di, dj), bias in zip(self.taps, self.position, strict=True):
            key = self._shifted(keys, di, dj, height, width).unflatten(-1, (self.heads, -1))
            score = (query * key).sum(-1) + bias
            scores.append(score.masked_fill(~self._shifted(known, di, dj, height, width), float("-inf")))
        weights = torch.stack(scores).softmax(dim=0)  # the pixel's own tap is always known
        total = torch.zeros(n, height, width, self.heads, values.shape[-1] // self.heads, device=x.device)
        for (di, dj), weight in zip(self.taps, weights, strict=True):
            value = self._shifted(values, di, dj, height, width).unflatten(-1, (self.heads, -1))
            total = total + weight.unsqueeze(-1) * value
        out: Tensor = self.o(total.flatten(-2))
        return out

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, self.radius, self.radius, self.radius, self.radius))

    def _shifted(self, padded: Tensor, di: int, dj: int, height: int, width: int) -> Tensor:
        top, left = self.radius + di, self.radius + dj
        return padded[:, top : top + height, left : left + width]


class MaskedConvolution(nn.Module):
    """A plain masked depth-wise convolution without a gate: ``W_O swish(DWConv(W_A X))``, half as wide again
    as the model, which gives it MCG's number of weights."""

    def __init__(self, config: MGCFConfig) -> None:
        super().__init__()
        inner = 3 * config.dim // 2
        self.taps = causal_taps(config.kernel, include_group=True)
        self.a = nn.Linear(config.dim, inner)
        self.o = nn.Linear(inner, config.dim)
        self.kernel = nn.Parameter(torch.empty(len(self.taps), inner))
        self.kernel_bias = nn.Parameter(torch.zeros(inner))
        nn.init.uniform_(self.kernel, -1 / config.kernel, 1 / config.kernel)

    def forward(self, x: Tensor) -> Tensor:  # (N, H, W, C) -> (N, H, W, C)
        out: Tensor = self.o(F.silu(masked_depthwise(self.a(x), self.kernel, self.taps) + self.kernel_bias))
        return out


def build(config: MGCFConfig, mixer: Mixer, seed: int) -> MGCF:
    """A model whose blocks mix space by ``mixer``. What all variants share starts from the same values."""
    torch.manual_seed(seed)
    model = MGCF(config)
    for block in model.blocks:
        assert isinstance(block, Block)
        if mixer == "gate":
            continue
        other = MaskedNeighbourhoodAttention(config) if mixer == "attention" else MaskedConvolution(config)
        with torch.no_grad():
            other.o.weight.mul_(0.5)  # as MGCF starts its own
        block.add_module("mcg", other)
    return model


def parameters(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in model.parameters())


def kilo_macs(model: MGCF) -> float:
    """Thousands of multiplications with a weight (or, in attention, with a key or a value) a pixel."""
    config = model.config
    total = config.channels * (len(TAPS) - 1)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            total += module.in_features * module.out_features
        elif isinstance(module, (MCG, MaskedConvolution)):
            total += module.kernel.numel()
        elif isinstance(module, MaskedNeighbourhoodAttention):
            total += len(module.taps) * (module.k.out_features + module.v.out_features)
    return total / 1e3
