"""Encapsulated Pixel Data of DICOM (PS3.5, annex A.4): items, and which of them hold the code of which frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.source import Limits

Span = tuple[int, int]  # offset and length in the file
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


def items(data: memoryview, start: int, limits: Limits) -> list[Span]:
    """The values of all items from byte ``start`` on, the basic offset table first.

    Raises TruncatedSource, MalformedSource and SourceTooLarge.
    """
    found: list[Span] = []
    at = start
    while True:
        if at + 8 > len(data):
            raise TruncatedSource("the DICOM file ends inside its encapsulated pixels")
        tag, length = bytes(data[at : at + 4]), int.from_bytes(data[at + 4 : at + 8], "little")
        if tag == _END:
            return found
        if tag != _ITEM:
            raise MalformedSource(f"at byte {at} of the encapsulated DICOM pixels there is no item")
        if at + 8 + length > len(data):
            raise TruncatedSource(f"a DICOM item promises {length} bytes, the file ends before them")
        found.append((at + 8, length))
        limits.check_blocks(len(found))
        at += 8 + length


def frames(
    data: memoryview, found: Sequence[Span], count: int, extended: bytes, first: bytes = b""
) -> list[list[Span]] | None:
    """The fragments of each of ``count`` frames, or None where nothing tells how they are shared out.

    ``extended`` is the value of the Extended Offset Table, empty where there is none. Without either table frames
    may be told by the bytes with which their codes begin, ``first``.
    """
    (table, size), fragments = found[0], list(found[1:])
    if count == 1:
        return [fragments] if fragments else None
    if len(fragments) == count:
        return [[fragment] for fragment in fragments]
    if extended:
        offsets = np.frombuffer(extended[: len(extended) // 8 * 8], "<u8").tolist()
    else:
        offsets = np.frombuffer(data[table : table + size // 4 * 4], "<u4").tolist()
    if not fragments:
        return None
    if len(offsets) == count:
        begin = fragments[0][0]
        places = {start - begin: k for k, (start, _) in enumerate(fragments)}
        begins = [places.get(offset, -1) for offset in offsets]
    else:
        begins = [
            k for k, (start, _) in enumerate(fragments) if first and data[start : start + len(first)] == first
        ]
    if len(begins) != count:
        return None
    if begins[0] != 0 or any(a >= b for a, b in pairwise(begins)):
        return None
    return [fragments[a:b] for a, b in zip(begins, [*begins[1:], len(fragments)], strict=True)]


def part(fragments: Sequence[Span], begin: int, end: int) -> list[Span]:
    """Where the bytes ``begin`` to ``end`` of the joined ``fragments`` lie in the file."""
    spans: list[Span] = []
    at = 0
    for offset, length in fragments:
        low, high = max(begin, at), min(end, at + length)
        if low < high:
            spans.append((offset + low - at, high - low))
        at += length
    return spans
