"""Slices and frames that share a codestream are pages of their own for who reads them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import tifffile

from callic_archive.access.archive import OpenArchive
from callic_archive.access.pages import Page, pages_of
from tests.command import run, use_double
from tests.doubles import DeflatePlan


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_double(monkeypatch)
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def volume(*shape: int, dtype: str = "u2") -> np.ndarray:
    grown = np.add.outer(np.arange(shape[0]) * 31, np.add.outer(np.arange(shape[1]) * 3, np.arange(shape[2]) * 5))
    return (grown + np.random.default_rng(3).integers(0, 4, shape)).astype(dtype)


def packed(tree: Path) -> OpenArchive:
    assert run("pack", tree, "-o", tree.parent / "x.callic").code == 0
    return OpenArchive(tree.parent / "x.callic", plan=DeflatePlan())


def test_pages_of_a_tiff_that_were_stacked(tree: Path) -> None:
    pages = volume(12, 48, 50)
    tifffile.imwrite(tree / "stack.tif", pages, photometric="minisblack")
    with packed(tree) as archive:
        assert len(archive["tree/stack.tif"].images) == 1
        assert archive.page_count("tree/stack.tif") == 12
        for number in (0, 5, 11):
            assert np.array_equal(archive.read_array("tree/stack.tif", page=number), pages[number])
        part = archive.read_array("tree/stack.tif", page=7, region=(slice(10, 20), slice(5, 45)))
        assert np.array_equal(part, pages[7, 10:20, 5:45])


def test_pages_within_gzip_and_of_npy(tree: Path) -> None:
    pages = volume(9, 40, 30)
    np.save(tree / "stack.npy", pages)
    (tree / "stack.npy.gz").write_bytes(gzip.compress((tree / "stack.npy").read_bytes()))
    with packed(tree) as archive:
        for name in ("tree/stack.npy", "tree/stack.npy.gz"):
            assert archive.page_count(name) == 9
            assert np.array_equal(archive.read_array(name, page=8), pages[8])


def test_signed_bytes_are_signed(tree: Path) -> None:
    image = (volume(1, 60, 70)[0] % 251 - 120).astype("i1")
    tifffile.imwrite(tree / "signed.tif", image)
    with packed(tree) as archive:
        found = archive.read_array("tree/signed.tif")
        assert found.dtype == np.int8
        assert np.array_equal(found, image)
        assert np.array_equal(archive.read_array("tree/signed.tif", region=(1, 2, 9, 30)), image[1:9, 2:30])


@pytest.mark.parametrize(
    "recipe",
    [None, {}, {"layouts": [{}]}, {"layouts": 5}, {"members": [{}]}, {"stack": 0, "frames": 3}, {"stack": "x", "frames": 1}],
)
def test_recipes_that_say_nothing_leave_images_as_pages(recipe: dict[str, object] | None) -> None:
    assert pages_of(recipe, [(4, 4), (5, 5)]) == [Page(0), Page(1)]


def test_frames_that_do_not_divide_an_image_are_none() -> None:
    assert pages_of({"stack": 3, "frames": 3}, [(10, 4)]) == [Page(0)]
    assert pages_of({"stack": 3, "frames": 5}, [(9, 4), (6, 4)])[-1] == Page(1, 1, 2)
