"""Files that may hold the same bytes, found without reading them all.

Only files of equal size can be equal; of those a few small blocks are compared. What is left goes to the same
worker, which hashes every file anyway and then knows for certain; or is hashed here, where few bytes are at stake.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

from callic_archive.archive.content import opened
from callic_archive.archive.scan import Source

_BLOCK, _LARGE_BLOCK = 4096, 1 << 20


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


def without_copies(sources: Sequence[Source]) -> list[Source]:
    """The first of each set of files that hold the same bytes, by reading all that may be copies."""
    copies: set[str] = set()
    for group in group_candidates(sources):
        seen: set[bytes] = set()
        for source in group if len(group) > 1 else ():
            digest = _digest(source)
            if digest in seen:
                copies.add(source.path)
            seen.add(digest)
    return [source for source in sources if source.path not in copies]


def _digest(source: Source) -> bytes:
    """SHA-256 of the file; one of its own for a file that cannot be read."""
    digest = hashlib.sha256()
    try:
        with opened(source.file) as file:
            at = 0
            while block := os.pread(file.fd, _LARGE_BLOCK, at):
                digest.update(block)
                at += len(block)
    except OSError:
        return os.fsencode(source.path)
    return digest.digest()


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
