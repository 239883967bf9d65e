"""Fit all weights of a base model to images, in place of an adapter: the model that an archive then carries is theirs.

An archive carries its models anyway, so one that fits costs nothing more, and every weight may move. What is trained on is
what will be coded: overfitting is no fault here, as long as the weights take no more bytes. So they are rounded as coarsely
as it pays: a few thousand bytes of code for tens of thousands of the model, where there is little to code. What is not rounded
coarsely, biases and kernels and both ends, is then trained on for a while, and makes up for much of what rounding cost.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from callic_archive.codec.adapt_patches import beside_a_guide
from callic_archive.codec.crops import Crops, Levels, Statistics, collate, random_crop
from callic_archive.codec.engine import Engine
from callic_archive.codec.planning import (
    ConstantGroup,
    GroupPlan,
    check_image,
    estimate_bits,
    plan_image,
    sample_boxes,
)
from callic_archive.codec.settling import settled, settling_steps
from callic_archive.codec.train_schedule import follow, learning_rate, make_optimizers
from callic_archive.entropy.mixture import MixtureTables
from callic_archive.errors import InexactModel
from callic_archive.model.allocator import keep_freed_memory
from callic_archive.model.dequantize import float_model
from callic_archive.model.guided import with_guide
from callic_archive.model.integer import GUIDE_SIGN
from callic_archive.model.mgcf import MGCF
from callic_archive.model.packed_file import pack_model
from callic_archive.model.processor import native_bfloat16
from callic_archive.model.quantize import layer_steps, quantize
from callic_archive.model.steps import Steps
from callic_archive.model.traces import Traces, finer_gates, trace, with_gates_of
from callic_archive.model.weights import IntegerModel, IntegerWeights, ModelSet, load_model, model_file

Image = NDArray[Any]
#: Steps of training: some, and more for each megapixel; fewer where there is little to code, as its coding takes no longer.
SOME_STEPS, STEPS_PER_MEGAPIXEL, MOST_STEPS, MOST_PER_MEGAPIXEL = 800, 300.0, 4800, 1200.0
#: How coarsely is tried: as would pay if fewer pixels were coded, by this factor, as what is trained on afterwards bears more;
#: then ever more finely, as where images are so simple that a model is sure of itself small errors cost more than is foreseen.
COARSER, FINER, RUNGS = 1.25, 3.2, 7
#: What finer steps must save of code and model, as settling makes up for about as much.
SAVED = 0.0025
#: Crops of calibration: batches and crops a batch.
CALIBRATION = (6, 8)
#: Images whose sampled blocks say what a model is worth.
MEASURED = 6
LICENCE = "as the model it was fitted from ({base}: {licence}); it was fitted to files of whoever packed them"
LEAST_SIDE = 8
CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True)
class FitOptions:
    """``steps``: None follows the pixels, ``longer`` times. ``batch`` crops of ``crop`` x ``crop`` pixels a step, in the last
    third fewer and larger ones. ``rate``: learning rate at its highest. ``turned``: crops in all eight orientations; what is
    coded lies one way only (decision 0026)."""

    steps: int | None = None
    longer: int = 1
    batch: int = 8
    crop: int = 64
    rate: float = 4e-3
    turned: bool = False
    ema: float = 0.98
    device: str = "cpu"
    threads: int | None = None
    seed: int = 0


def fitting_steps(total_pixels: float) -> int:
    """Steps for a collection of so many pixels."""
    megapixels = total_pixels / 1e6
    return max(1, int(min(MOST_STEPS, SOME_STEPS + STEPS_PER_MEGAPIXEL * megapixels, MOST_PER_MEGAPIXEL * megapixels)))


@dataclass(frozen=True)
class _Planned:
    """What one model codes of a sample: the plane groups of its images, with their levels (C, H, W), and behind them the guide,
    or nothing, (C + 1, H, W), where the model takes one."""

    plans: list[tuple[Image, GroupPlan]]
    levels: list[Levels]

    @property
    def stats(self) -> list[Statistics]:
        return [
            (
                plan.plane.shift, plan.plane.depth, plan.plane.mid, max(p.high for p in plan.packings),
                GUIDE_SIGN[plan.plane.guide],
            )
            for _, plan in self.plans
        ]  # fmt: skip

    @property
    def pixels(self) -> int:
        """Pixels, of each group those of one plane."""
        return sum(levels[0].size for levels in self.levels)

    @property
    def samples(self) -> int:
        """Samples that are coded."""
        return sum(levels[0].size * len(plan.channels) for levels, (_, plan) in zip(self.levels, self.plans, strict=True))


def planned(images: Sequence[Image], models: ModelSet, engine: Engine) -> dict[str, _Planned]:
    """The plane groups of all images by the model (digest) that codes them, as the encoder would."""
    found: dict[str, _Planned] = {}
    for raw in images:
        image = check_image(raw)
        if min(image.shape[:2]) < LEAST_SIDE:
            continue
        for group in plan_image(image, models, engine).groups:
            if isinstance(group, ConstantGroup):
                continue
            some = found.setdefault(group.model.digest, _Planned([], []))
            some.plans.append((image, group))
            levels = group.levels(image, (0, 0, *image.shape[:2])).astype(np.uint16)
            some.levels.append(beside_a_guide(levels, group))
    return found


def _planned_with_guides(images: Sequence[Image], models: ModelSet, engine: Engine) -> dict[str, tuple[IntegerModel, _Planned]]:
    """What each model (digest) codes, and the model that is to be trained: of single planes one that takes a guide, where
    some plane has another in its image that it is like."""
    single = models.for_channels(1)
    if single is None or all(image.ndim == 2 or image.shape[2] == 1 for image in images):
        return {digest: (models.get(digest), what) for digest, what in planned(images, models, engine).items()}
    taught = with_guide(single)
    others = ModelSet([taught if model is single else model for model in models])
    found = {}
    for digest, what in planned(images, others, engine).items():
        if digest != taught.digest:
            found[digest] = others.get(digest), what
        elif any(plan.plane.guide for _, plan in what.plans):
            found[single.digest] = taught, what
        else:  # guides are of no use here
            plans = [(image, replace(plan, model=single)) for image, plan in what.plans]
            found[single.digest] = single, _Planned(plans, [levels[:1] for levels in what.levels])
    return found


class _Source:
    """Random crops of plane groups, by area."""

    def __init__(self, what: _Planned, seed: int, *, turned: bool) -> None:
        self._what, self._stats, self._turned, self._seed = what, what.stats, turned, seed
        area = np.array([levels[0].size for levels in what.levels], float)
        self._weights = area / area.sum()

    def batch(self, number: int, count: int, size: int) -> Crops:
        """``count`` crops (N, C, size, size) float32 with statistics: the same for a ``number``, in every run."""
        rng = np.random.default_rng((self._seed, number))
        chosen = rng.choice(self._weights.size, count, p=self._weights).tolist()
        crops = [random_crop(self._what.levels[n], size, rng, turned=self._turned) for n in chosen]
        return collate(crops, [self._stats[n] for n in chosen])


class _Fit:
    """A model in training, its average and its optimizers; all that a checkpoint holds."""

    def __init__(self, base: IntegerModel, steps: int, options: FitOptions, checkpoint: Path | None) -> None:
        self.model, self.average = (float_model(base.weights).to(options.device) for _ in range(2))
        self.optimizers = make_optimizers(self.model, options.rate, "muon")
        self.done = 0
        self._what = f"{base.digest} {steps} {replace(options, threads=None)}"
        self._file, self._saved = checkpoint, time.monotonic()
        self._parts = {"model": self.model, "average": self.average} | {
            f"optimizer {n}": optimizer for n, optimizer in enumerate(self.optimizers)
        }
        self._resume()

    def _resume(self) -> None:
        """Go on from the checkpoint, if it is whole and of the same training."""
        if self._file is None or not self._file.exists():
            return
        with suppress(RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile):
            state = torch.load(self._file, weights_only=True)
            if state["what"] == self._what:
                for name, part in self._parts.items():
                    part.load_state_dict(state[name])
                self.done = int(state["done"])

    def step(self, loss: torch.Tensor, options: FitOptions, steps: int) -> None:
        """Move the weights down the gradient of ``loss``."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = options.rate * learning_rate(self.done / steps, self.done)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        follow(self.average, self.model, options.ema, self.done)
        self.done += 1

    def save(self, *, now: bool = False) -> None:
        """Write the checkpoint, ``now`` or where the last one is older than CHECKPOINT_SECONDS. What cannot be written costs
        the next start time, and no more."""
        if self._file is None or (not now and time.monotonic() - self._saved < CHECKPOINT_SECONDS):
            return
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._parts.items()}
        temporary = self._file.with_suffix(".tmp")
        with suppress(OSError, RuntimeError):  # torch raises either for a full disk
            torch.save(state | {"what": self._what, "done": self.done}, temporary)
            os.replace(temporary, self._file)
        self._saved = time.monotonic()


def fit_model(
    base: IntegerModel,
    what: _Planned,
    total_pixels: float,
    options: FitOptions,
    progress: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
) -> tuple[MGCF, _Source]:
    """The base model's weights after training on plane groups, in floats. ``progress(step, steps)`` may raise to stop; with
    a ``checkpoint`` the next call goes on there."""
    with keep_freed_memory():
        return _fit(base, what, total_pixels, options, progress, checkpoint)


def _fit(
    base: IntegerModel,
    what: _Planned,
    total_pixels: float,
    options: FitOptions,
    progress: Callable[[int, int], None] | None,
    checkpoint: Path | None,
) -> tuple[MGCF, _Source]:
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    steps = _steps(total_pixels, options)
    source = _Source(what, options.seed, turned=options.turned)
    fit = _Fit(base, steps, options, checkpoint)
    fit.model.train()
    kind = torch.device(options.device).type
    native = native_bfloat16(options.device)
    while fit.done < steps:
        # large crops last: tiles are coded whole and have few pixels near a border
        large = fit.done >= 0.67 * steps
        shape = (max(1, options.batch // 4), 2 * options.crop) if large else (options.batch, options.crop)
        x, stats = source.batch(fit.done, *shape)
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=native):
            loss = fit.model.bits(x.to(options.device), stats.map(lambda v: v.to(options.device))).mean()
        fit.step(loss, options, steps)
        fit.save()
        if progress:
            try:
                progress(fit.done, steps)
            except BaseException:
                fit.save(now=True)
                raise
    return fit.average.cpu().eval(), source


def fit_models(
    images: Sequence[Image],
    *,
    models: ModelSet,
    options: FitOptions = FitOptions(),
    total_pixels: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    folder: Path | None = None,
) -> dict[str, IntegerModel]:
    """Models fitted to a sample of a collection, by the SHA-256 of those whose places they take; without those that would
    not save. ``total_pixels``: pixels (height times width) of the whole collection. ``folder``: for checkpoints, from which
    the next call goes on."""
    engine = Engine("auto", options.device, options.threads)
    found = _planned_with_guides(images, models, engine)
    sampled = float(sum(image.shape[0] * image.shape[1] for image in images)) or 1.0
    scale = max(1.0, (total_pixels or sampled) / sampled)
    fitted: dict[str, IntegerModel] = {}
    lengths = [(steps := _steps(scale * what.pixels, options)) + settling_steps(steps) for _, what in found.values()]
    for number, (digest, (base, what)) in enumerate(found.items()):

        def report(step: int, before: int = sum(lengths[:number])) -> None:
            if progress:
                progress(before + step, sum(lengths))

        checkpoint = folder / f"fitting-{digest}.pt" if folder is not None else None
        best = _fitted(base, models.get(digest), what, scale, options, engine, report, checkpoint)
        if best is not None:
            fitted[digest] = best
    return fitted


def _steps(total_pixels: float, options: FitOptions) -> int:
    return options.longer * fitting_steps(total_pixels) if options.steps is None else options.steps


def _fitted(
    base: IntegerModel, named: IntegerModel, what: _Planned, scale: float, options: FitOptions, engine: Engine,
    report: Callable[[int], None], checkpoint: Path | None,
) -> IntegerModel | None:
    """The fitted model, rounded and settled; None where the base model's code and bytes are fewer. ``named``: the model that
    the base is, or was made of."""
    steps = _steps(scale * what.pixels, options)
    each = settling_steps(steps)
    model, source = fit_model(base, what, scale * what.pixels, options, lambda step, _: report(step), checkpoint)
    numbers = itertools.count(1)  # of steps that settle

    def batch() -> Crops:
        number = next(numbers)
        report(steps + number)
        return source.batch(2 * MOST_STEPS + number, options.batch, options.crop)

    def settle(weights: IntegerWeights) -> MGCF:
        return settled(weights, batch, each, options.device)

    best = _rounded(base, named, model, source, what, scale, engine, settle)
    if next(numbers) <= each:  # no rounding was possible
        report(steps + each)
    return best


def _rounded(
    base: IntegerModel, named: IntegerModel, model: MGCF, source: _Source, what: _Planned, scale: float, engine: Engine,
    settle: Callable[[IntegerWeights], MGCF],
) -> IntegerModel | None:
    """The model in integers with the places that make code and model together smallest; None where the base model's are
    smaller. ``settle`` trains on what was not rounded coarsely."""

    def calibrated(model: MGCF, *, slopes: bool = False) -> Traces:
        crops = [source.batch(MOST_STEPS + n, CALIBRATION[1], 64) for n in range(CALIBRATION[0])]
        return trace(model, crops, slopes=slopes)

    if not _finite(model):
        return None  # training ran away
    traces = calibrated(model, slopes=True)
    pixels = scale * what.pixels
    some = what.plans[:: max(1, len(what.plans) // MEASURED)][:MEASURED]
    seen = sum(_sampled(image) * len(plan.channels) for image, plan in some)
    scale *= what.samples / seen

    def total(candidate: IntegerModel) -> float:
        bits = sum(estimate_bits(image, replace(plan, model=candidate), None, engine) for image, plan in some)
        return scale * bits / 8 + len(pack_model(candidate.raw))

    sizes: list[tuple[float, IntegerModel | None]] = [(total(base), None)]
    steps = _steps_that_pay(traces, pixels, sizes[0][0], lambda steps: total(_model(named, quantize(model, traces, steps=steps))))
    with suppress(InexactModel):
        finer_gates(traces, lambda: total(_model(named, quantize(model, traces, steps=steps))))
        candidate = _model(named, quantize(model, traces, steps=steps))
        sizes.append((total(candidate), candidate))
        after = settle(candidate.weights)
        if _finite(after):
            candidate = _model(named, quantize(after, with_gates_of(calibrated(after), traces), steps=steps))
            sizes.append((total(candidate), candidate))
    return min(sizes, key=lambda one: one[0])[1]


def _steps_that_pay(
    traces: Traces, pixels: float, unfitted: float, total: Callable[[dict[str, Steps]], float]
) -> dict[str, Steps]:
    """Steps of layers, ever finer until ``total`` with them is less than ``unfitted`` and hardly falls any more."""
    best, least = layer_steps(traces, pixels / COARSER), math.inf
    for rung in range(RUNGS):
        steps = layer_steps(traces, pixels / COARSER * FINER**rung)
        try:
            found = total(steps)
        except InexactModel:
            continue
        if found < (1 - SAVED) * least:
            best, least = steps, found
        elif least < unfitted:
            break
    return best


def _finite(model: MGCF) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def _sampled(image: Image) -> int:
    """Pixels of the sampled blocks."""
    return sum((bottom - top) * (right - left) for top, left, bottom, right in sample_boxes(*image.shape[:2]))


def _model(base: IntegerModel, weights: IntegerWeights) -> IntegerModel:
    licence = str(base.metadata.get("licence", "unknown"))
    record = {
        "training": {"fitted": {"name": base.name, "sha256": base.digest}},
        "licence": LICENCE.format(base=base.name, licence=licence),
    }
    return load_model(model_file(f"{base.name}-fitted", weights, dict(MixtureTables.build().as_dict()), record))
