"""NIfTI and NRRD come back byte for byte, with the images that nibabel and pynrrd read; slices are stacked."""

from __future__ import annotations

import gzip
import io
import json
import zlib

import nibabel
import nrrd
import numpy as np
import pytest

from callic_archive.errors import MalformedSource, SourceError, SourceTooLarge, TruncatedSource
from callic_archive.images import Limits, parse, rebuild, sniff
from callic_archive.images.stacks import FEWEST, STACK_PIXELS

KINDS = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}


def nifti(array, version=1, order="<"):
    image = KINDS[version](array, np.eye(4), dtype=array.dtype)
    header = image.header if order == "<" else image.header.as_byteswapped(">")
    image = KINDS[version](array, np.eye(4), header, dtype=array.dtype)
    return image.to_bytes()


def nrrd_file(array, path, **header):
    nrrd.write(str(path), array, header, index_order="F")
    return path.read_bytes()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
@pytest.mark.parametrize(
    "shape", [(7, 5), (7, 5, 3), (7, 5, 11), (7, 5, 4, 3), (1, 7, 5), (1, 1, 1, 1, 7, 5)]
)
def test_nifti_gives_the_slices(exact, noise, version, order, dtype, shape):
    array = noise(shape, dtype)
    data = nifti(array, version, order)
    parsed = exact(data)
    assert parsed.format == "nifti"
    loaded = np.asarray(KINDS[version].from_bytes(data).dataobj).reshape([n for n in shape if n > 1])
    expected = loaded.transpose().reshape(-1, loaded.shape[0])
    found = np.concatenate(parsed.images)
    np.testing.assert_array_equal(found.astype(int) - (128 if dtype == "i1" else 0), expected)
    assert len(parsed.surround) == len(data) - loaded.nbytes


@pytest.mark.parametrize("dtype", ["i4", "u4"])
@pytest.mark.parametrize("order", "<>")
def test_nifti_of_32_bits_comes_as_bit_patterns(exact, dtype, order):
    array = np.random.default_rng(1).integers(0, 1 << 20, (6, 5, 9)).astype(dtype)
    images = exact(nifti(array, 1, order)).images
    np.testing.assert_array_equal(np.concatenate(images), array.transpose().reshape(-1, 6))


def test_nifti_colour(exact, noise):
    for letters in ("RGB", "RGBA"):
        voxels = noise((6, 5, 4, len(letters)))
        array = voxels.view([(letter, "u1") for letter in letters])[..., 0]
        images = exact(nifti(array)).images
        np.testing.assert_array_equal(np.stack(images), voxels.transpose(2, 1, 0, 3))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u8", "c8", "c16"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [1, 2])
def test_nifti_of_floats_and_wide_integers(exact, dtype, order, version):
    array = (np.random.default_rng(1).normal(0, 1e3, (6, 5, 9)) * 1.1).astype(dtype)
    data = nifti(array, version, order)
    found = np.concatenate(exact(data).images)
    each = array.real.dtype if dtype.startswith("c") else array.dtype
    wanted = np.ascontiguousarray(array.transpose().reshape(-1, 6)).view(each)
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted.view(found.dtype))
    assert len(exact(zipped(data)).images) == len(exact(data).images)


def test_what_is_left_in_nifti_and_why(noise, reason):
    data = bytearray(nifti(np.zeros((5, 6, 7), "f8")))
    data[70:72] = (1536).to_bytes(2, "little")  # floats of 128 bits
    assert sniff(data) == "nifti"
    assert reason(bytes(data)) == "samples"
    assert reason(nifti(noise((7,)))) == "axes"
    pair = nibabel.Nifti1Pair(noise((5, 6, 7)), np.eye(4))
    assert sniff(pair.header.binaryblock + bytes(100)) is None


def test_lies_in_nifti_are_named(noise):
    good = nifti(noise((7, 5, 9), "i2"))
    with pytest.raises(TruncatedSource, match="promises 630 bytes of samples, 629 follow"):
        parse(good[:-1])
    for at, value in (
        (40, b"\x09\0"),
        (42, b"\0\0"),
        (44, b"\xff\xff"),
        (108, b"\0\0\0\0"),
        (108, b"\0\0\xc0\x7f"),
    ):
        with pytest.raises(MalformedSource):
            parse(good[:at] + value + good[at + len(value) :])
    with pytest.raises(SourceTooLarge):
        parse(nifti(noise((7, 5, 9), "i2")), limits=Limits(max_images=0))


def test_damaged_nifti(damage, noise):
    assert damage(nifti(noise((7, 5, 9), "i2")), every=5)["error"] > 50


def test_a_long_series_has_few_images_and_a_short_recipe(exact):
    """A recipe of a film of 86400 slices is as short as that of a few, and its index line has few parts."""
    slices = np.zeros((64, 64, 72, 100), "i2")
    parsed = exact(nifti(slices))
    assert len(parsed.images) == -(-slices.size // STACK_PIXELS)
    assert len(json.dumps(parsed.recipe)) < 500
    parsed = exact(nifti(np.zeros((256, 256, 300), "u1")))
    assert 18 < len(parsed.images) <= 20
    assert sum(layout["frames"] * layout.get("times", 1) for layout in parsed.recipe["layouts"]) == 300
    assert len(exact(nifti(np.zeros((2000, 2000, FEWEST), "u1"))).images) == FEWEST


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4"])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_nrrd_gives_the_slices(exact, noise, tmp_path, encoding, dtype, endian):
    array = noise((7, 5, 9), dtype).astype(
        np.dtype(dtype).newbyteorder(endian[0].replace("l", "<").replace("b", ">"))
    )
    data = nrrd_file(array, tmp_path / "a.nrrd", encoding=encoding, endian=endian)
    parsed = exact(data)
    assert parsed.format == "nrrd"
    assert ("members" in parsed.recipe) == (encoding == "gzip")
    images = parsed.images
    if dtype == "i4":
        images = tuple(image.view("i4") for image in images)
    found = np.concatenate(images).astype(int) - (128 if dtype == "i1" else 0)
    np.testing.assert_array_equal(found, array.transpose().reshape(-1, 7))


def test_nrrd_colour_and_directions(exact, noise, tmp_path):
    colour = noise((3, 7, 5))
    (image,) = exact(nrrd_file(colour, tmp_path / "a.nrrd", encoding="raw")).images
    np.testing.assert_array_equal(image, colour.transpose(2, 1, 0))
    many = noise((12, 7, 5, 2), "i2")
    images = exact(
        nrrd_file(many, tmp_path / "b.nrrd", encoding="gzip", kinds=["vector", "space", "space", "space"])
    ).images
    assert len(images) == 2  # slices of twelve planes
    np.testing.assert_array_equal(images[1], many[:, :, :, 1].transpose(2, 1, 0))


def test_nrrd_skips(exact, noise):
    pixels = noise((6, 5)).tobytes()
    head = b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 5 6\nencoding: raw\n# a comment: yes\nkey:=value\n"
    for skip, between in (
        ("line skip: 2\n", b"one\ntwo\n"),
        ("byte skip: 4\n", b"four"),
        ("byte skip: -1\n", b"x" * 77),
    ):
        parsed = exact(head + skip.encode() + b"\n" + between + pixels)
        assert parsed.images[0].tobytes() == pixels
    text = head.replace(b"\n", b"\r\n") + b"\r\n"
    assert exact(text + pixels + b"behind").images[0].tobytes() == pixels


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"type", b"block"), (b"encoding", b"hex"), (b"encoding", b"bzip2"),
     (b"encoding", b"ascii"), (b"sizes", b"30"), (b"data file", b"other.raw")],
)  # fmt: skip
def test_nrrd_leaves_some(field, value, reason):
    fields = {b"type": b"uchar", b"dimension": b"2", b"sizes": b"5 6", b"encoding": b"raw", field: value}
    if field == b"sizes":
        fields[b"dimension"] = b"1"
    head = b"NRRD0004\n" + b"".join(b"%s: %s\n" % item for item in fields.items()) + b"\n"
    wanted = {b"type": "samples", b"encoding": "coding", b"sizes": "axes", b"data file": "no-pixels"}
    assert reason(head + bytes(30)) == wanted[field]


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u8", "i4"])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd_of_floats_and_wide_integers(exact, tmp_path, dtype, encoding):
    array = (np.random.default_rng(1).normal(0, 1e3, (6, 5, 9)) * 1.1).astype(dtype)
    images = exact(nrrd_file(array, tmp_path / "a.nrrd", encoding=encoding)).images
    wanted = np.ascontiguousarray(array.transpose().reshape(-1, 6))
    np.testing.assert_array_equal(np.concatenate(images), wanted.view(images[0].dtype))


def test_lies_in_nrrd_are_named(noise, tmp_path):
    good = nrrd_file(noise((7, 5, 9), "i2"), tmp_path / "a.nrrd", encoding="gzip")
    raw = nrrd_file(noise((7, 5, 9), "i2"), tmp_path / "a.nrrd", encoding="raw")
    for data, message in (
        (raw[:-1], "promises 630 bytes of samples, 629 follow"),
        (good[:-12], "deflate stream ends too early|inside its checksum"),
        (good[:-1] + b"\7", "checksum"),
        (good.replace(b"sizes: 7", b"sizes: 8"), "promises 720"),
        (raw.replace(b"sizes: 7", b"sizes: x"), "holds no numbers"),
        (raw.replace(b"dimension: 3", b"dimension: 2"), "contradict"),
        (raw.replace(b"endian: little", b"endian: middle"), "byte order"),
    ):
        with pytest.raises(SourceError, match=message):
            parse(data)


def test_damaged_nrrd(damage, noise, tmp_path):
    assert (
        damage(nrrd_file(noise((7, 5, 9), "i2"), tmp_path / "a.nrrd", encoding="raw"), every=5)["error"] > 20
    )
    assert (
        damage(nrrd_file(noise((7, 5, 9), "i2"), tmp_path / "b.nrrd", encoding="gzip"), every=5)["error"] > 20
    )


# -- gzip ------------------------------------------------------------------------------------------------------


def zipped(data, level=6, memory=8, name=b"", extra=b"", comment=b"", crc=False, strategy=0):
    flags = (4 if extra else 0) | (8 if name else 0) | (16 if comment else 0) | (2 if crc else 0)
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\x01\x02\x03\x04" + bytes([{9: 2, 1: 4}.get(level, 0), 3])
    head += len(extra).to_bytes(2, "little") + extra if extra else b""
    head += name + b"\0" if name else b""
    head += comment + b"\0" if comment else b""
    head += zlib.crc32(head).to_bytes(4, "little")[:2] if crc else b""
    engine = zlib.compressobj(level, zlib.DEFLATED, -15, memory, strategy)
    tail = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return head + engine.compress(data) + engine.flush() + tail


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("memory", [8, 9])
def test_gzip_at_each_level(exact, noise, level, memory):
    array = noise((37, 35, 19), "i2")
    parsed = exact(zipped(nifti(array), level, memory, name=b"a.nii"))
    assert parsed.format == "gzip"
    np.testing.assert_array_equal(np.concatenate(parsed.images), array.transpose().reshape(-1, 37))


def test_gzip_headers_and_what_lies_behind(exact, noise):
    data = nifti(noise((37, 35, 4), "i2"))
    for options in (
        {"extra": b"abc"},
        {"comment": b"words"},
        {"crc": True},
        {"name": b"n", "extra": b"e", "crc": True},
    ):
        exact(zipped(data, **options))
    exact(zipped(data) + bytes(512))


def test_what_python_nibabel_and_numpy_write(exact, noise, tmp_path):
    nibabel.save(nibabel.Nifti1Image(noise((37, 35, 4), "i2"), np.eye(4)), tmp_path / "a.nii.gz")
    exact((tmp_path / "a.nii.gz").read_bytes())
    out = io.BytesIO()
    np.save(out, noise((37, 35)))
    exact(gzip.compress(out.getvalue()))
    out = io.BytesIO()
    np.savez(out, a=noise((37, 35)), b=noise((4, 5, 6), "u2"), c=np.zeros(9, "f4"))
    parsed = exact(out.getvalue())
    assert parsed.format == "zip"
    assert [m["format"] for m in parsed.recipe["members"]] == ["npy", "npy"]
    assert parsed.recipe["streams"] == [None, None]
    out = io.BytesIO()
    np.savez_compressed(out, a=noise((37, 35)), b=noise((4, 5, 6), "u2"), c=np.zeros(9, "f4"))
    parsed = exact(out.getvalue())
    assert len(parsed.images) == 5
    assert all(stream["level"] == 6 for stream in parsed.recipe["streams"])


def test_what_is_left_in_gzip_and_zip(noise):
    image = nifti(noise((9, 8)))
    assert parse(zipped(b"words, not pixels" * 50)) is None
    assert parse(zipped(zipped(image))) is None  # no wrappers in wrappers
    import imagecodecs

    dense = imagecodecs.deflate_encode(image, level=12, raw=True)
    tail = zlib.crc32(image).to_bytes(4, "little") + len(image).to_bytes(4, "little")
    foreign = zipped(image)[:10] + dense + tail  # a library that zlib does not repeat
    taken = parse(foreign)
    assert taken is not None
    assert set(taken.recipe["streams"][0]) == {"differences"}
    again = io.BytesIO()
    rebuild(taken.format, taken.recipe, taken.surround, taken.images, again)
    assert again.getvalue() == foreign
    out = io.BytesIO()
    np.savez(out, a=np.zeros(9))
    assert parse(out.getvalue()) is None
    out = io.BytesIO()
    np.savez(out, a=noise((37, 35)))
    assert parse(out.getvalue()[:-30]) is None
    assert parse(out.getvalue()[:900]) is None


def test_what_is_not_taken_is_not_inflated_for_nothing(monkeypatch, reason):
    from callic_archive.images import gzip_file

    monkeypatch.setattr(gzip_file, "unpack", None)  # calling it would raise TypeError, and so MalformedSource
    other = bytearray(nifti(np.zeros((50, 60, 70), "f4")))
    other[70:72] = b"\x01\0"  # single bits
    assert reason(zipped(bytes(other))) == "members"


def test_members_of_a_zip_file_that_share_bytes_are_inflated_once(monkeypatch, noise):
    from callic_archive.images import zip_file

    out = io.BytesIO()
    np.savez_compressed(out, a=np.zeros((300, 300), "u1"))
    data = out.getvalue()
    at = data.index(b"PK\1\2")
    entry = data[at : data.index(b"PK\5\6")]
    end = data[data.index(b"PK\5\6") :]
    many = data[:at] + entry * 40 + end[:8] + (40).to_bytes(2, "little") * 2
    many += (len(entry) * 40).to_bytes(4, "little") + end[16:]
    calls = []
    inflate = zip_file.inflate
    monkeypatch.setattr(zip_file, "inflate", lambda *a: calls.append(1) or inflate(*a))
    parsed = parse(many)
    assert parsed is not None
    assert len(parsed.images) == len(calls) == 1


def test_broken_gzip_is_named(noise):
    good = zipped(nifti(noise((37, 35, 4), "i2")))
    for data, message in (
        (good[:-1], "inside its checksum"),
        (good[:2000], "too early"),
        (good[:-3] + b"\0\0\0", "checksum"),
    ):
        with pytest.raises(SourceError, match=message):
            parse(data)
    with pytest.raises(SourceTooLarge, match="unpacked"):
        parse(good, limits=Limits(max_member_bytes=1000))
    with pytest.raises(SourceTooLarge, match="trusted"):
        parse(zipped(nifti(np.zeros((900, 900), "u1"))), limits=Limits(max_ratio=100))


def test_damaged_wrappers(damage, noise):
    assert damage(zipped(nifti(noise((17, 15, 9), "i2"))), every=7)["error"] > 20
    out = io.BytesIO()
    np.savez(out, a=noise((17, 15)))
    damage(out.getvalue(), every=7)
    out = io.BytesIO()
    np.savez_compressed(out, a=noise((17, 15)))
    damage(out.getvalue(), every=7)
