"""Slides and DICOM files of many JPEG tiles: cut between streams, packed piece by piece, the tiles as JPEG XL."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

from callic_archive.archive import pack_pieces
from callic_archive.archive.candidates import learned
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.sampling import has_streams, outline_if_large
from callic_archive.images.source import Limits
from tests.command import run, use_double
from tests.slides import jpeg, picture, slide
from tests.trees import open_archive, pack_tree, snapshot, write_pnm

pytest.importorskip("imagecodecs")
PIECE = 20_000  # bytes; files are cut from four times as much
CUT = PackOptions(coder=learned, piece_bytes=PIECE)


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


def tiles(count: int) -> list[bytes]:
    return [jpeg(picture(64, 64, seed), quality=80) for seed in range(count)]


def dicom(frames: list[bytes], fragments: int) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.SamplesPerPixel = len(frames), 64, 64, 3
    ds.PhotometricInterpretation, ds.PlanarConfiguration = "YBR_FULL_422", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = encapsulate(frames, fragments_per_frame=fragments)
    ds["PixelData"].VR = "OB"
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slides") / "tree"
    root.mkdir()
    every = tiles(130)
    (root / "slide.svs").write_bytes(slide([every, every[:20]], 64, 13))
    (root / "whole.tif").write_bytes(slide([every], 64, 13, tables=False, big=True))
    (root / "one.dcm").write_bytes(dicom(every, 1))
    (root / "three.dcm").write_bytes(dicom(every, 3))
    (root / "small.svs").write_bytes(slide([every[:9]], 64, 3))
    return root


@pytest.fixture(scope="module")
def archive(tree: Path) -> Path:
    pack_tree(tree, tree.parent / "x.callic", options=CUT)
    return tree.parent / "x.callic"


def test_slides_are_cut_between_their_streams(archive: Path, tree: Path) -> None:
    with open_archive(archive) as opened:
        entries = {e.path.removeprefix("tree/"): e for e in opened.entries if e.kind == "file"}
    assert entries.pop("small.svs").method == "stored"
    for name, entry in entries.items():
        data = (tree / name).read_bytes()
        assert (entry.method, entry.images, entry.fidelity) == ("pieces", (), "bytes")
        assert len(entry.pieces) >= len(data) // PIECE
        assert all(piece.size <= PIECE for piece in entry.pieces)
        coded = [part for part in entry.parts if part.coding == "jpegs"]
        assert len(coded) >= len(entry.parts) - 1, name  # directories may make a piece
        for piece in entry.pieces[1:-1]:
            assert data[piece.first : piece.first + 3] == b"\xff\xd8\xff"
        assert sum(part.ref.length for part in entry.parts) < 0.9 * len(data)


def test_they_come_back_and_are_listed(archive: Path, tree: Path, tmp_path: Path) -> None:
    assert run("verify", archive).code == 0
    assert run("unpack", archive, "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    kinds = {
        e["path"]: e["kind"]
        for e in run("list", archive, "--json").events
        if e["event"] == "entry" and "kind" in e
    }
    assert {kinds[f"tree/{name}"] for name in ("slide.svs", "whole.tif", "one.dcm", "small.svs")} == {"jpegs"}
    assert run("diff", archive, tree.parent).code == 0


def test_damage_costs_tiles_of_one_piece(archive: Path, tree: Path, tmp_path: Path) -> None:
    with open_archive(archive) as opened:
        entry = next(e for e in opened.entries if e.path == "tree/slide.svs")
    shard = archive / "data" / entry.parts[2].ref.shard
    before = shard.read_bytes()
    data = bytearray(before)
    data[entry.parts[2].ref.offset + entry.parts[2].ref.length - 100] ^= 4
    shard.write_bytes(data)
    try:
        ran = run("salvage", archive, "-o", tmp_path / "out", "--json")
    finally:
        shard.write_bytes(before)
    assert ran.code == 3
    (lost,) = [e for e in ran.events if e["event"] == "lost"]
    source = (tree / "slide.svs").read_bytes()
    fragment = bytearray((tmp_path / "out" / lost["fragments"][0]).read_bytes())
    first, size = entry.pieces[2].first, entry.pieces[2].size
    assert 0 < sum(length for _, length in lost["missing"]) < size
    for offset, length in lost["missing"]:
        assert first <= offset < offset + length <= first + size
        fragment[offset : offset + length] = source[offset : offset + length]
    assert fragment == source


def test_what_is_cut(tree: Path) -> None:
    def large(data: bytes, piece: int = PIECE) -> bool:
        return outline_if_large(data, None, Limits(), piece) is not None

    data = (tree / "slide.svs").read_bytes()
    assert large(data)
    assert not large(data, len(data))
    assert not large(data.replace(b"\xff\xd8\xff", b"\xff\xd8\x00"))  # nothing in it is gained by cutting
    assert not large(b"II*\0rubbish" + data[11:])  # a broken file is told of, as a whole
    assert has_streams(data[5:])
    assert not has_streams(b"")


def test_worker_killers_are_stored_unseen(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces that ended workers are stored without a look into them."""
    from dataclasses import replace

    seen = []
    real = pack_pieces.pack_piece

    def verbatim(batch, piece, codec, options):  # type: ignore[no-untyped-def]
        share, parts, problem = real(replace(batch, verbatim=True), piece, codec, options)
        seen.extend(part.coding for part in parts)
        return share, parts, problem

    monkeypatch.setattr("callic_archive.archive.packer.pack_piece", verbatim)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "slide.svs").write_bytes((tree / "slide.svs").read_bytes())
    write_pnm(tmp_path / "few" / "a.pgm", picture(20, 20, channels=1))
    pack_tree(tmp_path / "few", tmp_path / "y.callic", options=CUT)
    assert seen
    assert "jpegs" not in seen
    assert run("unpack", tmp_path / "y.callic", "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "few") == snapshot(tmp_path / "few")
