"""Fuzz parsers: in this process, one input after the other, each within bounds of memory and processor time.

    python -m tests.fuzzing [TARGET[:COUNT]...] [--count N | --seconds S] [--seed N] [--keep FOLDER]

Inputs are broken copies of good ones, the same for the same seed. Prints a JSON line a target; findings are kept in
FOLDER, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = Path(__file__).parents[2] / "callic_archive"
CPU_SECONDS = 10.0  # that one input may take, the compilation of loops before the first aside
MEMORY = (
    2 << 30
)  # bytes of address space that all inputs of a process may take beyond what it has after the seeds


class Slow(BaseException):
    """An input takes too long. No parser catches it."""


def slow(number: int, frame: FrameType | None) -> None:
    """What a signal does when an input took too long."""
    raise Slow(f"more than {CPU_SECONDS:.0f} seconds")


def bound_memory() -> None:
    """Let this process have no more than MEMORY beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def attempt(run: Any, data: bytes) -> tuple[str, str]:
    """(what came of it, why that is a finding or nothing)."""
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        return run(data), ""
    except (Exception, Slow) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return "FINDING", text[:400]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def targets() -> dict[str, Any]:
    """All that is fuzzed, by name."""
    from tests.fuzzing import archive_targets, entry_targets, piece_targets, stream_targets, word_targets
    from tests.fuzzing import targets as image_targets

    modules = (image_targets, stream_targets, piece_targets, archive_targets, entry_targets, word_targets)
    return {name: target for module in modules for name, target in module.TARGETS.items()}


def reached(run: Any, inputs: list[bytes]) -> set[str]:
    """Modules of the package, as paths in it, of which functions ran while ``run`` took the inputs."""
    files = set[str]()

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    sys.setprofile(look)
    try:
        for data in inputs:
            run(data)
    finally:
        sys.setprofile(None)
    return {
        Path(file).relative_to(PACKAGE).as_posix() for file in files if Path(file).is_relative_to(PACKAGE)
    }


def fuzz(name: str, count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One target: counts, and one finding for each place where an input failed."""
    target, found, findings = targets()[name], Counter[str](), dict[str, str]()
    rng = random.Random(f"{arguments.seed} {name}")
    good = target.seeds()
    began, number = time.monotonic(), 0

    def inputs() -> Iterator[bytes]:
        yield from good
        while True:
            yield target.breaks(rng.choice(good), rng, good)

    for data in inputs():
        if number >= len(good) + count or time.monotonic() - began > arguments.seconds:
            break
        number += 1
        if arguments.current is not None:
            arguments.current.write_bytes(name.encode() + b"\n" + data)
        came, why = attempt(target.run, data)
        found[came] += 1
        key = why.rsplit("(", 1)[-1] + why.split(":")[0]
        if why and key not in findings:
            kept = keep(arguments.keep, name, data)
            findings[key] = f"{kept}: {why}"
    return {"target": name, "inputs": number, "outcomes": dict(found), "findings": sorted(findings.values())}


def keep(folder: Path | None, name: str, data: bytes) -> str:
    """Write an input that failed, and say where; its first bytes in hexadecimal where there is no folder."""
    if folder is None:
        return data[:2000].hex()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:10]}"
    path.write_bytes(data)
    return str(path)


def _guided(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """Hand over to atheris, before anything of the package is imported that it could not watch."""
    from tests.fuzzing.guided import guided

    if len(arguments.targets) != 1:
        parser.error("--guided takes one target")
    try:
        guided(arguments.targets[0], arguments.guided, arguments.seconds, arguments.seed)
    except ImportError as error:
        parser.error(f"--guided needs atheris ({error}): pip install -c constraints.txt '.[fuzz]'")
    return 0


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--count", type=int, default=1 << 60, help="broken inputs of each target")
    parser.add_argument("--seconds", type=float, default=1e9, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None, help="folder for inputs that failed")
    parser.add_argument(
        "--current", type=Path, default=None, help="file that holds the input at hand, should all end"
    )
    parser.add_argument("--modules", action="store_true", help="tell which modules the good inputs reach")
    parser.add_argument("--guided", type=Path, default=None, metavar="FOLDER",
                        help="with atheris, for one target: its corpus lies and grows in FOLDER")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.guided is not None:
        return _guided(parser, arguments)
    faulthandler.enable()
    signal.signal(signal.SIGVTALRM, slow)
    known = targets()
    counts = dict(target.partition(":")[::2] for target in arguments.targets or known)
    names = list(counts)
    modules = {}
    for name in names:  # what is compiled and loaded once does not count
        modules[name] = sorted(reached(known[name].run, known[name].seeds()))
    bound_memory()
    bad = False
    for name in names:
        result = fuzz(name, int(counts[name] or arguments.count), arguments)
        bad |= bool(result["findings"])
        if arguments.modules:
            result["modules"] = modules[name]
        print(json.dumps(result), flush=True)
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
