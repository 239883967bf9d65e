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
from callic_archive.cli.report import Report, plural, size_text, time_text
from callic_archive.cli.running import run_verb

if TYPE_CHECKING:
    from callic_archive.archive.codecs import CodecPlan, Learned
    from callic_archive.archive.commit import Finished
    from callic_archive.archive.effort import AdaptMode, Effort, EffortName
    from callic_archive.archive.entries import Entry
    from callic_archive.archive.pack_one import PackOptions
    from callic_archive.archive.packing import PackRun
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
    run_verb("pack", common, lambda report: _pack(report, common, **values), resumable=True)


def codec_plan(
    *, coder: str, effort: Effort, models: tuple[str, ...], device: str, learned: Learned = "always"
) -> CodecPlan:
    """The codec that pack uses. Raises ModelError for models that cannot serve."""
    from callic_archive.archive.codecs import CallicPlan

    plan = CallicPlan(
        coder=coder,  # type: ignore[arg-type]
        adapt=effort.adapt,
        steps=effort.steps,
        image_steps=effort.image_steps,
        device=device,  # type: ignore[arg-type]
        learned=learned,
    )
    if not models:
        return plan.declining(plan.model_files()) if learned == "never" else plan
    from callic_archive.model.catalogue import models_for_packing

    chosen = [info.model for info in models_for_packing(models)]
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
    from callic_archive.archive.effort import effort_of
    from callic_archive.archive.listed import read_list, usable
    from callic_archive.archive.pack_one import PackOptions
    from callic_archive.archive.packing import PackRun, run_settings
    from callic_archive.archive.scan import Selection, scan
    from callic_archive.archive.staging import Staging
    from callic_archive.cli.progress import Progress
    from callic_archive.cli.resources import limits_of, resources_of
    from callic_archive.errors import UsageError
    from callic_archive.scheduling.pack import execute

    report.hide(*sources, *model, *([output] if output is not None else []))
    resources = resources_of(device=device, gpus=gpus, workers=workers, scheduler=scheduler)
    on_gpu = resources.gpus > 0
    chosen = effort_of(effort, on_gpu=on_gpu, adapt=adapt, steps=steps)
    named = _named_models(model)
    if model and learned == "never":
        raise UsageError("--model names a learned model, and --learned never uses none")
    if learned == "auto" and (model or without_models):
        learned = "always"  # the user chose the model, or the archive carries none
    plan = codec_plan(
        coder=coder, effort=chosen, models=model, device="cuda" if on_gpu else "cpu", learned=learned
    )
    if output is None and not dry_run:
        raise UsageError("name the archive to make: -o ARCHIVE")
    staging = None if output is None else Staging(output.parent / output.name if output.name else output)
    if staging is not None:
        staging.check()
    selection = Selection(include, exclude)
    if not sources and files_from is None:
        raise UsageError("nothing to pack: name a SOURCE, or a list of paths with --files-from")
    names = read_list(files_from, sys.stdin.buffer, null=null) if files_from is not None else []
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
    if include and not any(source.kind == "file" for source in found.sources):
        text = "no file matches --include, or all that do are excluded" if exclude else "no file matches --include"
        raise UsageError(f"nothing to pack: {text} {', '.join(report.shown(glob) for glob in include)}")
    limits, bands = limits_of(resources), chosen.bands and not no_bands
    pack_options = PackOptions(
        fidelity=fidelity,  # type: ignore[arg-type]
        verify=not no_verify,
        limits=limits,
        bands=bands,
    )
    if dry_run or output is None or staging is None:
        bare = replace(chosen, adapt="none")  # what an adapter gives cannot be told from a few crops
        plan = codec_plan(
            coder=coder, effort=bare, models=model, device="cuda" if on_gpu else "cpu", learned=learned
        )
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
            _count(report, run)
    _idle_models(report, run, named)
    _summary(report, run, finished, output, chosen.adapt)


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
            kind=entry.format or entry.method,
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
            self._report.detail(f"{shown}: {entry.format or entry.method}{why}, {entry.fidelity}, {sizes}")


def _dry_run(
    report: Report, common: Common, found: Scan, plan: CodecPlan, options: PackOptions, processes: int
) -> None:
    from callic_archive.archive.collection import take_sample
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
        if plan.weighs_models:
            progress.stage("weighing models against what they save")
            plan = plan.declining(judge(plan, take_sample(found.sources)).declined)
        progress.stage("packing small samples, for an estimate")
        guess = estimate(found.sources, plan, options, processes)
    report.summary |= {"estimate": guess.as_json()}
    report.text(f"{plural(files, 'file')}, {size_text(found.total_bytes)}; nothing was written")
    report.text(
        f"estimate from {plural(guess.sampled_files, 'sampled file')} "
        f"({guess.sampled_images} with images): about {size_text(guess.archive_bytes)} of archive"
        f"{f', ratio {guess.ratio:.1f}' if guess.ratio else ''}, about {time_text(guess.seconds)}. "
        "This is a guess, and knows nothing of adapters"
    )


def _count(report: Report, run: PackRun) -> None:
    files = [entry for entry in run.entries.values() if entry.kind == "file"]
    images = [entry for entry in files if entry.is_image]
    stored = {part.place: part.place.stored for entry in files for part in entry.parts}
    report.summary |= {
        "entries": len(run.entries),
        "files": len(files),
        "images": len(images),
        "verbatim": len(files) - len(images),
        "fidelity": {
            "bytes": sum(entry.fidelity == "bytes" for entry in files),
            "content": sum(entry.fidelity == "content" for entry in files),
        },
        "resumed": run.resumed,
        "missing": len(run.scan.sources) - len(run.entries),
        "source_bytes": sum(entry.size for entry in files),
        "stored_bytes": sum(stored.values()),
    }


def _named_models(models: tuple[str, ...]) -> dict[str, str]:
    """Digest of each model that the user named. Raises ModelError."""
    if not models:
        return {}
    from callic_archive.model.catalogue import find_model

    return {text: find_model(text).model.digest for text in models}


def _idle_models(report: Report, run: PackRun, named: dict[str, str]) -> None:
    """Say which of the models that the user named no image needed: the archive does not carry them."""
    used = {digest for entry in run.entries.values() for digest in entry.models()}
    for text, digest in named.items():
        if digest not in used:
            report.note(f"no image was coded with {report.shown(text)}, so the archive does not carry it")


def _declined(report: Report, run: PackRun) -> None:
    """Say where the learned codec was not used, since its models would take more than they save."""
    verdict = run.verdict
    report.summary |= {"learned": run.settings.get("learned"), "models_declined": verdict.as_json()}
    if verdict.cost:
        report.text(
            f"  learned codec: left out where it would save {'about' if verdict.measured else 'at most'} "
            f"{size_text(verdict.saved)} and add {size_text(verdict.cost)} of model; --learned always uses it, "
            "and --without-models, without that cost"
        )


def _summary(report: Report, run: PackRun, finished: Finished, output: Path, adapt: str) -> None:
    counts = report.summary
    images = [entry for entry in run.entries.values() if entry.is_image]
    unique = {(part.place, part.stream): part for entry in images for part in entry.parts}
    image_bytes = sum(part.stored for part in unique.values())
    samples = sum(part.stream.samples for part in unique.values() if part.stream is not None)
    bits = 8 * image_bytes / samples if samples else None
    adapters = sorted({digest for entry in images for digest in entry.adapters()})
    counts |= {
        "archive": report.path(output),
        "archive_bytes": finished.archive_bytes,
        "model_bytes": finished.model_bytes,
        "models_outside": list(finished.models_outside),
        "image_bytes": image_bytes,
        "image_samples": samples,
        "bits_per_sample": round(bits, 4) if bits is not None else None,
        "adapt": adapt,
        "adapters": len(adapters),
    }
    ratio = f", ratio {counts['source_bytes'] / counts['stored_bytes']:.2f}" if counts["stored_bytes"] else ""
    report.text(
        f"packed {plural(counts['files'], 'file')} into {report.shown(output)}: "
        f"{size_text(counts['source_bytes'])} -> {size_text(counts['stored_bytes'])}{ratio}"
    )
    if images:
        report.text(
            f"  {plural(len(images), 'image file')} coded as images: "
            f"{size_text(sum(e.size for e in images))} -> {size_text(image_bytes)}, {bits:.3f} bits a sample"
        )
    if counts["verbatim"]:
        report.text(f"  {plural(counts['verbatim'], 'file')} kept verbatim")
    if counts["fidelity"]["content"]:
        content = plural(counts["fidelity"]["content"], "file")
        text = "will come back with equal pixels and metadata but other compressed bytes"
        report.text(f"  {content} {text} (--fidelity bytes forbids that)")
    _declined(report, run)
    report.text(f"  adaptation: {_adaptation(adapt, len(adapters), bool(images))}")
    models = f", {size_text(finished.model_bytes)} of it models" if finished.model_bytes else ""
    report.text(
        f"  the archive takes {size_text(finished.archive_bytes)} with index and specification{models}"
    )
    if finished.models_outside:
        named = ", ".join(digest[:16] for digest in finished.models_outside)
        report.text(f"  unpacking needs what was left out: {plural(len(finished.models_outside), 'model')} {named}")
    if report.counts["problems"]:
        report.text(f"  {plural(report.counts['problems'], 'problem')}, each named above", always=True)


def _adaptation(adapt: str, adapters: int, images: bool) -> str:
    more = "; --effort max: smaller, but much slower" if images else ""
    if adapt == "both":
        shared = (
            f"{plural(adapters, 'adapter')} fitted to the collection, and" if adapters else "none shared, but"
        )
        return f"{shared} one of their own for the images where that pays"
    if adapt == "image":
        return "each image has an adapter of its own where that pays"
    if adapt == "none":
        return f"none{more}"
    if adapters:
        return f"{plural(adapters, 'adapter')} fitted to the collection{more}"
    return f"none, as no adapter would pay for this collection{more}"
