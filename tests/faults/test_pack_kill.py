"""Killed at any instant, packed again: nothing is lost, nothing is packed twice, nothing is half there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from callic_archive.container.bag import validate_bag
from tests.command import finish, run, start, use_double
from tests.trees import make_tree, smooth, snapshot, write_pnm


def shard_bytes(data: Path) -> int:
    return sum(path.stat().st_size for path in data.glob("shard-*"))


@pytest.mark.parametrize("least", [1, 6000, 20000])
def test_kill_9_in_the_middle_then_the_same_command(
    least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch)
    tree = make_tree(tmp_path / "tree")
    for number in range(25):
        write_pnm(tree / "more" / f"{number:02}.pgm", smooth(50, 50, seed=number))
    words = ("pack", tree, "-o", tmp_path / "x.callic", "--json", "--workers", "1")
    process = start(*words, behaviour="seconds=0.04")
    data = tmp_path / "x.callic.partial" / "data"
    deadline = time.monotonic() + 30
    while shard_bytes(data) < least and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()
    assert process.returncode == -9
    assert not (tmp_path / "x.callic").exists()
    refused = run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out")
    assert refused.code == 3
    assert "run the same pack command again" in refused.err
    again = finish(start(*words))
    assert again.code == 0, again.err
    assert validate_bag(tmp_path / "x.callic") == []
    packed_now = sum(event["event"] == "entry" for event in again.events)
    assert again.summary["resumed"] + packed_now >= again.summary["files"]
    if least > 1:
        assert again.summary["resumed"] > 0
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)


@pytest.mark.cluster
@pytest.mark.slow
def test_kill_9_of_everything_while_workers_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)
    for number in range(40):
        write_pnm(tmp_path / "tree" / f"{number:02}.pgm", smooth(300, 320, seed=number))
    words = ("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--json", "--workers", "2")
    process = start(*words, behaviour="seconds=0.2", start_new_session=True)
    data = tmp_path / "x.callic.partial" / "data"
    deadline = time.monotonic() + 60
    while shard_bytes(data) < 250_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    shards = len(list(data.glob("shard-*.partial")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert shards >= 2, "both workers had begun"
    again = finish(start(*words[:-1], "1"))
    assert again.code == 0, again.err
    assert again.summary["resumed"] > 0
    assert validate_bag(tmp_path / "x.callic") == []
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0


@pytest.mark.cluster
@pytest.mark.slow
def test_workers_end_with_the_process_that_leads_them_and_stop_in_good_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch)
    for number in range(40):
        write_pnm(tmp_path / "tree" / f"{number:02}.pgm", smooth(300, 320, seed=number))
    words = ("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--json", "--workers", "2")
    process = start(*words, behaviour="seconds=0.3", start_new_session=True)
    data = tmp_path / "x.callic.partial" / "data"
    deadline = time.monotonic() + 60
    while shard_bytes(data) < 150_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)  # as a batch system does: to all processes at once
    ran = finish(process)
    assert ran.code == 75, ran.err
    assert not list(data.glob("*.partial")), "workers sealed their shards"
    again = finish(start(*words[:-1], "1"))
    assert again.code == 0, again.err
    assert again.summary["resumed"] >= ran.summary["files"] > 0
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0
