"""Chunks of zarr arrays: every writer's bytes come back, and no document makes a reader stumble."""

from __future__ import annotations

import io
import json
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from callic_archive.errors import (
    MalformedSource,
    RebuildMismatch,
    SourceError,
    SourceTooLarge,
    TruncatedSource,
)
from callic_archive.images import Context, Limits, Parsed, images_equal, parse, rebuild
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import parse_again
from callic_archive.images.zarr_metadata import array_form, may_be_key

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = (5, 70, 90)


def volume(dtype: str = "u2", shape: tuple[int, ...] = SHAPE) -> np.ndarray[Any, Any]:
    ramp = np.indices(shape).sum(axis=0) * 7 + np.random.default_rng(3).integers(0, 5, shape)
    return (ramp % 2 if dtype == "bool" else ramp % 120).astype(dtype)


def contexts(root: Path) -> list[tuple[Path, Context]]:
    """Every file below an array's folder with the array's document."""
    found = []
    for document in [*root.rglob(".zarray"), *root.rglob("zarr.json")]:
        if document.name == "zarr.json" and json.loads(document.read_bytes())["node_type"] != "array":
            continue
        for file in sorted(document.parent.rglob("*")):
            if file.is_file() and not file.name.startswith(".z") and file.name != "zarr.json":
                key = file.relative_to(document.parent).as_posix()
                found.append((file, Context(document.name, document.read_bytes(), key)))
    return found


def back(parsed: Parsed) -> bytes:
    out = io.BytesIO()
    recipe = json.loads(json.dumps(parsed.recipe))
    images = [np.array(image, order="C") for image in parsed.images]
    rebuild(parsed.format, recipe, parsed.surround, images, out)
    return out.getvalue()


def assert_exact(root: Path, chunks: int) -> list[Parsed]:
    found = []
    for file, context in contexts(root):
        data = file.read_bytes()
        parsed = parse(data, context=context)
        assert parsed is not None, file
        assert parsed.format == "zarr"
        assert parsed.fidelity == "bytes"
        assert back(parsed) == data
        found.append(parsed)
    assert len(found) == chunks
    return found


V2: dict[str, dict[str, Any]] = {
    "raw": {"compressors": None},
    "blosc": {"compressors": numcodecs.Blosc()},
    "blosc-bitshuffle": {"compressors": numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE)},
    "blosc-auto": {"compressors": numcodecs.Blosc("lz4hc", 9, numcodecs.Blosc.AUTOSHUFFLE)},
    "blosc-blocks": {"compressors": numcodecs.Blosc("zlib", 1, numcodecs.Blosc.SHUFFLE, 2048)},
    "zstd": {"compressors": numcodecs.Zstd(level=5, checksum=True)},
    "gzip": {"compressors": numcodecs.GZip(3)},
    "zlib": {"compressors": numcodecs.Zlib(6)},
    "lz4": {"compressors": numcodecs.LZ4(2)},
    "bz2": {"compressors": numcodecs.BZ2(2)},
    "shuffle": {"filters": [numcodecs.Shuffle(2)], "compressors": numcodecs.Zstd(1)},
    "delta": {"filters": [numcodecs.Delta("<u2")], "compressors": numcodecs.Zlib(1), "dtype": "<u2"},
    "checksums": {"filters": [numcodecs.CRC32(), numcodecs.Adler32()], "compressors": numcodecs.Zstd(1)},
    "delta-raw": {"filters": [numcodecs.Delta("|u1")], "compressors": None, "dtype": "u1"},
}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", V2)
def test_version_2(tmp_path: Path, name: str, order: str) -> None:
    arguments = dict(V2[name])
    dtypes = (
        [arguments.pop("dtype")] if "dtype" in arguments else ["u1", "i1", "<u2", ">u2", "<i2", ">i2", "bool"]
    )
    for number, dtype in enumerate(dtypes):
        array = zarr.create_array(
            tmp_path / str(number), shape=SHAPE, chunks=(2, 70, 64), dtype=dtype, zarr_format=2, order=order,
            chunk_key_encoding={"name": "v2", "separator": "./"[number % 2]}, **arguments,
        )  # fmt: skip
        array[:] = volume(dtype)
    assert_exact(tmp_path, 6 * len(dtypes))


V3: dict[str, Any] = {
    "raw": None,
    "blosc": BloscCodec(),
    "blosc-typesize": BloscCodec(typesize=4, cname="lz4", shuffle="shuffle"),
    "zstd": ZstdCodec(level=3),
    "gzip": GzipCodec(level=2),
    "checksum": [ZstdCodec(checksum=True), Crc32cCodec()],
    "crc": [Crc32cCodec()],
}


@pytest.mark.parametrize("shards", [None, (4, 140, 128)], ids=["plain", "sharded"])
@pytest.mark.parametrize("chunks", [(1, 70, 64), (2, 70, 64)], ids=["slices", "slabs"])
@pytest.mark.parametrize("name", V3)
def test_version_3(
    tmp_path: Path, name: str, chunks: tuple[int, ...], shards: tuple[int, ...] | None
) -> None:
    for number, (dtype, endian) in enumerate([("u1", "little"), ("u2", "big"), ("i2", "little")]):
        array = zarr.create_array(
            tmp_path / str(number), shape=SHAPE, chunks=chunks, shards=shards, dtype=dtype,
            compressors=V3[name], serializer=BytesCodec(endian=endian),
            chunk_key_encoding={"name": "default", "separator": "./"[number % 2]},
        )  # fmt: skip
        array[:] = volume(dtype)
    count = 2 if shards else 2 * -(-5 // chunks[0])
    found = assert_exact(tmp_path, 3 * count)
    assert all(len(parsed.images) == 1 for parsed in found), "a shard is one image"
    if shards and chunks[0] == 1:
        # The last shard holds 2 of 16 chunks; of such only what is there is taken.
        assert {parsed.images[0].shape for parsed in found} == {(4 * 140, 128), (2 * 70, 64)}


def test_transposes_and_version_2_keys(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a", shape=(70, 90), chunks=(70, 90), dtype="u2", compressors=ZstdCodec(),
        filters=[TransposeCodec(order=(1, 0))], chunk_key_encoding={"name": "v2", "separator": "."},
    )  # fmt: skip
    array[:] = volume("u2", (70, 90))
    (parsed,) = assert_exact(tmp_path, 1)
    assert np.array_equal(parsed.images[0], volume("u2", (70, 90))), "the image stands upright"


@pytest.mark.parametrize("location", ["start", "end"])
def test_missing_chunks_of_a_shard_have_the_fill_value(tmp_path: Path, location: Any) -> None:
    from zarr.codecs import ShardingCodec

    array = zarr.create_array(
        tmp_path / "a", shape=(128, 128), chunks=(128, 128), dtype="u2", fill_value=9, compressors=None,
        serializer=ShardingCodec(chunk_shape=(64, 64), index_location=location),
    )  # fmt: skip
    array[:64, 64:] = volume("u2", (64, 64))
    array[64:, 64:] = 5
    (parsed,) = assert_exact(tmp_path, 1)
    (image,) = parsed.images
    assert np.array_equal(image[:64, 64:], volume("u2", (64, 64)))
    assert (image[64:, 64:] == 5).all()
    assert (image[:, :64] == 9).all()
    array[64:, 64:] = 9  # which takes the chunk away again
    (parsed,) = assert_exact(tmp_path, 1)
    assert np.array_equal(parsed.images[0], volume("u2", (64, 64))), (
        "of a mostly empty shard only what is there"
    )


@pytest.mark.parametrize("chunks", [(4, 32, 32), (2, 64, 16), (1, 32, 64)])
def test_shards_of_chunks_with_several_slices(tmp_path: Path, chunks: tuple[int, ...]) -> None:
    image = volume("u2", (8, 64, 64))
    array = zarr.create_array(str(tmp_path), shape=image.shape, shards=image.shape, chunks=chunks, dtype="uint16", zarr_format=3)
    array[...] = image
    (parsed,) = assert_exact(tmp_path, 1)
    assert np.array_equal(parsed.images[0].reshape(image.shape), image)


def test_colour_and_single_axes(tmp_path: Path) -> None:
    shapes = {"rgb": (1, 40, 50, 3), "gray": (1, 1, 1, 40, 50), "line": (1, 2000, 1), "rest": (2, 3, 4, 5, 6)}
    wanted = {"rgb": (40, 50, 3), "gray": (40, 50), "rest": (120, 6)}
    for name, shape in shapes.items():
        array = zarr.create_array(
            tmp_path / name, shape=shape, chunks=shape, dtype="u1", compressors=ZstdCodec()
        )
        array[:] = volume("u1", shape)
    for file, context in contexts(tmp_path):
        parsed = parse(file.read_bytes(), context=context)
        name = file.relative_to(tmp_path).parts[0]
        assert (parsed.images[0].shape if parsed else None) == wanted.get(name)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<u4", ">i8", "<c8", "<f2", ">i4"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("codec", ["blosc", "raw", "default"])
def test_wide_types_are_bit_patterns(
    tmp_path: Path, dtype: str, version: Any, codec: str, rebuilt: Any
) -> None:
    values = np.random.default_rng(3).normal(0, 1e3, (50, 40)).astype(dtype)
    more: dict[str, Any] = {"default": {}, "raw": {"compressors": None}}.get(codec, {})
    if codec == "blosc":
        more["compressors"] = numcodecs.Blosc() if version == 2 else zarr.codecs.BloscCodec()
    array = zarr.create_array(
        tmp_path / "a", shape=values.shape, chunks=values.shape, dtype=dtype, zarr_format=version, **more
    )
    array[:] = values
    ((file, context),) = contexts(tmp_path)
    data = file.read_bytes()
    parsed = parse(data, context=context)
    assert parsed is not None
    assert parsed.fidelity == "bytes"
    assert rebuilt(parsed) == data
    (image,) = parsed.images
    native = values.astype(values.dtype.newbyteorder("="))
    assert np.array_equal(image, native.view(image.dtype))


@pytest.mark.parametrize(
    ("dtype", "fill"), [("f8", "NaN"), ("f4", 1.5), ("i4", -7), ("u8", (1 << 64) - 3), ("f2", "-Infinity"), ("i2", -9)]
)
def test_missing_chunks_have_the_fill_value(tmp_path: Path, dtype: str, fill: Any, rebuilt: Any) -> None:
    value = np.array(float(fill) if isinstance(fill, str) else fill).astype(dtype)
    array = zarr.create_array(
        tmp_path / "a", shape=(40, 40), chunks=(10, 10), shards=(40, 40), dtype=dtype, fill_value=value[()]
    )
    array[:30] = np.arange(1200).reshape(30, 40)
    ((file, context),) = contexts(tmp_path)
    parsed = parse(file.read_bytes(), context=context)
    assert parsed is not None
    assert parsed.images[0].shape == (40, 40)
    assert set(parsed.images[0][30:].ravel().tolist()) == {int(value.view(parsed.images[0].dtype))}
    assert rebuilt(parsed) == file.read_bytes()


@pytest.mark.parametrize("version", [2, 3])
def test_scalars_and_other_types_are_left_alone(tmp_path: Path, version: Any) -> None:
    array = zarr.create_array(
        tmp_path / "a", shape=(50, 50), chunks=(50, 50), dtype="c16", zarr_format=version
    )
    array[:] = 1.0
    scalar = zarr.create_array(tmp_path / "b", shape=(), dtype="u1", zarr_format=version)
    scalar[...] = 5
    found = contexts(tmp_path)
    assert len(found) == 2
    assert all(parse(file.read_bytes(), context=context) is None for file, context in found)


# -- other writers -------------------------------------------------------------------------------------------


def document(shape: list[int], chunks: list[int] | None = None, **more: Any) -> bytes:
    found: dict[str, Any] = {
        "zarr_format": 2, "shape": shape, "chunks": chunks or shape, "dtype": "|u1", "compressor": None,
        "fill_value": 0, "order": "C", "filters": None,
    }  # fmt: skip
    return json.dumps(found | more).encode()


def context_of(key: str = "0.0", **more: Any) -> Context:
    return Context(".zarray", document([40, 50], **more), key)


RAW = volume("u1", (40, 50)).tobytes()


def test_levels_that_a_writer_did_not_record() -> None:
    for level in (1, 5, 6, 9):
        parsed = parse(zlib.compress(RAW, level), context=context_of(compressor={"id": "zlib", "level": 3}))
        assert parsed is not None
        assert back(parsed) == zlib.compress(RAW, level)


def test_gzip_headers_are_kept() -> None:
    engine = zlib.compressobj(6, zlib.DEFLATED, 31)
    data = bytearray(engine.compress(RAW) + engine.flush())
    data[4:10] = b"\x01\x02\x03\x04\x05\x06"
    context = context_of(compressor={"id": "gzip", "level": 6})
    parsed = parse(bytes(data), context=context)
    assert parsed is not None
    assert back(parsed) == bytes(data)
    data[3] = 8  # a file name would follow
    assert parse(bytes(data), context=context) is None


@pytest.mark.parametrize("cname", ["lz4", "zstd", "blosclz"])
def test_blosc_blocks_in_the_order_in_which_threads_made_them(cname: str) -> None:
    codec = numcodecs.Blosc(cname, 5, numcodecs.Blosc.SHUFFLE, blocksize=1 << 15)
    raw = volume("u2", (700, 700))
    frame = codec.encode(raw)
    count = -(-raw.nbytes // int.from_bytes(frame[8:12], "little"))
    assert count > 10
    starts = np.frombuffer(frame, "<u4", count, 16)
    assert (np.diff(starts.astype(int)) > 0).all(), "one thread writes block after block"
    ends = [*starts[1:].tolist(), len(frame)]
    order = np.random.default_rng(0).permutation(count)
    at, moved = int(starts[0]), np.empty(count, "<u4")
    pieces = []
    for block in order:
        moved[block] = at
        pieces.append(frame[starts[block] : ends[block]])
        at += len(pieces[-1])
    shuffled = frame[:16] + moved.tobytes() + b"".join(pieces)
    assert bytes(codec.decode(shuffled)) == raw.tobytes()
    metadata = {
        "dtype": "<u2",
        "compressor": {"id": "blosc", "cname": cname, "clevel": 5, "shuffle": 1, "blocksize": 0},
    }
    context = Context(".zarray", document([700, 700], **metadata), "0.0")
    parsed = parse(shuffled, context=context)
    assert parsed is not None
    assert back(parsed) == shuffled
    recipe = json.loads(json.dumps(parsed.recipe))
    recipe["chains"][0][0][-1] = recipe["chains"][0][0][-2]
    with pytest.raises(RebuildMismatch):
        rebuild("zarr", recipe, parsed.surround, parsed.images, io.BytesIO())


def test_what_threads_really_write() -> None:
    from numcodecs import blosc

    raw = np.random.default_rng(0).integers(0, 40, (700, 700)).astype("<u2")
    before, threads = blosc.use_threads, blosc.set_nthreads(4)
    blosc.use_threads = True
    try:
        frames = {numcodecs.Blosc(blocksize=1 << 14).encode(raw) for _ in range(20)}
    finally:
        blosc.use_threads = before
        blosc.set_nthreads(threads)
    metadata = {
        "dtype": "<u2",
        "compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0},
    }
    context = Context(".zarray", document([700, 700], **metadata), "0.0")
    for frame in frames:
        parsed = parse(frame, context=context)
        assert parsed is not None
        assert back(parsed) == frame


def odd_zlib(raw: bytes = RAW) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, 15, 1)  # a memory level that no writer of zarr uses
    return engine.compress(raw) + engine.flush()


def test_a_chunk_that_nothing_repeats_comes_back_with_equal_content() -> None:
    parsed = parse(odd_zlib(), context=context_of(compressor={"id": "zlib", "level": 9}))
    assert parsed is not None
    assert parsed.fidelity == "content"
    made = back(parsed)
    assert made == zlib.compress(RAW, 9), "coded by the recorded codec"
    again = parse_again(made, "zarr", parsed.recipe)
    assert again is not None
    assert images_equal(parsed, again)
    other = parse_again(zlib.compress(bytes(2000), 9), "zarr", parsed.recipe)
    assert other is None or not images_equal(parsed, other)
    with pytest.raises(SourceError):
        parse_again(zlib.compress(RAW[1:], 9), "zarr", parsed.recipe)


def test_a_chunk_with_a_checksum_that_nothing_repeats_stays_as_it_is() -> None:
    metadata = {
        "zarr_format": 3, "node_type": "array", "shape": [40, 50], "data_type": "uint8", "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [40, 50]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": ["bytes", {"name": "numcodecs.zlib", "configuration": {"level": 9}}, "crc32c"],
    }  # fmt: skip
    context = Context("zarr.json", json.dumps(metadata).encode(), "c/0/0")
    assert parse(odd_zlib() + b"abcd", context=context) is None
    parsed = parse(zlib.compress(RAW, 9) + b"abcd", context=context)
    assert parsed is not None
    assert back(parsed) == zlib.compress(RAW, 9) + b"abcd"


def test_a_shard_keeps_the_few_chunks_that_nothing_repeats() -> None:
    chunks, offset, index = [], 0, []
    for number in range(16):
        raw = (volume("u1", (40, 50)) + number).tobytes()
        engine = zlib.compressobj(6, zlib.DEFLATED, 15, 1 if number == 7 else 8)
        chunks.append(engine.compress(raw) + engine.flush())
        index += [offset, len(chunks[-1])]
        offset += len(chunks[-1])
    data = b"".join(chunks) + np.array(index, "<u8").tobytes()
    metadata = {
        "zarr_format": 3, "node_type": "array", "shape": [160, 200], "data_type": "uint8", "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [160, 200]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [40, 50], "codecs": ["bytes", {"name": "numcodecs.zlib", "configuration": {"level": 6}}],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}}],
    }  # fmt: skip
    parsed = parse(data, context=Context("zarr.json", json.dumps(metadata).encode(), "c/0/0"))
    assert parsed is not None
    assert back(parsed) == data
    assert len(parsed.surround) == 256 + len(chunks[7])
    assert parsed.images[0].shape == (160, 200)


# -- ZIP -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [None, (4, 140, 128)], ids=["plain", "sharded"])
def test_zipped_stores(tmp_path: Path, shards: tuple[int, ...] | None) -> None:
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        sparse = zarr.create_array(
            store, name="sparse", shape=(200, 200), chunks=(20, 20), dtype="u1", order="C"
        )
        sparse[30:70, 90:130] = volume("u1", (40, 40))
        fortran = zarr.create_array(
            store, name="fortran", shape=(40, 60), chunks=(20, 30), dtype="u1", zarr_format=2, order="F"
        )
        fortran[:] = volume("u1", (40, 60))
        group = zarr.open_group(store, mode="a")
        group.create_array("floats", shape=(10, 10), dtype="f4")[:] = 1
        for name in ("x", "y/z"):
            array = group.create_array(name, shape=SHAPE, chunks=(1, 70, 64), shards=shards, dtype="u2")
            array[:] = volume()
    data = (tmp_path / "a.zip").read_bytes()
    parsed = parse(data)
    assert parsed is not None
    assert parsed.format == "zarr"
    assert back(parsed) == data
    assert [image.shape for image in parsed.images][:2] == [(9 * 20, 20), (4 * 30, 20)], (
        "columns of what is there"
    )
    assert (parsed.images[2].shape, parsed.images[2].dtype) == ((10, 10), np.dtype("u4"))  # floats
    assert sum(image.size for image in parsed.images[3:]) == 2 * (
        4 * 140 * 128 + 2 * 70 * 64 if shards else 10 * 70 * 64
    )


def test_other_zips_are_left_alone() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("a/.zarray", document([40, 50]))
        made.writestr("a/0.0", RAW, zipfile.ZIP_DEFLATED)
        made.writestr("b/0.0", RAW)
    assert parse(out.getvalue()) is None, "compressed members are not looked into"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("0.0", RAW)
    assert parse(out.getvalue()) is None
    assert parse(b"PK\x03\x04" + bytes(100)) is None
    for cut in range(0, 400, 7):
        assert parse(out.getvalue()[:cut]) is None


def test_zips_with_too_many_words() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for number in range(40):
            made.writestr(f"{number}/zarr.json", b" " * (4 << 20))
        made.writestr("a/.zarray", document([40, 50]))
        made.writestr(zipfile.ZipInfo("a/0.0"), RAW)
    begin = time.monotonic()
    assert parse(out.getvalue()) is None
    assert time.monotonic() - begin < 10


def test_damaged_zips_never_crash(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("a/.zarray", document([40, 50], compressor={"id": "zlib", "level": 1}))
        made.writestr("a/0.0", zlib.compress(RAW, 1))
    data = out.getvalue()
    assert (parsed := parse(data)) is not None
    assert back(parsed) == data
    rng = np.random.default_rng(0)
    for _ in range(600):
        broken = bytearray(data)
        at = int(rng.integers(len(data))) if rng.random() < 0.5 else len(data) - 1 - int(rng.integers(160))
        broken[at] ^= int(rng.integers(1, 256))
        try:
            parsed = parse(bytes(broken))
        except SourceError:
            continue
        assert parsed is None or back(parsed) == bytes(broken)


# -- keys and documents --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["0", "0.0.0", "0/0", "c/0/0", "00.0", "0.a", "-1.0", "0.0/", "c.0.0", ".zattrs"]
)
def test_files_that_are_no_chunks(key: str) -> None:
    assert parse(RAW, context=context_of(key)) is None


def test_names_of_chunks() -> None:
    assert all(may_be_key(name) for name in ("0", "12.5.0", "c.0.1", "1/2", "c/0"))
    assert not any(may_be_key(name) for name in ("", "c", "a.png", "0.png", "01", "1.", ".1", "c0", "1 "))


BROKEN: list[bytes] = [
    b"", b"nonsense", b"[]", b"{}", b"null", b"\xff\xfe", b'{"zarr_format": 3}',
    document([40, 50], [40]), document([40, 50], [0, 50]), document([40, 50], [-1, 50]), document([40, 50], ["40", 50]),
    document([40, 50], [1 << 31, 1 << 31]), document([40, 50], [1 << 70, 1]), document([40, 50], [True, 50]),
    document([40, 50], order="X"), document([40, 50], dimension_separator="-"), document([40, 50], filters=5),
    document([40, 50], compressor=7), document([40, 50], compressor={"level": 1}),
    document([40, 50], compressor={"id": "zlib", "level": "9"}), document([40, 50], compressor={"id": "zlib", "level": 99}),
    document([40, 50], compressor={"id": "blosc", "cname": "none"}),
    document([40, 50], compressor={"id": "blosc", "cname": "lz4", "typesize": 1000}),
    document([1] * 40), b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b'{"zarr_format": 2, "shape": [' + b"9" * 5000 + b"]}", b" " * (5 << 20),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_documents_that_contradict_themselves(number: int) -> None:
    with pytest.raises(MalformedSource):
        parse(RAW, "chunk", context=Context(".zarray", BROKEN[number], "0.0"))


def test_documents_of_other_things() -> None:
    for more in (
        {"dtype": [["a", "<u2"]]}, {"dtype": "<c16"}, {"dtype": "|f4"}, {"dtype": 5}, {"compressor": {"id": "lzma"}},
        {"compressor": {"id": "callic"}}, {"filters": [{"id": "astype"}]}, {"filters": [{"id": "shuffle"}] * 30},
        {"filters": [{"id": "gzip"}], "compressor": {"id": "zlib"}},
        {"filters": [{"id": "delta", "dtype": "<i8"}]},
    ):  # fmt: skip
        assert parse(RAW, context=context_of(**more)) is None
    group = Context("zarr.json", b'{"zarr_format": 3, "node_type": "group"}', "0/0")
    assert parse(RAW, context=group) is None


@pytest.mark.parametrize("size", [1999, 2001, 0, 1])
def test_chunks_of_another_size_are_named(size: int) -> None:
    for more in ({}, {"compressor": {"id": "zlib", "level": 1}}, {"compressor": {"id": "lz4"}}):
        raw = RAW[:size].ljust(size, b"x")
        data = (
            raw
            if not more
            else zlib.compress(raw, 1)
            if more["compressor"]["id"] == "zlib"
            else numcodecs.LZ4().encode(raw)
        )
        with pytest.raises(SourceError):
            parse(data or b"", context=context_of(**more))


@pytest.mark.parametrize(
    "codec", [{"id": "zlib"}, {"id": "gzip"}, {"id": "zstd"}, {"id": "lz4"}, {"id": "blosc"}, {"id": "bz2"}]
)
def test_bombs_and_noise_are_bounded(codec: dict[str, str]) -> None:
    context = context_of(compressor=codec)
    encoder = numcodecs.get_codec(dict(codec))
    bomb = encoder.encode(bytes(64 << 20))
    begin = time.monotonic()
    with pytest.raises(SourceError):
        parse(bomb, context=context)
    good = bytearray(encoder.encode(RAW))
    rng = np.random.default_rng(1)
    for _ in range(200):
        broken = bytearray(good)
        broken[int(rng.integers(len(good)))] ^= int(rng.integers(1, 256))
        broken = broken[: int(rng.integers(len(good) + 1))] if rng.random() < 0.2 else broken
        try:
            parsed = parse(bytes(broken), context=context)
        except SourceError:
            continue
        assert parsed is None or parsed.fidelity == "content" or back(parsed) == bytes(broken)
        if (
            parsed is not None and parsed.fidelity == "content"
        ):  # the library itself reads it, and to the same
            assert bytes(encoder.decode(bytes(broken))) == bytes(encoder.decode(back(parsed)))
    assert time.monotonic() - begin < 20


def test_what_a_document_may_promise_is_bounded() -> None:
    huge = Context(".zarray", document([1 << 20, 1 << 19], compressor={"id": "zlib", "level": 1}), "0.0")
    with pytest.raises((SourceTooLarge, MalformedSource)):
        parse(zlib.compress(RAW), context=huge)
    large = Context(".zarray", document([1 << 14, 1 << 14], compressor={"id": "zlib", "level": 1}), "0.0")
    assert parse(zlib.compress(RAW), context=large) is None, "beyond any ratio that is worth a look"
    with pytest.raises(SourceTooLarge):
        parse(RAW, context=context_of(), limits=Limits(max_decoded_bytes=100))


def test_shards_with_a_lying_index() -> None:
    metadata: dict[str, Any] = {
        "zarr_format": 3, "node_type": "array", "shape": [80, 100], "data_type": "uint8", "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [80, 100]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [40, 50], "codecs": ["bytes"],
                    "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}}],
    }  # fmt: skip
    context = Context("zarr.json", json.dumps(metadata).encode(), "c/0/0")
    good = [0, 2000, 2000, 2000, 4000, 2000, 6000, 2000]
    assert parse(RAW * 4 + np.array(good, "<u8").tobytes(), context=context) is not None
    for lie in (
        [0, 2000] * 4,
        [*good[:6], 7000, 2000],
        [*good[:6], 1 << 63, 2000],
        [*good[:6], 0, 1 << 63],
        [*good[:6], 6000, 1999],
    ):
        with pytest.raises(MalformedSource):
            parse(RAW * 4 + np.array(lie, "<u8").tobytes(), context=context)
    with pytest.raises(TruncatedSource):
        parse(b"short", context=context)
    inner = metadata["codecs"][0]["configuration"]
    inner["chunk_shape"] = [1, 1]
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 15, 1 << 15]
    with pytest.raises(SourceTooLarge):
        parse(RAW, context=Context("zarr.json", json.dumps(metadata).encode(), "c/0/0"))
    inner["chunk_shape"] = [3, 7]
    with pytest.raises(MalformedSource, match="divide"):
        parse(RAW, context=Context("zarr.json", json.dumps(metadata).encode(), "c/0/0"))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 65), 1 << 65)
    | st.floats(allow_nan=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS_2 = [
    "zarr_format",
    "shape",
    "chunks",
    "dtype",
    "compressor",
    "fill_value",
    "order",
    "filters",
    "dimension_separator",
]
KEYS_3 = [
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "codecs",
    "fill_value",
    "storage_transformers",
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KEYS_2), JSON, st.booleans())
def test_any_value_in_a_document_of_version_2(key: str, value: Any, drop: bool) -> None:
    found = json.loads(document([40, 50]))
    found[key] = value
    if drop:
        del found[key]
    try:
        form = array_form(".zarray", json.dumps(found).encode())
    except (MalformedSource, NotTaken):
        return
    assert form.chunk.bytes < 1 << 43


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KEYS_3), JSON, st.booleans())
def test_any_value_in_a_document_of_version_3(key: str, value: Any, inside: bool) -> None:
    found: dict[str, Any] = {
        "zarr_format": 3, "node_type": "array", "shape": [80, 100], "data_type": "uint8", "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [80, 100]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "transpose", "configuration": {"order": [1, 0]}}, {"name": "bytes"},
                   {"name": "blosc", "configuration": {"cname": "lz4", "typesize": 1}}],
    }  # fmt: skip
    target = found[key] if inside and key in found and isinstance(found[key], (dict, list)) else found
    if isinstance(target, list) and key == "codecs":
        target[len(str(value)) % 3] = {"name": "blosc", "configuration": value}
    elif target is found or key == "shape":
        found[key] = value
    else:
        target["configuration"] = value
    try:
        form = array_form("zarr.json", json.dumps(found).encode())
    except (MalformedSource, NotTaken):
        return
    assert form.chunk.bytes < 1 << 43


def test_recipes_that_ask_for_the_impossible() -> None:
    parsed = parse(zlib.compress(RAW, 1), context=context_of(compressor={"id": "zlib", "level": 1}))
    assert parsed is not None

    def broken(**changes: Any) -> dict[str, Any]:
        return parsed.recipe | changes

    for recipe in (
        broken(chains=[[["rot13", 1]]]), broken(chains=[[["zlib", 1, 2]]]), broken(chains=[[["zlib", "9"]]]),
        broken(chains=[[["zlib", 77]]]), broken(chains=[[["zlib", 1 << 40]]]), broken(chains=[]), broken(chains=[5]),
        broken(chains=[[["blosc", "nothing", 5, 1, 0, 1]]]), broken(chains=[[["delta", 3]]]), broken(chains=[[["shuffle", 0]]]),
        broken(blocks=[]), broken(blocks=[[[3, 0, 1]]]), broken(blocks=[[[0, 0, 1 << 40]]]), broken(blocks=[[]]),
        broken(chains=[[["zlib", 1]]] * 5000),
        {k: v for k, v in parsed.recipe.items() if k != "blocks"},
        {k: v for k, v in parsed.recipe.items() if k != "chains"},
    ):  # fmt: skip
        with pytest.raises(RebuildMismatch):
            rebuild("zarr", recipe, parsed.surround, parsed.images, io.BytesIO())


def test_raw_chunks_need_no_library_to_come_back() -> None:
    import subprocess

    parsed = parse(RAW, context=context_of())
    assert parsed is not None
    assert set(parsed.recipe) == {"layouts"}
    code = (
        "import io, sys, numpy as np\nfrom callic_archive.images import rebuild\nout = io.BytesIO()\n"
        f"rebuild('zarr', {parsed.recipe!r}, {parsed.surround!r}, [np.zeros((40, 50), np.uint8)], out)\n"
        "assert out.getvalue() == bytes(2000)\nprint(sorted({'zarr', 'numcodecs'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_example_of_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs/format/zarr.md").read_text("utf-8")
    text, shown = page.split("*Example:*")[1].split("    file    ")
    recipe = json.loads(text[text.index("{") :])
    out = io.BytesIO()
    rebuild("zarr", recipe, b"", [np.arange(6, dtype=np.uint8).reshape(2, 3)], out)
    assert out.getvalue().hex(" ") == shown.split("\n")[0].strip()
