"""``callic-archive verify``: is the archive still what was packed?"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, plural, size_text
from callic_archive.cli.running import run_verb


@click.command(short_help="Check that an ARCHIVE is what was packed.")
@options.archive_argument
@options.full_option
@options.quick_option
@options.against_option
@options.contents_only_option
@options.subset_option
@options.outside_models_option
@options.device_option
@options.gpus_option
@options.workers_option
@options.common_options
def verify(common: Common, **values: Any) -> None:
    """Check an ARCHIVE: its bag, its records, and by decoding every entry.

    Damage is named: which files of the archive, which entries. The exit code is then 3; everything that is
    not named can still be unpacked.
    """
    run_verb("verify", common, lambda report: _verify(report, common, **values))


def _verify(
    report: Report,
    common: Common,
    *,
    archive: Path,
    full: bool,
    quick: bool,
    against: Path | None,
    contents_only: bool,
    subset: str | None,
    models: tuple[Path, ...],
    device: str | None,
    gpus: int | None,
    workers: int | None,
) -> None:
    from callic_archive.archive.comparing import Scope, compare_with
    from callic_archive.archive.reading import Archive
    from callic_archive.archive.subset import parse_subset
    from callic_archive.archive.verifying import verify_bag
    from callic_archive.cli.progress import Progress
    from callic_archive.cli.resources import resources_of
    from callic_archive.cli.unpack import decoder_plan
    from callic_archive.errors import MissingPath, UsageError
    from callic_archive.scheduling.read import verify as check

    full = options.chosen(full=full, quick=quick) != "quick"
    if contents_only and against is None:
        raise UsageError("--contents-only says how to compare with a folder; name it with --against DIR")
    if against is not None and not against.is_dir():
        raise MissingPath(f"{against} is no folder to compare with")
    part = None if subset is None else parse_subset(subset, datetime.date.today())
    resources = resources_of(device=device, gpus=gpus, workers=workers, scheduler=None)
    plan = decoder_plan(resources.gpus > 0, models)
    damaged: set[str] = set()
    checked = size = 0
    with Archive(archive, plan) as opened, Progress(report, common, "verified") as progress:
        for problem in opened.problems:
            report.problem(problem)
        entries = [entry for entry in opened.entries if part is None or entry.path in part]
        files = [entry for entry in entries if entry.kind == "file"]
        shards = [path for path in opened.shards() if part is None or f"data/{path.name}" in part]
        progress.stage("checking the bag")
        progress.planned(len(shards), sum(path.stat().st_size for path in shards))
        for problem in verify_bag(opened, lambda _, size: progress.advance(size, 0), part):
            report.problem(problem)
        progress.files = progress.bytes = 0
        progress.stage("decoding and comparing" if full else "checking records")
        progress.planned(len(files), sum(entry.size for entry in files))

        def watch(restored: Any) -> None:
            nonlocal checked, size
            checked += 1
            size += restored.entry.size
            progress.advance(restored.entry.size, 0)
            if restored.problem is not None:
                damaged.add(restored.entry.path)
                report.problem(restored.problem)
            fields = report.path_fields(restored.entry.path)
            report.event("entry", **fields, ok=restored.problem is None, fidelity=restored.entry.fidelity)
            if restored.problem is None:
                report.detail(f"{report.shown(restored.entry.path)}: {restored.entry.fidelity}")

        try:
            for problem in check(
                opened,
                entries,
                plan=plan,
                full=full,
                resources=resources,
                watch=watch,
                tick=progress.state,
            ):
                report.problem(problem)
            if against is not None:
                progress.files = progress.bytes = 0
                progress.stage("comparing with the tree")
                progress.planned(len(entries), sum(entry.size for entry in files))
                for problem in compare_with(
                    opened,
                    entries,
                    against,
                    lambda entry: progress.advance(entry.size, 0),
                    Scope(metadata=not contents_only),
                ):
                    report.problem(problem)
        finally:
            report.summary |= {
                "archive": report.path(archive),
                "depth": "full" if full else "quick",
                "subset": None if part is None else str(part),
                "checked": checked,
                "files": len(files),
                "damaged": len(damaged),
                "bytes": size,
            }
    report.past_stopping()
    how = "decoded and compared" if full else "records checked"
    if not report.exit_code:
        compared = f", equal to {report.shown(against)}" if against else ""
        sound_part = "" if part is None else f", part {part}"
        report.text(
            f"{report.shown(archive)}{sound_part} is sound: {plural(checked, 'file')}, {size_text(size)}, {how}{compared}"
        )
        return
    sound = checked - len(damaged)
    text = f"{plural(report.counts['problems'], 'problem')}; {sound} of {plural(len(files), 'file')} sound"
    report.text(f"{report.shown(archive)} FAILED: {text}", always=True)
