"""``cat`` and ``unpack --region``: what they write, what they refuse, and with which exit codes."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from callic_archive.archive.reading import Archive
from callic_archive.cli.cat import is_text
from callic_archive.cli.main import main
from tests.command import ROOT, Ran, run, use_double
from tests.doubles import DeflatePlan
from tests.trees import make_tree, pack_tree, smooth, write_pnm


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cat")
    tree = make_tree(root / "tree")
    np.save(tree / "stack.npy", np.stack([smooth(90, 120, seed=s) for s in range(5)]))
    np.save(tree / "noise.npy", np.random.default_rng(1).integers(0, 256, (30, 40), np.uint8))
    write_pnm(tree / "small.pgm", smooth(9, 9))
    pack_tree(tree, root / "a.callic")
    return root / "a.callic"


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@dataclass
class Bytes:
    code: int
    out: bytes
    err: str


def cat(*words: object) -> Bytes:
    """Run ``cat`` in this process with a standard output that takes bytes."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(["cat", *(str(word) for word in words)])
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return Bytes(int(ended.value.code or 0), out.buffer.getvalue(), err.getvalue())


@pytest.mark.parametrize(
    "name",
    [
        "images/colour.ppm",
        "stack.npy",
        "notes.txt",
        "random.bin",
        "empty",
        "um läut \n line",
        "not-\udcff\udcfe-utf8",
    ],
)
def test_cat_gives_the_bytes_of_a_file(packed: Path, name: str) -> None:
    done = cat(packed, f"tree/{name}")
    assert done.code == 0
    assert done.out == (packed.parent / "tree" / name).read_bytes()
    assert done.err == ""


def test_cat_with_json_keeps_standard_output_to_the_file(packed: Path) -> None:
    done = cat(packed, "tree/notes.txt", "--json")
    assert done.out == (packed.parent / "tree" / "notes.txt").read_bytes()
    ran = Ran(done.code, done.err, "")
    assert [event["event"] for event in ran.events] == ["entry", "summary"]
    assert ran.summary["exit_code"] == 0
    assert ran.summary["restored_bytes"] == len(done.out)


@pytest.mark.parametrize(
    ("path", "text"),
    [("none", "E021"), ("", "E022"), ("link", "E022"), ("void/", "E022"), ("NOTES.TXT", "E021")],
)
def test_cat_of_what_is_no_file(packed: Path, path: str, text: str) -> None:
    done = cat(packed, f"tree/{path}")
    assert (done.code, done.out) == (2, b"")
    assert text in done.err


def test_cat_of_what_is_no_archive(tmp_path: Path) -> None:
    assert cat(tmp_path / "none.callic", "a").code == 2
    assert cat(tmp_path, "a").code == 3


def test_cat_writes_nothing_of_a_damaged_file(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "b.callic")
    with Archive(tmp_path / "b.callic", DeflatePlan()) as archive:
        ref = next(entry for entry in archive.entries if entry.path == "tree/random.bin").parts[0].ref
    shard = tmp_path / "b.callic" / "data" / ref.shard
    raw = bytearray(shard.read_bytes())
    raw[ref.offset + ref.length - 60] ^= 1
    shard.write_bytes(raw)
    done = cat(tmp_path / "b.callic", "tree/random.bin")
    assert (done.code, done.out) == (3, b"")
    assert "E502" in done.err
    assert cat(tmp_path / "b.callic", "tree/notes.txt").code == 0


@pytest.mark.parametrize(
    ("name", "force", "code"), [("notes.txt", False, 0), ("random.bin", False, 2), ("random.bin", True, 0)]
)
def test_cat_on_a_terminal(packed: Path, name: str, force: bool, code: int) -> None:
    controller, terminal = pty.openpty()
    words = ["cat", str(packed), f"tree/{name}", *(["--force"] if force else [])]
    command = [sys.executable, "-m", "callic_archive.cli.main", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.Popen(command, stdout=terminal, stderr=subprocess.PIPE, env=environment)
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(controller, 1 << 16):
            shown += piece
    except OSError:
        pass  # the other end was closed
    _, err = done.communicate(timeout=60)
    os.close(controller)
    assert done.returncode == code, err
    assert bool(shown) == (code == 0)
    assert (b"--force" in err) == (code == 2)


def test_cat_into_a_pipe_that_closes(packed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m callic_archive.cli.main cat {packed} tree/random.bin | head -c 10"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, env=environment, check=False, timeout=60
    )
    assert done.stdout == (packed.parent / "tree" / "random.bin").read_bytes()[:10]
    assert b"Traceback" not in done.stderr


def test_what_is_text() -> None:
    assert is_text(b"")
    assert is_text("naïve\tläuft\r\n".encode())
    assert is_text("ä".encode() * 3 + "€".encode()[:2]), "cut off at its end"
    assert not is_text(b"\0")
    assert not is_text(b"\x1b[31m")
    assert not is_text(b"\xff" * 10)


# -- regions -------------------------------------------------------------------------------------------------


def written(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {p.relative_to(root).as_posix(): np.load(p) for p in root.rglob("*") if p.is_file()}


def test_regions_of_every_image(packed: Path, tmp_path: Path) -> None:
    done = run("unpack", packed, "-o", tmp_path / "out", "--region", "2:8,5:9", "--json")
    assert done.code == 0, done.err
    found = written(tmp_path / "out")
    stack = [smooth(90, 120, seed=s) for s in range(5)]
    assert set(found) == {
        "tree/images/colour.ppm.npy", "tree/images/gray.pgm.npy", "tree/images/volume.npy.npy", "tree/noise.npy.npy",
        "tree/small.pgm.npy", *(f"tree/stack.npy.{n}.npy" for n in range(5)),
    }  # fmt: skip
    assert np.array_equal(found["tree/images/colour.ppm.npy"], smooth(30, 50, 3, seed=7)[2:8, 5:9])
    for number, page in enumerate(stack):
        assert np.array_equal(found[f"tree/stack.npy.{number}.npy"], page[2:8, 5:9])
    assert done.summary["files"] == 6
    assert done.summary["written"] == 10
    assert {event["path"] for event in done.events if event["event"] == "entry"} == set(found)


def test_regions_of_what_matches(packed: Path, tmp_path: Path) -> None:
    done = run("unpack", packed, "gray.pgm", "-o", tmp_path, "--region=-5,0,-1,3")
    assert done.code == 1, "numbers from the end are for slices"
    assert "E020" in done.err
    done = run("unpack", packed, "gray.pgm", "notes.txt", "-o", tmp_path, "--region=-5:,:3")
    assert done.code == 0
    assert np.array_equal(written(tmp_path)["tree/images/gray.pgm.npy"], smooth(40, 60)[-5:, :3])
    assert "1 image" in done.out
    done = run("unpack", packed, "gray.pgm", "-o", tmp_path, "--region=0:5,:3")
    assert done.code != 0
    assert np.array_equal(written(tmp_path)["tree/images/gray.pgm.npy"], smooth(40, 60)[-5:, :3])
    assert run("unpack", packed, "gray.pgm", "-o", tmp_path, "--region=0:5,:3", "--overwrite").code == 0
    assert np.array_equal(written(tmp_path)["tree/images/gray.pgm.npy"], smooth(40, 60)[:5, :3])


def test_a_region_that_some_images_do_not_have(packed: Path, tmp_path: Path) -> None:
    done = run("unpack", packed, "-o", tmp_path / "out", "--region", "20,20,25,25", "--json")
    assert done.code == 1
    problems = [event for event in done.events if event["event"] == "problem"]
    assert [(event["path"], event["code"]) for event in problems] == [("tree/small.pgm", "E020")]
    assert done.summary["failed"] == 1
    assert len(written(tmp_path / "out")) == 9


@pytest.mark.parametrize("region", ["", "1,2,3", "a:b,c:d", "5,5,5,9", "9,9,3,3"])
def test_regions_that_are_none(packed: Path, tmp_path: Path, region: str) -> None:
    done = run("unpack", packed, "small.pgm", "-o", tmp_path / "out", "--region", region)
    assert done.code == (1 if region[0:1] in "59" and region else 2)
    assert "E020" in done.err
    assert not (tmp_path / "out").exists() or written(tmp_path / "out") == {}


def test_nothing_that_is_an_image(packed: Path, tmp_path: Path) -> None:
    done = run("unpack", packed, "notes.txt", "-o", tmp_path, "--region", "0,0,1,1")
    assert done.code == 2
    assert "E005" in done.err


def test_images_that_are_coded_with_loss_are_named(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    tile = np.stack([smooth(64, 64, seed=s) for s in range(3)], axis=2).astype(np.uint8)
    tifffile.imwrite(tmp_path / "slides" / "slide.tif", np.tile(tile, (4, 4, 1)), tile=(64, 64), compression="jpeg")
    pack_tree(tmp_path / "slides", tmp_path / "a.callic")
    ran = run("unpack", tmp_path / "a.callic", "--region", "0:10,0:10", "-o", tmp_path / "out")
    assert ran.code == 1
    assert "slide.tif" in ran.err
    assert "coded with loss; `cat` gives the file itself" in ran.err
    assert not list((tmp_path / "out").rglob("*.npy"))
