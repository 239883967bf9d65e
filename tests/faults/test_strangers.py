"""What others put where this program writes and reads: nothing of theirs is removed or taken in, and nothing waits for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.command import run, use_double
from tests.trees import make_tree, snapshot


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.mark.parametrize("inside", ["thesis.txt", "data/file", "data/shard-00000.cla", "data/models/my.model"])
def test_a_folder_of_somebody_else_is_not_gone_on_with(tree: Path, tmp_path: Path, inside: str) -> None:
    theirs = tmp_path / "x.callic.partial" / inside
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    before = snapshot(tmp_path / "x.callic.partial")
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--json")
    assert (ran.code, ran.summary["error"]["code"]) == (2, "E004")
    assert "no unfinished archive" in ran.err
    assert snapshot(tmp_path / "x.callic.partial") == before
    assert not (tmp_path / "x.callic").exists()


def stopped(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unfinished archive."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("callic_archive.archive.packing.PackRun.finish", stop)
        assert run("pack", tree, "-o", tmp_path / "x.callic").code == 130
    return tmp_path / "x.callic.partial"


@pytest.mark.parametrize("inside", ["thesis.txt", "data/file", "data/models/my.model", "more/thesis.txt"])
def test_a_file_of_somebody_else_is_not_taken_into_an_archive(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    theirs = stopped(tree, tmp_path, monkeypatch) / inside
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("precious")
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--json")
    assert (ran.code, ran.summary["error"]["code"]) == (2, "E004")
    assert theirs.name in ran.err
    assert theirs.read_text() == "precious"
    theirs.unlink()
    again = run("pack", tree, "-o", tmp_path / "x.callic")
    assert again.code == 0, again.err
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0


@pytest.mark.parametrize("kept", [[], ["data"], ["data", ".run"]], ids=["empty", "data", "begun"])
def test_a_run_that_was_killed_at_once_is_gone_on_with(tree: Path, tmp_path: Path, kept: list[str]) -> None:
    for name in ["", *kept]:
        (tmp_path / "x.callic.partial" / name).mkdir(exist_ok=True)
    ran = run("pack", tree, "-o", tmp_path / "x.callic")
    assert ran.code == (2 if kept == ["data"] else 0), ran.err  # `.run` is made first, so nobody else's is taken for ours


def test_what_a_killed_run_was_writing_is_no_stranger(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stopped(tree, tmp_path, monkeypatch)
    (folder / "data/models").mkdir(exist_ok=True)
    models = [f".{'0' * 64}.model.xz.0123456789ab.tmp", f"{'1' * 64}.model.xz"]
    for name in ("data/.index.jsonl.zst.0123456789ab.tmp", *(f"data/models/{model}" for model in models)):
        (folder / name).write_bytes(b"begun")
    ran = run("pack", tree, "-o", tmp_path / "x.callic")
    assert ran.code == 0, ran.err
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0


def test_a_finished_bag_gets_its_name_still(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run can be killed between its last two steps."""
    real = os.rename

    def rename(old: object, new: object, **more: int) -> None:
        if str(new).endswith("x.callic"):
            raise KeyboardInterrupt
        real(old, new, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        assert run("pack", tree, "-o", tmp_path / "x.callic").code == 130
    assert not (tmp_path / "x.callic.partial/.run").exists()
    ran = run("pack", tree, "-o", tmp_path / "x.callic")
    assert ran.code == 0, ran.err
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0


def test_a_pipe_in_place_of_a_shard_is_named_and_nobody_waits_for_it(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.callic"
    assert run("pack", tree, "-o", archive).code == 0
    shard = max((archive / "data").glob("shard-*.cla"), key=lambda path: path.stat().st_size)
    shard.unlink()
    os.mkfifo(shard)
    writing = (["unpack", "-o", tmp_path / "out"], ["salvage", "-o", tmp_path / "saved"])
    verbs = (["verify"], ["verify", "--quick"], ["list"], *writing)
    for words in verbs:
        ran = run(words[0], archive, *words[1:])
        assert ran.code == (0 if words == ["list"] else 3), (words, ran.err)
        assert words == ["list"] or "E" in ran.err
