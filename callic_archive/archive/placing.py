"""Writing a restored file where its bytes belong: hashed on the way, holes left as holes."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from typing import BinaryIO

from callic_archive.archive.entries import Entry, sparse_digest

_BLOCK = 1 << 20


class Placing:
    """A write-only file in front of another.

    What is written to it is what the entry's digest is made of: of a sparse entry the data of its extents,
    of any other all bytes of the file; of those, zeros between the extents become holes again.
    """

    def __init__(self, out: BinaryIO, entry: Entry) -> None:
        self._out = out
        self._sparse = entry.method == "sparse"
        self._extents = list(entry.extents or ())
        self._file_size = entry.size
        # one that only hashes or counts has no places
        self._places = entry.extents is not None and hasattr(out, "seek")
        self._digest = sparse_digest(entry.size, entry.extents or ()) if self._sparse else hashlib.sha256()
        self._size = 0  # bytes so far
        self._number = 0  # of the extent at hand
        self._within = 0  # bytes of it so far, of a sparse entry

    def write(self, data: bytes | memoryview) -> int:
        """Take in the next bytes."""
        self._digest.update(data)
        view = memoryview(data).cast("B")
        self._size += len(view)
        if not self._places:
            self._out.write(view)
        elif self._sparse:
            self._fill(view)
        else:
            self._between(view, self._size - len(view))
        return len(view)

    def _fill(self, view: memoryview) -> None:
        """Data of the extents, one after the other; more than they hold has no place and no digest fits it."""
        while view and self._number < len(self._extents):
            offset, length = self._extents[self._number]
            taken = view[: length - self._within]
            self._out.seek(offset + self._within)
            self._out.write(taken)
            self._within += len(taken)
            view = view[len(taken) :]
            if self._within == length:
                self._number, self._within = self._number + 1, 0

    def _between(self, view: memoryview, position: int) -> None:
        """All bytes from ``position`` on; zeros outside the extents are passed over."""
        while view:
            while self._number < len(self._extents) and sum(self._extents[self._number]) <= position:
                self._number += 1
            start, length = (
                self._extents[self._number] if self._number < len(self._extents) else (self._file_size, 0)
            )
            if position < start:
                piece = view[: min(start - position, _BLOCK)]
                hole = piece.tobytes().count(0) == len(piece)
            else:
                piece = view[: start + length - position] if length else view
                hole = False
            if hole:
                self._out.seek(position + len(piece))
            else:
                self._out.seek(position)
                self._out.write(piece)
            position += len(piece)
            view = view[len(piece) :]

    def write_at(self, position: int, data: bytes | memoryview) -> None:
        """Bytes of the file from ``position`` on, in any order; the digest takes no notice of them."""
        view = memoryview(data).cast("B")
        if self._places:
            self._number = bisect_right(self._extents, position, key=sum)
            self._between(view, position)
        else:
            self._out.seek(position)
            self._out.write(view)

    def resize(self, size: int) -> None:
        """Give a file that was written in any order its size."""
        self._out.flush()
        self._out.truncate(size)

    def end(self) -> None:
        """Give the file its size: a hole at its end was passed over only."""
        if self._places:
            self._out.seek(0)
            self._out.truncate(self._file_size if self._sparse else self._size)

    def tell(self) -> int:
        """Bytes so far."""
        return self._size

    def flush(self) -> None:
        """Pass it on."""
        self._out.flush()

    def hexdigest(self) -> str:
        """SHA-256 of what was written."""
        return self._digest.hexdigest()
