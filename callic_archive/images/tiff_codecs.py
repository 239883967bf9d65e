"""TIFF blocks packed with LZW, deflate or PackBits: decode them, and find the encoder that repeats them.

For each block the encoders that writers use are tried: libtiff's LZW (two releases) and PackBits, zlib and
libdeflate at their levels. Where one of them repeats the block exactly only its name is kept. Of other deflate
blocks, and of those of libdeflate where that is cheap, since its releases differ, the differences are kept (see
``deflate``), all in one at the end of the surround. The few blocks that are left stay in the surround as they
are. When they are many, the file becomes ``content``: blocks are packed again into their old places, which needs
no change of offsets, and the free rest is filled with bytes that decoders skip.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, RebuildMismatch, SourceTooLarge, TruncatedSource
from callic_archive.images.deflate.recipe import most_side
from callic_archive.images.layout import Image, Layout, layouts_from_json, layouts_to_json, runs_of, unrun
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import check_spans, cut, in_order, paste, to_rasters

if TYPE_CHECKING:
    from callic_archive.images.deflate.differences import Reader

Bytes = NDArray[np.uint8]
Encoder = tuple[str, int, int]  # (library, level, memory level)

_CODECS = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate", 32773: "packbits"}
_RATIO = {"none": 1, "lzw": 4096, "deflate": 1040, "packbits": 64}  # no code expands further
_FILL = {
    "none": b"\0",
    "lzw": b"\0",
    "deflate": b"\0",
    "packbits": b"\x80",
}  # what decoders skip behind a code
_KEPT_SHARE = 0.1  # of the packed bytes may stay verbatim before the file is declared content
_HOPELESS_SHARE = 0.5  # beyond this share taking the file apart gains nothing
_SLACK = 4096  # bytes of filling that a block may have beyond twice its raw size
_SEARCHES = 12  # blocks of one file for which all encoders are tried
_ZLIB = [("zlib", level, memory) for level in (6, 9, 1, 5, 4, 3, 2, 7, 8) for memory in (8, 9)]
_ENCODERS: dict[str, list[Encoder]] = {
    "none": [("none", 0, 0)],
    "lzw": [("libtiff", 0, 0), ("libtiff", 1, 0), ("imagecodecs", 0, 0)],
    "packbits": [("libtiff", 0, 0), ("imagecodecs", 0, 0)],
    "deflate": _ZLIB + [("libdeflate", level, 0) for level in (7, 6, 1, 9, 12, 2, 3, 4, 5, 8, 10, 11)],
}
_DIFFERENCES = "differences"  # as a library; its level is the two bytes of the zlib header
_CHEAP = 32  # differences of less than 1/32 of the code are better than the name of a library that changes
_LOOK = 8  # blocks after which differences that are too dear are given up
CODECS = tuple(_ENCODERS)
_DENSE: dict[str, list[Encoder]] = {"deflate": [("zlib", 9, 9), ("libdeflate", 12, 0)]}  # tried for content


@dataclass(frozen=True)
class Packing:
    """How the blocks of one raster are packed: codec, and predictor 1 (none) or 2 (differences)."""

    codec: str
    predictor: int


def packings(compression: int, predictor: int, fill_order: int) -> Packing | None:
    """The packing that the three TIFF tags name, or None when it is lossy, bit-reversed or not supported."""
    codec = _CODECS.get(compression)
    if codec is None or fill_order != 1:
        return None
    if codec in ("none", "packbits"):
        predictor = 1  # libtiff knows predictors for LZW and deflate only, and ignores the tag elsewhere
    return Packing(codec, predictor) if predictor in (1, 2) else None


def _inflate(code: memoryview, size: int) -> Bytes:
    engine = zlib.decompressobj()
    try:
        return np.frombuffer(engine.decompress(code, size), np.uint8)
    except zlib.error as error:
        raise MalformedSource(f"a deflate block is broken: {error}") from error


def _unpack(code: memoryview, size: int, packing: Packing) -> Bytes:
    """One block decoded to exactly ``size`` bytes, predictor still applied. Raises SourceError subclasses."""
    from callic_archive.images.tiff_lzw import lzw_decode, packbits_decode

    raw: Bytes | None
    if packing.codec == "none":
        raw = np.frombuffer(code, np.uint8)[:size]
    elif packing.codec == "deflate":
        raw = _inflate(code, size)
    elif packing.codec == "packbits":
        raw = packbits_decode(np.frombuffer(code, np.uint8), size)
    else:
        raw = lzw_decode(np.frombuffer(code, np.uint8), size)
        if raw is None:
            raise MalformedSource("an LZW block is broken")
    if len(raw) < size:
        raise TruncatedSource(f"a block of the TIFF decodes to {len(raw)} bytes, its pixels need {size}")
    return raw


def _samples(raw: Bytes, layout: Layout) -> NDArray[Any]:
    """Raw bytes of a block as unsigned samples (rows, columns, spp) in stored byte order."""
    dtype = layout.dtype.replace("i", "u")
    return raw.view(dtype).reshape(-1, layout.block_columns, layout.spp)


def _undo_predictor(raw: Bytes, layout: Layout) -> Bytes:
    samples = _samples(raw, layout)
    native = samples.dtype.newbyteorder("=")
    total = np.cumsum(samples, axis=1, dtype=native)
    return total.astype(samples.dtype, copy=False).reshape(-1).view(np.uint8)


def _apply_predictor(raw: Bytes, layout: Layout) -> Bytes:
    samples = _samples(raw, layout)
    native = samples.astype(samples.dtype.newbyteorder("="))
    native[:, 1:] -= native[:, :-1].copy()
    return native.astype(samples.dtype, copy=False).reshape(-1).view(np.uint8)


@cache
def _zlib_header(encoder: Encoder) -> bytes:
    return _encode_deflate(b"", encoder)[:2]


def _encode_deflate(raw: bytes, encoder: Encoder) -> bytes:
    library, level, memory = encoder
    if library == "zlib":
        engine = zlib.compressobj(level, zlib.DEFLATED, 15, memory)
        return engine.compress(raw) + engine.flush()
    import imagecodecs

    return bytes(imagecodecs.deflate_encode(raw, level=level, raw=False))


def _pack(raw: Bytes, layout: Layout, codec: str, encoder: Encoder) -> bytes:
    """One block (predictor applied) packed by ``encoder``."""
    from callic_archive.images.tiff_lzw import lzw_encode, packbits_encode

    if codec == "deflate":
        return _encode_deflate(raw.tobytes(), encoder)
    if encoder[0] == "imagecodecs":
        import imagecodecs

        if codec == "lzw":
            return bytes(imagecodecs.lzw_encode(raw.tobytes()))
        return bytes(imagecodecs.packbits_encode(raw.reshape(-1, layout.pitch)))
    if codec == "packbits":
        return packbits_encode(raw, layout.pitch)
    if codec == "lzw":
        return lzw_encode(raw, bool(encoder[1]))
    return raw.tobytes()


class _Search:
    """Finds, block after block, the encoder that repeats the packed bytes; the last is tried first."""

    def __init__(self, differ: bool) -> None:
        self.encoders: list[Encoder] = []  # those in use, best first seen
        self.searches = 0
        self.differs: bool | None = (
            None if differ else False
        )  # whether differences serve better than the name of libdeflate

    def find(self, raw: Bytes, code: memoryview, layout: Layout, packing: Packing) -> Encoder | None:
        """An encoder that gives ``code`` up to the filling behind it, or None."""
        for encoder in self._candidates(code, packing.codec):
            packed = _pack(raw, layout, packing.codec, encoder)
            rest = len(code) - len(packed)
            if (
                0 <= rest <= 2 * len(raw) + _SLACK
                and code[: len(packed)] == packed
                and code[len(packed) :] == _FILL[packing.codec] * rest
            ):
                if encoder[0] == "libdeflate" and self._cheap(raw, code[2:-4]):
                    return None
                if encoder in self.encoders:
                    self.encoders.remove(encoder)
                self.encoders.insert(0, encoder)
                return encoder
        return None

    def _cheap(self, raw: Bytes, body: memoryview) -> bool:
        """Whether the differences of a block, taken as one of many, are few; asked once a file."""
        if self.differs is None:
            from callic_archive.images.deflate.differences import Writer

            writer = Writer()
            self.differs = writer.add(body, raw, 64 + len(body) // _CHEAP) is not None
        return self.differs

    def _candidates(self, code: memoryview, codec: str) -> list[Encoder]:
        known = [e for e in self.encoders if e in _ENCODERS[codec]]
        if codec != "deflate":
            return known + [e for e in _ENCODERS[codec] if e not in known]
        if self.differs:
            return [e for e in known if e[0] == "zlib"][:2]
        head = bytes(code[:2])
        known = [e for e in known if _zlib_header(e) == head][:2]
        if self.searches >= _SEARCHES:
            return known
        self.searches += 1
        return known + [e for e in _ENCODERS[codec] if e not in known and _zlib_header(e) == head]


def _check(layouts: Sequence[Layout], packs: Sequence[Packing], size: int, limits: Limits) -> None:
    limits.check_images(sum(layout.images for layout in layouts))
    limits.check_blocks(sum(layout.count for layout in layouts))
    limits.check_decoded(sum(layout.decoded_bytes for layout in layouts), size)
    check_spans(layouts, size)
    for layout, packing in zip(layouts, packs, strict=True):
        largest = layout.block_rows * layout.pitch
        if largest > _RATIO[packing.codec] * (max(layout.lengths) if layout.lengths else largest) + 64:
            raise SourceTooLarge(
                f"no {packing.codec} block of {max(layout.lengths)} bytes can hold {largest} bytes"
            )


def _differ(
    data: memoryview, layouts: Sequence[Layout], packs: Sequence[Packing], chosen: list[list[Encoder | None]]
) -> tuple[bytes, int]:
    """Take the differences of the deflate blocks that no encoder repeats; returns them and the bytes of those blocks.

    Blocks go in the order in which a file is put together. Where differences take too much, nothing is done.
    """
    from callic_archive.images.deflate.differences import Writer

    writer, total, done = Writer(), 0, []
    for start, length, i, k in in_order(layouts):
        if chosen[i][k] is not None or packs[i].codec != "deflate":
            continue
        code = data[start : start + length]
        raw = _unpack(code, layouts[i].raw_length(k), packs[i])
        used = writer.add(code[2:], raw)
        if used is None:
            continue
        end = 2 + used + 4
        rest = length - end
        check = zlib.adler32(raw.data).to_bytes(4, "big")
        if not 0 <= rest <= 2 * len(raw) + _SLACK or code[end - 4 :] != check + bytes(rest):
            writer.undo()
            continue
        chosen[i][k] = (_DIFFERENCES, int.from_bytes(code[:2], "big"), 0)
        done.append((i, k))
        total += length
        if len(done) >= _LOOK and writer.size > most_side(total):
            break
    side = writer.finish()
    if len(side) <= most_side(total):
        return side, total
    for i, k in done:
        chosen[i][k] = None
    return b"", 0


def parse_packed(data: memoryview, pages: Sequence[tuple[Layout, Packing]], limits: Limits) -> Parsed | None:
    """Decode the rasters of a TIFF of which at least one is compressed, and look for its encoders.

    Returns None when most of its bytes would have to be kept as they are. Raises SourceError subclasses.
    """
    return _parse_packed(data, pages, limits, differ=True)


def _parse_packed(
    data: memoryview, pages: Sequence[tuple[Layout, Packing]], limits: Limits, differ: bool
) -> Parsed | None:
    layouts, packs = [layout for layout, _ in pages], [packing for _, packing in pages]
    _check(layouts, packs, len(data), limits)
    search = _Search(differ)
    images: list[Image] = []
    pads: dict[tuple[int, int], bytes] = {}
    chosen: list[list[Encoder | None]] = []
    total = missed = 0
    for i, (layout, packing) in enumerate(pages):
        raster = np.empty((layout.height, layout.width, layout.samples), layout.native)
        chosen.append([])
        for k in range(layout.count):
            start, length = layout.offsets[k], layout.stored_length(k)
            code = data[start : start + length]
            raw = _unpack(code, layout.raw_length(k), packing)
            encoder = search.find(raw, code, layout, packing)
            chosen[i].append(encoder)
            total += length
            missed += length if encoder is None else 0
            if packing.predictor == 2:
                raw = _undo_predictor(raw, layout)
            layout.place(k, raw.data, raster)
            if layout.pad_length(k):
                pads[i, k] = layout.padding(k, raw.data)
        images += layout.to_images(raster)
    side = b""
    if missed and differ:
        side, helped = _differ(data, layouts, packs, chosen)
        missed -= helped
    fidelity: Literal["bytes", "content"] = "bytes"
    if missed > _KEPT_SHARE * total:
        fidelity = "content"
        missed = _repack(layouts, packs, images, pads, chosen)
        if missed > _HOPELESS_SHARE * total:
            return None
    kept = [frozenset(k for k, e in enumerate(column) if e is None) for column in chosen]
    encoders = sorted({e for column in chosen for e in column if e is not None})
    recipe = {
        "layouts": layouts_to_json(layouts),
        "packings": [[p.codec, p.predictor] for p in packs],
        "encoders": [list(e) for e in encoders],
        "blocks": [runs_of([-1 if e is None else encoders.index(e) for e in column]) for column in chosen],
        **_versions(encoders),
        **({"differences": len(side)} if side else {}),
    }
    volatile = frozenset({"encoders", "blocks", "zlib", "libdeflate", "differences"})
    surround = cut(data, layouts, pads, kept) + side
    lighter = (lambda: _parse_packed(data, pages, limits, differ=False)) if side else None
    return Parsed("tiff", fidelity, tuple(images), surround, recipe, volatile, lighter)


def unpacked(
    data: memoryview, pages: Sequence[tuple[Layout, Packing]], limits: Limits
) -> tuple[Image, ...]:
    """The images of packed blocks, without a look for their encoders. Raises SourceError subclasses."""
    _check([layout for layout, _ in pages], [packing for _, packing in pages], len(data), limits)
    images: list[Image] = []
    for layout, packing in pages:
        raster = np.empty((layout.height, layout.width, layout.samples), layout.native)
        for k in range(layout.count):
            start = layout.offsets[k]
            raw = _unpack(data[start : start + layout.stored_length(k)], layout.raw_length(k), packing)
            layout.place(k, (_undo_predictor(raw, layout) if packing.predictor == 2 else raw).data, raster)
        images += layout.to_images(raster)
    return tuple(images)


def _versions(encoders: Sequence[Encoder]) -> dict[str, str]:
    """The libraries that the recipe relies on, by the versions that they give themselves."""
    names = {library for library, _, _ in encoders}
    found = {"zlib": zlib.ZLIB_RUNTIME_VERSION} if "zlib" in names else {}
    if "libdeflate" in names:
        import imagecodecs

        found["libdeflate"] = str(imagecodecs.deflate_version())
    return found


def _repack(
    layouts: Sequence[Layout],
    packs: Sequence[Packing],
    images: Sequence[Image],
    pads: Mapping[tuple[int, int], bytes],
    chosen: list[list[Encoder | None]],
) -> int:
    """Choose an encoder for each block that none repeats, if its code fits there; returns bytes left over."""
    rasters = to_rasters(layouts, images)
    missed = 0
    for i, (layout, packing) in enumerate(zip(layouts, packs, strict=True)):
        for k, found in enumerate(chosen[i]):
            if found is not None:
                continue
            pad = memoryview(pads.get((i, k), b""))
            raw = np.frombuffer(b"".join(layout.pieces(k, rasters[i], pad)), np.uint8)
            raw = _apply_predictor(raw, layout) if packing.predictor == 2 else raw
            room = layout.stored_length(k)
            for encoder in _DENSE.get(packing.codec, _ENCODERS[packing.codec]):
                spare = room - len(_pack(raw, layout, packing.codec, encoder))
                if 0 <= spare <= 2 * len(raw) + _SLACK:
                    chosen[i][k] = encoder
                    break
            else:
                missed += room
    return missed


def rebuild_packed(
    recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO
) -> None:
    """The inverse of ``parse_packed``. Raises RebuildMismatch when a block no longer fits where it was."""
    layouts = layouts_from_json(recipe["layouts"])
    packs = [Packing(str(codec), int(predictor)) for codec, predictor in recipe["packings"]]
    encoders: list[Encoder] = [(str(a), int(b), int(c)) for a, b, c in recipe["encoders"]]
    if not len(packs) == len(layouts) == len(recipe["blocks"]):
        raise RebuildMismatch("the recipe names another number of rasters than it has layouts")
    blocks = [unrun(runs, x.count) for runs, x in zip(recipe["blocks"], layouts, strict=True)]
    if any(len(b) != x.count for b, x in zip(blocks, layouts, strict=True)):
        raise RebuildMismatch("the recipe names another number of blocks than its geometry needs")
    for layout, packing, column in zip(layouts, packs, blocks, strict=True):
        allowed = (*_ENCODERS.get(packing.codec, ()), *_DENSE.get(packing.codec, ()))
        used = {encoders[e] for e in set(column) if 0 <= e < len(encoders)}
        if packing.codec == "deflate":
            used = {e for e in used if e[0] != _DIFFERENCES or not (0 <= e[1] < 1 << 16 and e[2] == 0)}
        if max(column, default=-1) >= len(encoders) or not used <= set(allowed):
            raise RebuildMismatch("the recipe names an encoder that there is not")
        if packing.predictor not in (1, 2) or bool(layout.lengths) != (packing.codec != "none"):
            raise RebuildMismatch("the recipe names a codec or predictor that its layout does not fit")
    kept = [frozenset(k for k, e in enumerate(column) if e < 0) for column in blocks]
    end = len(surround) - int(recipe.get("differences", 0))
    if not 0 <= end <= len(surround):
        raise RebuildMismatch("the recipe names more differences than there are surrounding bytes")
    again = _reader(surround[end:]) if end < len(surround) else None

    def encode(i: int, k: int, block: bytes) -> bytes:
        layout, packing = layouts[i], packs[i]
        raw = np.frombuffer(block, np.uint8)
        raw = _apply_predictor(raw, layout) if packing.predictor == 2 else raw
        encoder = encoders[blocks[i][k]]
        if encoder[0] != _DIFFERENCES:
            code = _pack(raw, layout, packing.codec, encoder)
        elif again is None:
            raise RebuildMismatch("the recipe names differences and has none")
        else:
            check = zlib.adler32(raw.data).to_bytes(4, "big")
            code = encoder[1].to_bytes(2, "big") + again.next(raw) + check
        if layout.stored_length(k) - len(code) > 2 * len(raw) + _SLACK:
            raise RebuildMismatch("the recipe asks for more filling than a block can need")
        return code + _FILL[packing.codec] * (layout.stored_length(k) - len(code))

    paste(layouts, surround[:end], to_rasters(layouts, images), out, encode, kept)


def _reader(side: bytes) -> Reader:
    from callic_archive.images.deflate.differences import Reader

    return Reader(side)
