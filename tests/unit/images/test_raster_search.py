"""Rasters in files of unknown formats: that they are found where they lie, and nothing where none do."""

from __future__ import annotations

import gzip
import io
import json
import warnings
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from callic_archive.images import raster_extents
from callic_archive.images.layout import Layout
from callic_archive.images.raster_costs import values_of
from callic_archive.images.raster_search import context_of, search
from callic_archive.images.source import Parsed, examine, parse_again, rebuild
from tests.unit.images.test_tar import tar

RNG = np.random.default_rng(11)


def scene(height: int, width: int, noise: float = 4.0) -> np.ndarray:
    """A smooth field with edges, as float64 of about 0 to 250: (height, width)."""
    rows, columns = np.mgrid[:height, :width] / 23.0
    field = 90 + 40 * np.sin(rows + 0.4 * columns) + 30 * np.cos(1.7 * columns) + 50 * ((rows // 3 + columns // 2) % 2)
    return np.clip(field + RNG.normal(0, noise, (height, width)), 0, 250)


GRAY, COLOUR = scene(300, 331), np.stack([scene(301, 200) * f for f in (1, 0.9, 0.8)], axis=-1)
KINDS = {
    "bytes": GRAY.astype("u1"),
    "16 bits": (40 * GRAY).astype("<u2"),
    "big-endian": (40 * GRAY).astype(">u2"),
    "signed": (40 * GRAY - 4000).astype("<i2"),
    "signed big-endian": (40 * GRAY - 4000).astype(">i2"),
    "every fourth value": 4 * GRAY.astype("<u2"),
    "floats of integers": (0.37 * (9 * GRAY).astype("u2")).astype("<f4"),
    "integers of 32 bits": (GRAY * 3000).astype("<i4"),
    "colour": COLOUR.astype("u1"),
    "colour of 16 bits": (50 * COLOUR).astype("<u2"),
}
HEAD = RNG.integers(0, 256, 4096 + 352, dtype=np.uint8).tobytes()


def read_of(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset : offset + length]


def found(data: bytes) -> list[Layout]:
    return search(read_of(data), len(data))


def exact(data: bytes) -> Parsed:
    """The file taken apart by what was found in it, once it is proven to come back."""
    context = context_of(read_of(data), len(data), "scan.xyz")
    assert context is not None
    parsed = examine(data, context=context)
    assert isinstance(parsed, Parsed)
    assert (parsed.format, parsed.fidelity) == ("raw", "bytes")
    out = io.BytesIO()
    rebuild(parsed.format, json.loads(json.dumps(parsed.recipe)), parsed.surround, parsed.images, out)
    assert out.getvalue() == data
    again = parse_again(data, "raw", parsed.recipe)
    assert again is not None
    assert again.surround == parsed.surround
    return parsed


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_and_the_place_of_a_raster(kind: str) -> None:
    image = KINDS[kind]
    data = HEAD + image.tobytes() + HEAD[:999]
    (layout,) = found(data)
    samples = image.shape[2] if image.ndim == 3 else 1
    assert (layout.width, layout.samples, layout.itemsize) == (image.shape[1], samples, image.itemsize)
    assert layout.dtype[0] in ("|", image.dtype.str[0])
    if image.itemsize == 2:
        assert layout.dtype == image.dtype.str
    assert abs(layout.height - image.shape[0]) <= 3
    assert (layout.offsets[0] - len(HEAD)) % image.itemsize == 0
    parsed = exact(data)
    assert sum(found.nbytes for found in parsed.images) > 0.97 * image.nbytes


def test_frames_with_headers_of_any_length_between_them() -> None:
    frames = [(40 * scene(300, 400)).astype("<u2") for _ in range(4)]
    data = b"".join(RNG.bytes(33000 + 777 * n) + frame.tobytes() for n, frame in enumerate(frames))
    layouts = found(data)
    assert len(layouts) == 4
    assert {layout.width for layout in layouts} == {400}
    starts = [data.index(frame.tobytes()) for frame in frames]
    assert [layout.offsets[0] for layout in layouts] == pytest.approx(starts, abs=2 * 800)
    assert all((layout.offsets[0] - start) % 2 == 0 for layout, start in zip(layouts, starts, strict=True))
    exact(data)


def test_images_of_two_sizes_in_one_file() -> None:
    first, second = (scene(500, 700)).astype("u1"), (scene(500, 444)).astype("u1")
    data = first.tobytes() + HEAD + second.tobytes()
    assert [layout.width for layout in found(data)] == [700, 444]
    exact(data)


@pytest.mark.parametrize(("chunk", "blocks"), [(1 << 18, 1 << 20), (4 << 20, 1 << 20), (1 << 18, 50)])
def test_pieces_in_which_a_file_is_looked_at_change_nothing(
    chunk: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raster_extents, "_BLOCKS", blocks)
    data = HEAD + np.concatenate([(40 * scene(700, 600)).astype("<u2")] * 2).tobytes()
    monkeypatch.setattr(raster_extents, "_CHUNK", chunk)
    (layout,) = found(data)
    assert layout.width == 600
    assert abs(layout.height - 1400) <= 1


def _sound() -> bytes:
    time = np.arange(200_000)
    return (6000 * np.sin(time / 31) + 900 * np.sin(time / 5.3) + RNG.normal(0, 90, time.size)).astype("<i2").tobytes()


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("words", b"words" * 9)
        archive.writestr("scan.xyz", data)
    return out.getvalue()


@pytest.mark.parametrize("around", [lambda data: gzip.compress(data, mtime=0), lambda data: tar({"scan.xyz": data}), zipped])
@pytest.mark.parametrize("image", [(40 * scene(700, 600)).astype(">i2"), GRAY.astype("u1")], ids=["large", "small"])
def test_files_of_unknown_formats_inside_others(around: Callable[[bytes], bytes], image: np.ndarray) -> None:
    data = around(HEAD[:2880] + image.tobytes() + HEAD[:700])
    parsed = examine(data)
    assert isinstance(parsed, Parsed)
    assert sum(found.nbytes for found in parsed.images) > 0.97 * image.nbytes
    out = io.BytesIO()
    rebuild(parsed.format, json.loads(json.dumps(parsed.recipe)), parsed.surround, parsed.images, out)
    assert out.getvalue() == data


NOTHING = {
    "random": RNG.integers(0, 256, 500_000, dtype=np.uint8).tobytes(),
    "zeros": bytes(500_000),
    "text": b"".join(b"%d, %.4f, some words of a table\n" % (n, n * 0.731) for n in range(9000)),
    "compressed": gzip.compress((40 * scene(700, 600)).astype("<u2").tobytes()),
    "sound": _sound(),
    "short": (scene(100, 200)).astype("u1").tobytes(),
    "a row": bytes(range(256)) * 2000,
    "JPEG": b"\xff\xd8\xff\xe0" + (scene(300, 331)).astype("u1").tobytes(),
    "empty": b"",
}


@pytest.mark.parametrize("kind", NOTHING)
def test_nothing_is_found_where_no_raster_is(kind: str) -> None:
    data = NOTHING[kind]
    assert context_of(read_of(data), len(data), "file") is None


def test_a_file_that_shrinks_meanwhile_reads_as_zeros() -> None:
    data = HEAD + (40 * scene(700, 600)).astype("<u2").tobytes()
    read = read_of(data[: len(data) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for layout in search(lambda offset, length: read(offset, length).ljust(length, b"\0"), len(data)):
            assert layout.offsets[0] + layout.decoded_bytes <= len(data)


def test_values_that_are_few_are_counted_through() -> None:
    values = np.array([0, 65535, 65504, 32, 64, 0, 32], "<u2").repeat(4000)
    samples, table = values_of(values.tobytes(), "<u2")
    assert samples[::4000].tolist() == [2, 1, 0, 3, 4, 2, 3]
    assert table > 0
    everything = np.arange(30000, dtype="<u2")
    assert values_of(everything.tobytes(), "<u2").samples.tolist() == everything.tolist()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_floats_in_the_order_of_their_values(dtype: str) -> None:
    values = np.sort(np.concatenate([RNG.normal(0, 1e3, 20000), [-np.inf, np.inf, 0.0]])).astype(dtype)
    samples = values_of(values.tobytes(), dtype.replace("f", "u")).samples
    assert (np.diff(samples) >= 0).all()
    assert abs(int(samples[-1])) + abs(int(samples[0])) < 1 << 63
