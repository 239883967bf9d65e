"""Which encoder made the packed blocks of a TIFF: tried one after the other, else told by differences.

Where one repeats a block exactly only its name is kept. Of other deflate blocks, and of those of libdeflate where that
is cheap, since its releases differ, the differences are kept (see ``deflate``).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from callic_archive.images.deflate.recipe import most_side
from callic_archive.images.layout import Layout
from callic_archive.images.splice import in_order
from callic_archive.images.tiff_codecs import (
    ENCODERS,
    FILL,
    SLACK,
    Bytes,
    Encoder,
    Packing,
    pack,
    unpack,
    zlib_header,
)

DIFFERENCES = "differences"  # as a library; its level is the two bytes of the zlib header
_SEARCHES = 12  # blocks of one file for which all encoders are tried
_CHEAP = 32  # differences of less than 1/32 of the code are better than the name of a library that changes
_LOOK = 8  # blocks after which differences that are too dear are given up


class Search:
    """Finds, block after block, the encoder that repeats the packed bytes; the last is tried first."""

    def __init__(self, differ: bool) -> None:
        self.encoders: list[Encoder] = []  # those in use, best first seen
        self.searches = 0
        self.differs: bool | None = (
            None if differ else False
        )  # whether differences serve better than the name of libdeflate

    def find(self, raw: Bytes, code: memoryview, layout: Layout, packing: Packing) -> Encoder | None:
        """An encoder that gives ``code`` up to the filling behind it, or None."""
        for encoder in self._candidates(code, packing.codec):
            packed = pack(raw, layout, packing.codec, encoder)
            rest = len(code) - len(packed)
            if (
                0 <= rest <= 2 * len(raw) + SLACK
                and code[: len(packed)] == packed
                and code[len(packed) :] == FILL[packing.codec] * rest
            ):
                if encoder[0] == "libdeflate" and self._cheap(raw, code[2:-4]):
                    return None
                if encoder in self.encoders:
                    self.encoders.remove(encoder)
                self.encoders.insert(0, encoder)
                return encoder
        return None

    def _cheap(self, raw: Bytes, body: memoryview) -> bool:
        """Whether the differences of a block, taken as one of many, are few; asked once a file."""
        if self.differs is None:
            from callic_archive.images.deflate.differences import Writer

            writer = Writer()
            self.differs = writer.add(body, raw, 64 + len(body) // _CHEAP) is not None
        return self.differs

    def _candidates(self, code: memoryview, codec: str) -> list[Encoder]:
        known = [e for e in self.encoders if e in ENCODERS[codec]]
        if codec == "zstd":
            stream = int(bool(code[4] >> 5 == 0))  # neither its size nor that there is one segment
            known = [e for e in known if e[2] == stream][:2]
            if self.searches >= _SEARCHES:
                return known
            self.searches += 1
            return known + [e for e in ENCODERS[codec] if e not in known and e[2] == stream]
        if codec != "deflate":
            return known + [e for e in ENCODERS[codec] if e not in known]
        if self.differs:
            return [e for e in known if e[0] == "zlib"][:2]
        head = bytes(code[:2])
        known = [e for e in known if zlib_header(e) == head][:2]
        if self.searches >= _SEARCHES:
            return known
        self.searches += 1
        return known + [e for e in ENCODERS[codec] if e not in known and zlib_header(e) == head]


def differ(
    data: memoryview, layouts: Sequence[Layout], packs: Sequence[Packing], chosen: list[list[Encoder | None]]
) -> tuple[bytes, int]:
    """Take the differences of the deflate blocks that no encoder repeats; returns them and the bytes of those blocks.

    Blocks go in the order in which a file is put together. Where differences take too much, nothing is done.
    """
    from callic_archive.images.deflate.differences import Writer

    writer, total, done = Writer(), 0, []
    for start, length, i, k in in_order(layouts):
        if chosen[i][k] is not None or packs[i].codec != "deflate":
            continue
        code = data[start : start + length]
        raw = unpack(code, layouts[i].raw_length(k), packs[i])
        used = writer.add(code[2:], raw)
        if used is None:
            continue
        end = 2 + used + 4
        rest = length - end
        check = zlib.adler32(raw.data).to_bytes(4, "big")
        if not 0 <= rest <= 2 * len(raw) + SLACK or code[end - 4 :] != check + bytes(rest):
            writer.undo()
            continue
        chosen[i][k] = (DIFFERENCES, int.from_bytes(code[:2], "big"), 0)
        done.append((i, k))
        total += length
        if len(done) >= _LOOK and writer.size > most_side(total):
            break
    side = writer.finish()
    if len(side) <= most_side(total):
        return side, total
    for i, k in done:
        chosen[i][k] = None
    return b"", 0
