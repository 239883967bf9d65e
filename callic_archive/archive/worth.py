"""Whether the learned codec saves more than the models that an archive has to carry for it.

A model takes half a megabyte. Over a few megapixels that is more than it saves against JPEG XL, and an archive that
uses it is the larger for it. So where a sample holds all images that there are, crops of them are coded both ways before
packing, and a model that its images do not earn back is declined: they go through the conventional coders. Larger
collections are not asked, as their models pay, or hardly count.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from callic_archive.archive.candidates import TINY, look_at
from callic_archive.archive.codecs import Codec, CodecPlan, Image
from callic_archive.archive.collection import LEAST_PIXELS, Sample
from callic_archive.archive.image_coding import encode_foreign
from callic_archive.archive.staging import Staging
from callic_archive.container.fs import atomic_write
from callic_archive.errors import ForeignCodecFailed, ForeignCodecMissing

CROP, PIXELS, CROPS = 384, 4 * 384 * 384, 24  # side of a crop; pixels of each kind of image, in so many crops at most
IN_ARCHIVE = 0.76  # of a model's file: an archive holds it compressed
MOST_SAVED = 0.4  # of JPEG XL's size; where not even this would be enough, nothing is measured
CROP_LOSS = 0.03  # of JPEG XL's code: what crops cost it more than whole images, beyond what they cost the model
ADAPTED = 0.02  # of the learned code, what an adapter of the collection saves at the least (decision 0013)
PRICELESS = 1e15  # bytes
SEED = 20260103

#: What matters of an image for the choice of models: channels, and bytes of a sample.
Kind = tuple[int, int]


@dataclass(frozen=True)
class Verdict:
    """``declined``: SHA-256 of models that do not pay. ``saved``: bytes that they would save, at the most where it was
    not ``measured``, and ``cost`` bytes that they would take; all estimates."""

    declined: tuple[str, ...] = ()
    saved: int = 0
    cost: int = 0
    measured: bool = True

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return {**asdict(self), "declined": list(self.declined)}

    @staticmethod
    def of_json(text: bytes) -> Verdict | None:
        """What ``as_json`` gave; None of anything else."""
        try:
            found = json.loads(text)
            digests = tuple(map(str, found["declined"]))
            return Verdict(digests, int(found["saved"]), int(found["cost"]), bool(found["measured"]))
        except (ValueError, KeyError, TypeError):
            return None


def weigh(staging: Staging, plan: CodecPlan, sample: Callable[[], Sample]) -> Verdict:
    """The verdict of this run: that of an earlier start, or a new one. Raises ModelError, EnvironmentFailure."""
    if not plan.weighs_models:
        return Verdict()
    kept = staging.adapters / "declined.json"
    found = Verdict.of_json(kept.read_bytes()) if kept.exists() else None
    if found is None:
        found = judge(plan, sample())
        atomic_write(kept, json.dumps(found.as_json()).encode())
    return found


def judge(plan: CodecPlan, sample: Sample) -> Verdict:
    """Which models of ``plan`` the images do not earn back. Raises ModelError."""
    if not sample.whole or not sample.images:
        return Verdict()
    costs = {digest: IN_ARCHIVE * path.stat().st_size for digest, path in plan.model_files().items()}
    kinds: dict[Kind, list[Image]] = defaultdict(list)
    for image in sample.images:
        kinds[image.shape[2] if image.ndim == 3 else 1, image.itemsize].append(image)
    needs = {kind: frozenset(plan.models_for(*kind)) for kind in kinds}
    measure = _Measure(plan, adapted=plan.trains and sample.total_pixels >= LEAST_PIXELS)
    saved = {
        kind: measure.saved(images, sum(costs[digest] for digest in needs[kind])) if needs[kind] else 0.0
        for kind, images in kinds.items()
    }

    def net(kept: Collection[str]) -> tuple[float, int]:
        return _saved(saved, needs, kept) - sum(costs[digest] for digest in kept), len(kept)

    kept = max(_subsets(costs), key=net)
    declined = tuple(sorted(set(costs) - set(kept)))
    lost = _saved(saved, needs, costs) - _saved(saved, needs, kept)
    asked_for = {digest for need in needs.values() for digest in need}
    taken = sum(costs[digest] for digest in declined if digest in asked_for)
    return Verdict(declined, round(lost), round(taken), not measure.bounded)


def _subsets(digests: Iterable[str]) -> Iterable[tuple[str, ...]]:
    some = tuple(digests)
    return itertools.chain.from_iterable(itertools.combinations(some, n) for n in range(len(some) + 1))


def _saved(saved: Mapping[Kind, float], needs: Mapping[Kind, frozenset[str]], kept: Collection[str]) -> float:
    """Bytes that the models ``kept`` save on the images for which they are enough."""
    return sum(gain for kind, gain in saved.items() if needs[kind] <= set(kept))


class _Measure:
    """Codes crops both ways; the codec is opened when the first measurement needs it."""

    def __init__(self, plan: CodecPlan, adapted: bool) -> None:
        self._plan = plan
        self._factor = 1 - ADAPTED if adapted else 1.0
        self._codec: Codec | None = None
        self.bounded = False  # whether a figure is but the most that it may be

    def saved(self, images: Sequence[Image], cost: float) -> float:
        """Bytes that the learned codec would save on images of one kind, whose models take ``cost``."""
        images = [image for image in images if not _drawn(image)]
        crops = _crops(images)
        if not crops:
            return 0.0
        scale = sum(image.size for image in images) / sum(crop.size for crop in crops)
        try:
            most = MOST_SAVED * scale * _as_jpegxl(crops, 7)
            if most < cost:
                self.bounded = True
                return most
            other = scale * _as_jpegxl(crops, 9)
        except (ForeignCodecMissing, ForeignCodecFailed):
            return PRICELESS  # there is nothing that could take the model's place
        if self._codec is None:
            self._codec = self._plan.open()
        own = scale * self._factor * sum(len(self._codec.encode(crop)) for crop in crops)
        return max(0.0, other - own)


def _as_jpegxl(crops: Iterable[Image], effort: int) -> float:
    """Bytes as JPEG XL, as part of the images that they are cut from; whole small images have a side below CROP."""
    sizes = ((crop, min(len(encode_foreign(crop, "jpegxl", effort)), crop.nbytes)) for crop in crops)
    return sum(size * (1 - CROP_LOSS if max(crop.shape[:2]) == CROP else 1.0) for crop, size in sizes)


def _drawn(image: Image) -> bool:
    """Whether an image is one for conventional coders anyway; what is tiny is tried with all of them."""
    return image.nbytes > TINY and look_at(image).drawn(image.shape[2] if image.ndim == 3 else 1)


def _crops(images: Sequence[Image]) -> list[Image]:
    chance = random.Random(SEED)
    crops: list[Image] = []
    for image in chance.sample(images, min(CROPS, len(images))):
        if sum(crop.shape[0] * crop.shape[1] for crop in crops) >= PIXELS:
            break
        top = chance.randint(0, max(0, image.shape[0] - CROP))
        left = chance.randint(0, max(0, image.shape[1] - CROP))
        crops.append(image[top : top + CROP, left : left + CROP].copy())
    return crops
