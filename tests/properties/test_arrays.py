"""Arrays of any type, shape, byte order and stride that Python code hands over: they come back, or are refused by name."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from callic_archive.access.images import decode_image, encode_image
from callic_archive.access.numcodecs_codec import Callic
from callic_archive.errors import UnsupportedImage
from tests.properties.effort import examples

ANY_TYPE = st.one_of(
    hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes(), hnp.complex_number_dtypes(),
    hnp.boolean_dtypes(), hnp.datetime64_dtypes(), hnp.byte_string_dtypes(max_len=4),
    st.just(np.dtype([("a", "<i2"), ("b", ">u4")])),
)  # fmt: skip


def strided(array: np.ndarray, steps: list[int], turn: bool, spread: bool) -> np.ndarray:
    """A view of the array, or of copies of it, whose strides are others: negative, zero, of another order."""
    if spread and array.ndim:
        array = np.broadcast_to(array[:1], array.shape)
    array = array[(*(slice(None, None, step) for step in steps[: array.ndim]), ...)]
    return array.T if turn else array


CODED = st.sampled_from(["u1", "<u2", ">u2", "<i2", ">i2"]).map(np.dtype)
STEPS = st.lists(st.sampled_from([1, 1, 2, 3, -1, -2]), min_size=4, max_size=4)


@examples(120)
@given(
    data=st.data(), dtype=ANY_TYPE, shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7), steps=STEPS,
    turn=st.booleans(), spread=st.booleans(),
)  # fmt: skip
def test_chunks_of_any_array(data, dtype, shape, steps, turn, spread):
    """The numcodecs codec gives back the values; what has no bytes of a fixed size it refuses."""
    array = strided(data.draw(hnp.arrays(dtype, shape, fill=st.nothing())), steps, turn, spread)
    codec = Callic()
    decoded = np.frombuffer(bytes(codec.decode(codec.encode(array))), np.uint8)
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    assert decoded.tobytes() == array.tobytes(order=order)


@examples(40)
@given(
    data=st.data(), dtype=st.one_of(CODED, CODED, ANY_TYPE), steps=STEPS, turn=st.booleans(), spread=st.booleans(),
    shape=st.one_of(hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), st.tuples(st.integers(1, 6), st.integers(1, 6),
                                                                                   st.integers(1, 5)),
                    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
)  # fmt: skip
def test_images_of_any_array(data, dtype, shape, steps, turn, spread):
    """``encode_image`` takes uint8, uint16 and int16 of one or more channels, however they lie in memory."""
    array = strided(data.draw(hnp.arrays(dtype, shape, fill=st.nothing())), steps, turn, spread)
    try:
        code = encode_image(array, threads=1)
    except UnsupportedImage:
        kind = array.dtype.newbyteorder("=").name
        assert kind not in ("uint8", "uint16", "int16") or array.ndim not in (2, 3) or 0 in array.shape
        return
    again = decode_image(code, threads=1)
    assert again.shape == array.shape
    assert again.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(again, array)
