"""What the commands say: text, JSON lines, progress, redaction, speed of the help."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from callic_archive import __version__
from callic_archive.archive.scan import Problem
from callic_archive.cli.report import Report, plural, printable, size_text, time_text
from callic_archive.cli.verbs import cli
from tests.command import ROOT, finish, run, start, use_double
from tests.trees import make_tree, smooth, write_pnm


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


def test_help_answers_within_half_a_second_and_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "callic_archive.cli.main", "--help"]
    times = []
    for _ in range(3):
        begin = os.times()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        now = os.times()  # processor time: other work on the machine must not fail this test
        times.append(now.children_user + now.children_system - begin.children_user - begin.children_system)
    assert min(times) < 0.5
    assert "Exit codes:" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"numpy", "torch", "dask", "distributed", "numba", "rich", "pydicom", "tifffile"}


def verbs(group: click.Group = cli) -> Iterator[tuple[str, ...]]:
    """The words of every command, those of groups too."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from ((name, *inner) for inner in verbs(command))
        else:
            yield (name,)


@pytest.mark.parametrize("verb", list(verbs()), ids=" ".join)
def test_every_verb_explains_itself(verb: tuple[str, ...]) -> None:
    ran = run(*verb, "--help")
    assert ran.code == 0
    assert "--json" in ran.out
    command: click.Command = cli
    for word in verb:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert parameter.help, parameter.name  # type: ignore[attr-defined]


def test_the_version() -> None:
    assert run("--version").out.strip() == f"callic-archive, version {__version__}"


def test_json_is_one_versioned_object_a_line_and_text_goes_to_standard_error(
    tree: Path, tmp_path: Path
) -> None:
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--json")
    assert all(event["v"] == 1 and event["verb"] == "pack" for event in ran.events)
    kinds = [event["event"] for event in ran.events]
    assert kinds.count("summary") == 1
    assert kinds[-1] == "summary"
    assert kinds.count("entry") == ran.summary["files"]
    assert "packed" in ran.err
    summary = ran.summary
    assert summary["source_bytes"] > summary["stored_bytes"]
    assert summary["images"] == 3
    assert summary["verbatim"] == summary["files"] - 3
    assert summary["fidelity"] == {"bytes": summary["files"], "content": 0}
    odd = [event for event in ran.events if "path_base64" in event]
    assert len(odd) == 1
    assert odd[0]["path"].startswith("tree/not-")


def test_text_goes_to_standard_output_without_json(tree: Path, tmp_path: Path) -> None:
    ran = run("pack", tree, "-o", tmp_path / "x.callic")
    assert ran.out.startswith("packed ")
    assert "coded as images" in ran.out
    assert ran.err == ""


def test_quiet_says_nothing_when_all_is_well(tree: Path, tmp_path: Path) -> None:
    for words in (["pack", tree, "-o", tmp_path / "x.callic"], ["verify", tmp_path / "x.callic"]):
        ran = run(*words, "--quiet")
        assert (ran.code, ran.out, ran.err) == (0, "", "")
    os.mkfifo(tree / "pipe")
    ran = run("pack", tree, "-o", tmp_path / "y.callic", "--quiet")
    assert ran.code == 1
    assert "pipe" in ran.err


def test_verbose_names_every_file(tree: Path, tmp_path: Path) -> None:
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--verbose")
    assert "tree/images/gray.pgm: pnm, bytes, " in ran.err
    ran = run("verify", tmp_path / "x.callic", "--verbose")
    assert "tree/images/gray.pgm: bytes" in ran.err


def test_list_and_info(tree: Path, tmp_path: Path) -> None:
    run("pack", tree, "-o", tmp_path / "x.callic")
    listing = run("list", tmp_path / "x.callic").out
    assert "pnm" in listing
    assert "tree/link -> notes.txt" in listing
    assert "tree/um läut \\n line\n" in listing
    assert r"not-\udcff\udcfe-utf8" in listing
    assert run("list", tmp_path / "x.callic", "*.pgm").out.count("\n") == 3
    events = run("list", tmp_path / "x.callic", "--json").events
    entry = next(event for event in events if event.get("path") == "tree/images/gray.pgm")
    assert entry["type"] == "file"
    assert entry["kind"] == "pnm"
    assert entry["fidelity"] == "bytes"
    assert entry["source_bytes"] == (tree / "images" / "gray.pgm").stat().st_size
    assert 0 < entry["stored_bytes"] < entry["source_bytes"]
    assert entry["images"] == [[40, 60]]
    text = run("info", tmp_path / "x.callic").out
    assert "format version 1" in text
    assert "shard-00000.cla" in text
    summary = run("info", tmp_path / "x.callic", "--json").events[0]
    assert summary["kinds"] == {"empty": 1, "npy": 1, "pnm": 2, "stored": 7}
    assert summary["symlinks"] == 3


def test_why_image_files_are_stored_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    np.save(tmp_path / "t" / "row.npy", np.arange(5000))
    (tmp_path / "t" / "cut.npy").write_bytes((tmp_path / "t" / "row.npy").read_bytes()[:60])
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    (tmp_path / "t" / "noise.pgm").write_bytes(b"P5 40 40 255\n" + noise.tobytes())
    (tmp_path / "t" / "words.txt").write_text("no image")
    ran = run("pack", tmp_path / "t", "-o", tmp_path / "x.callic", "--json", "--verbose")
    assert "row.npy: stored (an array with fewer than two axes), bytes" in ran.err
    reasons = {"t/row.npy": "axes", "t/noise.pgm": "not-smaller"}
    for events in (ran.events, run("list", tmp_path / "x.callic", "--json").events):
        assert {e["path"]: e["reason"] for e in events if "reason" in e} == reasons
    lines = {line.split()[4]: line for line in run("list", tmp_path / "x.callic").out.splitlines() if "." in line}
    assert lines["t/row.npy"].endswith("t/row.npy  [axes]")
    assert lines["t/cut.npy"].endswith("t/cut.npy  [E101]")
    assert lines["t/words.txt"].endswith("t/words.txt")
    summary = run("info", tmp_path / "x.callic", "--json").events[0]
    assert summary["verbatim"] == {"E101": 1, "axes": 1, "not-smaller": 1}
    assert "verbatim     1 E101, 1 axes, 1 not-smaller" in run("info", tmp_path / "x.callic").out


def test_a_dry_run_writes_nothing(tree: Path, tmp_path: Path) -> None:
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--dry-run", "--exclude", "images")
    assert ran.code == 0
    assert "tree/notes.txt" in ran.out
    assert "tree/images" not in ran.out
    assert "nothing was written" in ran.out
    assert "estimate from" in ran.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


def test_options_come_from_variables(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLIC_ARCHIVE_PACK_OUTPUT", str(tmp_path / "x.callic"))
    monkeypatch.setenv("CALLIC_ARCHIVE_PACK_EXCLUDE", "images *.txt")
    monkeypatch.setenv("CALLIC_ARCHIVE_PACK_JSON", "1")
    ran = run("pack", tree)
    assert ran.code == 0
    assert ran.summary["images"] == 0
    assert (tmp_path / "x.callic").is_dir()


def test_redacted_paths_show_nothing(tree: Path, tmp_path: Path) -> None:
    secret = tree / "Jane Doe 1970.pgm"
    write_pnm(secret, smooth(40, 40))
    secret.write_bytes(secret.read_bytes()[:800])
    os.mkfifo(tree / "John Roe")
    archive, out = tmp_path / "x.callic", tmp_path / "out"
    commands = [
        ["pack", tree, "-o", archive],
        ["pack", tree, "-o", tmp_path / "json.callic"],
        ["pack", tree, "-o", archive],
        ["pack", tree / "Jane Roe", "-o", tmp_path / "z.callic"],
        ["pack", tree, "-o", tmp_path / "y.callic", "--dry-run"],
        ["verify", archive],
        ["list", archive],
        ["info", archive],
        ["unpack", archive, "-o", out],
        ["unpack", archive, "-o", out],
    ]
    codes = []
    for number, words in enumerate(commands):
        if number == len(commands) - 1:
            (out / "tree" / "notes.txt").write_text("mine")
        more = ["--json"] if number % 2 else []
        ran = run(*words, "--verbose", "--redact-paths", *more)
        codes.append(ran.code)
        for name in ("Jane", "Roe", "notes", str(tmp_path), "x.callic"):
            assert name not in ran.out + ran.err, (words, ran.out, ran.err)
    assert codes == [1, 1, 2, 2, 1, 0, 0, 0, 0, 2]
    damaged = next((archive / "data").glob("shard-00001.cla"))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    ran = run("verify", archive, "--redact-paths", "--json", "--verbose")
    assert ran.code == 3
    for name in ("Jane", "notes", "images", "script"):
        assert name not in ran.out + ran.err


def test_a_redacted_path_is_the_same_within_a_run_and_another_in_the_next() -> None:
    first, second = Report("pack", redact=True), Report("pack", redact=True)
    assert first.path("a/Jane.png") == first.path("a/Jane.png")
    assert first.path("a/Jane.png") != first.path("a/John.png")
    assert first.path("a/Jane.png") != second.path("a/Jane.png")
    assert first.path("a/Jane.png").endswith(".png")


def test_debug_shows_tracebacks_and_nothing_else_does(tmp_path: Path) -> None:
    plain = run("info", tmp_path / "none")
    assert "Traceback" not in plain.err
    assert "Traceback" in run("info", tmp_path / "none", "--debug").err


def test_an_unplanned_failure_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("callic_archive.archive.scan.scan", broken)
    ran = run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--json")
    assert ran.code == 4
    assert "unexpected failure (ZeroDivisionError: oops)" in ran.summary["error"]["message"]
    assert "Traceback" not in ran.err


def test_many_problems_are_counted_and_not_all_shown() -> None:
    from io import StringIO

    out, err = StringIO(), StringIO()
    report = Report("verify", out=out, err=err, as_json=True)
    for number in range(80):
        report.problem(Problem(f"p{number}", "E502", "it is damaged", False, 3))
    assert report.finish() == 3
    assert err.getvalue().count("it is damaged") == 50
    assert out.getvalue().count('"event": "problem"') == 80
    assert json.loads(out.getvalue().splitlines()[-1])["problems"] == 80


def test_the_worst_problem_decides_the_exit_code() -> None:
    report = Report("unpack")
    for code, expected in ((1, 1), (3, 3), (1, 3), (4, 4), (3, 4)):
        report.raise_exit(code)
        assert report.exit_code == expected


def test_text_of_sizes_times_and_counts() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 123_456, 999_600, 5_300_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "123 kB",
        "1.0 MB",
        "5.3 GB",
    ]
    assert [time_text(s) for s in (0.04, 59.9, 60, 3700)] == ["0.0 s", "59.9 s", "1 min 00 s", "1 h 01 min"]
    assert [plural(n, "entry") for n in (0, 1, 2000)] == ["0 entries", "1 entry", "2,000 entries"]


def test_names_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07") == r"a\x1b[31mb\x07"
    assert printable("ümlaut 図") == "ümlaut 図"
    assert printable("\udcff") == r"\udcff"


def test_one_plain_line_an_interval_where_there_is_no_terminal(tmp_path: Path) -> None:
    for number in range(12):
        write_pnm(tmp_path / "tree" / f"{number}.pgm", smooth(40, 40, seed=number))
    words = (
        "pack",
        tmp_path / "tree",
        "-o",
        tmp_path / "x.callic",
        "--workers",
        "1",
        "--progress-interval",
        "0.3",
    )
    begin = time.monotonic()
    ran = finish(start(*words, behaviour="seconds=0.12"))
    assert ran.code == 0
    most = (time.monotonic() - begin) / 0.3 + 1
    lines = [line for line in ran.err.splitlines() if " of 12 files" in line]
    assert 2 <= len(lines) <= most
    assert "\x1b" not in ran.err
    assert "\r" not in ran.err
    assert any("ratio" in line and "left" in line for line in lines)
    quiet = finish(start(*words[:3], tmp_path / "y.callic", *words[4:], "-q", behaviour="seconds=0.05"))
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def on_terminal(words: tuple[object, ...], **variables: str) -> str:
    """Run a command whose output is a terminal; everything it wrote there."""
    main, secondary = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CALLIC_TEST_DOUBLE": "dict(seconds=0.2)",
        **variables,
    }
    environment = {k: v for k, v in environment.items() if v != "unset"}
    command = [sys.executable, str(ROOT / "tests" / "command.py"), *map(str, words)]
    process = subprocess.Popen(command, stdout=secondary, stderr=secondary, env=environment)
    os.close(secondary)
    text = b""
    while True:
        try:
            if select.select([main], [], [], 30)[0]:
                text += os.read(main, 65536)
        except OSError:  # the other end was closed
            break
    os.close(main)
    assert process.wait() == 0
    return text.decode(errors="replace")


def test_bars_on_a_terminal_and_no_colour_when_not_wanted(tmp_path: Path) -> None:
    for number in range(4):
        write_pnm(tmp_path / "tree" / f"{number}.pgm", smooth(40, 40, seed=number))
    words = ("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--workers", "1")
    text = on_terminal(words, TERM="xterm", COLUMNS="110", NO_COLOR="unset")
    assert "\x1b[" in text
    assert "4 files" in text
    assert "━" in text
    assert "packed 4 files" in text
    words = (*words[:3], tmp_path / "y.callic", *words[4:])
    text = on_terminal(words, TERM="xterm", COLUMNS="110", NO_COLOR="1")
    assert "\x1b[3" not in text
    assert "packed 4 files" in text


def test_output_into_a_closed_pipe_ends_quietly(tree: Path, tmp_path: Path) -> None:
    for number in range(300):
        (tree / f"file {number} with a rather long name to fill the pipe's buffer {'x' * 150}").write_text("")
    run("pack", tree, "-o", tmp_path / "x.callic")
    process = start("list", tmp_path / "x.callic")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 141


def test_the_package_is_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "callic_archive", "info", tmp_path / "none.callic"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "none.callic" in done.stderr
