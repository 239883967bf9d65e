"""Figures 3 and 4 as pictures. Needs the extra ``benchmark``; the files do not depend on when they are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.benchmarks.paper.adapting import CONFIGURATIONS, configuration_means
from pipelines.benchmarks.record import ROOT

FOLDER = ROOT / "docs" / "figures"
#: Distinct without colour too: every line and point also has a marker of its own.
MARKERS = "osD^vP*X"


def _pyplot() -> Any:
    """matplotlib without a display, with settings under which equal data make equal files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "callic",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.grid": True,
            "grid.alpha": 0.3,
        }
    )
    return pyplot


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)
    _pyplot().close(figure)
    return path


def steps(record: dict[str, Any], path: Path) -> Path | None:
    """Figure 3: change of the bits by T, with and without the adapter's own; None where nothing can be drawn."""
    s, found = record["settings"], record["result"]
    curves = {
        image: [
            (count, found[f"{image}, T = {count}"])
            for count in s["steps"]
            if f"{image}, T = {count}" in found
        ]
        for image in s["images"]
    }
    curves = {image: points for image, points in curves.items() if len(points) > 1}
    if not curves:
        return None
    figure, axes = _pyplot().subplots(figsize=(8.0, 4.0), layout="constrained")
    for number, (image, points) in enumerate(curves.items()):
        counts = [count for count, _ in points]
        total = [
            100 * ((row["pixel_bits"] + row["adapter_bits"]) / row["base_bits"] - 1) for _, row in points
        ]
        pixels = [100 * (row["pixel_bits"] / row["base_bits"] - 1) for _, row in points]
        marker = MARKERS[number % len(MARKERS)]
        (line,) = axes.plot(counts, total, marker=marker, label=image)
        axes.plot(counts, pixels, marker=marker, markersize=3, linestyle=":", color=line.get_color())
    axes.plot([], [], color="gray", label="pixels and adapter")
    axes.plot([], [], color="gray", linestyle=":", label="pixels alone")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("steps of adaptation T")
    axes.set_ylabel("bits, to the base model (%)")
    figure.legend(loc="outside right upper", fontsize=8)
    return _save(figure, path)


def configurations(record: dict[str, Any], path: Path) -> Path | None:
    """Figure 4: bits by time of the configurations measured on all images; None where there are none."""
    means = configuration_means(record)
    if not means:
        return None
    whole = means.get("all")
    figure, axes = _pyplot().subplots(figsize=(8.0, 4.0), layout="constrained")
    for number, (key, mean) in enumerate(means.items()):
        seconds = mean["seconds"] / whole["seconds"] if whole and whole["seconds"] else mean["seconds"]
        axes.plot(
            seconds,
            mean["total"],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="",
            markersize=8,
            label=CONFIGURATIONS[key][0],
        )
    axes.set_xlabel(
        "processor time of adaptation, to all patches" if whole else "processor seconds of adaptation"
    )
    axes.set_ylabel("bits per sample, adapter included")
    axes.margins(0.15)
    axes.ticklabel_format(axis="y", useOffset=False)
    figure.legend(loc="outside right upper", fontsize=8)
    return _save(figure, path)
