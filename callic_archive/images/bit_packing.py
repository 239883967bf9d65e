"""Rows of samples that share bytes: 1 to 15 bits each, one after the other, the first in the highest or lowest bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import RebuildMismatch

Bytes = NDArray[np.uint8]
_STEP = 1 << 22  # bits unfolded at a time, each into a byte


def packed_bytes(samples: int, bits: int) -> int:
    """Bytes of a row of ``samples`` samples."""
    return -(-samples * bits // 8)


def unpack_bits(rows: Bytes, count: int, bits: int, lowest_first: bool = False) -> NDArray[Any]:
    """The first ``count`` samples of each row (H, bytes), as uint8 or, of more than 8 bits, uint16: (H, count).

    ``lowest_first`` (of single bits): the first sample is in the lowest bit of a byte.
    """
    dtype = np.uint8 if bits <= 8 else np.uint16
    if 8 % bits == 0 and not lowest_first:
        shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
        spread = (rows[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
        return np.ascontiguousarray(spread.reshape(len(rows), -1)[:, :count])
    samples = np.empty((len(rows), count), dtype)
    step = max(1, _STEP // max(1, count * bits))
    for y in range(0, len(rows), step):
        some = np.ascontiguousarray(rows[y : y + step])
        flat = np.unpackbits(some, axis=1, count=count * bits, bitorder="little" if lowest_first else "big")
        digits = flat.reshape(len(some), count, bits)
        value = samples[y : y + step]
        value[...] = 0
        for place in range(bits):
            value *= 2
            value |= digits[:, :, place]
    return samples


def pack_bits(samples: NDArray[Any], bits: int, lowest_first: bool = False) -> Bytes:
    """The inverse: rows (H, bytes) of samples (H, count); unused bits are 0.

    Raises RebuildMismatch where a sample has more bits.
    """
    height, count = samples.shape
    if samples.size and int(samples.max()) >> bits:
        raise RebuildMismatch(f"a sample of the image has more than {bits} bits")
    packed = np.zeros((height, packed_bytes(count, bits)), np.uint8)
    if 8 % bits == 0 and not lowest_first:
        each = 8 // bits
        whole = np.zeros((height, packed.shape[1] * each), np.uint8)
        whole[:, :count] = samples
        groups = whole.reshape(height, -1, each)
        for place in range(each):
            packed |= groups[:, :, place] << np.uint8(8 - bits * (place + 1))
        return packed
    shifts = np.arange(bits - 1, -1, -1, dtype=samples.dtype)
    step = max(1, _STEP // max(1, count * bits))
    for y in range(0, height, step):
        some = samples[y : y + step]
        digits = ((some[:, :, None] >> shifts) & samples.dtype.type(1)).astype(np.uint8)
        flat = digits.reshape(len(some), -1)
        packed[y : y + step] = np.packbits(flat, axis=1, bitorder="little" if lowest_first else "big")
    return packed


def unused_bits(used: int, lowest_first: bool = False) -> int:
    """A mask of the bits of a byte of which the first ``used`` (1..7) are taken."""
    return (0xFF << used) & 0xFF if lowest_first else 0xFF >> used
