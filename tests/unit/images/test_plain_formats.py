"""NPY, PNM and BMP: one block of samples behind a header."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image as Pillow

from callic_archive.errors import (
    MalformedSource,
    RebuildMismatch,
    SourceError,
    SourceTooLarge,
    TruncatedSource,
)
from callic_archive.images import Limits, parse, rebuild


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def saved(array, kind):
    out = io.BytesIO()
    Pillow.fromarray(array).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i2", ">i2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (5, 7, 3), (5, 7, 2), (9, 1)])
def test_npy_gives_the_array(exact, noise, dtype, order, shape):
    array = np.array(noise(shape, dtype), order=order)
    (image,) = exact(npy(array) + b"trailing").images
    np.testing.assert_array_equal(image, array)


def test_npy_planes_pages_and_signed_bytes(exact, noise):
    planes = noise((3, 6, 7))
    (image,) = exact(npy(planes)).images
    np.testing.assert_array_equal(image, planes.transpose(1, 2, 0))
    pages = noise((5, 6, 7), ">u2")
    parsed = exact(npy(pages))
    np.testing.assert_array_equal(np.stack(parsed.images), pages)
    assert len(parsed.recipe["layouts"]) == 1  # equal pages cost one entry
    colour_pages = noise((2, 5, 6, 7, 3))
    (stack,) = exact(npy(colour_pages)).images  # many small pages lie below each other
    np.testing.assert_array_equal(stack, colour_pages.reshape(60, 7, 3))
    (scene,) = exact(npy(noise((24, 20, 5), "<u2"))).images  # bands, as nothing else is so short
    assert scene.shape == (24, 20, 5)
    assert len(exact(npy(noise((24, 19, 5), "<u2"))).images) == 1  # slices of 19 rows and 5 columns, in a stack
    signed = noise((6, 7), "i1")
    np.testing.assert_array_equal(exact(npy(signed)).images[0].astype(int), signed.astype(int) + 128)
    fortran = np.asfortranarray(noise((6, 7, 5), "<u2"))
    assert len(exact(npy(fortran)).images) == 5


@pytest.mark.parametrize(
    "array", [np.zeros((3, 4), "f16"), np.zeros((3, 4), "c16"), np.zeros(7, "u1"), np.zeros((0, 4), "u1"),
              np.zeros((3, 4), "U2"), np.zeros((3, 4), [("a", "u1")])],
)  # fmt: skip
def test_npy_leaves_what_no_model_takes(array):
    assert parse(npy(array)) is None


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u4", ">i4", "<f4"])
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3), (12, 6, 7)])
def test_npy_of_wide_samples_in_any_order(exact, dtype, order, shape):
    rng = np.random.default_rng(4)
    array = np.array(rng.integers(0 if "u" in dtype else -70000, 70000, shape).astype(dtype), order=order)
    images = exact(npy(array)).images
    assert {image.dtype.name for image in images} == {"uint32"}
    assert sum(image.size for image in images) == array.size
    bits = np.sort(array.astype(array.dtype.newbyteorder("=")).view("u4").ravel())
    np.testing.assert_array_equal(np.sort(np.concatenate([image.ravel() for image in images])), bits)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i4", ">u4", "<u8", "<i8", "<c8", "<f2", "?"])
def test_npy_takes_wide_samples_as_bit_patterns(exact, dtype):
    array = (np.random.default_rng(2).normal(0, 9, (5, 6)) * 1000).astype(dtype)
    (image,) = exact(npy(array)).images
    assert image.itemsize == array.itemsize
    little = array.astype(array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(image, little.view(image.dtype))


def test_npy_lies_are_named():
    good = npy(np.zeros((4, 4), "u1"))
    with pytest.raises(TruncatedSource, match="promises 16 bytes, 15 follow"):
        parse(good[:-1])
    with pytest.raises(TruncatedSource):
        parse(good.replace(b"(4, 4), ", b"(4, 90000000000), ".ljust(8)))
    with pytest.raises(MalformedSource, match="no Python dictionary"):
        parse(good.replace(b"{'descr'", b"{{descr'"))
    with pytest.raises(MalformedSource, match="version"):
        parse(good[:6] + b"\x09" + good[7:])
    with pytest.raises(MalformedSource, match="shape is no tuple"):
        parse(good.replace(b"(4, 4), ", b"(4,-4), "))


def test_images_are_views_of_the_input(noise):
    """A 100-megapixel file must not be copied: the image lies in the very buffer that was given."""
    array = noise((64, 48), "<u2")
    data = np.frombuffer(npy(array), np.uint8).copy()
    parsed = parse(memoryview(data))
    assert parsed is not None
    assert np.shares_memory(parsed.images[0], data)
    assert len(parsed.surround) == len(data) - array.nbytes


@pytest.mark.parametrize(("shape", "kind"), [((7, 5), "PPM"), ((7, 5, 3), "PPM"), ((7, 5), "BMP"),
                                             ((7, 5, 3), "BMP"), ((7, 6, 4), "BMP")])  # fmt: skip
def test_pillow_files(exact, noise, shape, kind):
    array = noise(shape)
    (image,) = exact(saved(array, kind)).images
    np.testing.assert_array_equal(image, array)


def test_pnm_16_bit_comments_and_several_images(exact, noise):
    array = noise((4, 3), "u2")
    head = b"P5 # a comment\n#another\n 3\t4 # more\n65535\n"
    (image,) = exact(head + array.astype(">u2").tobytes()).images
    np.testing.assert_array_equal(image, array)
    one = b"P6 2 2 255 " + bytes(range(12))
    parsed = exact(one * 3 + b"P6 not an image")
    assert len(parsed.images) == 3
    assert parsed.surround.endswith(b"P6 not an image")


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_pam(exact, noise, depth):
    array = noise((4, 3, depth))
    head = b"P7\n# c\nWIDTH 3\nHEIGHT 4\nDEPTH %d\nMAXVAL 255\nTUPLTYPE X\nENDHDR\n" % depth
    (image,) = exact(head + array.tobytes()).images
    np.testing.assert_array_equal(image.reshape(array.shape), array)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"P5 4 4 255\n" + bytes(15), TruncatedSource),
        (b"P5 4 4", TruncatedSource),
        (b"P5 4 x 255\n" + bytes(16), MalformedSource),
        (b"P5 4 4 70000\n" + bytes(99), MalformedSource),
        (b"P5 99999999 99999999 255\n" + bytes(16), TruncatedSource),
        (b"P5 99999999999999 1 255\n" + bytes(16), MalformedSource),
        (b"P7\nWIDTH 3\nHEIGHT 4\nMAXVAL 255\nENDHDR\n" + bytes(99), MalformedSource),
        (b"P7\nWIDTH 3\nHEIGHT 4\n", TruncatedSource),
    ],
)
def test_pnm_lies_are_named(data, error):
    with pytest.raises(error):
        parse(data)


def test_pnm_leaves_empty_and_deep(noise):
    assert parse(b"P5 0 4 255\n") is None
    assert parse(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 5\nMAXVAL 255\nENDHDR\n" + bytes(5)) is None


def test_bmp_top_down_os2_and_lies(exact, noise):
    pixels = noise((3, 3, 3))
    rows = np.zeros((3, 12), np.uint8)
    rows[:, :9] = pixels[..., ::-1].reshape(3, 9)
    rows[:, 9:] = 7  # padding need not be zero
    info = struct.pack("<IiiHHIIiiII", 40, 3, -3, 1, 24, 0, 0, 0, 0, 0, 0)
    top_down = b"BM" + struct.pack("<IHHI", 90, 0, 0, 54) + info + rows.tobytes()
    np.testing.assert_array_equal(exact(top_down + b"tail").images[0], pixels)
    core = (
        b"BM" + struct.pack("<IHHI", 62, 0, 0, 26) + struct.pack("<IHHHH", 12, 3, 3, 1, 24) + rows.tobytes()
    )
    np.testing.assert_array_equal(exact(core).images[0], pixels[::-1])
    with pytest.raises(TruncatedSource):
        parse(top_down[:-1])
    with pytest.raises(MalformedSource):
        parse(top_down.replace(struct.pack("<ii", 3, -3), struct.pack("<ii", 0, -3)))
    assert parse(b"BM is how this text begins, which is no bitmap at all") is None


def test_bmp_of_palettes_and_single_bits(exact, noise):
    out = io.BytesIO()
    indexed = Pillow.fromarray(noise((5, 5))).convert("P", palette=Pillow.Palette.ADAPTIVE)
    indexed.save(out, "BMP")
    data = bytearray(out.getvalue())
    data[54:58] = b"\x10\x20\x30\0"
    np.testing.assert_array_equal(exact(bytes(data)).images[0], np.asarray(indexed))
    bits = noise((9, 21)) > 60
    (image,) = exact(saved(bits, "BMP")).images
    np.testing.assert_array_equal(image, bits)
    info = struct.pack("<IiiHHIIiiII", 40, 3, 2, 1, 4, 0, 0, 0, 0, 16, 0)
    four = b"BM" + struct.pack("<IHHI", 126, 0, 0, 118) + info + bytes(64) + bytes.fromhex("1230aaaa456fbbbb")
    np.testing.assert_array_equal(exact(four).images[0], [[4, 5, 6], [1, 2, 3]])


def test_what_is_left_of_bmp(noise, reason):
    data = bytearray(saved(noise((5, 5)), "BMP"))
    data[30] = 1
    assert reason(bytes(data)) == "coding"  # runs
    data[28:31] = b"\x10\0\0"
    assert reason(bytes(data)) == "samples"


def test_pbm(exact, noise):
    bits = noise((7, 21)) > 60
    (image,) = exact(saved(bits, "PPM") * 2).images[:1]
    assert len(exact(saved(bits, "PPM") * 2).images) == 2
    np.testing.assert_array_equal(image, ~bits)  # 1 is black in a PBM
    example = b"P4 11 2\n" + bytes.fromhex("80c00121")
    parsed = exact(example)
    np.testing.assert_array_equal(
        parsed.images[0], [[1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1]]
    )
    assert parsed.surround == b"P4 11 2\n\0\1"  # what the page on image files says


def test_damage(damage, noise):
    for data in (npy(noise((4, 5))), saved(noise((4, 5, 3)), "BMP"), saved(noise((4, 5)), "PPM")):
        outcomes = damage(data)
        assert outcomes["error"] > 20


def test_limits():
    data = npy(np.zeros((64, 64), "u1"))
    with pytest.raises(SourceTooLarge, match="limit is 4095"):
        parse(data, limits=Limits(max_decoded_bytes=4095))
    with pytest.raises(SourceTooLarge, match="images"):
        parse(npy(np.zeros((9, 8, 8), "u1")), limits=Limits(max_images=8))
    assert parse(data, limits=Limits(max_decoded_bytes=4096)) is not None


def test_names_stand_in_messages():
    with pytest.raises(SourceError, match=r"scans/a\.npy: "):
        parse(npy(np.zeros((4, 4), "u1"))[:-1], name="scans/a.npy")


def test_rebuild_refuses_what_does_not_fit(noise):
    parsed = parse(npy(noise((4, 5))))
    assert parsed is not None

    def write(images, surround=parsed.surround, recipe=parsed.recipe, kind="npy"):
        rebuild(kind, recipe, surround, images, io.BytesIO())

    with pytest.raises(RebuildMismatch, match="is needed"):
        write([np.zeros((4, 6), "u1")])
    with pytest.raises(RebuildMismatch, match="is needed"):
        write([np.zeros((4, 5), "u2")])
    with pytest.raises(RebuildMismatch, match="needs 1 images"):
        write([])
    with pytest.raises(RebuildMismatch, match="too short"):
        write(parsed.images, surround=parsed.surround[:5])
    with pytest.raises(RebuildMismatch, match="cannot be followed"):
        write(parsed.images, recipe={})
    with pytest.raises(RebuildMismatch, match="no image format"):
        write(parsed.images, kind="jpeg")


@pytest.mark.parametrize(
    "data",
    [
        b"P5 is a postcode",
        b"P6\n",
        b"P7 too",
        b"",
        b"x",
        b"plain text",
        bytes(500),
        b"\xff\xd8\xff\xe0" + bytes(99),
    ],
)
def test_other_files_are_none(data):
    assert parse(data) is None


def test_hostile_recipes_are_refused(noise):
    """An archive may be made by an enemy: a recipe can never ask for endless work or memory."""
    parsed = parse(npy(noise((3, 4, 5))))
    assert parsed is not None
    (entry,) = parsed.recipe["layouts"]
    changes = [
        {"times": 1 << 40}, {"offsets": [[128, 1, 1 << 40]]}, {"height": 0}, {"dtype": "|O8"},
        {"pitch": 1 << 40}, {"offsets": [[1 << 60, 0, 1]]}, {"offsets": [[-5, 0, 1]]}, {"pitch": -1},
        {"samples": 3, "split": True}, {"lengths": [[1, 0, 2]]},
    ]  # fmt: skip
    evil = [*({**entry, **change} for change in changes), "text", None]
    for layouts in evil:
        with pytest.raises(RebuildMismatch):
            rebuild("npy", {"layouts": [layouts]}, parsed.surround, parsed.images, io.BytesIO())
