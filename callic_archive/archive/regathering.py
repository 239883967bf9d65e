"""What is left of an archive as a new one: its content is copied, no image is coded anew.

What was stored as a difference is put together first, so nothing depends on what stays behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from callic_archive.archive.commit import Finished, finish
from callic_archive.archive.entries import Entry, with_whole_digests
from callic_archive.archive.packed import Packed, Piece
from callic_archive.archive.parts import Part, Place, record_type
from callic_archive.archive.reading import Archive
from callic_archive.archive.salvaging import relinked
from callic_archive.archive.shard_sink import SHARD_BYTES, ShardSink
from callic_archive.archive.staging import Staging
from callic_archive.archive.verbatim import verbatim_piece
from callic_archive.container.fs import atomic_write, writing
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.errors import CallicError, DestinationExists

if TYPE_CHECKING:
    from callic_archive.archive.codecs import CodecPlan


@dataclass(frozen=True)
class _Models:
    """The part of a codec plan that finishing an archive asks for."""

    files: Mapping[str, Path]

    def model_files(self) -> Mapping[str, Path]:
        return self.files


def regather(
    archive: Archive,
    entries: Sequence[Entry],
    destination: Path,
    progress: Callable[[Entry], None] = lambda entry: None,
    shard_bytes: int = SHARD_BYTES,
    committing: Callable[[], None] = lambda: None,
) -> Finished:
    """Make an archive of ``entries``, which must be sound, at ``destination``; ``committing`` is called when nothing
    may stop it from getting its name any more.

    Raises DestinationExists, MissingPath, EntryDamaged and EnvironmentFailure; nothing is left behind then.
    """
    staging = Staging(destination)
    staging.check()
    staging.committing = committing
    settings = {**(archive.header.settings if archive.header is not None else {}), "salvaged": True}
    if staging.root.exists():
        _remove(staging, settings)
    try:
        with staging:
            staging.open(settings)
            kept = relinked(entries)
            sink = ShardSink(staging.data, shard_bytes)
            adapters = _adapters(archive, kept, sink)
            moved: dict[tuple[Part, ...], tuple[Part, ...]] = {}
            bands: dict[Place, RecordRef] = {}  # codestreams of several entries, old place to new
            rows = []
            for entry in kept:
                rows.append(_copy(archive, entry, sink, moved, bands))
                progress(entry)
            sink.seal()
            wanted = {digest for row in rows for digest in row.models()}
            models = _models(archive, wanted, staging.run / "models")
            rows = [with_whole_digests(row, [*models, *adapters]) for row in rows]
            return finish(
                staging,
                rows,
                adapters=adapters,
                plan=cast("CodecPlan", _Models(models)),
                sealed=sink.take_sealed(),
                settings=settings,
            )
    except BaseException:
        shutil.rmtree(staging.root, ignore_errors=True)
        raise


def _remove(staging: Staging, settings: Mapping[str, Any]) -> None:
    """Remove what a run that was killed left, if it is such: nothing in it is not in the archive. Raises DestinationExists,
    OtherRun.
    """
    if not (staging.run / "job.json").is_file():
        raise DestinationExists(f"{staging.root} is there from another run; remove it, or choose another name")
    with staging:
        staging.open(settings)
        shutil.rmtree(staging.root)


def _copy(
    archive: Archive,
    entry: Entry,
    sink: ShardSink,
    moved: dict[tuple[Part, ...], tuple[Part, ...]],
    bands: dict[Place, RecordRef],
) -> Entry:
    """Copy an entry; content that several entries share is copied once."""
    known = moved.get(entry.parts)
    if known is not None or not entry.parts:
        return sink.write(replace(entry, parts=known or ()))
    pieces = (
        _piece(archive, entry, part) if _alone(part) else _plane(archive, entry, part, sink, bands)
        for part in entry.parts
    )
    new = sink.write(replace(entry, parts=()), Packed("", entry.size, entry.method, entry.fidelity, pieces))
    moved[entry.parts] = new.parts
    return new


def _alone(part: Part) -> bool:
    return part.stream is None or part.stream.plane is None


def _plane(
    archive: Archive, entry: Entry, part: Part, sink: ShardSink, bands: dict[Place, RecordRef]
) -> Piece:
    """A part that is a plane of a codestream, which is copied with the first of them."""
    if part.place not in bands:
        payload = archive.read(part.place)
        bands[part.place] = sink.append(RecordType.CODESTREAM, payload, entry.path)
    ref = bands[part.place]
    return Piece(RecordType.CODESTREAM, b"", part.coding, part.size, part.stream, ref)


def _piece(archive: Archive, entry: Entry, part: Part) -> Piece:
    type = record_type(part.coding, entry.method)
    if part.base is not None:
        return verbatim_piece(type, archive.read_bytes(part))
    return Piece(type, archive.read(part.place), part.coding, part.size, part.stream)


def _adapters(archive: Archive, entries: Sequence[Entry], sink: ShardSink) -> dict[str, RecordRef]:
    wanted = {digest for entry in entries for digest in entry.adapters()}
    copied = {}
    for digest in sorted(wanted & archive.adapters.keys()):
        ref = archive.adapters[digest]
        payload = archive.reader(ref.shard).read(ref)
        copied[digest] = sink.append(RecordType.ADAPTER, payload, digest)
    return copied


def _models(archive: Archive, wanted: set[str], folder: Path) -> dict[str, Path]:
    """Model files that entries need: this program's own, and the whole ones of the archive."""
    files: dict[str, Path] = {}
    if not wanted:
        return files
    from callic_archive.model.weights import ModelSet, load_model

    for model in ModelSet.default():
        if model.path is not None:
            files[model.digest] = model.path
    for path in archive.models():
        with suppress(CallicError):
            model = load_model(path)
            needed = any(model.digest.startswith(start) for start in wanted)  # or whole digests
            if needed and model.digest not in files:
                with writing(folder):
                    folder.mkdir(exist_ok=True)
                atomic_write(folder / model.digest, model.file_bytes())
                files[model.digest] = folder / model.digest
    return files
