"""``callic-archive info``: an archive as a whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, one_line, plural, size_text
from callic_archive.cli.running import run_verb

if TYPE_CHECKING:
    from callic_archive.archive.entries import Entry


@click.command(short_help="Show what an ARCHIVE holds as a whole.")
@options.archive_argument
@options.common_options
def info(common: Common, **values: Any) -> None:
    """Show what an ARCHIVE holds as a whole: counts, sizes, fidelity, models, shards."""
    run_verb("info", common, lambda report: _info(report, **values))


def _info(report: Report, *, archive: Path) -> None:
    from callic_archive.archive.reading import Archive

    with Archive(archive) as opened:
        for problem in opened.problems:
            report.problem(problem)
        entries, header = opened.entries, opened.header
        files = [entry for entry in entries if entry.kind == "file"]
        images = [entry for entry in files if entry.is_image]
        unique = {part.place: part for entry in files for part in entry.parts}
        coded = {(part.place, part.stream): part for entry in images for part in entry.parts}
        samples = sum(part.stream.samples for part in coded.values() if part.stream is not None)
        code_bytes = sum(part.stored for part in coded.values())
        shared = {p.place for p in coded.values() if p.stream is not None and p.stream.plane is not None}
        bands = sum(any(part.place in shared for part in entry.parts) for entry in images)
        source = sum(entry.size for entry in files)
        stored = sum(place.stored for place in unique)
        fields: dict[str, Any] = {
            "archive": report.path(archive),
            "format_version": header.format_version if header is not None else None,
            "software": header.software if header is not None else None,
            "packed_at": header.packed_at if header is not None else None,
            "settings": dict(header.settings) if header is not None else {},
            "files": len(files),
            "directories": sum(entry.kind == "directory" for entry in entries),
            "symlinks": sum(entry.kind == "symlink" for entry in entries),
            "kinds": dict(sorted(Counter(entry.kept_as for entry in files).items())),
            "fidelity": dict(sorted(Counter(entry.fidelity for entry in files).items())),
            "verbatim": dict(sorted(Counter(filter(None, map(_why, files))).items())),
            "source_bytes": source,
            "stored_bytes": stored,
            "archive_bytes": sum(p.stat().st_size for p in archive.rglob("*") if p.is_file()),
            "bits_per_sample": round(8 * code_bytes / samples, 4) if samples else None,
            "bands": {"files": bands, "codestreams": len(shared)},
            "shards": [{"name": path.name, "bytes": path.stat().st_size} for path in opened.shards()],
            "models": [
                {"sha256": path.name.split(".")[0], "bytes": path.stat().st_size} for path in opened.models()
            ],
            "models_outside": list(header.models_outside) if header is not None else [],
            "adapters": sorted(opened.adapters),
        }
    report.event("archive", **fields)
    report.summary |= {"archive": fields["archive"]}
    if not report.as_json:
        for line in _lines(fields, len(images)):
            report.text(one_line(line), always=True)


def _why(entry: Entry) -> str | None:
    """Why an image file is stored as it is: an error code, or one of ``images.reasons``."""
    return entry.problem[0] if entry.problem is not None else entry.reason


def _lines(f: dict[str, Any], images: int) -> list[str]:
    ratio = f"ratio {f['source_bytes'] / f['stored_bytes']:.2f}" if f["stored_bytes"] else "nothing stored"
    settings = f["settings"]
    lines = [
        f"archive      {f['archive']}",
        f"made by      {f['software'] or 'unknown'}, {f['packed_at'] or 'at an unknown time'}, "
        f"format version {f['format_version']}",
        f"entries      {plural(f['files'], 'file')}, {plural(f['directories'], 'folder')}, "
        f"{plural(f['symlinks'], 'link')}",
        f"files        {', '.join(f'{count} {kind}' for kind, count in f['kinds'].items()) or 'none'}",
        f"come back    {', '.join(f'{count} {name}' for name, count in f['fidelity'].items()) or 'none'}",
        f"verbatim     {', '.join(f'{count} {name}' for name, count in f['verbatim'].items()) or 'no image files'}",
        f"size         {size_text(f['source_bytes'])} -> {size_text(f['stored_bytes'])}, {ratio}; "
        f"{size_text(f['archive_bytes'])} with models, index and specification",
    ]
    if f["bits_per_sample"] is not None:
        lines.append(f"images       {plural(images, 'file')}, {f['bits_per_sample']:.3f} bits a sample")
    if f["bands"]["files"]:
        several = plural(f["bands"]["codestreams"], "codestream")
        lines.append(f"bands        {plural(f['bands']['files'], 'file')} that share {several}")
    if settings:
        told = {name: value for name, value in settings.items() if name != "models" and value is not None}
        lines.append(f"settings     {', '.join(f'{name} {value}' for name, value in told.items())}")
    lines += [f"shard        {shard['name']}, {size_text(shard['bytes'])}" for shard in f["shards"]]
    lines += [f"model        {model['sha256'][:16]}, {size_text(model['bytes'])}" for model in f["models"]]
    lines += [f"model        {digest[:16]}, left out: needed to unpack" for digest in f["models_outside"]]
    lines += [f"adapter      {digest[:16]}" for digest in f["adapters"]]
    return lines
