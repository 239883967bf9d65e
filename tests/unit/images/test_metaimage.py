"""MetaImage comes back byte for byte, with the samples that were written; what it does not take it says."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from callic_archive.errors import SourceError
from callic_archive.images import parse

TYPES = {
    "i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "u4": "MET_UINT",
    "f4": "MET_FLOAT", "i8": "MET_LONG_LONG", "u8": "MET_ULONG_LONG", "f8": "MET_DOUBLE",
}  # fmt: skip


def metaimage(array, level=None, channels=1, **changes):
    """As ITK 5 writes it: an array (.., z, y, x), or (.., y, x, channels)."""
    shape = array.shape if channels == 1 else array.shape[:-1]
    big = array.dtype.str[0] == ">"
    body = array.tobytes() if level is None else zlib.compress(array.tobytes(), level)
    dims = len(shape)
    fields = {
        "ObjectType": "Image", "NDims": dims, "BinaryData": True, "BinaryDataByteOrderMSB": big,
        "CompressedData": level is not None, "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
        "CenterOfRotation": "0 0 0", "AnatomicalOrientation": "RAI", "ElementSpacing": "1 1 1",
        "DimSize": " ".join(map(str, shape[::-1])), "ElementNumberOfChannels": channels,
        "ElementType": TYPES[array.dtype.str[1:]],
    } | changes  # fmt: skip
    fields["ElementDataFile"] = fields.pop("ElementDataFile", "LOCAL")  # ends the header
    return "".join(f"{k} = {v}\n" for k, v in fields.items()).encode() + body


@pytest.mark.parametrize("level", [None, 2, 9])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">i2", "<i2", ">u2"])
def test_slices_come_back(exact, noise, level, dtype):
    array = noise((9, 5, 7), dtype[-2:]).astype(dtype)
    parsed = exact(metaimage(array, level))
    assert parsed.format == "metaimage"
    assert ("members" in parsed.recipe) == (level is not None)
    found = np.concatenate(parsed.images).astype(int) - (128 if dtype == "i1" else 0)
    np.testing.assert_array_equal(found, array.reshape(-1, 7))


@pytest.mark.parametrize("level", [None, 2])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u4", "i8", "u8"])
def test_floats_and_wide_integers(exact, level, dtype):
    array = (np.random.default_rng(1).normal(0, 1e3, (9, 5, 6)) * 1.1).astype(dtype)
    images = exact(metaimage(array, level)).images
    np.testing.assert_array_equal(np.concatenate(images), array.reshape(-1, 6).view(images[0].dtype))


def test_channels_lie_side_by_side(exact, noise):
    colour = noise((7, 5, 3))
    (image,) = exact(metaimage(colour, channels=3)).images
    np.testing.assert_array_equal(image, colour)
    (image,) = exact(metaimage(colour, 2, channels=3, ElementType="MET_UCHAR_ARRAY")).images
    np.testing.assert_array_equal(image, colour)


def test_other_ways_to_write_a_header(exact, noise):
    pixels = noise((6, 5))
    text = b"NDims=2\r\nComment = anything = at all\r\nBinaryData = true\r\nDimSize = 5 6\r\nElementType = MET_UCHAR\r\n"
    text += b"ElementDataFile = Local\r\n"
    assert exact(text + pixels.tobytes() + b"behind").images[0].tobytes() == pixels.tobytes()


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"ElementDataFile": "a.raw"}, "no-pixels"), ({"ElementDataFile": "LIST"}, "no-pixels"),
     ({"ObjectType": "Scene"}, "variant"),
     ({"BinaryData": False}, "coding"), ({"HeaderSize": -1}, "coding"), ({"ElementType": "MET_LONG"}, "samples"),
     ({"ElementType": "MET_OTHER"}, "samples"), ({"NDims": 1, "DimSize": "30"}, "axes")],
)  # fmt: skip
def test_some_are_left(noise, reason, changes, why):
    assert reason(metaimage(noise((6, 5)), **changes)) == why


def test_text_that_is_no_image_is_left(reason):
    assert reason(b"ObjectType = Group\nNDims = 3\n") == "variant"
    assert reason(b"NDims of a tensor, explained\n") == "variant"
    assert reason(b"ObjectType" * 200_000) == "variant"


def test_lies_are_named(noise):
    raw, packed = (metaimage(noise((3, 5, 7), "i2"), level) for level in (None, 6))
    for data, message in (
        (raw[:-1], "promises 210 bytes of samples, 209 follow"),
        (raw.replace(b"DimSize = 7", b"DimSize = 9"), "promises 270"),
        (raw.replace(b"DimSize = 7", b"DimSize = x"), "holds no numbers"),
        (raw.replace(b"NDims = 3", b"NDims = 2"), "contradict"),
        (raw.replace(b"DimSize = 7", b"DimSize = -7"), "contradict"),
        (raw.replace(b"Channels = 1", b"Channels = 0"), "no number of channels"),
        (raw.replace(b"CompressedData = False", b"CompressedData = True"), "said to be a zlib stream"),
        (packed[:-12], "ends too early|inside the checksum"),
        (packed[:-2], "inside the checksum"),
        (packed[:-1] + bytes([packed[-1] ^ 1]), "do not have their checksum"),
        (packed.replace(b"DimSize = 7", b"DimSize = 8"), "promises 240"),
    ):
        with pytest.raises(SourceError, match=message):
            parse(data)


def test_damage(damage, noise):
    for level in (None, 6):
        assert damage(metaimage(noise((7, 5, 9), "i2"), level), every=5)["error"] > 20
