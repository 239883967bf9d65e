"""PNG: the deflate parameters are found again, or the content is kept; broken files are named."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from callic_archive.errors import (
    MalformedSource,
    RebuildMismatch,
    SourceError,
    SourceTooLarge,
    TruncatedSource,
)
from callic_archive.images import Limits, images_equal, parse, rebuild
from callic_archive.images.png_filters import apply_filters, undo_filters
from tests.streams import capricious, flushed


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(array, *, filters=None, deflate=None, idat=8192, before=b"", after=b"", tail=b""):
    """A PNG of ``array`` with the given filter types, stream and chunk sizes."""
    samples = 1 if array.ndim == 2 else array.shape[2]
    size = array.dtype.itemsize
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], size * 8, colour, 0, 0, 0)
    rows = np.ascontiguousarray(array, array.dtype.newbyteorder(">")).reshape(len(array), -1).view(np.uint8)
    kinds = np.array([4] * len(array) if filters is None else filters, np.uint8)
    raw = apply_filters(rows, np.zeros(rows.shape[1], np.uint8), kinds, samples * size).tobytes()
    stream = zlib.compress(raw) if deflate is None else deflate(raw)
    parts = [stream[i : i + idat] for i in range(0, len(stream), idat)]
    body = b"".join(chunk(b"IDAT", part) for part in parts)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + before + body + after + chunk(b"IEND", b"") + tail


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("filters", [0, 1, 2, 3, 4, None])
def test_samples_and_filters(exact, noise, dtype, samples, filters):
    array = noise((11, 13) if samples == 1 else (11, 13, samples), dtype)
    kinds = [i % 5 for i in range(11)] if filters is None else [filters] * 11
    data = png(array, filters=kinds, idat=100)
    (image,) = exact(data).images
    np.testing.assert_array_equal(image, array)
    if dtype == "u1" and samples != 2:
        np.testing.assert_array_equal(np.asarray(Pillow.open(io.BytesIO(data))), array)


@pytest.mark.parametrize("level", [0, 1, 3, 5, 6, 8, 9])
@pytest.mark.parametrize("memory", [8, 9])
@pytest.mark.parametrize("strategy", [0, 1])
def test_zlib_parameters_are_found(exact, level, memory, strategy):
    rng = np.random.default_rng(0)
    array = np.cumsum(rng.integers(-1, 2, (110, 200, 3)), axis=1).astype(np.uint8)

    def deflate(raw):
        engine = zlib.compressobj(level, zlib.DEFLATED, 15, memory, strategy)
        return engine.compress(raw) + engine.flush()

    exact(png(array, deflate=deflate))


@pytest.mark.parametrize("window", range(9, 15))
def test_small_windows_and_rewritten_headers(exact, noise, window):
    array = noise((40, 90))

    def deflate(raw):
        engine = zlib.compressobj(9, zlib.DEFLATED, window)
        return engine.compress(raw) + engine.flush()

    def rewritten(raw):
        stream = zlib.compress(raw, 6)
        first = (window - 8) << 4 | 8
        return bytes([first, 0x80 + (31 - ((first << 8) + 0x80) % 31) % 31]) + stream[2:]

    exact(png(array, deflate=deflate))
    exact(png(array, deflate=rewritten))


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"compress_level": 1}, {"compress_level": 9}])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pillow_files(exact, noise, mode, options):
    samples = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "I;16": ()}[mode]
    array = noise((60, 70, *samples), "u2" if mode == "I;16" else "u1")
    info = PngInfo()
    info.add_text("note", "kept")
    out = io.BytesIO()
    Pillow.fromarray(array).save(out, "PNG", pnginfo=info, dpi=(300, 300), **options)
    np.testing.assert_array_equal(exact(out.getvalue()).images[0], array)


def test_stored_streams_of_any_blocks(exact, noise):
    """Without compression zlib's blocks depend on how it was fed: their sizes are kept instead."""

    def row_by_row(raw):
        engine = zlib.compressobj(0)
        return b"".join(engine.compress(raw[i : i + 301]) for i in range(0, len(raw), 301)) + engine.flush()

    def by_hand(raw):
        blocks = [raw[:0], raw[:9], raw[9:70], raw[70:70], raw[70:]]
        parts = [
            struct.pack("<BHH", i == len(blocks) - 1, len(b), len(b) ^ 0xFFFF) + b
            for i, b in enumerate(blocks)
        ]
        return b"\x78\x01" + b"".join(parts) + zlib.adler32(raw).to_bytes(4, "big")

    exact(png(noise((700, 100, 3)), deflate=row_by_row))
    exact(png(noise((9, 50)), deflate=by_hand))


def test_all_chunks_and_the_tail_are_kept(exact, noise):
    before = chunk(b"tRNS", bytes(6)) + chunk(b"iCCP", b"x\0\0" + zlib.compress(b"profile"))
    data = png(noise((9, 9, 3)), before=before, after=chunk(b"tEXt", b"k\0v"), tail=b"behind the end")
    assert before in exact(data).surround


def test_empty_and_odd_chunk_sizes(exact, noise):
    data = png(noise((9, 9)), idat=1)
    exact(data)
    first = data.index(b"IDAT") - 4
    end = data.index(b"IEND") - 4
    empty = chunk(b"IDAT", b"")
    exact(data[:first] + empty * 2 + data[first:end] + empty * 2 + data[end:])


def test_a_flushed_stream_comes_back_by_its_differences(exact, noise):
    def often(raw):
        engine = zlib.compressobj()
        parts = [
            engine.compress(raw[i : i + 500]) + engine.flush(zlib.Z_SYNC_FLUSH)
            for i in range(0, len(raw), 500)
        ]
        return b"".join(parts) + engine.flush()

    array = noise((50, 50, 3), "u2")
    after = chunk(b"tEXt", b"k\0v")
    parsed = exact(png(array, deflate=often, after=after))
    np.testing.assert_array_equal(parsed.images[0], array)
    size = parsed.recipe["differences"]
    assert after in bytes(parsed.essential)
    assert len(parsed.essential) == len(parsed.surround) - size
    assert not {"deflate", "zlib"} & set(parsed.recipe)  # no library is needed
    lighter = parsed.lighter()
    assert lighter.fidelity == "content"
    assert lighter.surround == bytes(parsed.essential)
    assert images_equal(parsed, lighter)


@pytest.mark.parametrize("shape", [(40, 30), (33, 21, 4)])
def test_interlaced_images_come_back_by_their_differences(exact, noise, shape):
    array = noise(shape)
    parsed = exact(interlaced(array, lambda raw: zlib_of(flushed(raw, [100, 200]), raw)))
    np.testing.assert_array_equal(parsed.images[0], array)
    assert parsed.recipe["differences"] > 0


def zlib_of(body, raw):
    """A raw deflate stream as a zlib stream."""
    return b"\x78\x9c" + body + zlib.adler32(raw).to_bytes(4, "big")


def test_streams_of_chance_give_content(content):
    array = np.zeros((600, 600), "u1")
    parsed = content(png(array, filters=[0] * 600, deflate=lambda raw: zlib_of(capricious(raw, 1, 0), raw)))
    np.testing.assert_array_equal(parsed.images[0], array)
    assert "differences" not in parsed.recipe


def test_content_is_unequal_when_metadata_or_pixels_differ(noise):
    array = noise((9, 9))
    plain, other = parse(png(array)), parse(png(array, after=chunk(b"tEXt", b"k\0v")))
    changed = array.copy()
    changed[3, 3] ^= 1
    assert plain is not None
    assert other is not None
    third = parse(png(changed))
    assert third is not None
    packed = parse(png(array, deflate=lambda raw: zlib.compress(raw, 1), idat=99))
    assert packed is not None
    assert images_equal(plain, packed)
    assert not images_equal(plain, other)
    assert not images_equal(plain, third)


@pytest.mark.parametrize("mode", ["1", "P"])
def test_palettes_and_bits_as_other_software_writes_them(exact, noise, mode):
    out = io.BytesIO()
    image = Pillow.fromarray(noise((9, 9))).convert(mode)
    image.save(out, "PNG")
    (found,) = exact(out.getvalue()).images
    np.testing.assert_array_equal(found, np.asarray(image).astype(np.uint8))


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (9, 1), (3, 4), (8, 8), (17, 23, 3), (5, 5, 2), (40, 33, 4)]
)
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_interlaced(exact, noise, shape, dtype):
    array = noise(shape, dtype)
    data = interlaced(array, zlib.compress)
    np.testing.assert_array_equal(exact(data).images[0], array)
    if dtype == "u1" and array.shape[-1] != 2:
        np.testing.assert_array_equal(np.asarray(Pillow.open(io.BytesIO(data))), array)


def interlaced(array, compress):
    """An interlaced PNG with all filter types, whose stream ``compress`` makes."""
    size, samples = array.dtype.itemsize, (*array.shape, 1)[2]

    def deflate(_):
        raw = b""
        for x, y, dx, dy in ADAM7:
            part = np.ascontiguousarray(array[y::dy, x::dx], array.dtype.newbyteorder(">"))
            if part.size:
                rows = part.reshape(len(part), -1).view(np.uint8)
                kinds = (np.arange(len(rows)) % 5).astype(np.uint8)
                above = np.zeros(rows.shape[1], np.uint8)
                raw += apply_filters(rows, above, kinds, samples * size).tobytes()
        return compress(raw)

    data = bytearray(png(array, deflate=deflate, idat=50))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_animated_is_left(noise):
    assert parse(png(noise((9, 9)), after=chunk(b"fdAT", bytes(9)))) is None


def test_lies_are_named(noise):
    array = noise((9, 9))
    good = png(array)
    with pytest.raises(MalformedSource, match="checksum of the PNG chunk IDAT"):
        parse(good[:60] + bytes([good[60] ^ 1]) + good[61:])
    for size in (8, 20, 33, 60, len(good) - 1):
        with pytest.raises(TruncatedSource):
            parse(good[:size])
    with pytest.raises(TruncatedSource, match="promises 90"):
        parse(png(array, deflate=lambda raw: zlib.compress(raw[:-1])))
    with pytest.raises(TruncatedSource, match="promises 90"):
        parse(png(array, deflate=lambda raw: zlib.compress(raw)[:-4]))
    with pytest.raises(MalformedSource, match="longer than"):
        parse(png(array, deflate=lambda raw: zlib.compress(raw + b"x")))
    with pytest.raises(MalformedSource, match="cannot be inflated"):
        parse(png(array, deflate=lambda raw: zlib.compress(raw)[:-4] + b"abcd"))
    with pytest.raises(MalformedSource, match="filter type 9"):
        parse(png(array, deflate=lambda raw: zlib.compress(b"\x09" + raw[1:])))
    with pytest.raises(MalformedSource, match="no image data"):
        parse(png(array, deflate=lambda raw: b""))
    assert parse(png(array, deflate=lambda raw: zlib.compress(raw) + b"junk")) is None


def test_bombs_are_refused(noise):
    data = bytearray(png(noise((9, 9))))
    data[16:24] = struct.pack(">II", 1 << 30, 1 << 30)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(SourceTooLarge):
        parse(bytes(data))
    with pytest.raises(SourceTooLarge):
        parse(png(np.zeros((200, 200), "u1")), limits=Limits(max_ratio=20))


def test_damage(damage, noise):
    assert damage(png(noise((9, 9, 3)), idat=40), every=3)["error"] > 100


def test_filters_undo_each_other():
    rng = np.random.default_rng(0)
    for bpp in (1, 2, 3, 4, 6, 8):
        rows = rng.integers(0, 256, (25, 1 + 7 * bpp)).astype(np.uint8)
        rows[:, 0] = np.arange(25) % 5
        plain = rows.copy()
        assert undo_filters(plain, bpp) == -1
        again = apply_filters(plain[:, 1:], np.zeros(7 * bpp, np.uint8), rows[:, 0].copy(), bpp)
        np.testing.assert_array_equal(again, rows)


def test_damaged_checksums_of_every_chunk(noise):
    good = png(noise((9, 9)), before=chunk(b"gAMA", bytes(4)))
    for name in (b"IHDR", b"gAMA", b"IDAT", b"IEND"):
        broken = bytearray(good)
        broken[good.index(name) + 1] ^= 0x20
        with pytest.raises(SourceError):
            parse(bytes(broken))


def test_hostile_recipes_are_refused(noise):
    parsed = parse(png(noise((9, 9))))
    assert parsed is not None
    changes = [
        {"idat": [[-1, 0, 3]]}, {"idat": [[0, 0, 1 << 50]]}, {"height": 1 << 40}, {"zlib_header": "zz"},
        {"deflate": {"level": 99}}, {"deflate": {"stored": [[70000, 0, 1]]}}, {"before": -9},
        {"deflate": {"window": 15, "level": 77, "memory": 8, "strategy": 0}},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(RebuildMismatch):
            rebuild("png", {**parsed.recipe, **change}, parsed.surround, parsed.images, io.BytesIO())


# -- palettes and fewer than eight bits ----------------------------------------------------------------------


def low_png(samples, bits, colour, *, dirty=False):
    """A PNG of ``samples`` (H, W) of 1, 2, 4 or 8 bits; ``dirty`` sets the unused bits at the end of the rows."""
    height, width = samples.shape
    spread = (samples[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    flat = spread.reshape(height, -1).astype(np.uint8)
    unused = np.full((height, -flat.shape[1] % 8), int(dirty), np.uint8)
    rows = np.packbits(np.concatenate([flat, unused], axis=1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(3 << bits)) if colour == 3 else b""
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), palette, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (5, 13), (9, 16)])
def test_low_depths_are_images_of_their_samples(exact, bits, colour, size):
    samples = np.random.default_rng(bits).integers(0, 1 << bits, size, np.uint8)
    np.testing.assert_array_equal(exact(low_png(samples, bits, colour)).images[0], samples)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_interlaced_low_depths(exact, bits):
    samples = np.random.default_rng(bits).integers(0, 1 << bits, (11, 19), np.uint8)
    raw = b""
    for x, y, dx, dy in ADAM7:
        part = samples[y::dy, x::dx]
        spread = ((part[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(len(part), -1)
        raw += b"".join(b"\0" + row.tobytes() for row in np.packbits(spread.astype(np.uint8), axis=1))
    header = struct.pack(">IIBBBBB", 19, 11, bits, 0, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(exact(b"\x89PNG\r\n\x1a\n" + body).images[0], samples)


def test_dirty_bits_behind_the_rows_are_not_lost():
    samples = np.ones((4, 5), np.uint8)
    assert parse(low_png(samples, 1, 0, dirty=True)) is None
    assert parse(low_png(samples, 1, 0)) is not None


@pytest.mark.parametrize(("bits", "colour"), [(4, 2), (16, 3), (1, 6)])
def test_depths_that_a_colour_type_cannot_have_are_refused(bits, colour):
    data = bytearray(low_png(np.ones((4, 8), np.uint8), 1, 0))
    header = struct.pack(">IIBBBBB", 8, 4, bits, colour, 0, 0, 0)
    data[8:33] = chunk(b"IHDR", header)
    with pytest.raises(MalformedSource):
        parse(bytes(data))


@pytest.mark.parametrize("change", [{"bits": 3}, {"bits": 2}, {"bits": 0}, {"bits": 16}, {"samples": 2}])
def test_recipes_with_impossible_bits_are_refused(change):
    samples = np.full((6, 10), 9, np.uint8)
    parsed = parse(low_png(samples, 4, 0))
    assert parsed is not None
    with pytest.raises(RebuildMismatch):
        rebuild("png", {**parsed.recipe, **change}, parsed.surround, parsed.images, io.BytesIO())
