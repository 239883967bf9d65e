"""rebuild(parse(x)) == x for every shape, sample type, byte order and layout."""

from __future__ import annotations

import io
import json
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from callic_archive.errors import MalformedSource, SourceError, TruncatedSource
from callic_archive.images import Limits, images_equal, parse, rebuild
from callic_archive.images.layout import (
    DTYPES,
    Layout,
    layouts_from_json,
    layouts_to_json,
    runs_of,
    unrun,
)
from callic_archive.images.splice import parse_spliced, rebuild_spliced

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)
SAMPLES = st.sampled_from([(), (2,), (3,), (4,)])


def written_again(parsed: Any) -> bytes:
    out = io.BytesIO()
    # What is stored beside the images is JSON, so the recipe must survive it.
    recipe = json.loads(json.dumps(parsed.recipe))
    rebuild(parsed.format, recipe, parsed.surround, [np.array(i, order="C") for i in parsed.images], out)
    return out.getvalue()


@FAST
@given(
    data=st.data(), shape=SHAPES, samples=SAMPLES, dtype=st.sampled_from(DTYPES), order=st.sampled_from("CF")
)
def test_npy(data, shape, samples, dtype, order):
    array = data.draw(hnp.arrays(np.dtype(dtype), shape + samples))
    out = io.BytesIO()
    np.save(out, np.array(array, order=order))
    parsed = parse(out.getvalue())
    assert parsed is not None
    assert written_again(parsed) == out.getvalue()


@FAST
@given(
    data=st.data(), shape=SHAPES, samples=SAMPLES, wide=st.booleans(), tail=st.binary(max_size=20),
    comment=st.binary(max_size=10),
)  # fmt: skip
def test_pnm(data, shape, samples, wide, tail, comment):
    array = data.draw(hnp.arrays(np.dtype(">u2" if wide else "u1"), shape + samples))
    head = b"P7\n#" + comment.replace(b"\n", b"") + b"\nHEIGHT %d\nWIDTH %d\n" % shape
    head += b"DEPTH %d\nMAXVAL %d\nENDHDR\n" % ((samples or (1,))[0], 65535 if wide else 255)
    source = head + array.tobytes() + tail
    parsed = parse(source)
    assert parsed is not None
    np.testing.assert_array_equal(parsed.images[0], array)
    assert written_again(parsed) == source


@FAST
@given(
    data=st.data(), shape=SHAPES, samples=SAMPLES, dtype=st.sampled_from(["u1", "i1", "u2", "i2"]),
    byteorder=st.sampled_from("<>"), big=st.booleans(), planar=st.booleans(),
    block=st.sampled_from([{}, {"rowsperstrip": 3}, {"tile": (16, 16)}, {"tile": (32, 16)}]),
    packing=st.sampled_from([{}, {}, {"compression": "zlib"}, {"compression": "lzw", "predictor": 2},
                             {"compression": "packbits"}, {"compression": "zlib", "predictor": 2}]),
)  # fmt: skip
def test_tiff(data, shape, samples, dtype, byteorder, big, planar, block, packing):
    planar = planar and bool(samples)
    array = data.draw(hnp.arrays(np.dtype(dtype), (samples + shape) if planar else (shape + samples)))
    config = None if not samples else "separate" if planar else "contig"
    extra = {"extrasamples": ["unspecified"]} if samples in ((2,), (4,)) else {}
    out = io.BytesIO()
    with tifffile.TiffWriter(out, bigtiff=big, byteorder=byteorder) as tif:
        kind = "rgb" if samples in ((3,), (4,)) else "minisblack"
        tif.write(array, photometric=kind, planarconfig=config, **block, **packing, **extra)
    source = out.getvalue()
    parsed = parse(source)
    if parsed is None:
        assert packing  # only packed blocks that nobody can repeat or fit may be given up
        return
    expected = array.transpose(1, 2, 0) if planar else array
    if dtype == "i1":
        expected = expected.astype(np.int16) + 128
    np.testing.assert_array_equal(parsed.images[0], expected)
    again = written_again(parsed)
    if parsed.fidelity == "bytes":
        assert again == source
    else:
        second = parse(again)
        assert second is not None
        assert images_equal(parsed, second)


@FAST
@given(
    data=st.data(), shape=SHAPES, samples=SAMPLES, wide=st.booleans(), level=st.integers(0, 9),
    idat=st.integers(1, 3000),
)  # fmt: skip
def test_png(data, shape, samples, wide, level, idat):
    height, width = shape
    size = 2 if wide else 1
    bpp = (samples or (1,))[0] * size
    colour = {(): 0, (2,): 4, (3,): 2, (4,): 6}[samples]
    rows = data.draw(hnp.arrays(np.uint8, (height, 1 + width * bpp)))
    rows[:, 0] %= 5
    stream = zlib.compress(rows.tobytes(), level)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    source = b"\x89PNG\r\n\x1a\n"
    source += chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * size, colour, 0, 0, 0))
    source += b"".join(chunk(b"IDAT", stream[i : i + idat]) for i in range(0, len(stream), idat))
    source += chunk(b"IEND", b"")
    parsed = parse(source)
    assert parsed is not None
    assert parsed.fidelity == "bytes"
    assert parsed.images[0].shape == shape + samples
    assert written_again(parsed) == source


@FAST
@given(
    height=st.integers(1, 30), width=st.integers(1, 30), samples=st.integers(1, 6), gap=st.integers(0, 9),
    dtype=st.sampled_from(DTYPES), rows=st.integers(1, 12), columns=st.integers(1, 12),
    slack=st.integers(0, 5), whole=st.booleans(), planar=st.booleans(), flip=st.booleans(),
    transpose=st.booleans(), shuffle=st.randoms(),
)  # fmt: skip
def test_any_layout(
    height, width, samples, dtype, rows, columns, slack, whole, planar, flip, transpose, shuffle, gap
):
    """Blocks in any order, with gaps, padding and every turn of the raster: the bytes come back."""
    probe = Layout(
        height, width, samples, dtype, rows, columns,
        columns * (1 if planar else samples) * int(dtype[2]) + slack,
        (), whole=whole, planar=planar, flip=flip, transpose=transpose, split=samples > 4,
        order=(2, 1, 0) if samples == 3 else (),
    )  # fmt: skip
    ranks = list(range(probe.count))
    shuffle.shuffle(ranks)
    offsets, at = [0] * probe.count, gap
    for k in ranks:
        offsets[k] = at
        at += probe.raw_length(k) + shuffle.randrange(gap + 1)
    source = bytes(shuffle.randrange(256) for _ in range(at + gap))
    layout = Layout(**{**vars(probe), "offsets": tuple(offsets)})
    parsed = parse_spliced("tiff", memoryview(source), [layout], Limits())
    out = io.BytesIO()
    rebuild_spliced(json.loads(json.dumps(parsed.recipe)), parsed.surround, parsed.images, out)
    assert out.getvalue() == source
    pixel_bytes = sum(image.nbytes for image in parsed.images)
    assert len(parsed.surround) == len(source) - pixel_bytes


@given(st.lists(st.integers(0, 50), max_size=60))
def test_runs(values):
    assert unrun(runs_of(values)) == tuple(values)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40)), min_size=1, max_size=8))
def test_layout_lists(items):
    layouts = [Layout(h, 5, 1, "|u1", h, 5, 5, (o,)) for h, o in items]
    assert layouts_from_json(json.loads(json.dumps(layouts_to_json(layouts)))) == layouts


@settings(max_examples=150, deadline=None)
@given(
    head=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"\x93NUMPY\x01\0",
                          b"P5 ", b"P7\n", b"BM", bytes(128) + b"DICM", b"\x08\0\x05\0"]),
    body=st.binary(max_size=300),
)  # fmt: skip
def test_rubbish_behind_a_magic_number(head, body):
    with suppress(SourceError):
        parsed = parse(head + body)
        assert parsed is None or written_again(parsed) == head + body


@pytest.mark.parametrize("size", [0, 1, 7, 16, 131])
def test_short_heads(size):
    for head in (b"\x89PNG\r\n\x1a\n", b"II*\0", b"\x93NUMPY", b"P5 ", b"BM", bytes(128) + b"DICM"):
        with suppress(TruncatedSource, MalformedSource):
            assert parse(head[:size]) is None
