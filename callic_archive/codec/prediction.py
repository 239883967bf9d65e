"""A plane predicted from planes that are decoded before it: bands of one scene repeat each other's detail.

The prediction of a sample is a weighted sum of the samples at the same pixel in up to three earlier planes; the model then
codes what is left as it codes any plane. Weights are integers, so nothing depends on the machine. They are fitted to the
part of each plane that its own neighbourhood does not tell: planes that agree in brightness alone gain nothing.
Specification: docs/format/codestream.md, section 4. Measurements: decision 0014.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.generic]
Box = tuple[int, int, int, int]
#: Binary places of a weight.
PLACES = 12
#: Largest weight in either direction, in units of 2**-PLACES: sixteen.
MOST_WEIGHT = (1 << 16) - 1
#: Planes that one prediction may draw on.
MOST_PLANES = 3
#: Earlier planes that are looked at, the nearest first: bands are sorted by wavelength, frames by time.
LOOKED_AT = 12
#: A further plane must save this many bits a sample, by the rough measure of ``_bits``.
LEAST_GAIN = 0.01
#: Samples below which weights are not worth fitting, nor their bytes.
LEAST_SAMPLES = 256
_ROUNDS = 3  # of reweighting, so that edges do not outvote the texture between them


@dataclass(frozen=True)
class Prediction:
    """``planes``: channel numbers; ``weights``: one for each, in units of 2**-12."""

    planes: tuple[int, ...]
    weights: tuple[int, ...]

    def of(self, image: Image, box: Box) -> NDArray[np.int64]:
        """Predicted samples (h, w) of a rectangle (top, left, bottom, right) of image (H, W, C)."""
        top, left, bottom, right = box
        total = np.full((bottom - top, right - left), 1 << (PLACES - 1), np.int64)
        for plane, weight in zip(self.planes, self.weights, strict=True):
            total += np.int64(weight) * image[top:bottom, left:right, plane].astype(np.int64)
        return total >> PLACES

    def left_over(self, image: Image, channel: int, box: Box) -> NDArray[np.int32]:
        """What the prediction leaves of a channel in a rectangle: samples minus predicted samples (h, w)."""
        top, left, bottom, right = box
        samples = image[top:bottom, left:right, channel].astype(np.int64)
        return (samples - self.of(image, box)).astype(np.int32)


def fit_prediction(
    image: Image, channel: int, earlier: Sequence[int], boxes: Sequence[Box]
) -> Prediction | None:
    """The weights that leave least of a channel in ``boxes``, or None where no earlier plane helps.

    ``image`` (H, W, C); ``earlier``: channels that are decoded before.
    """
    target = _detail(image, channel, boxes)
    if target.size < LEAST_SAMPLES:
        return None
    candidates = {plane: _detail(image, plane, boxes) for plane in list(earlier)[-LOOKED_AT:]}
    chosen: list[int] = []
    weights = np.zeros(0)
    best = _bits(target)
    while len(chosen) < MOST_PLANES:
        tried = []
        for plane in candidates:
            if plane not in chosen:
                found = _solve(target, np.stack([candidates[p] for p in (*chosen, plane)]))
                left = target - found @ np.stack([candidates[p] for p in (*chosen, plane)])
                tried.append((_bits(left), plane, found))
        if not tried:
            break
        bits, plane, found = min(tried, key=lambda one: one[:2])
        if bits > best - LEAST_GAIN:
            break
        chosen, weights, best = [*chosen, plane], found, bits
    integers = np.clip(np.rint(weights * (1 << PLACES)), -MOST_WEIGHT, MOST_WEIGHT).astype(int).tolist()
    return Prediction(tuple(chosen), tuple(integers)) if any(integers) else None


def span(prediction: Prediction, image: Image, channel: int, rows: int = 256) -> tuple[int, int]:
    """Least and largest value that the prediction leaves of a whole channel."""
    height, width = image.shape[:2]
    least, largest = 1 << 30, -(1 << 30)
    for top in range(0, height, rows):
        part = prediction.left_over(image, channel, (top, 0, min(height, top + rows), width))
        least, largest = min(least, int(part.min())), max(largest, int(part.max()))
    return least, largest


def _detail(image: Image, channel: int, boxes: Sequence[Box]) -> NDArray[np.float64]:
    """What the neighbours left and above do not tell of the samples, of all boxes one after another."""
    parts = []
    for top, left, bottom, right in boxes:
        x = image[top:bottom, left:right, channel].astype(np.float64)
        parts.append((x[1:, 1:] - x[1:, :-1] - x[:-1, 1:] + x[:-1, :-1]).ravel())
    return np.concatenate(parts)


def _bits(left: NDArray[np.float64]) -> float:
    """Rough bits a sample."""
    return float(np.log2(1.0 + np.abs(left)).mean())


def _solve(target: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of ``rows`` (n, samples) that leave least of ``target`` in absolute value, roughly."""
    weights = np.zeros(len(rows))
    for _ in range(_ROUNDS):
        size = np.abs(target - weights @ rows)
        trust = 1.0 / (size + np.median(size) + 0.5)
        weighed = rows * trust
        ridge = 1e-6 * np.eye(len(rows)) * (1.0 + np.trace(weighed @ rows.T))
        weights = np.linalg.solve(weighed @ rows.T + ridge, weighed @ target)
    return weights
