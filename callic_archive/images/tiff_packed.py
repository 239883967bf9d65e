"""TIFFs with packed blocks: taken apart and put together again, byte for byte where an encoder repeats the blocks.

Differences of deflate blocks are the end of the surround. The few blocks that nothing repeats stay in the surround as
they are. When they are many, the file becomes ``content``: blocks are packed again into their old places, which needs
no change of offsets, and the free rest is filled with bytes that decoders skip.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from callic_archive.errors import RebuildMismatch, SourceTooLarge
from callic_archive.images.layout import Image, Layout, layouts_from_json, layouts_to_json, runs_of, unrun
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import check_spans, cut, paste, to_rasters
from callic_archive.images.tiff_codecs import (
    ENCODERS,
    FILL,
    RATIO,
    SLACK,
    Encoder,
    Packing,
    apply_predictor,
    pack,
    undo_predictor,
    unpack,
)
from callic_archive.images.tiff_encoders import DIFFERENCES, Search
from callic_archive.images.tiff_encoders import differ as differ_blocks

if TYPE_CHECKING:
    from callic_archive.images.deflate.differences import Reader

_KEPT_SHARE = 0.1  # of the packed bytes may stay verbatim before the file is declared content
_HOPELESS_SHARE = 0.5  # beyond this share taking the file apart gains nothing
# Tried for content; Zstandard leaves no room for filling.
_DENSE: dict[str, list[Encoder]] = {"deflate": [("zlib", 9, 9), ("libdeflate", 12, 0)], "zstd": []}


def _check(layouts: Sequence[Layout], packs: Sequence[Packing], size: int, limits: Limits) -> None:
    limits.check_images(sum(layout.images for layout in layouts))
    limits.check_blocks(sum(layout.count for layout in layouts))
    limits.check_decoded(sum(layout.decoded_bytes for layout in layouts), size)
    check_spans(layouts, size)
    for layout, packing in zip(layouts, packs, strict=True):
        largest = layout.block_rows * layout.pitch
        if largest > RATIO[packing.codec] * (max(layout.lengths) if layout.lengths else largest) + 64:
            raise SourceTooLarge(
                f"no {packing.codec} block of {max(layout.lengths)} bytes can hold {largest} bytes"
            )


def parse_packed(data: memoryview, pages: Sequence[tuple[Layout, Packing]], limits: Limits) -> Parsed:
    """Decode the rasters of a TIFF of which at least one is compressed, and look for its encoders.

    Raises NotTaken when most of its bytes would have to be kept as they are, and SourceError subclasses.
    """
    return _parse_packed(data, pages, limits, differ=True)


def _parse_packed(
    data: memoryview, pages: Sequence[tuple[Layout, Packing]], limits: Limits, differ: bool
) -> Parsed:
    layouts, packs = [layout for layout, _ in pages], [packing for _, packing in pages]
    _check(layouts, packs, len(data), limits)
    search = Search(differ)
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
            raw = unpack(code, layout.raw_length(k), packing)
            encoder = search.find(raw, code, layout, packing)
            chosen[i].append(encoder)
            total += length
            missed += length if encoder is None else 0
            raw = undo_predictor(raw, layout, packing.predictor)
            layout.place(k, raw.data, raster)
            if layout.pad_length(k):
                pads[i, k] = layout.padding(k, raw.data)
        images += layout.to_images(raster)
    side = b""
    if missed and differ:
        side, helped = differ_blocks(data, layouts, packs, chosen)
        missed -= helped
    fidelity: Literal["bytes", "content"] = "bytes"
    if missed > _KEPT_SHARE * total:
        left = _repack(layouts, packs, images, pads, chosen)
        if left > _HOPELESS_SHARE * total:
            raise NotTaken("encoder")
        fidelity = "content" if left < missed else "bytes"
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
    volatile = frozenset({"encoders", "blocks", "zlib", "libdeflate", "zstd", "differences"})
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
            raw = unpack(data[start : start + layout.stored_length(k)], layout.raw_length(k), packing)
            layout.place(k, undo_predictor(raw, layout, packing.predictor).data, raster)
        images += layout.to_images(raster)
    return tuple(images)


def _versions(encoders: Sequence[Encoder]) -> dict[str, str]:
    """The libraries that the recipe relies on, by the versions that they give themselves."""
    names = {library for library, _, _ in encoders}
    found = {"zlib": zlib.ZLIB_RUNTIME_VERSION} if "zlib" in names else {}
    if "libdeflate" in names:
        import imagecodecs

        found["libdeflate"] = str(imagecodecs.deflate_version())
    if "zstd" in names:
        import zstandard

        found["zstd"] = ".".join(map(str, zstandard.ZSTD_VERSION))
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
            raw = apply_predictor(raw, layout, packing.predictor)
            room = layout.stored_length(k)
            for encoder in _DENSE.get(packing.codec, ENCODERS[packing.codec]):
                spare = room - len(pack(raw, layout, packing.codec, encoder))
                if 0 <= spare <= 2 * len(raw) + SLACK:
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
        allowed = (*ENCODERS.get(packing.codec, ()), *_DENSE.get(packing.codec, ()))
        used = {encoders[e] for e in set(column) if 0 <= e < len(encoders)}
        if packing.codec == "deflate":
            used = {e for e in used if e[0] != DIFFERENCES or not (0 <= e[1] < 1 << 16 and e[2] == 0)}
        if max(column, default=-1) >= len(encoders) or not used <= set(allowed):
            raise RebuildMismatch("the recipe names an encoder that there is not")
        if not packing.fits(layout):
            raise RebuildMismatch("the recipe names a codec or predictor that its layout does not fit")
    kept = [frozenset(k for k, e in enumerate(column) if e < 0) for column in blocks]
    end = len(surround) - int(recipe.get("differences", 0))
    if not 0 <= end <= len(surround):
        raise RebuildMismatch("the recipe names more differences than there are surrounding bytes")
    again = _reader(surround[end:]) if end < len(surround) else None

    def encode(i: int, k: int, block: bytes) -> bytes:
        layout, packing = layouts[i], packs[i]
        raw = np.frombuffer(block, np.uint8)
        raw = apply_predictor(raw, layout, packing.predictor)
        encoder = encoders[blocks[i][k]]
        if encoder[0] != DIFFERENCES:
            code = pack(raw, layout, packing.codec, encoder)
        elif again is None:
            raise RebuildMismatch("the recipe names differences and has none")
        else:
            check = zlib.adler32(raw.data).to_bytes(4, "big")
            code = encoder[1].to_bytes(2, "big") + again.next(raw) + check
        if layout.stored_length(k) - len(code) > 2 * len(raw) + SLACK:
            raise RebuildMismatch("the recipe asks for more filling than a block can need")
        return code + FILL[packing.codec] * (layout.stored_length(k) - len(code))

    paste(layouts, surround[:end], to_rasters(layouts, images), out, encode, kept)


def _reader(side: bytes) -> Reader:
    from callic_archive.images.deflate.differences import Reader

    return Reader(side)
