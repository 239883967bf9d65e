"""RPFT (Rate-guided Progressive Fine-Tuning): fit an adapter to images. The only backpropagation outside
pretraining.

The base model is the *integer* model, dequantised: what is adapted is what will decode. Minimised is the
description length of Eq. 9, in bits: rate of the quantised factors (uniform noise, logistic prior) plus rate
of the pixels (factors rounded with a straight-through estimator). Patches are sorted by their rate under the
base model, highest first; step t draws from the first F(t) share. Floats here need not reproduce: they end
in integers, and only those are coded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from callic_archive.codec.adapt_factors import FactorAdam, Factors, weight_bits
from callic_archive.codec.adapt_patches import PatchSet, collect, patches_of
from callic_archive.codec.adapt_schedule import (
    LARGE_FROM,
    LARGE_SHAPE,
    SMALL_SHAPE,
    AdaptOptions,
    collection_steps,
    patch_order,
    relative_rate,
    share,
    usual_rate,
)
from callic_archive.codec.adapter_syntax import write_adapter
from callic_archive.codec.engine import Engine, mixture_tables
from callic_archive.codec.planning import GroupPlan, Image, estimate_bits, sample_boxes
from callic_archive.errors import CallicError, InexactModel
from callic_archive.model.adapter import STEP_BITS, Adapter, merged
from callic_archive.model.allocator import keep_freed_memory
from callic_archive.model.dequantize import float_model
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.processor import native_bfloat16
from callic_archive.model.weights import IntegerModel, ModelSet

__all__ = ["AdaptOptions", "PatchSet", "collect", "collection_steps", "fit", "fit_image", "train_adapters"]

#: Patches a forward and backward pass at most (gradients add up): what bounds the memory, 0.1 GB a patch.
CHUNK = {"cpu": 4, "cuda": 256}


class _Bits(torch.nn.Module):
    """The model's code length as a module's forward pass, so that ``functional_call`` can swap its
    weights."""

    def __init__(self, model: MGCF) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, stats: PlaneStats) -> Tensor:
        return self.model.bits(x, stats)


def _rates(model: MGCF, patches: PatchSet, device: str) -> NDArray[np.float64]:
    """Bits of every patch under the base model."""
    rates = []
    with torch.no_grad(), _autocast(device):
        for start in range(0, len(patches.levels), 16):
            x, stats = patches.tensors(np.arange(start, min(start + 16, len(patches.levels))), device)
            rates.append(model.bits(x, stats).sum(dim=(1, 2)).double().cpu().numpy())
    return np.concatenate(rates)


def _autocast(device: str) -> torch.autocast:
    """bfloat16 products where the device has them in hardware; elsewhere they are slower than float32."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=native_bfloat16(device))


def fit(
    model: IntegerModel,
    patches: PatchSet,
    total_pixels: float,
    options: AdaptOptions,
    progress: Callable[[int, int], None] | None = None,
    under: Adapter | None = None,
) -> Adapter:
    """Fit an adapter to patches by RPFT; ``total_pixels``: pixels that will share its cost. The result is
    not judged here.

    ``under``: an adapter of the model that is merged first; the new one lies on it and begins where it ended.
    Raises InexactModel where that one breaks a bound.
    """
    with keep_freed_memory():
        return replace(_fit(model, patches, total_pixels, options, progress, under), under=under)


def _fit(
    model: IntegerModel,
    patches: PatchSet,
    total_pixels: float,
    options: AdaptOptions,
    progress: Callable[[int, int], None] | None,
    under: Adapter | None,
) -> Adapter:
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device, rng = options.device, np.random.default_rng(options.seed)
    base = float_model(merged(model.weights, under)).to(device).eval()
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    shape = options.shape or (SMALL_SHAPE if total_pixels < LARGE_FROM else LARGE_SHAPE)
    factors, network = Factors(base, shape, device), _Bits(base)
    order = np.argsort(-_rates(base, patches, device), kind="stable")
    rate = (options.rate or usual_rate(total_pixels)) * 2**STEP_BITS
    optimizer: torch.optim.Optimizer = (FactorAdam if options.per_factor else torch.optim.Adam)(
        list(factors.values.values()), lr=rate, betas=(0.9, 0.95)
    )
    prior = options.prior_scale * 2**STEP_BITS
    order = patch_order(order, options)
    for step in range(options.steps):
        pool = order[: max(1, math.ceil(share(step + 1, options) * len(order)))]
        batch = pool if options.patches is None else rng.permutation(pool)[: options.patches]
        for group in optimizer.param_groups:
            group["lr"] = rate * relative_rate(step, options)
        optimizer.zero_grad(set_to_none=True)
        for start in range(0, len(batch), CHUNK[torch.device(device).type]):
            x, stats = patches.tensors(batch[start : start + CHUNK[torch.device(device).type]], device)
            with _autocast(device):
                weights = {f"model.{n}": w for n, w in factors.weights().items()}
                pixel_bits = functional_call(network, weights, (x, stats)).mean()
            (pixel_bits * (len(x) / len(batch))).backward()
        # Description length per pixel: the factors' bits are shared by all pixels that will use them.
        (weight_bits(list(factors.values.values()), prior) / total_pixels).backward()
        optimizer.step()
        if progress:
            progress(step + 1, options.steps)
    return write_adapter(model.digest, shape, factors.integers(), mixture_tables(model))


def _pays(adapter: Adapter, plans: Sequence[tuple[Image, GroupPlan]], pixels: float, engine: Engine) -> bool:
    """MDL: do the estimated pixel bits saved exceed the adapter's own bits? Measured by exact inference on
    samples."""
    before = after = sampled = 0.0
    for image, plan in plans:
        try:
            after += estimate_bits(image, plan, adapter, engine)
        except InexactModel:
            return False
        before += estimate_bits(image, plan, None, engine)
        boxes = sample_boxes(*image.shape[:2])
        sampled += sum((bottom - top) * (right - left) for top, left, bottom, right in boxes)
    return (before - after) * pixels / max(sampled, 1.0) > 8.0 * len(adapter.payload)


def fit_image(
    image: Image, plan: GroupPlan, start: Adapter | None, engine: Engine, *, steps: int
) -> Adapter | None:
    """An adapter of the image's own, or None where it would not shorten the whole code.

    ``start``: the adapter that is best so far (the collection's); the image's own lies on it and competes with it.
    Image (H, W, C).
    """
    options = AdaptOptions(
        steps=steps,
        device=engine.device,
        threads=engine.thread_count,
        patches=None if engine.device != "cpu" else 8,
        start_share=0.2 if engine.device != "cpu" else 1.0,  # whole shares are the paper's, and cost time
    )
    rng = np.random.default_rng(0)
    found, stat = patches_of(image, plan, options.max_patches, rng)
    if not found:
        return None
    patches = PatchSet(np.stack(found).astype(np.float32), np.array([stat] * len(found), np.float32))
    pixels = float(image.shape[0] * image.shape[1])
    adapter = fit(plan.model, patches, pixels, options, under=start)
    try:
        own = estimate_bits(image, plan, adapter, engine)
    except InexactModel:
        return None
    rival = estimate_bits(image, plan, start, engine)
    sampled = sum((b - t) * (r - left) for t, left, b, r in sample_boxes(*image.shape[:2]))
    return adapter if (rival - own) * pixels / sampled > 8.0 * len(adapter.payload) else None


def train_adapters(
    images: Sequence[Image],
    *,
    models: ModelSet,
    options: AdaptOptions = AdaptOptions(),
    total_pixels: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Adapter, ...]:
    """Adapters for a collection, at most one a model, fitted to a sample of its images; () where none pays.

    ``total_pixels``: pixels of the whole collection (of all images, when the sample is a part of it).
    """
    each_step = options.patches or options.max_patches
    engine = Engine("auto", options.device, options.threads)
    found = collect(images, models, min(options.max_patches, options.steps * each_step), options.seed, engine)
    sampled = float(sum(image.shape[0] * image.shape[1] for image in images)) or 1.0
    scale = (total_pixels or sampled) / sampled
    adapters = []
    for number, (digest, (patches, plans)) in enumerate(found.items()):
        pixels = scale * sum(image.shape[0] * image.shape[1] for image, _ in plans)
        model = models.get(digest)

        def report(step: int, steps: int, number: int = number) -> None:
            if progress:
                progress(number * steps + step, len(found) * steps)

        adapter = fit(model, patches, pixels, options, report)
        try:
            if _pays(adapter, plans[:16], pixels, engine):
                adapters.append(adapter)
        except CallicError:
            continue
    return tuple(adapters)
