"""docs/format/deflate.md is enough: a decoder written from it alone gives the streams back that compressors made."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from callic_archive.errors import RebuildMismatch
from callic_archive.images import parse
from callic_archive.images.deflate.differences import Reader, Writer
from tests.conformance.independent_deflate import Refused, streams
from tests.streams import COMPRESSORS, capricious, deflated, samples
from tests.trees import grainy

SIZE = 600  # raw bytes of most streams; the decoder is slow on purpose


def written(*pairs: tuple[bytes, bytes]) -> bytes:
    """The differences of (body, raw) pairs."""
    writer = Writer()
    for body, raw in pairs:
        assert writer.add(body, raw, 1 << 20) == len(body)
    return writer.finish()


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_every_compressor_at_hand(name):
    for _, raw in samples():
        body = COMPRESSORS[name](raw[:SIZE])
        assert streams(written((body, raw[:SIZE])), [raw[:SIZE]]) == [body]


@pytest.mark.parametrize("strategy", range(5))
@pytest.mark.parametrize("window", [9, 12, 15])
def test_zlib_at_all_levels(strategy, window):
    rng = random.Random(window)
    raw = bytes((i * i // 90 + rng.randrange(2)) & 255 for i in range(700)) * 2
    bodies = [deflated(raw, level, memory, strategy, window) for level in range(10) for memory in (1, 8)]
    assert streams(written(*((body, raw) for body in bodies)), [raw] * len(bodies)) == bodies


def test_strings_beyond_the_window():
    """More than one window of raw bytes, and hash chains that are cut there."""
    rng = random.Random(3)
    piece = rng.randbytes(400)
    raw = piece + rng.randbytes(33000) + piece + rng.randbytes(34000) + piece
    for name in ("zlib 1", "zlib 6", "libdeflate 6"):
        body = COMPRESSORS[name](raw)
        assert streams(written((body, raw)), [raw]) == [body]


@pytest.mark.parametrize("seed", range(6))
def test_streams_that_no_compressor_would_write(seed):
    raw = bytes(random.Random(seed).choice(b"abbc") for _ in range(900))
    body = capricious(raw, seed, stored=0.1 + 0.1 * seed)
    assert streams(written((body, raw)), [raw]) == [body]


# -- image files: the packer's own differences, found at the end of what surrounds the images -------------------


def side_of(data: bytes) -> bytes:
    """The differences that the packer keeps of a file; it must have some, and be exact."""
    parsed = parse(data)
    assert parsed is not None
    assert parsed.fidelity == "bytes"
    assert parsed.images
    if "members" not in parsed.recipe:
        return parsed.surround[-parsed.recipe["differences"] :]
    (member,), (stream,) = parsed.recipe["members"], parsed.recipe["streams"]
    begin = member["before"] + member["surround"]
    return parsed.surround[begin : begin + stream["differences"]]


def idat(data: bytes) -> bytes:
    at, found = 8, b""
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            found += data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def with_idat(data: bytes, stream: bytes) -> bytes:
    """The PNG with another zlib stream as its only IDAT."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    return data[:33] + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "name", ["libdeflate 6", "libdeflate 12", "zopfli", "zlib-ng 6", "partial flushes", "chance"]
)
def test_png(name):
    out = io.BytesIO()
    Image.fromarray(grainy(28, 40)).save(out, "PNG")
    raw = zlib.decompress(idat(out.getvalue()))
    body = COMPRESSORS[name](raw)
    data = with_idat(out.getvalue(), b"\x78\x9c" + body + zlib.adler32(raw).to_bytes(4, "big"))
    assert streams(side_of(data), [raw]) == [body]


def test_png_of_pillow_that_zlib_does_not_repeat():
    """What zlib repeats is kept by its parameters alone: made with another window, which no parameter names."""
    out = io.BytesIO()
    Image.fromarray(grainy(60, 40, 3)).save(out, "PNG", compress_level=9)
    raw = zlib.decompress(idat(out.getvalue()))
    engine = zlib.compressobj(7, zlib.DEFLATED, -9, 3)
    body = (
        engine.compress(raw[:1500])
        + engine.flush(zlib.Z_SYNC_FLUSH)
        + engine.compress(raw[1500:])
        + engine.flush()
    )
    data = with_idat(out.getvalue(), b"\x18\x19" + body + zlib.adler32(raw).to_bytes(4, "big"))
    assert streams(side_of(data), [raw]) == [body]


def test_tiff_whose_strips_share_what_is_learned(tmp_path: Path):
    """Strips of tifffile, each deflated anew as no zlib at one go would do it."""
    image = grainy(60, 32)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression="zlib", rowsperstrip=20, metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        counts = page.tags["StripByteCounts"].valueoffset, page.tags["StripOffsets"].valueoffset
        kind = {3: 2, 4: 4}
        widths = [kind[int(page.tags[t].dtype)] for t in ("StripByteCounts", "StripOffsets")]
    raws = [zlib.decompress(data[at : at + size]) for at, size in places]
    bodies = [capricious(raw, number, stored=0.05) for number, raw in enumerate(raws)]
    for number, (raw, body) in enumerate(zip(raws, bodies, strict=True)):
        strip = b"\x78\x9c" + body + zlib.adler32(raw).to_bytes(4, "big")
        for start, width, value in zip(counts, widths, (len(strip), len(data)), strict=True):
            data[start + number * width : start + (number + 1) * width] = value.to_bytes(width, "little")
        data += strip
    assert streams(side_of(bytes(data)), raws) == bodies


@pytest.mark.parametrize("name", ["libdeflate 9", "zopfli", "sync flushes"])
def test_gzip(name):
    out = io.BytesIO()
    np.save(out, grainy(30, 40))
    raw = out.getvalue()
    packed = gzip.compress(raw, mtime=7)
    body = COMPRESSORS[name](raw)
    data = packed[:10] + body + packed[-8:]
    assert gzip.decompress(data) == raw
    assert streams(side_of(data), [raw]) == [body]


# -- broken differences -----------------------------------------------------------------------------------------


def test_both_decoders_refuse_the_same():
    """Differences with flipped bits, cut ones and noise: the same bytes come back from both, or neither takes them."""
    rng, made, refused = random.Random(20), 0, 0
    raws = [raw for _, raw in samples()]
    for number in range(250):
        raw = rng.choice(raws)[: rng.randrange(300)]
        side = bytearray(written((COMPRESSORS[rng.choice(sorted(COMPRESSORS))](raw), raw)))
        if number % 3 == 0 and side:
            side[rng.randrange(len(side))] ^= 1 << rng.randrange(8)
        elif number % 3 == 1:
            side = side[: rng.randrange(len(side) + 1)] + rng.randbytes(rng.randrange(20))
        else:
            side = bytearray(rng.randbytes(rng.randrange(60)))
        try:
            other: bytes | None = streams(bytes(side), [raw])[0]
        except Refused:
            other = None
        try:
            own: bytes | None = Reader(bytes(side)).next(raw)
        except RebuildMismatch:
            own = None
        assert own == other, bytes(side).hex()
        made, refused = made + (own is not None), refused + (own is None)
    assert made > 10
    assert refused > 100
