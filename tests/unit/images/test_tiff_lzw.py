"""The TIFF packers against imagecodecs, which has its own implementations of both."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from callic_archive.images.tiff_lzw import lzw_decode, lzw_encode, packbits_decode, packbits_encode


def cases():
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 3, 255, 256, 257, 258, 1000, 3838, 4096, 70000):
        yield rng.integers(0, 256, size).astype(np.uint8)
        yield np.zeros(size, np.uint8)
        yield (np.cumsum(rng.integers(-1, 2, size)) & 255).astype(np.uint8)
        yield np.repeat(rng.integers(0, 256, size // 3 + 1), rng.integers(1, 300))[:size].astype(np.uint8)


@pytest.mark.parametrize("late", [False, True])
def test_lzw(late):
    for raw in cases():
        code = lzw_encode(raw, late)
        back = lzw_decode(np.frombuffer(code, np.uint8), len(raw))
        assert back is not None
        np.testing.assert_array_equal(back, raw)
        if len(raw) and not late:
            assert imagecodecs.lzw_decode(code, out=len(raw)) == raw.tobytes()


def test_lzw_of_others_is_read():
    for raw in cases():
        if len(raw):
            code = np.frombuffer(imagecodecs.lzw_encode(raw.tobytes()), np.uint8)
            back = lzw_decode(code, len(raw))
            assert back is not None
            np.testing.assert_array_equal(back, raw)


def test_packbits():
    for raw in cases():
        for row in (1, 7, 128, 1000):
            code = packbits_encode(raw, row)
            back = packbits_decode(np.frombuffer(code, np.uint8), len(raw))
            np.testing.assert_array_equal(back, raw)
            assert imagecodecs.packbits_decode(code, out=len(raw)) == raw.tobytes()


def test_rubbish_never_writes_past_the_end():
    rng = np.random.default_rng(1)
    for _ in range(400):
        code = rng.integers(0, 256, int(rng.integers(0, 300))).astype(np.uint8)
        size = int(rng.integers(0, 900))
        back = lzw_decode(code, size)
        assert back is None or len(back) <= size
        assert len(packbits_decode(code, size)) <= size


def test_decoding_stops_at_the_wanted_size():
    code = np.frombuffer(lzw_encode(np.zeros(1 << 20, np.uint8)), np.uint8)
    back = lzw_decode(code, 1000)
    assert back is not None
    assert len(back) == 1000
