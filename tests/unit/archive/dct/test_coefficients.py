"""Quantised coefficients as bytes and back."""

from __future__ import annotations

import hashlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from skimage import data

from callic_archive.archive.dct.coefficients import decode_coefficients, encode_coefficients
from tests.jpegs import coefficients
from tests.slides import jpeg

RNG = np.random.default_rng(5)
TABLE = np.arange(3, 131, 2).astype(np.uint16)


def plane(rows: int, columns: int, scale: float, seed: int = 1) -> np.ndarray[Any, Any]:
    """Coefficients as of noise, smaller at higher frequencies; made by integers, so that they are the same anywhere."""
    raw = np.frombuffer(hashlib.shake_128(bytes([seed])).digest(rows * columns * 64 * 2), "<i2").astype(np.int64)
    v, u = np.divmod(np.arange(64), 8)
    return ((raw.reshape(rows, columns, 64) * int(scale * 64) >> 21) // (1 + v + u)).astype(np.int16)


def both_ways(planes: list[np.ndarray[Any, Any]], tables: list[np.ndarray[Any, Any]]) -> bytes:
    """The coded bytes, after they have been seen to give the planes again."""
    before = [x.copy() for x in planes]
    coded = encode_coefficients(planes, tables)
    back = decode_coefficients(coded, [x.shape[:2] for x in planes], tables)
    assert all((x == y).all() for x, y in zip(planes, before, strict=True))
    assert [x.dtype for x in back] == [np.int16] * len(planes)
    assert all(x.shape == y.shape and (x == y).all() for x, y in zip(planes, back, strict=True))
    return coded


class TestRoundTrips:
    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    @pytest.mark.parametrize("quality", [20, 85, 100])
    def test_photographs(self, quality: int, subsampling: int) -> None:
        image = data.astronaut()[100:297, 150:371]
        assert both_ways(*coefficients(jpeg(image, quality=quality, subsampling=subsampling)))

    def test_grey(self) -> None:
        planes, tables = coefficients(jpeg(data.camera()[:100, :90], quality=80))
        assert len(planes) == 1
        both_ways(planes, tables)

    @pytest.mark.parametrize("scale", [0, 1, 30, 1000])
    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 6)])
    def test_noise(self, shape: tuple[int, int], scale: int) -> None:
        both_ways([plane(*shape, scale)], [TABLE])

    @pytest.mark.parametrize("step", [1, 65535])
    def test_extremes(self, step: int) -> None:
        table = np.full(64, step, np.uint16)
        values = [np.where(RNG.random((5, 6, 64)) < 0.5, -2048, 2047).astype(np.int16) for _ in range(3)]
        both_ways([*values, np.full((5, 6, 64), -2048, np.int16)], [table] * 4)

    def test_nothing_but_zeros(self) -> None:
        assert len(both_ways([np.zeros((40, 40, 64), np.int16)] * 3, [TABLE] * 3)) < 120

    def test_few_that_are_not_zero(self) -> None:
        values = np.zeros((30, 20, 64), np.int16)
        values.reshape(-1)[RNG.integers(0, values.size, 50)] = RNG.integers(-3, 4, 50)
        both_ways([values], [TABLE])

    def test_four_planes_of_different_sizes(self) -> None:
        shapes = [(9, 7), (5, 4), (2, 11), (1, 1)]
        both_ways([plane(*s, 20, i) for i, s in enumerate(shapes)], [TABLE, TABLE + 1, TABLE, TABLE[::-1]])

    def test_planes_that_are_not_contiguous(self) -> None:
        both_ways([plane(8, 12, 20)[::2, ::-3]], [TABLE])

    def test_no_plane(self) -> None:
        assert decode_coefficients(encode_coefficients([], []), [], []) == []


class TestBytes:
    def test_are_the_same_everywhere(self) -> None:
        coded = encode_coefficients([plane(12, 10, 20, 1), plane(6, 5, 20, 2), plane(6, 5, 20, 3)], [TABLE] * 3)
        assert hashlib.sha256(coded).hexdigest()[:16] == "4a674066ac114be2"

    @pytest.mark.parametrize(("quality", "most"), [(75, 0.93), (85, 0.93), (92, 0.93)])
    def test_are_fewer_than_jpegxl_takes_for_the_file(self, quality: int, most: float) -> None:
        file = jpeg(data.astronaut(), quality=quality, subsampling=2)
        coded = encode_coefficients(*coefficients(file))
        assert len(coded) < most * len(imagecodecs.jpegxl_encode_jpeg(file, numthreads=1))

    def test_of_no_encoder(self) -> None:
        shapes = [(6, 5), (3, 3), (3, 3)]
        refused = 0
        for seed in range(60):
            noise = np.random.default_rng(seed).integers(0, 256, 3000).astype(np.uint8).tobytes()
            try:
                planes = decode_coefficients(memoryview(noise), shapes, [TABLE] * 3)
            except ValueError:
                refused += 1
            else:
                assert all(x.min() >= -2048 and x.max() <= 2047 for x in planes)
        assert refused > 0

    def test_cut_short_or_changed(self) -> None:
        planes = [plane(6, 5, 20, 1), plane(3, 3, 20, 2)]
        shapes = [x.shape[:2] for x in planes]
        coded = encode_coefficients(planes, [TABLE] * 2)
        for end in range(0, len(coded), 7):
            for other in (coded[:end], coded[:end] + b"\xff" * 50, coded[:end] + bytes([coded[end] ^ 64]) + coded[end + 1 :]):
                try:
                    decode_coefficients(other, shapes, [TABLE] * 2)
                except ValueError:
                    continue


class TestRefusals:
    @pytest.mark.parametrize("value", [-2049, 2048, 32767, -32768])
    def test_values_beyond_the_range(self, value: int) -> None:
        values = np.zeros((2, 2, 64), np.int16)
        values[1, 1, 63] = value
        with pytest.raises(ValueError, match="outside -2048"):
            encode_coefficients([values], [TABLE])

    @pytest.mark.parametrize("shape", [(0, 3, 64), (3, 64), (2, 2, 63)])
    def test_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="a plane of"):
            encode_coefficients([np.zeros(shape, np.int16)], [TABLE])

    @pytest.mark.parametrize("table", [np.zeros(64, np.uint16), np.ones(63, np.uint16)])
    def test_other_tables(self, table: np.ndarray[Any, Any]) -> None:
        with pytest.raises(ValueError, match="a table"):
            decode_coefficients(b"", [(1, 1)], [table])

    def test_tables_for_other_planes(self) -> None:
        with pytest.raises(ValueError, match="1 planes and 2 tables"):
            encode_coefficients([np.zeros((1, 1, 64), np.int16)], [TABLE] * 2)
