"""Tables of model files that follow from a formula: what archives leave out of the models that they carry.

A table in a model file is the definition, and its digest covers it; here one is made again, to the bit on every machine.
Floats of 64 bits tell each entry whose exact value does not lie next to a half; of the others decimal numbers do.
docs/format/model.md, section 7, is the specification.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

EXP, INVERSE, SIGMOID, COMPAND, RSQRT, SWISH, GELU = range(7)
#: From here on functions of activations are taken for the identity: what they lack of it is less than floats tell.
IDENTITY = {SWISH: 36.75, GELU: 8.25}
MOST_PLACES, MOST_DIM = 16, 4096
_NEAR = 1e-9  # of a half: floats of 64 bits are wrong by far less
_ACT_MAX = 511

Values = NDArray[np.float64]


def table(kind: int, parameters: bytes) -> bytes:
    """The words of a table, little-endian. Raises ValueError for a formula or parameters that there are not."""
    made: bytes
    if kind in (SWISH, GELU) and len(parameters) == 2:
        made = _activation(kind, *parameters)
    elif kind == RSQRT and len(parameters) == 2:
        made = _rsqrt(*struct.unpack("<H", parameters))
    elif kind in _PLAIN and not parameters:
        made = _plain(kind)
    else:
        raise ValueError(f"no table is made by formula {kind} with {len(parameters)} bytes of parameters")
    return made


def _words(values: Values, dtype: str) -> bytes:
    return bytes(np.rint(values).astype(dtype).tobytes())


@lru_cache
def _plain(kind: int) -> bytes:
    return _PLAIN[kind]()


def _exp() -> bytes:
    return _words(2.0**16 * np.exp(-np.arange(1536) / 128), "<i4")


def _inverse() -> bytes:
    return _words(2.0**16 * 2.0 ** (-np.arange(32) / 32), "<i4")


def _sigmoid() -> bytes:
    values: Values = 2.0**28 / (1 + np.exp(-(np.arange(1282) - 640) / 32))
    values[0], values[1280:] = 0, 2.0**28
    return _words(values, "<i4")


def _compand() -> bytes:
    return _words(256 * np.arcsinh(np.arange(16384) / 256), "<i2")


_PLAIN: dict[int, Callable[[], bytes]] = {EXP: _exp, INVERSE: _inverse, SIGMOID: _sigmoid, COMPAND: _compand}


@lru_cache
def _rsqrt(dim: int) -> bytes:
    if not 1 <= dim <= MOST_DIM:
        raise ValueError(f"no model has {dim} channels")
    values = 2.0**22 * math.sqrt(dim) / np.sqrt(np.arange(1024, 4096) + 0.5)
    if np.any(np.abs(values % 1 - 0.5) < 1e-6):
        raise ValueError(f"reciprocal square roots for {dim} channels are not told by a formula")
    return _words(values, "<i4")


@lru_cache(maxsize=256)
def _activation(kind: int, places_in: int, places_out: int) -> bytes:
    if max(places_in, places_out) > MOST_PLACES:
        raise ValueError("activations have no such binary places")
    z = (np.arange(4096) - 2048) / 2.0**places_in
    scaled = np.where(z >= IDENTITY[kind], z, _function(kind, z)) * 2.0**places_out
    entries: Values = np.clip(np.rint(scaled), -_ACT_MAX, _ACT_MAX)
    unsure = (z < IDENTITY[kind]) & (np.abs(scaled) < _ACT_MAX + 1) & (np.abs(scaled % 1 - 0.5) < _NEAR)
    for place in np.flatnonzero(unsure).tolist():
        entries[place] = _exactly(kind, float(z[place]), places_out)
    return _words(entries, "<i2")


def _function(kind: int, z: Values) -> Values:
    if kind == SWISH:
        gate: Values = z / (1 + np.exp(np.minimum(-z, 700.0)))
        return gate
    share: Values = 0.5 * (1 + np.array([math.erf(v / math.sqrt(2.0)) for v in z.tolist()]))
    return z * share


def _exactly(kind: int, z: float, places_out: int) -> int:
    """An entry by decimal numbers: no value but zero is a half exactly."""
    with localcontext() as context:
        context.prec = 60
        x = Decimal(z)
        y = x / (1 + (-x).exp()) if kind == SWISH else x * _normal(x)
        value = y * 2**places_out
        return max(-_ACT_MAX, min(_ACT_MAX, int(value.to_integral_value())))


def _normal(x: Decimal) -> Decimal:
    """The share of a normal distribution below x: 1/2 + e^(-x^2 / 2) / sqrt(2 pi) (x + x^3 / 3 + x^5 / (3 5) + ...)."""
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
    term = total = x
    odd = 1
    while abs(term) > Decimal("1e-50"):
        odd += 2
        term = term * x * x / odd
        total += term
    return Decimal("0.5") + (-x * x / 2).exp() / (2 * pi).sqrt() * total
