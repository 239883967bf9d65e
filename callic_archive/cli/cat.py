"""``callic-archive cat``: the bytes of one file on standard output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report
from callic_archive.cli.running import run_verb

if TYPE_CHECKING:
    from callic_archive.archive.entries import Entry

_IN_MEMORY = 64 << 20  # bytes; larger files wait on disk until they are proven
_LOOKED_AT = 1 << 16
_COPY = 1 << 20


@click.command(short_help="Write one file of an ARCHIVE to standard output.")
@options.archive_argument
@options.path_argument
@options.force_option
@options.outside_models_option
@options.device_option
@options.common_options
def cat(common: Common, **values: Any) -> None:
    """Write one file of an ARCHIVE to standard output, as unpack would restore it.

    PATH is the path that list shows. Nothing is written before the whole file was compared with the digest
    stored at packing. What is no text is not written to a terminal unless forced. With --json, the JSON lines
    go to standard error.
    """
    run_verb("cat", common, lambda report: _cat(report, **values), data_on_stdout=True)


def _cat(report: Report, *, archive: Path, path: str, force: bool, models: tuple[Path, ...], device: str | None) -> None:
    import tempfile

    from callic_archive.archive.reading import Archive
    from callic_archive.archive.unpacking import OTHER_BYTES
    from callic_archive.cli.resources import uses_gpu
    from callic_archive.cli.unpack import decoder_plan
    from callic_archive.errors import DigestMismatch, UsageError

    on_gpu = uses_gpu(device)
    with (
        Archive(archive, decoder_plan(on_gpu, models)) as opened,
        tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as proven,
    ):
        for problem in opened.problems:
            report.problem(problem)
        entry = _entry(opened.entries, path)
        fidelity = opened.restore(entry, proven)  # type: ignore[arg-type]
        if fidelity != entry.fidelity:
            raise DigestMismatch(f"{entry.path}: {OTHER_BYTES}")
        proven.seek(0)
        if not force and sys.stdout.isatty() and not is_text(proven.read(_LOOKED_AT)):
            raise UsageError("the file is no text; send it to a file or a pipe, or add --force")
        proven.seek(0)
        out: BinaryIO = sys.stdout.buffer
        while piece := proven.read(_COPY):
            out.write(piece)
        out.flush()
        report.past_stopping()
    report.event("entry", **report.path_fields(entry.path), fidelity=fidelity, source_bytes=entry.size)
    report.summary |= {"archive": report.path(archive), "files": 1, "restored_bytes": entry.size}


def _entry(entries: list[Entry], path: str) -> Entry:
    from callic_archive.errors import NoSuchImage, UnknownPath

    for entry in entries:
        if entry.path == path.rstrip("/"):
            if entry.kind != "file":
                what = "a folder" if entry.kind == "directory" else f"a link to {entry.target!r}"
                raise NoSuchImage(f"{path} is {what}, not a file")
            return entry
    raise UnknownPath(f"the archive has no entry {path!r}; `callic-archive list` shows what there is")


def is_text(data: bytes) -> bool:
    """Whether bytes can be shown on a terminal: UTF-8 (maybe cut off at its end) without control characters."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3:
            return False
        text = data[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\n\r\t" for character in text)
