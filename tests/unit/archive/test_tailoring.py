"""Families of images get models of their own, and each image the one of all these that codes it smallest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from callic_archive.archive.codecs import Image
from callic_archive.archive.collection import Sample
from callic_archive.archive.learned_codec import CallicPlan
from callic_archive.archive.staging import Staging
from callic_archive.archive.tailoring import Stages, Tailored, tailored
from callic_archive.archive.worth import HOPED_OF_FAMILY, Verdict
from callic_archive.model.weights import load_model, model_file
from tests.trees import smooth
from tests.unit.model.builders import CONFORMANCE


@dataclass(frozen=True)
class Sorted(CallicPlan):
    """The plan of the package, but images are told apart by their type."""

    def families(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> list[list[int]]:
        kinds = sorted({image.dtype.name for image in images})
        return [[n for n, image in enumerate(images) if image.dtype.name == kind] for kind in kinds]


TINY = (CONFORMANCE / "model-gray.safetensors", CONFORMANCE / "model-rgb.safetensors")


def image(kind: type, seed: int) -> Image:
    chance = np.random.default_rng(seed)
    if kind is np.uint8:
        return smooth(300, 300) + chance.integers(0, 6, (300, 300)).astype(np.uint8)
    detail = chance.integers(0, 300, (300 + seed, 300))  # of no two alike, nor of one size: bands of no scene
    return (smooth(300 + seed, 300).astype(np.uint16) * 40 + detail).astype(np.uint16)


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    with Staging(tmp_path / "x.callic") as found:
        found.open({})
        yield found


SAMPLE = Sample(tuple(image(kind, seed) for seed in range(3) for kind in (np.uint8, np.uint16)), 6 * 90_600, whole=True)


@dataclass(frozen=True)
class Quick(Sorted):
    """Fits at once: the model that was there, by another name."""

    def fit_models(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None], folder: Path
    ) -> Mapping[str, bytes]:
        base = load_model(TINY[0])
        return {base.digest: model_file(f"for {images[0].dtype}", base.weights, base.mixture, {})}


def tailor(staging: Staging, plan: CallicPlan, sample: Callable[[], Sample] = lambda: SAMPLE) -> tuple[Tailored, list[str]]:
    stages: list[str] = []
    return tailored(staging, plan, True, sample, Stages(stages.append, lambda *_: None)), stages


def test_each_family_gets_models_of_its_own(staging: Staging) -> None:
    found, stages = tailor(staging, Sorted(adapt="model", steps=3, models=TINY))
    assert stages == [
        "looking for kinds of image",
        "fitting the models to the collection (kind of image 1 of 2)",
        "fitting the models to the collection (kind of image 2 of 2)",
    ]
    assert len(found.fitted) == 2
    assert len({load_model(path).digest for path in found.fitted}) == 2
    files = found.plan.model_files()
    assert {path for path in files.values() if path in found.fitted} == set(found.fitted)
    codec = found.plan.open(threads=1)
    for one in SAMPLE.images:
        coded = codec.encode(one)
        assert np.array_equal(codec.decode(coded), one)
        (digest,) = codec.inspect(coded).models
        assert files[digest] in found.fitted
        assert len(coded) <= min(len(_only(found.plan, path).encode(one)) for path in found.fitted)


def _only(plan: object, path: Path):  # type: ignore[no-untyped-def] # a codec
    assert isinstance(plan, CallicPlan)
    digest = load_model(path).digest
    return replace(plan, rivals=((digest, path),)).open(threads=1)


def test_a_run_that_goes_on_neither_looks_nor_fits_again(staging: Staging) -> None:
    plan = Quick(adapt="model", models=TINY)
    first, _ = tailor(staging, plan)
    again, _ = tailor(staging, plan, lambda: pytest.fail("a sample was taken"))
    assert again == first


@pytest.mark.parametrize("text", ["", "7", "[[-1]]", '[["a"]]', "{}"])
def test_families_that_are_none_are_looked_for_again(staging: Staging, text: str) -> None:
    plan = Quick(adapt="model", models=TINY)
    first, _ = tailor(staging, plan)
    (staging.adapters / "families.json").write_text(text)
    again, _ = tailor(staging, plan)
    assert again == first
    assert json.loads((staging.adapters / "families.json").read_text()) == [[1, 3, 5], [0, 2, 4]]


@dataclass(frozen=True)
class Declining(Sorted):
    """Fits nothing."""

    def fit_models(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None], folder: Path
    ) -> Mapping[str, bytes]:
        return {}


def test_what_no_family_wants_is_declined(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Declining(adapt="model", learned="auto")
    gray = [digest for digest, path in plan.model_files().items() if path.name.startswith("gray16")]
    others = set(plan.model_files()) - set(gray)
    hopes: list[float] = []

    def judge(plan: CallicPlan, sample: Sample, *_: object, hope: float) -> Verdict:
        hopes.append(hope)
        kept = gray[1] if sample.images[0].dtype == np.uint8 else gray[0]
        return Verdict(tuple(set(plan.model_files()) - {kept}), 10, 20, kept == gray[1])

    monkeypatch.setattr("callic_archive.archive.worth.judge", judge)
    found, _ = tailor(staging, plan)
    assert set(found.verdict.declined) == {*others, *gray[2:]}
    assert (found.verdict.saved, found.verdict.cost, found.verdict.measured) == (20, 40, False)
    assert set(found.plan.models_for(SAMPLE.images[0]) or ()) < {*gray[:2]}
    assert set(found.plan.model_files()) - set(found.verdict.declined) == {*gray[:2]}
    assert found.fitted == ()
    assert hopes == [HOPED_OF_FAMILY] * 2


def test_where_a_family_would_have_no_model_all_are_taken_together(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Declining(adapt="model", learned="auto")
    gray = [digest for digest, path in plan.model_files().items() if path.name.startswith("gray16")]

    def judge(plan: CallicPlan, sample: Sample, *_: object, hope: float) -> Verdict:
        eight = {image.dtype == np.uint8 for image in sample.images}
        return Verdict(tuple(set(plan.model_files()) - ({gray[0]} if eight != {True} else set())))

    monkeypatch.setattr("callic_archive.archive.worth.judge", judge)
    found, stages = tailor(staging, plan)
    assert stages[-1] == "fitting the models to the collection"
    assert isinstance(found.plan, CallicPlan)
    assert found.plan.rivals == ()
    assert found.plan.models_for(SAMPLE.images[0]) == (gray[0],)


def test_where_all_images_are_alike_there_is_one_family(staging: Staging) -> None:
    alike = Sample(SAMPLE.images[::2], 3 * 90_000, whole=True)
    found, stages = tailor(staging, Quick(adapt="model", models=TINY), lambda: alike)
    assert not any("kind of image 1" in stage for stage in stages)
    assert len(found.fitted) == 1
    assert isinstance(found.plan, CallicPlan)
    assert found.plan.rivals == ()


def test_a_plan_that_fits_nothing_is_left_as_it_is(staging: Staging) -> None:
    plan = Sorted(adapt="none")
    found, stages = tailor(staging, plan, lambda: pytest.fail("a sample was taken"))
    assert (found.plan, found.fitted, stages) == (plan, (), [])
