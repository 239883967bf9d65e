"""gzip files of many members: BGZF, files joined to one, paddings; and what lies about itself."""

from __future__ import annotations

import gzip
import io
import itertools
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callic_archive.errors import (
    MalformedSource,
    RebuildMismatch,
    SourceError,
    SourceTooLarge,
    TruncatedSource,
)
from callic_archive.images import parse, rebuild
from callic_archive.images.source import Limits


def npy(height=40, width=50, seed=1):
    noise = np.random.default_rng(seed).integers(0, 9, (height, width))
    out = io.BytesIO()
    np.save(out, (np.add.outer(np.arange(height), np.arange(width)) + noise).astype("<u2"))
    return out.getvalue()


def deflated(part, level):
    if level == "libdeflate":
        return bytes(imagecodecs.deflate_encode(part, level=7, raw=True))
    engine = zlib.compressobj(level, zlib.DEFLATED, -15, 8)
    return engine.compress(part) + engine.flush()


def bgzf(raw, size=0xFF00, level=6):
    """As bgzip writes it: members that tell their length, and an empty one at the end."""
    out = b""
    for at in [*range(0, len(raw), size), len(raw)]:
        part = raw[at : at + size]
        body = deflated(part, level)
        out += b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25) + body
        out += struct.pack("<II", zlib.crc32(part), len(part))
    return out


def test_bgzf(exact):
    raw = npy()
    parsed = exact(bgzf(raw, 900))
    np.testing.assert_array_equal(parsed.images[0], np.load(io.BytesIO(raw)))
    (stream,) = parsed.recipe["streams"]
    assert len(stream["ways"]) == 1
    assert sum(n for _, _, n in stream["use"]) == len(raw) // 900 + 2


def test_thousands_of_members(exact):
    data = bgzf(npy(80, 100), 5)
    assert data.count(b"\x1f\x8b\x08\x04") > 3000
    assert len(exact(data).recipe["streams"][0]["ways"]) < 4


@pytest.mark.parametrize("padding", [b"", b"\0", bytes(512), b"rubbish"])
def test_joined_files(exact, padding):
    raw = npy()
    exact(gzip.compress(raw[:100], 9) + gzip.compress(b"") + gzip.compress(raw[100:], 1) + padding)
    exact(gzip.compress(raw) + gzip.compress(b"") + padding)


def test_members_of_other_compressors_have_differences(exact):
    parsed = exact(bgzf(npy(100, 200), 20000, "libdeflate"))
    (stream,) = parsed.recipe["streams"]
    assert stream["differences"] > 0
    assert -1 in [first for first, _, _ in stream["use"]]


def test_what_is_left_and_what_is_broken():
    raw = npy()
    assert parse(gzip.compress(b"text " * 20) + gzip.compress(b"more text " * 200)) is None
    assert parse(gzip.compress(b"\x93NUM") + gzip.compress(b"too short")) is None
    two = gzip.compress(raw[:700]) + gzip.compress(raw[700:])
    at = len(gzip.compress(raw[:700]))
    broken = bytearray(two)
    broken[-6] ^= 1
    with pytest.raises(MalformedSource, match="checksum"):
        parse(bytes(broken))
    for end in (at + 5, at + 12, at + 40, len(two) - 3):
        with pytest.raises((TruncatedSource, MalformedSource)):
            parse(two[:end])


def test_bombs():
    zeros = gzip.compress(bytes(1 << 20))
    bomb = gzip.compress(npy()[:700]) + zeros * 20
    with pytest.raises(SourceTooLarge, match="the limit"):
        parse(bomb, limits=Limits(max_member_bytes=4 << 20))
    assert parse(zeros * 3000) is None  # no image: nothing is inflated


@given(
    cuts=st.lists(st.integers(0, 4128), max_size=8),
    levels=st.lists(st.sampled_from([0, 1, 6, 9]), min_size=9, max_size=9),
    tail=st.binary(max_size=20).filter(lambda tail: not tail.startswith(b"\x1f\x8b")),
)
@settings(deadline=None, max_examples=25)
def test_any_cuts_come_back(cuts, levels, tail):
    raw = npy()
    places = [0, *sorted(cuts), len(raw)]
    parts = [raw[a:b] for a, b in itertools.pairwise(places)]
    data = b"".join(gzip.compress(p, level, mtime=0) for p, level in zip(parts, levels, strict=False)) + tail
    parsed = parse(data)
    assert parsed is not None
    out = io.BytesIO()
    rebuild(parsed.format, parsed.recipe, parsed.surround, parsed.images, out)
    assert out.getvalue() == data


@pytest.mark.parametrize(
    "change",
    [
        {"pieces": []}, {"pieces": [[-1, 0, 6]]}, {"pieces": [[900, 0, 1 << 40]]}, {"pieces": [[900, 0, 6]]},
        {"pieces": [[800, 0, 4], [929, -929, 2]]}, {"between": []}, {"between": [[-26, 0, 5]]},
        {"between": [[1 << 40, 0, 5]]}, {"use": [[0, 0, 5]]}, {"use": [[1, 0, 6]]}, {"use": [[-1, 0, 6]]},
        {"use": [[-2, 0, 6]]}, {"ways": []}, {"ways": [{"level": 6}]}, {"ways": [{"stored": [[65536, 0, 1]]}]},
        {"ways": [{"window": 99, "level": 6, "memory": 8, "strategy": 0}]}, {"differences": 7}, {"differences": -7},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_recipes(change):
    parsed = parse(bgzf(npy(), 900))
    assert parsed is not None
    (stream,) = parsed.recipe["streams"]
    recipe = parsed.recipe | {"streams": [stream | change]}
    with pytest.raises(RebuildMismatch):
        rebuild("gzip", recipe, parsed.surround, parsed.images, io.BytesIO())


def test_damage():
    good = bgzf(npy(), 900)
    rng = np.random.default_rng(3)
    for _ in range(100):
        broken = bytearray(good)
        broken[int(rng.integers(len(good)))] ^= int(rng.integers(1, 256))
        try:
            parsed = parse(bytes(broken))
        except SourceError:
            continue
        if parsed is not None:
            out = io.BytesIO()
            rebuild(parsed.format, parsed.recipe, parsed.surround, parsed.images, out)
            assert out.getvalue() == bytes(broken)
