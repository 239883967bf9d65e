"""Write the parts of the documentation that repeat the code, so that the two cannot differ.

    python -m pipelines.generated_docs

Made are ``docs/format/errors.md`` from the error classes and the reasons, the list of decisions from the notes' headings, and
the list of modules in ``docs/architecture.md`` from the first line of each docstring.
``tests/architecture/test_docs.py`` fails where one of them is out of date.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from callic_archive import errors
from callic_archive.images.reasons import REASONS

ROOT = Path(__file__).parents[1]
ERROR_PAGE = ROOT / "docs/format/errors.md"
ARCHITECTURE_PAGE = ROOT / "docs/architecture.md"
MODULES_HEADING = "## Modules\n"
DECISIONS_PAGE = ROOT / "docs/decisions/README.md"
DECISIONS_HEADING = "| Note | Decision |\n|---|---|\n"

ERROR_HEAD = """\
# Error codes
<!-- for: reasons -->

Made by `python -m pipelines.generated_docs` from `callic_archive/errors.py` and `callic_archive/images/reasons.py`;
edit those files, not this page.

Each failure that a user can tell apart has a code of its own. It stands in the message, in the `--json`
events and in the archive's index where a file had to be kept verbatim. The exit code is that of the
command line when the failure ends the run; a single source file that fails never ends one.
"""

REASONS_HEAD = """\
## Reasons

No failures: why a file that claims to be an image is kept as it is all the same. They stand in the archive's index
(`reason`), in what `list`, `info` and `pack --verbose` show, and in the `--json` events of `list` and `pack`. A code
keeps its meaning; later versions may have more of them.

| Reason | The file is |
|---|---|
"""

MODULES_HEAD = """
Made by `python -m pipelines.generated_docs` from the first line of each module; the rows are in import order.

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

ROWS = (
    "", "images", "entropy", "model", "codec", "container", "archive", "access", "training", "scheduling", "cli",
)  # fmt: skip


def error_classes() -> list[type[errors.CallicError]]:
    """All error classes, by code."""
    members = [member for _, member in inspect.getmembers(errors, inspect.isclass)]
    found = [member for member in members if issubclass(member, errors.CallicError)]
    return sorted(found, key=lambda error: (error.code, error.__name__))


def error_page() -> str:
    """The text of the page of error codes."""
    lines = [ERROR_HEAD]
    for prefix, title in RANGES.items():
        lines += [f"## {title}", "<!-- for: writing -->", "", "| Code | Class | Exit code | Meaning |", "|---|---|---|---|"]
        for error in error_classes():
            if error.code.startswith(prefix):
                meaning = " ".join((error.__doc__ or "").split()).replace("``", "`").replace("|", "\\|")
                lines.append(f"| {error.code} | `{error.__name__}` | {error.exit_code} | {meaning} |")
        lines.append("")
    lines.append(REASONS_HEAD + "\n".join(f"| `{code}` | {text} |" for code, text in REASONS.items()))
    return "\n".join(lines).rstrip() + "\n"


def architecture_page() -> str:
    """The text of the architecture page, with the list of modules made anew below its heading."""
    written = ARCHITECTURE_PAGE.read_text("utf-8").split(MODULES_HEADING)[0]
    package = ROOT / "callic_archive"
    lines = []
    for row in ROWS:
        modules = sorted((package / row).glob("*.py") if row == "" else (package / row).rglob("*.py"))
        for module in modules:
            docstring = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
            name = module.relative_to(package).as_posix()
            if module.name == "__init__.py" and (not docstring or row == ""):
                continue
            first = docstring.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")
            name = name.replace("__init__.py", "") if row else name
            lines.append(f"{name:<30}{first}".rstrip())
        if modules:
            lines.append("")
    body = "\n".join(lines).rstrip()
    return f"{written}{MODULES_HEADING}{MODULES_HEAD}```\n{body}\n```\n"


def decisions_page() -> str:
    """The text of the page of decisions, with the table made anew from the notes' headings."""
    written = DECISIONS_PAGE.read_text("utf-8").split(DECISIONS_HEADING)[0]
    rows = []
    for note in sorted(DECISIONS_PAGE.parent.glob("[0-9]*.md")):
        heading = note.read_text("utf-8").split("\n", 1)[0].removeprefix("# ")
        number, _, decision = heading.partition(":")
        rows.append(f"| [{number}]({note.name}) | {decision.strip()} |\n")
    return written + DECISIONS_HEADING + "".join(rows)


if __name__ == "__main__":
    ERROR_PAGE.parent.mkdir(parents=True, exist_ok=True)
    ERROR_PAGE.write_text(error_page(), "utf-8")
    ARCHITECTURE_PAGE.write_text(architecture_page(), "utf-8")
    DECISIONS_PAGE.write_text(decisions_page(), "utf-8")
