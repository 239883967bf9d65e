"""From a staging folder full of sealed shards to a finished archive: models, index, specification, bag,
rename.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callic_archive import __version__
from callic_archive.archive.codecs import CodecPlan
from callic_archive.archive.entries import Entry
from callic_archive.archive.header import FORMAT_VERSION, Header
from callic_archive.archive.reading import COPIES, INDEX, MODEL_SUFFIX
from callic_archive.archive.specification import (
    SPECIFICATION,
    opening_text,
    specification_packed,
    topics_of,
)
from callic_archive.archive.staging import Staging
from callic_archive.container.bag import TAG_FILES, write_bag
from callic_archive.container.fs import atomic_write, fsync_dir, unfinished_name, writing
from callic_archive.container.index import write_index
from callic_archive.container.layout import RecordRef
from callic_archive.container.writer import SealedShard
from callic_archive.errors import ModelError, OtherRun, ReadFailure

_BLOCK = 4 << 20
COPY_FROM = 1000  # times a model's bytes: archives with so much in them carry it twice
_MODEL = re.compile(rf"[0-9a-f]{{64}}{re.escape(MODEL_SUFFIX)}")
_UNTOLD = ("sources", "include", "exclude", "listed", "one_file_system")  # settings that name no bytes


@dataclass(frozen=True)
class Finished:
    """Sizes of the finished archive, in bytes."""

    archive_bytes: int
    model_bytes: int
    models_outside: tuple[str, ...] = ()  # digests of models that are needed and were left out


def finish(
    staging: Staging,
    entries: Iterable[Entry],
    *,
    adapters: Mapping[str, RecordRef],
    plan: CodecPlan,
    sealed: Iterable[SealedShard],
    settings: Mapping[str, Any],
    models_inside: bool = True,
) -> Finished:
    """Write everything beside the shards and make the staging folder the archive.

    ``models_inside`` False leaves the models out, and the index names those that a reader must bring.
    Until the last rename nothing is visible under the archive's name;
    called again after a failure it does the same once more. Raises OutOfSpace, WriteFailure, ModelError,
    DestinationExists.
    """
    rows = sorted(entries, key=lambda entry: entry.path.encode("utf-8", "surrogateescape"))
    used = {digest for row in rows for digest in row.adapters()}
    payload = {s.name: s.sha256 for s in sealed}
    hashes: dict[str, str] = {}
    for path in staging.shards():
        hashes[f"data/{path.name}"] = payload.get(path.name) or _file_sha256(path)
    needed = {d for row in rows for d in row.models()}
    models = _copy_models(staging.models, needed if models_inside else set(), plan)
    content = sum(path.stat().st_size for path in staging.shards())
    copies = _copies(staging.data / COPIES, models, content)
    outside = () if models_inside else tuple(sorted(needed))
    hashes |= {f"data/{path.parent.name}/{path.name}": _file_sha256(path) for path in (*models, *copies)}
    topics = topics_of(rows, content)
    # the whole text would be a tenth of a small archive, so only its first page is there to read at once
    for name, text in (("FORMAT.md", opening_text().encode()), (SPECIFICATION, specification_packed(topics))):
        atomic_write(staging.data / name, text)
        hashes[f"data/{name}"] = hashlib.sha256(text).hexdigest()
    header = Header(
        software=f"callic-archive {__version__}",
        packed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        entries=len(rows),
        settings={k: v for k, v in settings.items() if k not in _UNTOLD},
        models_outside=outside,
    )
    shared: list[dict[str, Any]] = [
        {"kind": "adapter", "sha256": digest, "record": ref.as_json()}
        for digest, ref in sorted(adapters.items())
        if digest in used
    ]
    index = write_index(staging.data / INDEX, [header.as_json(), *shared, *(row.as_json() for row in rows)])
    hashes[f"data/{INDEX}"] = index.sha256
    info = {
        "Bag-Software-Agent": f"callic-archive {__version__}",
        "Callic-Format-Version": str(FORMAT_VERSION),
    }
    _refuse_others(staging, hashes)
    write_bag(staging.root, info, hashes)
    fsync_dir(staging.data)
    total = sum(path.stat().st_size for path in staging.root.rglob("*") if path.is_file())
    total -= sum(path.stat().st_size for path in staging.run.rglob("*") if path.is_file())
    model_bytes = sum(path.stat().st_size for path in (*models, *copies))
    staging.commit()
    return Finished(total, model_bytes, outside)


def _refuse_others(staging: Staging, hashes: Mapping[str, str]) -> None:
    """Raise OtherRun for a file that somebody else put into the folder: no archive may hold it, and it is not ours to remove.
    What was being written when a run was killed is."""
    for path in sorted(staging.root.rglob("*")):
        if unfinished_name(path.name) and path.is_file() and not path.is_symlink():
            with writing(path):
                path.unlink()
            continue
        name = path.relative_to(staging.root).as_posix()
        ours = path.is_dir() or staging.run in path.parents or name in hashes or name in TAG_FILES
        if not ours or path.is_symlink():
            raise OtherRun(
                f"{path} is nothing that this command wrote; move it out of {staging.root}, then run the same command again"
            )


def _copy_models(folder: Path, wanted: set[str], plan: CodecPlan) -> list[Path]:
    """Put the models that entries name beside the shards, each packed, in a third to two thirds of its bytes."""
    from callic_archive.model.packed_file import pack_model
    from callic_archive.model.weights import read_model_bytes

    copies: list[Path] = []
    files = plan.model_files() if wanted else {}
    for digest in sorted(wanted):
        if digest not in files:
            raise ModelError(f"the model {digest} that entries were coded with is not there any more")
        target = folder / f"{digest}{MODEL_SUFFIX}"
        data = read_model_bytes(files[digest])
        if hashlib.sha256(data).hexdigest() != digest:
            raise ModelError(f"the model file {files[digest]} changed since it was loaded")
        with writing(folder):
            folder.mkdir(exist_ok=True)
        atomic_write(target, pack_model(data))
        copies.append(target)
    _remove_models(folder, copies)
    return copies


def _remove_models(folder: Path, kept: Collection[Path]) -> None:
    """Remove models from a folder, but for those that are ``kept``, and the folder where nothing else is in it."""
    with writing(folder):
        for other in folder.iterdir() if folder.is_dir() else ():
            if other not in kept and _MODEL.fullmatch(other.name):
                other.unlink()
        with suppress(OSError):
            folder.rmdir()


def _copies(folder: Path, models: list[Path], others: int) -> list[Path]:
    """Copies of the models that add less than a thousandth to ``others`` bytes: all images hang on them, so they should
    not be lost with one block of a disk."""
    _remove_models(folder, ())  # of an earlier try to finish
    found = []
    for path in models:
        if COPY_FROM * path.stat().st_size <= others:
            with writing(folder):
                folder.mkdir(exist_ok=True)
            atomic_write(folder / path.name, path.read_bytes())
            found.append(folder / path.name)
    return found


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ReadFailure(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()
