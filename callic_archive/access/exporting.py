"""One region of every image of an archive, as NPY files: what ``unpack --region`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from callic_archive.access.archive import OpenArchive
from callic_archive.access.regions import Region
from callic_archive.archive.entries import Entry
from callic_archive.archive.scan import Problem
from callic_archive.archive.unpacking import ends_run, failed
from callic_archive.container.extraction import ExtractionRoot
from callic_archive.errors import CallicError, NoSuchImage, RegionError, TargetExists
from callic_archive.images.reasons import REASONS


@dataclass(frozen=True)
class Exported:
    """What became of one file: the names written for its images, and what went wrong."""

    entry: Entry
    written: tuple[str, ...]
    bytes: int
    problem: Problem | None = None


def target(path: str, page: int, pages: int) -> str:
    """Where image ``page`` of a file goes: ``a.tif.npy``, of a file of several images ``a.tif.3.npy``."""
    return f"{path}.npy" if pages == 1 else f"{path}.{page}.npy"


def export_regions(
    archive: OpenArchive,
    entries: list[Entry],
    region: Region,
    destination: Path,
    *,
    overwrite: bool,
    watch: Callable[[Exported], None],
) -> None:
    """Write ``region`` of every image of ``entries`` below ``destination``; ``watch`` hears of each file.

    An image that the region does not fit, and damage, cost that file alone. Raises EnvironmentFailure.
    """
    taken: dict[str, str] = {}  # names of this run, and whose they are
    with ExtractionRoot(destination) as root:
        for entry in entries:
            written: list[tuple[str, int]] = []
            problem = None
            try:
                for name, image in _regions(archive, entry, region):
                    if taken.setdefault(name, entry.path) != entry.path:
                        raise TargetExists(f"{name!r} is the name of a region of {taken[name]!r} too; restore it by itself")
                    with root.create_file(name, overwrite=overwrite, equal=True) as out:
                        np.lib.format.write_array(out, image, version=(1, 0), allow_pickle=False)
                    written.append((name, image.nbytes))
            except (RegionError, NoSuchImage) as error:
                problem = Problem(entry.path, error.code, str(error), kept=False, exit_code=1)
            except CallicError as error:
                if ends_run(error):
                    raise
                problem = failed(entry, error)
            names = tuple(name for name, _ in written)
            watch(Exported(entry, names, sum(size for _, size in written), problem))


def _regions(
    archive: OpenArchive, entry: Entry, region: Region
) -> Iterator[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]]:
    pages = archive.page_count(entry.path)
    if not pages:
        known = entry.reason in REASONS and entry.reason != "lossy"
        why = f": it is {REASONS[str(entry.reason)]}" if known else ", as those that are coded with loss"
        raise NoSuchImage(f"its samples are not read as images{why}; `cat` gives the file itself")
    for page in range(pages):
        yield target(entry.path, page, pages), archive.read_array(entry.path, page, region)
