"""Files that are cut: packed, proven, restored and read piece by piece."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from callic_archive.access.archive import OpenArchive
from callic_archive.archive import rejoining
from callic_archive.archive.candidates import learned
from callic_archive.archive.entries import Entry
from callic_archive.archive.fragments import of_entry
from callic_archive.archive.pack_pieces import PieceBatch
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.reading import Archive
from callic_archive.archive.regathering import regather
from callic_archive.archive.salvaging import survey
from callic_archive.archive.unpacking import Restored
from callic_archive.container.extraction import ExtractionRoot
from callic_archive.container.layout import RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.errors import EntryDamaged
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.read import unpack, verify
from tests.doubles import DeflateCodec, DeflatePlan
from tests.trees import open_archive, pack_tree, smooth, snapshot

PIECE = 64 << 10
CUT = PackOptions(coder=learned, piece_bytes=PIECE)
HERE = Resources(workers=1)


def tiff(path: Path, image: np.ndarray, **options: Any) -> None:
    tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack", **options)


def sharded(path: Path, image: np.ndarray) -> None:
    store = zarr.create_array(
        str(path), shape=image.shape, shards=image.shape, chunks=(64, 64), dtype=image.dtype, zarr_format=3
    )
    store[...] = image


def write_all(tree: Path) -> dict[str, np.ndarray]:
    """Large files of several formats: path in the archive to image."""
    tree.mkdir()
    gray, colour = smooth(640, 768), smooth(512, 512, 3)
    np.save(tree / "gray.npy", gray)
    tiff(tree / "strips.tif", gray)
    tiff(tree / "tiles.tif", colour, tile=(128, 128))
    tiff(tree / "deflate.tif", colour, tile=(128, 128), compression="zlib")
    tiff(tree / "lzw.tif", gray, rowsperstrip=16, compression="lzw")
    (tree / "wide.pgm").write_bytes(b"P5\n6144 80\n255\n" + gray.tobytes())
    sharded(tree / "store", gray)
    with h5py.File(tree / "volume.h5", "w") as file:
        file.create_dataset("scan", data=gray.astype(">i2"), chunks=(64, 64), compression="gzip", shuffle=True, fletcher32=True)
    return {
        "tree/volume.h5": gray,
        "tree/gray.npy": gray,
        "tree/strips.tif": gray,
        "tree/tiles.tif": colour,
        "tree/deflate.tif": colour,
        "tree/lzw.tif": gray,
        "tree/wide.pgm": gray.reshape(80, 6144),
        "tree/store/c/0/0": gray,
    }


def entries_of(archive: Path) -> dict[str, Entry]:
    with open_archive(archive) as found:
        assert not found.problems
        return {entry.path: entry for entry in found.entries}


def restore(archive: Path, destination: Path, resources: Resources = HERE) -> list[Restored]:
    done: list[Restored] = []
    with open_archive(archive) as found:
        rest = unpack(
            found, found.entries, destination, plan=DeflatePlan(), overwrite=False, resources=resources,
            watch=done.append, tick=lambda running, workers: None,
        )  # fmt: skip
    assert rest == []
    return done


def verified(archive: Path, resources: Resources = HERE) -> list[Restored]:
    done: list[Restored] = []
    with open_archive(archive) as found:
        verify(
            found, found.entries, plan=DeflatePlan(), full=True, resources=resources,
            watch=done.append, tick=lambda running, workers: None,
        )  # fmt: skip
    return done


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, np.ndarray]]:
    root = tmp_path_factory.mktemp("large")
    images = write_all(root / "tree")
    run = pack_tree(root / "tree", root / "x.callic", options=CUT)
    assert run.problems == []
    return root, root / "x.callic", images


def test_large_files_come_back_byte_for_byte_and_verify(packed: Any, tmp_path: Path) -> None:
    root, archive, images = packed
    found = entries_of(archive)
    for path in images:
        assert found[path].method == "pieces", path
        assert len(found[path].pieces) >= 4, path
        assert found[path].fidelity == "bytes"
        assert found[path].packed_size < found[path].size
    assert found["tree/store/zarr.json"].method == "stored"
    done = restore(archive, tmp_path / "out")
    assert [r.problem for r in done if r.problem] == []
    assert snapshot(tmp_path / "out" / "tree") == snapshot(root / "tree")
    checked = verified(archive)
    assert sorted(r.entry.path for r in checked) == sorted(p for p, e in found.items() if e.kind == "file")
    assert [r.problem for r in checked if r.problem] == []


def test_arrays_and_regions_of_them(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, archive, images = packed
    with OpenArchive(archive, plan=DeflatePlan()) as opened:
        for path, image in images.items():
            assert opened.page_count(path) == 1
            assert opened[path].images[0].shape == image.shape
            assert np.array_equal(opened.read_array(path), image), path
        decoded: list[int] = []
        before = DeflateCodec.decode

        def counting(self: DeflateCodec, codestream: bytes, region: Any = None) -> Any:
            decoded.append(len(codestream))
            return before(self, codestream, region)

        monkeypatch.setattr(DeflateCodec, "decode", counting)
        for path, image in images.items():
            decoded.clear()
            height = min(60, image.shape[0])
            region = opened.read_array(path, region=(height - 40, 300, height, 420))
            assert np.array_equal(region, image[height - 40 : height, 300:420]), path
            assert 1 <= len(decoded) <= 3, path  # not the pieces elsewhere


def test_an_entry_survives_its_own_json_and_record(packed: Any) -> None:
    _, archive, images = packed
    for path in images:
        entry = entries_of(archive)[path]
        assert Entry.from_json(entry.as_json()) == entry
    with open_archive(archive) as found:
        (archive / "data" / "index.jsonl.zst").rename(archive / "data" / "away")
        with open_archive(archive) as again:
            kept = {entry.path: entry for entry in again.entries}
        (archive / "data" / "away").rename(archive / "data" / "index.jsonl.zst")
        assert all(kept[entry.path] == entry for entry in found.entries)


def test_pieces_that_do_not_shrink_are_stored_and_still_read(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    noise = np.random.default_rng(3).integers(0, 256, (600, 700), np.uint8)
    half = noise.copy()
    half[:300] = smooth(300, 700)
    np.save(tmp_path / "tree" / "half.npy", half)
    tiff(tmp_path / "tree" / "half.tif", half, tile=(128, 128), compression="zlib")
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic", options=CUT)
    assert run.problems == []
    for path in ("tree/half.npy", "tree/half.tif"):
        entry = entries_of(tmp_path / "x.callic")[path]
        methods = {piece.method for piece in entry.pieces if piece.images}
        assert "image" in methods
        assert "stored" in methods or path.endswith("tif")  # whose tiles have padding that the codec saves
        with OpenArchive(tmp_path / "x.callic", plan=DeflatePlan()) as opened:
            assert np.array_equal(opened.read_array(path), half)
            assert np.array_equal(opened.read_array(path, region=(550, 10, 590, 90)), half[550:590, 10:90])
            assert hashlib.sha256(opened.read_bytes(path)).hexdigest() == entry.sha256
    restore(tmp_path / "x.callic", tmp_path / "out")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def test_equal_files_share_their_pieces(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / "tree" / name, smooth(640, 768))
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic", options=CUT)
    assert run.problems == []
    found = entries_of(tmp_path / "x.callic")
    assert found["tree/a.npy"].parts == found["tree/b.npy"].parts
    restore(tmp_path / "x.callic", tmp_path / "out")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def test_a_piece_that_makes_the_codec_fail_costs_that_piece_alone(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    image = smooth(640, 768)
    image[512, 0] = 77
    np.save(tmp_path / "tree" / "a.npy", image)
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic", plan=DeflatePlan(raises_on=77), options=CUT)
    assert [problem.code for problem in run.problems] == ["E511"]
    entry = entries_of(tmp_path / "x.callic")["tree/a.npy"]
    assert [piece.method for piece in entry.pieces if piece.images].count("image") >= 4
    restore(tmp_path / "x.callic", tmp_path / "out")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def test_small_files_are_not_cut(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    np.save(tmp_path / "tree" / "a.npy", smooth(400, 600))  # below four pieces
    pack_tree(tmp_path / "tree", tmp_path / "x.callic", options=CUT)
    pack_tree(tmp_path / "tree", tmp_path / "y.callic")
    cut, whole = (entries_of(tmp_path / name)["tree/a.npy"] for name in ("x.callic", "y.callic"))
    assert cut.method == whole.method == "image"
    assert cut.packed_size == whole.packed_size


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: replace(e, pieces=e.pieces[:-1], parts=e.parts[: -e.pieces[-1].parts]),
        lambda e: replace(e, pieces=(e.pieces[1], *e.pieces[1:])),
        lambda e: replace(e, size=e.size + 1),
    ],
)
def test_pieces_that_are_not_the_whole_file_are_refused(packed: Any, spoil: Callable[[Entry], Entry]) -> None:
    _, archive, _ = packed
    entry = spoil(entries_of(archive)["tree/gray.npy"])
    with open_archive(archive) as found, pytest.raises(EntryDamaged, match="overlap"):
        found.restore(entry, io.BytesIO())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"spans": [[[0, 1, 1 << 60]], [[1, 0, 1 << 60]]]}, "out of range"),
        ({"spans": [[[-5, 0, 1]], [[10, 0, 1]]]}, "out of range|beyond"),
        ({"spans": [[[1 << 40, 0, 1]], [[10, 0, 1]]]}, "beyond"),
        ({"spans": [[], []]}, "no spans"),
        ({"images": [[5, 0, 0]]}, "out of range"),
        ({"parts": 99}, "another number of parts"),
        ({"method": "sparse"}, "not one of"),
        ({"sha256": "00"}, "no SHA-256"),
    ],
)
def test_hostile_index_lines_are_refused(packed: Any, change: dict[str, Any], why: str) -> None:
    row = entries_of(packed[1])["tree/gray.npy"].as_json()
    row["pieces"][1] |= change
    with pytest.raises(EntryDamaged, match=why):
        Entry.from_json(row)


def test_no_more_than_a_piece_is_in_memory_at_once(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, archive, images = packed
    sizes: list[int] = []
    before = rejoining.piece_bytes

    def noting(archive: Archive, share: Entry, **options: Any) -> Any:
        sizes.append(share.pieces[0].size)
        return before(archive, share, **options)

    monkeypatch.setattr(rejoining, "piece_bytes", noting)
    assert all(r.problem is None for r in verified(archive))
    assert len(sizes) == sum(len(entries_of(archive)[path].pieces) for path in images)
    assert max(sizes) <= 4 * PIECE  # a row of tiles of 128 rows at most


# -- interruptions, damage, workers ---------------------------------------------------------------------------


class _Killed(BaseException):
    """Stands for the end of the process."""


def test_a_killed_run_goes_on_with_the_next_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    np.save(tmp_path / "tree" / "a.npy", smooth(640, 768))
    coded: list[int] = []
    before = DeflateCodec.encode

    def encode(self: DeflateCodec, image: np.ndarray) -> bytes:
        if len(coded) == 4:
            raise _Killed
        coded.append(image.size)
        return before(self, image)

    monkeypatch.setattr(DeflateCodec, "encode", encode)
    with pytest.raises(_Killed):
        pack_tree(tmp_path / "tree", tmp_path / "x.callic", options=CUT)
    assert not (tmp_path / "x.callic").exists()
    coded.append(0)  # beyond four nothing is killed
    done = len(coded)
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic", options=CUT)
    assert run.problems == []
    entry = entries_of(tmp_path / "x.callic")["tree/a.npy"]
    images = sum(len(piece.images) for piece in entry.pieces)
    assert len(coded) - done == images - 4  # what was packed before is taken over
    assert not list(tmp_path.glob("x.callic/**/copies"))
    restore(tmp_path / "x.callic", tmp_path / "out")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def test_damage_costs_its_piece_alone(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    np.save(tmp_path / "tree" / "a.npy", smooth(640, 768))
    pack_tree(tmp_path / "tree", tmp_path / "x.callic", options=CUT)
    entry = entries_of(tmp_path / "x.callic")["tree/a.npy"]
    number = next(n for n, piece in enumerate(entry.pieces) if piece.images)
    part = entry.parts[sum(piece.parts for piece in entry.pieces[: number + 1]) - 1]
    shard = tmp_path / "x.callic" / "data" / part.ref.shard
    data = bytearray(shard.read_bytes())
    data[part.ref.offset + part.ref.length // 2] ^= 255
    shard.write_bytes(data)
    (checked,) = [r for r in verified(tmp_path / "x.callic") if r.entry.path == "tree/a.npy"]
    assert checked.problem is not None
    assert checked.problem.code == "E502"
    (restored,) = [r for r in restore(tmp_path / "x.callic", tmp_path / "out") if r.entry.kind == "file"]
    assert restored.problem is not None
    assert not (tmp_path / "out" / "tree" / "a.npy").exists()
    found = survey(tmp_path / "x.callic")
    (damaged,) = found.damaged
    assert damaged.path == "tree/a.npy"
    with open_archive(tmp_path / "x.callic") as archive, ExtractionRoot(tmp_path / "saved") as root:
        fragments = of_entry(archive, damaged, root)
    assert fragments.missing == tuple(entry.pieces[number].spans)
    saved = bytearray((tmp_path / "saved" / fragments.files[0]).read_bytes())
    source = (tmp_path / "tree" / "a.npy").read_bytes()
    assert len(saved) == len(source)
    for offset, length in fragments.missing:
        assert saved[offset : offset + length] == bytes(length)
        saved[offset : offset + length] = source[offset : offset + length]
    assert bytes(saved) == source


def test_salvage_finds_a_file_by_its_pieces(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    np.save(tmp_path / "tree" / "a.npy", smooth(640, 768))
    pack_tree(tmp_path / "tree", tmp_path / "x.callic", options=CUT)
    entry = entries_of(tmp_path / "x.callic")["tree/a.npy"]
    data = tmp_path / "x.callic" / "data"
    (data / "index.jsonl.zst").unlink()
    for shard in data.glob("shard-*.cla"):  # the ENTRY record alone is lost
        with ShardReader(shard) as reader:
            refs = [r.ref for r in reader.index() if r.ref.type is RecordType.ENTRY and r.key == entry.path]
        content = bytearray(shard.read_bytes())
        for ref in refs:
            content[ref.offset + ref.length - 20] ^= 255
        shard.write_bytes(content)
    found = survey(tmp_path / "x.callic")
    (again,) = [e for e in found.contents.entries if e.path == entry.path]
    assert (again.pieces, again.parts, again.sha256) == (entry.pieces, entry.parts, entry.sha256)


def test_copies_of_archives_keep_pieces(packed: Any, tmp_path: Path) -> None:
    root, archive, images = packed
    with open_archive(archive) as found:
        regather(found, found.entries, tmp_path / "again.callic")
    for path in images:
        assert entries_of(tmp_path / "again.callic")[path].method == "pieces"
    restore(tmp_path / "again.callic", tmp_path / "out")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(root / "tree")


def test_holes_of_large_files_are_left(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    image = smooth(2048, 1024)
    image[300:900] = 0
    path = tmp_path / "tree" / "a.pgm"
    head = b"P5\n1024 2048\n255\n"
    with path.open("wb") as out:
        out.write(head + image[:300].tobytes())
        out.seek(len(head) + 900 * 1024)
        out.write(image[900:].tobytes())
    if path.stat().st_blocks * 512 >= path.stat().st_size:
        pytest.skip("this file system keeps no holes")
    pack_tree(tmp_path / "tree", tmp_path / "x.callic", options=CUT)
    assert entries_of(tmp_path / "x.callic")["tree/a.pgm"].method == "pieces"
    restore(tmp_path / "x.callic", tmp_path / "out")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    assert (tmp_path / "out" / "tree" / "a.pgm").stat().st_blocks == path.stat().st_blocks


class _Done:
    """A future that is done."""

    def __init__(self, key: str, result: Any) -> None:
        self.key, self.status, self._result = key, "finished", result

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        call(self)

    def result(self) -> Any:
        return self._result

    def cancel(self) -> None:
        """Nothing to do."""


class _Inline:
    """Stands for a client of workers: whatever is submitted is done at once, here."""

    def __init__(self) -> None:
        self.submitted: list[Any] = []

    def nthreads(self) -> dict[str, int]:
        return {"one": 1, "other": 1}

    def submit(self, call: Callable[..., Any], *arguments: Any, **_: Any) -> _Done:
        self.submitted.append(arguments[-1])
        return _Done(f"{len(self.submitted)}", call(*arguments))

    def run(self, call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        return {"one": call(*arguments)}


def test_pieces_are_handed_to_workers_one_by_one(packed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("plan", "pack", "read"):
        for name in ("CUT_FROM", "CLUSTER_PAYS_FROM"):
            monkeypatch.setattr(f"callic_archive.scheduling.{module}.{name}", 0, raising=False)
    monkeypatch.setattr("callic_archive.scheduling.read.PIECE", PIECE)
    clients: list[_Inline] = []

    def cluster(_: Resources) -> Any:
        clients.append(_Inline())
        return nullcontext(clients[-1])

    monkeypatch.setattr(Resources, "cluster", cluster)
    two = Resources(workers=2)
    root, _, images = packed
    run = pack_tree(root / "tree", tmp_path / "x.callic", options=CUT, resources=two)
    assert run.problems == []
    found = entries_of(tmp_path / "x.callic")
    pieces = [batch for batch in clients[0].submitted if isinstance(batch, PieceBatch)]
    assert {batch.entry.path for batch in pieces} == set(images)
    assert sum(len(batch.pieces) for batch in pieces) == sum(len(found[path].pieces) for path in images)
    done = restore(tmp_path / "x.callic", tmp_path / "out", two)
    assert [r.problem for r in done if r.problem] == []
    assert sorted(r.entry.path for r in done) == sorted(p for p, e in found.items() if e.kind == "file")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(root / "tree")
    assert len(clients) == 2
    assert len(clients[1].submitted) > len(images)
    checked = verified(tmp_path / "x.callic", two)
    assert sorted(r.entry.path for r in checked) == sorted(r.entry.path for r in done)
    assert [r.problem for r in checked if r.problem] == []


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pieces_of_one_file_go_to_all_workers_and_a_death_costs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callic_archive.scheduling.plan.CUT_FROM", 0)
    monkeypatch.setattr("callic_archive.scheduling.plan.CLUSTER_PAYS_FROM", 0)
    monkeypatch.setattr("callic_archive.scheduling.read.CLUSTER_PAYS_FROM", 0)
    monkeypatch.setattr("callic_archive.scheduling.read.PIECE", PIECE)
    (tmp_path / "tree").mkdir()
    image = smooth(640, 768)
    image[512, 0] = 77  # the first sample of a piece
    np.save(tmp_path / "tree" / "a.npy", image)
    run = pack_tree(
        tmp_path / "tree", tmp_path / "x.callic", plan=DeflatePlan(dies_on=77, seconds=0.3), options=CUT,
        resources=Resources(workers=2),
    )  # fmt: skip
    entry = entries_of(tmp_path / "x.callic")["tree/a.npy"]
    methods = [piece.method for piece in entry.pieces if piece.images]
    assert methods.count("stored") == 1
    assert methods.count("image") >= 6
    assert [problem.code for problem in run.problems] == ["E515"]
    assert len({part.ref.shard for part in entry.parts if part.stream is not None}) >= 2
    done = restore(tmp_path / "x.callic", tmp_path / "out", Resources(workers=2))
    assert [r.problem for r in done if r.problem] == []
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")
    checked = verified(tmp_path / "x.callic", Resources(workers=2))
    assert [(r.entry.path, r.problem) for r in checked] == [("tree/a.npy", None)]
