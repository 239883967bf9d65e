"""Files that may be bands of one scene: found at planning by where they lie and by the size of their images.

What they show is looked at when they are packed. Here they are only put into one batch, and those of one scene rather
than those of several: where there are too many for one batch, names that have least in common part first.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from callic_archive.archive.candidates import TINY
from callic_archive.archive.content import opened
from callic_archive.archive.scan import Source
from callic_archive.images.cutting import CUT_FROM
from callic_archive.images.geometry import SUFFIXES, Geometry, geometry

MOST_BANDS = 16  # files of one set: Sentinel-2 has 13 bands
MOST_BYTES = 256 << 20  # bytes of samples of one set


def band_candidates(sources: Iterable[Source]) -> list[list[Source]]:
    """Sets of two or more files of one folder that hold one plane each, of one size and sample type."""
    alike: dict[tuple[str, Geometry], list[Source]] = defaultdict(list)
    folders: dict[tuple[str, str], list[Source]] = defaultdict(list)
    for source in sources:
        folder, _, name = source.path.rpartition("/")
        suffix = name.rpartition(".")[2].lower()
        if suffix in SUFFIXES and source.size:
            folders[folder, suffix].append(source)
    for (folder, _), files in folders.items():
        for source in files if len(files) > 1 else ():
            found = _geometry(source)
            if found is not None and TINY < found.bytes < CUT_FROM:
                alike[folder, found].append(source)
    result = []
    for (_, size), files in alike.items():
        most = min(MOST_BANDS, MOST_BYTES // size.bytes)
        if most > 1:
            files.sort(key=lambda source: _in_order(source.path))
            result += [list(some) for some in _parted(files, most) if len(some) > 1]
    return result


def _geometry(source: Source) -> Geometry | None:
    try:
        with opened(source.file) as file:
            return geometry(lambda offset, size: os.pread(file.fd, size, offset))
    except (OSError, OverflowError):
        return None  # packing will report it


def _parted(files: Sequence[Source], most: int) -> list[Sequence[Source]]:
    """Files in the order of their names as runs of at most ``most``."""
    done: list[Sequence[Source]] = []
    pending = [files]
    while pending:
        run = pending.pop()
        if len(run) <= most:
            done.append(run)
            continue
        middle = len(run) / 2
        shared = [_alike(a.path, b.path) for a, b in pairwise(run)]
        # among equals where full runs come off, so that none is left over
        cut = min(range(1, len(run)), key=lambda at: (shared[at - 1], at % most > 0, abs(at - middle)))
        pending += [run[:cut], run[cut:]]
    return done


def _in_order(path: str) -> list[tuple[int, str]]:
    """What sorts band 2 before band 10: neighbours are most alike."""
    words = re.split("([0-9]+)", path)
    return [(int(word[:18]), word) if at % 2 else (0, word) for at, word in enumerate(words)]


def _alike(a: str, b: str) -> int:
    """Letters with which both begin."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
