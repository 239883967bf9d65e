"""Where the samples of one image lie in a file: blocks (all of it, strips, or tiles) of rows of samples.

One description covers every uncompressed container: NPY and PNM are a single block, BMP a single block with
padded rows stored bottom up, DICOM a block a frame or a plane, TIFF strips or tiles.

    block k = (plane, by, bx)        0 <= bx < across, 0 <= by < down, plane 0 unless planar
    byte of sample (y, x, s)  =  offsets[k] + (y - by * block_rows) * pitch
                                 + ((x - bx * block_columns) * spp + s) * itemsize

where spp is the samples per pixel inside one block: 1 when planar. Samples of fewer bits than their type (``bits``)
follow each other without gaps within a row.

Chunks of volumes hold parts of several slices: with ``depth`` a block is so many tables of block_rows rows, one after the other,
of as many of the ``frames`` that lie below each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import RebuildMismatch
from callic_archive.images.bit_packing import pack_bits, packed_bytes, unpack_bits, unused_bits

Image = NDArray[Any]
DTYPES = ("|u1", "|i1", "<u2", ">u2", "<i2", ">i2", "<u4", ">u4", "<u8", ">u8")
CHUNK = 4 << 20  # bytes converted at a time when blocks are written, so that writing needs no second image

#: Samples a pixel that one image can have.
MOST_SAMPLES = 255


def apart(samples: int, itemsize: int) -> bool:
    """Whether each sample of a pixel is an image of its own: more than four that are wider than any model takes, or more
    than one codestream takes. Bands in one image are predicted from each other.
    """
    return samples > 4 and (itemsize > 2 or samples > MOST_SAMPLES)


@dataclass(frozen=True)
class Layout:
    """Geometry of one stored raster (height, width, samples), and the file offset of each of its blocks."""

    height: int
    width: int
    samples: int
    dtype: str  # one of DTYPES: the samples as stored
    block_rows: int
    block_columns: int
    pitch: int  # bytes between the rows of a block
    offsets: tuple[int, ...]  # one a block
    lengths: tuple[int, ...] = ()  # stored bytes a block where blocks are compressed, else empty
    whole: bool = False  # True: blocks at the lower edge are stored with all their rows (tiles)
    planar: bool = False
    order: tuple[int, ...] = ()  # channel c of the image is stored sample order[c]; empty: as stored
    flip: bool = False  # rows are stored bottom up
    transpose: bool = False  # columns are stored one after the other
    split: bool = False  # each sample is an image of its own (``apart``)
    frames: int = 1  # slices or frames of equal height that lie below each other; for information, but where there is
    depth: int = 1  # how many of them a block holds parts of; more than 1 with ``whole`` and neither planar nor bits
    bits: int = 0  # of a sample, where those of a row share bytes: 1..7 of "|u1", 9..15 of ">u2"; 0: whole bytes
    lowest_first: bool = False  # single bits: the first is the lowest of its byte

    @property
    def itemsize(self) -> int:
        """Bytes a sample."""
        return int(self.dtype[2])

    @property
    def spp(self) -> int:
        """Samples a pixel inside one block."""
        return 1 if self.planar else self.samples

    @property
    def across(self) -> int:
        """Blocks from left to right."""
        return -(-self.width // self.block_columns)

    @property
    def down(self) -> int:
        """Blocks from top to bottom, those of all slices."""
        if self.depth == 1:
            return -(-self.height // self.block_rows)
        return -(-self.frames // self.depth) * self.slice.down

    @property
    def slice(self) -> Layout:
        """One slice, as far as its geometry goes: a layout of as many blocks as hold parts of it."""
        return replace(self, height=self.height // self.frames, frames=1, depth=1, offsets=(), lengths=())

    def slices(self, k: int) -> tuple[int, range]:
        """Of a block with depth: its number in each slice, and the slices that there are of it."""
        layer, number = divmod(k, self.slice.count)
        first = layer * self.depth
        return number, range(first, min(first + self.depth, self.frames))

    @property
    def count(self) -> int:
        """Blocks in all."""
        return self.across * self.down * (self.samples if self.planar else 1)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of samples of the raster, without padding."""
        return self.height * self.width * self.samples * self.itemsize

    @property
    def native(self) -> np.dtype[Any]:
        """Sample type of the image: uint8, uint16, int16, or uint32 and uint64 in native order.

        Signed bytes become uint8 plus 128; the wide ones are bit patterns, whatever they mean.
        """
        return np.dtype("u1" if self.dtype == "|i1" else self.dtype[1:])

    def row_bytes(self, columns: int) -> int:
        """Bytes of ``columns`` pixels of a row of a block that belong to them alone."""
        return columns * self.spp * (self.bits or 8 * self.itemsize) // 8

    def full_row(self, columns: int) -> int:
        """Bytes of ``columns`` pixels of a row of a block, a last one that they do not fill included."""
        return packed_bytes(columns * self.spp, self.bits or 8 * self.itemsize)

    @property
    def images(self) -> int:
        """How many images the raster gives."""
        return self.samples if self.split else 1

    def region(self, k: int) -> tuple[int, int, int, int, int]:
        """Block ``k`` as (plane, first row, end row, first column, end column) of real pixels."""
        plane, rest = divmod(k, self.across * self.down)
        by, bx = divmod(rest, self.across)
        y, x = by * self.block_rows, bx * self.block_columns
        return plane, y, min(y + self.block_rows, self.height), x, min(x + self.block_columns, self.width)

    def stored_rows(self, k: int) -> int:
        """Rows that the bytes of block ``k`` hold, padding rows included."""
        _, y0, y1, _, _ = self.region(k)
        return self.block_rows if self.whole else y1 - y0

    def raw_length(self, k: int) -> int:
        """Bytes of block ``k`` before compression."""
        if self.depth > 1:
            return self.depth * self.block_rows * self.pitch
        return self.stored_rows(k) * self.pitch

    def stored_length(self, k: int) -> int:
        """Bytes of block ``k`` in the file."""
        return self.lengths[k] if self.lengths else self.raw_length(k)

    def pad_length(self, k: int) -> int:
        """Bytes of block ``k`` that are no pixel of the image."""
        if self.depth > 1:
            one, (number, there) = self.slice, self.slices(k)
            return self.raw_length(k) - len(there) * (one.raw_length(number) - one.pad_length(number))
        _, y0, y1, x0, x1 = self.region(k)
        return self.raw_length(k) - (y1 - y0) * self.row_bytes(x1 - x0)

    def padding(self, k: int, raw: memoryview) -> bytes:
        """The padding bytes of an uncompressed block, in stored order.

        A byte of which pixels have but the first bits counts as padding, with these bits 0.
        """
        if self.depth > 1:
            one, (number, there) = self.slice, self.slices(k)
            size = one.raw_length(number)
            parts = [one.padding(number, raw[n * size : n * size + size]) for n in range(len(there))]
            return b"".join([*parts, raw[len(there) * size : self.raw_length(k)]])
        _, y0, y1, x0, x1 = self.region(k)
        rows = np.frombuffer(raw, np.uint8, self.raw_length(k)).reshape(-1, self.pitch)
        valid = self.row_bytes(x1 - x0)
        right = rows[: y1 - y0, valid:]
        if self._shared(x1 - x0):
            right = right.copy()
            right[:, 0] &= np.uint8(unused_bits(self._shared(x1 - x0), self.lowest_first))
        return right.tobytes() + rows[y1 - y0 :].tobytes()

    def _shared(self, columns: int) -> int:
        """Bits that the last pixels of a row have in a byte that they do not fill."""
        return columns * self.spp * self.bits % 8

    def pieces(self, k: int, raster: Image, pad: memoryview) -> Iterator[bytes]:
        """Block ``k`` of ``raster`` (H, W, S) as it is stored before compression, in pieces of CHUNK."""
        if self.depth > 1:
            one, (number, there) = self.slice, self.slices(k)
            size = one.pad_length(number)
            for n, at in enumerate(there):
                part = raster[at * one.height : (at + 1) * one.height]
                yield from one.pieces(number, part, pad[n * size : n * size + size])
            yield bytes(pad[len(there) * size :])
            return
        plane, y0, y1, x0, x1 = self.region(k)
        part = raster[y0:y1, x0:x1, plane : plane + 1] if self.planar else raster[y0:y1, x0:x1]
        valid, full = self.row_bytes(x1 - x0), self.full_row(x1 - x0)
        right = self.pitch - valid
        if (y1 - y0) * right > len(pad):
            raise RebuildMismatch("the recipe pads rows with more bytes than there are")
        step = max(1, CHUNK // self.pitch)
        for y in range(0, y1 - y0, step):
            rows = part[y : y + step]
            if self.dtype == "|i1":
                rows = rows ^ np.uint8(0x80)
            if self.bits:
                stored = pack_bits(np.ascontiguousarray(rows).reshape(len(rows), -1), self.bits, self.lowest_first)
            else:
                stored = np.ascontiguousarray(rows, dtype=self.dtype.replace("i1", "u1"))
            if not right:
                yield stored.tobytes()
                continue
            padded = np.empty((len(rows), self.pitch), np.uint8)
            padded[:, valid:] = np.frombuffer(pad, np.uint8, len(rows) * right, y * right).reshape(
                len(rows), right
            )
            flat = stored.reshape(len(rows), -1).view(np.uint8)
            padded[:, :valid] = flat[:, :valid]
            padded[:, valid:full] |= flat[:, valid:]
            yield padded.tobytes()
        if self.stored_rows(k) > y1 - y0:
            yield bytes(pad[(y1 - y0) * right :])

    def merged(self) -> Layout:
        """The same layout with strips that touch each other joined to one block a plane, where possible."""
        size = self.block_rows * self.pitch
        if (
            self.lengths
            or self.depth > 1
            or self.across > 1
            or self.down == 1
            or (self.whole and self.height % self.block_rows)
        ):
            return self
        starts = np.array(self.offsets, dtype=np.int64).reshape(-1, self.down)
        if (np.diff(starts, axis=1) != size).any():
            return self
        return replace(self, block_rows=self.height, offsets=tuple(int(o) for o in starts[:, 0]), whole=False)

    def take(self, data: memoryview) -> Image:
        """The raster (H, W, S) of an uncompressed layout: a view of ``data`` where possible, else a copy.

        The offsets must have been checked to lie inside ``data``.
        """
        stored = np.dtype(self.dtype)
        pixel = self.spp * self.itemsize
        steps = set(np.diff(np.array(self.offsets, dtype=np.int64)).tolist())
        if (
            stored.isnative
            and not self.bits
            and self.dtype != "|i1"
            and self.depth == 1
            and self.across == 1
            and self.down == 1
            and len(steps) <= 1
        ):
            plane = steps.pop() if steps else 0
            strides = (self.pitch, pixel, plane if self.planar else self.itemsize)
            start = self.offsets[0]
            if plane >= 0:
                return np.ndarray((self.height, self.width, self.samples), stored, data, start, strides)
        raster = np.empty((self.height, self.width, self.samples), self.native)
        for k in range(self.count):
            start = self.offsets[k]
            self.place(k, data[start : start + self.raw_length(k)], raster)
        return raster

    def place(self, k: int, raw: memoryview, raster: Image) -> None:
        """Copy the pixels of the uncompressed block ``k`` into ``raster`` (H, W, S)."""
        if self.depth > 1:
            one, (number, there) = self.slice, self.slices(k)
            size = one.raw_length(number)
            for n, at in enumerate(there):
                one.place(number, raw[n * size : n * size + size], raster[at * one.height : (at + 1) * one.height])
            return
        plane, y0, y1, x0, x1 = self.region(k)
        target = raster[y0:y1, x0:x1, plane : plane + 1] if self.planar else raster[y0:y1, x0:x1]
        if self.bits:
            rows = np.ndarray((y1 - y0, self.full_row(x1 - x0)), np.uint8, raw, 0, (self.pitch, 1))
            samples = unpack_bits(rows, (x1 - x0) * self.spp, self.bits, self.lowest_first)
            target[...] = samples.reshape(y1 - y0, x1 - x0, self.spp)
            return
        strides = (self.pitch, self.spp * self.itemsize, self.itemsize)
        block = np.ndarray((y1 - y0, x1 - x0, self.spp), self.dtype.replace("i1", "u1"), raw, 0, strides)
        target[...] = block ^ np.uint8(0x80) if self.dtype == "|i1" else block

    def to_images(self, raster: Image) -> tuple[Image, ...]:
        """The images, (H, W) or (H, W, C), in the raster (H, W, S); views but for unusual orders."""
        if self.order:
            mirrored = self.order == tuple(range(self.samples))[::-1]
            raster = raster[..., ::-1] if mirrored else raster[..., list(self.order)]
        if self.flip:
            raster = raster[::-1]
        if self.transpose:
            raster = raster.swapaxes(0, 1)
        if self.split:
            return tuple(raster[..., c] for c in range(self.samples))
        return (raster[..., 0] if self.samples == 1 else raster,)

    def from_images(self, images: Sequence[Image]) -> Image:
        """The raster (H, W, S) of the images. Raises RebuildMismatch when shapes or types are others."""
        shape: tuple[int, ...] = (self.width, self.height) if self.transpose else (self.height, self.width)
        if self.samples > 1 and not self.split:
            shape += (self.samples,)
        for image in images:
            if image.shape != shape or image.dtype != self.native:
                raise RebuildMismatch(
                    f"an image {shape} of {self.native} is needed, got {image.shape} of {image.dtype}"
                )
        if self.split:
            raster = np.stack(list(images), axis=-1)
        else:
            raster = images[0] if self.samples > 1 else images[0][..., None]
        if self.transpose:
            raster = raster.swapaxes(0, 1)
        if self.flip:
            raster = raster[::-1]
        if self.order:
            raster = raster[..., np.argsort(self.order)]
        return raster


# What a recipe may ask for, all its layouts together: archives can be hostile too.
_MOST_LAYOUTS, _MOST_BLOCKS = 1 << 17, 1 << 22
_LARGEST_BLOCK = 1 << 32  # bytes of a block of several slices
_FLAGS = ("whole", "planar", "flip", "transpose", "split", "lowest_first")
_BITS = {"|u1": range(1, 8), ">u2": range(9, 16)}  # of samples that share bytes
_SIZES = ("height", "width", "samples", "block_rows", "block_columns", "pitch")


def runs_of(values: Sequence[int]) -> list[list[int]]:
    """Integers as arithmetic runs [first, step, count]: equal strips or tiles in a row cost one entry."""
    array = np.array(values, dtype=np.int64)
    runs: list[list[int]] = []
    i = 0
    steps = np.diff(array)
    turns = (
        np.append(np.flatnonzero(np.diff(steps) != 0) + 1, len(steps))
        if len(steps)
        else np.array([], np.int64)
    )
    j = 0
    while i < len(array):
        while j < len(turns) and turns[j] <= i:
            j += 1
        end = int(turns[j]) if i < len(steps) else i
        runs.append([int(array[i]), int(steps[i]) if end > i else 0, end - i + 1])
        i = end + 1
    return runs


def unrun(runs: Sequence[Sequence[int]], most: int = _MOST_BLOCKS) -> tuple[int, ...]:
    """The inverse of ``runs_of``. Raises RebuildMismatch when they stand for more than ``most`` numbers."""
    values: list[int] = []
    for first, step, count in runs:
        if not 0 <= count <= most - len(values):
            raise RebuildMismatch("the recipe names more blocks than any file can hold")
        values.extend(range(first, first + step * count, step) if step else [first] * count)
    return tuple(values)


def layouts_to_json(layouts: Sequence[Layout]) -> list[dict[str, Any]]:
    """Layouts as JSON; equal layouts at a fixed distance from each other (frames, pages) take one entry."""
    entries: list[dict[str, Any]] = []
    previous: Layout | None = None
    for layout in layouts:
        if previous is not None and not layout.lengths and len(layout.offsets) == len(previous.offsets):
            last = entries[-1]
            step = layout.offsets[0] - previous.offsets[0]
            shifted = tuple(o + step for o in previous.offsets)
            if replace(previous, offsets=shifted) == layout and last.get("step", step) == step:
                last["step"], last["times"] = step, last.get("times", 1) + 1
                previous = layout
                continue
        entry: dict[str, Any] = {name: getattr(layout, name) for name in _SIZES}
        entry |= {"dtype": layout.dtype, "offsets": runs_of(layout.offsets)}
        entry |= {name: True for name in _FLAGS if getattr(layout, name)}
        if layout.lengths:
            entry["lengths"] = runs_of(layout.lengths)
        if layout.order:
            entry["order"] = list(layout.order)
        if layout.frames > 1:
            entry["frames"] = layout.frames
        if layout.depth > 1:
            entry["depth"] = layout.depth
        if layout.bits:
            entry["bits"] = layout.bits
        entries.append(entry)
        previous = layout
    return entries


def _check_depth(layout: Layout) -> None:
    """Raises RebuildMismatch for blocks of several slices that cannot be."""
    sizes = layout.depth > 1 and layout.frames > 0 and layout.height % layout.frames == 0
    odd = layout.planar or layout.bits or layout.flip or layout.transpose or layout.split or not layout.whole
    if not sizes or odd or layout.depth * layout.block_rows * layout.pitch > _LARGEST_BLOCK:
        raise RebuildMismatch("the recipe names blocks of several slices that cannot be")


def layouts_from_json(entries: Sequence[Mapping[str, Any]]) -> list[Layout]:
    """The inverse of ``layouts_to_json``. Raises RebuildMismatch on nonsense."""
    layouts: list[Layout] = []
    blocks = 0
    for entry in entries:
        if entry["dtype"] not in DTYPES or min(int(entry[name]) for name in _SIZES) < 1:
            raise RebuildMismatch("the recipe names an unknown sample type or an empty image")
        fields: dict[str, Any] = {name: int(entry[name]) for name in _SIZES}
        fields |= {name: bool(entry.get(name, False)) for name in _FLAGS}
        bits = int(entry.get("bits", 0))
        if "bits" in entry and bits not in _BITS.get(entry["dtype"], ()):
            raise RebuildMismatch("the recipe names samples of an impossible number of bits")
        if fields["lowest_first"] and bits != 1:
            raise RebuildMismatch("the recipe turns the bits of samples that have more than one")
        bare = Layout(
            **fields, dtype=entry["dtype"], offsets=(), frames=int(entry.get("frames", 1)), bits=bits,
            depth=int(entry.get("depth", 1)),
        )  # fmt: skip
        if bare.depth != 1:
            _check_depth(bare)
        times = int(entry.get("times", 1))
        blocks += bare.count * max(1, times)
        if blocks > _MOST_BLOCKS or len(layouts) + times > _MOST_LAYOUTS:
            raise RebuildMismatch("the recipe names more images or blocks than any file may hold")
        first = replace(
            bare,
            offsets=unrun(entry["offsets"], bare.count),
            lengths=unrun(entry.get("lengths", ()), bare.count),
            order=tuple(entry.get("order", ())),
        )
        if len(first.offsets) != first.count or (first.lengths and len(first.lengths) != first.count):
            raise RebuildMismatch("the recipe names another number of blocks than its geometry needs")
        if first.lengths and min(first.lengths) < 0:
            raise RebuildMismatch("the recipe names a block of negative length")
        if first.order and (
            len(first.order) != first.samples or sorted(first.order) != list(range(first.samples))
        ):
            raise RebuildMismatch("the recipe orders the samples of a pixel in an impossible way")
        if first.pitch < first.full_row(min(first.block_columns, first.width)):
            raise RebuildMismatch("the recipe leaves a row of a block too little room")
        layouts.append(first)
        for i in range(1, times):
            shift = i * int(entry["step"])
            layouts.append(replace(first, offsets=tuple(o + shift for o in first.offsets)))
    return layouts
