"""Walking over the bytes of a large file without keeping them all in memory.

Pages of a memory map that were looked at count as memory of this process until they are given back; a file of
50 GB that is only hashed and compressed must not look like 50 GB of memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator


def blocks(data: bytes | memoryview, size: int) -> Iterator[memoryview]:
    """``data`` in pieces of ``size`` bytes (a multiple of the page size); pages behind are given back to the
    system.
    """
    view = memoryview(data).cast("B")
    mapped = view.obj if isinstance(view.obj, mmap.mmap) and len(view.obj) == len(view) else None
    for start in range(0, len(view), size):
        yield view[start : start + size]
        if mapped is not None and hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_DONTNEED, start, min(size, len(view) - start))
