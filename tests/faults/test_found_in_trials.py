"""Defects that users of the command line met once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from callic_archive.archive import isolated
from callic_archive.cli.progress import Progress
from tests.command import ROOT, run, use_double
from tests.slides import forged, jpeg, picture
from tests.trees import grainy, smooth, snapshot, write_pnm

CENTURIES = {"1600": -11_676_096_000, "1901": -2_177_452_800, "2300": 10_413_792_000, "9999": 253_370_764_800}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@pytest.mark.usefixtures("double")
def test_files_and_folders_of_any_century_come_back(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for year, seconds in CENTURIES.items():
        (tree / year).mkdir(parents=True)
        (tree / year / "file").write_text(f"precious {year}")
        (tree / year / "link").symlink_to("file")
        for path in (tree / year / "file", tree / year / "link", tree / year):
            os.utime(path, ns=(0, seconds * 10**9 + 7), follow_symlinks=False)
    archive = tmp_path / "x.callic"
    assert run("pack", tree, "-o", archive).code == 0
    assert run("verify", archive, "--against", tmp_path).code == 0
    assert run("unpack", archive, "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    assert run("salvage", archive, "-o", tmp_path / "saved").code == 0
    assert snapshot(tmp_path / "saved" / "tree") == snapshot(tree)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("time", [10**40, -(10**40), 1.5, True])
def test_times_that_cannot_be_lose_one_entry_and_no_other(tmp_path: Path, time: object) -> None:
    from callic_archive.archive.entries import Entry
    from callic_archive.errors import EntryDamaged

    row = {"path": "x", "kind": "directory", "mode": 0o755, "mtime_ns": time}
    with pytest.raises(EntryDamaged):
        Entry.from_json(row)


def damaged(archive: Path) -> Path:
    (model,) = (archive / "data" / "models").iterdir()
    raw = bytearray(model.read_bytes())
    raw[len(raw) // 2] ^= 16
    model.write_bytes(raw)
    return model


def test_a_damaged_model_is_as_good_as_missing(tmp_path: Path) -> None:
    write_pnm(tmp_path / "tree" / "a.pgm", grainy(140, 150))
    write_pnm(tmp_path / "tree" / "b.pgm", grainy(150, 140, seed=1))
    archive = tmp_path / "x.callic"
    assert run("pack", tmp_path / "tree", "-o", archive, "--learned", "always").code == 0
    model = damaged(archive)
    ran = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    (problem,) = [event for event in ran.events if event["event"] == "problem"]
    assert model.name in problem["path"]
    assert "damaged" in problem["message"]
    assert (ran.code, ran.summary["files"], ran.summary["failed"]) == (3, 2, 0)
    checked = run("verify", archive, "--json")
    assert (checked.code, checked.summary["damaged"]) == (3, 0)


@pytest.mark.usefixtures("double")
def test_equal_chunks_are_judged_by_what_lies_beside_each(tmp_path: Path) -> None:
    good = zarr.create_array(
        tmp_path / "tree" / "good", shape=(64, 64), chunks=(32, 32), dtype="u2", zarr_format=2,
        compressors=None,
    )  # fmt: skip
    good[:] = smooth(64, 64).astype(np.uint16) * 9
    for name, text in (("broken", "{not json"), ("loose", None)):
        (tmp_path / "tree" / name).mkdir()
        for chunk in (tmp_path / "tree" / "good").iterdir():
            if chunk.name != ".zarray" and not chunk.name.startswith(".z"):
                (tmp_path / "tree" / name / chunk.name).write_bytes(chunk.read_bytes())
        if text is not None:
            (tmp_path / "tree" / name / ".zarray").write_text(text)
    archive = tmp_path / "x.callic"
    ran = run("pack", tmp_path / "tree", "-o", archive, "--json")
    problems = [event["path"] for event in ran.events if event["event"] == "problem"]
    assert all("/broken/" in path for path in problems), problems
    kinds = {e["path"]: e.get("kind") for e in run("list", archive, "--json").events if e["event"] == "entry"}
    chunks = [path for path in kinds if path.startswith("tree/good/") and "/.z" not in path]
    assert len(chunks) == 4
    assert {kinds[path] for path in chunks} == {"zarr"}
    assert run("unpack", archive, "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


@pytest.fixture
def archive(tmp_path: Path, double: None) -> Path:
    (tmp_path / "Smith").mkdir()
    (tmp_path / "Smith" / "notes.txt").write_text("words " * 99)
    assert run("pack", tmp_path / "Smith", "-o", tmp_path / "x.callic").code == 0
    return tmp_path / "x.callic"


def command(*words: object, redirect: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "callic_archive.cli.main", *map(str, words)]
    shell = ["sh", "-c", f'"$@" {redirect}', "sh", *line]
    return subprocess.run(shell, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&-"])
@pytest.mark.parametrize("verb", ["list", "verify", "cat"])
def test_closed_streams_change_nothing(archive: Path, verb: str, redirect: str) -> None:
    more = ["Smith/notes.txt"] if verb == "cat" else []
    ran = command(verb, archive, *more, redirect=redirect)
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [["list"], ["verify", "--json"], ["verify"], ["info"]])
def test_output_that_cannot_be_written_is_a_failure_of_the_environment(archive: Path, words: list[str]) -> None:
    ran = command(words[0], archive, *words[1:], redirect=">/dev/full")
    assert ran.returncode == 4
    assert "output" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_salvage_into_a_folder_with_files_advises_what_can_be_done(archive: Path, tmp_path: Path) -> None:
    assert run("unpack", archive, "-o", tmp_path / "out").code == 0
    assert run("salvage", archive, "-o", tmp_path / "out").code == 0, "what it would write is there"
    (tmp_path / "out" / "Smith" / "notes.txt").write_text("mine")
    ran = run("salvage", archive, "-o", tmp_path / "out")
    assert ran.code == 2
    assert "--overwrite" not in ran.err
    assert "empty folder" in ran.err


@pytest.mark.parametrize("inside", ["", "data", "new/deep"])
def test_nothing_is_restored_into_the_archive(archive: Path, inside: str) -> None:
    before = sorted(archive.rglob("*"))
    ran = run("unpack", archive, "-o", archive / inside)
    assert ran.code == 2
    assert "itself" in ran.err
    assert sorted(archive.rglob("*")) == before


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--region", "0,0,1,1"], ["salvage"]])
@pytest.mark.parametrize("below", ["", "x/y"])
def test_a_file_is_no_destination(archive: Path, tmp_path: Path, more: list[str], below: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    verb, more = ("salvage", []) if more == ["salvage"] else ("unpack", more)
    for name in ("file", "dangling"):
        ran = run(verb, archive, "-o", tmp_path / name / below, *more, "--json")
        assert (ran.code, ran.summary["error"]["code"]) == (2, "E001")
        assert f"{name} is no folder" in ran.err
        assert str(tmp_path) not in run(verb, archive, "-o", tmp_path / name / below, *more, "--redact-paths").err
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_what_lies_where_a_folder_would_be_is_no_damage(
    tmp_path: Path, archive: Path, overwrite: list[str], kind: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    if kind == "file":
        (tmp_path / "out" / "Smith").write_text("mine")
    else:
        (tmp_path / "out" / "Smith").symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    before = snapshot(tmp_path)
    ran = run("unpack", archive, "-o", tmp_path / "out", *overwrite, "--json")
    assert (ran.code, ran.summary["error"]["code"]) == (2, "E003")
    assert f"{tmp_path / 'out' / 'Smith'} is no folder" in ran.err
    assert run("salvage", archive, "-o", tmp_path / "out").code == 2
    assert snapshot(tmp_path) == before
    (tmp_path / "link to out").symlink_to("elsewhere")  # the destination itself may be a link
    assert run("unpack", archive, "-o", tmp_path / "link to out", *overwrite).code == 0


def test_a_link_that_appears_on_the_way_is_no_damage(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    real = Progress.stage

    def planting(self: Progress, name: str) -> None:
        if name == "restoring":
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "Smith").symlink_to(tmp_path / "elsewhere")
        real(self, name)

    monkeypatch.setattr(Progress, "stage", planting)
    ran = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert ran.code == 1
    assert {e["path"]: e["code"] for e in ran.events if e["event"] == "problem"} == {
        "Smith": "E506",
        "Smith/notes.txt": "E506",
    }
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("inside", ["y", "data/z", "data/models/new.callic"])
@pytest.mark.parametrize("verb", ["pack", "train", "unpack", "salvage", "report"])
def test_nothing_is_written_into_any_archive(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, inside: str
) -> None:
    assert run("pack", tmp_path / "Smith", "-o", tmp_path / "other.callic").code == 0
    (archive / "data" / "models").mkdir()
    before = snapshot(archive)
    (tmp_path / "other name").symlink_to(archive)
    monkeypatch.chdir(archive / "data")
    for place in (archive / inside, tmp_path / "other name" / inside, Path("..") / inside):
        words = [tmp_path / ("Smith" if verb in ("pack", "train") else "other.callic")]
        words += ["-o", tmp_path / "out", "--report", place] if verb == "report" else ["-o", place]
        ran = run("salvage" if verb == "report" else verb, *words, "--json")
        assert (ran.code, ran.summary["error"]["code"]) == (2, "E001")
        assert "lies in the archive" in ran.err
    assert snapshot(archive) == before
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_an_unfinished_archive(archive: Path, tmp_path: Path) -> None:
    archive.rename(tmp_path / "z.callic.partial")
    (tmp_path / "z.callic.partial/data/index.jsonl.zst").unlink()
    ran = run("pack", tmp_path / "Smith", "-o", tmp_path / "z.callic.partial" / "y")
    assert ran.code == 2
    assert "lies in the archive" in ran.err


def test_an_archive_within_its_source_is_told_of(tmp_path: Path, archive: Path) -> None:
    inside = tmp_path / "Smith" / "in.callic"
    ran = run("pack", tmp_path / "Smith", "-o", inside)
    assert ran.code == 0
    assert "--exclude in.callic" in ran.err
    assert run("pack", tmp_path / "Smith", "-o", tmp_path / "z.callic").code == 0
    again = run("pack", tmp_path / "Smith", "-o", tmp_path / "y.callic", "--exclude", "in.callic", "--json")
    assert (again.code, again.summary["files"]) == (0, 1)


def test_an_include_that_matches_nothing_is_a_mistake(tmp_path: Path, archive: Path) -> None:
    ran = run("pack", tmp_path / "Smith", "-o", tmp_path / "y.callic", "--include", "*.zzz")
    assert ran.code == 2
    assert "*.zzz" in ran.err
    assert not list(tmp_path.glob("y.callic*"))


@pytest.mark.parametrize("words", [["cat", "Smith/none"], ["unpack", "Smith*none"], ["list", "Smith*none"]])
def test_words_of_the_command_line_are_redacted_too(archive: Path, tmp_path: Path, words: list[str]) -> None:
    more = ["-o", tmp_path / "out"] if words[0] == "unpack" else []
    ran = run(words[0], archive, words[1], *more, "--redact-paths")
    assert ran.code == 2
    assert "Smith" not in ran.out + ran.err


def test_a_lost_index_says_how_to_mend_the_archive(archive: Path, tmp_path: Path) -> None:
    (archive / "data" / "index.jsonl.zst").unlink()
    ran = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert ran.code == 3
    (problem,) = [event for event in ran.events if event["event"] == "problem"]
    assert "salvage" in problem["message"]
    assert json.loads(json.dumps(problem))["code"] == "E420"
    assert run("list", archive).code == 3


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_declares_a_huge_size_is_kept_without_taking_memory_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progressive: bool
) -> None:
    monkeypatch.setattr(isolated, "ask", lambda *_, **__: pytest.fail("a library was asked"))
    code = forged(jpeg(picture(300, 400), progressive=progressive))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.jpg").write_bytes(code)
    (tmp_path / "tree" / "b.pdf").write_bytes(b"%PDF-1.4" + code + b"endstream")
    assert run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic").code == 0
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
