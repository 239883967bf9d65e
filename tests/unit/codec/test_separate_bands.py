"""Images of their own as planes of one codestream: which of them, and each of them read without those it needs not."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from callic_archive.codec import decoder
from callic_archive.codec.codestream import parse
from callic_archive.codec.decoder import decode_image, decode_plane
from callic_archive.codec.encoder import EncodeOptions, encode_bands, encode_image
from callic_archive.errors import CodestreamSyntaxError, UnsupportedImage, UsageError
from callic_archive.images.planes import DecodedPlanes
from callic_archive.model.weights import ModelSet
from tests.unit.model.builders import tiny_models

Image = NDArray[Any]
OPTIONS = EncodeOptions(threads=1, tile=32, patch=32)


def scene(count: int, dtype: str = "uint16", seed: int = 1, size: tuple[int, int] = (50, 44)) -> list[Image]:
    random = np.random.default_rng(seed)
    most = 60_000 if dtype == "uint16" else 230
    detail = random.normal(0, most / 40, size) + np.linspace(0.3, 0.6, size[1]) * most
    bands = [(1 + 0.1 * c) * detail + random.normal(0, most / 4000, size) for c in range(count)]
    return [np.rint(band).clip(0, 65535 if dtype == "uint16" else 255).astype(dtype) for band in bands]


def noise(seed: int, dtype: str = "uint16", size: tuple[int, int] = (50, 44)) -> Image:
    return np.random.default_rng(seed).integers(0, 200, size).astype(dtype)


def coded(bands: list[Image]) -> tuple[bytes, tuple[int, ...]]:
    return encode_bands(bands, models=tiny_models(), options=OPTIONS)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_bands_of_a_scene_become_one_codestream(dtype: str, count: int) -> None:
    bands = scene(count, dtype)
    raw, chosen = coded(bands)
    assert chosen == tuple(range(count))
    assert np.array_equal(decode_image(raw, models=tiny_models(), threads=1), np.dstack(bands))
    alone = [encode_image(band, models=tiny_models(), options=OPTIONS) for band in bands]
    assert len(raw) < 0.9 * sum(map(len, alone))


def test_what_gains_nothing_is_left_out() -> None:
    first, second, third = scene(3)
    raw, chosen = coded([noise(5), first, noise(6), second, third, noise(7)])
    assert chosen == (1, 3, 4)
    assert np.array_equal(decode_image(raw, models=tiny_models(), threads=1), np.dstack([first, second, third]))
    assert coded([noise(5), noise(6), noise(7)]) == (b"", ())
    assert coded([first]) == (b"", ())
    assert coded([]) == (b"", ())


def test_equal_and_constant_images() -> None:
    first, second = scene(2)
    flat = np.full_like(first, 7)
    raw, chosen = coded([first, flat, first.copy(), second])
    assert chosen == (0, 2, 3)
    for number, band in enumerate((first, first, second)):
        found = decode_plane(raw, number, models=tiny_models(), threads=1)
        assert np.array_equal(found.samples[:, :, number], band)


def test_three_unrelated_planes_of_eight_bits_are_not_coded_jointly() -> None:
    assert coded([noise(seed, "uint8") for seed in range(3)]) == (b"", ())


def test_without_a_model_for_single_planes_nothing_is_compared() -> None:
    colour = ModelSet([model for model in tiny_models() if model.channels == 3])
    assert encode_bands(scene(3, "uint8"), models=colour, options=OPTIONS) == (b"", ())


def test_images_that_no_codestream_takes() -> None:
    with pytest.raises(UnsupportedImage):
        coded([np.zeros((4, 4), np.float32)] * 2)
    with pytest.raises(UnsupportedImage):
        coded([np.zeros((4, 4), np.uint8)] * 256)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_each_plane_is_decoded_once_and_only_with_what_it_needs(dtype: str) -> None:
    bands = scene(5, dtype)
    raw, _ = coded(bands)
    stream = parse(raw)
    tiles, learned = len(stream.boxes()), sum(group.learned for group in stream.groups)
    with patch.object(decoder, "decode_tile", wraps=decoder.decode_tile) as calls:
        first = decode_plane(raw, 0, models=tiny_models(), threads=1)
        assert calls.call_count == tiles
        assert first.done == ({0} if stream.alone else {0, 1, 2})
        known: DecodedPlanes | None = None
        calls.reset_mock()
        for plane in (4, 1, 0, 3, 2):
            known = decode_plane(raw, plane, known, models=tiny_models(), threads=1)
            assert plane in known.done
            assert np.array_equal(known.samples[:, :, plane], bands[plane])
        assert calls.call_count == tiles * learned, "no plane twice"
    assert known is not None
    assert known.done == {0, 1, 2, 3, 4}


def test_a_region_of_one_plane() -> None:
    bands = scene(4)
    raw, _ = coded(bands)
    for box in ((0, 0, 50, 44), (3, 5, 20, 30), (49, 43, 50, 44)):
        found = decode_plane(raw, 3, models=tiny_models(), region=box, threads=1)
        assert np.array_equal(found.samples[:, :, 3], bands[3][box[0] : box[2], box[1] : box[3]])


def test_what_does_not_fit_is_refused() -> None:
    raw, _ = coded(scene(3))
    for plane in (-1, 3):
        with pytest.raises(UsageError, match="3 planes"):
            decode_plane(raw, plane, models=tiny_models())
    with pytest.raises(UsageError, match="region"):
        decode_plane(raw, 0, models=tiny_models(), region=(0, 0, 51, 44))
    wrong = np.zeros((9, 9, 3), np.uint16)
    other = DecodedPlanes(wrong, {0}, wrong)
    with pytest.raises(UsageError, match="another codestream"):
        decode_plane(raw, 1, other, models=tiny_models())
    damaged = bytearray(raw)
    damaged[-3] ^= 1
    with pytest.raises(CodestreamSyntaxError):
        decode_plane(bytes(damaged), 2, models=tiny_models())
