"""``callic-archive unpack``: an archive, or a part of it, back to files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, plural, size_text
from callic_archive.cli.running import GOING_ON, run_verb

if TYPE_CHECKING:
    from callic_archive.archive.codecs import DecoderPlan
    from callic_archive.archive.unpacking import Restored


@click.command(short_help="Restore files of an ARCHIVE.")
@options.archive_argument
@options.patterns_argument
@options.directory_option
@options.overwrite_option
@options.region_option
@options.outside_models_option
@options.device_option
@options.gpus_option
@options.workers_option
@options.common_options
def unpack(common: Common, **values: Any) -> None:
    """Restore the tree of an ARCHIVE, or what matches any PATTERN, below DIR.

    A PATTERN without / is compared with names, one with / with whole paths; a folder that matches brings all
    that is in it. Every file is checked against the digest stored at packing before it gets its name. Damaged
    entries are named, everything else is restored, and the exit code is 3.

    With --region, NPY files of that part of each image are written instead, and only the tiles that it
    touches are decoded.
    """
    run_verb("unpack", common, lambda report: _unpack(report, common, **values), after_stop=GOING_ON)


def decoder_plan(on_gpu: bool, models: Sequence[Path] = ()) -> DecoderPlan:
    """The codec that reads archives, with the user's files of models that an archive left out.

    Raises UnsuitableModel, DamagedModel, InexactModel.
    """
    from callic_archive.archive.learned_codec import CallicDecoderPlan

    if models:
        from callic_archive.errors import UnsuitableModel
        from callic_archive.model.catalogue import find_model

        for path in models:
            if not path.is_file():
                raise UnsuitableModel(f"{path} is no model file")
            find_model(str(path))
    absolute = tuple(Path(os.path.abspath(path)) for path in models)
    return CallicDecoderPlan(device="cuda" if on_gpu else "cpu", extra=absolute)


def _unpack(
    report: Report,
    common: Common,
    *,
    archive: Path,
    patterns: tuple[str, ...],
    output: Path,
    overwrite: bool,
    region: str | None,
    models: tuple[Path, ...],
    device: str | None,
    gpus: int | None,
    workers: int | None,
) -> None:
    from callic_archive.archive.destinations import check_destination, check_outside
    from callic_archive.archive.reading import Archive
    from callic_archive.archive.unpacking import select
    from callic_archive.cli.progress import Progress
    from callic_archive.cli.resources import resources_of
    from callic_archive.container.fs import check_folder
    from callic_archive.scheduling.read import unpack as restore

    check_outside(output, archive)
    check_folder(output)
    resources = resources_of(device=device, gpus=gpus, workers=workers, scheduler=None)
    plan = decoder_plan(resources.gpus > 0, models)
    if region is not None:
        from callic_archive.cli.regions import unpack_regions

        unpack_regions(
            report, common, archive, patterns, output, region=region, overwrite=overwrite, plan=plan,
            threads=workers,
        )  # fmt: skip
        return
    with Archive(archive, plan) as opened, Progress(report, common, "restored") as progress:
        for problem in opened.problems:
            report.problem(problem)
        entries = select(opened.entries, patterns)
        if there := check_destination(entries, output, overwrite=overwrite):
            report.note(f"{plural(there, 'file')} there already; what is whole is left as it is")
        files = [entry for entry in entries if entry.kind == "file"]
        progress.stage("restoring")
        progress.planned(len(files), sum(entry.size for entry in files))
        withheld = sum(bool(e.mode & (0o6000 if e.kind == "file" else 0o4000)) for e in entries)
        if withheld:
            text = (
                "had set-user-id or set-group-id bits, which are not given back; set them by hand where meant"
            )
            report.note(f"{plural(withheld, 'path')} {text}")
        watch = _Watch(report, progress)
        try:
            problems = restore(
                opened,
                entries,
                output,
                plan=plan,
                overwrite=overwrite,
                resources=resources,
                watch=watch,
                tick=progress.state,
            )
            for problem in problems:
                report.problem(problem)
        finally:
            report.summary |= {
                "archive": report.path(archive),
                "files": watch.files,
                "there_already": watch.there,
                "failed": watch.failed,
                "fidelity": watch.fidelity,
                "restored_bytes": watch.bytes,
            }
    report.past_stopping()
    report.text(
        f"restored {plural(watch.files, 'file')}, {size_text(watch.bytes)}, below {report.shown(output)}"
    )
    if watch.there:
        report.text(f"  {plural(watch.there, 'file')} of them by an earlier run")
    equal = "with equal pixels and metadata"
    if watch.declared:
        report.text(f"  {plural(watch.declared, 'file')} {equal} and other compressed bytes, as declared at packing")
    if other := watch.fidelity["content"] - watch.declared:
        report.text(f"  {plural(other, 'file')} {equal} and other bytes than at packing, each named above")
    if watch.failed:
        report.text(f"  {plural(watch.failed, 'file')} could not be restored, each named above", always=True)


class _Watch:
    """Counts what was restored and reports what was not."""

    def __init__(self, report: Report, progress: Any) -> None:
        self._report = report
        self._progress = progress
        self.files = self.there = self.failed = self.bytes = 0
        self.declared = 0  # of those with equal content: whose other bytes were foreseen
        self.fidelity = {"bytes": 0, "content": 0}

    def __call__(self, restored: Restored) -> None:
        entry = restored.entry
        self._progress.advance(entry.size, 0)
        if restored.problem is not None:
            self._report.problem(restored.problem)
        if restored.fidelity is None:
            self.failed += 1
            return
        self.files += 1
        self.there += restored.there
        self.bytes += entry.size
        self.fidelity[restored.fidelity] += 1
        self.declared += restored.fidelity == "content" == entry.fidelity
        self._report.event("entry", **self._report.path_fields(entry.path), fidelity=restored.fidelity)
        self._report.detail(f"{self._report.shown(entry.path)}: {restored.fidelity}")
