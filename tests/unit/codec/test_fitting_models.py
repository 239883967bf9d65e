"""Models fitted to images in place of adapters: that they save, that they decode, what becomes of those that do not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from callic_archive.codec.crops import random_crop
from callic_archive.codec.decoder import decode_image
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.codec.engine import Engine
from callic_archive.codec.fitting import (
    MOST_STEPS,
    FitOptions,
    fit_model,
    fit_models,
    fitting_steps,
    planned,
)
from callic_archive.codec.planning import ConstantGroup, estimate_bits, plan_image
from callic_archive.codec.settling import settled, settling_steps
from callic_archive.codec.train_schedule import block_matrices
from callic_archive.model.dequantize import float_model
from callic_archive.model.packed_file import pack_model
from callic_archive.model.quantize import quantize
from callic_archive.model.weights import IntegerModel, IntegerWeights, ModelSet
from tests.unit.model.builders import tiny_models

ENGINE = Engine("numpy", "cpu", 1)
QUICK = FitOptions(steps=30, rate=4e-3, threads=1)


def texture(side: int, seed: int, channels: int = 1) -> NDArray[np.uint8]:
    """What the tiny models have never seen; alike in all channels but for noise."""
    i, j = np.indices((side, side))
    values = 128 + 60 * np.sin(2.1 * i) * np.cos(1.3 * j)
    planes = values[:, :, None] + np.random.default_rng(seed).normal(0, 2, (side, side, channels))
    found: NDArray[np.uint8] = np.clip(np.rint(planes), 0, 255).astype(np.uint8)
    return found if channels > 1 else found[:, :, 0]


def bits(image: NDArray[np.uint8], model: IntegerModel) -> float:
    planes = image if image.ndim == 3 else image[:, :, None]
    groups = plan_image(planes, ModelSet([model]), ENGINE).groups
    return sum(estimate_bits(planes, g, None, ENGINE) for g in groups if not isinstance(g, ConstantGroup))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_fitted_model_saves_and_decodes(channels: int) -> None:
    models, images = tiny_models(), [texture(160, seed, channels) for seed in range(3)]
    base = models.for_channels(channels)
    assert base is not None
    told: list[tuple[int, int]] = []
    fitted = fit_models(images, models=models, options=QUICK, total_pixels=1e6, progress=lambda *at: told.append(at))
    assert list(fitted) == [base.digest]
    every = 30 + settling_steps(30)
    assert told[:30] == [(step, every) for step in range(1, 31)]
    assert told[-1] == (every, every)
    model = fitted[base.digest]
    assert (model.name, model.channels, model.weights.config) == (f"{base.name}-fitted", channels, base.weights.config)
    assert model.metadata["training"] == {"fitted": {"name": base.name, "sha256": base.digest}}
    assert base.name in str(model.metadata["licence"])
    assert bits(images[0], model) < 0.9 * bits(images[0], base)
    only = ModelSet([model])
    raw = encode_image(images[0], models=only, options=EncodeOptions(threads=1))
    assert np.array_equal(decode_image(raw, models=only, threads=1), images[0])


def test_weights_are_the_coarser_the_less_there_is_to_code() -> None:
    models, images = tiny_models(), [texture(160, 0)]
    sizes = []
    for total in (2e4, 1e9):
        (model,) = fit_models(images, models=models, options=QUICK, total_pixels=total).values()
        sizes.append(len(pack_model(model.raw)))
    assert sizes[0] < sizes[1]


def test_what_settles_makes_up_for_coarse_rounding_and_keeps_the_matrices() -> None:
    models, image = tiny_models(), texture(160, 0)
    (what,) = planned([image], models, ENGINE).values()
    (base,) = (m for m in models if m.channels == 1)
    model, source = fit_model(base, what, image.size, replace(QUICK, steps=60))
    batches = [source.batch(number, 8, 64) for number in range(3)]
    coarse = quantize(model, batches, coarse=5)
    numbers = itertools.count(1000)
    after = settled(coarse, lambda: source.batch(next(numbers), 8, 64), 40)
    again = quantize(after, batches, coarse=5)
    for old, new in zip(*(block_matrices(float_model(w)) for w in (coarse, again)), strict=True):
        assert torch.equal(old, new)
    assert not np.array_equal(coarse.blocks[0].dw.kernel, again.blocks[0].dw.kernel)

    def length(weights: IntegerWeights) -> float:
        ((planes, group),) = what.plans
        model = replace(base, digest=str(id(weights)), weights=weights)
        return estimate_bits(planes, replace(group, model=model), None, ENGINE)

    lossless, lost, left = (length(w) for w in (quantize(model, batches), coarse, again))
    assert lost > left
    assert lost - left > 0.25 * (lost - lossless)


def test_a_model_that_does_not_save_is_left_out() -> None:
    # Of much to code, weights that training has spoilt save nothing, however coarse.
    noise = np.random.default_rng(0).integers(0, 256, (160, 160), np.uint8)
    spoilt = replace(QUICK, steps=40, rate=3.0)
    assert fit_models([noise], models=tiny_models(), options=spoilt, total_pixels=1e9) == {}


def test_a_training_that_ran_away_leaves_the_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callic_archive.codec.fitting.learning_rate", lambda *_: float("nan"))
    assert fit_models([texture(160, 0)], models=tiny_models(), options=replace(QUICK, steps=2)) == {}


def test_models_of_which_no_image_has_need_are_left_alone() -> None:
    constant, tiny = np.full((90, 90), 7, np.uint8), texture(160, 0)[:5, :5]
    assert fit_models([constant, tiny], models=tiny_models(), options=QUICK) == {}
    assert fit_models([], models=tiny_models(), options=QUICK) == {}


def test_what_is_trained_on_is_what_will_be_coded() -> None:
    image = np.dstack([texture(64, 1).astype(np.uint16) * 40, texture(64, 2).astype(np.uint16) * 40])
    (what,) = planned([image], tiny_models(), ENGINE).values()
    groups = [g for g in plan_image(image, tiny_models(), ENGINE).groups if not isinstance(g, ConstantGroup)]
    assert len(what.levels) == len(groups) == 2
    for levels, group in zip(what.levels, groups, strict=True):
        assert np.array_equal(levels, group.levels(image, (0, 0, 64, 64)))  # predictions and packing among it


def test_crops_are_not_turned_where_that_is_not_wanted() -> None:
    planes, rng = np.arange(40 * 50, dtype=np.uint16).reshape(1, 40, 50), np.random.default_rng(0)
    for _ in range(20):
        crop = random_crop(planes, 16, rng, turned=False)[0]
        top, left = divmod(int(crop[0, 0]), 50)
        assert np.array_equal(crop, planes[0, top : top + 16, left : left + 16])


def test_steps_grow_with_the_pixels() -> None:
    assert fitting_steps(0) == 1
    assert fitting_steps(1e12) == MOST_STEPS
    assert [fitting_steps(pixels) for pixels in (0.4e6, 3e6, 10e6)] == [480, 1700, 3800]


def test_what_was_stopped_goes_on_and_ends_alike(tmp_path: Path) -> None:
    images = [texture(160, 0)]

    def fit(folder: Path | None, stop_at: int | None = None) -> tuple[list[int], dict[str, IntegerModel]]:
        seen: list[int] = []

        def progress(step: int, steps: int) -> None:
            seen.append(step)
            if step == stop_at:
                raise InterruptedError

        return seen, fit_models(images, models=tiny_models(), options=QUICK, progress=progress, folder=folder)

    whole = fit(None)[1]
    with pytest.raises(InterruptedError):
        fit(tmp_path, stop_at=11)
    steps, resumed = fit(tmp_path)
    assert steps[:19] == list(range(12, 31))
    assert steps == sorted(steps)
    assert steps[-1] == 30 + settling_steps(30)
    assert {model.digest for model in resumed.values()} == {model.digest for model in whole.values()}
    (checkpoint,) = tmp_path.iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InterruptedError):  # damaged: from the beginning
        fit(tmp_path, stop_at=3)
    other = replace(QUICK, rate=1e-3)  # of another training: from the beginning too
    told: list[int] = []
    fit_models(images, models=tiny_models(), options=other, progress=lambda step, _: told.append(step), folder=tmp_path)
    assert told[0] == 1


def test_a_checkpoint_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callic_archive.codec.fitting.CHECKPOINT_SECONDS", 0.0)
    folder = tmp_path / "missing"
    options = replace(QUICK, steps=2)
    assert len(fit_models([texture(160, 0)], models=tiny_models(), options=options, folder=folder)) == 1


def test_progress_counts_the_steps_of_all_models() -> None:
    images, told = [texture(160, 0), texture(90, 1, 3)], list[tuple[int, int]]()
    fit_models(images, models=tiny_models(), options=FitOptions(threads=1), progress=lambda *at: told.append(at))
    (total,) = {total for _, total in told}
    assert [step for step, _ in told] == sorted(step for step, _ in told)
    assert told[-1] == (total, total)
    assert total < 2 * (fitting_steps(160 * 160) + settling_steps(fitting_steps(160 * 160)))  # the other takes fewer
