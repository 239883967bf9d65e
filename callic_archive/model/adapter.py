"""Adapters: low-rank deltas of a model's weights, quantised, and merged in integers.

Linear layers: ``W' = W + B A`` (Eq. 6). Depth-wise kernels: a Tucker form with identity core,
``dW[c, i, j] = sum_r X[c, r] Y[i, r] Z[j, r]``, restricted to the causal taps (Eq. 7). Both factors start
from fixed values that encoder and decoder know (a sign pattern for the one, zero for the other), and what is
coded is the difference from that start: weights that adaptation leaves alone cost next to nothing.
Only integers are read here. Training lives in ``codec/adapt.py``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import InexactModel, MismatchedAdapter
from callic_archive.model import tables
from callic_archive.model.config import MGCFConfig, causal_taps
from callic_archive.model.weights import Depthwise, IntegerWeights, Linear, check_exact

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
#: Factors are integers times 2^-STEP_BITS (quantisation step 1/32; the paper's is 0.05).
STEP_BITS = 5
#: Largest magnitude of a coded factor difference.
FACTOR_LIMIT = 1023
#: Magnitude of the fixed starting factors, in steps.
START_STEPS = 8
#: Merged weights stay within this; the accumulator's bound is checked besides.
MERGED_LIMIT = 4095


@dataclass(frozen=True)
class AdapterShape:
    """Ranks of the adapted layers (0 leaves a kind alone). Together about 25,000 weights at 7, 7, 2."""

    rank_mcg: int = 7
    rank_mlp: int = 7
    rank_depthwise: int = 2

    def factors(self, config: MGCFConfig) -> dict[str, tuple[int, int]]:
        """Every factor's shape, in coding order: ``<layer>.<factor>`` -> (rows, columns)."""
        shapes: dict[str, tuple[int, int]] = {}

        def linear(name: str, out: int, inner: int, rank: int) -> None:
            if rank:
                shapes[f"{name}.B"], shapes[f"{name}.A"] = (out, rank), (rank, inner)

        for i in range(config.depth):
            linear(f"{i}.a", config.dim, config.dim, self.rank_mcg)
            linear(f"{i}.v", config.dim, config.dim, self.rank_mcg)
            if self.rank_depthwise:
                shapes[f"{i}.dw.X"] = (config.dim, self.rank_depthwise)
                shapes[f"{i}.dw.Y"] = (config.kernel, self.rank_depthwise)
                shapes[f"{i}.dw.Z"] = (config.kernel, self.rank_depthwise)
            linear(f"{i}.up", config.hidden, config.dim, self.rank_mlp)
        return shapes


def start_factor(name: str, shape: tuple[int, int]) -> I32:
    """The fixed value a factor starts from: zero for B and X, a sign pattern for A, Y and Z.

    Signs come from SHA-256 over the factor's name in counter mode: any language can repeat them.
    """
    kind = name.rsplit(".", 1)[1]
    if kind in ("B", "X"):
        return np.zeros(shape, np.int32)
    size = shape[0] * shape[1]
    stream = b"".join(hashlib.sha256(f"{name}/{i}".encode()).digest() for i in range(-(-size // 256)))
    signs = np.unpackbits(np.frombuffer(stream, np.uint8))[:size].astype(np.int32) * 2 - 1
    return (signs * START_STEPS).reshape(shape)


@dataclass(frozen=True)
class Adapter:
    """Coded factor differences of one adapter, for the model with ``model_digest``. ``payload``: its coded
    form. ``under``: the adapter that is merged before it, as an image's own lies on its collection's."""

    model_digest: str
    shape: AdapterShape
    differences: dict[str, I32]
    payload: bytes = field(repr=False)
    under: Adapter | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the coded form: the adapter's name in codestreams and archives."""
        return hashlib.sha256(self.payload).hexdigest()

    @property
    def digests(self) -> tuple[str, ...]:
        """What is merged, in order, by digest."""
        return (*(self.under.digests if self.under is not None else ()), self.digest)

    def to_bytes(self) -> bytes:
        """The coded form; ``codec.adapter_syntax`` reads it back."""
        return self.payload


def _shifted(value: I64, shift: I64) -> I64:
    """round(value / 2^shift) elementwise, for shifts of either sign."""
    right = np.maximum(shift, 0)
    half = np.left_shift(np.int64(1), right) >> 1
    shifted: I64 = np.right_shift(np.left_shift(value, np.maximum(-shift, 0)) + half, right)
    return shifted


def _exponent(layer: Linear | Depthwise, in_fraction: int, out_fraction: int) -> I64:
    """Binary places of each output channel's integer weights."""
    exponent = layer.shift.astype(np.int64) - in_fraction + out_fraction
    if exponent.min() < -16 or exponent.max() > 40:
        raise InexactModel("a layer's binary places leave the range that merging supports")
    return exponent


def layer_fractions(weights: IntegerWeights, name: str) -> tuple[int, int]:
    """(input, output) binary places of an adapted layer."""
    index, part = name.split(".")
    places = weights.fractions[index]
    return (
        (int(places["a"]), int(places["dw"])) if part == "dw" else (tables.NORM_FRACTION, int(places[part]))
    )


def merge(weights: IntegerWeights, shape: AdapterShape, differences: dict[str, I32]) -> IntegerWeights:
    """Weights with the adapter added, in integers. Raises InexactModel when a merged layer breaks a bound."""
    expected = shape.factors(weights.config)
    if set(differences) != set(expected) or any(differences[n].shape != s for n, s in expected.items()):
        raise MismatchedAdapter("an adapter's factors do not fit the model it names")
    factors = {n: (start_factor(n, s) + differences[n]).astype(np.int64) for n, s in expected.items()}
    changed: dict[str, Linear | Depthwise] = {}
    for name, layer in weights.adapted_layers():
        exponent = _exponent(layer, *layer_fractions(weights, name))
        if isinstance(layer, Linear) and f"{name}.B" in factors:
            product = factors[f"{name}.B"] @ factors[f"{name}.A"]
            merged = layer.weight + _shifted(product, (2 * STEP_BITS - exponent)[:, None])
            changed[name] = Linear(_limited(name, merged), layer.bias, layer.shift)
        elif isinstance(layer, Depthwise) and f"{name}.X" in factors:
            radius = weights.config.kernel // 2
            taps = np.array(causal_taps(weights.config.kernel, include_group=True)) + radius
            plane = factors[f"{name}.Y"][taps[:, 0]] * factors[f"{name}.Z"][taps[:, 1]]  # (taps, rank)
            product = plane @ factors[f"{name}.X"].T  # (taps, C)
            merged = layer.kernel + _shifted(product, (3 * STEP_BITS - exponent)[None, :])
            changed[name] = Depthwise(_limited(name, merged), layer.bias, layer.shift)
    result = weights.with_layers(changed)
    check_exact(result)
    return result


def merged(weights: IntegerWeights, adapter: Adapter | None) -> IntegerWeights:
    """Weights with an adapter, and first what lies under it, added. Raises InexactModel."""
    if adapter is None:
        return weights
    return merge(merged(weights, adapter.under), adapter.shape, adapter.differences)


def _limited(name: str, merged: I64) -> I32:
    if np.abs(merged).max() > MERGED_LIMIT:
        raise InexactModel(f"layer {name}: an adapted weight exceeds {MERGED_LIMIT}")
    return merged.astype(np.int32)
