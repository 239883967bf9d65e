"""Bits whose probability is mixed from what several contexts have learned, all in integers.

A context remembers the probability of a 1 and how many bits it has seen. The logits of all contexts that apply (stretched
probabilities, in 1/256) are weighted and added up, and the sum is squashed to a probability again; weights learn from each
bit as well. Writing and reading are one function. docs/format/dct.md has the same in words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.images.deflate.coder import Bytes, Coder, shared

Int = Any

REACH = 3071  # largest logit
LEAST = 32  # no probability below 32 / 65536
_HALF = 1 << 21
_STEADY = 127  # bits after which a context gets no slower
_SETTLED = 1023  # bits after which a set of weights gets no slower


class Mixer(NamedTuple):
    """What is learned, and room to work in.

    slots     (n) int32: a context's probability of a 1 in 1/2^22, less a half, times 256, plus the bits it has seen (to 127)
    weights   (sets, inputs) int32, in 1/65536
    seen      (sets) int32: bits that a set of weights has seen (to 1023)
    at        (inputs) int64: for each input the slot from which on its contexts lie
    logits    (inputs) int64: of the bit that is being coded
    """

    slots: NDArray[np.int32]
    weights: NDArray[np.int32]
    seen: NDArray[np.int32]
    at: NDArray[np.int64]
    logits: NDArray[np.int64]


def _squashed() -> NDArray[np.int64]:
    """65536 / (1 + e^(-x / 256)) for x = -REACH .. REACH, by integers only."""
    step = 0xFF007FD55FFDDE3  # floor(2^60 e^(-1/256))
    power, upper = 1 << 60, []
    for _ in range(REACH + 1):
        upper.append((1 << 76) // ((1 << 60) + power))
        power = power * step >> 60
    return np.array([65536 - y for y in upper[:0:-1]] + upper, np.int64)


SQUASHED = _squashed()
# for probabilities of (i + 1/2) / 4096: the smallest logit that is squashed to no less
STRETCHED = np.searchsorted(SQUASHED, np.arange(4096) * 16 + 8).astype(np.int64) - REACH
RATES = np.array([131072 // (2 * n + 3) for n in range(_STEADY + 1)], np.int64)
GAINS = np.array([4 + 3072 // (n + 128) for n in range(_SETTLED + 1)], np.int64)


def mixer(slots: int, sets: int, inputs: int) -> Mixer:
    """A mixer that knows nothing yet; weights are 0."""
    return Mixer(
        np.zeros(slots, np.int32),
        np.zeros((sets, inputs), np.int32),
        np.zeros(sets, np.int32),
        np.zeros(inputs, np.int64),
        np.zeros(inputs, np.int64),
    )


@njit(cache=True, nogil=True, forceinline=True)
def clipped(x: Int, low: Int, high: Int) -> Int:
    """The number from ``low`` to ``high`` that is nearest to ``x``."""
    return min(max(x, np.int64(low)), np.int64(high))


@njit(cache=True, nogil=True)
def mixed(
    c: Coder, buffer: Bytes, m: Mixer, inputs: Int, node: Int, first: Int, second: Int, value: Int
) -> Int:
    """A bit by the contexts ``m.at`` + ``node`` of so many inputs; their weights are the sum of two sets."""
    total = np.int64(0)
    for i in range(inputs):
        logit = STRETCHED[(np.int64(m.slots[m.at[i] + node]) >> 18) + 2048]
        m.logits[i] = logit
        total += logit * (np.int64(m.weights[first, i]) + np.int64(m.weights[second, i]))
    chance = SQUASHED[clipped(total >> 16, -REACH, REACH) + REACH]
    value = shared(c, buffer, clipped(65536 - chance, LEAST, 65536 - LEAST), value)
    error = (value << 16) - chance
    by_first, by_second = error * GAINS[m.seen[first]], error * GAINS[m.seen[second]]
    m.seen[first] = clipped(m.seen[first] + 1, 0, _SETTLED)
    m.seen[second] = clipped(m.seen[second] + 1, 0, _SETTLED)
    target = _HALF - 1 if value else -_HALF
    for i in range(inputs):
        m.weights[first, i] += (m.logits[i] * by_first + (1 << 19)) >> 20
        m.weights[second, i] += (m.logits[i] * by_second + (1 << 19)) >> 20
        state = np.int64(m.slots[m.at[i] + node])
        chance, seen = state >> 8, state & 255
        chance += ((target - chance) * RATES[seen]) >> 16
        m.slots[m.at[i] + node] = (chance << 8) | min(seen + 1, _STEADY)
    return value
