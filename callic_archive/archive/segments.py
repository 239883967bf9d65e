"""Images of areas that have one value each, such as labels and masks: a pixel is mostly what one of its neighbours is.

Which one is told by adaptive binary contexts of what is equal around it, in the manner of JBIG2's template but with any number of
values; a value that no neighbour has is told by itself. In volumes whose slices lie below each other the slice before is a
neighbour too. docs/format/archive.md, section 7, is the specification.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.few_values import few_values, ranks_of
from callic_archive.archive.filtered import decode_samples, encode_samples

Image = NDArray[Any]
Ranks = NDArray[np.int32]

MOST_VALUES = 1 << 16
LEAST_PIXELS = 16  # for each value: of an image with more values no area is large
MOST_PIXELS = 1 << 26  # of an image, as each takes five to six bytes while it is coded
LEAST_ROWS, ALIKE = 8, 0.5  # of slices, and pixels that are alike in the next, for these to be tried
_HEAD = struct.Struct("<III")  # values, rows to the slice before, bytes of the table


def encode_segments(image: Image) -> bytes | None:
    """An image (H, W) or (H, W, C) by its table of values and their ranks; None where it has too many values or pixels."""
    found = _ranked(image)
    if found is None:
        return None
    table, ranks = found
    told = encode_samples(table)
    slices = [0, *_slice_rows(ranks)]
    room = image.nbytes + 64  # what needs more is no coding for that image
    coded, rows = min(((_encoded(ranks, table.shape[1], rows, room), rows) for rows in slices), key=lambda one: len(one[0]))
    return _HEAD.pack(table.shape[1], rows, len(told)) + told + coded


def decode_segments(payload: bytes, shape: tuple[int, ...], dtype: str) -> Image:
    """The inverse of ``encode_segments``. Raises ValueError for any other payload."""
    if len(payload) < _HEAD.size:
        raise ValueError("an image of segments is cut off")
    values, rows, length = _HEAD.unpack_from(payload)
    begin = _HEAD.size + length
    if not 1 <= values <= MOST_VALUES or rows == 1 or begin > len(payload):
        raise ValueError("an image of segments has no such table of values, or no such slices")
    table = decode_samples(payload[_HEAD.size : begin], (1, values, *shape[2:]), dtype)[0]
    ranks = np.zeros(shape[:2], np.int32)
    data = np.frombuffer(payload, np.uint8, offset=begin).copy()  # compiled loops take no read-only arrays
    if not _code(data, ranks, values, min(rows, shape[0]), decode=True)[0]:
        raise ValueError("an image of segments has a rank beyond its values")
    return np.ascontiguousarray(table[ranks])


def _code(data: NDArray[np.uint8], ranks: Ranks, values: int, slice_rows: int, *, decode: bool) -> tuple[bool, int]:
    """Read ranks from ``data``, or write them there; whether that went well, and the bytes written."""
    from callic_archive.archive.segments_kernel import CONTEXTS, code_ranks
    from callic_archive.images.deflate import coder

    c, p = coder.coder(), coder.contexts(CONTEXTS)
    coder.start(c, data, coder.DECODE if decode else coder.ENCODE)
    code_ranks(c, data, p, ranks, values, slice_rows)
    size = 0 if decode else coder.finish(c, data)
    return c[coder.STATUS] == coder.OK, size


def _encoded(ranks: Ranks, values: int, slice_rows: int, room: int) -> bytes:
    buffer = np.zeros(room, np.uint8)
    good, size = _code(buffer, ranks, values, slice_rows, decode=False)
    return buffer[: size if good else room].tobytes()


def _ranked(image: Image) -> tuple[Image, Ranks] | None:
    """Table (1, values) or (1, values, C) of the values of pixels, and the rank of each pixel (H, W); None of what has many."""
    if image.shape[0] * image.shape[1] > MOST_PIXELS:
        return None
    most = min(MOST_VALUES, max(2, image.shape[0] * image.shape[1] // LEAST_PIXELS))
    plain = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("="))
    if plain.ndim == 2:
        keys = plain
    elif plain.shape[2] * plain.itemsize <= 8:
        wide = np.zeros((*plain.shape[:2], 8), np.uint8)
        wide[:, :, : plain.shape[2] * plain.itemsize] = plain.reshape(*plain.shape[:2], -1).view(np.uint8)
        keys = wide.view(np.uint64)[:, :, 0]
    else:
        return None
    found = few_values(keys, most)
    if found is None:
        return None
    table = found if plain.ndim == 2 else found.view(np.uint8).reshape(-1, 8)[:, : plain.shape[2] * plain.itemsize]
    table = np.ascontiguousarray(table).view(plain.dtype).reshape(1, -1, *plain.shape[2:])
    return table, ranks_of(keys, found, np.dtype(np.int32))


def _slice_rows(ranks: Ranks) -> list[int]:
    """Rows of slices that may lie below each other, for a look at the one before: where most pixels are what they were there."""
    height, width = ranks.shape
    some = ranks[:, :: max(1, width // 64)]
    likely = [(0.0, 0)]
    for rows in range(LEAST_ROWS, height // 2 + 1):
        if height % rows == 0:
            likely.append((float(np.mean(some[rows:] == some[:-rows])), rows))
    share, rows = max(likely, key=lambda one: (round(one[0], 2), -one[1]))
    return [rows] if share > ALIKE else []
