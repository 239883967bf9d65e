"""Which earlier planes a prediction draws on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.planning import sample_boxes
from callic_archive.codec.prediction import PLACES, EarlierPlanes, Prediction, fit_prediction
from callic_archive.images.planes import choose_packing

SIDE = 96


def texture(seed: int, size: float) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, size, (SIDE, SIDE))


def fitted(*planes: NDArray[np.float64]) -> Prediction | None:
    """The prediction of the last plane from those before it."""
    image = np.dstack([np.clip(np.rint(plane), 0, 65535) for plane in planes]).astype(np.uint16)
    packings = {c: choose_packing(image[:, :, c]) for c in range(image.shape[2])}
    last = image.shape[2] - 1
    boxes = sample_boxes(SIDE, SIDE)
    return fit_prediction(last, packings[last], range(last), EarlierPlanes(image, packings), boxes)


def test_a_plane_with_the_same_detail_is_found_among_others() -> None:
    detail = texture(1, 40)
    found = fitted(500 + texture(2, 40), 900 + 2 * detail, 500 + texture(3, 40), 700 + detail + texture(4, 3))
    assert found is not None
    assert found.planes == (1,)
    assert abs(found.weights[0] / (1 << PLACES) - 0.5) < 0.02


def test_a_difference_of_two_planes_is_found_where_neither_tells_anything() -> None:
    common, one, two = texture(1, 60), texture(2, 10), texture(3, 10)
    red, green = 500 + common + one, 600 + common + two
    near_infrared = 700 + 2 * (two - one) + texture(4, 2)
    assert fitted(red, near_infrared) is None
    assert fitted(green, near_infrared) is None
    found = fitted(red, green, near_infrared)
    assert found is not None
    assert found.planes == (0, 1)
    assert np.allclose(np.array(found.weights) / (1 << PLACES), [-2, 2], atol=0.1)


def test_planes_that_share_nothing_are_left_alone() -> None:
    assert fitted(500 + texture(1, 40), 500 + texture(2, 40), 500 + texture(3, 40)) is None
