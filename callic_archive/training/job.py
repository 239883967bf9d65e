"""Fine-tuning a base model on a collection, from its files to an integer model with its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from callic_archive.archive.scan import Source
from callic_archive.codec.crops import Crops
from callic_archive.entropy.mixture import MixtureTables
from callic_archive.errors import NothingToTrain
from callic_archive.model.allocator import keep_freed_memory
from callic_archive.model.mgcf import MGCF
from callic_archive.model.packed_file import pack_model
from callic_archive.model.quantize import quantize
from callic_archive.model.weights import IntegerModel, arrays_digest, load_model, save_model, to_arrays
from callic_archive.training.collection import Parts, samples_by_planes, take_parts
from callic_archive.training.folder import TrainingFolder
from callic_archive.training.measure import bits_per_sample
from callic_archive.training.trainer import Report, Trainer, TrainOptions, starting_model

LICENCE = (
    "as the model it was trained from ({base}: {licence}); it was trained further on files of whoever ran "
    "the training, who alone can say under what terms it may be passed on"
)
#: Crops of calibration: batches and crops a batch.
CALIBRATION = (6, 8)
#: Binary places less of the weights, of models up to width 64 and of others: an eighth of the model in the archive a place,
#: for 0.02 to 0.1 % more bits (decision 0024).
COARSE_SMALL, COARSE = 2, 1


class Stopped(Exception):
    """Training was asked to stop; its checkpoint is written."""


class TrainWatch(Protocol):
    """Who wants to know how it goes."""

    def stage(self, text: str) -> None:
        """What is done now, in words."""
        ...

    def step(self, done: int, total: int) -> None:
        """Progress of a stage that has steps of its own."""
        ...

    def begun(self, before: float, files: int, held_files: int, megapixels: float) -> None:
        """Training is about to start: bits per sample of the base model, and what is at hand."""
        ...

    def trained(self, trainer: Trainer) -> None:
        """A training step is done."""
        ...

    def reported(self, gain: Gain, report: Report) -> None:
        """Held-out figures under the weights of now."""
        ...


@dataclass(frozen=True)
class Gain:
    """What a model is worth on held-out images: bits per sample before and after, bytes of the model in an
    archive."""

    before: float
    after: float
    model_bytes: int

    @property
    def pays_from(self) -> int | None:
        """Size in bytes of an archive's images from which the model's own bytes are earned back; None where it
        saves nothing."""
        saved = self.before - self.after
        return round(self.model_bytes * self.after / saved) if saved > 0 else None


@dataclass(frozen=True)
class Trained:
    """The finished model. ``gain`` and ``float_bits`` are of held-out crops; ``float_bits`` before rounding."""

    digest: str
    gain: Gain
    float_bits: float
    steps: int
    minutes: float
    megapixels: float

    @property
    def price_percent(self) -> float:
        """What rounding to integers costs, in percent of the code length."""
        return 100 * (self.gain.after / self.float_bits - 1) if self.float_bits else 0.0


def preferred_planes(
    sources: Sequence[Source], stopping: Callable[[], bool] = lambda: False
) -> tuple[int, dict[int, float]]:
    """Planes of the model that codes most of a collection, and the share of its samples for 1 and 3 planes.

    Raises NothingToTrain when no file holds an image.
    """
    found = samples_by_planes(sources, stopping)
    total = sum(found.values())
    if stopping():
        raise Stopped
    if not total:
        raise NothingToTrain(
            "none of the files looked at holds an image that the codec takes; if there are some among many other "
            "files, name the model to start from with --base, or the files with --include"
        )
    return max(found, key=lambda planes: found[planes]), {p: n / total for p, n in found.items()}


@dataclass
class TrainJob:
    """One training: what it starts from, what it looks at, where it lies."""

    base: IntegerModel
    sources: Sequence[Source]
    folder: TrainingFolder
    options: TrainOptions
    name: str

    def run(self, watch: TrainWatch, stopping: Callable[[], bool]) -> Trained:
        """Train until the schedule ends, then round, measure and write the model.

        Raises Stopped when ``stopping`` said so (the checkpoint is written then), NothingToTrain,
        DamagedCheckpoint, InexactModel, EnvironmentFailure.
        """
        with keep_freed_memory():
            return self._run(watch, stopping)

    def _run(self, watch: TrainWatch, stopping: Callable[[], bool]) -> Trained:
        trainer = Trainer(self.base.weights.config, self.options, starting_model(self.base))
        if self.folder.checkpoint.exists():
            trainer.resume(self.folder.checkpoint)
        watch.stage("taking crops")
        seed = self.options.seed + trainer.steps
        parts = take_parts(self.base, self.sources, seed, watch.step, stopping)
        if stopping():
            raise Stopped
        source, held = parts.train, parts.held
        before = bits_per_sample(held, self.base.weights)
        own_bytes = packed_size(self.base.raw)
        watch.begun(before, parts.files, parts.held_files, source.megapixels)
        watch.stage("training")
        last: Report | None = None
        for report in trainer.run(
            source, held, self.folder.checkpoint, stopping=stopping, tick=watch.trained
        ):
            last = report
            gain = Gain(before, _mean(report, held), own_bytes)
            watch.reported(gain, report)
            self.folder.log(_line(gain, report))
        if last is None or not last.finished:
            raise Stopped
        watch.stage("rounding to integers")
        return self._finish(trainer, parts, before)

    def _finish(self, trainer: Trainer, parts: Parts, before: float) -> Trained:
        source, held = parts.train, parts.held
        model: MGCF = trainer.average.cpu().eval()
        coarse = COARSE_SMALL if model.config.dim <= 64 else COARSE
        weights = quantize(model, [source.batch(CALIBRATION[1], 64) for _ in range(CALIBRATION[0])], coarse=coarse)
        in_float, in_integers = bits_per_sample(held, model), bits_per_sample(held, weights)
        trained = Trained(
            "",
            Gain(before, in_integers, 0),
            in_float,
            trainer.steps,
            trainer.seconds / 60,
            trainer.pixels / 1e6,
        )
        mixture = dict(MixtureTables.build().as_dict())
        record: dict[str, Any] = {
            "training": {
                "steps": trainer.steps,
                "minutes": round(trained.minutes, 2),
                "megapixels": round(trained.megapixels, 2),
                **({"earlier": trainer.earlier} if trainer.earlier else {}),
                "base": {"name": self.base.name, "sha256": self.base.digest},
                "device": self.options.device,
                "optimizer": f"{self.options.optimizer} {self.options.rate:g}, cosine, EMA {self.options.ema}",
                # Neither names nor paths: a model may be passed on, and names of medical files identify people.
                "data": {
                    "files": parts.files,
                    "held_out_files": parts.held_files,
                    "split_by_rows": parts.within,
                },
            },
            "licence": LICENCE.format(
                base=self.base.name, licence=self.base.metadata.get("licence", "unknown")
            ),
            "held_out": {
                "held-out files": {
                    "base_bpsp": round(before, 4),
                    "float_bpsp": round(in_float, 4),
                    "integer_bpsp": round(in_integers, 4),
                }
            },
            "price_of_integers_percent": round(trained.price_percent, 4),
            "arrays_sha256": arrays_digest(
                to_arrays(weights) | {f"mixture.{k}": v for k, v in mixture.items()}
            ),
        }
        path = self.folder.root / "model.safetensors"
        digest = save_model(path, self.name, weights, mixture, record)
        size = packed_size(load_model(path, digest=digest).raw)
        self.folder.commit(path)
        return Trained(
            digest,
            Gain(before, in_integers, size),
            in_float,
            trainer.steps,
            trained.minutes,
            trained.megapixels,
        )


def packed_size(raw: bytes) -> int:
    """Bytes of a model file inside an archive."""
    return len(pack_model(raw))


def _mean(report: Report, held: Mapping[str, Crops]) -> float:
    samples = {name: x.numel() for name, (x, _) in held.items()}
    total = sum(samples.values())
    return sum(report.held_out[name] * count for name, count in samples.items()) / total


def _line(gain: Gain, report: Report) -> dict[str, Any]:
    return {
        "step": report.step,
        "minutes": round(report.minutes, 2),
        "megapixels": round(report.megapixels, 2),
        "train_bpsp": round(report.train_bpsp, 4),
        "held_out_before": round(gain.before, 4),
        "held_out": round(gain.after, 4),
    }
