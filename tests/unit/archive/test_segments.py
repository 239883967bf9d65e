"""Images of areas that have one value each."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from callic_archive.archive import candidates, image_coding, isolated, segments
from callic_archive.archive.digests import same_image
from callic_archive.archive.filtered import decode_samples, encode_samples
from tests.doubles import DeflateCodec, DeflatePlan

RNG = np.random.default_rng(11)
CODEC = DeflateCodec(DeflatePlan())


@pytest.fixture(autouse=True, scope="module")
def _end_child() -> Any:
    yield
    isolated.stop()


class Binary:
    """The coder of docs/format/deflate.md, section 1, one bit after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.range = data + bytes(6), 2**48 - 1
        self.code, self.at = int.from_bytes(self.data[:6], "big"), 6
        self.contexts: dict[Any, list[int]] = {}

    def bit(self, *context: Any) -> int:
        state = self.contexts.setdefault(context, [2**21, 0])
        bound = (self.range >> 16) * min(max(state[0] >> 6, 8), 65528)
        if self.code >= bound:
            self.code, self.range, value = self.code - bound, self.range - bound, 1
        else:
            self.range, value = bound, 0
        while self.range < 2**40:
            following = self.data[self.at] if self.at < len(self.data) else 0
            self.range, self.code, self.at = 256 * self.range, 256 * self.code + following, self.at + 1
        state[0] += (((0 if value else 2**22 - 1) - state[0]) * (131072 // (2 * state[1] + 3))) >> 16
        state[1] = min(state[1] + 1, 255)
        return value


ASKED = {
    "W": "N NW NE NWW NEE NN NNW NNE WW T TE TS NNEE NEEE",
    "N": "NW NE NEE NN NNE NNW T TE NWW TS",
    "NE": "NEE NNE T TE",
    "NW": "NWW NNW T",
    "T": "TE TS",
}


def by_the_page(payload: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """As section 7 of docs/format/archive.md says, pixel by pixel."""
    n, r, length = struct.unpack_from("<III", payload)
    table = decode_samples(payload[12 : 12 + length], (1, n, *shape[2:]), dtype)[0]
    coder = Binary(payload[12 + length :])
    x = np.zeros(shape[:2], int)
    largest, news = -1, (0, 0)
    for y in range(shape[0]):
        for c in range(shape[1]):

            def at(row: int, column: int) -> int:
                inside = 0 <= row < shape[0] and 0 <= column < shape[1]
                return int(x[row, column]) if inside else 0

            def named(name: str, y: int = y, c: int = c) -> int:
                if name == "W":
                    return at(y - 1, c) if c == 0 else at(y, c - 1)
                if name[0] == "T":
                    return named("W") if r == 0 or y < r else at(y - r + name.count("S"), c + name.count("E"))
                return at(y - name.count("N"), c + name.count("E") - name.count("W"))

            told = None
            before: list[int] = []
            for k, (name, others) in enumerate(ASKED.items()):
                rank = named(name)
                if rank in before:
                    continue
                before.append(rank)
                if coder.bit(k, sum((named(other) == rank) << i for i, other in enumerate(others.split()))) == 0:
                    told = rank
                    break
                if n == 2:
                    told = 1 - rank
                    break
            if told is None:
                new = 0
                if largest + 1 < n:
                    new = coder.bit("new", news)
                news = (news[1], new)
                if new:
                    told = largest + 1
                else:
                    node, told = 1, 0
                    for place in reversed(range(math.ceil(math.log2(n)))):
                        one = coder.bit("tree", node) if node < 256 else coder.bit("rest", place)
                        node, told = 2 * node + one, 2 * told + one
                largest = max(largest, told)
            x[y, c] = told
    return table[x]


def voronoi(height: int = 120, width: int = 140, count: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    points = RNG.uniform(0, 140, (count, 2))
    return np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in points], axis=0).astype(np.uint16)


@given(st.data(), st.sampled_from(["uint8", "uint16", "int16", "uint32"]))
def test_images_of_few_values_come_back(data: st.DataObject, dtype: str) -> None:
    plane, planes = st.tuples(*[st.integers(1, 20)] * 2), st.tuples(*[st.integers(1, 9)] * 2, st.integers(2, 4))
    shape = data.draw(st.one_of(plane, planes))
    few = data.draw(st.lists(hnp.from_dtype(np.dtype(dtype)), min_size=1, max_size=5))
    image = data.draw(hnp.arrays(dtype, shape, elements=st.sampled_from(few)))
    payload = segments.encode_segments(image)
    if payload is not None:
        found = segments.decode_segments(payload, shape, dtype)
        assert same_image(image, found)
        assert same_image(image, by_the_page(payload, shape, dtype))


@pytest.mark.parametrize("rows", [0, 15, 30])
def test_volumes_and_many_values_follow_the_page_too(rows: int) -> None:
    labels = voronoi(90, 40, 300) if rows == 0 else np.tile(voronoi(rows, 40, 400), (90 // rows, 1))
    labels[50:53, 3:30] = 7
    payload = segments.encode_segments(labels)
    assert payload is not None
    assert struct.unpack_from("<III", payload)[1] == rows
    assert same_image(by_the_page(payload, labels.shape, "uint16"), labels)
    assert same_image(segments.decode_segments(payload, labels.shape, "uint16"), labels)


def test_labels_masks_and_volumes_take_less_than_jpeg_xl_makes_of_them() -> None:
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    blobs = ((np.sin(9 * x) * np.cos(7 * y + x) + RNG.normal(0, 0.02, x.shape)) > 0.3).astype(np.uint8) * 255
    volume = np.concatenate([(np.hypot(x, y) < 0.5 + z / 60) + 2 * (np.hypot(x - 0.3, y) < 0.2) for z in range(12)])
    for image, share in ((voronoi(), 0.5), (blobs, 0.95), (volume.astype(np.uint8), 0.5)):
        coded = candidates.smallest(image, CODEC)
        assert coded.coding == "segments"
        assert len(coded.payload) < share * len(image_coding.encode_foreign(image, "jpegxl", 9))
        assert same_image(image, image_coding.decode_image(coded.payload, "segments", coded.stream, None))


def test_images_of_many_values_are_left() -> None:
    assert segments.encode_segments(RNG.integers(0, 256, (30, 30), np.uint8)) is None
    assert segments.encode_segments(np.zeros((9, 9, 5), np.uint16)) is None, "no more than eight bytes a pixel"


def test_large_images_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MOST_PIXELS", 99)
    assert segments.encode_segments(np.zeros((10, 10), np.uint8)) is None
    assert segments.encode_segments(np.zeros((9, 11), np.uint8)) is not None


def test_what_would_take_more_than_the_image_is_cut_off() -> None:
    """Of bytes that take more than they have, as nothing can be expected of them."""
    image = (RNG.permutation(1 << 16) % 4096).astype(np.uint16).reshape(256, 256)
    payload = segments.encode_segments(image)
    assert payload is not None
    assert len(payload) < 2 * image.nbytes
    assert candidates.smallest(image, CODEC).coding != "segments"


def test_other_payloads_are_refused() -> None:
    labels = voronoi(40, 50, 20)
    good = segments.encode_segments(labels)
    assert good is not None
    few, rows, length = struct.unpack_from("<III", good)
    more = struct.pack("<III", 1 << 17, rows, length)
    for broken in (
        b"", good[:4] + b"\1" + good[5:], good[:11], good[:20], more + good[12:], struct.pack("<III", 0, 0, 0),
        good[:8] + b"\xff" * 4 + good[12:], struct.pack("<III", few + 1, rows, length) + good[12:],
    ):  # fmt: skip
        with pytest.raises(ValueError):
            segments.decode_segments(broken, labels.shape, "uint16")
    with pytest.raises(ValueError):
        segments.decode_segments(good, labels.shape, "uint8")
    table = encode_samples(np.arange(5, dtype=np.uint8).reshape(1, 5))  # three bits say up to 7
    head = struct.pack("<III", 5, 0, len(table))
    beyond = 0
    for seed in range(200):
        data = np.random.default_rng(seed).bytes(60)
        try:
            found = segments.decode_segments(head + table + data, (20, 20), "uint8")
            assert found.max() < 5
        except ValueError:
            beyond += 1
    assert 0 < beyond < 200
