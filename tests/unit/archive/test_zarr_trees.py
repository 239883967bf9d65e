"""Zarr stores as sources: the tree comes back byte for byte, and the archive itself opens as a store."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from callic_archive import OpenArchive, zarr_store
from callic_archive.access.zarr_store import ArchiveStore
from callic_archive.archive.context import ContextFinder, read_beside
from callic_archive.archive.entries import Entry
from callic_archive.archive.packed import PackOptions
from callic_archive.errors import NoSuchEntry
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.read import unpack, verify
from tests.doubles import DeflatePlan
from tests.trees import SHARED, Silent, open_archive, pack_tree, smooth, snapshot

pytestmark = pytest.mark.filterwarnings("ignore")


def is_metadata(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name.startswith(".z") or name == "zarr.json"


def round_trip(tree: Path, work: Path) -> list[Entry]:
    """Pack, unpack, compare bytes, verify in full; the entries of the files."""
    watch = Silent()
    run = pack_tree(tree, work / "a.callic", watch=watch)
    with open_archive(work / "a.callic") as archive:
        problems: list[object] = []
        common: dict[str, Any] = {
            "plan": DeflatePlan(), "resources": Resources(workers=1), "tick": lambda *_: None,
            "watch": lambda done: problems.append(done.problem) if done.problem else None,
        }  # fmt: skip
        assert unpack(archive, archive.entries, work / "out", overwrite=False, **common) == []
        verify(archive, archive.entries, full=True, **common)
        assert problems == []
    assert snapshot(work / "out" / tree.name) == snapshot(tree)
    return [entry for entry in run.entries.values() if entry.kind == "file"]


def same_arrays(tree: Path, work: Path) -> int:
    """Every array and group of the tree equals the same one read straight from the archive; how many arrays."""
    count = 0
    with OpenArchive(work / "a.callic", plan=DeflatePlan()) as archive:
        for document in sorted([*tree.rglob(".zarray"), *tree.rglob("zarr.json"), *tree.rglob(".zgroup")]):
            prefix = document.parent.relative_to(tree.parent).as_posix()
            kept, found = (
                zarr.open(str(document.parent), mode="r"),
                zarr.open(zarr_store(archive, prefix), mode="r"),
            )
            assert kept.attrs.asdict() == found.attrs.asdict()
            if isinstance(kept, zarr.Array):
                assert np.array_equal(kept[...], found[...], equal_nan=kept.dtype.kind == "f"), prefix
                count += 1
            else:
                assert isinstance(found, zarr.Group)
                assert sorted(kept.keys()) == sorted(found.keys())
    return count


def make_store(root: Path, version: Any, shards: bool = False) -> Path:
    """A group with a pyramid, a label image, floats, a scalar and an empty array, as OME-Zarr stores have."""
    group = zarr.create_group(root, zarr_format=version, attributes={"ome": {"version": "0.5"}})
    image = np.stack([smooth(150, 170, seed=s).astype("u2") * 9 for s in range(4)])
    for level in range(2):
        data = image[:, :: level + 1, :: level + 1]
        more = {"shards": (2, 128, 128)} if shards else {}
        array = group.create_array(str(level), shape=data.shape, chunks=(1, 64, 64), dtype="u2", **more)
        array[:] = data
    labels = group.create_group("labels").create_array("0", shape=(90, 90), chunks=(90, 90), dtype="u1")
    labels[:] = smooth(90, 90)
    group.create_array("floats", shape=(40, 40), chunks=(20, 20), dtype="f4")[:] = 1.5
    group.create_array("scalar", shape=(), dtype="i4")[...] = 4
    group.create_array("empty", shape=(100, 100), chunks=(50, 50), dtype="u1", fill_value=3)
    return root


@pytest.mark.parametrize(
    ("version", "shards"), [(2, False), (3, False), (3, True)], ids=["v2", "v3", "v3 sharded"]
)
def test_groups(tmp_path: Path, version: Any, shards: bool) -> None:
    tree = make_store(tmp_path / "store.zarr", version, shards)
    entries = round_trip(tree, tmp_path)
    assert same_arrays(tree, tmp_path) == 6
    kinds = Counter((entry.format or entry.method) for entry in entries if not is_metadata(entry.path))
    # Floats, the scalar, and small chunks that do not pay are stored; nothing is a problem.
    assert kinds["zarr"] >= (6 if shards else 30)
    assert not [entry for entry in entries if entry.problem]
    assert all(entry.method == "stored" for entry in entries if is_metadata(entry.path))


COMPRESSORS: dict[str, Any] = {
    "raw": None, "blosc": numcodecs.Blosc(), "zstd": numcodecs.Zstd(), "gzip": numcodecs.GZip(), "zlib": numcodecs.Zlib(),
    "lz4": numcodecs.LZ4(),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressors_and_types(tmp_path: Path, name: str) -> None:
    tree = tmp_path / "store"
    for dtype in ("u1", "<u2", ">u2", "<i2"):
        for order in ("C", "F"):
            array = zarr.create_array(
                tree / f"{np.dtype(dtype).name}-{'big' if dtype[0] == '>' else 'little'}-{order}", shape=(200, 130),
                chunks=(100, 130), dtype=dtype, zarr_format=2, compressors=COMPRESSORS[name], order=order,
            )  # fmt: skip
            array[:] = smooth(200, 130).astype(dtype) * (1 if dtype == "u1" else 11)
    entries = round_trip(tree, tmp_path)
    assert same_arrays(tree, tmp_path) == 8
    chunks = [entry for entry in entries if not is_metadata(entry.path)]
    assert len(chunks) == 16
    assert {entry.format for entry in chunks} == {"zarr"}
    assert {entry.fidelity for entry in chunks} == {"bytes"}


def test_a_zipped_store(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with zarr.storage.ZipStore(tree / "store.zip", mode="w") as store:
        zarr.create_array(store, shape=(256, 256), chunks=(128, 128), dtype="u1")[:] = smooth(256, 256)
    (entry,) = round_trip(tree, tmp_path)
    assert entry.format == "zarr"
    assert entry.images[0].shape == (256, 256)
    with OpenArchive(tmp_path / "a.callic", plan=DeflatePlan()) as archive:
        assert np.array_equal(
            archive.read_array("tree/store.zip", region=slice(99, 150)), smooth(256, 256)[99:150]
        )


def test_what_is_odd_is_kept_and_named(tmp_path: Path) -> None:
    tree = tmp_path / "store"
    array = zarr.create_array(
        tree / "a", shape=(96, 64), chunks=(32, 64), dtype="u1", zarr_format=2, compressors=None
    )
    array[:] = smooth(96, 64)
    (tree / "a" / "0.0").write_bytes(b"too short")
    (tree / "a" / "9.9").write_bytes(b"beyond the array")
    (tree / "a" / "0.0.0").write_bytes(b"no chunk")
    (tree / "broken").mkdir()
    (tree / "broken" / ".zarray").write_text('{"a":' * 20_000)
    (tree / "broken" / "0.0").write_bytes(smooth(64, 64).tobytes())
    (tree / "inside").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tree / "inside" / ".zarray").symlink_to(tmp_path / "pipe")
    (tree / "inside" / "0.0").write_bytes(b"data")
    (tree / "0.0").write_bytes(b"beside nothing")
    entries = {entry.path: entry for entry in round_trip(tree, tmp_path)}
    problems = {path: entry.problem[0] for path, entry in entries.items() if entry.problem}
    assert problems == {"store/a/0.0": "E102", "store/a/9.9": "E102", "store/broken/0.0": "E102"}
    assert entries["store/a/1.0"].format == "zarr"


@pytest.mark.parametrize("fidelity", ["auto", "bytes"])
def test_chunks_of_a_library_that_is_not_at_hand(tmp_path: Path, fidelity: Any) -> None:
    tree = tmp_path / "store"
    array = zarr.create_array(
        tree, shape=(200, 130), chunks=(200, 130), dtype="u1", zarr_format=2, compressors=numcodecs.Zlib(6)
    )
    array[:] = smooth(200, 130)
    engine = zlib.compressobj(9, zlib.DEFLATED, 15, 1)
    (tree / "0.0").write_bytes(engine.compress(smooth(200, 130).tobytes()) + engine.flush())
    run = pack_tree(tree, tmp_path / "a.callic", options=PackOptions(fidelity=fidelity))
    entry = run.entries["store/0.0"]
    assert (entry.method, entry.fidelity) == (
        ("image", "content") if fidelity == "auto" else ("stored", "bytes")
    )
    with OpenArchive(tmp_path / "a.callic", plan=DeflatePlan()) as archive:
        assert np.array_equal(zarr.open_array(zarr_store(archive, "store"), mode="r")[:], smooth(200, 130))
    with open_archive(tmp_path / "a.callic") as archive:
        problems: list[object] = []
        verify(
            archive, archive.entries, full=True, plan=DeflatePlan(), resources=Resources(workers=1),
            watch=lambda done: problems.append(done.problem) if done.problem else None, tick=lambda *_: None,
        )  # fmt: skip
        assert problems == []


def test_another_library_gives_equal_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was packed as ``bytes`` still decodes where the library makes longer chunks now; that is said."""
    tree = tmp_path / "store"
    zarr.create_array(
        tree, shape=(200, 130), chunks=(200, 130), dtype="u1", zarr_format=2, compressors=numcodecs.Zlib(6)
    )[:] = smooth(200, 130)
    pack_tree(tree, tmp_path / "a.callic")
    compress = zlib.compress
    monkeypatch.setattr(
        "callic_archive.images.zarr_codecs.zlib.compress", lambda raw, level: compress(raw, 1)
    )
    done: list[Any] = []
    with open_archive(tmp_path / "a.callic") as archive:
        unpack(
            archive, archive.entries, tmp_path / "out", overwrite=False, plan=DeflatePlan(),
            resources=Resources(workers=1), watch=done.append, tick=lambda *_: None,
        )  # fmt: skip
    problems = [item.problem.code for item in done if item.problem]
    assert problems == ["E503"]
    assert np.array_equal(zarr.open_array(str(tmp_path / "out" / "store"), mode="r")[:], smooth(200, 130))


def test_a_chunk_that_looks_like_another_format(tmp_path: Path) -> None:
    """Samples are samples, even where they begin as a PNG or a ZIP does."""
    for number, start in enumerate((b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"P5 3 3 255\n", b"BM" + bytes(20))):
        for dtype in ("u1", "f4", "V4"):
            wide = dtype[1] == "4"
            raw = bytearray(smooth(256, 64, seed=len(dtype) + ord(dtype[0])).tobytes())
            raw[: len(start)] = start
            array = zarr.create_array(
                tmp_path / "store" / f"{number}{dtype}", shape=(256, 64 // (4 if wide else 1)),
                chunks=(256, 64 // (4 if wide else 1)), dtype=dtype, zarr_format=2, compressors=None,
            )  # fmt: skip
            (Path(str(array.store_path.store.root)) / "0.0").write_bytes(raw)
    entries = round_trip(tmp_path / "store", tmp_path)
    assert not [entry.path for entry in entries if entry.problem]
    assert {e.format for e in entries if e.path.endswith("u1/0.0")} == {"zarr"}
    assert {e.format for e in entries if e.path.endswith("f4/0.0")} == {"zarr"}
    assert {(e.method, e.reason) for e in entries if e.path.endswith("V4/0.0")} == {("stored", "samples")}


# -- contexts ------------------------------------------------------------------------------------------------


def test_documents_are_looked_for_only_where_they_can_be() -> None:
    asked: list[str] = []
    tree = {"s/a/.zarray": b"A", "s/b/zarr.json": b"B"}

    def read(path: str) -> bytes | None:
        asked.append(path)
        return tree.get(path)

    finder = ContextFinder(read)
    for path in ("s/a/scan.png", "s/a/0.png", "scan.hdr", ""):
        assert finder.of(path) is None
    assert asked == []
    assert finder.of("scan") is None
    assert asked == ["scan.hdr"]
    found = finder.of("s/a/0/1/2")
    assert found is not None
    assert (found.name, found.document, found.key) == (".zarray", b"A", "0/1/2")
    found = finder.of("s/b/c/0/1")
    assert found is not None
    assert (found.name, found.key) == ("zarr.json", "c/0/1")
    assert finder.of("s/other/0/1") is None
    tree["s/d/.zarray"], tree["s/d/zarr.json"] = b"D2", b"D3"
    both = [finder.of(path) for path in ("s/d/0.0", "s/d/c/0/0")]
    assert [context and context.document for context in both] == [b"D2", b"D3"]
    assert finder.of("s/a/0/1/2", levels=2) is None, "nothing above what is packed"
    count = len(asked)
    for number in range(50):
        assert finder.of(f"s/a/0/1/{number}") is not None
    assert len(asked) == count, "one array's document is read once"
    assert finder.of("/".join("0" for _ in range(200))) is None


def test_documents_beside_a_file(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(5 << 20))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("large")
    assert read_beside(str(tmp_path / "link")) is None
    assert len(read_beside(str(tmp_path / "large")) or b"") == (4 << 20) + 1
    assert read_beside(str(tmp_path / "pipe")) is None
    assert read_beside(str(tmp_path)) is None
    assert read_beside(str(tmp_path / "none")) is None


# -- the store -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    pack_tree(make_store(root / "store.zarr", 3, shards=True), root / "a.callic")
    return root / "a.callic"


def test_the_store_decodes_only_what_is_asked_for(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = OpenArchive.read_bytes
    monkeypatch.setattr(
        OpenArchive, "read_bytes", lambda self, path: (read.append(path), whole(self, path))[1]
    )
    with OpenArchive(packed, plan=DeflatePlan()) as archive:
        store = zarr_store(archive, "store.zarr")
        array = zarr.open(store, mode="r")["0"]
        assert [path for path in read if not is_metadata(path)] == []
        found = array[0, :100, :100]
        assert np.array_equal(found, smooth(150, 170).astype("u2")[:100, :100] * 9)
        assert [path for path in read if not is_metadata(path)] == ["store.zarr/0/c/0/0/0"], "one shard, once"


def test_the_store_s_interface(packed: Path) -> None:
    with OpenArchive(packed, plan=DeflatePlan()) as archive:
        store = zarr_store(archive, "/store.zarr/")
        assert store.read_only
        assert store == ArchiveStore(archive, "store.zarr")
        assert store != ArchiveStore(archive, "store.zarr/0")
        document = archive.read_bytes("store.zarr/zarr.json")
        prototype = default_buffer_prototype()

        def get(key: str, part: Any = None) -> bytes | None:
            found = sync(store.get(key, prototype, part))
            return None if found is None else found.to_bytes()

        assert get("zarr.json") == document
        assert get("zarr.json", RangeByteRequest(2, 9)) == document[2:9]
        assert get("zarr.json", OffsetByteRequest(5)) == document[5:]
        assert get("zarr.json", SuffixByteRequest(4)) == document[-4:]
        assert get("zarr.json", SuffixByteRequest(10**9)) == document
        assert get("nothing") is None
        assert get("0") is None, "a folder is no key"
        found = sync(store.get_partial_values(prototype, [("zarr.json", None), ("x", None)]))
        assert [None if f is None else f.to_bytes() for f in found] == [document, None]
        assert sync(store.exists("zarr.json"))
        assert not sync(store.exists("0"))
        assert sync(store.getsize("zarr.json")) == len(document)

        async def listed(names: Any) -> list[str]:
            return [name async for name in names]

        assert sync(listed(store.list_dir("labels"))) == ["0", "zarr.json"]
        assert set(sync(listed(store.list_dir("")))) == {
            "0",
            "1",
            "empty",
            "floats",
            "labels",
            "scalar",
            "zarr.json",
        }
        assert sync(listed(store.list_prefix("labels/0/z"))) == ["labels/0/zarr.json"]
        assert len(sync(listed(store.list()))) == sum(entry.kind == "file" for entry in archive.values())
        with pytest.raises(ValueError, match="read-only"):
            sync(store.set("x", prototype.buffer.from_bytes(b"")))
        with pytest.raises(ValueError, match="read-only"):
            sync(store.delete("zarr.json"))
        with pytest.raises(ValueError, match="read-only"):
            store.with_read_only(False)
        assert store.with_read_only(True) == store
        with pytest.raises(NoSuchEntry):
            zarr_store(archive, "elsewhere")


def test_a_store_of_an_archive_s_path(packed: Path) -> None:
    store = zarr_store(packed, "store.zarr")
    assert zarr.open(store, mode="r")["floats"][0, 0] == 1.5
    store.close()


# -- stores of others ----------------------------------------------------------------------------------------

LEAST = {  # chunks through the codec at least; the rest are floats, too small, or do not pay
    "zarr_implementations": 200, "zarr_riotiler": 0, "omezarr_viv": 0, "omezarr_py": 0,
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("name", LEAST)
def test_public_stores(tmp_path: Path, name: str) -> None:
    tree = SHARED / "robustness" / name
    if not tree.is_dir():
        pytest.skip(f"{tree} is not there")
    entries = round_trip(tree, tmp_path)
    assert sum(entry.format == "zarr" for entry in entries) >= LEAST[name]
    assert not [(e.path, e.problem) for e in entries if e.problem and not e.path.endswith((".tif", ".tiff"))]
    for document in [*tree.rglob(".zarray"), *tree.rglob("zarr.json")]:
        if document.name == ".zarray" or json.loads(document.read_bytes()).get("node_type") == "array":
            prefix = document.parent.relative_to(tree.parent).as_posix()
            with OpenArchive(tmp_path / "a.callic", plan=DeflatePlan()) as archive:
                found = zarr.open_array(zarr_store(archive, prefix), mode="r")[...]
            kept = zarr.open_array(str(document.parent), mode="r")[...]
            assert np.array_equal(kept, found, equal_nan=kept.dtype.kind == "f")
