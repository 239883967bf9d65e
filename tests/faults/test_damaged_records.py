"""One record of each type is damaged: ``verify`` names it, ``unpack`` restores all else, ``salvage`` what can be had."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from callic_archive.archive.candidates import learned
from callic_archive.archive.codecs import Box, Image, StreamInfo
from callic_archive.archive.entries import Entry
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.reading import INDEX
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.errors import UnknownModel
from tests.command import Ran, run, use_double
from tests.doubles import DeflateCodec, DeflatePlan
from tests.slides import jpeg, picture, slide
from tests.trees import open_archive, pack_tree, smooth, snapshot, write_pnm

pytest.importorskip("imagecodecs")
FRAGMENTS = "callic-fragments"
PIECE = 64 << 10


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)
    # small parts in records of their own, as larger ones have them
    monkeypatch.setattr("callic_archive.archive.shard_sink.INLINE", -1)


def tiles(count: int, **options: Any) -> list[bytes]:
    return [jpeg(picture(64, 64, seed), **options) for seed in range(count)]


def tiff_with_label() -> bytes:
    """A page of JPEG tiles, and one whose samples go through the codec."""
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(picture(256, 256), photometric="rgb", compression="jpeg", tile=(64, 64))
        file.write(smooth(200, 200, 3), photometric="rgb")
    return out.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "words.txt").write_text("some words " * 900)
    (root / "again.txt").write_text("some words " * 900)
    (root / "slide.svs").write_bytes(slide([tiles(16), tiles(12, quality=40)], 64, 4) + os.urandom(100))
    (root / "label.tif").write_bytes(tiff_with_label())
    write_pnm(root / "a.pgm", smooth(90, 100))
    write_pnm(root / "b.pgm", smooth(90, 100, seed=3))
    np.save(root / "large.npy", smooth(640, 768))
    return root


def packed(tree: Path, plan: DeflatePlan | None = None, archive: Path | None = None) -> Path:
    archive = archive or tree.parent / "x.callic"
    pack_tree(tree, archive, plan=plan, options=PackOptions(coder=learned, piece_bytes=PIECE))
    return archive


def records(archive: Path, type: RecordType) -> dict[str, list[RecordRef]]:
    """Records of a type, by their keys."""
    found: dict[str, list[RecordRef]] = {}
    for shard in sorted((archive / "data").glob("shard-*.cla")):
        with ShardReader(shard) as reader:
            for item in reader.rebuild_index()[0]:
                if item.ref.type is type:
                    found.setdefault(item.key, []).append(item.ref)
    return found


def entry(archive: Path, path: str) -> Entry:
    with open_archive(archive) as opened:
        return next(e for e in opened.entries if e.path == path)


def damage(archive: Path, ref: RecordRef, at: float = 0.5) -> None:
    """Turn over some bits of a record's payload, at this share of the record."""
    path = archive / "data" / ref.shard
    data = bytearray(path.read_bytes())
    data[ref.offset + int(at * ref.length)] ^= 0x41
    path.write_bytes(data)


@dataclass(frozen=True)
class Found:
    """What the three commands said and did."""

    verified: Ran
    unpacked: Ran
    salvaged: Ran
    out: Path  # of salvage

    @property
    def lost(self) -> dict[str, dict[str, Any]]:
        return {e["path"]: e for e in self.salvaged.events if e["event"] == "lost"}


def named(ran: Ran) -> set[str]:
    return {e["path"] for e in ran.events if e["event"] == "problem" and not e["kept"]}


def check(archive: Path, tree: Path, lost: set[str]) -> Found:
    """Of a damaged archive all but ``lost`` (relative paths) must come back, and each of those be named."""
    names = {f"tree/{name}" for name in lost}
    verified = run("verify", archive, "--json")
    assert verified.code == 3
    assert names <= named(verified)
    assert not {name for name in named(verified) if name.startswith("tree/")} - names
    assert any(path.startswith("data/") for path in named(verified))
    unpacked = run("unpack", archive, "-o", tree.parent / "unpacked", "--json")
    assert unpacked.code == (3 if lost else 0)
    assert named(unpacked) == names
    whole = snapshot(tree)
    for name in lost:
        del whole[name.encode()]
    assert snapshot(tree.parent / "unpacked" / "tree") == whole
    salvaged = run("salvage", archive, "-o", tree.parent / "salvaged", "--json")
    assert salvaged.code == (3 if lost else 0)
    assert snapshot(tree.parent / "salvaged" / "tree") == whole
    assert salvaged.summary["lost_files"] == len(lost)
    found = Found(verified, unpacked, salvaged, tree.parent / "salvaged")
    assert set(found.lost) == names
    return found


def compare(found: Found, tree: Path, name: str) -> bytearray:
    """The fragment of a file, which must be the source but for the places that the report names; those are zeros."""
    row = found.lost[f"tree/{name}"]
    assert row["fragments"] == [f"{FRAGMENTS}/tree/{name}"]
    source, fragment = (tree / name).read_bytes(), bytearray((found.out / row["fragments"][0]).read_bytes())
    gone = sum(length for _, length in row["missing"])
    assert row["fragment_bytes"] == len(source) - gone
    assert len(fragment) == len(source)
    for offset, length in row["missing"]:
        assert fragment[offset : offset + length] == bytes(length)
        fragment[offset : offset + length] = source[offset : offset + length]
    assert fragment == source
    return bytearray((found.out / row["fragments"][0]).read_bytes())


def test_stored_words_and_their_duplicate(tree: Path) -> None:
    archive = packed(tree)
    words = entry(archive, "tree/words.txt")
    assert words.parts == entry(archive, "tree/again.txt").parts
    assert words.parts[0].ref.type is RecordType.STORED
    damage(archive, words.parts[0].ref)
    found = check(archive, tree, {"words.txt", "again.txt"})
    for row in found.lost.values():
        assert (row["code"], row["fragments"], row["missing"]) == ("E502", [], [[0, 9900]])


@pytest.mark.parametrize("at", [0.6, 0.95])
def test_jpeg_streams_of_a_damaged_record(tree: Path, at: float) -> None:
    archive = packed(tree)
    (part,) = entry(archive, "tree/slide.svs").parts
    assert (part.coding, part.ref.type) == ("jpegs", RecordType.STORED)
    damage(archive, part.ref, at)
    found = check(archive, tree, {"slide.svs"})
    row = found.lost["tree/slide.svs"]
    assert len(row["missing"]) in (16, 12)  # the coded data of the tiles of one page, in as many places
    fragment = compare(found, tree, "slide.svs")
    with tifffile.TiffFile(io.BytesIO(fragment)) as file, tifffile.TiffFile(tree / "slide.svs") as source:
        whole = 1 if len(row["missing"]) == 16 else 0
        assert np.array_equal(file.pages[whole].asarray(), source.pages[whole].asarray())
    text = run("salvage", archive, "-o", tree.parent / "more").err
    assert f"at {len(row['missing'])} places saved as a fragment" in text


def test_the_head_of_jpeg_streams(tree: Path) -> None:
    """Header, key and table of the record: without a header the payload is found by its key; without a table nothing is."""
    archive = packed(tree)
    (part,) = entry(archive, "tree/slide.svs").parts
    damage(archive, part.ref, 0.0)
    (row,) = check(archive, tree, {"slide.svs"}).lost.values()
    assert row["missing"] == []
    assert row["fragment_bytes"] == row["source_bytes"]
    assert (tree.parent / "salvaged" / row["fragments"][0]).read_bytes() == (tree / "slide.svs").read_bytes()


def test_the_table_of_jpeg_streams(tree: Path) -> None:
    archive = packed(tree)
    (part,) = entry(archive, "tree/slide.svs").parts
    damage(archive, part.ref, (28 + len("tree/slide.svs") + 30) / part.ref.length)
    (row,) = check(archive, tree, {"slide.svs"}).lost.values()
    assert (row["missing"], row["fragments"]) == ([[0, row["source_bytes"]]], [])


def test_jpeg_streams_around_an_image(tree: Path) -> None:
    archive = packed(tree)
    around, image = entry(archive, "tree/label.tif").parts
    assert (around.coding, around.ref.type, image.coding) == ("jpegs", RecordType.SURROUND, "codestream")
    damage(archive, around.ref, 0.8)
    found = check(archive, tree, {"label.tif"})
    row = found.lost["tree/label.tif"]
    names = [Path(name).name for name in row["fragments"]]
    assert names == ["label.tif.image-0.npy", "label.tif.surround"]
    image_left, surround = (found.out / name for name in row["fragments"])
    assert np.array_equal(np.load(image_left), smooth(200, 200, 3))
    left = surround.read_bytes()
    assert len(left) == around.size
    assert left[:4] == (tree / "label.tif").read_bytes()[:4]
    assert left.count(b"\xff\xda") == 16  # headers of tiles are there, their coded data are not


@pytest.mark.parametrize("stored", [True, False])
def test_an_image(tree: Path, stored: bool) -> None:
    archive = packed(tree)
    part = next(p for p in entry(archive, "tree/a.pgm").parts if (p.stream is None) == stored)
    assert part.ref.type is (RecordType.SURROUND if stored else RecordType.CODESTREAM)
    damage(archive, part.ref)
    found = check(archive, tree, {"a.pgm"})
    row = found.lost["tree/a.pgm"]
    (name,) = row["fragments"]
    if stored:
        assert np.array_equal(np.load(found.out / name), smooth(90, 100))
    else:
        assert (found.out / name).read_bytes() == b"P5\n100 90\n255\n"


def test_a_piece_of_a_large_file(tree: Path) -> None:
    archive = packed(tree)
    large = entry(archive, "tree/large.npy")
    assert large.method == "pieces"
    damage(archive, next(p.ref for p in large.parts if p.stream is not None))
    found = check(archive, tree, {"large.npy"})
    compare(found, tree, "large.npy")
    assert 0 < found.lost["tree/large.npy"]["fragment_bytes"] < large.size


def test_piece_records_are_needed_by_nobody_else(tree: Path) -> None:
    archive = packed(tree)
    first, *_ = records(archive, RecordType.PIECE)["tree/large.npy"]
    damage(archive, first)
    check(archive, tree, set())


def test_without_index_and_entry_a_piece_record_costs_its_piece(tree: Path) -> None:
    archive = packed(tree)
    whole = entry(archive, "tree/large.npy")
    (archive / "data" / INDEX).unlink()
    (ref,) = records(archive, RecordType.ENTRY)["tree/large.npy"]
    damage(archive, ref)
    damage(archive, records(archive, RecordType.PIECE)["tree/large.npy"][1])
    unpacked = run("unpack", archive, "-o", tree.parent / "unpacked", "--json")
    assert unpacked.code == 3
    found = run("salvage", archive, "-o", tree.parent / "salvaged", "--json")
    assert found.code == 3
    (row,) = [e for e in found.events if e["event"] == "lost"]
    assert (row["path"], row["source_bytes"]) == ("tree/large.npy", whole.size)
    assert sum(length for _, length in row["missing"]) == whole.pieces[1].size
    compare(Found(found, found, found, tree.parent / "salvaged"), tree, "large.npy")


def test_entry_records_are_needed_without_an_index_alone(tree: Path) -> None:
    archive = packed(tree)
    for name in ("a.pgm", "slide.svs"):
        (ref,) = records(archive, RecordType.ENTRY)[f"tree/{name}"]
        damage(archive, ref)
    check(archive, tree, set())
    (archive / "data" / INDEX).unlink()
    found = run("salvage", archive, "-o", tree.parent / "more", "--json")
    assert found.code == 3
    fragments = [tree.parent / "more" / e["fragment"] for e in found.events if e["event"] == "fragment"]
    by_path = {e["path"] for e in found.events if e["event"] == "fragment"}
    assert by_path == {"tree/a.pgm", "tree/slide.svs"}
    # JPEG streams without an entry come back as the file that they were
    assert (tree / "slide.svs").read_bytes() in [path.read_bytes() for path in fragments]


def test_entry_records_that_hold_the_content(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callic_archive.archive.shard_sink.INLINE", 4096)
    archive = packed(tree)
    words = entry(archive, "tree/words.txt")
    assert words.parts[0].within is not None
    damage(archive, words.parts[0].ref)
    check(archive, tree, {"words.txt", "again.txt"})


@pytest.mark.parametrize("type", [RecordType.INDEX, RecordType.END])
def test_the_shards_own_index(tree: Path, type: RecordType) -> None:
    archive = packed(tree)
    shard = archive / "data" / "shard-00000.cla"
    with ShardReader(shard) as reader:
        end = reader._end()
    data = bytearray(shard.read_bytes())
    data[end.index_offset + 60 if type is RecordType.INDEX else end.end_offset + 50] ^= 1
    shard.write_bytes(data)
    check(archive, tree, set())


# -- models and adapters -------------------------------------------------------------------------------------


ADAPTER = hashlib.sha256(b"an adapter").hexdigest()


class NeedyCodec(DeflateCodec):
    """Codes an image only with the model and adapter it was told of, and names both in what it codes."""

    def __init__(self, plan: NeedyPlan, models: Sequence[str], adapters: Sequence[bytes]) -> None:
        super().__init__(plan)
        self.models = models
        self.adapters = [hashlib.sha256(payload).hexdigest() for payload in adapters]

    def inspect(self, codestream: bytes) -> StreamInfo:
        found = super().inspect(codestream)
        return StreamInfo(found.shape, found.dtype, "range", (self.plan.model,), tuple(self.adapters))

    def decode(self, codestream: bytes, region: Box | None = None) -> Image:
        if self.plan.model not in self.models or self.plan.adapter not in self.adapters:
            raise UnknownModel("a model or an adapter is not at hand")
        return super().decode(codestream, region)


@dataclass(frozen=True)
class NeedyPlan(DeflatePlan):
    """A codec with a model file and one adapter for all images."""

    file: Path = Path()
    trains: bool = True

    @property
    def model(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    @property
    def adapter(self) -> str:
        return ADAPTER

    def open(  # type: ignore[override]
        self, models: Sequence[Path] | None = None, adapters: Sequence[bytes] | None = None, **_: Any
    ) -> NeedyCodec:
        names = [self.model] if models is None else [path.name.split(".")[0] for path in models]
        return NeedyCodec(self, names, self.adapters if adapters is None else adapters)

    def model_files(self) -> Mapping[str, Path]:
        return {self.model: self.file}

    def train(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> Mapping[str, bytes]:
        return {self.adapter: b"an adapter"}


@pytest.fixture
def needy(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model").write_bytes(np.random.default_rng(0).bytes(1 << 14))  # too much for a copy
    plan = NeedyPlan(file=tmp_path / "model")
    monkeypatch.setattr("callic_archive.cli.unpack.decoder_plan", lambda *_, **__: plan)
    monkeypatch.setattr("callic_archive.archive.collection.LEAST_PIXELS", 1)
    archive = packed(tree, plan)
    assert run("verify", archive).code == 0
    return archive


IMAGES = {"a.pgm", "b.pgm", "label.tif", "large.npy"}


def test_an_adapter(tree: Path, needy: Path) -> None:
    ((ref,),) = records(needy, RecordType.ADAPTER).values()
    damage(needy, ref)
    found = check(needy, tree, IMAGES)
    assert {row["code"] for row in found.lost.values()} == {"E301"}
    (shard,) = [
        e for e in found.verified.events if e.get("path", "").endswith(".cla") and "adapter" in e["message"]
    ]
    assert f"records of adapter {ADAPTER[:16]} lie there" in shard["message"]
    # headers and the like are whole
    assert (found.out / FRAGMENTS / "tree/a.pgm.surround").read_bytes() == b"P5\n100 90\n255\n"
    compare(found, tree, "large.npy")


def test_a_model_that_is_gone(tree: Path, needy: Path) -> None:
    (model,) = (needy / "data" / "models").iterdir()
    model.unlink()
    found = check(needy, tree, IMAGES)
    assert f"data/models/{model.name}" in named(found.verified)


@pytest.mark.parametrize("damaged", ["models", "copies"])
def test_a_model_of_which_there_is_a_copy(
    tree: Path, needy: Path, damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (needy / "data/copies").exists()  # too little to carry it twice
    monkeypatch.setattr("callic_archive.archive.commit.COPY_FROM", 0)
    archive = packed(tree, NeedyPlan(file=tmp_path / "model"), tmp_path / "copied.callic")
    places = [archive / "data" / name for name in ("models", "copies")]
    (one,), (other,) = (list(place.iterdir()) for place in places)
    assert (one.name, one.read_bytes()) == (other.name, other.read_bytes())
    assert run("verify", archive).code == 0
    broken = archive / "data" / damaged / one.name
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    verified = run("verify", archive, "--full", "--json")
    assert verified.code == 3
    assert {event["path"] for event in verified.events if event["event"] == "problem"} == {f"data/{damaged}/{one.name}"}
    unpacked = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert unpacked.code == (3 if damaged == "models" else 0)  # told of, though nothing is lost
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
