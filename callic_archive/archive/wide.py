"""Images of 32 and 64 bits a sample as images that codecs take: ranks among few values, or high and low parts.

Floats that a program made of what a sensor recorded have few values, and their ranks are that record again. Others are
recorded to more places than they are sure of: their high parts are an image, their low ones noise, which nothing makes smaller.
Both rest on an order of the samples: the bits of a float, negative ones turned over, are integers in the order of the numbers.
docs/format/archive.md, section 7, is the specification.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.few_values import few_values, ranks_of

Image = NDArray[Any]
Numbers = NDArray[Any]  # unsigned, of the width of the samples
Order = Literal[0, 1, 2]  # samples are unsigned, signed (two's complement), IEEE 754

HIGH = 16  # bits of a high part, at most
NOISE = 8  # of these, so many that neighbours do not tell
MOST_VALUES = 1 << 16
MOST_JUMPS = 8
SURE = 0.6  # of the other way's length, as it is guessed, up to which one way is not compared with it
_WIDE_JUMP = 8  # a jump is worth its bytes where it is this share of all, or more
_SIDE = 8  # of squares in which the size of differences is taken for constant
_STRIPS, _STRIP, _STRIP_COLUMNS = 32, 32, 8192  # strips at most, their rows and columns: they show what an image takes
_BLOCK = 1 << 20  # samples at a time
_CODINGS = ("", "codestream", "jpegxl", "webp", "samples", "segments")
_HEAD = struct.Struct("<BBBBQ")
_STREAM = struct.Struct("<BBQ")
_COUNT, _JUMP = struct.Struct("<I"), struct.Struct("<QQ")
_TABLE, _PARTS = 0, 1

Jumps = tuple[tuple[int, int], ...]  # (from which number on, how far)


class Stream(NamedTuple):
    """One of the images that a wide one was made into, as it is coded."""

    coding: str
    dtype: str
    shape: tuple[int, ...]
    payload: bytes | memoryview


@dataclass(frozen=True)
class Scale:
    """What samples are in numbers from zero on, without bits or ranges that none of them use."""

    dtype: str
    order: Order
    zeros: int  # bits at the end of all numbers that are none
    offset: int
    jumps: Jumps

    def samples(self, numbers: Numbers) -> Image:
        """The samples of numbers (of the width of the samples), which are used up."""
        kind = np.dtype(self.dtype).type
        for start, width in self.jumps:  # from the lowest
            numbers[numbers >= kind(start)] += kind(width)
        numbers <<= kind(self.zeros)
        numbers += kind(self.offset)
        return np.ascontiguousarray(unordered(numbers, self.order))


@dataclass(frozen=True)
class Split:
    """A wide image as others: ``high`` alone, with ``low`` of ``shift`` bits, or as places in ``table``, (1, values)."""

    scale: Scale
    shift: int
    high: Image
    low: Image | None = None
    table: Image | None = None

    @property
    def images(self) -> list[Image]:
        """Those that there are, in the order of their streams."""
        return [image for image in (self.table, self.high, self.low) if image is not None]


# -- taking apart --------------------------------------------------------------------------------------------


def splits(image: Image) -> list[Split]:
    """The ways to take a uint32 or uint64 image (H, W) or (H, W, C) apart that may be the smallest, the best guess first."""
    words = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("="))
    order = _order(words)
    numbers = ordered(words, order)
    offset = int(numbers.min())
    numbers = np.subtract(numbers, numbers.dtype.type(offset), out=None if numbers is words else numbers)
    bits = int(np.bitwise_or.reduce(numbers, axis=None))
    zeros = (bits & -bits).bit_length() - 1 if bits else 0
    numbers >>= numbers.dtype.type(zeros)
    values = few_values(numbers, min(MOST_VALUES, max(1, numbers.size // 4)))
    ranks = None if values is None else _ranks(numbers, values, Scale(image.dtype.name, order, zeros, offset, ()))
    jumps = _without_jumps(numbers)
    parts = _parts(numbers, Scale(image.dtype.name, order, zeros, offset, jumps))
    if ranks is None or parts.low is None:
        return [parts]
    assert ranks.table is not None
    by_parts = code_length(parts.high) + parts.shift * int(np.count_nonzero(np.diff(parts.low)))
    by_ranks = code_length(ranks.high) + _table_length(ranks.table)
    if by_ranks < SURE * by_parts:
        return [ranks]
    return [parts] if by_parts < SURE * by_ranks else [ranks, parts]


def _table_length(table: Image) -> float:
    """Bits that values take, about, each by its distance from the one before."""
    return float(np.sum(np.log2(np.diff(table[0]).astype(np.float64)) + 2))


def _order(words: Numbers) -> Order:
    """The meaning of samples in which neighbours are most alike; all are one where none has its highest bit set."""
    top = _top(words)
    if not np.any(words & top):
        return 0
    orders: tuple[Order, ...] = (0, 1, 2)
    return min(orders, key=lambda order: code_length(words, order))


def _top(words: Numbers) -> Any:
    return words.dtype.type(1 << (8 * words.itemsize - 1))


def ordered(words: Numbers, order: Order) -> Numbers:
    """Numbers in the order of the samples."""
    top = _top(words)
    if order == 2:
        return np.where(words & top, ~words, words ^ top)
    return words ^ top if order == 1 else words


def unordered(numbers: Numbers, order: Order) -> Numbers:
    """The inverse of ``ordered``."""
    top = _top(numbers)
    if order == 2:
        return np.where(numbers & top, numbers ^ top, ~numbers)
    return numbers ^ top if order == 1 else numbers


def _without_jumps(numbers: Numbers) -> Jumps:
    """Take the widest ranges without numbers out, beside what marks a place without data above all; how to put them back."""
    jumps: Jumps = ()
    while (width := int(numbers.max()).bit_length()) > HIGH:
        found = _jumps(numbers, width - HIGH)[: MOST_JUMPS - len(jumps)]
        if not found:
            break
        for start, wide in sorted(found, reverse=True):  # from the highest: those below stay where they are
            kind = numbers.dtype.type
            np.subtract(numbers, kind(wide), out=numbers, where=numbers >= kind(start))
        jumps = (*sorted(found), *jumps)
    return jumps


def _jumps(numbers: Numbers, shift: int) -> list[tuple[int, int]]:
    """Ranges that no number lies in, in units of 2^shift, the widest first."""
    flat = numbers.reshape(-1)
    taken = np.zeros(1 << HIGH, bool)
    for at in range(0, flat.size, _BLOCK):
        taken[flat[at : at + _BLOCK] >> flat.dtype.type(shift)] = True
    places = np.flatnonzero(taken)
    empty = np.diff(places) - 1
    left = int(places[-1])
    found = []
    for place in np.argsort(empty)[::-1].tolist():
        if int(empty[place]) * _WIDE_JUMP < left or not empty[place]:
            break
        found.append(((int(places[place]) + 1) << shift, int(empty[place]) << shift))
        left -= int(empty[place])
    return found


def _parts(numbers: Numbers, scale: Scale) -> Split:
    width = int(numbers.max()).bit_length()
    shift = 0
    if width > HIGH:
        noise = int(code_length(numbers) / numbers.size)
        shift = min(max(width - HIGH, noise - NOISE), width - 1)
    high = _narrow(numbers >> numbers.dtype.type(shift), width - shift)
    low = _narrow(numbers & numbers.dtype.type((1 << shift) - 1), shift) if shift else None
    return Split(scale, shift, high, low)


def _ranks(numbers: Numbers, values: Numbers, scale: Scale) -> Split:
    ranks = ranks_of(numbers, values, np.dtype(f"u{_bytes_of((values.size - 1).bit_length())}"))
    return Split(scale, 0, ranks, None, values.reshape(1, -1))


def _narrow(numbers: Numbers, bits: int) -> Image:
    return numbers.astype(f"u{_bytes_of(bits)}")


def _bytes_of(bits: int) -> int:
    return next(size for size in (1, 2, 4, 8) if bits <= 8 * size)


def code_length(image: Image, order: Order = 0) -> float:
    """Bits that the image takes, about, each sample by its difference from what three neighbours say; by some strips of it."""
    planes = image if image.ndim == 3 else image[:, :, None]
    total, seen = 0.0, 0
    step = max(1, planes.shape[0] // (_STRIPS * _STRIP))
    for top in range(0, planes.shape[0], step * _STRIP):
        strip = planes[top : top + _STRIP, :_STRIP_COLUMNS]
        strip = ordered(strip, order) if order else strip
        seen += strip.size
        for plane in np.moveaxis(strip, 2, 0):
            off = np.abs(_residuals(plane.astype(np.float64)))
            total += sum(math.log2(2 * math.e * mean + 1) * count for mean, count in _squares(off))
    return total * image.size / seen


def _residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
    guess = np.zeros_like(x)
    guess[:, 1:] = x[:, :-1]
    guess[1:, :1] = x[:-1, :1]
    left, above, corner = x[1:, :-1], x[:-1, 1:], x[:-1, :-1]
    guess[1:, 1:] = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
    return x - guess


def _squares(off: NDArray[np.float64]) -> Iterator[tuple[float, int]]:
    """Mean and number of samples of squares."""
    rows = np.arange(0, off.shape[0], _SIDE)
    columns = np.arange(0, off.shape[1], _SIDE)
    sums = np.add.reduceat(np.add.reduceat(off, rows, axis=0), columns, axis=1)
    heights = np.diff([*rows, off.shape[0]])
    widths = np.diff([*columns, off.shape[1]])
    counts = heights[:, None] * widths[None, :]
    return zip((sums / counts).ravel().tolist(), counts.ravel().tolist(), strict=True)


# -- bytes ---------------------------------------------------------------------------------------------------


def form(split: Split, streams: Sequence[tuple[str, bytes]]) -> bytes:
    """The payload: ``streams`` are coding and payload of each of the images."""
    scale = split.scale
    kind = _PARTS if split.table is None else _TABLE
    pieces = [_HEAD.pack(kind | len(scale.jumps) << 1, scale.order, scale.zeros, split.shift, scale.offset)]
    pieces += [_JUMP.pack(*jump) for jump in scale.jumps]
    if split.table is not None:
        pieces.append(_COUNT.pack(split.table.size))
    for image, (coding, payload) in zip(split.images, streams, strict=True):
        pieces += [_STREAM.pack(_CODINGS.index(coding), image.itemsize, len(payload)), payload]
    return b"".join(pieces)


@dataclass(frozen=True)
class Read:
    """A payload that was read as far as its streams."""

    scale: Scale
    shift: int
    high: Stream
    low: Stream | None
    table: Stream | None

    def joined(self, high: Image, low: Image | None, table: Image | None) -> Image:
        """The image, or the part of it that ``high`` and ``low`` are, in the samples of all. Raises ValueError."""
        kind = np.dtype(self.scale.dtype)
        if table is not None:
            if int(high.max()) >= table.size:
                raise ValueError("a wide image has ranks beyond its values")
            numbers: Numbers = table.reshape(-1)[high]
        else:
            numbers = high.astype(kind) << kind.type(self.shift)
            if low is not None:
                if int(low.max()) >> self.shift:
                    raise ValueError("a low part of a wide image has more bits than it may")
                numbers |= low.astype(kind)
        return self.scale.samples(numbers)


def read(payload: bytes | memoryview, shape: tuple[int, ...], dtype: str) -> Read:
    """Read what ``form`` wrote, for an image of ``shape``. Raises ValueError."""
    width = {"uint32": 32, "uint64": 64}.get(dtype)
    if width is None:
        raise ValueError(f"no image of {dtype} is wide")
    try:
        kind, order, zeros, shift, offset = _HEAD.unpack_from(payload, 0)
        at = _HEAD.size
        kind, count = kind & 1, kind >> 1
        if count > MOST_JUMPS:
            raise ValueError("a wide image has more jumps than it may")
        jumps = tuple(_JUMP.unpack_from(payload, at + _JUMP.size * number) for number in range(count))
        at += _JUMP.size * count
        table = low = None
        if kind == _TABLE:
            (count,) = _COUNT.unpack_from(payload, at)
            table, at = _stream(payload, at + _COUNT.size, (1, count))
        high, at = _stream(payload, at, shape)
        if kind == _PARTS and shift:
            low, at = _stream(payload, at, shape)
    except struct.error as error:
        raise ValueError("a wide image is cut off") from error
    wrong = (
        order not in (0, 1, 2)
        or zeros >= width
        or shift >= width
        or any(number >> width for number in (offset, *(n for jump in jumps for n in jump)))
        or (kind == _TABLE and shift)
        or at != len(payload)
        or high.dtype not in ("uint8", "uint16")
        or (low is not None and np.dtype(low.dtype).itemsize != _bytes_of(shift))
    )
    if wrong or (table is not None and (table.dtype != dtype or not 1 <= table.shape[1] <= MOST_VALUES)):
        raise ValueError("a wide image is not of the form that the specification gives")
    return Read(Scale(dtype, order, zeros, offset, jumps), shift, high, low, table)


def _stream(payload: bytes | memoryview, at: int, shape: tuple[int, ...]) -> tuple[Stream, int]:
    code, size, length = _STREAM.unpack_from(payload, at)
    at += _STREAM.size
    if not 1 <= code < len(_CODINGS) or size not in (1, 2, 4, 8) or length > len(payload) - at:
        raise ValueError("a stream of a wide image has an unknown coding or type, or is cut off")
    return Stream(_CODINGS[code], f"uint{8 * size}", shape, payload[at : at + length]), at + length
