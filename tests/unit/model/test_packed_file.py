"""Model files as archives carry them come back byte for byte, and take less; what is none is refused."""

from __future__ import annotations

import json
import lzma
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard
from safetensors.numpy import load, save

from callic_archive.model.packed_file import pack_model, unpack_model
from callic_archive.model.weights import ModelSet
from tests.unit.model.builders import CONFORMANCE

MOST = 1 << 20


def test_the_models_that_ship_come_back_and_take_less_than_as_they_are() -> None:
    for model in ModelSet.default():
        packed = pack_model(model.raw)
        assert unpack_model(packed, MOST) == model.raw
        plain = len(zstandard.ZstdCompressor(level=19).compress(model.raw))
        assert len(packed) < plain - 15_000


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4"])
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (1000,)])
def test_arrays_of_every_type_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(-100, 100, shape).astype(dtype)
    extremes = np.array([0, -1, 127, -128], np.int8).astype(dtype)
    raw = save({"a": values, "b": np.cumsum(values, dtype=dtype), "c": extremes})
    assert unpack_model(pack_model(raw), MOST) == raw


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0", b"no model", bytes(3000), struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"[]",
     struct.pack("<Q", 2) + b"{}" + b"more than it says"],
)  # fmt: skip
def test_any_bytes_come_back(raw: bytes) -> None:
    assert unpack_model(pack_model(raw), MOST) == raw


def test_differences_are_modulo_the_word() -> None:
    steep = np.array([0, 32767, -32768, 5, -5] * 400, np.int16)
    ramp = (np.arange(5000) ** 2).astype(np.int32)
    raw = save({"steep": steep, "ramp": ramp})
    packed = pack_model(raw)
    assert unpack_model(packed, MOST) == raw
    assert len(packed) < 500


def _content(pieces: list[tuple[int, int, int]], data: bytes) -> bytes:
    table = struct.pack("<I", len(pieces)) + b"".join(struct.pack("<IBB", *piece) for piece in pieces)
    return lzma.compress(table + data)


def test_the_form_is_that_of_the_specification() -> None:
    """Bytes written by hand from docs/format/container.md: words 5, 3, 6 (first differences 5, -2, 3) behind two bytes."""
    packed = _content([(2, 1, 0), (6, 2, 1)], b"\2\3" + b"\x0a\3\6" + b"\0\0\0")
    assert unpack_model(packed, MOST) == b"\1\xfe" + struct.pack("<3H", 5, 3, 6)
    packed = _content([(12, 4, 2)], b"\2\0\0" + b"\0\2\0" + bytes(6))  # second differences 1, 256, 0
    assert unpack_model(packed, MOST) == struct.pack("<3I", 1, 258, 515)


def test_a_header_comes_without_the_offsets_that_follow_from_lengths() -> None:
    text = b'\0{"a":{"data_offsets":[]},"b":{"data_offsets":[]}}'
    doubled = bytes(2 * letter for letter in text)
    packed = _content([(len(text), 0, 0), (6, 2, 1), (1, 1, 0)], doubled + b"\x0a\3\6" + b"\0\0\0" + b"\2")
    told = b'\0{"a":{"data_offsets":[0,6]},"b":{"data_offsets":[6,7]}}'
    assert unpack_model(packed, MOST) == told + struct.pack("<3H", 5, 3, 6) + b"\1"
    with pytest.raises(ValueError, match="at most"):
        unpack_model(packed, len(text) + 7)  # the pieces are no longer than that, the model is


def test_the_tables_of_every_model_that_ships_are_told_by_their_formulas() -> None:
    for model in ModelSet.default():
        content = lzma.decompress(pack_model(model.raw))
        (count,) = struct.unpack_from("<I", content)
        told = [struct.unpack_from("<IBB", content, 4 + 6 * number) for number in range(count)]
        by_formula = [(order, length) for length, width, order in told if width == 3]
        assert sorted(order for order, _ in by_formula) == [0, 1, 2, 3, 4, *[5] * 3, *[6] * 3]
        assert sum(length for _, length in by_formula) == 2 + 6 * 2


def test_a_table_that_its_formula_does_not_give_is_carried() -> None:
    """One entry of every table is another."""
    model = next(iter(ModelSet.default()))
    for name in ("compand", "rsqrt", "0.swish", "2.gelu", "mixture.sigmoid"):
        arrays = load(model.raw)
        header = json.loads(model.raw[8 : 8 + struct.unpack("<Q", model.raw[:8])[0]])
        arrays[name] = arrays[name].copy()
        arrays[name][700] += 1
        raw = save(arrays, header["__metadata__"])
        assert unpack_model(pack_model(raw), MOST) == raw
        assert len(pack_model(raw)) > len(pack_model(model.raw)) + 50


@pytest.mark.parametrize(
    "metadata",
    [
        "", "{}", "[]", '{"config": {"dim": 1e9}, "fractions": {}}', '{"config": {"dim": 70000}, "fractions": 3}',
        '{"config": {"dim": 16}, "fractions": {"0": {"dw": 300, "swish": -1}}}',
        '{"config": {"dim": 16}, "fractions": {"0": {"dw": 99, "swish": 5}}}',
    ],
)  # fmt: skip
def test_models_that_lie_about_their_tables_come_back(metadata: str) -> None:
    raw = save({"rsqrt": np.ones(3072, np.int32), "0.swish": np.ones(4096, np.int16)}, {"callic": metadata})
    assert unpack_model(pack_model(raw), MOST) == raw


def test_tables_are_no_way_to_ask_for_more_than_a_model_may_have() -> None:
    content = struct.pack("<I", 60000) + struct.pack("<IBB", 0, 3, 3) * 60000
    with pytest.raises(ValueError, match="at most"):
        unpack_model(lzma.compress(content), MOST)


def test_odd_headers_come_back() -> None:
    """Offsets that lie otherwise than the header names them, and such words where there are no arrays."""
    values = np.arange(6, dtype=np.int16)
    raw = save({"a": values, "b": values})
    assert b'"data_offsets":[0,12]' in raw
    assert b'"data_offsets":[12,24]' in raw
    swapped = raw.replace(b"[0,12]", b"[..]").replace(b"[12,24]", b"[0,12]").replace(b"[..]", b"[12,24]")
    spaced = raw.replace(b"[0,12]", b"[0,12 ]").replace(b"}   ", b"}  ")
    for odd in (swapped, spaced, b'"data_offsets":[]', b'"data_offsets":[0,12]' * 9, b'"data_offsets":[]' + raw):
        assert unpack_model(pack_model(odd), MOST) == odd


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (b"", "whole xz stream"),
        (b"no stream", "whole xz stream"),
        (lzma.compress(b""), "table"),
        (lzma.compress(b"\xff\xff\xff\xff"), "table"),
        (lzma.compress(bytes(2 << 20)), "at most"),
        (_content([], b"")[:-1], "whole xz stream"),
        (_content([], b"") + b"more", "whole xz stream"),
        (_content([], b"") * 2, "whole xz stream"),
        (lzma.compress(bytes(4), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]), "whole xz stream"),
        (_content([(0, 1, 0)] * 65_537, b""), "too long"),
        (_content([(2, 1, 0)], b"abc"), "as long as"),
        (_content([(4, 1, 0)], b"abc"), "as long as"),
        (_content([(3, 2, 0)], b"abc"), "invalid"),
        (_content([(3, 3, 0)], b"abc"), "no table"),
        (_content([(2, 3, 9)], b"ab"), "no table"),
        (_content([(3, 5, 0)], b"abc"), "invalid"),
        (_content([(3, 0, 1)], b"abc"), "invalid"),
        (_content([(2, 1, 0), (1, 0, 0)], b"abc"), "invalid"),
        (_content([(2, 0, 0), (1, 1, 0)], b"abc"), "another number"),
        (_content([(3, 1, 4)], b"abc"), "invalid"),
        (_content([((1 << 20) + 1, 1, 0)], bytes((1 << 20) + 1)), "at most"),
    ],
)
def test_what_is_no_packed_model_is_refused(packed: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        unpack_model(packed, MOST)


def test_damage_never_crashes() -> None:
    chance = random.Random(3)
    raw = (CONFORMANCE / "model-gray.safetensors").read_bytes()
    packed = pack_model(raw)
    for _ in range(300):
        broken = bytearray(packed)
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        try:
            assert len(unpack_model(bytes(broken[: chance.choice([len(broken), chance.randrange(len(broken))])]), MOST)) <= MOST
        except ValueError:
            pass


def test_the_suffix_names_the_form(tmp_path: Path) -> None:
    from callic_archive.model.weights import read_model_bytes

    raw = (CONFORMANCE / "model-gray.safetensors").read_bytes()
    (tmp_path / "m.model.xz").write_bytes(pack_model(raw))
    (tmp_path / "m.safetensors").write_bytes(raw)
    assert read_model_bytes(tmp_path / "m.model.xz") == read_model_bytes(tmp_path / "m.safetensors") == raw
