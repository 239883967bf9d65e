"""How finely layers are rounded where the bytes of their weights count beside the code that rounding costs (decision 0035).

Rounding a row of n weights to multiples of q costs about ``P g q^2 / 24 * (v_1 + .. + v_n)`` nats in the code of P pixels: g is
the mean square of the gradient of a pixel's code length by the row's output (empirical Fisher information in place of the second
derivative), v_j the variance of input j that is left when those rounded later make up for it. Its weights take ``n ln(1/q)``
nats and something that does not depend on q. Together they are least where ``q^2 = 12 / (P g mean(v))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
#: Share of a matrix's mean variance that is added to its diagonal, so that it has an inverse.
DAMPING = 1e-2
_LEAST = 1e-30  # of gradients: a row that changes nothing may be rounded to nothing


@dataclass(frozen=True)
class Steps:
    """Of a layer: of each row's weights (out,), and of the biases (out,), in their own units."""

    rows: Float
    biases: Float


def steps_of(slopes: Float, variances: Float, pixels: float) -> Steps:
    """Of a layer with these mean squares of gradients (out,), in nats, and these variances of its inputs (in,) or of each
    output's own inputs (out, in)."""
    price = 12 / pixels
    mean = variances.mean(axis=-1)
    return Steps(np.sqrt(price / (slopes * mean + _LEAST)), np.sqrt(price / (slopes + _LEAST)))


def compensation(covariance: Float) -> Float:
    """Upper triangular U (in, in): an error e of input j's weight is made up for by ``e U[j, i] / U[j, j]`` less of each later
    one i, and ``1 / U[j, j]^2`` of the variance of input j is left (Cholesky's factor of the inverse)."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)  # where inputs hardly vary, rounding can leave some below
    damped = values + DAMPING * values.mean() + 1e-12
    factor: NDArray[Any] = np.linalg.cholesky((vectors / damped) @ vectors.T).T
    return factor


def variances_left(covariance: Float) -> Float:
    """(in,), of each input what those after it do not tell."""
    return 1 / np.square(np.diag(compensation(covariance)))


def places_of(step: Float) -> NDArray[np.int64]:
    """Binary places of the power of two nearest to each step."""
    return np.rint(-np.log2(step)).astype(np.int64)


def low_places(step: Float, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of numbers in units of ``2^-places``, how many binary places a step leaves zero."""
    return np.maximum(0, np.floor(np.log2(step) + places)).astype(np.int64)


