"""``callic-archive list``: what is in an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report
from callic_archive.cli.running import run_verb

if TYPE_CHECKING:
    from callic_archive.archive.entries import Entry


@click.command("list", short_help="List the entries of an ARCHIVE.")
@options.archive_argument
@options.patterns_argument
@options.common_options
def list_(common: Common, **values: Any) -> None:
    """List the entries of an ARCHIVE, or those that match any PATTERN.

    Columns: bytes of the file, bytes it takes in the archive, how it is stored, how exactly it comes back,
    and its path; behind that, in brackets, why an image file is stored as it is.
    """
    run_verb("list", common, lambda report: _list(report, **values))


def _list(report: Report, *, archive: Path, patterns: tuple[str, ...]) -> None:
    from callic_archive.archive.reading import Archive
    from callic_archive.archive.unpacking import select

    with Archive(archive) as opened:
        for problem in opened.problems:
            report.problem(problem)
        entries = select(opened.entries, patterns)
        for entry in entries:
            report.event("entry", **_fields(report, entry))
            if not report.as_json:
                report.text(_line(report, entry), always=True)
    files = [entry for entry in entries if entry.kind == "file"]
    report.summary |= {
        "archive": report.path(archive),
        "entries": len(entries),
        "files": len(files),
        "source_bytes": sum(entry.size for entry in files),
    }


def _line(report: Report, entry: Entry) -> str:
    path = report.shown(entry.path)
    link = f" = {report.shown(entry.link)}" if entry.link is not None else ""
    if entry.kind == "directory":
        return f"{'':>14} {'':>14} {'folder':8} {'':7}  {path}/"
    if entry.kind == "symlink":
        target = report.shown(entry.target or "")
        return f"{'':>14} {'':>14} {'link':8} {'':7}  {path} -> {target}{link}"
    why = entry.problem[0] if entry.problem is not None else entry.reason
    end = f"{link}  [{why}]" if why is not None else link
    return f"{entry.size:>14,} {entry.packed_size:>14,} {entry.kept_as:8} {entry.fidelity:7}  {path}{end}"


def _fields(report: Report, entry: Entry) -> dict[str, Any]:
    fields: dict[str, Any] = {
        **report.path_fields(entry.path),
        "type": entry.kind,
        "mode": f"{entry.mode:04o}",
        "mtime_ns": entry.mtime_ns,
    }
    if entry.kind == "symlink":
        fields |= report.path_fields(entry.target or "", "target")
    if entry.kind == "file":
        fields |= {
            "kind": entry.kept_as,
            "fidelity": entry.fidelity,
            "source_bytes": entry.size,
            "stored_bytes": entry.packed_size,
            "sha256": entry.sha256,
            "images": [list(image.shape) for image in entry.images],
            "adapters": sorted(entry.adapters()),
            "models": sorted(entry.models()),
        }
        if entry.reason is not None:
            fields["reason"] = entry.reason
        if entry.extents is not None:
            fields["holes"] = entry.size - sum(length for _, length in entry.extents)
    if entry.link is not None:
        fields |= report.path_fields(entry.link, "link")
    if entry.problem is not None:
        fields["problem"] = {"code": entry.problem[0]}
    return fields
