"""The commands with the shipped models: small real work from end to end."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from callic_archive import open_archive
from tests.command import ROOT, run
from tests.trees import SHARED, smooth, snapshot, write_pnm


def photo(size: int) -> np.ndarray:
    """A part of a photograph, or a smooth stand-in where the shared data are missing."""
    path = SHARED / "eval" / "kodak" / "05.png"
    if not path.exists():
        return smooth(size, size, 3)
    with Image.open(path) as image:
        return np.asarray(image)[200 : 200 + size, 300 : 300 + size]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    write_pnm(root / "colour.ppm", photo(48))
    np.save(root / "deep.npy", (smooth(40, 56).astype(np.uint16) * 7 + 1000))
    np.save(root / "signed.npy", smooth(33, 20).astype(np.int16) - 100)
    Image.fromarray(photo(40)).save(root / "colour.png")
    Image.fromarray(photo(40)[:, :, 0]).save(root / "gray.tif")
    (root / "text.txt").write_text("not an image\n" * 20)
    return root


def test_a_tree_goes_through_the_learned_codec_and_comes_back(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.callic"
    packed = run("pack", tree, "-o", archive, "--json", "--adapt", "none", "--learned", "always")
    assert packed.code == 0, packed.err
    assert packed.summary["images"] >= 4
    assert packed.summary["stored_bytes"] < packed.summary["source_bytes"]
    verified = run("verify", archive, "--json", "--against", tmp_path)
    assert verified.code == 0, verified.err
    assert verified.summary["checked"] == 6
    models = sorted(
        path.name.split(".")[0] for path in (archive / "data" / "models").glob("*.model.xz")
    )
    entries = [event for event in run("list", archive, "--json").events if event["event"] == "entry"]
    assert sorted({digest for entry in entries for digest in entry.get("models", [])}) == models
    assert run("unpack", archive, "-o", tmp_path / "out").code == 0
    before, after = snapshot(tree), snapshot(tmp_path / "out" / "tree")
    content = {entry["path"].removeprefix("tree/") for entry in entries if entry.get("fidelity") == "content"}
    for path, was in before.items():
        if os.fsdecode(path) in content:
            # type: ignore[arg-type]
            a, b = (np.asarray(Image.open(io.BytesIO(side[path][3]))) for side in (before, after))
            assert np.array_equal(a, b)
        else:
            assert after[path] == was


def test_a_coder_that_cannot_be_had_here_costs_no_image_its_coding_and_is_no_damage(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from callic_archive.entropy import torchac
    from callic_archive.errors import TorchacUnavailableError

    def refused() -> None:
        raise TorchacUnavailableError("The torchac coder could not be compiled.")

    words = ("--adapt", "none", "--learned", "always", "--json", "--coder", "torchac", "--workers", "1")  # in this process
    with monkeypatch.context() as patch:
        patch.setattr(torchac, "load_backend", refused)
        ran = run("pack", tree, "-o", tmp_path / "x.callic", *words)
    assert (ran.code, ran.summary["error"]["code"]) == (4, "E216")
    assert not (tmp_path / "x.callic").exists()
    again = run("pack", tree, "-o", tmp_path / "x.callic", *words)
    if again.code == 4:
        pytest.skip("the torchac coder cannot be compiled here")
    assert again.summary["images"] >= 4
    monkeypatch.setattr(torchac, "load_backend", refused)
    checked = run("verify", tmp_path / "x.callic", "--json", "--workers", "1")
    assert checked.code == 4
    problems = {event["code"] for event in checked.events if event["event"] == "problem"}
    assert problems == {"E216"}


def test_packing_one_small_image_takes_little_time_once_warm(tmp_path: Path) -> None:
    Image.fromarray(photo(64)).save(tmp_path / "small.png")

    def once(name: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = ["pack", tmp_path / "small.png", "-o", tmp_path / name, "--quiet", "--learned", "always"]
        command = [sys.executable, "-m", "callic_archive.cli.main", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    once("cold.callic")  # compiles and caches where that was not done yet
    # Processor time, not time on the wall: other work on the machine must not fail the test.
    assert min(once("warm.callic"), once("warmer.callic")) < 5.0


@pytest.mark.slow
def test_bands_of_a_scene_in_files_of_their_own(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    detail = random.normal(0, 60, (96, 100)) + np.linspace(4000, 7000, 100)
    (tmp_path / "tree").mkdir()
    for number, gain in enumerate((1.0, 1.3), 1):
        band = (gain * detail + random.normal(0, 4, detail.shape)).astype(np.uint16)
        Image.fromarray(band).save(tmp_path / "tree" / f"scene_B{number}.tif")
    sizes = {}
    for words in ((), ("--no-bands",)):
        archive = tmp_path / f"x{len(words)}.callic"
        packed = run("pack", tmp_path / "tree", "-o", archive, "--json", "--learned", "always", "--adapt", "none", *words)
        assert packed.code == 0, packed.err
        sizes[words] = packed.summary["image_bytes"]
    assert sizes[()] < 0.9 * sizes[("--no-bands",)]
    archive = tmp_path / "x0.callic"
    assert run("verify", archive, "--against", tmp_path).code == 0
    with open_archive(archive) as opened:
        second = opened.read_array("tree/scene_B2.tif", region=(10, 20, 90, 99))
        assert np.array_equal(second, np.asarray(Image.open(tmp_path / "tree/scene_B2.tif"))[10:90, 20:99])
    assert run("unpack", archive, "*_B2.tif", "-o", tmp_path / "out").code == 0
    back = (tmp_path / "out/tree/scene_B2.tif").read_bytes()
    assert back == (tmp_path / "tree/scene_B2.tif").read_bytes()
