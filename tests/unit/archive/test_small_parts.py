"""Parts inside ENTRY records, differences and foreign codings, in trees with links, holes, zarr chunks and damage."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image as Pillow

from callic_archive import OpenArchive, zarr_store
from callic_archive.archive import image_coding, isolated
from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.entries import Entry
from callic_archive.archive.fragments import of_orphans
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.parts import Part
from callic_archive.archive.reading import INDEX
from callic_archive.archive.regathering import regather
from callic_archive.archive.salvaging import _recognise, survey
from callic_archive.container.extraction import ExtractionRoot
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.read import unpack, verify
from tests.doubles import DeflatePlan
from tests.trees import open_archive, pack_tree, smooth, snapshot, write_pnm

ALL = PackOptions()  # every coding
NOISE = np.random.default_rng(5).integers(97, 123, 9000, np.uint8).tobytes()


@pytest.fixture(autouse=True)
def _end_child() -> Any:
    pytest.importorskip("imagecodecs", reason="JPEG XL needs imagecodecs")
    yield
    isolated.stop()


def drawing(height: int = 120, width: int = 200) -> np.ndarray:
    image = np.full((height, width, 3), 240, np.uint8)
    image[10:60, 20:90] = (30, 90, 200)
    image[70:, 100:] = np.random.default_rng(3).integers(0, 2, (height - 70, width - 100, 1)) * 200
    return image


def comes_back(archive: Path, tree: Path, out: Path) -> dict[str, Entry]:
    """Unpack and verify all; the entries."""
    how: dict[str, Any] = {
        "plan": DeflatePlan(), "resources": Resources(workers=1), "tick": lambda running, workers: None,
    }  # fmt: skip
    problems: list[object] = []

    def watch(done: Any) -> None:
        if done.problem is not None:
            problems.append(done.problem)

    with open_archive(archive) as found:
        problems += unpack(found, found.entries, out, overwrite=False, watch=watch, **how)
        verify(found, found.entries, full=True, watch=watch, **how)
        entries = {entry.path: entry for entry in found.entries}
    assert problems == []
    assert snapshot(out / tree.name) == snapshot(tree)
    return entries


def flip(archive: Path, ref: RecordRef) -> None:
    shard = archive / "data" / ref.shard
    data = bytearray(shard.read_bytes())
    data[ref.offset + ref.length - 20] ^= 1
    shard.write_bytes(data)


def inline(entry: Entry) -> bool:
    return all(part.ref.type is RecordType.ENTRY for part in entry.parts) and bool(entry.parts)


# -- links and holes -----------------------------------------------------------------------------------------


def linked(tree: Path) -> Path:
    (tree / "b").mkdir(parents=True)
    Pillow.fromarray(smooth(48, 48, 3)).save(tree / "icon.png")
    os.link(tree / "icon.png", tree / "b" / "same.png")
    (tree / "b" / "copy.png").write_bytes((tree / "icon.png").read_bytes())
    return tree


@pytest.mark.parametrize("index", [True, False])
def test_names_of_a_small_image_share_its_record(tmp_path: Path, index: bool) -> None:
    tree = linked(tmp_path / "tree")
    pack_tree(tree, tmp_path / "x.callic", options=ALL)
    if not index:
        (tmp_path / "x.callic" / "data" / INDEX).unlink()
    entries = comes_back(tmp_path / "x.callic", tree, tmp_path / "out")
    names = [entries[f"tree/{name}"] for name in ("icon.png", "b/same.png", "b/copy.png")]
    assert [entry.method for entry in names] == ["image"] * 3
    assert all(inline(entry) for entry in names)
    assert len({entry.parts for entry in names}) == 1
    assert [entry.link for entry in names].count(None) == 2
    assert (tmp_path / "out/tree/icon.png").samefile(tmp_path / "out/tree/b/same.png")
    assert not (tmp_path / "out/tree/icon.png").samefile(tmp_path / "out/tree/b/copy.png")


def test_salvaged_names_share_their_record_again(tmp_path: Path) -> None:
    tree = linked(tmp_path / "tree")
    pack_tree(tree, tmp_path / "x.callic", options=ALL)
    (tmp_path / "x.callic" / "data" / INDEX).unlink()
    found = survey(tmp_path / "x.callic")
    assert (found.damaged, found.orphans) == ([], [])
    with open_archive(tmp_path / "x.callic") as archive:
        regather(archive, found.contents.entries, tmp_path / "new.callic")
    entries = comes_back(tmp_path / "new.callic", tree, tmp_path / "out")
    assert len({entry.parts for entry in entries.values() if entry.kind == "file"}) == 1
    assert (tmp_path / "out/tree/icon.png").samefile(tmp_path / "out/tree/b/same.png")


@pytest.mark.parametrize("index", [True, False])
def test_a_sparse_file_beside_small_ones(tmp_path: Path, index: bool) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with (tree / "disk").open("wb") as file:
        file.truncate(1 << 24)
        file.seek(1 << 20)
        file.write(b"few")
    if (tree / "disk").stat().st_blocks * 512 > 1 << 20:
        pytest.skip("the file system of the temporary folder has no sparse files")
    (tree / "note").write_text("a note")
    pack_tree(tree, tmp_path / "x.callic", options=ALL)
    if not index:
        (tmp_path / "x.callic" / "data" / INDEX).unlink()
    entries = comes_back(tmp_path / "x.callic", tree, tmp_path / "out")
    disk = entries["tree/disk"]
    assert (disk.method, inline(disk), inline(entries["tree/note"])) == ("sparse", True, True)
    assert disk.extents is not None
    assert sum(length for _, length in disk.extents) < 1 << 17
    assert (tmp_path / "out/tree/disk").stat().st_blocks * 512 < 1 << 20
    with open_archive(tmp_path / "x.callic") as archive:
        regather(archive, archive.entries, tmp_path / "new.callic")
    assert comes_back(tmp_path / "new.callic", tree, tmp_path / "more")["tree/disk"].extents == disk.extents


# -- salvage -------------------------------------------------------------------------------------------------


def similar(tree: Path, count: int = 30) -> Path:
    tree.mkdir()
    for number in range(count):
        (tree / f"s{number:02}.json").write_bytes(b'{"slice": %d}' % number + NOISE)
    write_pnm(tree / "drawing.ppm", drawing())
    (tree / "tiny").write_text("tiny")
    return tree


@pytest.mark.parametrize("index", [True, False])
def test_a_salvaged_archive_is_complete_in_itself(tmp_path: Path, index: bool) -> None:
    tree = similar(tmp_path / "tree")
    pack_tree(tree, tmp_path / "x.callic", options=ALL)
    if not index:
        (tmp_path / "x.callic" / "data" / INDEX).unlink()
    found = survey(tmp_path / "x.callic")
    assert (found.damaged, found.orphans) == ([], [])
    first = next(e for e in found.contents.entries if e.parts and e.path.endswith("00.json"))
    base = next(p.base for e in found.contents.entries for p in e.parts if p.base is not None)
    assert base.places[0].ref == first.parts[0].ref
    rest = [entry for entry in found.contents.entries if entry.path != first.path]
    with open_archive(tmp_path / "x.callic") as archive:
        regather(archive, rest, tmp_path / "new.callic")
    (tree / "s00.json").unlink()
    os.utime(tree, ns=(1, next(e.mtime_ns for e in rest if e.path == "tree")))
    entries = comes_back(tmp_path / "new.callic", tree, tmp_path / "out")
    assert sum(part.base is not None for e in entries.values() for part in e.parts) == 28
    (tmp_path / "new.callic" / "data" / INDEX).unlink()
    comes_back(tmp_path / "new.callic", tree, tmp_path / "again")


def test_a_damaged_base_costs_what_has_no_other(tmp_path: Path) -> None:
    tree = similar(tmp_path / "tree")
    pack_tree(tree, tmp_path / "x.callic", options=ALL)
    with open_archive(tmp_path / "x.callic") as archive:
        first = next(entry for entry in archive.entries if entry.path.endswith("00.json"))
    flip(tmp_path / "x.callic", first.parts[0].ref)
    found = survey(tmp_path / "x.callic")
    assert [entry.path for entry in found.damaged] == [f"tree/s{number:02}.json" for number in range(9)]
    assert found.orphans == []
    with open_archive(tmp_path / "x.callic") as archive:
        regather(archive, found.contents.entries, tmp_path / "new.callic")
    for number in range(9):
        (tree / f"s{number:02}.json").unlink()
    os.utime(tree, ns=(1, next(e.mtime_ns for e in found.contents.entries if e.path == "tree")))
    comes_back(tmp_path / "new.callic", tree, tmp_path / "out")


def test_names_of_one_file_agree_though_one_record_is_short() -> None:
    digest = "ab" * 32
    ref = RecordRef("shard-00000.cla", 32, 99, RecordType.CODESTREAM, 0)
    stream = StreamInfo((2, 2), "uint8", "range", (digest,), (), 0)
    whole = Entry("a", "file", 0o644, 1, method="image", parts=(Part(ref, "codestream", 4, stream),))
    short = replace(whole, parts=(replace(whole.parts[0], stream=replace(stream, models=(digest[:16],))),))
    found = {"b": [replace(short, path="b", link="a")]}
    _recognise({"a": whole}, found, set())
    assert found["b"] == [replace(whole, path="b", link="a")]


# -- regions -------------------------------------------------------------------------------------------------


def test_regions_of_images_that_are_no_codestreams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    images = {
        "drawing": drawing(300, 400),
        "gray": drawing(300, 400)[:, :, 0],
        "photograph": smooth(200, 300),
    }
    monkeypatch.setattr("callic_archive.archive.candidates.NEAR", 0)  # what stands for a model here is none
    labels = np.add.outer(np.arange(200) // 9, np.arange(180) // 7).astype(np.int32) * 3
    floats = np.random.default_rng(1).normal(size=(40, 50)).astype(np.float32)
    for name, image in images.items():
        write_pnm(tree / f"{name}.pnm", image)
    np.save(tree / "labels.npy", labels)
    np.save(tree / "ramp.npy", np.sort(floats, axis=1))
    images |= {"labels": labels, "ramp": np.sort(floats, axis=1)}
    pack_tree(tree, tmp_path / "x.callic", options=ALL)
    codings = {}
    with OpenArchive(tmp_path / "x.callic", plan=DeflatePlan()) as archive:
        for name, image in images.items():
            path = f"tree/{name}.{'npy' if image.itemsize == 4 else 'pnm'}"
            found = archive.read_array(path, 0, (10, 20, 33, 41))
            assert found.dtype == image.dtype
            assert np.array_equal(found, image[10:33, 20:41])
            assert found.flags.c_contiguous
            assert found.base is None or found.base.nbytes <= found.nbytes
            assert np.array_equal(archive.read_array(path), image)
            if archive[path].method == "image":
                codings[name] = next(part.coding for part in archive[path].parts if part.stream)
    assert codings["photograph"] == "codestream"
    assert codings["drawing"] == "jpegxl"
    assert codings["labels"] != "codestream"


def test_drawn_zarr_chunks(tmp_path: Path) -> None:
    tree = tmp_path / "store.zarr"
    array = zarr.create_array(
        tree, shape=(300, 400), chunks=(150, 200), dtype="u1", compressors=None, zarr_format=2
    )
    array[:] = drawing(300, 400)[:, :, 0]
    pack_tree(tree, tmp_path / "x.callic", options=ALL)
    entries = comes_back(tmp_path / "x.callic", tree, tmp_path / "out")
    chunks = [entry for entry in entries.values() if entry.format == "zarr"]
    codings = {part.coding for entry in chunks for part in entry.parts if part.stream is not None}
    assert codings
    assert codings <= {"jpegxl", "samples"}
    with OpenArchive(tmp_path / "x.callic", plan=DeflatePlan()) as archive:
        found: Any = zarr.open(zarr_store(archive, "store.zarr"), mode="r")
        assert np.array_equal(found[...], array[...])
        for entry in chunks:
            whole = archive.read_array(entry.path)
            assert np.array_equal(archive.read_array(entry.path, 0, (5, 6, 70, 80)), whole[5:70, 6:80])


def test_an_image_without_its_entry_comes_back_as_the_file_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callic_archive.archive.shard_sink.INLINE", -1)
    write_pnm(tmp_path / "tree" / "drawing.ppm", drawing(300, 400))
    pack_tree(tmp_path / "tree", tmp_path / "x.callic", options=ALL)
    (tmp_path / "x.callic" / "data" / INDEX).unlink()
    for shard in (tmp_path / "x.callic" / "data").glob("shard-*"):
        with ShardReader(shard) as reader:
            records = reader.rebuild_index()[0]
        for record in records:
            if record.ref.type is RecordType.ENTRY and record.key == "tree/drawing.ppm":
                flip(tmp_path / "x.callic", record.ref)
    found = survey(tmp_path / "x.callic")
    with open_archive(tmp_path / "x.callic") as archive, ExtractionRoot(tmp_path / "out") as root:
        fragments = dict.fromkeys(path for _, path in of_orphans(archive, found.orphans, root))
    (name,) = (path for path in fragments if path.endswith(".jxl"))
    image = image_coding.decode_foreign(
        (tmp_path / "out" / name).read_bytes(), "jpegxl", (300, 400, 3), "uint8"
    )
    assert np.array_equal(image, drawing(300, 400))
