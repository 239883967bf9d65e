"""Paths in messages: found where they are named, and nowhere else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from callic_archive.cli.redaction import Redaction
from tests.command import run, use_double
from tests.trees import smooth, write_pnm


def cleaned(message: str, *hidden: str, paths: tuple[str, ...] = ()) -> str:
    redaction = Redaction()
    redaction.hide(hidden)
    return redaction.clean(message, paths)


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ("/data/Smith/x.callic", "/data/Smith is no folder, so x.callic cannot be made in it"),
        ("/data/Smith/x.callic", "/data/Smith/x.callic.partial was begun by another command"),
        ("/data/Smith", "cannot read /data/Smith/scans/Smith-2.dcm: Permission denied"),
        ("/data/Smith/", "'/data/Smith/' is empty"),
        ("Smith", "Smith does not exist; check the spelling"),
        ("Smith/x", "Smith is no folder"),
        ("./Smith", "Smith/notes.txt: it is damaged"),
        ("JS", "JS does not exist"),
        ("JS", "nothing matches 'JS'"),
        ("J", "J does not exist"),
        ("J", "'J/1.dcm' is gone"),
        ("Smith.txt", "the list Smith.txt does not exist"),
        ("Smith's scans", 'the entry "Smith\'s scans" is gone'),
        ("Smith\n2", "the entry 'Smith\\n2' is gone"),
        ("Smith (2)/a b", "cannot write Smith (2)/a b: no space"),
        ("/data/Smith*", "nothing in the archive matches '/data/Smith*'"),
    ],
)
def test_what_a_message_names_is_hidden(hidden: str, message: str) -> None:
    clean = cleaned(message, hidden)
    assert "path-" in clean
    for name in ("Smith", "JS", "'J", "J ", "x.callic", "scans"):
        assert name not in clean, clean


def test_words_that_hold_a_name_or_are_one_stay() -> None:
    message = "leave one of them alone, and make nothing of it: the image is stored as it is"
    for name in ("one", "a", "it", "image", "lo", "mage", "data/one", "thing"):
        assert cleaned(message, name) == message
    assert cleaned("one does not exist", "one").endswith(" does not exist")
    assert cleaned("'one' does not exist", "one") != "'one' does not exist"
    assert cleaned("data/index.jsonl.zst is not whole", "/x/data").startswith("path-")
    assert cleaned("folder data and data/models", "data/Smith").startswith("folder data and path-")


def test_a_path_has_one_token_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    redaction = Redaction()
    redaction.hide(["Smith"])
    forms = ["Smith", os.path.abspath("Smith"), "'Smith'", "Smith:"]
    assert {redaction.clean(form).strip("':") for form in forms} == {redaction.token("Smith")}
    assert redaction.clean("Smith/a.png") == redaction.token("Smith/a.png")
    assert redaction.clean("Smith/a.png") != redaction.clean("Smith/b.png")
    assert redaction.clean("Smith/a.png").endswith(".png")
    assert Redaction().token("Smith") != redaction.token("Smith")


def test_paths_that_are_known_to_be_in_a_message_are_hidden_whatever_they_hold() -> None:
    path = "tree/John Roe, 1970: [left].dcm"
    for shown in (path, repr(path), os.path.basename(path)):
        clean = cleaned(f"{shown} is cut off", "tree", paths=(path,))
        assert clean.strip("'").startswith("path-")
        assert "Roe" not in clean
        assert "left" not in clean


def test_tokens_are_not_hidden_again() -> None:
    assert cleaned("x.png is gone", "path", "png", paths=("x.png",)).count("path-") == 1


# -- on the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_double(monkeypatch)
    (tmp_path / "JD").mkdir()
    monkeypatch.chdir(tmp_path)
    write_pnm(tmp_path / "one" / "image.pgm", smooth(40, 40))
    (tmp_path / "JD.txt").write_text("Jane/Doe.png\n../JD\n")
    assert run("pack", "one", "-o", "x.callic").code == 0
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "pack one -o Jane/Doe.callic",
        "pack one -o {place}/Jane/Doe.callic",
        "pack JX -o y.callic",
        "pack one JX -o y.callic",
        "pack --files-from Jane.txt -o y.callic",
        "pack --files-from JD -o y.callic",
        "pack one -o y.callic --scheduler Jane.json",
        "pack one -o y.callic --scheduler JD",
        "pack one -o y.callic --model Jane.safetensors",
        "pack one -o y.callic --include Jane*",
        "pack one -o y.callic Jane --exclud Jane",
        "pack one -o y.callic --workers Jane",
        "pack one -o y.callic --effort=Jane",
        "packs Jane",
        "train one -o Jane/Doe.safetensors",
        "train JX -o y.safetensors",
        "train one -o y.safetensors --base Jane",
        "salvage x.callic -o Jane/Doe.callic",
        "salvage x.callic -o JD.txt/Jane",
        "salvage x.callic -o out --report Jane/Doe.json",
        "unpack x.callic -o JD.txt",
        "unpack x.callic Jane* -o out",
        "unpack x.callic Jane -o out --region 0:9,0:9",
        "unpack Jane.callic -o out",
        "unpack x.callic -o out --device Jane",
        "cat x.callic Jane.png",
        "cat x.callic JD",
        "verify x.callic --against Jane",
        "verify x.callic Jane",
        "diff x.callic Jane",
        "list Jane.callic",
        "info JD",
        "models list JD",
        "models show Jane",
    ],
)
def test_refusals_name_no_path(words: str, place: Path) -> None:
    for more in ([], ["--json"], ["--debug"]):
        ran = run(*words.format(place=place).split(), "--redact-paths", *more)
        assert ran.code in (2, 3, 4), ran.err
        for name in ("Jane", "Doe", "JD", "JX", str(place)):
            assert name not in ran.out + ran.err.replace(str(Path(__file__).parents[2]), ""), (ran.out, ran.err)


def test_what_another_command_was_begun_for_is_hidden_too(place: Path) -> None:
    from callic_archive.archive.staging import Staging

    with Staging(place / "y.callic") as staging:
        staging.open({"sources": ["/data/Jane Doe"], "include": ["Jane*"]})
    ran = run("pack", "one", "-o", "y.callic", "--redact-paths")
    assert ran.code == 2
    assert "was begun by another command" in ran.err
    assert "Jane" not in ran.err


def test_words_of_messages_stay_as_they_are(place: Path) -> None:
    ran = run("pack", "one", "-o", "y.callic", "--redact-paths", "--workers", "1", "--gpus", "1")
    assert "give one of them" in ran.err
    packed = run("pack", "one", "-o", "y.callic", "--redact-paths")
    assert packed.code == 0
    assert packed.out.replace(packed.out.split()[4], "") == run("pack", "one", "-o", "z.callic").out.replace("z.callic:", "")


def test_a_variable_asks_for_it_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLIC_ARCHIVE_VERIFY_REDACT_PATHS", "1")
    monkeypatch.setenv("CALLIC_ARCHIVE_VERIFY_WORKERS", "Jane")
    ran = run("verify", "x.callic", "--json")
    assert ran.code == 2
    assert "Jane" not in ran.out + ran.err
    assert json.loads(ran.out)["error"]["code"] == "E001"
