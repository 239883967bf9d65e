"""Bytes in which JPEG streams lie, coded as recoded streams and the bytes around them: the coding ``jpegs``."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import zstandard

from callic_archive.archive.jpeg_form import (
    TABLE,
    Table,
    assembled,
    checksum,
    frame,
    left_runs,
    proven_frame,
    read_table,
)
from callic_archive.archive.jpeg_joining import Joining
from callic_archive.archive.jpeg_recoding import stream_of
from callic_archive.errors import ContainerError, ForeignCodecFailed
from callic_archive.images.jpeg_streams import Found, Tables, find

_MOST_TABLES = 64  # streams of tables of one part that are remembered
_AROUND = 1 << 18  # bytes of a JPEG stream beside the coded data that it brings


def encode(
    data: bytes | bytearray | memoryview, tables: Tables | None = None, found: Found | None = None
) -> bytes | None:
    """``data`` with the JPEG streams in it recoded; None where there are none that this makes smaller.

    ``found`` are those streams where they are known already. What is given was taken apart again and compared.
    """
    view = memoryview(data).cast("B")
    found = found or find(view)
    if not found.streams:
        return None
    tables = tables or Tables()
    more = [table for table in found.tables[:_MOST_TABLES] if table not in tables.streams]
    work = Joining(view, replace(tables, streams=(*tables.streams, *more)))
    work.run(found.streams)
    return work.finish() if work.groups else None


def decode(payload: bytes, size: int) -> bytes:
    """The ``size`` bytes that ``encode`` took. Raises ValueError, ForeignCodecMissing, ForeignCodecFailed."""
    try:
        head, at = frame(payload, 0, TABLE)
        rest, at = frame(payload, at, size)
        table = read_table(head, len(payload) - at)
    except (ContainerError, zstandard.ZstdError) as error:
        raise ValueError(f"a part with JPEG streams is damaged: {error}") from error
    if len(rest) + sum(table.lengths) != size or sum(table.gaps) > len(rest):
        raise ValueError(f"a part with JPEG streams does not hold {size} bytes")
    files = _files(payload, table)
    _check_sizes(table, size)
    return assembled(table, rest, size, lambda number: stream_of(files[number], table.groups[number].size))


def _files(payload: bytes, table: Table) -> list[bytes]:
    """The recoded streams, which are the end of a payload."""
    at = len(payload) - sum(group.packed for group in table.groups)
    starts = accumulate((group.packed for group in table.groups), initial=at)
    return [payload[start : start + group.packed] for start, group in zip(starts, table.groups, strict=False)]


def _check_sizes(table: Table, size: int) -> None:
    for group in table.groups:
        if group.size > size + _AROUND or (not group.count and group.take > group.size):
            raise ValueError("a part with JPEG streams promises larger ones than it can hold")


# -- damaged parts -------------------------------------------------------------------------------------------


def size_of(payload: bytes, most: int) -> int | None:
    """How many bytes, up to ``most``, a payload holds of which nothing is known; None where it is none of this coding."""
    try:
        head, at = proven_frame(payload, 0, TABLE)
        rest, at = proven_frame(payload, at, most)
        size = len(rest) + sum(read_table(head, len(payload) - at).lengths)
    except (ContainerError, ValueError, zstandard.ZstdError):
        return None
    return size if size <= most else None


def left_of(payload: bytes, size: int) -> list[tuple[int, bytes]]:
    """What can be proven of the ``size`` bytes of a damaged payload: runs (offset, bytes), ascending and apart.

    A checksum vouches for each: those of the table, of the rest, and of each recoded stream. Nothing is left without the
    table. Raises ForeignCodecMissing.
    """
    try:
        head, at = proven_frame(payload, 0, TABLE)
        table = read_table(head, None)
        _check_sizes(table, size)
    except (ContainerError, ValueError, zstandard.ZstdError):
        return []
    begin = len(payload) - sum(group.packed for group in table.groups)
    length = size - sum(table.lengths)  # of the rest
    if begin < at or length < sum(table.gaps):
        return []
    rest: bytes | None
    try:
        rest, end = proven_frame(payload, at, length)
        rest = rest if len(rest) == length and end == begin else None
    except (ContainerError, ValueError, zstandard.ZstdError):
        rest = None
    return left_runs(table, rest, _left_streams(payload, table, size))


def _left_streams(payload: bytes, table: Table, size: int) -> dict[int, bytes]:
    """Streams, by their numbers, of the files that are whole."""
    found: dict[int, bytes] = {}
    first = held = 0
    for packed, group in zip(_files(payload, table), table.groups, strict=True):
        if checksum(packed) == group.check:
            try:
                parts = group.parts(stream_of(packed, group.size))
            except (ForeignCodecFailed, ValueError):
                parts = []
            held += sum(map(len, parts))
            if held > size:
                break
            found |= dict(enumerate(parts, first))
        first += group.streams
    return found
