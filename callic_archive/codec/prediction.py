"""A plane predicted from planes that are decoded before it: bands of one scene repeat each other's detail.

The prediction of a level is a weighted sum of the levels at the same pixel in up to three earlier planes; the model then
codes what is left as it codes any plane. Levels, not samples: where only some values of a type are used, their ranks have no
gaps. Weights are integers, so nothing depends on the machine. They are fitted to the part of each plane that its own
neighbourhood does not tell: planes that agree in brightness alone gain nothing.
Specification: docs/format/codestream.md, section 4. Measurements: decision 0014.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from callic_archive.images.planes import Packing
from callic_archive.model.integer import LIKENESS, NO_GUIDE, SUBTRACTED

Image = NDArray[np.generic]
Box = tuple[int, int, int, int]
#: Binary places of a weight.
PLACES = 12
#: Largest weight in either direction, in units of 2**-PLACES: sixteen.
MOST_WEIGHT = (1 << 16) - 1
#: Largest offset in either direction.
MOST_OFFSET = (1 << 16) - 1
#: Planes that one prediction may draw on.
MOST_PLANES = 3
#: Earlier planes that are looked at, the nearest first: bands are sorted by wavelength, frames by time.
LOOKED_AT = 12
#: Of these, planes that are tried two or three at a time where one more does not help.
IN_PAIRS = 5
#: A further plane must save this many bits a sample, by the rough measure of ``_bits``.
LEAST_GAIN = 0.01
#: The correlation of detail from which on a plane is taken for a likeness of another.
LEAST_LIKENESS = 0.1
#: Samples below which weights are not worth fitting, nor their bytes.
LEAST_SAMPLES = 256
_ROUNDS = 3  # of reweighting, so that edges do not outvote the texture between them


class EarlierPlanes:
    """Levels of planes of an image (H, W, C) that are decoded; ``packings`` by channel, which may still grow."""

    def __init__(self, image: Image, packings: Mapping[int, Packing]) -> None:
        self._image, self._packings = image, packings

    def levels(self, plane: int, box: Box) -> NDArray[np.int32]:
        """Levels (h, w) of a plane in a rectangle (top, left, bottom, right)."""
        top, left, bottom, right = box
        return self._packings[plane].pack(self._image[top:bottom, left:right, plane])

    def low(self, plane: int) -> int:
        """The lowest level of a plane."""
        return self._packings[plane].low


@dataclass(frozen=True)
class Prediction:
    """How the levels of a plane are predicted, and what is coded in their place.

    ``planes``: channel numbers; ``weights``: one for each, in units of 2**-12; ``packing``: the levels of the plane itself;
    ``offset``: the least that the prediction leaves of them. Where all ``planes`` are at their lowest level (no data, in
    most images that have such a place), nothing is predicted: the plane is likely at its lowest level too, and
    that costs next to nothing where it is the lowest of all levels that are coded.

    Not ``subtracted``, the prediction is a likeness of the plane: its levels are coded as they are, and the model sees what was
    predicted as its guide. Where the model takes a guide, it sees what was subtracted too.
    """

    planes: tuple[int, ...]
    weights: tuple[int, ...]
    packing: Packing
    offset: int = 0
    subtracted: bool = True

    def base(self, earlier: EarlierPlanes, box: Box) -> NDArray[np.int64]:
        """What is added to coded levels (h, w) of a rectangle to make the plane's own."""
        top, left, bottom, right = box
        total = np.full((bottom - top, right - left), 1 << (PLACES - 1), np.int64)
        empty = np.ones(total.shape, bool)
        for plane, weight in zip(self.planes, self.weights, strict=True):
            levels = earlier.levels(plane, box)
            total += np.int64(weight) * levels
            empty &= levels == earlier.low(plane)
        return np.where(empty, self.packing.low, (total >> PLACES) + self.offset)

    def guide(self, earlier: EarlierPlanes, box: Box) -> NDArray[np.int32]:
        """What a model sees of the prediction: levels (h, w), within those of the plane."""
        return np.clip(self.base(earlier, box), self.packing.low, self.packing.high).astype(np.int32)

    def coded(self, image: Image, channel: int, earlier: EarlierPlanes, box: Box) -> NDArray[np.int32]:
        """The levels (h, w) that are coded for a channel of ``image`` in a rectangle."""
        top, left, bottom, right = box
        own = self.packing.pack(image[top:bottom, left:right, channel])
        if not self.subtracted:
            return own
        return (own - self.base(earlier, box)).astype(np.int32)


def use_of(prediction: Prediction | None) -> int:
    """How a model that takes a guide uses what was predicted."""
    if prediction is None:
        return NO_GUIDE
    return SUBTRACTED if prediction.subtracted else LIKENESS


def fit_prediction(
    channel: int, packing: Packing, candidates: Sequence[int], planes: EarlierPlanes, boxes: Sequence[Box]
) -> Prediction | None:
    """The weights that leave least of a channel in ``boxes``, or None where no earlier plane helps.

    ``candidates``: channels that are decoded before; ``planes`` reads them and the channel itself, whose packing is given.
    """
    target = _detail(planes, channel, boxes)
    if target.size < LEAST_SAMPLES:
        return None
    details = {plane: _detail(planes, plane, boxes) for plane in list(candidates)[-LOOKED_AT:]}
    chosen: list[int] = []
    weights = np.zeros(0)
    best = _bits(target)
    more = 1
    while len(chosen) + more <= MOST_PLANES:
        others = [plane for plane in details if plane not in chosen][-(LOOKED_AT if more == 1 else IN_PAIRS) :]
        tried = []
        for added in itertools.combinations(others, more):
            rows = np.stack([details[p] for p in (*chosen, *added)])
            found = _solve(target, rows)
            tried.append((_bits(target - found @ rows), added, found))
        bits, added, found = min(tried, key=lambda one: one[:2], default=(best, (), weights))
        if bits <= best - more * LEAST_GAIN:
            chosen, weights, best, more = [*chosen, *added], found, bits, 1
        else:
            more += 1  # near infrared is told by the difference of red and green, and by neither alone
    integers = np.clip(np.rint(weights * (1 << PLACES)), -MOST_WEIGHT, MOST_WEIGHT).astype(int).tolist()
    return Prediction(tuple(chosen), tuple(integers), packing) if any(integers) else None


def fit_likeness(
    channel: int, packing: Packing, candidates: Sequence[int], planes: EarlierPlanes, boxes: Sequence[Box]
) -> Prediction | None:
    """The earlier plane that a channel is most like in ``boxes``, scaled to it; None where none is like it at all.

    Slices of a volume share edges and no noise: what is taken from them is better left to the network than subtracted.
    Arguments as of ``fit_prediction``.
    """
    target = _detail(planes, channel, boxes)
    if target.size < LEAST_SAMPLES:
        return None
    likeness = {plane: _correlation(target, _detail(planes, plane, boxes)) for plane in list(candidates)[-LOOKED_AT:]}
    best = max(likeness, key=lambda plane: likeness[plane], default=None)
    if best is None or likeness[best] < LEAST_LIKENESS:
        return None
    own, other = (np.concatenate([planes.levels(p, box).ravel() for box in boxes]).astype(np.float64) for p in (channel, best))
    spread = other.var()
    slope = float(np.clip(((own - own.mean()) * (other - other.mean())).mean() / spread, 1 / 16, 15.0)) if spread else 1.0
    weight = max(1, round(slope * (1 << PLACES)))
    offset = round(float(own.mean() - weight / (1 << PLACES) * other.mean()))
    if abs(offset) > MOST_OFFSET:
        return None
    return Prediction((best,), (weight,), packing, offset, subtracted=False)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of two details, in which a few edges that lie beside each other do not outweigh everything else."""
    one, other = (np.arcsinh(x / (np.median(np.abs(x)) + 0.5)) for x in (one, other))
    scale = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / scale if scale else 0.0


def fixed(
    prediction: Prediction, image: Image, channel: int, earlier: EarlierPlanes, rows: int = 256
) -> tuple[Prediction, int]:
    """The prediction with its offset, and the highest level that is then coded anywhere in the channel."""
    height, width = image.shape[:2]
    boxes = [(top, 0, min(height, top + rows), width) for top in range(0, height, rows)]
    least, _ = _extremes(prediction, image, channel, earlier, boxes)
    found = replace(prediction, offset=least)
    return found, _extremes(found, image, channel, earlier, boxes)[1]


def _extremes(
    prediction: Prediction, image: Image, channel: int, earlier: EarlierPlanes, boxes: Sequence[Box]
) -> tuple[int, int]:
    parts = (prediction.coded(image, channel, earlier, box) for box in boxes)
    pairs = [(int(part.min()), int(part.max())) for part in parts]
    return min(low for low, _ in pairs), max(high for _, high in pairs)


def _detail(planes: EarlierPlanes, channel: int, boxes: Sequence[Box]) -> NDArray[np.float64]:
    """What the neighbours left and above do not tell of the levels, of all boxes one after another."""
    parts = []
    for box in boxes:
        x = planes.levels(channel, box).astype(np.float64)
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
