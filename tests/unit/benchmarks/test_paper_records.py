"""Measurements that are interrupted and go on, and the page of complete, incomplete and missing records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from callic_archive.codec.encoder import encode_tile
from callic_archive.codec.engine import Engine, mixture_tables
from callic_archive.codec.planning import check_image, plan_group
from callic_archive.images.planes import choose_packing
from pipelines import benchmark
from pipelines.benchmarks import record, render
from pipelines.benchmarks.paper import adapting, architectures, kodak, page, plots, times
from pipelines.benchmarks.paper.budget import Budget
from pipelines.benchmarks.paper.kept import Kept
from pipelines.mint_conformance import scene
from tests.unit.model.builders import tiny_models


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of a test of its own."""
    folder = tmp_path / "results"
    monkeypatch.setattr(record, "RESULTS", folder)
    return folder


class Interrupted(Exception):
    """The machine goes down."""


# -- going on -----------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_stopped(results: Path) -> None:
    measured: list[str] = []

    def measure(label: str) -> dict[str, Any]:
        measured.append(label)
        if measured == ["a", "b"]:
            raise Interrupted
        return {"bits": len(measured)}

    kept = Kept("part", {"steps": 3})
    kept.measure("a", lambda: measure("a"))
    with pytest.raises(Interrupted):
        kept.measure("b", lambda: measure("b"))
    assert set(json.loads((results / "part.json").read_text())["result"]) == {"a"}
    again = Kept("part", {"steps": 3})
    for label in ("a", "b", "c"):
        again.measure(label, lambda label=label: measure(label))
    assert measured == ["a", "b", "b", "c"]
    found = record.load("part")
    assert found["settings"] == {"steps": 3}
    assert found["result"]["a"]["bits"] == 1
    assert all({"date", "machine", "command"} <= set(row["context"]) for row in found["result"].values())


def test_figures_of_other_settings_are_neither_mixed_nor_lost() -> None:
    Kept("part", {"steps": 3, "seed": 1}).measure("a", lambda: {"bits": 1})
    with pytest.raises(click.UsageError, match=r"part\.json holds figures of another seed, steps;.*--again"):
        Kept("part", {"steps": 4})
    assert record.load("part")["result"]["a"]["bits"] == 1
    Kept("part", {"steps": 4}, again=True).measure("b", lambda: {"bits": 2})
    assert set(record.load("part")["result"]) == {"b"}


def test_tables_3_and_4_share_their_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def figures(trial: architectures.Trial, *_: Any) -> dict[str, Any]:
        measured.append(trial.label)
        return architecture_row(2.8)

    monkeypatch.setattr(architectures, "figures", figures)
    monkeypatch.setattr(architectures, "material", lambda budget: None)
    budget = Budget(steps=1)
    architectures.update(architectures.TABLE3, budget)
    architectures.update(architectures.TABLE4, budget)
    assert len(measured) == len(set(measured)) == len(architectures.TABLE3) + 2
    with pytest.raises(click.UsageError, match="another threads"):
        architectures.update(architectures.TABLE4, Budget(steps=1, threads=2))


def test_the_configurations_differ_in_what_their_titles_say() -> None:
    default = adapting.recorded(adapting.PAPER)
    differing = {
        key: {name for name, value in adapting.recorded(options).items() if value != default[name]}
        for key, (_, options) in adapting.CONFIGURATIONS.items()
    }
    assert differing == {
        "default": set(),
        "all": {"start_share"},
        "e=0.3": {"exponent"},
        "e=0.1": {"exponent"},
        "increasing": {"order"},
        "random": {"order"},
        "no depth-wise": {"shape"},
    }
    assert adapting.CONFIGURATIONS["no depth-wise"][1].shape.rank_depthwise == 0
    json.dumps(default)


# -- coding without CCI -------------------------------------------------------------------------------------


def test_steps_and_full_maps_give_the_stream_of_one_pass() -> None:
    image = check_image(scene(np.random.default_rng(3), 12, 14, 3, 255).astype(np.uint8))
    plan = plan_group(image, range(3), [choose_packing(image[:, :, c]) for c in range(3)], tiny_models())
    prepared = Engine("numpy", threads=1).prepare(plan.model, None)
    levels = plan.levels(image, (0, 0, 12, 14))
    stream = encode_tile(levels, 8, plan, prepared, mixture_tables(plan.model), "range")
    assert times.encode_in_steps(levels, 8, plan, prepared) == stream
    assert times.encode_in_steps(levels, 8, plan, times.FullMaps(prepared)) == stream


# -- the page -----------------------------------------------------------------------------------------------


def architecture_row(bits: float) -> dict[str, Any]:
    return {
        "parameters": 564_289, "kilo_macs": 559.1, "held_out": {"a": bits, "b": bits + 0.2}, "kodak": bits + 0.1,
        "train_cpu_seconds": 170.0, "forward_cpu_seconds_per_megapixel": 20.0,
    }  # fmt: skip


def fit_row(image: str, steps: int, pixels: int, seconds: float = 10.0) -> dict[str, Any]:
    return {
        "image": image, "samples": 1000, "base_bits": 3000, "steps": steps, "pixel_bits": pixels,
        "adapter_bits": 40 if steps else 0, "cpu_seconds": seconds,
    }  # fmt: skip


def record_architectures(trials: tuple[architectures.Trial, ...]) -> None:
    budget = Budget()
    kept = Kept(architectures.NAME, {**budget.as_dict(), "megapixels": budget.megapixels})
    for number, trial in enumerate(trials):
        kept.measure(trial.label, lambda number=number: architecture_row(3 + number / 10))


def record_figures(steps: tuple[int, ...], configurations: int) -> None:
    images = ["natural", "kodak 05"]
    settings = {"images": images, "steps": [0, 10, 50], "side": 64, "patches": 8}
    kept = Kept(adapting.STEPS_NAME, settings)
    for image in images:
        for t in steps:
            kept.measure(f"{image}, T = {t}", lambda i=image, t=t: fit_row(i, t, 3000 - 2 * t))
    kept = Kept(adapting.CONFIGURATIONS_NAME, {"images": images, "steps": 50, "side": 64})
    for image in images:
        for n, key in enumerate(list(adapting.CONFIGURATIONS)[:configurations]):
            kept.measure(f"{image}, {key}", lambda i=image, n=n: fit_row(i, 50, 2900 + n, 10.0 + n))


def record_times(labels: list[str]) -> None:
    settings = {"image": "Kodak 05, centre 256x256", "patch": 64, "steps": 50, "threads": 1}
    kept = Kept(times.NAME, settings)
    for label in labels:
        row = {
            "samples": 1000,
            "stream_bits": 2800,
            "cpu_seconds": 3.0,
            "reference_cpu_seconds": 1.5,
            "repeats": 1,
        }
        kept.measure(label, lambda row=row: {**row, "pixel_bits": 2500, "adapter_bits": 100, "weights": 9})


def record_kodak(settings: tuple[str, ...]) -> None:
    found = {
        key: {
            "archive_bytes": 3700 - 100 * n, "fixed_bytes": 100, "uncounted_bytes": 0, "samples": 10_000,
            "context": record.context(),
        }
        for n, key in enumerate(settings)
    }  # fmt: skip
    record.write("sizes", {"benchmark": "sizes", "result": {"kodak": found}, **record.context()})
    others = {key: {"bytes": 3000, "samples": 8000} for key in kodak.CONVENTIONAL}
    record.write(
        "conventional", {"benchmark": "conventional", "result": {"kodak": others}, **record.context()}
    )


def test_nothing_measured_is_said_part_by_part(tmp_path: Path) -> None:
    text, missing = page.page(render.origin, tmp_path)
    assert missing == ["table1", "table2", "table3", "table4", "figure3", "figure4"]
    for part in missing[1:]:
        assert f"Not measured yet: `python -m pipelines.benchmark paper {part}` measures it." in text
    assert "measured here" not in text
    assert text.count("| quoted |") == 11
    assert "this project, --adapt image | - | - |" in text
    assert "![" not in text
    assert not list(tmp_path.glob("*.svg"))


def test_incomplete_records_show_what_there_is(tmp_path: Path) -> None:
    record_architectures(architectures.TABLE3[1:4])  # even the row that ratios are to is missing
    record_figures((0, 10), 1)
    record_times(["encode", "adapt with RPFT"])
    record_kodak(("none",))
    text, missing = page.page(render.origin, tmp_path)
    assert len(missing) == 6
    assert (
        "Incomplete: 6 of 9 rows are not measured yet; `python -m pipelines.benchmark paper table3` goes on."
        in text
    )
    assert "| 1 | 128 | 7 | 3.100 | 3.100 | - | 564,289 | 559 | - | - | 2.84 |" in text
    assert "| 3 | 128 | 7 | not measured yet | - |" in text
    assert "| natural | 3.0000 | 3.0200 | not measured yet |" in text
    assert "| MGCF without CCI | - | not measured yet | - | not measured yet | - | 10.86 / 11.00 |" in text
    assert "| CALLIC | 2.600 | 6.00 | 4.00 | not measured yet | - | 6.93 / 1.21 |" in text
    assert "this project, base model (--adapt none) | 2.880 | +0.0 % |" in text
    assert "this project, --adapt image | - | - | 564K | not measured yet |" in text
    assert (tmp_path / "paper-figure3.svg").exists()


def test_complete_records_make_a_complete_page(tmp_path: Path) -> None:
    record_architectures(tuple(dict.fromkeys(architectures.TABLE3 + architectures.TABLE4)))
    record_figures((0, 10, 50), 7)
    record_times(list(times.ROWS))
    record_kodak(kodak.SETTINGS)
    text, missing = page.page(render.origin, tmp_path)
    assert missing == []
    assert "not measured yet" not in text.replace(page.HEAD, "")
    assert "| 3 | 128 | 7 | 3.100 | 3.100 | +0.0 % | 564,289 | 559 | 1.00 | 1.00 | 2.77 |" in text
    assert "masked neighbourhood attention" in text
    assert "| random order | 2.9050 | 0.0400 | 2.9450 | -1.83 % | +0.14 % | 1.36 | - | - |" in text
    for name in ("paper-figure3.svg", "paper-figure4.svg"):
        assert f"({tmp_path.name}/{name})" in text
        assert (tmp_path / name).stat().st_size > 5000
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
    assert page.page(render.origin, tmp_path) == (text, [])
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")} == before


def test_a_plot_goes_when_its_record_goes(tmp_path: Path, results: Path) -> None:
    record_figures((0, 10, 50), 7)
    page.page(render.origin, tmp_path)
    (results / f"{adapting.STEPS_NAME}.json").unlink()
    text, _ = page.page(render.origin, tmp_path)
    assert [path.name for path in tmp_path.glob("*.svg")] == ["paper-figure4.svg"]
    assert "paper-figure3.svg" not in text


def test_trials_are_recorded_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "figures", lambda *_: architecture_row(3.0))
    monkeypatch.setattr(architectures, "material", lambda budget: None)
    done = CliRunner().invoke(benchmark.main, ["paper", "table4", "--quick"], catch_exceptions=False)
    assert done.exit_code == 0
    assert len(record.load(f"{architectures.NAME}-trial")["result"]) == 3
    assert record.load(architectures.NAME) == {}


def test_other_settings_are_refused_by_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "figures", lambda *_: architecture_row(3.0))
    monkeypatch.setattr(architectures, "material", lambda budget: None)
    arguments = ["paper", "table4", "--steps"]
    assert CliRunner().invoke(benchmark.main, [*arguments, "3"]).exit_code == 0
    refused = CliRunner().invoke(benchmark.main, [*arguments, "4"])
    assert refused.exit_code == 2
    assert "--again" in refused.output
    assert CliRunner().invoke(benchmark.main, [*arguments, "4", "--again"]).exit_code == 0
    assert CliRunner().invoke(benchmark.main, ["paper", "figure3", "--steps", "3,x"]).exit_code == 2


def test_plots_need_two_points(tmp_path: Path) -> None:
    record_figures((0,), 0)
    assert plots.steps(record.load(adapting.STEPS_NAME), tmp_path / "a.svg") is None
    assert plots.configurations({"settings": {"images": ["x"]}, "result": {}}, tmp_path / "b.svg") is None
