"""docs/benchmarks.md from the recorded figures: tables, what they mean, the commands, dates and versions."""

from __future__ import annotations

from typing import Any

from pipelines.benchmarks import conventional, record
from pipelines.benchmarks.record import Grid

HEAD = """\
# Benchmarks

Made by `python -m pipelines.benchmark render` from measurements; do not edit this page. Each section names the
command that makes its figures again, the day, and the machine's class. Images are those of the public evaluation
sets, which are never trained on. bpsp: bits per sample (subpixel). The paper's own tables and figures, measured again,
have [a page of their own](paper.md).
"""
#: Section of the page: name of the record, title, the module that makes its tables, and what there is to say.
SECTIONS = (
    ("sizes", "Sizes", "Whole archives, made, verified, unpacked and compared by the command line itself."),
    (
        "adapt",
        "Adaptation",
        "Adapters are kept only where they shorten the whole code, so a gain below zero never lands in "
        "an archive.",
    ),
    (
        "own-model",
        "A model of one's own",
        "`callic-archive train` against the adapter that `pack --adapt collection` fits.",
    ),
    ("exactness", "Exactness", "The bitstream is defined over integers; here is what was compared."),
    (
        "integers",
        "Price of integers",
        "What rounding weights and activations costs against the float32 model. Target: 0.05 %.",
    ),
    ("coder", "Entropy coders", "Target: the range coder within 0.05 % of the ideal code length."),
    ("speed", "Speed", "Ratios side by side in one run; seconds depend on what else the machine did."),
    (
        "rpft",
        "RPFT against all patches from the start",
        "The paper's schedule spends early steps on the costliest patches alone.",
    ),
    (
        "step",
        "Training step",
        "`train`, `pack` and the pretraining pipeline share it. Target: 70 % of the machine's matrix throughput, which vector "
        "units allow; where matrix units make products six times as fast, what lies between them is most of a step.",
    ),
    ("memory", "Memory and start-up", "The process tree was sampled four times a second."),
    (
        "formats",
        "Formats",
        "Every file of the shared data, odd and broken ones among them: packed, verified, unpacked and compared. Below the "
        "first table stands the codec that it was made with; what is read, and comes back, does not depend on it.",
    ),
)


def tables(name: str, found: dict[str, Any]) -> list[Grid]:
    """The tables of a record, from the module that measured it."""
    if name == "sizes":
        from pipelines.benchmarks import sizes

        return sizes.grids(found, record.load(conventional.NAME))
    if name == "own-model":
        from pipelines.benchmarks import own_model

        return own_model.grids(found)
    if name == "conventional":
        return conventional.grids(found)
    if name == "exactness":
        from pipelines.benchmarks import exactness

        return exactness.grids(found)
    if name == "integers":
        from pipelines.benchmarks import integers

        return integers.grids(found)
    if name == "coder":
        from pipelines.benchmarks import coder

        return coder.grids(found)
    if name == "speed":
        from pipelines.benchmarks import speed

        return speed.grids(found)
    if name == "rpft":
        from pipelines.benchmarks import rpft

        return rpft.grids(found)
    if name == "step":
        from pipelines.benchmarks import step

        return step.grids(found)
    if name == "memory":
        from pipelines.benchmarks import memory

        return memory.grids(found)
    if name == "formats":
        from pipelines.benchmarks import formats

        return formats.grids(found)
    from pipelines.benchmarks import adaptation

    return adaptation.grids(found)


def _contexts(found: Any) -> list[dict[str, Any]]:
    """Every context in a record: of its parts where they have their own, else of the whole."""
    if not isinstance(found, dict):
        return []
    parts = [c for key, value in found.items() if key != "context" for c in _contexts(value)]
    own = [found["context"]] if isinstance(found.get("context"), dict) else []
    return own + parts


def origin(found: dict[str, Any]) -> str:
    """Commands, dates, machine and models of a record's figures."""
    contexts = _contexts(found["result"]) or [found]
    commands = list(dict.fromkeys(c["command"] for c in contexts))
    dates = sorted({c["date"] for c in contexts})
    machines = list(dict.fromkeys(c["machine"] for c in contexts))
    models = list(dict.fromkeys(" and ".join(f"{n} `{d}`" for n, d in c["models"].items()) for c in contexts))
    loads = [c["load"] for c in contexts]
    lines = ["```sh", *commands, "```", ""]
    lines.append(
        f"{', '.join(dates)}; {', '.join(machines)}; load average {min(loads):.1f} to {max(loads):.1f} "
        f"at the end; models "
        f"{'; '.join(models)}."
    )
    return "\n".join(lines)


def _versions(records: list[dict[str, Any]]) -> str:
    seen: dict[str, set[str]] = {}
    for found in records:
        for one in [found, *_contexts(found["result"])]:
            for name, version in one.get("versions", {}).items():
                seen.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' / '.join(sorted(versions))}" for name, versions in seen.items())


def _partial(found: dict[str, Any]) -> dict[str, Any]:
    """A record without lines that were measured on a part of a set: those are for trying things out."""
    if isinstance(found.get("result"), dict):
        kept = {key: value for key, value in found["result"].items() if "(first " not in key}
        return {**found, "result": kept}
    return found


def page() -> tuple[str, list[str]]:
    """The page's text, and the sections that have no figures yet."""
    parts, missing, used = [HEAD], [], []
    for name, title, text in SECTIONS:
        found = _partial(record.load(name))
        if not found.get("result"):
            missing.append(name)
            continue
        used.append(found)
        parts.append(f"## {title}\n\n{text}\n\n{origin(found)}\n")
        shown = tables(name, found)
        if name == "sizes" and record.load(conventional.NAME):
            shown += conventional.grids(_partial(record.load(conventional.NAME)))
        parts += [grid.markdown() + "\n" for grid in shown if grid.rows]
    if used:
        parts.append(f"## Versions\n\n{_versions(used)}.\n")
    return "\n".join(parts), missing
