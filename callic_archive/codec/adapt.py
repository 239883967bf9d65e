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
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from callic_archive.codec.adapter_syntax import write_adapter
from callic_archive.codec.engine import Engine, mixture_tables
from callic_archive.codec.planning import (
    ConstantGroup,
    GroupPlan,
    Image,
    check_image,
    estimate_bits,
    plan_image,
    sample_boxes,
)
from callic_archive.errors import CallicError, InexactModel
from callic_archive.model.adapter import FACTOR_LIMIT, STEP_BITS, Adapter, AdapterShape, start_factor
from callic_archive.model.allocator import keep_freed_memory
from callic_archive.model.config import causal_taps
from callic_archive.model.dequantize import float_model
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.weights import IntegerModel, ModelSet

#: Side of the patches that RPFT works on.
PATCH = 64
#: Patches a forward and backward pass at most (gradients add up): what bounds the memory, 0.1 GB a patch.
CHUNK = {"cpu": 4, "cuda": 256}
#: Steps for a collection grow with its pixels, so that adaptation stays a small part of packing.
LEAST_STEPS, MOST_STEPS, STEPS_PER_MEGAPIXEL = 50, 400, 2.0


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


@dataclass(frozen=True)
class PatchSet:
    """Training patches of one plane group kind: levels (n, C, 64, 64) with their statistics (n,)."""

    levels: NDArray[np.float32]
    stats: NDArray[np.float32]  # (n, 4): shift, depth, mid, top

    def tensors(self, index: NDArray[np.int64], device: str) -> tuple[Tensor, PlaneStats]:
        """Some of the patches as tensors."""
        stats = torch.from_numpy(self.stats[index]).to(device)
        return torch.from_numpy(self.levels[index]).to(device), PlaneStats(*stats.unbind(1))


def _patches(
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
        found.append(plan.levels(image, (top, left, top + PATCH, left + PATCH)))
    top_level = max(p.high for p in plan.packings)
    return found, [plan.plane.shift, plan.plane.depth, plan.plane.mid, top_level]


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
            found, stat = _patches(image, plan, each, rng)
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


def _straight_through(value: Tensor) -> Tensor:
    """Rounded to steps in the forward pass, identity in the backward pass."""
    rounded = torch.round(value).clamp(-FACTOR_LIMIT, FACTOR_LIMIT)
    return value + (rounded - value).detach()


def _weight_bits(values: list[Tensor], scale: float) -> Tensor:
    """Rate of factor differences, in steps: uniform noise, zero-mean logistic prior of ``scale`` steps."""
    flat = torch.cat([v.reshape(-1) for v in values])
    noisy = (flat + torch.rand_like(flat) - 0.5).abs()
    upper, lower = (0.5 - noisy) / scale, (-0.5 - noisy) / scale
    mass = torch.sigmoid(upper) - torch.sigmoid(lower)
    return -torch.log2(mass.clamp_min(1e-9)).sum()


class _Factors:
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


def patch_order(descending: NDArray[np.int64], options: AdaptOptions) -> NDArray[np.int64]:
    """Patches (by index) in the order in which the schedule takes them up, from that by descending rate."""
    if options.order == "random":
        return np.random.default_rng(options.seed).permutation(descending)
    return descending[::-1] if options.order == "ascending" else descending


def _autocast(device: str) -> torch.autocast:
    """bfloat16 products where the device has them in hardware; elsewhere they are slower than float32."""
    kind = torch.device(device).type
    native = kind != "cpu" or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=native)


def fit(
    model: IntegerModel,
    patches: PatchSet,
    total_pixels: float,
    options: AdaptOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Adapter:
    """Fit an adapter to patches by RPFT; ``total_pixels``: pixels that will share its cost. The result is
    not judged here."""
    with keep_freed_memory():
        return _fit(model, patches, total_pixels, options, progress)


def _fit(
    model: IntegerModel,
    patches: PatchSet,
    total_pixels: float,
    options: AdaptOptions,
    progress: Callable[[int, int], None] | None,
) -> Adapter:
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device, rng = options.device, np.random.default_rng(options.seed)
    base = float_model(model.weights).to(device).eval()
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    shape = options.shape or (SMALL_SHAPE if total_pixels < LARGE_FROM else LARGE_SHAPE)
    factors, network = _Factors(base, shape, device), _Bits(base)
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
        (_weight_bits(list(factors.values.values()), prior) / total_pixels).backward()
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

    ``start``: the adapter it competes with (the collection's). Image (H, W, C).
    """
    options = AdaptOptions(
        steps=steps,
        device=engine.device,
        threads=engine.thread_count,
        patches=None if engine.device != "cpu" else 8,
        start_share=0.2 if engine.device != "cpu" else 1.0,  # whole shares are the paper's, and cost time
    )
    rng = np.random.default_rng(0)
    found, stat = _patches(image, plan, options.max_patches, rng)
    if not found:
        return None
    patches = PatchSet(np.stack(found).astype(np.float32), np.array([stat] * len(found), np.float32))
    pixels = float(image.shape[0] * image.shape[1])
    adapter = fit(plan.model, patches, pixels, options)
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
