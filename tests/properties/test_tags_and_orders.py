"""Files that no library writes but the formats allow: fields in any order, blocks anywhere, any byte order and stride."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from callic_archive.images import parse
from tests.properties.test_images_round_trip import written_again

FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)


def tiff_of(array: np.ndarray, order: str, big: bool, rows: int, rng: random.Random) -> bytes:
    """A TIFF with its tags, strips, tables and gaps in an order of chance, the directory before or behind them."""
    height, width = array.shape[:2]
    samples = array.shape[2] if array.ndim == 3 else 1
    stored = array.astype(array.dtype.newbyteorder(order))
    strips = [stored[y : y + rows].tobytes() for y in range(0, height, rows)]
    word, entry = ("Q", 20) if big else ("I", 12)
    head = 16 if big else 8
    kind = 16 if big else 4
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]), 257: (3, [height]), 258: (3, [8 * array.itemsize] * samples), 259: (3, [1]),
        262: (3, [2 if samples == 3 else 1]), 277: (3, [samples]), 278: (4, [rows]), 284: (3, [1]),
        339: (3, [2 if array.dtype.kind == "i" else 1] * samples), 273: (kind, [0] * len(strips)),
        279: (4, [len(s) for s in strips]), 305: (2, list(b"made by chance\0")), 65000: (4, [7, 8, 9]),
    }  # fmt: skip
    letters = {2: "B", 3: "H", 4: "I", 16: "Q"}
    size = (8 if big else 2) + entry * len(tags) + (8 if big else 4)
    pieces: list[tuple[object, bytes | int]] = [("ifd", size)] + [
        (("strip", n), strip) for n, strip in enumerate(strips)
    ]
    inline = struct.calcsize(word)
    pieces += [
        (("table", tag), len(values) * struct.calcsize(letters[form]))
        for tag, (form, values) in tags.items()
        if len(values) * struct.calcsize(letters[form]) > inline
    ]
    rng.shuffle(pieces)
    places, at = {}, head
    for name, content in pieces:
        at += rng.randrange(4) * 2  # gaps, at even places as the specification wants
        places[name] = at
        at += content if isinstance(content, int) else len(content)
        at += at % 2
    tags[273] = (kind, [places[("strip", n)] for n in range(len(strips))])
    out = bytearray(rng.randbytes(at + rng.randrange(5)))
    mark = b"II" if order == "<" else b"MM"
    begin = (
        struct.pack(order + "HHHQ", 43, 8, 0, places["ifd"])
        if big
        else struct.pack(order + "HI", 42, places["ifd"])
    )
    out[:head] = mark + begin
    rows_of_tags = sorted(tags) if rng.random() < 0.5 else rng.sample(sorted(tags), len(tags))
    directory = struct.pack(order + ("Q" if big else "H"), len(tags))
    for tag in rows_of_tags:
        form, values = tags[tag]
        packed = struct.pack(f"{order}{len(values)}{letters[form]}", *values)
        directory += struct.pack(f"{order}HH{word}", tag, form, len(values))
        if len(packed) > inline:
            out[places[("table", tag)] : places[("table", tag)] + len(packed)] = packed
            directory += struct.pack(order + word, places[("table", tag)])
        else:
            directory += packed.ljust(inline, b"\0")
    directory += struct.pack(order + word, 0)
    out[places["ifd"] : places["ifd"] + len(directory)] = directory
    for number, strip in enumerate(strips):
        out[places[("strip", number)] : places[("strip", number)] + len(strip)] = strip
    return bytes(out)


@FAST
@given(
    data=st.data(), shape=SHAPES, samples=st.sampled_from([(), (3,), (4,)]), order=st.sampled_from("<>"),
    dtype=st.sampled_from(["u1", "u2", "i2", "u4", "i4"]), big=st.booleans(), rows=st.integers(1, 30),
    seed=st.integers(0, 1 << 30),
)  # fmt: skip
def test_tiff_with_tags_and_strips_in_any_order(data, shape, samples, order, dtype, big, rows, seed):
    array = data.draw(hnp.arrays(np.dtype(dtype), shape + samples))
    source = tiff_of(array, order, big, rows, random.Random(seed))
    parsed = parse(source)
    assert parsed is not None
    assert parsed.fidelity == "bytes"
    assert written_again(parsed) == source
    expected = array.view("u4") if array.itemsize == 4 else array  # wide samples are bit patterns
    np.testing.assert_array_equal(parsed.images[0], expected)


@FAST
@given(
    data=st.data(), shape=hnp.array_shapes(min_dims=2, max_dims=4, max_side=9), order=st.sampled_from("<>"),
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]), turn=st.booleans(),
    step=st.integers(1, 3), back=st.booleans(), version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)  # fmt: skip
def test_npy_of_any_strides(data, shape, order, dtype, turn, step, back, version):
    array = data.draw(
        hnp.arrays(np.dtype(order + dtype), shape, elements={"allow_nan": False} if dtype[0] == "f" else None)
    )
    array = array[::-step] if back else array[::step]
    array = array.T if turn else array
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    parsed = parse(out.getvalue())
    if parsed is None:  # of what has no two axes that are longer than one
        return
    assert parsed.fidelity == "bytes"
    assert written_again(parsed) == out.getvalue()
    assert sum(image.nbytes for image in parsed.images) == array.nbytes
