"""``callic-archive diff``: how a tree differs from what was packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, plural, size_text
from callic_archive.cli.running import run_verb


@click.command(short_help="Compare an ARCHIVE with a folder.")
@options.archive_argument
@options.tree_argument
@options.contents_only_option
@options.outside_models_option
@options.common_options
def diff(common: Common, **values: Any) -> None:
    """Compare an ARCHIVE with the tree in DIR, the folder that holds what was packed.

    Every difference is named: kinds, contents, link targets, modes, times, hard links, and what only one of
    them has. The exit code is then 3. The archive itself is not checked; `verify --against` does both.
    """
    run_verb("diff", common, lambda report: _diff(report, common, **values))


def _diff(report: Report, common: Common, *, archive: Path, tree: Path, contents_only: bool, models: tuple[Path, ...]) -> None:
    from callic_archive.archive.comparing import Scope, compare_with
    from callic_archive.archive.reading import Archive
    from callic_archive.cli.progress import Progress
    from callic_archive.cli.unpack import decoder_plan
    from callic_archive.errors import MissingPath

    if not tree.is_dir():
        raise MissingPath(f"{tree} is no folder to compare with")
    differing: set[str] = set()
    compared = 0
    with Archive(archive, decoder_plan(False, models)) as opened, Progress(report, common, "compared") as progress:
        for problem in opened.problems:
            report.problem(problem)
        entries = opened.entries
        size = sum(entry.size for entry in entries)
        progress.stage("comparing with the tree")
        progress.planned(len(entries), size)

        def watch(entry: Any) -> None:
            nonlocal compared
            compared += 1
            progress.advance(entry.size, 0)

        try:
            scope = Scope(metadata=not contents_only)
            for problem in compare_with(opened, entries, tree, watch, scope):
                differing.add(problem.path)
                report.problem(problem)
        finally:
            report.summary |= {
                "archive": report.path(archive),
                "compared": compared,
                "entries": len(entries),
                "different": len(differing),
            }
    report.past_stopping()
    shown = report.shown(tree)
    if differing:
        text = f"{plural(len(differing), 'path')} of {shown} differ from {report.shown(archive)}"
        report.text(text, always=True)
    else:
        report.text(f"{shown} is what was packed: {plural(compared, 'entry')}, {size_text(size)}")
