"""Results on disk: one JSON file a benchmark, with the command, the date, the machine's class and the
versions."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
#: Figures are kept beside the training records, so that one part can be measured again without all others.
RESULTS = ROOT / "manifests" / "benchmarks"
#: Archives and restored trees, while a measurement lasts.
SCRATCH = ROOT / "runs" / "benchmarks"
LIBRARIES = ("numpy", "numba", "torch", "torchac", "imagecodecs", "dask", "zstandard")


@dataclass(frozen=True)
class Grid:
    """A table as text, shown on the terminal and in the documentation alike. Numbers stand to the right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]] = ()
    note: str = ""

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, caption=self.note or None)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page."""
        lines = [f"**{self.title}**", ""]
        lines += [f"| {' | '.join(self.columns)} |", f"|{'---|' * len(self.columns)}"]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


def machine_class() -> str:
    """What kind of machine this is, without its name: cores, architecture, vector extension."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    kind = "VM" if "hypervisor" in flags else "machine"
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    vectors += " and AMX" if "amx_tile" in flags else ""
    cores = len(os.sched_getaffinity(0))
    return f"{cores}-core {platform.machine().replace('_', '-')} {kind}, {vectors}"


def versions() -> dict[str, str]:
    """Python's version and those of the libraries that decide speed or size."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def model_digests() -> dict[str, str]:
    """Name -> first 16 digits of the SHA-256 of every shipped model."""
    folder = ROOT / "callic_archive" / "model" / "weights_data"
    digests: dict[str, str] = json.loads((folder / "digests.json").read_text())
    return {name: digest[:16] for name, digest in digests.items()}


def context() -> dict[str, Any]:
    """What every figure is recorded with."""
    return {
        "command": shlex.join(["python", "-m", "pipelines.benchmark", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine_class(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(),
        "models": model_digests(),
    }


def result_path(name: str) -> Path:
    """Where the figures of a benchmark lie."""
    return RESULTS / f"{name}.json"


def load(name: str) -> dict[str, Any]:
    """The record of a benchmark, empty when it never ran."""
    path = result_path(name)
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def save(name: str, result: Any) -> dict[str, Any]:
    """Write the record of a benchmark that ran just now, and return it."""
    record = {"benchmark": name, **context(), "result": result}
    write(name, record)
    return record


def write(name: str, record: dict[str, Any]) -> None:
    """Replace a record in one step: a killed run leaves the old one."""
    path = result_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    os.replace(temporary, path)


def show(grids: Sequence[Grid]) -> None:
    """Print tables."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    for grid in grids:
        console.print(grid.rich())


def say(text: str) -> None:
    """One line of progress on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def median(values: Sequence[float]) -> float:
    """Median of a few measurements."""
    return float(statistics.median(values))


def percent(value: float, digits: int = 2) -> str:
    """A signed percentage."""
    return f"{value:+.{digits}f} %"


def yes(value: bool) -> str:
    """A finding."""
    return "yes" if value else "NO"
