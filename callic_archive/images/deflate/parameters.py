"""Find the zlib parameters with which a stream was deflated, so that only their names need be kept.

All candidates run side by side over the same raw bytes; one that differs from the stream in a single byte is dropped at
once, so a miss costs little more than the first few ten thousand bytes. What wraps the stream is no matter here: libpng
rewrites the two bytes before it after the fact, and a gzip header says less than they do.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEP = 1 << 16  # raw bytes fed to a compressor at a time
_FIRST = ((6, 8, 1), (6, 9, 1), (6, 8, 0), (9, 9, 0), (9, 8, 1), (9, 9, 1), (9, 8, 0), (6, 9, 0))


@dataclass(frozen=True)
class Deflate:
    """zlib's parameters: window bits 9..15, level 0..9, memory level 1..9, strategy 0..4 (default, ...)."""

    window: int
    level: int
    memory: int
    strategy: int

    def engine(self) -> Any:
        """A raw deflate compressor with these parameters."""
        return zlib.compressobj(self.level, zlib.DEFLATED, -self.window, self.memory, self.strategy)


@dataclass(frozen=True)
class Stored:
    """A stream without compression: the lengths of its blocks, which depend on how zlib was fed."""

    lengths: tuple[int, ...]

    def engine(self) -> Any:
        """Something with ``compress`` and ``flush`` that writes these blocks."""
        return _Storer(self.lengths)


class _Storer:
    def __init__(self, lengths: tuple[int, ...]) -> None:
        self._lengths, self._next, self._waiting = lengths, 0, bytearray()

    def _blocks(self, everything: bool) -> bytes:
        out = []
        while self._next < len(self._lengths) and (
            everything or len(self._waiting) > self._lengths[self._next]
        ):
            size = self._lengths[self._next]
            self._next += 1
            final = self._next == len(self._lengths)
            out.append(struct.pack("<BHH", final, size, size ^ 0xFFFF) + self._waiting[:size])
            del self._waiting[:size]
        return b"".join(out)

    def compress(self, data: Any) -> bytes:
        self._waiting += data
        return self._blocks(everything=False)

    def flush(self) -> bytes:
        return self._blocks(everything=True)


def stored_blocks(body: memoryview) -> Stored | None:
    """The blocks of a raw deflate stream (RFC 1951, 3.2.4) that stores all of its data, or None."""
    lengths, at = [], 0
    while at + 5 <= len(body):
        head, size, check = struct.unpack_from("<BHH", body, at)
        if head > 1 or size ^ check != 0xFFFF:
            return None
        lengths.append(size)
        at += 5 + size
        if head == 1:
            return Stored(tuple(lengths)) if at == len(body) else None
    return None


FALLBACK = Deflate(15, 6, 8, 1)  # what content fidelity uses: libpng's own default for filtered rows


def candidates(header: int | None) -> list[list[Deflate]]:
    """Parameters in order of likelihood, in two rounds: as the two bytes of a zlib header tell, then all others.

    Without a header (gzip has none) all are one round, with the largest window.
    """
    window = 15 if header is None else max(9, (header >> 12) + 8)
    told = (
        -1 if header is None else (header >> 6) & 3
    )  # 0: levels 0..1, odd strategies, 1: 2..5, 2: 6, 3: 7..9
    everything = [(level, memory, 0) for level in range(1, 10) for memory in (8, 9)]
    everything += [(level, memory, 1) for level in range(4, 10) for memory in (8, 9)]  # else as 0
    everything += [(6, memory, strategy) for strategy in (3, 2) for memory in (8, 9)]  # these know no level
    everything += [(level, memory, 4) for level in (6, 9) for memory in (8, 9)]
    likely = [*_FIRST, *(c for c in everything if c not in _FIRST)]
    if header is None:
        return [[Deflate(window, *c) for c in likely]]

    def claims(level: int, strategy: int) -> int:
        if strategy >= 2 or level < 2:
            return 0
        return 1 if level < 6 else 2 if level == 6 else 3

    windows = [window] if window == 15 else [window, 15]
    first = [Deflate(w, *c) for w in windows for c in likely if claims(c[0], c[2]) == told]
    second = [Deflate(w, *c) for w in windows for c in likely if claims(c[0], c[2]) != told and c[2] < 2]
    return [first, second]


def _survivor(raw: NDArray[np.uint8], body: memoryview, choices: list[Deflate]) -> Deflate | None:
    """The first of ``choices`` that gives all of ``body`` from the raw bytes."""
    running = [(choice, choice.engine(), 0) for choice in choices]
    for start in range(0, len(raw), _STEP):
        chunk = raw[start : start + _STEP].data
        kept = []
        for choice, engine, done in running:
            piece = engine.compress(chunk)
            if body[done : done + len(piece)] == piece:
                kept.append((choice, engine, done + len(piece)))
        running = kept
        if not running:
            return None
        if start >= 4 * _STEP:
            running = running[:4]  # equal for so long: the likeliest few are enough
    for choice, engine, done in running:
        if body[done:] == engine.flush():
            return choice
    return None


def search(raw: NDArray[np.uint8], body: memoryview, header: int | None = None) -> Deflate | Stored | None:
    """The parameters that turn ``raw`` (n,) into the raw deflate stream ``body``, or None.

    ``header``: the two bytes (big-endian) of the zlib header before the stream, if there is one.
    """
    stored = stored_blocks(body)
    if stored is not None:
        engine = stored.engine()
        return stored if engine.compress(raw.data) + engine.flush() == body else None
    for choices in candidates(header):
        found = _survivor(raw, body, choices)
        if found is not None:
            return found
    return None
