"""Signals as batch systems, terminals and service managers send them: to all processes of a run, at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.command import finish, run, start, use_double
from tests.trees import smooth, write_pnm


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


HELPER = "archive.foreign"  # runs image libraries


def wait_for_child(process: subprocess.Popen[str], what: str, seconds: float) -> None:
    """Until the process has started a child of which ``what`` is said, and so long more."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.Error):
                if what in " ".join(child.cmdline()):
                    time.sleep(seconds)
                    return
        time.sleep(0.01)
    raise AssertionError(f"there was no child {what}")


def photographs(folder: Path, count: int = 3) -> Path:
    """JPEG files that take a library a while."""
    folder.mkdir()
    rows, columns = np.mgrid[:2000, :2400]
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 12, (2000, 2400, 3))
        slopes = 128 + 60 * np.sin(rows / 40) + 50 * np.cos(columns / 33)
        image = (slopes[:, :, None] + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number}.jpg", quality=92)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_whole_group_costs_no_file_its_coding(number: signal.Signals, tmp_path: Path) -> None:
    tree = photographs(tmp_path / "tree")
    expected = run("pack", tree, "-o", tmp_path / "x.callic", "--json")
    assert expected.summary["jpeg"] == 3
    words = ("pack", tree, "-o", tmp_path / "y.callic", "--json", "--workers", "1")
    process = start(*words, start_new_session=True)
    wait_for_child(process, HELPER, 0.3)
    os.killpg(process.pid, number)
    ran = finish(process)
    assert ran.code == (130 if number == signal.SIGINT else 75), ran.err
    assert ran.summary["jpeg"] == ran.summary["files"], "what was packed is packed as well as ever"
    again = run(*words)
    assert (again.code, again.summary["jpeg"]) == (0, 3), again.err
    assert again.summary["stored_bytes"] == expected.summary["stored_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("verb", ["verify", "unpack"])
def test_a_signal_to_the_whole_group_is_no_damage(verb: str, number: signal.Signals, tmp_path: Path) -> None:
    tree = photographs(tmp_path / "tree")
    assert run("pack", tree, "-o", tmp_path / "x.callic").code == 0
    more = ["-o", tmp_path / "out"] if verb == "unpack" else []
    process = start(verb, tmp_path / "x.callic", *more, "--json", "--workers", "1", start_new_session=True)
    wait_for_child(process, HELPER, 0.3)
    os.killpg(process.pid, number)
    ran = finish(process)
    assert ran.code == (130 if number == signal.SIGINT else 75), ran.err
    assert ran.summary["problems"] == 0, ran.err
    assert ran.summary["damaged" if verb == "verify" else "failed"] == 0


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_while_workers_start_ends_the_run_in_good_order(number: signal.Signals, tmp_path: Path) -> None:
    for seed in range(40):
        write_pnm(tmp_path / "tree" / f"{seed:02}.pgm", smooth(300, 320, seed=seed))
    words = ("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--json", "--workers", "2")
    process = start(*words, behaviour="seconds=0.01", start_new_session=True)
    wait_for_child(process, "multiprocessing.spawn", 0.2)
    os.killpg(process.pid, number)
    ran = finish(process)
    assert ran.code == (130 if number == signal.SIGINT else 75), ran.err
    assert len(ran.err.splitlines()) == 1
    again = run(*words[:-1], "1")
    assert again.code == 0, again.err
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0
