"""Many deflate streams one after the other that hold one file together: the members of BGZF files, or of joined gzip files.

What lies between two streams (a trailer and the next header) is kept. Each stream has zlib's parameters, or its
differences, which all streams share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np

from callic_archive.errors import RebuildMismatch
from callic_archive.images.deflate.parameters import Deflate, Stored, search
from callic_archive.images.deflate.recipe import most_side, named, recreate
from callic_archive.images.layout import runs_of, unrun

_SEARCHES = 12  # streams for which all parameters are tried
_MOST_WAYS = 1 << 12
_KNOWN = 4  # ways that are tried first
_LOOK = 8  # streams after which differences that are too dear are given up


@dataclass(frozen=True)
class Piece:
    """Bytes ``start`` to ``end`` of a file, a raw deflate stream, and how many bytes that holds."""

    start: int
    end: int
    size: int


def describe(
    data: memoryview, pieces: Sequence[Piece], raw: memoryview, header: int
) -> tuple[dict[str, Any], bytes] | None:
    """How to make all streams of ``pieces``, which hold ``raw`` together, and what lies between them, again.

    JSON, and bytes to keep beside it; None where that is impossible or costs too much. ``header`` is as in
    ``parameters.search``.
    """
    from callic_archive.images.deflate.differences import Writer

    ways: list[Deflate | Stored] = []
    used: list[int] = []
    writer, searches, total, differing = Writer(), 0, 0, 0
    at = 0
    for piece in pieces:
        body, part = data[piece.start : piece.end], raw[at : at + piece.size]
        at += piece.size
        number = _known(ways, used, part, body)
        if number is None and searches < _SEARCHES and len(ways) < _MOST_WAYS:
            searches += 1
            way = search(np.frombuffer(part, np.uint8), body, header)
            if way is not None:
                ways.append(way)
                number = len(ways) - 1
        if number is None:
            if writer.add(body, part) != len(body):
                return None
            number, total, differing = -1, total + len(body), differing + 1
            if differing >= _LOOK and writer.size > most_side(total):
                return None
        used.append(number)
    side = writer.finish() if total else b""
    if len(side) > most_side(total):
        return None
    gaps = [(a.end, b.start) for a, b in pairwise(pieces)]
    recipe = {
        "pieces": runs_of([piece.size for piece in pieces]), "between": runs_of([b - a for a, b in gaps]),
        "ways": [named(way) for way in ways], "use": runs_of(used),
        **({"differences": len(side)} if side else {}),
    }  # fmt: skip
    return recipe, b"".join([*(data[a:b] for a, b in gaps), side])


def _known(
    ways: Sequence[Deflate | Stored], used: Sequence[int], raw: memoryview, body: memoryview
) -> int | None:
    """The number of the way that makes ``body`` of ``raw``, of the last and a few others; stored blocks have their own."""
    order = [*(used[-1:] if used and used[-1] >= 0 else ()), *range(len(ways))]
    for number in list(dict.fromkeys(order))[:_KNOWN]:
        way = ways[number]
        if isinstance(way, Stored) and sum(way.lengths) != len(raw):
            continue
        engine = way.engine()
        if bytes(engine.compress(raw) + engine.flush()) == body:
            return int(number)
    return None


def side_bytes(recipe: Mapping[str, Any]) -> int:
    """Bytes that are kept beside the recipe of a chain. Raises RebuildMismatch."""
    between = unrun(recipe["between"])
    if min(between, default=0) < 0 or int(recipe.get("differences", 0)) < 0:
        raise RebuildMismatch("the recipe names a negative number of bytes between streams")
    return sum(between) + int(recipe.get("differences", 0))


class ChainSink:
    """Something to write to, whose bytes reach ``out`` as a chain. Raises RebuildMismatch on impossible recipes."""

    def __init__(self, recipe: Mapping[str, Any], side: bytes | memoryview, out: BinaryIO) -> None:
        """``recipe`` and ``side`` are what ``describe`` gave."""
        from callic_archive.images.deflate.differences import Reader

        self._out, self._ways = out, list(recipe["ways"])
        self._sizes = unrun(recipe["pieces"])
        self._between = unrun(recipe["between"], len(self._sizes))
        self._use = unrun(recipe["use"], len(self._sizes))
        if not len(self._sizes) == len(self._use) == len(self._between) + 1:
            raise RebuildMismatch("the recipe names another number of streams than it tells how to make")
        if min(self._sizes) < 0 or not all(-1 <= number < len(self._ways) for number in self._use):
            raise RebuildMismatch("the recipe names streams that cannot be")
        if len(side) != side_bytes(recipe) or ("differences" in recipe) != (-1 in self._use):
            raise RebuildMismatch("what lies between the streams of a recipe has another length than it says")
        self._gaps = memoryview(side)
        self._reader = Reader(self._gaps[sum(self._between) :]) if -1 in self._use else None
        self._part, self._number = bytearray(), 0

    def write(self, data: Any) -> int:
        """Take more bytes; streams that they fill are written."""
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view):
            if self._number >= len(self._sizes):
                raise RebuildMismatch("the recipe makes streams of fewer bytes than there are")
            taken = view[at : at + self._sizes[self._number] - len(self._part)]
            self._part += taken
            at += len(taken)
            self._flush()
        return len(view)

    def _flush(self) -> None:
        if len(self._part) < self._sizes[self._number]:
            return
        number, raw = self._use[self._number], bytes(self._part)
        if number >= 0:
            self._out.write(recreate(self._ways[number], b"", raw))
        elif self._reader is not None:
            self._out.write(self._reader.next(raw))
        if self._number < len(self._between):
            self._out.write(self._gaps[: self._between[self._number]])
            self._gaps = self._gaps[self._between[self._number] :]
        self._number += 1
        self._part.clear()

    def finish(self) -> None:
        """Write the streams that hold nothing and end the chain."""
        while self._number < len(self._sizes):
            if self._sizes[self._number] != len(self._part):
                raise RebuildMismatch("the recipe makes streams of more bytes than there are")
            self._flush()
