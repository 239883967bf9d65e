"""The Python interface: codestreams, an archive as a mapping, regions, threads, and what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import callic_archive
from callic_archive import OpenArchive, decode_image, encode_image, open_archive
from callic_archive.archive.learned_codec import CallicPlan
from callic_archive.errors import (
    CodestreamError,
    EntryDamaged,
    MissingPath,
    NoSuchImage,
    RegionError,
    UnknownPath,
    UnsupportedImage,
)
from tests.doubles import DeflatePlan
from tests.trees import make_tree, pack_tree, smooth, write_pnm


def test_importing_the_package_stays_cheap() -> None:
    code = "import callic_archive, sys; print(sorted(set(sys.modules) & {'numpy', 'zarr', 'torch', 'numba', 'numcodecs'}))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_every_public_name_is_there() -> None:
    assert set(callic_archive.__all__) <= set(dir(callic_archive))
    assert all(getattr(callic_archive, name) is not None for name in callic_archive.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        callic_archive.nonsense  # noqa: B018


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (33, 21, 3), (9, 8, 4)])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_codestreams_come_back(shape: tuple[int, ...], dtype: str) -> None:
    image = (np.indices(shape).sum(axis=0) * 3 - (50 if dtype == "i2" else 0)).astype(dtype)
    coded = encode_image(image, threads=1)
    assert isinstance(coded, bytes)
    again = decode_image(coded, threads=1)
    assert again.dtype == image.dtype
    assert again.shape == image.shape
    assert np.array_equal(again, image)
    part = decode_image(bytearray(coded), region=(slice(2, 7), slice(-5, None)))
    assert np.array_equal(part, image[2:7, -5:])


def test_bad_arguments_of_codestreams() -> None:
    with pytest.raises(UnsupportedImage):
        encode_image(np.zeros((4, 4), np.float32))
    coded = encode_image(smooth(20, 20))
    with pytest.raises(CodestreamError):
        decode_image(coded[:-1])
    with pytest.raises(CodestreamError, match="limit"):
        decode_image(coded, max_pixels=399)
    with pytest.raises(RegionError):
        decode_image(coded, region=(0, 0, 21, 20))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("api")
    tree = make_tree(root / "tree")
    rng = np.random.default_rng(1)
    np.save(tree / "noise.npy", rng.integers(0, 256, (30, 40), np.uint8))  # does not pay, so it is stored
    np.save(tree / "stack.npy", np.stack([smooth(90, 120, seed=s) for s in range(5)]))
    np.save(tree / "floats.npy", rng.normal(size=(5, 5)))
    pack_tree(tree, root / "a.callic")
    return tree, root / "a.callic"


def test_an_archive_is_a_mapping(packed: tuple[Path, Path]) -> None:
    tree, path = packed
    with OpenArchive(path, plan=DeflatePlan()) as archive:
        files = {p.relative_to(tree.parent).as_posix() for p in tree.rglob("*")} | {"tree"}
        assert set(archive) == files
        assert len(archive) == len(files)
        entry = archive["tree/images/colour.ppm"]
        assert entry.images[0].shape == (30, 50, 3)
        assert entry.images[0].dtype == "uint8"
        assert entry.size == (tree / "images" / "colour.ppm").stat().st_size
        assert "tree/nothing" not in archive
        assert archive.get("tree/nothing") is None
        with pytest.raises(KeyError):
            archive["tree/nothing"]
        with pytest.raises(UnknownPath, match="has no entry 'tree/nothing'"):
            archive.read_bytes("tree/nothing")
        assert archive.problems == ()
        for name in archive:
            if archive[name].kind == "file":
                assert archive.read_bytes(name) == (tree.parent / name).read_bytes()
        with pytest.raises(NoSuchImage, match="folder"):
            archive.read_bytes("tree/void")
        with pytest.raises(NoSuchImage, match="link"):
            archive.read_array("tree/link")


def test_arrays_and_regions_of_an_archive(packed: tuple[Path, Path]) -> None:
    tree, path = packed
    with OpenArchive(path, plan=DeflatePlan()) as archive:
        colour = smooth(30, 50, 3, seed=7)
        assert np.array_equal(archive.read_array("tree/images/colour.ppm"), colour)
        part = archive.read_array("tree/images/colour.ppm", region=(slice(3, 9), slice(40, None)))
        assert np.array_equal(part, colour[3:9, 40:])
        stack = np.load(tree / "stack.npy")
        assert archive["tree/stack.npy"].method == "image"
        assert archive.page_count("tree/stack.npy") == 5
        assert np.array_equal(archive.read_array("tree/stack.npy", 2, (1, 2, 3, 4)), stack[2, 1:3, 2:4])
        with pytest.raises(NoSuchImage, match="0 to 4"):
            archive.read_array("tree/stack.npy", 5)
        with pytest.raises(NoSuchImage, match="whole numbers"):
            archive.read_array("tree/stack.npy", None)  # type: ignore[arg-type]
        with pytest.raises(RegionError):
            archive.read_array("tree/stack.npy", region=(0, 0, 91, 120))
        with pytest.raises(RegionError, match="backwards"):
            archive.read_array("tree/stack.npy", region=(20, 0, 10, 50))
        assert archive["tree/noise.npy"].method == "stored"
        assert archive.has_image("tree/noise.npy")
        noise = np.load(tree / "noise.npy")
        assert np.array_equal(archive.read_array("tree/noise.npy"), noise)
        assert np.array_equal(archive.read_array("tree/noise.npy", region=slice(5, 6)), noise[5:6])
        assert archive.has_image("tree/floats.npy")
        floats = np.load(tree / "floats.npy")
        assert np.array_equal(archive.read_array("tree/floats.npy"), floats)
        for name in ("tree/notes.txt", "tree/empty"):
            with pytest.raises(NoSuchImage):
                archive.read_array(name)
        assert not archive.has_image("tree/notes.txt")


def test_threads_share_an_archive(packed: tuple[Path, Path]) -> None:
    tree, path = packed
    with OpenArchive(path, plan=DeflatePlan()) as archive, ThreadPoolExecutor(8) as pool:
        names = [name for name in archive if archive[name].kind == "file"] * 4
        found = list(pool.map(archive.read_bytes, names))
    assert found == [(tree.parent / name).read_bytes() for name in names]


def test_damage_costs_one_entry(packed: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    _, path = packed
    copy = tmp_path / "copy.callic"
    shutil.copytree(path, copy)
    with OpenArchive(copy, plan=DeflatePlan()) as archive:
        ref = archive["tree/stack.npy"].parts[-1].ref
    shard = copy / "data" / ref.shard
    raw = bytearray(shard.read_bytes())
    raw[ref.offset + ref.length - 40] ^= 1
    shard.write_bytes(raw)
    with OpenArchive(copy, plan=DeflatePlan()) as archive:
        with pytest.raises(EntryDamaged):
            archive.read_bytes("tree/stack.npy")
        with pytest.raises(EntryDamaged):
            archive.read_array("tree/stack.npy", 4)
        assert archive.read_array("tree/stack.npy", 0).shape == (90, 120)
        assert archive.read_bytes("tree/notes.txt")


def test_opening_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(MissingPath):
        open_archive(tmp_path / "none.callic")


@pytest.mark.slow
def test_regions_with_the_shipped_models(tmp_path: Path) -> None:
    image = smooth(600, 530)
    write_pnm(tmp_path / "big.pgm", image)
    pack_tree(tmp_path / "big.pgm", tmp_path / "a.callic", plan=CallicPlan())
    with open_archive(tmp_path / "a.callic") as archive:
        assert archive["big.pgm"].method == "image"
        part = archive.read_array("big.pgm", region=(520, 515, 600, 530))  # one small tile of four
        assert np.array_equal(part, image[520:600, 515:530])
