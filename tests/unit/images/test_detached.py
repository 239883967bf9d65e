"""Samples whose header lies in a file beside them: NIfTI and Analyze pairs, MetaImage, NRRD, ENVI."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import zlib
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest

from callic_archive.errors import SourceTooLarge
from callic_archive.images import Context, Limits, Parsed, parse, rebuild
from callic_archive.images.detached import MAX_HEADER, header_names, is_header
from callic_archive.images.outline import outline
from callic_archive.images.sample_types import types_of
from callic_archive.images.source import images_equal, parse_again
from tests.unit.images.test_metaimage import TYPES as METAIMAGE
from tests.unit.images.test_volumes import nifti

ENVI = {"u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "u2": 12, "u4": 13, "i8": 14, "u8": 15}

SHARED = Path(os.environ.get("CALLIC_SHARED", Path(__file__).parents[4] / "shared")) / "data"
NIBABEL = SHARED / "robustness/nifti_nibabel/nibabel/tests/data"


def context(header: bytes, name: str = "a.hdr", of: str = "a.img") -> Context:
    return Context(name, header, of, "raw")


def came_back(data: bytes, beside: Context) -> Parsed:
    """Taken apart by the header, and put together again without it."""
    assert is_header(beside)
    parsed = parse(data, context=beside)
    assert parsed is not None
    assert (parsed.format, parsed.fidelity) == ("raw", "bytes")
    out = io.BytesIO()
    recipe = json.loads(json.dumps(parsed.recipe))
    rebuild(parsed.format, recipe, parsed.surround, [np.array(i, order="C") for i in parsed.images], out)
    assert out.getvalue() == data
    again = parse_again(data, "raw", recipe)
    assert again is not None
    assert images_equal(parsed, again)
    return parsed


def meant(parsed: Parsed, beside: Context) -> np.ndarray:
    """All images below each other, as the header means them."""
    types = types_of(parsed.format, parsed.recipe, parsed.surround, beside)
    assert types is not None
    return np.concatenate([own[0].of(image) for own, image in zip(types, parsed.images, strict=True)])


def pair(image) -> tuple[bytes, bytes]:
    """Header and samples of an image of nibabel."""
    files = image.make_file_map()
    for one in files.values():
        one.fileobj = io.BytesIO()
    image.to_file_map(files)
    return files["header"].fileobj.getvalue(), files["image"].fileobj.getvalue()


def metaheader(array, name="a.raw", level=None, channels=1, **changes) -> bytes:
    shape = array.shape if channels == 1 else array.shape[:-1]
    fields = {
        "ObjectType": "Image", "NDims": len(shape), "BinaryData": True, "BinaryDataByteOrderMSB": array.dtype.str[0] == ">",
        "CompressedData": level is not None, "DimSize": " ".join(map(str, shape[::-1])),
        "ElementNumberOfChannels": channels, "ElementType": METAIMAGE[array.dtype.str[1:]],
    } | changes  # fmt: skip
    fields["ElementDataFile"] = name
    return "\n".join(f"{k} = {v}" for k, v in fields.items()).encode()  # without a line feed at the end, as some write


def nrrd_header(array, name="a.raw", encoding="raw", **more) -> bytes:
    kind = {"u1": "uint8", "u2": "ushort", "i2": "short", "f4": "float"}[array.dtype.str[1:]]
    lines = ["NRRD0004", f"type: {kind}", f"dimension: {array.ndim}", f"sizes: {' '.join(map(str, array.shape[::-1]))}"]
    lines += ["endian: little", f"encoding: {encoding}", *(f"{k.replace('_', ' ')}: {v}" for k, v in more.items())]
    return "\n".join([*lines, f"data file: {name}"]).encode() + b"\n"


def envi(array, interleave="bsq", **more) -> tuple[bytes, bytes]:
    """An array (bands, height, width)."""
    bands, height, width = array.shape
    fields = {
        "description": "{\n  a scene = of something}", "samples": width, "lines": height, "bands": bands, "header offset": 0,
        "file type": "ENVI Standard", "data type": ENVI[array.dtype.str[1:]], "interleave": interleave,
        "byte order": int(array.dtype.str[0] == ">"), "band names": "{\n red,\n samples = 9,\n blue}",
    } | more  # fmt: skip
    axes = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}[interleave.lower()]
    text = "ENVI\n" + "".join(f"{k} = {v}\n" for k, v in fields.items())
    return text.encode(), array.transpose(axes).tobytes()


# -- pairs of NIfTI and Analyze -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Nifti1Pair", "Nifti2Pair", "AnalyzeImage", "Spm99AnalyzeImage", "Spm2AnalyzeImage"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", "i4", "c8"])
def test_pairs(kind, order, dtype):
    make = getattr(nibabel, kind, None) or getattr(nibabel.spm2analyze, kind)
    array = (np.random.default_rng(1).integers(0, 90, (7, 6, 5)) * 1.0).astype(dtype)
    header = make.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    head, data = pair(make(array, None, header))
    beside = context(head)
    found = came_back(data, beside)
    assert len(found.surround) == len(data) - array.nbytes
    if dtype != "c8" or order == "<":
        np.testing.assert_array_equal(meant(found, beside).reshape(5, 6, -1), array.T.reshape(5, 6, -1))
    packed = gzip.compress(data, 6, mtime=0)
    for one in (context(head, "a.hdr", "a.img.gz"), context(gzip.compress(head), "a.hdr.gz", "a.img.gz")):
        assert "members" in came_back(packed, one).recipe


@pytest.mark.parametrize("version", [1, 2])
def test_an_attached_header_describes_the_same_samples(noise, version):
    array = noise((7, 5, 11), "i2")
    whole = nifti(array, version)
    head = bytearray(whole[: 352 if version == 1 else 544])
    head[344:348] = b"ni1\0" if version == 1 else head[344:348]
    head[4:8] = b"ni2\0" if version == 2 else head[4:8]
    head[108:112] = struct.pack("<f", 9) if version == 1 else head[108:112]
    head[168:176] = struct.pack("<q", 9) if version == 2 else head[168:176]
    data = b"123456789" + array.tobytes(order="F") + b"behind"
    found, attached = came_back(data, context(bytes(head))), parse(whole)
    assert attached is not None
    assert found.surround == b"123456789behind"
    for one, other in zip(found.images, attached.images, strict=True):
        np.testing.assert_array_equal(one, other)


def test_analyze_that_counts_axes_it_has_not(noise):
    array = noise((9, 8, 7), "i2")
    head = bytearray(348)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 4, 9, 8, 7, 0, 0, 0, 0)
    struct.pack_into("<hh", head, 70, 4, 16)
    assert [i.shape for i in came_back(array.tobytes(order="F"), context(bytes(head))).images] == [(8, 9)] * 7
    struct.pack_into("<hh", head, 70, 132, 16)  # unsigned, as SPM has it
    beside = context(bytes(head))
    assert meant(came_back(array.tobytes(order="F"), beside), beside).dtype == np.uint16
    struct.pack_into("<hh", head, 70, 1, 1)
    assert parse(array.tobytes(), context=context(bytes(head))) is None


# -- MetaImage and NRRD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [None, 2])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">i2", "f4", "f8", "i4"])
def test_metaimage(level, dtype):
    array = np.random.default_rng(1).integers(0, 90, (9, 5, 6)).astype(dtype)
    name = "a.raw" if level is None else "a.zraw"
    beside = context(metaheader(array, name, level), "a.mhd", name)
    data = array.tobytes() if level is None else zlib.compress(array.tobytes(), level)
    parsed = came_back(data, beside)
    expected = array.reshape(-1, 6)
    expected = expected.view("u1") ^ 0x80 if dtype == "i1" else expected.astype(array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(np.concatenate(parsed.images).view(expected.dtype), expected)


def test_metaimage_that_skips_bytes(noise):
    colour = noise((9, 7, 3))
    for skip, data in ((4, b"head" + colour.tobytes() + b"behind"), (-1, b"of any length" + colour.tobytes())):
        head = metaheader(colour, channels=3, HeaderSize=skip)
        np.testing.assert_array_equal(came_back(data, context(head, "a.mhd", "a.raw")).images[0], colour)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f4"])
def test_nrrd(tmp_path, noise, encoding, dtype):
    array = np.arange(9 * 8 * 7).reshape(9, 8, 7).astype(dtype)
    nrrd.write(str(tmp_path / "a.nhdr"), array, {"encoding": encoding}, index_order="F")
    (data,) = [path for path in tmp_path.iterdir() if path.suffix != ".nhdr"]
    assert "a.nhdr" in header_names(data.name)
    beside = context((tmp_path / "a.nhdr").read_bytes(), "a.nhdr", data.name)
    parsed = came_back(data.read_bytes(), beside)
    assert ("members" in parsed.recipe) == (encoding == "gzip")
    np.testing.assert_array_equal(meant(parsed, beside).reshape(7, 8, 9), array.T)


def test_nrrd_that_skips_lines_and_bytes(noise):
    array = noise((6, 5, 7), "u2")
    body = array.tobytes()
    for head, data in (
        (nrrd_header(array, line_skip=2), b"one\ntwo\n" + body + b"x"),
        (nrrd_header(array, byte_skip=3), b"abc" + body),
        (nrrd_header(array, byte_skip=-1), b"some" + body),
        (nrrd_header(array, line_skip=1, byte_skip=2, encoding="gz"), b"one\n" + gzip.compress(b"ab" + body)),
    ):
        found = came_back(data, context(head, "a.nhdr", "a.raw"))
        np.testing.assert_array_equal(np.concatenate(found.images), array.reshape(-1, 7))


# -- ENVI ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip", "BIL"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u2", "<f4", ">i4", "<u8"])
@pytest.mark.parametrize("bands", [1, 3, 7])
def test_envi(interleave, dtype, bands):
    array = np.random.default_rng(1).integers(0, 99, (bands, 9, 8)).astype(dtype)
    head, data = envi(array, interleave)
    beside = context(head)
    parsed = came_back(data, beside)
    found = [type_[0].of(image) for type_, image in zip(types_of("raw", parsed.recipe, b"", beside), parsed.images, strict=True)]
    stacked = np.concatenate([image.reshape(9, 8, -1) for image in found], axis=2)
    np.testing.assert_array_equal(stacked.transpose(2, 0, 1), array)
    shifted = context(envi(array, interleave, **{"header offset": 5})[0])
    assert came_back(b"12345" + data + b"behind", shifted).surround == b"12345behind"
    packed = context(envi(array, interleave, **{"file compression": 1})[0])
    assert "members" in came_back(gzip.compress(data), packed).recipe


def test_envi_of_more_bands_than_one_image_takes(noise):
    array = noise((300, 4, 5))
    for interleave in ("bsq", "bil", "bip"):
        head, data = envi(array, interleave)
        images = came_back(data, context(head)).images
        assert len(images) == 300
        np.testing.assert_array_equal(np.stack(images), array)


# -- what is left ----------------------------------------------------------------------------------------------------


def test_headers_that_are_not_as_the_file(reason, noise):
    array = noise((9, 5, 7), "i2")
    data = array.tobytes()
    head = metaheader(array)
    for broken, given in (
        (head, data[:-1]), (head.replace(b"DimSize = 7", b"DimSize = -7"), data),
        (head.replace(b"DimSize = 7", b"DimSize = x"), data), (head.replace(b"DimSize = 7", b"DimSize = " + b"9" * 30), data),
        (metaheader(array, level=2), data), (metaheader(array, level=2), zlib.compress(data)[:-3]),
        (metaheader(array, HeaderSize=1 << 70), data), (nrrd_header(array, byte_skip=-7), data),
        (nrrd_header(array, line_skip=1 << 50), data), (nrrd_header(array, encoding="gzip"), data),
        (envi(array, lines="")[0], data), (envi(array, lines=10**17, samples=10**17)[0], data),
        (envi(array, bands=1 << 40)[0], data), (envi(array, **{"byte order": 7})[0], data),
        (envi(array, interleave="bsq", **{"header offset": 1})[0], data),
    ):  # fmt: skip
        name = "a.mhd" if broken.startswith(b"ObjectType") else "a.nhdr" if broken.startswith(b"NRRD") else "a.hdr"
        assert is_header(context(broken, name, "a.raw"))
        assert reason(given, context(broken, name, "a.raw")) == "header", broken


def test_what_is_not_read(reason, noise):
    array = noise((9, 5, 7), "i2")
    data = array.tobytes()
    for head, why in (
        (metaheader(array, BinaryData=False), "coding"), (metaheader(array, ElementType="MET_LONG"), "samples"),
        (metaheader(array, NDims=1, DimSize="315"), "axes"), (metaheader(array, DimSize="7 5 1"), "few-samples"),
        (metaheader(array, HeaderSize=-2), "coding"), (metaheader(array, level=2, HeaderSize=4), "coding"),
    ):  # fmt: skip
        assert reason(data, context(head, "a.mhd", "a.raw")) == why
    assert reason(data, context(envi(array, **{"data type": 6})[0])) == "samples"
    assert reason(data, context(envi(array, **{"major frame offsets": "{4, 0}"})[0])) == "coding"
    came_back(data, context(envi(array, **{"major frame offsets": "{0, 0}"})[0]))


def test_documents_that_mean_no_such_file(noise):
    array = noise((9, 5, 7), "i2")
    for told in ("b.raw", "/etc/a.raw", "../a.raw", "sub/a.raw", "LIST", "a%02d.raw 1 9 1", "LOCAL", ""):
        assert not is_header(context(metaheader(array, told), "a.mhd", "a.raw"))
        assert not is_header(context(nrrd_header(array, told), "a.nhdr", "a.raw"))
    assert is_header(context(metaheader(array, "./a.raw"), "a.mhd", "a.raw"))
    for document in (b"", b"#?RADIANCE\nsamples = 4\n", b"ENVIRONMENT\n", bytes(400), b"\x5c\1\0\0", nifti(array)[:352]):
        assert is_header(context(document)) == (document == b"\x5c\1\0\0")  # an Analyze header that ends at once
    assert parse(b"x" * 99, context=context(b"no gzip", "a.hdr.gz", "a.img.gz")) is None
    assert not is_header(context(metaheader(array) + b"\n" * MAX_HEADER, "a.mhd", "a.raw"))


def test_files_that_say_themselves_what_they_are(exact, noise):
    array = noise((9, 5, 7), "i2")
    pgm = b"P5 6 5 255\n" + noise((5, 6)).tobytes()
    for beside in (context(envi(array)[0]), context(metaheader(array), "a.mhd", "a.raw")):
        parsed = parse(pgm, context=beside)
        assert parsed is not None
        assert parsed.format == "pnm"
        found = outline(pgm, beside)
        assert found is not None
        assert found.format == "pnm"


def test_limits_hold(noise):
    data = gzip.compress(bytes(1 << 20))
    head = nrrd_header(np.zeros((1 << 10, 1 << 10), np.uint8), encoding="gzip")
    with pytest.raises(SourceTooLarge):
        parse(data, limits=Limits(max_member_bytes=1 << 18), context=context(head, "a.nhdr", "a.raw"))


def test_names():
    assert header_names("scan.img")[0] == "scan.hdr"
    assert {"scan.hdr", "scan.mhd", "scan.nhdr", "scan.img.hdr"} <= set(header_names("scan.img"))
    assert header_names("SCAN.IMG")[0] == "SCAN.HDR"
    assert header_names("scan.img.gz")[:2] == ["scan.hdr.gz", "scan.hdr"]
    assert header_names("scene") == ["scene.hdr"]
    for name in ("a.hdr", "a.mhd", "a.txt", "a.tif", "a.nii.gz", "a.gz", "a.tar.gz", ""):
        assert header_names(name) == []


def test_outlines(noise):
    array = noise((9, 5, 7), "i2")
    for head, data in (envi(array, "bil"), envi(array, "bip"), envi(array, "bsq")):
        found = outline(data, context(head))
        assert found is not None
        assert (found.format, found.decoded_bytes) == ("raw", array.nbytes)
    packed = context(metaheader(array, "a.raw", 2), "a.mhd", "a.raw")
    assert outline(zlib.compress(array.tobytes()), packed) is None


@pytest.mark.shared
@pytest.mark.skipif(not NIBABEL.is_dir(), reason=f"nibabel's test files are not at {NIBABEL}")
@pytest.mark.parametrize("name", ["analyze.hdr", "nifti1.hdr", "nifti2.hdr"])
def test_public_headers(name):
    head = (NIBABEL / name).read_bytes()
    header = {"a": nibabel.AnalyzeHeader, "1": nibabel.Nifti1Header, "2": nibabel.Nifti2Header}[name[0 if name[0] == "a" else 5]]
    told = header.from_fileobj(io.BytesIO(head), check=False)
    count = int(np.prod(told.get_data_shape())) * told.get_data_dtype().itemsize
    data = bytes(int(told.get_data_offset())) + np.random.default_rng(1).bytes(count)
    beside = context(head)
    if count and bytes(head[344:348]) != b"n+1\0" and bytes(head[4:8]) != b"n+2\0":
        assert sum(image.nbytes for image in came_back(data, beside).images) == count
    else:
        assert parse(data, context=beside) is None
