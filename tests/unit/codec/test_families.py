"""Images of different kinds want models of their own where that saves more than the models take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from callic_archive.codec import families as module
from callic_archive.codec.engine import Engine
from callic_archive.codec.families import MOST_FAMILIES, UNIT, _families, _Look, families
from callic_archive.codec.families import Image as Samples
from callic_archive.codec.planning import plan_image
from callic_archive.model.weights import ModelSet

CHANCE = np.random.default_rng(7)
MODEL = 30_000.0


def look(towards: int, code: float, strength: float = 5.0, weights: int = 200) -> _Look:
    """An image that would have the weights changed in one of a few directions, and by chance in all."""
    wanted = np.random.default_rng(towards).normal(0, strength, weights)
    return _Look(code, (UNIT * (wanted + CHANCE.normal(0, 1, weights)), UNIT * (wanted + CHANCE.normal(0, 1, weights))))


def sets(looks: Sequence[dict[int, _Look]], scale: float = 1.0) -> list[list[int]]:
    return _families(looks, {1: MODEL, 3: MODEL}, scale)


def test_images_of_two_kinds_are_two_families() -> None:
    looks = [{1: look(n % 2, 300_000)} for n in range(8)]
    assert sorted(sets(looks)) == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_families_whose_models_would_take_what_they_save_are_one() -> None:
    looks = [{1: look(n % 2, 3_000)} for n in range(8)]
    assert sets(looks) == [list(range(8))]
    assert len(sets(looks, scale=100.0)) == 2, "of a collection a hundred times as large they would not"


def test_what_a_model_knows_already_is_one_family() -> None:
    looks = [{1: look(n, 500_000, strength=0.0)} for n in range(8)]
    assert sets(looks) == [list(range(8))]


def test_images_that_share_no_model_lose_nothing_apart() -> None:
    looks = [{1: look(0, 300_000)}, {3: look(1, 400_000)}, {1: look(0, 300_000)}]
    assert sets(looks) == [[0, 2], [1]]


def test_images_of_four_planes_belong_to_those_that_share_most() -> None:
    colours = [{3: look(0, 300_000)} for _ in range(3)]
    near_infrared = {3: look(0, 300_000), 1: look(1, 100_000)}
    assert sets([*colours, near_infrared]) == [[0, 1, 2, 3]]
    other = {3: look(2, 3_000_000), 1: look(1, 100_000)}
    assert sorted(sets([*colours, other])) == [[0, 1, 2], [3]]


def test_there_are_never_more_families_than_each_image_can_be_tried_with() -> None:
    found = sets([{1: look(n, 50_000_000)} for n in range(12)])
    assert len(found) == MOST_FAMILIES
    assert sorted(place for one in found for place in one) == list(range(12))


def test_one_image_with_huge_gradients_does_not_hide_what_others_differ_by() -> None:
    looks = [{1: look(n % 2, 300_000)} for n in range(8)]
    huge = look(5, 1_000)
    looks.append({1: _Look(huge.code, (1e4 * huge.gradients[0], 1e4 * huge.gradients[1]))})
    assert {tuple(n for n in one if n < 8) for one in sets(looks)} - {()} == {(0, 2, 4, 6), (1, 3, 5, 7)}


def test_the_first_family_has_the_most_bytes() -> None:
    looks = [{1: look(0, 400_000)}, {1: look(1, 900_000)}, {1: look(0, 400_000)}]
    assert sets(looks) == [[1], [0, 2]]


# -- real images ---------------------------------------------------------------------------------------------


def grainy(seed: int) -> Samples:
    """A sensor's noise over something smooth."""
    chance = np.random.default_rng(seed)
    slope = np.add.outer(np.linspace(0, 900, 320), np.linspace(0, 700, 320))
    return np.clip(slope + 3000 + chance.normal(0, 20, slope.shape), 0, 65535).astype(np.uint16)


def enlarged(seed: int) -> Samples:
    """What a scanner interpolated: four times as many pixels as it measured, without any noise of their own."""
    measured = Image.fromarray(grainy(seed)[:160, :160].astype(np.float32))
    return np.asarray(measured.resize((320, 320), Image.Resampling.BICUBIC)).round().astype(np.uint16)


@pytest.fixture
def mixed() -> list[Samples]:
    return [make(seed) for seed in range(4) for make in (grainy, enlarged)]


def test_real_images_of_two_kinds_are_told_apart(mixed: list[Samples]) -> None:
    seen: list[tuple[int, int]] = []
    found = families(mixed, ModelSet.default(), scale=40.0, progress=lambda *step: seen.append(step))
    assert sorted(found) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert seen[-1] == (8, 8)
    assert families(mixed, ModelSet.default(), scale=40.0) == found


def test_little_is_not_looked_at(mixed: list[Samples], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_look", lambda *_: pytest.fail("looked at"))
    assert families(mixed[:2], ModelSet.default()) == [[0, 1]]
    assert families(mixed[:1], ModelSet.default(), scale=1e6) == [[0]]


def test_of_many_images_some_are_looked_at(mixed: list[Samples], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LOOKED_AT", 6)
    found = families(mixed, ModelSet.default(), scale=40.0)
    assert len(found) == 2
    assert sum(map(len, found)) == 6
    assert all(len({number % 2 for number in one}) == 1 for one in found)


def test_an_image_takes_the_rival_that_codes_it_smallest(mixed: list[Samples]) -> None:
    everything = list(ModelSet.default())
    gray = [model for model in everything if model.channels == 1]
    image = mixed[0][:, :, None]
    engine = Engine("numpy", "cpu", 1)
    (first,) = plan_image(image, ModelSet(gray), engine).groups
    assert first.model is gray[0]  # type: ignore[union-attr]
    rivals = ModelSet(gray, [model.digest for model in gray[1:]])
    assert [model.name for model in rivals.candidates(1)] == [model.name for model in gray[1:]]
    (best,) = plan_image(image, rivals, engine).groups
    assert best.model in gray[1:]  # type: ignore[union-attr]
