"""Indexes that no packer writes, in bags whose checksums are right: nothing is left out without a word."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callic_archive.archive.reading import INDEX
from callic_archive.container.bag import write_bag
from callic_archive.container.index import read_index, write_index
from tests.command import run, use_double
from tests.trees import make_tree, snapshot

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    assert run("pack", make_tree(tmp_path / "tree"), "-o", tmp_path / "x.callic", "-q").code == 0
    return tmp_path / "x.callic"


def forge(archive: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """Change the lines of the index, and make the bag's manifests fit again."""
    write_index(archive / "data" / INDEX, change(list(read_index(archive / "data" / INDEX))))
    files = [path for path in (archive / "data").rglob("*") if path.is_file()]
    hashes = {path.relative_to(archive).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    write_bag(archive, {}, hashes)


def head(**fields: object) -> Callable[[list[Row]], list[Row]]:
    """The first line with other fields."""
    return lambda rows: [{**rows[0], **fields}, *rows[1:]]


LINES: dict[str, Callable[[list[Row]], list[Row]]] = {
    "the last line": lambda rows: rows[:-1],
    "a line": lambda rows: [*rows[:3], *rows[4:]],
    "the first line": lambda rows: rows[1:],
    "all lines": lambda rows: [],
    "all entries": lambda rows: rows[:1],
    "the first line's place": lambda rows: [*rows[1:], rows[0]],
    "a second first line": lambda rows: [rows[0], *rows],
    "too many entries": head(entries=99),
    "no entries": head(entries=0),
    "entries beyond all measure": head(entries=10**30),
}


@pytest.mark.parametrize("lost", LINES)
def test_an_index_that_lacks_lines_is_damaged_and_costs_no_file(archive: Path, tmp_path: Path, lost: str) -> None:
    forge(archive, LINES[lost])
    for words in (["unpack", "-o", tmp_path / "out"], ["list"], ["info"], ["verify"], ["verify", "--quick"]):
        ran = run(words[0], archive, *words[1:], "--json")
        assert ran.code == 3, words
        (problem,) = [event for event in ran.events if event["event"] == "problem"]
        assert (problem["path"], problem["code"]) == (f"data/{INDEX}", "E420")
        assert "first line" in problem["message"]
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    saved = run("salvage", archive, "-o", tmp_path / "saved", "--json")
    assert saved.code == (3 if "too many" in lost or "beyond" in lost else 0)  # for then some must be lost altogether
    assert snapshot(tmp_path / "saved" / "tree") == snapshot(tmp_path / "tree")
