"""Quantisation tables: those that most encoders have, and which one real coefficients are multiples of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.uint16]

#: The examples of ITU-T T.81, annex K, row by row, which libjpeg and its relatives scale by a quality of 1 to 100.
LUMA = np.array(
    [
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87,
        80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92,
        95, 98, 112, 100, 103, 99,
    ]
)  # fmt: skip
CHROMA = np.array(
    [
        17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99,
        99, 99, *[99] * 32,
    ]
)  # fmt: skip
CONVINCING = 8.0  # log likelihood by which a step must be likelier than that of a scaled example to be taken for it


def scaled(example: NDArray[np.int64], quality: int) -> Table:
    """An example (64) at a quality of 1 to 100, as libjpeg scales it."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((example * percent + 50) // 100, 1, 255).astype(np.uint16)


QUALITIES = np.arange(1, 101)
STANDARD = np.stack([scaled(example, int(quality)) for example in (LUMA, CHROMA) for quality in QUALITIES])


def likely_table(likely: NDArray[np.float64], quality: int | None = None) -> tuple[Table, int]:
    """The table (64) of the log likelihoods (64, 256) of its steps, and its quality: a scaled example, rather of ``quality``,
    but where other steps are clearly likelier."""
    chosen = np.arange(64)
    free = likely[:, 1:].argmax(axis=1) + 1
    best = likely[chosen, free]
    gains = np.maximum(likely[chosen, STANDARD], best - CONVINCING).sum(axis=1)  # what one step contradicts, it contradicts once
    if quality is not None:
        gains += CONVINCING * 2 * (np.tile(QUALITIES, 2) == quality) * (np.arange(200) >= 100)
    number = int(gains.argmax())
    standard = STANDARD[number]
    table = np.where(best > likely[chosen, standard] + CONVINCING, free, standard).astype(np.uint16)
    return table, int(number % 100 + 1)
