"""TIFF: every layout that tifffile and Pillow write comes back byte for byte; liars and loops are named."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from callic_archive.errors import MalformedSource, SourceError, SourceTooLarge, TruncatedSource
from callic_archive.images import Limits, images_equal, parse
from callic_archive.images.layout import unrun
from tests.streams import capricious, flushed


def written(array, **options):
    out = io.BytesIO()
    with tifffile.TiffWriter(
        out, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")
    ) as t:
        t.write(array, **options)
    return out.getvalue()


def pixels(array, planar):
    return array.transpose(1, 2, 0) if planar else array


LAYOUTS = [{}, {"rowsperstrip": 5}, {"tile": (16, 16)}, {"tile": (16, 32)}]
PACKINGS = [{}, {"compression": "lzw"}, {"compression": "zlib"}, {"compression": "packbits"},
            {"compression": "zlib", "predictor": 2}, {"compression": "lzw", "predictor": 2}]  # fmt: skip


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_uncompressed_layouts(exact, noise, dtype, byteorder, layout):
    for samples, planar, big in itertools.product((1, 2, 3, 4), (False, True), (False, True)):
        if samples == 1 and planar:
            continue
        shape = (samples, 37, 41) if planar else (37, 41, samples)
        array = noise(shape[:2] if samples == 1 else shape, dtype)
        rgb = "rgb" if samples > 2 else "minisblack"
        config = ("separate" if planar else "contig") if samples > 1 else None
        extra = {"extrasamples": ["unspecified"]} if samples in (2, 4) else {}
        data = written(
            array, bigtiff=big, byteorder=byteorder, photometric=rgb, planarconfig=config, **layout, **extra
        )
        (image,) = exact(data).images
        expected = pixels(array, planar and samples > 1)
        if dtype == "i1":
            expected = expected.astype(int) + 128
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("packing", PACKINGS[1:], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_compressed_layouts(noise, packing, layout, rebuilt):
    """Pixels always come out right, and the file too wherever an encoder repeats tifffile's."""
    for dtype, byteorder, samples in (("u1", "<", 3), ("u2", ">", 1), ("i2", "<", 1), ("u2", "<", 4)):
        array = noise((37, 41, samples) if samples > 1 else (37, 41), dtype)
        data = written(
            array,
            byteorder=byteorder,
            photometric="rgb" if samples > 1 else "minisblack",
            **layout,
            **packing,
        )
        parsed = parse(data)
        assert parsed is not None
        np.testing.assert_array_equal(parsed.images[0], array)
        again = rebuilt(parsed)
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(again)), array)
        assert (again == data) == (parsed.fidelity == "bytes")
        if packing["compression"] == "zlib":
            assert parsed.fidelity == "bytes"


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_libtiff_files_are_repeated(exact, compression, mode):
    """Pillow writes with libtiff: its LZW and PackBits, and zlib, must come back exactly."""
    rng = np.random.default_rng(1)
    shape = (200, 300, 3) if mode == "RGB" else (200, 300)
    smooth = np.cumsum(rng.integers(-1, 2, shape), axis=1)
    smooth[50:90] = 7  # runs
    smooth[120:] = rng.integers(
        0, 255, smooth[120:].shape
    )  # what LZW cannot shorten makes it clear its table
    array = smooth.astype(np.uint16 if mode == "I;16" else np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(array).save(out, "TIFF", compression=compression)
    np.testing.assert_array_equal(exact(out.getvalue()).images[0], array)


def test_libtiff_predictor_is_repeated(exact, noise):
    array = noise((100, 120, 3))
    out = io.BytesIO()
    Pillow.fromarray(array).save(out, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    np.testing.assert_array_equal(exact(out.getvalue()).images[0], array)


def test_pages_and_sub_directories(exact, noise):
    out = io.BytesIO()
    pages = [noise((33, 20)), noise((17, 9, 3)), noise((8, 8), "u2")]
    with tifffile.TiffWriter(out) as tif:
        tif.write(pages[0], subifds=2)
        tif.write(pages[0][::2, ::2], subfiletype=1)
        tif.write(pages[0][::4, ::4], subfiletype=1)
        tif.write(pages[1], photometric="rgb", compression="zlib", tile=(16, 16))
        tif.write(noise((8, 8)), compression="lzma")  # stays in the surround
        tif.write(pages[2])
    images = exact(out.getvalue()).images
    expected = [pages[0], pages[0][::2, ::2], pages[0][::4, ::4], pages[1], pages[2]]
    assert len(images) == len(expected)
    for image, array in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image, array)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(
    ("bands", "dtype", "together"),
    [(5, "u1", True), (13, "u2", True), (255, "u1", True), (256, "u2", False), (13, "u4", False)],
)
def test_bands_are_one_image_unless_they_are_too_many_or_too_wide(
    exact, noise, planar, bands, dtype, together
):
    array = noise((bands, 21, 17) if planar else (21, 17, bands), dtype)
    data = written(array, photometric="minisblack", planarconfig="separate" if planar else "contig")
    images = exact(data).images
    assert len(images) == (1 if together else bands)
    found = images[0] if together else np.stack(images, axis=-1)
    np.testing.assert_array_equal(found, pixels(array, planar))


def zlib_of(body, raw):
    """A raw deflate stream as a zlib stream."""
    return b"\x78\x9c" + body + zlib.adler32(raw).to_bytes(4, "big")


def test_a_few_blocks_of_another_encoder_stay_as_they_are(exact, noise):
    """One strip whose stream costs too much must not cost the other strips their exactness."""
    array = noise((400, 1024), "u2")
    array[:100] = 0
    strips = [array[y : y + 100].tobytes() for y in range(0, 400, 100)]
    odd = zlib_of(capricious(strips[0], 1, 0), strips[0])
    parsed = exact(tiff_of_blocks([odd, *map(zlib.compress, strips[1:])], 1024, 400, 100))
    np.testing.assert_array_equal(parsed.images[0], array)
    assert unrun(parsed.recipe["blocks"][0]) == (-1, 0, 0, 0)
    assert odd in parsed.surround


def test_content_when_differences_cost_too_much(content):
    array = np.zeros((300, 1024), "u2")
    strips = [array[y : y + 100].tobytes() for y in range(0, 300, 100)]
    parsed = content(tiff_of_blocks([zlib_of(capricious(x, 1, 0), x) for x in strips], 1024, 300, 100))
    np.testing.assert_array_equal(parsed.images[0], array)
    assert "differences" not in parsed.recipe


@pytest.mark.parametrize("filling", [0, 5])
def test_blocks_of_unknown_encoders_come_back_by_their_differences(exact, noise, filling):
    array = noise((300, 64), "u2")
    strips = [array[y : y + 10].tobytes() for y in range(0, 300, 10)]
    blocks = [zlib_of(flushed(x, [700], zlib.Z_FULL_FLUSH, 1), x) + bytes(filling) for x in strips]
    parsed = exact(tiff_of_blocks([zlib.compress(strips[0]), *blocks[1:]], 64, 300, 10))
    np.testing.assert_array_equal(parsed.images[0], array)
    assert parsed.recipe["encoders"] == [["differences", 0x789C, 0], ["zlib", 6, 8]]
    assert 0 < parsed.recipe["differences"] < 30 * 60
    lighter = parsed.lighter()
    assert lighter.fidelity == "content"
    assert images_equal(parsed, lighter)


def test_blocks_in_another_order_than_in_the_file(exact, noise):
    """Differences are read in the order in which the file is written, whatever the directory says."""
    array = noise((40, 64), "u2")
    strips = [array[y : y + 10].tobytes() for y in range(0, 40, 10)]
    blocks = [zlib_of(flushed(x, [300 + 40 * i]), x) for i, x in enumerate(strips)]
    data = bytearray(tiff_of_blocks(blocks, 64, 40, 10))
    tables = len(data) - sum(map(len, blocks)) - 32
    for at in (tables, tables + 16):
        data[at : at + 16] = b"".join(data[at + 4 * i : at + 4 * i + 4] for i in (2, 0, 3, 1))
    parsed = exact(bytes(data))
    np.testing.assert_array_equal(
        parsed.images[0], np.concatenate([array[10 * i :][:10] for i in (2, 0, 3, 1)])
    )


@pytest.mark.parametrize("level", [1, 6, 9, 12])
def test_blocks_of_libdeflate_need_no_libdeflate_where_that_is_cheap(exact, level):
    import imagecodecs

    array = (np.add.outer(np.arange(300) ** 2 // 50, np.arange(640) // 3) % 251).astype("u2")
    strips = [array[y : y + 100].tobytes() for y in range(0, 300, 100)]
    blocks = [bytes(imagecodecs.deflate_encode(x, level=level, raw=False)) for x in strips]
    parsed = exact(tiff_of_blocks(blocks, 640, 300, 100))
    names = {library for library, _, _ in parsed.recipe["encoders"]}
    assert names in ({"differences"}, {"libdeflate"})
    assert ("libdeflate" in parsed.recipe) == (names == {"libdeflate"})
    assert "zlib" not in parsed.recipe


def tiff_of_blocks(blocks, width, height, rows, compression=8, bits=16):
    """A little-endian gray TIFF with the given packed strips."""
    entries = {256: width, 257: height, 258: bits, 259: compression, 262: 1, 277: 1, 278: rows}
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    offsets = np.cumsum([0] + [len(b) for b in blocks]) + start + 8 * len(blocks)
    fields = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()]
    where = {273: start, 279: start + 4 * len(blocks)}
    values = {273: offsets[:-1], 279: [len(b) for b in blocks]}
    for tag, at in where.items():
        single = int(values[tag][0]) if len(blocks) == 1 else at
        fields.append(struct.pack("<HHII", tag, 4, len(blocks), single))
    fields.sort(key=lambda field: struct.unpack("<H", field[:2]))
    head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + b"".join(fields) + bytes(4)
    tables = np.array(values[273], "<u4").tobytes() + np.array(values[279], "<u4").tobytes()
    return head + tables + b"".join(blocks)


def patched(data, tag, value):
    """The first directory's field ``tag`` with another value (little-endian classic TIFF)."""
    at = data.index(struct.pack("<H", tag), struct.unpack_from("<I", data, 4)[0])
    return data[: at + 8] + struct.pack("<I", value) + data[at + 12 :]


def test_lies_are_named(noise):
    good = tiff_of_blocks([bytes(64 * 2 * 10)], 64, 10, 10, compression=1)
    assert parse(good) is not None
    with pytest.raises(MalformedSource, match="needs 2 blocks, names offsets of 1"):
        parse(patched(good, 257, 20))
    with pytest.raises(MalformedSource, match="its pixels need"):
        parse(patched(good, 256, 65))
    with pytest.raises(TruncatedSource, match="the file has"):
        parse(patched(good, 273, 1 << 30))
    with pytest.raises(TruncatedSource):
        parse(good[:-1])
    with pytest.raises(MalformedSource, match="pixels"):
        parse(patched(good, 256, 0))
    with pytest.raises(SourceError):
        parse(patched(patched(good, 256, 1 << 30), 257, 1 << 30))
    with pytest.raises(TruncatedSource, match="a block larger than the file"):
        parse(patched(patched(good, 259, 5), 279, 1 << 31))


def test_bombs_are_refused_before_memory_is_taken():
    import zlib

    bomb = zlib.compress(bytes(1 << 20), 9)
    with pytest.raises(SourceTooLarge):
        parse(tiff_of_blocks([bomb], 1 << 15, 1 << 15, 1 << 15))
    with pytest.raises(TruncatedSource, match="decodes to"):
        parse(tiff_of_blocks([bomb], 1 << 10, 1 << 9 | 1, 1 << 10))
    with pytest.raises(SourceTooLarge, match="blocks"):
        parse(tiff_of_blocks([bomb], 4, 99, 1), limits=Limits(max_blocks=98))


def test_overlap_cycles_and_shared_directories(noise):
    block = bytes(64 * 2 * 5)
    two = bytearray(tiff_of_blocks([block, block], 64, 10, 5, compression=1))
    at = two.index(struct.pack("<HHI", 273, 4, 2)) + 8
    table = struct.unpack_from("<I", two, at)[0]
    struct.pack_into("<I", two, table + 4, struct.unpack_from("<I", two, table)[0] + 1)
    with pytest.raises(MalformedSource, match="overlap"):
        parse(bytes(two))
    good = tiff_of_blocks([bytes(64 * 2 * 10)], 64, 10, 10, compression=1)
    count = struct.unpack_from("<H", good, 8)[0]
    loop = good[: 10 + 12 * count] + struct.pack("<I", 8) + good[14 + 12 * count :]
    with pytest.raises(MalformedSource, match="cycle"):
        parse(loop)
    with pytest.raises(SourceError):
        parse(b"II*\0" + struct.pack("<IHI", 8, 1, 0))  # fourteen bytes
    with pytest.raises(SourceError):
        parse(b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + struct.pack("<Q", 1 << 60))
    with pytest.raises(SourceError):
        parse(b"II+\0" + bytes(4))


def test_directories_that_share_a_huge_table_are_refused():
    """Ten thousand directories over one table would cost ten thousand times its size."""
    table = bytes(4 * 20000)
    count, at = 50, 8 + len(table)
    out = b"II*\0" + struct.pack("<I", at) + table
    for i in range(count):
        following = at + (i + 1) * 30 if i + 1 < count else 0
        out += struct.pack("<HHHII", 2, 258, 3, 1, 24) + struct.pack("<HHIII", 273, 4, 20000, 8, following)
    with pytest.raises(MalformedSource, match="share tables"):
        parse(out)


def test_damage(damage, noise):
    for options in ({}, {"tile": (16, 16), "compression": "zlib"}, {"compression": "lzw"}, {"bigtiff": True}):
        data = written(noise((20, 33, 3)), photometric="rgb", **options)
        assert damage(data, every=7)["error"] > 50


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<u4", ">i4", "<i8"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw"}, {"tile": (16, 16)}])
def test_wide_samples_are_bit_patterns(exact, dtype, options):
    array = (np.random.default_rng(2).normal(0, 9, (33, 20)) * 1000).astype(dtype)
    (image,) = exact(written(array, byteorder=dtype[0], **options)).images
    native = array.astype(array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(image, native.view(image.dtype))


def test_what_is_left_and_why(noise, reason):
    out = io.BytesIO()
    Pillow.fromarray(noise((9, 9, 3))).save(out, "TIFF", compression="jpeg")
    assert reason(out.getvalue()) == "lossy"
    out = io.BytesIO()
    Pillow.fromarray(noise((9, 9)) > 90).save(out, "TIFF", compression="group4")
    assert reason(out.getvalue()) == "coding"
    good = tiff_of_blocks([bytes(64 * 2 * 10)], 64, 10, 10, compression=1)
    assert reason(patched(good, 273, 0)) == "sparse"
    assert reason(patched(good, 258, 24)) == "samples"
    assert reason(patched(written(noise((9, 9, 3)), photometric="rgb"), 262, 6)) == "colour"


def test_strips_of_one_run_are_a_view(noise):
    data = np.frombuffer(written(noise((64, 32), "u2"), rowsperstrip=4), np.uint8).copy()
    parsed = parse(memoryview(data))
    assert parsed is not None
    assert np.shares_memory(parsed.images[0], data)
    assert len(parsed.surround) < 1000


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 5}, {"tile": (16, 16)}])
@pytest.mark.parametrize("planar", [False, True])
def test_many_small_pages_lie_below_each_other(exact, noise, options, planar):
    pages = noise((11, 3, 10, 16) if planar else (11, 10, 16, 3))
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as tif:
        for page in pages:
            tif.write(page, photometric="rgb", planarconfig="separate" if planar else "contig",
                      contiguous=False, **options)  # fmt: skip
    images = exact(out.getvalue()).images
    expected = pages.transpose(0, 2, 3, 1) if planar else pages
    if "tile" in options:  # tiles of a page that hold more rows than it has cannot be joined
        np.testing.assert_array_equal(np.stack(images), expected)
    else:
        np.testing.assert_array_equal(images[0], expected.reshape(110, 16, 3))
