"""Integer tables of a model: built once when a model is quantised, and shipped in its file, which a decoder takes them from.

Every table replaces a transcendental function on the decoding path; its fractions (binary places of input
and output) are the model's. Floats are fine here: whatever integers come out are the definition.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Companding of residual features: binary places of its input (units) and output, number of its entries, and the
#: largest entry. A coarser input hides where between two levels the prediction lies, which a smooth image pays for.
COMPAND_IN, COMPAND_OUT = 4, 4
COMPAND_SIZE = 1024 << COMPAND_IN
COMPAND_MAX = 1279
#: The feature that tells how a guide is used: this, or less this.
GUIDED = 64
#: Activation tables (swish, GELU): signed input of 12 bits.
ACT_HALF = 2048
#: Reciprocal square root: index 1024..4095, value scaled by 2^RSQRT_BITS.
RSQRT_LOW, RSQRT_HIGH = 1024, 4096
RSQRT_BITS = 16
#: Largest magnitude of an activation (10 bits, symmetric) and of the residual stream (16 bits, symmetric).
ACT_MAX = 511
STREAM_MAX = 32767
#: Binary places of normalised activations (LayerNorm output): +-8 standard deviations.
NORM_FRACTION = 6


def compand_table(knee: float) -> NDArray[np.int16]:
    """Magnitudes of ``knee * asinh(u / knee)`` for u = 0..1024 units, both in 1/16 unit."""
    q = np.arange(COMPAND_SIZE) / 2.0**COMPAND_IN
    table: NDArray[np.int16] = np.rint(knee * np.arcsinh(q / knee) * 2**COMPAND_OUT).astype(np.int16)
    return table


def activation_table(kind: str, in_fraction: int, out_fraction: int) -> NDArray[np.int16]:
    """Swish or GELU over 4096 inputs: entry i is f((i - 2048) / 2^in_fraction) * 2^out_fraction, saturated
    to 10 bits."""
    z = (np.arange(2 * ACT_HALF) - ACT_HALF) / 2.0**in_fraction
    if kind == "swish":
        y = z / (1.0 + np.exp(np.minimum(-z, 700.0)))  # beyond, nothing is left of it
    elif kind == "gelu":
        y = z * 0.5 * (1.0 + np.array([math.erf(v / math.sqrt(2.0)) for v in z]))
    else:
        raise ValueError(f"no activation table for {kind!r}")
    return np.clip(np.rint(y * 2.0**out_fraction), -ACT_MAX, ACT_MAX).astype(np.int16)


def rsqrt_table(dim: int) -> NDArray[np.int32]:
    """``2^RSQRT_BITS * 2^NORM_FRACTION * sqrt(dim) / sqrt(index + 1/2)`` for index RSQRT_LOW..RSQRT_HIGH -
    1."""
    index = np.arange(RSQRT_LOW, RSQRT_HIGH) + 0.5
    scale = 2.0 ** (RSQRT_BITS + NORM_FRACTION) * math.sqrt(dim)
    table: NDArray[np.int32] = np.rint(scale / np.sqrt(index)).astype(np.int32)
    return table
