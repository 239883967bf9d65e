"""Regions: what is accepted, what it means, and that everything else is refused with its own error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callic_archive.access.regions import box_of, region_of
from callic_archive.errors import RegionError, UsageError

SHAPE = (100, 60, 3)


@pytest.mark.parametrize(
    ("region", "box"),
    [
        ((0, 0, 100, 60), (0, 0, 100, 60)),
        ((10, 20, 11, 21), (10, 20, 11, 21)),
        ((np.int64(1), 2, np.uint8(3), 4), (1, 2, 3, 4)),
        (slice(10, 20), (10, 0, 20, 60)),
        ((slice(10, 20),), (10, 0, 20, 60)),
        ((slice(None), slice(5, None)), (0, 5, 100, 60)),
        ((slice(-10, None), slice(None, -50)), (90, 0, 100, 10)),
        ((slice(0, 1, 1), slice(0, 1)), (0, 0, 1, 1)),
    ],
)
def test_what_is_accepted(region: Any, box: tuple[int, ...]) -> None:
    assert box_of(region, SHAPE) == box


@pytest.mark.parametrize(
    "region",
    [
        (0, 0, 101, 60), (0, 0, 100, 61), (-1, 0, 10, 10), (5, 5, 5, 10), (10, 0, 5, 10), (0, 0, 1), (0, 0, 1.0, 1),
        (), (0, slice(1)), (slice(1), slice(1), slice(1)), slice(0, 10, 2), slice(10, 5), slice(-101, None),
        slice(0, 101), slice("a", "b"), (slice(0.0, 1), slice(1)), "0,0,1,1", None, [0, 0, 1, 1], (True, 0, 1, 1),
    ],
)  # fmt: skip
def test_what_is_refused(region: Any) -> None:
    with pytest.raises(RegionError) as caught:
        box_of(region, SHAPE)
    assert caught.value.code == "E020"
    assert isinstance(caught.value, UsageError)


@given(
    *[st.one_of(st.none(), st.integers(-130, 130)) for _ in range(4)],
    st.sampled_from([(1, 1), (100, 60), (3, 1000)]),
)
def test_slices_mean_what_numpy_means_where_they_lie_within(
    y0: int | None, y1: int | None, x0: int | None, x1: int | None, shape: tuple[int, int]
) -> None:
    image = np.arange(shape[0] * shape[1]).reshape(shape)
    try:
        top, left, bottom, right = box_of((slice(y0, y1), slice(x0, x1)), shape)
    except RegionError:
        inside = all(
            -n <= end <= n
            for ends, n in (((y0, y1), shape[0]), ((x0, x1), shape[1]))
            for end in ends
            if end is not None
        )
        assert not inside or image[y0:y1, x0:x1].size == 0
        return
    assert np.array_equal(image[top:bottom, left:right], image[y0:y1, x0:x1])


@pytest.mark.parametrize(
    ("text", "box"),
    [("0,0,10,20", (0, 0, 10, 20)), (" 1, 2,3 ,4 ", (1, 2, 3, 4)), ("0:10,5:", (0, 5, 10, 60)), (":,:", (0, 0, 100, 60)),
     ("-10:,:-50", (90, 0, 100, 10))],
)  # fmt: skip
def test_text(text: str, box: tuple[int, ...]) -> None:
    assert box_of(region_of(text), SHAPE) == box


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "a:b,c:d", "0:1", "0:1:2,0:1", "1.5,0,2,2", "9" * 30 + ",0,1,1"]
)
def test_text_that_is_no_region(text: str) -> None:
    with pytest.raises(RegionError):
        region_of(text)
