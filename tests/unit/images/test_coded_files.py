"""JPEG 2000, JPEG-LS and lossless JPEG in files of their own come back byte for byte, or are left with the reason."""

from __future__ import annotations

import io
import json
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from callic_archive.errors import SourceError
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Parsed, examine, rebuild, sniff
from tests.unit.images.test_dicom_coded import jls, jpeg_code, smooth

GRAY, COLOUR = smooth((1, 90, 71), "u1")[0], smooth((1, 90, 71, 3), "u1")[0]
WIDE, SIGNED = smooth((1, 90, 71), "u2", 12)[0], smooth((1, 90, 71), "i2")[0]


def pillow(image: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG2000", **options)
    return out.getvalue()


def jp2(image: np.ndarray, form: str = "jp2", level: int = 0, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(image, level=level, codecformat=form, reversible=level == 0, **options))


FILES = {
    "Pillow, gray": (lambda: pillow(GRAY), GRAY),
    "Pillow, colour": (lambda: pillow(COLOUR), COLOUR),
    "Pillow, 16 bits": (lambda: pillow(WIDE), WIDE),
    "Pillow, without colour transform": (lambda: pillow(COLOUR, mct=0, num_resolutions=3), COLOUR),
    "JP2 of 12 bits": (lambda: jp2(WIDE, bitspersample=12), WIDE),
    "JP2, signed": (lambda: jp2(SIGNED), SIGNED),
    "codestream": (lambda: jp2(COLOUR, "j2k"), COLOUR),
    "box to the end": (lambda: _to_the_end(jp2(GRAY)), GRAY),
    "JPEG-LS": (lambda: jls(GRAY), GRAY),
    "JPEG-LS, colour": (lambda: jls(COLOUR), COLOUR),
    "JPEG-LS, 12 bits": (lambda: jls(WIDE, 12), WIDE),
    "lossless JPEG": (lambda: jpeg_code(WIDE, 4, 12), WIDE),
    "lossless JPEG, colour": (lambda: jpeg_code(COLOUR, 1, 8), COLOUR),
}


def _to_the_end(data: bytes) -> bytes:
    at = data.index(b"jp2c")
    return data[: at - 4] + bytes(4) + data[at:]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("behind", [b"", b"behind the end"])
def test_the_code_is_made_again(name: str, behind: bytes) -> None:
    make, image = FILES[name]
    data = make() + behind
    parsed = examine(data)
    if behind and name == "box to the end":
        return  # the codestream would go on
    assert isinstance(parsed, Parsed), parsed
    assert (parsed.format, parsed.fidelity) == (sniff(data), "bytes")
    (found,) = parsed.images
    assert found.dtype == image.dtype
    assert np.array_equal(found, image)
    out = io.BytesIO()
    rebuild(parsed.format, json.loads(json.dumps(parsed.recipe)), parsed.surround, parsed.images, out)
    assert out.getvalue() == data
    assert len(parsed.surround) < 900


LEFT = {
    "lossy JPEG 2000": (lambda: jp2(COLOUR, level=30), "lossy"),
    "tiles": (lambda: pillow(COLOUR, tile_size=(32, 32)), "encoder"),
    "several layers": (lambda: pillow(COLOUR, quality_mode="rates", quality_layers=[20, 1]), "encoder"),
    "other blocks": (lambda: pillow(COLOUR, codeblock_size=(32, 32)), "encoder"),
    "near-lossless JPEG-LS": (lambda: jls(GRAY, 8, near=2), "lossy"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_made_again_is_left(name: str) -> None:
    make, reason = LEFT[name]
    found = examine(make())
    assert isinstance(found, NotTaken)
    assert found.reason == reason


def test_blank_images_are_no_failure() -> None:
    found = examine(jp2(np.full((512, 512, 3), 255, np.uint8)))
    assert isinstance(found, NotTaken)
    assert found.reason == "constant"


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_told(name: str) -> None:
    data = FILES[name][0]()
    for end in range(30, len(data) - 3, max(1, len(data) // 25)):
        try:
            found = examine(data[:end])
        except SourceError:
            continue
        assert found is None or isinstance(found, (NotTaken, Parsed))


def test_other_jpeg_files_are_none_of_these() -> None:
    for options in ({}, {"progressive": True}, {"comment": b"x" * 9000}):
        out = io.BytesIO()
        Image.fromarray(COLOUR).save(out, "JPEG", **options)
        assert sniff(out.getvalue()) is None
