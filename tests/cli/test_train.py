"""``train``: from images to a model that pack takes; stopped, killed and gone on with; refused where it must be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from callic_archive.errors import DamagedModel
from callic_archive.model.weights import load_model
from callic_archive.training.trainer import read_checkpoint
from tests.command import ROOT, Ran, finish, run
from tests.trees import grainy, smooth, write_pnm
from tests.unit.model.builders import CONFORMANCE

GRAY = CONFORMANCE / "model-gray.safetensors"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Gray images that the tiny model knows nothing of, among other files."""
    for number in range(8):
        write_pnm(tmp_path / "images" / f"{number}.pgm", grainy(144, 160, 1, number))
    (tmp_path / "images" / "notes.txt").write_text("words")
    (tmp_path / "images" / "broken.pgm").write_bytes(b"P5\n10 10\n255\nshort")
    return tmp_path / "images"


def words(images: Path, model: Path, *more: object, steps: int = 3) -> list[object]:
    return ["train", images, "-o", model, "--base", GRAY, "--steps", steps, "--threads", 1, "--json", *more]


def start(*command: object) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    line = [sys.executable, "-m", "callic_archive.cli.main", *(str(word) for word in command)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def wait_for_training(process: subprocess.Popen[str]) -> None:
    """Read events until training has begun, and give it the time for some steps."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("stage") == "training":
            time.sleep(1.5)
            return
    raise AssertionError(process.stderr.read() if process.stderr else "training never began")


@pytest.mark.slow
def test_a_model_is_trained_packed_with_and_says_where_it_comes_from(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "mine.safetensors"
    ran = run(*words(images, model, "--rate", 0.01, steps=60))
    assert ran.code == 0, ran.err
    summary = ran.summary
    assert summary["steps"] == 60
    assert summary["held_out"] < 0.97 * summary["held_out_before"]
    saved = summary["held_out_before"] - summary["held_out"]
    assert summary["pays_from_bytes"] == pytest.approx(
        summary["model_bytes"] * summary["held_out"] / saved, rel=1e-3
    )
    assert not list(tmp_path.glob("*.partial"))
    baseline = next(event for event in ran.events if event["event"] == "baseline")
    assert baseline["files"] + baseline["held_out_files"] == 10
    assert baseline["held_out_files"] >= 1
    evaluations = [event for event in ran.events if event["event"] == "evaluation"]
    assert evaluations[-1]["step"] == summary["steps"]
    loaded = load_model(model)
    assert (loaded.name, loaded.digest) == ("mine", summary["sha256"])
    (event, _) = run("models", "show", model, "--json").events
    training = event["record"]["training"]
    assert training["base"]["sha256"] == load_model(GRAY).digest
    assert training["earlier"][-1] == {"sha256": load_model(GRAY).digest}
    assert training["steps"] == summary["steps"]
    assert event["record"]["held_out"]["held-out files"]["integer_bpsp"] == summary["held_out"]
    assert "images" not in json.dumps(event["record"]["training"])  # no paths in what may be passed on
    sizes = {}
    for name, base in (("before", GRAY), ("after", model)):
        packed = run("pack", images, "-o", tmp_path / name, "--model", base, "--effort", "fast", "--json")
        assert packed.code == 1  # broken.pgm
        sizes[name] = packed.summary["image_bytes"]
        assert run("verify", tmp_path / name).code == 0
    assert sizes["after"] < 0.97 * sizes["before"]
    again = run(*words(images, model))
    assert again.code == 2
    assert again.summary["error"]["code"] == "E003"


def test_a_flipped_bit_in_a_trained_model_is_noticed(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    assert run(*words(images, model, steps=2)).code == 0
    data = bytearray(model.read_bytes())
    data[-700] ^= 1  # in the arrays, where no bound and no shape would notice
    model.write_bytes(data)
    with pytest.raises(DamagedModel, match="arrays do not have the SHA-256"):
        load_model(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "error"),
    [(signal.SIGTERM, 75, "E620"), (signal.SIGUSR1, 75, "E620"), (signal.SIGINT, 130, "E621")],
)
def test_a_stopped_training_goes_on(
    number: signal.Signals, code: int, error: str, images: Path, tmp_path: Path
) -> None:
    model = tmp_path / "m.safetensors"
    process = start(*words(images, model, steps=100_000))
    wait_for_training(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    stopped = Ran(process.returncode, out, err)
    assert stopped.code == code, stopped.err
    assert stopped.summary["error"]["code"] == error
    assert "same command again" in stopped.summary["error"]["message"]
    assert not model.exists()
    assert (tmp_path / "m.safetensors.partial" / "checkpoint.pt").exists()
    other = run(*words(images, model, "--rate", "0.01", steps=5))
    assert (other.code, other.summary["error"]["code"]) == (2, "E004")
    assert "rate" in other.summary["error"]["message"]
    done = read_checkpoint(tmp_path / "m.safetensors.partial" / "checkpoint.pt")["step"]
    assert done >= 1
    went_on = finish(start(*words(images, model, steps=done + 3)), timeout=240)
    assert went_on.code == 0, went_on.err
    assert [e for e in went_on.events if e["event"] == "note" and "going on" in e["message"]]
    assert went_on.summary["steps"] == done + 3
    assert model.exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_checkpoint(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    process = start(*words(images, model, steps=100_000))
    wait_for_training(process)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "m.safetensors.partial" / "job.json").exists()
    ran = run(*words(images, model, steps=4))
    assert ran.code == 0, ran.err
    assert load_model(model).digest == ran.summary["sha256"]


def test_a_damaged_checkpoint_is_named(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    folder = tmp_path / "m.safetensors.partial"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(b"no checkpoint")
    ran = run(*words(images, model))
    assert ran.code == 3
    assert ran.summary["error"]["code"] == "E307"
    assert "remove it to begin anew" in ran.summary["error"]["message"]
    (folder / "checkpoint.pt").unlink()
    assert run(*words(images, model, steps=2)).code == 0


def test_two_trainings_of_one_model_do_not_meet(images: Path, tmp_path: Path) -> None:
    from callic_archive.training.folder import TrainingFolder

    job = tmp_path / "m.safetensors.partial" / "job.json"
    with TrainingFolder(tmp_path / "m.safetensors") as folder:
        folder.open({})
        job.unlink()
        ran = run(*words(images, tmp_path / "m.safetensors"))
    assert ran.code == 2
    assert "being written by another command" in ran.summary["error"]["message"]


@pytest.mark.parametrize("what", ["nothing", "text", "colour"])
def test_sources_with_nothing_to_learn_from(what: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if what == "text":
        (root / "a.txt").write_text("words")
    if what == "colour":
        for number in range(3):
            write_pnm(root / f"{number}.ppm", smooth(40, 40, 3, number))
    ran = run(*words(root, tmp_path / "m.safetensors"))
    assert ran.code == 2
    assert ran.summary["error"]["code"] == "E306"
    assert not (tmp_path / "m.safetensors").exists()


def test_the_base_is_chosen_by_what_is_there_and_the_rest_is_told(tmp_path: Path) -> None:
    from callic_archive.archive.scan import scan
    from callic_archive.training.job import preferred_planes

    for number in range(3):
        write_pnm(tmp_path / "mixed" / f"{number}.ppm", smooth(40, 50, 3, number))
        write_pnm(tmp_path / "mixed" / f"{number}.pgm", smooth(40, 50, 1, number))
    gray_as_colour = np.repeat(smooth(40, 50)[:, :, None], 3, axis=2)
    write_pnm(tmp_path / "mixed" / "gray.ppm", gray_as_colour)  # coded as one plane
    planes, shares = preferred_planes(scan([str(tmp_path / "mixed")]).sources)
    assert planes == 3
    assert shares[3] == pytest.approx(9 / 13)
    shutil.rmtree(tmp_path / "mixed")
    write_pnm(tmp_path / "mixed" / "one.pgm", smooth(40, 50))
    assert preferred_planes(scan([str(tmp_path / "mixed")]).sources)[0] == 1


def test_an_existing_model_and_a_wrong_base_stop_it_at_once(images: Path, tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_text("mine")
    ran = run(*words(images, tmp_path / "there.safetensors"))
    assert (ran.code, ran.summary["error"]["code"]) == (2, "E003")
    assert (tmp_path / "there.safetensors").read_text() == "mine"
    ran = run("train", images, "-o", tmp_path / "m.safetensors", "--base", "nobody", "--json")
    assert (ran.code, ran.summary["error"]["code"]) == (2, "E305")
    assert not list(tmp_path.glob("m.safetensors*"))
