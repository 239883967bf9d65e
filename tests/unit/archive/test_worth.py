"""Models are declined where they save less than they take, and images then go through other coders."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callic_archive.archive import worth
from callic_archive.archive.candidates import smallest
from callic_archive.archive.codecs import Image
from callic_archive.archive.collection import Sample, take_sample
from callic_archive.archive.learned_codec import CallicPlan
from callic_archive.archive.scan import scan
from callic_archive.archive.staging import Staging
from callic_archive.archive.worth import Verdict, judge, weigh
from callic_archive.errors import ForeignCodecMissing
from tests.doubles import DeflateCodec, DeflatePlan
from tests.trees import smooth, write_pnm

GRAY, COLOUR = "aa" * 32, "bb" * 32


class Ideal(DeflateCodec):
    """Codes whatever it gets in some bytes a sample, or not at all."""

    def encode(self, image: Image) -> bytes:
        assert isinstance(self.plan, Weighed)
        return bytes(int(image.size * self.plan.bytes_a_sample))


@dataclass(frozen=True)
class Weighed(DeflatePlan):
    """A plan with two models of some size."""

    folder: Path = Path()
    bytes_a_sample: float = 0.0
    weighs_models: bool = True

    def open(self, *_: Any, **__: Any) -> Ideal:
        return Ideal(self)

    def model_files(self) -> dict[str, Path]:
        return {GRAY: self.folder / GRAY, COLOUR: self.folder / COLOUR}

    def models_for(self, channels: int, itemsize: int) -> tuple[str, ...]:
        return ((COLOUR,) if channels >= 3 else ()) + ((GRAY,) if channels != 3 else ())

    def declining(self, digests: Collection[str]) -> Weighed:
        return self


@pytest.fixture
def plan(tmp_path: Path) -> Weighed:
    (tmp_path / GRAY).write_bytes(bytes(20_000))
    (tmp_path / COLOUR).write_bytes(bytes(20_000))
    return Weighed(folder=tmp_path)


def noisy(*shape: int) -> Image:
    """A sensor's image: noise over something smooth, which no coder makes small."""
    chance = np.random.default_rng(1)
    base = smooth(*shape).astype(np.int64)
    return np.clip(base + chance.normal(0, 6, shape).astype(np.int64), 0, 255).astype(np.uint8)


def sampled(*images: Image, whole: bool = True) -> Sample:
    return Sample(images, sum(image.shape[0] * image.shape[1] for image in images), whole)


def test_a_model_that_saves_less_than_it_takes_is_declined(plan: Weighed) -> None:
    few, many = sampled(noisy(200, 200)), sampled(*[noisy(200, 200)] * 20)
    assert judge(plan, few).declined == (GRAY, COLOUR)
    found = judge(plan, many)  # half a megabyte saved, and no colour image at all
    assert found.declined == (COLOUR,)
    assert (found.saved, found.cost) == (0, 0)  # nothing of these images is lost by that


def test_what_is_not_enough_at_best_is_not_measured(plan: Weighed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ideal, "encode", lambda self, image: pytest.fail("measured"))
    found = judge(plan, sampled(noisy(200, 200)))
    assert not found.measured
    assert 0 < found.saved < found.cost == round(20_000 * worth.IN_ARCHIVE)


def test_models_that_save_nothing_are_declined_however_many_images(plan: Weighed) -> None:
    found = judge(replace(plan, bytes_a_sample=0.9), sampled(*[noisy(200, 200)] * 20))
    assert found == Verdict((GRAY, COLOUR), 0, round(20_000 * worth.IN_ARCHIVE), True)


def test_images_that_need_both_models_pay_for_both_together(plan: Weighed) -> None:
    four = [noisy(200, 200, 4)] * 2
    assert judge(plan, sampled(*four, *[noisy(200, 200)] * 2)).declined == ()
    assert judge(plan, sampled(four[0][:60, :60])).declined == (GRAY, COLOUR)


def test_drawn_images_earn_no_model(plan: Weighed) -> None:
    drawn = np.zeros((900, 900), np.uint8)
    drawn[200:500, 300:700] = 200
    assert judge(plan, sampled(*[drawn] * 9)).declined == (GRAY, COLOUR)


def test_many_tiny_images_earn_one(plan: Weighed) -> None:
    tiny = noisy(60, 60)
    assert judge(plan, sampled(*[tiny] * 9)).declined == (GRAY, COLOUR)
    assert judge(plan, sampled(*[tiny] * 99)).declined == (COLOUR,)


@pytest.mark.parametrize("sample", [sampled(), sampled(noisy(99, 99), whole=False)], ids=["empty", "part"])
def test_where_not_all_images_were_seen_nothing_is_declined(plan: Weighed, sample: Sample) -> None:
    assert judge(plan, sample) == Verdict()


def test_without_jpeg_xl_nothing_is_declined(plan: Weighed, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> bytes:
        raise ForeignCodecMissing("not installed")

    monkeypatch.setattr(worth, "encode_foreign", missing)
    assert judge(plan, sampled(noisy(200, 200))).declined == (COLOUR,)


def test_a_run_that_is_gone_on_with_keeps_its_verdict(plan: Weighed, tmp_path: Path) -> None:
    images: Sequence[Sample] = [sampled(noisy(200, 200)), sampled(*[noisy(200, 200)] * 20)]
    with Staging(tmp_path / "x.callic") as staging:
        staging.open({})
        first = weigh(staging, plan, lambda: images[0])
        assert first.declined == (GRAY, COLOUR)
        assert weigh(staging, plan, lambda: images[1]) == first
        (staging.adapters / "declined.json").write_bytes(b"half a")
        assert weigh(staging, plan, lambda: images[1]).declined == (COLOUR,)


def test_samples_tell_whether_they_are_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_pnm(tmp_path / "tree" / f"{name}.pgm", smooth(64, 64))
    sources = scan((str(tmp_path / "tree"),)).sources
    assert take_sample(sources).whole
    monkeypatch.setattr("callic_archive.archive.collection.SAMPLE_BYTES", 64 * 64 * 2)
    assert not take_sample(sources).whole


@pytest.mark.parametrize("shape", [(70, 300), (70, 300, 3), (70, 300, 4), (70, 300, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_images_whose_models_are_declined_are_coded_otherwise(shape: tuple[int, ...], dtype: type) -> None:
    plan = CallicPlan(learned="never")
    codec = plan.declining(plan.model_files()).open()
    coded = smallest(noisy(*shape).astype(dtype), codec)
    assert coded.proven
    assert coded.coding in ("jpegxl", "webp", "samples")


def test_a_wide_triple_needs_no_model_of_three_planes() -> None:
    plan = CallicPlan()
    (colour,) = plan.models_for(3, 1)
    (gray,) = plan.models_for(3, 2)
    codec = plan.declining([colour]).open()
    image = noisy(40, 120, 3).astype(np.uint16) * 9
    coded = smallest(image, codec)
    assert coded.coding == "codestream"
    assert coded.stream.models == (gray,)
    assert np.array_equal(codec.decode(coded.payload), image)
