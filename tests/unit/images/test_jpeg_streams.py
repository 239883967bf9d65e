"""JPEG streams inside other bytes: found by their markers, joined and parted, never followed out of bounds."""

from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from callic_archive.images import tiff_jpeg
from callic_archive.images.jpeg_streams import find, joined, parted, read
from callic_archive.images.source import Limits
from tests.slides import forged, jpeg, picture, slide


def pixels(code):
    return np.asarray(Image.open(io.BytesIO(code)))


def test_streams_are_found_wherever_they_lie():
    first, second = jpeg(quality=80), jpeg(progressive=True)
    gray = jpeg(picture(channels=1))
    data = b"abc" + first + b"\0" + second + b"\xff\xd8\xff\xe0 no stream" + gray + b"end"
    found = find(memoryview(data))
    assert [s.read(memoryview(data)) for s in found.streams] == [first, second, gray]
    assert [len(s.jpeg.sampling) for s in found.streams] == [3, 3, 1]
    assert found.streams[1].jpeg.scans > 1
    assert [s.jpeg.segments for s in found.streams] == [1, 0, 1]
    assert found.open is None


def test_a_thumbnail_is_part_of_its_picture():
    small, whole = jpeg(picture(16, 16)), jpeg()
    nested = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small + whole[2:]
    found = find(memoryview(nested))
    assert [s.spans for s in found.streams] == [((0, len(nested)),)]


def test_a_stream_that_is_cut_off_is_told():
    code = jpeg()
    for end in range(4, len(code) - 1, 7):
        found = find(memoryview(b"12345" + code[:end]))
        assert not found.streams
        assert found.open == 5
        assert read(memoryview(code[:end])) is None


def test_what_cannot_be_recoded_is_passed_over():
    code = bytearray(jpeg())
    at = code.index(b"\xff\xc0")
    for change in ({at + 4: 12}, {at + 1: 0xC3}, {at + 5: 0, at + 6: 0}, {at + 11: 0x55}):
        other = bytearray(code)
        for place, value in change.items():
            other[place] = value
        assert not find(memoryview(bytes(other))).streams
    cmyk = io.BytesIO()
    Image.fromarray(picture(channels=4), "CMYK").save(cmyk, "JPEG")
    (stream,) = find(memoryview(cmyk.getvalue())).streams
    assert len(stream.jpeg.sampling) == 4


def test_fragments_of_dicom_are_put_together():
    code = jpeg() + b"\0" * (len(jpeg()) % 2)
    item = b"\xfe\xff\x00\xe0"
    pieces = [code[:400], code[400:402], code[402:]]
    data = (
        b"head" + b"".join(item + struct.pack("<I", len(p)) + p for p in pieces) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    found = find(memoryview(data))
    assert len(found.streams) == 1
    assert len(found.streams[0].spans) == 3
    assert found.streams[0].read(memoryview(data)) == jpeg()
    assert not find(memoryview(data[:430])).streams


@given(
    count=st.integers(1, 9),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    sampling=st.integers(0, 2),
    restart=st.integers(0, 3),
    colour=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_joined_streams_show_all_pictures_and_part_again(count, size, sampling, restart, colour):
    options = {"subsampling": sampling} if colour else {}
    codes = [
        jpeg(picture(*size, seed=i, channels=3 if colour else 1).reshape(*size, *((3,) if colour else ())),
             restart_marker_blocks=restart, **options)
        for i in range(count)
    ]  # fmt: skip
    told = [read(memoryview(code)) for code in codes]
    first = told[0]
    assert first is not None
    if not first.segments:
        assert restart
        return
    cut = [code[t.coded : t.scan_end] for code, t in zip(codes, told, strict=True)]
    tall = joined(first, codes[0][: first.coded], b"", cut)
    again = read(memoryview(tall))
    assert again is not None
    assert again.height == first.rows * count
    assert parted(tall[again.coded : again.scan_end], count, first.segments) == cut
    shown = pixels(tall)
    for i, code in enumerate(codes):
        rows = slice(i * first.rows, i * first.rows + size[0])
        if sampling == 0:  # else libjpeg smooths chroma over the borders of the pictures
            np.testing.assert_array_equal(shown[rows], pixels(code))
    assert parted(tall[again.coded : again.scan_end], count + 1, first.segments) is None


def test_streams_in_streams_do_not_take_for_ever():
    segment = b"\xff\xd8\xff\xe0\0\x06\xff\xd8\xff\xe0"
    hostile = (segment * 400_000)[: 4 << 20]
    begin = time.monotonic()
    find(memoryview(hostile))
    find(memoryview((b"\xff\xd8\xff\xfe\xff\xff" + b"\xff\xd8\xff" * 21845) * 60))
    find(memoryview(b"\xfe\xff\x00\xe0\4\0\0\0\xff\xd8\xff\xe0" * 200_000))
    assert time.monotonic() - begin < 60


# -- tables of TIFF -------------------------------------------------------------------------------------------


def tiff(*, big=False):
    """Two pages of tiles with tables of their own."""
    pages = [[jpeg(picture(32, 32, seed), quality=quality) for seed in range(4)] for quality in (80, 40)]
    return slide(pages, 32, 2, big=big)


@pytest.mark.parametrize("big", [False, True])
def test_tables_of_each_page(big):
    data = memoryview(tiff(big=big))
    tables = tiff_jpeg.tables(data, Limits())
    streams = find(data).streams
    assert len(tables.streams) == 2
    assert len(streams) == 4 + 4
    assert [tables.number(s.spans[0][0]) for s in streams] == [0] * 4 + [1] * 4
    assert all(not s.jpeg.quantization and not s.jpeg.huffman for s in streams)
    later = tables.at(100)
    assert later.number(streams[0].spans[0][0] - 100) == 0
    assert later.number(3) is None


def test_tables_of_broken_files():
    good = tiff()
    for end in range(0, len(good), 50):
        tiff_jpeg.tables(memoryview(good[:end]), Limits())
    assert not tiff_jpeg.tables(memoryview(b"no TIFF"), Limits()).streams


def test_a_million_tiles_in_a_small_file():
    head = struct.pack("<2sHI", b"II", 42, 8)
    tables = b"\xff\xd8\xff\xdb\0\3\0\xff\xd9"
    entries = [(256, 4, 1, 1 << 19), (257, 4, 1, 1 << 19), (259, 3, 1, 7), (322, 3, 1, 256), (323, 3, 1, 256),
               (324, 4, 1 << 20, 100), (325, 4, 1 << 20, 100), (347, 7, len(tables), 200)]  # fmt: skip
    body = head + struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    data = (body + bytes(200))[:200] + tables + bytes(4000)
    assert len(tiff_jpeg.tables(memoryview(data), Limits()).places) == 0


ITEM = b"\xfe\xff\x00\xe0"


def items_in_items(count):
    """Fragments that all begin a stream of their own and share what follows them."""
    starts = b"".join(
        ITEM + struct.pack("<I", 11 * (count - k - 1) + 3) + b"\xff\xd8\xff" for k in range(count)
    )
    return starts + (ITEM + bytes(4)) * count


def jumps_to_one_scan(count, size):
    """Streams whose first segments all end where one endless scan begins."""
    starts = b"".join(
        b"\xff\xd8\xff\xe1" + struct.pack(">H", 6 * (count - k - 1) + 2) for k in range(count)
    )
    frame = b"\xff\xc0\x00\x0b\x08\0\x10\0\x10\1\1\x11\0"
    return starts + frame + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + bytes(size)


@pytest.mark.parametrize(
    "data",
    [
        items_in_items(9_000),
        jumps_to_one_scan(10_000, 16 << 20),
        b"\xff\xd8" + b"\xff\xdd\0\4\0\1" * 300_000 + b"\xff\xd9",
    ],
    ids=["items", "scans", "restarts"],
)
def test_streams_that_share_bytes_do_not_take_for_ever(data):
    began = time.process_time()
    assert not find(memoryview(data)).streams
    assert time.process_time() - began < 20  # seconds, of minutes and more


def test_fragments_among_many_are_still_found():
    code = jpeg()
    parts = [code[i : i + 16] for i in range(0, len(code), 16)]
    one = b"".join(ITEM + struct.pack("<I", len(part)) + part for part in parts)
    found = find(memoryview(one * 200))
    assert [stream.read(memoryview(one * 200)) for stream in found.streams] == [code] * 200


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_size_that_the_coded_data_cannot_hold_is_told(progressive, channels):
    blank = np.zeros((1500, 1501, channels), "u1").squeeze()
    for image in (blank, picture(channels=channels)):
        code = jpeg(image, progressive=progressive, optimize=True)
        assert read(memoryview(code)).possible
        assert not read(memoryview(forged(code))).possible
