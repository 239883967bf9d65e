"""Symbolic links of several names: kept as one, compared as one, and told where a destination cannot have them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from callic_archive.archive.reading import INDEX, Contents
from callic_archive.archive.unpacking import ReadJob, UnpackJob, restore_rest
from callic_archive.container.extraction import ExtractionRoot
from tests.command import Ran, run, use_double
from tests.doubles import DeflatePlan
from tests.faults.test_forged_indexes import entry, forge
from tests.trees import open_archive, snapshot

TIME = 1_400_000_000_000_000_123


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three names of one symbolic link, and another link of the same target and time."""
    use_double(monkeypatch)
    tree = tmp_path / "tree"
    (tree / "b").mkdir(parents=True)
    (tree / "file").write_text("text")
    (tree / "m").symlink_to("file")
    (tree / "apart").symlink_to("file")
    for name in ("m", "apart"):
        os.utime(tree / name, ns=(1, TIME), follow_symlinks=False)
    try:
        for name in ("b/again", "third"):
            os.link(tree / "m", tree / name, follow_symlinks=False)
    except OSError:
        pytest.skip("the file system of the temporary folder has no hard links of symbolic ones")
    return tree


@pytest.fixture
def archive(tree: Path, tmp_path: Path) -> Path:
    assert run("pack", tree, "-o", tmp_path / "x.callic", "-q").code == 0
    return tmp_path / "x.callic"


def inodes(root: Path) -> dict[str, int]:
    return {p.relative_to(root).as_posix(): p.lstat().st_ino for p in root.rglob("*") if p.is_symlink()}


def problems(ran: Ran) -> dict[str, str]:
    return {event["path"]: event["code"] for event in ran.events if event["event"] == "problem"}


def test_one_link_with_several_names_comes_back_as_one(tree: Path, archive: Path, tmp_path: Path) -> None:
    with open_archive(archive) as opened:
        assert {e.path: e.link for e in opened.entries if e.link} == dict.fromkeys(
            ("tree/m", "tree/third"), "tree/b/again"
        )
    assert run("verify", archive, "--against", tmp_path).code == 0
    assert "tree/third -> file = tree/b/again" in run("list", archive).out
    for again in ([], ["--overwrite"]):
        assert run("unpack", archive, "-o", tmp_path / "out", *again).code == 0
        assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
        ino = inodes(tmp_path / "out" / "tree")
        assert ino["b/again"] == ino["m"] == ino["third"] != ino["apart"]
        assert (tmp_path / "out/tree/third").lstat().st_nlink == 3
    assert not list((tmp_path / "out").rglob(".callic-*"))


def test_of_a_selection_the_first_name_in_it_stands_for_the_link(archive: Path, tmp_path: Path) -> None:
    (archive / "data" / INDEX).unlink()  # ENTRY records say the same
    assert run("unpack", archive, "m", "third", "-o", tmp_path / "out").code == 3
    ino = inodes(tmp_path / "out" / "tree")
    assert set(ino) == {"m", "third"}
    assert len(set(ino.values())) == 1


@pytest.mark.parametrize("new", ["saved", "new.callic"])
def test_salvage_keeps_names_together(tree: Path, archive: Path, tmp_path: Path, new: str) -> None:
    assert run("salvage", archive, "-o", tmp_path / new).code == 0
    saved = tmp_path / new
    if new.endswith(".callic"):
        assert run("unpack", saved, "-o", tmp_path / "out").code == 0
        saved = tmp_path / "out"
    assert (saved / "tree/third").lstat().st_nlink == 3
    assert snapshot(saved / "tree") == snapshot(tree)


def test_a_name_in_the_way_does_not_cost_the_others(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "tree"
    (out / "b").mkdir(parents=True)
    (out / "b" / "again").write_text("foreign")
    with open_archive(archive) as opened:
        read = ReadJob("test", archive, DeflatePlan(), Contents(), tmp_path / "never")
        links = [entry for entry in opened.entries if entry.kind == "symlink"]
        found = restore_rest(UnpackJob(read, tmp_path / "out"), links)
    assert [(problem.path, problem.code) for problem in found] == [("tree/b/again", "E506")]
    ino = inodes(out)
    assert ino["m"] == ino["third"] != ino["apart"]


def test_a_destination_without_such_names_gets_copies_and_says_so(
    tree: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def refusing(source: str, *more: object, **keywords: object) -> None:
        if stat.S_ISLNK(os.lstat(source, dir_fd=keywords["src_dir_fd"]).st_mode):  # type: ignore[arg-type]
            raise PermissionError(1, "Operation not permitted")
        real(source, *more, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", refusing)
    ran = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert (ran.code, problems(ran)) == (1, dict.fromkeys(("tree/m", "tree/third"), "E507"))
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)


def test_a_link_swapped_before_it_gets_a_name_gets_none(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "out" / "tree" / "b" / "again"
    real = ExtractionRoot.make_hardlink

    def swapping(self: ExtractionRoot, *arguments: object, **keywords: object) -> None:
        first.unlink(missing_ok=True)
        first.write_text("foreign")
        real(self, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(ExtractionRoot, "make_hardlink", swapping)
    ran = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert (ran.code, problems(ran)) == (3, dict.fromkeys(("tree/m", "tree/third"), "E504"))
    assert first.stat().st_nlink == 1


def test_comparing_tells_which_names_are_one_link(tree: Path, archive: Path, tmp_path: Path) -> None:
    (tree / "third").unlink()
    (tree / "third").symlink_to("file")
    os.utime(tree / "third", ns=(1, TIME), follow_symlinks=False)
    (tree / "apart").unlink()
    os.link(tree / "m", tree / "apart", follow_symlinks=False)
    ran = run("diff", archive, tmp_path, "--json")
    told = {e["path"]: e["message"] for e in ran.events if e["event"] == "problem" and "one link" in e["message"]}
    assert ran.code == 3
    assert "in the archive, and not in the tree" in told.pop("tree/third")
    assert told == {"tree/b/again": "it is one link with 'tree/apart' in the tree, and not in the archive"}
    assert run("diff", archive, tmp_path, "--contents-only").code == 0


def test_a_link_that_claims_to_be_another_name_of_another_is_refused(archive: Path, tmp_path: Path) -> None:
    for target in ("tree/file", "tree/nothing", "tree/m"):
        forge(archive, entry("tree/m", link=target))
        ran = run("verify", archive, "--json")
        assert (ran.code, problems(ran)) == (3, {"tree/m": "E504"})
