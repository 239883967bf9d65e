"""From where to where a file of unknown format holds rows of samples, of which forms are known that some of it has.

Blocks of the file are given to the form by which they take fewest bits, or to none; changing it costs, so that runs of blocks
come out. Their ends are then looked at row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import zstandard
from numpy.typing import NDArray

from callic_archive.images.layout import Layout
from callic_archive.images.raster_clues import TYPES
from callic_archive.images.raster_costs import Form, Samples, bits_in_rows, run_bytes, samples_of, wrapped

Read = Callable[[int, int], bytes]  # offset, length

_BLOCK, _BLOCKS = 4096, 1 << 20  # bytes that are of one form: at least, and of large files a part of them
_CHUNK = 4 << 20  # bytes looked at together
_CHANGE = 8 * 1024.0  # bits that another form must save
_OTHERWISE = 0.93  # of what a quick compressor leaves of a block, a thorough one leaves about so much
_LEAST_ROWS, _LEAST_BYTES = 8, 16 << 10
_SEEN = 2 << 20  # bytes that tell where rows begin, and how alike they are
_EDGE = 1.3  # times what other columns differ, where a row begins
_ALIKE, _BIT = 1.5, 0.2  # times, and more, that rows at an end may differ
_SIGNED = 0.99  # of what unsigned samples differ


@dataclass(frozen=True)
class _Run:
    """Bytes of one form, of which samples begin where the offset modulo their size is ``at``."""

    form: Form
    at: int
    start: int
    end: int


def rasters(read: Read, size: int, forms: Sequence[Form]) -> list[Layout]:
    """The rasters of these forms in a file of ``size`` bytes, in order, none overlapping another."""
    ways = [(form, at) for form in forms for at in TYPES[form.dtype]]
    block = max(1, size // (_BLOCKS * _BLOCK)) * _BLOCK
    found: list[Layout] = []
    end = 0
    for run in _runs(_costs(read, size, ways, block), ways, size, block):
        layout = _raster(read, run, end, size, block)
        if layout is not None:
            found.append(layout)
            end = layout.offsets[0] + layout.decoded_bytes
    return found


# -- blocks --------------------------------------------------------------------------------------------------


def _costs(read: Read, size: int, ways: Sequence[tuple[Form, int]], block: int) -> NDArray[np.float64]:
    """Bits of each block by each of ``ways``, and in the last column by none: (blocks, ways + 1)."""
    costs = np.full((-(-size // block), len(ways) + 1), 8.0 * block)
    lead = -(-max(form.pitch + 8 * form.itemsize for form, _ in ways) // block) * block
    chunk = max(1, _CHUNK // block) * block
    compressor = zstandard.ZstdCompressor(level=1)
    for start in range(0, size, chunk):
        before = min(lead, start)
        raw = bytes(lead - before) + read(start - before, min(chunk, size - start) + before)
        first = start // block
        for number, (form, at) in enumerate(ways):
            per_block = _by_block(raw, form, at, lead, block)
            costs[first : first + len(per_block), number] = per_block
        for number, place in enumerate(range(lead, len(raw), block)):
            packed = 8.0 * len(compressor.compress(raw[place : place + block]))
            costs[first + number, -1] = min(_OTHERWISE * packed, 8.0 * block)
    return costs


def _by_block(raw: bytes, form: Form, at: int, lead: int, block: int) -> NDArray[np.float64]:
    """Bits of the blocks of ``raw`` from ``lead`` on."""
    row = form.width * form.samples
    bits = bits_in_rows(samples_of(memoryview(raw)[at:], form.dtype), form.dtype, form.samples, row)
    places = at + (row + form.samples) * form.itemsize + np.arange(len(bits)) * run_bytes(form.dtype)
    blocks = (places - lead) // block
    inside = blocks >= 0
    count = -(-(len(raw) - lead) // block)
    runs = np.bincount(blocks[inside], minlength=count)[:count]
    sums = np.bincount(blocks[inside], weights=bits[inside], minlength=count)[:count]
    found = np.where(runs > 0, sums / np.maximum(runs, 1) * (block / run_bytes(form.dtype)), 8.0 * block)
    found[-1] *= (len(raw) - lead - (count - 1) * block) / block  # the last may be shorter
    return found


def _runs(costs: NDArray[np.float64], ways: Sequence[tuple[Form, int]], size: int, width: int) -> list[_Run]:
    """Blocks, ``width`` bytes each, of one form in a row, by the way through all blocks that takes fewest bits."""
    blocks, states = costs.shape
    came = np.empty((blocks, states), np.int8)
    total = np.zeros(states)
    for block in range(blocks):
        best = int(total.argmin())
        changed = total[best] + _CHANGE
        stays = total <= changed
        came[block] = np.where(stays, np.arange(states), best)
        total = np.where(stays, total, changed) + costs[block]
        total -= total.min()
    path = np.empty(blocks, np.int8)
    state = int(total.argmin())
    for block in range(blocks - 1, -1, -1):
        path[block] = state
        state = int(came[block, state])
    turns = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), blocks]
    found = []
    for first, last in pairwise(turns):
        if path[first] < len(ways):
            form, at = ways[path[first]]
            found.append(_Run(form, at, first * width, min(last * width, size)))
    return found


# -- rows ----------------------------------------------------------------------------------------------------


def _raster(read: Read, run: _Run, least: int, size: int, block: int) -> Layout | None:
    """The whole rows of a run, and those around it that are like them; not before ``least``. None of a few."""
    form, pitch = run.form, run.form.pitch
    start = run.start + (run.at - run.start) % form.itemsize
    seen = samples_of(read(start, min(_SEEN, run.end - start)), form.dtype)
    start += _first_column(seen, form) * form.itemsize
    typical = _typical(seen, form)
    margin = -(-2 * block // pitch) + 1  # rows by which blocks may be wrong
    above, below = min(margin, (start - least) // pitch), min(margin, max(0, size - run.end) // pitch)
    first = start - above * pitch
    rows = min((run.end - start) // pitch + above + below, (size - first) // pitch)
    if rows < _LEAST_ROWS + 4 * margin or rows * pitch < _LEAST_BYTES:
        return None
    head = _alike(read(first, 2 * margin * pitch), form, typical)
    tail = _alike(read(first + (rows - 2 * margin) * pitch, 2 * margin * pitch), form, typical)
    skipped, left = _junk(head[::-1]), _junk(tail)
    first, rows = first + skipped * pitch, rows - skipped - left
    dtype = _signed(seen, form.dtype)
    return Layout(rows, form.width, form.samples, dtype, rows, form.width, pitch, (first,))


def _first_column(samples: Samples, form: Form) -> int:
    """The sample of a row at which the rows of the image begin, as left and right edge are not alike; 0 where nothing tells."""
    row = form.width * form.samples
    differences = np.log1p(np.abs(wrapped(samples[form.samples :] - samples[: -form.samples], form.dtype)))
    whole = len(differences) // row * row
    if not whole:
        return 0
    columns = differences[:whole].reshape(-1, row).mean(axis=0)
    pixels = sum(np.roll(columns, -n) for n in range(form.samples))
    found = int(np.argmax(pixels))
    if pixels[found] < _EDGE * np.median(pixels) + _BIT:
        return 0
    return (found + form.samples) % row


def _typical(samples: Samples, form: Form) -> float:
    row = form.width * form.samples
    whole = len(samples) // row * row
    return float(np.median(_between(samples[:whole].reshape(-1, row), form))) if whole > row else 0.0


def _between(rows: Samples, form: Form) -> Samples:
    """How much each row differs from the next."""
    found: Samples = np.log1p(np.abs(wrapped(rows[1:] - rows[:-1], form.dtype))).mean(axis=1)
    return found


def _alike(raw: bytes, form: Form, typical: float) -> list[bool]:
    """Of each row but the last whether it is as like the next one as rows are."""
    rows = samples_of(raw, form.dtype).reshape(-1, form.width * form.samples)
    return [bool(one) for one in _between(rows, form) <= _ALIKE * typical + _BIT]


def _junk(alike: list[bool]) -> int:
    """Rows at the end of which too many are unlike their neighbours: an edge within an image is crossed, junk is not."""
    kept = 0  # rows behind the first one
    for number, one in enumerate(alike):
        if one:
            kept = number + 1
        elif not any(alike[number + 1 : number + 3]):
            break
    return len(alike) - kept


def _signed(samples: Samples, dtype: str) -> str:
    """The type with a sign where neighbours then differ less."""
    if dtype[2] not in "12":
        return dtype
    half = 1 << (8 * int(dtype[2]) - 1)
    unsigned, signed = (
        float(np.log1p(np.abs(np.diff(some))).mean()) for some in (samples, (samples + half & 2 * half - 1) - half)
    )
    return dtype.replace("u", "i") if signed < _SIGNED * unsigned else dtype
