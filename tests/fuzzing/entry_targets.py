"""What is fuzzed of reading archives: index lines that lie about records that are whole, and shards that are not."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from callic_archive.archive.candidates import learned
from callic_archive.archive.entries import Entry
from callic_archive.archive.file_headers import types_of_entry
from callic_archive.archive.fragments import of_entry, of_orphans
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.reading import Archive, Contents
from callic_archive.archive.salvaging import survey
from callic_archive.archive.unpacking import ReadJob, UnpackJob, restore_rest, unpack_batch
from callic_archive.archive.verifying import VerifyJob, verify_batch
from callic_archive.container.extraction import ExtractionRoot
from tests.doubles import DeflatePlan
from tests.fuzzing import seeds
from tests.fuzzing.mutate import broken, broken_json
from tests.fuzzing.targets import Target, Wrong, break_document, settled
from tests.slides import jpeg, picture, slide
from tests.trees import grainy, open_archive, pack_tree, smooth

_LONGEST = 1 << 24  # bytes of a file that may be written out; nothing in the archive has more
_kept: list[Any] = []


@lru_cache(maxsize=1)
def folder() -> Path:
    """A place for files, as long as this process lives; in memory where that is possible."""
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = tempfile.TemporaryDirectory(prefix="callic-fuzzing-", dir=root)
    _kept.append(made)
    return Path(made.name)


def _sharded(path: Path, image: np.ndarray) -> None:
    made = zarr.create_array(
        str(path), shape=image.shape, shards=image.shape, chunks=(16, 16), dtype="uint8", zarr_format=3
    )
    made[...] = image


def _tree(root: Path) -> Path:
    """Files of every way in which an archive keeps files: cut, coded, recoded, sparse, alike, linked."""
    root.mkdir(parents=True)
    np.save(root / "cut.npy", smooth(64, 96))
    tifffile.imwrite(root / "cut.tif", smooth(64, 96, 3), photometric="rgb", tile=(32, 32))
    tifffile.imwrite(root / "packed.tif", smooth(64, 96), rowsperstrip=16, compression="zlib")
    _sharded(root / "store", smooth(64, 96))
    (root / "slide.tif").write_bytes(slide([[jpeg(picture(32, 32, n)) for n in range(6)]], 32, 3))
    (root / "photo.jpg").write_bytes(jpeg(picture(80, 80)))
    (root / "small.png").write_bytes(seeds.png()[0])
    (root / "scan.dcm").write_bytes(seeds.dicom_native()[0])
    np.save(root / "wide.npy", grainy(20, 20).astype(np.uint32))
    words = [b"%d words of a text that others resemble\n" % n for n in range(300)]
    (root / "a.txt").write_bytes(b"".join(words))
    (root / "b.txt").write_bytes(b"".join([*words[:200], b"and then\n", *words[200:]]))
    with (root / "holes").open("wb") as stream:
        stream.seek(1 << 20)
        stream.write(b"in the middle")
        stream.truncate(2 << 20)
    os.link(root / "a.txt", root / "other name")
    (root / "link").symlink_to("a.txt")
    (root / "void").mkdir()
    return root


@lru_cache(maxsize=1)
def archive() -> Path:
    """A small archive with files of every kind."""
    made = folder() / "x.callic"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = _tree(folder() / "packing" / "t")
    options = PackOptions(coder=learned, piece_bytes=1 << 10)
    run = pack_tree(tree, made, options=options, shard_bytes=1 << 30)
    assert run.problems == []
    shutil.rmtree(tree.parent)
    return made


@lru_cache(maxsize=1)
def _opened() -> tuple[ReadJob, Archive]:
    opened = open_archive(archive())
    contents = Contents(opened.header, [], dict(opened.adapters))
    return ReadJob("fuzzing", archive(), DeflatePlan(), contents, folder() / "never"), opened


# -- index lines --------------------------------------------------------------------------------------------------


def entry(data: bytes) -> str:
    """An index line over records that are whole: restored, verified, read in part, saved as fragments."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    return settled(lambda: _followed(Entry.from_json(row)))


def _followed(found: Entry) -> str:
    read, opened = _opened()
    place = folder() / "out"
    try:
        if found.kind != "file":
            problems = restore_rest(UnpackJob(read, place), [found])
            return problems[0].code if problems else found.kind
        (done,) = unpack_batch(UnpackJob(read, place), [found]).restored
        if done.fidelity == "bytes" and found.method != "sparse":
            _compare(place / found.path, found)
        for full in (True, False):
            verify_batch(VerifyJob(read, full), [found])
        for region in (None, (1, 2, 9, 8)):
            for number in range(min(2, len(found.images)) if found.is_image else 0):
                settled(lambda r=region, n=number: str(opened.image(found, n, r).shape))
        if found.is_image:
            settled(lambda: str(types_of_entry(opened, found, None)))
        with ExtractionRoot(place) as root:
            settled(lambda: str(of_entry(opened, found, root)))
        return done.problem.code if done.problem is not None else str(done.fidelity)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _compare(path: Path, found: Entry) -> None:
    if path.stat().st_size != found.size or found.size > _LONGEST:
        raise Wrong("a restored file has another size than its entry")
    if hashlib.sha256(path.read_bytes()).hexdigest() != found.sha256:
        raise Wrong("a restored file has another digest than its entry, and nobody said so")


def entry_seeds() -> list[bytes]:
    with open_archive(archive()) as opened:
        return [json.dumps(found.as_json()).encode() for found in opened.entries]


# -- salvage ------------------------------------------------------------------------------------------------------


def salvage(data: bytes) -> str:
    """A broken shard, whose number is the first byte without its lowest bit; with that, there is an index too."""
    if not data or data[0] // 2 >= len(_shards()):
        return "no shard"
    read, _ = _opened()
    root = folder() / "salvaged"
    if not root.exists():
        shutil.copytree(archive(), root)
    index = root / "data" / "index.jsonl.zst"
    index.unlink(missing_ok=True)
    if data[0] % 2:
        shutil.copyfile(archive() / "data" / index.name, index)
    for number, path in enumerate(_shards()):
        own = data[1:] if number == data[0] // 2 else path.read_bytes()
        (root / "data" / path.name).write_bytes(own)

    def step() -> str:
        found = survey(root)
        place = folder() / "out"
        try:
            with Archive(root, read.plan, contents=found.contents) as opened, ExtractionRoot(place) as into:
                for one in found.damaged:
                    of_entry(opened, one, into)
                orphans = sum(1 for _ in of_orphans(opened, found.orphans, into))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return f"{bool(found.contents.entries)} {bool(found.damaged)} {bool(orphans)}"

    return settled(step)


def _shards() -> list[Path]:
    return sorted((archive() / "data").glob("shard-*"))


def salvage_seeds() -> list[bytes]:
    return [
        bytes([2 * n + index]) + path.read_bytes() for n, path in enumerate(_shards()) for index in (0, 1)
    ]


def break_salvage(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Anywhere: what decides lies in every record, not in the beginning of the file alone."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 2, 5, 40))):
        at = rng.randrange(1, len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 64] = broken(bytes(data[at : at + 64]), rng)
        elif kind == 2:
            size = rng.choice((1, 60, 4096))
            data[at : at + size] = bytes(size)
        else:
            del data[at : at + rng.choice((1, 50, 5000))]
        if len(data) < 2:
            break
    return bytes(data)


def break_entry(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The line as JSON, or with what other lines say."""
    if rng.random() < 0.7:
        return break_document(seed, rng, others)
    row, other = json.loads(seed), json.loads(rng.choice(others))
    for name in rng.sample(sorted(other), min(len(other), rng.choice((1, 2, 4)))):
        row[name] = other[name]
    return json.dumps(row if rng.random() < 0.5 else broken_json(row, rng)).encode()


TARGETS: dict[str, Target] = {
    "entry": Target(entry, entry_seeds, break_entry),
    "salvage": Target(salvage, salvage_seeds, break_salvage),
}
