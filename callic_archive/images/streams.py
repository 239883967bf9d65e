"""Deflate streams inside files: inflated within bounds, and made again from a few named parameters.

The one place where wrappers (gzip, ZIP, NRRD, deflated DICOM) ask how a raw deflate stream (RFC 1951) came about:
``find`` gives JSON, with differences where zlib has no parameters for the stream, and ``DeflateSink`` follows both.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, RebuildMismatch, SourceTooLarge, TruncatedSource
from callic_archive.images.deflate import describe, recreate
from callic_archive.images.deflate.parameters import Deflate, Stored
from callic_archive.images.layout import unrun
from callic_archive.images.source import WHOLE, Limits

Named = Mapping[str, Any]  # how a stream is made: zlib's parameters, lengths of stored blocks, or differences

_STEP, _FIRST_STEP = 1 << 20, 1 << 14  # what is left of a step is copied, and many streams are short
#: First two bytes that a zlib stream of this level would have: they put the search on the likely levels first.
FAST, DEFAULT, BEST = b"\x78\x01", b"\x78\x9c", b"\x78\xda"


def inflate_head(stream: memoryview, size: int) -> bytes:
    """Up to ``size`` first bytes that the raw deflate stream holds; fewer, or none, where it is broken."""
    try:
        return zlib.decompressobj(-15).decompress(stream[: 64 * size], size)
    except zlib.error:
        return b""


def inflate(stream: memoryview, limits: Limits, spent: int = 0) -> tuple[memoryview, int]:
    """All that the raw deflate stream holds, and the bytes of ``stream`` up to its end.

    ``spent`` bytes count against the limit already. Raises MalformedSource, TruncatedSource and SourceTooLarge, the
    latter before more than the limit lies in memory.
    """
    engine, out = zlib.decompressobj(-15), bytearray()
    most = min(limits.max_member_bytes, limits.max_decoded_bytes) - spent
    todo: memoryview | bytes
    at, step = 0, _FIRST_STEP
    try:
        while not engine.eof and at < len(stream):
            todo = stream[at : at + step]
            at, step = at + len(todo), min(2 * step, _STEP)
            while not engine.eof:
                part = engine.decompress(todo, _STEP)
                out += part
                if len(out) > most:
                    raise SourceTooLarge(
                        f"the file holds more than {most} bytes when it is unpacked, the limit; {WHOLE}"
                    )
                todo = engine.unconsumed_tail
                if not todo and len(part) < _STEP:
                    break
    except zlib.error as error:
        raise MalformedSource("a deflate stream is broken: what it holds cannot be unpacked") from error
    if not engine.eof:
        raise TruncatedSource("a deflate stream ends too early")
    return memoryview(out).toreadonly(), at - len(engine.unused_data)


def find(
    raw: memoryview, stream: memoryview, likely: bytes = DEFAULT
) -> tuple[dict[str, Any], bytes] | None:
    """How to make the raw deflate ``stream`` of ``raw`` again: JSON and differences, or None where that costs too much.

    ``likely`` is one of FAST, DEFAULT and BEST. What is found was tried on the whole stream.
    """
    return describe(stream, raw, int.from_bytes(likely, "big"))


class DeflateSink:
    """Something to write to, whose bytes reach ``out`` deflated. Raises RebuildMismatch on impossible parameters."""

    def __init__(self, named: Named, side: bytes | memoryview, out: BinaryIO) -> None:
        """``named`` and ``side`` are what ``find`` gave."""
        self._named, self._side, self._out = named, side, out
        self._whole = bytearray() if "differences" in named else None  # what follows a model needs all of it
        if self._whole is not None:
            return
        deflate = Stored(unrun(named["stored"])) if "stored" in named else Deflate(**named)
        if isinstance(deflate, Stored) and not all(0 <= size < 1 << 16 for size in deflate.lengths):
            raise RebuildMismatch("the recipe stores blocks of impossible lengths")
        self._left = sum(deflate.lengths) if isinstance(deflate, Stored) else None
        self._engine = deflate.engine()

    def write(self, data: Any) -> int:
        """Deflate more bytes."""
        count = memoryview(data).nbytes
        if self._whole is not None:
            self._whole += data
            return count
        if self._left is not None:
            self._left -= count
        self._out.write(self._engine.compress(data))
        return count

    def finish(self) -> None:
        """End the stream."""
        if self._whole is not None:
            self._out.write(recreate(self._named, self._side, bytes(self._whole)))
            return
        if self._left:
            raise RebuildMismatch("the recipe stores more or fewer bytes than there are")
        self._out.write(self._engine.flush())
