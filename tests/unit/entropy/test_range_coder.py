"""The range coder: exact bytes, one ending only, any stepping, no bytes beyond the end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from callic_archive.entropy.mixture import ideal_bits
from callic_archive.entropy.range_coder import RangeDecoder, RangeEncoder
from callic_archive.errors import (
    CodestreamError,
    EntropyInputError,
    StreamCorruptError,
    StreamTrailingError,
    StreamTruncatedError,
)
from tests.unit.entropy import reference
from tests.unit.entropy.cases import PLAIN_TABLES, TABLES, Case, adversarial, fixed, realistic

SPECIFICATION = (Path(__file__).parents[3] / "docs/format/entropy.md").read_text("utf-8")
GOLDEN = {
    "rgb8": (fixed(6, 5, [0] * 3, [0] * 3, [255] * 3), "fcde5501508befd4f3c8da4cb7d355beeb"),
    "gray16": (fixed(8, 5, [8], [0], [65535]), "5b3ad2d20cfb1e93d70d42e8a09cca"),
    "int16": (fixed(8, 3, [6], [-32768], [32767]), "de3541bfe8b4d7f00cd2b5594c"),
    "bits": (fixed(40, 2, [0], [0], [1]), "eb61bbd591a5"),
    "mixed": (
        fixed(6, 2, [0, 1, 0, 2], [0, 7, -5, 0], [255, 7, 250, 4095]),
        "dd5eed2dc53a420aae2585b6a8adcda0",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name: str) -> None:
    case, text = GOLDEN[name]
    assert case.encode().hex() == text
    assert np.array_equal(case.decode(bytes.fromhex(text)), case.symbols)
    assert reference.decode_pixels(bytes.fromhex(text), *case.plain(), PLAIN_TABLES) == case.symbols.tolist()


def test_the_vector_of_the_specification() -> None:
    lines = {}
    for line in SPECIFICATION.split("## 9. Test vector")[1].splitlines():
        if line.startswith("    "):
            name, _, text = line.strip().partition("  ")
            lines[name] = text.split()
    row, values = ([int(v) for v in lines[name]] for name in ("head row", "values"))
    n = len(values)
    symbols = np.array(values, np.int32)[:, None]
    case = Case(np.array([row] * n, np.int32), np.zeros((n, 1), np.int64), [0], [0], [1], symbols)
    pixel = reference.Pixel(row, [0], [0], [0], [1], PLAIN_TABLES)
    assert lines["pi"] == [str(v) for v in pixel.pi]
    assert lines["mu"] == [str(v) for v in pixel.mu[0]]
    assert lines["sig at x = 1"] == [str(pixel.sigmoid(1, k)) for k in (0, 1)]
    assert lines["C(1)"] == [str(pixel.cdf(1))]
    assert lines["stream"] == [case.encode().hex()]
    for name, table in (("EXP", TABLES.exp), ("INV", TABLES.inv_mantissa), ("SIG", TABLES.sigmoid)):
        assert f"{name}  {hashlib.sha256(table.astype('<i4').tobytes()).hexdigest()}" in SPECIFICATION


def test_golden_bytes_of_plain_symbols() -> None:
    encoder = RangeEncoder()
    encoder.encode_uniform([0, 1, 2, 3], 2)
    encoder.encode_symbols([0, 3, 5], [3, 2, 3], 3)
    encoder.encode_uniform([0x1234567], 28)
    data = encoder.finish()
    assert data.hex() == "1b33a3d70a"
    plain = reference.Decoder(data)
    for cum, freq, bits in (0, 1, 2), (1, 1, 2), (2, 1, 2), (3, 1, 2), (0, 3, 3), (3, 2, 3), (5, 3, 3):
        assert cum <= plain.target(bits) < cum + freq
        plain.take(cum, freq, bits)
    assert plain.target(28) == 0x1234567
    plain.take(0x1234567, 1, 28)
    plain.finish()
    decoder = RangeDecoder(data)
    assert decoder.decode_uniform(4, 2).tolist() == [0, 1, 2, 3]
    assert decoder.decode_symbols([0, 3, 5, 8], 3, 3).tolist() == [0, 1, 2]
    assert decoder.decode_uniform(1, 28).tolist() == [0x1234567]
    decoder.finish()


def test_an_empty_stream_is_empty() -> None:
    assert RangeEncoder().finish() == b""
    RangeDecoder(b"").finish()
    with pytest.raises(StreamTrailingError):
        RangeDecoder(b"\0").finish()


def test_a_carry_runs_through_many_bytes() -> None:
    """Symbols around 1/2 leave 7f ff ff ... behind, until one above 1/2 turns it into 80 00 00 ..."""
    around_half = RangeDecoder(b"\x80" + bytes(600)).decode_uniform(600, 7)
    encoder = RangeEncoder()
    encoder.encode_uniform(around_half, 7)
    before = encoder._buffer[: int(encoder._state[2])].tobytes()
    assert before == b"\x7f" + b"\xff" * (len(before) - 1)
    assert len(before) > 500
    encoder.encode_uniform([127, 127], 7)
    data = encoder.finish()
    assert data.startswith(b"\x80" + bytes(len(before) - 8))
    decoder = RangeDecoder(data)
    assert decoder.decode_uniform(602, 7).tolist() == [*around_half.tolist(), 127, 127]
    decoder.finish()


def test_steps_of_any_size_give_the_same_bytes() -> None:
    case = realistic(500, 3, 5, 8, seed=1)
    whole = case.encode()
    rng = np.random.default_rng(2)
    cuts = np.sort(rng.integers(0, 501, 60))
    parts = [slice(int(a), int(b)) for a, b in zip([0, *cuts], [*cuts, 500], strict=True)]
    encoder = RangeEncoder()
    for rows in parts:
        piece = case.part(rows)
        encoder.encode_pixels(*piece.context, TABLES, piece.symbols)
    assert encoder.finish() == whole
    decoder = RangeDecoder(whole)
    steps = [decoder.decode_pixels(*case.part(rows).context, TABLES) for rows in parts]
    decoder.finish()
    assert np.array_equal(np.concatenate(steps), case.symbols)


def test_pixels_and_plain_symbols_share_one_stream() -> None:
    case = fixed(5, 3, [0], [0], [255])
    encoder = RangeEncoder()
    encoder.encode_uniform([5], 17)
    encoder.encode_pixels(*case.context, TABLES, case.symbols)
    encoder.encode_symbols([0], [1], 1)
    encoder.encode_pixels(*case.context, TABLES, case.symbols)
    data = encoder.finish()
    decoder = RangeDecoder(memoryview(data))
    assert decoder.decode_uniform(1, 17).tolist() == [5]
    assert np.array_equal(decoder.decode_pixels(*case.context, TABLES), case.symbols)
    assert decoder.decode_symbols([0, 1, 2], 1, 1).tolist() == [0]
    assert np.array_equal(decoder.decode_pixels(*case.context, TABLES), case.symbols)
    decoder.finish()


def test_int32_skips_and_strided_arrays_are_taken_as_they_are() -> None:
    case = fixed(10, 3, [0] * 3, [0] * 3, [255] * 3)
    wide = np.zeros((20, case.head.shape[1]), np.int32)
    wide[::2] = case.head
    encoder = RangeEncoder()
    encoder.encode_pixels(
        wide[::2], np.asfortranarray(case.skip.astype(np.int32)), np.zeros(3, np.uint8), *case.context[3:],
        TABLES, np.asfortranarray(case.symbols),
    )  # fmt: skip
    assert encoder.finish() == case.encode()


@pytest.mark.parametrize(("channels", "bits"), [(3, 8), (1, 16)])
def test_overhead_is_below_a_hundredth_of_a_percent(channels: int, bits: int) -> None:
    case = realistic(60000, channels, 5, bits, seed=bits)
    data = case.encode()
    ideal = float(ideal_bits(*case.context, TABLES, case.symbols).sum())
    assert -8 < len(data) * 8 - ideal < 1e-4 * ideal
    assert np.array_equal(case.decode(data), case.symbols)


def test_whole_intervals_are_free() -> None:
    encoder = RangeEncoder()
    encoder.encode_symbols([0] * 1000, [1 << 28] * 1000, 28)
    assert encoder.finish() == b""
    decoder = RangeDecoder(b"")
    assert decoder.decode_symbols([0, 1 << 28], 1000, 28).tolist() == [0] * 1000
    decoder.finish()


def test_the_encoder_refuses_what_it_cannot_code() -> None:
    case = fixed(4, 2, [0], [0], [255])
    encoder = RangeEncoder()
    encoder.encode_pixels(*case.context, TABLES, case.symbols)
    bad = case.symbols.copy()
    bad[2, 0] = 256
    with pytest.raises(EntropyInputError, match="outside its channel"):
        encoder.encode_pixels(*case.context, TABLES, bad)
    for cum, freq, bits in (
        (0, 0, 4),
        (15, 2, 4),
        (-1, 1, 4),
        (0, 1, 29),
        (0, 1, 0),
        (0.5, 1, 4),
        (2**40, 1, 4),
    ):
        with pytest.raises(EntropyInputError):
            encoder.encode_symbols([cum], [freq], bits)
    with pytest.raises(EntropyInputError):
        encoder.encode_symbols([0, 1], [1], 4)
    with pytest.raises(EntropyInputError):
        encoder.encode_uniform([16], 4)
    assert encoder.finish() == case.encode()  # a refused call leaves no trace
    with pytest.raises(EntropyInputError, match="finished"):
        encoder.encode_uniform([1], 4)
    with pytest.raises(EntropyInputError, match="finished"):
        encoder.finish()


def test_the_decoder_refuses_tables_that_are_none() -> None:
    decoder = RangeDecoder(b"abc")
    for cdf in ([0, 1, 1, 4], [1, 4], [0, 3], [0], []):
        with pytest.raises(EntropyInputError, match="rise strictly"):
            decoder.decode_symbols(cdf, 1, 2)
    with pytest.raises(EntropyInputError, match="list of integers"):
        decoder.decode_symbols([[0, 4]], 1, 2)


def test_a_code_value_that_no_encoder_writes() -> None:
    decoder = RangeDecoder(b"\xff" * 40)
    with pytest.raises(StreamCorruptError):
        decoder.decode_uniform(1, 28)
    with pytest.raises(StreamCorruptError, match="already failed"):
        decoder.decode_uniform(1, 28)


def test_a_stream_that_ends_early() -> None:
    case = realistic(200, 1, 5, 8, seed=4)
    data = case.encode()
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(CodestreamError):
            case.decode(data[:length])
    with pytest.raises(StreamTruncatedError):
        case.decode(data[:20])
    with pytest.raises(StreamTruncatedError):
        RangeDecoder(b"").decode_uniform(100000, 8)


def test_zeros_cannot_be_read_for_ever() -> None:
    """The all-zero stream names the first symbol each time; it is read for as long as it could be valid."""
    decoder = RangeDecoder(bytes(10))
    assert decoder.decode_uniform(10, 8).tolist() == [0] * 10
    with pytest.raises(StreamTruncatedError):
        decoder.decode_uniform(1, 8)


@pytest.mark.parametrize("tail", [b"\0", b"\1", b"\xff", b"\0\0", bytes(100)])
def test_a_stream_that_goes_on(tail: bytes) -> None:
    for case, text in GOLDEN.values():
        with pytest.raises(StreamTrailingError):
            case.decode(bytes.fromhex(text) + tail)


def test_an_ending_longer_than_needed_is_refused() -> None:
    """Where the zeros after the end lie in the interval, one more byte that does too is no valid ending."""
    rng = np.random.default_rng(8)
    table = np.array([0, 3, 5, 8])
    refused = {"low is zero": 0, "2^64 lies inside": 0}
    for _ in range(300):
        values = rng.integers(0, 3, 9) * rng.integers(0, 2)
        encoder = RangeEncoder()
        encoder.encode_symbols(table[values], np.diff(table)[values], 3)
        low, span, length = (int(v) for v in encoder._state)
        if low > 255 << 56:
            continue  # no single byte lies in the interval
        longer = encoder._buffer[:length].tobytes() + bytes([-(-low >> 56)])
        data = encoder.finish()
        if low == 0 or low + span > 1 << 64:
            assert len(data) == length
            decoder = RangeDecoder(longer)
            assert np.array_equal(decoder.decode_symbols(table, 9, 3), values)
            with pytest.raises(StreamTrailingError):
                decoder.finish()
            refused["low is zero" if low == 0 else "2^64 lies inside"] += 1
        else:
            assert data == longer
    assert min(refused.values()) > 0


def test_every_other_last_byte_is_refused_or_means_something_else() -> None:
    case, text = GOLDEN["gray16"]
    data = bytes.fromhex(text)
    for last in set(range(256)) - {data[-1]}:
        try:
            symbols = case.decode(data[:-1] + bytes([last]))
        except CodestreamError:
            continue
        assert not np.array_equal(symbols, case.symbols)


def test_the_search_is_right_wherever_the_code_value_lies() -> None:
    """Random bytes lead to symbols that no model expects; the reference CDF confirms each of them."""
    rng = np.random.default_rng(12)
    for ranges in ([(0, 65535)], [(-32768, 32767), (0, 255)], [(0, 1), (0, 2), (0, 4095)]):
        case: Case = adversarial(rng, 150, len(ranges), 3, ranges)
        data = rng.bytes(5 * 150 * len(ranges) + 8)
        got = RangeDecoder(data).decode_pixels(*case.context, TABLES).tolist()
        decoder = reference.Decoder(data)
        head, skip, shift, lo, hi = case.plain()
        for i in range(150):
            pixel = reference.Pixel(head[i], skip[i], shift, lo, hi, PLAIN_TABLES)
            for x in got[i]:
                target = decoder.target(28)
                assert pixel.cdf(x) <= target < pixel.cdf(x + 1)
                decoder.take(pixel.cdf(x), pixel.cdf(x + 1) - pixel.cdf(x), 28)
                pixel.accept(x)
