"""The syntax of one image's codestream: header and tile streams <-> bytes. Specification:
docs/format/codestream.md.

Nothing here computes a pixel. ``parse`` trusts no declared size: what it allocates is bounded by the bytes
it was given, and the pixel count by ``max_pixels``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.bytesio import Reader, Writer
from callic_archive.codec.prediction import MOST_OFFSET, MOST_PLANES, MOST_WEIGHT, Prediction
from callic_archive.errors import CodestreamSyntaxError, CodestreamVersionError
from callic_archive.images.planes import DTYPES, Packing, TileGrid, plane_groups

MAGIC = b"\x8fCLC"
VERSION = 1
CODERS = {0: "range", 1: "torchac"}
MAX_SIDE = (1 << 31) - 1
MAX_TILE = 4096
#: 64-bit prefixes of SHA-256 name models and adapters; the pixel digest proves the result.
PREFIX = 8
MAX_PIXELS = 1 << 36
KIND_CONSTANT, KIND_LEARNED, KIND_PREDICTED, KIND_GUIDED = 0, 1, 2, 3
#: Set in the byte that names the coder where every plane is a group of its own.
ALONE = 0x80
ADAPTER_NONE, ADAPTER_INSIDE, ADAPTER_NAMED, ADAPTER_ON_NAMED = 0, 1, 2, 3
#: Top, left, bottom, right.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class GroupHeader:
    """One plane group: how its samples are packed, and which model and adapter code it (constant groups need
    none)."""

    packings: tuple[Packing, ...]
    learned: bool
    shift: int = 0
    depth: int = 8
    model: bytes = b""  # 8-byte prefix of the model's SHA-256
    adapter: bytes = b""  # 8-byte prefix of the adapter's SHA-256, or the adapter itself when ``inside``
    inside: bool = False
    under: bytes = b""  # 8-byte prefix of the SHA-256 of a named adapter that is merged before the one inside
    prediction: Prediction | None = None  # groups of one plane that is predicted from earlier ones

    @property
    def mid(self) -> int:
        """The level that stands in for pixels before the first."""
        return 1 << (self.depth - 1)


@dataclass(frozen=True)
class Codestream:
    """A codestream taken apart. ``streams[group][tile]`` are entropy-coded bytes (none for constant
    groups)."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    coder: str
    grid: TileGrid
    patch: tuple[int, int]
    copies: tuple[
        int, ...
    ]  # for every channel the first channel with the same samples: itself where it is coded
    groups: tuple[GroupHeader, ...]
    streams: tuple[tuple[bytes, ...], ...]
    pixel_digest: bytes  # 8 bytes, BLAKE2b-64 of the samples in C order, little-endian
    alone: bool = False  # every coded plane is a group of its own

    @property
    def channels(self) -> int:
        """Number of planes."""
        return self.shape[2] if len(self.shape) == 3 else 1

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Rectangles of the tiles; none where no group is learned, however fine the grid."""
        return self.grid.boxes() if any(group.learned for group in self.groups) else []

    def tiles_of(self, region: Box) -> list[int]:
        """Numbers of the tiles that a region (top, left, bottom, right) touches."""
        top, left, bottom, right = region
        return [
            number
            for number, box in enumerate(self.boxes())
            if box[0] < bottom and box[2] > top and box[1] < right and box[3] > left
        ]

    def group_channels(self) -> list[list[int]]:
        """Channel numbers of every plane group, in coding order."""
        coded = [c for c, source in enumerate(self.copies) if source == c]
        return [coded[first : first + count] for first, count in plane_groups(len(coded), self.alone)]


@dataclass(frozen=True)
class CodestreamInfo:
    """What a codestream needs and where its bytes go. Digests are 16 hex digits: prefixes of SHA-256."""

    shape: tuple[int, ...]
    dtype: str
    coder: str
    model_digests: tuple[str, ...]
    adapter_digests: tuple[str, ...]
    adapter_bytes: int
    pixel_bytes: int
    header_bytes: int
    tiles: int


def _write_packing(out: Writer, packing: Packing) -> None:
    if packing.values is None:
        out.byte(0)
        out.signed(packing.offset)
        out.signed(packing.low)
        out.varint(packing.high - packing.low)
        return
    out.byte(1)
    out.signed(int(packing.values[0]))
    out.varint(packing.values.size - 1)
    gaps = Writer()
    for gap in np.diff(packing.values).tolist():
        gaps.varint(gap - 1)
    packed = zlib.compress(gaps.getvalue(), 9)
    out.varint(len(packed))
    out.raw(packed)


def _write_kind(out: Writer, group: GroupHeader) -> None:
    if group.prediction is None:
        out.byte(KIND_LEARNED if group.learned else KIND_CONSTANT)
        return
    out.byte(KIND_PREDICTED if group.prediction.subtracted else KIND_GUIDED)
    out.byte(len(group.prediction.planes))
    for plane, weight in zip(group.prediction.planes, group.prediction.weights, strict=True):
        out.byte(plane)
        out.signed(weight)
    out.signed(group.prediction.offset)
    _write_packing(out, group.prediction.packing)
    if group.prediction.subtracted:
        out.varint(group.packings[0].high)


def _read_prediction(data: Reader, dtype: np.dtype[np.generic], earlier: Sequence[int], *, subtracted: bool) -> Prediction:
    count = data.byte()
    if not 1 <= count <= MOST_PLANES:
        raise CodestreamSyntaxError(f"a plane is said to be predicted from {count} others")
    pairs = [(data.byte(), data.signed(MOST_WEIGHT)) for _ in range(count)]
    if any(plane not in earlier for plane, _ in pairs):
        raise CodestreamSyntaxError("a plane is said to be predicted from one that is not decoded before it")
    offset, packing = data.signed(MOST_OFFSET), _read_packing(data, dtype)
    planes, weights = tuple(plane for plane, _ in pairs), tuple(weight for _, weight in pairs)
    return Prediction(planes, weights, packing, offset, subtracted)


def _read_packing(data: Reader, dtype: np.dtype[np.generic]) -> Packing:
    least, most = int(np.iinfo(dtype.str).min), int(np.iinfo(dtype.str).max)
    kind = data.byte()
    if kind == 0:
        offset, low = data.signed(65535), data.signed(65535)
        high = low + data.varint(65535)
        if low < 0 or low + offset < least or high + offset > most:
            raise CodestreamSyntaxError("a channel's value range leaves its sample type")
        return Packing(offset, low, high)
    if kind != 1:
        raise CodestreamSyntaxError(f"unknown value packing {kind}")
    first, count = data.signed(65535), data.varint(65535) + 1
    body = data.raw(data.varint(1 << 18))
    engine = zlib.decompressobj()
    try:
        gaps_raw = engine.decompress(body, 3 * count + 1)
    except zlib.error as error:
        raise CodestreamSyntaxError(f"a value map does not inflate: {error}") from error
    if not engine.eof or engine.unused_data:
        raise CodestreamSyntaxError("a value map is longer than it says")
    gaps = Reader(gaps_raw)
    values = [first]
    for _ in range(count - 1):
        values.append(values[-1] + 1 + gaps.varint(65535))
    if gaps.position != len(gaps_raw) or first < least or values[-1] > most:
        raise CodestreamSyntaxError("a value map leaves its sample type")
    return Packing(0, 0, count - 1, np.array(values, np.int32))


def serialise(stream: Codestream) -> bytes:
    """Codestream -> bytes."""
    out = Writer()
    out.raw(MAGIC)
    out.byte(VERSION)
    out.byte(next(code for code, dtype in DTYPES.items() if dtype == stream.dtype))
    coder = next(code for code, name in CODERS.items() if name == stream.coder)
    out.byte(coder | (ALONE if stream.alone else 0))
    out.byte(stream.channels if len(stream.shape) == 3 else 0)
    for value in (*stream.shape[:2], stream.grid.tile_height, stream.grid.tile_width, *stream.patch):
        out.varint(value)
    for source in stream.copies[1:]:
        out.byte(source)
    out.raw(stream.pixel_digest)
    for group in stream.groups:
        _write_kind(out, group)
        for packing in group.packings if group.prediction is None else ():
            _write_packing(out, packing)
        if not group.learned:
            continue
        out.byte(group.shift)
        out.byte(group.depth)
        out.raw(group.model)
        if not group.adapter:
            out.byte(ADAPTER_NONE)
        elif group.inside:
            out.byte(ADAPTER_ON_NAMED if group.under else ADAPTER_INSIDE)
            out.raw(group.under)
            out.varint(len(group.adapter))
            out.raw(group.adapter)
        else:
            out.byte(ADAPTER_NAMED)
            out.raw(group.adapter)
    for group_streams in stream.streams:
        for tile in group_streams:
            out.varint(len(tile))
            out.raw(zlib.crc32(tile).to_bytes(4, "little"))
    header = out.getvalue()
    parts = [header, zlib.crc32(header).to_bytes(4, "little")]
    parts += [tile for group_streams in stream.streams for tile in group_streams]
    return b"".join(parts)


def _parse_header(data: Reader, max_pixels: int) -> tuple[Codestream, list[list[tuple[int, int]]]]:
    if data.raw(4) != MAGIC:
        raise CodestreamSyntaxError("this is not a CALLIC codestream")
    version = data.byte()
    if version != VERSION:
        raise CodestreamVersionError(
            f"the codestream has version {version}; this program reads version {VERSION}"
        )
    dtype, coding = DTYPES.get(data.byte()), data.byte()
    coder, alone = CODERS.get(coding & ~ALONE), bool(coding & ALONE)
    channels = data.byte()
    if dtype is None or coder is None:
        raise CodestreamSyntaxError("unknown sample type, coder or channel count")
    height, width = data.varint(MAX_SIDE), data.varint(MAX_SIDE)
    tile_h, tile_w, patch_h, patch_w = (data.varint(MAX_TILE) for _ in range(4))
    if min(height, width, tile_h, tile_w, patch_h, patch_w) < 1:
        raise CodestreamSyntaxError("image, tiles and patches need at least one pixel")
    if height * width * max(1, channels) > max_pixels:
        raise CodestreamSyntaxError(
            f"the image has {height} x {width} pixels, more than the limit of {max_pixels}"
        )
    copies = [0]
    for channel in range(1, channels):
        copies.append(data.byte())
        if copies[-1] > channel or copies[copies[-1]] != copies[-1]:
            raise CodestreamSyntaxError("a channel is said to copy one that is not coded")
    coded = [c for c, source in enumerate(copies) if source == c]
    digest = data.raw(8)
    grid = TileGrid(height, width, tile_h, tile_w)
    groups = [
        _parse_group(data, dtype, count, coded[:first]) for first, count in plane_groups(len(coded), alone)
    ]
    tiles = -(-height // tile_h) * -(-width // tile_w)
    learned = sum(group.learned for group in groups)
    if tiles * learned * 5 > len(data.data):
        raise CodestreamSyntaxError("the codestream is too short for the tiles it declares")
    lengths = []
    for group in groups:
        count = tiles if group.learned else 0
        lengths.append([(data.varint(1 << 31), int.from_bytes(data.raw(4), "little")) for _ in range(count)])
    end = data.position
    if int.from_bytes(data.raw(4), "little") != zlib.crc32(data.data[:end]):
        raise CodestreamSyntaxError("the codestream's header is damaged: its CRC does not match")
    shape = (height, width, channels) if channels else (height, width)
    return Codestream(
        shape, dtype, coder, grid, (patch_h, patch_w), tuple(copies), tuple(groups), (), digest, alone
    ), lengths


def _parse_group(
    data: Reader, dtype: np.dtype[np.generic], count: int, earlier: Sequence[int]
) -> GroupHeader:
    """A plane group of ``count`` planes; ``earlier``: channels of the groups before it."""
    kind = data.byte()
    drawn_on = kind in (KIND_PREDICTED, KIND_GUIDED)
    if kind not in (KIND_CONSTANT, KIND_LEARNED, KIND_PREDICTED, KIND_GUIDED) or (drawn_on and count > 1):
        raise CodestreamSyntaxError(f"unknown kind {kind} of plane group")
    if drawn_on:
        prediction = _read_prediction(data, dtype, earlier, subtracted=kind == KIND_PREDICTED)
        coded = Packing(0, 0, data.varint(65535)) if prediction.subtracted else prediction.packing
        return replace(_parse_learned(data, (coded,)), prediction=prediction)
    packings = tuple(_read_packing(data, dtype) for _ in range(count))
    if kind == KIND_CONSTANT:
        if any(p.low != p.high for p in packings):
            raise CodestreamSyntaxError("a constant plane has more than one level")
        return GroupHeader(packings, False)
    return _parse_learned(data, packings)


def _parse_learned(data: Reader, packings: tuple[Packing, ...]) -> GroupHeader:
    shift, depth, model = data.byte(), data.byte(), data.raw(PREFIX)
    if shift > 15 or not 8 <= depth <= 16 or any(p.span > 1 << depth for p in packings):
        raise CodestreamSyntaxError("a plane group's shift or depth is out of range")
    adapter_kind = data.byte()
    if adapter_kind == ADAPTER_NONE:
        return GroupHeader(packings, True, shift, depth, model)
    if adapter_kind in (ADAPTER_INSIDE, ADAPTER_ON_NAMED):
        under = data.raw(PREFIX) if adapter_kind == ADAPTER_ON_NAMED else b""
        inside = data.raw(data.varint(1 << 24))
        if not inside:
            raise CodestreamSyntaxError("an adapter of no bytes lies inside the codestream")
        return GroupHeader(packings, True, shift, depth, model, inside, True, under)
    if adapter_kind == ADAPTER_NAMED:
        return GroupHeader(packings, True, shift, depth, model, data.raw(PREFIX))
    raise CodestreamSyntaxError(f"unknown kind {adapter_kind} of adapter")


def parse(raw: bytes | memoryview, *, max_pixels: int = MAX_PIXELS, region: Box | None = None) -> Codestream:
    """Bytes -> Codestream. ``region``: check and keep only the tiles that it touches (the others become empty).

    Raises CodestreamSyntaxError and CodestreamVersionError.
    """
    data = Reader(raw)
    header, lengths = _parse_header(data, max_pixels)
    streams = []
    wanted = None if region is None else set(header.tiles_of(region))
    for group_lengths in lengths:
        found = []
        for number, (length, crc) in enumerate(group_lengths):
            if length > len(data.data) - data.position:
                raise CodestreamSyntaxError("the codestream is truncated: a tile's bytes are missing")
            part = (
                bytes(data.data[data.position : data.position + length])
                if wanted is None or number in wanted
                else b""
            )
            data.position += length
            if (wanted is None or number in wanted) and zlib.crc32(part) != crc:
                raise CodestreamSyntaxError(
                    f"tile {number} of the codestream is damaged: its CRC does not match"
                )
            found.append(part)
        streams.append(tuple(found))
    if data.position != len(data.data):
        raise CodestreamSyntaxError("bytes follow the end of the codestream")
    return Codestream(
        header.shape, header.dtype, header.coder, header.grid, header.patch, header.copies, header.groups,
        tuple(streams), header.pixel_digest, header.alone,
    )  # fmt: skip


def inspect(raw: bytes | memoryview) -> CodestreamInfo:
    """What a codestream needs and where its bytes go, without decoding it. Raises CodestreamSyntaxError."""
    data = Reader(raw)
    header, lengths = _parse_header(data, MAX_PIXELS)
    learned = [g for g in header.groups if g.learned]
    inside = sum(len(g.adapter) for g in learned if g.inside)
    return CodestreamInfo(
        header.shape, header.dtype.name, header.coder,
        tuple(dict.fromkeys(g.model.hex() for g in learned)),
        tuple(dict.fromkeys(name.hex() for g in learned if (name := g.under if g.inside else g.adapter))),
        inside, sum(length for group in lengths for length, _ in group), data.position - inside,
        sum(len(group) for group in lengths),
    )  # fmt: skip


def digest_pixels(samples: NDArray[np.generic]) -> bytes:
    """BLAKE2b-64 of samples in C order, little-endian, row by row so that no second copy of the image
    appears."""
    import hashlib

    engine = hashlib.blake2b(digest_size=8)
    little = samples.dtype.newbyteorder("<")
    step = max(1, (1 << 22) // max(1, samples[:1].nbytes))
    for start in range(0, samples.shape[0], step):
        engine.update(np.ascontiguousarray(samples[start : start + step], dtype=little).data)
    return engine.digest()
