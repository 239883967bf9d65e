"""``callic-archive pack``: files and folders into an archive."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.pack_summary import count, idle_models, named_models, summarise
from callic_archive.cli.report import Report, plural, size_text, time_text
from callic_archive.cli.running import GOING_ON, run_verb

if TYPE_CHECKING:
    from callic_archive.archive.codecs import CodecPlan, Learned
    from callic_archive.archive.effort import AdaptMode, Effort, EffortName
    from callic_archive.archive.entries import Entry
    from callic_archive.archive.packed import PackOptions
    from callic_archive.archive.scan import Scan, Source
    from callic_archive.cli.progress import Progress


@click.command()
@options.sources_argument
@options.output_option
@options.device_option
@options.gpus_option
@options.workers_option
@options.scheduler_option
@options.effort_option
@options.adapt_option
@options.steps_option
@options.models_option
@options.without_models_option
@options.learned_option
@options.coder_option
@options.fidelity_option
@options.include_option
@options.exclude_option
@options.files_from_option
@options.null_option
@options.one_file_system_option
@options.dry_run_option
@options.no_bands_option
@options.no_verify_option
@options.common_options
def pack(common: Common, **values: Any) -> None:
    """Pack files and folders into an archive.

    Paths are stored below each SOURCE's own name, as `cp -r` does. Everything is kept: files of any kind,
    names, empty folders, symbolic links, modes and times. Nothing is written to ARCHIVE before it was decoded
    and compared; a run that was stopped or killed is completed by the same command.
    """
    run_verb("pack", common, lambda report: _pack(report, common, **values), after_stop=GOING_ON)


def codec_plan(
    *, coder: str, effort: Effort, models: tuple[str, ...], device: str, learned: Learned = "always"
) -> CodecPlan:
    """The codec that pack uses. Raises ModelError for models that cannot serve."""
    from callic_archive.archive.learned_codec import CallicPlan

    plan = CallicPlan(
        coder=coder,  # type: ignore[arg-type]
        adapt=effort.adapt,
        steps=effort.steps,
        image_steps=effort.image_steps,
        longer=effort.longer,
        device=device,  # type: ignore[arg-type]
        learned=learned,
        quick=effort.quick and not models,
    )
    if not models:
        return plan.declining(plan.model_files()) if learned == "never" else plan
    from callic_archive.model.catalogue import models_for_packing

    chosen = [info.model for info in models_for_packing(models, quick=effort.quick)]
    paths = tuple(Path(os.path.abspath(model.path)) for model in chosen if model.path is not None)
    return replace(plan, models=paths, digests=tuple(model.digest for model in chosen))


def _pack(
    report: Report,
    common: Common,
    *,
    sources: tuple[str, ...],
    output: Path | None,
    device: str | None,
    gpus: int | None,
    workers: int | None,
    scheduler: str | None,
    effort: EffortName,
    adapt: AdaptMode | None,
    steps: int | None,
    model: tuple[str, ...],
    without_models: bool,
    learned: Learned,
    coder: str,
    fidelity: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    files_from: str | None,
    null: bool,
    one_file_system: bool,
    dry_run: bool,
    no_bands: bool,
    no_verify: bool,
) -> None:
    from callic_archive.archive.candidates import preferring_models, smallest
    from callic_archive.archive.destinations import check_outside
    from callic_archive.archive.effort import effort_of
    from callic_archive.archive.listed import read_list, usable
    from callic_archive.archive.packed import PackOptions
    from callic_archive.archive.packing import PackRun, run_settings
    from callic_archive.archive.scan import Selection, scan
    from callic_archive.archive.staging import Staging
    from callic_archive.cli.progress import Progress
    from callic_archive.cli.resources import limits_of, resources_of
    from callic_archive.errors import UsageError
    from callic_archive.scheduling.pack import execute

    resources = resources_of(device=device, gpus=gpus, workers=workers, scheduler=scheduler)
    on_gpu = resources.gpus > 0
    chosen = effort_of(effort, on_gpu=on_gpu, adapt=adapt, steps=steps)
    if without_models or model:
        chosen = chosen.with_adapters()
    named = named_models(model)
    if model and learned == "never":
        raise UsageError("--model names a learned model, and --learned never uses none")
    image_coder = preferring_models if learned == "always" or model else smallest
    if learned == "auto" and (model or without_models):
        learned = "always"  # the user chose the model, or the archive carries none
    plan = codec_plan(
        coder=coder, effort=chosen, models=model, device="cuda" if on_gpu else "cpu", learned=learned
    )
    if output is None and not dry_run:
        raise UsageError("name the archive to make: -o ARCHIVE")
    staging = None if output is None else Staging(output)
    if staging is not None:
        staging.check()
        check_outside(staging.destination)
        staging.committing = report.past_stopping
    selection = Selection(include, exclude)
    if not sources and files_from is None:
        raise UsageError("nothing to pack: name a SOURCE, or a list of paths with --files-from")
    names = read_list(files_from, sys.stdin.buffer, null=null) if files_from is not None else []
    if not sources and all(os.path.normpath(name) == "." for name in names):
        raise UsageError(f"nothing to pack: the list {report.shown(files_from or '')} names nothing")
    listed, refused = usable(names)
    with Progress(report, common, "found") as progress:
        progress.stage("looking for files")
        found = scan(
            sources,
            selection,
            skip=staging.identities() if staging is not None else frozenset(),
            listed=listed,
            one_file_system=one_file_system,
            tick=progress.found,
        )
    found.problems += refused
    if output is not None and not dry_run and _lies_in(output, sources):
        found.notes.append(
            f"{report.shown(output)} lies in a folder that is packed: this run leaves it out, later ones take it for data "
            f"unless --exclude {report.shown(output.name)} says otherwise"
        )
    if include and not any(source.kind == "file" for source in found.sources):
        text = "no file matches --include, or all that do are excluded" if exclude else "no file matches --include"
        raise UsageError(f"nothing to pack: {text} {', '.join(report.shown(glob) for glob in include)}")
    limits, bands = limits_of(resources), chosen.bands and not no_bands
    pack_options = PackOptions(
        fidelity=fidelity,  # type: ignore[arg-type]
        verify=not no_verify,
        limits=limits,
        bands=bands,
        quick_jpeg=chosen.quick,
        coder=image_coder,
    )
    if dry_run or output is None or staging is None:
        _dry_run(report, common, found, plan, pack_options, resources.processes)
        return
    settings = run_settings(
        sources, plan, pack_options, selection, listed=listed, one_file_system=one_file_system
    )
    with staging, Progress(report, common, "packed") as progress:
        if staging.open(settings):
            report.note(f"going on with {report.shown(staging.root)}")
        run = PackRun(
            staging, found, plan, pack_options, settings, models_inside=not without_models
        )
        watch = _Watch(report, progress)
        try:
            finished = execute(run, resources, watch)
        finally:
            for note in run.notes:
                report.note(note)
            for problem in run.problems:
                report.problem(problem)
            count(report, run)
    idle_models(report, run, named)
    summarise(report, run, finished, output, chosen.adapt)


def _lies_in(output: Path, sources: tuple[str, ...]) -> bool:
    place = os.path.realpath(output)
    return any(place.startswith(os.path.join(os.path.realpath(source), "")) for source in sources)


class _Watch:
    """Passes what the run tells on to progress and report."""

    def __init__(self, report: Report, progress: Progress) -> None:
        self._report = report
        self._progress = progress
        self.stage = progress.stage
        self.step = progress.step
        self.planned = progress.planned
        self.workers = progress.state

    def packed(self, source: Source, entry: Entry | None) -> None:
        if entry is None:
            self._progress.advance(source.size, 0)
            return
        self._progress.advance(source.size, entry.packed_size)
        self._report.event(
            "entry",
            **self._report.path_fields(entry.path),
            kind=entry.kept_as,
            fidelity=entry.fidelity,
            source_bytes=entry.size,
            stored_bytes=entry.packed_size,
            **({"reason": entry.reason} if entry.reason is not None else {}),
        )
        if self._report.verbose:
            from callic_archive.images.reasons import REASONS

            shown = self._report.shown(entry.path)
            sizes = f"{size_text(entry.size)} -> {size_text(entry.packed_size)}"
            why = f" ({REASONS[entry.reason]})" if entry.reason in REASONS else ""
            self._report.detail(f"{shown}: {entry.kept_as}{why}, {entry.fidelity}, {sizes}")


def _dry_run(
    report: Report, common: Common, found: Scan, plan: CodecPlan, options: PackOptions, processes: int
) -> None:
    from callic_archive.archive.collection import LEAST_FITTED, take_sample
    from callic_archive.archive.estimate import estimate
    from callic_archive.archive.worth import judge
    from callic_archive.cli.progress import Progress

    for source in found.sources:
        report.event("entry", **report.path_fields(source.path), type=source.kind, source_bytes=source.size)
        report.text(
            f"{source.size:>14,}  {report.shown(source.path)}{'/' if source.kind == 'directory' else ''}"
        )
    for note in found.notes:
        report.note(note)
    for problem in found.problems:
        report.problem(problem)
    files = sum(1 for source in found.sources if source.kind == "file")
    report.summary |= {"dry_run": True, "files": files, "source_bytes": found.total_bytes}
    with Progress(report, common, "sampled") as progress:
        steps = 0
        if plan.weighs_models or plan.fits_models:
            progress.stage("weighing models against what they save")
            sample = take_sample(found.sources)
            plan = plan.declining(judge(plan, sample).declined) if plan.weighs_models else plan
            steps = plan.steps_to_fit(sample.total_pixels) if sample.total_pixels >= LEAST_FITTED else 0
        plan = plan.for_pieces(())  # what an adapter gives cannot be told from a few crops
        progress.stage("packing small samples, for an estimate")
        guess = estimate(found.sources, plan, options, processes)
    report.past_stopping()
    report.summary |= {"estimate": {**guess.as_json(), "steps_to_fit": steps}}
    report.text(f"{plural(files, 'file')}, {size_text(found.total_bytes)}; nothing was written")
    report.text(
        f"estimate from {plural(guess.sampled_files, 'sampled file')} "
        f"({guess.sampled_images} with images): about {size_text(guess.archive_bytes)} of archive"
        f"{f', ratio {guess.ratio:.1f}' if guess.ratio else ''}, about {time_text(guess.seconds)}. "
        "This is a guess, and knows nothing of what is fitted"
    )
    if steps:
        report.text(
            f"models are fitted to the collection before: some {plural(steps, 'step')} of training each, minutes on a few "
            "cores, which this time leaves out; --effort fast does without"
        )
