"""The demonstration's own comparison sees every kind of difference, so its silence means something."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from pipelines.demo_samples import make_samples
from pipelines.tree_compare import compare_trees


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "samples"
    make_samples(root)
    return root


@pytest.fixture
def restored(samples: Path, tmp_path: Path) -> Path:
    shutil.copytree(samples, tmp_path / "restored", symlinks=True)
    return tmp_path / "restored"


def keeping_time(change: Callable[[Path], object], path: Path) -> None:
    """Apply ``change`` and put the modification times back, so that only the change itself can be seen."""
    times = {p: p.lstat().st_mtime_ns for p in (path, path.parent)}
    change(path)
    for changed, stamp in times.items():
        if changed.is_symlink() or changed.exists():
            os.utime(changed, ns=(stamp, stamp), follow_symlinks=False)


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def point_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def deflate_anew(path: Path) -> None:
    with Image.open(path) as image:
        words = PngImagePlugin.PngInfo()
        words.add_text("Comment", image.info["Comment"])
        image.save(path, compress_level=1, pnginfo=words, dpi=(300, 300))


def change_a_pixel(path: Path) -> None:
    with Image.open(path) as image:
        pixels = np.array(image)
        words = PngImagePlugin.PngInfo()
        words.add_text("Comment", image.info["Comment"])
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path, pnginfo=words, dpi=(300, 300))


def test_an_exact_copy_has_no_differences(samples: Path, restored: Path) -> None:
    assert compare_trees(samples, restored, {}) == []


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("notes/random.bin", flip_last_byte, "notes/random.bin: bytes differ"),
        ("notes/run.sh", lambda p: p.chmod(0o700), "notes/run.sh: mode 750 became 700"),
        ("notes/dangling", point_elsewhere, "notes/dangling: points elsewhere"),
        ("notes/empty.txt", Path.unlink, "notes/empty.txt: missing after unpacking"),
        ("empty/inner", Path.rmdir, "empty/inner: missing after unpacking"),
        ("notes/new", Path.touch, "notes/new: was not in the source"),
    ],
)
def test_each_difference_is_named(
    samples: Path, restored: Path, name: str, change: Callable[[Path], object], expected: str
) -> None:
    path = restored / name
    if not path.exists() and not path.is_symlink():
        stamp = path.parent.stat().st_mtime_ns
        change(path)
        os.utime(path.parent, ns=(stamp, stamp))
    else:
        keeping_time(change, path)
    assert compare_trees(samples, restored, {}) == [expected]


def test_a_changed_time_is_named(samples: Path, restored: Path) -> None:
    os.utime(restored / "notes/readme.txt", ns=(1, 2))
    (problem,) = compare_trees(samples, restored, {})
    assert problem.startswith("notes/readme.txt: modification time ")


def test_content_means_equal_pixels_and_metadata(samples: Path, restored: Path) -> None:
    name = "photos/astronaut.png"
    keeping_time(deflate_anew, restored / name)
    assert compare_trees(samples, restored, {name: "bytes"}) == [f"{name}: bytes differ"]
    assert compare_trees(samples, restored, {name: "content"}) == []
    keeping_time(change_a_pixel, restored / name)
    assert compare_trees(samples, restored, {name: "content"}) == [f"{name}: pixels or metadata differ"]


def test_tiff_content_is_read_with_its_tags(samples: Path, restored: Path) -> None:
    name = "histology/deflate.tif"
    pixels = tifffile.imread(samples / name)

    def write(path: Path, **options: object) -> None:
        options |= {"photometric": "rgb", "predictor": True}
        keeping_time(lambda p: tifffile.imwrite(p, pixels, **options), path)

    write(restored / name, compression="zlib", compressionargs={"level": 1})
    assert compare_trees(samples, restored, {name: "content"}) == []
    write(restored / name, compression="zlib", compressionargs={"level": 1}, description="another")
    assert compare_trees(samples, restored, {name: "content"}) == [f"{name}: pixels or metadata differ"]
