"""Walking over the bytes of a large file without keeping them all in memory.

Pages of a memory map that were looked at count as memory of this process until they are given back; a file of
50 GB that is only hashed and compressed must not look like 50 GB of memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator


def blocks(
    data: bytes | memoryview, size: int, cut: Callable[[memoryview], int] | None = None
) -> Iterator[memoryview]:
    """``data`` in pieces of ``size`` bytes; pages behind are given back to the system.

    ``cut`` tells of a piece behind which more follows how many of its bytes make one.
    """
    view = memoryview(data).cast("B")
    mapped = view.obj if isinstance(view.obj, mmap.mmap) and len(view.obj) == len(view) else None
    start = given = 0
    while start < len(view):
        piece = view[start : start + size]
        if cut is not None and start + len(piece) < len(view):
            piece = piece[: cut(piece)]
        yield piece
        start += len(piece)
        if mapped is not None and hasattr(mapped, "madvise"):
            end = start if start == len(view) else start - start % mmap.PAGESIZE
            if end > given:
                mapped.madvise(mmap.MADV_DONTNEED, given, end - given)
            given = end
