"""Recipes that no packer writes: refused by name, before they take memory or time."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from callic_archive.errors import RebuildMismatch
from callic_archive.images import Limits, parse
from callic_archive.images.source import Parsed, rebuild
from tests.streams import flushed

GRAY = np.arange(48, dtype=np.uint8).reshape(6, 8)


def taken(data: bytes) -> Parsed:
    parsed = parse(data, "", Limits())
    assert parsed is not None
    return parsed


def refused(parsed: Parsed, recipe: dict[str, Any]) -> None:
    with pytest.raises(RebuildMismatch):
        rebuild(parsed.format, recipe, parsed.surround, parsed.images, io.BytesIO())


def npy(array: np.ndarray = GRAY) -> Parsed:  # type: ignore[type-arg]
    out = io.BytesIO()
    np.save(out, array)
    return taken(out.getvalue())


def tiff(**options: Any) -> Parsed:
    out = io.BytesIO()
    tifffile.imwrite(out, GRAY, photometric="minisblack", rowsperstrip=2, **options)
    return taken(out.getvalue())


def png(level: int) -> Parsed:
    out = io.BytesIO()
    Pillow.fromarray(GRAY).save(out, "png", compress_level=level)
    return taken(out.getvalue())


def by_differences() -> Parsed:
    """A PNG whose stream was flushed on the way."""
    rows = b"".join(b"\0" + row.tobytes() for row in GRAY)
    stream = b"\x78\x9c" + flushed(rows, [20, 30]) + zlib.adler32(rows).to_bytes(4, "big")
    out = io.BytesIO()
    Pillow.fromarray(GRAY).save(out, "png")
    data = out.getvalue()
    chunk = (
        len(stream).to_bytes(4, "big") + b"IDAT" + stream + zlib.crc32(b"IDAT" + stream).to_bytes(4, "big")
    )
    parsed = taken(data[:33] + chunk + data[-12:])
    assert parsed.recipe["differences"] > 12
    return parsed


@pytest.mark.parametrize(
    "change",
    [
        {"times": 1 << 18, "step": 1},
        {"times": 1 << 40, "step": 1},
        {"block_rows": 1, "height": 1 << 40, "offsets": [[0, 1, 1 << 40]]},
        {"block_rows": 1, "block_columns": 1, "offsets": [[0, 1, 48]], "times": 1 << 17, "step": 0},
        {"offsets": [[0, 1, 1 << 22]]},
        {"offsets": [[0, 1, -1]]},
        {"offsets": []},
        {"order": [1]},
        {"order": [0, 0]},
        {"pitch": 7},
        {"lengths": [[48, 0, 1]]},
        {"lengths": [[-48, 0, 1]]},
        {"samples": 0},
        {"dtype": "<f4"},
    ],
    ids=str,
)
def test_impossible_layouts(change: dict[str, Any]) -> None:
    parsed = npy()
    (layout,) = parsed.recipe["layouts"]
    tracemalloc.start()
    try:
        refused(parsed, {"layouts": [layout | change]})
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_short_recipe_cannot_ask_for_billions_of_blocks_by_repeating_itself() -> None:
    parsed = npy()
    (layout,) = parsed.recipe["layouts"]
    many = layout | {"block_rows": 1, "height": 1 << 20, "offsets": [[0, 1, 1 << 20]]}
    tracemalloc.start()
    try:
        refused(parsed, {"layouts": [many | {"times": 1 << 10, "step": 0}]})
        refused(parsed, {"layouts": [many] * 50})
        assert tracemalloc.get_traced_memory()[1] < 400 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"encoders": [["libdeflate", 0, 0]]},
        {"encoders": [["libdeflate", 99, 0]]},
        {"encoders": [["zlib", 6, 1]]},
        {"encoders": [["made up", 6, 8]]},
        {"encoders": [["libtiff", 0, 0]]},
        {"encoders": []},
        {"blocks": [[[7, 0, 3]]]},
        {"blocks": [[[0, 0, 4]]]},
        {"blocks": [[[0, 0, 1 << 40]]]},
        {"blocks": []},
        {"packings": []},
        {"packings": [["deflate", 3]]},
        {"packings": [["none", 1]]},
        {"packings": [["jpeg", 1]]},
    ],
    ids=str,
)
def test_impossible_encoders(change: dict[str, Any]) -> None:
    parsed = tiff(compression="zlib")
    refused(parsed, parsed.recipe | change)


def test_compressed_blocks_need_a_codec() -> None:
    parsed = tiff(compression="zlib")
    refused(parsed, {"layouts": parsed.recipe["layouts"]})


@pytest.mark.parametrize("size", [-1, 0, 1, 1 << 40, "many", None], ids=str)
def test_differences_that_there_are_not(size: object) -> None:
    parsed = by_differences()
    refused(parsed, parsed.recipe | {"differences": size})
    packed = tiff(compression="zlib")
    refused(packed, packed.recipe | {"encoders": [["differences", 0x789C, 0]], "differences": size})
    refused(packed, packed.recipe | {"encoders": [["differences", 1 << 16, 0]]})


@pytest.mark.parametrize("at", range(12))
def test_damaged_differences(at: int) -> None:
    parsed = by_differences()
    side = bytearray(parsed.surround)
    side[len(parsed.essential) + at] ^= 0x55
    out = io.BytesIO()
    try:
        rebuild("png", parsed.recipe, bytes(side), parsed.images, out)
    except RebuildMismatch:
        return
    assert len(out.getvalue()) < 1 << 18  # another stream, for the digest to tell


def test_filters_that_there_are_not() -> None:
    parsed = png(6)
    at = parsed.recipe["before"]
    surround = parsed.surround[:at] + b"\x05" + parsed.surround[at + 1 :]
    with pytest.raises(RebuildMismatch, match="filter"):
        rebuild("png", parsed.recipe, surround, parsed.images, io.BytesIO())


@pytest.mark.parametrize("runs", [[[53, 0, 1]], [[55, 0, 1]], [[27, 0, 3]], []], ids=str)
def test_stored_blocks_hold_all_rows_and_no_more(runs: list[list[int]]) -> None:
    parsed = png(0)
    assert parsed.recipe["deflate"] == {"stored": [[54, 0, 1]]}
    refused(parsed, parsed.recipe | {"deflate": {"stored": runs}})


def gzipped(level: int = 6) -> Parsed:
    out = io.BytesIO()
    np.save(out, GRAY)
    return taken(gzip.compress(out.getvalue(), level))


MEMBER = gzipped().recipe["members"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"members": []},
        {"members": [MEMBER] * 2, "streams": [None] * 2},
        {"members": [MEMBER | {"before": -1}]},
        {"members": [MEMBER | {"before": 1 << 40}]},
        {"members": [MEMBER | {"surround": 1 << 40}]},
        {"members": [MEMBER | {"surround": -5}]},
        {"members": [MEMBER | {"images": 2}]},
        {"members": [MEMBER | {"images": 1 << 40}]},
        {"members": [MEMBER | {"format": "gzip"}]},
        {"members": [MEMBER | {"format": "made up"}]},
        {"members": [MEMBER | {"recipe": {"members": [], "streams": []}}]},
        {"streams": []},
        {"streams": [{}]},
        {"streams": [{"window": 99, "level": 6, "memory": 8, "strategy": 0}]},
        {"streams": [{"window": 15, "level": 6, "memory": 99, "strategy": 0}]},
        {"streams": [{"stored": [[1, 0, 1]]}]},
        {"streams": [{"stored": [[70000, 0, 1]]}]},
        {"streams": [{"stored": [[176, 0, 2]]}]},
        {"streams": [{"stored": [[0, 0, 1 << 40]]}]},
        {"streams": [{"stored": []}]},
    ],
    ids=lambda change: str(change)[:70],
)
def test_impossible_members(change: dict[str, Any]) -> None:
    parsed = gzipped()
    tracemalloc.start()
    try:
        refused(parsed, parsed.recipe | change)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
