"""MGH and MGZ come back byte for byte, with the images that nibabel reads."""

from __future__ import annotations

import gzip
import struct

import nibabel
import numpy as np
import pytest

from callic_archive.errors import SourceError
from callic_archive.images import parse, sniff

TYPES = {"u1": 0, "i4": 1, "f4": 3, "i2": 4, "u2": 10}


def mgh(array, footer=b"", kind=None):
    """A file of an array (x, y, z, frames)."""
    sizes = [*array.shape, *[1] * (4 - array.ndim)]
    kind = TYPES[array.dtype.str[1:]] if kind is None else kind
    head = struct.pack(">7ih", 1, *sizes, kind, 0, 1)
    body = array.astype(array.dtype.newbyteorder(">")).tobytes(order="F")
    return head.ljust(284, b"\0") + body + footer


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (7, 5, 11), (7, 5, 4, 3), (1, 7, 5)])
def test_slices_come_back(exact, shape, dtype):
    array = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    data = mgh(array, struct.pack(">5f", 1, 2, 3, 4, 5) + b"tags")
    parsed = exact(data)
    assert parsed.format == "mgh"
    whole = array.reshape([n for n in shape if n > 1], order="F").transpose()
    found = np.concatenate(parsed.images)
    expected = whole.reshape(-1, whole.shape[-1])
    np.testing.assert_array_equal(found, expected.astype(array.dtype).view(found.dtype))
    assert len(parsed.surround) == len(data) - array.nbytes
    if dtype != "u2":  # nibabel knows no such type
        np.testing.assert_array_equal(np.squeeze(np.asarray(nibabel.MGHImage.from_bytes(data).dataobj)), np.squeeze(array))


def test_what_nibabel_writes(exact):
    volume = np.arange(9 * 8 * 7, dtype=np.int16).reshape(9, 8, 7)
    data = nibabel.MGHImage(volume, np.eye(4)).to_bytes()
    assert exact(data).format == "mgh"
    packed = exact(gzip.compress(data, 6, mtime=0))
    assert packed.format == "gzip"
    assert packed.recipe["members"][0]["format"] == "mgh"


def test_some_are_left(reason, noise):
    assert reason(mgh(noise((7, 5, 3)), kind=6)) == "samples"
    assert reason(mgh(noise((1, 105)))) == "axes"
    assert reason(gzip.compress(mgh(noise((7, 50, 3)), kind=9))) == "members"


def test_what_only_begins_like_one(noise):
    good = mgh(noise((7, 5, 3)))
    for at, value in ((0, 2), (4, -1), (8, 0), (20, 11), (20, -1)):
        assert sniff(good[:at] + struct.pack(">i", value) + good[at + 4 :]) is None
    assert sniff(good[:28] + b"\0\7" + good[30:]) is None
    assert sniff(good[:29]) is None


def test_lies_are_named(noise):
    good = mgh(noise((7, 5, 3), "i2"))
    for data in (good[:-1], good[:283], good[:4] + b"\x7f\xff\xff\xff" * 4 + good[20:]):
        with pytest.raises(SourceError, match=r"inside its header|promises"):
            parse(data)


def test_damage(damage, noise):
    assert damage(mgh(noise((7, 5, 9), "i2"), b"footer"), every=3)["error"] > 20
