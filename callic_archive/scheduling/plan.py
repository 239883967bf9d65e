"""How the work is cut: an estimate of seconds, batches of about equal length, and whether a cluster is worth
its start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from callic_archive.archive.entries import Entry
from callic_archive.archive.pack_pieces import PieceBatch
from callic_archive.archive.packer import Batch
from callic_archive.archive.packing import Group
from callic_archive.archive.scan import Source
from callic_archive.images.cutting import CUT_FROM

BATCH_SECONDS = 30.0  # wanted length of a batch
SHORTEST_BATCH = 4.0  # below this the hand-over to a worker is felt
PER_WORKER = 4  # batches a worker should get, so that the last ones end together
# seconds of work; starting worker processes and loading models there takes some three
CLUSTER_PAYS_FROM = 12.0

_IMAGE_SUFFIXES = {
    "png",
    "tif",
    "tiff",
    "btf",
    "npy",
    "npz",
    "pgm",
    "ppm",
    "pnm",
    "bmp",
    "dcm",
    "dicom",
    "nii",
    "nrrd",
    "mha",
}
_IMAGE_SUFFIXES |= {"nii.gz", "dcm.gz", "tif.gz"}
_CUT_SUFFIXES = {"tif", "tiff", "btf", "npy", "pgm", "ppm", "pnm", "pam", "bmp", "dcm", "dicom", "nii"}
# bytes of samples for a byte of file, about
_COMPRESSED = {"png": 2.0, "tif": 1.2, "tiff": 1.2, "nii.gz": 2.0, "dcm.gz": 2.0, "tif.gz": 2.0}


AnyBatch = Batch | PieceBatch


@dataclass(frozen=True)
class Costs:
    """Seconds a worker needs. They only shape batches; being wrong by a factor of three does no harm."""

    image_second_per_mb: float = 15.0  # of samples, encode and decode-and-compare
    stored_second_per_mb: float = 0.05
    second_per_file: float = 0.005
    adapt_second_per_image: float = 0.0

    def of(self, source: Source) -> float:
        """Estimate for one file."""
        mb = source.size / 1e6
        name = source.path.rsplit("/", 1)[-1].lower()
        suffix = name.rsplit(".", 1)[-1] if "." in name else ""
        suffix = ".".join(name.rsplit(".", 2)[-2:]) if suffix == "gz" else suffix
        # DICOM files often have no suffix at all, and chunks of zarr arrays are named by numbers.
        if suffix in _IMAGE_SUFFIXES or not suffix or suffix.isdigit():
            mb *= _COMPRESSED.get(suffix, 1.0)
            return self.second_per_file + mb * self.image_second_per_mb + self.adapt_second_per_image
        return self.second_per_file + mb * self.stored_second_per_mb


@dataclass(frozen=True)
class Plan:
    """Batches in the order in which they should start, and the estimate of all of them in seconds of one
    worker.
    """

    batches: tuple[Batch, ...]
    seconds: float


def plan_batches(groups: Iterable[Group], workers: int, costs: Costs | None = None) -> Plan:
    """Cut the files into batches; candidates for equality stay together, and what may be bands of one scene is a batch.

    Very long batches come first.
    """
    costs = costs or Costs()
    weighted = [(group, sum(costs.of(source) for source in group.sources)) for group in groups]
    total = sum(weight for _, weight in weighted)
    target = min(BATCH_SECONDS, max(SHORTEST_BATCH, total / (PER_WORKER * max(1, workers))))
    batches: list[tuple[float, Batch]] = []
    sources: list[Source] = []
    known: list[Entry] = []
    weight = 0.0
    for group, more in weighted:
        if group.bands:
            batches.append((more, Batch(group.sources, group.known, bands=True)))
            continue
        if sources and weight + more > target:
            batches.append((weight, _batch(sources, known)))
            sources, known, weight = [], [], 0.0
        sources.extend(group.sources)
        known.extend(group.known)
        weight += more
    if sources:
        batches.append((weight, _batch(sources, known)))
    batches.sort(key=lambda item: -item[0] if item[0] > 2 * target else 0.0)
    return Plan(tuple(batch for _, batch in batches), total)


def _batch(sources: Sequence[Source], known: Sequence[Entry]) -> Batch:
    return Batch(tuple(sources), tuple(known))


def halves(batch: AnyBatch) -> list[AnyBatch]:
    """A batch of more than one file or piece as two."""
    if isinstance(batch, PieceBatch):
        middle = len(batch.pieces) // 2
        return [
            replace(batch, pieces=part) for part in (batch.pieces[:middle], batch.pieces[middle:]) if part
        ]
    middle = len(batch.sources) // 2
    return [Batch(part, batch.known) for part in (batch.sources[:middle], batch.sources[middle:]) if part]


def cluster_pays(plan: Plan, workers: int) -> bool:
    """Whether worker processes are worth their start for this much work."""
    parts = len(plan.batches) + sum(_is_cut(source) for batch in plan.batches for source in batch.sources)
    return workers > 1 and parts > 1 and plan.seconds > CLUSTER_PAYS_FROM


def _is_cut(source: Source) -> bool:
    """Whether a file is cut into pieces for several workers, as far as its name and size tell."""
    name = source.path.rsplit("/", 1)[-1].lower()
    suffix = name.rsplit(".", 1)[-1] if "." in name else ""
    return source.size >= CUT_FROM and (suffix in _CUT_SUFFIXES or not suffix or suffix.isdigit())
