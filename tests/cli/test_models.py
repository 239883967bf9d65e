"""``models list`` and ``models show``, and ``pack --model`` with names, files and what is no model."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from callic_archive import open_archive
from callic_archive.entropy.mixture import MixtureTables
from callic_archive.model.config import MGCFConfig
from callic_archive.model.weights import ModelSet, load_model, save_model
from tests.command import run
from tests.trees import grainy, snapshot, write_pnm
from tests.unit.model.builders import CONFORMANCE, random_weights

SHIPPED = {model.name: model for model in ModelSet.default()}


@pytest.fixture
def gray_file(tmp_path: Path) -> Path:
    """A model for one plane that does not ship."""
    return Path(shutil.copy(CONFORMANCE / "model-gray.safetensors", tmp_path / "mine.safetensors"))


@pytest.fixture
def rgb_file(tmp_path: Path) -> Path:
    return Path(shutil.copy(CONFORMANCE / "model-rgb.safetensors", tmp_path / "colour.safetensors"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    # Too large and too noisy for other codings than the model's to be tried.
    write_pnm(tmp_path / "tree" / "colour.ppm", grainy(80, 96, 3))
    write_pnm(tmp_path / "tree" / "gray.pgm", grainy(144, 160))
    return tmp_path / "tree"


# -- list and show -------------------------------------------------------------------------------------------


def test_list_shows_what_ships() -> None:
    ran = run("models", "list", "--json")
    assert ran.code == 0
    found = {event["name"]: event for event in ran.events if event["event"] == "model"}
    assert set(found) == set(SHIPPED)
    assert ran.summary["verb"] == "models list"
    for name, model in SHIPPED.items():
        assert found[name]["sha256"] == model.digest
        assert found[name]["planes"] == model.channels
        assert found[name]["bytes"] == len(model.raw)
        assert found[name]["shipped"] is True
    text = run("models", "list").out
    assert all(model.digest[:16] in text and name in text for name, model in SHIPPED.items())


@pytest.mark.parametrize("by", ["name", "digest", "file"])
def test_show_tells_the_training_record(by: str) -> None:
    model = SHIPPED["gray16"]
    word = {"name": model.name, "digest": model.digest[:12], "file": str(model.path)}[by]
    (event, summary) = run("models", "show", word, "--json").events
    assert summary["exit_code"] == 0
    assert event["sha256"] == model.digest
    record = json.loads((files("callic_archive.model") / "records" / "gray16.json").read_text("utf-8"))
    assert event["parameters"] == record["parameters"] - 512 * 3  # norms' gains and biases are folded away
    for key in ("training", "held_out", "licence"):
        assert event["record"][key] == record[key]
    text = run("models", "show", word).out
    assert model.digest in text
    assert "gray16/ct-philips" in text
    assert str(record["held_out"]["gray16/mr-t1"]["integer_bpsp"]) in text
    assert "Apache-2.0" in text


def test_a_file_without_a_record_is_shown_as_such(gray_file: Path) -> None:
    ran = run("models", "show", gray_file)
    assert ran.code == 0
    assert "no training record" in ran.out
    (event, _) = run("models", "show", gray_file, "--json").events
    assert (event["shipped"], event["planes"]) == (False, 1)


@pytest.mark.parametrize(
    ("word", "code", "text"),
    [("nobody", "E305", "the models that ship are rgb8, gray16"), (".", "E305", "is a folder")],
)
def test_show_of_what_is_no_model(word: str, code: str, text: str) -> None:
    ran = run("models", "show", word, "--json")
    assert ran.code == 2
    assert ran.summary["error"]["code"] == code
    assert text in ran.summary["error"]["message"]


def test_wrong_words_of_models_have_a_summary_too() -> None:
    ran = run("models", "show", "--json")
    assert ran.code == 2
    assert ran.summary["verb"] == "models show"


# -- pack --model --------------------------------------------------------------------------------------------


def test_an_archive_carries_the_users_model_and_needs_nothing_else(
    tree: Path, gray_file: Path, tmp_path: Path
) -> None:
    mine = load_model(gray_file)
    archive = tmp_path / "x.callic"
    packed = run("pack", tree, "-o", archive, "--model", gray_file, "--effort", "fast", "--json")
    assert packed.code == 0, packed.err
    gray_file.unlink()
    used = {
        Path(e["path"]).name: e["models"] for e in run("list", archive, "--json").events if e.get("models")
    }
    assert used == {"colour.ppm": [SHIPPED["rgb8-small"].digest], "gray.pgm": [mine.digest]}
    listed = [e for e in run("models", "list", archive, "--json").events if e["event"] == "model"]
    assert {e["sha256"]: e["shipped"] for e in listed} == {mine.digest: False, SHIPPED["rgb8-small"].digest: True}
    assert run("verify", archive).code == 0
    assert run("unpack", archive, "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    inside = next((archive / "data" / "models").glob(f"{mine.digest}*"))
    again = run("pack", tree, "-o", tmp_path / "y.callic", "--model", inside, "--effort", "fast")
    assert again.code == 0, again.err
    assert run("verify", tmp_path / "y.callic").code == 0
    inside.write_bytes(b"\x28" + inside.read_bytes()[1:-8])
    damaged = run("models", "list", archive, "--json")
    assert damaged.code == 3
    assert [e["code"] for e in damaged.events if e["event"] == "problem"] == ["E302"]


def test_two_models_together_and_a_model_that_nothing_needs(
    tree: Path, gray_file: Path, rgb_file: Path, tmp_path: Path
) -> None:
    (tree / "colour.ppm").unlink()
    words = ["--model", gray_file, "--model", rgb_file, "--effort", "fast"]
    ran = run("pack", tree, "-o", tmp_path / "x.callic", *words, "--json")
    assert ran.code == 0, ran.err
    notes = [e["message"] for e in ran.events if e["event"] == "note"]
    assert [note for note in notes if str(rgb_file) in note and "does not carry it" in note]
    (model,) = (tmp_path / "x.callic" / "data" / "models").iterdir()
    assert model.name.startswith(load_model(gray_file).digest)


def test_a_name_stands_for_the_model_that_ships(tree: Path, tmp_path: Path) -> None:
    fast = ["--effort", "fast", "--json"]
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--model", "gray16-small", *fast)
    assert ran.code == 0, ran.err
    plain = run("pack", tree, "-o", tmp_path / "y.callic", "--learned", "always", *fast)
    assert ran.summary["image_bytes"] == plain.summary["image_bytes"]


def assert_refused(tree: Path, tmp_path: Path, models: list[Path | str], code: str, exit_code: int) -> str:
    words = [word for model in models for word in ("--model", model)]
    ran = run("pack", tree, "-o", tmp_path / "x.callic", *words, "--json")
    assert ran.code == exit_code, ran.err
    assert ran.summary["error"]["code"] == code
    assert not list(tmp_path.glob("x.callic*"))
    assert run("pack", tree, "-o", tmp_path / "x.callic", *words, "--dry-run").code == exit_code
    return str(ran.summary["error"]["message"])


def test_what_is_no_model_is_refused_before_anything_is_written(
    tree: Path, gray_file: Path, tmp_path: Path
) -> None:
    text = tmp_path / "no.safetensors"
    text.write_text("no model at all")
    assert "not a model of this format" in assert_refused(tree, tmp_path, [text], "E302", 3)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(gray_file.read_bytes()[:-100])
    assert_refused(tree, tmp_path, [cut], "E302", 3)
    assert_refused(tree, tmp_path, [tmp_path / "nowhere.safetensors"], "E305", 2)
    named = tmp_path / f"{'0' * 64}.safetensors"
    shutil.copy(gray_file, named)
    assert "SHA-256" in assert_refused(tree, tmp_path, [named], "E302", 3)
    assert "both code 1 planes" in assert_refused(tree, tmp_path, [gray_file, "gray16"], "E305", 2)


def test_unsafe_bounds_and_useless_planes_are_refused(tree: Path, gray_file: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load, save

    raw = gray_file.read_bytes()
    metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    arrays = load(raw)
    arrays["0.down.shift"] = np.full_like(arrays["0.down.shift"], 31)
    unsafe = tmp_path / "unsafe.safetensors"
    unsafe.write_bytes(save(arrays, metadata))
    assert "shifts must lie within" in assert_refused(tree, tmp_path, [unsafe], "E303", 3)
    two = tmp_path / "two.safetensors"
    config = MGCFConfig(channels=2, dim=16, depth=1, kernel=3, mixtures=2)
    save_model(two, "two", random_weights(config, 1), dict(MixtureTables.build().as_dict()), {})
    assert "codes 2 planes together" in assert_refused(tree, tmp_path, [two], "E305", 2)


def test_a_run_with_another_model_is_not_gone_on_with(tree: Path, gray_file: Path, tmp_path: Path) -> None:
    from callic_archive.archive.learned_codec import CallicPlan
    from callic_archive.archive.packed import PackOptions
    from callic_archive.archive.packing import run_settings
    from callic_archive.archive.scan import Selection
    from callic_archive.archive.staging import Staging

    plan = CallicPlan(adapt="none", quick=True)
    with Staging(tmp_path / "x.callic") as staging:
        staging.open(run_settings((str(tree),), plan, PackOptions(bands=False), Selection()))
    words = ["pack", tree, "-o", tmp_path / "x.callic", "--effort", "fast", "--learned", "always"]
    other = run(*words, "--model", gray_file, "--json")
    assert other.code == 2
    assert other.summary["error"]["code"] == "E004"
    assert "models" in other.summary["error"]["message"]
    assert run(*words).code == 0


# -- pack --without-models -----------------------------------------------------------------------------------


def test_models_that_ship_may_stay_outside(tree: Path, tmp_path: Path) -> None:
    words = ["pack", tree, "--effort", "fast", "--json", "-o"]
    whole, bare = tmp_path / "whole.callic", tmp_path / "bare.callic"
    with_models = run(*words, whole, "--learned", "always")
    without = run(*words, bare, "--without-models")
    assert (with_models.code, without.code) == (0, 0)
    digests = sorted(SHIPPED[name].digest for name in ("rgb8-small", "gray16-small"))
    assert with_models.summary["models_outside"] == []
    assert (without.summary["models_outside"], without.summary["model_bytes"]) == (digests, 0)
    saved = with_models.summary["archive_bytes"] - without.summary["archive_bytes"]
    assert abs(saved - with_models.summary["model_bytes"]) < 500
    assert not (bare / "data" / "models").exists()
    text = run("info", bare).out
    assert all(digest[:16] in text for digest in digests)
    assert run("verify", bare).code == 0
    assert run("unpack", bare, "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    (bare / "data" / "index.jsonl.zst").unlink()  # shards name models by their first digits
    assert run("unpack", bare, "-o", tmp_path / "again").code == 3
    assert snapshot(tmp_path / "again" / "tree") == snapshot(tree)


def test_a_model_of_ones_own_outside_is_asked_for_and_can_be_given(
    tree: Path, gray_file: Path, rgb_file: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "x.callic"
    words = ["--model", gray_file, "--effort", "fast", "--without-models"]
    assert run("pack", tree, "-o", archive, *words).code == 0
    ran = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert ran.code == 3
    (problem,) = [e for e in ran.events if e["event"] == "problem"]
    assert problem["code"] == "E301"
    assert "give its file with --model" in problem["message"]
    assert (tmp_path / "out/tree/colour.ppm").read_bytes() == (tree / "colour.ppm").read_bytes()
    assert not (tmp_path / "out/tree/gray.pgm").exists()
    assert run("verify", archive).code == 3
    for useless in (rgb_file, tmp_path / "nowhere", tree / "gray.pgm"):
        ran = run("unpack", archive, "-o", tmp_path / "not", "--model", useless, "--json")
        assert ran.code != 0
    given = ["--model", rgb_file, "--model", gray_file]
    assert run("unpack", archive, "-o", tmp_path / "whole", *given).code == 0
    assert snapshot(tmp_path / "whole" / "tree") == snapshot(tree)
    assert run("verify", archive, *given).code == 0
    assert run("diff", archive, tmp_path / "whole", *given).code == 0
    with open_archive(archive, models=given[1::2]) as opened:
        assert opened.read_array("tree/gray.pgm").shape == (144, 160)


# -- effort --------------------------------------------------------------------------------------------------


def test_effort_decides_what_is_adapted(tree: Path, tmp_path: Path) -> None:
    found = {}
    for words in (
        ["--effort", "fast"],
        ["--effort", "max", "--steps", "1"],
        ["--effort", "max", "--adapt", "none"],
    ):
        name = "-".join(words).strip("-") + ".callic"
        words = [*words, "--learned", "always"]
        ran = run("pack", tree, "-o", tmp_path / name, "--workers", "1", *words, "--json")
        assert ran.code == 0, ran.err
        settings = run("info", tmp_path / name, "--json").events[0]["settings"]
        found[name] = (ran.summary["adapt"], settings["adapt"], settings["steps"], settings["image_steps"])
    assert list(found.values()) == [
        ("none", "none", None, None),
        ("all", "all", 1, None),
        ("none", "none", None, 100),
    ]
