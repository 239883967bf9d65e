"""What the package says it needs is what it imports, and what the two commands install is pinned."""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from callic_archive.model.weights import ModelSet

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(t) for t in texts] for name, texts in PROJECT["optional-dependencies"].items()}

#: Import names that differ from the name of the distribution.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "skimage": "scikit-image",
    "importlinter": "import-linter",
    "jpeg_ls": "pyjpegls",
    "nrrd": "pynrrd",
}
#: Needed without being imported: torchac's source is found and built, with ninja; the others are part of what the
#: project promises its users to bring along (images in and out of arrays, TIFF, zarr stores).
NOT_IMPORTED = {"ninja", "torchac", "pillow", "tifffile", "zarr"}


def imported(folder: str) -> set[str]:
    """Distributions whose modules are imported anywhere below ``folder``, inside functions too."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    foreign = names - set(sys.stdlib_module_names) - {"callic_archive", "pipelines", "tests"}
    return {DISTRIBUTIONS.get(name, name) for name in foreign}


def test_the_package_declares_exactly_what_it_imports() -> None:
    assert {r.name for r in RUNTIME} == imported("callic_archive") | NOT_IMPORTED


def test_jobs_and_tests_import_only_what_an_extra_declares() -> None:
    declared = {r.name for r in RUNTIME}
    assert imported("pipelines") <= declared | {r.name for r in [*EXTRAS["demo"], *EXTRAS["benchmark"]]}
    assert imported("tests") <= declared | {r.name for r in [*EXTRAS["test"], *EXTRAS["fuzz"]]}


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in pairs}


@pytest.mark.parametrize(
    "requirement",
    [*RUNTIME, *EXTRAS["demo"], *EXTRAS["benchmark"], *EXTRAS["test"], *EXTRAS["fuzz"]],
    ids=str,
)
def test_each_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = pins().get(requirement.name)
    assert version is not None, f"{requirement.name} has no pin in constraints.txt"
    assert version in requirement.specifier


def test_the_two_commands_and_continuous_integration_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert {"demo", "test"} <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert "make test" in (ROOT / ".ci/run").read_text("utf-8")
    for script in (".ci/run", ".ci/stage", ".ci/environment", "pipelines/check_fresh_clone.sh"):
        assert os.access(ROOT / script, os.X_OK), f"{script} is not executable"


def test_the_package_carries_the_training_records() -> None:
    carried = files("callic_archive.model") / "records"
    names = {path.name for path in (ROOT / "manifests/models").iterdir()}
    assert {record.name for record in carried.iterdir()} == names
    assert names == {f"{model.name}.json" for model in ModelSet.default()}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert "records/*.json" in settings["package-data"]["callic_archive.model"]


def test_the_package_carries_the_pages_of_the_format() -> None:
    carried = files("callic_archive") / "specification"
    assert {page.name for page in carried.iterdir()} == {p.name for p in (ROOT / "docs/format").iterdir()}
    errors = (carried / "errors.md").read_text("utf-8")
    assert errors.startswith("# Error codes\n")
