"""Broken copies of good bytes and good JSON: the same from the same generator."""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Sequence
from typing import Any

_BYTES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 32, 64, 127, 128, 192, 224, 254, 255)
_WORDS = (
    0,
    1,
    2,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 256, 65535, 65536, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 62, 1 << 63, 1 << 64,
    -(1 << 63), 10**30, 0.5, -0.0, 1e308, "", "0", "\0", "a/../b", "x" * 300, "zlib", "|u1", ">u2", [], [0], [[0, 0, 1]],
    [[0, 0, 1 << 40]], [[1 << 40, 1 << 40, 1 << 40]], [-1, -1], {}, {"a": 1}, [None], [[]],
)  # fmt: skip


def broken(seed: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """``seed`` with one to a few changes; sometimes spliced with one of ``others``."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        _change(data, rng, others)
    return bytes(data)


def _change(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    size = len(data)
    # Headers decide more than samples do.
    at = rng.randrange(min(size, 512) if rng.random() < 0.6 else size) if size else 0
    kind = rng.randrange(9)
    if not size or kind == 0:
        data[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind <= 2:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 3:
        data[at] = rng.choice(_BYTES)
    elif kind == 4:
        width = rng.choice((2, 4, 8))
        value = rng.choice(_WORDS) & ((1 << 8 * width) - 1)
        data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
    elif kind == 5:
        del data[at : at + rng.choice((1, 2, 4, 16, 64))]
    elif kind == 6:
        piece = data[at : at + rng.choice((1, 4, 12, 64))]
        data[at:at] = piece * rng.choice((1, 1, 2, 50))
    elif kind == 7:
        del data[rng.randrange(size) :]
    elif others:
        other = rng.choice(others)
        begin = rng.randrange(len(other) + 1)
        data[at:] = other[begin : begin + rng.randrange(2 * size + 16)]


def mended_png(data: bytes) -> bytes:
    """A PNG whose chunks have their lengths and checksums made right as far as they can be told apart."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 12)
        body = data[at + 4 : at + 8 + length]
        out += length.to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return bytes(out)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the values inside ``value`` lie."""
    found = [here]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += paths(inner, (*here, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value[:40]):
            found += paths(inner, (*here, number))
    return found


def broken_json(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON object in which values were replaced, nudged, dropped or doubled."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = [place for place in paths(value) if place]
        if not places:
            return value
        *way, last = rng.choice(places)
        holder = value
        for step in way:
            holder = holder[step]
        old, kind = holder[last], rng.randrange(5)
        if kind == 0 and isinstance(holder, dict):
            del holder[last]
        elif kind == 0:
            holder.insert(last, copy.deepcopy(old))
        elif kind <= 2 and type(old) is int:
            holder[last] = old + rng.choice((-1, 1, -2, 2, 7, -old, old, 1 << 16, 1 << 31, -(1 << 31)))
        elif kind == 3 and isinstance(holder, dict):
            holder[rng.choice(("differences", "members", "stored", "packings", "flip", "planar", "x"))] = (
                copy.deepcopy(rng.choice(_VALUES))
            )
        else:
            holder[last] = copy.deepcopy(rng.choice(_VALUES))
    return value
