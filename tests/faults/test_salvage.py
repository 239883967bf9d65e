"""What comes back of archives that lost their index, manifest, models or shards, or were never finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from callic_archive.archive import verbatim
from callic_archive.archive.entries import Entry
from callic_archive.archive.entry_record import Position, encode_entry
from callic_archive.archive.packer import Packer
from callic_archive.archive.reading import INDEX
from callic_archive.archive.salvaging import survey
from callic_archive.container.layout import RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.container.writer import ShardWriter
from tests.command import Ran, run, use_double
from tests.trees import make_tree, open_archive, pack_tree, smooth, snapshot, write_pnm


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts in records of their own, as larger ones have them."""
    monkeypatch.setattr("callic_archive.archive.shard_sink.INLINE", -1)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    tree = make_tree(tmp_path / "tree")
    os.link(tree / "notes.txt", tree / "again.txt")
    pack_tree(tree, tmp_path / "x.callic")
    return tmp_path / "x.callic"


def salvage(archive: Path, out: Path, *more: object) -> Ran:
    before = digests(archive)
    ran = run("salvage", archive, "-o", out, "--json", *more)
    assert digests(archive) == before, "salvage changed the archive"
    return ran


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


def entry(archive: Path, path: str) -> Entry:
    with open_archive(archive) as opened:
        return next(e for e in opened.entries if e.path == path)


def flip(archive: Path, shard: str, offset: int) -> None:
    path = archive / "data" / shard
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


def flip_part(archive: Path, found: Entry, number: int = 0) -> None:
    ref = found.parts[number].ref
    flip(archive, ref.shard, ref.offset + ref.length - 20)


def entry_records(archive: Path) -> dict[str, tuple[str, int, int]]:
    """Where each path's ENTRY record lies."""
    found = {}
    for shard in (archive / "data").glob("shard-*"):
        with ShardReader(shard) as reader:
            for item in reader.rebuild_index()[0]:
                if item.ref.type is RecordType.ENTRY:
                    found[item.key] = (item.ref.shard, item.ref.offset, item.ref.length)
    return found


@pytest.mark.parametrize(
    "lost", [(INDEX,), ("../manifest-sha256.txt", "../bagit.txt"), ("FORMAT.md",), (INDEX, "../bag-info.txt")]
)
def test_without_index_or_tag_files_everything_comes_back(
    archive: Path, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    for name in lost:
        (archive / "data" / name).unlink()
    ran = salvage(archive, tmp_path / "out")
    assert ran.code == 0
    assert ran.summary["complete"] is True
    assert ran.summary["lost_files"] == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    assert (tmp_path / "out/tree/again.txt").samefile(tmp_path / "out/tree/notes.txt")
    assert sorted(os.listdir(tmp_path / "out")) == ["tree"]


def test_half_an_index_is_completed_from_the_shards(archive: Path, tmp_path: Path) -> None:
    index = archive / "data" / INDEX
    index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])
    ran = salvage(archive, tmp_path / "out")
    assert ran.code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def test_lost_entry_records_are_replaced_by_the_index(outside: None, archive: Path, tmp_path: Path) -> None:
    for shard, offset, length in entry_records(archive).values():
        flip(archive, shard, offset + length - 20)
    ran = salvage(archive, tmp_path / "out")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    assert ran.code == 0
    assert len([e for e in ran.events if e["event"] == "damage"]) > 10


def test_a_damaged_file_is_lost_alone_and_the_report_says_so(archive: Path, tmp_path: Path) -> None:
    flip_part(archive, entry(archive, "tree/random.bin"))
    ran = salvage(archive, tmp_path / "out", "--report", tmp_path / "loss.json")
    assert ran.code == 3
    (lost,) = [e for e in ran.events if e["event"] == "lost"]
    assert (lost["path"], lost["code"], lost["source_bytes"]) == ("tree/random.bin", "E502", 5000)
    assert lost["missing"] == [[0, 5000]]
    assert lost["fragments"] == []
    whole = snapshot(tmp_path / "tree")
    del whole[b"random.bin"]
    assert snapshot(tmp_path / "out" / "tree") == whole
    document = json.loads((tmp_path / "loss.json").read_text())
    assert document["lost"][0]["path"] == "tree/random.bin"
    assert document["complete"] is False
    assert document["files"] == ran.summary["files"]
    assert document["damage"][0]["records_of"] == ["tree/random.bin"]
    text = run("salvage", archive, "-o", tmp_path / "again")
    assert text.code == 3
    assert "tree/random.bin" in text.err
    assert "1 path lost" in text.out


def test_what_is_whole_of_a_large_file_is_kept_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbatim, "CHUNK", 10_000)
    data = os.urandom(35_000)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "big").write_bytes(data)
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    monkeypatch.undo()
    use_double(monkeypatch)
    found = entry(tmp_path / "x.callic", "tree/big")
    assert len(found.parts) == 4
    flip_part(tmp_path / "x.callic", found, 1)
    ran = salvage(tmp_path / "x.callic", tmp_path / "out")
    assert ran.code == 3
    (lost,) = [e for e in ran.events if e["event"] == "lost"]
    assert lost["missing"] == [[10_000, 10_000]]
    assert lost["fragment_bytes"] == 25_000
    fragment = (tmp_path / "out" / "callic-fragments" / "tree" / "big").read_bytes()
    assert fragment == data[:10_000] + bytes(10_000) + data[20_000:]
    assert not (tmp_path / "out" / "tree" / "big").exists()


def test_whole_images_of_a_damaged_file_are_kept(tmp_path: Path, outside: None) -> None:
    images = [smooth(40, 50, seed=n) for n in range(3)]
    raw = b"".join(b"P5\n50 40\n255\n" + image.tobytes() for image in images)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "three.pgm").write_bytes(raw)
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    found = entry(tmp_path / "x.callic", "tree/three.pgm")
    streams = [number for number, part in enumerate(found.parts) if part.stream is not None]
    assert len(streams) == 3
    flip_part(tmp_path / "x.callic", found, streams[1])
    ran = salvage(tmp_path / "x.callic", tmp_path / "out")
    assert ran.code == 3
    kept = sorted((tmp_path / "out" / "callic-fragments" / "tree").iterdir())
    names = ["three.pgm.image-0.npy", "three.pgm.image-2.npy", "three.pgm.surround"]
    assert [path.name for path in kept] == names
    assert kept[2].read_bytes() == 3 * b"P5\n50 40\n255\n"
    assert np.array_equal(np.load(kept[1]), images[2])


def test_a_lost_shard_costs_what_lay_in_it(tmp_path: Path) -> None:
    for number in range(8):
        write_pnm(tmp_path / "tree" / f"{number}.pgm", smooth(80, 80, seed=number))
    pack_tree(tmp_path / "tree", tmp_path / "x.callic", shard_bytes=4000)
    archive = tmp_path / "x.callic"
    with open_archive(archive) as opened:
        gone = sorted((archive / "data").glob("shard-*.cla"))[1].name
        lost = {e.path for e in opened.entries if any(p.ref.shard == gone for p in e.parts)}
    assert 0 < len(lost) < 8
    (archive / "data" / gone).unlink()
    ran = salvage(archive, tmp_path / "out")
    assert ran.code == 3
    assert {e["path"] for e in ran.events if e["event"] == "lost"} == lost
    assert ran.summary["files"] == 8 - len(lost)
    # without the index nobody knows the names, nor how many there were
    (archive / "data" / INDEX).unlink()
    ran = salvage(archive, tmp_path / "out2")
    assert ran.summary["files"] == 8 - len(lost)
    assert ran.summary["lost_entries_without_name"] is None


def test_the_number_of_lost_names_is_known_from_the_head_of_the_index(archive: Path, tmp_path: Path) -> None:
    from callic_archive.container.index import read_index, write_index

    rows = list(read_index(archive / "data" / INDEX))
    write_index(archive / "data" / INDEX, rows[:5])
    with (archive / "data" / INDEX).open("ab") as file:
        file.write(b"no frame")
    shard, offset, length = entry_records(archive)["tree/script"]
    flip(archive, shard, offset + length - 20)
    ran = salvage(archive, tmp_path / "out")
    assert ran.code == 3
    assert ran.summary["lost_entries_without_name"] == 1


@pytest.mark.parametrize("with_index", [True, False])
def test_a_damaged_shard_header_costs_nothing_while_its_end_tells_the_id(
    archive: Path, tmp_path: Path, with_index: bool
) -> None:
    if not with_index:
        (archive / "data" / INDEX).unlink()
    flip(archive, "shard-00000.cla", 12)
    ran = salvage(archive, tmp_path / "out")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    assert ran.code == (0 if with_index else 3)


def test_an_unfinished_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_tree(tmp_path / "tree")
    real = Packer._file
    count = 0

    def cut(self: Packer, *arguments: object) -> object:
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Packer, "_file", cut)
    with pytest.raises(KeyboardInterrupt):
        pack_tree(tree, tmp_path / "x.callic")
    monkeypatch.undo()
    use_double(monkeypatch)
    partial = tmp_path / "x.callic.partial"
    for shard in (partial / "data").glob("*.partial"):
        with shard.open("ab") as file:
            file.write(b"half a record")
    ran = salvage(partial, tmp_path / "out")
    assert ran.code == 3
    assert (ran.summary["unfinished"], ran.summary["files"]) == (True, 5)
    assert ran.summary["links"] == 3
    done = snapshot(tmp_path / "out" / "tree")
    assert len([v for v in done.values() if isinstance(v[3], bytes) and v[1]]) == 5
    assert {k: v for k, v in snapshot(tree).items() if k in done} == done
    # by the name that the archive was to have, too
    assert run("salvage", tmp_path / "x.callic", "-o", tmp_path / "more").code == 3
    assert snapshot(tmp_path / "more" / "tree") == done
    # and the run can still be completed
    assert run("pack", tree, "-o", tmp_path / "x.callic").code == 0


def test_what_a_whole_index_does_not_list_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: None
) -> None:
    tree = make_tree(tmp_path / "tree")
    real, packed = Packer._file, []

    def cut(self: Packer, source: object, *arguments: object) -> object:
        if len(packed) == 5:
            raise KeyboardInterrupt
        packed.append(source.file)  # type: ignore[attr-defined]
        return real(self, source, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Packer, "_file", cut)
        with pytest.raises(KeyboardInterrupt):
            pack_tree(tree, tmp_path / "x.callic")
    full = [Path(path) for path in packed if Path(path).stat().st_size > 1]
    full[0].unlink()
    full[1].write_bytes(b"other words")
    pack_tree(tree, tmp_path / "x.callic")
    gone = str(full[0].relative_to(tmp_path))
    ran = salvage(tmp_path / "x.callic", tmp_path / "out")
    assert (ran.code, ran.summary["complete"], ran.summary["unlisted_entries"]) == (0, True, 1)
    assert not (tmp_path / "out" / "callic-fragments").exists()
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    # of a damaged file no earlier content passes for it
    changed = str(full[1].relative_to(tmp_path))
    flip_part(tmp_path / "x.callic", entry(tmp_path / "x.callic", changed))
    ran = salvage(tmp_path / "x.callic", tmp_path / "more")
    assert ran.code == 3
    assert [e["path"] for e in ran.events if e["event"] == "lost"] == [changed]
    assert not (tmp_path / "more" / changed).exists()
    # without the index it is all that is left of that
    (tmp_path / "x.callic" / "data" / INDEX).unlink()
    ran = salvage(tmp_path / "x.callic", tmp_path / "all")
    assert (tmp_path / "all" / gone).exists()
    assert ran.summary["unlisted_entries"] == 0


def test_content_without_any_entry_comes_back_as_fragments(tmp_path: Path, outside: None) -> None:
    text = b"some words " * 900
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "words").write_bytes(text)
    write_pnm(tmp_path / "tree" / "a.pgm", smooth(40, 40))
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    archive = tmp_path / "x.callic"
    (archive / "data" / INDEX).unlink()
    records = entry_records(archive)
    for path in ("tree/words", "tree/a.pgm"):
        shard, offset, length = records[path]
        flip(archive, shard, offset + length - 20)
    ran = salvage(archive, tmp_path / "out")
    assert ran.code == 3
    fragments = {e["path"]: e["fragment"] for e in ran.events if e["event"] == "fragment"}
    assert (tmp_path / "out" / fragments["tree/words"]).read_bytes() == text
    image = next(p for p in (tmp_path / "out" / "callic-fragments").rglob("*.npy"))
    assert np.array_equal(np.load(image), smooth(40, 40))


def test_keys_that_leave_the_destination_lead_nowhere(tmp_path: Path) -> None:
    data = tmp_path / "x.callic" / "data"
    data.mkdir(parents=True)
    with ShardWriter(data / "shard-00000.cla", shard_id=b"0123456789abcdef") as writer:
        for key in ("../../evil", "/evil", "a/../../../evil", "fine"):
            writer.append(RecordType.STORED, b"payload", key=key)
        evil = Entry("../evil", "symlink", 0, 0, target="x")
        at = Position(writer.name, writer.size, writer.record_count)
        writer.append(RecordType.ENTRY, encode_entry(evil, [], at)[0], key="../evil")
        writer.seal()
    ran = salvage(tmp_path / "x.callic", tmp_path / "deep" / "out")
    assert ran.code == 3
    assert [e["fragment"] for e in ran.events if e["event"] == "fragment"] == [
        "callic-fragments/fine.record-3"
    ]
    assert not list(tmp_path.rglob("evil*"))
    assert sorted(os.listdir(tmp_path)) == ["deep", "x.callic"]


@pytest.mark.parametrize("index", ["there", "lost"])
def test_what_is_left_becomes_a_new_archive(archive: Path, tmp_path: Path, index: str) -> None:
    if index == "lost":
        (archive / "data" / INDEX).unlink()
    else:
        flip_part(archive, entry(archive, "tree/random.bin"))
    ran = salvage(archive, tmp_path / "new.callic")
    assert ran.code == (0 if index == "lost" else 3)
    assert run("verify", tmp_path / "new.callic").code == 0
    assert run("unpack", tmp_path / "new.callic", "-o", tmp_path / "out").code == 0
    whole = snapshot(tmp_path / "tree")
    if index == "there":
        del whole[b"random.bin"]
    assert snapshot(tmp_path / "out" / "tree") == whole
    assert (tmp_path / "out/tree/again.txt").samefile(tmp_path / "out/tree/notes.txt")
    with open_archive(tmp_path / "new.callic") as new, open_archive(archive) as old:
        assert new.header is not None
        assert new.header.settings["salvaged"] is True
        assert sum(p.stat().st_size for p in new.shards()) <= sum(p.stat().st_size for p in old.shards())
    assert run("salvage", archive, "-o", tmp_path / "new.callic").code == 2
    # what was made is there without its index, too: nothing hangs on the index alone
    (tmp_path / "new.callic" / "data" / INDEX).unlink()
    assert run("salvage", tmp_path / "new.callic", "-o", tmp_path / "again").code == 0
    assert snapshot(tmp_path / "again" / "tree") == whole


def test_a_new_archive_that_cannot_be_written_leaves_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("callic_archive.container.writer.ShardWriter.append", full)
        assert run("salvage", archive, "-o", tmp_path / "new.callic").code == 4
    assert not list(tmp_path.glob("new.callic*"))


def test_nothing_to_salvage(tmp_path: Path) -> None:
    assert run("salvage", tmp_path / "none", "-o", tmp_path / "out").code == 2
    (tmp_path / "other").mkdir()
    ran = run("salvage", tmp_path / "other", "-o", tmp_path / "out")
    assert ran.code == 3
    assert "E501" in ran.err
    (tmp_path / "other" / "data").mkdir()
    (tmp_path / "other" / "data" / "shard-00000.cla").write_bytes(b"rubbish" * 1000)
    ran = salvage(tmp_path / "other", tmp_path / "out")
    assert ran.code == 3
    assert ran.summary["files"] == 0


def test_existing_files_are_not_replaced(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "tree").mkdir(parents=True)
    (tmp_path / "out" / "tree" / "notes.txt").write_text("mine")
    ran = salvage(archive, tmp_path / "out")
    assert ran.code == 2
    assert (tmp_path / "out" / "tree" / "notes.txt").read_text() == "mine"


def test_redacted_reports_hold_no_path(archive: Path, tmp_path: Path) -> None:
    flip_part(archive, entry(archive, "tree/random.bin"))
    ran = salvage(archive, tmp_path / "out", "--report", tmp_path / "loss.json", "--redact-paths")
    assert ran.code == 3
    for text in (ran.out, ran.err, (tmp_path / "loss.json").read_text()):
        assert "random" not in text
        assert str(tmp_path) not in text


def test_links_whose_first_name_is_lost_come_back_on_their_own(
    outside: None, archive: Path, tmp_path: Path
) -> None:
    records = entry_records(archive)
    (archive / "data" / INDEX).unlink()
    shard, offset, length = records["tree/again.txt"]
    flip(archive, shard, offset + length - 20)
    found = survey(archive)
    assert "tree/again.txt" not in {e.path for e in found.contents.entries}
    ran = salvage(archive, tmp_path / "out")
    assert ran.code == 3
    assert (tmp_path / "out/tree/notes.txt").read_text() == "words " * 200


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_without_its_models_an_archive_of_this_programs_models_comes_back(
    tmp_path: Path, real: None, how: str
) -> None:
    write_pnm(tmp_path / "tree" / "a.pgm", smooth(200, 200))
    assert run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--learned", "always").code == 0
    assert entry(tmp_path / "x.callic", "tree/a.pgm").method == "image"
    models = tmp_path / "x.callic" / "data" / "models"
    if how == "missing":
        shutil.rmtree(models)
    else:
        for model in models.iterdir():
            model.write_bytes(model.read_bytes()[:1000])
    ran = salvage(tmp_path / "x.callic", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    assert salvage(tmp_path / "x.callic", tmp_path / "new.callic").code == 0
    assert run("verify", tmp_path / "new.callic").code == 0
    assert list((tmp_path / "new.callic" / "data" / "models").iterdir())


@pytest.mark.slow
def test_a_damaged_model_costs_its_own_images_alone(
    tmp_path: Path, real: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from callic_archive.model.weights import ModelSet

    write_pnm(tmp_path / "tree" / "a.pgm", smooth(160, 160))
    write_pnm(tmp_path / "tree" / "c.ppm", smooth(120, 120, 3))
    words = ["--adapt", "none", "--learned", "always"]
    assert run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", *words).code == 0
    colour = entry(tmp_path / "x.callic", "tree/c.ppm").models()
    assert colour
    assert not colour & entry(tmp_path / "x.callic", "tree/a.pgm").models()
    (damaged,) = (p for p in (tmp_path / "x.callic/data/models").iterdir() if p.name[:64] in colour)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    # the model ships, so nothing is lost; the damage is told once
    ran = run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out", "--json")
    assert (ran.code, [e["code"] for e in ran.events if e["event"] == "problem"]) == (3, ["E302"])
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    ran = run("verify", tmp_path / "x.callic", "--json")
    assert ran.code == 3
    assert [e["path"] for e in ran.events if e["event"] == "problem" and e["code"] == "E434"] == [
        f"data/models/{damaged.name}"
    ]
    # where it does not, the other model's images come back
    left = [model for model in ModelSet.default() if model.digest not in colour]
    monkeypatch.setattr(ModelSet, "default", classmethod(lambda cls: left))
    ran = run("unpack", tmp_path / "x.callic", "-o", tmp_path / "some", "--json")
    assert ran.code == 3
    told, problem = [e for e in ran.events if e["event"] == "problem"]
    assert (told["path"], told["code"]) == (f"data/models/{damaged.name}", "E302")
    assert (problem["path"], problem["code"]) == ("tree/c.ppm", "E301")
    assert (tmp_path / "some/tree/a.pgm").read_bytes() == (tmp_path / "tree/a.pgm").read_bytes()
