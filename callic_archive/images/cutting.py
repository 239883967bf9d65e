"""Cut a large file into pieces that are packed, proven and read one by one, in whatever memory one of them takes.

A piece holds rectangles of samples, whole blocks where these are tiles or packed, of about ``PIECE`` bytes, and names
the places of the file where its bytes lie; so blocks may lie there in any order. Small images share a piece. What lies
between blocks goes with the block behind it, larger gaps (headers, directories, other pages) are pieces without images. A
slide of JPEG tiles is nothing but such pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from callic_archive.errors import MalformedSource, SourceError
from callic_archive.images.layout import Layout, runs_of
from callic_archive.images.outline import Outline, Raster, form_of
from callic_archive.images.splice import check_spans, in_order

PIECE = 32 << 20  # bytes of samples of a piece, about
CUT_FROM = 4 * PIECE  # bytes of samples of a file from which it is cut
REST = 64 << 20  # bytes of a piece without images
SIDE = 512  # pixels; pieces are multiples of it where they can be, so that the codec's tiles are large
_LEAD = 64 << 10  # bytes before a block that go with it
_LARGEST = 8  # times PIECE: larger blocks cannot be decoded in bounded memory
_MANY_GAPS = 256  # gaps from which several share a piece

Rect = tuple[int, int, int, int]  # first row, end row, first column, end column of a stored raster
Spans = list[tuple[int, int]]  # (offset, length) in the file
# How many of the bytes (offset, length) of a file make a piece, where more follow; at least one.
Ends = Callable[[int, int], int]


@dataclass(frozen=True)
class Placed:
    """An image of a piece: part of image ``number`` of the file, its first pixel at (top, left) there."""

    number: int
    top: int
    left: int


@dataclass(frozen=True)
class Piece:
    """One piece: where its bytes lie, in order, and what is in them."""

    offsets: tuple[tuple[int, int, int], ...]  # as arithmetic runs (first, step, count), as are
    lengths: tuple[tuple[int, int, int], ...]
    size: int  # bytes of it
    form: dict[str, Any] = field(default_factory=dict)
    images: tuple[Placed, ...] = ()

    @property
    def first(self) -> int:
        """Offset of its first byte."""
        return self.offsets[0][0]


def is_large(found: Outline, piece: int = PIECE) -> bool:
    """Whether a file is cut at all; one without rasters is measured by its own bytes."""
    return (found.decoded_bytes if found.rasters else found.size) >= piece * (CUT_FROM // PIECE)


def cut(found: Outline, piece: int = PIECE, ends: Ends | None = None) -> list[Piece] | None:
    """The pieces of a file, in order of their first bytes; together they are the whole of it.

    ``ends`` tells where pieces without images may end. None where there are no pieces: a block is too large, or blocks
    overlap or lie beyond the file.
    """
    layouts = [raster.layout for raster in found.rasters]
    try:
        check_spans(layouts, found.size, [raster.missing for raster in found.rasters])
        leads = _leads(found.rasters)
        pieces: list[Piece] = []
        pending: list[_Patch] = []
        taken = first = 0
        for i, raster in enumerate(found.rasters):
            for rect in _rects(raster.layout, piece):
                patch = _patch(raster, rect, first, leads[i])
                if not patch.spans:
                    continue
                weight = patch.raster.layout.decoded_bytes
                if pending and taken + weight > piece:
                    pieces.append(_piece(pending))
                    pending, taken = [], 0
                pending.append(patch)
                taken += weight
            first += raster.layout.images
        if pending:
            pieces.append(_piece(pending))
        pieces += _rest(pieces, found.size, REST if found.rasters else min(piece, REST), ends)
    except SourceError:
        return None
    return sorted(pieces, key=lambda p: p.first)


def spans_of(piece: Piece) -> Spans:
    """(offset, length) of the bytes of a piece, in order."""
    return list(zip(_unrun(piece.offsets), _unrun(piece.lengths), strict=True))


def _unrun(runs: Sequence[Sequence[int]]) -> list[int]:
    return [first + step * n for first, step, count in runs for n in range(count)]


# -- rectangles ----------------------------------------------------------------------------------------------


def _free(layout: Layout) -> bool:
    """Whether a layout can be cut at any row: it is one block a plane, nothing packed, no rows below the image."""
    return layout.across == 1 and layout.down == 1 and not layout.lengths and not layout.whole and layout.depth == 1


def _extent(want: int, unit: int, whole: int) -> int:
    """About ``want`` of ``whole``, a multiple of ``unit``, if possible of SIDE, in parts of about equal size."""
    step = math.lcm(unit, SIDE)
    step = step if step <= want else unit
    most = max(step, want // step * step)
    if most >= whole:
        return whole
    parts = -(-whole // most)
    return min(most, -(-whole // parts // step) * step)


def _rects(layout: Layout, piece: int) -> Iterator[Rect]:
    """Rectangles of at most about ``piece`` bytes that cover a layout. Raises MalformedSource if none can."""
    height, width, pixel = layout.height, layout.width, layout.samples * layout.itemsize
    if layout.decoded_bytes <= piece:
        yield 0, height, 0, width
        return
    free = _free(layout)
    unpadded = not layout.bits and layout.pitch == width * layout.spp * layout.itemsize
    down = 1 if free else layout.block_rows if layout.depth == 1 else layout.depth * layout.slice.height
    across = 1 if free and unpadded else layout.block_columns if layout.across > 1 else width
    if min(down, height) * min(across, width) * pixel > _LARGEST * piece:
        raise MalformedSource("its blocks are too large to be pieces")
    rows = _extent(piece // (width * pixel), down, height)
    narrow = rows < min(SIDE, height) and across < width and layout.depth == 1
    if narrow:
        rows = _extent(min(SIDE, height), down, height)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        most = max(1, piece // ((bottom - top) * pixel))  # the last rows are fewer, and so longer
        columns = _extent(most, across, width) if narrow else width
        for left in range(0, width, columns):
            yield top, bottom, left, min(width, left + columns)


@dataclass(frozen=True)
class _Patch:
    """A rectangle of a raster: as a raster of its own, with offsets from its first byte, and where that lies."""

    raster: Raster
    spans: Spans
    images: tuple[Placed, ...]


def _patch(raster: Raster, rect: Rect, first: int, leads: dict[int, int]) -> _Patch:
    layout = raster.layout
    y0, y1, x0, x1 = rect
    top, left = (layout.height - y1 if layout.flip else y0), x0
    if layout.transpose:
        top, left = left, top
    images = tuple(Placed(first + n, top, left) for n in range(layout.images))
    if _free(layout) and (y1 - y0, x1 - x0) != (layout.height, layout.width):
        return _free_patch(layout, rect, images)
    return _block_patch(raster, rect, images, leads)


def _free_patch(layout: Layout, rect: Rect, images: tuple[Placed, ...]) -> _Patch:
    """Rows of one block, or parts of rows."""
    y0, y1, x0, x1 = rect
    pixel, rows = layout.spp * layout.itemsize, y1 - y0
    narrow = x1 - x0 < layout.width
    pitch = (x1 - x0) * pixel if narrow else layout.pitch
    spans: Spans = []
    planes = sorted(range(len(layout.offsets)), key=lambda p: layout.offsets[p])
    offsets = [0] * len(planes)
    for place, plane in enumerate(planes):
        start = layout.offsets[plane] + y0 * layout.pitch
        offsets[plane] = place * rows * pitch
        if narrow:
            spans += [(start + y * layout.pitch + x0 * pixel, pitch) for y in range(rows)]
        else:
            spans.append((start, rows * pitch))
    columns = x1 - x0 if narrow else layout.block_columns
    part = replace(
        layout, height=rows, width=x1 - x0, block_rows=rows, block_columns=columns, pitch=pitch,
        offsets=tuple(offsets), frames=1,
    )  # fmt: skip
    return _Patch(Raster(part), spans, images)


def _block_patch(raster: Raster, rect: Rect, images: tuple[Placed, ...], leads: dict[int, int]) -> _Patch:
    """Whole blocks."""
    layout = raster.layout
    y0, y1, x0, x1 = rect
    frames = layout.frames if y1 - y0 == layout.height else 1
    if layout.depth > 1:
        frames = (y1 - y0) // layout.slice.height
    part = replace(layout, height=y1 - y0, width=x1 - x0, frames=frames)
    top, left = y0 // layout.block_rows, x0 // layout.block_columns
    if layout.depth > 1:
        top = y0 // layout.slice.height // layout.depth * layout.slice.down
    planes = layout.samples if layout.planar else 1
    blocks = [
        (plane * layout.down + top + y) * layout.across + left + x
        for plane in range(planes)
        for y in range(part.down)
        for x in range(part.across)
    ]
    gone = frozenset(n for n, k in enumerate(blocks) if k in raster.missing)
    offsets, lengths, spans, position = [0] * len(blocks), [0] * len(blocks), Spans(), 0
    for n in sorted(
        (n for n in range(len(blocks)) if n not in gone), key=lambda n: layout.offsets[blocks[n]]
    ):
        k = blocks[n]
        lead, length = leads.get(k, 0), layout.stored_length(k)
        offsets[n], lengths[n] = position + lead, length
        spans.append((layout.offsets[k] - lead, lead + length))
        position += lead + length
    part = replace(part, offsets=tuple(offsets), lengths=tuple(lengths) if layout.lengths else ())
    group = None if raster.group is None else replace(raster.group, layout=part, missing=gone)
    return _Patch(Raster(part, raster.packing, group), spans, images)


def _leads(rasters: Sequence[Raster]) -> list[dict[int, int]]:
    """For each raster: bytes before a block that belong to nothing else, and go with it."""
    leads: list[dict[int, int]] = [{} for _ in rasters]
    end = 0
    for offset, length, i, k in in_order([raster.layout for raster in rasters]):
        if k in rasters[i].missing:
            continue
        if 0 < offset - end <= _LEAD and not _free(rasters[i].layout):
            leads[i][k] = offset - end
        end = offset + length
    return leads


# -- pieces --------------------------------------------------------------------------------------------------


def _piece(patches: Sequence[_Patch]) -> Piece:
    position, rasters, spans = 0, [], Spans()
    for patch in patches:
        layout, missing = patch.raster.layout, patch.raster.missing
        moved = tuple(0 if k in missing else o + position for k, o in enumerate(layout.offsets))
        layout = replace(layout, offsets=moved)
        group = None if patch.raster.group is None else replace(patch.raster.group, layout=layout)
        rasters.append(Raster(layout, patch.raster.packing, group))
        spans += patch.spans
        position += sum(length for _, length in patch.spans)
    images = tuple(image for patch in patches for image in patch.images)
    return _made(spans, form_of(rasters), images)


def _made(spans: Spans, form: dict[str, Any], images: tuple[Placed, ...]) -> Piece:
    joined: Spans = []
    for offset, length in spans:
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((offset, length))
    offsets, lengths = (
        tuple((a, b, c) for a, b, c in runs_of(column)) for column in zip(*joined, strict=True)
    )
    return Piece(offsets, lengths, sum(length for _, length in joined), form, images)


def _rest(pieces: Sequence[Piece], size: int, most: int, until: Ends | None) -> list[Piece]:
    """Everything that is in no piece yet, ``most`` bytes a piece. Raises MalformedSource where two pieces hold the same
    bytes.
    """
    spans = [span for piece in pieces for span in spans_of(piece)]
    table = np.array(sorted([*spans, (size, 0)]), np.int64).reshape(-1, 2)
    ends = np.concatenate([np.zeros(1, np.int64), table[:-1].sum(axis=1)])
    gaps = table[:, 0] - ends
    if (gaps < 0).any():
        raise MalformedSource("two pieces of the file overlap")
    found: Spans = []
    for at in np.flatnonzero(gaps).tolist():
        start, length = int(ends[at]), int(gaps[at])
        while length:
            taken = min(most, length)
            if until is not None and taken < length:
                taken = until(start, taken)
            found.append((start, taken))
            start, length = start + taken, length - taken
    if len(found) <= _MANY_GAPS:
        return [_made([span], {}, ()) for span in found]
    rest: list[Piece] = []
    some: Spans = []
    for span in found:
        if some and sum(length for _, length in some) + span[1] > most:
            rest.append(_made(some, {}, ()))
            some = []
        some.append(span)
    return [*rest, _made(some, {}, ())]
