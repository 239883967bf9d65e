"""The factors of an adapter while they are fitted: as parameters, as the weights that they make, their bits, their optimizer."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callic_archive.model.adapter import FACTOR_LIMIT, STEP_BITS, AdapterShape, start_factor
from callic_archive.model.config import causal_taps
from callic_archive.model.mgcf import MGCF


def _straight_through(value: Tensor) -> Tensor:
    """Rounded to steps in the forward pass, identity in the backward pass."""
    rounded = torch.round(value).clamp(-FACTOR_LIMIT, FACTOR_LIMIT)
    return value + (rounded - value).detach()


def weight_bits(values: list[Tensor], scale: float) -> Tensor:
    """Rate of factor differences, in steps: uniform noise, zero-mean logistic prior of ``scale`` steps."""
    flat = torch.cat([v.reshape(-1) for v in values])
    noisy = (flat + torch.rand_like(flat) - 0.5).abs()
    upper, lower = (0.5 - noisy) / scale, (-0.5 - noisy) / scale
    mass = torch.sigmoid(upper) - torch.sigmoid(lower)
    return -torch.log2(mass.clamp_min(1e-9)).sum()


class Factors:
    """Factor differences (in steps) as parameters, and the float weights they make."""

    def __init__(self, base: MGCF, shape: AdapterShape, device: str) -> None:
        self.config = base.config
        self.shapes = shape.factors(base.config)
        self.start = {
            n: torch.from_numpy(start_factor(n, s)).float().to(device) for n, s in self.shapes.items()
        }
        self.values = {n: torch.zeros(s, device=device, requires_grad=True) for n, s in self.shapes.items()}
        self.base = {n: p.detach() for n, p in base.named_parameters()}
        radius = base.config.kernel // 2
        taps = causal_taps(base.config.kernel, include_group=True)
        self.rows = torch.tensor([di + radius for di, _ in taps], device=device)
        self.columns = torch.tensor([dj + radius for _, dj in taps], device=device)

    def weights(self) -> dict[str, Tensor]:
        """Parameters of the float model with the quantised factors merged in."""
        unit = 2.0**-STEP_BITS
        factor = {n: (self.start[n] + _straight_through(v)) * unit for n, v in self.values.items()}
        merged = dict(self.base)
        for i in range(self.config.depth):
            for part, name in (
                ("a", f"blocks.{i}.mcg.a.weight"),
                ("v", f"blocks.{i}.mcg.v.weight"),
                ("up", f"blocks.{i}.up.weight"),
            ):
                if f"{i}.{part}.B" in factor:
                    merged[name] = merged[name] + factor[f"{i}.{part}.B"] @ factor[f"{i}.{part}.A"]
            if f"{i}.dw.X" in factor:
                plane = factor[f"{i}.dw.Y"][self.rows] * factor[f"{i}.dw.Z"][self.columns]  # (taps, rank)
                name = f"blocks.{i}.mcg.kernel"
                merged[name] = merged[name] + plane @ factor[f"{i}.dw.X"].t()
        return merged

    def integers(self) -> dict[str, NDArray[np.int32]]:
        """Factor differences as they will be coded."""
        return {
            n: torch.round(v.detach()).clamp(-FACTOR_LIMIT, FACTOR_LIMIT).to(torch.int32).cpu().numpy()
            for n, v in self.values.items()
        }


class FactorAdam(torch.optim.Optimizer):
    """Adam with one second moment for a whole factor.

    Adam moves every weight by about the learning rate, however little it matters, and every weight that moved
    costs bits. Here weights with small gradients stay where they are, at zero.
    """

    def __init__(self, params: list[Tensor], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all factors once."""
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"n": 0, "mean": torch.zeros_like(p), "square": 0.0}
                state["n"] += 1
                state["mean"].lerp_(p.grad, 1 - first)
                state["square"] = second * state["square"] + (1 - second) * p.grad.square().mean()
                size = (state["square"] / (1 - second ** state["n"])) ** 0.5 + 1e-12
                p.sub_(state["mean"] * (group["lr"] / (1 - first ** state["n"]) / size))
