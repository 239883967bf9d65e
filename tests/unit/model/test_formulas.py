"""Tables by formula: what quantisation makes, whoever computes it."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp

from callic_archive.entropy.mixture import MixtureTables
from callic_archive.model import formulas, tables
from callic_archive.model.config import COMPAND_KNEE

ACTIVATIONS = [("swish", formulas.SWISH), ("gelu", formulas.GELU)]


def words(kind: int, parameters: bytes, dtype: str) -> np.ndarray:
    return np.frombuffer(formulas.table(kind, parameters), dtype)


def test_the_tables_of_quantisation_follow_from_formulas() -> None:
    mixture = MixtureTables.build()
    assert np.array_equal(words(formulas.EXP, b"", "<i4"), mixture.exp)
    assert np.array_equal(words(formulas.INVERSE, b"", "<i4"), mixture.inv_mantissa)
    assert np.array_equal(words(formulas.SIGMOID, b"", "<i4"), mixture.sigmoid)
    assert np.array_equal(words(formulas.COMPAND, b"", "<i2"), tables.compand_table(COMPAND_KNEE))
    for dim in (8, 16, 24, 32, 64, 96, 128, 256):
        assert np.array_equal(words(formulas.RSQRT, dim.to_bytes(2, "little"), "<i4"), tables.rsqrt_table(dim))


@pytest.mark.parametrize(("name", "kind"), ACTIVATIONS)
@pytest.mark.parametrize("places_in", [4, 5, 6, 7, 8, 9])
def test_those_of_activations_too(name: str, kind: int, places_in: int) -> None:
    for places_out in range(4, 9):
        made = words(kind, bytes([places_in, places_out]), "<i2")
        assert np.array_equal(made, tables.activation_table(name, places_in, places_out))


@pytest.mark.parametrize(("name", "kind"), ACTIVATIONS)
def test_no_entry_rests_on_how_floats_are_rounded(name: str, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another library's functions differ by some units in the last place."""
    good = [formulas._activation.__wrapped__(kind, *places) for places in ((6, 5), (7, 6), (4, 3), (5, 3), (8, 6))]
    real = formulas._function
    for off in (1 - 4e-16, 1 + 4e-16, 1 - 4e-15):
        monkeypatch.setattr(formulas, "_function", lambda kind, z, off=off: real(kind, z) * off)
        other = [formulas._activation.__wrapped__(kind, *places) for places in ((6, 5), (7, 6), (4, 3), (5, 3), (8, 6))]
        assert other == good


@pytest.mark.parametrize(("name", "kind"), ACTIVATIONS)
def test_entries_are_the_nearest_integers_to_exact_values(name: str, kind: int) -> None:
    with mp.workdps(40):
        for places_in, places_out in ((7, 6), (5, 3)):
            made = words(kind, bytes([places_in, places_out]), "<i2")
            for place in range(0, 4096, 7):
                z = mp.mpf(place - 2048) / 2**places_in
                if z >= formulas.IDENTITY[kind]:
                    y = z
                else:
                    y = z / (1 + mp.e ** (-z)) if name == "swish" else z * (1 + mp.erf(z / mp.sqrt(2))) / 2
                value = y * 2**places_out
                wanted = round(Fraction(int(2 * value), 2)) if value == mp.floor(2 * value) / 2 else int(mp.nint(value))
                assert made[place] == max(-511, min(511, wanted)), (place, value)


def test_they_never_change() -> None:
    """Archives rest on them."""
    digest = hashlib.sha256()
    for kind in (formulas.EXP, formulas.INVERSE, formulas.SIGMOID, formulas.COMPAND):
        digest.update(formulas.table(kind, b""))
    for dim in (16, 32, 64, 128):
        digest.update(formulas.table(formulas.RSQRT, dim.to_bytes(2, "little")))
    for kind in (formulas.SWISH, formulas.GELU):
        for places in ((5, 4), (6, 5), (7, 6), (8, 6), (4, 3)):
            digest.update(formulas.table(kind, bytes(places)))
    assert digest.hexdigest() == "fc836f009ddd95b517b4f6913a534f9c9c669a180b75c0dcbb68b66de072f900"


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (0, b"\1"), (3, b"\0\0"), (4, b""), (4, b"\0\0"), (4, b"\xff\xff"), (4, b"\1"), (5, b"\5"), (6, b"\x11\1"),
        (6, b"\1\x11"), (5, b"\1\1\1"), (7, b""), (255, b"\1\1"),
    ],
)  # fmt: skip
def test_what_is_no_formula_is_refused(kind: int, parameters: bytes) -> None:
    with pytest.raises(ValueError):
        formulas.table(kind, parameters)


def test_the_normal_distribution_is_that_of_the_textbook() -> None:
    from decimal import Decimal

    for x in (-3, -0.5, 0, 1.25, 6, 8.2):
        assert math.isclose(float(formulas._normal(Decimal(x))), 0.5 * math.erfc(-x / math.sqrt(2)), rel_tol=1e-12)
