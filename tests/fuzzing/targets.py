"""What is fuzzed: each parser of bytes that nobody vouches for, and the only ways in which it may end.

A target takes bytes and returns what came of them, as a word; whatever it raises but a CallicError is a finding.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from callic_archive.access.chunk_frame import FrameOptions, decode_chunk, encode_chunk
from callic_archive.archive.digests import sha256
from callic_archive.archive.entries import Entry
from callic_archive.archive.entry_record import DICTIONARY, decode_entry
from callic_archive.archive.pack_one import PackOptions, prove_rebuild
from callic_archive.archive.reading import contents_of
from callic_archive.codec.adapter_syntax import read_adapter
from callic_archive.codec.decoder import decode_image
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.container.bag import validate_bag
from callic_archive.container.index import read_index
from callic_archive.container.layout import RecordRef, RecordType, encode_varint
from callic_archive.container.reader import ShardReader
from callic_archive.errors import CallicError
from callic_archive.images import parse, rebuild
from callic_archive.images.deflate.differences import Reader, Writer
from callic_archive.images.source import Context, Limits, Parsed
from callic_archive.images.zarr_metadata import array_form
from callic_archive.model.weights import load_model
from tests.fuzzing import seeds
from tests.fuzzing.mutate import broken, broken_json, mended_png
from tests.streams import COMPRESSORS
from tests.trees import make_tree, pack_tree
from tests.unit.model.builders import CONFORMANCE, tiny_models

#: A file of a few kilobytes has no business with more. What it may ask for at all is bounded by its size.
LIMITS = Limits(max_decoded_bytes=64 << 20, max_member_bytes=64 << 20)


@dataclass(frozen=True)
class Target:
    """A parser: what to call, what good input looks like, and how to break it with more sense than by chance."""

    run: Callable[[bytes], str]
    seeds: Callable[[], list[bytes]]
    breaks: Callable[[bytes, random.Random, list[bytes]], bytes] = broken


class Wrong(AssertionError):
    """A parser took bytes and gave others back."""


def settled(step: Callable[[], str]) -> str:
    """What a step gives, or that it refused in order."""
    try:
        return step()
    except CallicError as error:
        return error.code


# -- image files --------------------------------------------------------------------------------------------------


def image(data: bytes, context: Context | None = None) -> str:
    """A file that is understood comes back, or the file says that it would not."""

    def step() -> str:
        parsed = parse(data, "", LIMITS, context)
        if parsed is None:
            return "left"
        # What comes to a rebuilder has been through JSON, and images were made anew.
        fresh = Parsed(parsed.format, parsed.fidelity, tuple(np.array(i, order="C") for i in parsed.images), parsed.surround,
                       json.loads(json.dumps(parsed.recipe)), parsed.volatile)  # fmt: skip
        try:
            came = prove_rebuild(fresh, sha256(data), PackOptions(limits=LIMITS))
        except CallicError as error:
            raise Wrong(f"{parsed.format} was taken apart, but: {error}") from error
        if parsed.fidelity == "bytes" and came != "bytes":
            raise Wrong(f"{parsed.format} claims to come back byte for byte, and does not")
        return came

    return settled(step)


def chunk(data: bytes) -> str:
    """A chunk of a zarr array behind its metadata: name and document are part of the input."""
    head, _, rest = data.partition(b"\0\0\0")
    name, _, document = head.partition(b"\n")
    key, _, body = rest.partition(b"\0")
    context = Context(name.decode("latin-1"), document, key.decode("latin-1"))
    return image(body, context)


def chunk_seeds() -> list[bytes]:
    return [
        b"\n".join((c.name.encode(), c.document)) + b"\0\0\0" + c.key.encode() + b"\0" + body
        for c, body in seeds.zarr_chunks()
    ]


def break_chunk(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The document as JSON, or bytes of the whole."""
    if rng.random() < 0.5:
        return broken(seed, rng, others)
    head, _, rest = seed.partition(b"\0\0\0")
    name, _, document = head.partition(b"\n")
    return name + b"\n" + json.dumps(broken_json(json.loads(document), rng)).encode() + b"\0\0\0" + rest


def metadata(data: bytes) -> str:
    """A metadata document alone."""

    def step() -> str:
        try:
            return (
                "left"
                if array_form("zarr.json", data) is None and array_form(".zarray", data) is None
                else "array"
            )
        except (ValueError, LookupError, TypeError, RecursionError, ArithmeticError):
            return "refused"  # what ``source.parse`` turns into MalformedSource

    return settled(step)


def metadata_seeds() -> list[bytes]:
    return [context.document for context, _ in seeds.zarr_chunks()]


def break_document(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    if rng.random() < 0.3:
        return broken(seed, rng, others)
    return json.dumps(broken_json(json.loads(seed), rng)).encode()


def break_png(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Checksums made right again, or nothing behind them is reached."""
    data = broken(seed, rng, others)
    return mended_png(data) if rng.random() < 0.8 else data


# -- recipes ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _parsed() -> list[Parsed]:
    found = [parse(data, "", LIMITS) for make in seeds.IMAGES.values() for data in make()]
    found += [parse(data, "", LIMITS, context) for context, data in seeds.zarr_chunks()]
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
def _folder() -> Path:
    """A place for files, as long as this process lives; in memory where that is possible."""
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.TemporaryDirectory(prefix="callic-fuzzing-", dir=root)
    _kept.append(folder)
    return Path(folder.name)


_kept: list[Any] = []


@lru_cache(maxsize=1)
def _archive() -> Path:
    """A small archive."""
    root = _folder() / "packing"
    made = _folder() / "a.callic"
    pack_tree(make_tree(root / "tree"), made)
    shutil.rmtree(root)
    return made


def shard(data: bytes) -> str:
    """A shard: by its index where it has one, and from its first byte to its last."""
    path = _folder() / "shard-00000.cla"
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
    path = _folder() / "index.jsonl.zst"
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
    return settled(lambda: str(len(contents_of(iter([found])).entries)))


def row_seeds() -> list[bytes]:
    return [json.dumps(row).encode() for row in read_index(_archive() / "data" / "index.jsonl.zst")]


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
    for path in sorted((_archive() / "data").glob("shard-*")):
        with ShardReader(path) as reader:
            found += [
                reader.read(entry.ref) for entry in reader.index() if entry.ref.type is RecordType.ENTRY
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
    root = _folder() / "bag"
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
    """A codestream, with models small enough to decode it."""
    return settled(lambda: str(decode_image(data, models=tiny_models(), threads=1, max_pixels=1 << 14).shape))


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
    ]


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


def frame(data: bytes) -> str:
    """A chunk frame of the zarr codecs."""
    return settled(lambda: str(len(decode_chunk(data, 360))))


def frame_seeds() -> list[bytes]:
    return [encode_chunk(array, FrameOptions()) for array in (seeds.WIDE, np.arange(90, dtype=">f4"))]


def _images() -> Iterator[tuple[str, Target]]:
    for name, make in seeds.IMAGES.items():
        yield name, Target(image, make, break_png if name == "png" else broken)


TARGETS: dict[str, Target] = {
    **dict(_images()),
    "zarr-chunk": Target(chunk, chunk_seeds, break_chunk),
    "zarr-metadata": Target(metadata, metadata_seeds, break_document),
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
    "chunk-frame": Target(frame, frame_seeds),
}
