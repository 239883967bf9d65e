"""``callic-archive models list`` and ``callic-archive models show``: which models there are, and what is known of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, plural, size_text
from callic_archive.cli.running import run_verb

if TYPE_CHECKING:
    from callic_archive.model.catalogue import ModelInfo


@click.group(short_help="Show the models that images are coded with.")
def models() -> None:
    """The models that images are coded with: what ships, what an archive carries, what a file holds."""


@models.command("list")
@click.argument("archive", required=False, type=options.PathOf(path_type=Path))
@options.common_options
def list_models(common: Common, **values: Any) -> None:
    """List the models that ship, or those inside ARCHIVE.

    Columns: start of the SHA-256, planes coded together, weights, bytes of the file, name.
    """
    run_verb("models list", common, lambda report: _list(report, **values))


@models.command("show")
@click.argument("model", metavar="NAME|FILE|DIGEST")
@options.common_options
def show_model(common: Common, **values: Any) -> None:
    """Show all that is known of one model: its sizes, training, held-out figures, licence.

    NAME and DIGEST (its first digits are enough) are those of a model that ships; FILE is a model file, also
    one inside an archive (data/models/*.model.xz).
    """
    run_verb("models show", common, lambda report: _show(report, **values))


def _list(report: Report, *, archive: Path | None) -> None:
    from callic_archive.archive.scan import Problem
    from callic_archive.errors import ModelError
    from callic_archive.model.catalogue import find_model, shipped_models

    found: list[ModelInfo] = []
    if archive is None:
        found = shipped_models()
    else:
        from callic_archive.archive.reading import Archive

        with Archive(archive) as opened:
            for problem in opened.problems:
                report.problem(problem)
            told = {problem.path for problem in opened.problems}
            for path in opened.models():
                try:
                    found.append(find_model(str(path)))
                except ModelError as error:
                    if f"data/models/{path.name}" not in told:
                        report.problem(Problem.of(str(path), error, kept=False))
    for info in found:
        report.event("model", **_fields(info))
        if not report.as_json:
            model = info.model
            line = f"{model.digest[:16]}  {model.channels} {model.parameters:>10,} {info.bytes:>12,}  {model.name}"
            report.text(line if archive is None or info.shipped else f"{line} (does not ship)", always=True)
    report.summary |= {"models": len(found)}


def _show(report: Report, *, model: str) -> None:
    from callic_archive.model.catalogue import find_model

    info = find_model(model)
    report.event("model", **_fields(info), record=info.record)
    if not report.as_json:
        for line in _lines(info):
            report.text(line, always=True)


def _fields(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.model.name,
        "sha256": info.model.digest,
        "shipped": info.shipped,
        "planes": info.model.channels,
        "parameters": info.model.parameters,
        "bytes": info.bytes,
        "config": info.model.weights.config.as_dict(),
    }


def _lines(info: ModelInfo) -> list[str]:
    model, config = info.model, info.model.weights.config
    lines = [
        f"name         {model.name}{', ships with this package' if info.shipped else ''}",
        f"sha256       {model.digest}",
        f"codes        {plural(model.channels, 'plane')} together"
        + (
            " (RGB)"
            if model.channels == 3
            else " (gray, and every band alone)"
            if model.channels == 1
            else ""
        ),
        f"weights      {model.parameters:,}: width {config.dim}, {plural(config.depth, 'block')}, "
        f"kernel {config.kernel}, {config.mixtures} mixture components",
        f"file         {size_text(info.bytes)} ({info.bytes:,} bytes), of which archives keep {size_text(info.archive_bytes)}",
    ]
    # The record comes out of a file that anybody may have written: it is shown, never trusted.
    record = info.record
    training = record.get("training")
    if isinstance(training, dict):
        told = {k: v for k, v in training.items() if not isinstance(v, dict | list)}
        lines.append(f"training     {', '.join(f'{name} {value}' for name, value in told.items())}")
        for name, value in training.items():
            if isinstance(value, dict):
                lines += [f"  {name}: {key}: {what}" for key, what in value.items()]
            elif isinstance(value, list):
                lines += [f"  {name}: {_flat(one)}" for one in value]
    held = record.get("held_out")
    if isinstance(held, dict):
        lines.append("held out     bits a sample")
        lines += [f"  {domain}: {_flat(figures)}" for domain, figures in held.items()]
    if "price_of_integers_percent" in record:
        lines.append(f"rounding     costs {record['price_of_integers_percent']} %")
    lines.append(f"licence      {record.get('licence', 'not stated')}")
    if not isinstance(training, dict):
        lines.append("The file holds no training record.")
    return lines


def _flat(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
