"""Rasters in files of formats that nobody reads: of microscopes, detectors, simulations; found by what their bytes look like.

What is found need not be right to come back: a file is cut where it says, and put together again. It only has to be smaller.
It is told as headers beside files are (``detached``), by a document that is made here and needs no place in an archive.
"""

from __future__ import annotations

import json
from collections import Counter

from callic_archive.images.detached import FOUND, Detached
from callic_archive.images.layout import Layout, layouts_from_json, layouts_to_json
from callic_archive.images.raster_clues import look, may_be
from callic_archive.images.raster_costs import Form
from callic_archive.images.raster_extents import Read, rasters
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Context, Limits, Parsed
from callic_archive.images.splice import parse_spliced
from callic_archive.images.unread import reason_of

LEAST = 32 << 10  # bytes of a file in which rasters are looked for
_WINDOW, _PLACE = 256 << 10, 8  # bytes of a window; its offset is a multiple of this
_WINDOWS, _MORE, _LARGE = 6, 12, 64 << 20  # windows, and those of larger files
_FORMS = 3  # that a file may have


def context_of(read: Read, size: int, name: str) -> Context | None:
    """What to take a file of unknown format for; None where no raster shows."""
    if size < LEAST or reason_of(read(0, 16)) is not None:
        return None
    found = search(read, size)
    return Context(FOUND, json.dumps(layouts_to_json(found)).encode(), name, "raw") if found else None


def shows(head: memoryview) -> bool:
    """Whether a raster shows in the first bytes of a file, in the last of them."""
    window = head[max(0, len(head) - _WINDOW) // _PLACE * _PLACE :]
    return len(head) >= LEAST and may_be(window) and look(window) is not None


def parse_unknown(data: memoryview, limits: Limits) -> Parsed:
    """A file of unknown format inside another, as rasters. Raises NotTaken."""
    found = search(lambda offset, length: bytes(data[offset : offset + length]), len(data))
    if not found:
        raise NotTaken("members")
    return parse_spliced("raw", data, found, limits)


def search(read: Read, size: int) -> list[Layout]:
    """The rasters in a file of ``size`` bytes, of which ``read(offset, length)`` gives some."""
    forms = _forms(read, size)
    return rasters(read, size, forms) if forms else []


def _forms(read: Read, size: int) -> list[Form]:
    """The forms that windows of the file have, the most frequent first."""
    most = _MORE if size >= _LARGE else _WINDOWS
    count = max(1, min(most, 2 * size // _WINDOW - 1))
    step = max(0, size - _WINDOW) // max(1, count - 1) // _PLACE * _PLACE
    found: Counter[Form] = Counter()
    for number in range(count):
        window = memoryview(read(number * step, min(_WINDOW, size)))
        form = look(window) if may_be(window) else None
        if form is not None:
            found[form] += 1
    return [form for form, _ in found.most_common(_FORMS)]


def detached(header: memoryview, name: str) -> Detached:
    """What was found, as a header. Raises RebuildMismatch for what was not written here."""
    layouts = layouts_from_json(json.loads(bytes(header)))
    return Detached("", lambda start, length, limits: layouts, few=True)
