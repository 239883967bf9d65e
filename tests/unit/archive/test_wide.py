"""Images of 32 and 64 bits a sample by images of fewer."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from callic_archive.access.archive import OpenArchive
from callic_archive.archive import candidates, filtered, image_coding, isolated, wide
from callic_archive.archive.collection import images_of
from callic_archive.archive.digests import same_image
from callic_archive.archive.learned_codec import CallicDecoderPlan
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.scan import scan
from callic_archive.archive.specification import topics_of
from callic_archive.errors import CallicError
from tests.command import run
from tests.doubles import DeflateCodec, DeflatePlan
from tests.trees import open_archive, pack_tree, smooth

RNG = np.random.default_rng(3)
CODEC = DeflateCodec(DeflatePlan())


@pytest.fixture(autouse=True, scope="module")
def _end_child() -> Any:
    yield
    isolated.stop()


def raw(split: wide.Split) -> bytes:
    """The payload with every image filtered."""
    return wide.form(split, [("samples", filtered.encode_samples(image)) for image in split.images])


def back(payload: bytes, shape: tuple[int, ...], dtype: str, region: Any = None) -> np.ndarray:
    stream = candidates.StreamInfo(shape, dtype, "samples zstd", (), ())
    return image_coding.decode_image(payload, "wide", stream, CODEC, region)


def by_the_page(payload: bytes, shape: tuple[int, ...], bits: int) -> list[int]:
    """Samples in C order as section 7 of docs/format/archive.md says, one by one; streams are all ``samples``."""
    first, order, zeros, shift, offset = struct.unpack_from("<4BQ", payload)
    kind, jumps = first & 1, [struct.unpack_from("<QQ", payload, 12 + 16 * n) for n in range(first >> 1)]
    at = 12 + 16 * len(jumps)
    streams = []

    def stream(shape: tuple[int, ...]) -> list[int]:
        nonlocal at
        coding, size, length = struct.unpack_from("<BBQ", payload, at)
        assert coding == 4
        image = filtered.decode_samples(payload[at + 10 : at + 10 + length], shape, f"uint{8 * size}")
        at += 10 + length
        return [int(value) for value in image.ravel()]

    if kind == 0:
        (count,) = struct.unpack_from("<I", payload, at)
        at += 4
        table = stream((1, count))
        numbers = [table[place] for place in stream(shape)]
    else:
        streams = [stream(shape)]
        streams.append(stream(shape) if shift else [0] * len(streams[0]))
        numbers = [high * 2**shift + low for high, low in zip(*streams, strict=True)]
    assert at == len(payload)
    for start, width in jumps:
        numbers = [u + width if u >= start else u for u in numbers]
    values = [(offset + u * 2**zeros) % 2**bits for u in numbers]
    top = 2 ** (bits - 1)
    if order == 0:
        return values
    if order == 1:
        return [v ^ top for v in values]
    return [v ^ top if v >= top else 2**bits - 1 - v for v in values]


shapes = st.one_of(
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(2, 4))
)


@given(st.data(), st.sampled_from(["u4", "i4", "f4", "u8", "i8", "f8"]), shapes)
def test_every_image_comes_back_in_every_way(data: st.DataObject, kind: str, shape: tuple[int, ...]) -> None:
    few = data.draw(st.lists(hnp.from_dtype(np.dtype(kind)), min_size=1, max_size=6))
    free = st.one_of(st.sampled_from(few), hnp.from_dtype(np.dtype(kind)))
    values = data.draw(hnp.arrays(kind, shape, elements=free, fill=st.sampled_from(few)))
    image = values.view(f"u{values.itemsize}")
    for split in wide.splits(image):
        payload = raw(split)
        found = back(payload, shape, image.dtype.name)
        assert same_image(image, found)
        assert by_the_page(payload, shape, 8 * image.itemsize) == [int(value) for value in image.ravel()]
        region = (0, shape[1] // 2, max(1, shape[0] // 2), shape[1])
        assert np.array_equal(back(payload, shape, image.dtype.name, region), image[: region[2], region[1] :])


@given(hnp.arrays(st.sampled_from(["u4", "u8"]), shapes), st.sampled_from([0, 1, 2]))
def test_orders_are_undone(image: np.ndarray, order: wide.Order) -> None:
    assert np.array_equal(wide.unordered(wide.ordered(image, order), order), image)


def test_bits_of_floats_are_ordered_as_their_numbers() -> None:
    for kind in (np.float32, np.float64):
        values = np.array([-np.inf, -3e9, -1, -1e-40, -0.0, 0.0, 1e-40, 0.5, 3e9, np.inf], kind).reshape(1, -1)
        assert np.all(np.diff(wide.ordered(values.view(f"u{values.itemsize}"), 2).astype(object)) > 0)


def scene(height: int = 150, width: int = 160) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return 700 + 200 * np.sin(x / 31) * np.cos(y / 23) + RNG.normal(0, 4, (height, width))


KINDS = {
    "scaled": (scene().round() / 4095).astype(np.float32),
    "scaled, 64 bits": scene().round() * 0.0137 - 5,
    "centred": ((scene().round() - 700) / 141).astype(np.float32),
    "smoothed": (scene() / 4095).astype(np.float32),
    "beyond a hole": np.where(np.hypot(*np.mgrid[-1:1:150j, -1:1:160j]) < 0.9, scene(), -9999).astype(np.float32),
    "beyond no number": np.where(np.hypot(*np.mgrid[-1:1:150j, -1:1:160j]) < 0.9, scene(), np.nan).astype(np.float32),
    "floats in 64 bits": scene().astype(np.float32).astype(np.float64),
    "counts": (scene() * 9137).astype(np.int32),
    "signed": ((scene() - 700) * 9137).astype(np.int32),
    "of three": np.stack([scene(), scene() * 2, scene() / 3], -1).astype(np.float32),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_instruments_give_takes_no_more_than_by_any_other_coding(name: str) -> None:
    values = KINDS[name]
    image = values.view(f"u{values.itemsize}")
    coded = candidates.smallest(image, CODEC)
    assert same_image(image, image_coding.decode_image(coded.payload, coded.coding, coded.stream, CODEC))
    others = [len(filtered.encode_samples(image))]
    if values.dtype == np.float32:
        others.append(len(image_coding.encode_foreign(image, "jpegxl", 9)))
    assert len(coded.payload) <= min(others)
    # what stands for a model here is no better than JPEG XL, which takes 32 bits for floats whatever they are
    assert coded.coding == "wide" or (values.itemsize == 4 and coded.coding == "jpegxl")
    assert coded.coding == "wide" or "scaled" not in name


def test_of_few_values_their_ranks_are_the_image() -> None:
    """As it was before a program divided it."""
    whole = scene().round().astype(np.uint16)
    for values in ((whole / 4095).astype(np.float32), whole / 1000.0, whole.astype(np.int64) * 100_003):
        (split,) = wide.splits(values.view(f"u{values.itemsize}"))
        assert split.table is not None
        assert split.high.max() < whole.max()
        coded = candidates.smallest(values.view(f"u{values.itemsize}"), CODEC)
        assert len(coded.payload) < len(candidates.smallest(whole, CODEC).payload) + 6 * split.table.size


def test_what_marks_no_data_costs_no_precision() -> None:
    inside = np.hypot(*np.mgrid[-1:1:150j, -1:1:160j]) < 0.9
    for mark in (-9999, -3.4e38, 0, np.nan, np.inf):
        values = np.where(inside, scene(), mark).astype(np.float32)
        for split in wide.splits(values.view(np.uint32)):
            assert split.table is not None or (1 <= len(split.scale.jumps) <= 2 and split.shift < 10)


def test_floats_that_nothing_makes_smaller_go_to_what_is_there() -> None:
    noise = RNG.integers(0, 1 << 32, (90, 90), np.uint32)
    coded = candidates.smallest(noise, CODEC)
    assert len(coded.payload) < noise.nbytes + 100
    assert same_image(noise, image_coding.decode_image(coded.payload, coded.coding, coded.stream, CODEC))


@pytest.mark.parametrize("special", [np.nan, -np.nan, np.inf, -0.0, 1e-44])
def test_jpeg_xl_of_floats_is_taken_only_where_every_bit_comes_back(special: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = scene().astype(np.float32)
    values[3, 4:9] = special
    monkeypatch.setattr(wide, "splits", lambda image: [])
    coded = candidates.smallest(values.view(np.uint32), CODEC)
    assert coded.coding in ("jpegxl", "samples")
    assert same_image(
        values.view(np.uint32), image_coding.decode_image(coded.payload, coded.coding, coded.stream, None)
    )


def test_broken_payloads_are_refused() -> None:
    image = KINDS["smoothed"].view(np.uint32)
    ranked = KINDS["scaled"].view(np.uint32)
    (parts,), (ranks,) = wide.splits(image), wide.splits(ranked)
    good, other = raw(parts), raw(ranks)
    heads = [b"", good[:11], b"\x14" + good[1:], good[:1] + b"\3" + good[2:], good[:2] + b"\x20" + good[3:],
             good[:3] + b"\x20" + good[4:], good[:3] + b"\0" + good[4:], good[:3] + b"\7" + good[4:], good[:8] + b"\1" + good[9:],
             good[:12] + b"\0" + good[13:], good[:12] + b"\5" + good[13:], good[:13] + b"\4" + good[14:],
             good[:-1], good + b"\0", other[:12] + struct.pack("<I", 0) + other[16:],
             other[:12] + struct.pack("<I", 1 << 30) + other[16:], other[:12] + struct.pack("<I", 7) + other[16:],
             other[:3] + b"\1" + other[4:]]  # fmt: skip
    for payload in heads:
        with pytest.raises((ValueError, CallicError)):
            back(payload, image.shape, "uint32")
    for dtype in ("uint16", "float32"):
        with pytest.raises((ValueError, CallicError)):
            back(good, image.shape, dtype)
    beyond = wide.Split(ranks.scale, 0, ranks.high + ranks.high.dtype.type(1), None, ranks.table)
    with pytest.raises(ValueError, match="beyond its values"):
        back(raw(beyond), image.shape, "uint32")
    inside = wide.form(parts, [("jpegxl", b"\xff\x0a"), ("samples", b"")])
    with pytest.raises((ValueError, CallicError)):
        back(inside, image.shape, "uint32")


def test_archives_hold_and_tell_of_them(tmp_path: Path) -> None:
    tree = tmp_path / "t"
    tree.mkdir()
    for name, values in KINDS.items():
        np.save(tree / f"{name}.npy", values)
    np.save(tree / "plain.npy", smooth(60, 70))
    pack_tree(tree, tmp_path / "x.callic", options=PackOptions())
    codings = set()
    with open_archive(tmp_path / "x.callic") as opened:
        for entry in opened.entries:
            if entry.kind == "file":
                out = io.BytesIO()
                assert opened.restore(entry, out) == "bytes"
                assert out.getvalue() == (tmp_path / entry.path).read_bytes()
                if "plain" not in entry.path:
                    (part,) = (part for part in entry.parts if part.stream is not None)
                    codings.add(part.coding)
                    assert (part.coding == "wide") == ("wide" in topics_of([entry]))
    assert "wide" in codings
    with OpenArchive(tmp_path / "x.callic", plan=DeflatePlan()) as archive:
        for name, values in KINDS.items():
            assert np.array_equal(archive.read_array(f"t/{name}.npy"), values, equal_nan=values.dtype.kind == "f")
            part = archive.read_array(f"t/{name}.npy", region=(20, 30, 33, 61))
            assert np.array_equal(part, values[20:33, 30:61], equal_nan=values.dtype.kind == "f")


def test_models_are_weighed_and_fitted_by_what_they_will_see(tmp_path: Path) -> None:
    tree = tmp_path / "t"
    tree.mkdir()
    np.save(tree / "scaled.npy", KINDS["scaled"])
    (source,) = (source for source in scan([str(tree)]).sources if source.kind == "file")
    (image,) = images_of(source)
    assert image.dtype == np.uint16
    assert np.array_equal(image, np.unique(KINDS["scaled"], return_inverse=True)[1].reshape(image.shape))


def test_models_code_their_high_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model that ships: its digest stands in the index, and unpacking and regions find it."""
    monkeypatch.setattr(candidates, "CLEAR", 9)
    monkeypatch.setattr(candidates, "NEAR", 0)
    tree = tmp_path / "t"
    tree.mkdir()
    names = ("smoothed", "scaled", "of three")
    for name in names:
        np.save(tree / f"{name}.npy", KINDS[name])
    words = ("--adapt", "none", "--learned", "always", "--workers", 1)
    assert run("pack", tree, "-o", tmp_path / "x.callic", *words).code == 0
    with OpenArchive(tmp_path / "x.callic", plan=CallicDecoderPlan()) as archive:
        for name in names:
            (part,) = (part for part in archive[f"t/{name}.npy"].parts if part.stream is not None)
            assert (part.coding, part.learned) == ("wide", True)
            assert part.stream is not None
            assert part.stream.models
            assert np.array_equal(archive.read_array(f"t/{name}.npy"), KINDS[name])
            found = archive.read_array(f"t/{name}.npy", region=(60, 70, 90, 140))
            assert np.array_equal(found, KINDS[name][60:90, 70:140])
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path, "--full").code == 0
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    for name in names:
        assert (tmp_path / "out" / "t" / f"{name}.npy").read_bytes() == (tree / f"{name}.npy").read_bytes()
