"""``pack --adapt model``: archives with models of their own, which nothing but the archive is needed to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from callic_archive.model.weights import ModelSet
from tests.command import run
from tests.trees import grainy, snapshot, write_pnm

SHIPPED = {model.digest for model in ModelSet.default()}
WORDS = ["--effort", "fast", "--adapt", "model", "--steps", "2", "--json"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    noise = np.random.default_rng(4).normal(0, 4, (360, 380))  # without it JPEG XL comes near to a model
    for number in range(3):
        image = np.clip(grainy(360, 380) + 9.0 * number + np.roll(noise, number, axis=0), 0, 255).astype(np.uint8)
        write_pnm(tmp_path / "tree" / f"{number}.pgm", image)
    return tmp_path / "tree"


def test_an_archive_carries_the_model_that_was_fitted_to_it(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.callic"
    ran = run("pack", tree, "-o", archive, *WORDS, "--learned", "always")
    assert ran.code == 0, ran.err
    (fitted,) = ran.summary["models_fitted"]
    assert fitted not in SHIPPED
    assert (ran.summary["adapt"], ran.summary["adapters"]) == ("model", 0)
    assert [path.name for path in (archive / "data/models").iterdir()] == [f"{fitted}.model.xz"]
    (listed,) = [e for e in run("models", "list", archive, "--json").events if e["event"] == "model"]
    assert (listed["sha256"], listed["shipped"]) == (fitted, False)
    assert listed["name"].endswith("-fitted")
    assert run("verify", archive, "--full").code == 0
    assert run("unpack", archive, "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)


def test_models_that_stay_outside_are_left_as_they_are(tree: Path, tmp_path: Path) -> None:
    ran = run("pack", tree, "-o", tmp_path / "x.callic", *WORDS, "--without-models")
    assert ran.code == 0, ran.err
    assert ran.summary["adapt"] == "collection"
    assert ran.summary["models_fitted"] == []
    assert set(ran.summary["models_outside"]) <= SHIPPED
    assert run("verify", tmp_path / "x.callic", "--full").code == 0
