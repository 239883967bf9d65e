"""What is fuzzed of archives: containers, the index, bags, entries, recipes, codestreams, adapters, models, chunk frames."""

from __future__ import annotations

import io
import json
import lzma
import random
import shutil
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from callic_archive.access.chunk_frame import FrameOptions, decode_chunk, encode_chunk
from callic_archive.archive.entries import Entry
from callic_archive.archive.entry_record import DICTIONARY, decode_entry
from callic_archive.archive.header import Header
from callic_archive.archive.reading import contents_of
from callic_archive.codec.adapter_syntax import read_adapter
from callic_archive.codec.decoder import decode_image, decode_plane
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.container.bag import validate_bag
from callic_archive.container.index import read_index
from callic_archive.container.layout import RecordRef, RecordType, encode_varint
from callic_archive.container.reader import ShardReader
from callic_archive.images import parse, rebuild
from callic_archive.images.deflate.differences import Reader, Writer
from callic_archive.images.source import Parsed
from callic_archive.model.packed_file import pack_model, unpack_model
from callic_archive.model.weights import load_model
from tests.doubles import DeflatePlan
from tests.fuzzing import seeds
from tests.fuzzing.entry_targets import archive, folder
from tests.fuzzing.mutate import broken, broken_json
from tests.fuzzing.targets import LIMITS, Target, Wrong, break_document, settled
from tests.streams import COMPRESSORS
from tests.trees import grainy, make_tree, pack_tree, write_pnm
from tests.unit.model.builders import CONFORMANCE, tiny_models

# -- recipes ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _parsed() -> list[Parsed]:
    found = [parse(data, "", LIMITS) for make in seeds.IMAGES.values() for data in make()]
    found += [parse(data, "", LIMITS, context) for context, data in [*seeds.zarr_chunks(), *seeds.raw_files()]]
    return [parsed for parsed in found if parsed is not None and parsed.images]


def recipe(data: bytes) -> str:
    """A recipe for the images of a seed: which seed, and the recipe as JSON. It is followed or refused."""
    number, _, text = data.partition(b"\n")
    try:
        parsed, found = _parsed()[int(number)], json.loads(text)
    except (ValueError, LookupError, RecursionError):
        return "no recipe"
    if not isinstance(found, dict):
        return "no recipe"

    class Bounded(io.BytesIO):
        """Nobody writes more than a recipe of a few kilobytes of samples can mean."""

        def write(self, piece: Any) -> int:
            if self.tell() + memoryview(piece).nbytes > 64 << 20:
                raise Wrong("a recipe wrote more than 64 MiB")
            return super().write(piece)

    def step() -> str:
        rebuild(parsed.format, found, parsed.surround, parsed.images, Bounded())
        return "followed"

    return settled(step)


def recipe_seeds() -> list[bytes]:
    return [b"%d\n%s" % (n, json.dumps(parsed.recipe).encode()) for n, parsed in enumerate(_parsed())]


def break_recipe(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    number, _, text = seed.partition(b"\n")
    return number + b"\n" + json.dumps(broken_json(json.loads(text), rng)).encode()


# -- deflate differences ------------------------------------------------------------------------------------------

_RAW = (seeds.GRAY.tobytes() * 3)[:500]


def differences(data: bytes) -> str:
    """Differences of a stream whose raw bytes are known."""

    def step() -> str:
        made = Reader(data).next(_RAW)
        if len(made) > 2 * len(_RAW) + (1 << 16):
            raise Wrong("a stream is longer than any may be")
        return "stream"

    return settled(step)


def differences_seeds() -> list[bytes]:
    made = []
    for name in ("zlib 1", "zlib 9", "libdeflate 6", "zopfli", "zlib-ng 6", "chance", "sync flushes"):
        writer = Writer()
        writer.add(COMPRESSORS[name](_RAW), _RAW, 1 << 20)
        made.append(writer.finish())
    return made


# -- containers ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _archive() -> Path:
    """A small archive, with two bands of a scene among its files."""
    root = folder() / "packing"
    made = folder() / "a.callic"
    tree = make_tree(root / "tree")
    band = grainy(120, 140)
    for number in (1, 2):
        write_pnm(tree / "scene" / f"B{number}.pgm", band + np.uint8(number))
    run = pack_tree(tree, made, plan=DeflatePlan(joins=True))
    assert any(part.stream.plane for e in run.entries.values() for part in e.parts if part.stream is not None)
    shutil.rmtree(root)
    return made


def shard(data: bytes) -> str:
    """A shard: by its index where it has one, and from its first byte to its last."""
    path = folder() / "shard-00000.cla"
    path.write_bytes(data)

    def step() -> str:
        with ShardReader(path) as reader:
            records = 0
            for found in reader.scan():
                records += not hasattr(found, "reason")
            rows = settled(lambda: str(len(list(reader.index()))))
            entries, _ = reader.rebuild_index()
            for entry in entries:
                settled(lambda entry=entry: str(len(reader.read(entry.ref))))
            return f"{bool(records)} {rows[:1]}"

    return settled(step)


def shard_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((_archive() / "data").glob("shard-*"))]


def index(data: bytes) -> str:
    """The compressed index."""
    path = folder() / "index.jsonl.zst"
    path.write_bytes(data)
    return settled(lambda: str(len(contents_of(read_index(path, max_total=1 << 26)).entries) > 0))


def index_seeds() -> list[bytes]:
    return [(_archive() / "data" / "index.jsonl.zst").read_bytes()]


def rows(data: bytes) -> str:
    """Lines of an index, as JSON."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(found, dict):
        return "no row"
    if found.get("kind") == "archive":
        return settled(lambda: str(Header.from_json(found).entries > 0))
    first = Header("a test", "now", int(found.get("kind") != "adapter"))
    return settled(lambda: str(len(contents_of(iter([first.as_json(), found])).entries)))


def row_seeds() -> list[bytes]:
    indexes = (made / "data" / "index.jsonl.zst" for made in (_archive(), archive()))
    return [json.dumps(row).encode() for path in indexes for row in read_index(path)]


def entry_record(data: bytes) -> str:
    """An ENTRY record: digests, deflated text, small parts."""
    ref = RecordRef("shard-00000.cla", 4096, 400, RecordType.ENTRY, 9)

    def step() -> str:
        entry = decode_entry(data, "a/b", ref)
        if Entry.from_json(json.loads(json.dumps(entry.as_json()))) != entry:
            raise Wrong("an entry is not what its line of the index says")
        return entry.kind

    return settled(step)


def entry_seeds() -> list[bytes]:
    found = []
    for path in sorted((archive() / "data").glob("shard-*")):
        with ShardReader(path) as reader:
            found += [
                reader.read(entry.ref)
                for entry in reader.index()
                if entry.ref.type in (RecordType.ENTRY, RecordType.PIECE)
            ]
    return found


def break_entry(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The text as JSON, packed again; or bytes of the whole."""
    if rng.random() < 0.3:
        return broken(seed, rng, others)
    from callic_archive.archive.entry_record import _open

    digests, text, start = _open(seed)
    engine = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    packed = engine.compress(json.dumps(broken_json(json.loads(text), rng)).encode()) + engine.flush()
    head = encode_varint(len(digests)) + b"".join(map(bytes.fromhex, digests))
    return head + encode_varint(len(packed)) + packed + seed[start:]


_TAGS = ("manifest-sha256.txt", "tagmanifest-sha256.txt", "bagit.txt", "bag-info.txt")


def bag(data: bytes) -> str:
    """One of a bag's tag files, chosen by the first byte."""
    root = folder() / "bag"
    if not root.exists():
        shutil.copytree(_archive(), root)
    name = _TAGS[data[0] % len(_TAGS)] if data else _TAGS[0]
    kept = (root / name).read_bytes()
    (root / name).write_bytes(data[1:])
    try:
        return str(len(validate_bag(root)) > 0)
    finally:
        (root / name).write_bytes(kept)


def bag_seeds() -> list[bytes]:
    return [bytes([n]) + (_archive() / name).read_bytes() for n, name in enumerate(_TAGS)]


# -- codec --------------------------------------------------------------------------------------------------------


def codestream(data: bytes) -> str:
    """A codestream, with models small enough to decode it; and its last plane by itself."""

    def step() -> str:
        image = decode_image(data, models=tiny_models(), threads=1, max_pixels=1 << 14)
        if image.ndim == 3:
            last = image.shape[2] - 1
            alone = decode_plane(data, last, models=tiny_models(), threads=1, max_pixels=1 << 14)
            if not np.array_equal(alone.samples[:, :, last], image[:, :, last]):
                raise Wrong("a plane by itself has other samples than in its image")
        return str(image.shape)

    return settled(step)


@lru_cache(maxsize=1)
def codestream_seeds() -> list[bytes]:
    options = EncodeOptions(tile=8, patch=4, threads=1)
    return [
        encode_image(image, models=tiny_models(), options=options)
        for image in (
            seeds.GRAY[:9, :8],
            seeds.RGB[:8, :7],
            seeds.WIDE[:8, :8],
            seeds.GRAY[:8, :8] // 16 * 16,
        )
    ] + [(CONFORMANCE / "good" / f"{name}.codestream").read_bytes() for name in ("bands", "infrared")]


def break_codestream(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """With the checksum of the header made right, wherever it ends now."""
    from pipelines.mint_conformance import header_length

    end = header_length(seed)
    head = broken(seed[:end], rng, [o[: header_length(o)] for o in others])
    body = seed[end + 4 :] if rng.random() < 0.8 else broken(seed[end + 4 :], rng)
    return head + zlib.crc32(head).to_bytes(4, "little") + body


def adapter(data: bytes) -> str:
    """A coded adapter."""
    return settled(lambda: str(read_adapter(data, tiny_models()).shape))


def adapter_seeds() -> list[bytes]:
    return [(CONFORMANCE / f"adapter-{name}.bin").read_bytes() for name in ("gray", "rgb")]


def break_adapter(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    data = broken(seed[:-4], rng, others)
    return data + zlib.crc32(data).to_bytes(4, "little")


def model(data: bytes) -> str:
    """A model file."""
    return settled(lambda: str(load_model(data).channels))


def model_seeds() -> list[bytes]:
    return [(CONFORMANCE / f"model-{name}.safetensors").read_bytes() for name in ("gray", "rgb")]


def break_model(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The JSON header of a safetensors file, and the JSON inside it, or bytes."""
    if rng.random() < 0.3:
        return broken(seed, rng)
    size = int.from_bytes(seed[:8], "little")
    header = json.loads(seed[8 : 8 + size])
    inner = header.get("__metadata__", {})
    if inner and rng.random() < 0.6:
        name = rng.choice(sorted(inner))
        try:
            inner[name] = json.dumps(broken_json(json.loads(inner[name]), rng))
        except ValueError:
            inner[name] = rng.choice(["", "0", "{}", "[]", "1e999", "-1"])
    else:
        header = broken_json(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + seed[8 + size :]


def packed_model(data: bytes) -> str:
    """A model as archives carry it."""
    try:
        return str(len(unpack_model(data, 1 << 20)))
    except ValueError:
        return "refused"


def packed_model_seeds() -> list[bytes]:
    return [pack_model(raw) for raw in model_seeds()]


def break_packed_model(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Its content, its table of pieces most of all, or its bytes."""
    if rng.random() < 0.3:
        return broken(seed, rng, others)
    content = lzma.decompress(seed)
    end = rng.choice([4, 4 + 6 * int.from_bytes(content[:4], "little"), len(content)])
    return lzma.compress(broken(content[:end], rng) + content[end:])


def frame(data: bytes) -> str:
    """A chunk frame of the zarr codecs."""
    return settled(lambda: str(len(decode_chunk(data, 360))))


def frame_seeds() -> list[bytes]:
    return [encode_chunk(array, FrameOptions()) for array in (seeds.WIDE, np.arange(90, dtype=">f4"))]


TARGETS: dict[str, Target] = {
    "recipe": Target(recipe, recipe_seeds, break_recipe),
    "differences": Target(differences, differences_seeds),
    "shard": Target(shard, shard_seeds),
    "index": Target(index, index_seeds),
    "row": Target(rows, row_seeds, break_document),
    "entry-record": Target(entry_record, entry_seeds, break_entry),
    "bag": Target(bag, bag_seeds),
    "codestream": Target(codestream, codestream_seeds, break_codestream),
    "adapter": Target(adapter, adapter_seeds, break_adapter),
    "model": Target(model, model_seeds, break_model),
    "packed-model": Target(packed_model, packed_model_seeds, break_packed_model),
    "chunk-frame": Target(frame, frame_seeds),
}
