"""Models fitted to a collection: kept for the next start of the run, where the archive will have them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from callic_archive.archive.codecs import Image
from callic_archive.archive.collection import (
    LEAST_FITTED,
    Sample,
    all_fitted,
    fitted_before,
    fitted_models,
    may_hold,
)
from callic_archive.archive.learned_codec import CallicPlan
from callic_archive.archive.scan import Source, scan
from callic_archive.archive.staging import Staging
from callic_archive.codec.fitting import fitting_steps
from callic_archive.model.weights import load_model
from tests.doubles import DeflatePlan
from tests.unit.model.builders import CONFORMANCE

BASE = "ab" * 32
RAW = (CONFORMANCE / "model-gray.safetensors").read_bytes()
DIGEST = hashlib.sha256(RAW).hexdigest()


class Fitting(DeflatePlan):
    """A plan that fits one model, and counts how often it did."""

    fits_models: bool = True
    fitted: list[int] = []  # noqa: RUF012 - shared on purpose

    def fit_models(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None], folder: Path
    ) -> Mapping[str, bytes]:
        self.fitted.append(total_pixels)
        return {BASE: RAW}


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    found = Staging(tmp_path / "x.callic")
    found.adapters.mkdir(parents=True)
    found.data.mkdir(exist_ok=True)
    return found


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    (tmp_path / "image").write_bytes(bytes(LEAST_FITTED))
    return scan([str(tmp_path / "image")]).sources


def enough() -> Sample:
    return Sample((np.zeros((600, 600), np.uint8),), 360_000, whole=True)


def fit(staging: Staging, sample: Callable[[], Sample | None] = enough) -> Mapping[str, Path]:
    Fitting.fitted.clear()
    return fitted_models(staging.adapters, staging.models, Fitting(), sample, lambda *_: None)


def before(staging: Staging) -> Mapping[str, Path] | None:
    return fitted_before(staging.adapters, staging.models)


def test_steps_to_fit_are_foreseen() -> None:
    plan = CallicPlan(adapt="model")
    assert plan.steps_to_fit(10**6) == fitting_steps(10**6) > 0
    assert replace(plan, longer=3).steps_to_fit(10**6) == 3 * fitting_steps(10**6)
    assert replace(plan, steps=7).steps_to_fit(10**6) == 7
    assert replace(plan, adapt="collection").steps_to_fit(10**6) == 0
    assert plan.declining(plan.model_files()).steps_to_fit(10**6) == 0


def test_what_was_fitted_lies_where_the_archive_will_have_it(staging: Staging) -> None:
    found = fit(staging)
    assert Fitting.fitted == [360_000]
    assert found == {BASE: staging.models.absolute() / f"{DIGEST}.model.xz"}
    assert load_model(found[BASE]).digest == DIGEST


def test_a_run_that_goes_on_has_the_models_of_the_run_before(staging: Staging) -> None:
    first = fit(staging)
    assert before(staging) == first
    assert fit(staging) == first
    assert Fitting.fitted == []


@pytest.mark.parametrize("damage", [b"", b"no model"])
def test_models_that_are_not_whole_are_fitted_again(staging: Staging, damage: bytes) -> None:
    (path,) = fit(staging).values()
    path.write_bytes(damage)
    assert before(staging) is None
    fit(staging)
    assert Fitting.fitted == [360_000]
    assert before(staging) is not None


@pytest.mark.parametrize("text", ["", "[]", "7", '{"a": "b"}', '{"a": 1}', f'{{"{BASE}": "../../x"}}'])
def test_a_list_of_something_else_is_none(staging: Staging, text: str) -> None:
    (staging.adapters / "fitted.json").write_text(text)
    assert not before(staging)


def test_small_collections_are_not_fitted_to(staging: Staging) -> None:
    assert fit(staging, lambda: None) == {}
    assert Fitting.fitted == []
    assert before(staging) == {}  # so the next start does not look again


def test_models_of_all_families_are_known(staging: Staging) -> None:
    fit(staging)
    (staging.adapters / "family-0").mkdir()
    assert fitted_models(
        staging.adapters / "family-0", staging.models, Fitting(), enough, lambda *_: None
    ) == before(staging)
    assert all_fitted(staging) == [DIGEST, DIGEST]


def test_a_file_of_few_bytes_is_not_even_looked_into(sources: list[Source], tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"few")
    assert not may_hold(scan([str(tmp_path / "small")]).sources, LEAST_FITTED)
    assert may_hold(sources, LEAST_FITTED)


def test_a_plan_uses_fitted_models_in_place_of_others(tmp_path: Path) -> None:
    plan = CallicPlan(adapt="model", quick=True)
    assert plan.fits_models
    assert not plan.trains
    gray = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    (digest,) = plan.models_for(gray) or ()
    (tmp_path / f"{DIGEST}.safetensors").write_bytes(RAW)
    fitted = plan.with_fitted({digest: tmp_path / f"{DIGEST}.safetensors"})
    assert fitted.models_for(gray) == (DIGEST,)
    assert set(plan.model_files()) ^ set(fitted.model_files()) == {digest, DIGEST}
    codec = fitted.open(threads=1)
    assert codec.inspect(codec.encode(gray)).models == (DIGEST,)
    (next_best,) = fitted.declining([DIGEST]).models_for(gray) or ()
    assert next_best not in (digest, DIGEST)
    assert not CallicPlan(adapt="model").declining(CallicPlan().model_files()).fits_models
