"""Pack every file of a folder of odd, broken and hostile files, put it together again, compare, and count.

    python -m tests.robustness FOLDER... [--limit SECONDS]

A cheap codec stands in for the learned one: what is tried is how files are taken apart, not how well they shrink. Prints
one row for each format and outcome, the slowest files, and why files that claim to be images were kept verbatim.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from callic_archive.archive import image_coding
from callic_archive.archive.pack_one import content_equal, pack_one
from callic_archive.archive.packed import Packed
from callic_archive.archive.verbatim import expand
from callic_archive.images import Limits, Parsed, parse, rebuild, sniff
from tests.doubles import DeflatePlan

# "not smaller": understood and put together again, but Zstandard or the file itself has fewer bytes.
OUTCOMES = ("image/bytes", "image/content", "not smaller", "verbatim", "verbatim, named")


@dataclass(frozen=True)
class Result:
    """What became of one file."""

    path: Path
    format: str
    outcome: str
    seconds: float
    reason: str = ""
    wrong: str = ""  # what was not as it must be; empty where all is well


def restored(packed: Packed) -> tuple[bytes, Parsed | None]:
    """The file that the pieces give, and for an image what it was put together from."""
    codec = DeflatePlan().open()
    pieces = list(packed.pieces)
    plain = [
        expand(p.payload, p.coding, p.size) for p in pieces if p.stream is None
    ]
    if packed.method != "image":
        return b"".join(plain), None
    images = tuple(
        image_coding.decode_image(p.payload, p.coding, p.stream, codec) for p in pieces if p.stream is not None
    )
    parts = Parsed(packed.format or "", packed.fidelity, images, b"".join(plain), packed.recipe)
    return put_together(parts), parts


def put_together(parsed: Parsed) -> bytes:
    """The file of a recipe, surrounding bytes and images, of which nothing is a view of the source."""
    out = io.BytesIO()
    recipe = json.loads(json.dumps(parsed.recipe))
    rebuild(parsed.format, recipe, parsed.surround, [np.array(i, order="C") for i in parsed.images], out)
    return out.getvalue()


def examine(path: Path) -> Result:
    """Pack one file and look at what came of it. Never raises for anything in the file."""
    data = path.read_bytes()
    began = time.perf_counter()
    packed = pack_one(memoryview(data), codec=DeflatePlan().open)
    again, parts = restored(packed)
    seconds = time.perf_counter() - began
    wrong = ""
    if packed.fidelity == "bytes" and hashlib.sha256(again).hexdigest() != packed.sha256:
        wrong = "other bytes came back"
    if packed.fidelity == "content":
        source = parse(data)
        if source is None or parts is None or not content_equal(source, again, Limits()):
            wrong = "other content came back"
    if packed.failure is not None and packed.failure.code == "E511":
        wrong = f"an unplanned failure: {packed.failure}"
    kind = packed.format or sniff(data) or "no image"
    if packed.method == "image":
        return Result(path, kind, f"image/{packed.fidelity}", seconds, wrong=wrong)
    if packed.failure is None:
        understood = parse(data)
        if understood is not None and understood.images:
            if understood.fidelity == "bytes" and put_together(understood) != data:
                wrong = "other bytes would have come back"
            return Result(path, understood.format, "not smaller", seconds, wrong=wrong)
        return Result(path, kind, "verbatim", seconds, wrong=wrong)
    return Result(path, kind, "verbatim, named", seconds, f"{packed.failure.code} {packed.failure}", wrong)


def survey(folders: Sequence[Path]) -> Iterator[Result]:
    """All files below the folders."""
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
            yield examine(path)


def table(results: Sequence[Result]) -> str:
    """The counts, a row a format."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        counts[result.format][result.outcome] += 1
        counts["all"][result.outcome] += 1
    rows = ["| format | " + " | ".join(OUTCOMES) + " |", "|---|" + "---|" * len(OUTCOMES)]
    for name in sorted(counts, key=lambda n: (n == "all", n)):
        rows.append(f"| {name} | " + " | ".join(str(counts[name][o]) for o in OUTCOMES) + " |")
    return "\n".join(rows)


def main() -> int:
    """Run it. Returns 1 where a file came back wrong, failed in an unplanned way, or took too long."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that no file may take longer than")
    parser.add_argument("--reasons", action="store_true", help="name each file that was kept with a reason")
    arguments = parser.parse_args()
    results = list(survey(arguments.folders))
    print(table(results))
    print("\nslowest:")
    for result in sorted(results, key=lambda r: -r.seconds)[:3]:
        print(f"  {result.seconds:.2f} s  {result.path}")
    if arguments.reasons:
        for result in results:
            if result.reason:
                print(f"{result.path}: {result.reason}")
    bad = [r for r in results if r.wrong or r.seconds > arguments.limit]
    for result in bad:
        print(f"WRONG {result.path}: {result.wrong or f'took {result.seconds:.0f} s'}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
