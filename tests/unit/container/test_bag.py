"""Bags: exact tag files, each kind of problem by its code, and agreement with the bagit-python tool."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callic_archive import errors
from callic_archive.container.bag import Problem, decode_path, encode_path, validate_bag, write_bag

FILES = {
    "data/shard-00000.cla": b"shard",
    "data/models/m.safetensors": b"weights",
    "data/a name with spaces": b"",
    "data/line\nfeed\rand ü": b"odd",
}
INFO = {"Source-Organization": "Clinic of Ü", "Bag-Software-Agent": "callic-archive"}
DAY = datetime.date(2026, 1, 2)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    root = tmp_path / "x.callic"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    write_bag(root, INFO, {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}, date=DAY)
    return root


def codes(problems: list[Problem]) -> list[tuple[str, str]]:
    return sorted((p.code, p.path) for p in problems)


def test_exact_tag_files(bag: Path) -> None:
    assert (bag / "bagit.txt").read_bytes() == b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
    assert (bag / "bag-info.txt").read_text("utf-8") == (
        "Source-Organization: Clinic of Ü\nBag-Software-Agent: callic-archive\n"
        "Bagging-Date: 2026-01-02\nPayload-Oxum: 15.4\n"
    )
    manifest = "".join(
        f"{hashlib.sha256(FILES[name]).hexdigest()}  {shown}\n"
        for name, shown in [
            ("data/a name with spaces", "data/a name with spaces"),
            ("data/line\nfeed\rand ü", "data/line%0Afeed%0Dand ü"),
            ("data/models/m.safetensors", "data/models/m.safetensors"),
            ("data/shard-00000.cla", "data/shard-00000.cla"),
        ]
    )
    assert (bag / "manifest-sha256.txt").read_text("utf-8") == manifest
    tags = [line.split("  ") for line in (bag / "tagmanifest-sha256.txt").read_text().splitlines()]
    assert [name for _, name in tags] == ["bag-info.txt", "bagit.txt", "manifest-sha256.txt"]
    for digest, name in tags:
        assert digest == hashlib.sha256((bag / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("quick", [True, False])
def test_a_good_bag_has_no_problems(bag: Path, quick: bool) -> None:
    seen: list[str] = []
    assert validate_bag(bag, quick, on_file=lambda path, size: seen.append(path)) == []
    assert sorted(p for p in seen if p.startswith("data/")) == ([] if quick else sorted(FILES))


def test_the_bagit_tool_agrees(bag: Path) -> None:
    bagit = pytest.importorskip("bagit", reason="the independent validator is not installed")
    with contextlib.redirect_stderr(io.StringIO()):
        other = bagit.Bag(str(bag))
        assert other.validate(processes=1)
        assert other.info["Payload-Oxum"] == "15.4"
        (bag / "data/shard-00000.cla").write_bytes(b"Shard")
        with pytest.raises(bagit.BagValidationError):
            bagit.Bag(str(bag)).validate(processes=1)
    assert codes(validate_bag(bag)) == [("E434", "data/shard-00000.cla")]


def test_a_bag_of_the_bagit_tool_is_valid(tmp_path: Path) -> None:
    bagit = pytest.importorskip("bagit", reason="the independent validator is not installed")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"content")
    bagit.make_bag(str(tmp_path), {"Contact-Name": "x"}, checksums=["sha256"])
    assert validate_bag(tmp_path) == []


Harm = Callable[[Path], object]
HARMS: dict[str, tuple[Harm, list[tuple[str, str]], bool]] = {
    # name: (what is done, problems found, whether the quick check finds them too)
    "changed": (
        lambda b: (b / "data/shard-00000.cla").write_bytes(b"SHARD"),
        [("E434", "data/shard-00000.cla")],
        False,
    ),
    "longer": (
        lambda b: (b / "data/shard-00000.cla").write_bytes(b"shard!"),
        [("E433", "data"), ("E434", "data/shard-00000.cla")],
        True,
    ),
    "missing": (
        lambda b: (b / "data/a name with spaces").unlink(),
        [("E431", "data/a name with spaces"), ("E433", "data")],
        True,
    ),
    "more": (
        lambda b: (b / "data/new").write_bytes(b""),
        [("E432", "data/new"), ("E433", "data")],
        True,
    ),
    "link": (
        lambda b: (b / "data/link").symlink_to("/etc/passwd"),
        [("E430", "data/link")],
        True,
    ),
    "pipe": (lambda b: os.mkfifo(b / "data/pipe"), [("E430", "data/pipe")], True),
    "declaration": (
        lambda b: (b / "bagit.txt").write_bytes(b"BagIt-Version: 7.0\n"),
        [("E430", "bagit.txt"), ("E434", "bagit.txt")],
        True,
    ),
    "no declaration": (
        lambda b: (b / "bagit.txt").unlink(),
        [("E430", "bagit.txt"), ("E431", "bagit.txt")],
        True,
    ),
    "no info": (
        lambda b: (b / "bag-info.txt").unlink(),
        [("E430", "bag-info.txt"), ("E431", "bag-info.txt")],
        True,
    ),
    "no oxum": (
        lambda b: (b / "bag-info.txt").write_text("Payload-Oxum: many\n"),
        [("E430", "bag-info.txt"), ("E434", "bag-info.txt")],
        True,
    ),
    "no manifest": (
        lambda b: (b / "manifest-sha256.txt").unlink(),
        [("E430", "manifest-sha256.txt"), ("E431", "manifest-sha256.txt")],
        True,
    ),
    "no tag manifest": (
        lambda b: (b / "tagmanifest-sha256.txt").unlink(),
        [("E430", "tagmanifest-sha256.txt")],
        True,
    ),
    "not utf-8": (
        lambda b: (b / "tagmanifest-sha256.txt").write_bytes(b"\xff\xfe"),
        [("E430", "tagmanifest-sha256.txt")],
        True,
    ),
    "fetch": (lambda b: (b / "fetch.txt").write_bytes(b""), [("E430", "fetch.txt")], True),
}


@pytest.mark.parametrize("name", HARMS)
def test_each_harm_is_named(bag: Path, name: str) -> None:
    harm, wanted, found_quickly = HARMS[name]
    harm(bag)
    assert codes(validate_bag(bag)) == wanted
    quick = codes(validate_bag(bag, quick=True))
    assert (quick != []) == found_quickly
    assert set(quick) <= set(wanted)


def test_a_manifest_cannot_point_outside(bag: Path) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    for path in ("../secret", "/etc/passwd", "data/../../x", "data//x", "data/%0A/../x"):
        with (bag / "manifest-sha256.txt").open("a") as file:
            file.write(f"{digest}  {path}\n")
    found = validate_bag(bag)
    assert [p.code for p in found].count("E440") == 5
    assert {p.path for p in found} == {"manifest-sha256.txt"}


def test_bad_manifest_lines(bag: Path) -> None:
    good = (bag / "manifest-sha256.txt").read_text("utf-8")
    first = good.splitlines()[0]
    digest = first[:64]
    (bag / "manifest-sha256.txt").write_text(good + f"no line\n{first}\n{digest}  bagit.txt\n", "utf-8")
    details = [p.detail for p in validate_bag(bag) if p.code == "E430"]
    assert len(details) == 3
    assert any("not a SHA-256" in d for d in details)
    assert any("second time" in d for d in details)
    assert any("no payload file" in d for d in details)


def test_unreadable_files_are_environment_problems(bag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def failing(path: str, *rest: object, **more: object) -> int:
        if str(path).endswith("shard-00000.cla"):
            raise OSError(5, "Input/output error")
        return real(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", failing)
    assert codes(validate_bag(bag)) == [("E612", "data/shard-00000.cla")]


def test_what_is_no_bag_at_all(tmp_path: Path) -> None:
    assert {p.code for p in validate_bag(tmp_path)} == {"E430"}
    assert validate_bag(tmp_path / "missing") != []


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/f").write_bytes(b"")
    digest = hashlib.sha256(b"").hexdigest()
    with pytest.raises(errors.UnsafePath):
        write_bag(tmp_path, {}, {"data/../f": digest})
    with pytest.raises(errors.UnsafePath):
        write_bag(tmp_path, {}, {"f": digest})
    with pytest.raises(errors.BagFileMissing):
        write_bag(tmp_path, {}, {"data/g": digest})
    with pytest.raises(ValueError, match="SHA-256"):
        write_bag(tmp_path, {}, {"data/f": "abc"})
    for label, value in [("a:b", "x"), ("", "x"), ("a", "x\nb: y"), (" a", "x")]:
        with pytest.raises(errors.BagMalformed):
            write_bag(tmp_path, {label: value}, {"data/f": digest})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


@given(path=st.text())
def test_paths_survive_a_manifest(path: str) -> None:
    shown = encode_path(path)
    assert not {"\r", "\n"} & set(shown)
    assert decode_path(shown) == path
