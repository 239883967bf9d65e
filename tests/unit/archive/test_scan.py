"""Which paths go into an archive, under which names."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from callic_archive.archive.content import open_folder
from callic_archive.archive.scan import Selection, scan
from callic_archive.errors import MissingPath, UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "scans"
    (root / "a" / "deep").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "empty").mkdir()
    (root / "a" / "one.png").write_bytes(b"1")
    (root / "a" / "deep" / "two.tif").write_bytes(b"22")
    (root / "b" / "three.png").write_bytes(b"333")
    (root / "top.txt").write_bytes(b"4444")
    return root


def paths(sources: list[str], **options: object) -> list[str]:
    return [source.path for source in scan(sources, **options).sources]  # type: ignore[arg-type]


def test_paths_lie_below_the_sources_own_name(tree: Path) -> None:
    assert paths([str(tree)]) == [
        "scans",
        "scans/a",
        "scans/a/deep",
        "scans/a/deep/two.tif",
        "scans/a/one.png",
        "scans/b",
        "scans/b/three.png",
        "scans/empty",
        "scans/top.txt",
    ]
    assert paths([str(tree / "a" / "one.png"), str(tree / "b")]) == ["b", "b/three.png", "one.png"]


def test_a_trailing_slash_and_a_dot_change_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths([f"{tree}/"]) == paths([str(tree)])
    monkeypatch.chdir(tree)
    assert paths(["."]) == paths([str(tree)])
    monkeypatch.chdir(tree / "a")
    assert paths([".."]) == paths([str(tree)])


def test_what_was_found_is_recorded(tree: Path) -> None:
    file = tree / "top.txt"
    file.chmod(0o640)
    os.utime(file, ns=(0, 1_600_000_000_123_456_789))
    (found,) = scan([str(file)]).sources
    assert (found.kind, found.size, found.mode) == ("file", 4, 0o640)
    assert found.mtime_ns == 1_600_000_000_123_456_789


def test_links_are_kept_and_never_followed(tree: Path) -> None:
    (tree / "to-folder").symlink_to("a")
    (tree / "broken").symlink_to("nothing")
    found = {source.path: source for source in scan([str(tree)]).sources}
    assert found["scans/to-folder"].kind == "symlink"
    assert found["scans/to-folder"].target == "a"
    assert found["scans/broken"].target == "nothing"
    assert "scans/to-folder/one.png" not in found


def test_a_source_that_is_a_link_stays_one_unless_written_with_a_slash(tree: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(tree)
    kept = scan([str(link)])
    assert [(s.path, s.kind) for s in kept.sources] == [("current", "symlink")]
    assert "symbolic link" in kept.notes[0]
    followed = scan([f"{link}/"])
    assert "current/a/one.png" in [s.path for s in followed.sources]
    assert followed.notes == []


def test_special_files_are_reported_and_left_out(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "socket"))
        found = scan([str(tree)])
    assert {Path(p.path).name for p in found.problems} == {"pipe", "socket"}
    assert all(p.code == "E513" and not p.kept for p in found.problems)
    assert "named pipe" in next(p.message for p in found.problems if p.path.endswith("pipe"))
    assert not any(s.path.endswith(("pipe", "socket")) for s in found.sources)


def test_a_folder_that_cannot_be_listed_is_reported(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(file: str, **options: bool) -> int:
        if file.endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return open_folder(file, **options)

    monkeypatch.setattr("callic_archive.archive.scan.open_folder", refusing)
    found = scan([str(tree)])
    assert [(p.path, p.code) for p in found.problems] == [(str(tree / "b"), "E512")]
    assert "Permission denied" in found.problems[0].message
    assert "scans/a/one.png" in [s.path for s in found.sources]


def test_names_that_are_not_utf8_survive(tree: Path) -> None:
    raw = os.fsencode(tree) + b"/caf\xe9.png"
    with open(raw, "wb"):
        pass
    assert b"scans/caf\xe9.png" in [os.fsencode(s.path) for s in scan([str(tree)]).sources]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*.png",), (), ["scans", "scans/a", "scans/a/one.png", "scans/b", "scans/b/three.png"]),
        (("scans/a/*",), (), ["scans", "scans/a", "scans/a/deep", "scans/a/deep/two.tif", "scans/a/one.png"]),
        (("deep",), (), ["scans", "scans/a", "scans/a/deep", "scans/a/deep/two.tif"]),
        (("*.png",), ("b",), ["scans", "scans/a", "scans/a/one.png"]),
        ((), ("a", "b", "empty"), ["scans", "scans/top.txt"]),
        ((), ("scans/a/",), ["scans", "scans/b", "scans/b/three.png", "scans/empty", "scans/top.txt"]),
        ((), ("*.png", "*.tif", "*.txt"), ["scans", "scans/a", "scans/a/deep", "scans/b", "scans/empty"]),
    ],
)
def test_include_and_exclude(
    tree: Path, include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]
) -> None:
    assert paths([str(tree)], selection=Selection(include, exclude)) == expected


def test_an_archive_does_not_pack_itself(tree: Path) -> None:
    inside = tree / "b"
    info = inside.stat()
    found = paths([str(tree)], skip=frozenset({(info.st_dev, info.st_ino)}))
    assert not any(path.startswith("scans/b") for path in found)


def test_a_missing_source_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match="does not exist"):
        scan([str(tmp_path / "nothing")])


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        (tmp_path / parent / "same").mkdir(parents=True)
    with pytest.raises(UsageError, match="would both be stored as 'same'"):
        scan([str(tmp_path / "x" / "same"), str(tmp_path / "y" / "same")])
    twice = str(tmp_path / "x" / "same")
    assert paths([twice, twice + "/"]) == ["same"]


def test_an_empty_folder_is_an_entry(tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    assert paths([str(tmp_path / "void")]) == ["void"]
