"""Files that are bands of one scene: found, coded as one image, and each of them brought back by itself."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from callic_archive.access.archive import OpenArchive
from callic_archive.archive import band_sets, pack_bands
from callic_archive.archive.band_sets import MOST_BANDS, band_candidates
from callic_archive.archive.entries import Entry
from callic_archive.archive.likeness import as_scenes, clusters
from callic_archive.archive.packer import Batch
from callic_archive.archive.reading import Archive
from callic_archive.archive.recovery import recover_shards
from callic_archive.archive.scan import Source, scan
from callic_archive.container.bag import validate_bag
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.errors import EntryDamaged
from callic_archive.images.geometry import Geometry, geometry
from callic_archive.scheduling.plan import halves
from tests.command import finish, run, start, use_double
from tests.doubles import DeflatePlan
from tests.trees import snapshot, write_pnm

SIDE = 130


def scene(count: int, height: int = SIDE, width: int = SIDE + 7, seed: int = 0, dtype: str = "uint16") -> np.ndarray:
    """Bands (C, H, W) that share their detail, as recorded by a sensor."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    common = 2 * random.normal(size=(height, width)) + 3 * rows + 5 * columns
    bands = [(c + 2) * common + 0.3 * random.normal(size=(height, width)) for c in range(count)]
    if dtype == "uint8":
        bands = [band * (250 / np.ptp(band)) for band in bands]
    least = 0 if dtype.startswith("u") else -3000
    return np.stack([(band - band.min() + least).astype(dtype) for band in bands])


def write_scene(folder: Path, bands: np.ndarray, **options: Any) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, band in enumerate(bands, 1):
        paths.append(folder / f"LC08_B{number}.tif")
        tifffile.imwrite(paths[-1], band, metadata=None, rowsperstrip=64, **options)
    return paths


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch, joins=True)


def pack(tree: Path, archive: Path, *words: object) -> list[Entry]:
    packed = run("pack", tree, "-o", archive, "--json", "--workers", "1", *words)
    assert packed.code == 0, packed.err
    with Archive(archive) as opened:
        return opened.entries


def planes(entries: list[Entry]) -> dict[str, tuple[int, int] | None]:
    """Of each image file the plane that its first image is."""
    return {
        entry.path.rsplit("/", 1)[-1]: next(p.stream.plane for p in entry.parts if p.stream is not None)
        for entry in entries
        if entry.is_image
    }


# -- finding them ------------------------------------------------------------------------------------------------


def geometry_of(path: Path) -> Geometry | None:
    data = path.read_bytes()
    return geometry(lambda offset, size: data[offset : offset + size])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "deflate"}])
def test_the_geometry_of_a_tiff_is_told_by_its_directory(
    dtype: str, options: dict[str, Any], tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((21, 34), dtype), **options)
    assert geometry_of(tmp_path / "a.tif") == Geometry(21, 34, dtype)


def test_the_geometry_of_other_files_of_one_plane(tmp_path: Path) -> None:
    gray = np.arange(600, dtype=np.uint16).reshape(20, 30)
    Pillow.fromarray(gray).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", gray.astype(np.int16))
    write_pnm(tmp_path / "a.pgm", gray.astype(np.uint8))
    assert geometry_of(tmp_path / "a.png") == Geometry(20, 30, "uint16")
    assert geometry_of(tmp_path / "a.npy") == Geometry(20, 30, "int16")
    assert geometry_of(tmp_path / "a.pgm") == Geometry(20, 30, "uint8")


def test_files_of_several_planes_and_broken_ones_have_no_geometry(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((21, 34, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((21, 34), np.float32))
    Pillow.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "rgb.png")
    np.save(tmp_path / "volume.npy", np.zeros((3, 4, 5), np.uint8))
    for path in sorted(tmp_path.iterdir()):
        assert geometry_of(path) is None, path
    whole = (tmp_path / "rgb.tif").read_bytes()
    for size in range(0, len(whole), 7):
        cut = whole[:size]
        assert geometry(lambda offset, most, cut=cut: cut[offset : offset + most]) is None
    far = b"II*\0\xff\xff\xff\xff" + bytes(100)
    assert geometry(lambda offset, most: far[offset : offset + most]) is None
    assert geometry(lambda offset, most: b"\x93NUMPY\1\0\xff\xffno header" + bytes(4000)) is None


def sources_of(tree: Path) -> list[Source]:
    return [source for source in scan([str(tree)]).sources if source.kind == "file"]


def test_candidates_lie_in_one_folder_and_have_one_size(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_scene(tree / "a", scene(3))
    write_scene(tree / "b", scene(2, height=SIDE + 1))
    tifffile.imwrite(tree / "a" / "LC08_B8.tif", scene(1, 2 * SIDE)[0])
    tifffile.imwrite(tree / "a" / "LC08_QA.tif", scene(1)[0].astype(np.uint8))
    (tree / "a" / "LC08_MTL.txt").write_text("GROUP = L1_METADATA_FILE")
    names = [[s.path.removeprefix("tree/") for s in some] for some in band_candidates(sources_of(tree))]
    assert names == [[f"a/LC08_B{n}.tif" for n in (1, 2, 3)], [f"b/LC08_B{n}.tif" for n in (1, 2)]]


def test_too_many_candidates_part_where_their_names_do(tmp_path: Path) -> None:
    for day, count in (("20200101", 11), ("20200117", 9), ("20210101", 2)):
        for band in range(count):
            path = tmp_path / "tree" / f"T32_{day}_B{band:02}.npy"
            path.parent.mkdir(exist_ok=True)
            np.save(path, np.zeros((100, 100), np.uint16))
    found = band_candidates(sources_of(tmp_path / "tree"))
    assert sorted(len(some) for some in found) == [2, 9, 11]
    assert all(len({source.path.split("_")[1] for source in some}) == 1 for some in found)
    assert MOST_BANDS >= 11


def test_large_bands_are_joined_with_their_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(band_sets, "MOST_BYTES", 2 * 20_000)
    (tmp_path / "tree").mkdir()
    for band in (1, 2, 3, 4, 10, 11):
        np.save(tmp_path / "tree" / f"LC08_B{band}.npy", np.zeros((100, 100), np.uint16))
    found = band_candidates(sources_of(tmp_path / "tree"))
    names = {tuple(int(s.path.split("B")[1][:-4]) for s in some) for some in found}
    assert names == {(1, 2), (3, 4), (10, 11)}
    monkeypatch.setattr(band_sets, "MOST_BYTES", 20_000)
    assert band_candidates(sources_of(tmp_path / "tree")) == []


def test_related_images_are_told_by_their_correlations() -> None:
    near = np.eye(6)
    for a, b, value in ((0, 2, 0.9), (2, 4, 0.8), (1, 4, 0.3), (3, 5, 0.6), (3, 0, 0.05)):
        near[a, b] = near[b, a] = value
    assert clusters(near) == [[0, 1, 2, 4]]
    assert clusters(np.eye(3)) == []
    assert clusters(np.zeros((0, 0))) == []


# -- there and back ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"compression": "lzw"}])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_bands_share_one_record_and_come_back(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_scene(tree, scene(3, dtype=dtype), **options)
    (tree / "notes.txt").write_text("of the scene")
    shutil.copy(tree / "LC08_B2.tif", tree / "copy.tif")
    entries = pack(tree, tmp_path / "x.callic")
    found = planes(entries)
    together = {"LC08_B1.tif": (0, 2), "LC08_B3.tif": (1, 2)}
    assert found == {**together, "LC08_B2.tif": None, "copy.tif": None}, "equal files share more"
    (tree / "copy.tif").unlink()
    entries = pack(tree, tmp_path / "y.callic")
    assert planes(entries) == {f"LC08_B{n}.tif": (n - 1, 3) for n in (1, 2, 3)}
    files = [entry for entry in entries if entry.is_image]
    refs = {part.ref for entry in files for part in entry.parts if part.stream is not None}
    assert len(refs) == 1
    (ref,) = refs
    image = [sum(p.stored for p in entry.parts if p.stream is not None) for entry in files]
    assert sum(image) == ref.length
    listed = run("list", tmp_path / "y.callic", "--json")
    shown = [event for event in listed.events if event.get("kind") == "tiff"]
    assert [event["images"] for event in shown] == 3 * [[[SIDE, SIDE + 7]]]
    info = next(e for e in run("info", tmp_path / "y.callic", "--json").events if e["event"] == "archive")
    assert info["bands"] == {"files": 3, "codestreams": 1}
    assert "3 files that share 1 codestream" in run("info", tmp_path / "y.callic").out
    held = sum(entry.packed_size for entry in files)
    assert info["bits_per_sample"] == pytest.approx(8 * held / (3 * SIDE * (SIDE + 7)), abs=1e-4)
    for words in ((), ("--quick",)):
        verified = run("verify", tmp_path / "y.callic", *words)
        assert verified.code == 0, verified.err
    assert run("diff", tmp_path / "y.callic", tmp_path).code == 0
    assert run("unpack", tmp_path / "y.callic", "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    one = run("unpack", tmp_path / "y.callic", "*B2*", "-o", tmp_path / "one")
    assert one.code == 0, one.err
    assert (tmp_path / "one/tree/LC08_B2.tif").read_bytes() == (tree / "LC08_B2.tif").read_bytes()


@pytest.mark.usefixtures("joined")
def test_an_index_made_again_from_the_shards_knows_the_planes(tmp_path: Path) -> None:
    write_scene(tmp_path / "tree", scene(4))
    entries = pack(tmp_path / "tree", tmp_path / "x.callic")
    (tmp_path / "x.callic/data/index.jsonl.zst").unlink()
    with Archive(tmp_path / "x.callic") as opened:
        assert opened.entries == entries
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 3, "it says that the index is lost"
    for path in (tmp_path / "tree").iterdir():
        assert (tmp_path / "out/tree" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("joined")
def test_overviews_are_joined_as_their_bands_are(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    for number, band in enumerate(scene(3, 256, 256), 1):
        with tifffile.TiffWriter(folder / f"B{number}.tif") as out:
            out.write(band, metadata=None, tile=(64, 64))
            out.write(band[::2, ::2], metadata=None, subfiletype=1)
    entries = pack(folder, tmp_path / "x.callic")
    streams = [[p.stream.plane for p in e.parts if p.stream is not None] for e in entries if e.is_image]
    assert streams == [[(n, 3), (n, 3)] for n in range(3)]
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0
    with OpenArchive(tmp_path / "x.callic", plan=DeflatePlan()) as archive:
        overview = archive.read_array("tree/B2.tif", 1)
    assert np.array_equal(overview, tifffile.imread(folder / "B2.tif", key=1))


@pytest.mark.usefixtures("joined")
def test_regions_of_one_band(tmp_path: Path) -> None:
    bands = scene(3)
    write_scene(tmp_path / "tree", bands)
    pack(tmp_path / "tree", tmp_path / "x.callic")
    with OpenArchive(tmp_path / "x.callic", plan=DeflatePlan()) as archive:
        some = archive.read_array("tree/LC08_B3.tif", region=np.s_[10:50, 20:90])
        assert np.array_equal(some, bands[2, 10:50, 20:90])
        whole = archive.read_array("tree/LC08_B2.tif")
        assert np.array_equal(whole, bands[1])
        assert whole.shape == bands[1].shape
        again = archive.read_array("tree/LC08_B1.tif", region=(0, 0, 5, 5))
        assert np.array_equal(again, bands[0, :5, :5]), "out of the planes that are decoded"
        again[:] = 0
        assert np.array_equal(archive.read_array("tree/LC08_B1.tif"), bands[0]), "nobody shares memory"


@pytest.mark.usefixtures("joined")
def test_what_is_no_band_stays_a_file_of_its_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_scene(tree, scene(2))
    other = scene(1, seed=9)[0]
    tifffile.imwrite(tree / "LC08_B6.tif", other, metadata=None, rowsperstrip=64)
    tifffile.imwrite(tree / "LC08_B7.tif", np.full_like(other, 7), metadata=None, rowsperstrip=64)  # drawn
    (tree / "LC08_B8.tif").write_bytes((tree / "LC08_B1.tif").read_bytes()[:-500])  # cut off
    packed = run("pack", tree, "-o", tmp_path / "x.callic", "--json", "--workers", "1")
    assert packed.code == 1
    problems = [event for event in packed.events if event["event"] == "problem"]
    assert len(problems) == 1
    assert "LC08_B8" in problems[0]["path"]
    assert packed.summary["files"] == 5
    assert packed.summary["missing"] == 0
    with Archive(tmp_path / "x.callic") as opened:
        found = planes(opened.entries)
    assert found.pop("LC08_B1.tif") == (0, 2)
    assert found.pop("LC08_B2.tif") == (1, 2)
    assert set(found.values()) == {None}
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0


@pytest.mark.parametrize("words", [("--no-bands",), ("--effort", "fast")])
@pytest.mark.usefixtures("joined")
def test_files_are_coded_by_themselves_on_request(words: tuple[str, ...], tmp_path: Path) -> None:
    write_scene(tmp_path / "tree", scene(2))
    entries = pack(tmp_path / "tree", tmp_path / "x.callic", *words)
    assert set(planes(entries).values()) == {None}


def test_files_that_gain_nothing_are_coded_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch, joins=False)
    write_scene(tmp_path / "tree", scene(2))
    assert set(planes(pack(tmp_path / "tree", tmp_path / "x.callic")).values()) == {None}


def test_a_codec_that_lies_about_a_set_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bands = scene(2)
    bands[0, 0, 0] = 4242
    use_double(monkeypatch, joins=True, lies_on=4242)
    monkeypatch.setattr("callic_archive.archive.candidates.NEAR", 0)  # else JPEG XL takes the place of what stands for a model
    write_scene(tmp_path / "tree", bands)
    packed = run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--json", "--workers", "1")
    assert packed.code == 1
    assert [e["path"].rsplit("/", 1)[-1] for e in packed.events if e["event"] == "problem"] == ["LC08_B1.tif"]
    with Archive(tmp_path / "x.callic") as opened:
        methods = {e.path: e.method for e in opened.entries if e.kind == "file"}
    assert methods == {"tree/LC08_B1.tif": "stored", "tree/LC08_B2.tif": "image"}
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0


# -- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("joined")
def test_a_file_that_changes_before_it_is_read_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    write_scene(tree, scene(4))
    read = pack_bands.read_member

    def changing(source: Source, *others: Any) -> Any:
        if source.path.endswith("B2.tif"):
            tifffile.imwrite(source.file, scene(1, 60, 60)[0])
        if source.path.endswith("B3.tif"):
            os.unlink(source.file)
        return read(source, *others)

    monkeypatch.setattr(pack_bands, "read_member", changing)
    packed = run("pack", tree, "-o", tmp_path / "x.callic", "--json", "--workers", "1")
    assert packed.code == 1
    missing = [event for event in packed.events if event["event"] == "problem"]
    assert ["LC08_B3.tif" in event["path"] for event in missing] == [True]
    with Archive(tmp_path / "x.callic") as opened:
        assert planes(opened.entries) == {"LC08_B1.tif": (0, 2), "LC08_B2.tif": None, "LC08_B4.tif": (1, 2)}
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    assert all((tmp_path / "out/tree" / p.name).read_bytes() == p.read_bytes() for p in tree.iterdir())


def shard_of(entries: list[Entry], archive: Path) -> tuple[Path, RecordRef]:
    """The shard with the one codestream of several entries, and where that lies."""
    (ref,) = {part.ref for entry in entries for part in entry.parts if part.stream is not None}
    return archive / "data" / ref.shard, ref


def damage_bands(entries: list[Entry], archive: Path) -> None:
    shard, ref = shard_of(entries, archive)
    with shard.open("r+b") as out:
        out.seek(ref.offset + ref.length // 2)
        byte = out.read(1)
        out.seek(-1, os.SEEK_CUR)
        out.write(bytes([byte[0] ^ 0xFF]))


@pytest.mark.usefixtures("joined")
def test_damage_of_the_record_costs_its_files_and_is_told_of_each(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_scene(tree, scene(3))
    (tree / "notes.txt").write_text("these are left\n" * 400)
    damage_bands(pack(tree, tmp_path / "x.callic"), tmp_path / "x.callic")
    for words in ((), ("--quick",)):
        verified = run("verify", tmp_path / "x.callic", "--json", *words)
        assert verified.code == 3
        named = {e["path"].rsplit("/", 1)[-1] for e in verified.events if e["event"] == "problem"}
        assert {f"LC08_B{n}.tif" for n in (1, 2, 3)} <= named
        assert "notes.txt" not in named
    with OpenArchive(tmp_path / "x.callic", plan=DeflatePlan()) as archive, pytest.raises(EntryDamaged):
        archive.read_array("tree/LC08_B2.tif")
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 3
    assert (tmp_path / "out/tree/notes.txt").exists()
    saved = run("salvage", tmp_path / "x.callic", "-o", tmp_path / "saved", "--json")
    named = {e["path"].rsplit("/", 1)[-1] for e in saved.events if e["event"] == "problem"}
    assert {f"LC08_B{n}.tif" for n in (1, 2, 3)} <= named
    assert (tmp_path / "saved/tree/notes.txt").read_bytes() == (tree / "notes.txt").read_bytes()


@pytest.mark.usefixtures("joined")
def test_salvage_into_an_archive_copies_what_is_shared_once(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_scene(tree, scene(3))
    (tree / "notes.txt").write_text("words " * 2000)
    before = pack(tree, tmp_path / "x.callic")
    (tmp_path / "x.callic/data/index.jsonl.zst").unlink()
    saved = run("salvage", tmp_path / "x.callic", "-o", tmp_path / "y.callic")
    assert (tmp_path / "y.callic").is_dir(), saved.err
    with Archive(tmp_path / "y.callic") as opened:
        after = opened.entries
        assert planes(after) == planes(before)
    assert len({p.ref for e in after for p in e.parts if p.stream is not None}) == 1
    assert validate_bag(tmp_path / "y.callic") == []
    assert run("verify", tmp_path / "y.callic", "--against", tmp_path).code == 0


@pytest.mark.usefixtures("joined")
def test_entries_that_lie_about_their_plane_are_refused(tmp_path: Path) -> None:
    write_scene(tmp_path / "tree", scene(3))
    entries = pack(tmp_path / "tree", tmp_path / "x.callic")
    entry = next(e for e in entries if e.path.endswith("B2.tif"))
    row = entry.as_json()
    assert Entry.from_json(row) == entry
    stream = next(part["stream"] for part in row["parts"] if "stream" in part)
    for wrong in ([3, 3], [0, 1], [0, 256], [-1, 3], [0], "0", [True, 3], None):
        stream["plane"] = wrong
        with pytest.raises(EntryDamaged):
            Entry.from_json(row)
    with Archive(tmp_path / "x.callic", DeflatePlan()) as opened:
        for plane in ((1, 2), (1, 4)):
            parts = tuple(
                replace(p, stream=replace(p.stream, plane=plane)) if p.stream is not None else p
                for p in entry.parts
            )
            with pytest.raises(EntryDamaged, match="another number"):
                opened.image(replace(entry, parts=parts), 0)
        # A small file cannot be trusted to need a codestream of any size.
        with pytest.raises(EntryDamaged, match="cannot be trusted"):
            opened.image(replace(entry, size=8), 0)


# -- interruptions -------------------------------------------------------------------------------------------------


def test_a_kill_behind_the_record_and_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch, joins=True)
    tree = tmp_path / "tree"
    for number in range(6):
        write_scene(tree / f"scene{number}", scene(3, seed=number))
    words = ("pack", tree, "-o", tmp_path / "x.callic", "--json", "--workers", "1")
    process = start(*words, behaviour="joins=True, seconds=0.3")
    data = tmp_path / "x.callic.partial" / "data"
    deadline = time.monotonic() + 120
    while sum(p.stat().st_size for p in data.glob("shard-*")) < 150_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = finish(start(*words, behaviour="joins=True"), timeout=120)
    assert again.code == 0, again.err
    assert again.summary["resumed"] > 0
    assert validate_bag(tmp_path / "x.callic") == []
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0
    with Archive(tmp_path / "x.callic") as opened:
        assert sum(plane is not None for e in opened.entries if e.is_image for plane in planes([e]).values()) >= 15


@pytest.mark.usefixtures("joined")
def test_a_set_of_which_some_entries_are_written_goes_on_with_the_others(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_scene(tree, scene(4))
    shard, _ = shard_of(pack(tree, tmp_path / "x.callic"), tmp_path / "x.callic")
    with ShardReader(shard) as reader:
        rows = [row for row in reader.index() if row.ref.type is RecordType.ENTRY and row.key.endswith(".tif")]
    cut = tmp_path / "cut" / f"{shard.name}.partial"
    cut.parent.mkdir()
    end = rows[1].ref.offset + rows[1].ref.length
    cut.write_bytes(shard.read_bytes()[: end + 10])
    found = recover_shards([cut])
    assert sorted(planes(list(found.entries.values())).items()) == [
        ("LC08_B1.tif", (0, 4)), ("LC08_B2.tif", (1, 4)),
    ]  # fmt: skip


@pytest.mark.cluster
@pytest.mark.slow
def test_workers_pack_sets_and_what_is_loose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch, joins=True)
    tree = tmp_path / "tree"
    for number in range(9):
        write_scene(tree / f"scene{number}", scene(3, seed=number))
    tifffile.imwrite(tree / "scene0" / "LC08_B9.tif", scene(1, seed=77)[0], metadata=None, rowsperstrip=64)
    words = ("pack", tree, "-o", tmp_path / "x.callic", "--json", "--workers", "2")
    packed = finish(start(*words, behaviour="joins=True"), timeout=300)
    assert packed.code == 0, packed.err
    told = [event["path"] for event in packed.events if event["event"] == "entry"]
    assert len(told) == len(set(told)) == packed.summary["files"] == 28
    with Archive(tmp_path / "x.callic") as opened:
        found = {e.path: next(p.stream.plane for p in e.parts if p.stream) for e in opened.entries if e.is_image}
    assert len(found) == 28
    assert {path for path, plane in found.items() if plane is None} == {"tree/scene0/LC08_B9.tif"}
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0


def test_a_set_that_ended_its_worker_is_packed_file_by_file(tmp_path: Path) -> None:
    write_scene(tmp_path / "tree", scene(3))
    sources = tuple(sources_of(tmp_path / "tree"))
    parts = halves(Batch(sources, bands=True))
    assert [part.bands for part in parts] == [False, False]
    assert tuple(source for part in parts for source in part.sources) == sources


def test_images_of_a_sample_that_show_one_scene_become_planes_of_one() -> None:
    rng = np.random.default_rng(0)
    scene, other = (rng.integers(0, 900, (120, 110)).astype(np.uint16) for _ in range(2))
    bands = [scene, other, scene * 2 + rng.integers(0, 30, scene.shape).astype(np.uint16), scene[:90], np.dstack([scene] * 3)]
    found = as_scenes(bands)
    assert [image.shape for image in found] == [(120, 110), (90, 110), (120, 110, 3), (120, 110, 2)]
    assert np.array_equal(found[-1][:, :, 0], scene)
    assert np.array_equal(found[-1][:, :, 1], bands[2])
    assert as_scenes([]) == []
    narrow = [(band // 8).astype(np.uint8) for band in bands[:3]]
    assert as_scenes(narrow) == narrow  # planes of 8 bits would be taken for colours
    assert len(as_scenes([scene] * 60)) == 60  # too many to compare each with each
