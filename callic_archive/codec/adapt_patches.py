"""Patches of images that an adapter is fitted to, as the encoder would code them, by the model that would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callic_archive.codec.engine import Engine
from callic_archive.codec.planning import ConstantGroup, GroupPlan, Image, check_image, plan_image
from callic_archive.model.integer import GUIDE_SIGN
from callic_archive.model.mgcf import PlaneStats
from callic_archive.model.weights import ModelSet

#: Side of the patches that RPFT works on.
PATCH = 64


@dataclass(frozen=True)
class PatchSet:
    """Training patches of one plane group kind: levels (n, C, 64, 64), or with a guide behind them, and their statistics."""

    levels: NDArray[np.float32]
    stats: NDArray[np.float32]  # (n, 5): shift, depth, mid, top, guide

    def tensors(self, index: NDArray[np.int64], device: str) -> tuple[Tensor, PlaneStats]:
        """Some of the patches as tensors."""
        stats = torch.from_numpy(self.stats[index]).to(device)
        return torch.from_numpy(self.levels[index]).to(device), PlaneStats(*stats.unbind(1))


def beside_a_guide(levels: NDArray[Any], plan: GroupPlan) -> NDArray[Any]:
    """Levels of a plan with nothing behind them where others of its model have a guide."""
    if plan.plane.guide or not plan.model.guides:
        return levels
    return np.concatenate([levels, np.zeros_like(levels[:1])])


def patches_of(
    image: Image, plan: GroupPlan, limit: int, rng: np.random.Generator
) -> tuple[list[NDArray[np.int32]], list[float]]:
    """At most ``limit`` patches of one image, spread at random, with the plan's statistics."""
    height, width = image.shape[:2]
    if height < PATCH or width < PATCH:
        return [], []
    across, down = width // PATCH, height // PATCH
    chosen = rng.permutation(across * down)[:limit]
    found = []
    for number in chosen.tolist():
        top, left = (number // across) * PATCH, (number % across) * PATCH
        found.append(beside_a_guide(plan.levels(image, (top, left, top + PATCH, left + PATCH)), plan))
    top_level = max(p.high for p in plan.packings)
    return found, [plan.plane.shift, plan.plane.depth, plan.plane.mid, top_level, GUIDE_SIGN[plan.plane.guide]]


def collect(
    images: Sequence[Image], models: ModelSet, limit: int, seed: int, engine: Engine = Engine()
) -> dict[str, tuple[PatchSet, list[tuple[Image, GroupPlan]]]]:
    """Patches of all images by the model (digest) that would code them, with the plans they come from."""
    rng = np.random.default_rng(seed)
    each = max(4, limit // max(1, len(images)))
    levels: dict[str, list[NDArray[np.int32]]] = {}
    stats: dict[str, list[list[float]]] = {}
    plans: dict[str, list[tuple[Image, GroupPlan]]] = {}
    for raw in images:
        image = check_image(raw)
        for plan in plan_image(image, models, engine).groups:
            if isinstance(plan, ConstantGroup):
                continue
            found, stat = patches_of(image, plan, each, rng)
            if found:
                levels.setdefault(plan.model.digest, []).extend(found)
                stats.setdefault(plan.model.digest, []).extend([stat] * len(found))
                plans.setdefault(plan.model.digest, []).append((image, plan))
    return {
        digest: (
            PatchSet(np.stack(levels[digest]).astype(np.float32), np.array(stats[digest], np.float32)),
            plans[digest],
        )
        for digest in levels
    }
