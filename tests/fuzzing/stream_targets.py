"""What is fuzzed of coded data inside files: JPEG streams and the coding made of them, coded frames, packed blocks.

Each decoder is met directly, without the file around it, which would refuse most broken copies first.
"""

from __future__ import annotations

import random
import zlib
from contextlib import suppress
from functools import lru_cache

import imagecodecs
import numpy as np
import zstandard

from callic_archive.archive import filtered, image_coding, jpeg_parts, wide
from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.dct import jpeg_stream
from callic_archive.archive.dct.coding import payload_of
from callic_archive.archive.dct.decoding import GRAY, INTERPOLATED, TRANSFORMED, YCC, Layout
from callic_archive.archive.dct.estimation import Stream
from callic_archive.archive.dct.form import Form
from callic_archive.archive.dct.tables import STANDARD
from callic_archive.archive.filtered import encode_samples
from callic_archive.archive.segments import decode_segments, encode_segments
from callic_archive.container.layout import decode_varint, encode_varint
from callic_archive.errors import (
    CallicError,
    ContainerError,
    ForeignCodecFailed,
    RebuildMismatch,
    TruncatedSource,
)
from callic_archive.images import dicom_rle, jpeg2000, jpeg_lossless, jpeg_ls, tiff_jpeg, tiff_lzw, unread
from callic_archive.images.deflate.differences import Reader, Writer
from callic_archive.images.jpeg_streams import EOI, SOI, find, joined, parted, read
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import guarded
from tests.fuzzing import seeds
from tests.fuzzing.mutate import broken
from tests.fuzzing.targets import LIMITS, Target, Wrong, settled
from tests.slides import jpeg, picture, slide
from tests.streams import COMPRESSORS, flushed
from tests.unit.images.test_dicom_coded import jpeg_2000, jpeg_code, rle_code

MOST_SAMPLES = 1 << 20  # of a code that is decoded; callers know how many there must be

# -- JPEG streams in other bytes ----------------------------------------------------------------------------------


def jpeg_streams(data: bytes) -> str:
    """Streams lie in the data one behind the other, and are what was said of them; two alike join and part."""
    view = memoryview(data)
    with suppress(TruncatedSource):
        unread.check_jpeg_ends(view)
    claims = unread.reason_of(view)
    found, end = find(view), 0
    for stream in found.streams:
        if stream.spans[0][0] < end or any(at + size > len(data) for at, size in stream.spans):
            raise Wrong("streams overlap or leave the data")
        end = sum(stream.spans[-1])
        content, told = stream.read(view), stream.jpeg
        if content[:2] != SOI or content[-2:] != EOI or read(memoryview(content)) != told:
            raise Wrong("a stream is not what was found")
        if told.segments:
            code = content[told.coded : told.scan_end]
            made = joined(told, content[: told.coded], b"", [code, code])
            again = read(memoryview(made))
            if again is not None:
                parted(made[again.coded : again.scan_end], 2, told.segments)
    return f"{min(2, len(found.streams))} {min(1, len(found.tables))} {found.open is not None} {claims}"


def jpeg_tables(data: bytes) -> str:
    """Where a TIFF says that the tables of its JPEG tiles stand."""
    found = tiff_jpeg.tables(memoryview(data), LIMITS)
    if len(found.places) != len(found.numbers) or (np.diff(found.places) < 0).any():
        raise Wrong("the places of JPEG tiles are in no order")
    if len(found.numbers) and not 0 <= found.numbers.min() <= found.numbers.max() < len(found.streams):
        raise Wrong("a JPEG tile has tables that there are not")
    return f"{min(1, len(found.streams))} {min(1, len(found.places))}"


def jpegs_made(data: bytes) -> str:
    """What the coding ``jpegs`` takes comes back, with the tables that a TIFF has for its tiles."""
    payload = jpeg_parts.encode(data, tiff_jpeg.tables(memoryview(data), LIMITS))
    if payload is None:
        return "left"
    if jpeg_parts.decode(payload, len(data)) != data:
        raise Wrong("JPEG streams did not come back")
    return "coded"


def _items(code: bytes, size: int) -> bytes:
    """A stream in fragments, as DICOM has them."""
    parts = [code[i : i + size] for i in range(0, len(code), size)]
    return b"".join(b"\xfe\xff\x00\xe0" + len(part).to_bytes(4, "little") + part for part in parts)


@lru_cache(maxsize=1)
def jpeg_seeds() -> list[bytes]:
    tiles = [jpeg(picture(32, 32, n)) for n in range(3)]
    small = jpeg(picture(16, 16))
    nested = tiles[0][:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + tiles[0][2:]
    return [
        slide([tiles], 32, 2), slide([tiles], 32, 2, tables=False), b"ab" + jpeg(progressive=True) + b"c",
        _items(jpeg(picture(24, 24, channels=1)), 200), nested, jpeg(picture(32, 32), restart_marker_blocks=2),
    ]  # fmt: skip


def jpegs(data: bytes) -> str:
    """A payload of the coding behind the size that it should give."""
    try:
        size, at = decode_varint(data, 0)
    except ContainerError:
        return "no size"
    try:
        raw = jpeg_parts.decode(data[at:], min(size, 1 << 24))
    except (ValueError, ForeignCodecFailed) as error:
        return type(error).__name__
    if len(raw) != size:
        raise Wrong("JPEG streams come out shorter or longer than was asked")
    return "data"


@lru_cache(maxsize=1)
def jpegs_seeds() -> list[bytes]:
    packed = [
        (data, jpeg_parts.encode(data, tiff_jpeg.tables(memoryview(data), LIMITS))) for data in jpeg_seeds()
    ]
    return [encode_varint(len(data)) + payload for data, payload in packed if payload is not None]


def break_jpegs(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The table of the payload unpacked, broken, and packed again; or bytes of the whole."""
    if rng.random() < 0.3:
        return broken(seed, rng, others)
    _, at = decode_varint(seed, 0)
    length, begin = decode_varint(seed, at)
    table = zstandard.ZstdDecompressor().decompress(seed[begin : begin + length])
    packed = zstandard.ZstdCompressor().compress(broken(table, rng))
    return seed[:at] + encode_varint(len(packed)) + packed + seed[begin + length :]


# -- JPEG streams by their coefficients ---------------------------------------------------------------------------


MOST_OF_A_STREAM = 1 << 16  # bytes


def jpeg_by_coefficients(data: bytes) -> str:
    """A stream that is taken comes back."""
    payload = jpeg_stream.encode(data)
    if payload is None:
        return "left"
    if jpeg_stream.decode(payload, len(data)) != data:
        raise Wrong("a JPEG stream did not come back from its coefficients")
    return "coded"


@lru_cache(maxsize=1)
def jpeg_by_coefficients_seeds() -> list[bytes]:
    return [
        jpeg(picture(16, 24, 1)), jpeg(picture(24, 16, 2), optimize=True, subsampling=1), jpeg(picture(20, 20, channels=1)),
        jpeg(picture(32, 32), restart_marker_blocks=1), jpeg(picture(17, 9, channels=4), quality=95),
    ]  # fmt: skip


def jpeg_coded(payload: bytes) -> str:
    """A stream by its coefficients: not longer than was asked, or refused."""
    try:
        found = jpeg_stream.decode(payload, MOST_OF_A_STREAM)
    except ValueError:
        return "ValueError"
    if len(found) > MOST_OF_A_STREAM:
        raise Wrong("a JPEG stream is longer than was asked")
    return "stream"


@lru_cache(maxsize=1)
def jpeg_coded_seeds() -> list[bytes]:
    found = [jpeg_stream.encode(data) for data in jpeg_by_coefficients_seeds()]
    return [payload for payload in found if payload is not None]


def break_jpeg_coded(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The header of the stream unpacked, broken, and packed again; or bytes of the whole."""
    if rng.random() < 0.4:
        return broken(seed, rng, others)
    begin = len(jpeg_stream.MAGIC) + 1
    length, at = decode_varint(seed, begin)
    prefix = zstandard.ZstdCompressionDict(jpeg_stream.prefix(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    kept = zstandard.ZstdDecompressor(dict_data=prefix).decompress(seed[at : at + length])
    packed = zstandard.ZstdCompressor(dict_data=prefix).compress(broken(kept, rng))
    return seed[:begin] + encode_varint(len(packed)) + packed + seed[at + length :]


# -- wide images --------------------------------------------------------------------------------------------------


_WIDE = ((24, 20), (24, 20), (12, 10, 3))


@lru_cache(maxsize=1)
def wide_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    images = (
        rng.integers(0, 40, _WIDE[0]).astype(np.float32) / 7,
        np.where(rng.random(_WIDE[1]) < 0.2, -9999, rng.normal(100, 3, _WIDE[1])),
        rng.integers(-(1 << 24), 1 << 24, _WIDE[2]).astype(np.int32),
    )
    payloads = []
    for number, image in enumerate(images):
        split = wide.splits(image.view(f"u{image.itemsize}"))[0]
        coded = [("samples", filtered.encode_samples(part)) for part in split.images]
        payloads.append(bytes([number]) + wide.form(split, coded))
    return payloads


def wide_image(data: bytes) -> str:
    """A payload behind the number of its shape and type: it gives an image of these or is refused."""
    if not data:
        return "left"
    shape, dtype = _WIDE[data[0] % 3], "uint64" if data[0] % 3 == 1 else "uint32"
    try:
        image = image_coding.decode_image(data[1:], "wide", StreamInfo(shape, dtype, "samples zstd", (), ()), None)
    except (ValueError, CallicError) as error:
        return type(error).__name__
    if image.shape != shape or image.dtype.name != dtype:
        raise Wrong("a wide image has another shape or type than was asked")
    return "image"


@lru_cache(maxsize=1)
def segments_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 3, (24, 20)).astype(np.uint16), rng.integers(0, 2, (24, 20, 3), np.uint8) * 9
    return [bytes([number]) + (encode_segments(np.repeat(image, 2, 1)) or b"") for number, image in enumerate(images)]


def segments_image(data: bytes) -> str:
    """Behind a number that tells shape and type: an image of these, or refused."""
    shape: tuple[int, ...] = (24, 40, 3) if data[:1] == b"\1" else (24, 40)
    dtype = "uint8" if data[:1] == b"\1" else "uint16"
    try:
        image = decode_segments(data[1:], shape, dtype)
    except ValueError:
        return "ValueError"
    if image.shape != shape or image.dtype.name != dtype:
        raise Wrong("an image of segments has another shape or type than was asked")
    return "image"


_DCT = [
    Layout(20, 36, GRAY, top=3),
    Layout(20, 36, YCC, 2, 2, INTERPOLATED, 15, 9, False),
    Layout(20, 36, YCC, 1, 2, TRANSFORMED),
    Layout(36, 20, GRAY, left=5),
    Layout(36, 20, YCC, 2, 1, INTERPOLATED, 1, 1),
]
_FORMS = [Form(), Form(), Form(turn=3), Form(turn=5, alpha=9), Form(turn=6, reverse=True, alpha=255)]
_SHAPES = [(20, 36), (20, 36, 3), (20, 36, 3), (20, 36, 2), (20, 36, 4)]


@lru_cache(maxsize=1)
def dct_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    seeds = []
    for number, (layout, form, shape) in enumerate(zip(_DCT, _FORMS, _SHAPES, strict=True)):
        sizes = [(*layout.blocks(component), 64) for component in range(layout.components)]
        planes = tuple((rng.integers(-3, 4, size) * (rng.random(size) < 0.1)).astype(np.int16) for size in sizes)
        tables = tuple(STANDARD[74] if component else np.full(64, 9, np.uint16) for component in range(len(planes)))
        differences = encode_samples(np.zeros(shape, np.uint8))
        seeds.append(bytes([number]) + payload_of(Stream(layout, planes, tables), form, "samples", differences))
    return seeds


def dct_image(data: bytes) -> str:
    """Behind a number that tells the shape: an image by coefficients, or refused."""
    shape: tuple[int, ...] = _SHAPES[data[0] % len(_SHAPES) if data else 0]
    try:
        image = image_coding.decode_image(data[1:], "dct", StreamInfo(shape, "uint8", "dct samples", (), ()), None)
    except (ValueError, CallicError) as error:
        return type(error).__name__
    if image.shape != shape or image.dtype != np.uint8:
        raise Wrong("an image by coefficients has another shape or type than was asked")
    return "image"


# -- coded frames -------------------------------------------------------------------------------------------------


def frame_jpeg(code: bytes) -> str:
    """Lossless JPEG: what was decoded is coded so that it decodes to the same."""

    def step() -> str:
        header = jpeg_lossless.read_header(code)
        if header is None:
            return "left"
        shape = header.height, header.width, len(header.scan.tables)
        if np.prod(shape, dtype=object) > MOST_SAMPLES:
            return "large"
        image = np.empty(shape, np.uint16)
        jpeg_lossless.decode(code, header, image)
        try:
            made = jpeg_lossless.encode(image, header.scan, 1, 16 * image.nbytes + 64)
        except RebuildMismatch:
            return "kept"  # its own bits spell differences that its tables do not have
        again = np.empty_like(image)
        jpeg_lossless.decode(made, jpeg_lossless.Header(*shape[:2], header.scan, 0, len(made)), again)
        if (image != again).any():
            raise Wrong("a lossless JPEG frame did not come back")
        return "coded"

    return settled(lambda: guarded(step, "JPEG", ""))


def frame_jpeg_seeds() -> list[bytes]:
    return [
        jpeg_code(seeds.WIDE), jpeg_code(seeds.RGB), imagecodecs.ljpeg_encode(seeds.WIDE, bitspersample=16),
    ]  # fmt: skip


def frame_jpeg_ls(code: bytes) -> str:
    """JPEG-LS by CharLS."""

    def step() -> str:
        header = jpeg_ls.read_header(code)
        if header.height * header.width * header.samples > MOST_SAMPLES:
            return "large"
        image = jpeg_ls.decode(code, header)
        if image is None:
            return "left"
        if image.shape != (header.height, header.width, header.samples):
            raise Wrong("a JPEG-LS frame has another shape than its header tells")
        return "repeated" if code[header.begin :].startswith(jpeg_ls.encode(image, header.choices)) else "new"

    return settled(lambda: guarded(step, "JPEG-LS", ""))


def frame_jpeg_2000(code: bytes) -> str:
    """JPEG 2000 by OpenJPEG."""

    def step() -> str:
        try:
            header = jpeg2000.read_header(code)
        except NotTaken as reason:
            return reason.reason
        if header.height * header.width * header.samples > MOST_SAMPLES:
            return "large"
        image = jpeg2000.decode(code, header)
        if image is None:
            return "left"
        if image.shape != (header.height, header.width, header.samples):
            raise Wrong("a JPEG 2000 frame has another shape than its header tells")
        return (
            "repeated" if code[header.begin :].startswith(jpeg2000.encode(image, header.choices)) else "new"
        )

    return settled(lambda: guarded(step, "JPEG 2000", ""))


def frame_jpeg_2000_seeds() -> list[bytes]:
    return [
        jpeg_2000(image, resolutions=n) for image, n in ((seeds.WIDE, 2), (seeds.GRAY, 1), (seeds.RGB, 3))
    ]


def frame_rle(code: bytes) -> str:
    """RLE of DICOM, of a frame of 12 x 15 pixels with as many planes as its header tells."""

    def step() -> str:
        planes = min(code[0], 15) if code else 1
        view = memoryview(code)
        for begin, end in dicom_rle.segments(view, planes):
            plane = np.empty(seeds.GRAY.size, np.uint8)
            used, heads = dicom_rle.decode(view[begin:end], plane)
            if dicom_rle.encode(plane, 15, dicom_rle.PACKETS, heads.tobytes()) != code[begin : begin + used]:
                raise Wrong("a segment of RLE did not come back by its packets")
        return "decoded"

    return settled(lambda: guarded(step, "RLE", ""))


def frame_rle_seeds() -> list[bytes]:
    return [rle_code(seeds.WIDE), rle_code(seeds.GRAY, "libtiff"), rle_code(seeds.WIDE, "pairs3")]


# -- packed blocks ------------------------------------------------------------------------------------------------


def packed_block(data: bytes) -> str:
    """LZW and PackBits of TIFF, told apart by the first byte, for a block of 400 bytes."""
    code = np.frombuffer(data[1:], np.uint8)
    if data[:1] == b"L":
        raw = tiff_lzw.lzw_decode(code, 400)
        if raw is None:
            return "broken"
        again = tiff_lzw.lzw_decode(np.frombuffer(tiff_lzw.lzw_encode(raw), np.uint8), 400)
    else:
        raw = tiff_lzw.packbits_decode(code, 400)
        again = tiff_lzw.packbits_decode(np.frombuffer(tiff_lzw.packbits_encode(raw, 20), np.uint8), 400)
    if again is None or again.tobytes() != raw.tobytes():
        raise Wrong("a packed block did not come back")
    return "whole" if len(raw) == 400 else "short"


def packed_block_seeds() -> list[bytes]:
    raw = np.frombuffer((seeds.GRAY.tobytes() * 3)[:400], np.uint8)
    return [b"L" + tiff_lzw.lzw_encode(raw), b"P" + tiff_lzw.packbits_encode(raw, 20)]


def deflate(data: bytes) -> str:
    """A raw deflate stream as differences from what was expected."""
    engine = zlib.decompressobj(-15)
    try:
        raw = engine.decompress(data, 1 << 14)
    except zlib.error:
        raw = b"no stream"
    writer = Writer()
    used = writer.add(data, raw, 1 << 16)
    if used is None:
        return "left"

    def step() -> str:
        if Reader(writer.finish()).next(raw) != data[:used]:
            raise Wrong("a deflate stream did not come back from its differences")
        return "coded"

    return step()


def deflate_seeds() -> list[bytes]:
    raw = (seeds.GRAY.tobytes() * 3)[:500]
    names = ("zlib 1", "zlib 9", "libdeflate 6", "zopfli", "chance", "sync flushes")
    return [COMPRESSORS[name](raw) for name in names] + [flushed(raw, [100, 300])]


TARGETS: dict[str, Target] = {
    "jpeg-streams": Target(jpeg_streams, jpeg_seeds),
    "wide": Target(wide_image, wide_seeds),
    "segments": Target(segments_image, segments_seeds),
    "dct": Target(dct_image, dct_seeds),
    "jpeg-by-coefficients": Target(jpeg_by_coefficients, jpeg_by_coefficients_seeds),
    "jpeg-coded": Target(jpeg_coded, jpeg_coded_seeds, break_jpeg_coded),
    "jpeg-tables": Target(jpeg_tables, lambda: jpeg_seeds()[:2]),
    "jpegs-made": Target(jpegs_made, jpeg_seeds),
    "jpegs": Target(jpegs, jpegs_seeds, break_jpegs),
    "frame-jpeg": Target(frame_jpeg, frame_jpeg_seeds),
    "frame-jpeg-ls": Target(frame_jpeg_ls, seeds.jpeg_ls_codes),
    "frame-jpeg-2000": Target(frame_jpeg_2000, frame_jpeg_2000_seeds),
    "frame-rle": Target(frame_rle, frame_rle_seeds),
    "packed-block": Target(packed_block, packed_block_seeds),
    "deflate": Target(deflate, deflate_seeds),
}
