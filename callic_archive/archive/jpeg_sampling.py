"""What a file with JPEG streams in it would take, guessed from a few windows of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import zstandard

from callic_archive.archive import isolated
from callic_archive.archive.dct import jpeg_stream
from callic_archive.archive.jpeg_parts import encode
from callic_archive.errors import ForeignCodecFailed, ForeignCodecMissing
from callic_archive.images.jpeg_streams import Stream, Tables, find

WHOLE = 3 << 20  # bytes of a file that is looked at as a whole
WINDOW = 1 << 20  # bytes of a window
WINDOWS = 3  # spread evenly over a larger file
Read = Callable[[int, int], bytes | memoryview]  # (offset, length): bytes of the file


def stored_share(read: Read, size: int, tables: Tables, level: int) -> tuple[float, float] | None:
    """Bytes stored, and seconds that takes, for each byte of a file of ``size`` bytes.

    None where no stream was met that recoding makes smaller. Windows count alike, so tiles are foreseen as far as they are
    alike all over the file.
    """
    windows = [(0, size)]
    if size > WHOLE:
        windows = [((size - WINDOW) * n // (WINDOWS - 1), WINDOW) for n in range(WINDOWS)]
    shares: list[float] = []
    met, seconds, seen = False, 0.0, 0
    for offset, length in windows:
        view = memoryview(read(offset, length)).cast("B")
        found = find(view)
        if found.streams and length < size:
            begin, end = _reach(found.streams)  # a window cuts through streams, which the file does not
            view, offset = view[begin:end], offset + begin
        if found.streams:
            _start_codec()
        begun = time.monotonic()
        packed = encode(view, tables.at(offset)) if found.streams else None
        plain = min(len(view), len(zstandard.ZstdCompressor(level=level).compress(view)))
        met = met or (packed is not None and len(packed) < plain)
        least = plain if packed is None else min(plain, len(packed))
        shares.append(least / max(1, len(view)))
        seconds, seen = seconds + time.monotonic() - begun, seen + len(view)
    return (sum(shares) / len(shares), seconds / seen) if met else None


def _start_codec() -> None:
    """Load and start what codes, which takes its time once and not for each byte."""
    jpeg_stream.start()
    with suppress(ForeignCodecMissing, ForeignCodecFailed):
        isolated.ask("versions", b"", memory=0)


def _reach(streams: list[Stream]) -> tuple[int, int]:
    """From the first byte of the first stream to the end of the last."""
    return streams[0].spans[0][0], sum(streams[-1].spans[-1])
