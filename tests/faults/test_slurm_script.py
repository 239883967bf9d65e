"""The Slurm job hands its warning on to ``pack``, waits for it, and goes back into the queue."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOB = ROOT / "pipelines/slurm/pack.sbatch"

#: Stands for the command: says that it has begun, takes its time over a signal as the real one does.
PACK = """#!/usr/bin/env bash
echo "$@" > arguments
trap 'sleep 0.3; echo finished > finished; exit 75' USR1
touch begun
for _ in $(seq 600); do [ -e answer ] && exit "$(cat answer)"; sleep 0.05; done
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" > requeued
"""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A folder with stand-ins for the two commands that the job calls."""
    for name, text in (("callic-archive", PACK), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text, "utf-8")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def start(node: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PATH": f"{node}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    job = subprocess.Popen(["bash", str(JOB), *arguments], cwd=node, env=environment)
    deadline = time.monotonic() + 20
    while not (node / "begun").exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return job


def test_a_warning_ends_in_a_requeue_after_the_record_in_hand(node: Path) -> None:
    job = start(node, "scans", "scans.callic", "--adapt", "none")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 75
    assert (node / "finished").exists(), "the job must wait until pack has ended"
    assert (node / "requeued").read_text() == "requeue 17\n"
    assert (node / "arguments").read_text() == "pack scans -o scans.callic --adapt none\n"


@pytest.mark.parametrize("code", [0, 1, 3])
def test_an_end_of_its_own_is_passed_on(node: Path, code: int) -> None:
    job = start(node, "scans", "scans.callic")
    (node / "answer").write_text(str(code))
    assert job.wait(20) == code
    assert not (node / "requeued").exists()


def test_missing_arguments_are_a_usage_error(node: Path) -> None:
    assert start(node, "scans").wait(20) == 2
