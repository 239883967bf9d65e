"""Compare two file trees as an archive must restore them: names, types, link targets, modes, times, contents.

Independent of the archiver on purpose: Pillow and tifffile read the pixels here, not ``callic_archive``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

_KINDS = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFREG: "file"}


def compare_trees(source: Path, restored: Path, fidelity: Mapping[str, str]) -> list[str]:
    """Every difference between the trees as a sentence; none means that the promise was kept.

    ``fidelity`` maps a file's path below ``source`` (with ``/``) to ``bytes`` or ``content``; files not in it
    count as ``bytes``. Raises OSError where a tree cannot be read.
    """
    left, right = _entries(source), _entries(restored)
    problems = [f"{name}: missing after unpacking" for name in sorted(left.keys() - right.keys())]
    problems += [f"{name}: was not in the source" for name in sorted(right.keys() - left.keys())]
    for name in sorted(left.keys() & right.keys()):
        problems += [f"{name}: {what}" for what in _differences(left[name], right[name], fidelity.get(name))]
    return problems


def _entries(root: Path) -> dict[str, Path]:
    return {path.relative_to(root).as_posix(): path for path in [root, *root.rglob("*")]}


def _differences(source: Path, restored: Path, fidelity: str | None) -> list[str]:
    a, b = source.lstat(), restored.lstat()
    kind, other = (_KINDS.get(stat.S_IFMT(s.st_mode), "special file") for s in (a, b))
    if kind != other:
        return [f"was a {kind}, is a {other}"]
    found = []
    if kind == "symbolic link":
        if os.readlink(source) != os.readlink(restored):
            found.append("points elsewhere")
    elif stat.S_IMODE(a.st_mode) != stat.S_IMODE(b.st_mode):
        found.append(f"mode {stat.S_IMODE(a.st_mode):o} became {stat.S_IMODE(b.st_mode):o}")
    if a.st_mtime_ns != b.st_mtime_ns:
        found.append(f"modification time {a.st_mtime_ns} ns became {b.st_mtime_ns} ns")
    if kind == "file" and source.read_bytes() != restored.read_bytes():
        if fidelity != "content":
            found.append("bytes differ")
        elif not _same_content(source, restored):
            found.append("pixels or metadata differ")
    return found


def _same_content(source: Path, restored: Path) -> bool:
    """Whether two image files hold equal pixels, types and metadata, whatever their compressed bytes are."""
    read = _read_tiff if source.suffix.lower() in (".tif", ".tiff") else _read_pillow
    (pixels, tags), (others, other_tags) = read(source), read(restored)
    same = [np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(pixels, others, strict=False)]
    return len(pixels) == len(others) and all(same) and tags == other_tags


def _read_pillow(path: Path) -> tuple[list[np.ndarray[Any, Any]], Any]:
    with Image.open(path) as image:
        return [np.asarray(image)], (image.mode, image.info)


def _read_tiff(path: Path) -> tuple[list[np.ndarray[Any, Any]], Any]:
    compressed = {"StripOffsets", "StripByteCounts", "TileOffsets", "TileByteCounts"}
    with tifffile.TiffFile(path) as tiff:
        pages = [page.aspage() for page in tiff.pages]
        # A list, not a mapping: TIFF files may repeat a tag, and many do so with ImageDescription.
        tags = [[(t.name, repr(t.value)) for t in page.tags if t.name not in compressed] for page in pages]
        return [page.asarray() for page in pages], tags
