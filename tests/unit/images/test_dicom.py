"""Native DICOM comes back byte for byte, in every native transfer syntax; the rest is left or named."""

from __future__ import annotations

import io
import tracemalloc
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from callic_archive.errors import MalformedSource, SourceError, SourceTooLarge, TruncatedSource
from callic_archive.images import Limits, parse

NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def dicom(
    array, syntax=ExplicitVRLittleEndian, *, planar=None, preamble=True, meta=True, frames=None, **fields
):
    """A DICOM file of ``array`` as it should be stored, with a nested private sequence before the pixels."""
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.PatientName = "Doe^Jo"
    item = Dataset()
    item.add_new((0x0009, 0x0010), "LO", "callic tests")
    item.add_new((0x0009, 0x1001), "UN", b"\xe0\x7f\x10\x00 not the pixels")
    ds.ReferencedImageSequence = [item]
    colour = array.shape[-1] == 3 or planar == 1
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    size = array.shape[-2:] if planar == 1 or not colour else array.shape[-3:-1]
    ds.Rows, ds.Columns = size
    if planar is not None:
        ds.PlanarConfiguration = planar
    ds.BitsAllocated = array.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit = ds.BitsAllocated, ds.BitsAllocated - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    if frames is not None:
        ds.NumberOfFrames = frames
    big = syntax == ExplicitVRBigEndian
    raw = array.astype(array.dtype.newbyteorder(">" if big else "<")).tobytes()
    ds.add_new((0x7FE0, 0x0010), "OB" if array.dtype.itemsize == 1 else "OW", raw + b"\0" * (len(raw) % 2))
    ds.add_new((0xFFFC, 0xFFFC), "OB", b"trailing padding")
    for name, value in fields.items():
        setattr(ds, name, value)
    out = io.BytesIO()
    ds.file_meta = FileMetaDataset()
    if meta:
        ds.file_meta.TransferSyntaxUID = syntax
        ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    if preamble:
        out.write(bytes(128) + b"DICM")
    if meta:
        pydicom.filewriter.write_file_meta_info(out, ds.file_meta, enforce_standard=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = pydicom.filebase.DicomBytesIO()
        body.is_little_endian, body.is_implicit_VR = not big, syntax == ImplicitVRLittleEndian
        pydicom.filewriter.write_dataset(body, ds)
    raw_body = body.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        import zlib

        engine = zlib.compressobj(wbits=-15)
        raw_body = engine.compress(raw_body) + engine.flush()
    return out.getvalue() + raw_body


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
@pytest.mark.parametrize(("preamble", "meta"), [(True, True), (False, True), (False, False)])
def test_gray(exact, noise, syntax, dtype, preamble, meta):
    array = noise((9, 7), dtype)
    data = dicom(array, syntax, preamble=preamble, meta=meta)
    expected = array.astype(int) + 128 if dtype == "i1" else array
    np.testing.assert_array_equal(exact(data).images[0], expected)


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
@pytest.mark.parametrize("frames", [None, 1, 4])
def test_colour_and_frames(exact, noise, syntax, frames):
    n = frames or 1
    for dtype in ("u1", "u2"):
        contig = noise((n, 6, 5, 3), dtype)
        images = exact(dicom(contig, syntax, planar=0, frames=frames)).images
        np.testing.assert_array_equal(np.stack(images), contig)
        planar = noise((n, 3, 6, 5), dtype)
        images = exact(dicom(planar, syntax, planar=1, frames=frames)).images
        np.testing.assert_array_equal(np.stack(images), planar.transpose(0, 2, 3, 1))
        gray = noise((n, 6, 5), dtype)
        np.testing.assert_array_equal(np.stack(exact(dicom(gray, syntax, frames=frames)).images), gray)


def test_all_allocated_bits_are_kept(exact):
    """Overlay bits above Bits Stored are pixels of the file too."""
    array = (np.arange(64, dtype="<u2").reshape(8, 8) * 977).astype("u2")
    data = dicom(array, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(exact(data).images[0], array)


@pytest.mark.parametrize("frames", [None, 3, 20])
def test_deflated(exact, noise, frames):
    array = noise((frames or 1, 16, 15), "u2")
    parsed = exact(dicom(array, DeflatedExplicitVRLittleEndian, frames=frames))
    assert parsed.recipe["members"][0]["format"] == "dicom"
    np.testing.assert_array_equal(np.concatenate(parsed.images), array.reshape(-1, 15))


def test_a_deflated_bomb_is_refused_before_it_is_inflated(noise):
    data = dicom(np.zeros((60000, 300), "u1"), DeflatedExplicitVRLittleEndian)
    assert len(data) < 30000
    tracemalloc.start()
    try:
        with pytest.raises(SourceTooLarge, match="unpacked"):
            parse(data, limits=Limits(max_member_bytes=1 << 20))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_frames_of_a_film_lie_below_each_other(exact, noise):
    for shape, planar in (((40, 9, 7), None), ((40, 9, 7, 3), 0), ((40, 3, 9, 7), 1)):
        array = noise(shape, "u2")
        (image,) = exact(dicom(array, planar=planar, frames=40)).images
        expected = array.transpose(0, 2, 3, 1) if planar else array
        np.testing.assert_array_equal(image, expected.reshape(360, *expected.shape[2:]))


@pytest.mark.parametrize("syntax", NATIVE[:2], ids=lambda uid: uid.name)
def test_sequences_of_undefined_length(exact, noise, syntax):
    defined = dicom(noise((9, 7)), syntax)
    ds = pydicom.dcmread(io.BytesIO(defined), force=True)
    ds["ReferencedImageSequence"].is_undefined_length = True
    ds.ReferencedImageSequence[0].is_undefined_length_sequence_item = True
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=False)
    assert b"\xfe\xff\xdd\xe0" in out.getvalue()
    exact(out.getvalue())


def test_big_images_are_views(noise):
    data = np.frombuffer(dicom(noise((64, 64), "u2")), np.uint8).copy()
    parsed = parse(memoryview(data))
    assert parsed is not None
    assert np.shares_memory(parsed.images[0], data)
    assert len(parsed.surround) == len(data) - 64 * 64 * 2


def test_a_tiff_header_in_the_preamble_changes_nothing(exact, noise):
    data = dicom(noise((9, 7)))
    exact(b"II*\0" + data[4:])


def test_what_is_left_and_why(noise, reason):
    gray = noise((8, 8))
    assert reason(dicom(gray, RLELossless)) == "variant"  # which is not encapsulated
    assert reason(dicom(gray, JPEG2000Lossless)) == "variant"
    for syntax, why in ((JPEGBaseline8Bit, "lossy"), (MPEG4HP41, "lossy"), (HTJ2KLossless, "coding"), ("1.2.3", "coding")):
        assert reason(dicom(gray, syntax)) == why
    assert reason(dicom(gray, PhotometricInterpretation="HSV")) == "colour"
    assert reason(dicom(noise((8, 7, 3)), planar=0, PhotometricInterpretation="YBR_FULL_422")) == "colour"
    assert reason(dicom(gray, BitsAllocated=12)) == "samples"
    assert reason(dicom(gray, ExplicitVRBigEndian).replace(b"\0\x10OB\0\0", b"\0\x10OW\0\0")) == "samples"
    assert reason(dicom(gray, BitsAllocated=1, Columns=12, Rows=4)) == "samples"  # rows share bytes
    whole = dicom(gray)
    at = whole.rindex(b"\xe0\x7f\x10\0")
    assert reason(whole[:at]) == "no-pixels"
    assert reason(whole[: at + 8] + bytes(4)) == "no-pixels"


def test_lies_are_named(noise):
    good = dicom(noise((8, 8)))
    with pytest.raises(MalformedSource, match="promise 72"):
        parse(dicom(noise((8, 8)), Rows=9))
    with pytest.raises(TruncatedSource, match="follow"):
        parse(good[: good.rindex(b"\xe0\x7f\x10\x00") + 40])
    with pytest.raises(MalformedSource):
        parse(dicom(noise((8, 8)), Rows=0))
    with pytest.raises(SourceError):
        parse(dicom(noise((8, 8)), NumberOfFrames=1 << 30))
    with pytest.raises(SourceTooLarge, match="images"):
        parse(dicom(noise((4, 8, 8)), frames=4), limits=Limits(max_images=3))
    with pytest.raises(MalformedSource, match="BitsAllocated"):
        parse(dicom(noise((8, 8)), BitsAllocated=None))


def test_without_the_magic_a_failure_is_only_another_type(noise):
    good = dicom(noise((8, 8)), preamble=False)
    assert parse(good) is not None
    assert parse(good[:-100]) is None
    assert parse(b"\x08\0\0\0" + bytes(300)) is None


def test_nothing_of_the_patient_is_logged(noise, caplog, recwarn):
    data = dicom(noise((8, 8)))
    messages = []
    for name, value in ((b"1.2.840.10008.5", b"Doe^Jo secret id"), (b"MONOCHROME2 ", b"Doe^Jo\xff\xfe\\ab")):
        at = data.index(name)
        broken = data[:at] + value + data[at + len(value) :]
        try:
            parse(broken)
        except SourceError as error:
            messages.append(str(error))
    assert not any("Doe" in message for message in messages)
    assert not caplog.records
    assert not recwarn.list


def test_damage(damage, noise):
    for syntax in NATIVE:
        outcomes = damage(dicom(noise((6, 7)), syntax), every=3)
        assert outcomes["error"] > 5
    assert damage(dicom(noise((6, 7)), DeflatedExplicitVRLittleEndian), every=3)["error"] > 5
