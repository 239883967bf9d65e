"""Adapters and models for a whole collection: a sample of its images, trained on once, and what came of it kept for the next
start of the same run.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from callic_archive.archive.candidates import for_models
from callic_archive.archive.codecs import CodecPlan, Image
from callic_archive.archive.content import WHOLE_BELOW, opened, read_source
from callic_archive.archive.context import ContextFinder, read_beside
from callic_archive.archive.duplicates import without_copies
from callic_archive.archive.likeness import as_scenes
from callic_archive.archive.reading import MODEL_SUFFIX
from callic_archive.archive.sampling import outline_if_large, some_pieces
from callic_archive.archive.scan import Source
from callic_archive.archive.staging import Staging
from callic_archive.container.fs import atomic_write, writing
from callic_archive.errors import CallicError, EnvironmentFailure, ModelError
from callic_archive.images.detached import is_packed
from callic_archive.images.source import Limits, parse, sniff

SAMPLE_BYTES = 48 << 20  # of samples that training looks at
MOST_PIECES = 2  # of a large file
SMALL = 8 * SAMPLE_BYTES  # bytes of files up to which a collection may be seen wholly
MOST_FILES, MOST_OF_SMALL = 400, 4000  # files opened to find them; and where there are few bytes
LEAST_PIXELS = 1_000_000  # collections with fewer pixels cannot earn an adapter's bytes back
LEAST_FITTED = 250_000  # nor are those with fewer worth a minute of fitting
FITTED = "fitted.json"  # tells which models were fitted to a sample
SEED = 20260101  # the same collection gives the same sample


@dataclass(frozen=True)
class Sample:
    """Images to train on, and an estimate of how many pixels (height times width) the collection has."""

    images: tuple[Image, ...]
    total_pixels: int
    whole: bool = False  # whether ``images`` are all that the collection has, or stand for so few that models are weighed by them

    @property
    def pixels(self) -> int:
        """Pixels of the images."""
        return pixels_of(self.images)


def pixels_of(images: Sequence[Image]) -> int:
    """Pixels (height times width) of some images."""
    return sum(image.shape[0] * image.shape[1] for image in images)


def collection_adapters(
    staging: Staging,
    plan: CodecPlan,
    sources: list[Source],
    sample: Callable[[], Sample],
    progress: Callable[[int, int], None],
) -> Mapping[str, bytes]:
    """Adapters of this run, digest to payload: those of an earlier start, or newly trained. Raises
    EnvironmentFailure.
    """
    done = staging.adapters / "trained.json"
    earlier = trained(done)
    if earlier is not None:
        return earlier
    payloads: Mapping[str, bytes] = {}
    found = sample() if may_hold(sources, LEAST_PIXELS) else None
    if found is not None and found.total_pixels >= LEAST_PIXELS:
        payloads = plan.train(found.images, found.total_pixels, progress)
    for digest, payload in payloads.items():
        atomic_write(staging.adapters / digest, payload)
    atomic_write(done, json.dumps(sorted(payloads)).encode())
    return payloads


def may_hold(sources: Sequence[Source], pixels: int) -> bool:
    """Whether files are large enough for so many pixels: where they are not, no sample is taken, nor torch imported."""
    return sum(source.size for source in sources) >= pixels // 4


def fitted_models(
    folder: Path,
    models: Path,
    plan: CodecPlan,
    sample: Callable[[], Sample | None],
    progress: Callable[[int, int], None],
) -> Mapping[str, Path]:
    """SHA-256 of models to the files of those that were fitted to a sample in their places: of an earlier start, which
    ``folder`` tells of, or new ones. The files lie in ``models``, where the archive will have them, so that what is
    unfinished can be read too. Raises EnvironmentFailure."""
    earlier = fitted_before(folder, models)
    if earlier is not None:
        return earlier
    files: Mapping[str, bytes] = {}
    found = sample()
    if found is not None:
        images = as_scenes(found.images)  # as bands in files of their own are coded
        share = pixels_of(images) / max(1, found.pixels)
        files = plan.fit_models(images, round(share * found.total_pixels), progress, folder)
    from callic_archive.model.packed_file import pack_model

    named = {}
    with writing(models):
        models.mkdir(exist_ok=True)
    for base, raw in files.items():
        named[base] = hashlib.sha256(raw).hexdigest()
        atomic_write(models / f"{named[base]}{MODEL_SUFFIX}", pack_model(raw))
    atomic_write(folder / FITTED, json.dumps(named).encode())
    return _places(models, named)


def fitted_before(folder: Path, models: Path) -> Mapping[str, Path] | None:
    """What ``fitted_models`` gave at an earlier start; None where there was none, or it is not whole any more."""
    from callic_archive.model.weights import read_model_bytes

    try:
        named = json.loads((folder / FITTED).read_text("utf-8"))
        digests = [*named, *named.values()]
        if not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests):
            return None
        places = _places(models, named)
        whole = all(
            hashlib.sha256(read_model_bytes(path)).hexdigest() == named[base] for base, path in places.items()
        )
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, ModelError):
        return None
    return places if whole else None


def all_fitted(staging: Staging) -> list[str]:
    """SHA-256 of all models that were fitted to the collection before."""
    folders = [path.parent for path in staging.adapters.glob(f"**/{FITTED}")]
    return [
        path.name.split(".")[0] for folder in folders for path in (fitted_before(folder, staging.models) or {}).values()
    ]


def _places(models: Path, named: Mapping[str, str]) -> Mapping[str, Path]:
    return {base: (models / f"{digest}{MODEL_SUFFIX}").absolute() for base, digest in named.items()}


def trained(done: Path) -> Mapping[str, bytes] | None:
    """The adapters that ``done`` names, beside it; None where they are not there, or not what was trained."""
    try:
        digests = json.loads(done.read_text("utf-8"))
        found = {
            name: (done.parent / name).read_bytes() for name in digests if re.fullmatch("[0-9a-f]{64}", name)
        }
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    whole = all(hashlib.sha256(payload).hexdigest() == digest for digest, payload in found.items())
    return found if whole and isinstance(digests, list) and len(found) == len(digests) else None


def take_sample(sources: list[Source], copies: Path | None = None) -> Sample:
    """Parse files in a fixed random order until there are enough samples; large ones as copies in ``copies``."""
    order = [source for source in sources if source.kind == "file" and source.size and source.link is None]
    total = sum(source.size for source in order)
    files = MOST_OF_SMALL if total <= SMALL else MOST_FILES
    if total <= SMALL:
        order = without_copies(order)  # as they are packed: once
        total = sum(source.size for source in order)
    whole = len(order) <= files
    random.Random(SEED).shuffle(order)
    images: list[Image] = []
    contexts = ContextFinder(read_beside)
    taken = seen_bytes = seen_pixels = 0
    for source in order[:files]:
        if taken >= SAMPLE_BYTES:
            whole = False
            break
        found, size = sample_of(source, contexts, copies)
        whole = whole and size == source.size and (bool(found) or size < WHOLE_BELOW)
        seen_bytes += size
        seen_pixels += sum(image.shape[0] * image.shape[1] for image in found)
        for image in found:
            images.append(image)
            taken += image.nbytes
    return Sample(tuple(images), seen_pixels * total // max(1, seen_bytes), whole)


def images_of(source: Source, contexts: ContextFinder | None = None) -> tuple[Image, ...]:
    """The images of a file; see ``sample_of``."""
    return sample_of(source, contexts)[0]


def sample_of(
    source: Source, contexts: ContextFinder | None = None, copies: Path | None = None
) -> tuple[tuple[Image, ...], int]:
    """The images of a file, of a large one those of a few pieces, and of how many bytes of the file they are.

    No images where it holds none, is broken, or would take much memory to look into. ``contexts`` finds what lies
    beside the file, ``copies`` is a folder for copies of large ones. Raises EnvironmentFailure.
    """
    contexts = contexts or ContextFinder(read_beside)
    try:
        with opened(source.file) as file:
            context = contexts.of_file(file, source.path.count("/"))
            # no image, or one that must be decoded wholly, which costs more memory than a sample is worth
            if source.size >= WHOLE_BELOW and context is None and sniff(file.head()) in (None, "png", "gzip", "zip", "tar"):
                return (), source.size
        if source.size >= WHOLE_BELOW and context is not None and is_packed(context):
            return (), source.size
        data, _ = read_source(source.file, copies)
        large = outline_if_large(data, context, Limits())
        if large is not None:
            samples = list(some_pieces(data, large, MOST_PIECES))
            if samples:
                return (
                    tuple(image for sample in samples for image in for_models(sample.parsed.images)),
                    sum(sample.bytes for sample in samples),
                )
        parsed = parse(data, context=context)
    except EnvironmentFailure:
        raise
    except (CallicError, OSError, MemoryError):
        return (), source.size  # packing will report it
    return (tuple(for_models(parsed.images)) if parsed is not None else ()), source.size
