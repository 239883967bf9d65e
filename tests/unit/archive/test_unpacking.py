"""Back to a tree: exactly, safely, and whatever is damaged alone."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from callic_archive.archive.comparing import Scope, compare_with
from callic_archive.archive.destinations import check_destination
from callic_archive.archive.digests import content_sha256
from callic_archive.archive.entries import Entry
from callic_archive.archive.reading import INDEX
from callic_archive.archive.unpacking import Restored
from callic_archive.archive.verifying import verify_bag
from callic_archive.container.index import read_index, write_index
from callic_archive.errors import DestinationExists, DigestMismatch, EntryDamaged, MissingPath, NotAnArchive
from callic_archive.images import source as images
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.read import unpack, verify
from tests.doubles import DeflatePlan
from tests.trees import make_tree, open_archive, pack_tree, smooth, snapshot, write_pnm

HERE = Resources(workers=1)


def restore(archive: Path, destination: Path, *, overwrite: bool = False) -> tuple[list[Restored], list[str]]:
    """Restored files, and codes of all problems."""
    done: list[Restored] = []
    with open_archive(archive) as opened:
        rest = unpack(
            opened,
            opened.entries,
            destination,
            plan=DeflatePlan(),
            overwrite=overwrite,
            resources=HERE,
            watch=done.append,
            tick=lambda running, workers: None,
        )
        codes = [problem.code for problem in opened.problems]
    codes += [restored.problem.code for restored in done if restored.problem] + [p.code for p in rest]
    return done, codes


def check(archive: Path, *, full: bool = True) -> dict[str, str]:
    """Path to code of every entry that is not sound."""
    done: list[Restored] = []
    with open_archive(archive) as opened:
        verify(
            opened,
            opened.entries,
            plan=DeflatePlan(),
            full=full,
            resources=HERE,
            watch=done.append,
            tick=lambda running, workers: None,
        )
    return {restored.entry.path: restored.problem.code for restored in done if restored.problem}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    pack_tree(make_tree(tmp_path / "tree"), tmp_path / "x.callic")
    return tmp_path / "x.callic"


def rewrite_index(archive: Path, change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    """Give the archive an index that an honest program would not write."""
    rows = [change(row) for row in read_index(archive / "data" / INDEX)]
    write_index(archive / "data" / INDEX, rows)


def damage(archive: Path, entry: Entry, byte: int = 0) -> None:
    """Flip a byte of the entry's last record's payload."""
    ref = entry.parts[-1].ref
    shard = archive / "data" / ref.shard
    data = bytearray(shard.read_bytes())
    data[ref.offset + ref.length - 20 - byte] ^= 0x10
    shard.write_bytes(data)


def find(archive: Path, path: str) -> Entry:
    with open_archive(archive) as opened:
        return next(entry for entry in opened.entries if entry.path == path)


def test_the_tree_comes_back_with_names_modes_times_and_links(packed: Path, tmp_path: Path) -> None:
    done, codes = restore(packed, tmp_path / "out")
    assert codes == []
    assert all(restored.fidelity == "bytes" for restored in done)
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    assert not [
        name for _, _, names in os.walk(tmp_path / "out") for name in names if name.startswith(".callic")
    ]


def test_existing_files_are_refused_and_replaced_only_when_asked(packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "tree").mkdir(parents=True)
    (out / "tree" / "notes.txt").write_text("mine")
    with open_archive(packed) as opened, pytest.raises(DestinationExists, match=r"notes\.txt is there already"):
        check_destination(opened.entries, out)
    _, codes = restore(packed, out)
    assert codes == ["E506"]
    assert (out / "tree" / "notes.txt").read_text() == "mine"
    _, codes = restore(packed, out, overwrite=True)
    assert codes == []
    assert snapshot(out / "tree") == snapshot(tmp_path / "tree")


def test_a_link_in_the_destination_is_replaced_and_never_written_through(
    packed: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (tmp_path / "out" / "tree").mkdir(parents=True)
    (tmp_path / "out" / "tree" / "notes.txt").symlink_to(outside)
    restore(packed, tmp_path / "out", overwrite=True)
    assert outside.read_text() == "precious"
    assert not (tmp_path / "out" / "tree" / "notes.txt").is_symlink()


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "tree/../../evil", "tree//x", "", "a/./b"])
def test_paths_that_leave_the_destination_are_refused(packed: Path, tmp_path: Path, path: str) -> None:
    def evil(row: dict[str, object]) -> dict[str, object]:
        return {**row, "path": path} if row.get("path") == "tree/notes.txt" else row

    rewrite_index(packed, evil)
    done, codes = restore(packed, tmp_path / "deep" / "out")
    assert codes == ["E504"]
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "deep" / "evil").exists()
    assert sum(restored.fidelity is not None for restored in done) == len(done) - 1


def test_a_planted_link_does_not_lead_out(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()

    def evil(row: dict[str, object]) -> dict[str, object]:
        return {**row, "target": str(tmp_path / "elsewhere")} if row.get("path") == "tree/link" else row

    def below(row: dict[str, object]) -> dict[str, object]:
        return {**row, "path": "tree/link/stolen"} if row.get("path") == "tree/notes.txt" else row

    rewrite_index(packed, evil)
    rewrite_index(packed, below)
    restore(packed, tmp_path / "out")  # the file makes a folder of the name, the link is then refused
    restore(packed, tmp_path / "out", overwrite=True)
    (tmp_path / "out2" / "tree").mkdir(parents=True)
    (tmp_path / "out2" / "tree" / "link").symlink_to(tmp_path / "elsewhere")
    _, codes = restore(packed, tmp_path / "out2", overwrite=True)
    assert "E504" in codes
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_flipped_byte_costs_one_entry(packed: Path, tmp_path: Path) -> None:
    victim = find(packed, "tree/images/colour.ppm")
    damage(packed, victim)
    assert check(packed) == {"tree/images/colour.ppm": "E502"}
    assert check(packed, full=False) == {"tree/images/colour.ppm": "E502"}
    with open_archive(packed) as opened:
        problems = list(verify_bag(opened))
    assert [problem.code for problem in problems] == ["E434", "E405"]
    assert "tree/images/colour.ppm" in problems[1].message
    done, codes = restore(packed, tmp_path / "out")
    assert codes == ["E502"]
    assert not (tmp_path / "out" / "tree" / "images" / "colour.ppm").exists()
    assert sum(restored.fidelity is not None for restored in done) == len(done) - 1


def test_a_lost_shard_costs_what_lay_in_it(packed: Path, tmp_path: Path) -> None:
    victim = find(packed, "tree/notes.txt")
    (packed / "data" / victim.parts[0].ref.shard).unlink()
    _, codes = restore(packed, tmp_path / "out")
    assert set(codes) == {"E502"}
    assert (tmp_path / "out" / "tree" / "empty").exists()
    assert (tmp_path / "out" / "tree" / "link").is_symlink()


def test_swapped_records_are_noticed(packed: Path) -> None:
    a, b = find(packed, "tree/notes.txt"), find(packed, "tree/script")

    def swap(row: dict[str, object]) -> dict[str, object]:
        other = {a.path: b, b.path: a}.get(str(row.get("path")))
        return {**row, "parts": other.as_json()["parts"], "size": other.size} if other else row

    rewrite_index(packed, swap)
    assert check(packed) == {a.path: "E503", b.path: "E503"}


@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
def test_a_lost_index_is_made_again_from_the_shards(packed: Path, tmp_path: Path, how: str) -> None:
    index = packed / "data" / INDEX
    if how == "missing":
        index.unlink()
    elif how == "cut":
        index.write_bytes(index.read_bytes()[:-20])
    else:
        data = bytearray(index.read_bytes())
        data[len(data) // 2] ^= 1
        index.write_bytes(data)
    _, codes = restore(packed, tmp_path / "out")
    assert codes == ["E420"]
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def test_a_bad_index_line_costs_its_entry(packed: Path) -> None:
    rewrite_index(packed, lambda row: {**row, "mode": "x"} if row.get("path") == "tree/script" else row)
    with open_archive(packed) as opened:
        assert [(p.path, p.code) for p in opened.problems] == [("tree/script", "E502")]
        assert "tree/notes.txt" in [entry.path for entry in opened.entries]


def test_what_is_no_archive_is_named_as_such(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingPath):
        open_archive(tmp_path / "nothing")
    with pytest.raises(NotAnArchive, match="no callic archive"):
        open_archive(tmp_path / "tree")
    with pytest.raises(NotAnArchive, match="no callic archive"):
        open_archive(tmp_path / "tree" / "notes.txt")
    os.rename(packed, tmp_path / "y.callic.partial")
    with pytest.raises(NotAnArchive, match="unfinished"):
        open_archive(tmp_path / "y.callic.partial")
    with pytest.raises(NotAnArchive, match="run the same pack command again"):
        open_archive(tmp_path / "y.callic")


def test_a_newer_format_is_refused(packed: Path) -> None:
    rewrite_index(packed, lambda row: {**row, "format_version": 99} if row["kind"] == "archive" else row)
    with pytest.raises(NotAnArchive, match="version 99"):
        open_archive(packed)


def test_wrong_pixels_never_pass(packed: Path) -> None:
    entry = find(packed, "tree/images/gray.pgm")
    other = replace(entry, content_sha256="0" * 64)
    with open_archive(packed) as opened:
        assert opened.restore(entry, io.BytesIO()) == "bytes"
        with pytest.raises(DigestMismatch, match="pixels"):
            opened.restore(other, io.BytesIO())
        surround, planes = opened.pieces(entry)
        hollow = replace(entry, recipe={}, content_sha256=content_sha256("pnm", {}, surround, planes))
        with pytest.raises(EntryDamaged):
            opened.restore(hollow, io.BytesIO())


def test_other_compressed_bytes_are_told_and_the_file_is_restored(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = images.rebuild

    def other(format: str, recipe: object, surround: bytes, planes: object, out: io.BytesIO) -> None:
        made = io.BytesIO()
        real(format, recipe, surround, planes, made)  # type: ignore[arg-type]
        out.write(made.getvalue().replace(b"P6\n", b"P6 "))  # equal pixels, another header

    monkeypatch.setattr("callic_archive.archive.reading.rebuild", other)
    done, codes = restore(packed, tmp_path / "out")
    assert codes == ["E503"]
    (restored,) = [r for r in done if r.problem]
    assert (restored.entry.path, restored.fidelity) == ("tree/images/colour.ppm", "content")
    assert restored.problem is not None
    assert restored.problem.kept
    assert (tmp_path / "out" / "tree" / "images" / "colour.ppm").exists()


def test_comparing_with_a_tree_finds_every_kind_of_difference(packed: Path, tmp_path: Path) -> None:
    def differences() -> dict[str, str]:
        with open_archive(packed) as opened:
            found = compare_with(opened, opened.entries, tmp_path, lambda entry: None, Scope(metadata=False))
            return {problem.path: problem.message for problem in found}

    assert differences() == {}
    tree = tmp_path / "tree"
    (tree / "notes.txt").write_text("short")
    (tree / "copy.txt").write_text("WORDS " * 200)
    (tree / "script").unlink()
    (tree / "link").unlink()
    (tree / "link").symlink_to("elsewhere")
    (tree / "void" / "deeper").rmdir()
    (tree / "new").write_text("")
    (tree / "empty").unlink()
    (tree / "empty").mkdir()
    assert set(differences()) == {
        "tree/notes.txt",
        "tree/copy.txt",
        "tree/script",
        "tree/link",
        "tree/void/deeper",
        "tree/new",
        "tree/empty",
    }
    assert "same size" in differences()["tree/copy.txt"]
    assert "missing" in differences()["tree/script"]
    assert "not in the archive" in differences()["tree/new"]


def test_set_user_id_is_not_restored(tmp_path: Path) -> None:
    file = write_pnm(tmp_path / "tree" / "a.pgm", smooth(20, 20))
    file.chmod(0o4755)
    (tmp_path / "tree").chmod(0o2775)
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    restore(tmp_path / "x.callic", tmp_path / "out")
    assert (tmp_path / "out" / "tree" / "a.pgm").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out" / "tree").stat().st_mode & 0o7777 == 0o2775


def test_an_index_cannot_make_a_reader_allocate_what_no_packer_takes(packed: Path) -> None:
    def promise(row: dict[str, object]) -> dict[str, object]:
        if row.get("method") == "image" and str(row["path"]).endswith(".pgm"):
            stream = next(part for part in row["parts"] if "stream" in part)  # type: ignore[attr-defined]
            stream["stream"]["shape"] = [1 << 17, 1 << 17]
            stream["size"] = 1 << 34
        return row

    with open_archive(packed) as opened:
        forged = {e.path for e in opened.entries if e.method == "image" and e.path.endswith(".pgm")}
    assert forged
    rewrite_index(packed, promise)
    assert check(packed) == dict.fromkeys(forged, "E502")


def test_a_codestream_of_another_type_than_the_index_says_is_refused(packed: Path) -> None:
    def promise(row: dict[str, object]) -> dict[str, object]:
        for part in row.get("parts", []):  # type: ignore[attr-defined]
            if "stream" in part:
                part["size"] += 1
        return row

    with open_archive(packed) as opened:
        forged = {e.path for e in opened.entries if e.method == "image"}
    rewrite_index(packed, promise)
    assert check(packed) == dict.fromkeys(forged, "E502")
