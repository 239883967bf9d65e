"""Images of every size, type and layout come back as they were, whoever decodes them and however."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from callic_archive.codec.codestream import inspect, parse
from callic_archive.codec.decoder import decode_image
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.codec.prediction import EarlierPlanes, Prediction
from callic_archive.errors import (
    CodestreamSyntaxError,
    TorchacLevelsError,
    UnknownModel,
    UnsupportedImage,
    UsageError,
)
from callic_archive.model.weights import ModelSet
from pipelines.mint_conformance import scene
from tests.unit.model.builders import CONFORMANCE, tiny_models

Image = NDArray[Any]
ROOT = Path(__file__).parents[3]
TOPS = {"uint8": (0, 255), "uint16": (0, 65535), "int16": (-32768, 32767)}


def picture(height: int, width: int, channels: int | None, dtype: str, seed: int = 0) -> Image:
    least, most = TOPS[dtype]
    values = scene(np.random.default_rng(seed), height, width, channels or 1, most - least) + least
    return values.astype(dtype) if channels else values[:, :, 0].astype(dtype)


def round_trip(image: Image, **options: Any) -> bytes:
    raw = encode_image(image, models=tiny_models(), options=EncodeOptions(threads=1, **options))
    back = decode_image(raw, models=tiny_models(), threads=1)
    native = image.dtype.newbyteorder("=")
    assert back.dtype == native
    assert back.shape == image.shape
    assert np.array_equal(back, image.astype(native))
    return raw


SIZES = [(1, 1), (1, 2), (2, 1), (1, 41), (41, 1), (2, 3), (3, 2), (17, 16), (65, 33)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_every_size_and_channel_count(size: tuple[int, int], channels: int | None) -> None:
    round_trip(picture(*size, channels, "uint8"))


@pytest.mark.parametrize("dtype", TOPS)
@pytest.mark.parametrize("channels", [None, 2, 3, 4])
def test_every_sample_type(dtype: str, channels: int | None) -> None:
    round_trip(picture(13, 18, channels, dtype, 3))


@pytest.mark.parametrize("dtype", TOPS)
@pytest.mark.parametrize(
    "kind", ["extremes", "noise", "lowest", "highest", "two values", "one outlier", "sparse"]
)
def test_extreme_values(dtype: str, kind: str) -> None:
    least, most = TOPS[dtype]
    rng = np.random.default_rng(5)
    shape = (14, 15)
    values = {
        "extremes": rng.choice([least, most], shape),
        "noise": rng.integers(least, most + 1, shape),
        "lowest": np.full(shape, least),
        "highest": np.full(shape, most),
        "two values": rng.choice([least + 3, least + 200], shape),
        "one outlier": np.full(shape, least + 7),
        "sparse": rng.choice(np.linspace(least, most, 9).astype(int), shape),
    }[kind]
    if kind == "one outlier":
        values[5, 6] = most
    round_trip(values.astype(dtype))


@pytest.mark.parametrize(
    ("tile", "patch"), [(512, 512), (16, 16), (16, 7), (5, 512), (1, 1), (13, 1), (4096, 4096)]
)
def test_tiles_and_patches(tile: int, patch: int) -> None:
    image = picture(21, 19, None, "uint8", 4)
    raw = round_trip(image, tile=tile, patch=patch)
    stream = parse(raw)
    assert max(stream.grid.tile_height, stream.grid.tile_width) <= tile
    assert max(stream.patch) <= min(patch, tile)
    assert len(stream.streams[0]) == -(-21 // stream.grid.tile_height) * -(-19 // stream.grid.tile_width)


@pytest.mark.parametrize(("tile", "patch"), [(0, 8), (8, 0), (4097, 8), (8, 4097)])
def test_tiles_and_patches_have_bounds(tile: int, patch: int) -> None:
    with pytest.raises(UsageError, match="4096"):
        EncodeOptions(tile=tile, patch=patch)


def test_torchac_codes_the_same_images() -> None:
    for channels in (None, 3):
        image = picture(13, 12, channels, "uint8", 14)
        raw = round_trip(image, coder="torchac", tile=8, patch=5)
        assert inspect(raw).coder == "torchac"
        assert raw != round_trip(image, tile=8, patch=5)


def test_torchac_has_a_limit_of_levels() -> None:
    with pytest.raises(TorchacLevelsError, match="range coder"):
        encode_image(
            picture(9, 9, None, "uint16"), models=tiny_models(), options=EncodeOptions(coder="torchac")
        )


def test_there_is_no_third_coder() -> None:
    with pytest.raises(UsageError, match="huffman"):
        EncodeOptions(coder="huffman")  # type: ignore[arg-type]


def layouts(image: Image) -> dict[str, Image]:
    """The same samples in other memory layouts."""
    height, width, channels = image.shape
    wide = np.zeros((2 * height, 3 * width, channels + 1), image.dtype)
    wide[::2, ::3, 1:] = image
    return {
        "Fortran": np.asfortranarray(image),
        "planes first": np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
        "strided": wide[::2, ::3, 1:],
        "backwards": image[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        "byte-swapped": image.astype(image.dtype.newbyteorder()),
        "read-only": np.frombuffer(image.tobytes(), image.dtype).reshape(image.shape),
    }


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_the_memory_layout_leaves_no_trace(dtype: str) -> None:
    image = picture(12, 11, 3, dtype, 6)
    raw = round_trip(image)
    for name, view in layouts(image).items():
        assert np.array_equal(view, image), name
        assert round_trip(view) == raw, name


def test_threads_and_backends_leave_no_trace() -> None:
    image = picture(34, 37, 4, "uint8", 7)
    expected = encode_image(image, models=tiny_models(), options=EncodeOptions(tile=16, patch=9, threads=1))
    for threads, backend in ((2, "numpy"), (3, "numpy"), (1, "torch")):
        options = EncodeOptions(tile=16, patch=9, threads=threads, backend=backend)  # type: ignore[arg-type]
        assert encode_image(image, models=tiny_models(), options=options) == expected
    assert np.array_equal(decode_image(expected, models=tiny_models(), threads=2), image)
    assert np.array_equal(decode_image(memoryview(expected), models=tiny_models(), threads=None), image)


def test_another_process_with_the_other_backend_decodes(tmp_path: Path) -> None:
    image = picture(9, 14, 3, "uint16", 8)
    options = EncodeOptions(tile=8, patch=8, threads=2)
    (tmp_path / "c").write_bytes(encode_image(image, models=tiny_models(), options=options))
    np.save(tmp_path / "x.npy", image)
    program = f"""
import numpy as np, torch
from pathlib import Path
from callic_archive.codec.decoder import decode_image
from callic_archive.model.weights import ModelSet
torch.set_num_threads(1)
models = ModelSet.from_paths([Path({str(CONFORMANCE)!r}) / f"model-{{n}}.safetensors" for n in ("gray", "rgb")])
back = decode_image(Path({str(tmp_path / "c")!r}).read_bytes(), models=models, backend="torch", threads=1)
expected = np.load({str(tmp_path / "x.npy")!r})
assert back.dtype == expected.dtype and np.array_equal(back, expected)
print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "equal\n", done.stderr


# -- regions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [None, 3, 4])
def test_a_region_is_the_crop(channels: int | None) -> None:
    image = picture(30, 41, channels, "uint8", 9)
    if channels == 4:
        image[:, :, 3] = 255
    raw = encode_image(image, models=tiny_models(), options=EncodeOptions(tile=11, patch=6, threads=1))
    boxes = [(0, 0, 30, 41), (0, 0, 1, 1), (29, 40, 30, 41), (7, 9, 23, 12), (10, 0, 11, 41), (0, 13, 30, 15)]
    for top, left, bottom, right in boxes:
        part = decode_image(raw, models=tiny_models(), region=(top, left, bottom, right), threads=1)
        assert np.array_equal(part, image[top:bottom, left:right])


def test_a_region_needs_only_the_tiles_that_it_touches() -> None:
    image = np.arange(8 * 6, dtype=np.uint8).reshape(8, 6) * 5
    raw = bytearray(encode_image(image, models=tiny_models(), options=EncodeOptions(tile=4, threads=1)))
    raw[-1] ^= 1  # in the last tile
    part = decode_image(bytes(raw), models=tiny_models(), region=(0, 1, 4, 3), threads=1)
    assert np.array_equal(part, image[:4, 1:3])
    for region in (None, (5, 4, 8, 6)):
        with pytest.raises(CodestreamSyntaxError, match="CRC"):
            decode_image(bytes(raw), models=tiny_models(), region=region, threads=1)


@pytest.mark.parametrize("region", [(-1, 0, 4, 4), (0, 0, 6, 4), (3, 0, 3, 4), (0, 3, 4, 2), (0, 0, 4, 8)])
def test_a_region_outside_is_refused(region: tuple[int, int, int, int]) -> None:
    raw = encode_image(picture(5, 7, None, "uint8"), models=tiny_models())
    with pytest.raises(UsageError, match="region"):
        decode_image(raw, models=tiny_models(), region=region)


# -- what is not coded --------------------------------------------------------------------------------------


def test_planes_that_repeat_are_coded_once() -> None:
    gray = picture(20, 20, None, "uint8", 10)
    once = round_trip(gray)
    thrice = round_trip(np.dstack([gray, gray, gray]))
    assert len(thrice) - len(once) < 8
    assert parse(thrice).copies == (0, 0, 0)
    mixed = np.dstack([gray, 255 - gray, gray, 255 - gray])
    assert parse(round_trip(mixed)).copies == (0, 1, 0, 1)


def test_constant_planes_cost_a_few_bytes() -> None:
    raw = round_trip(np.full((500, 700, 4), 9, np.uint16))
    assert len(raw) < 48
    info = inspect(raw)
    assert (info.model_digests, info.pixel_bytes) == ((), 0)


def test_gaps_in_the_histogram_are_mapped_away() -> None:
    image = (picture(48, 48, None, "uint8", 11).astype(np.uint16) // 4) * 1000 + 17
    raw = round_trip(image)
    assert parse(raw).groups[0].packings[0].values is not None
    assert len(raw) < len(round_trip(picture(48, 48, None, "uint8", 11))) + 200


def test_inspect_tells_what_a_codestream_needs() -> None:
    image = picture(20, 23, 4, "uint8", 12)
    raw = encode_image(image, models=tiny_models(), options=EncodeOptions(tile=12, threads=1))
    info = inspect(raw)
    assert (info.shape, info.dtype, info.coder, info.tiles) == ((20, 23, 4), "uint8", "range", 8)
    expected = {tiny_models().for_channels(c).digest[:16] for c in (1, 3)}  # type: ignore[union-attr]
    assert set(info.model_digests) == expected
    assert info.adapter_digests == ()
    assert info.header_bytes + info.pixel_bytes + info.adapter_bytes == len(raw)


@pytest.mark.parametrize(
    "image",
    [
        *(np.zeros((4, 4), t) for t in (np.float32, np.int32, np.int8, bool)),
        *(np.zeros(s, np.uint8) for s in ((0, 4), (4, 0), (4, 4, 0), (4,), (4, 4, 256), (2, 2, 2, 2))),
        np.array(["x"]), np.array([[None]]),
    ],
    ids=lambda a: f"{a.dtype}-{a.shape}",
)  # fmt: skip
def test_what_is_no_image_of_ours_is_refused(image: Image) -> None:
    with pytest.raises(UnsupportedImage):
        encode_image(image, models=tiny_models())


def test_a_set_without_the_right_model_is_told() -> None:
    gray = ModelSet([m for m in tiny_models() if m.channels == 1])
    with pytest.raises(UnknownModel, match="3 planes"):
        encode_image(picture(5, 5, 3, "uint8"), models=gray)
    raw = encode_image(picture(5, 5, 3, "uint8"), models=tiny_models())
    with pytest.raises(UnknownModel):
        decode_image(raw, models=gray)


# -- planes predicted from earlier ones ----------------------------------------------------------------------


def bands(height: int, width: int, count: int, dtype: str, seed: int = 8) -> Image:
    """Bands of one synthetic scene: the same detail in every one, with little noise of their own."""
    rng = np.random.default_rng(seed)
    least, most = TOPS[dtype]
    detail = rng.normal(0, (most - least) / 40, (height, width))
    slope = np.linspace(0.15, 0.3, width) * (most - least)
    planes = [(1 + 0.1 * c) * (slope + detail) + rng.normal(0, 1.5, (height, width)) for c in range(count)]
    return np.clip(np.rint(np.stack(planes, axis=2)) + least, least, most).astype(dtype)


@pytest.mark.parametrize("dtype", TOPS)
@pytest.mark.parametrize("count", [2, 3, 4, 5, 13])
def test_bands_of_a_scene_are_predicted_from_each_other(dtype: str, count: int) -> None:
    image = bands(40, 44, count, dtype)
    raw = round_trip(image, tile=24, patch=24)
    stream = parse(raw)
    alone = [encode_image(image[:, :, c], models=tiny_models()) for c in range(count)]
    assert stream.alone == (dtype != "uint8" and count >= 3)
    predicted = [g for g in stream.groups if g.prediction is not None]
    assert len(predicted) == len(stream.groups) - 1
    assert len(raw) < 0.8 * sum(map(len, alone)) or dtype == "uint8"


def everywhere(self: Prediction, earlier: EarlierPlanes, box: tuple[int, int, int, int]) -> NDArray[np.int64]:
    """As ``Prediction.base``, but with predictions also where there is no data."""
    total = sum(w * earlier.levels(p, box).astype(np.int64) for p, w in zip(self.planes, self.weights, strict=True))
    return ((total + 2048) >> 12) + self.offset


@pytest.mark.parametrize("values", ["plain", "sparse"])
def test_places_without_data_cost_next_to_nothing(values: str) -> None:
    image = bands(96, 104, 3, "uint16")
    if values == "sparse":  # only some values of the type are used, at uneven distances
        image = (image // 300 * 300 + image // 3000).astype(np.uint16)
    empty = image.copy()
    empty[:, :52] = 0
    half, without = round_trip(image[:, 52:]), round_trip(empty)
    assert all(group.prediction is not None for group in parse(without).groups[1:])
    with patch.object(Prediction, "base", everywhere):
        raw = encode_image(empty, models=tiny_models(), options=EncodeOptions(threads=1))
    assert len(without) < len(raw)
    assert len(without) < 1.6 * len(half)


def test_planes_that_share_nothing_are_not_predicted() -> None:
    rng = np.random.default_rng(4)
    image = rng.integers(0, 4000, (40, 44, 2)).astype(np.uint16)
    assert [g.prediction for g in parse(round_trip(image)).groups] == [None, None]


def test_a_region_of_predicted_planes() -> None:
    image = bands(60, 52, 4, "uint16")
    raw = round_trip(image, tile=16)
    for box in ((0, 0, 60, 52), (17, 3, 49, 51), (5, 50, 6, 52)):
        part = decode_image(raw, models=tiny_models(), region=box, threads=2)
        assert np.array_equal(part, image[box[0] : box[2], box[1] : box[3]])


def test_differences_beyond_sixteen_bits_are_not_predicted() -> None:
    rng = np.random.default_rng(6)
    first = rng.integers(0, 65536, (30, 30))
    image = np.dstack([first, 65535 - first]).astype(np.uint16)  # what is left spans a multiple of the type
    round_trip(image)
    image[3, 3] = (0, 0)
    image[4, 4] = (65535, 65535)
    round_trip(image)


def test_many_bands_up_to_the_limit() -> None:
    image = bands(9, 8, 255, "uint16")
    assert parse(round_trip(image)).channels == 255
