"""Files that may hold the same bytes, found without reading them all.

Only files of equal size can be equal; of those a few small blocks are compared. What is left goes to the same
worker, which hashes every file anyway and then knows for certain.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable

from callic_archive.archive.content import opened
from callic_archive.archive.scan import Source

_BLOCK = 4096


def group_candidates(sources: Iterable[Source]) -> list[list[Source]]:
    """Files in groups of candidates for equality, groups in the order of their first member. Empty files stay
    alone.
    """
    by_size: dict[int, list[Source]] = defaultdict(list)
    for source in sources:
        by_size[source.size].append(source)
    groups: dict[tuple[int, bytes], list[Source]] = defaultdict(list)
    for size, members in by_size.items():
        for number, source in enumerate(members):
            alone = size == 0 or len(members) == 1
            print_ = f"{number}".encode() if alone else _fingerprint(source)
            groups[size, print_].append(source)
    return sorted(groups.values(), key=lambda group: os.fsencode(group[0].path))


def _fingerprint(source: Source) -> bytes:
    """SHA-256 of three blocks of the file; one of its own for a file that cannot be read."""
    digest = hashlib.sha256()
    try:
        with opened(source.file) as file:
            for offset in (0, max(0, source.size // 2 - _BLOCK // 2), max(0, source.size - _BLOCK)):
                digest.update(os.pread(file.fd, _BLOCK, offset))
    except OSError:
        return os.fsencode(source.path)
    return digest.digest()
