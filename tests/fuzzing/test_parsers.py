"""No parser without a target, and no input that once failed fails again."""

from __future__ import annotations

import ast
import signal
from pathlib import Path

import pytest

import callic_archive
from tests.fuzzing.__main__ import CPU_SECONDS, attempt, slow, targets
from tests.fuzzing.parsers import PARSERS, READS, TRUSTED

PACKAGE = Path(callic_archive.__file__).parent
CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


def calls(path: Path) -> set[str]:
    """Names of the functions and methods that a module calls."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            found.add(
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
    return found


def test_every_module_that_reads_bytes_has_a_target() -> None:
    reading = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if calls(path) & READS}
    assert sorted(reading - {*PARSERS, *TRUSTED}) == [], "write a target, or say why it needs none"
    assert sorted(name for name in {*PARSERS, *TRUSTED} if not (PACKAGE / name).is_file()) == []
    assert sorted(set(TRUSTED) - reading) == []
    assert not set(PARSERS) & set(TRUSTED)


def test_every_named_target_is_there() -> None:
    assert sorted({name for names in PARSERS.values() for name in names} - set(targets())) == []


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_once_failed_ends_in_order(path: Path) -> None:
    target = targets()[path.name.rpartition("-")[0]]
    before = signal.signal(signal.SIGVTALRM, slow)
    try:
        _, why = attempt(target.run, path.read_bytes())
    finally:
        signal.signal(signal.SIGVTALRM, before)
    assert why == "", f"within {CPU_SECONDS:.0f} seconds"
