"""One chunk or shard of a zarr array, as a file: its form comes from the metadata document beside it."""

from __future__ import annotations

import math

import numpy as np

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.source import Context, Limits, Parsed
from callic_archive.images.zarr_blocks import Group, Span, column, mosaic, parse_again, parse_groups, rebuild
from callic_archive.images.zarr_metadata import ArrayForm, ChunkForm, array_form

__all__ = ["chunk_group", "parse", "parse_again", "rebuild"]
_ENTRY = 16  # bytes of an inner chunk in a shard's index: offset and length
_MISSING = (1 << 64) - 1


def parse(data: memoryview, context: Context, limits: Limits) -> Parsed | None:
    """See ``source.parse``. Raises SourceError subclasses."""
    array = array_form(context.name, context.document)
    if array is None or not array.is_key(context.key):
        return None
    group = chunk_group(data, array, (0, len(data)), limits)
    return parse_groups(data, [group], limits) if group is not None else None


def chunk_group(data: memoryview, array: ArrayForm, span: Span, limits: Limits) -> Group | None:
    """The group of the chunk or shard that lies at ``span`` of ``data``; None for what no model takes."""
    form = array.chunk
    if not span[1]:
        raise TruncatedSource("the chunk has no bytes")
    if form.shard is not None:
        return _shard(data, form, span, limits)
    if form.bytes > limits.max_decoded_bytes:
        limits.check_decoded(form.bytes, span[1])
    return column(form, [span])


def _shard(data: memoryview, form: ChunkForm, span: Span, limits: Limits) -> Group | None:
    shard = form.shard
    assert shard is not None
    start, length = span
    count = math.prod(a // b for a, b in zip(form.shape, shard.inner.shape, strict=True))
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
    there = [span for span in spans if span[1]]
    if 2 * len(there) < count:  # of a mostly empty shard only what is there takes memory
        return column(shard.inner, there)
    return mosaic(form, shard.inner, spans)
