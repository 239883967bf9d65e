"""What "the same" means: digests of files and of their content, and the comparison that proves a round trip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.mapped import blocks

_BLOCK = 16 << 20  # bytes looked at a time, so that no second copy of a large image is made

Image = NDArray[Any]


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    for block in blocks(data, _BLOCK):
        digest.update(block)
    return digest.hexdigest()


def content_sha256(format: str, recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image]) -> str:
    """SHA-256 of a file's content: pixels, and all that surrounds them.

    The hash runs over ``format`` and the recipe (JSON, sorted keys, no spaces), the surrounding bytes, and
    for each image a line ``dtype HxWxC`` with its samples in C order, little endian. Unlike the hash of a
    rebuilt file it does not depend on which deflate library made the file.
    """
    digest = hashlib.sha256()
    header = json.dumps([format, recipe, len(surround), len(images)], sort_keys=True, separators=(",", ":"))
    digest.update(header.encode() + b"\n")
    digest.update(surround)
    for image in images:
        digest.update(f"\n{image.dtype.name} {'x'.join(map(str, image.shape))}\n".encode())
        little = image.dtype.newbyteorder("<")
        for block in _blocks(image):
            digest.update(np.ascontiguousarray(block, dtype=little).data)
    return digest.hexdigest()


def same_image(a: Image, b: Image) -> bool:
    """Whether two images are equal in shape, sample type and every sample."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return all(np.array_equal(x, y) for x, y in zip(_blocks(a), _blocks(b), strict=True))


def _blocks(image: Image) -> Iterator[Image]:
    rows = max(1, _BLOCK * image.shape[0] // max(1, image.nbytes)) if image.ndim else 1
    for start in range(0, image.shape[0], rows):
        yield image[start : start + rows]


class HashSink:
    """A write-only file that keeps nothing but the SHA-256 and the number of bytes."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Take in bytes."""
        self._digest.update(data)
        count = memoryview(data).nbytes
        self.size += count
        return count

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def flush(self) -> None:
        """Nothing to do."""

    def hexdigest(self) -> str:
        """SHA-256 of all bytes so far."""
        return self._digest.hexdigest()
