"""JPEG streams inside other files are recoded and come back byte for byte, or stay as they are."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from callic_archive.archive import (
    isolated,
    jpeg_form,
    jpeg_limits,
    jpeg_parts,
    jpeg_recoding,
    pack_one,
    verbatim,
)
from callic_archive.archive.dct import jpeg_stream
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.verbatim import expand, stored_pieces, streamed_pieces
from callic_archive.errors import ForeignCodecFailed, ForeignCodecMissing
from callic_archive.images import tiff_jpeg
from callic_archive.images.source import Limits
from tests.doubles import DeflatePlan
from tests.slides import forged, jpeg, picture, slide
from tests.trees import open_archive, pack_tree

pytest.importorskip("imagecodecs")


def tables_of(data):
    return tiff_jpeg.tables(memoryview(data), Limits())


def packed(data):
    """The payload for ``data``, which was seen to give it back."""
    payload = jpeg_parts.encode(data, tables_of(data))
    assert payload is not None
    assert jpeg_parts.decode(payload, len(data)) == data
    return payload


def tiles(count, side=32, **options):
    return [jpeg(picture(side, side, seed), **options) for seed in range(count)]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tables", [False, True])
def test_small_tiles_become_one_stream(big, tables):
    data = slide([tiles(30, 64), tiles(12, 64, quality=40)], 64, 3, tables=tables, big=big)
    payload = packed(data)
    assert len(payload) < 0.85 * len(data)
    table, at = jpeg_form.frame(payload, 0, 1 << 20)
    _, at = jpeg_form.frame(payload, at, len(data))
    read = jpeg_form.read_table(table, len(payload) - at)
    assert [group.count for group in read.groups] == [30, 12]


@pytest.mark.parametrize(
    "options", [{"subsampling": 0}, {"subsampling": 1}, {"restart_marker_blocks": 2}], ids=str
)
def test_kinds_of_tiles(options):
    assert len(packed(slide([tiles(12, 64, **options)], 64, 4))) > 0


def test_rgb_gray_progressive_and_several_pages_by_tifffile():
    out = io.BytesIO()
    with tifffile.TiffWriter(out, bigtiff=True) as file:
        plain = {"compression": "jpeg", "tile": (64, 64)}
        file.write(picture(200, 200), photometric="rgb", subifds=1, **plain)
        file.write(picture(100, 100), photometric="rgb", subfiletype=1, **plain)
        file.write(picture(200, 200, channels=1), photometric="minisblack", **plain)
        file.write(picture(200, 200), photometric="rgb", compression="jpeg", rowsperstrip=48)
    data = out.getvalue() + jpeg(picture(200, 200), progressive=True) + b"tail"
    assert len(packed(data)) < len(data)


def test_tiles_with_tables_of_their_own_become_files_of_their_own():
    every = [jpeg(picture(160, 160, seed), optimize=True, quality=85 + seed) for seed in range(4)]
    data = slide([every], 160, 2, tables=False)
    payload = packed(data)
    table, _ = jpeg_form.frame(payload, 0, 1 << 20)
    assert [group.count for group in jpeg_form.read_table(table, None).groups] == [0] * 4
    assert len(payload) < 0.95 * len(data)


@pytest.mark.parametrize("quick", [False, True])
def test_quickly_streams_become_jpeg_xl(quick, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "photo.jpg").write_bytes(jpeg(picture(90, 120, 1)))
    (tree / "slide.tif").write_bytes(slide([tiles(12, 64)], 64, 3))
    pack_tree(tree, tmp_path / "x.callic", options=PackOptions(quick_jpeg=quick))
    assert not jpeg_recoding._QUICK.get()
    with open_archive(tmp_path / "x.callic") as archive:
        for entry in archive.entries:
            if entry.kind == "file":
                payloads = [archive.read(part.place) for part in entry.parts if part.coding in ("jpeg", "jpegs")]
                assert payloads
                assert all((jpeg_stream.MAGIC in payload) != quick for payload in payloads)
                out = io.BytesIO()
                archive.restore(entry, out)
                assert out.getvalue() == (tmp_path / entry.path).read_bytes()


def test_equal_tiles_are_kept_once():
    white = jpeg(np.full((64, 64, 3), 250, "u1") - picture(64, 64, 1) // 8)
    few, many = (slide([[*tiles(12, 64), *[white] * count]], 64, 4) for count in (1, 101))
    assert len(packed(many)) < len(packed(few)) + 600


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("table", [False, True])
def test_dicom(fragments, table):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.SamplesPerPixel = 8, 64, 64, 3
    ds.PhotometricInterpretation, ds.PlanarConfiguration = "YBR_FULL_422", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = encapsulate(tiles(8, 64), fragments_per_frame=fragments, has_bot=table)
    ds["PixelData"].VR = "OB"
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    data = out.getvalue()
    assert len(packed(data)) < 0.9 * len(data)


def test_broken_tiles_are_left_and_the_others_taken():
    every = tiles(24, 64)
    every[5] = every[5][:-300] + b"\xff\xd9"  # coded data end too early,
    every[9] = every[9][:-2]  # and here nothing ends them
    broken = bytearray(every[12])
    broken[-100:-50] = bytes(50)
    every[12] = bytes(broken)
    data = slide([every], 64, 4)
    assert len(packed(data)) < 0.95 * len(data)
    packed(slide([every], 64, 4, tables=False)[:-3000])  # a file that is cut off, which loses its directory


def test_without_their_tables_tiles_are_left():
    data = slide([tiles(4)], 32, 2)
    at = tables_of(data).streams[0]
    assert jpeg_parts.encode(data.replace(at, bytes(len(at)))) is None
    wrong = slide([tiles(4)], 32, 2).replace(at[:40], at[:20] + bytes(20))
    payload = jpeg_parts.encode(wrong, tables_of(wrong))
    assert payload is None or jpeg_parts.decode(payload, len(wrong)) == wrong


def test_nothing_to_gain():
    assert jpeg_parts.encode(b"no pictures " * 100) is None
    assert jpeg_parts.encode(b"ab" + jpeg()[:-2]) is None
    assert [p.coding for p in stored_pieces(b"no pictures " * 100, tables=jpeg_parts.Tables())] == ["zstd"]


def test_whole_files_go_this_way():
    data = slide([tiles(20, 64)], 64, 4)
    found = pack_one.pack_one(data, codec=DeflatePlan().open)
    (piece,) = found.pieces
    assert (found.method, found.fidelity, found.failure, piece.coding) == ("stored", "bytes", None, "jpegs")
    assert expand(piece.payload, piece.coding, piece.size) == data
    assert [p.coding for p in pack_one.pack_one(data, codec=None).pieces] != ["jpegs"]


def test_what_surrounds_images_goes_this_way_too():
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(picture(200, 200), photometric="rgb", compression="jpeg", tile=(64, 64))
        file.write(picture(400, 300, 2), photometric="rgb", compression="lzw")
    data = out.getvalue()
    found = pack_one.pack_one(data, codec=DeflatePlan().open)
    pieces = list(found.pieces)
    assert (found.method, found.failure) == ("image", None)
    assert [p.coding for p in pieces] == ["jpegs", "jpegxl"]  # what stands for a model here loses
    around = expand(pieces[0].payload, "jpegs", pieces[0].size)
    assert around.count(b"\xff\xd8\xff") >= 16


def test_large_files_are_cut_between_streams(monkeypatch):
    monkeypatch.setattr(verbatim, "CHUNK", 20000)
    data = b"".join(tiles(40, 64)) + bytes(30000)
    seen = bytearray()
    blocks = [data[i : i + 7000] for i in range(0, len(data), 7000)]
    streamed = list(streamed_pieces(blocks, len(data), seen.extend, recode=True))
    whole = list(stored_pieces(data, tables=jpeg_parts.Tables()))
    assert seen == data
    for pieces in (streamed, whole):
        assert b"".join(expand(p.payload, p.coding, p.size) for p in pieces) == data
        assert [p.coding for p in pieces][:3] == ["jpegs"] * 3
        assert all(p.size <= 20000 for p in pieces)
    assert sum(len(p.payload) for p in streamed) < 0.9 * sum(len(t) for t in tiles(40, 64))
    plain = list(streamed_pieces(blocks, len(data), lambda chunk: None))
    assert {p.coding for p in plain} <= {"raw", "zstd"}


@given(
    parts=st.lists(
        st.one_of(
            st.binary(max_size=40), st.sampled_from([*tiles(4), jpeg(), b"\xff\xd8\xff", tiles(1)[0][:500]])
        ),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=25)
def test_whatever_is_found_comes_back(parts):
    data = b"".join(parts)
    payload = jpeg_parts.encode(data)
    assert payload is None or jpeg_parts.decode(payload, len(data)) == data


def test_damaged_payloads_are_refused():
    data = slide([tiles(20, 64)], 64, 4)
    good = packed(data)
    rng = np.random.default_rng(4)
    for n in range(60):
        broken = bytearray(good)
        if n % 3:
            broken[int(rng.integers(len(good) if n % 2 else 60))] ^= int(rng.integers(1, 256))
        else:
            del broken[int(rng.integers(len(good))) :]
        try:
            found = jpeg_parts.decode(bytes(broken), len(data))
        except (ValueError, ForeignCodecFailed):
            continue
        assert len(found) == len(data)
    for size in (0, len(data) - 1, len(data) + 1):
        with pytest.raises(ValueError, match="part with JPEG streams"):
            jpeg_parts.decode(good, size)
    with pytest.raises(ValueError, match="more than"):
        expand(good, "jpegs", 1 << 40)


def regions(payload):
    """Where table, rest and each recoded stream lie in a payload."""
    head, table = jpeg_form.frame(payload, 0, 1 << 20)
    _, rest = jpeg_form.frame(payload, table, 1 << 30)
    ends = [table, rest]
    for group in jpeg_form.read_table(head, None).groups:
        ends.append(ends[-1] + group.packed)
    assert ends[-1] == len(payload)
    return [(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def test_of_a_damaged_payload_all_is_left_that_proves_itself():
    data = slide([tiles(8, 64), tiles(12, 64, quality=40), tiles(5, 64, subsampling=0)], 64, 4) + jpeg(
        picture(200, 200)
    )
    good = packed(data)
    assert jpeg_parts.left_of(good, len(data)) == [(0, data)]
    assert jpeg_parts.size_of(good, 1 << 20) == len(data)
    assert jpeg_parts.size_of(good, len(data) - 1) is None
    places = regions(good)
    assert len(places) == 2 + 4
    lost = []
    for number, (begin, end) in enumerate(places):
        broken = bytearray(good)
        broken[(begin + end) // 2] ^= 16
        runs = jpeg_parts.left_of(bytes(broken), len(data))
        for offset, run in runs:
            assert data[offset : offset + len(run)] == run
        assert all(a + len(run) < b for (a, run), (b, _) in pairwise(runs))
        lost.append(len(data) - sum(len(run) for _, run in runs))
        assert jpeg_parts.size_of(bytes(broken), 1 << 20) == (len(data) if number > 1 else None)
    assert lost[0] == len(data)  # nothing tells what lies where
    assert 0 < lost[1] < len(data) / 2  # streams are left
    # each file has its streams alone, all of which are lost with it
    assert sum(lost[2:]) == len(data) - lost[1]
    assert min(lost[2:]) > 0
    assert jpeg_parts.left_of(good[:40], len(data)) == jpeg_parts.left_of(b"", 5) == []


def test_whatever_happens_to_a_payload_no_wrong_byte_is_left():
    data = slide([tiles(20, 64), tiles(6, 64, quality=40)], 64, 4)
    good = packed(data)
    rng = np.random.default_rng(5)
    for n in range(60):
        broken = bytearray(good)
        for _ in range(1 + n % 3):
            broken[int(rng.integers(len(good) if n % 2 else 60))] ^= int(rng.integers(1, 256))
        if n % 5 == 0:
            del broken[int(rng.integers(len(good))) :]
        for offset, run in jpeg_parts.left_of(bytes(broken), len(data)):
            assert data[offset : offset + len(run)] == run


@pytest.mark.parametrize(
    ("groups", "gaps", "lengths", "streams"),
    [
        ([(0, 100, 0, 101)], [0], [100], [0]),
        ([(0, 1 << 40, 0, 10)], [0], [100], [0]),
        ([(0, 100, 0, 10)], [1 << 40], [100], [0]),
        ([(0, 100, 0, 10)], [0], [1 << 40], [0]),
        ([(7, 100, 0, 10)], [0], [100], [0]),
        ([], [0], [100], [0]),
        ([], [0], [100], [-1]),
    ],
)
def test_impossible_tables_are_refused_before_memory_is_taken(groups, gaps, lengths, streams):
    table = jpeg_form.Table(
        tuple(jpeg_form.Group(*g, 0) for g in groups), tuple(gaps), tuple(lengths), tuple(streams)
    )
    head = jpeg_form.zstd(jpeg_form.table_bytes(table))
    rest = jpeg_form.zstd(b"")
    payload = bytes([len(head)]) + head + bytes([len(rest)]) + rest
    with pytest.raises(ValueError, match="part with JPEG streams"):
        jpeg_parts.decode(payload, 100)
    assert jpeg_parts.left_of(payload, 100) == []


@pytest.mark.parametrize("progressive", [False, True])
def test_no_library_is_asked_for_forged_sizes(monkeypatch, progressive):
    monkeypatch.setattr(isolated, "ask", lambda *_, **__: pytest.fail("a library was asked"))
    code = forged(jpeg(progressive=progressive))
    assert verbatim.recoded_jpeg(code) is None
    assert jpeg_parts.encode(b"%PDF" + code + b"endstream") is None


def test_nor_for_more_pixels_than_there_is_memory_for(monkeypatch):
    monkeypatch.setattr(isolated, "ask", lambda *_, **__: pytest.fail("a library was asked"))
    monkeypatch.setattr(jpeg_limits, "MOST_PIXELS", 48 * 64 - 1)
    assert verbatim.recoded_jpeg(jpeg()) is None
    assert jpeg_parts.encode(jpeg()) is None


def test_sequential_streams_need_no_library(monkeypatch):
    def missing(*_, **__):
        raise ForeignCodecMissing("no library")

    monkeypatch.setattr(isolated, "ask", missing)
    for code in (jpeg(), jpeg(picture(channels=1)), jpeg(picture(channels=4)), jpeg(optimize=True, restart_marker_blocks=3)):
        (piece,) = verbatim.recoded_jpeg(code)
        assert (piece.coding, piece.payload[:4]) == ("jpeg", jpeg_stream.MAGIC)
        assert len(piece.payload) < len(code)
        assert expand(piece.payload, "jpeg", len(code)) == code
    assert verbatim.recoded_jpeg(jpeg(progressive=True)) is None
    data = slide([tiles(8, 64)], 64, 4) + jpeg(progressive=True)
    assert len(packed(data)) < 0.9 * len(data)


def test_others_become_jpegxl():
    code = jpeg(picture(200, 200), progressive=True)
    (piece,) = verbatim.recoded_jpeg(code)
    assert piece.payload[:4] != jpeg_stream.MAGIC
    assert expand(piece.payload, "jpeg", len(code)) == code
    sequential = jpeg(picture(200, 200))
    behind = packed(code + sequential)
    assert jpeg_stream.MAGIC in behind
    assert b"JXL " in behind


def test_records_of_earlier_versions_are_read():
    code = jpeg(picture(200, 200))
    payload = isolated.ask("encode_jpeg", code, memory=1 << 20)
    assert expand(payload, "jpeg", len(code)) == code


def test_blank_images_are_recoded_and_read_within_the_same_bounds():
    code = jpeg(np.zeros((3000, 3000), "u1"), progressive=True)
    (piece,) = verbatim.recoded_jpeg(code)
    assert piece.coding == "jpeg"
    assert len(piece.payload) < len(code) / 10
    assert expand(piece.payload, "jpeg", len(code)) == code
