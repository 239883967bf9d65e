"""Models are declined where they save less than they take, and images then go through other coders."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callic_archive.archive import worth
from callic_archive.archive.candidates import smallest
from callic_archive.archive.codecs import Image
from callic_archive.archive.collection import Sample, take_sample
from callic_archive.archive.image_coding import encode_foreign
from callic_archive.archive.learned_codec import CallicPlan
from callic_archive.archive.scan import scan
from callic_archive.archive.staging import Staging
from callic_archive.archive.worth import CROP, Verdict, _drawn, judge, weigh, weigh_again
from callic_archive.errors import ForeignCodecMissing
from callic_archive.model.packed_file import pack_model
from callic_archive.model.weights import ModelSet
from tests.doubles import DeflateCodec, DeflatePlan
from tests.trees import SHARED, smooth, write_pnm

TOLD = worth.bytes_told  # which tests replace
GRAY, COLOUR, LITTLE = "aa" * 32, "bb" * 32, "cc" * 32


class Ideal(DeflateCodec):
    """Codes whatever it gets in some bytes a sample, or not at all."""

    def encode(self, image: Image) -> bytes:
        assert isinstance(self.plan, Weighed)
        weaker = self.plan.models_for(np.zeros((1, 1, 3), np.uint8)) == (LITTLE,)
        return bytes(int(image.size * (self.plan.bytes_a_sample + 0.1 * weaker)))


@dataclass(frozen=True)
class Weighed(DeflatePlan):
    """A plan with two models of some size, and perhaps one a tenth of that, which takes 0.1 bytes a sample more."""

    folder: Path = Path()
    bytes_a_sample: float = 0.0
    weighs_models: bool = True
    declined: tuple[str, ...] = ()

    def open(self, *_: Any, **__: Any) -> Ideal:
        return Ideal(self)

    def model_files(self) -> dict[str, Path]:
        return {digest: self.folder / digest for digest in (GRAY, COLOUR, LITTLE) if (self.folder / digest).exists()}

    def models_for(self, image: Image) -> tuple[str, ...] | None:
        kept = [digest for digest in self.model_files() if digest not in self.declined]
        channels = image.shape[2] if image.ndim == 3 else 1
        colour = [digest for digest in kept if digest != GRAY][:1]
        gray = [digest for digest in kept if digest == GRAY]
        wanted = {1: [gray], 3: [colour], 4: [colour, gray]}[channels]
        return tuple(one for (one,) in wanted) if all(wanted) else None

    def usable(self, payloads: Sequence[bytes]) -> tuple[bytes, ...]:
        return tuple(payloads) if set(self.model_files()) - set(self.declined) else ()

    def declining(self, digests: Collection[str]) -> Weighed:
        return replace(self, declined=(*self.declined, *digests))


def random(size: int) -> bytes:
    """What does not compress."""
    return np.random.default_rng(2).bytes(size)


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the bytes of models are all that is weighed."""
    monkeypatch.setattr(worth, "bytes_told", lambda: 0)


@pytest.fixture
def plan(tmp_path: Path) -> Weighed:
    (tmp_path / GRAY).write_bytes(random(15_200))
    (tmp_path / COLOUR).write_bytes(random(15_200))
    return Weighed(folder=tmp_path)


@pytest.fixture
def tiered(plan: Weighed) -> Weighed:
    """With a smaller model beside the one for colour images."""
    (plan.folder / LITTLE).write_bytes(random(1_520))
    return plan


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


def test_what_has_to_be_told_of_models_counts_once(plan: Weighed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 5000 < TOLD() < 12_000  # of the specification: codestream, model and entropy coding, less JPEG XL and its like
    images = [noisy(200, 200)] * 2
    before = judge(plan, sampled(*images))
    assert before.declined == (COLOUR,)
    monkeypatch.setattr(worth, "bytes_told", lambda: 50_000)
    found = judge(plan, sampled(*images))
    assert found.declined == (GRAY, COLOUR)
    assert found.cost == 50_000 + len(pack_model(random(15_200)))
    both = judge(plan, sampled(*images, *[noisy(200, 200, 3)] * 2))
    assert both.cost == 50_000 + 2 * len(pack_model(random(15_200)))  # for two models no more than for one


def test_what_is_not_enough_at_best_is_not_measured(plan: Weighed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ideal, "encode", lambda self, image: pytest.fail("measured"))
    found = judge(plan, sampled(noisy(200, 200)))
    assert not found.measured
    assert 0 < found.saved < found.cost == len(pack_model(random(15_200)))


def test_models_that_save_nothing_are_declined_however_many_images(plan: Weighed) -> None:
    found = judge(replace(plan, bytes_a_sample=0.9), sampled(*[noisy(200, 200)] * 20))
    assert found == Verdict((GRAY, COLOUR), 0, len(pack_model(random(15_200))), True)


def test_images_that_look_drawn_count_where_the_model_is_smaller(plan: Weighed) -> None:
    chance = np.random.default_rng(3)
    faint = (100 + (chance.random((200, 200)) < 0.1)).astype(np.uint8)
    assert _drawn(faint)
    assert judge(plan, sampled(*[faint] * 20)).declined == (COLOUR,)
    # A model that codes them worse takes nothing from what it saves on others.
    worse = replace(plan, bytes_a_sample=0.5)
    both = judge(worse, sampled(*[faint] * 20, *[noisy(200, 200)] * 20))
    assert both == judge(worse, sampled(*[noisy(200, 200)] * 20))


def test_images_that_are_no_larger_than_a_crop_are_taken_as_they_are(plan: Weighed) -> None:
    # A crop of JPEG XL's is taken for 3 % less: of whole images that would make models seem worth less than they are.
    other = len(encode_foreign(noisy(CROP, CROP), "jpegxl", 9))
    (plan.folder / GRAY).write_bytes(random(round(0.285 * other)))
    plan = replace(plan, bytes_a_sample=0.7 * other / CROP**2)
    assert judge(plan, sampled(noisy(CROP, CROP))).declined == (COLOUR,)
    assert judge(plan, sampled(noisy(CROP + 1, CROP))).declined == (GRAY, COLOUR)


def test_what_was_fitted_is_weighed_on_whole_images(plan: Weighed, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    encode = Ideal.encode
    monkeypatch.setattr(Ideal, "encode", lambda self, image: seen.append(image.shape) or encode(self, image))
    images = sampled(noisy(500, 700), noisy(450, 450))
    judge(replace(plan, fits_models=True), images, ())
    assert seen == [(500, 700), (450, 450)]
    seen.clear()
    judge(replace(plan, fits_models=True), images)
    assert set(seen) == {(CROP, CROP)}


def test_images_that_need_both_models_pay_for_both_together(plan: Weighed) -> None:
    four = [noisy(200, 200, 4)] * 2
    assert judge(plan, sampled(*four, *[noisy(200, 200)] * 2)).declined == ()
    assert judge(plan, sampled(four[0][:60, :60])).declined == (GRAY, COLOUR)


def test_of_two_models_the_one_is_used_that_leaves_the_archive_smaller(tiered: Weighed) -> None:
    image = noisy(200, 200, 3)  # 12 kB less are coded by the stronger model, which takes 13.7 kB more
    found = judge(tiered, sampled(image))
    assert found == Verdict(tuple(sorted((GRAY, COLOUR))), 0, 0, True, smaller=True)
    found = judge(tiered, sampled(image, image))
    assert found == Verdict(tuple(sorted((GRAY, LITTLE))), 0, 0, True, smaller=False)


def test_a_smaller_model_too_must_pay(tiered: Weighed) -> None:
    found = judge(replace(tiered, bytes_a_sample=0.9), sampled(noisy(200, 200, 3)))
    assert found == Verdict((GRAY, COLOUR, LITTLE), 0, len(pack_model(random(1_520))), True, smaller=False)


def test_images_that_need_a_declined_model_are_left_to_other_coders(tiered: Weighed) -> None:
    four = noisy(60, 60, 4)  # needs the model for gray planes too, which does not pay
    found = judge(tiered, sampled(four, noisy(200, 200, 3)))
    assert found.declined == tuple(sorted((GRAY, COLOUR)))
    assert 0 < found.saved < found.cost == len(pack_model(random(15_200)))


def test_what_an_adapter_will_save_is_hoped_for_until_it_is_there(plan: Weighed) -> None:
    sample = sampled(*[noisy(200, 200)] * 30)
    close = replace(plan, trains=True, bytes_a_sample=0.61)  # nearly what JPEG XL takes
    assert judge(replace(close, trains=False), sample).declined == (GRAY, COLOUR)
    assert judge(close, sample).declined == (COLOUR,)
    fitted = judge(close, sample, [bytes(3000)])  # and saves nothing
    assert fitted.declined == (GRAY, COLOUR)
    assert fitted.cost == len(pack_model(random(15_200))) + 3000
    good = replace(close, bytes_a_sample=0.58)
    assert judge(good, sample, [bytes(3000)]).declined == (COLOUR,)


@dataclass(frozen=True)
class Hoping:
    """A run whose model pays only with what an adapter usually saves."""

    staging: Staging
    plan: Weighed
    sample: Sample
    verdict: Verdict

    def again(self, adapters: Sequence[bytes], *, anew: bool = True) -> Verdict:
        """With adapters that were fitted; not ``anew``: without measuring anything."""
        kept = self.plan.declining(self.verdict.declined)
        sample = (lambda: self.sample) if anew else (lambda: pytest.fail("measured"))
        return weigh_again(self.staging.adapters, kept, adapters, sample, self.verdict)


@pytest.fixture
def hoping(plan: Weighed, tmp_path: Path) -> Iterator[Hoping]:
    sample = sampled(*[noisy(200, 200)] * 30)
    plan = replace(plan, trains=True, bytes_a_sample=0.61)
    with Staging(tmp_path / "x.callic") as staging:
        staging.open({})
        verdict = weigh(staging.adapters, plan, lambda: sample)
        assert (verdict.declined, verdict.hoped) == ((COLOUR,), True)
        yield Hoping(staging, plan, sample, verdict)


def test_fitted_adapters_decide_what_was_hoped_before(hoping: Hoping) -> None:
    found = hoping.again([bytes(3000)])
    assert found.declined == (GRAY, COLOUR)
    assert 0 < found.saved < found.cost
    again = weigh(hoping.staging.adapters, hoping.plan, lambda: pytest.fail("measured"))
    assert again == hoping.verdict, "a run that is gone on with trains the same"
    assert hoping.again([bytes(3000)], anew=False) == found


def test_where_no_adapter_comes_out_hope_is_taken_back(hoping: Hoping) -> None:
    assert hoping.again([]).declined == (GRAY, COLOUR)


def test_what_was_not_hoped_is_not_weighed_again(hoping: Hoping) -> None:
    sure = replace(hoping.verdict, hoped=False)
    assert replace(hoping, verdict=sure).again([bytes(3000)], anew=False) == sure


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
        first = weigh(staging.adapters, plan, lambda: images[0])
        assert first.declined == (GRAY, COLOUR)
        assert weigh(staging.adapters, plan, lambda: images[1]) == first
        (staging.adapters / "declined.json").write_bytes(b"half a")
        assert weigh(staging.adapters, plan, lambda: images[1]).declined == (COLOUR,)


def test_samples_tell_whether_they_are_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate("abc"):
        write_pnm(tmp_path / "tree" / f"{name}.pgm", smooth(64, 64) + np.uint8(number))
    sources = scan((str(tmp_path / "tree"),)).sources
    assert take_sample(sources).whole
    monkeypatch.setattr("callic_archive.archive.collection.SAMPLE_BYTES", 64 * 64 * 2)
    assert not take_sample(sources).whole


def test_copies_count_once_as_they_are_packed_once(tmp_path: Path) -> None:
    image = noisy(64, 64)
    other = image.copy()
    other[20, 20] ^= 1  # of equal size, and equal where files are looked at first
    for number in range(6):
        write_pnm(tmp_path / "tree" / f"{number}.pgm", image)
    write_pnm(tmp_path / "tree" / "other.pgm", other)
    sample = take_sample(scan((str(tmp_path / "tree"),)).sources)
    assert sample.whole
    assert sample.total_pixels == sample.pixels == 2 * 64 * 64
    assert sorted(image.tobytes() for image in sample.images) == sorted((image.tobytes(), other.tobytes()))


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
    (colour,) = plan.models_for(noisy(9, 9, 3)) or ()
    (gray,) = plan.models_for(noisy(9, 9, 3).astype(np.uint16)) or ()
    codec = plan.declining([colour]).open()
    image = noisy(40, 120, 3).astype(np.uint16) * 9
    coded = smallest(image, codec)
    assert coded.coding == "codestream"
    assert coded.stream.models == (gray,)
    assert np.array_equal(codec.decode(coded.payload), image)


@pytest.mark.skipif(not (SHARED / "eval/mr").is_dir(), reason="needs the shared images (set CALLIC_SHARED)")
def test_ten_slices_of_an_mr_series_earn_the_tiny_model_for_gray_planes_alone() -> None:
    sample = take_sample(scan((str(SHARED / "eval/mr"),)).sources)
    assert len(sample.images) == 9  # one is there twice
    found = judge(CallicPlan(adapt="model", learned="auto"), sample)
    assert [model.name for model in ModelSet.default() if model.digest not in found.declined] == ["gray16-tiny"]
    assert found.smaller
    assert (found.saved, found.cost) == (0, 0)


def test_what_an_image_really_needs_counts_not_its_channels() -> None:
    models = {model.name: model.digest for model in ModelSet.default()}
    plan = CallicPlan()
    a, b = noisy(40, 40), noisy(40, 40)[::-1]
    opaque = np.full_like(a, 255)
    assert plan.models_for(np.dstack([a, b, a])) == (models["gray16"],), "two planes, each alone"
    assert plan.models_for(np.dstack([a, a, a])) == (models["gray16"],)
    assert plan.models_for(np.dstack([a, b, b // 2, opaque])) == (models["rgb8"],), "constant planes need none"
    assert plan.models_for(np.dstack([a, b, b // 2, b // 3])) == (models["gray16"], models["rgb8"])
    assert plan.models_for(opaque) == ()
    gone = plan.declining([models[name] for name in ("gray16", "gray16-small", "gray16-tiny", "gray16-nano")])
    assert gone.models_for(np.dstack([a, b, a])) is None
    assert gone.models_for(np.dstack([a, b, b // 2])) == (models["rgb8"],)


def test_crops_that_show_less_than_their_images_stop_nothing() -> None:
    """Of colour images with a gray half, of images with two equal channels, and of tiny gray ones that are stored as RGB."""
    half = noisy(400, 800, 3)
    half[:, :400] = half[:, :400, :1]
    a, b = noisy(80, 80), noisy(80, 80)[::-1]
    tiny = np.dstack([a, a, a])[:60, :60]
    plan = CallicPlan(learned="auto", quick=True)
    found = judge(plan, sampled(half, np.dstack([a, b, a]), *[tiny] * 40))
    assert set(found.declined) <= set(plan.model_files())


def test_images_without_models_are_left_out_of_training() -> None:
    digests = {model.name: model.digest for model in ModelSet.default()}
    colour, gray = digests["rgb8-tiny"], digests["gray16-tiny"]
    plan = CallicPlan(adapt="collection", steps=2, learned="auto").declining({*digests.values()} - {colour, gray})
    only = plan.declining([gray])
    trained = only.train([noisy(150, 150), noisy(150, 150, 3)], 10**9, lambda *_: None)
    assert len(trained) <= 1
    assert only.usable(list(trained.values())) == tuple(trained.values())
    assert plan.declining([colour]).usable(list(trained.values())) == ()


def test_weighing_fits_no_adapter_to_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callic_archive.codec.adapt.fit_image", lambda *_, **__: pytest.fail("fitted"))
    plan = CallicPlan(adapt="both", learned="auto", quick=True)
    judge(plan, sampled(*[noisy(380, 380)] * 6))
