"""The page on the container and the JSON Schemas agree with the code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from callic_archive import errors
from callic_archive.archive.entries import Entry
from callic_archive.archive.entry_record import DICTIONARY
from callic_archive.archive.header import Header
from callic_archive.archive.parts import Base, Part, Place
from callic_archive.container import layout
from callic_archive.container.index import MAX_LINE, MAX_TOTAL
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.container.writer import CHECKPOINT_BYTES, CHECKPOINT_RECORDS
from pipelines import generated_docs

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/format/container.md").read_text("utf-8")
SCHEMAS = ROOT / "manifests/schema"
DIGEST = "ab" * 32
REF = RecordRef("shard-00000.cla", 32, 44, RecordType.STORED, 0)
INSIDE = RecordRef("shard-00000.cla", 90, 300, RecordType.ENTRY, 1)
DEPENDENT = Part(INSIDE, "zstd", 9, None, (40, 9), Base((Place(REF), Place(INSIDE, (60, 9))), "raw", 12))


def section(title: str) -> str:
    """The text of one ``##`` section."""
    found = re.split(rf"^## {title}\n", PAGE, flags=re.MULTILINE)[1]
    return re.split(r"^## ", found, flags=re.MULTILINE)[0]


def test_the_example_is_the_golden_shard() -> None:
    shown = "".join(re.findall(r"^    ([0-9a-f]+)$", section("An example"), flags=re.MULTILINE))
    assert shown == "".join(Path(__file__).with_name("golden_shard.hex").read_text().split())


def test_every_container_code_is_specified_and_answered() -> None:
    codes = {e.code for e in generated_docs.error_classes() if issubclass(e, errors.ContainerError)} - {
        "E400"
    }
    answered = set(re.findall(r"E4\d\d", section("What to do")))
    assert answered == codes
    specified = set(re.findall(r"E4\d\d", PAGE.split("## What to do")[0]))
    assert codes - specified == {"E413", "E414", "E415"}  # of writers; no reader meets them


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert (layout.SHARD_HEADER_SIZE, layout.RECORD_HEADER_SIZE, layout.RECORD_OVERHEAD) == (32, 28, 44)
    assert (layout.END_SIZE, layout.INDEX_HEAD.size, layout.MAX_INDEX_PAYLOAD) == (84, 32, 64 << 20)
    assert (CHECKPOINT_BYTES, CHECKPOINT_RECORDS) == (64 << 20, 16384)
    assert (MAX_LINE, MAX_TOTAL) == (16 << 20, 64 << 30)
    rows = re.findall(r"^\| (\d) \| ([A-Z]+) \|", section("3. The record"), flags=re.MULTILINE)
    assert {name: int(number) for number, name in rows} == {t.name: t.value for t in RecordType}
    assert layout.SHARD_MAGIC.hex(" ").upper() in PAGE
    assert layout.RECORD_MAGIC.hex(" ").upper() in PAGE


# -- schemas -----------------------------------------------------------------------------------------------


def validator(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="no validator of JSON Schemas is installed")
    schema = json.loads((SCHEMAS / name).read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


ENTRIES = [
    Entry("a/file", "file", 0o644, 1, size=3, sha256=DIGEST, method="stored", parts=(Part(REF, "raw", 3),)),
    Entry("b", "file", 0o644, 1, size=9, sha256=DIGEST, method="stored", parts=(DEPENDENT,)),
    Entry("a/\udcff", "file", 0o644, -1, size=0, sha256=DIGEST, problem=("E101", "cut off")),
    Entry(
        "a/sparse",
        "file",
        0o600,
        0,
        size=1 << 40,
        sha256=DIGEST,
        method="sparse",
        parts=(Part(REF, "raw", 3),),
        extents=((4096, 1), (1 << 39, 2)),
    ),
    Entry("a", "directory", 0o2755, 1 << 61),
    Entry("link", "symlink", 0o777, 0, target="a/\udcff"),
    Entry("..a/...", "directory", 0, 0),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: ascii(entry.path))
def test_entries_fit_the_schema(entry: Entry) -> None:
    row = entry.as_json()
    check = validator("index-entry.schema.json")
    check.validate(row)
    assert Entry.from_json(row) == entry
    for field in row.keys() - {"path_base64", "target_base64", "problem"}:
        assert not check.is_valid({k: v for k, v in row.items() if k != field}), field


def test_other_names_of_a_file_fit_the_schema() -> None:
    row = replace(ENTRIES[0], path="b", link="a/\udcff", extents=()).as_json()
    check = validator("index-entry.schema.json")
    check.validate(row)
    assert Entry.from_json(row).link == "a/\udcff"
    assert not check.is_valid({**row, "link": "/etc/passwd"})
    assert not check.is_valid({**row, "extents": [[0, 0]]})
    assert not check.is_valid({**row, "extents": [[0]]})


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/..", "a//b", "./a", "a/", "a\0"])
def test_unsafe_paths_do_not_fit_the_schema(path: str) -> None:
    row = ENTRIES[2].as_json()
    assert not validator("index-entry.schema.json").is_valid({**row, "path": path})


def test_adapters_and_references_fit_the_schema() -> None:
    check = validator("index-entry.schema.json")
    row = {"kind": "adapter", "sha256": DIGEST, "record": REF.as_json()}
    check.validate(row)
    for change in (
        {"offset": 31},
        {"length": 43},
        {"type": "STORED"},
        {"shard": "../x"},
        {"sequence": 1 << 32},
    ):
        bad = {**REF.as_json(), **change}
        assert not check.is_valid({**row, "record": bad})
        with pytest.raises(errors.IndexEntryInvalid):
            RecordRef.from_json(bad)


def test_the_first_line_fits_the_schema() -> None:
    check = validator("archive.schema.json")
    header = Header("callic-archive 0.1.0", "2026-01-02T03:04:05+00:00", 3, {"coder": "range"}, (DIGEST,))
    row = header.as_json()
    check.validate(row)
    assert Header.from_json(row) == header
    check.validate(replace(header, models_outside=()).as_json())
    for field in row.keys() - {"models_outside"}:
        assert not check.is_valid({k: v for k, v in row.items() if k != field}), field
    for field in row.keys() - {"kind", "format_version"}:
        assert not check.is_valid({**row, field: None}), field
        with pytest.raises(errors.IndexEntryInvalid, match=field):
            Header.from_json({**row, field: None})


def test_the_page_on_the_archive_has_the_preset_dictionary() -> None:
    page = (ROOT / "docs" / "format" / "archive.md").read_text("utf-8")
    block = page.split(f"({len(DICTIONARY)} bytes):\n\n")[1].split("\n\n")[0]
    assert "".join(line.removeprefix("    ") for line in block.split("\n")).encode() == DICTIONARY
    assert not any(line.endswith(" ") for line in block.split("\n"))
