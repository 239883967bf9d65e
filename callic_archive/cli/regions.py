"""``callic-archive unpack --region``: a part of each image, as NPY files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, plural, size_text

if TYPE_CHECKING:
    from callic_archive.access.exporting import Exported
    from callic_archive.archive.codecs import DecoderPlan


def unpack_regions(
    report: Report,
    common: Common,
    archive: Path,
    patterns: tuple[str, ...],
    output: Path,
    *,
    region: str,
    overwrite: bool,
    plan: DecoderPlan,
    threads: int | None,
) -> None:
    """Write the region of every image that matches, below ``output``. Raises what ends the run."""
    from callic_archive.access.archive import OpenArchive
    from callic_archive.access.exporting import export_regions
    from callic_archive.access.regions import region_of
    from callic_archive.archive.unpacking import select
    from callic_archive.cli.progress import Progress
    from callic_archive.errors import NoSuchEntry

    wanted = region_of(region)
    written = failed = count = 0

    def watch(done: Exported) -> None:
        nonlocal written, failed, count
        progress.advance(done.entry.size, 0)
        written += len(done.written)
        count += done.bytes
        for name in done.written:
            report.event("entry", **report.path_fields(name), source=report.path(done.entry.path))
            report.detail(report.shown(name))
        if done.problem is not None:
            failed += 1
            report.problem(done.problem)

    with (
        OpenArchive(archive, plan=plan, threads=threads) as opened,
        Progress(report, common, "read") as progress,
    ):
        for problem in opened.problems:
            report.problem(problem)
        files = [entry for entry in select(opened.values(), patterns) if entry.kind == "file"]
        images = [entry for entry in files if opened.has_image(entry.path)]
        if not images:
            raise NoSuchEntry("no image matches; `callic-archive list` shows what there is")
        progress.stage("reading regions")
        progress.planned(len(images), sum(entry.size for entry in images))
        try:
            export_regions(opened, images, wanted, output, overwrite=overwrite, watch=watch)
        finally:
            report.summary |= {
                "archive": report.path(archive),
                "files": len(images),
                "written": written,
                "failed": failed,
                "written_bytes": count,
            }
    report.past_stopping()
    report.text(
        f"wrote the region of {plural(written, 'image')}, {size_text(count)}, below {report.shown(output)}"
    )
    if failed:
        report.text(f"  {plural(failed, 'file')} gave none or not all, each named above", always=True)
