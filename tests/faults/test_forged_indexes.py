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
    assert saved.code == (3 if lost == "too many entries" else 0)  # for then some must be lost altogether
    assert snapshot(tmp_path / "saved" / "tree") == snapshot(tmp_path / "tree")


VERBS = (["unpack", "-o", "out"], ["list"], ["info"], ["info", "--json"], ["verify"], ["verify", "--quick"])
FIELDS: list[tuple[str, object]] = [
    ("settings", 5),
    ("settings", None),
    ("settings", ["coder"]),
    ("models_outside", 5),
    ("models_outside", "0" * 64),
    ("models_outside", [5]),
    ("models_outside", ["00"]),
    ("software", 5),
    ("software", "callic-archive\n1 problem"),
    ("packed_at", {}),
    ("entries", "18"),
    ("entries", True),
    ("entries", 18.0),
    ("entries", -1),
    ("entries", 10**30),
]


@pytest.mark.parametrize(("name", "value"), FIELDS)
def test_a_first_line_of_another_form_is_damage(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.chdir(tmp_path)
    forge(archive, head(**{name: value}))
    for words in VERBS:
        ran = run(words[0], archive, *words[1:])
        assert ran.code == 3, words
        assert f"{INDEX} cannot be used" in ran.err
        assert "E423" in ran.err
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    assert run("salvage", archive, "-o", tmp_path / "new.callic").code == 0
    assert run("verify", tmp_path / "new.callic").code == 0


@pytest.mark.parametrize("name", ["software", "packed_at", "entries", "settings"])
def test_a_first_line_that_lacks_a_field_is_damage(archive: Path, name: str) -> None:
    forge(archive, lambda rows: [{key: value for key, value in rows[0].items() if key != name}, *rows[1:]])
    ran = run("info", archive)
    assert ran.code == 3
    assert f"field '{name}'" in ran.err


@pytest.mark.parametrize("version", [2, "1", True, 1.0, None, [1]])
def test_a_version_that_is_not_known_is_refused(archive: Path, tmp_path: Path, version: object) -> None:
    forge(archive, head(format_version=version))
    for words in (["unpack", "-o", tmp_path / "out"], ["list"], ["info"], ["verify"], ["salvage", "-o", tmp_path / "out"]):
        ran = run(words[0], archive, *words[1:], "--json")
        assert (ran.code, ran.summary["error"]["code"]) == (3, "E501")
    assert not (tmp_path / "out").exists()


def test_the_line_of_an_adapter_has_a_digest(archive: Path) -> None:
    def change(rows: list[Row]) -> list[Row]:
        record = next(row["parts"][0]["record"] for row in rows if row.get("parts"))
        return [rows[0], {"kind": "adapter", "sha256": 5, "record": record}, *rows[1:]]

    forge(archive, change)
    ran = run("verify", archive)
    assert ran.code == 3
    assert "the line of an adapter is not valid" in ran.err


def test_settings_cannot_pretend_to_be_other_lines(archive: Path) -> None:
    forge(archive, head(settings={"coder": "range\nfiles        7 stored"}))
    ran = run("info", archive)
    assert ran.code == 0
    assert sum(line.startswith("files ") for line in ran.out.splitlines()) == 1


def entry(path: str, /, **fields: object) -> Callable[[list[Row]], list[Row]]:
    """The line of one entry with other fields."""

    def change(rows: list[Row]) -> list[Row]:
        assert path in [row.get("path") for row in rows]
        return [{**row, **fields} if row.get("path") == path else row for row in rows]

    return change


NOTES, LINK = "tree/notes.txt", "tree/link"
REFUSED: dict[str, tuple[Callable[[list[Row]], list[Row]], str]] = {
    "another name of nothing": (entry(NOTES, link="tree/nothing"), NOTES),
    "another name of itself": (entry(NOTES, link=NOTES), NOTES),
    "another name of a folder": (entry(NOTES, link="tree/void"), NOTES),
    "another name of another file": (entry(NOTES, link="tree/script"), NOTES),
    "a file outside": (entry(NOTES, path="../evil"), "../evil"),
    "a folder outside": (entry("tree/void/deeper", path="/evil"), "/evil"),
    "a link outside": (entry(LINK, path="tree//evil"), "tree//evil"),
    "a file through a link": (entry(NOTES, path=f"{LINK}/evil"), f"{LINK}/evil"),
    "a folder through a file": (entry("tree/void/deeper", path=f"{NOTES}/evil"), f"{NOTES}/evil"),
    "a link to nothing": (entry(LINK, target=""), LINK),
    "a link to NUL": (entry(LINK, target="a\0b"), LINK),
}


@pytest.mark.parametrize("forged", REFUSED)
def test_what_unpack_refuses_verify_finds(archive: Path, tmp_path: Path, forged: str) -> None:
    change, path = REFUSED[forged]
    forge(archive, change)
    found = []
    for words in (["verify"], ["verify", "--quick"], ["unpack", "-o", tmp_path / "deep" / "out"]):
        ran = run(words[0], archive, *words[1:], "--json")
        assert ran.code == 3, words
        found.append([event for event in ran.events if event["event"] == "problem"])
    (problem,) = found[0]
    assert (problem["path"], problem["code"]) == (path, "E504")
    for (other,) in found[1:]:
        assert {**other, "verb": "verify"} == problem
    assert not list(tmp_path.rglob("evil"))
    new = tmp_path / "new.callic"
    run("salvage", archive, "-o", new)
    assert run("verify", new).code == 0
    assert run("unpack", new, "-o", tmp_path / "again").code == 0


def test_an_index_of_nothing_but_nonsense_is_given_up_soon(archive: Path, tmp_path: Path) -> None:
    """Ten thousand lines that are no entries pack into nothing, and nobody wants to read as many messages."""
    forge(archive, lambda rows: [{**rows[0], "entries": len(rows) + 9999}, *rows[1:], *[{"kind": "x"}] * 10_000])
    ran = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert ran.code == 3
    (problem,) = [event for event in ran.events if event["event"] == "problem"]
    assert (problem["path"], problem["code"]) == (f"data/{INDEX}", "E420")
    assert "more than 1000 of its lines" in problem["message"]
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def test_an_image_file_of_another_size_than_its_entry_tells_is_damage(archive: Path, tmp_path: Path) -> None:
    forge(archive, entry("tree/images/gray.pgm", size=2**50))
    for words in (["verify"], ["unpack", "-o", tmp_path / "out"]):
        ran = run(words[0], archive, *words[1:], "--json")
        assert ran.code == 3, words
        (problem,) = [event for event in ran.events if event["event"] == "problem"]
        assert (problem["path"], problem["code"]) == ("tree/images/gray.pgm", "E502")
        assert f"tells of {2**50}" in problem["message"]
    assert not (tmp_path / "out/tree/images/gray.pgm").exists()
