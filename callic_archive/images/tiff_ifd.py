"""TIFF and BigTIFF directories (TIFF 6.0; BigTIFF as in libtiff), read with suspicion.

Only what finds the samples is read. Every offset and count is checked against the file before it is followed,
and a directory is visited once, so cycles and 14-byte files that ask for gigabytes end in MalformedSource.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.source import Limits

SUB_IFDS = 330
JPEG_TABLES = 347
# Integer field types and their numpy letters; the other types never hold anything that is needed here.
_TYPES = {
    1: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_WANTED = {254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338, 339,
           JPEG_TABLES, 530, 32997}  # fmt: skip


@dataclass(frozen=True)
class Directory:
    """The wanted integer fields of one image file directory, each an array of int64 or uint64."""

    offset: int
    fields: dict[int, NDArray[Any]]

    def one(self, tag: int, default: int | None = None) -> int:
        """The first value of a field. Raises MalformedSource when it is absent and has no default."""
        values = self.fields.get(tag)
        if values is None or not len(values):
            if default is None:
                raise MalformedSource(f"the TIFF directory at {self.offset} lacks tag {tag}")
            return default
        return int(values[0])

    def all(self, tag: int) -> NDArray[Any]:
        """All values of a field; empty when absent."""
        return self.fields.get(tag, np.empty(0, np.int64))


class TiffReader:
    """Walks all directories of a TIFF: the main chain, and SubIFDs below them."""

    def __init__(self, data: memoryview, limits: Limits) -> None:
        if len(data) < 8:
            raise TruncatedSource("the TIFF ends inside its header")
        self.data, self.limits = data, limits
        self.order = "<" if data[0] == 0x49 else ">"
        self.big = 43 in (data[2], data[3])
        if self.big and (len(data) < 16 or self._int(4, 2) != 8 or self._int(6, 2) != 0):
            raise MalformedSource("the BigTIFF header is broken or cut short")
        # No honest file lets its directories share tables, so all of them together read less than the file.
        self.budget = 2 * len(data) + 4096
        self.first = self._int(8, 8) if self.big else self._int(4, 4)

    def _int(self, offset: int, size: int) -> int:
        if offset < 0 or offset + size > len(self.data):
            raise TruncatedSource(f"the TIFF has {len(self.data)} bytes, {size} are needed at {offset}")
        return int.from_bytes(self.data[offset : offset + size], "little" if self.order == "<" else "big")

    def directories(self) -> Iterator[Directory]:
        """All directories, parents before their SubIFDs.

        Raises MalformedSource on cycles.
        """
        pending, visited, listed = [self.first], set[int](), set[int]()
        while pending:
            offset = pending.pop()
            if offset == 0:
                continue
            if offset in visited and offset in listed:
                continue  # SubIFDs may be listed by their parent and chained to each other as well
            if offset in visited:
                raise MalformedSource(f"the TIFF directory at {offset} is reached twice: a cycle")
            visited.add(offset)
            self.limits.check_images(len(visited))
            directory, following = self._directory(offset)
            children = [int(o) for o in directory.all(SUB_IFDS).tolist()]
            self.limits.check_images(len(children) + len(visited) + len(pending))
            for child in children:
                if child in visited:
                    raise MalformedSource(f"the TIFF directory at {child} is its own descendant: a cycle")
            listed.update(children)
            pending += [following, *reversed(children)]
            yield directory

    def _directory(self, offset: int) -> tuple[Directory, int]:
        head, entry = (8, 20) if self.big else (2, 12)
        count = self._int(offset, head)
        end = offset + head + count * entry
        word = 8 if self.big else 4
        if count == 0:
            raise MalformedSource(f"the TIFF directory at {offset} is empty")
        if end > len(self.data):
            raise TruncatedSource(
                f"the TIFF directory at {offset} promises {count} entries, the file ends before them"
            )
        fields: dict[int, NDArray[Any]] = {}
        for at in range(offset + head, end, entry):
            tag, kind, number = self._int(at, 2), self._int(at + 2, 2), self._int(at + 4, word)
            if tag not in _WANTED or kind not in _TYPES or not number or tag in fields:
                continue
            dtype = np.dtype(self.order + _TYPES[kind])
            size = number * dtype.itemsize
            start = at + 4 + word if size <= word else self._int(at + 4 + word, word)
            if start + size > len(self.data):
                raise TruncatedSource(f"TIFF tag {tag} promises {number} values, the file ends before them")
            self.budget -= size
            if self.budget < 0:
                raise MalformedSource("the TIFF's directories share tables, together larger than the file")
            values = np.frombuffer(self.data, dtype, number, start)
            fields[tag] = values.astype(np.uint64 if dtype.itemsize == 8 and dtype.kind == "u" else np.int64)
        # Some writers cut the file right behind the last directory's entries: then no directory follows.
        following = self._int(end, word) if end + word <= len(self.data) else 0
        return Directory(offset, fields), following
