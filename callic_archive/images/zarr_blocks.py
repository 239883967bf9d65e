"""Files that hold chunks of zarr arrays, as blocks of rasters: one chunk, the chunks of a shard, those of a ZIP.

The chunks of one array become one image: side by side where they tile the last two axes, else below each
other. Everything else in the file (gzip headers, checksums, a shard's index, a ZIP's directory) is
surrounding bytes. A chunk that no known codec repeats stays there too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, BinaryIO, Literal

import numpy as np

from callic_archive.errors import MalformedSource, RebuildMismatch
from callic_archive.images.layout import Image, Layout, layouts_from_json, layouts_to_json, runs_of, unrun
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import check_spans, cut, parse_spliced, paste, rebuild_spliced, to_rasters
from callic_archive.images.zarr_codecs import (
    GZIP_HEADER,
    check_step,
    decode,
    encode,
    has_gzip_header,
    libraries,
    variants,
)
from callic_archive.images.zarr_metadata import ChunkForm
from callic_archive.images.zarr_steps import Step

_KEPT_SHARE = 0.1  # of the chunks' bytes may stay as they are before taking the file apart gains nothing
_MOST_CHAINS = 1 << 12  # different chains of steps in one recipe
_MOST_PLACES = 2  # places of the grid for each chunk that is there; emptier arrays become a column
_DEEPEST = 128 << 20  # bytes of samples of the slices that a chunk goes through
_LARGE, _FEW_PLACES = 16 << 20, 1 << 14  # bytes of samples, and places, of an array up to which that does not matter
_KNOWN_CHAINS = 3  # chains that repeated earlier chunks of a file, tried first
_VOLATILE = frozenset(
    {"layouts", "chains", "blocks", "libraries"}
)  # pixels and surrounding bytes tell the rest
Chain = tuple[Step, ...]
Span = tuple[int, int]  # offset and length in the file; length 0: the chunk is missing


@dataclass(frozen=True)
class Group:
    """Chunks of one array in one file: their layout, and how each was made from its part of the raster."""

    layout: Layout
    steps: Chain
    missing: frozenset[int] = frozenset()
    fill: int = 0
    sample_type: str = ""  # the numpy type of the samples, where the array's document is at hand


def raster_of(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """(rows, columns, samples) of an array in C order, leading axes below each other; None for one axis."""
    axes = [n for n in shape if n > 1]
    if len(axes) >= 3 and axes[-1] in (2, 3, 4):
        return math.prod(axes[:-2]), axes[-2], axes[-1]
    return (math.prod(axes[:-1]), axes[-1], 1) if len(axes) >= 2 else None


def single(form: ChunkForm, start: int, length: int) -> Group | None:
    """The group of one chunk that takes ``length`` bytes from ``start``. Raises MalformedSource."""
    return column(form, [(start, length)])


def column(form: ChunkForm, spans: Sequence[Span]) -> Group | None:
    """Chunks below each other; None where a chunk has fewer than two axes. Raises MalformedSource."""
    raster = raster_of(form.shape)
    if raster is None or not spans:
        return None
    rows, columns, samples = raster
    # An array in Fortran order of two axes is stored as its transpose; the image shows it upright.
    order = [axis for axis, n in zip(form.axes, form.shape, strict=True) if n > 1]
    turned = len(order) == 2 and order[0] > order[1] and len(spans) == 1
    layout = Layout(
        rows * len(spans), columns, samples, form.dtype, rows, columns, columns * samples * form.itemsize,
        offsets=(), transpose=turned,
    )  # fmt: skip
    return _group(form, layout, spans)


@dataclass(frozen=True)
class _Planes:
    """An array as slices, and its chunks as parts of them: ``depth`` slices each, ``rows`` x ``columns`` of each."""

    slices: int
    height: int
    width: int
    samples: int
    depth: int
    rows: int
    columns: int

    def layout(self, form: ChunkForm) -> Layout:
        """The slices below each other, for blocks that fill their rows; offsets are still to come."""
        return Layout(
            self.slices * self.height, self.width, self.samples, form.dtype, self.rows, self.columns,
            self.columns * self.samples * form.itemsize, offsets=(), whole=True, frames=self.slices, depth=self.depth,
        )  # fmt: skip


def _planes(shape: Sequence[int], chunk: Sequence[int]) -> _Planes | None:
    """None where chunks are no rectangles in slices: they go along more than one axis besides rows and columns, or on from the
    last slice along one axis to the first along the next."""
    pairs = [(a, b) for a, b in zip(shape, chunk, strict=True) if max(a, b) > 1]
    samples = pairs.pop()[0] if len(pairs) >= 3 and pairs[-1][0] in (2, 3, 4) and pairs[-1][0] == pairs[-1][1] else 1
    if len(pairs) < 2 or any(b > 1 for _, b in pairs[:-3]):
        return None
    depth = pairs[-3][1] if len(pairs) >= 3 else 1
    if len(pairs) > 3 and pairs[-3][0] % depth:
        return None
    (height, rows), (width, columns) = pairs[-2:]
    return _Planes(math.prod(a for a, _ in pairs[:-2]), height, width, samples, depth, rows, columns)


def mosaic(whole: ChunkForm, inner: ChunkForm, spans: Sequence[Span]) -> Group | None:
    """The inner chunks of a shard at their places in it, or as a column where they are no rectangles there."""
    planes = _planes(whole.shape, inner.shape) if whole.axes == inner.axes else None
    if planes is None:
        return column(inner, spans)
    layout = planes.layout(inner)
    return _group(inner, replace(layout, whole=layout.depth > 1), spans)


def placed(form: ChunkForm, grid: tuple[int, ...], spans: Mapping[tuple[int, ...], Span], limits: Limits) -> Group | None:
    """The chunks of an array by their places in its grid, at these places where most of them are there, else as a column;
    None where they have fewer than two axes. Raises SourceTooLarge."""
    inside = all(n < limit for place in spans for n, limit in zip(place, grid, strict=True))
    if inside and math.prod(grid) <= _MOST_PLACES * len(spans):
        limits.check_blocks(math.prod(grid))
        whole = replace(form, shape=tuple(n * grid[axis] for n, axis in zip(form.shape, form.axes, strict=True)))
        if whole.bytes <= limits.max_decoded_bytes and form.axes == tuple(range(len(grid))):
            return mosaic(whole, form, [spans.get(place, (0, 0)) for place in product(*(range(n) for n in grid))])
    return column(form, [spans[place] for place in sorted(spans)])


def within(
    shape: Sequence[int], form: ChunkForm, spans: Mapping[tuple[int, ...], Span], limits: Limits
) -> list[Group]:
    """The chunks of an array of ``shape`` by their places in its grid, without what they have beyond its edges, where most of
    them are there, or the array is small; else, and where they go along more than one axis besides rows and columns, as a
    column. Raises SourceTooLarge."""
    grid = tuple(-(-n // c) for n, c in zip(shape, form.shape, strict=True))
    inside = all(n < limit for place in spans for n, limit in zip(place, grid, strict=True))
    small = math.prod(shape) * form.itemsize <= _LARGE and math.prod(grid) <= _FEW_PLACES
    empty = math.prod(grid) > _MOST_PLACES * len(spans) and not small
    planes = _planes(shape, form.shape) if inside and not empty and form.axes == tuple(range(len(grid))) else None
    # of a large file, slices that chunks go through are cut out together
    if planes is None or planes.depth * planes.height * planes.width * planes.samples * form.itemsize > _DEEPEST:
        alone = column(form, [spans[place] for place in sorted(spans)])
        return [] if alone is None else [alone]
    limits.check_blocks(math.prod(grid))
    ordered = [spans.get(place, (0, 0)) for place in product(*(range(n) for n in grid))]
    if planes.depth > 1 or planes.height % planes.rows == 0:
        return [_group(form, planes.layout(form), ordered)]
    limits.check_images(planes.slices)  # a chunk that goes on below a slice would reach into the next
    one, each = replace(planes, slices=1).layout(form), len(ordered) // planes.slices
    return [_group(form, one, ordered[n * each : n * each + each]) for n in range(planes.slices)]


def _group(form: ChunkForm, layout: Layout, spans: Sequence[Span]) -> Group:
    head = GZIP_HEADER if form.steps and form.steps[-1][0] == "gzip" else 0
    offsets, lengths, missing = [], [], []
    for number, (start, length) in enumerate(spans):
        if length and length < head + form.tail + 1:
            raise MalformedSource(f"a chunk of {length} bytes is shorter than its own header and checksum")
        if not length:
            missing.append(number)
        offsets.append(start + head if length else 0)
        lengths.append(length - head - form.tail if length else 0)
    layout = replace(layout, offsets=tuple(offsets), lengths=tuple(lengths))
    return Group(layout, form.steps, frozenset(missing), form.fill, form.sample_type)


# -- taking apart --------------------------------------------------------------------------------------------


def parse_groups(data: memoryview, groups: Sequence[Group], limits: Limits, format: str = "zarr") -> Parsed:
    """A file whose chunks are those of ``groups``; only one of ``format`` zarr can come back with other bytes.

    Raises NotTaken when too many of them cannot be repeated, SourceError subclasses for chunks that are damaged or lie
    apart from the file.
    """
    layouts = [group.layout for group in groups]
    limits.check_images(len(groups))
    limits.check_blocks(sum(layout.count for layout in layouts))
    decoded = sum(layout.decoded_bytes for layout in layouts)
    if decoded > limits.max_ratio * len(data):
        raise NotTaken("constant")  # legal: such chunks take next to nothing already
    limits.check_decoded(decoded, len(data))
    check_spans(layouts, len(data), [group.missing for group in groups])
    if not any(group.steps or group.missing for group in groups):
        return _parse_raw(data, layouts, limits, format)
    search, pads = _Search(), dict[tuple[int, int], bytes]()
    images: list[Image] = []
    for number, group in enumerate(groups):
        images += group.layout.to_images(_decode(data, number, group, search, pads))
    total = sum(sum(layout.lengths) for layout in layouts)
    fidelity: Literal["bytes", "content"] = "bytes"
    if search.missed and not search.unread and format == "zarr" and _alone(layouts, len(data)):
        search.chains, search.found[0, 0], search.missed = [groups[0].steps], 0, 0
        fidelity = "content"
    if not total or search.missed > _KEPT_SHARE * total or len(search.chains) > _MOST_CHAINS:
        raise NotTaken("encoder")
    kept = [frozenset(k for k in range(x.count) if search.found[i, k] < 0) for i, x in enumerate(layouts)]
    recipe: dict[str, Any] = {
        "layouts": layouts_to_json(layouts),
        "chains": [[list(step) for step in chain] for chain in search.chains],
        "blocks": [runs_of([search.found[i, k] for k in range(x.count)]) for i, x in enumerate(layouts)],
        "libraries": libraries(),
    }
    return Parsed(format, fidelity, tuple(images), cut(data, layouts, pads, kept), recipe, _VOLATILE)


def _alone(layouts: Sequence[Layout], size: int) -> bool:
    """Whether a file is one chunk to its end, so that no offset or checksum depends on the chunk's code."""
    return (
        len(layouts) == 1 and layouts[0].count == 1 and layouts[0].offsets[0] + layouts[0].lengths[0] == size
    )


def parse_again(data: memoryview, recipe: Mapping[str, Any], limits: Limits) -> Parsed | None:
    """A file of one chunk that ``rebuild`` wrote with other bytes than the source's, taken apart by its recipe.

    Raises SourceError subclasses.
    """
    (layout,) = layouts_from_json(recipe["layouts"])
    if "chains" not in recipe or layout.count != 1 or layout.offsets[0] > len(data):
        return None
    steps = tuple(check_step(step) for step in recipe["chains"][0])
    layout = replace(layout, lengths=(len(data) - layout.offsets[0],))
    return parse_groups(data, [Group(layout, steps)], limits)


def _parse_raw(data: memoryview, layouts: Sequence[Layout], limits: Limits, format: str) -> Parsed:
    """Chunks without any codec: plain splicing, which needs no library to put them together again."""
    bare = []
    for layout in layouts:
        for k in range(layout.count):
            if layout.lengths[k] != layout.raw_length(k):
                raise MalformedSource(
                    f"a chunk has {layout.lengths[k]} bytes and its samples need {layout.raw_length(k)}"
                )
        bare.append(replace(layout, lengths=()))
    return parse_spliced(format, data, bare, limits)


class _Search:
    """Finds for each chunk the steps that repeat it; those found before come first."""

    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.found: dict[tuple[int, int], int] = {}  # (layout, block): number of its chain, or -1
        self.missed = 0  # bytes of chunks that nothing repeats
        self.unread = 0  # chunks that were not even decoded
        self._recent: list[Chain] = []

    def find(self, steps: Chain, raw: bytes, code: memoryview) -> int:
        """The number of the chain that makes ``code`` of ``raw``, or -1."""
        names = [step[0] for step in steps]
        known = [chain for chain in self._recent if [step[0] for step in chain] == names][:_KNOWN_CHAINS]
        for chain in [*known, *(c for c in variants(steps, code) if c not in known)]:
            try:
                repeated = encode(chain, raw) == code
            except (RebuildMismatch, ValueError, RuntimeError, OverflowError):
                continue
            if repeated:
                if chain in self._recent:
                    self._recent.remove(chain)
                self._recent.insert(0, chain)
                if chain not in self.chains:
                    self.chains.append(chain)
                return self.chains.index(chain)
        return -1


def _decode(
    data: memoryview, number: int, group: Group, search: _Search, pads: dict[tuple[int, int], bytes]
) -> Image:
    """The raster (H, W, S) of a group; chunks that are missing have the fill value. What chunks have beyond its edges goes
    into ``pads``."""
    layout = group.layout
    raster = np.full((layout.height, layout.width, layout.samples), _fill(group.fill, layout), layout.native)
    for k in range(layout.count):
        search.found[number, k] = -1
        if k in group.missing:
            continue
        start, length = layout.offsets[k], layout.lengths[k]
        code = data[start : start + length]
        if group.steps and group.steps[-1][0] == "gzip" and not has_gzip_header(data[start - GZIP_HEADER :]):
            search.missed += length
            search.unread += 1
            continue
        raw = decode(group.steps, code, layout.raw_length(k))
        search.found[number, k] = search.find(group.steps, raw, code)
        search.missed += length if search.found[number, k] < 0 else 0
        layout.place(k, memoryview(raw), raster)
        if layout.pad_length(k):
            pads[number, k] = layout.padding(k, memoryview(raw))
    return raster


def decoded(data: memoryview, groups: Sequence[Group], limits: Limits) -> tuple[Image, ...]:
    """The images of chunks, without a look at how to repeat them. Raises SourceError subclasses."""
    layouts = [group.layout for group in groups]
    limits.check_decoded(sum(layout.decoded_bytes for layout in layouts), len(data))
    check_spans(layouts, len(data), [group.missing for group in groups])
    images: list[Image] = []
    for group, layout in zip(groups, layouts, strict=True):
        shape = (layout.height, layout.width, layout.samples)
        raster = np.full(shape, _fill(group.fill, layout), layout.native)
        for k in range(layout.count):
            if k not in group.missing:
                start = layout.offsets[k]
                code = data[start : start + layout.stored_length(k)]
                raw = decode(group.steps, code, layout.raw_length(k)) if group.steps else code
                if len(raw) < layout.raw_length(k):
                    raise MalformedSource(f"a chunk has {len(raw)} bytes, fewer than its samples need")
                layout.place(k, memoryview(raw), raster)
        images += layout.to_images(raster)
    return tuple(images)


def _fill(value: int, layout: Layout) -> int:
    value += 128 if layout.dtype == "|i1" else 0
    info = np.iinfo(layout.native)
    return value if info.min <= value <= info.max else 0


# -- putting together ----------------------------------------------------------------------------------------


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte. Raises RebuildMismatch."""
    if "chains" not in recipe:
        rebuild_spliced(recipe, surround, images, out)
        return
    layouts = layouts_from_json(recipe["layouts"])
    if len(recipe["chains"]) > _MOST_CHAINS or len(recipe["blocks"]) != len(layouts):
        raise RebuildMismatch("the recipe names another number of rasters than it has layouts")
    chains = [tuple(check_step(step) for step in chain) for chain in recipe["chains"]]
    blocks = [unrun(runs, x.count) for runs, x in zip(recipe["blocks"], layouts, strict=True)]
    for layout, column_ in zip(layouts, blocks, strict=True):
        if len(column_) != layout.count or not layout.lengths:
            raise RebuildMismatch("the recipe names another number of blocks than its geometry needs")
        if max(column_) >= len(chains):
            raise RebuildMismatch("the recipe names a chain of codecs that there is not")
    kept = [frozenset(k for k, chain in enumerate(column_) if chain < 0) for column_ in blocks]

    def apply(i: int, k: int, raw: bytes) -> bytes:
        return encode(chains[blocks[i][k]], raw)

    rasters = to_rasters(layouts, images)
    if (
        len(layouts) == 1
        and layouts[0].count == 1
        and blocks[0][0] >= 0
        and len(surround) == layouts[0].offsets[0]
    ):
        # A single chunk may come out longer or shorter where the library at hand is another one.
        raw = b"".join(layouts[0].pieces(0, rasters[0], memoryview(b"")))
        out.write(surround + apply(0, 0, raw))
        return
    paste(layouts, surround, rasters, out, apply, kept)
