"""Signals as batch systems, terminals and service managers send them: to all processes of a run, at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.command import ROOT, Ran, finish, run, start, use_double
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
    """JPEG files that take a library a while: progressive ones, which no coder of this package takes."""
    folder.mkdir()
    rows, columns = np.mgrid[:2000, :2400]
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 12, (2000, 2400, 3))
        slopes = 128 + 60 * np.sin(rows / 40) + 50 * np.cos(columns / 33)
        image = (slopes[:, :, None] + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number}.jpg", quality=92, progressive=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
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


# -- at any time: while the program is loaded, and when all is done ----------------------------------------------

LOADING = """
class AtImport:
    def find_spec(self, name, *_):
        if name == MODULE:
            os.kill(os.getpid(), NUMBER)
sys.meta_path.insert(0, AtImport())
"""
TELLING = """
class Out(io.TextIOWrapper):
    def write(self, text):
        super().write(text)
        if TEXT in text:
            self.flush()
            os.kill(os.getpid(), NUMBER)
        return len(text)
sys.stdout = Out(sys.stdout.buffer)
"""
NAMING = """
rename = os.rename
def renamed(source, target, **how):
    if str(target).endswith((".callic", ".safetensors")):
        os.kill(os.getpid(), NUMBER)
    rename(source, target, **how)
os.rename = renamed
"""
ENDING = """
atexit.register(os.kill, os.getpid(), NUMBER)
"""


def with_signal(when: str, number: signal.Signals, *words: object, **names: str) -> Ran:
    """Run a command to which ``number`` is sent at a certain moment."""
    script = (
        "import atexit, io, os, signal, sys\n"
        f"NUMBER = {int(number)}\n"
        + "".join(f"{name} = {value!r}\n" for name, value in names.items())
        + when
        + f"from callic_archive.cli.main import main\nmain({[str(word) for word in words]!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_pnm(tmp_path / "tree" / "a.pgm", smooth(50, 50))
    assert run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic").code == 0
    return tmp_path / "x.callic"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "module",
    ["click", "callic_archive.cli.options", "callic_archive.errors", "callic_archive.archive.reading", "numpy"],
)
def test_while_the_program_is_loaded_a_signal_is_one_line(
    module: str, number: signal.Signals, archive: Path, tmp_path: Path
) -> None:
    words = ("salvage", archive, "-o", tmp_path / "out", "--json")
    ran = with_signal(LOADING, number, *words, MODULE=module)
    assert ran.code == (130 if number == signal.SIGINT else 75)
    assert len(ran.err.splitlines()) == 1
    assert ran.summary["exit_code"] == ran.code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", [TELLING, ENDING], ids=["told", "ending"])
@pytest.mark.parametrize(("verb", "text"), [("verify", "is sound"), ("diff", "is what was packed"), ("unpack", "restored")])
def test_what_was_told_is_not_taken_back(
    verb: str, text: str, when: str, number: signal.Signals, archive: Path, tmp_path: Path
) -> None:
    more = {"verify": [], "diff": [tmp_path], "unpack": ["-o", tmp_path / "out"]}[verb]
    ran = with_signal(when, number, verb, archive, *more, TEXT=text)
    assert (ran.code, ran.err) == (0, "")
    assert text in ran.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.parametrize("when", [NAMING, TELLING, ENDING], ids=["naming", "told", "ending"])
def test_an_archive_that_has_its_name_is_told_of(when: str, number: signal.Signals, tmp_path: Path) -> None:
    write_pnm(tmp_path / "tree" / "a.pgm", smooth(50, 50))
    words = ("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--learned", "never")
    ran = with_signal(when, number, *words, TEXT="packed")
    assert (ran.code, ran.err) == (0, "")
    assert "packed 1 file" in ran.out
    again = with_signal(NAMING, number, "salvage", tmp_path / "x.callic", "-o", tmp_path / "y.callic")
    assert (again.code, again.err) == (0, "")
    assert run("verify", tmp_path / "y.callic", "--against", tmp_path).code == 0


def test_a_signal_that_comes_twice_at_once_counts_once(archive: Path, tmp_path: Path) -> None:
    """As `timeout` sends it: to the process, and to its group."""
    twice = LOADING.replace("os.kill(os.getpid(), NUMBER)", "os.kill(os.getpid(), NUMBER); os.kill(os.getpid(), NUMBER)")
    ran = with_signal(twice, signal.SIGINT, "verify", archive, MODULE="callic_archive.archive.verifying")
    assert (ran.code, len(ran.err.splitlines())) == (130, 1)


def test_what_a_signal_became_on_its_way_does_not_matter(archive: Path) -> None:
    """Libraries that are interrupted while they are loaded may fail in ways of their own."""
    made = LOADING.replace(
        "os.kill(os.getpid(), NUMBER)",
        "try: os.kill(os.getpid(), NUMBER); [0 for _ in range(9)]\n"
        "            except KeyboardInterrupt: raise ImportError('no module')",
    )
    ran = with_signal(made, signal.SIGTERM, "verify", archive, "--json", MODULE="callic_archive.archive.verifying")
    assert (ran.code, len(ran.err.splitlines())) == (75, 1)
    assert ran.summary["error"]["code"] == "E620"
