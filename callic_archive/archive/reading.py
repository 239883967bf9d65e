"""A finished archive, open for reading: its entries, and each entry's bytes, checked.

A lost or damaged index is made again from the ENTRY records of the shards; ``Archive.problems`` says so.
Damage of one entry raises an error that names it and touches no other entry.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, cast

import numpy as np

from callic_archive.archive.band_reading import DecodedBands
from callic_archive.archive.codecs import Box, Decoder, DecoderPlan, Image
from callic_archive.archive.digests import content_sha256
from callic_archive.archive.entries import Entry, with_whole_digests
from callic_archive.archive.entry_record import decode_entry
from callic_archive.archive.header import Header
from callic_archive.archive.image_coding import decode_image
from callic_archive.archive.learned_codec import model_is_whole
from callic_archive.archive.parts import Base, Part, Place, check_digest
from callic_archive.archive.placing import Placing
from callic_archive.archive.rejoining import image_of_pieces, restore_pieces
from callic_archive.archive.scan import Problem
from callic_archive.archive.unfinished import PARTIAL
from callic_archive.archive.verbatim import expand
from callic_archive.container.index import read_index
from callic_archive.container.layout import PARTIAL_SUFFIX, RecordRef, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.errors import (
    CallicError,
    ContainerError,
    DamagedModel,
    DigestMismatch,
    EntryDamaged,
    EnvironmentFailure,
    ForeignCodecMissing,
    IndexDamaged,
    IndexEntryInvalid,
    MissingPath,
    NotAnArchive,
    TorchacUnavailableError,
    UnknownModel,
)
from callic_archive.images.source import Limits, Parsed, images_equal, parse_again, rebuild

INDEX = "index.jsonl.zst"
MOST_INVALID = 1000  # lines of an index: each costs its entry alone, but damage does not make so many
MODEL_SUFFIX = ".model.xz"
MODELS, COPIES = "models", "copies"  # folders of models, and of copies of them, in ``data``


@dataclass
class Contents:
    """What the index says."""

    header: Header | None = None  # where its line can be read
    entries: list[Entry] = field(default_factory=list)
    adapters: dict[str, RecordRef] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    models: frozenset[str] = (
        frozenset()
    )  # that entries need; where there are no entries, told by who had them


class Archive:
    """An archive directory. A context manager; its readers and models are opened when first needed.

    Threads may share it.
    """

    def __init__(
        self,
        root: Path,
        plan: DecoderPlan | None = None,
        *,
        threads: int | None = None,
        contents: Contents | None = None,
    ) -> None:
        """Open ``root`` and read its index, unless ``contents`` says already what it holds.

        Raises MissingPath, NotAnArchive, ReadFailure.
        """
        self.root = root
        self.data = root / "data"
        self._plan = plan
        self._threads = threads
        self._decoder: Decoder | None = None
        self._readers: dict[str, ShardReader | CallicError] = {}
        self._lock = threading.RLock()  # of what is opened when first needed
        self._bands = DecodedBands()
        if contents is None:
            check_archive(root)
        self._contents = contents or self._read_index()
        if contents is None:
            self.problems.extend(self._damaged_models())

    @property
    def entries(self) -> list[Entry]:
        """All entries, in the order of their paths."""
        return self._contents.entries

    @property
    def header(self) -> Header | None:
        """What the first line of the index says, where that could be read."""
        return self._contents.header

    @property
    def problems(self) -> list[Problem]:
        """What was wrong with the index itself."""
        return self._contents.problems

    @property
    def adapters(self) -> Mapping[str, RecordRef]:
        """Adapters shared by entries: digest to record."""
        return self._contents.adapters

    def shards(self) -> list[Path]:
        """Shard files, in the order of their names."""
        return sorted(self.data.glob("shard-*.cla"))

    def models(self) -> list[Path]:
        """Model files; of one that is damaged or missing its copy, where there is a whole one."""
        found = {path.name: path for path in sorted((self.data / MODELS).glob(f"*{MODEL_SUFFIX}"))}
        for copy in sorted((self.data / COPIES).glob(f"*{MODEL_SUFFIX}")):
            if not (copy.name in found and model_is_whole(found[copy.name])) and model_is_whole(copy):
                found[copy.name] = copy
        return [found[name] for name in sorted(found)]

    def _damaged_models(self) -> Iterator[Problem]:
        """One problem for each damaged model, rather than one for each image that was coded with it."""
        usable = {path.name for path in self.models() if model_is_whole(path)}
        for path in sorted((self.data / MODELS).glob(f"*{MODEL_SUFFIX}")):
            if not model_is_whole(path):
                text = (
                    f"the model is damaged; its copy in {COPIES} is whole, and read in its place"
                    if path.name in usable
                    else "the model is damaged; images that need it are read with the same model where that is at hand: "
                    "shipped with this release, or given with --model"
                )
                yield Problem(f"data/models/{path.name}", DamagedModel.code, text, kept=True, exit_code=3)

    def needed_models(self) -> frozenset[str]:
        """Digests, or their first digits, of the models that entries were coded with."""
        return self._contents.models.union(*(entry.models() for entry in self.entries))

    # -- the index -------------------------------------------------------------------------------------------

    def _read_index(self) -> Contents:
        path = self.data / INDEX
        try:
            if not path.is_file():
                raise IndexDamaged("the file is missing")
            contents = contents_of(read_index(path))
        except ContainerError as error:
            reason = f"{INDEX} cannot be used ({error}); entries were found by reading the shards; "
            reason += "`salvage` makes a whole archive of it"
            problem = Problem(f"data/{INDEX}", error.code, reason, kept=True, exit_code=error.exit_code)
            contents = self._rebuild_index()
            contents.problems.append(problem)
        contents.entries.sort(key=lambda entry: _sort_key(entry.path))
        return contents

    def _rebuild_index(self) -> Contents:
        contents = Contents()
        entries: dict[str, Entry] = {}
        for path in self.shards():
            try:
                reader = self.reader(path.name)
                records, damages = reader.rebuild_index()
            except CallicError as error:
                contents.problems.append(Problem.of(f"data/{path.name}", error, kept=False))
                continue
            for damage in damages:  # it may be the ENTRY record of a file that nothing else names
                text = f"{damage.detail} (byte {damage.offset}); entries may be lost, salvage tells more"
                problem = Problem(f"data/{path.name}", damage.code, text, kept=False, exit_code=3)
                contents.problems.append(problem)
            for record in records:
                if record.ref.type is RecordType.ADAPTER:
                    contents.adapters[record.key] = record.ref
                elif record.ref.type is RecordType.ENTRY:
                    with suppress(ContainerError, EntryDamaged):
                        payload = reader.read(record.ref, key=record.key)
                        entries[record.key] = decode_entry(payload, record.key, record.ref)
        digests = [*contents.adapters, *(path.name.removesuffix(MODEL_SUFFIX) for path in self.models())]
        contents.entries = [with_whole_digests(entry, digests) for entry in entries.values()]
        return contents

    # -- records ---------------------------------------------------------------------------------------------

    def reader(self, name: str) -> ShardReader:
        """The reader of a shard. Raises EntryDamaged when the shard is missing, else what opening it raised."""
        with self._lock:
            found = self._readers.get(name)
            if found is None:
                try:
                    path = self.data / name
                    if not path.is_file():
                        path = path.with_name(
                            name + PARTIAL_SUFFIX
                        )  # of an unfinished archive that is salvaged
                    if not path.is_file():
                        raise EntryDamaged(f"the shard data/{name} is missing")
                    found = ShardReader(path)
                except CallicError as error:
                    found = error
                self._readers[name] = found
        if isinstance(found, CallicError):
            raise found
        return found

    def read(self, place: Place) -> bytes:
        """The checked bytes at a place."""
        payload = self.reader(place.ref.shard).read(place.ref)
        if place.within is None:
            return payload
        start, length = place.within
        if start + length > len(payload):
            raise EntryDamaged("the index looks for a part beyond the end of its record")
        return payload[start : start + length]

    def read_unproven(self, ref: RecordRef, key: str, most: int) -> bytes:
        """The payload of a damaged record; see ``ShardReader.read_unproven``."""
        return self.reader(ref.shard).read_unproven(ref, key, most)

    def read_bytes(self, part: Part) -> bytes:
        """What a part of bytes, not of an image, holds. Raises ValueError, ContainerError, EntryDamaged."""
        base = None if part.base is None else self._read_base(part.base)
        return expand(self.read(part.place), part.coding, part.size, base)

    def _read_base(self, base: Base) -> bytes:
        """The bytes of a base, from the first of its places that is whole."""
        for place in base.places[:-1]:
            with suppress(ContainerError, EntryDamaged, ValueError):
                return expand(self.read(place), base.coding, base.size)
        return expand(self.read(base.places[-1]), base.coding, base.size)

    def decoder(self) -> Decoder:
        """The decoder with this archive's own models and adapters, or what it left out. Raises ModelError."""
        with self._lock:
            if self._decoder is None:
                if self._plan is None:
                    raise NotAnArchive("no decoder was given to read images with")
                payloads = []
                for ref in self.adapters.values():
                    with suppress(ContainerError):  # the entries that need it will say so
                        payloads.append(self.reader(ref.shard).read(ref))
                self._decoder = self._plan.open(
                    self.models(), payloads, threads=self._threads, needed=self.needed_models()
                )
            return self._decoder

    # -- entries ---------------------------------------------------------------------------------------------

    def check_records(self, entry: Entry) -> None:
        """Read all records of an entry and check their checksums. Raises EntryDamaged."""
        with naming(entry):
            for part in entry.parts:
                for _ in self.reader(part.ref.shard).chunks(part.ref):
                    pass
                if part.base is not None:
                    self._read_base(part.base)

    def restore(self, entry: Entry, out: BinaryIO, *, prove: bool = False) -> Literal["bytes", "content"]:
        """Write the file of an entry to ``out``; what it was proven to be.

        The answer is ``bytes`` when the SHA-256 of the source came out, else ``content``: pixels and metadata
        are right, but the compressed bytes around them are others than the source's. ``prove`` reads such a
        file again to make sure. Raises EntryDamaged and DigestMismatch; what was written until then must be
        thrown away.
        """
        with naming(entry):
            if entry.method == "pieces":
                return restore_pieces(self, entry, out, prove=prove)
            tee = Placing(out, entry)
            if entry.method != "image":
                for part in entry.parts:
                    tee.write(self.read_bytes(part))
                tee.end()
                if tee.hexdigest() != entry.sha256:
                    raise DigestMismatch(
                        "the restored bytes do not have the SHA-256 that was stored at packing"
                    )
                return "bytes"
            surround, images = self.pieces(entry)
            found = content_sha256(entry.format or "", entry.recipe, surround, images)
            if found != entry.content_sha256:
                raise DigestMismatch("the decoded pixels do not have the digest that was stored at packing")
            rebuild(entry.format or "", entry.recipe, surround, images, cast("BinaryIO", tee))
            tee.end()
            if tee.hexdigest() == entry.sha256:
                if tee.tell() != entry.size:
                    raise EntryDamaged(f"it has {tee.tell()} bytes, and its entry tells of {entry.size}")
                return "bytes"
            if prove:
                _prove_content(entry, surround, images)
            return "content"

    def pieces(self, entry: Entry) -> tuple[bytes, list[Image]]:
        """Surrounding bytes and decoded images of an image entry, in the order of its parts."""
        surround = b"".join(self.read_bytes(part) for part in entry.parts if part.stream is None)
        self._check_promise(entry)
        return surround, [self.decode(part) for part in entry.parts if part.stream is not None]

    def image(self, entry: Entry, number: int, region: Box | None = None) -> Image:
        """Image ``number`` of an image entry, or the part in ``region``, of which a codestream's tiles alone
        are decoded.

        Raises EntryDamaged, ForeignCodecMissing.
        """
        with naming(entry):
            if entry.method == "pieces":
                return image_of_pieces(self, entry, number, region)
            self._check_promise(entry)
            return self.decode([part for part in entry.parts if part.stream is not None][number], region)

    @staticmethod
    def _check_promise(entry: Entry) -> None:
        # No packer takes a file that promises more than this for its size, so no honest entry does either.
        promised = sum(part.decoded for part in entry.parts if part.stream is not None)
        Limits().check_decoded(promised, entry.size)

    def decode(self, part: Part, region: Box | None = None) -> Image:
        """The image of a part that has one, or its ``region``. Raises CallicError, ValueError, TypeError."""
        if part.stream is None:
            raise EntryDamaged("a part that is no image was to be decoded as one")
        if part.stream.samples * np.dtype(part.stream.dtype).itemsize != part.size:
            raise EntryDamaged("an image holds more or fewer bytes of samples than the index says")
        if part.stream.plane is not None:
            return self._bands.image(self.decoder(), partial(self.read, part.place), part, region)
        decoder = self.decoder() if part.learned else None
        return decode_image(self.read(part.place), part.coding, part.stream, decoder, region)

    def close(self) -> None:
        """Close all readers."""
        with self._lock:
            for reader in self._readers.values():
                if isinstance(reader, ShardReader):
                    reader.close()
            self._readers.clear()
        self._bands.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_archive(root: Path) -> None:
    """Raise MissingPath or NotAnArchive unless ``root`` looks like a finished archive, as damaged as it may
    be.
    """
    if not root.exists():
        partial = root.with_name(root.name + PARTIAL)
        if partial.is_dir():
            raise NotAnArchive(
                f"{root} is not finished yet; run the same pack command again to complete {partial}"
            )
        raise MissingPath(f"{root} does not exist; check the spelling")
    if root.name.endswith(PARTIAL):
        raise NotAnArchive(f"{root} is unfinished; run the same pack command again to complete it")
    data = root / "data"
    if not root.is_dir() or not ((data / INDEX).exists() or any(data.glob("shard-*.cla"))):
        raise NotAnArchive(f"{root} is no callic archive: it holds neither data/{INDEX} nor shards")


def contents_of(rows: Iterator[dict[str, Any]], contents: Contents | None = None) -> Contents:
    """Sort the lines of an index by what they are. A line that is not valid costs its entry alone; where lines are
    lost nobody can tell whose, so the whole index is damaged, as it is where a line that is of no entry is not valid.

    Given ``contents``, what can be read is there all the same. Raises NotAnArchive, IndexDamaged, IndexEntryInvalid,
    and what ``rows`` does.
    """
    contents = Contents() if contents is None else contents
    seen: set[str] = set()
    heads: list[int] = []  # numbers of the lines that tell of the whole archive
    entries = 0
    fault: ContainerError | None = None
    for number, row in enumerate(rows):
        kind = row.get("kind")
        if kind in ("archive", "adapter"):
            try:
                if kind == "archive":
                    heads.append(number)
                    contents.header = Header.from_json(row)
                else:
                    digest, ref = _adapter(row)
                    contents.adapters[digest] = ref
            except IndexEntryInvalid as error:
                fault = fault or error
        else:
            entries += 1
            try:
                entry = Entry.from_json(row)
                if entry.path in seen:
                    raise EntryDamaged("the index has two entries of this path; the first one counts")
                seen.add(entry.path)
                contents.entries.append(entry)
            except EntryDamaged as error:
                shown = str(row.get("path", "?"))
                contents.problems.append(Problem.of(shown, error, kept=False))
                if len(contents.problems) > MOST_INVALID:
                    raise IndexDamaged(f"more than {MOST_INVALID} of its lines are not valid") from error
    if fault is not None:
        raise fault
    if heads != [0]:
        raise IndexDamaged("its first line, and no other, must tell of the archive as a whole")
    if contents.header is not None and entries != contents.header.entries:
        raise IndexDamaged(
            f"its first line tells of {contents.header.entries} entries, and it has lines of {entries}"
        )
    return contents


def _adapter(row: Mapping[str, Any]) -> tuple[str, RecordRef]:
    try:
        return check_digest(row.get("sha256")), RecordRef.from_json(row.get("record"))
    except ValueError as error:
        raise IndexEntryInvalid(f"the line of an adapter is not valid: {error}") from error


@contextmanager
def naming(entry: Entry) -> Iterator[None]:
    """Let every failure inside say which entry it costs; failures of the machine pass through."""
    try:
        yield
    except (
        EnvironmentFailure, DigestMismatch, EntryDamaged, ForeignCodecMissing, TorchacUnavailableError, UnknownModel,
    ):  # fmt: skip
        raise
    except CallicError as error:
        raise EntryDamaged(str(error)) from error
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise EntryDamaged(f"its records cannot be put together: {type(error).__name__}: {error}") from error


def _prove_content(entry: Entry, surround: bytes, images: list[Image]) -> None:
    """Put the file together once more, read it, and compare pixels and metadata. Raises DigestMismatch."""
    made = io.BytesIO()
    rebuild(entry.format or "", entry.recipe, surround, images, made)
    again = parse_again(made.getbuffer(), entry.format or "", entry.recipe)
    if again is None:
        raise DigestMismatch("the restored file is not understood as the image it was")
    recipe = dict(entry.recipe)
    known = Parsed(entry.format or "", "content", tuple(images), surround, recipe, again.volatile)
    if not images_equal(known, again):
        raise DigestMismatch("the restored file does not hold the packed pixels and metadata")


def _sort_key(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
