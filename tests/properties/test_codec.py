"""Laws of the codec over arrays that nobody thought of."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from callic_archive.codec.bytesio import Reader, Writer
from callic_archive.codec.codestream import inspect, parse, serialise
from callic_archive.codec.decoder import decode_image
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.errors import CodestreamError
from callic_archive.images.planes import TileGrid, choose_packing, plane_groups
from tests.unit.model.builders import tiny_models

CALM = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PLAIN_TYPES: Any = st.sampled_from([np.dtype("u1"), np.dtype("u2"), np.dtype("i2")])
TYPES = st.sampled_from([np.dtype(t) for t in ("u1", "<u2", ">u2", "<i2", ">i2")])


@st.composite
def images(draw: st.DrawFn) -> NDArray[Any]:
    """Small images of all types and shapes, from few values or from all, in any axis order and stride."""
    dtype = draw(TYPES)
    shape = draw(st.tuples(st.integers(1, 11), st.integers(1, 11)))
    if draw(st.booleans()):
        shape = (*shape, draw(st.integers(1, 4)))  # type: ignore[assignment]
    info = np.iinfo(dtype)
    few = st.lists(st.integers(int(info.min), int(info.max)), min_size=1, max_size=5)
    elements = draw(st.one_of(few.map(st.sampled_from), st.just(st.integers(int(info.min), int(info.max)))))
    image = draw(arrays.arrays(dtype, shape, elements=elements))
    if draw(st.booleans()):
        image = np.asfortranarray(image)
    if draw(st.booleans()):
        image = image[::-1, ::-1]
    return image


@CALM
@given(images(), st.integers(1, 12), st.integers(1, 12))
def test_decode_undoes_encode(image: NDArray[Any], tile: int, patch: int) -> None:
    options = EncodeOptions(tile=tile, patch=patch, threads=1)
    raw = encode_image(image, models=tiny_models(), options=options)
    back = decode_image(raw, models=tiny_models(), threads=1)
    assert back.dtype == image.dtype.newbyteorder("=")
    assert back.shape == image.shape
    assert np.array_equal(back, image)
    assert serialise(parse(raw)) == raw
    info = inspect(raw)
    assert (info.shape, info.dtype) == (image.shape, image.dtype.newbyteorder("=").name)
    assert info.header_bytes + info.pixel_bytes + info.adapter_bytes == len(raw)


@CALM
@given(images(), st.data())
def test_any_region_is_the_crop(image: NDArray[Any], data: st.DataObject) -> None:
    top, left = (data.draw(st.integers(0, n - 1)) for n in image.shape[:2])
    bottom = data.draw(st.integers(top + 1, image.shape[0]))
    right = data.draw(st.integers(left + 1, image.shape[1]))
    raw = encode_image(image, models=tiny_models(), options=EncodeOptions(tile=4, patch=3, threads=1))
    part = decode_image(raw, models=tiny_models(), region=(top, left, bottom, right), threads=1)
    assert np.array_equal(part, image[top:bottom, left:right])


@settings(CALM, max_examples=200)
@given(st.binary(max_size=120))
def test_arbitrary_bytes_after_the_magic_are_refused_or_parsed(body: bytes) -> None:
    raw = b"\x8fCLC\x01" + body
    try:
        stream = parse(raw, max_pixels=1 << 20)
    except CodestreamError:
        return
    assert serialise(stream) == raw


@settings(CALM, max_examples=150)
@given(
    arrays.arrays(
        PLAIN_TYPES,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
    ),
    st.integers(1, 100),
)
def test_packing_is_lossless_and_within_its_levels(samples: NDArray[Any], step: int) -> None:
    samples = (samples // step * step).astype(samples.dtype)  # gaps in the histogram
    packing = choose_packing(samples)
    levels = packing.pack(samples)
    assert levels.dtype == np.int32
    assert levels.min() == packing.low >= 0
    assert levels.max() == packing.high < packing.span <= 65536
    assert np.array_equal(packing.unpack(levels, samples.dtype), samples)


@settings(CALM, max_examples=300)
@given(st.integers(0, (1 << 63) - 1), st.integers(-65536, 65535))
def test_header_numbers_come_back(value: int, signed: int) -> None:
    out = Writer()
    out.varint(value)
    out.signed(signed)
    data = Reader(out.getvalue())
    assert data.varint((1 << 63) - 1) == value
    assert data.signed(65535) == signed
    assert data.position == len(data.data)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
@settings(CALM, max_examples=100)
def test_tiles_cover_the_image_once(height: int, width: int, limit: int) -> None:
    grid = TileGrid.balanced(height, width, limit)
    assert 1 <= grid.tile_height <= min(limit, height)
    assert 1 <= grid.tile_width <= min(limit, width)
    down, across = -(-height // grid.tile_height), -(-width // grid.tile_width)
    if down * across <= 5000:
        boxes = grid.boxes()
        assert len(boxes) == down * across
        assert sum((b - t) * (r - left) for t, left, b, r in boxes) == height * width
        assert all(t < b <= height and left < r <= width for t, left, b, r in boxes)


def test_plane_groups_are_those_of_the_specification() -> None:
    found = {n: [list(range(a, a + c)) for a, c in plane_groups(n)] for n in range(1, 5)}
    assert found == {1: [[0]], 2: [[0], [1]], 3: [[0, 1, 2]], 4: [[0, 1, 2], [3]]}
