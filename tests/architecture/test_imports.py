"""The borders between the packages hold, and each contract that says so breaks when its border is crossed.

The contracts stand in ``pyproject.toml`` under ``[tool.importlinter]``; ``docs/architecture.md`` draws them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]


def lint_imports(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in ``root``, by the contracts of ``root``'s pyproject.toml."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    return subprocess.run(
        [*command, "--no-cache", *options], cwd=root, capture_output=True, text=True, check=False, timeout=120
    )


def test_all_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout


@dataclass(frozen=True)
class Violation:
    """An import that a contract must catch: ``line`` appended to the module ``where``."""

    contract: str
    where: str
    line: str

    def __str__(self) -> str:
        return f"{self.contract}: {self.where}: {self.line.strip()}"


VIOLATIONS = [
    Violation("rows", "errors.py", "import callic_archive.images"),
    Violation("rows", "entropy/range_coder.py", "import callic_archive.model.weights"),
    Violation("rows", "images/source.py", "import callic_archive.entropy.range_coder"),
    Violation("rows", "model/weights.py", "import callic_archive.codec.decoder"),
    Violation("rows", "container/__init__.py", "import callic_archive.codec.codestream"),
    Violation("rows", "codec/codestream.py", "import callic_archive.container"),
    Violation("rows", "archive/__init__.py", "import callic_archive.scheduling"),
    Violation("rows", "scheduling/__init__.py", "import callic_archive.cli"),
    Violation("rows", "access/__init__.py", "import callic_archive.scheduling.run"),
    Violation("rows", "archive/__init__.py", "def late():\n    import callic_archive.access.archive"),
    Violation("rows", "archive/__init__.py", "import callic_archive.training"),
    Violation("rows", "training/__init__.py", "import callic_archive.scheduling"),
    Violation("decoder", "codec/decoder.py", "def late():\n    import callic_archive.codec.adapt"),
    Violation("decoder", "codec/coding.py", "import callic_archive.model.mgcf"),
    Violation("decoder", "model/integer.py", "import callic_archive.model.mgcf"),
    Violation("decoder", "model/weights.py", "from callic_archive.model import mgcf"),
    Violation("decoder", "codec/decoder.py", "def late():\n    import callic_archive.training.trainer"),
    Violation("container", "container/__init__.py", "import torch"),
    Violation("container", "container/__init__.py", "def late():\n    import callic_archive.codec.decoder"),
    Violation("dask", "archive/__init__.py", "def late():\n    import dask"),
    Violation("dask", "cli/main.py", "from distributed import Client"),
    Violation("dask", "access/archive.py", "def late():\n    import dask"),
    Violation("codec", "codec/encoder.py", "def late():\n    import zarr"),
    Violation("codec", "codec/codestream.py", "import callic_archive.images.dicom"),
]


def test_every_contract_has_a_planted_violation() -> None:
    assert {contract["id"] for contract in CONTRACTS} == {violation.contract for violation in VIOLATIONS}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's modules and its contracts, to be damaged."""
    root = tmp_path_factory.mktemp("planted")
    shutil.copy(ROOT / "pyproject.toml", root)
    for source in (ROOT / "callic_archive").rglob("*.py"):
        target = root / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return root


@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_a_planted_violation_is_caught(copy: Path, violation: Violation) -> None:
    module = copy / "callic_archive" / violation.where
    before = module.read_text("utf-8")
    module.write_text(f"{before}\n{violation.line}\n", "utf-8")
    try:
        done = lint_imports(copy, "--contract", violation.contract)
    finally:
        module.write_text(before, "utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "0 kept, 1 broken" in done.stdout


def loaded_after(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


FOREIGN = {"dask", "distributed", "imagecodecs", "pydicom", "tifffile", "torch", "torchac", "zarr"}
TRAINING = {"callic_archive.codec.adapt", "callic_archive.model.mgcf", "callic_archive.training"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import callic_archive", FOREIGN | {"numba", "numcodecs", "numpy", "zstandard"}),
        (
            "from callic_archive import open_archive, decode_image",
            FOREIGN | TRAINING | {"numba", "numcodecs"},
        ),
        ("import callic_archive.codec.decoder", FOREIGN | TRAINING),
        ("import callic_archive.codec.encoder", FOREIGN | TRAINING),
        ("import callic_archive.container", FOREIGN | {"numba", "callic_archive.codec"}),
        ("import callic_archive.cli.verbs", FOREIGN | {"numba", "numpy", "PIL"}),
    ],
)
def test_an_import_stays_light(statement: str, absent: set[str]) -> None:
    """What the linter cannot see: what importing a package really loads, ``__init__`` files included."""
    heavy = loaded_after(statement) & absent
    assert not heavy
