"""The child process that runs third-party codecs: signals to all processes of a run leave it alone; it ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from callic_archive.archive import image_coding, isolated
from callic_archive.errors import EnvironmentFailure, ForeignCodecFailed
from tests.command import ROOT

SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
NOISE = np.random.default_rng(3).integers(0, 256, (700, 800, 3), np.uint8)  # effort 9 takes some seconds for it


@pytest.fixture(autouse=True)
def _end_child() -> Any:
    pytest.importorskip("imagecodecs", reason="JPEG XL needs imagecodecs")
    isolated.stop()
    yield
    isolated.stop()


def child() -> int:
    assert isolated._child is not None
    return isolated._child.pid


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_all_processes_does_not_end_it(number: signal.Signals) -> None:
    first = isolated._running()
    os.kill(first.pid, number)  # before it has begun to run Python
    assert isolated.ask("versions", b"", memory=0)
    os.kill(child(), number)
    assert isolated.ask("versions", b"", memory=0)
    assert child() == first.pid


def test_who_asks_hears_signals_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    isolated.ask("versions", b"", memory=0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_child_that_somebody_ended_is_asked_again() -> None:
    expected = image_coding.encode_foreign(NOISE, "jpegxl", 7)
    first = child()
    threading.Timer(0.1, os.kill, (first, signal.SIGKILL)).start()
    assert image_coding.encode_foreign(NOISE, "jpegxl", 7) == expected
    assert child() != first


def test_a_request_that_ends_its_child_twice_is_at_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    note = f"open({str(tmp_path / 'starts')!r}, 'a').write('x')"
    for how, starts in (("import os; os.kill(os.getpid(), 9)", 2), ("import time; time.sleep(60)", 1)):
        isolated.stop()
        (tmp_path / "starts").write_text("")
        monkeypatch.setattr(isolated, "COMMAND", (sys.executable, "-c", f"{note}; {how}"))
        monkeypatch.setattr(isolated, "SECONDS", 1.2)
        monkeypatch.setattr(isolated, "BYTES_A_SECOND", 1e9)
        with pytest.raises(ForeignCodecFailed, match="ended"):
            image_coding.encode_foreign(NOISE, "jpegxl", 7)
        assert len((tmp_path / "starts").read_text()) == starts


def test_no_process_is_a_failure_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "COMMAND", ("/nowhere/python",))
    with pytest.raises(EnvironmentFailure, match="started"):
        image_coding.encode_foreign(NOISE, "jpegxl", 7)


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_a_parent_that_is_killed(busy: bool) -> None:
    script = (
        "import sys, threading, time, numpy as np\n"
        "from callic_archive.archive import image_coding, isolated\n"
        "isolated.ask('versions', b'', memory=0)\n"
        "print(isolated._child.pid, flush=True)\n"
        "noise = np.random.default_rng(3).integers(0, 256, (2000, 2000, 3), np.uint8)\n"
        f"{busy} and image_coding.encode_foreign(noise, 'jpegxl', 9)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        helper = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1.5)
        assert helper.is_running()
        parent.kill()
    gone, _ = psutil.wait_procs([helper], timeout=10)
    assert gone or helper.status() == psutil.STATUS_ZOMBIE
