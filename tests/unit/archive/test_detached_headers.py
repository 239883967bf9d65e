"""Samples with headers beside them, as sources: whole trees come back, whatever the headers say, and arrays are read."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from callic_archive.access.archive import OpenArchive
from callic_archive.archive.candidates import learned
from callic_archive.archive.collection import sample_of
from callic_archive.archive.context import ContextFinder, read_beside
from callic_archive.archive.entries import Entry
from callic_archive.archive.estimate import estimate
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.scan import Selection, scan
from callic_archive.archive.specification import format_text, topics_of
from callic_archive.errors import NoSuchImage
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.read import unpack, verify
from tests.doubles import DeflatePlan
from tests.trees import open_archive, pack_tree, snapshot
from tests.unit.images.test_detached import envi, metaheader, nrrd_header, pair
from tests.unit.images.test_mgh import mgh

SMALL = PackOptions(coder=learned, piece_bytes=16 << 10)


def slope(*shape: int, dtype: str = "<i2", seed: int = 1) -> np.ndarray:
    steps = np.indices(shape).sum(axis=0) + np.random.default_rng(seed).integers(0, 3, shape)
    return steps.astype(dtype)


def scene(seed: int) -> np.ndarray:
    """Bands that resemble each other, with noise of their own."""
    land = np.random.default_rng(seed).integers(0, 900, (60, 90)).cumsum(axis=1)
    return np.stack([land * (band + 2) // 9 + slope(60, 90, seed=band) for band in range(5)]).astype("<i2")


def round_trip(tree: Path, work: Path, options: PackOptions | None = None) -> dict[str, Entry]:
    """Pack, unpack to a place of its own, compare bytes, verify in full; the entries of the files."""
    run = pack_tree(tree, work / "a.callic", options=options)
    with open_archive(work / "a.callic") as archive:
        problems: list[object] = []
        common: dict[str, Any] = {
            "plan": DeflatePlan(), "resources": Resources(workers=1), "tick": lambda *_: None,
            "watch": lambda done: problems.append(done.problem) if done.problem else None,
        }  # fmt: skip
        assert unpack(archive, archive.entries, work / "out", overwrite=False, **common) == []
        verify(archive, archive.entries, full=True, **common)
        assert problems == []
    assert snapshot(work / "out" / tree.name) == snapshot(tree)
    return {path.removeprefix(f"{tree.name}/"): entry for path, entry in run.entries.items() if entry.kind == "file"}


def write_pair(tree: Path, stem: str, image: Any) -> None:
    head, data = pair(image)
    (tree / f"{stem}.hdr").write_bytes(head)
    (tree / f"{stem}.img").write_bytes(data)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Pairs of every kind, each of its own samples."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for seed, (stem, kind) in enumerate(
        {"one": nibabel.Nifti1Pair, "two": nibabel.Nifti2Pair, "old": nibabel.AnalyzeImage}.items()
    ):
        write_pair(tree, stem, kind(slope(40, 30, 9, seed=seed), np.eye(4)))
    head, data = pair(nibabel.Nifti1Pair(slope(40, 30, 9, seed=8), np.eye(4)))
    (tree / "both.hdr.gz").write_bytes(gzip.compress(head, mtime=0))
    (tree / "both.img.gz").write_bytes(gzip.compress(data, mtime=0))
    volume = slope(9, 30, 40, seed=4)
    (tree / "meta.mhd").write_bytes(metaheader(volume, "meta.raw"))
    (tree / "meta.raw").write_bytes(volume.tobytes())
    floats = slope(9, 30, 40, dtype="<f4", seed=5) / np.float32(8)
    (tree / "packed.mhd").write_bytes(metaheader(floats, "packed.zraw", 2))
    (tree / "packed.zraw").write_bytes(zlib.compress(floats.tobytes(), 2))
    (tree / "nrrd.nhdr").write_bytes(nrrd_header(volume + 9, "./nrrd.raw"))
    (tree / "nrrd.raw").write_bytes((volume + 9).tobytes())
    (tree / "gz.nrrd").write_bytes(nrrd_header(volume + 7, "gz.raw.gz", "gzip"))
    (tree / "gz.raw.gz").write_bytes(gzip.compress((volume + 7).tobytes(), mtime=0))
    for number, interleave in enumerate(("bsq", "bil", "bip")):
        head, data = envi(scene(20 + number), interleave)
        (tree / f"{interleave}.hdr").write_bytes(head)
        (tree / (interleave, "bil.dat", "bip.bip")[number]).write_bytes(data)
    (tree / "brain.mgh").write_bytes(mgh(slope(40, 30, 9, seed=30), b"tags"))
    (tree / "brain.mgz").write_bytes(gzip.compress(mgh(slope(40, 30, 9, seed=31), b"tags"), mtime=0))
    return tree


SAMPLES = ("one.img", "two.img", "old.img", "both.img.gz", "meta.raw", "packed.zraw", "nrrd.raw", "gz.raw.gz", "bsq", "bil.dat",
           "bip.bip")  # fmt: skip


def test_every_kind_comes_back(tree, tmp_path):
    entries = round_trip(tree, tmp_path)
    assert {name: (entries[name].format, entries[name].reason) for name in SAMPLES} == dict.fromkeys(SAMPLES, ("raw", None))
    assert {entries[name].fidelity for name in SAMPLES} == {"bytes"}
    assert (entries["brain.mgh"].format, entries["brain.mgz"].format) == ("mgh", "gzip")
    told = format_text(topics_of(entries.values()))
    assert "`raw`" in told
    assert "`mgh`" in told


def test_arrays_and_regions(tree, tmp_path):
    pack_tree(tree, tmp_path / "a.callic")
    with OpenArchive(tmp_path / "a.callic", plan=DeflatePlan()) as archive:
        for name in ("one.img", "old.img", "meta.raw", "nrrd.raw", "both.img.gz", "gz.raw.gz"):
            assert archive.page_count(f"tree/{name}") == 9
            page = archive.read_array(f"tree/{name}", 4)
            assert (page.shape, page.dtype) == ((30, 40), np.dtype("i2"))
            np.testing.assert_array_equal(archive.read_array(f"tree/{name}", 4, (2, 3, 20, 30)), page[2:20, 3:30])
        np.testing.assert_array_equal(archive.read_array("tree/meta.raw", 4), slope(9, 30, 40, seed=4)[4])
        floats = archive.read_array("tree/packed.zraw", 8)
        assert floats.dtype == np.float32
        np.testing.assert_array_equal(floats, slope(9, 30, 40, dtype="<f4", seed=5)[8] / np.float32(8))
        for number, name in enumerate(("bsq", "bil.dat", "bip.bip")):
            expected = scene(20 + number).transpose(1, 2, 0)
            np.testing.assert_array_equal(archive.read_array(f"tree/{name}"), expected)


def test_hostile_and_foreign_headers(tmp_path):
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    for folder in (tree, tree / "sub", outside):
        folder.mkdir()
    volume = slope(9, 30, 40)
    good = metaheader(volume, "x.raw")
    (outside / "link.mhd").write_bytes(metaheader(volume, "link.raw"))
    (tree / "link.mhd").symlink_to(outside / "link.mhd")
    os.mkfifo(tree / "pipe.mhd")
    (tree / "folder.mhd").mkdir()
    (tree / "sub" / "up.raw").write_bytes(volume.tobytes())
    (tree / "huge.mhd").write_bytes(good.replace(b"x.raw", b"huge.raw") + b"\n" * (5 << 20))
    headers = {
        "elsewhere": metaheader(volume, "sub/up.raw"), "absolute": metaheader(volume, str(tree / "absolute.raw")),
        "above": metaheader(volume, "../tree/above.raw"), "other": metaheader(volume, "another.raw"),
        "short": metaheader(slope(99, 30, 40), "short.raw"), "overflow": metaheader(volume, "overflow.raw", DimSize="9" * 40),
        "small": metaheader(slope(2, 3, 4), "small.raw"), "text": b"NDims\0\xff" * 99, "void": b"",
        "zlib": metaheader(volume, "zlib.raw", 3),
    }  # fmt: skip
    for stem, head in headers.items():
        (tree / f"{stem}.mhd").write_bytes(head)
    for n, stem in enumerate([*headers, "link", "pipe", "folder", "huge", "lone"]):
        (tree / f"{stem}.raw").write_bytes((volume + n).tobytes())
    (tree / "lone.img").write_bytes((volume + 50).tobytes())
    (tree / "link.img").symlink_to("lone.img")
    (tree / "link.hdr").write_bytes(pair(nibabel.Nifti1Pair(slope(40, 30, 9), np.eye(4)))[0])
    (tree / "empty.img").write_bytes(b"")
    (tree / "empty.hdr").write_bytes(b"")
    entries = round_trip_but(tree, tmp_path, "pipe.mhd")
    assert {path: entry.format for path, entry in entries.items() if entry.format} == {}
    assert {entry.problem for entry in entries.values()} == {None}
    reasons = {stem: entries[f"{stem}.raw"].reason for stem in headers}
    assert {stem for stem, reason in reasons.items() if reason == "header"} == {"short", "overflow", "zlib"}
    assert reasons["small"] == "few-samples"
    with OpenArchive(tmp_path / "a.callic", plan=DeflatePlan()) as archive:
        with pytest.raises(NoSuchImage):
            archive.read_array("tree/short.raw")
        assert not archive.has_image("tree/huge.raw")
        assert not archive.has_image("tree/lone.img")


def round_trip_but(tree: Path, work: Path, pipe: str) -> dict[str, Entry]:
    """As ``round_trip``, of a tree with a pipe, which is left out."""
    pack_tree(tree, work / "a.callic")
    (tree / pipe).unlink()
    with open_archive(work / "a.callic") as archive:
        common: dict[str, Any] = {
            "plan": DeflatePlan(), "resources": Resources(workers=1), "tick": lambda *_: None, "watch": lambda done: None,
        }  # fmt: skip
        assert unpack(archive, archive.entries, work / "out", overwrite=False, **common) == []
        entries = {e.path.removeprefix("tree/"): e for e in archive.entries if e.kind == "file"}
    found, kept = snapshot(work / "out" / "tree"), snapshot(tree)
    assert found == kept
    return entries


def test_files_that_are_no_samples_are_what_they_say(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.img").write_bytes(b"P5 60 50 255\n" + slope(50, 60, dtype="u1").tobytes())
    (tree / "a.hdr").write_bytes(pair(nibabel.Nifti1Pair(slope(40, 30, 9), np.eye(4)))[0])
    assert round_trip(tree, tmp_path)["a.img"].format == "pnm"
    with OpenArchive(tmp_path / "a.callic", plan=DeflatePlan()) as archive:
        np.testing.assert_array_equal(archive.read_array("tree/a.img"), slope(50, 60, dtype="u1"))


def test_copies_count_once_and_need_no_header(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    volume = slope(9, 30, 40)
    for name in ("a.raw", "b.raw", "c"):
        (tree / name).write_bytes(volume.tobytes())
    (tree / "b.mhd").write_bytes(metaheader(volume, "b.raw"))
    entries = round_trip(tree, tmp_path)
    assert entries["b.raw"].format == "raw"


def test_single_files_as_sources(tmp_path, monkeypatch):
    volume = slope(9, 30, 40)
    (tmp_path / "b.mhd").write_bytes(metaheader(volume, "b.raw"))
    (tmp_path / "b.raw").write_bytes(volume.tobytes())
    monkeypatch.chdir(tmp_path)
    run = pack_tree([Path("b.raw"), Path("b.mhd")], tmp_path / "a.callic")
    assert run.entries["b.raw"].format == "raw"
    with OpenArchive(tmp_path / "a.callic", plan=DeflatePlan()) as archive:
        np.testing.assert_array_equal(archive.read_array("b.raw", 3), volume[3])


def test_large_ones_are_cut(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    expected = {}
    write_pair(tree, "pair", nibabel.Nifti1Pair(slope(100, 90, 20), np.eye(4)))
    expected["pair.img"] = slope(100, 90, 20).transpose().reshape(-1, 100)
    volume = slope(20, 90, 100, dtype="<f4", seed=3)
    (tree / "meta.mhd").write_bytes(metaheader(volume, "meta.raw", HeaderSize=7))
    (tree / "meta.raw").write_bytes(b"1234567" + volume.tobytes() + b"behind")
    expected["meta.raw"] = volume.reshape(-1, 100)
    for number, interleave in enumerate(("bsq", "bil", "bip")):
        scene = slope(6, 200, 300, seed=number)
        head, data = envi(scene, interleave)
        (tree / f"{interleave}.hdr").write_bytes(head)
        (tree / f"{interleave}.img").write_bytes(data)
        expected[f"{interleave}.img"] = scene.transpose(1, 2, 0)
    entries = round_trip(tree, tmp_path, SMALL)
    assert {entries[name].method for name in expected} == {"pieces"}
    with OpenArchive(tmp_path / "a.callic", plan=DeflatePlan()) as archive:
        for name, array in expected.items():
            found = [archive.read_array(f"tree/{name}", page) for page in range(archive.page_count(f"tree/{name}"))]
            np.testing.assert_array_equal(np.concatenate(found), array)
            assert {one.dtype for one in found} == {array.dtype}
            part = archive.read_array(f"tree/{name}", 0, (50, 20, 90, 60))
            np.testing.assert_array_equal(part, found[0][50:90, 20:60])


def test_estimates_and_samples_look_at_them(tree):
    sources = list(scan((str(tree),), Selection(), skip=()).sources)
    only = [source for source in sources if source.path.endswith(("one.img", "meta.raw", "bsq"))]
    told = estimate(only, DeflatePlan(), PackOptions(coder=learned), 1)
    assert told.sampled_images == 3
    assert all(sample_of(source, ContextFinder(read_beside))[0] for source in only)
