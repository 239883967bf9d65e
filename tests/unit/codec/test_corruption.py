"""Damage of any kind ends in a named error: never in wrong pixels, never in a crash."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
import pytest

from callic_archive.codec.adapter_syntax import read_adapter
from callic_archive.codec.codestream import inspect, parse, serialise
from callic_archive.codec.decoder import decode_image
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.errors import (
    CallicError,
    CodestreamError,
    CodestreamSyntaxError,
    DamagedModel,
    ModelError,
)
from callic_archive.model.adapter import AdapterShape
from pipelines.mint_conformance import header_length, random_adapter, resealed, scene, with_adapter
from tests.unit.model.builders import tiny_models

LIMIT = 1 << 16


@lru_cache(maxsize=1)
def image() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    values = scene(np.random.default_rng(1), 9, 8, 2, 255).astype(np.uint8)
    values[:, :, 1] = values[:, :, 1] // 32 * 32  # a small plane with gaps
    return values


@lru_cache(maxsize=1)
def good() -> bytes:
    return encode_image(image(), models=tiny_models(), options=EncodeOptions(tile=6, patch=4, threads=1))


@lru_cache(maxsize=1)
def adapted() -> bytes:
    gray = next(iter(tiny_models()))
    adapter = random_adapter(gray, AdapterShape(1, 1, 1), 5, 3)
    return with_adapter(image()[:, :, 0], tiny_models(), adapter, inside=True)


@pytest.mark.parametrize("which", [good, adapted], ids=["tiles", "adapter inside"])
def test_every_byte_matters(which: object) -> None:
    raw: bytes = which()  # type: ignore[operator]
    rng = np.random.default_rng(2)
    for position in range(len(raw)):
        for flip in {1, 128, int(rng.integers(1, 256))}:
            broken = bytearray(raw)
            broken[position] ^= flip
            with pytest.raises(CodestreamError):
                decode_image(bytes(broken), models=tiny_models(), max_pixels=LIMIT)


def test_every_truncation_and_extension_is_noticed() -> None:
    raw = good()
    for length in range(len(raw)):
        with pytest.raises(CodestreamSyntaxError):
            decode_image(raw[:length], models=tiny_models())
    for extra in (b"\0", b"\xff" * 5, raw):
        with pytest.raises(CodestreamSyntaxError, match="follow"):
            decode_image(raw + extra, models=tiny_models())


def test_random_bytes_are_no_codestream() -> None:
    rng = np.random.default_rng(3)
    for length in (0, 1, 4, 30, 500):
        with pytest.raises(CodestreamSyntaxError):
            decode_image(rng.bytes(length), models=tiny_models())
        with pytest.raises(CodestreamError):
            inspect(b"\x8fCLC\x01" + rng.bytes(length))


@pytest.mark.parametrize("which", [good, adapted], ids=["tiles", "adapter inside"])
def test_a_forged_header_ends_in_an_error_or_in_the_same_samples(which: object) -> None:
    """Each header byte changed and the CRC made right: what accident cannot do, malice can."""
    raw: bytes = which()  # type: ignore[operator]
    end = header_length(raw)
    expected = decode_image(raw, models=tiny_models())
    rng = np.random.default_rng(4)
    refused = 0
    for position in range(end):
        for value in {0, 255, raw[position] ^ 1, int(rng.integers(0, 256))} - {raw[position]}:
            header = raw[:position] + bytes([value]) + raw[position + 1 : end]
            forged = header + zlib.crc32(header).to_bytes(4, "little") + raw[end + 4 :]
            try:
                back = decode_image(forged, models=tiny_models(), max_pixels=LIMIT)
            except CallicError:
                refused += 1
            else:
                assert back.tobytes() == expected.tobytes(), position
    assert refused > 2 * end


def test_a_forged_stream_ends_in_an_error() -> None:
    stream = parse(good())
    rng = np.random.default_rng(5)
    for group in range(len(stream.streams)):
        for tile, data in enumerate(stream.streams[group]):
            for position in range(len(data)):
                broken = bytearray(data)
                broken[position] ^= int(rng.integers(1, 256))
                tiles = list(stream.streams[group])
                tiles[tile] = bytes(broken)
                streams = [*stream.streams]
                streams[group] = tuple(tiles)
                changed = type(stream)(**{**stream.__dict__, "streams": tuple(streams)})
                with pytest.raises(CodestreamError):
                    decode_image(serialise(changed), models=tiny_models())


def test_exchanged_tiles_are_noticed() -> None:
    stream = parse(good())
    first = stream.streams[0]
    changed = type(stream)(**{**stream.__dict__, "streams": (first[::-1], *stream.streams[1:])})
    with pytest.raises(CodestreamError):
        decode_image(serialise(changed), models=tiny_models())


def test_a_grid_of_single_pixels_over_a_constant_image_costs_nothing() -> None:
    """A hundred bytes may declare billions of tiles where no plane has any: no list of them may be made."""
    raw = encode_image(np.full((3, 3), 7, np.uint8), models=tiny_models())
    stream = parse(raw)
    grid = type(stream.grid)(1 << 18, 1 << 18, 1, 1)
    forged = type(stream)(**{**stream.__dict__, "shape": (1 << 18, 1 << 18), "grid": grid})
    part = decode_image(serialise(forged), models=tiny_models(), region=(5, 5, 7, 8))
    assert part.tolist() == [[7, 7, 7], [7, 7, 7]]
    with pytest.raises(CodestreamSyntaxError, match="limit"):
        decode_image(serialise(forged), models=tiny_models(), max_pixels=1 << 30)


def test_a_header_cannot_ask_for_more_tiles_than_it_has_bytes() -> None:
    stream = parse(good())
    grid = type(stream.grid)(40_000, 40_000, 1, 1)
    forged = type(stream)(**{**stream.__dict__, "shape": (40_000, 40_000, 2), "grid": grid})
    with pytest.raises(CodestreamSyntaxError, match="tiles"):
        decode_image(serialise(forged), models=tiny_models())


def test_damaged_adapters_are_named() -> None:
    gray = next(iter(tiny_models()))
    payload = random_adapter(gray, AdapterShape(2, 1, 1), 8, 4).payload
    assert read_adapter(payload, tiny_models()).payload == payload
    rng = np.random.default_rng(6)
    for position in range(len(payload)):
        broken = bytearray(payload)
        broken[position] ^= int(rng.integers(1, 256))
        with pytest.raises(DamagedModel):
            read_adapter(bytes(broken), tiny_models())
        if position >= len(payload) - 4:
            continue  # the CRC itself, which the next step would mend
        try:
            found = read_adapter(resealed(bytes(broken)), tiny_models())
        except ModelError:
            continue
        assert found.payload != payload
        assert max(int(np.abs(v).max()) for v in found.differences.values()) <= 1023
    for length in range(len(payload)):
        with pytest.raises(DamagedModel):
            read_adapter(payload[:length], tiny_models())
