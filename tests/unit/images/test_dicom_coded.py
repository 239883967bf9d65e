"""RLE, lossless JPEG, JPEG 2000 and JPEG-LS in DICOM come back byte for byte, whoever wrote them."""

from __future__ import annotations

import io
import time
import warnings

import imagecodecs
import jpeg_ls as charls
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from callic_archive.errors import MalformedSource, RebuildMismatch, SourceError, SourceTooLarge
from callic_archive.images import dicom_rle, jpeg_lossless, jpeg_ls, parse, rebuild


def dicom(codes, array, syntax, *, stored=None, fragments=1, table=True, extended=False, **fields):
    """A DICOM file whose frames, ``array`` (N, H, W) or (N, H, W, 3), have the codes given."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.NumberOfFrames, ds.Rows, ds.Columns = array.shape[:3]
    ds.SamplesPerPixel = array.shape[3] if array.ndim == 4 else 1
    ds.PhotometricInterpretation = "RGB" if array.ndim == 4 else "MONOCHROME2"
    if array.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 * array.itemsize
    ds.BitsStored = stored or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    if extended:
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(
            list(codes)
        )
    else:
        ds.PixelData = encapsulate(list(codes), fragments_per_frame=fragments, has_bot=table)
    ds["PixelData"].VR = "OB"
    for name, value in fields.items():
        setattr(ds, name, value)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def rle_code(frame, encoder="runs2", even=True):
    """A frame (H, W[, C]) in RLE."""
    samples = frame.reshape(*frame.shape[:2], -1)
    size = frame.itemsize
    body, begins = b"", []
    for k in range(samples.shape[2] * size):
        plane = (
            (samples[..., k // size].view(f"u{size}") >> 8 * (size - 1 - k % size)).astype("u1").reshape(-1)
        )
        begins.append(64 + len(body))
        body += dicom_rle.encode(plane, frame.shape[1], encoder, b"")
        body += b"\0" * (len(body) % 2 if even else 0)
    return np.array([len(begins), *begins, *[0] * (15 - len(begins))], "<u4").tobytes() + body


def smooth(shape, dtype, bits=None, seed=0):
    """Samples as scanners give them: they change little from one to the next."""
    info = np.iinfo(dtype)
    steps = np.random.default_rng(seed).integers(-3, 4, shape).cumsum(axis=2)
    low, high = (info.min, info.max) if bits is None else (0, (1 << bits) - 1)
    return ((steps - steps.min()) * 3 % (high - low + 1) + low).astype(dtype)


def film(images, height):
    return np.concatenate(images).reshape(-1, height, *images[0].shape[1:])


@pytest.mark.parametrize("encoder", dicom_rle.ENCODERS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("count", [1, 2, 19])
def test_rle(exact, encoder, dtype, colour, count):
    array = smooth((count, 12, 15) + ((3,) if colour else ()), dtype)
    parsed = exact(dicom([rle_code(frame, encoder) for frame in array], array, RLELossless))
    np.testing.assert_array_equal(film(parsed.images, 12), array)
    assert {e[1] for e in parsed.recipe["encoders"]} <= set(dicom_rle.ENCODERS)
    assert len(parsed.images) == (1 if count == 19 else count)


def test_rle_of_pydicom(exact):
    array = smooth((1, 33, 35, 3), "u1")
    ds = pydicom.dcmread(io.BytesIO(dicom([rle_code(array[0])], array, RLELossless)))
    ds.decompress()
    ds.compress(RLELossless, encoding_plugin="pydicom")
    out = io.BytesIO()
    ds.save_as(out)
    parsed = exact(out.getvalue())
    np.testing.assert_array_equal(parsed.images[0], array[0])
    assert parsed.recipe["encoders"][0] == ["rle", "runs2"]
    np.testing.assert_array_equal(ds.pixel_array, array[0])


def strange(plane, rng):
    """A PackBits code that cuts packets at random, and has some that hold nothing."""
    out, at = bytearray(), 0
    while at < len(plane):
        size = min(int(rng.integers(1, 130)), len(plane) - at, 128)
        piece = plane[at : at + size]
        if size > 1 and len(set(piece)) == 1:
            out += bytes([257 - size, piece[0]])
        else:
            out += bytes([size - 1]) + piece
        out += b"\x80" if rng.random() < 0.1 else b""
        at += size
    return bytes(out)


def test_rle_that_no_encoder_writes_comes_back_by_its_packets(exact):
    rng = np.random.default_rng(8)
    array = smooth((3, 20, 30), "u1")
    array[1] = 7
    codes = [np.array([1, 64, *[0] * 14], "<u4").tobytes() + strange(f.tobytes(), rng) for f in array]
    parsed = exact(dicom(codes, array, RLELossless))
    assert parsed.recipe["encoders"] == [["rle", "packets"]]
    np.testing.assert_array_equal(np.stack(parsed.images), array)


@pytest.mark.parametrize(
    "options", [{"fragments": 2}, {"fragments": 3}, {"table": False}, {"extended": True}], ids=str
)
def test_fragments_and_offset_tables(exact, options):
    array = smooth((4, 31, 33), "u2")
    for codes, syntax in (
        ([rle_code(frame) for frame in array], RLELossless),
        ([imagecodecs.ljpeg_encode(frame, bitspersample=16) for frame in array], JPEGLosslessSV1),
    ):
        np.testing.assert_array_equal(np.stack(exact(dicom(codes, array, syntax, **options)).images), array)


def test_frames_that_nothing_tells_apart_are_left():
    array = smooth((2, 31, 33), "u2")
    data = dicom([rle_code(frame) for frame in array], array, RLELossless, fragments=2, table=False)
    assert parse(data) is None


# -- lossless JPEG ---------------------------------------------------------------------------------------------


def table(sizes):
    """The body of a Huffman table in which category k has a code of ``sizes[k]`` bits."""
    counts = [sum(size == n for size in sizes) for n in range(1, 17)]
    return bytes(counts) + bytes(sorted(range(len(sizes)), key=lambda k: (sizes[k], k)))


FLAT = table([6] * 17)
STEEP = table([*range(1, 16), 16, 16])


def jpeg_code(frame, predictor=1, precision=16, restart=0, pad=1, huffman=FLAT):
    """A frame (H, W[, C]) in lossless JPEG, with headers written here."""
    samples = frame.reshape(*frame.shape[:2], -1)
    height, width, count = samples.shape
    scan = jpeg_lossless.Scan(precision, predictor, restart, (huffman,) * count)
    wide = samples.view("u2") if frame.dtype == np.int16 else samples.astype("u2")
    body = jpeg_lossless.encode(np.ascontiguousarray(wide), scan, pad, 16 * wide.nbytes + 64)

    def segment(marker, *parts):
        joined = b"".join(parts)
        return bytes([255, marker]) + (len(joined) + 2).to_bytes(2, "big") + joined

    ids = range(1, count + 1)
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    out = b"\xff\xd8" + segment(0xFE, b"a comment") + segment(0xC4, b"\0", huffman)
    out += segment(0xC3, bytes([precision]), size, bytes([count]), *(bytes([i, 0x11, 0]) for i in ids))
    out += segment(0xDD, (restart * width).to_bytes(2, "big")) if restart else b""
    out += segment(0xDA, bytes([count]), *(bytes([i, 0]) for i in ids), bytes([predictor, 0, 0]))
    return out + body + b"\xff\xd9"


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("kind", [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 16)], ids=str)
@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_of_each_predictor(exact, predictor, kind, colour):
    dtype, bits = kind
    array = smooth((1, 23, 21) + ((3,) if colour else ()), dtype, bits if bits == 12 else None)
    code = jpeg_code(array[0], predictor, bits)
    unsigned = array[0].view("u2") if dtype == "i2" else array[0]
    np.testing.assert_array_equal(imagecodecs.jpegsof3_decode(code), unsigned)
    parsed = exact(dicom([code], array, JPEGLosslessSV1, stored=bits))
    np.testing.assert_array_equal(parsed.images[0], array[0])


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("huffman", [FLAT, STEEP], ids=["flat", "steep"])
def test_jpeg_with_restarts_and_paddings(exact, pad, huffman):
    array = smooth((3, 40, 17), "u2")
    array[2] = np.random.default_rng(1).integers(0, 1 << 16, (40, 17))  # differences of all categories
    for restart in (0, 1, 7, 40):
        codes = [jpeg_code(frame, 1, 16, restart, pad, huffman) for frame in array]
        if not restart:
            np.testing.assert_array_equal(imagecodecs.jpegsof3_decode(codes[2]), array[2])
        parsed = exact(dicom(codes, array, JPEGLosslessSV1))
        np.testing.assert_array_equal(np.stack(parsed.images), array)
        assert all(e[3] == restart for e in parsed.recipe["encoders"])


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_jpeg_of_imagecodecs(exact, bits):
    array = smooth((1, 61, 67), "u1" if bits == 8 else "u2", bits)
    code = imagecodecs.ljpeg_encode(array[0], bitspersample=bits)
    parsed = exact(dicom([code], array, JPEGLosslessSV1, stored=bits))
    np.testing.assert_array_equal(parsed.images[0], array[0])
    assert len(parsed.surround) < 1200


# -- JPEG 2000 ---------------------------------------------------------------------------------------------------


def jpeg_2000(frame, level=0, bits=None, **options):
    return imagecodecs.jpeg2k_encode(frame, level=level, codecformat="j2k", reversible=level == 0, bitspersample=bits,
                                     **options)  # fmt: skip


@pytest.mark.parametrize("kind", [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 16)], ids=str)
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("count", [1, 9])
def test_jpeg_2000_of_openjpeg(exact, kind, colour, count):
    dtype, bits = kind
    array = smooth((count, 70, 67) + ((3,) if colour else ()), dtype, bits if bits == 12 else None)
    codes = [jpeg_2000(frame, bits=bits, resolutions=3, mct=True) for frame in array]
    space = "YBR_RCT" if colour else "MONOCHROME2"
    parsed = exact(dicom(codes, array, JPEG2000Lossless, stored=bits, PhotometricInterpretation=space))
    np.testing.assert_array_equal(film(parsed.images, 70), array)
    assert {e[0] for e in parsed.recipe["encoders"]} == {"openjpeg"}
    assert len(parsed.surround) < 1000 + 300 * count


def test_jpeg_2000_of_others_is_left():
    array = smooth((1, 70, 67), "u2")
    code = bytearray(jpeg_2000(array[0]))
    middle = len(code) // 2
    code[middle] ^= 1  # decodes to something, but OpenJPEG would have coded that otherwise
    assert parse(dicom([bytes(code)], array, JPEG2000Lossless)) is None
    assert parse(dicom([jpeg_2000(array[0], level=30)], array, JPEG2000Lossless)) is None
    with pytest.raises(MalformedSource, match="another size"):
        parse(dicom([jpeg_2000(array[0])], array, JPEG2000Lossless, Rows=71))
    with pytest.raises(SourceError):
        parse(dicom([jpeg_2000(array[0])[:60]], array, JPEG2000Lossless))


# -- JPEG-LS ----------------------------------------------------------------------------------------------------


def jls(frame, bits=None, near=0, interleave=None):
    samples = frame.shape[2] if frame.ndim == 3 else 1
    interleave = (2 if samples > 1 else 0) if interleave is None else interleave
    raw = np.moveaxis(frame, 2, 0) if samples > 1 and interleave == 0 else frame
    bits = bits or 8 * frame.itemsize
    return bytes(charls.encode_buffer(raw.tobytes(), *frame.shape[:2], samples, bits, near, interleave))


@pytest.mark.parametrize(("kind", "bits"), [("u1", 8), ("u2", 16), ("u2", 12), ("i2", 16)])
@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("count", [1, 9])
def test_jpeg_ls(exact, kind, bits, fragments, count):
    array = smooth((count, 20, 33), kind, bits if bits < 16 else None)
    data = dicom([jls(f, bits) for f in array], array, JPEGLSLossless, stored=bits, fragments=fragments)
    parsed = exact(data)
    np.testing.assert_array_equal(film(parsed.images, 20), array)
    assert parsed.recipe["encoders"] == [["charls", bits, 0, 0]]
    assert len(parsed.surround) < 1000 + count * (60 + 8 * fragments)


@pytest.mark.parametrize("interleave", [0, 1, 2])
def test_jpeg_ls_of_colours(exact, interleave):
    array = smooth((2, 20, 33, 3), "u1")
    parsed = exact(dicom([jls(f, interleave=interleave) for f in array], array, JPEGLSLossless))
    np.testing.assert_array_equal(np.stack(parsed.images), array)
    assert parsed.recipe["encoders"] == [["charls", 8, 0, interleave]]


def test_nearly_lossless_jpeg_ls_comes_back_where_it_is_repeated(exact):
    array = smooth((2, 40, 33), "u1")
    parsed = exact(dicom([jls(f, near=2) for f in array], array, JPEGLSNearLossless))
    assert parsed.recipe["encoders"] == [["charls", 8, 2, 0]]
    assert 0 < np.abs(np.stack(parsed.images).astype(int) - array).max() <= 2


def test_blank_jpeg_ls_is_no_bomb(exact):
    array = np.full((1, 512, 512), 300, "u2")
    exact(dicom([jls(array[0], 12)], array, JPEGLSLossless, stored=12))


def test_jpeg_ls_of_others_is_left(monkeypatch):
    array = smooth((1, 30, 33), "u1")
    data = dicom([jls(array[0])], array, JPEGLSLossless)
    assert parse(data) is not None
    coded = jpeg_ls.encode
    monkeypatch.setattr(jpeg_ls, "encode", lambda image, choices: coded(image, choices)[:-2] + b"\0\0")
    assert parse(data) is None


def test_lies_of_jpeg_ls_are_named():
    array = smooth((1, 30, 33), "u1")
    code = jls(array[0])
    for broken, fields, message in (
        (code, {"Rows": 31}, "another size"),
        (code[:40], {}, "cannot be decoded"),
        (code[:12], {}, "inside its headers|broken headers"),
        (b"none " + code, {}, "does not begin"),
        (code.replace(b"\xff\xf7", b"\xff\xf6"), {}, "broken headers"),
    ):
        with pytest.raises(SourceError, match=message):
            parse(dicom([broken], array, JPEGLSLossless, **fields))


def test_frames_are_told_by_their_first_bytes_without_tables(exact):
    array = smooth((3, 30, 33), "u1")
    data = dicom([jls(f) for f in array], array, JPEGLSLossless, fragments=2, table=False)
    np.testing.assert_array_equal(np.stack(exact(data).images), array)


def test_what_is_left_and_why(reason, exact):
    array = smooth((1, 16, 16), "u1")
    other_process = dicom([imagecodecs.jpeg8_encode(array[0])], array, JPEGLosslessSV1)
    assert reason(other_process) == "coding"
    rle = [rle_code(array[0])]
    np.testing.assert_array_equal(
        exact(dicom(rle, array, RLELossless, PhotometricInterpretation="PALETTE COLOR")).images[0], array[0]
    )
    assert reason(dicom(rle, array, RLELossless, PhotometricInterpretation="HSV")) == "colour"
    wide = smooth((1, 16, 16), "u4")
    assert reason(dicom(rle, wide, JPEGLosslessSV1)) == "samples"
    kakadu = imagecodecs.jpeg2k_encode(array[0], level=0, codecformat="jp2", reversible=True)
    assert reason(dicom([kakadu], array, JPEG2000Lossless)) == "variant"  # in boxes


def test_lies_are_named():
    array = smooth((2, 16, 16), "u2")
    rle = [rle_code(frame) for frame in array]
    jpeg = [jpeg_code(frame) for frame in array]
    good = dicom(rle, array, RLELossless)
    for data, message in (
        (dicom(rle, array, RLELossless, Rows=17), "does not decode"),
        (dicom(rle, array, RLELossless, SamplesPerPixel=3, PhotometricInterpretation="RGB"), "segments"),
        (dicom([rle[0][:60], rle[1]], array, RLELossless), "inside its header"),
        (dicom(jpeg, array, JPEGLosslessSV1, Columns=17), "another size"),
        (dicom([jpeg[0][:-90] + b"\xff\xd9", jpeg[1]], array, JPEGLosslessSV1), "ends too early"),
        (dicom([jpeg[0][:60], jpeg[1]], array, JPEGLosslessSV1), "inside its headers|broken headers"),
        (dicom([b"no JPEG ", jpeg[1]], array, JPEGLosslessSV1), "does not begin"),
        (good[: good.rindex(b"\xfe\xff\x00\xe0") + 20], "ends before them"),
    ):
        with pytest.raises(SourceError, match=message):
            parse(data)
    at = good.index(b"\xfe\xff\x00\xe0")
    with pytest.raises(MalformedSource, match="no item"):
        parse(good[:at] + b"\1\2\3\4" + good[at + 4 :])
    with pytest.raises(SourceTooLarge):
        parse(dicom(rle, array, RLELossless, Rows=60000, Columns=60000))


def test_damage(damage):
    array = smooth((2, 9, 11), "u2")
    assert damage(dicom([rle_code(f) for f in array], array, RLELossless), every=5)["error"] > 20
    assert damage(dicom([jpeg_code(f) for f in array], array, JPEGLosslessSV1), every=5)["error"] > 20


def test_damaged_scans_never_leave_their_bounds():
    array = smooth((1, 19, 23), "u2")
    rng = np.random.default_rng(3)
    for make, syntax in ((rle_code, RLELossless), (jpeg_code, JPEGLosslessSV1)):
        good = dicom([make(array[0])], array, syntax)
        for _ in range(150):
            broken = bytearray(good)
            for _ in range(3):
                broken[int(rng.integers(700, len(good)))] ^= int(rng.integers(1, 256))
            try:
                parsed = parse(bytes(broken))
            except SourceError:
                continue
            if parsed is not None:
                out = io.BytesIO()
                rebuild(parsed.format, parsed.recipe, parsed.surround, parsed.images, out)
                assert out.getvalue() == bytes(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 3}, {"frames": 1 << 40}, {"stack": 0}, {"stack": 1 << 40}, {"height": 0}, {"samples": 5},
        {"dtype": "float32"}, {"codes": []}, {"codes": [[0, 0, 3]]}, {"codes": [[7, 0, 2]]}, {"codes": [[0, 0, 1 << 40]]},
        {"heads": [[-1, 0, 2]]}, {"heads": [[1 << 40, 0, 2]]}, {"spans": [[2, 0, 2]]}, {"spans": [[-1, 2, 2]]},
        {"offsets": [[0, 0, 2]]}, {"offsets": [[1 << 50, 1, 2]]}, {"lengths": [[5, 0, 2]]}, {"lengths": [[-5, 0, 2]]},
        {"encoders": []}, {"encoders": [["rle", "made up"]] * 2}, {"encoders": [["jpeg"]] * 2},
        {"encoders": [["jpeg", 16, 1, 0, 1, [FLAT.hex()] * 2]] * 2},
        {"encoders": [["jpeg", 17, 1, 0, 1, [FLAT.hex()]]] * 2},
        {"encoders": [["jpeg", 16, 9, 0, 1, [FLAT.hex()]]] * 2},
        {"encoders": [["jpeg", 16, 1, -1, 1, [FLAT.hex()]]] * 2},
        {"encoders": [["jpeg", 16, 1, 0, 1, ["00" * 16]]] * 2},
        {"encoders": [["jpeg", 16, 1, 0, 1, ["ff" * 200]]] * 2},
        {"encoders": [["rle", "packets"]] * 2},
        {"encoders": [["openjpeg", 99, 0, 8, 0]] * 2}, {"encoders": [["openjpeg", 3, 0, 8, 0]] * 2},
        {"encoders": [["charls", 1, 0, 0]] * 2}, {"encoders": [["charls", 8, 256, 0]] * 2},
        {"encoders": [["charls", 8, 0, 3]] * 2}, {"encoders": [["charls", 2, 0, 0]] * 2}, {"encoders": [["charls", 8]] * 2},
        {"encoders": [["openjpeg", 3, 0, 17, 0]] * 2}, {"encoders": [["openjpeg", 3, 0, 8]] * 2},
    ],
    ids=lambda change: str(change)[:60],
)  # fmt: skip
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1], ids=["rle", "jpeg"])
def test_impossible_recipes(change, syntax):
    array = smooth((2, 16, 16), "u1")
    codes = [rle_code(f) if syntax == RLELossless else jpeg_code(f, precision=8) for f in array]
    parsed = parse(dicom(codes, array, syntax))
    assert parsed is not None
    with pytest.raises(RebuildMismatch):
        rebuild("dicom", parsed.recipe | change, parsed.surround, parsed.images, io.BytesIO())


@pytest.mark.parametrize("rest", [b"\0", b"\1" * 20, b"\xaa" * 40])
def test_jpeg_ls_that_is_cut_off_is_refused_at_once(rest):
    head = bytes.fromhex("ffd8fff7000b08000c000f01011100ffda0008010100000000")
    began = time.process_time()
    with pytest.raises(MalformedSource):
        jpeg_ls.decode(head + rest, jpeg_ls.read_header(head + rest))
    assert time.process_time() - began < 1  # CharLS alone takes more than three seconds
