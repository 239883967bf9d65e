"""What becomes of each file format: all shared files through the command line, put back, compared, and counted by format.

The tree holds every set of the shared data, odd and broken files among them, and links, holes, an empty folder and modes
of its own. Files are packed one after the other in one process, so that the times between the command's events are theirs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from callic_archive import errors
from callic_archive.archive.context import ContextFinder, read_beside
from callic_archive.errors import SourceError
from callic_archive.images import Limits, parse, sniff
from callic_archive.images.reasons import REASONS
from callic_archive.images.source import HEAD
from callic_archive.images.tiff_ifd import TiffReader
from pipelines.benchmarks.eval_sets import shared_data
from pipelines.benchmarks.record import ROOT, SCRATCH, Grid, say
from pipelines.tree_compare import compare_trees

NAME = "formats"
SETS = ("eval", "robustness", "train")
Choice = Literal["learned", "test"]
_CODECS = {
    "test": "the codec of the tests, which deflates and needs no model: sizes and speeds are not those of the learned one",
    "learned": "the learned codec",
}
_NO_IMAGE, _CONTENT = "no-image", "content"
_MEANINGS = {
    **REASONS,
    _NO_IMAGE: "of no format that is looked into for images",
    _CONTENT: "coded as images, but differences of its compressed bytes were not worth what they take, or cannot be made",
}
#: What can become of a file. "not smaller": understood, but its images take no less than the file as it is.
OUTCOMES = ("bytes", "content", "JPEG XL", "not smaller", "verbatim", "named")
_COMPRESSION = {1: "raw", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits"}
_OTHERS = {b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP", b"\0\0\0\x0cjP": "JPEG 2000", b"GIF8": "GIF"}
_NAMES = {"png": "PNG", "pnm": "PNM", "bmp": "BMP", "npy": "NPY", "dicom": "DICOM", "nifti": "NIfTI", "mgh": "MGH",
          "nrrd": "NRRD", "metaimage": "MetaImage", "zip": "ZIP", "tar": "TAR"}  # fmt: skip


@dataclass(frozen=True)
class Fate:
    """One file: what it is, and what became of it."""

    path: str
    format: str
    outcome: str
    source_bytes: int
    stored_bytes: int
    seconds: float | None  # None of the first file, before which the command started
    repeats: bool  # an earlier file holds the same bytes, so this one takes nothing
    problem: tuple[str, str] | None = None  # code and message
    reason: str = ""  # why it is not coded as images, byte for byte: a code of a problem, or of ``REASONS``


def make_tree(root: Path, sets: Sequence[str], limit_megapixels: float | None) -> tuple[int, int]:
    """Copy the sets below ``root`` and add what no set has; (files, files left out as too large).

    Left out are files of which the samples are more than the limit.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    left_out: list[Path] = []

    def unwanted(folder: str, names: list[str]) -> list[str]:
        if limit_megapixels is None:
            return []
        paths = [Path(folder, name) for name in names]
        large = [p for p in paths if p.is_file() and megapixels(p) > limit_megapixels]
        left_out.extend(large)
        return [path.name for path in large]

    for name in sets:
        shutil.copytree(shared_data() / name, root / name, ignore=unwanted, symlinks=True)
    extras = root / "extras"
    (extras / "empty folder").mkdir(parents=True)
    (extras / "empty folder").chmod(0o700)
    (extras / "kept").write_bytes(b"a file with two names\n" * 40)
    (extras / "kept").chmod(0o440)
    os.link(extras / "kept", extras / "second name")
    (extras / "link").symlink_to("kept")
    (extras / "dangling").symlink_to("../nowhere/at all")
    (extras / "loop").symlink_to(".")
    with open(extras / "holes", "wb") as stream:
        stream.seek(1 << 20)
        stream.write(b"behind a hole")
    with open(os.fsencode(extras) + b"/not-\xff-utf8 \n", "wb") as stream:
        stream.write(b"a name that is no text")
    for number, path in enumerate(sorted(extras.iterdir())):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789 + number), follow_symlinks=False)
    return sum(1 for p in root.rglob("*") if p.is_file() and not p.is_symlink()), len(left_out)


def megapixels(path: Path) -> float:
    """Millions of pixels of all images of a file; 0 for what is no image, or broken."""
    try:
        parsed = parse(path.read_bytes())
    except SourceError:
        return 0.0
    images = parsed.images if parsed is not None else ()
    return float(sum(image.shape[0] * image.shape[1] for image in images)) / 1e6


def command(codec: Choice, *words: str | Path) -> Iterator[tuple[float, dict[str, Any]]]:
    """Run the command line with ``--json``: its events, each with the seconds since the start.

    ``test`` runs it with the codec of the tests, which needs no model. Raises RuntimeError where it says nothing.
    """
    program = (
        ["-m", "callic_archive.cli.main"] if codec == "learned" else [str(ROOT / "tests" / "command.py")]
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CALLIC_TEST_DOUBLE": "dict()"}
    line = [sys.executable, *program, *map(str, words), "--json", "--quiet"]
    begin, said = time.monotonic(), False
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for event in process.stdout:
            said = True
            yield time.monotonic() - begin, json.loads(event)
    if not said:
        raise RuntimeError(f"`callic-archive {words[0]}` said nothing and ended with {process.returncode}")


def kind(path: Path, name: str, contexts: ContextFinder) -> str:
    """What a file claims to be, by its first bytes or by what lies beside it."""
    context = contexts.of(str(path), name.count("/"))
    if context is not None:
        return "zarr chunk" if context.format == "zarr" else "samples with a header beside them"
    with open(path, "rb") as stream:
        head = stream.read(HEAD)
    found = sniff(head)
    if found == "tiff":
        return f"TIFF, {_compression(path)}"
    if found == "gzip":
        return "gzip (NIfTI)" if path.name.endswith(".nii.gz") else "gzip"
    if found is not None:
        return _NAMES.get(found, found)
    return next((text for magic, text in _OTHERS.items() if head.startswith(magic)), "no image")


def _compression(path: Path) -> str:
    data = path.read_bytes()
    try:
        first = next(TiffReader(memoryview(data), Limits()).directories())
        return _COMPRESSION.get(first.one(259, 1), "other")
    except (SourceError, StopIteration, ValueError, OverflowError):
        return "broken"


def outcome(entry: dict[str, Any]) -> str:
    """One of OUTCOMES, of an entry as ``list --json`` shows it."""
    if "problem" in entry:
        return "named"
    if entry["kind"] == "jpeg":
        return "JPEG XL"
    if entry["kind"] not in ("stored", "empty", "sparse"):
        return str(entry["fidelity"])
    return "not smaller" if entry.get("reason") == "not-smaller" else "verbatim"


def why(entry: dict[str, Any], became: str) -> str:
    """Why an entry is not coded as images that give back its bytes; empty where it is, or became JPEG XL."""
    if became == "verbatim":
        return str(entry.get("reason", _NO_IMAGE))
    if became == "named":
        return str(entry["problem"]["code"])
    return {"not smaller": "not-smaller", "content": _CONTENT}.get(became, "")


def _restored(root: Path, again: Path, content: set[str]) -> dict[str, Any]:
    """How the restored tree differs: by our own comparison, and by ``diff -r``."""
    problems = compare_trees(root, again, {})
    expected = {f"{path}: bytes differ" for path in content}
    done = subprocess.run(
        ["diff", "-r", "--brief", "--no-dereference", root, again], capture_output=True, check=False
    )
    named = [line for line in done.stdout.splitlines() if line]
    return {
        "problems": [p for p in problems if p not in expected],
        "content_that_differs": sum(p in expected for p in problems),
        "diff_lines": len(named),
    }


def measure(codec: Choice, sets: Sequence[str], limit_megapixels: float | None = None) -> dict[str, Any]:
    """Pack, verify, unpack and compare; the record."""
    root, again, archive = (
        SCRATCH / "formats" / "all",
        SCRATCH / "formats" / "again",
        SCRATCH / "formats.callic",
    )
    for old in (again, archive, archive.with_name(archive.name + ".partial")):
        shutil.rmtree(old, ignore_errors=True)
    say("formats: copying the sets")
    files, left_out = make_tree(root, sets, limit_megapixels)
    say(f"formats: packing {files} files")
    seconds, times = dict[str, float](), dict[str, float | None]()
    last: float | None = None
    packed: dict[str, Any] = {}
    problems: dict[str, tuple[str, str]] = {}
    for at, event in command(codec, "pack", root, "-o", archive, "--workers", "1", "--learned", "always"):
        if event["event"] == "entry":
            times[_key(event)] = None if last is None else at - last
            last = at
        elif event["event"] == "problem":
            problems[event["path"]] = (
                str(event["code"]),
                str(event["message"]).replace(f"{root.parent}/", ""),
            )
        seconds["pack"], packed = round(at, 1), event
    listing = [e for _, e in command(codec, "list", archive) if e["event"] == "entry" and e["type"] == "file"]
    say("formats: verifying and unpacking")
    back: dict[str, list[str | Path]] = {
        "verify": ["--full", "--against", root.parent],
        "unpack": ["-o", again],
    }
    for verb, words in back.items():
        *_, (at, summed_up) = command(codec, verb, archive, *words, "--workers", "1")
        seconds[verb] = round(at, 1)
        if summed_up["exit_code"]:
            problems[verb] = (str(summed_up["exit_code"]), json.dumps(summed_up))
    say("formats: comparing")
    content = {e["path"].removeprefix("all/") for e in listing if e["fidelity"] == "content"}
    came = _restored(root, again / "all", content)
    fates = list(_fates(root.parent, listing, times, problems))
    result = {
        "codec": codec,
        "files": files,
        "left_out": left_out,
        "limit_megapixels": limit_megapixels,
        "archive_bytes": packed.get("archive_bytes"),
        "verified": "verify" not in problems,
        "unpacked": "unpack" not in problems,
        "restored": came,
        "seconds": seconds,
        "formats": summary(fates),
        "content": sorted(f.path for f in fates if f.outcome == "content"),
        "named": {f.path: list(f.problem) for f in fates if f.problem is not None},
    }
    for old in (root.parent, archive):
        shutil.rmtree(old)
    return result


def _key(event: dict[str, Any]) -> str:
    return str(event.get("path_base64") or event["path"])


def _fates(
    base: Path,
    listing: list[dict[str, Any]],
    times: dict[str, float | None],
    problems: dict[str, tuple[str, str]],
) -> Iterator[Fate]:
    contexts, seen = ContextFinder(read_beside), set[str]()
    for entry in listing:
        if _key(entry) != entry["path"] or "link" in entry:
            continue  # a name that is no text, a second name: of the tree, not of a format
        path = base / entry["path"]
        what = kind(path, entry["path"], contexts)
        became = outcome(entry)
        if entry["kind"] == "zarr" and what == "no image":
            what = "zarr chunk"
        if what == "no image" and became == "not smaller":
            became = "verbatim"  # it repeats a chunk of an array, whose reason it has
            entry = {**entry, "reason": _NO_IMAGE}
        problem = problems.get(str(path))
        repeats = entry["sha256"] in seen
        seen.add(entry["sha256"])
        yield Fate(
            entry["path"].removeprefix("all/"),
            what,
            became,
            entry["source_bytes"],
            0 if repeats else entry["stored_bytes"],
            times.get(_key(entry)),
            repeats,
            problem if problem is not None or became != "named" else (entry["problem"]["code"], ""),
            why(entry, became),
        )


def summary(fates: Sequence[Fate]) -> dict[str, dict[str, Any]]:
    """Format -> counts by outcome, bytes, seconds, and codes of what was named."""
    found: dict[str, dict[str, Any]] = {}
    by_format = defaultdict[str, list[Fate]](list)
    for fate in fates:
        by_format[fate.format].append(fate)
    for name in sorted(by_format, key=lambda n: (n == "no image", n.lower())):
        own = by_format[name]
        counts, timed = (
            Counter(f.outcome for f in own),
            [f for f in own if f.seconds is not None and not f.repeats],
        )
        found[name] = {
            "files": len(own),
            "outcomes": {o: counts[o] for o in OUTCOMES if counts[o]},
            "repeats": sum(f.repeats for f in own),
            "source_bytes": sum(f.source_bytes for f in own),
            "stored_bytes": sum(f.stored_bytes for f in own),
            "timed_bytes": sum(f.source_bytes for f in timed),
            "seconds": round(sum(f.seconds or 0.0 for f in timed), 2),
            "codes": dict(sorted(Counter(f.problem[0] for f in own if f.problem is not None).items())),
            "reasons": {
                reason: {
                    "files": count,
                    "source_bytes": sum(f.source_bytes for f in own if f.reason == reason),
                    "stored_bytes": sum(f.stored_bytes for f in own if f.reason == reason),
                }
                for reason, count in Counter(f.reason for f in own if f.reason).most_common()
            },
        }
    return found


def grids(record: dict[str, Any]) -> list[Grid]:
    """A row for each format, and what came back; then a row for each reason why files of a format are not coded."""
    found = record["result"]
    rows = [_row(name, figures) for name, figures in found["formats"].items()]
    rows.append(_row("all", _total(list(found["formats"].values()))))
    came = found["restored"]
    large = f"; {found['left_out']} files of more than {found['limit_megapixels']} megapixels were left out"
    wrong = len(came["problems"])
    back = (
        f"Made with {_CODECS[found['codec']]}{large if found['limit_megapixels'] else ''}. Bytes: coded as images, and the "
        "very file comes back. Content: equal pixels and metadata, other compressed bytes. JPEG XL: JPEG files as JPEG XL that "
        "gives back their bytes. Not smaller: understood, kept verbatim as that is smaller. Named: broken, or of a kind that "
        "is not coded in a format that is; kept verbatim. Exact: of the files coded as images those with their very "
        "bytes. Files that repeat an earlier one take nothing, and do not count in MB/s (one process, with proofs). "
        f"Restored: {wrong or 'nothing'} "
        f"differs in names, kinds, modes, times, links or bytes but for {came['content_that_differs']} files of fidelity "
        f"content; `verify --full` and `unpack` {'found nothing' if found['verified'] and found['unpacked'] else 'FAILED'}."
    )
    columns = ("format", "files", *OUTCOMES, "exact", "source bytes", "stored bytes", "ratio", "MB/s")
    return [Grid("Formats and what becomes of them", columns, rows, back), _reasons(found["formats"])]


def _reasons(formats: dict[str, dict[str, Any]]) -> Grid:
    """Why files are not coded as images that give back their very bytes."""
    rows = [
        (name, reason, f"{own['files']}", f"{own['source_bytes']:,}", f"{own['stored_bytes']:,}", _meaning(reason))
        for name, figures in formats.items()
        for reason, own in figures.get("reasons", {}).items()
    ]
    note = (
        "Reasons are those that `list --json` shows; codes of problems are of files that are broken or ask for too much. "
        "Bytes of files that repeat an earlier one count as source, and take nothing."
    )
    columns = ("format", "reason", "files", "source bytes", "stored bytes", "the file is")
    return Grid("Why files are not coded as images that give back their bytes", columns, rows, note)


def _meaning(reason: str) -> str:
    """What a reason, or the code of an error, says."""
    if reason in _MEANINGS:
        return _MEANINGS[reason]
    found = next((e for e in vars(errors).values() if isinstance(e, type) and getattr(e, "code", "") == reason), None)
    return " ".join((found.__doc__ or "").split()) if found is not None else ""


def _total(all_figures: list[dict[str, Any]]) -> dict[str, Any]:
    outcomes = Counter[str]()
    for figures in all_figures:
        outcomes.update(figures["outcomes"])
    sums = ("files", "source_bytes", "stored_bytes", "timed_bytes", "seconds")
    return {"outcomes": dict(outcomes), **{key: sum(f[key] for f in all_figures) for key in sums}}


def _row(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    counts = figures["outcomes"]
    exact, content = counts.get("bytes", 0), counts.get("content", 0)
    stored, spent = figures["stored_bytes"], figures["seconds"]
    return (
        name,
        f"{figures['files']}",
        *(str(counts.get(o, "")) for o in OUTCOMES),
        f"{100 * exact / (exact + content):.0f} %" if exact + content else "-",
        f"{figures['source_bytes']:,}",
        f"{stored:,}",
        f"{figures['source_bytes'] / stored:.2f}" if stored else "-",
        f"{figures['timed_bytes'] / 1e6 / spent:.2f}" if spent else "-",
    )
