"""Samples that share bytes, palettes, wide integers and floats, in TIFF and DICOM: byte for byte, and the right values."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image as Pillow
from pydicom.pixels import pack_bits as packed_by_pydicom
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from callic_archive.errors import RebuildMismatch
from callic_archive.images import parse, rebuild
from callic_archive.images.bit_packing import pack_bits, unpack_bits
from callic_archive.images.cutting import cut, spans_of
from callic_archive.images.outline import outline
from callic_archive.images.pieces import parse_piece, piece_images
from callic_archive.images.tiff_codecs import FLOATS, Packing
from tests.unit.images.test_dicom import dicom
from tests.unit.images.test_dicom_coded import dicom as coded_dicom
from tests.unit.images.test_dicom_coded import rle_code, smooth
from tests.unit.images.test_tiff import written

NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def tiff(raw, width, height, bits, samples=1, planar=False, photometric=1, tile=(0, 0), order="<"):
    """A TIFF of one strip, a strip a plane, or tiles without compression, whose bytes are ``raw``."""
    rows, columns = tile if tile[0] else (height, width)
    blocks = -(-height // rows) * -(-width // columns) * (samples if planar else 1)
    size = len(raw) // blocks
    tags = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * samples), (259, 3, [1]), (262, 3, [photometric]),
        (277, 3, [samples]), (284, 3, [2 if planar else 1]),
    ]  # fmt: skip
    names = (324, 325) if tile[0] else (273, 279)
    tags += [(322, 4, [columns]), (323, 4, [rows])] if tile[0] else [(278, 4, [rows])]
    tags += [(names[0], 4, [8 + size * k for k in range(blocks)]), (names[1], 4, [size] * blocks)]
    at = 8 + len(raw)
    extra = at + 2 + 12 * len(tags) + 4
    directory, more = struct.pack(order + "H", len(tags)), b""
    for tag, kind, values in sorted(tags):
        letter = "H" if kind == 3 else "I"
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(data) > 4:
            data, more = struct.pack(order + "I", extra + len(more)), more + data
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return head + raw + directory + bytes(4) + more


# -- bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 16))
def test_bits_are_unpacked_as_written_out_by_hand(bits):
    samples = np.random.default_rng(bits).integers(0, 1 << bits, (5, 11)).astype("u1" if bits <= 8 else "u2")
    rows = pack_bits(samples, bits)
    for row, own in zip(rows, samples.tolist(), strict=True):
        text = "".join(f"{value:0{bits}b}" for value in own)
        assert "".join(f"{byte:08b}" for byte in row.tolist()) == text.ljust(8 * len(row), "0")
    np.testing.assert_array_equal(unpack_bits(rows, 11, bits), samples)
    assert unpack_bits(rows, 11, bits).dtype == samples.dtype
    with pytest.raises(RebuildMismatch):
        pack_bits(np.full((1, 1), 1 << bits, "u2"), bits)


def test_the_lowest_bit_may_come_first():
    samples = (np.random.default_rng(0).random((4, 16)) > 0.5).astype("u1")
    rows = pack_bits(samples, 1, lowest_first=True)
    assert rows.tobytes() == packed_by_pydicom(samples.ravel(), pad=False)
    np.testing.assert_array_equal(unpack_bits(rows, 13, 1, lowest_first=True), samples[:, :13])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("samples", [1, 3])
def test_tiff_of_few_bits(exact, bits, samples):
    rng = np.random.default_rng(bits)
    for planar, tile, order in itertools.product((False, True), ((0, 0), (16, 16)), "<>"):
        if planar and samples == 1:
            continue
        spp = 1 if planar else samples
        width, height = 21, 19
        columns, rows = (32, 32) if tile[0] else (width, height)
        planes = samples if planar else 1
        whole = rng.integers(0, 1 << bits, (planes, rows, columns, spp)).astype("u1" if bits < 8 else "u2")
        if tile[0]:
            blocks = [
                whole[p, y : y + 16, x : x + 16] for p in range(planes) for y in (0, 16) for x in (0, 16)
            ]
        else:
            blocks = list(whole)
        raw = b"".join(pack_bits(block.reshape(len(block), -1), bits).tobytes() for block in blocks)
        # the bits that no row needs may be anything
        for k in range(3) if not tile[0] and columns * spp * bits % 8 else ():
            pitch = -(-columns * spp * bits // 8)
            at = (k + 1) * pitch - 1
            raw = raw[:at] + bytes([raw[at] | 1]) + raw[at + 1 :]
        data = tiff(raw, width, height, bits, samples, planar, 2 if samples == 3 else 1, tile, order)
        (image,) = exact(data).images
        pixels = whole[:, :height, :width]
        expected = pixels[..., 0].transpose(1, 2, 0) if planar else pixels[0]
        np.testing.assert_array_equal(image, expected[..., 0] if samples == 1 else expected)


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_lzw", "tiff_adobe_deflate"])
def test_masks_of_libtiff(exact, compression):
    mask = np.add.outer(np.arange(70) ** 2, np.arange(93) ** 2) % 1700 < 800
    out = io.BytesIO()
    Pillow.fromarray(mask).save(out, "TIFF", compression=compression)
    parsed = exact(out.getvalue())
    np.testing.assert_array_equal(parsed.images[0], mask)
    assert parsed.recipe["layouts"][0]["bits"] == 1


@pytest.mark.parametrize("options", [{}, {"tile": (32, 32)}, {"compression": "zlib"}])
def test_masks_of_tifffile(exact, options):
    mask = np.random.default_rng(0).random((50, 61)) > 0.7
    (image,) = exact(written(mask, **options)).images
    np.testing.assert_array_equal(image, mask)


def test_masks_that_are_cut_into_pieces():
    """Rows of bits are never cut across; all pieces together are the mask."""
    mask = np.random.default_rng(1).random((700, 1333)) > 0.5
    data = tiff(pack_bits(mask.astype("u1"), 1).tobytes(), 1333, 700, 1)
    found = outline(data)
    assert found is not None
    pieces = cut(found, 100_000)
    assert pieces is not None
    assert len(pieces) > 5
    rows = []
    for piece in pieces:
        own = b"".join(data[a : a + n] for a, n in spans_of(piece))
        if not piece.images:
            continue
        parsed = parse_piece("tiff", piece.form, own)
        assert parsed is not None
        out = io.BytesIO()
        rebuild("tiff", parsed.recipe, parsed.surround, parsed.images, out)
        assert out.getvalue() == own
        rows += list(parsed.images)
        np.testing.assert_array_equal(piece_images("tiff", piece.form, own)[0], parsed.images[0])
    np.testing.assert_array_equal(np.concatenate(rows), mask)


@pytest.mark.parametrize(
    "change",
    [{"bits": 8}, {"bits": 0}, {"bits": -1}, {"bits": 12}, {"lowest_first": True, "bits": 2}, {"lowest_first": True},
     {"bits": 1, "dtype": "<u2"}, {"bits": 2}, {"pitch": 2}],
    ids=str,
)  # fmt: skip
def test_recipes_of_impossible_bits_are_refused(change):
    parsed = parse(b"P4 24 2\n" + bytes(range(6)))
    assert parsed is not None
    (layout,) = parsed.recipe["layouts"]
    if "lowest_first" in change and "bits" not in change:
        layout = {name: value for name, value in layout.items() if name != "bits"} | {"pitch": 24}
    with pytest.raises(RebuildMismatch):
        rebuild(
            "pnm", {"layouts": [layout | change]}, parsed.surround[:4], [parsed.images[0] * 3], io.BytesIO()
        )


# -- floats, wide integers and palettes in TIFF ---------------------------------------------------------------


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd"])
@pytest.mark.parametrize("predictor", [2, 3])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f4", "<f8", ">u4", "<i4", "<i8"])
def test_predictors_of_wide_samples(exact, compression, predictor, dtype):
    if (dtype[1] == "f") != (predictor == 3):
        pytest.skip("tifffile writes predictor 2 of integers and 3 of floats alone")
    values = np.random.default_rng(4).normal(300, 2, (40, 37, 3)).cumsum(axis=1).astype(dtype)
    for array, layout in ((values, {}), (values[..., 0], {"tile": (16, 16)})):
        options = {"photometric": "rgb"} if array.ndim == 3 else {}
        data = written(
            array, byteorder=dtype[0], compression=compression, predictor=predictor, **layout, **options
        )
        (image,) = exact(data).images
        native = array.astype(array.dtype.newbyteorder("="))
        np.testing.assert_array_equal(image, np.ascontiguousarray(native).view(image.dtype))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_half_floats(exact, options):
    array = np.random.default_rng(5).normal(0, 1, (20, 30)).astype("f2")
    (image,) = exact(written(array, **options)).images
    np.testing.assert_array_equal(image, array.view("u2"))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits"])
def test_palettes_of_tiff_are_indices(exact, noise, compression):
    indexed = Pillow.fromarray(noise((40, 50))).convert("P")
    out = io.BytesIO()
    indexed.save(out, "TIFF", compression=compression)
    (image,) = exact(out.getvalue()).images
    np.testing.assert_array_equal(image, np.asarray(indexed))


@pytest.mark.parametrize("level", [1, 3, 9, 19, 22])
def test_zstandard_blocks_are_repeated(exact, level):
    import zstandard

    from tests.unit.images.test_tiff import tiff_of_blocks

    rng = np.random.default_rng(level)
    rows = [np.cumsum(rng.integers(-2, 3, (64, 64)), axis=1).astype("u1") for _ in range(3)]
    compressor = zstandard.ZstdCompressor(level=level)
    whole = [compressor.compress(r.tobytes()) for r in rows]
    streams = []
    for r in rows:
        engine = compressor.compressobj()  # as libtiff does: the size is not told
        streams.append(engine.compress(r.tobytes()) + engine.flush())
    for blocks in (whole, streams):
        parsed = exact(tiff_of_blocks(blocks, 64, 192, 64, compression=50000, bits=8))
        np.testing.assert_array_equal(parsed.images[0], np.concatenate(rows))
        assert {e[2] for e in parsed.recipe["encoders"]} == {int(blocks is streams)}


def test_predictors_only_where_they_can_be(exact):
    data = written(np.zeros((20, 16), "f4") + 1.5, compression="zlib", predictor=3)
    parsed = exact(data)
    assert parsed.recipe["packings"] == [["deflate", FLOATS]]
    for change in ({"bits": 1, "dtype": "|u1"}, {"pitch": 128}):
        layouts = [layout | change for layout in parsed.recipe["layouts"]]
        with pytest.raises(RebuildMismatch):
            rebuild("tiff", {**parsed.recipe, "layouts": layouts}, parsed.surround, parsed.images, io.BytesIO())
    assert not Packing("packbits", 2).fits(outline(data).rasters[0].layout)  # type: ignore[union-attr]


# -- DICOM ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
@pytest.mark.parametrize("frames", [1, 3, 20])
def test_segmentations_of_single_bits(exact, syntax, frames):
    mask = (np.random.default_rng(frames).random((frames, 10, 24)) > 0.6).astype("u1")
    raw = np.frombuffer(packed_by_pydicom(mask.ravel(), pad=False), "u1")
    shape = {"Rows": 10, "Columns": 24, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    data = dicom(raw.reshape(1, -1), syntax, frames=frames, **shape)
    images = exact(data).images
    np.testing.assert_array_equal(np.concatenate(images).reshape(mask.shape), mask)
    if syntax != ExplicitVRBigEndian:
        read = pydicom.dcmread(io.BytesIO(data), force=True)
        np.testing.assert_array_equal(read.pixel_array.reshape(mask.shape), mask)


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
@pytest.mark.parametrize("dtype", ["u4", "i4", "u8"])
@pytest.mark.parametrize("frames", [None, 3])
def test_doses_of_wide_integers(exact, syntax, dtype, frames):
    array = np.random.default_rng(0).integers(0, 1 << 30, (frames or 1, 9, 7)).astype(dtype)
    images = exact(dicom(array, syntax, frames=frames)).images
    np.testing.assert_array_equal(np.stack(images), array.view(images[0].dtype))


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
@pytest.mark.parametrize(("name", "vr", "dtype"), [("FloatPixelData", "OF", "f4"), ("DoubleFloatPixelData", "OD", "f8")])
def test_parametric_maps(exact, syntax, name, vr, dtype):
    values = np.random.default_rng(1).normal(0, 1, (9, 7)).astype(dtype)
    ds = pydicom.dcmread(io.BytesIO(dicom(np.zeros((9, 7), "u2"), syntax)), force=True)
    del ds.PixelData
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    setattr(ds, name, values.astype(order + dtype).tobytes())
    ds[name].VR = vr
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=False)
    (image,) = exact(out.getvalue()).images
    np.testing.assert_array_equal(image, values.view(image.dtype))


def test_palettes_of_dicom_are_indices(exact, noise):
    for dtype in ("u1", "u2"):
        array = noise((9, 7), dtype)
        data = dicom(array, PhotometricInterpretation="PALETTE COLOR")
        np.testing.assert_array_equal(exact(data).images[0], array)


def test_native_halved_chroma(exact, noise):
    raw = noise((2, 6, 4 * 4))  # 6 x 8 pixels: two luma samples and their chroma, four bytes for each two
    data = dicom(
        raw.reshape(2, 1, -1), frames=2, Rows=6, Columns=8, SamplesPerPixel=3, PlanarConfiguration=0,
        PhotometricInterpretation="YBR_FULL_422",
    )  # fmt: skip
    np.testing.assert_array_equal(np.stack(exact(data).images), raw.reshape(2, 6, 4, 4))


@pytest.mark.parametrize("samples", [1, 3])
def test_rle_of_32_bits(exact, samples):
    array = np.random.default_rng(0).integers(0, 1 << 20, (3, 12, 15, samples)).cumsum(axis=2).astype("u4")
    array = array[..., 0] if samples == 1 else array
    parsed = exact(coded_dicom([rle_code(frame) for frame in array], array, RLELossless))
    assert parsed.recipe["dtype"] == "uint32"
    np.testing.assert_array_equal(np.stack(parsed.images), array)


def test_reversible_jpeg_2000_under_the_syntax_that_may_be_lossy(exact, reason):
    import imagecodecs

    array = smooth((2, 70, 80), "u2", 12)
    codes = [
        imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k", reversible=True) for frame in array
    ]
    images = exact(coded_dicom(codes, array, JPEG2000, stored=12)).images
    np.testing.assert_array_equal(np.stack(images), array)
    lossy = [imagecodecs.jpeg2k_encode(frame, level=40, codecformat="j2k", reversible=False) for frame in array]
    assert reason(coded_dicom(lossy, array, JPEG2000, stored=12)) == "lossy"


def test_tifffile_reads_what_the_helper_writes():
    bits = (np.arange(40).reshape(5, 8) % 3 > 0).astype("u1")
    read = tifffile.imread(io.BytesIO(tiff(pack_bits(bits, 1).tobytes(), 8, 5, 1)))
    np.testing.assert_array_equal(read, bits)
