"""From a staging folder full of sealed shards to a finished archive: models, index, specification, bag,
rename.
"""

from __future__ import annotations

import bz2
import datetime
import hashlib
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from callic_archive import __version__
from callic_archive.archive.codecs import CodecPlan
from callic_archive.archive.entries import Entry
from callic_archive.archive.reading import FORMAT_VERSION, INDEX, MODEL_SUFFIX
from callic_archive.archive.staging import Staging
from callic_archive.container.bag import write_bag
from callic_archive.container.fs import atomic_write, fsync_dir, writing
from callic_archive.container.index import write_index
from callic_archive.container.layout import RecordRef
from callic_archive.container.writer import SealedShard
from callic_archive.errors import ModelError, ReadFailure
from callic_archive.images.zarr_metadata import DOCUMENTS

_BLOCK = 4 << 20
SPECIFICATION = "specification.md.bz2"
#: Pages that only some archives need.
_LEARNED, _ZARR = frozenset({"codestream.md", "entropy.md", "model.md"}), frozenset({"zarr.md"})
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
    models = _copy_models(staging.data / "models", needed if models_inside else set(), plan)
    outside = () if models_inside else tuple(sorted(needed))
    hashes |= {f"data/models/{path.name}": _file_sha256(path) for path in models}
    spared = spared_pages(rows)
    # the whole text would be a tenth of a small archive, so only its first page is there to read at once
    for name, text in (("FORMAT.md", opening_text().encode()), (SPECIFICATION, specification_packed(spared))):
        atomic_write(staging.data / name, text)
        hashes[f"data/{name}"] = hashlib.sha256(text).hexdigest()
    header = {
        "kind": "archive",
        "format_version": FORMAT_VERSION,
        "software": f"callic-archive {__version__}",
        "packed_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "entries": len(rows),
        **({"models_outside": list(outside)} if outside else {}),
        "settings": {k: v for k, v in settings.items() if k not in _UNTOLD},
    }
    shared: list[dict[str, Any]] = [
        {"kind": "adapter", "sha256": digest, "record": ref.as_json()}
        for digest, ref in sorted(adapters.items())
        if digest in used
    ]
    index = write_index(staging.data / INDEX, [header, *shared, *(row.as_json() for row in rows)])
    hashes[f"data/{INDEX}"] = index.sha256
    info = {
        "Bag-Software-Agent": f"callic-archive {__version__}",
        "Callic-Format-Version": str(FORMAT_VERSION),
    }
    write_bag(staging.root, info, hashes)
    fsync_dir(staging.data)
    total = sum(path.stat().st_size for path in staging.root.rglob("*") if path.is_file())
    total -= sum(path.stat().st_size for path in staging.run.rglob("*") if path.is_file())
    model_bytes = sum(path.stat().st_size for path in models)
    staging.commit()
    return Finished(total, model_bytes, outside)


def _copy_models(folder: Path, wanted: set[str], plan: CodecPlan) -> list[Path]:
    """Put the models that entries name beside the shards, each compressed: a fifth of a large model is air,
    and half of a small one."""
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
    if folder.is_dir():
        for other in folder.iterdir():
            if other not in copies:
                with writing(other):
                    other.unlink()
        if not wanted:
            with writing(folder):
                shutil.rmtree(folder)
    return copies


def opening_text() -> str:
    """The page that tells whoever finds an archive what it is and where the rest is told."""
    page = next(text for name, text in _format_pages() if name == "opening.md")
    return page.replace("VERSION_OF_SOFTWARE", __version__).replace("VERSION_OF_FORMAT", str(FORMAT_VERSION))


def spared_pages(entries: Iterable[Entry]) -> frozenset[str]:
    """Pages of the specification that say nothing of an archive of these entries."""
    needed: set[str] = set()
    for entry in entries:
        if any(part.coding == "codestream" for part in entry.parts):
            needed |= _LEARNED
        if entry.format == "zarr" or entry.path.rsplit("/", 1)[-1] in DOCUMENTS:
            needed |= _ZARR | _LEARNED  # chunks of the codec ``callic`` hold codestreams, and are kept as they are
    return (_LEARNED | _ZARR) - needed


def specification_packed(spared: Collection[str] = ()) -> bytes:
    """What of the specification an archive carries, compressed: a twentieth of an archive of one megabyte. bzip2 makes it
    a seventh smaller than gzip, and is as old and as widely read."""
    return bz2.compress(format_text(spared).encode(), 9)


def format_text(spared: Collection[str] = ()) -> str:
    """The specification that archives carry: the pages of docs/format, one after the other, but those ``spared``."""
    left_out = ("opening.md", *spared)
    pages = [page for page in _format_pages() if page[0] not in left_out]
    order = {
        "index.md": 0,
        "archive.md": 1,
        "images.md": 2,
        "deflate.md": 3,
        "zarr.md": 4,
        "container.md": 5,
        "codestream.md": 6,
        "errors.md": 9,
    }
    pages.sort(key=lambda page: (order.get(page[0], 6), page[0]))
    head = (
        "# The format of this archive\n\n"
        f"Written by callic-archive {__version__}, format version {FORMAT_VERSION}.\n"
    )
    if spared:
        head += f"\nPages that say nothing of what is in it are left out: {', '.join(sorted(spared))}.\n"
    return "\n\n".join([head, *(text.strip() for _, text in pages)]) + "\n"


def _format_pages() -> list[tuple[str, str]]:
    packaged = resources.files("callic_archive").joinpath("specification")
    if packaged.is_dir():
        return [(p.name, p.read_text("utf-8")) for p in packaged.iterdir() if p.name.endswith(".md")]
    source = Path(__file__).parents[2] / "docs" / "format"  # a checkout
    return [(p.name, p.read_text("utf-8")) for p in source.glob("*.md")]


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ReadFailure(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()
