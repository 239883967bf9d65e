"""Codings beside the learned one: which images get them, that they come back, and what broken ones do."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from callic_archive.archive import candidates, filtered, foreign, image_coding, isolated
from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.digests import same_image
from callic_archive.archive.pack_one import pack_one
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.verbatim import expand
from callic_archive.errors import ForeignCodecFailed, ForeignCodecMissing, UnknownModel
from tests.doubles import DeflateCodec, DeflatePlan
from tests.trees import open_archive, pack_tree, smooth

RNG = np.random.default_rng(11)
CODEC = DeflateCodec(DeflatePlan())


def screen(height: int = 200, width: int = 300) -> np.ndarray:
    """Flat areas with small repeated marks, as programs draw them."""
    image = np.full((height, width, 3), 240, np.uint8)
    image[20:60, 30:200] = (30, 90, 200)
    marks = RNG.integers(0, 2, (30, 9, 6)).astype(bool)
    for row in range(70, height - 10, 12):
        for column in range(10, width - 10, 8):
            image[row : row + 9, column : column + 6][marks[RNG.integers(0, 30)]] = 0
    return image


def cells(height: int = 200, width: int = 220, count: int = 150) -> np.ndarray:
    """Which of some points is nearest: a label image."""
    y, x = np.mgrid[:height, :width]
    points = RNG.uniform(0, 220, (count, 2))
    return np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in points], axis=0)


def photograph(height: int = 160, width: int = 160) -> np.ndarray:
    noise = RNG.normal(0, 6, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    return (np.stack([x, y, x + y], -1) / 2 + noise).clip(0, 255).astype(np.uint8)


class NotToBeAsked:
    """A codec for images that must not reach it."""

    def encode(self, image: object) -> bytes:
        raise AssertionError("the learned codec was asked")


@pytest.fixture(autouse=True)
def _end_child() -> Any:
    yield
    isolated.stop()


# -- the look ------------------------------------------------------------------------------------------------


def test_of_recorded_images_a_quick_look_at_another_coding_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library is asked for a quick effort, and for more only where that comes near the model."""
    real = candidates._foreign
    asked: list[int] = []

    def quick(image: np.ndarray, coding: str, effort: int) -> candidates.Coded | None:
        asked.append(effort)
        found = real(image, coding, effort)
        return found and candidates.Coded(found.payload * 2, found.coding, found.stream, found.proven)

    monkeypatch.setattr(candidates, "_foreign", quick)
    slices = (RNG.normal(1000, 30, (150, 150)) + 300 * np.hypot(*np.mgrid[-1:1:150j, -1:1:150j])).astype(
        np.uint16
    )
    for image in (photograph(), slices, slices.astype(np.int16)):
        assert candidates.smallest(image, CODEC).coding == "codestream"
    assert asked == [7, 7, 7]
    asked.clear()
    large = photograph(900, 700)
    assert candidates.smallest(large, CODEC).coding == "codestream"
    assert asked == [3, 7, 3], "of a large image only blocks are asked of effort 7"


def test_what_no_model_knows_is_left_to_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smooth to 15 bits: nothing that looks drawn, and four times as large by a model that never saw the like."""
    y, x = np.mgrid[-1:1:200j, -1:1:240j]
    image = (16000 + 9000 * np.sin(9 * np.hypot(x, y)) + RNG.normal(0, 2, x.shape)).astype(np.uint16)
    assert candidates.recorded(image)
    coded = candidates.smallest(image, CODEC)
    assert coded.coding == "jpegxl"
    assert len(coded.payload) <= len(image_coding.encode_foreign(image, "jpegxl", 9))
    assert same_image(image_coding.decode_image(coded.payload, coded.coding, coded.stream, None), image)
    for large in ({"MOST": image.nbytes - 1}, {"NEAR": 0.1}):
        with monkeypatch.context() as patch:
            for name, value in large.items():
                patch.setattr(candidates, name, value)
            assert candidates.smallest(image, CODEC).coding == "codestream"


@pytest.mark.parametrize(
    "image",
    [
        screen(),
        np.dstack([screen(), np.full((200, 300), 255, np.uint8)]),
        (np.hypot(*np.mgrid[-1:1:300j, -1:1:300j]) < 0.7).astype(np.uint8) * 255,
        np.repeat(np.repeat(RNG.integers(0, 900, (20, 20)).astype(np.uint16), 13, 0), 17, 1),
        np.mgrid[:256, :256].sum(0).astype(np.uint16) * 50,
    ],
    ids=["screen", "screen with alpha", "mask", "labels", "gradient"],
)
def test_drawn_images_get_the_smallest_of_all_codings(image: np.ndarray) -> None:
    coded = candidates.smallest(image, CODEC)
    jxl = image_coding.encode_foreign(image, "jpegxl", 9)
    assert len(coded.payload) <= min(len(jxl) + candidates.OWN, len(CODEC.encode(image)))
    back = image_coding.decode_image(coded.payload, coded.coding, coded.stream, CODEC)
    assert same_image(image, back)
    assert coded.stream.coder


def test_a_large_drawn_image_does_not_see_the_model_where_a_sample_says_no(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def expensive(self: DeflateCodec, image: np.ndarray) -> bytes:
        asked.append(image.size)
        return bytes(image.size)

    monkeypatch.setattr(DeflateCodec, "encode", expensive)
    monkeypatch.setattr(candidates, "encode_segments", lambda image: None)
    image = screen(900, 1000)
    assert candidates.smallest(image, CODEC).coding in ("jpegxl", "webp")
    assert sum(asked) < image.size / 8


@pytest.mark.parametrize("shape", [(3000, 4000, 3), (3000, 4000)])
def test_a_large_blank_image_is_not_searched(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of JPEG XL at its highest effort for bytes that fit into a packet anyway."""
    monkeypatch.setattr(candidates, "_foreign", lambda *args: pytest.fail("a library was asked"))
    image = np.full(shape, 255, np.uint8)
    image[1700, 2100] = 7  # a speck
    coded = candidates.smallest(image, CODEC)
    assert (coded.coding, coded.proven) == ("samples", True)
    assert len(coded.payload) < 4000
    assert np.array_equal(filtered.decode_samples(coded.payload, image.shape, "uint8"), image)


def test_a_large_image_that_is_not_blank_where_it_was_not_looked_at_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(candidates, "_foreign", lambda image, coding, effort: asked.append(coding))
    image = np.zeros((3000, 4000), np.uint8)
    for top, left in zip(*np.nonzero(RNG.random((3000, 4000)) < 0.01), strict=True):
        image[top, left] = 1
    for block in candidates._blocks(image):
        block[:] = 0
    candidates.smallest(image, CODEC)
    assert asked == ["jpegxl"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_a_recorded_volume_that_hardly_changes_is_coded_by_its_repeats(dtype: str) -> None:
    frame = RNG.normal(0, 40, (128, 128)).cumsum(0).astype(np.int16).astype(dtype)
    volume = np.tile(frame, (16, 1))
    volume[1000:1010, 3:9] = 7
    coded = candidates.smallest(volume, CODEC)
    assert coded.coding == "samples"
    assert len(coded.payload) < 1.3 * len(candidates.smallest(frame, CODEC).payload)
    assert same_image(image_coding.decode_image(coded.payload, coded.coding, coded.stream, None), volume)


def test_repeats_are_found_however_far_away() -> None:
    """Beyond the windows that levels come with."""
    noise = RNG.integers(0, 1 << 16, (3 << 10, 3 << 10), np.uint16)  # 18 MiB
    twice = np.concatenate([noise, noise])
    assert filtered.repeats_coded(noise) > 0.99 * noise.nbytes
    assert filtered.repeats_coded(twice) < 1.05 * noise.nbytes
    payload = filtered.encode_samples(twice)
    assert len(payload) < 1.05 * noise.nbytes
    assert same_image(filtered.decode_samples(payload, twice.shape, "uint16"), twice)


def test_without_the_library_the_rest_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> bytes:
        raise ForeignCodecMissing("not here")

    monkeypatch.setattr(isolated, "ask", missing)
    coded = candidates.smallest(screen(), CODEC)
    assert coded.coding in ("codestream", "samples", "segments")


def test_tiny_images_need_no_library_where_little_is_lost() -> None:
    assert candidates.smallest(np.zeros((4, 5), np.uint8), CODEC).coding == "samples"


# -- samples and narrowing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "uint64"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (6, 4, 3), (1, 9, 2)])
def test_samples_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    info = np.iinfo(dtype)
    noisy = RNG.integers(info.min, info.max, shape, dtype, endpoint=True)
    for image in (noisy, np.zeros(shape, dtype), np.cumsum(np.ones(shape, dtype), axis=1, dtype=dtype)):
        payload = filtered.encode_samples(image)
        assert same_image(image, filtered.decode_samples(payload, shape, dtype))
    every = [filtered._filtered(filtered._words(noisy), chosen) for chosen in (0, 1, 2, 16, 17, 18)]
    import zstandard

    for chosen, words in zip((0, 1, 2, 16, 17, 18), every, strict=True):
        payload = bytes([chosen]) + zstandard.compress(words)
        assert same_image(noisy, filtered.decode_samples(payload, shape, dtype))


def test_broken_samples_are_refused() -> None:
    payload = filtered.encode_samples(smooth(20, 30))
    for broken in (b"", b"\x07" + payload[1:], payload[:-3], payload[:1], b"\x30" + payload[1:]):
        with pytest.raises(ValueError):
            filtered.decode_samples(broken, (20, 30), "uint8")
    with pytest.raises(ValueError, match="another size"):
        filtered.decode_samples(payload, (1 << 20, 1 << 20), "uint8")


@pytest.mark.parametrize(
    ("values", "narrow"),
    [
        (np.arange(12, dtype=np.float32), "uint8"),
        (np.arange(12, dtype=np.float64) * 5000, "uint16"),
        (np.arange(12, dtype=np.int32) * 100, "uint16"),
        (np.arange(12, dtype=np.uint64), "uint8"),
        (np.arange(12, dtype=np.float32) / 2, None),
        (np.array([-0.0, 1, 2, 3], np.float32), None),
        (np.array([np.nan, 1, 2, 3], np.float64), None),
        (np.array([np.inf, 1, 2, 3], np.float32), None),
        (np.array([-1, 1, 2, 3], np.int32), "int16"),
        (np.array([-1, 1, 2, 40000], np.int32), None),
        (np.array([-1024, 0, 3071, 5], np.float64), "int16"),
        (np.array([-1, 1, 2, 40000], np.float32), None),
        (np.array([-3, 0, 32767, -32768], np.int64), "int16"),
        (np.array([65536, 1, 2, 3], np.float32), None),
    ],
)
def test_narrowing_keeps_every_bit(values: np.ndarray, narrow: str | None) -> None:
    patterns = values.reshape(2, -1).view(f"u{values.itemsize}")
    found = image_coding.narrowed(patterns)
    assert (found and found[0].dtype.name) == narrow
    if found is not None:
        assert same_image(patterns, image_coding.widened(found[0], patterns.dtype.name, found[1]))


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["labels as floats", "labels as 32 bits", "floats", "booleans"])
def test_wide_arrays_become_smaller_than_zstandard_makes_them(kind: str) -> None:
    y, x = np.mgrid[:120, :150]
    array = {
        "labels as floats": cells().astype(np.float64),
        "labels as 32 bits": (cells() * 300).astype(">i4"),
        "floats": (np.sin(x / 40) + np.cos(y / 30) + RNG.normal(0, 1e-3, x.shape)).astype(np.float32),
        "booleans": cells() % 2 == 0,
    }[kind]
    data = npy(array)
    packed = pack_one(data, codec=lambda: CODEC)
    pieces = list(packed.pieces)
    assert packed.method == "image"
    stored = sum(len(p.payload) for p in pack_one(data, codec=None).pieces)
    assert sum(len(p.payload) for p in pieces) < stored - 60


def test_archives_with_every_coding_come_back(tmp_path: Path) -> None:
    tree = tmp_path / "t"
    tree.mkdir()
    Pillow.fromarray(screen()).save(tree / "screen.png")
    np.save(tree / "labels.npy", np.repeat(np.arange(300.0).reshape(15, 20), 16, 0).repeat(9, 1))
    np.save(tree / "floats.npy", np.cumsum(RNG.integers(-9, 9, (90, 90)), 0).astype(np.float32) / 7)
    Pillow.fromarray(photograph(200, 200)).save(tree / "photo.jpg", quality=90)
    pack_tree(tree, tmp_path / "x.callic", options=PackOptions())
    with open_archive(tmp_path / "x.callic") as opened:
        codings = {e.path: e.parts[-1].coding for e in opened.entries if e.kind == "file"}
        for entry in opened.entries:
            if entry.kind == "file":
                out = io.BytesIO()
                assert opened.restore(entry, out) == "bytes"
                assert out.getvalue() == (tmp_path / entry.path).read_bytes()
    assert codings["t/screen.png"] == "segments"
    assert codings["t/floats.npy"] == "wide"
    assert codings["t/photo.jpg"] == "jpeg"


# -- the child process ---------------------------------------------------------------------------------------


def jpeg(quality: int = 88, *, progressive: bool = False) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(photograph(200, 200)).save(out, "jpeg", quality=quality, progressive=progressive)
    return out.getvalue()


def test_a_jpeg_file_is_smaller_and_the_same() -> None:
    data = jpeg()
    (piece,) = pack_one(data, codec=lambda: NotToBeAsked()).pieces  # type: ignore[arg-type, return-value]
    assert piece.coding == "jpeg"
    assert len(piece.payload) < 0.9 * len(data)
    assert expand(piece.payload, "jpeg", len(data)) == data
    with pytest.raises((ValueError, ForeignCodecFailed)):
        expand(piece.payload, "jpeg", len(data) - 1)


@pytest.mark.parametrize("broken", [b"\xff\xd8\xff", b"\xff\xd8\xff\xe0" + bytes(500), jpeg()[:900]])
def test_broken_jpegs_are_stored(broken: bytes) -> None:
    packed = pack_one(broken, codec=lambda: CODEC)
    assert b"".join(expand(p.payload, p.coding, p.size) for p in packed.pieces) == broken


def test_flipped_jpegs_cost_at_most_the_child_process() -> None:
    good = jpeg()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        data = bytearray(good)
        for place in rng.integers(20, len(data), 10):
            data[place] = rng.integers(0, 256)
        packed = pack_one(bytes(data), codec=lambda: CODEC)
        assert b"".join(expand(p.payload, p.coding, p.size) for p in packed.pieces) == bytes(data)


def test_a_library_that_crashes_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    image = screen(40, 40)
    crash = f"import os; os.kill(os.getpid(), 11)  # {os.getpid()}"
    monkeypatch.setattr(isolated, "COMMAND", (sys.executable, "-c", crash))
    with pytest.raises(ForeignCodecFailed, match="ended"):
        image_coding.encode_foreign(image, "jpegxl", 7)
    (piece,) = pack_one(jpeg(progressive=True), codec=lambda: CODEC).pieces
    assert piece.coding in ("raw", "zstd")
    (piece,) = pack_one(jpeg(), codec=lambda: CODEC).pieces
    assert piece.coding == "jpeg"  # by its coefficients, which takes no library
    monkeypatch.undo()
    assert image_coding.encode_foreign(image, "jpegxl", 7)


def test_a_library_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(isolated, "SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(ForeignCodecFailed):
        image_coding.encode_foreign(screen(20, 20), "jpegxl", 7)
    assert time.monotonic() - begin < 30


def test_answers_are_bounded_and_checked() -> None:
    image = screen(40, 40)
    payload = image_coding.encode_foreign(image, "jpegxl", 7)
    with pytest.raises(ForeignCodecFailed, match="not"):
        image_coding.decode_foreign(payload, "jpegxl", (40, 41, 3), "uint8")
    with pytest.raises(ForeignCodecFailed, match="longer"):
        isolated.ask("decode_jpegxl", payload, memory=4800, most=100, shape=[40, 40, 3], dtype="uint8")
    with pytest.raises(ForeignCodecFailed):
        image_coding.decode_foreign(b"no JPEG XL at all", "jpegxl", (40, 40, 3), "uint8")
    assert same_image(image, image_coding.decode_foreign(payload, "jpegxl", image.shape, "uint8"))


def test_a_missing_library_is_named_for_the_entries_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "t"
    tree.mkdir()
    Pillow.fromarray(screen()).save(tree / "screen.png")
    monkeypatch.setattr(candidates, "encode_segments", lambda image: None)
    (tree / "notes.txt").write_text("words " * 50)
    pack_tree(tree, tmp_path / "x.callic", options=PackOptions())
    isolated.stop()
    hide = "import sys; sys.modules['imagecodecs'] = None; from callic_archive.archive.foreign import main; main()"
    monkeypatch.setattr(isolated, "COMMAND", (sys.executable, "-c", hide))
    with open_archive(tmp_path / "x.callic") as opened:
        entries = {e.path: e for e in opened.entries}
        opened.restore(entries["t/notes.txt"], io.BytesIO())
        with pytest.raises(ForeignCodecMissing, match="imagecodecs"):
            opened.restore(entries["t/screen.png"], io.BytesIO())


def test_the_child_answers_what_it_cannot_do() -> None:
    source = io.BytesIO(foreign.REQUEST.pack(2, 0) + b"{}")
    target = io.BytesIO()
    foreign.serve(source, target)
    status, length = foreign.ANSWER.unpack(target.getvalue()[: foreign.ANSWER.size])
    assert (status, length > 0) == (foreign.FAILED, True)


def test_streams_of_unknown_types_are_refused() -> None:
    stream = StreamInfo((4, 5), "uint8", "x", (), (), 0, "uint4", "integer")
    with pytest.raises(Exception, match="unknown type"):
        image_coding.decode_image(b"", "samples", stream, None)


# -- images that repeat themselves ---------------------------------------------------------------------------


class Declined(NotToBeAsked):
    """A codec whose models were declined."""

    def encode(self, image: object) -> bytes:
        raise UnknownModel("declined")


@pytest.mark.parametrize(("times", "channels"), [(6, 1), (12, 3)])
def test_images_that_repeat_themselves_are_not_searched_for_long(
    monkeypatch: pytest.MonkeyPatch, times: int, channels: int
) -> None:
    tile = RNG.integers(0, 256, (64, 64, channels), np.uint8)
    image = np.tile(tile, (times, times, 1)).squeeze()
    efforts: list[int] = []
    encode = image_coding.encode_foreign

    def noted(image: Any, coding: str, effort: int) -> bytes:
        if coding == "jpegxl":
            efforts.append(effort)
        return encode(image, coding, effort)

    monkeypatch.setattr(image_coding, "encode_foreign", noted)
    coded = candidates._conventional(image, Declined())
    assert 9 not in efforts
    assert len(coded.payload) < 1.3 * tile.nbytes


def test_photographs_are_searched_thoroughly() -> None:
    image = photograph()
    assert image_coding.thorough(image, len(image_coding.encode_foreign(image, "jpegxl", 7))) == 9
