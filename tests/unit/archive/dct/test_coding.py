"""The coding ``dct``: payloads that come back, whatever their layout, and what broken ones do."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from callic_archive.archive import candidates, image_coding
from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.dct import coding
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
from callic_archive.archive.dct.estimation import Stream
from callic_archive.archive.dct.form import Form
from callic_archive.archive.dct.tables import STANDARD
from callic_archive.archive.packed import PackOptions
from callic_archive.errors import CallicError
from tests.doubles import DeflateCodec, DeflatePlan
from tests.trees import open_archive, pack_tree
from tests.unit.archive.dct.test_decoding import jpeg, pixels
from tests.unit.archive.dct.test_recovery import PHOTOGRAPH

LAYOUTS = [
    Layout(40, 50, GRAY, top=3, left=7),
    Layout(40, 50, RGB),
    Layout(40, 50, YCC, 2, 2, INTERPOLATED, 15, 9, False, True),
    Layout(41, 50, YCC_9, 1, 2, TRANSFORMED, 0, 8, True, False),
    Layout(17, 90, YCC, 2, 1, REPEATED, 8, 0),
]


def stream(layout: Layout, seed: int = 0) -> Stream:
    rng = np.random.default_rng(seed)
    planes = [
        (rng.integers(-4, 5, (*layout.blocks(n), 64)) * (rng.random((*layout.blocks(n), 64)) < 0.1)).astype(np.int16)
        for n in range(layout.components)
    ]
    own = rng.integers(1, 256, 64).astype(np.uint16)
    tables = {GRAY: [own], RGB: [own, STANDARD[10], STANDARD[150]]}.get(layout.colour, [STANDARD[74], own, own])
    return Stream(layout, tuple(planes), tuple(tables))


@pytest.mark.parametrize("layout", LAYOUTS, ids=range(len(LAYOUTS)))
def test_payloads_come_back(layout: Layout) -> None:
    told = stream(layout)
    image = pixels_of(told.planes, told.tables, layout)
    back = coding.read(coding.payload_of(told), image.shape, "uint8")
    assert back.coding == ""
    assert len(back.differences) == 0
    np.testing.assert_array_equal(back.image, image)


FORMS = [Form(turn, reverse, alpha) for turn in (0, 3, 4, 6) for reverse in (False, True) for alpha in (None, 200)]


@pytest.mark.parametrize(
    ("layout", "form"),
    [(LAYOUTS[2], form) for form in FORMS] + [(LAYOUTS[0], form) for form in FORMS if not form.reverse],
    ids=str,
)
def test_forms_come_back(layout: Layout, form: Form) -> None:
    told = stream(layout)
    decoded = pixels_of(told.planes, told.tables, layout)
    image = form.image_of(decoded)
    np.testing.assert_array_equal(form.decoded_of(image), decoded)
    back = coding.read(coding.payload_of(told, form), image.shape, "uint8")
    np.testing.assert_array_equal(back.image, image)


def test_what_differs_is_added() -> None:
    image = pixels(jpeg(PHOTOGRAPH, 85, 2)).copy()
    image[10:14, 20:90] = (255, 0, 0)
    coded = candidates.smallest(image, DeflateCodec(DeflatePlan()))
    assert coded.coding == "dct"
    assert coded.stream.coder.startswith("dct ")
    back = image_coding.decode_image(coded.payload, "dct", coded.stream, None)
    np.testing.assert_array_equal(back, image)
    part = image_coding.decode_image(coded.payload, "dct", coded.stream, None, (5, 30, 25, 100))
    np.testing.assert_array_equal(part, image[5:25, 30:100])


def test_decoded_images_take_little_more_than_their_streams() -> None:
    file = jpeg(PHOTOGRAPH, 75, 2)
    coded = candidates.smallest(pixels(file), DeflateCodec(DeflatePlan()))
    assert coded.coding == "dct"
    assert len(coded.payload) < len(file)


def test_explicit_models_get_decoded_images_too() -> None:
    image = pixels(jpeg(PHOTOGRAPH, 75, 2))
    assert candidates.preferring_models(image, DeflateCodec(DeflatePlan())).coding == "codestream"


def test_models_are_not_fitted_to_decoded_images() -> None:
    decoded = pixels(jpeg(PHOTOGRAPH, 75, 2))
    kept = candidates.for_models([decoded, PHOTOGRAPH])
    assert len(kept) == 1
    assert np.array_equal(kept[0], PHOTOGRAPH)
    assert not candidates.recorded(decoded)
    assert candidates.recorded(np.ascontiguousarray(PHOTOGRAPH))


def test_an_archive_of_decoded_images(tmp_path: Path) -> None:
    source, archive = tmp_path / "source", tmp_path / "a.callic"
    source.mkdir()
    for number, quality in enumerate((60, 85)):
        Pillow.fromarray(pixels(jpeg(PHOTOGRAPH, quality, 2))).save(source / f"{number}.png")
    pack_tree(source, archive, options=PackOptions(coder=candidates.smallest))
    with open_archive(archive) as opened:
        codings = [part.coding for entry in opened.entries for part in entry.parts if part.stream is not None]
        assert codings == ["dct", "dct"]
        for entry in opened.entries:
            if entry.kind == "file":
                out = io.BytesIO()
                opened.restore(entry, out, prove=True)
                assert out.getvalue() == (tmp_path / entry.path).read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS, ids=range(len(LAYOUTS)))
def test_broken_payloads_are_refused_or_give_an_image(layout: Layout) -> None:
    told = stream(layout)
    payload = coding.payload_of(told)
    shape = (layout.height, layout.width) + (() if layout.colour == GRAY else (3,))
    rng = np.random.default_rng(5)
    for _ in range(60):
        broken = bytearray(payload)
        for place in rng.integers(0, min(len(broken), 90), 3):
            broken[place] = rng.integers(0, 256)
        data = bytes(broken[: rng.integers(0, len(broken) + 1)] if rng.random() < 0.3 else broken)
        try:
            image = image_coding.decode_image(data, "dct", StreamInfo(shape, "uint8", "dct", (), ()), None)
        except (ValueError, CallicError):
            continue
        assert image.shape == shape
        assert image.dtype == np.uint8


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((40, 50), "uint16"), ((40, 50, 5), "uint8"), ((40, 50, 3), "uint8"), ((0, 50), "uint8"), ((40,), "uint8")],
)
def test_other_shapes_and_types_are_refused(shape: tuple[int, ...], dtype: str) -> None:
    payload = coding.payload_of(stream(LAYOUTS[0]))
    with pytest.raises((ValueError, CallicError)):
        image_coding.decode_image(payload, "dct", StreamInfo(shape, dtype, "dct", (), ()), None)
