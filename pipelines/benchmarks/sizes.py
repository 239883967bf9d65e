"""Whole archives of the evaluation sets: packed, verified, unpacked and compared by the command line, and
weighed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.benchmarks import conventional
from pipelines.benchmarks.eval_sets import SETS, counted_images, files, shared_data
from pipelines.benchmarks.record import ROOT, SCRATCH, Grid, context, load, model_digests, say, write
from pipelines.tree_compare import compare_trees

NAME = "sizes"
#: ``pack`` without options of how to code: models that do not pay are left out.
AS_IT_COMES = "default"
WORK = SCRATCH
#: Parts of an archive that cost the same whatever is packed.
FIXED = ("data/models", "data/FORMAT.md", "data/specification.md.bz2")


@dataclass(frozen=True)
class Ran:
    """A finished command: its JSON events, its exit code and its seconds."""

    events: list[dict[str, Any]]
    code: int
    seconds: float

    @property
    def summary(self) -> dict[str, Any]:
        """The last event."""
        return self.events[-1]

    def entries(self) -> list[dict[str, Any]]:
        """Events about files of the archive."""
        return [e for e in self.events if e["event"] == "entry" and e.get("type", "file") == "file"]


def callic(*arguments: str | Path) -> Ran:
    """Run the command line as a user would, with ``--json``."""
    command = [sys.executable, "-m", "callic_archive.cli.main", *map(str, arguments), "--json", "--quiet"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    events = [json.loads(line) for line in done.stdout.splitlines()]
    if not events:
        raise RuntimeError(f"`callic-archive {arguments[0]}` said nothing: {done.stderr[-2000:]}")
    return Ran(events, done.returncode, round(seconds, 1))


def must(ran: Ran) -> Ran:
    """A command that has to succeed. Raises RuntimeError with its summary."""
    if ran.code:
        raise RuntimeError(f"exit code {ran.code}: {json.dumps(ran.summary)}")
    return ran


def tree_bytes(root: Path) -> int:
    """Bytes of all files below a folder, or of one file."""
    paths = [root] if root.is_file() else [p for p in root.rglob("*") if p.is_file()]
    return sum(path.stat().st_size for path in paths)


def _source(name: str, limit: int | None) -> Path:
    """The folder to pack: the set itself, or a copy of its first files."""
    folder = shared_data() / "eval" / name
    if limit is None:
        return folder
    copy = WORK / "sources" / name
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for path in files(name, limit):
        shutil.copy2(path, copy)
    shutil.copystat(folder, copy)
    return copy


def identical(source: Path, restored: Path, fidelity: dict[str, str]) -> dict[str, Any]:
    """How many files came back as promised, by what was promised, and every difference."""
    problems = compare_trees(source, restored, fidelity)
    wrong = {problem.split(": ")[0] for problem in problems}
    counts = {
        kind: [
            sum(path not in wrong for path, promised in fidelity.items() if promised == kind),
            sum(promised == kind for promised in fidelity.values()),
        ]
        for kind in ("bytes", "content")
    }
    same = sum((source / path).read_bytes() == (restored / path).read_bytes() for path in fidelity)
    return {"kept": counts, "equal_bytes": same, "problems": problems}


def measure(
    name: str,
    adapt: str,
    *,
    limit: int | None = None,
    steps: int | None = None,
    workers: int | None = None,
    back: bool = True,
) -> dict[str, Any]:
    """Pack, list, verify and unpack one set; figures of the archive and of what came back.

    Without ``back`` the proof that packing makes of every file has to do.
    """
    source = _source(name, limit)
    WORK.mkdir(parents=True, exist_ok=True)
    archive, restored = WORK / f"{name}-{adapt}.callic", WORK / f"{name}-{adapt}"
    for old in (archive, restored, archive.with_name(archive.name + ".partial")):
        shutil.rmtree(old, ignore_errors=True)
    crew = ["--workers", str(workers)] if workers else []
    more = [*crew, *(["--steps", str(steps)] if steps is not None else [])]
    how = [] if adapt == AS_IT_COMES else ["--adapt", adapt, "--learned", "always"]
    packed = must(callic("pack", source, "-o", archive, *how, *more))
    listing = must(callic("list", archive)).entries()
    entries = {str(e["path"]).removeprefix(f"{source.name}/"): e for e in listing}
    seconds = {"pack": packed.seconds}
    came: dict[str, Any] = {}
    if back:
        verified = callic("verify", archive, "--full", *crew)
        unpacked = callic("unpack", archive, "-o", restored, *crew)
        came = identical(source, restored / source.name, {p: str(e["fidelity"]) for p, e in entries.items()})
        came |= {"verified": verified.code == 0, "unpacked": unpacked.code == 0}
        seconds |= {"verify": verified.seconds, "unpack": unpacked.seconds}
        shutil.rmtree(restored)
    counted = list(counted_images(files(name, limit)))
    images = {item.path.name for item in counted}
    total, fixed = tree_bytes(archive), sum(tree_bytes(archive / part) for part in FIXED)
    outside = sum(int(e["stored_bytes"]) for path, e in entries.items() if path not in images)
    result = {
        "files": len(entries),
        "counted_files": len(images),
        "samples": sum(item.image.size for item in counted),
        "source_bytes": sum(int(e["source_bytes"]) for e in entries.values()),
        "archive_bytes": total,
        "fixed_bytes": fixed,
        "uncounted_bytes": outside,  # of files that hold no counted image
        "learned_files": sum(bool(e["models"]) for e in entries.values()),
        "adapters": len({digest for e in entries.values() for digest in e["adapters"]}),
        **came,
        "seconds": seconds,
    }
    shutil.rmtree(archive)
    return result


def update(
    sets: list[str],
    adapts: list[str],
    *,
    limit: int | None = None,
    steps: int | None = None,
    workers: int | None = None,
    force: bool = False,
    back: bool = True,
) -> dict[str, Any]:
    """Measure what was not yet measured with these models, and return the whole record."""
    record = load(NAME) or {"benchmark": NAME, "result": {}}
    for name in sets:
        label = name if limit is None else f"{name} (first {limit})"
        known = record["result"].setdefault(label, {})
        for adapt in adapts:
            if adapt in known and known[adapt]["context"]["models"] == model_digests() and not force:
                say(f"{label}, --adapt {adapt}: recorded before")
                continue
            say(f"{label}, --adapt {adapt}: packing, verifying, unpacking")
            figures = measure(name, adapt, limit=limit, steps=steps, workers=workers, back=back)
            known[adapt] = {**figures, "context": context()}
            write(NAME, {**record, **context()})
    return record


def _bits(figures: dict[str, Any], what: str) -> float:
    """Bits per counted sample: of the ``whole`` directory, ``nofixed`` without fixed parts, or ``images``
    alone."""
    size = figures["archive_bytes"]
    if what != "whole":
        size -= figures["fixed_bytes"]
    if what == "images":
        size -= figures["uncounted_bytes"]
    return 8 * float(size) / float(figures["samples"])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _kept(figures: dict[str, Any]) -> str:
    parts = [f"{kept}/{of} {kind}" for kind, (kept, of) in figures["kept"].items() if of]
    return ", ".join(parts)


def _where_models_lose(record: dict[str, Any], others: dict[str, Any]) -> str:
    """On which sets the whole directory is larger than what JPEG XL makes of the bare images, said in a sentence."""
    larger = []
    for label, settings in record.get("result", {}).items():
        jxl = conventional.bits(others, label, "jxl9")
        if jxl and settings and min(_bits(found, "whole") for found in settings.values()) > jxl:
            larger.append(label)
    if not larger:
        return ""
    return (
        "Models and specification take the same whatever is packed. Counting all that there is in the directory, these few "
        f"megabytes of images take more than as JPEG XL effort 9 files: {', '.join(larger)}."
    )


def _margin(bits: float | None, other: float | None) -> str:
    return f"{100 * (bits / other - 1):+.1f} %" if bits and other else "-"


def grids(record: dict[str, Any], others: dict[str, Any]) -> list[Grid]:
    """Sizes beside the conventional codecs, and what came back."""
    size_rows, whole_rows, back_rows = [], [], []
    for label, settings in record.get("result", {}).items():
        own = {a: _bits(f, "images") for a, f in settings.items()}
        figures = [conventional.bits(others, label, key) for key in conventional.CODECS]
        best = min((bits for adapt, bits in own.items() if adapt != AS_IT_COMES), default=None)
        jxl = figures[list(conventional.CODECS).index("jxl9")]
        whole = _bits(settings[AS_IT_COMES], "whole") if AS_IT_COMES in settings else None
        size_rows.append(
            (
                label,
                _cell(own.get("none")),
                _cell(own.get("collection")),
                _cell(whole),
                *map(_cell, figures),
                _margin(best, jxl),
                _margin(whole, jxl),
            )
        )
        for adapt, found in settings.items():
            whole_rows.append(
                (
                    label,
                    adapt,
                    f"{found['learned_files']}/{found['files']}",
                    f"{found['source_bytes']:,}",
                    f"{found['archive_bytes']:,}",
                    f"{found['fixed_bytes']:,}",
                    f"{found['samples']:,}",
                    _cell(_bits(found, "whole")),
                    _cell(_bits(found, "nofixed")),
                    _cell(_bits(found, "images")),
                    str(found["adapters"]),
                )
            )
            spent = found["seconds"]
            if "verified" not in found:
                continue
            back_rows.append(
                (
                    label,
                    adapt,
                    f"{found['files']}",
                    _kept(found),
                    f"{found['equal_bytes']}",
                    "yes" if found["verified"] else "NO",
                    "yes" if found["unpacked"] else "NO",
                    f"{len(found['problems'])}",
                    f"{spent['pack']:.0f}",
                    f"{spent['verify']:.0f}",
                    f"{spent['unpack']:.0f}",
                )
            )
    titles = tuple(codec.title for codec in conventional.CODECS.values())
    return [
        Grid(
            "Bits per sample",
            (
                "set",
                "archive, --adapt none",
                "archive, --adapt collection",
                "whole directory",
                *titles,
                "better archive, to JPEG XL e9",
                "whole directory, to JPEG XL e9",
            ),
            size_rows,
            "Archive: everything in the directory (metadata, file headers, digests, index, adapters, "
            "manifests) but the models, "
            "the specification and the files without counted images. Whole directory: `pack` as it comes, and all that it "
            "wrote. The others: the bare images alone, 2D "
            "planes one by one, "
            "channels jointly; all pages of a TIFF are counted, repeated channels once.",
        ),
        Grid(
            "Whole archives",
            (
                "set",
                "--adapt",
                "files with learned code",
                "source bytes",
                "archive bytes",
                "of these models and specification",
                "samples counted",
                "bpsp, whole directory",
                "bpsp, without models and specification",
                "bpsp, files with counted images",
                "adapters",
            ),
            whole_rows,
            "--adapt none and collection with `--learned always`; default: `pack` as it comes, which fits models to the "
            f"set (decision 0026) and leaves out those that do not pay. {_where_models_lose(record, others)}",
        ),
        Grid(
            "What came back",
            (
                "set",
                "--adapt",
                "files",
                "identical as promised",
                "of these equal in bytes",
                "verify --full",
                "unpack",
                "differences",
                "pack s",
                "verify s",
                "unpack s",
            ),
            back_rows,
        ),
    ]


__all__ = ["SETS", "callic", "grids", "identical", "measure", "must", "tree_bytes", "update"]
