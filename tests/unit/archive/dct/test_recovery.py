"""From pixels back to coefficients: whole images, parts of them, gray, all samplings; and images that were never coded so."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow
from skimage import data

from callic_archive.archive.dct.decoding import (
    GRAY,
    INTERPOLATED,
    REPEATED,
    RGB,
    TRANSFORMED,
    YCC,
    YCC_9,
    Layout,
    pixels_of,
)
from callic_archive.archive.dct.form import TURNS, Form
from callic_archive.archive.dct.recovery import LEAST_SIDE, Recovered, recovered, seems_decoded
from tests.jpegs import coefficients
from tests.unit.archive.dct.test_decoding import SAMPLINGS, jpeg, pixels

PHOTOGRAPH = data.astronaut()[:240, 120:376]


def share(found: Recovered | None, image: np.ndarray) -> float:
    assert found is not None
    return float(np.mean((found.image == image).reshape(*image.shape[:2], -1).all(axis=2)))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("quality", [40, 75, 90])
def test_the_coefficients_are_those_of_the_stream(sampling: int, quality: int) -> None:
    file = jpeg(PHOTOGRAPH, quality, sampling)
    image = pixels(file)
    found = recovered(image)
    assert share(found, image) > 0.98
    planes, tables = coefficients(file)
    assert (found.stream.layout.down, found.stream.layout.across) == SAMPLINGS[sampling]
    assert found.stream.layout.colour in (YCC, YCC_9)
    for plane, own, table, known in zip(planes, found.stream.planes, tables, found.stream.tables, strict=True):
        own = own.astype(np.int64) * known
        told = plane[: own.shape[0], : own.shape[1]].astype(np.int64) * table
        assert np.mean(np.all(own == told, axis=2)) > 0.8  # flat blocks round to equal samples from several


def test_of_gray_images() -> None:
    image = pixels(jpeg(data.camera()[100:260, :200], 85, 0))
    found = recovered(image)
    assert share(found, image) > 0.99
    assert found.stream.layout.colour == GRAY


@pytest.mark.parametrize(("chroma", "colour"), [(TRANSFORMED, YCC_9), (REPEATED, YCC)])
def test_of_other_decoders(chroma: int, colour: int) -> None:
    planes, tables = coefficients(jpeg(PHOTOGRAPH, 75, 2))
    image = pixels_of(planes, tables, Layout(240, 256, colour, 2, 2, chroma))
    found = recovered(image)
    assert share(found, image) > 0.98
    assert found.stream.layout.chroma == chroma


def test_of_channels_that_are_components() -> None:
    channels = [coefficients(jpeg(np.ascontiguousarray(PHOTOGRAPH[:, :, n]), 80, 0)) for n in range(3)]
    planes, tables = [planes[0] for planes, _ in channels], [tables[0] for _, tables in channels]
    image = pixels_of(planes, tables, Layout(240, 256, RGB))
    found = recovered(image)
    assert share(found, image) > 0.97
    assert found.stream.layout.colour == RGB


@pytest.mark.parametrize("turn", TURNS)
def test_of_turned_images(turn: int) -> None:
    decoded = pixels(jpeg(data.astronaut()[:238, 60:350], 85, 2))
    image = Form(turn).image_of(decoded)
    found = recovered(image)
    assert share(found, image) > 0.98
    assert found.stream.layout.chroma == INTERPOLATED
    assert found.form.turn & ~1 == turn & ~1  # reversed rows may do as well, as interpolation is alike both ways there


@pytest.mark.parametrize("gray", [True, False], ids=["gray", "with chroma of full size"])
def test_of_transposed_images(gray: bool) -> None:
    source = data.camera()[100:260, :200] if gray else PHOTOGRAPH
    image = Form(turn=4).image_of(pixels(jpeg(source, 85, 0)))
    found = recovered(image)
    assert share(found, image) > 0.99
    assert found.form.turn == 4


def test_of_blue_before_red() -> None:
    image = np.ascontiguousarray(pixels(jpeg(PHOTOGRAPH, 85, 2))[:, :, ::-1])
    found = recovered(image)
    assert share(found, image) > 0.98
    assert found.form == Form(reverse=True)


@pytest.mark.parametrize("gray", [True, False], ids=["gray", "colours"])
def test_beside_an_alpha_channel(gray: bool) -> None:
    decoded = pixels(jpeg(data.camera()[100:260, :200] if gray else PHOTOGRAPH, 85, 0))
    image = Form(alpha=255).image_of(decoded)
    assert image.shape[2] == (2 if gray else 4)
    assert share(recovered(image), image) > 0.98
    image[:50, :, -1] = 7
    found = recovered(image)
    assert np.array_equal(found.image[:, :, :-1], recovered(decoded).image.reshape(*decoded.shape[:2], -1))
    assert found.form.alpha == 255


def test_tables_are_told_by_details_rather_than_by_skies() -> None:
    image = np.concatenate([np.full((200, 256, 3), 200, np.uint8), PHOTOGRAPH]).astype(float)
    image[:200] += np.linspace(-30, 30, 200)[:, None, None]
    image = pixels(jpeg(np.clip(image, 0, 255).astype(np.uint8), 75, 2))
    assert share(recovered(image), image) > 0.98


@pytest.mark.parametrize(("top", "left"), [(0, 8), (8, 0), (5, 11), (15, 1)])
def test_of_parts_that_begin_anywhere(top: int, left: int) -> None:
    image = np.ascontiguousarray(pixels(jpeg(data.astronaut()[:300, 60:400], 80, 2))[top : top + 220, left : left + 230])
    found = recovered(image)
    assert share(found, image) > 0.93
    layout = found.stream.layout
    assert (layout.top, layout.left, layout.down, layout.across, layout.chroma) == (top, left, 2, 2, INTERPOLATED)


def test_what_was_drawn_over_an_image_is_all_that_differs() -> None:
    image = pixels(jpeg(PHOTOGRAPH, 80, 2)).copy()
    image[100:104, 40:200] = (0, 255, 0)
    assert share(recovered(image), image) > 0.9


@pytest.mark.parametrize(
    "image",
    [
        data.astronaut()[:200, :200],
        data.camera()[:200, :200],
        np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8),
        np.zeros((100, 100, 3), np.uint8),
        np.full((100, 100), 255, np.uint8),
        np.tile(np.arange(200, dtype=np.uint8), (200, 1)),
        data.camera()[:200, :200].astype(np.uint16),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((LEAST_SIDE - 1, 200), np.uint8),
        np.zeros((0, 0), np.uint8),
    ],
    ids=range(10),
)
def test_images_that_were_not_decoded_from_jpeg(image: np.ndarray) -> None:
    assert not seems_decoded(image)
    assert recovered(image) is None


def test_images_that_were_resized_are_not() -> None:
    image = np.asarray(Pillow.fromarray(pixels(jpeg(PHOTOGRAPH, 75, 2))).resize((200, 190)))
    assert recovered(image) is None


def test_the_same_image_gives_the_same() -> None:
    image = pixels(jpeg(PHOTOGRAPH, 75, 2))
    first, again = recovered(image), recovered(image.copy())
    assert first is not None
    assert again is not None
    assert all(np.array_equal(a, b) for a, b in zip(first.stream.planes, again.stream.planes, strict=True))
