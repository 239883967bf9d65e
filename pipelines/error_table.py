"""Write ``docs/format/errors.md`` from the error classes, so that the page and the code cannot differ.

    python -m pipelines.error_table
"""

from __future__ import annotations

import inspect
from pathlib import Path

from callic_archive import errors

PAGE = Path(__file__).parents[1] / "docs/format/errors.md"

HEAD = """\
# Error codes

Made by `python -m pipelines.error_table` from `callic_archive/errors.py`; edit that file, not this page.

Each failure that a user can tell apart has a code of its own. It stands in the message, in the `--json` events
and in the archive's index where a file had to be kept verbatim. The exit code is that of the command line when
the failure ends the run; a single source file that fails never ends one.
"""

RANGES = {
    "E0": "Usage",
    "E1": "Sources and image files",
    "E2": "Codestreams and entropy coding",
    "E3": "Models and adapters",
    "E4": "Container",
    "E5": "Archive",
    "E6": "Environment",
}


def error_classes() -> list[type[errors.CallicError]]:
    """All error classes, by code."""
    members = [member for _, member in inspect.getmembers(errors, inspect.isclass)]
    found = [member for member in members if issubclass(member, errors.CallicError)]
    return sorted(found, key=lambda error: (error.code, error.__name__))


def page() -> str:
    """The text of the page."""
    lines = [HEAD]
    for prefix, title in RANGES.items():
        lines += [f"## {title}", "", "| Code | Class | Exit code | Meaning |", "|---|---|---|---|"]
        for error in error_classes():
            if error.code.startswith(prefix):
                meaning = " ".join((error.__doc__ or "").split()).replace("``", "`").replace("|", "\\|")
                lines.append(f"| {error.code} | `{error.__name__}` | {error.exit_code} | {meaning} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), "utf-8")
