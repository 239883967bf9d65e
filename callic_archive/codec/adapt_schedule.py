"""How RPFT goes: steps, learning rate, which patches a step draws from, and the shape that so many pixels can pay for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from callic_archive.model.adapter import AdapterShape

#: Steps for a collection grow with its pixels (decision 0019): a fifth of the time that coding and proving them takes.
LEAST_STEPS, MOST_STEPS, STEPS_PER_MEGAPIXEL = 120, 800, 15.0

#: Ranks and learning rate by the pixels that share an adapter's bits (decision 0009).
LARGE_FROM = 0.75e6
SMALL_SHAPE, LARGE_SHAPE = AdapterShape(3, 3, 1), AdapterShape(7, 7, 2)
SMALL_RATE, LARGE_RATE = 3e-3, 5e-3
#: Collections bear more weights that moved (decision 0013).
COLLECTION_FROM, COLLECTION_RATE = 1.5e6, 1e-2


@dataclass(frozen=True)
class AdaptOptions:
    """How to adapt. ``patches`` a step: None takes the whole share F(t), as the paper does; a number samples
    from it.

    ``start_share``, ``exponent``, ``tail``: b, e and d of the schedule (start share 1 trains on all patches
    from the start: where steps sample patches, a smaller share saves no time and costs bits). ``per_factor``:
    step sizes of whole factors (``FactorAdam``) instead of Adam's. ``warmup``: share of the steps in which the
    rate rises. ``rate``, ``shape``: None chooses by the pixels. Defaults were measured (decision 0009).
    """

    steps: int = 50
    rate: float | None = None
    patches: int | None = 8
    start_share: float = 1.0
    exponent: float = 1.0
    tail: float = 0.1
    prior_scale: float = 0.02
    per_factor: bool = True
    warmup: float = 0.15
    shape: AdapterShape | None = None
    seed: int = 0
    max_patches: int = 4096
    device: str = "cpu"
    threads: int | None = None
    #: Which patches F(t) takes up first, by their bits under the base model; the paper's RPFT is "descending".
    order: Literal["descending", "ascending", "random"] = "descending"


def collection_steps(total_pixels: float) -> int:
    """Steps of RPFT for a collection of this many pixels."""
    return int(min(MOST_STEPS, LEAST_STEPS + STEPS_PER_MEGAPIXEL * total_pixels / 1e6))


def usual_rate(total_pixels: float) -> float:
    """Learning rate of the factors for an adapter whose bits so many pixels share."""
    if total_pixels < LARGE_FROM:
        return SMALL_RATE
    return LARGE_RATE if total_pixels < COLLECTION_FROM else COLLECTION_RATE


def share(step: int, options: AdaptOptions) -> float:
    """F(t): the share of patches, by descending rate, that step t uses (method, section 5)."""
    x = min(1.0, step / max(1e-9, options.steps * (1 - options.tail)))
    smooth = x * x * (3 - 2 * x)
    return float(options.start_share + (1 - options.start_share) * smooth**options.exponent)


def relative_rate(step: int, options: AdaptOptions) -> float:
    """Learning rate of a step, relative: linear warm-up, then a cosine to nothing."""
    warm = min(1.0, (step + 1) / max(1.0, options.warmup * options.steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / options.steps))


def patch_order(descending: NDArray[np.int64], options: AdaptOptions) -> NDArray[np.int64]:
    """Patches (by index) in the order in which the schedule takes them up, from that by descending rate."""
    if options.order == "random":
        return np.random.default_rng(options.seed).permutation(descending)
    return descending[::-1] if options.order == "ascending" else descending
