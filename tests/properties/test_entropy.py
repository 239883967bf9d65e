"""Laws of the entropy coder: what goes in comes out, and a changed stream never passes as the same."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from callic_archive.entropy.range_coder import RangeDecoder, RangeEncoder
from callic_archive.errors import CodestreamError
from tests.unit.entropy import reference
from tests.unit.entropy.cases import PLAIN_TABLES, Case, adversarial

# The first call of all compiles the kernels, so no deadline.
laws = settings(deadline=None, max_examples=60)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    levels = draw(st.sampled_from([1, 2, 3, 255, 256, 4096, 65535, 65536]))
    lo = draw(st.sampled_from([-131072, -32768, -1, 0, 1, 131072 - levels]))
    return lo, lo + levels - 1


@st.composite
def cases(draw: st.DrawFn) -> Case:
    per_channel = draw(st.lists(ranges(), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    components = draw(st.sampled_from([1, 2, 5, 32]))
    return adversarial(rng, draw(st.integers(0, 30)), len(per_channel), components, per_channel)


@laws
@given(cases())
def test_what_goes_in_comes_out(case: Case) -> None:
    data = case.encode()
    assert len(data) <= 3.5 * case.symbols.size + 1
    assert np.array_equal(case.decode(data), case.symbols)
    assert reference.decode_pixels(data, *case.plain(), PLAIN_TABLES) == case.symbols.tolist()


@laws
@given(cases(), st.data())
def test_a_changed_stream_never_passes_as_the_same(case: Case, data: st.DataObject) -> None:
    stream = bytearray(case.encode())
    kind = data.draw(st.sampled_from(["flip", "cut", "extend"]))
    if kind == "flip" and stream:
        bit = data.draw(st.integers(0, 8 * len(stream) - 1))
        stream[bit // 8] ^= 1 << bit % 8
    elif kind == "cut" and stream:
        del stream[data.draw(st.integers(0, len(stream) - 1)) :]
    else:
        stream += data.draw(st.binary(min_size=1, max_size=9))
    changed = bytes(stream)
    try:
        symbols = case.decode(changed).tolist()
    except CodestreamError:
        symbols = None
    try:
        expected = reference.decode_pixels(changed, *case.plain(), PLAIN_TABLES)
    except reference.Invalid:
        expected = None
    assert symbols == expected  # the same verdict as the reference, whatever it is
    assert symbols != case.symbols.tolist() or not case.symbols.size


@laws
@given(st.binary(max_size=60), cases())
def test_any_bytes_are_one_valid_stream_or_none(data: bytes, case: Case) -> None:
    """What decodes to the end encodes to the very same bytes."""
    try:
        symbols = case.decode(data)
    except CodestreamError:
        return
    again = Case(case.head, case.skip, case.shift, case.lo, case.hi, symbols)
    assert again.encode() == data


@laws
@given(st.lists(st.tuples(st.integers(1, 28), st.integers(0, 2**28 - 1)), max_size=200))
def test_plain_integers_come_back(pairs: list[tuple[int, int]]) -> None:
    encoder = RangeEncoder()
    for bits, value in pairs:
        encoder.encode_uniform([value >> 28 - bits], bits)
    data = encoder.finish()
    assert len(data) * 8 <= sum(bits for bits, _ in pairs) + 9
    decoder = RangeDecoder(data)
    assert [int(decoder.decode_uniform(1, bits)[0]) for bits, _ in pairs] == [v >> 28 - b for b, v in pairs]
    decoder.finish()
