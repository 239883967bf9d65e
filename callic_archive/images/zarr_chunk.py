"""One chunk or shard of a zarr array, as a file: its form comes from the metadata document beside it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Context, Limits, Parsed
from callic_archive.images.zarr_blocks import Group, Span, column, mosaic, parse_again, parse_groups, rebuild
from callic_archive.images.zarr_metadata import ArrayForm, ChunkForm, array_form

__all__ = ["chunk_group", "parse", "parse_again", "rebuild"]
_ENTRY = 16  # bytes of an inner chunk in a shard's index: offset and length
_MISSING = (1 << 64) - 1
Spans = NDArray[np.int64]


def parse(data: memoryview, context: Context, limits: Limits) -> Parsed:
    """See ``source.parse``. Raises NotTaken and SourceError subclasses."""
    group = outline(data, context, limits)
    if group is None:
        raise NotTaken("axes")
    return parse_groups(data, [group], limits)


def outline(data: memoryview, context: Context, limits: Limits) -> Group | None:
    """The chunks of the file, none decoded; None for a single row. Raises NotTaken and SourceError subclasses."""
    array = array_form(context.name, context.document)
    if not array.is_key(context.key):
        raise NotTaken("no-pixels")
    return chunk_group(data, array, (0, len(data)), limits)


def chunk_group(data: memoryview, array: ArrayForm, span: Span, limits: Limits) -> Group | None:
    """The group of the chunk or shard that lies at ``span`` of ``data``; None for a single row."""
    form = array.chunk
    if not span[1]:
        raise TruncatedSource("the chunk has no bytes")
    if form.shard is not None:
        return _shard(data, form, span, limits)
    if form.bytes > limits.max_decoded_bytes:
        limits.check_decoded(form.bytes, span[1])
    return column(form, [span])


def _shard(data: memoryview, form: ChunkForm, span: Span, limits: Limits) -> Group | None:
    leaf, parts = _leaf(form)
    limits.check_blocks(math.prod(a // b for a, b in zip(form.shape, parts, strict=True)))
    spans = [(int(a), int(b)) for a, b in _leaves(data, form, span, limits).reshape(-1, 2).tolist()]
    there = [span for span in spans if span[1]]
    if 2 * len(there) < len(spans):  # of a mostly empty shard only what is there takes memory
        return column(leaf, there)
    return mosaic(form, leaf, spans)


def _leaf(form: ChunkForm) -> tuple[ChunkForm, tuple[int, ...]]:
    """The innermost chunks of a shard, and their shape with the shard's axes."""
    parts = form.shape
    while (shard := form.shard) is not None:
        form, parts = shard.inner, shard.parts
    return form, parts


def _leaves(data: memoryview, form: ChunkForm, span: Span, limits: Limits) -> Spans:
    """(start, length) of the innermost chunks of a shard, in an array of the shape of their grid, and 2."""
    shard = form.shard
    assert shard is not None
    grid = [a // b for a, b in zip(form.shape, shard.parts, strict=True)]
    spans = np.array(_index(data, form, math.prod(grid), span, limits), np.int64).reshape(*grid, 2)
    if shard.inner.shard is None:
        return spans
    each = [a // b for a, b in zip(shard.parts, _leaf(form)[1], strict=True)]
    leaves = np.zeros((*(a * b for a, b in zip(grid, each, strict=True)), 2), np.int64)
    for place in np.ndindex(*grid):
        start, length = (int(n) for n in spans[place])
        if length:
            box = tuple(slice(p * n, (p + 1) * n) for p, n in zip(place, each, strict=True))
            leaves[box] = _leaves(data, shard.inner, (start, length), limits)
    return leaves


def _index(data: memoryview, form: ChunkForm, count: int, span: Span, limits: Limits) -> list[Span]:
    """(start, length) of the ``count`` parts of the shard at ``span``; length 0 of those that are missing."""
    shard = form.shard
    assert shard is not None
    start, length = span
    limits.check_blocks(count)
    size = _ENTRY * count + shard.tail
    if size > length:
        raise TruncatedSource(f"a shard of {length} bytes is too short for the index of {count} chunks")
    at = start + length - size if shard.at_end else start
    entries = np.frombuffer(data, f"{shard.byte_order}u8", 2 * count, at).reshape(count, 2)
    spans: list[Span] = []
    for offset, size_ in entries.tolist():
        if offset == _MISSING and size_ == _MISSING:
            spans.append((0, 0))
        elif offset > length or size_ > length - offset or not size_:
            raise MalformedSource(f"the index of a shard points beyond its {length} bytes")
        else:
            spans.append((start + offset, size_))
    return spans
