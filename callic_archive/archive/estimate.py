"""What an archive would take, guessed from small crops of a few images, a few JPEG streams and blocks of other files.

The time for it is bounded whatever the tree holds: files are taken in a fixed random order, large ones rather than small
ones, a kind at a time, until there are enough or the time is up. Equal files, adapters, and bands of one scene are not
foreseen.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from heapq import nlargest
from typing import Any

import zstandard

from callic_archive.archive.codecs import Codec, CodecPlan, Image
from callic_archive.archive.content import WHOLE_BELOW, OpenFile, opened, read_source
from callic_archive.archive.context import ContextFinder, read_beside
from callic_archive.archive.jpeg_recoding import recoding
from callic_archive.archive.jpeg_sampling import WINDOW, WINDOWS, Read, stored_share
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.sampling import outline_if_large, some_pieces
from callic_archive.archive.scan import Source
from callic_archive.archive.specification import specification_packed
from callic_archive.archive.verbatim import SMALL, ZSTD_LEVEL, ZSTD_LEVEL_SMALL, is_jpeg, recoded_jpeg
from callic_archive.archive.worth import bytes_in_archive
from callic_archive.errors import CallicError, EnvironmentFailure, ModelError, SourceError
from callic_archive.images import tiff_jpeg
from callic_archive.images.jpeg_streams import Tables
from callic_archive.images.source import Context, parse, sniff

SECONDS = 15.0  # after these no further file is begun
MOST_FILES = 64
CROP = 132  # rows and columns: more than what is tiny, and so tried with every coding
CROPS = 2  # of one file
BLOCK = 128 << 10  # bytes looked at, in three places of a file that is no image
JPEG_MOST = 4 << 20  # bytes of a JPEG file that is recoded for this
LARGEST = 1 << 30  # bytes of a file that is taken apart for this
ENTRY_BYTES = 600  # of ENTRY record, index line and headers, about
SEED = 20260102


@dataclass(frozen=True)
class Estimate:
    """A guess, and what it rests on."""

    source_bytes: int
    stored_bytes: int
    archive_bytes: int
    ratio: float | None  # source_bytes / stored_bytes
    seconds: float
    sampled_files: int
    sampled_images: int
    sampled_bytes: int
    sample_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Its fields, marked as the guess that they are."""
        return {"is_estimate": True, **asdict(self)}


@dataclass
class _Kind:
    """Files of one suffix: sums over those that were sampled."""

    files: list[Source] = field(default_factory=list)
    size: int = 0
    stored: float = 0.0
    seconds: float = 0.0

    def add(self, size: int, stored: float, seconds: float) -> None:
        self.size += size
        self.stored += stored
        self.seconds += seconds


def estimate(
    sources: Iterable[Source], plan: CodecPlan, options: PackOptions, processes: int, budget: float = SECONDS
) -> Estimate:
    """Guess what packing ``sources`` would give, and how long it would take. Raises ModelError,
    EnvironmentFailure.
    """
    begin = time.monotonic()
    sources = list(sources)
    files = [source for source in sources if source.kind == "file" and source.link is None and source.size]
    sampler = _Sampler(plan, options)
    kinds = _kinds(files)
    overall = _Kind()
    for kind, source in _in_turn(kinds)[:MOST_FILES]:
        if time.monotonic() - begin > budget:
            break
        with recoding(quick=options.quick_jpeg):
            found = sampler.look(source)
        if found is not None:
            for sums in (kind, overall):
                sums.add(source.size, *found)
    stored = seconds = 0.0
    for kind in kinds:
        known = kind if kind.size else overall
        rest = sum(source.size for source in kind.files) - kind.size  # of files that were not looked at
        stored += kind.stored + (rest * known.stored / known.size if known.size else rest)
        seconds += kind.seconds + (rest * known.seconds / known.size if known.size else 0.0)
    size = sum(source.size for source in files)
    models = sampler.model_bytes()
    around = len(sources) * ENTRY_BYTES + len(specification_packed({"image", "learned"})) + models
    return Estimate(
        source_bytes=size,
        stored_bytes=round(stored),
        archive_bytes=round(stored) + around,
        ratio=round(size / stored, 3) if stored >= 1 else None,
        seconds=round(seconds / max(1, processes), 3),
        sampled_files=sampler.files,
        sampled_images=sampler.images,
        sampled_bytes=sampler.bytes,
        sample_seconds=round(time.monotonic() - begin, 2),
    )


def _kinds(files: Sequence[Source]) -> list[_Kind]:
    """Files by suffix, those with most bytes first."""
    found: dict[str, _Kind] = defaultdict(_Kind)
    for source in files:
        name = source.path.rsplit("/", 1)[-1].lower()
        found[name.rsplit(".", 1)[-1] if "." in name else ""].files.append(source)
    return sorted(found.values(), key=lambda kind: -sum(source.size for source in kind.files))


def _in_turn(kinds: Sequence[_Kind]) -> list[tuple[_Kind, Source]]:
    """One file of each kind, then the next of each, in an order that is the same each time.

    Each byte of a kind has the same chance to come next, so that what is left unseen are mostly small files.
    """
    chance = random.Random(SEED)
    orders = [
        nlargest(MOST_FILES, kind.files, key=lambda source: chance.random() ** (1 / source.size))
        for kind in kinds
    ]
    longest = max(map(len, orders), default=0)
    return [
        (kind, order[turn])
        for turn in range(longest)
        for kind, order in zip(kinds, orders, strict=True)
        if turn < len(order)
    ]


class _Sampler:
    """Codes small parts of files, and remembers what that showed."""

    def __init__(self, plan: CodecPlan, options: PackOptions) -> None:
        self.files = self.images = self.bytes = 0
        self._plan = plan
        self._options = options
        self._codec: Codec | None = None
        self._models: set[str] = set()
        self._warm: set[tuple[tuple[int, ...], str]] = set()  # kinds of images that were coded before
        self._chance = random.Random(SEED)
        self._contexts = ContextFinder(read_beside)

    def look(self, source: Source) -> tuple[float, float] | None:
        """Bytes that a file would take and seconds to pack it, about; None when it cannot be read."""
        try:
            with opened(source.file) as file:
                context = self._contexts.of_file(file, source.path.count("/"))
                stored = self._verbatim(file)
                image = file.extents is None and file.size < LARGEST and (context or sniff(file.head()))
                jpeg = file.extents is None and file.size <= JPEG_MOST and is_jpeg(file.head())
                recoded = self._recoded(file) if jpeg else None
                if not image and recoded is None:
                    stored = self._streams(file.window, file.data_bytes, Tables()) or stored
            self.files += 1
            if recoded is not None:
                return recoded
            coded = None
            if image and (image != "png" or source.size < WHOLE_BELOW):
                data = read_source(source.file)[0]
                with suppress(SourceError):  # a broken image is stored as it is
                    coded = self._coded(data, context)
                if coded is None:
                    stored = self._streams(_within(data), len(data), self._tables(data)) or stored
        except (ModelError, EnvironmentFailure):
            raise
        except (CallicError, OSError, MemoryError):
            return None if not self.files else (float(source.size), 0.0)
        if coded is None or stored[0] <= coded[0]:
            return stored[0], stored[1] + (coded[1] if coded is not None else 0.0)
        return coded

    def _verbatim(self, file: OpenFile) -> tuple[float, float]:
        size = file.data_bytes
        begin = time.monotonic()
        compressor = zstandard.ZstdCompressor(level=_level(size))
        seen = packed = 0
        for offset in {0, max(0, file.size // 2 - BLOCK // 2), max(0, file.size - BLOCK)}:
            block = b"".join(file.pieces(((offset, min(BLOCK, file.size - offset)),)))
            seen += len(block)
            packed += min(len(block), len(compressor.compress(block)))
        self.bytes += seen
        if not seen:
            return 0.0, 0.0
        return size * packed / seen, size * (time.monotonic() - begin) / seen

    def _recoded(self, file: OpenFile) -> tuple[float, float] | None:
        """The same of a JPEG file as JPEG XL; None where that fails or saves nothing."""
        begin = time.monotonic()
        data = file.read()
        pieces = recoded_jpeg(data)
        if pieces is None:
            return None
        self.bytes += len(data)
        return float(sum(len(piece.payload) for piece in pieces)), time.monotonic() - begin

    def _tables(self, data: bytes | memoryview) -> Tables:
        return tiff_jpeg.tables(memoryview(data).cast("B"), self._options.limits)

    def _streams(self, read: Read, size: int, tables: Tables) -> tuple[float, float] | None:
        """The same where JPEG streams in a file become JPEG XL; None where there are none that shrink."""
        found = stored_share(read, size, tables, _level(size))
        if found is None:
            return None
        self.bytes += min(size, WINDOWS * WINDOW)
        return size * found[0], size * found[1]

    def _coded(self, data: bytes | memoryview, context: Context | None) -> tuple[float, float] | None:
        """The same through the codec; None for what it does not take."""
        large = outline_if_large(data, context, self._options.limits, self._options.piece_bytes)
        parsed = None
        if large is not None:
            sample = next(some_pieces(data, large, 1, self._options.piece_bytes), None)
            parsed = sample.parsed if sample is not None else None
        if parsed is None:
            large, parsed = None, parse(data, "", self._options.limits, context)
        if parsed is None or not parsed.images:
            return None
        if parsed.fidelity == "content" and self._options.fidelity == "bytes":
            return None
        codec = self._open(parsed.images[0])
        samples = bytes_ = 0
        begin = time.monotonic()
        for image in self._chance.sample(parsed.images, min(CROPS, len(parsed.images))):
            crop = self._crop(image)
            coded = self._options.coder(crop, codec)
            self._models.update(coded.stream.models)
            samples += crop.size
            bytes_ += len(coded.payload)
            self.bytes += crop.nbytes
        seconds = (time.monotonic() - begin) * (2 if self._options.verify else 1)
        self.images += 1
        of_piece = sum(image.size for image in parsed.images)
        whole = (
            of_piece
            if large is None
            else sum(r.layout.decoded_bytes // r.layout.itemsize for r in large.rasters)
        )
        scale = whole / samples
        around = parsed.surround
        surround = float(min(len(around), len(zstandard.ZstdCompressor().compress(around))))
        streams = self._streams(_within(around), len(around), Tables(self._tables(data).streams))
        if streams is not None:
            surround = min(surround, streams[0])
        return surround * whole / of_piece + bytes_ * scale, seconds * scale

    def _open(self, image: Image) -> Codec:
        if self._codec is None:
            self._codec = self._plan.open()
        kind = (image.shape[2:], image.dtype.name)
        if kind not in self._warm:  # what is compiled and loaded first shall not count
            self._warm.add(kind)
            self._options.coder(image[:8, :8].copy(), self._codec)
        return self._codec

    def _crop(self, image: Image) -> Image:
        top = self._chance.randint(0, max(0, image.shape[0] - CROP))
        left = self._chance.randint(0, max(0, image.shape[1] - CROP))
        return image[top : top + CROP, left : left + CROP].copy()

    def model_bytes(self) -> int:
        """Of the models that the archive would carry."""
        files = self._plan.model_files() if self._models else {}
        return sum(bytes_in_archive(files[digest]) for digest in self._models if digest in files)


def _level(size: int) -> int:
    """Of Zstandard, for a file of ``size`` bytes."""
    return ZSTD_LEVEL_SMALL if size <= SMALL else ZSTD_LEVEL


def _within(data: bytes | memoryview) -> Read:
    view = memoryview(data).cast("B")
    return lambda offset, length: view[offset : offset + length]
