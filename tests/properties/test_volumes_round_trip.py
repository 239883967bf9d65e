"""rebuild(parse(x)) == x for volumes, wrappers and coded frames of any shape, sample type and byte order."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from callic_archive.errors import RebuildMismatch
from callic_archive.images import dicom_rle, jpeg_lossless, parse, rebuild
from callic_archive.images.layout import Layout
from callic_archive.images.source import Limits
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import FEWEST, stacked, stacks

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NIFTI = {"u1": 2, "i1": 256, "i2": 4, "u2": 512, "i4": 8, "u4": 768}
NRRD = {"u1": "uchar", "i1": "int8", "i2": "short", "u2": "unsigned short", "i4": "int", "u4": "uint32_t"}
METAIMAGE = {"u1": "MET_UCHAR", "i1": "MET_CHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "u4": "MET_UINT"}
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def written_again(parsed: Any) -> bytes:
    out = io.BytesIO()
    recipe = json.loads(json.dumps(parsed.recipe))
    rebuild(parsed.format, recipe, parsed.surround, [np.array(i, order="C") for i in parsed.images], out)
    return out.getvalue()


def came_back(source: bytes, array: Any, images: int | None = None) -> None:
    """``source`` comes back, and its images have all samples of ``array`` and no more."""
    parsed = parse(source)
    if sum(n > 1 for n in array.shape) < 2:
        assert parsed is None
        return
    assert parsed is not None
    assert parsed.fidelity == "bytes"
    assert written_again(parsed) == source
    assert sum(image.nbytes for image in parsed.images) == array.nbytes


def nifti(array: Any, version: int, order: str, tail: bytes, gap: int) -> bytes:
    """A NIfTI file of an array with axes (x, y, ..) in Fortran order."""
    kind, bits = NIFTI[array.dtype.str[1:]], 8 * array.itemsize
    dim = [array.ndim, *array.shape, *[1] * (7 - array.ndim)]
    if version == 1:
        head = bytearray(352 + gap)
        struct.pack_into(order + "i", head, 0, 348)
        struct.pack_into(order + "8h", head, 40, *dim)
        struct.pack_into(order + "hh", head, 70, kind, bits)
        struct.pack_into(order + "f", head, 108, 352 + gap)
        head[344:348] = b"n+1\0"
    else:
        head = bytearray(544 + gap)
        struct.pack_into(order + "i8shh8q", head, 0, 540, b"n+2\0\r\n\x1a\n", kind, bits, *dim)
        struct.pack_into(order + "q", head, 168, 544 + gap)
    return bytes(head) + array.astype(array.dtype.newbyteorder(order)).tobytes(order="F") + tail


ARRAYS = st.builds(lambda s, d: (tuple(s), d), SIZES, st.sampled_from(sorted(NIFTI))).flatmap(
    lambda a: hnp.arrays(np.dtype(a[1]), a[0])
)


@FAST
@given(array=ARRAYS, version=st.sampled_from([1, 2]), order=st.sampled_from("<>"), tail=st.binary(max_size=9),
       gap=st.integers(0, 99))  # fmt: skip
def test_nifti(array, version, order, tail, gap):
    came_back(nifti(array, version, order, tail, gap), array)


@FAST
@given(array=ARRAYS, order=st.sampled_from("<>"), tail=st.binary(max_size=9), skip=st.integers(-1, 9),
       packed=st.booleans(), crlf=st.booleans())  # fmt: skip
def test_nrrd(array, order, tail, skip, packed, crlf):
    lines = [
        "NRRD0005", f"type: {NRRD[array.dtype.str[1:]]}", f"dimension: {array.ndim}", "# made here",
        f"sizes: {' '.join(map(str, array.shape))}", f"encoding: {'gzip' if packed else 'raw'}",
        f"endian: {'little' if order == '<' else 'big'}", f"byte skip: {skip}", "", "",
    ]  # fmt: skip
    body = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    body = b"\7" * (skip if skip > 0 else 5 if skip < 0 else 0) + body + (b"" if skip < 0 else tail)
    if packed:
        engine = zlib.compressobj(6, zlib.DEFLATED, 31)
        body = engine.compress(body) + engine.flush() + tail
    came_back(("\r\n" if crlf else "\n").join(lines).encode() + body, array)


@FAST
@given(array=ARRAYS, order=st.sampled_from("<>"), tail=st.binary(max_size=9), level=st.integers(-1, 9), crlf=st.booleans())
def test_metaimage(array, order, tail, level, crlf):
    lines = [
        "ObjectType = Image", f"NDims = {array.ndim}", "BinaryData = True",
        f"BinaryDataByteOrderMSB = {order == '>'}", f"CompressedData = {level >= 0}", "Comment = NDims = 7",
        f"DimSize = {' '.join(map(str, array.shape))}", f"ElementType = {METAIMAGE[array.dtype.str[1:]]}",
        "ElementDataFile = LOCAL", "",
    ]  # fmt: skip
    body = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    body = body if level < 0 else zlib.compress(body, level)
    came_back(("\r\n" if crlf else "\n").join(lines).encode() + body + tail, array)


@FAST
@given(array=ARRAYS, level=st.integers(0, 9), memory=st.sampled_from([8, 9]), strategy=st.sampled_from([0, 1]),
       name=st.text("ab.", max_size=5), tail=st.binary(max_size=5))  # fmt: skip
def test_gzip(array, level, memory, strategy, name, tail):
    source = nifti(array, 1, "<", b"", 0)
    engine = zlib.compressobj(level, zlib.DEFLATED, -15, memory, strategy)
    head = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + name.encode() + b"\0"
    body = engine.compress(source) + engine.flush()
    foot = struct.pack("<II", zlib.crc32(source), len(source))
    came_back(head + body + foot + (b"" if tail[:2] == b"\x1f\x8b" else tail), array)


@FAST
@given(arrays=st.lists(ARRAYS, min_size=1, max_size=4), method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
       level=st.integers(1, 9), words=st.binary(max_size=50))  # fmt: skip
def test_zip(arrays, method, level, words):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method, compresslevel=level) as archive:
        for i, array in enumerate(arrays):
            npy = io.BytesIO()
            np.save(npy, array)
            archive.writestr(f"{i}.npy", npy.getvalue())
            archive.writestr(f"{i}.txt", words)
    parsed = parse(out.getvalue())
    images = [array for array in arrays if array.ndim >= 2]
    assert (parsed is None) == (not images)
    if parsed is not None:
        assert written_again(parsed) == out.getvalue()
        assert sum(i.nbytes for i in parsed.images) == sum(array.nbytes for array in images)


@FAST
@given(frames=st.integers(1, 30), height=st.integers(1, 9), rows=st.integers(1, 9), samples=st.integers(1, 3),
       planar=st.booleans(), gap=st.integers(0, 3), seed=st.randoms())  # fmt: skip
def test_stacks_hold_the_same_samples(frames, height, rows, samples, planar, gap, seed):
    """Stacked or not, the same bytes are cut out, and they come back."""
    probe = Layout(height, 5, samples, "<u2", rows, 5, 5 * (1 if planar else samples) * 2, (), planar=planar)
    layouts, at = [], gap
    for _ in range(frames):
        offsets = []
        for k in range(probe.count):
            offsets.append(at)
            at += probe.raw_length(k) + seed.randrange(gap + 1)
        layouts.append(Layout(**{**vars(probe), "offsets": tuple(offsets)}))
    source = seed.randbytes(at + gap)
    fewer = stacked(layouts)
    assert sum(layout.frames for layout in fewer) == frames
    assert len(fewer) == 1 or frames < FEWEST or height % min(rows, height)
    plain = parse_spliced("tiff", memoryview(source), layouts, Limits())
    parsed = parse_spliced("tiff", memoryview(source), fewer, Limits())
    assert parsed.surround == plain.surround
    np.testing.assert_array_equal(np.concatenate(parsed.images), np.concatenate(plain.images))
    out = io.BytesIO()
    rebuild_spliced(json.loads(json.dumps(parsed.recipe)), parsed.surround, parsed.images, out)
    assert out.getvalue() == source


@given(count=st.integers(1, 5000), height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_stacks_cover_all_slices_evenly(count, height, width):
    parts = list(stacks(count, height, width))
    assert [first for first, _ in parts] == list(np.cumsum([0] + [n for _, n in parts[:-1]]))
    assert sum(n for _, n in parts) == count
    assert len({n for _, n in parts[:-1]}) <= 1
    assert parts[-1][1] <= parts[0][1]


@FAST
@given(data=st.data(), rows=st.integers(1, 9), columns=st.integers(1, 300), levels=st.integers(1, 4))
def test_rle(data, rows, columns, levels):
    plane = data.draw(hnp.arrays(np.uint8, rows * columns, elements=st.integers(0, levels)))
    for encoder in dicom_rle.ENCODERS:
        code = dicom_rle.encode(plane, columns, encoder, b"")
        again = np.empty_like(plane)
        used, heads = dicom_rle.decode(memoryview(code), again)
        assert used == len(code)
        np.testing.assert_array_equal(again, plane)
        assert dicom_rle.encode(plane, columns, dicom_rle.PACKETS, heads.tobytes()) == code


@FAST
@given(image=hnp.arrays(np.uint16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)),
       predictor=st.integers(1, 7), restart=st.integers(0, 4), pad=st.integers(0, 1),
       order=st.permutations(range(17)))  # fmt: skip
def test_lossless_jpeg(image, predictor, restart, pad, order):
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 10]) + bytes(order)
    scan = jpeg_lossless.Scan(16, predictor, restart, (table,) * image.shape[2])
    code = jpeg_lossless.encode(image, scan, pad, 16 * image.nbytes + 64)
    header = jpeg_lossless.Header(image.shape[0], image.shape[1], scan, 0, len(code))
    again = np.empty_like(image)
    jpeg_lossless.decode(code, header, again)
    np.testing.assert_array_equal(again, image)
    try:
        jpeg_lossless.encode(image, scan, pad, len(code) - 1)
    except RebuildMismatch:
        return
    raise AssertionError("a code longer than its place was written")
