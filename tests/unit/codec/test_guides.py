"""Planes coded beside others that they are like: chosen, coded, decoded wholly and in part, and refused where they are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from callic_archive.codec.codestream import parse, serialise
from callic_archive.codec.decoder import decode_image, decode_plane
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.codec.engine import Engine
from callic_archive.codec.fitting import FitOptions, fit_models
from callic_archive.codec.planning import ConstantGroup, GroupPlan, plan_image
from callic_archive.codec.prediction import EarlierPlanes, fit_likeness
from callic_archive.errors import CodestreamError, CodestreamSyntaxError
from callic_archive.images.planes import choose_packing
from callic_archive.model.guided import with_guide
from callic_archive.model.weights import IntegerModel, ModelSet, load_model, model_file
from tests.unit.model.builders import tiny_models

ENGINE = Engine("numpy", "cpu", 1)
OPTIONS = EncodeOptions(threads=1, tile=48)


def slices(side: int, count: int, noise: float = 4.0) -> NDArray[np.uint16]:
    """Slices of a volume (H, W, C): edges and texture in common, noise of their own."""
    rng = np.random.default_rng(0)
    i, j = np.indices((side, side))
    texture = 4 * rng.normal(0, 1, (side, side))
    found = []
    for k in range(count):
        circle = np.hypot(i - side / 2, j - side / 2 - k) < side / 3
        found.append(800 + 900 * circle + texture + rng.normal(0, noise, (side, side)))
    return np.rint(np.dstack(found)).astype(np.uint16)


def heeding(seed: int = 0) -> IntegerModel:
    """A model that takes a guide and heeds it, well or badly."""
    (base,) = (m for m in tiny_models() if m.channels == 1)
    taught = with_guide(base).weights
    weight = taught.embed.weight.copy()
    weight[:, 6:] = np.random.default_rng(seed).integers(-40, 41, weight[:, 6:].shape)
    weights = replace(taught, embed=replace(taught.embed, weight=weight))
    return load_model(model_file("heeding", weights, base.mixture, {}))


def groups_of(image: NDArray[np.uint16], models: ModelSet) -> list[GroupPlan]:
    return [g for g in plan_image(image, models, ENGINE).groups if not isinstance(g, ConstantGroup)]


def test_slices_of_a_volume_are_like_each_other() -> None:
    image = slices(64, 3)
    packings = {c: choose_packing(image[:, :, c]) for c in range(3)}
    planes, boxes = EarlierPlanes(image, packings), [(0, 0, 64, 64)]
    found = fit_likeness(2, packings[2], [0, 1], planes, boxes)
    assert found is not None
    assert found.planes in ((0,), (1,))
    assert not found.subtracted
    assert 0.9 < found.weights[0] / 4096 < 1.1
    guide = found.guide(planes, boxes[0])
    assert abs(float(guide.mean()) - float(packings[2].pack(image[:, :, 2]).mean())) < 2
    assert guide.min() >= packings[2].low
    assert guide.max() <= packings[2].high
    noise = np.random.default_rng(0).integers(0, 4000, (64, 64, 2)).astype(np.uint16)
    packed = {c: choose_packing(noise[:, :, c]) for c in range(2)}
    assert fit_likeness(1, packed[1], [0], EarlierPlanes(noise, packed), boxes) is None
    assert fit_likeness(1, packed[1], [], EarlierPlanes(noise, packed), boxes) is None


def test_models_without_a_guide_code_as_before() -> None:
    assert all(g.plane.guide == 0 for g in groups_of(slices(64, 2), tiny_models()))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_planes_beside_a_guide_come_back(backend: str) -> None:
    models = ModelSet([heeding()])
    image = slices(100, 4)
    image[:, :, 3] = 2 * image[:, :, 0] + image[:, :, 1] % 5  # what is left of a prediction is coded beside it
    options = replace(OPTIONS, backend=backend)
    raw = encode_image(image, models=models, options=options)
    uses = {g.plane.guide for g in groups_of(image, models)}
    assert 2 in uses
    assert np.array_equal(decode_image(raw, models=models, backend="numpy", threads=1), image)
    assert raw == encode_image(image, models=models, options=OPTIONS)


def forced(image: NDArray[np.uint16], models: ModelSet, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The codestream with every plane that can be beside its likeness, whether that pays or not."""
    monkeypatch.setattr("callic_archive.codec.planning._Planner.bits", lambda self, group: 0.0)
    return encode_image(image, models=models, options=OPTIONS)


def test_a_likeness_is_decoded_wholly_in_regions_and_plane_by_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    models, image = ModelSet([heeding()]), slices(100, 3)
    raw = forced(image, models, monkeypatch)
    assert [g.prediction is not None and not g.prediction.subtracted for g in parse(raw).groups] == [False, True, True]
    assert np.array_equal(decode_image(raw, models=models, threads=1), image)
    for top, left, bottom, right in ((0, 0, 10, 10), (30, 40, 70, 60), (99, 0, 100, 100), (40, 40, 41, 41)):
        part = image[top:bottom, left:right]
        region = (top, left, bottom, right)
        assert np.array_equal(decode_image(raw, models=models, region=region, threads=1), part)
        known = decode_plane(raw, 1, models=models, region=region, threads=1)
        assert known.done == {0, 1}
        assert np.array_equal(known.samples[:, :, 1], part[:, :, 1])
        known = decode_plane(raw, 2, known, models=models, region=region, threads=1)
        assert np.array_equal(known.samples[:, :, 2], part[:, :, 2])
    assert np.array_equal(decode_plane(raw, 2, models=models, threads=1).samples[:, :, 2], image[:, :, 2])


def test_what_cannot_be_beside_a_guide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    taught, image = heeding(), slices(60, 2)
    raw = forced(image, ModelSet([taught]), monkeypatch)
    (base,) = (m for m in tiny_models() if m.channels == 1)
    stream = parse(raw)
    plain = bytes.fromhex(base.digest)[:8]
    groups = tuple(replace(g, model=plain) for g in stream.groups)
    with pytest.raises(CodestreamError, match="takes no guide"):
        decode_image(serialise(replace(stream, groups=groups)), models=ModelSet([base, taught]), threads=1)
    wrong = replace(stream.groups[1], prediction=replace(stream.groups[1].prediction, planes=(1,)))  # type: ignore[type-var]
    with pytest.raises(CodestreamSyntaxError, match="not decoded before"):
        parse(serialise(replace(stream, groups=(stream.groups[0], wrong))))


def test_fitting_teaches_a_model_to_heed_a_guide() -> None:
    volume = slices(160, 3)
    options = FitOptions(steps=60, threads=1)
    (model,) = fit_models([volume], models=tiny_models(), options=options, total_pixels=1e6).values()
    assert model.guides == 1
    models = ModelSet([model])
    assert {g.plane.guide for g in groups_of(volume, models)} >= {1}
    together = encode_image(volume, models=models, options=OPTIONS)
    alone = sum(len(encode_image(volume[:, :, c], models=models, options=OPTIONS)) for c in range(3))
    assert len(together) < 0.97 * alone
    assert np.array_equal(decode_image(together, models=models, threads=1), volume)


def test_fitting_leaves_a_model_alone_where_nothing_is_alike() -> None:
    noise = np.random.default_rng(0).integers(0, 200, (160, 160, 2)).astype(np.uint16)
    fitted = fit_models([noise], models=tiny_models(), options=FitOptions(steps=4, threads=1), total_pixels=1e6)
    assert all(model.guides == 0 for model in fitted.values())
    flat = fit_models([slices(160, 1)], models=tiny_models(), options=FitOptions(steps=4, threads=1), total_pixels=1e6)
    assert all(model.guides == 0 for model in flat.values())
