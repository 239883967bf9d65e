"""A second decoder, written from docs/format/{codestream,model,entropy}.md: numpy int64 and Python integers.

It imports nothing of the package, uses no floats, and is as plain as the pages: slow, and short enough to be
read beside them. ``decode`` returns an image or raises ``Reject`` with the error code that the pages give.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conformance.independent_entropy import (
    Mixture,
    RangeDecoder,
    Reject,
    TorchacDecoder,
    decode_pixel,
    mixture_tables,
    need,
    reject,
    torchac_group,
)
from tests.conformance.independent_model import (
    I64,
    Fields,
    Model,
    Patch,
    find,
    merge,
    read_adapter,
    read_model,
)

__all__ = ["Reject", "decode", "read_model"]
TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 3: np.dtype("<i2")}
MAX_SAMPLES = 1 << 36


@dataclass(frozen=True)
class Packing:
    low: int
    high: int
    sample: dict[int, int]  # of each level


@dataclass(frozen=True)
class Group:
    learned: bool
    packings: list[Packing]
    shift: int = 0
    depth: int = 8
    model: bytes = b""
    adapter_kind: int = 0
    adapter: bytes = b""
    under: bytes = b""  # of kind 3: how the adapter is named that is merged first
    terms: Sequence[tuple[int, int]] = ()  # of a prediction: plane and weight
    offset: int = 0
    top: int = 0  # highest coded level
    guided: bool = False


def read_packing(data: Fields, dtype: np.dtype[Any]) -> Packing:
    least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    kind = data.u8()
    if kind == 0:
        offset, low = data.signed(), data.signed()
        high = low + data.varint(65535)
        need(low >= 0 and low + offset >= least and high + offset <= most, "E220", "range of a plane")
        return Packing(low, high, {level: level + offset for level in range(low, high + 1)})
    need(kind == 1, "E220", "kind of packing")
    first, n = data.signed(), data.varint(65535)
    packed = data.take(data.varint(1 << 18))
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(packed, 3 * n + 4)
    except zlib.error:
        reject("E220", "value map")
    need(engine.eof and not engine.unused_data, "E220", "value map")
    gaps, values = Fields(raw, "E220"), [first]
    for _ in range(n):
        values.append(values[-1] + 1 + gaps.varint(65535))
    need(gaps.at == len(raw) and first >= least and values[-1] <= most, "E220", "value map")
    return Packing(0, n, dict(enumerate(values)))


def read_group(data: Fields, dtype: np.dtype[Any], planes: int, earlier: Sequence[int]) -> Group:
    kind = data.u8()
    need(kind in (0, 1) or (kind in (2, 3) and planes == 1), "E220", "kind of group")
    terms: list[tuple[int, int]] = []
    if kind >= 2:
        count = data.u8()
        need(1 <= count <= 3, "E220", "planes of a prediction")
        terms = [(data.u8(), data.signed()) for _ in range(count)]
        need(all(c in earlier and abs(w) <= 65535 for c, w in terms), "E220", "prediction")
    offset = data.signed() if kind >= 2 else 0
    need(abs(offset) <= 65535, "E220", "offset of a prediction")
    packings = [read_packing(data, dtype) for _ in range(planes)]
    top = data.varint(65535) if kind == 2 else max(p.high for p in packings)
    if kind == 0:
        need(all(p.low == p.high for p in packings), "E220", "constant")
        return Group(False, packings)
    shift, depth, model, adapter_kind = data.u8(), data.u8(), data.take(8), data.u8()
    need(shift <= 15 and 8 <= depth <= 16, "E220", "shift or depth")
    need(top < 1 << depth, "E220", "levels beyond the depth")
    need(adapter_kind <= 3, "E220", "adapter")
    adapter = b""
    under = data.take(8) if adapter_kind == 3 else b""
    if adapter_kind in (1, 3):
        adapter = data.take(data.varint(1 << 24))
        need(len(adapter) > 0, "E220", "adapter of no bytes")
    elif adapter_kind == 2:
        adapter = data.take(8)
    return Group(True, packings, shift, depth, model, adapter_kind, adapter, under, terms, offset, top, kind == 3)


def cut(extent: int, side: int) -> list[slice]:
    return [slice(at, min(at + side, extent)) for at in range(0, extent, side)]


def decode(raw: bytes, models: Mapping[str, Model], adapters: Sequence[bytes] = ()) -> NDArray[Any]:
    """The image of a codestream. ``models`` by SHA-256; ``adapters``: the coded forms of those at hand."""
    data = Fields(raw, "E220")
    need(data.take(4) == b"\x8fCLC", "E220", "magic")
    need(data.u8() == 1, "E221", "version")
    type_code, coder, channels = data.u8(), data.u8(), data.u8()
    alone, coder = coder >> 7, coder & 127
    need(type_code in TYPES and coder <= 1, "E220", "type or coder")
    dtype, planes = TYPES[type_code], max(1, channels)
    height, width = data.varint((1 << 31) - 1), data.varint((1 << 31) - 1)
    tile_h, tile_w, patch_h, patch_w = (data.varint(4096) for _ in range(4))
    need(min(height, width, tile_h, tile_w, patch_h, patch_w) > 0, "E220", "a size of 0")
    need(height * width * planes <= MAX_SAMPLES, "E220", "too large")
    copies = [0]
    for c in range(1, planes):
        copies.append(data.u8())
        need(copies[c] <= c and copies[copies[c]] == copies[c], "E220", "copy")
    digest = data.take(8)
    coded = [c for c in range(planes) if copies[c] == c]
    members = [[c] for c in coded]
    if len(coded) > 2 and not alone:
        members = [coded[:3], *([c] for c in coded[3:])]
    groups = [read_group(data, dtype, len(m), coded[: coded.index(m[0])]) for m in members]
    tiles = -(-height // tile_h) * -(-width // tile_w)
    need(5 * tiles * sum(g.learned for g in groups) <= len(raw), "E220", "too short for its tiles")
    lengths = [[(data.varint(1 << 31), data.u32()) for _ in range(tiles if g.learned else 0)] for g in groups]
    header = raw[: data.at]
    need(zlib.crc32(header) == data.u32(), "E220", "CRC of the header")
    streams: list[list[bytes]] = []
    for of_group in lengths:
        streams.append([])
        for length, crc in of_group:
            streams[-1].append(data.take(length))
            need(zlib.crc32(streams[-1][-1]) == crc, "E220", "CRC of a tile")
    need(data.at == len(raw), "E220", "bytes after the end")

    image = np.zeros((height, width, planes), dtype)
    plane_levels = np.zeros((planes, height, width), np.int64)
    lowest: dict[int, int] = {}
    for group, channel_numbers, of_group_streams in zip(groups, members, streams, strict=True):
        if not group.learned:
            for c, packing in zip(channel_numbers, group.packings, strict=True):
                image[:, :, c] = packing.sample[packing.low]
                plane_levels[c], lowest[c] = packing.low, packing.low
            continue
        model = prepare(group, len(channel_numbers), models, adapters)
        lowest |= {c: packing.low for c, packing in zip(channel_numbers, group.packings, strict=True)}
        boxes = [(rows, columns) for rows in cut(height, tile_h) for columns in cut(width, tile_w)]
        for (rows, columns), stream in zip(boxes, of_group_streams, strict=True):
            size = (len(channel_numbers), rows.stop - rows.start, columns.stop - columns.start)
            base, own = np.zeros(size[1:], np.int64), group.packings[0]
            if group.terms:
                below = [plane_levels[p][rows, columns] for p, _ in group.terms]
                total = sum(w * x for (_, w), x in zip(group.terms, below, strict=True))
                empty = np.all([x == lowest[p] for (p, _), x in zip(group.terms, below, strict=True)], axis=0)
                base = np.where(empty, own.low, ((total + 2048) >> 12) + group.offset)
            guide = np.clip(base, own.low, own.high) if group.terms and model.guides else None
            levels = decode_tile(stream, size, (patch_h, patch_w), group, model, coder, guide)
            for level, c, packing in zip(levels, channel_numbers, group.packings, strict=True):
                if group.terms and not group.guided:
                    level = level + base
                    good = bool(packing.low <= level.min() and level.max() <= packing.high)
                    need(good, "E220", "predicted level")
                plane_levels[c][rows, columns] = level
                image[rows, columns, c] = np.vectorize(packing.sample.__getitem__)(level)
    for c, source in enumerate(copies):
        image[:, :, c] = image[:, :, source]
    found = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
    need(found == digest, "E222", "digest of the samples")
    whole: NDArray[Any] = image if channels else image[:, :, 0]
    return whole


def prepare(group: Group, planes: int, models: Mapping[str, Model], adapters: Sequence[bytes]) -> Model:
    """The model of a group, with its adapter merged in."""
    model = find(models, group.model)
    need(model.size["channels"] == planes, "E200", "model of other planes")
    need(not group.guided or model.guides == 1, "E200", "model without a guide")
    payloads = [group.adapter] if group.adapter_kind in (1, 3) else []
    for name in {2: [group.adapter], 3: [group.under]}.get(group.adapter_kind, []):
        named = [a for a in adapters if hashlib.sha256(a).digest().startswith(name)]
        payloads.insert(0, named[0] if named else reject("E301", "adapter"))
    result = model
    for payload in payloads:
        own, factors = read_adapter(payload, models)
        need(own.digest == model.digest, "E304", "adapter of another model")
        result = merge(result, factors)
    return result


def decode_tile(
    stream: bytes,
    size: tuple[int, int, int],
    patch_size: tuple[int, int],
    group: Group,
    model: Model,
    coder: int,
    guide: I64 | None = None,
) -> I64:
    """Levels (C, h, w) of one tile."""
    _, h, w = size
    levels = np.zeros(size, np.int64)
    tables = mixture_tables(model.arrays)
    lo, hi = [p.low for p in group.packings], [p.high for p in group.packings]
    if group.terms and not group.guided:
        lo, hi = [0], [group.top]
    corners = [(r, c) for r in cut(h, patch_size[0]) for c in cut(w, patch_size[1])]
    use = 64 if group.guided else -64
    parts = [None if guide is None else guide[r, c] for r, c in corners]
    patches = [
        Patch(model, levels[:, r, c], group.shift, group.depth, part, use) for (r, c), part in zip(corners, parts, strict=True)
    ]
    ranged, torchac = RangeDecoder(stream), TorchacDecoder(stream)
    for number in range(2 * min(h, patch_size[0]) + min(w, patch_size[1]) - 2):
        places = [(patch, i, j) for patch in patches for i, j in of_group(number, patch.h, patch.w)]
        found = [p for patch in patches for p in patch.group(list(of_group(number, patch.h, patch.w)))]
        pixels = [Mixture(head, skips, group.shift, lo, hi, tables) for head, skips in found]
        if not pixels:
            continue
        values = [decode_pixel(ranged, p) for p in pixels] if coder == 0 else torchac_group(torchac, pixels)
        for (patch, i, j), value in zip(places, values, strict=True):
            patch.x[:, i, j] = value
    (ranged if coder == 0 else torchac).finish()
    return levels


def of_group(number: int, h: int, w: int) -> Iterator[tuple[int, int]]:
    """Pixels of a group in a patch, by ascending row."""
    return ((i, number - 2 * i) for i in range(h) if 0 <= number - 2 * i < w)
