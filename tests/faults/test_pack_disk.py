"""A disk that is really full, and one that is really read-only: small file systems in memory, where root may
mount them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import run, use_double
from tests.trees import make_tree, smooth, snapshot, write_pnm


def mount(*words: object) -> bool:
    return subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=300k", "tmpfs", folder):
        pytest.skip("mounting a small file system needs root and the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_double(monkeypatch)
    root = make_tree(tmp_path / "tree")
    for number in range(12):
        write_pnm(root / "more" / f"{number:02}.pgm", smooth(300, 320, seed=number))
    return root


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(disk: Path, tree: Path, tmp_path: Path) -> None:
    full = run("pack", tree, "-o", disk / "x.callic", "--json", "--workers", "1")
    assert (full.code, full.summary["error"]["code"]) == (4, "E610")
    assert "No space left on device" in full.err
    assert [path.name for path in disk.iterdir()] == ["x.callic.partial"]
    assert mount("-o", "remount,size=8m", disk)
    again = run("pack", tree, "-o", disk / "x.callic", "--json", "--workers", "1")
    assert again.code == 0, again.err
    assert again.summary["resumed"] > 0
    assert run("unpack", disk / "x.callic", "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)


def test_unpacking_to_a_full_disk_leaves_whole_files_only(disk: Path, tree: Path, tmp_path: Path) -> None:
    assert run("pack", tree, "-o", tmp_path / "x.callic", "--workers", "1").code == 0
    ran = run("unpack", tmp_path / "x.callic", "-o", disk / "out", "--json")
    assert (ran.code, ran.summary["error"]["code"]) == (4, "E610")
    for path in disk.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.read_bytes() == (tree / path.relative_to(disk / "out" / "tree")).read_bytes()


def test_a_read_only_disk(disk: Path, tree: Path, tmp_path: Path) -> None:
    assert run("pack", tree, "-o", tmp_path / "x.callic", "--workers", "1").code == 0
    assert mount("-o", "remount,ro", disk)
    for words in (
        ["pack", tree, "-o", disk / "x.callic"],
        ["unpack", tmp_path / "x.callic", "-o", disk / "out"],
    ):
        ran = run(*words, "--json")
        assert (ran.code, ran.summary["error"]["code"]) == (4, "E611")
        assert "Read-only file system" in ran.err
