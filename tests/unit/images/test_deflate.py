"""Deflate streams come back bit by bit, whoever wrote them, and nothing hostile does harm."""

from __future__ import annotations

import random
import time
import tracemalloc
import zlib

import numpy as np
import pytest

from callic_archive.errors import RebuildMismatch
from callic_archive.images.deflate import describe, recreate
from callic_archive.images.deflate.differences import Reader, Writer
from callic_archive.images.deflate.huffman import heap_lengths, sorted_lengths
from callic_archive.images.deflate.parser import parse
from tests.streams import COMPRESSORS, Bits, capricious, deflated, flushed, samples

SAMPLES = dict(samples())
PLENTY = 1 << 20


def side_of(body: bytes, raw: bytes) -> bytes:
    """The differences of a stream, which have been seen to give it back."""
    writer = Writer()
    assert writer.add(body, raw, PLENTY) == len(body)
    side = writer.finish()
    assert Reader(side).next(raw) == body
    return side


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_every_stream_comes_back(compressor: str, sample: str) -> None:
    raw = SAMPLES[sample]
    side_of(COMPRESSORS[compressor](raw), raw)


@pytest.mark.parametrize("level", range(1, 10))
@pytest.mark.parametrize("memory", [8, 9])
def test_zlib_is_guessed_right(level: int, memory: int) -> None:
    for raw in (SAMPLES["words"], SAMPLES["a ramp"]):
        assert len(side_of(deflated(raw, level, memory), raw)) < 100


def test_a_flush_costs_few_bytes() -> None:
    raw = SAMPLES["words"]
    points = list(range(4000, len(raw), 4000))
    plain = len(side_of(deflated(raw), raw))
    for kind in (zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH):
        assert len(side_of(flushed(raw, points, kind), raw)) < plain + 60 * len(points)


def test_levels_that_change_on_the_way() -> None:
    raw = SAMPLES["words"]
    engine = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = engine.compress(raw[:30000]) + engine.flush(zlib.Z_FULL_FLUSH)
    other = zlib.compressobj(9, zlib.DEFLATED, -15)
    body += other.compress(raw[30000:]) + other.flush()
    assert len(side_of(body, raw)) < len(body) // 3


def test_bytes_behind_the_stream_are_not_taken() -> None:
    raw = SAMPLES["words"]
    body = deflated(raw)
    writer = Writer()
    assert writer.add(body + b"\0\0behind", raw) == len(body)
    assert describe(body + b"\0\0behind", raw) is None


def test_many_streams_share_what_is_learned() -> None:
    raw = SAMPLES["words"]
    pieces = [raw[i : i + 4000] for i in range(0, 60000, 4000)]
    bodies = [COMPRESSORS["libdeflate 6"](piece) for piece in pieces]
    alone = sum(len(side_of(body, piece)) for body, piece in zip(bodies, pieces, strict=True))
    writer = Writer()
    for body, piece in zip(bodies, pieces, strict=True):
        assert writer.add(body, piece) == len(body)
    side = writer.finish()
    assert len(side) < 0.8 * alone
    reader = Reader(side)
    assert [reader.next(piece) for piece in pieces] == bodies


def test_what_is_refused_or_undone_leaves_no_trace() -> None:
    raw, other = SAMPLES["words"], SAMPLES["few values"]
    body, second = deflated(raw), deflated(other, 9)
    writer = Writer()
    assert writer.add(body, raw) == len(body)
    assert writer.add(capricious(other, 3), other, 10) is None  # too dear
    assert writer.add(body, other) is None  # does not decode to that
    assert writer.add(deflated(other, 1), other) is not None
    writer.undo()
    assert writer.add(second, other) == len(second)
    reader = Reader(writer.finish())
    assert (reader.next(raw), reader.next(other)) == (body, second)


def test_describe_prefers_parameters_and_falls_back() -> None:
    raw = SAMPLES["words"]
    found = describe(deflated(raw, 9), raw)
    assert found is not None
    assert (found[0]["level"], found[1]) == (9, b"")
    assert recreate(*found, raw) == deflated(raw, 9)
    stored = describe(deflated(raw, 0), raw)
    assert stored is not None
    assert "stored" in stored[0]
    assert recreate(*stored, raw) == deflated(raw, 0)
    body = flushed(raw, [5000, 9000])
    recipe, side = describe(body, raw) or ({}, b"")
    assert recipe == {"differences": len(side)}
    assert recreate(recipe, side, raw) == body
    zeros = bytes(400_000)
    assert describe(capricious(zeros, 1, stored=0), zeros) is None  # chance costs too much


@pytest.mark.parametrize(
    ("recipe", "side"),
    [
        ({"differences": 3}, b""),
        ({"differences": 9}, b"\xff" * 9),
        ({"stored": [[5, 0, 1]]}, b""),
        ({"window": 99, "level": 6, "memory": 8, "strategy": 0}, b""),
        ({"window": 15}, b""),
    ],
)
def test_recipes_that_cannot_be_followed(recipe: dict[str, object], side: bytes) -> None:
    with pytest.raises(RebuildMismatch):
        recreate(recipe, side, b"abcabcabc" * 50)


def header(*fields: tuple[int, int]) -> bytes:
    out = Bits()
    for value, bits in fields:
        out.put(value, bits)
    return out.done() + bytes(400)


LIES = {
    "nothing": b"",
    "type 3": header((1, 1), (3, 2)),
    "stored, wrong complement": header((1, 1), (0, 2), (0, 5), (4, 16), (4, 16)),
    "stored, cut": header((1, 1), (0, 2), (0, 5), (40000, 16), (40000 ^ 0xFFFF, 16)),
    "distance too far": header((1, 1), (1, 2), (0b0000001 << 0, 7), (31, 5)),
    "too many literals": header((1, 1), (2, 2), (31, 5), (0, 5), (15, 4)),
    "over-subscribed precode": header((1, 1), (2, 2), (0, 5), (0, 5), (15, 4), *[(1, 3)] * 19),
    "empty precode": header((1, 1), (2, 2), (0, 5), (0, 5), (0, 4)),
    "repetition of nothing": header((1, 1), (2, 2), (0, 5), (0, 5), (0, 4), (1, 3), (0, 9), (0, 7)),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie: str) -> None:
    for raw in (b"", b"abc", bytes(300)):
        assert Writer().add(LIES[lie], raw) is None


def test_distances_are_no_longer_than_what_was_written() -> None:
    raw = b"abcabcabc"
    body = bytearray(deflated(raw, 9, 8, 4))
    assert parse(np.frombuffer(bytes(body), np.uint8), np.frombuffer(raw, np.uint8)) is not None
    assert parse(np.frombuffer(bytes(body), np.uint8), np.frombuffer(b"abcabcabd", np.uint8)) is None
    assert parse(np.frombuffer(bytes(body), np.uint8), np.frombuffer(raw[:-1], np.uint8)) is None
    assert parse(np.frombuffer(bytes(body), np.uint8), np.frombuffer(raw + b"a", np.uint8)) is None


@pytest.mark.parametrize("compressor", ["zlib 6", "libdeflate 12", "sync flushes", "chance"])
def test_damaged_streams_are_refused_or_come_back(compressor: str) -> None:
    raw = SAMPLES["words"][:6000]
    body, rng = COMPRESSORS[compressor](raw), random.Random(1)
    for _ in range(300):
        broken = bytearray(body)
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        damaged = bytes(broken[: rng.randint(1, len(broken))] if rng.random() < 0.3 else broken)
        try:
            known = zlib.decompressobj(-15).decompress(damaged, 1 << 16)
        except zlib.error:
            known = raw
        for claimed in {raw, known}:
            writer = Writer()
            used = writer.add(damaged, claimed, PLENTY)
            if used is not None:
                assert Reader(writer.finish()).next(claimed) == damaged[:used]


def test_damaged_differences_end_in_an_error_or_in_bytes() -> None:
    raw, rng = SAMPLES["words"][:20000], random.Random(2)
    sides = [side_of(COMPRESSORS[name](raw), raw) for name in ("libdeflate 12", "chance", "zlib 6")]
    refused = 0
    for _ in range(400):
        broken = bytearray(rng.choice(sides))
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(min(len(broken), 200))] = rng.randrange(256)
        try:
            made = Reader(bytes(broken)).next(raw)
        except RebuildMismatch:
            refused += 1
            continue
        assert len(made) <= 2 * len(raw) + (1 << 16)
    assert refused > 100


def test_bombs_take_little_time_and_memory() -> None:
    raw = bytes(30_000_000)
    body = deflated(raw, 9)
    side_of(body[:100] and deflated(bytes(1000)), bytes(1000))  # compiled before the clock starts
    tracemalloc.start()
    began = time.monotonic()
    writer = Writer()
    assert writer.add(body, raw) == len(body)
    side = writer.finish()
    assert Reader(side).next(raw) == body
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(side) < 100
    assert time.monotonic() - began < 60
    assert peak < 6 * len(raw)  # address space of tokens, of which hardly any is touched


def test_streams_of_nothing_are_not_followed_for_ever() -> None:
    empty = bytes.fromhex("000000ffff")  # an empty stored block
    assert Writer().add(empty * 200_000 + deflated(b"x"), b"x") is None
    few = empty * 50 + deflated(b"x")
    assert Writer().add(few, b"x", PLENTY) == len(few)


def test_work_is_bounded_on_data_that_defeat_hash_chains() -> None:
    # All strings begin alike, so that chains are as long as the window.
    rng = random.Random(4)
    raw = b"".join(b"aaaa" + bytes([rng.randrange(256)]) for _ in range(40000))
    began = time.monotonic()
    side_of(COMPRESSORS["libdeflate 12"](raw), raw)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("make", [heap_lengths, sorted_lengths])
def test_code_lengths_are_those_of_good_codes(make: object) -> None:
    rng = np.random.default_rng(3)
    for most, n in ((15, 286), (15, 30), (7, 19)):
        for _ in range(40):
            counts = (rng.pareto(0.4, n) * rng.integers(0, 2, n)).clip(0, 1 << 20).astype(np.int64)
            lengths = np.zeros(n, np.int64)
            make(counts, n, most, lengths)  # type: ignore[operator]
            used = lengths[lengths > 0]
            assert used.max() <= most
            assert (lengths > 0)[counts > 0].all()
            assert sum(2.0 ** -int(x) for x in used) == 1.0
            order = np.argsort(counts, kind="stable")
            both = order[counts[order] > 0]
            rising = counts[both][1:] > counts[both][:-1]
            assert (np.diff(lengths[both])[rising] <= 0).all()


def test_fibonacci_counts_are_cut_to_the_longest_code_allowed() -> None:
    counts = np.array([1, 1] + [0] * 28, np.int64)
    for i in range(2, 30):
        counts[i] = counts[i - 1] + counts[i - 2]
    for make in (heap_lengths, sorted_lengths):
        lengths = np.zeros(30, np.int64)
        make(counts, 30, 15, lengths)
        assert lengths.max() == 15
        assert sum(2.0 ** -int(x) for x in lengths) == 1.0
