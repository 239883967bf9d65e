"""Whole runs in this process: trees in, archives out, and on again after a stop."""

from __future__ import annotations

import bz2
import json
import os
import shutil
from pathlib import Path

import pytest

from callic_archive import __version__
from callic_archive.archive import unfinished
from callic_archive.archive.candidates import learned
from callic_archive.archive.content import OpenFile, read_source
from callic_archive.archive.entries import Entry
from callic_archive.archive.entry_record import decode_entry
from callic_archive.archive.header import FORMAT_VERSION
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.packer import Packer
from callic_archive.archive.reading import INDEX
from callic_archive.archive.scan import Selection
from callic_archive.archive.staging import Staging, claim_shard
from callic_archive.archive.unpacking import select
from callic_archive.container.bag import validate_bag
from callic_archive.container.index import read_index
from callic_archive.container.layout import RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.errors import (
    DestinationExists,
    EntryDamaged,
    MissingPath,
    NoSuchEntry,
    OtherRun,
    OutOfSpace,
)
from tests.command import run, use_double
from tests.doubles import DeflatePlan
from tests.trees import Silent, make_tree, open_archive, pack_tree, smooth, write_pnm


def entries_of(archive: Path) -> dict[str, Entry]:
    with open_archive(archive) as opened:
        return {entry.path: entry for entry in opened.entries}


def test_a_tree_becomes_a_valid_bag_with_one_entry_a_path(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    run = pack_tree(tree, tmp_path / "x.callic")
    assert run.problems == []
    assert validate_bag(tmp_path / "x.callic") == []
    assert not (tmp_path / "x.callic.partial").exists()
    assert not (tmp_path / "x.callic" / ".run").exists()
    found = entries_of(tmp_path / "x.callic")
    on_disk = {"tree"} | {
        f"tree/{os.path.relpath(os.path.join(folder, name), tree)}"
        for folder, folders, files in os.walk(tree)
        for name in [*folders, *files]
    }
    assert set(found) == on_disk
    images = {path: entry.format for path, entry in found.items() if entry.method == "image"}
    assert images == {
        "tree/images/gray.pgm": "pnm",
        "tree/images/colour.ppm": "pnm",
        "tree/images/volume.npy": "npy",
    }
    assert all(entry.fidelity == "bytes" for entry in found.values())
    text = bz2.decompress((tmp_path / "x.callic" / "data" / "specification.md.bz2").read_bytes()).decode()
    assert "## 2. An entry" in text
    assert "\n# The model\n" in text
    opening = (tmp_path / "x.callic" / "data" / "FORMAT.md").read_text()
    assert f"callic-archive {__version__} wrote it, format version {FORMAT_VERSION}." in opening
    assert "specification.md.bz2" in opening


def test_the_index_says_what_each_entry_record_says(tmp_path: Path) -> None:
    pack_tree(make_tree(tmp_path / "tree"), tmp_path / "x.callic")
    rows = list(read_index(tmp_path / "x.callic" / "data" / INDEX))
    assert rows[0]["kind"] == "archive"
    assert rows[0]["entries"] == len(rows) - 1
    by_path = {row["path"]: row for row in rows[1:]}
    seen = 0
    for shard in sorted((tmp_path / "x.callic" / "data").glob("*.cla")):
        with ShardReader(shard) as reader:
            for record in reader.index():
                if record.ref.type is RecordType.ENTRY:
                    row = decode_entry(
                        reader.read(record.ref, key=record.key), record.key, record.ref
                    ).as_json()
                    assert row == by_path[row["path"]]
                    seen += 1
    assert seen == len(by_path)


def test_equal_files_are_stored_once(tmp_path: Path) -> None:
    image = write_pnm(tmp_path / "tree" / "a.pgm", smooth(200, 200))
    for name in ("b.pgm", "sub/c.pgm"):
        (tmp_path / "tree" / "sub").mkdir(exist_ok=True)
        shutil.copy2(image, tmp_path / "tree" / name)
    write_pnm(tmp_path / "tree" / "other.pgm", smooth(200, 200, seed=3))
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    found = entries_of(tmp_path / "x.callic")
    assert found["tree/a.pgm"].parts == found["tree/b.pgm"].parts == found["tree/sub/c.pgm"].parts
    assert found["tree/other.pgm"].parts != found["tree/a.pgm"].parts
    streams = 0
    for shard in (tmp_path / "x.callic" / "data").glob("*.cla"):
        with ShardReader(shard) as reader:
            streams += sum(record.ref.type is RecordType.CODESTREAM for record in reader.index())
    assert streams == 2


def test_full_shards_are_sealed_and_new_ones_begun(tmp_path: Path) -> None:
    for number in range(6):
        write_pnm(tmp_path / "tree" / f"{number}.pgm", smooth(100, 100, seed=number))
    pack_tree(tmp_path / "tree", tmp_path / "x.callic", shard_bytes=8000)
    shards = sorted(path.name for path in (tmp_path / "x.callic" / "data").glob("*.cla"))
    assert shards == [f"shard-{number:05d}.cla" for number in range(len(shards))]
    assert len(shards) >= 3
    assert validate_bag(tmp_path / "x.callic") == []


def test_an_empty_folder_makes_an_archive(tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    run = pack_tree(tmp_path / "void", tmp_path / "x.callic")
    assert run.problems == []
    assert list(entries_of(tmp_path / "x.callic")) == ["void"]
    assert validate_bag(tmp_path / "x.callic") == []


def test_broken_images_are_kept_and_the_reason_is_in_the_index(tmp_path: Path) -> None:
    path = write_pnm(tmp_path / "tree" / "cut.pgm", smooth(50, 50))
    path.write_bytes(path.read_bytes()[:1000])
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    assert [(p.path, p.kept) for p in run.problems] == [(str(path), True)]
    entry = entries_of(tmp_path / "x.callic")["tree/cut.pgm"]
    assert entry.method == "stored"
    assert entry.problem is not None
    assert entry.problem[0] == run.problems[0].code


def test_a_file_that_cannot_be_read_is_reported_and_the_rest_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "tree")
    real = os.open

    def failing(path: object, *arguments: object, **keywords: object) -> int:
        if str(path).endswith("random.bin"):
            raise OSError(5, "Input/output error")
        return real(path, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", failing)
    run = pack_tree(tree, tmp_path / "x.callic")
    monkeypatch.undo()
    (problem,) = run.problems
    assert (problem.path, problem.code, problem.kept) == (str(tree / "random.bin"), "E512", False)
    assert "Input/output error" in problem.message
    found = entries_of(tmp_path / "x.callic")
    assert "tree/random.bin" not in found
    assert "tree/images/gray.pgm" in found


def test_a_file_that_changes_meanwhile_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pnm(tmp_path / "tree" / "a.pgm", smooth(50, 50))

    real = OpenFile.read

    def read_then_change(self: OpenFile) -> bytes:
        found = real(self)
        path.write_bytes(b"something else")
        return found

    monkeypatch.setattr(OpenFile, "read", read_then_change)
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    assert [(p.code, p.kept) for p in run.problems] == [("E514", True)]


def test_large_files_are_read_in_pieces_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("packer", "content"):
        monkeypatch.setattr(f"callic_archive.archive.{module}.WHOLE_BELOW", 1000)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "big").write_bytes(os.urandom(300_000))
    image = write_pnm(tmp_path / "tree" / "big.pgm", smooth(300, 300))
    data, _ = read_source(str(image))
    assert isinstance(data, memoryview)
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    found = entries_of(tmp_path / "x.callic")
    assert found["tree/big.pgm"].method == "image"
    with open_archive(tmp_path / "x.callic") as opened, open(tmp_path / "big", "wb") as out:
        assert opened.restore(found["tree/big"], out) == "bytes"


# -- going on ------------------------------------------------------------------------------------------------


class Cut(Exception):
    """Stands for a kill: nothing after it is written by the run."""


def cut_after(monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    real = Packer._file
    count = 0

    def counting(self: Packer, *arguments: object) -> object:
        nonlocal count
        count += 1
        if count > files:
            raise Cut
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Packer, "_file", counting)


def test_a_run_that_was_cut_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_tree(tmp_path / "tree")
    with monkeypatch.context() as patch:
        cut_after(patch, 5)
        with pytest.raises(Cut):
            pack_tree(tree, tmp_path / "x.callic")
    assert not (tmp_path / "x.callic").exists()
    packed: list[str] = []
    real = Packer._file

    def noting(self: Packer, source: object, *arguments: object) -> object:
        packed.append(source.path)  # type: ignore[attr-defined]
        return real(self, source, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Packer, "_file", noting)
    run = pack_tree(tree, tmp_path / "x.callic")
    files = [s for s in run.scan.sources if s.kind == "file"]
    assert len(packed) == len(files) - 5
    assert run.resumed == len(run.scan.sources) - len(packed)
    assert set(entries_of(tmp_path / "x.callic")) == {s.path for s in run.scan.sources}
    assert validate_bag(tmp_path / "x.callic") == []


def test_a_source_that_changed_and_had_its_time_set_back_is_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "tree")
    with monkeypatch.context() as patch:
        cut_after(patch, 5)
        with pytest.raises(Cut):
            pack_tree(tree, tmp_path / "x.callic")
    done = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in done:  # the same size and time, other bytes
        data, info = path.read_bytes(), path.stat()
        path.write_bytes(bytes(255 - byte for byte in data))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    pack_tree(tree, tmp_path / "x.callic")
    assert entries_of(tmp_path / "x.callic").keys() >= {str(path.relative_to(tmp_path)) for path in done}
    use_double(monkeypatch)
    ran = run("verify", tmp_path / "x.callic", "--against", tmp_path, "--full")
    assert ran.code == 0, ran.err


def test_a_half_written_record_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_tree(tmp_path / "tree")
    with monkeypatch.context() as patch:
        cut_after(patch, 5)
        with pytest.raises(Cut):
            pack_tree(tree, tmp_path / "x.callic")
    partial = sorted((tmp_path / "x.callic.partial" / "data").glob("*.cla.partial"))[-1]
    partial.write_bytes(partial.read_bytes()[:-7])
    run = pack_tree(tree, tmp_path / "x.callic")
    assert set(entries_of(tmp_path / "x.callic")) == {s.path for s in run.scan.sources}
    assert validate_bag(tmp_path / "x.callic") == []


def test_a_source_that_changed_since_is_packed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_tree(tmp_path / "tree")
    with monkeypatch.context() as patch:
        cut_after(patch, 1000)
        patch.setattr("callic_archive.archive.packing.finish", lambda *a, **k: (_ for _ in ()).throw(Cut()))
        with pytest.raises(Cut):
            pack_tree(tree, tmp_path / "x.callic")
    (tree / "notes.txt").write_text("new text")
    (tree / "link").unlink()
    (tree / "script").unlink()
    pack_tree(tree, tmp_path / "x.callic")
    found = entries_of(tmp_path / "x.callic")
    assert found["tree/notes.txt"].size == 8
    assert "tree/link" not in found
    assert "tree/script" not in found


def test_another_command_does_not_go_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_tree(tmp_path / "tree")
    with monkeypatch.context() as patch:
        cut_after(patch, 2)
        with pytest.raises(Cut):
            pack_tree(tree, tmp_path / "x.callic")
    with pytest.raises(OtherRun, match="fidelity: then 'auto', now 'bytes'"):
        pack_tree(tree, tmp_path / "x.callic", options=PackOptions(fidelity="bytes", coder=learned))
    with pytest.raises(OtherRun, match="sources"):
        pack_tree(tree / "images", tmp_path / "x.callic")
    pack_tree(tree, tmp_path / "x.callic")


@pytest.mark.parametrize("content", [b'{"a', b"[1]", b"\xff", b"", b"[" * 100_000], ids=repr)
def test_settings_that_cannot_be_read_end_the_command_in_order(tmp_path: Path, content: bytes) -> None:
    job = tmp_path / "x.callic.partial" / ".run" / "job.json"
    job.parent.mkdir(parents=True)
    job.write_bytes(content)
    with pytest.raises(OtherRun, match=r"job\.json cannot be read"):
        pack_tree(make_tree(tmp_path / "tree"), tmp_path / "x.callic")
    assert job.read_bytes() == content


def test_two_commands_never_write_one_archive(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    with Staging(tmp_path / "x.callic") as first:
        first.open({})
        with pytest.raises(OtherRun, match=f"process {os.getpid()}"):
            pack_tree(tree, tmp_path / "x.callic")


def test_an_existing_destination_is_never_touched(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    (tmp_path / "x.callic").mkdir()
    with pytest.raises(DestinationExists):
        pack_tree(tree, tmp_path / "x.callic")
    assert list((tmp_path / "x.callic").iterdir()) == []
    with pytest.raises(MissingPath):
        pack_tree(tree, tmp_path / "no such folder" / "x.callic")


def test_a_destination_inside_the_source_is_left_out(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    pack_tree(tree, tree / "x.callic")
    assert not any("x.callic" in path for path in entries_of(tree / "x.callic"))


def test_shard_numbers_are_given_once(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "x.callic")
    with staging:
        staging.open({})
        names = [claim_shard(staging.data)[0].name for _ in range(3)]
        assert names == ["shard-00000.cla", "shard-00001.cla", "shard-00002.cla"]
        (staging.run / "claims" / "shard-00001.cla").unlink()
        assert claim_shard(staging.data)[0].name == "shard-00003.cla"


def test_orphans_of_dead_workers_are_adopted_or_removed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    staging = Staging(tmp_path / "x.callic")
    watch = Silent()

    def stage(text: str) -> None:
        if text == "packing":  # a worker that packed everything once more, and died before sealing its shard
            other = Packer(run.job(None))
            for group in run.groups():
                for source in group.sources:
                    other._file(source, {}, False)
            other.sink.abandon()

    watch.stage = stage  # type: ignore[method-assign]
    with staging:
        from callic_archive.archive.packing import PackRun, run_settings
        from callic_archive.archive.scan import scan
        from callic_archive.scheduling.pack import Resources, execute

        settings = run_settings((str(tree),), DeflatePlan(), PackOptions(), Selection())
        staging.open(settings)
        run = PackRun(staging, scan([str(tree)]), DeflatePlan(), PackOptions(), settings)
        execute(run, Resources(workers=1), watch)
    shards = list((tmp_path / "x.callic" / "data").glob("shard-*"))
    assert len(shards) == 2  # folders and links, and what was packed; the dead worker's is gone
    assert all(shard.suffix == ".cla" for shard in shards)
    assert validate_bag(tmp_path / "x.callic") == []


def test_a_full_disk_leaves_what_can_be_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_tree(tmp_path / "tree")
    real = os.write
    written = 0

    def little_room(fd: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 9000:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", little_room)
        with pytest.raises(OutOfSpace, match="No space left"):
            pack_tree(tree, tmp_path / "x.callic")
    assert not (tmp_path / "x.callic").exists()
    run = pack_tree(tree, tmp_path / "x.callic")
    assert run.resumed > 0
    assert validate_bag(tmp_path / "x.callic") == []


def test_file_systems_without_locks_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(unfinished.fcntl, "flock", no_locks)
    pack_tree(make_tree(tmp_path / "tree"), tmp_path / "x.callic")
    assert validate_bag(tmp_path / "x.callic") == []


# -- entries -------------------------------------------------------------------------------------------------


def test_entries_survive_json(tmp_path: Path) -> None:
    pack_tree(make_tree(tmp_path / "tree"), tmp_path / "x.callic")
    for entry in entries_of(tmp_path / "x.callic").values():
        assert Entry.from_json(json.loads(json.dumps(entry.as_json()))) == entry


GOOD: dict[str, object] = {
    "path": "a",
    "kind": "file",
    "mode": 0o644,
    "mtime_ns": 1,
    "size": 0,
    "sha256": "0" * 64,
    "fidelity": "bytes",
    "method": "none",
    "parts": [],
}


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "device"},
        {"mode": -1},
        {"mode": "0644"},
        {"mode": True},
        {"mtime_ns": 1.5},
        {"mtime_ns": 10**9 << 63},
        {"mtime_ns": -(10**9 << 63) - 1},
        {"size": -1},
        {"size": 7},
        {"sha256": "xyz"},
        {"fidelity": "nearly"},
        {"method": "magic"},
        {"method": "image"},
        {"parts": {}},
        {"parts": [{}]},
        {"parts": [{"record": {"shard": "../x"}, "coding": "raw", "size": 0}]},
        {"path": 5},
        {"problem": "bad"},
        {"kind": "symlink"},
    ],
)
def test_index_lines_that_are_not_valid_are_refused(change: dict[str, object]) -> None:
    assert Entry.from_json(GOOD).path == "a"
    with pytest.raises(EntryDamaged):
        Entry.from_json({**GOOD, **change})


def test_patterns_choose_entries_and_the_folders_above_them(tmp_path: Path) -> None:
    pack_tree(make_tree(tmp_path / "tree"), tmp_path / "x.callic")
    entries = list(entries_of(tmp_path / "x.callic").values())

    def chosen(*patterns: str) -> list[str]:
        return [entry.path for entry in select(entries, patterns)]

    assert chosen("*.pgm") == ["tree", "tree/images", "tree/images/gray.pgm"]
    assert chosen("deeper") == ["tree", "tree/void", "tree/void/deeper"]
    assert len(chosen("images")) == 5
    assert len(chosen("tree/images/*.npy", "empty")) == 4
    assert len(chosen()) == len(entries)
    with pytest.raises(NoSuchEntry, match="nothing in the archive matches"):
        chosen("*.pgm", "*.jpg")
