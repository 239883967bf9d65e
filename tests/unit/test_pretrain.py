"""Training goes on from what ships, and the record says what went in before."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch

from callic_archive.codec.train_schedule import learning_rate
from callic_archive.model.config import MGCFConfig
from callic_archive.model.mgcf import MGCF
from callic_archive.model.weights import ModelSet
from callic_archive.training.trainer import starting_point

ROOT = Path(__file__).parents[2]


def test_a_shipped_model_starts_a_run_and_its_training_is_counted() -> None:
    for shipped in ModelSet.default():
        assert shipped.path is not None
        start = starting_point(shipped.path)
        weights, earlier = start.weights, start.earlier
        MGCF(shipped.weights.config).load_state_dict(weights)
        manifest = json.loads((ROOT / "manifests" / "models" / f"{shipped.name}.json").read_text())
        training = manifest["training"]
        assert earlier[-1]["sha256"] == shipped.digest
        assert earlier[-1]["megapixels"] == training["megapixels"]
        assert len(earlier) == 1 + len(training.get("earlier", []))


def test_a_checkpoint_starts_a_run_with_its_averaged_weights(tmp_path: Path) -> None:
    config = MGCFConfig(channels=1, dim=16, depth=1, kernel=3, mixtures=2)
    torch.manual_seed(3)
    model, average = MGCF(config), MGCF(config)
    before = {"steps": 5, "megapixels": 0.5, "sha256": "ab"}
    state = {"model": model.state_dict(), "ema": average.state_dict(), "step": 7, "pixels": 1_250_000}
    torch.save({**state, "earlier": [before]}, tmp_path / "checkpoint.pt")
    start = starting_point(tmp_path / "checkpoint.pt")
    weights, earlier = start.weights, start.earlier
    assert all(torch.equal(value, average.state_dict()[name]) for name, value in weights.items())
    assert earlier == [before, {"steps": 7, "megapixels": 1.2}]


def test_the_rate_warms_up_and_falls_to_a_hundredth() -> None:
    rates = [learning_rate(step / 1000, step) for step in range(1001)]
    assert rates[0] == 0.01 * learning_rate(0.0, 1000)
    assert max(rates) == max(rates[45:60])  # a twentieth of the steps, as that is less than a hundred
    assert all(a >= b for a, b in pairwise(rates[50:]))
    assert abs(rates[-1] - 0.01) < 1e-9
    long = [learning_rate(step / 10_000, step) for step in range(1000)]
    assert max(long) == long[99]
