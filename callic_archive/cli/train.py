"""``callic-archive train``: a model of one's own, from one's own images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, plural, size_text
from callic_archive.cli.running import GOING_ON, run_verb

if TYPE_CHECKING:
    from callic_archive.archive.scan import Source
    from callic_archive.cli.progress import Progress
    from callic_archive.model.weights import IntegerModel
    from callic_archive.training.job import Gain, Trained
    from callic_archive.training.trainer import Report as TrainReport
    from callic_archive.training.trainer import Trainer, TrainOptions


@click.command(short_help="Train a model of your own on a collection.")
@options.sources_argument
@options.model_output_option
@options.base_option
@options.minutes_option
@options.train_steps_option
@options.rate_option
@options.device_option
@options.threads_option
@options.include_option
@options.exclude_option
@options.common_options
def train(common: Common, **values: Any) -> None:
    """Train all weights of a model on the images of a collection, for `pack --model`.

    SOURCE is whatever pack takes. An eighth of the files is held out, to say what the model gains. One run makes
    one model: for colour images, or for gray ones and single bands. A run that was stopped or killed is
    completed by the same command.
    """
    run_verb("train", common, lambda report: _train(report, common, **values), after_stop=GOING_ON)


def train_options(minutes: float, steps: int | None, rate: float, device: str) -> TrainOptions:
    """How training goes."""
    from callic_archive.model.processor import native_bfloat16
    from callic_archive.training.trainer import TrainOptions

    return TrainOptions(
        minutes=minutes,
        steps=steps,
        rate=rate,
        device=device,
        optimizer="adam",
        batch=4 if device == "cpu" else 32,
        float32=not native_bfloat16(device),
        report=min(60.0, max(10.0, 6 * minutes)),
    )


def _train(
    report: Report,
    common: Common,
    *,
    sources: tuple[str, ...],
    output: Path,
    base: str | None,
    minutes: float,
    steps: int | None,
    rate: float,
    device: str | None,
    threads: int | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
) -> None:
    from callic_archive.archive.destinations import check_outside
    from callic_archive.archive.scan import Selection, scan
    from callic_archive.cli.progress import Progress
    from callic_archive.cli.resources import uses_gpu
    from callic_archive.errors import StoppedEarly
    from callic_archive.model.catalogue import find_model
    from callic_archive.scheduling.signals import ENDING, StopSignals
    from callic_archive.training.folder import TrainingFolder

    on_gpu = uses_gpu(device)
    folder = TrainingFolder(output)
    folder.check()
    check_outside(output)
    folder.committing = report.past_stopping
    start = find_model(base).model if base else None
    found = scan(sources, Selection(include, exclude), skip=folder.identities())
    for note in found.notes:
        report.note(note)
    for problem in found.problems:
        report.problem(problem)
    settings = {
        "sources": [os.fsencode(os.path.abspath(s)).decode("utf-8", "backslashreplace") for s in sources],
        "include": list(include),
        "exclude": list(exclude),
        "base": start.digest if start else None,
        "rate": rate,
    }
    stop = StopSignals(lambda: None, ENDING)  # after the step in hand
    with stop, folder, Progress(report, common, "trained") as progress:
        if folder.open(settings):
            report.note(f"going on with {report.shown(folder.root)}")
        from callic_archive.training.job import Stopped, TrainJob

        if threads:
            from callic_archive.training.trainer import limit_threads

            limit_threads(threads)

        def stopping() -> bool:
            return stop.requested is not None

        try:
            progress.stage("looking at the images")
            model = start or _choose(report, found.sources, stopping)
            chosen = train_options(minutes, steps, rate, "cuda" if on_gpu else "cpu")
            job = TrainJob(model, found.sources, folder, chosen, output.name.split(".")[0])
            trained = job.run(
                _Watch(report, progress, f"{minutes:g} min" if steps is None else f"{steps} steps"), stopping
            )
        except Stopped:
            if stop.requested == "SIGINT":
                raise KeyboardInterrupt from None
            raise StoppedEarly(
                f"stopped by {stop.requested}; run the same command again to go on with {report.shown(folder.root)}"
            ) from None
    _summary(report, trained, model, output)


def _choose(report: Report, sources: list[Source], stopping: Any) -> IntegerModel:
    """The shipped model for most of what the sources hold; what it leaves out is said."""
    from callic_archive.model.weights import ModelSet
    from callic_archive.training.job import preferred_planes

    planes, shares = preferred_planes(sources, stopping)
    shipped = ModelSet.default()
    model = shipped.for_channels(planes)
    assert model is not None
    for other, share in shares.items():
        rival = shipped.for_channels(other)
        if other != planes and share > 0 and rival is not None:
            report.note(
                f"about {share:.0%} of the samples are coded with {rival.name}, and this run trains {model.name}; "
                f"--base {rival.name} makes a model for them"
            )
    return model


class _Watch:
    """Passes what training tells on to progress and report."""

    def __init__(self, report: Report, progress: Progress, length: str) -> None:
        self._report = report
        self._progress = progress
        self._length = length
        self._now, self._first = "", True
        self.stage = progress.stage
        self.step = progress.step

    def begun(self, before: float, files: int, held_files: int, megapixels: float) -> None:
        self._report.event(
            "baseline",
            held_out_before=round(before, 4),
            files=files,
            held_out_files=held_files,
            megapixels_at_hand=round(megapixels, 3),
        )
        self._report.text(
            f"{megapixels:.1f} megapixels at hand from {plural(files, 'file')}; {plural(held_files, 'file')} held out, "
            f"{before:.4f} bits a sample before training"
        )

    def trained(self, trainer: Trainer) -> None:
        text = (
            f"training for {self._length}: step {trainer.steps:,}, {trainer.seconds / 60:.1f} min{self._now}"
        )
        self._progress.share(text, min(1.0, trainer.progress))

    def reported(self, gain: Gain, report: TrainReport) -> None:
        self._now = f", held out {gain.before:.4f} -> {gain.after:.4f} bits a sample"
        self._report.event(
            "evaluation",
            step=report.step,
            minutes=round(report.minutes, 3),
            megapixels=round(report.megapixels, 3),
            train_bits_per_sample=round(report.train_bpsp, 4),
            **_gain_fields(gain),
        )
        line = f"step {report.step:,}, {report.minutes:.1f} min{self._now}; {_pays(gain)}"
        if self._first:
            self._report.text(line)  # early, so that a hopeless training can be ended early
        else:
            self._report.detail(line)
        self._first = False


def _gain_fields(gain: Gain) -> dict[str, Any]:
    return {
        "held_out_before": round(gain.before, 4),
        "held_out": round(gain.after, 4),
        "model_bytes": gain.model_bytes,
        "pays_from_bytes": gain.pays_from,
    }


def _pays(gain: Gain) -> str:
    if gain.pays_from is None:
        return "no gain yet"
    return f"the model's {size_text(gain.model_bytes)} are earned back in an archive of {size_text(gain.pays_from)}"


def _summary(report: Report, trained: Trained, base: IntegerModel, output: Path) -> None:
    gain = trained.gain
    report.summary |= {
        "model": report.path(output),
        "sha256": trained.digest,
        "base": {"name": base.name, "sha256": base.digest},
        "steps": trained.steps,
        "minutes": round(trained.minutes, 3),
        "megapixels": round(trained.megapixels, 3),
        **_gain_fields(gain),
        "price_of_integers_percent": round(trained.price_percent, 4),
    }
    change = 100 * (gain.after / gain.before - 1) if gain.before else 0.0
    report.text(
        f"trained {report.shown(output)} from {base.name}: {plural(trained.steps, 'step')}, {trained.megapixels:.1f} "
        f"megapixels, {trained.minutes:.1f} min"
    )
    report.text(
        f"  held-out files: {gain.before:.4f} -> {gain.after:.4f} bits a sample ({change:+.2f} %); rounding to "
        f"integers costs {trained.price_percent:.3f} % of that"
    )
    if gain.pays_from is None:
        report.note(f"the model is no better than {base.name} on these images; pack without it")
    else:
        report.text(f"  {_pays(gain)}; where it stands in for {base.name} altogether, it costs nothing")
        report.text(f"  use it: callic-archive pack SOURCE... -o ARCHIVE --model {report.shown(output)}")
