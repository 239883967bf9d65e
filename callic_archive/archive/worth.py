"""Which models save the most, less what they take in the archive that has to carry them.

A large model takes half a megabyte, a small one a tenth. Over a few megapixels that is more than it saves against JPEG XL
or against a smaller model, and an archive that uses it is the larger for it. So where a sample holds all images that
there are, crops of them are coded every way before packing, and models that their images do not earn back are declined:
the next in the order of preference takes their place, and where there is none, the conventional coders, of which an
archive has fewer words to tell. What adapters of the collection will save is only hoped for then; once they are fitted, the
models that were kept are weighed again.
Larger collections are not asked, as their models pay, or hardly count.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from callic_archive.archive.candidates import TINY, look_at
from callic_archive.archive.codecs import Codec, CodecPlan, Image
from callic_archive.archive.collection import LEAST_FITTED, LEAST_PIXELS, Sample
from callic_archive.archive.image_coding import encode_foreign, thorough
from callic_archive.archive.segments import encode_segments
from callic_archive.archive.specification import specification_packed
from callic_archive.container.fs import atomic_write
from callic_archive.errors import ForeignCodecFailed, ForeignCodecMissing, UnknownModel

CROP, CROPS = 384, 24  # side of a crop; of images that may be smaller, so many at most
PIXELS, MOST_PIXELS, SHARE = 4 * CROP * CROP, 12 * CROP * CROP, 8  # in crops of a kind: an eighth of all, between these
WHOLE = 5_000_000  # pixels of a kind up to which the images themselves are coded, once what fits them is there
MOST_SAVED = 0.4  # of JPEG XL's size; where not even this would be enough, nothing is measured
CROP_LOSS = 0.03  # of JPEG XL's code: what crops cost it more than whole images, beyond what they cost the model
#: Of the learned code, what an adapter of the collection saves of unknown images (decision 0019: 4 to 6 %), and a model
#: fitted to it; and of the model's bytes, what coarser weights save then (decisions 0026, 0035).
HOPED, HOPED_OF_FITTED, HOPED_OF_BYTES = 0.05, 0.10, 0.25
#: The same of a model fitted to a family of images, which are unlike what the model knows, or they would be none.
HOPED_OF_FAMILY = 0.25
PRICELESS = 1e12  # bytes of a crop
SEED = 20260103

#: What matters of an image for the choice of models: those that it is coded with where all are there, and whether it looks
#: drawn: then fewer crops tell.
Kind = tuple[tuple[str, ...], bool]


@dataclass(frozen=True)
class Verdict:
    """``declined``: SHA-256 of models that do not pay. ``saved``: bytes that they would save, at the most where it was
    not ``measured``, and ``cost`` bytes that they would take, for images that are left to other coders; all estimates.
    ``smaller``: whether some images are coded by other models than those they prefer. ``hoped``: whether it rests on
    what adapters usually save."""

    declined: tuple[str, ...] = ()
    saved: int = 0
    cost: int = 0
    measured: bool = True
    smaller: bool = False
    hoped: bool = False

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return {**asdict(self), "declined": list(self.declined)}

    @staticmethod
    def of_json(text: bytes) -> Verdict | None:
        """What ``as_json`` gave; None of anything else."""
        try:
            found = json.loads(text)
            digests = tuple(map(str, found["declined"]))
            numbers = int(found["saved"]), int(found["cost"])
            return Verdict(digests, *numbers, *(bool(found[name]) for name in ("measured", "smaller", "hoped")))
        except (ValueError, KeyError, TypeError):
            return None


def weigh(folder: Path, plan: CodecPlan, sample: Callable[[], Sample], hope: float = HOPED_OF_FITTED) -> Verdict:
    """The verdict of this run: that of an earlier start, which lies in ``folder``, or a new one. ``hope``: see ``judge``.
    Raises ModelError, EnvironmentFailure."""
    if not plan.weighs_models:
        return Verdict()
    return _kept(folder / "declined.json", lambda: judge(plan, sample(), hope=hope))


def weigh_again(
    folder: Path, plan: CodecPlan, adapters: Sequence[bytes], sample: Callable[[], Sample], before: Verdict
) -> Verdict:
    """``before`` as it becomes with the ``adapters``, or the models in ``plan``, that were fitted, perhaps none. Raises as
    ``weigh``."""
    if not before.hoped:
        return before
    found = _kept(folder / "declined-adapted.json", lambda: judge(plan, sample(), adapters))
    if set(found.declined) <= set(before.declined):
        return replace(before, hoped=False)
    left = len(found.declined) < len(plan.model_files())
    return replace(
        found, saved=found.saved + before.saved, cost=found.cost + before.cost, smaller=left and before.smaller
    )


def _kept(file: Path, judged: Callable[[], Verdict]) -> Verdict:
    """The verdict in ``file``, which a run that is gone on with has; or a new one, which is then put there."""
    found = Verdict.of_json(file.read_bytes()) if file.exists() else None
    if found is None:
        found = judged()
        atomic_write(file, json.dumps(found.as_json()).encode())
    return found


def judge(
    plan: CodecPlan, sample: Sample, adapters: Sequence[bytes] | None = None, hope: float = HOPED_OF_FITTED
) -> Verdict:
    """Which models of ``plan`` the images do not earn back. ``adapters``: those that were fitted; None where they are
    not yet, and what they may save is hoped for: of models that will be fitted, ``hope`` of the code. Raises ModelError."""
    if not sample.whole or not sample.images:
        return Verdict()
    kinds: dict[Kind, list[Image]] = defaultdict(list)
    for image in sample.images:
        models = plan.models_for(image)
        if models:  # others need no model, or one that is not at hand
            kinds[models, _drawn(image)].append(image)
    enough = sample.total_pixels >= (LEAST_FITTED if plan.fits_models else LEAST_PIXELS)
    hoped = (plan.trains or plan.fits_models) and adapters is None and enough
    hope = (hope if plan.fits_models else HOPED) if hoped else 0.0
    fitted = plan.fits_models and adapters is not None
    times = max(1.0, sample.total_pixels / sample.pixels)  # of a sample, as many as it stands for
    measures = {
        kind: _Measure(images, 1 - hope, drawn=kind[1], fitted=fitted, times=times) for kind, images in kinds.items()
    }
    shrinks = HOPED_OF_BYTES if hoped and plan.fits_models else 0.0
    weighed = _weighed(plan, measures, adapters or (), 1 - shrinks)
    kept = max(weighed, key=lambda option: (option.net, len(option.models)))
    # What is left to other coders for want of models: told beside the best that would leave nothing.
    most = max(len(option.served) for option in weighed)
    rival = max((option for option in weighed if len(option.served) == most), key=lambda option: option.net)
    if len(kept.served) == most:
        rival = kept
    return Verdict(
        tuple(sorted(set(plan.model_files()) - set(kept.models))),
        max(0, round(rival.saved - kept.saved)),
        round(rival.cost - kept.cost),
        rival.measured,
        smaller=any(models != way for (models, _), way in kept.served.items()),
        hoped=hoped and bool(kept.models),
    )


@dataclass(frozen=True)
class _Option:
    """Models that an archive could carry, in bytes: what they ``cost`` and what they save on the images that are ``served``,
    at most where it was not ``measured``. ``served``: the models of each kind of image that has all that it needs."""

    models: tuple[str, ...]
    served: Mapping[Kind, tuple[str, ...]]
    cost: float
    saved: float
    measured: bool

    @property
    def net(self) -> float:
        return self.saved - self.cost


def _weighed(
    plan: CodecPlan, measures: Mapping[Kind, _Measure], adapters: Sequence[bytes], factor: float
) -> list[_Option]:
    """Every set of models of which each is used; none at all among them. ``factor``: what will be left of their bytes."""
    costs = {digest: factor * bytes_in_archive(path) for digest, path in plan.model_files().items()}
    told = bytes_told()
    options = []
    for models in _subsets(costs):
        only = plan.declining(set(costs) - set(models))
        ways = {kind: only.models_for(measure.example) for kind, measure in measures.items()}
        served = {kind: way for kind, way in ways.items() if way}
        if {digest for way in served.values() for digest in way} != set(models):
            continue
        fitted = only.usable(adapters)
        cost = sum(costs[digest] for digest in models) + sum(map(len, fitted)) + (told if models else 0)
        most = sum(measures[kind].most() for kind in served)
        measured = most >= cost  # else this is worse than no model at all, whatever it saves
        # As for pieces: no crop is worth an adapter of its own.
        with_adapters = only.with_adapters([]).for_pieces(fitted)
        saved = sum(measures[kind].saved(with_adapters, way) for kind, way in served.items()) if measured else most
        options.append(_Option(models, served, cost, saved, measured))
    return options


def bytes_in_archive(model: Path) -> int:
    """What a model file adds to an archive. Raises ModelError."""
    from callic_archive.model.packed_file import pack_model
    from callic_archive.model.weights import read_model_bytes

    return len(pack_model(read_model_bytes(model)))


@cache
def bytes_told() -> int:
    """What the specification in an archive takes for its telling how models decode, beyond how other coders' images do."""
    return len(specification_packed({"image", "learned"})) - len(specification_packed({"image", "conventional"}))


def _subsets(digests: Iterable[str]) -> Iterable[tuple[str, ...]]:
    some = tuple(digests)
    return itertools.chain.from_iterable(itertools.combinations(some, n) for n in range(len(some) + 1))


class _Measure:
    """Images of one kind: their crops coded as JPEG XL and by models, each once and only when it is asked for."""

    def __init__(
        self, images: Sequence[Image], factor: float, *, drawn: bool, fitted: bool, times: float = 1.0
    ) -> None:
        """``factor``: of the learned code, what will be left of it. ``drawn``: fewer crops tell. ``fitted``: the models
        are, so there is one way only, and whole images can be coded. ``times`` as many images as these will be packed."""
        self.example, self._drawn = images[0], drawn
        whole = fitted and sum(image.shape[0] * image.shape[1] for image in images) <= WHOLE
        self._crops = [_Crop(i, False) for i in images] if whole else _crops(images, PIXELS if drawn else MOST_PIXELS)
        self._scale = times * sum(i.size for i in images) / max(1, sum(crop.image.size for crop in self._crops))
        self._factor = factor
        self._other: dict[int | None, list[float]] = {}
        self._own: dict[tuple[str, ...], float] = {}

    def most(self) -> float:
        """Bytes that any model may save."""
        return MOST_SAVED * self._scale * sum(self._as_jpegxl(7))

    def saved(self, plan: CodecPlan, way: tuple[str, ...]) -> float:
        """Bytes that ``plan`` saves, which uses the models ``way`` for these images: JPEG XL has those of which it makes less."""
        others = self._as_jpegxl()
        if way not in self._own:
            codec = plan.open() if self._crops else None
            coded = (self._factor * _coded(crop.image, codec, other) for crop, other in zip(self._crops, others, strict=True))
            self._own[way] = sum(min(one, other) for one, other in zip(coded, others, strict=True))
        return self._scale * (sum(others) - self._own[way])

    def _as_jpegxl(self, effort: int | None = None) -> list[float]:
        """Bytes of each crop, as part of the image that it is cut from; of whole images as they are. Without ``effort``:
        with the one that is worth its time. Of drawn images those by areas where they are fewer."""
        if effort not in self._other:
            images = [crop.image for crop in self._crops]
            if effort is None:
                efforts = list(map(thorough, images, self._as_jpegxl(7)))
            else:
                efforts = [effort] * len(images)
            try:
                coded = (encode_foreign(i, "jpegxl", n) for i, n in zip(images, efforts, strict=True))
                sizes = [float(min(len(code), i.nbytes)) for i, code in zip(images, coded, strict=True)]
                if self._drawn:
                    areas = (encode_segments(i) for i in images)
                    sizes = [min(size, len(code)) if code else size for size, code in zip(sizes, areas, strict=True)]
            except (ForeignCodecMissing, ForeignCodecFailed):
                sizes = [PRICELESS] * len(self._crops)  # there is nothing that could take a model's place
            parts = (1 - CROP_LOSS if crop.cut else 1.0 for crop in self._crops)
            self._other[effort] = [size * part for size, part in zip(sizes, parts, strict=True)]
        return self._other[effort]


def _coded(crop: Image, codec: Codec | None, other: float) -> float:
    """Bytes through ``codec``. What shows less than its image may need another model, and does not count: ``other``."""
    try:
        return len(codec.encode(crop)) if codec is not None else other
    except UnknownModel:
        return other


def _drawn(image: Image) -> bool:
    """Whether conventional coders are tried too; what is tiny is left to whatever is smallest."""
    return image.nbytes > TINY and look_at(image).drawn(image.shape[2] if image.ndim == 3 else 1)


class _Crop(NamedTuple):
    """A part of an image; ``cut``: not all of it."""

    image: Image
    cut: bool


def _crops(images: Sequence[Image], at_most: int) -> list[_Crop]:
    chance = random.Random(SEED)
    crops: list[_Crop] = []
    most = min(max(PIXELS, sum(i.shape[0] * i.shape[1] for i in images) // SHARE), at_most)
    for image in chance.sample(images, min(CROPS, len(images))):
        if sum(crop.image.shape[0] * crop.image.shape[1] for crop in crops) >= most:
            break
        top = chance.randint(0, max(0, image.shape[0] - CROP))
        left = chance.randint(0, max(0, image.shape[1] - CROP))
        part = image[top : top + CROP, left : left + CROP].copy()
        crops.append(_Crop(part, part.shape != image.shape))
    return crops
