"""What every archive tells of itself: a first page, and the pages of the specification that say something of it."""

from __future__ import annotations

import bz2
from collections.abc import Collection, Iterable
from importlib import resources
from pathlib import Path

from callic_archive import __version__
from callic_archive.archive.entries import Entry
from callic_archive.archive.reading import FORMAT_VERSION
from callic_archive.images.zarr_metadata import DOCUMENTS

SPECIFICATION = "specification.md.bz2"
#: Pages that only some archives need.
_LEARNED, _ZARR = frozenset({"codestream.md", "entropy.md", "model.md"}), frozenset({"zarr.md"})


def opening_text() -> str:
    """The page that tells whoever finds an archive what it is and where the rest is told."""
    page = next(text for name, text in _format_pages() if name == "opening.md")
    return page.replace("VERSION_OF_SOFTWARE", __version__).replace("VERSION_OF_FORMAT", str(FORMAT_VERSION))


def spared_pages(entries: Iterable[Entry]) -> frozenset[str]:
    """Pages of the specification that say nothing of an archive of these entries."""
    needed: set[str] = set()
    for entry in entries:
        if any(part.coding == "codestream" for part in entry.parts):
            needed |= _LEARNED
        if entry.format == "zarr" or entry.path.rsplit("/", 1)[-1] in DOCUMENTS:
            needed |= _ZARR | _LEARNED  # chunks of the codec ``callic`` hold codestreams, and are kept as they are
    return (_LEARNED | _ZARR) - needed


def specification_packed(spared: Collection[str] = ()) -> bytes:
    """What of the specification an archive carries, compressed: a twentieth of an archive of one megabyte. bzip2 makes it
    a seventh smaller than gzip, and is as old and as widely read."""
    return bz2.compress(format_text(spared).encode(), 9)


def format_text(spared: Collection[str] = ()) -> str:
    """The specification that archives carry: the pages of docs/format, one after the other, but those ``spared``."""
    left_out = ("opening.md", *spared)
    pages = [page for page in _format_pages() if page[0] not in left_out]
    order = {
        "index.md": 0,
        "archive.md": 1,
        "images.md": 2,
        "deflate.md": 3,
        "zarr.md": 4,
        "container.md": 5,
        "codestream.md": 6,
        "errors.md": 9,
    }
    pages.sort(key=lambda page: (order.get(page[0], 6), page[0]))
    head = (
        "# The format of this archive\n\n"
        f"Written by callic-archive {__version__}, format version {FORMAT_VERSION}.\n"
    )
    if spared:
        head += f"\nPages that say nothing of what is in it are left out: {', '.join(sorted(spared))}.\n"
    return "\n\n".join([head, *(text.strip() for _, text in pages)]) + "\n"


def _format_pages() -> list[tuple[str, str]]:
    packaged = resources.files("callic_archive").joinpath("specification")
    if packaged.is_dir():
        return [(p.name, p.read_text("utf-8")) for p in packaged.iterdir() if p.name.endswith(".md")]
    source = Path(__file__).parents[2] / "docs" / "format"  # a checkout
    return [(p.name, p.read_text("utf-8")) for p in source.glob("*.md")]
