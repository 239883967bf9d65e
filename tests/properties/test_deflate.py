"""Reader(Writer(stream)) == stream for any data, compressor and flush points."""

from __future__ import annotations

import zlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callic_archive.images.deflate import describe, recreate
from callic_archive.images.deflate.differences import Reader, Writer
from tests.streams import COMPRESSORS, capricious, flushed

FAST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PIECES = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=12), st.integers(1, 400)),
)
RAW = st.lists(PIECES, max_size=12).map(b"".join)


def again(body: bytes, raw: bytes) -> bytes:
    writer = Writer()
    assert writer.add(body, raw, 1 << 20) == len(body)
    return Reader(writer.finish()).next(raw)


@FAST
@given(raw=RAW, name=st.sampled_from(sorted(COMPRESSORS)))
def test_any_compressor(raw: bytes, name: str) -> None:
    body = COMPRESSORS[name](raw)
    assert again(body, raw) == body


@FAST
@given(
    raw=RAW,
    points=st.lists(st.integers(0, 20000), max_size=8),
    kind=st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH]),
    level=st.integers(0, 9),
)
def test_any_flush_points(raw: bytes, points: list[int], kind: int, level: int) -> None:
    body = flushed(raw, points, kind, level)
    assert again(body, raw) == body


@FAST
@given(raw=RAW, seed=st.integers(0, 1 << 30))
def test_any_choices(raw: bytes, seed: int) -> None:
    body = capricious(raw, seed)
    assert zlib.decompress(body, -15) == raw
    assert again(body, raw) == body


@FAST
@given(
    raws=st.lists(RAW, min_size=1, max_size=5),
    names=st.lists(st.sampled_from(sorted(COMPRESSORS)), min_size=5, max_size=5),
)
def test_any_sequence(raws: list[bytes], names: list[str]) -> None:
    bodies = [COMPRESSORS[name](raw) for raw, name in zip(raws, names, strict=False)]
    writer = Writer()
    for body, raw in zip(bodies, raws, strict=True):
        assert writer.add(body, raw, 1 << 20) == len(body)
    reader = Reader(writer.finish())
    assert [reader.next(raw) for raw in raws] == bodies


FLIPS = st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 7)), min_size=1, max_size=4)


@FAST
@given(raw=RAW, name=st.sampled_from(sorted(COMPRESSORS)), flips=FLIPS)
def test_any_damage(raw: bytes, name: str, flips: list[tuple[int, int]]) -> None:
    broken = bytearray(COMPRESSORS[name](raw))
    for place, bit in flips:
        broken[place % len(broken)] ^= 1 << bit
    found = describe(bytes(broken), raw)
    if found is not None:
        assert recreate(*found, raw) == bytes(broken)


@FAST
@given(side=st.binary(max_size=300), raw=RAW)
def test_any_differences(side: bytes, raw: bytes) -> None:
    from callic_archive.errors import RebuildMismatch

    try:
        made = Reader(side).next(raw)
    except RebuildMismatch:
        return
    assert len(made) <= 2 * len(raw) + (1 << 16)
