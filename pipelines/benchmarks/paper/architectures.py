"""Table 3 (depth, width, kernel) and table 4 (the gate against attention and a plain convolution).

Both compare short trainings with the same budget, and share the model that the codec uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from callic_archive.model.config import MGCFConfig
from pipelines.benchmarks.paper import quoted
from pipelines.benchmarks.paper.budget import Budget, Material, compare, material
from pipelines.benchmarks.paper.kept import Kept
from pipelines.benchmarks.paper.variants import Mixer, build, kilo_macs, parameters
from pipelines.benchmarks.record import Grid, percent

NAME = "paper-architectures"
UNMEASURED = "not measured yet"


@dataclass(frozen=True)
class Trial:
    """One model of a comparison."""

    depth: int = 3
    dim: int = 128
    kernel: int = 7
    mixer: Mixer = "gate"

    @property
    def label(self) -> str:
        """Its key in the record."""
        return f"depth {self.depth}, dim {self.dim}, kernel {self.kernel}, {self.mixer}"

    @property
    def config(self) -> MGCFConfig:
        """Its shape."""
        return MGCFConfig(channels=3, dim=self.dim, depth=self.depth, kernel=self.kernel)


BASE = Trial()
#: The paper's table 3. Integer inference needs a power of two as width; here all is float.
TABLE3 = tuple(Trial(*key) for key in quoted.TABLE3)
TABLE4 = (BASE, Trial(mixer="attention"), Trial(mixer="plain"))
MIXERS = {
    "gate": "MCG, masked convolutional gating",
    "attention": "masked neighbourhood attention",
    "plain": "masked convolution without a gate",
}


def figures(trial: Trial, found: Material, budget: Budget) -> dict[str, Any]:
    """Train and measure one model; its size too."""
    model = build(trial.config, trial.mixer, budget.seed)
    size = {"parameters": parameters(model), "kilo_macs": kilo_macs(model)}
    return {**size, **compare(model, found, budget)}


def update(
    trials: Sequence[Trial], budget: Budget, name: str = NAME, *, again: bool = False
) -> dict[str, Any]:
    """Measure the models that are not recorded yet, and return the record."""
    kept = Kept(name, {**budget.as_dict(), "megapixels": budget.megapixels}, again=again)
    for trial in trials:
        kept.measure(trial.label, lambda trial=trial: figures(trial, material(budget), budget))  # type: ignore[misc]
    return kept.record()


def _held(found: dict[str, Any]) -> float:
    return float(sum(found["held_out"].values()) / len(found["held_out"]))


def _cells(found: dict[str, Any] | None, base: dict[str, Any] | None) -> tuple[str, ...]:
    """Held-out bits, Kodak bits, Kodak to the base, parameters, kMACs, training and forward time to the base."""
    if found is None:
        return (UNMEASURED, *["-"] * 6)
    ratios = (
        (
            percent(100 * (found["kodak"] / base["kodak"] - 1), 1),
            f"{found['train_cpu_seconds'] / base['train_cpu_seconds']:.2f}",
            f"{found['forward_cpu_seconds_per_megapixel'] / base['forward_cpu_seconds_per_megapixel']:.2f}",
        )
        if base and base["train_cpu_seconds"]
        else ("-", "-", "-")
    )
    return (
        f"{_held(found):.3f}",
        f"{found['kodak']:.3f}",
        ratios[0],
        f"{found['parameters']:,}",
        f"{found['kilo_macs']:,.0f}",
        *ratios[1:],
    )


COLUMNS = (
    "bpsp, held-out training crops",
    "bpsp, Kodak crops",
    "Kodak, to the first row",
    "parameters",
    "kMACs a pixel",
    "training time, to the first row",
    "forward pass, to the first row",
)


def _note(record: dict[str, Any]) -> str:
    s = record["settings"]
    return (
        f"Each model: {s['steps']:,} steps of {s['batch']} crops of {s['crop']}x{s['crop']} pixels "
        f"({s['megapixels']:.1f} Mpx), the same crops in the same order, Muon, rate {s['rate']:g}, seed {s['seed']}. "
        f"Measured by float inference on {s['held_side']}x{s['held_side']} centres: up to {s['held']} held-out images "
        f"a domain (mean of the domains) and {s['kodak']} Kodak images. Times are processor time. The paper's "
        "models were trained for 2 million steps: after so short a training only the order of the rows says "
        "something, and larger models need more steps to show what they can do."
    )


def grid3(record: dict[str, Any]) -> Grid:
    """Table 3, with the paper's bits beside."""
    result = record["result"]
    base = result.get(BASE.label)
    rows = [
        (
            str(trial.depth),
            str(trial.dim),
            str(trial.kernel),
            *_cells(result.get(trial.label), base),
            f"{quoted.TABLE3[trial.depth, trial.dim, trial.kernel]:.2f}",
        )
        for trial in TABLE3
    ]
    columns = ("depth", "dim", "kernel", *COLUMNS, "paper, Kodak (quoted)")
    return Grid("Table 3: depth, width and kernel at equal budgets", columns, rows, _note(record))


def grid4(record: dict[str, Any]) -> Grid:
    """Table 4, with the paper's bits beside."""
    result = record["result"]
    base = result.get(BASE.label)
    rows = []
    for trial in TABLE4:
        printed = quoted.TABLE4.get(trial.mixer)
        rows.append(
            (
                MIXERS[trial.mixer],
                *_cells(result.get(trial.label), base),
                f"{printed.bpsp:.2f}" if printed else "-",
                f"{printed.encode / quoted.TABLE4['gate'].encode:.1f}" if printed else "-",
            )
        )
    columns = ("mixing of space", *COLUMNS, "paper, Kodak (quoted)", "paper, encoding time to MCG (quoted)")
    note = "All three see the same causal taps of the 7x7 kernel and have about as many parameters. " + _note(
        record
    )
    return Grid("Table 4: convolutional gating against neighbourhood attention", columns, rows, note)
