"""Cut the samples out of a file, and paste them back: the one mechanism behind every byte-exact container.

The file is read as  gap, block, gap, block, ..., gap  in order of offset. Gaps, and the padding inside
blocks, are the surround, in exactly this order; so pasting walks the same order and takes the next bytes of
the surround as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, RebuildMismatch, TruncatedSource
from callic_archive.images.layout import Image, Layout, layouts_from_json, layouts_to_json, unrun
from callic_archive.images.source import Limits, Parsed

Encoder = Callable[[int, int, bytes], bytes]  # (layout, block, raw bytes) -> stored bytes
Kept = Sequence[frozenset[int]]  # for each layout the blocks that stay in the surround as they are


def _spans(layouts: Sequence[Layout], kept: Kept = ()) -> NDArray[np.int64]:
    """All blocks as rows (offset, length, layout, block), in order of offset."""
    rows: list[NDArray[np.int64]] = []
    for i, layout in enumerate(layouts):
        blocks = np.arange(layout.count, dtype=np.int64)
        if layout.lengths:
            lengths = np.array(layout.lengths, dtype=np.int64)
        else:
            lengths = np.full(layout.count, layout.depth * layout.block_rows * layout.pitch, dtype=np.int64)
            if not layout.whole:
                last = layout.stored_rows(layout.across * layout.down - 1) * layout.pitch
                lengths.reshape(-1, layout.down, layout.across)[:, -1] = last
        table = np.stack(
            [np.array(layout.offsets, dtype=np.int64), lengths, np.full_like(blocks, i), blocks], axis=1
        )
        if kept and kept[i]:
            table = table[~np.isin(blocks, list(kept[i]))]
        rows.append(table)
    spans = np.concatenate(rows) if rows else np.empty((0, 4), np.int64)
    return spans[np.argsort(spans[:, 0], kind="stable")]


def in_order(layouts: Sequence[Layout]) -> list[tuple[int, int, int, int]]:
    """All blocks as (offset, length, layout, block), in the order in which ``paste`` writes them."""
    return [(int(a), int(b), int(i), int(k)) for a, b, i, k in _spans(layouts).tolist()]


def check_spans(layouts: Sequence[Layout], size: int, kept: Kept = ()) -> None:
    """Raise TruncatedSource or MalformedSource unless all blocks lie apart and inside ``size`` bytes.

    Blocks in ``kept`` are not looked at.
    """
    spans = _spans(layouts, kept)
    ends = spans[:, 0] + spans[:, 1]
    if len(spans) and int(spans[0, 0]) < 0:
        raise MalformedSource("a block of samples starts before the file")
    beyond = np.flatnonzero(ends > size)
    if len(beyond):
        offset, length = (int(v) for v in spans[beyond[0], :2])
        raise TruncatedSource(
            f"samples are promised at {offset}..{offset + length}, the file has {size} bytes"
        )
    over = np.flatnonzero(ends[:-1] > spans[1:, 0])
    if len(over):
        raise MalformedSource(f"two blocks of samples overlap at byte {int(spans[over[0] + 1, 0])}")


def cut(
    data: memoryview,
    layouts: Sequence[Layout],
    pads: Mapping[tuple[int, int], bytes] | None = None,
    kept: Kept = (),
) -> bytes:
    """Everything of ``data`` but the samples. ``pads`` gives the padding of blocks that are compressed."""
    surround: list[memoryview | bytes] = []
    position = 0
    for offset, length, i, k in _spans(layouts, kept).tolist():
        if offset > position:
            surround.append(data[position:offset])
        position = offset + length
        layout = layouts[i]
        if layout.pad_length(k):
            surround.append(layout.padding(k, data[offset:position]) if pads is None else pads[i, k])
    surround.append(data[position:])
    return b"".join(surround)


def paste(
    layouts: Sequence[Layout],
    surround: bytes,
    rasters: Sequence[Image],
    out: BinaryIO,
    encode: Encoder | None = None,
    kept: Kept = (),
) -> None:
    """Write the file again. What ``surround`` has beyond the layouts' needs is the end of the file.

    Raises RebuildMismatch when ``surround`` is too short, or a block has another length than its place.
    """
    rest = memoryview(surround)
    used = position = 0
    for offset, length, i, k in _spans(layouts, kept).tolist():
        gap, layout = offset - position, layouts[i]
        pad = layout.pad_length(k)
        if gap < 0 or used + gap + pad > len(rest):
            raise RebuildMismatch("the surrounding bytes are too short for the recipe")
        out.write(rest[used : used + gap])
        used += gap
        pieces = layout.pieces(k, rasters[i], rest[used : used + pad])
        used += pad
        if encode is None:
            for piece in pieces:
                out.write(piece)
        else:
            block = encode(i, k, b"".join(pieces))
            if len(block) != length:
                raise RebuildMismatch(f"a block of {length} bytes came out with {len(block)} bytes")
            out.write(block)
        position = offset + length
    out.write(rest[used:])


def around(recipe: Mapping[str, Any], surround: bytes) -> Iterator[tuple[int, bytes]]:
    """Bytes of a file that are no samples, each with the place where they lie, in order; no image is needed for that.

    Of a block of samples there is a first byte, which is none of its own and not 0. Raises RebuildMismatch.
    """
    layouts = layouts_from_json(recipe["layouts"])
    kept: Kept = ()
    if "blocks" in recipe:
        chosen = [unrun(runs, x.count) for runs, x in zip(recipe["blocks"], layouts, strict=True)]
        kept = [frozenset(k for k, number in enumerate(column) if number < 0) for column in chosen]
    rest = memoryview(surround)[: len(surround) - int(recipe.get("differences", 0))]
    used = position = 0
    for offset, length, i, k in _spans(layouts, kept).tolist():
        gap = offset - position
        if gap < 0 or used + gap > len(rest):
            raise RebuildMismatch("the surrounding bytes are too short for the recipe")
        if gap:
            yield position, bytes(rest[used : used + gap])
        if length:
            yield offset, b"\x80"
        used += gap + layouts[i].pad_length(k)
        position = offset + length
    yield position, bytes(rest[used:])


def to_rasters(layouts: Sequence[Layout], images: Sequence[Image]) -> list[Image]:
    """Images dealt out to the layouts. Raises RebuildMismatch when their number, shape or type is another."""
    if len(images) != sum(layout.images for layout in layouts):
        raise RebuildMismatch(f"the recipe needs {sum(x.images for x in layouts)} images, got {len(images)}")
    rasters: list[Image] = []
    used = 0
    for layout in layouts:
        rasters.append(layout.from_images(images[used : used + layout.images]))
        used += layout.images
    return rasters


def parse_spliced(kind: str, data: memoryview, layouts: Sequence[Layout], limits: Limits) -> Parsed:
    """A ``Parsed`` for a file whose samples are all uncompressed.

    Raises SourceError subclasses on lying layouts.
    """
    limits.check_images(sum(layout.images for layout in layouts))
    limits.check_blocks(sum(layout.count for layout in layouts))
    limits.check_decoded(sum(layout.decoded_bytes for layout in layouts), len(data))
    check_spans(layouts, len(data))
    layouts = [layout.merged() for layout in layouts]
    images = [image for layout in layouts for image in layout.to_images(layout.take(data))]
    recipe: dict[str, Any] = {"layouts": layouts_to_json(layouts)}
    return Parsed(kind, "bytes", tuple(images), cut(data, layouts), recipe)


def rebuild_spliced(
    recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO
) -> None:
    """The inverse of ``parse_spliced``."""
    layouts = layouts_from_json(recipe["layouts"])
    if any(layout.lengths for layout in layouts):
        raise RebuildMismatch("the recipe names compressed blocks and not how they are compressed")
    paste(layouts, surround, to_rasters(layouts, images), out)
