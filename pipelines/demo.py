"""Pack, verify and unpack a folder of sample images, compare the trees and show what was saved.

    python -m pipelines.demo

This is what ``make demo`` runs. Everything lies below ``demo/`` in the project's root, made anew each time.
Exit code: 0 if the restored tree is what it must be, 1 if not, else that of the command that failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.demo_samples import make_samples
from pipelines.tree_compare import compare_trees

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo"


@dataclass(frozen=True)
class Saved:
    """One file of the archive: its path below the samples, and its size before and after in bytes."""

    path: str
    kind: str
    fidelity: str
    source_bytes: int
    stored_bytes: int


def callic(console: Console, *arguments: str | Path) -> list[dict[str, object]]:
    """Run the command line as a user would and return its JSON events. Where it fails, the demo ends."""
    words = [str(a.relative_to(ROOT)) if isinstance(a, Path) else a for a in arguments]
    console.print(f"\n[bold]$ callic-archive {' '.join(words)}[/bold]")
    start = time.monotonic()
    command = [sys.executable, "-m", "callic_archive.cli.main", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    console.print(f"  exit code {done.returncode}, {time.monotonic() - start:.1f} s")
    if done.returncode:
        told = [line for line in done.stdout.splitlines() if '"event": "entry"' not in line]
        console.print(f"[red]`callic-archive {words[0]}` failed.[/red]", *told, sep="\n")
        raise SystemExit(done.returncode)
    return [json.loads(line) for line in done.stdout.splitlines()]


def tree_size(root: Path) -> int:
    """Bytes of all files below ``root``; links are not followed."""
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def savings_table(files: Iterable[Saved]) -> Table:
    """What was saved, one row a file kind and one for all."""
    kinds: dict[str, list[Saved]] = defaultdict(list)
    for file in files:
        kinds[file.kind].append(file)
    table = Table(title="What was saved (codestreams and records; models and index not counted)")
    for header in ("kind", "restored as", "files", "source bytes", "archived bytes", "saved"):
        table.add_column(header, justify="left" if header in ("kind", "restored as") else "right")

    def add(name: str, rows: Sequence[Saved]) -> None:
        before, after = sum(r.source_bytes for r in rows), sum(r.stored_bytes for r in rows)
        saved = f"{1 - after / before:.1%}" if before else "-"
        fidelities = ", ".join(sorted({r.fidelity for r in rows}))
        table.add_row(name, fidelities, f"{len(rows)}", f"{before:,}", f"{after:,}", saved)

    for kind in sorted(kinds):
        add(kind, kinds[kind])
    table.add_section()
    add("all", [row for rows in kinds.values() for row in rows])
    return table


def main() -> int:
    """Run the demonstration; the exit code."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    console = Console()
    samples, archive, restored = DEMO / "samples", DEMO / "samples.callic", DEMO / "restored"
    shutil.rmtree(DEMO, ignore_errors=True)
    make_samples(samples)
    console.print(f"{tree_size(samples):,} bytes of sample files lie in demo/samples.")

    packing = callic(console, "pack", samples, "-o", archive, "--effort", "fast")
    callic(console, "verify", archive)
    listing = callic(console, "list", archive)
    callic(console, "unpack", archive, "-o", restored)

    files = [
        Saved(
            path=str(event["path"]).removeprefix("samples/"),
            kind=str(event["kind"]),
            fidelity=str(event["fidelity"]),
            source_bytes=int(str(event["source_bytes"])),
            stored_bytes=int(str(event["stored_bytes"])),
        )
        for event in listing
        if event["event"] == "entry" and event["type"] == "file"
    ]
    console.print()
    console.print(savings_table(files))
    models = int(str(packing[-1]["model_bytes"]))
    few = "Images as few as these earn small models alone, as they are; without `--effort fast` these are fitted to them first."
    none = "Of images as few as these the learned codec saves less than its models take; `--learned always` shows what it does."
    console.print(
        f"The whole archive takes {tree_size(archive):,} bytes, index and specification included; {models:,} of them are models. "
        f"{few if models else none}"
    )

    problems = compare_trees(samples, restored / "samples", {file.path: file.fidelity for file in files})
    expected = sum(1 for path in samples.rglob("*") if path.is_file() and not path.is_symlink())
    if len(files) != expected:
        problems.append(f"the archive lists {len(files)} files, the samples hold {expected}")
    for problem in problems:
        console.print(f"[red]{problem}[/red]")
    if problems:
        return 1
    console.print(f"[green]All {expected} files, folders and links came back as promised.[/green]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
