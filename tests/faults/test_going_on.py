"""Unpacking and salvaging that were stopped: the same command goes on, and nothing that is there is replaced for it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from callic_archive.archive.comparing import content_difference
from callic_archive.container import extraction, fs
from callic_archive.container.extraction import ExtractionRoot
from tests.command import Ran, run, use_double
from tests.trees import make_tree, open_archive, smooth, snapshot, write_pnm


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    tree = make_tree(tmp_path / "tree")
    os.link(tree / "notes.txt", tree / "again.txt")
    with open(tree / "holes", "wb") as stream:
        stream.seek(1 << 20)
        stream.write(b"at the end")
    for number in range(6):
        write_pnm(tree / "more" / f"{number}.pgm", smooth(40, 40, seed=number))
    assert run("pack", tree, "-o", tmp_path / "x.callic").code == 0
    return tmp_path / "x.callic"


def interrupted_after(count: int, patch: pytest.MonkeyPatch, *words: object) -> Ran:
    """Run a command that Ctrl-C ends when ``count`` files have their names."""
    real, named = ExtractionRoot._give_name, [0]

    def give_name(*arguments: Any) -> None:
        if named[0] == count:
            raise KeyboardInterrupt
        named[0] += 1
        real(*arguments)

    with patch.context() as inside:
        inside.setattr(ExtractionRoot, "_give_name", give_name)
        return run(*words)


def inodes(root: Path) -> dict[Path, int]:
    return {path: path.lstat().st_ino for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


@pytest.mark.parametrize(("verb", "more"), [("unpack", []), ("unpack", ["--overwrite"]), ("salvage", [])])
def test_the_same_command_goes_on_where_it_was(
    verb: str, more: list[str], archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (verb, archive, "-o", tmp_path / "out", "--json", *more)
    stopped = interrupted_after(5, monkeypatch, *words)
    assert (stopped.code, stopped.summary["error"]["code"]) == (130, "E621")
    assert "run the same command again" in stopped.summary["error"]["message"]
    assert "--overwrite" not in stopped.err
    before = inodes(tmp_path / "out")
    assert len(before) == 5
    again = run(*words)
    assert again.code == 0, again.err
    if verb == "unpack":
        assert again.summary["there_already"] == 5
    after = inodes(tmp_path / "out")
    assert {path: after[path] for path in before} == before, "what was restored is left as it is"
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    assert (tmp_path / "out" / "tree" / "again.txt").samefile(tmp_path / "out" / "tree" / "notes.txt")
    third = run(*words)
    assert third.code == 0, third.err
    assert inodes(tmp_path / "out") == after


def test_a_full_disk_is_no_dead_end(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("unpack", archive, "-o", tmp_path / "out", "--json")
    real, written = extraction._GuardedFile.write, [0]

    def write(self: Any, data: bytes) -> int:
        written[0] += 1
        if written[0] > 4:
            raise fs.write_failure(OSError(errno.ENOSPC, "No space left on device"), self._path)
        return real(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(extraction._GuardedFile, "write", write)
        full = run(*words)
    assert (full.code, full.summary["error"]["code"]) == (4, "E610")
    assert "run the same command again" in full.summary["error"]["message"]
    again = run(*words)
    assert again.code == 0, again.err
    assert again.summary["there_already"] > 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def changed(path: Path, change: Callable[[Path], object]) -> None:
    """Change a file and give it its time and mode back."""
    info = path.lstat()
    change(path)
    path.chmod(info.st_mode & 0o7777)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_what_a_killed_run_left_unfinished_goes(archive: Path, tmp_path: Path) -> None:
    words = ("unpack", archive, "-o", tmp_path / "out", "--json")
    assert run(*words).code == 0
    expected = snapshot(tmp_path / "out")
    inside = [path for path in (tmp_path / "out").rglob("*") if path.is_dir() and not path.is_symlink()]
    for folder in (tmp_path / "out", *inside):
        (folder / ".callic-0123456789abcdef.tmp").write_bytes(b"begun")
    again = run(*words)
    assert again.code == 0, again.err
    assert snapshot(tmp_path / "out") == expected


def test_other_files_are_refused_before_anything_is_written(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("unpack", archive, "-o", out)
    for change in (
        lambda path: path.write_text("mine"),
        lambda path: path.chmod(0o600),
        lambda path: os.utime(path, ns=(0, 0)),
        lambda path: os.link(path, tmp_path / "elsewhere"),
        lambda path: (path.unlink(), path.symlink_to("script")),
        lambda path: (path.unlink(), path.mkdir()),
    ):
        assert run(*words).code == 0
        change(out / "tree" / "random.bin")
        (out / "tree" / "script").unlink()
        ran = run(*words)
        assert ran.code == 2
        assert "random.bin is " in ran.err
        assert not (out / "tree" / "script").exists()
        for place in (out, tmp_path / "elsewhere"):
            remove(place)
    assert run(*words).code == 0
    (out / "tree" / "link").unlink()
    (out / "tree" / "link").symlink_to("elsewhere")
    assert run(*words).code == 2
    assert os.readlink(out / "tree" / "link") == "elsewhere"


def remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.unlink(missing_ok=True)


def test_a_file_that_only_looks_restored_is_named_and_left(archive: Path, tmp_path: Path) -> None:
    words = ("unpack", archive, "-o", tmp_path / "out", "--json")
    assert run(*words).code == 0
    path = tmp_path / "out" / "tree" / "random.bin"
    changed(path, lambda path: path.write_bytes(path.read_bytes()[::-1]))
    image = tmp_path / "out" / "tree" / "images" / "gray.pgm"
    changed(image, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"))
    before = snapshot(tmp_path / "out" / "tree")
    ran = run(*words)
    assert ran.code == 1
    problems = {event["path"]: event["code"] for event in ran.events if event["event"] == "problem"}
    assert problems == {"tree/random.bin": "E506", "tree/images/gray.pgm": "E506"}
    assert snapshot(tmp_path / "out" / "tree") == before
    assert run(*words, "--overwrite").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def test_equal_pixels_are_enough_where_the_bytes_may_be_others(archive: Path, tmp_path: Path) -> None:
    image = tmp_path / "tree" / "images" / "colour.ppm"
    other = tmp_path / "other.ppm"
    other.write_bytes(image.read_bytes().replace(b"P6\n", b"P6 "))  # equal pixels, another header
    with open_archive(archive) as opened:
        (entry,) = [e for e in opened.entries if e.path == "tree/images/colour.ppm"]
        assert content_difference(opened, entry, str(image)) == (None, "bytes")
        assert content_difference(opened, entry, str(image), "content") == (None, "bytes")
        assert content_difference(opened, entry, str(other))[0] is not None
        assert content_difference(opened, entry, str(tmp_path / "tree" / "notes.txt"), "content")[0] is not None


def test_a_planted_link_on_the_way_is_not_followed(archive: Path, tmp_path: Path) -> None:
    assert run("unpack", archive, "-o", tmp_path / "first").code == 0
    (tmp_path / "out" / "tree").mkdir(parents=True)
    (tmp_path / "out" / "tree" / "more").symlink_to(tmp_path / "first" / "tree" / "more")
    before = sorted(tmp_path.rglob("*"))
    ran = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert (ran.code, ran.summary["error"]["code"]) == (2, "E003")
    assert sorted(tmp_path.rglob("*")) == before


def test_salvage_goes_on_with_its_fragments(archive: Path, tmp_path: Path) -> None:
    with open_archive(archive) as opened:
        part = next(e for e in opened.entries if e.path == "tree/random.bin").parts[0]
    shard = archive / "data" / part.ref.shard
    data = bytearray(shard.read_bytes())
    data[part.ref.offset + part.ref.length - 20] ^= 4
    shard.write_bytes(data)
    words = ("salvage", archive, "-o", tmp_path / "out", "--json")
    first = run(*words)
    assert first.code == 3
    again = run(*words)
    for name in ("files", "restored_bytes", "lost_files", "complete"):
        assert again.summary[name] == first.summary[name]
    lost = [[e for e in ran.events if e["event"] == "lost"] for ran in (first, again)]
    assert lost[0] == lost[1]


def test_salvage_to_a_new_archive_begins_anew(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("salvage", archive, "-o", tmp_path / "new.callic")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("callic_archive.archive.regathering._models", stop)
        ran = run(*words)
    assert ran.code == 130
    assert "run the same command again" in ran.err
    with monkeypatch.context() as patch:
        patch.setattr("callic_archive.archive.regathering._models", stop)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if it had been killed
        assert run(*words).code == 130
    partial = tmp_path / "new.callic.partial"
    assert partial.is_dir()
    (partial / ".run" / "job.json").rename(tmp_path / "job.json")
    assert run(*words).code == 2, "it is not known for what that was begun"
    (tmp_path / "job.json").rename(partial / ".run" / "job.json")
    assert run(*words).code == 0
    assert not partial.exists()
    assert run("verify", tmp_path / "new.callic", "--against", tmp_path).code == 0


def test_regions_that_are_there_already_are_no_obstacle(archive: Path, tmp_path: Path) -> None:
    words = ("unpack", archive, "*.pgm", "-o", tmp_path / "out", "--region", "0:20,5:25")
    assert run(*words).code == 0
    one = tmp_path / "out" / "tree" / "more" / "3.pgm.npy"
    one.unlink()
    assert run(*words).code == 0
    assert np.load(one).shape == (20, 20)
    np.save(one, np.zeros(3))
    before = one.read_bytes()
    ran = run(*words)
    assert ran.code == 1
    assert "E506" in ran.err
    assert one.read_bytes() == before
    assert run(*words, "--overwrite").code == 0
    assert np.load(one).shape == (20, 20)


def test_regions_of_one_name_are_named_and_not_replaced(tmp_path: Path) -> None:
    """A file of several images, and another whose name is that of the first with a number."""
    pages = np.arange(3 * 40 * 50, dtype=np.uint16).reshape(3, 40, 50)
    (tmp_path / "tree").mkdir()
    tifffile.imwrite(tmp_path / "tree/scan", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "tree/scan.0", pages[0] + 7, photometric="minisblack")
    assert run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic").code == 0
    ran = run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out", "--region", "0,0,9,9", "--overwrite")
    assert ran.code == 1
    assert "is the name of a region of" in ran.err
    np.testing.assert_array_equal(np.load(tmp_path / "out/tree/scan.0.npy"), pages[0, :9, :9])
