"""docs/paper.md from the records: the paper's tables and figures, and what is not measured yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.benchmarks import conventional
from pipelines.benchmarks.paper import adapting, architectures, kodak, plots, times
from pipelines.benchmarks.record import Grid, load

HEAD = """\
# The paper's tables and figures

Made by `python -m pipelines.benchmark render` from measurements; do not edit this page.

CALLIC (arXiv 2412.17464) evaluates its method with four tables and two figures. Here they are again, measured on this
project's own runs. Its models saw far less training than the paper's two million steps, so the levels differ, and the
comparisons inside each table are what to look at. What is taken from the paper is marked as quoted. The project's own
questions (whole archives, exactness, speed, memory) are answered on the [page of benchmarks](benchmarks.md).

Each part is measured by its own command, goes on where it was interrupted, and says so here as long as it is incomplete:

```sh
python -m pipelines.benchmark paper table1    # processor time: half an hour, an adapter for every Kodak image
python -m pipelines.benchmark paper table2    # ten minutes, on a quiet machine
python -m pipelines.benchmark paper table3    # nine models, half an hour in all
python -m pipelines.benchmark paper table4    # two more models, 5 minutes
python -m pipelines.benchmark paper figure3   # a quarter of an hour
python -m pipelines.benchmark paper figure4   # a quarter of an hour
python -m pipelines.benchmark render          # this page and its plots
```

`paper all` runs the six in turn; `--quick` tries one out, recorded apart; `--again` forgets what is recorded.
Plots need the extra `benchmark`: `pip install -c constraints.txt '.[benchmark]'`.
"""
UNMEASURED = "not measured yet"
Origin = Callable[[dict[str, Any]], str]


def own_parameters() -> str:
    """Parameters of the shipped shape, for table 1."""
    from callic_archive.model.config import MGCFConfig
    from pipelines.benchmarks.paper.variants import build, parameters

    return f"{parameters(build(MGCFConfig(), 'gate', 0)) / 1e3:.0f}K"


def _missing_cells(grid: Grid) -> int:
    return sum(UNMEASURED in row for row in grid.rows)


def _section(
    title: str, command: str, name: str, make: Callable[[dict[str, Any]], Grid], origin: Origin
) -> tuple[str, bool]:
    """Text of a part with a record of its own, and whether it is complete."""
    found = load(name)
    if not found.get("result"):
        return (
            f"## {title}\n\nNot measured yet: `python -m pipelines.benchmark paper {command}` measures it.\n",
            False,
        )
    grid = make(found)
    parts = [f"## {title}\n", origin(found) + "\n"]
    missing = _missing_cells(grid)
    if missing:
        parts.append(
            f"Incomplete: {missing} of {len(grid.rows)} rows are not measured yet; "
            f"`python -m pipelines.benchmark paper {command}` goes on.\n"
        )
    return "\n".join([*parts, grid.markdown() + "\n"]), not missing


def _table1(origin: Origin) -> tuple[str, bool]:
    grid = kodak.grid(parameters=own_parameters())
    results = {"archives": load("sizes"), "others": load(conventional.NAME)}
    kept = {
        f"{key}, {setting}": {"context": found["result"]["kodak"][setting]["context"]}
        for key, found in results.items()
        for setting in found.get("result", {}).get("kodak", {})
        if "context" in (found["result"]["kodak"][setting] or {})
    }
    text = "## Table 1: sizes\n\n"
    if kept:
        text += origin({"result": kept}) + "\n\n"
    return text + grid.markdown() + "\n", not _missing_cells(grid)


def _picture(
    draw: Callable[[dict[str, Any], Path], Path | None], name: str, path: Path, alternative: str
) -> str:
    """The line that shows a plot, or nothing where there is nothing to draw."""
    found = load(name)
    if not found.get("result") or draw(found, path) is None:
        path.unlink(missing_ok=True)  # an older plot would show figures that are no longer recorded
        return ""
    return f"\n![{alternative}]({path.parent.name}/{path.name})\n"


def page(origin: Origin, folder: Path = plots.FOLDER) -> tuple[str, list[str]]:
    """The page's text, with the plots drawn into ``folder``, and the parts that are incomplete.

    ``origin``: from a record, where its figures come from. Raises ModuleNotFoundError where there is something
    to draw and matplotlib is missing.
    """
    sections = {
        "table1": _table1(origin),
        "table2": _section("Table 2: times", "table2", times.NAME, times.grid, origin),
        "table3": _section(
            "Table 3: depth, width, kernel", "table3", architectures.NAME, architectures.grid3, origin
        ),
        "table4": _section(
            "Table 4: gating against attention", "table4", architectures.NAME, architectures.grid4, origin
        ),
        "figure3": _section(
            "Figure 3: bits by steps", "figure3", adapting.STEPS_NAME, adapting.grid_steps, origin
        ),
        "figure4": _section(
            "Figure 4: configurations of RPFT", "figure4", adapting.CONFIGURATIONS_NAME,
            adapting.grid_configurations, origin,
        ),
    }  # fmt: skip
    pictures = {
        "figure3": _picture(
            plots.steps, adapting.STEPS_NAME, folder / "paper-figure3.svg", "Change of the bits by steps T"
        ),
        "figure4": _picture(
            plots.configurations, adapting.CONFIGURATIONS_NAME, folder / "paper-figure4.svg",
            "Bits by time of RPFT's configurations",
        ),
    }  # fmt: skip
    parts = [HEAD, *(text + pictures.get(part, "") for part, (text, _) in sections.items())]
    return "\n".join(parts), [part for part, (_, complete) in sections.items() if not complete]
