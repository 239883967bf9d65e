"""Models made for a collection before it is packed: some for each family of its images, as large as that family pays for.

Each family is weighed, fitted to and weighed again as if it were a collection of its own. Then all models that came of it are
at hand for every image, whatever family it would belong to: the smallest code decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from callic_archive.archive.codecs import CodecPlan, Image
from callic_archive.archive.collection import LEAST_FITTED, SAMPLE_BYTES, Sample, fitted_models, pixels_of
from callic_archive.archive.likeness import as_scene, scenes
from callic_archive.archive.staging import Staging
from callic_archive.archive.worth import HOPED_OF_FAMILY, HOPED_OF_FITTED, Verdict, weigh, weigh_again
from callic_archive.container.fs import atomic_write, writing


@dataclass(frozen=True)
class Stages:
    """Who wants to know how it goes: ``stage`` hears what is done now, in words, ``step`` how far it is (done, total), and
    may raise to stop."""

    stage: Callable[[str], None]
    step: Callable[[int, int], None]

    def of(self, which: str) -> Stages:
        """The same, with ``which`` behind the words."""
        return Stages(lambda text: self.stage(text + which), self.step)


@dataclass(frozen=True)
class Tailored:
    """The plan with the models to use, what was found about those that do not pay, and the files of fitted ones."""

    plan: CodecPlan
    verdict: Verdict
    fitted: tuple[Path, ...] = ()


def tailored(staging: Staging, plan: CodecPlan, worth: bool, sample: Callable[[], Sample], watch: Stages) -> Tailored:
    """The models that are worth their bytes, fitted to the collection where ``plan`` says so and it may be ``worth`` that. A
    run that goes on takes what an earlier start found. Raises ModelError, EnvironmentFailure."""
    families = _families(staging, plan, sample, watch) if worth and plan.fits_models else [sample]
    if len(families) == 1:
        return _for_one(staging, staging.adapters, plan, worth, sample, watch)
    found: list[Tailored] = []
    used: dict[str, Path] = {}
    for number, family in enumerate(families):
        folder = staging.adapters / f"family-{number}"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        named = watch.of(f" (kind of image {number + 1} of {len(families)})")
        one = _for_one(staging, folder, plan, worth, family, named, HOPED_OF_FAMILY)
        models = _used(folder, one.plan, family)
        if not models:
            # Its images would be coded with models of others, which know nothing of them, as nobody asks what else would do
            # for an image that a sensor recorded.
            return _for_one(staging, staging.adapters, plan, worth, sample, watch)
        found.append(one)
        used |= models
    return _together(plan, found, used)


def _for_one(
    staging: Staging, folder: Path, plan: CodecPlan, worth: bool, sample: Callable[[], Sample], watch: Stages,
    hope: float = HOPED_OF_FITTED,
) -> Tailored:
    """The models for the images of one sample; ``folder`` is for what the next start needs, ``hope`` what fitting may save."""
    verdict = Verdict()
    fitted: Mapping[str, Path] = {}
    if plan.weighs_models:
        watch.stage("weighing models against what they save")
        verdict = weigh(folder, plan, sample, hope)
        plan = plan.declining(verdict.declined)
    if plan.fits_models:
        watch.stage("fitting the models to the collection")

        def enough() -> Sample | None:
            return found if worth and (found := sample()).total_pixels >= LEAST_FITTED else None

        fitted = fitted_models(folder, staging.models, plan, enough, watch.step)
        plan = plan.with_fitted(fitted)
        if verdict.hoped:
            watch.stage("weighing the fitted models")
            verdict = weigh_again(folder, plan, (), sample, verdict)
            plan = plan.declining(verdict.declined)
    return Tailored(plan, verdict, tuple(fitted.values()))


# -- families ------------------------------------------------------------------------------------------------


def _families(
    staging: Staging, plan: CodecPlan, sample: Callable[[], Sample], watch: Stages
) -> Sequence[Callable[[], Sample]]:
    """Samples of the families of a collection's images; the sample itself where they are one."""
    file = staging.adapters / "families.json"
    bands = cache(lambda: _coded_scenes(plan, sample()))
    found = _known(file)
    if found is None:
        watch.stage("looking for kinds of image")
        whole = sample()
        found = []
        if whole.total_pixels >= 2 * LEAST_FITTED:
            sets = plan.families([as_scene(some) for some in bands()], whole.total_pixels, watch.step)
            found = sets if len(sets) > 1 else []
        atomic_write(file, json.dumps(found).encode())

    @cache
    def split() -> list[Sample]:
        whole = sample()
        parts = [[image for number in numbers for image in bands()[number]] for numbers in found]
        # those that nobody looked at are like the others
        times = whole.total_pixels / max(1, sum(map(pixels_of, parts)))
        return [_part(part, times, whole=whole.whole) for part in parts]

    def one(number: int) -> Sample:
        return split()[number]

    return [partial(one, number) for number in range(len(found))] or [sample]


def _known(file: Path) -> list[list[int]] | None:
    """What an earlier start found; None where there was none, or the file holds anything else."""
    try:
        found = json.loads(file.read_text("utf-8"))
        right = all(type(number) is int and number >= 0 for numbers in found for number in numbers)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return found if right and isinstance(found, list) else None


def _coded_scenes(plan: CodecPlan, sample: Sample) -> list[list[Image]]:
    """The images that a model codes; bands of one scene together."""
    bands = [[sample.images[number] for number in numbers] for numbers in scenes(sample.images)]
    return [some for some in bands if plan.models_for(as_scene(some))]


def _part(images: Sequence[Image], times: float, *, whole: bool) -> Sample:
    """The sample of a family, which stands for ``times`` as many pixels; of few, models are weighed by it."""
    few = times * sum(image.nbytes for image in images) <= SAMPLE_BYTES
    return Sample(tuple(images), round(times * pixels_of(images)), whole or few)


def _used(folder: Path, plan: CodecPlan, sample: Callable[[], Sample]) -> Mapping[str, Path]:
    """The models (SHA-256 to file) that the images of a family would be coded with."""
    file, files = folder / "used.json", plan.model_files()
    try:
        digests = json.loads(file.read_text("utf-8"))
        return {digest: files[digest] for digest in digests}
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        digests = sorted({digest for image in sample().images for digest in plan.models_for(image) or ()})
        atomic_write(file, json.dumps(digests).encode())
        return {digest: files[digest] for digest in digests}


def _together(plan: CodecPlan, found: Sequence[Tailored], used: Mapping[str, Path]) -> Tailored:
    """What was found for each family as one plan, in which the models that are ``used`` compete for every image."""
    kept = {digest for one in found for digest in set(one.plan.model_files()) - set(one.verdict.declined)}
    left = set(plan.model_files()) - kept
    verdicts = [one.verdict for one in found]
    verdict = Verdict(
        tuple(sorted(left)),
        sum(verdict.saved for verdict in verdicts),
        sum(verdict.cost for verdict in verdicts),
        all(verdict.measured for verdict in verdicts),
        smaller=any(verdict.smaller for verdict in verdicts),
    )
    fitted = tuple(path for one in found for path in one.fitted)
    return Tailored(plan.with_rivals(used, left), verdict, fitted)
