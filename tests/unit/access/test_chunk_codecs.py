"""The zarr and numcodecs codecs: every array comes back, small ones too, and damage is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.storage import MemoryStore

from callic_archive.access.chunk_frame import MAGIC, FrameOptions, decode_chunk, encode_chunk
from callic_archive.access.numcodecs_codec import Callic
from callic_archive.access.zarr_codec import CallicCodec
from callic_archive.codec.codestream import inspect
from callic_archive.errors import CallicError, ChunkFrameError
from callic_archive.model.weights import ModelSet
from tests.trees import smooth

pytestmark = [pytest.mark.usefixtures("registered"), pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[3]
IMAGE = smooth(70, 50)
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "gray": IMAGE,
    "colour last": smooth(40, 50, 3),
    "colour first": np.ascontiguousarray(np.moveaxis(smooth(40, 50, 3), 2, 0)),
    "stack": np.stack([smooth(30, 40, seed=s) for s in range(5)]),
    "wide": IMAGE.astype("u2") * 300,
    "signed": IMAGE.astype("i2") * 3 - 200,
    "bytes with sign": (IMAGE.astype("i2") - 100).astype("i1"),
    "mask": IMAGE > 90,
}
OTHERS: dict[str, np.ndarray[Any, Any]] = {
    "floats": IMAGE.astype("f4"),
    "complex": IMAGE.astype("c8"),
    "32 bits": IMAGE.astype("u4"),
    "64 bits": IMAGE.astype("i8"),
    "one axis": IMAGE.reshape(-1),
    "tiny": IMAGE[:5, :5],
    "a line": IMAGE[:1].repeat(40, axis=1),
}


def form_of(frame: bytes) -> int:
    assert frame[:5] == MAGIC + b"\x01"
    return frame[5]


@pytest.mark.parametrize("name", ARRAYS)
def test_images_go_through_the_learned_codec(name: str) -> None:
    array = ARRAYS[name]
    for big in (False, True) if array.itemsize == 2 else (False,):
        stored = array.astype(array.dtype.newbyteorder(">" if big else "<"))
        frame = encode_chunk(stored, FrameOptions())
        assert form_of(frame) == (2 if name == "colour first" else 1)
        assert frame[6] == int(big)
        assert decode_chunk(frame).tobytes() == stored.tobytes()
        shipped = {model.digest[:16] for model in ModelSet.default()}
        assert set(inspect(frame[7:]).model_digests) <= shipped
        assert inspect(frame[7:]).model_digests


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_goes_through_zstandard(name: str) -> None:
    frame = encode_chunk(OTHERS[name], FrameOptions())
    assert form_of(frame) == 0
    assert decode_chunk(frame, OTHERS[name].nbytes).tobytes() == OTHERS[name].tobytes()


def test_noise_never_grows_beyond_a_few_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert len(encode_chunk(noise, FrameOptions())) < noise.nbytes + 40


@pytest.mark.parametrize("shards", [False, True], ids=["plain", "sharded"])
@pytest.mark.parametrize("name", [*ARRAYS, *OTHERS])
def test_zarr_3(name: str, shards: bool) -> None:
    array = (ARRAYS | OTHERS)[name]
    chunks = tuple(
        max(1, -(-n // 2)) if n > 4 else n for n in array.shape
    )  # the last chunks are partial ones
    whole = tuple(2 * n for n in chunks) if shards else None
    store = MemoryStore()
    made = zarr.create_array(
        store, shape=array.shape, chunks=chunks, shards=whole, dtype=array.dtype, fill_value=1,
        serializer={"name": "callic", "configuration": {"level": 3}}, compressors=None,
    )  # fmt: skip
    made[:] = array
    opened = zarr.open_array(store, mode="r")
    assert np.array_equal(opened[:], array)
    assert np.array_equal(
        opened[tuple(slice(1, 3) for _ in array.shape)], array[tuple(slice(1, 3) for _ in array.shape)]
    )
    codec = opened.metadata.codecs[0]
    assert shards or codec == CallicCodec(level=3)


def test_fill_values_and_chunks_that_were_never_written() -> None:
    store = MemoryStore()
    made = zarr.create_array(
        store, shape=(100, 90), chunks=(64, 64), dtype="i2", fill_value=-7, serializer=CallicCodec()
    )
    made[10:20, 70:80] = 5
    found = zarr.open_array(store, mode="r")[:]
    wanted = np.full((100, 90), -7, "i2")
    wanted[10:20, 70:80] = 5
    assert np.array_equal(found, wanted)


def test_compressors_and_filters_may_stand_around_it() -> None:
    store = MemoryStore()
    made = zarr.create_array(
        store, shape=IMAGE.shape, chunks=(64, 32), dtype="u1", serializer=CallicCodec(),
        filters=[zarr.codecs.TransposeCodec(order=(1, 0))], compressors=[zarr.codecs.ZstdCodec()],
    )  # fmt: skip
    made[:] = IMAGE
    assert np.array_equal(zarr.open_array(store, mode="r")[:], IMAGE)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", [*ARRAYS, *OTHERS])
def test_zarr_2(name: str, order: Any) -> None:
    array = (ARRAYS | OTHERS)[name]
    store = MemoryStore()
    made = zarr.create_array(
        store, shape=array.shape, chunks=array.shape, dtype=array.dtype.newbyteorder(">"), zarr_format=2,
        compressors=numcodecs.get_codec({"id": "callic"}), order=order,
    )  # fmt: skip
    made[:] = array
    assert np.array_equal(zarr.open_array(store, mode="r")[:], array)


def test_objects_are_refused_when_the_array_is_made() -> None:
    with pytest.raises(TypeError, match="fixed size"):
        Callic().encode(np.array(["a", None], object))
    with pytest.raises((TypeError, ValueError)):
        zarr.create_array(MemoryStore(), shape=(3,), dtype=str, serializer=CallicCodec())


@pytest.mark.parametrize(
    "bad", [{"coder": "huffman"}, {"level": 0}, {"level": 23}, {"level": "9"}, {"level": True}, {"depth": 1}]
)
def test_wrong_configurations(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        CallicCodec.from_dict({"name": "callic", "configuration": bad})
    with pytest.raises((ValueError, TypeError)):
        numcodecs.get_codec({"id": "callic", **bad})


def test_configurations_come_back() -> None:
    codec = Callic(level=5)
    assert numcodecs.get_codec(codec.get_config()) == codec
    assert CallicCodec.from_dict(CallicCodec(level=5).to_dict()) == CallicCodec(level=5)
    assert CallicCodec.from_dict({"name": "callic"}) == CallicCodec()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["u1", "<u2", ">u2", "<i2", "i1", "?", "<f4", "<i8", "<M8[s]", "S3"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    ),
    st.sampled_from(["C", "F"]),
)
def test_any_small_array(array: np.ndarray[Any, Any], order: Any) -> None:
    codec = Callic()
    laid = np.asarray(array, order=order)
    found = codec.decode(codec.encode(laid))
    assert np.asarray(found).tobytes() == laid.tobytes(order="A")
    out = np.empty(laid.nbytes, np.uint8)
    codec.decode(codec.encode(laid), out=out)
    assert out.tobytes() == laid.tobytes(order="A")


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_chunk_of_a_zarr_array(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=12, max_side=40))
    dtype = data.draw(st.sampled_from(["u1", "u2", "i2"]))
    chunks = tuple(data.draw(st.integers(5, 40)) for _ in shape)
    fill = data.draw(st.integers(0, 100))
    ramp = np.indices(shape).sum(axis=0) * data.draw(st.integers(0, 40))
    array = (ramp + data.draw(st.integers(0, 200))).astype(dtype)
    store = MemoryStore()
    made = zarr.create_array(
        store, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, serializer=CallicCodec()
    )
    made[:] = array
    assert np.array_equal(zarr.open_array(store, mode="r")[:], array)


def test_damaged_and_foreign_frames() -> None:
    for array in (IMAGE, IMAGE.astype("f4")[:20]):
        frame = encode_chunk(array, FrameOptions())
        for victim in (b"", frame[:6], b"nonsense" + frame, frame[:4] + b"\x02" + frame[5:], frame[:5] + b"\x09" + frame[6:],
                       frame[:6] + b"\x02" + frame[7:], frame[:-1], frame + b"x"):  # fmt: skip
            with pytest.raises(CallicError):
                decode_chunk(victim)
        with pytest.raises(ChunkFrameError):
            decode_chunk(frame, array.nbytes + 1)
        with pytest.raises(ChunkFrameError):
            decode_chunk(frame, array.nbytes - 1)
        rng = np.random.default_rng(0)
        for _ in range(40):
            broken = bytearray(frame)
            broken[int(rng.integers(7, len(frame)))] ^= int(rng.integers(1, 256))
            try:
                found = decode_chunk(bytes(broken), array.nbytes)
            except CallicError:
                continue
            assert found.tobytes() == array.tobytes(), "a change was not noticed"


def test_a_frame_of_planes_without_planes() -> None:
    frame = bytearray(encode_chunk(IMAGE, FrameOptions()))
    frame[5] = 2
    with pytest.raises(ChunkFrameError, match="planes"):
        decode_chunk(bytes(frame))


def test_a_promise_of_gigabytes_takes_no_memory() -> None:
    import zstandard

    compressor = zstandard.ZstdCompressor(write_content_size=True)
    honest = compressor.compress(bytes(1 << 20))
    # The field of the content size, four bytes behind magic and descriptor, is made to promise 1.9 GiB.
    at = honest.index((1 << 20).to_bytes(4, "little"))
    lying = honest[:at] + (1_900_000_000).to_bytes(4, "little") + honest[at + 4 :]
    with pytest.raises(ChunkFrameError, match="promises"):
        decode_chunk(MAGIC + b"\x01\x00\x00" + lying)


def test_the_entry_points_lead_to_the_codecs(tmp_path: Path) -> None:
    """As installed: zarr and numcodecs find the codec by its name alone, in a fresh interpreter."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    info = tmp_path / "callic_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: callic-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import zarr, numcodecs, numpy as np\n"
        "array = zarr.create_array(zarr.storage.MemoryStore(), shape=(9, 9), dtype='u1', serializer={'name': 'callic'})\n"
        "array[:] = 3\n"
        "assert (array[:] == 3).all()\n"
        "codec = numcodecs.get_codec({'id': 'callic'})\n"
        "assert bytes(codec.decode(codec.encode(b'abc'))) == b'abc'\n"
        "print(type(array.metadata.codecs[0]).__module__, type(codec).__module__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == [
        "callic_archive.access.zarr_codec",
        "callic_archive.access.numcodecs_codec",
    ]


def test_the_page_on_zarr_tells_the_json_forms() -> None:
    page = (ROOT / "docs/format/zarr.md").read_text("utf-8")
    assert f"    {json.dumps(CallicCodec().to_dict())} " in page
    assert f"    {json.dumps({'id': 'callic', 'coder': 'range', 'level': 9})} " in page
    assert Callic().get_config() == {"id": "callic", "coder": "range", "level": 9}
    assert MAGIC.hex(" ").upper() in page
