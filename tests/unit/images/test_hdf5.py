"""HDF5: which arrays are taken out of it, that the file comes back byte for byte, and what is left alone."""

from __future__ import annotations

import gc
import io
import mmap
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest

from callic_archive.access.pages import pages_of
from callic_archive.errors import SourceError, SourceTooLarge, TruncatedSource
from callic_archive.images.reasons import NotTaken
from callic_archive.images.sample_types import types_of
from callic_archive.images.source import Parsed, examine, rebuild, sniff

RNG = np.random.default_rng(5)
ROWS, COLUMNS = np.mgrid[:90, :130]
IMAGE = (1000 + 9 * COLUMNS + 4 * ROWS + RNG.normal(0, 20, ROWS.shape)).astype(np.uint16)


def hdf5(fill: Callable[[h5py.File], Any], **options: Any) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w", **options) as file:
        fill(file)
    return out.getvalue()


def exact(data: bytes) -> Parsed:
    parsed = examine(data)
    assert isinstance(parsed, Parsed)
    assert (parsed.format, parsed.fidelity) == ("hdf5", "bytes")
    out = io.BytesIO()
    rebuild(parsed.format, parsed.recipe, parsed.surround, parsed.images, out)
    assert out.getvalue() == data
    return parsed


def has(parsed: Parsed, image: np.ndarray) -> bool:
    height, width = image.shape
    parts = [found[:height, :width] for found in parsed.images if found.ndim == 2]
    alike = [part for part in parts if part.shape == image.shape and part.itemsize == image.itemsize]
    return any(np.array_equal(np.ascontiguousarray(part).view(image.dtype), image) for part in alike)


@pytest.mark.parametrize(
    "options", [{}, {"libver": "latest"}, {"libver": "v108"}, {"userblock_size": 512}, {"track_order": True}], ids=str
)
def test_contiguous_arrays(options: dict[str, Any]) -> None:
    def fill(file: h5py.File) -> None:
        file["image"] = IMAGE
        file["folder/deeper/floats"] = IMAGE.astype(np.float32)
        file["again"] = file["image"]
        file["nowhere"] = h5py.SoftLink("/not/there")
        file["line"] = np.arange(5000)
        file["text"] = "words"
        file.attrs["unit"] = "K"

    parsed = exact(hdf5(fill, **options))
    assert len(parsed.images) == 2
    assert has(parsed, IMAGE)
    assert has(parsed, IMAGE.astype(np.float32))
    types = types_of(parsed.format, parsed.recipe, parsed.surround)
    assert types is not None
    assert {one.name for (one,) in types} == {"u2", "f4"}


@pytest.mark.parametrize(
    "options",
    [
        {}, {"compression": "gzip"}, {"compression": "gzip", "compression_opts": 9, "shuffle": True}, {"shuffle": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True}, {"fletcher32": True},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["u1", ">i2", "<u4", "<f8"])
def test_chunks_lie_at_their_places(options: dict[str, Any], dtype: str) -> None:
    image = (IMAGE // 8).astype(dtype)
    parsed = exact(hdf5(lambda file: file.create_dataset("a", data=image, chunks=(32, 50), **options)))
    assert [found.shape for found in parsed.images] == [image.shape]
    assert has(parsed, image.astype(image.dtype.newbyteorder("=")))
    assert len(zlib.compress(parsed.surround)) < 800  # the structure, and what chunks have beyond the edges


def test_slices_lie_below_each_other_and_missing_chunks_are_filled() -> None:
    def fill(file: h5py.File) -> None:
        made = file.create_dataset(
            "a", (4, 90, 130), "u2", chunks=(1, 90, 130), maxshape=(None, 90, 130), fillvalue=77, compression="gzip"
        )
        for number in (0, 1, 3):
            made[number] = IMAGE + number

    parsed = exact(hdf5(fill))
    (image,) = parsed.images
    assert image.shape == (360, 130)
    for number in (0, 1, 3):
        assert np.array_equal(image[90 * number : 90 * number + 90], IMAGE + number)
    assert (image[180:270] == 77).all()


def test_slices_whose_chunks_do_not_fill_them_are_images_of_their_own() -> None:
    volume = np.stack([IMAGE, IMAGE + 1, IMAGE + 2])
    parsed = exact(hdf5(lambda file: file.create_dataset("a", data=volume, chunks=(1, 32, 50), compression="gzip")))
    assert [image.shape for image in parsed.images] == [IMAGE.shape] * 3
    assert all(np.array_equal(image, IMAGE + n) for n, image in enumerate(parsed.images))


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 30, 50)}], ids=str)
def test_slices_that_lie_below_each_other_are_pages(options: dict[str, Any]) -> None:
    volume = np.stack([IMAGE, IMAGE + 1, IMAGE + 2])
    parsed = exact(hdf5(lambda file: file.create_dataset("a", data=volume, **options)))
    pages = pages_of(parsed.recipe, [image.shape for image in parsed.images])
    assert [(page.frame, page.frames) for page in pages] == [(0, 3), (1, 3), (2, 3)]
    assert np.array_equal(parsed.images[0].reshape(volume.shape), volume)


DEEP = [
    ((10, 83, 97), (4, 32, 40)),
    ((3, 83, 97), (8, 32, 40)),  # of which most is beyond the last slice
    ((1, 83, 97), (4, 32, 97)),
    ((2, 3, 8, 60, 70), (1, 1, 4, 30, 40)),
    ((4, 50, 60, 3), (2, 20, 33, 3)),
]


@pytest.mark.parametrize(("shape", "chunks"), DEEP, ids=str)
@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}], ids=str)
def test_chunks_of_several_slices(shape: tuple[int, ...], chunks: tuple[int, ...], options: dict[str, Any]) -> None:
    volume = (np.arange(np.prod(shape)).reshape(shape) // 3 + RNG.integers(0, 9, shape)).astype(">i2")
    parsed = exact(hdf5(
        lambda file: file.create_dataset("a", data=volume, chunks=chunks, maxshape=(None,) * len(shape), **options)
    ))  # fmt: skip
    (image,) = parsed.images
    assert np.array_equal(image.reshape(shape), volume)
    pages = pages_of(parsed.recipe, [image.shape])
    rows = shape[-3] if shape[-1] == 3 else shape[-2]
    assert len(pages) == image.shape[0] // rows


def test_chunks_along_several_axes_lie_below_each_other() -> None:
    volume = RNG.integers(0, 99, (4, 4, 40, 50)).astype("u1")
    for chunks in ((2, 2, 40, 50), (1, 3, 20, 50)):
        parsed = exact(hdf5(lambda file, chunks=chunks: file.create_dataset("a", data=volume, chunks=chunks)))
        assert parsed.images[0].shape[1] == 50


def test_deep_chunks_that_were_never_written_are_filled() -> None:
    def fill(file: h5py.File) -> None:
        made = file.create_dataset("a", (8, 60, 80), "u2", chunks=(4, 30, 40), fillvalue=7, compression="gzip")
        made[:4, :30] = IMAGE[:30, :80]
        made[4:, 30:, 40:] = IMAGE[:30, :40]

    data = hdf5(fill)
    (image,) = exact(data).images
    with h5py.File(io.BytesIO(data)) as file:
        assert np.array_equal(image.reshape(8, 60, 80), file["a"][()])


@pytest.mark.parametrize(("side", "shape"), [(50, (1000, 1000)), (4, (32, 4))])
def test_few_chunks_of_an_array_take_its_places_where_these_are_few(side: int, shape: tuple[int, int]) -> None:
    def fill(file: h5py.File) -> None:
        made = file.create_dataset("a", (1000, 1000), "u2", chunks=(side, side), fillvalue=3)
        made[:side, : 8 * side] = np.arange(8 * side * side).reshape(side, -1) % 999

    (image,) = exact(hdf5(fill)).images
    assert image.shape == shape


def test_colours_in_chunks() -> None:
    colours = np.stack([IMAGE // 9, IMAGE // 7, IMAGE // 11], axis=-1).astype("u1")
    parsed = exact(hdf5(lambda file: file.create_dataset("a", data=colours, chunks=(32, 50, 3), compression="gzip")))
    assert np.array_equal(parsed.images[0], colours)


def test_chunks_without_some_of_their_filters_are_read_as_they_are() -> None:
    def fill(file: h5py.File) -> None:
        made = file.create_dataset("a", (90, 130), "u2", chunks=(30, 130), compression="gzip", shuffle=True)
        made[:] = IMAGE
        made.id.write_direct_chunk((30, 0), IMAGE[30:60].tobytes(), filter_mask=3)

    parsed = exact(hdf5(fill))
    filtered, bare = parsed.images  # nothing stands for what lies in the other
    assert np.array_equal(filtered, np.concatenate([IMAGE[:30], IMAGE[60:]]))
    assert np.array_equal(bare, IMAGE[30:60])


@pytest.mark.parametrize(("chunks", "libver"), [((45, 65), None), (None, "latest")])
def test_truth_values_are_read_as_such(chunks: tuple[int, ...] | None, libver: str | None) -> None:
    truth = IMAGE.mean() < IMAGE
    parsed = exact(hdf5(lambda file: file.create_dataset("a", data=truth, chunks=chunks), libver=libver))
    types = types_of(parsed.format, parsed.recipe, parsed.surround)
    assert types is not None
    assert types[0][0].of(parsed.images[0]).tolist() == truth.tolist()
    assert types[0][0].of(parsed.images[0]).dtype == bool


def test_filters_that_are_not_known_are_left() -> None:
    def fill(file: h5py.File) -> None:
        file.create_dataset("a", data=IMAGE, chunks=(30, 130), compression="lzf")
        file.create_dataset("b", data=IMAGE, chunks=(30, 130), scaleoffset=4)

    left = examine(hdf5(fill))
    assert isinstance(left, NotTaken)
    assert left.reason == "no-pixels"


def test_other_encoders_of_deflate_are_left() -> None:
    import imagecodecs

    def fill(file: h5py.File) -> None:
        made = file.create_dataset("a", (90, 130), "u2", chunks=(90, 130), compression="gzip")
        made.id.write_direct_chunk((0, 0), imagecodecs.deflate_encode(IMAGE.tobytes(), level=12))

    left = examine(hdf5(fill))
    assert isinstance(left, NotTaken)
    assert left.reason == "encoder"


def test_files_without_arrays_are_left() -> None:
    left = examine(hdf5(lambda file: file.create_group("empty")))
    assert isinstance(left, NotTaken)
    assert left.reason == "no-pixels"
    assert sniff(hdf5(lambda file: file.create_group("empty"), userblock_size=512)[:544]) == "hdf5"


def test_truncated_files_are_named() -> None:
    data = hdf5(lambda file: file.create_dataset("a", data=IMAGE))
    with pytest.raises(TruncatedSource, match="should have"):
        examine(data[:-100])


def test_the_file_is_let_go() -> None:
    data = hdf5(lambda file: file.create_dataset("a", data=IMAGE, chunks=(30, 130), compression="gzip"))
    with mmap.mmap(-1, len(data)) as mapped:
        mapped[:] = data
        gc.disable()  # what holds itself in a circle must not hold the file
        try:
            view = memoryview(mapped)
            parsed = examine(view)
            assert isinstance(parsed, Parsed)
            view.release()
        finally:
            gc.enable()


def test_broken_structures_end_soon() -> None:
    data = hdf5(lambda file: [file.create_dataset(f"g{n}/a", data=IMAGE, chunks=(10, 13), compression="gzip") for n in range(3)])
    for seed in range(150):
        rng = np.random.default_rng(seed)
        broken = bytearray(data)
        for place in rng.integers(0, 3000, 4):
            broken[place] = data[rng.integers(0, 3000)]
        try:
            found = examine(bytes(broken))
        except (SourceError, SourceTooLarge):
            continue
        if isinstance(found, Parsed):
            out = io.BytesIO()
            rebuild(found.format, found.recipe, found.surround, found.images, out)
            assert out.getvalue() == bytes(broken)
