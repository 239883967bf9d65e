"""``callic-archive salvage``: everything that can still be had of a damaged or unfinished archive."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, plural, size_text
from callic_archive.cli.running import run_verb

if TYPE_CHECKING:
    from callic_archive.archive.codecs import DecoderPlan
    from callic_archive.archive.entries import Entry
    from callic_archive.archive.fragments import Fragments
    from callic_archive.archive.salvaging import Survey
    from callic_archive.archive.unpacking import Restored

ARCHIVE_SUFFIX = ".callic"
AGAIN = "run the same command again"  # to a folder it goes on where it was, a new archive is begun anew


@click.command(short_help="Restore what can be had of a damaged ARCHIVE.")
@options.archive_argument
@options.salvaged_option
@options.loss_report_option
@options.device_option
@options.gpus_option
@options.workers_option
@options.common_options
def salvage(common: Common, **values: Any) -> None:
    """Restore what can be had of a damaged or unfinished ARCHIVE, and tell what is lost.

    Works without index, manifest, models or sealed shards, and changes nothing in the archive. Whole files
    come back below DIR under their paths, checked as unpack checks them; whole records of others below
    DIR/callic-fragments. With NEW.callic instead of DIR, all whole entries become a new archive. The exit
    code is 3 when anything is lost or may be.
    """
    run_verb("salvage", common, lambda report: _salvage(report, common, **values), after_stop=AGAIN)


def _salvage(
    report: Report,
    common: Common,
    *,
    archive: Path,
    output: Path,
    device: str | None,
    gpus: int | None,
    workers: int | None,
    loss_report: Path | None,
) -> None:
    from callic_archive.archive.destinations import check_destination, check_outside
    from callic_archive.archive.fragments import Fragments, of_entry, of_orphans
    from callic_archive.archive.reading import Archive
    from callic_archive.archive.regathering import regather
    from callic_archive.archive.salvaging import survey
    from callic_archive.archive.staging import Staging
    from callic_archive.cli.progress import Progress
    from callic_archive.cli.resources import resources_of
    from callic_archive.container.extraction import ExtractionRoot
    from callic_archive.container.fs import atomic_write, check_file, check_folder
    from callic_archive.scheduling.read import unpack as restore
    from callic_archive.scheduling.read import verify as check

    as_archive = output.name.endswith(ARCHIVE_SUFFIX)
    if as_archive:
        Staging(output).check()
    else:
        check_folder(output)
    check_outside(output, archive)
    if loss_report is not None:
        check_outside(loss_report, archive)
        check_file(loss_report)
    resources = resources_of(device=device, gpus=gpus, workers=workers, scheduler=None)
    plan = _lenient(resources.gpus > 0)
    losses = _Losses(report)
    with Progress(report, common, "salvaged") as progress:
        progress.stage("reading all shards")
        found = survey(archive, lambda size: progress.advance(size, 0))
        for problem in found.problems:
            report.problem(problem)
        if not as_archive:
            check_destination(found.contents.entries, output, advice="salvage to an empty folder")
        progress.files = progress.bytes = 0
        entries = found.contents.entries
        files = [entry for entry in entries if entry.kind == "file"]
        progress.stage("decoding and comparing" if as_archive else "restoring")
        progress.planned(len(files), sum(entry.size for entry in files))

        def watch(restored: Restored) -> None:
            progress.advance(restored.entry.size, 0)
            losses.restored(restored)

        how: dict[str, Any] = {"plan": plan, "resources": resources, "watch": watch, "tick": progress.state}
        with Archive(found.root, plan, contents=found.contents) as opened:
            if as_archive:
                refused = check(opened, entries, full=True, **how)
                for problem in refused:
                    losses.plain(problem)
                failed = {entry.path for entry in losses.failed} | {problem.path for problem in refused}
                progress.stage("copying records")
                sound = [entry for entry in entries if entry.path not in failed]
                regather(opened, sound, output, committing=report.past_stopping)
                for entry in [*found.damaged, *losses.failed]:
                    losses.lost(entry, Fragments())
            else:
                for problem in restore(opened, entries, output, overwrite=False, **how):
                    losses.plain(problem)
                progress.stage("saving fragments")
                with ExtractionRoot(output) as root:
                    for entry in [*found.damaged, *losses.failed]:
                        losses.lost(entry, of_entry(opened, entry, root))
                    for path, fragment in of_orphans(opened, found.orphans, root):
                        losses.orphan(path, fragment)
    report.past_stopping()
    losses.conclude(found, archive)
    if loss_report is not None:
        atomic_write(loss_report, json.dumps(losses.document, indent=1, sort_keys=True).encode() + b"\n")


def _lenient(on_gpu: bool) -> DecoderPlan:
    """The codec that reads archives, content with what is left of their models."""
    from callic_archive.archive.learned_codec import CallicDecoderPlan
    from callic_archive.cli import unpack

    plan = unpack.decoder_plan(on_gpu)
    return replace(plan, lenient=True) if isinstance(plan, CallicDecoderPlan) else plan


@dataclass
class _Losses:
    """What came back and what did not, as events, as text and as one document."""

    report: Report

    def __post_init__(self) -> None:
        self.failed: list[Entry] = []
        self.files = self.bytes = 0
        self.document: dict[str, Any] = {"v": 1, "lost": [], "fragments_of_unknown_files": [], "damage": []}
        self._reasons: dict[str, tuple[str, str]] = {}

    def restored(self, restored: Restored) -> None:
        """One whole file, or one that seemed whole and was not."""
        if restored.problem is not None:
            self._reasons[restored.entry.path] = (restored.problem.code, restored.problem.message)
        if restored.fidelity is None:
            self.failed.append(restored.entry)
            return
        if restored.problem is not None:
            self.report.problem(restored.problem)
        self.files += 1
        self.bytes += restored.entry.size
        fields = self.report.path_fields(restored.entry.path)
        self.report.event("entry", **fields, fidelity=restored.fidelity)
        self.report.detail(f"{self.report.shown(restored.entry.path)}: {restored.fidelity}")

    def plain(self, problem: Any) -> None:
        """A folder or link that could not be made."""
        self.report.problem(problem)
        row = {**self.report.path_fields(problem.path), "code": problem.code, "message": problem.message}
        self.document["lost"].append(row)

    def lost(self, entry: Entry, fragments: Fragments) -> None:
        """A file that is lost as a whole, and what is left of it."""
        from callic_archive.archive.scan import Problem
        from callic_archive.errors import EntryDamaged

        default = (EntryDamaged.code, "records of it are missing or damaged")
        code, message = self._reasons.get(entry.path, default)
        left = f"; {plural(len(fragments.files), 'fragment')} of it saved" if fragments.files else ""
        if fragments.files and fragments.missing:
            gone = sum(length for _, length in fragments.missing)
            left = f"; all but {size_text(gone)} at {plural(len(fragments.missing), 'place')} saved as a fragment"
        self.report.problem(Problem(entry.path, code, message + left, kept=False, exit_code=3))
        self.document["lost"].append(
            {
                **self.report.path_fields(entry.path),
                "type": entry.kind,
                "source_bytes": entry.size,
                "sha256": entry.sha256,
                "code": code,
                "message": self.report.clean(message, entry.path),
                "fragments": [self.report.path(path) for path in fragments.files],
                "fragment_bytes": fragments.restored_bytes,
                "missing": [list(span) for span in fragments.missing],
            }
        )

    def orphan(self, path: str, fragment: str) -> None:
        """A record of a file of which nothing else is known."""
        row = {**self.report.path_fields(path), "fragment": self.report.path(fragment)}
        self.document["fragments_of_unknown_files"].append(row)

    def conclude(self, found: Survey, archive: Path) -> None:
        """The figures of all, the text, and the exit code."""
        report, document = self.report, self.document
        entries = found.contents.entries
        document["damage"] = [
            {
                "shard": d.shard,
                "offset": d.offset,
                "length": d.length,
                "code": d.code,
                "message": d.detail,
                "records_of": sorted({report.path(r.key) for r in d.records if r.key}),
            }
            for d in found.damage
        ]
        lost = len(document["lost"])
        unknown = found.unknown
        # without a whole index nobody knows what lay in a damaged place
        unsure = found.unfinished or (not found.index_whole and unknown != 0 and bool(found.damage))
        unsure = unsure or bool(unknown) or any(p.exit_code for p in found.problems)
        document |= {
            "archive": report.path(archive),
            "unfinished": found.unfinished,
            "index_whole": found.index_whole,
            "files": self.files,
            "folders": sum(entry.kind == "directory" for entry in entries),
            "links": sum(entry.kind == "symlink" for entry in entries),
            "restored_bytes": self.bytes,
            "lost_files": lost,
            "lost_entries_without_name": unknown,
            "unlisted_entries": len(found.unlisted),
            "complete": not lost and not unsure,
        }
        keys = ("lost", "damage", "fragments_of_unknown_files")
        for row in document["lost"]:
            report.event("lost", **row)
        for row in document["damage"]:
            report.event("damage", **row)
        for row in document["fragments_of_unknown_files"]:
            report.event("fragment", **row)
        report.summary |= {
            name: value for name, value in document.items() if name not in keys and name != "v"
        }
        self._text(found, archive, lost, unknown)
        if not document["complete"]:
            report.raise_exit(3)

    def _text(self, found: Survey, archive: Path, lost: int, unknown: int | None) -> None:
        report = self.report
        report.text(
            f"salvaged {plural(self.files, 'file')}, {size_text(self.bytes)}, from {report.shown(archive)}",
            always=True,
        )
        for damage in self.document["damage"]:
            names = f"; records of {', '.join(damage['records_of'][:5])}" if damage["records_of"] else ""
            text = f"  damage in {damage['shard']}, byte {damage['offset']}, {damage['length']} bytes"
            report.text(f"{text}: {damage['message']}{names}")
        if lost:
            report.text(f"  {plural(lost, 'path')} lost, each named above", always=True)
        orphans = len(self.document["fragments_of_unknown_files"])
        if orphans:
            report.text(f"  {plural(orphans, 'fragment')} of files of which only a name is left", always=True)
        if unknown:
            text = "of which not even the names are left"
            report.text(f"  {plural(unknown, 'entry')} lost {text}", always=True)
        if found.unfinished:
            text = "the archive was never finished; what the run had not reached is not in it"
            report.text(f"  {text}", always=True)
        if found.unlisted:
            text = "that the index does not list, of sources that had gone when a stopped run was gone on with"
            report.text(f"  left out: {plural(len(found.unlisted), 'entry')} {text}", always=True)
        if self.document["complete"]:
            report.text("  nothing is lost")
        elif not (lost or unknown or found.unfinished):
            report.text("  nobody can tell whether more was in the damaged places", always=True)
