"""Trees that a hostile user would give: thousands of tiny files, deep folders, endless links, things that are no files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.command import run, use_double
from tests.trees import snapshot


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


def test_all_of_it_at_once_with_the_destination_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t" / "tiny").mkdir(parents=True)
    for n in range(400):
        (tmp_path / "t" / "tiny" / f"{n:05d}").write_bytes(b"%d" % (n % 500))
    deep = tmp_path / "t" / "/".join("d" * 200)
    deep.mkdir(parents=True)
    (deep / "deep").write_text("x")
    os.symlink("a" * 4000, "t/long")
    os.symlink("loop2", "t/loop1")
    os.symlink("loop1", "t/loop2")
    os.symlink(".", "t/self")
    (tmp_path / "t" / "out").mkdir()
    kept = snapshot(tmp_path / "t")
    os.mkfifo("t/fifo")
    specials = {"t/fifo", "t/socket"}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("t/socket")
        try:
            os.mknod("t/device", 0o20666, os.makedev(1, 3))
            specials.add("t/device")
        except PermissionError:
            pass  # only root may make one
        packed = run("pack", "t", "-o", "t/out/a.callic", "--workers", 1, "--json")
    problems = {event["path"]: event["code"] for event in packed.events if event["event"] == "problem"}
    assert (packed.code, problems) == (1, dict.fromkeys(specials, "E513"))
    assert run("verify", "t/out/a.callic", "--workers", 1).code == 0
    assert run("unpack", "t/out/a.callic", "-o", "r", "--workers", 1).code == 0
    there = snapshot(tmp_path / "r" / "t")
    for path in (b".", b"out"):  # making the archive and the specials changed their times
        there.pop(path, None)
        kept.pop(path, None)
    assert there == kept


@pytest.mark.parametrize("kind", ["pipe", "dangling", "loop", "device"])
def test_a_source_that_is_no_file_ends_in_order(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "pipe":
        os.mkfifo(source)
    elif kind == "device":
        source = Path("/dev/null")
    else:
        source.symlink_to("source" if kind == "loop" else "nowhere")
    packed = run("pack", source, "-o", tmp_path / "a.callic", "--workers", 1)
    assert packed.code in (0, 1)
    assert "unexpected" not in packed.err
    if kind in ("dangling", "loop"):
        assert run("unpack", tmp_path / "a.callic", "-o", tmp_path / "r", "--workers", 1).code == 0
        assert os.readlink(tmp_path / "r" / "source") == os.readlink(source)
    else:
        assert "E513" in packed.err


@pytest.mark.parametrize("seconds", [-(2**31), -1, 2**31, 2**32 + 1, 7_258_118_400, 10_413_792_000])
def test_times_before_1970_and_after_2116(tmp_path: Path, seconds: int) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "file").write_text("x")
    time = seconds * 10**9 + 123_456_789
    os.utime(tmp_path / "t" / "file", ns=(time, time))
    os.utime(tmp_path / "t", ns=(time, time))
    kept = (tmp_path / "t" / "file").stat().st_mtime_ns  # the file system may have a smaller range
    assert run("pack", tmp_path / "t", "-o", tmp_path / "a.callic", "--workers", 1).code == 0
    assert run("unpack", tmp_path / "a.callic", "-o", tmp_path / "r", "--workers", 1).code == 0
    assert (tmp_path / "r" / "t" / "file").stat().st_mtime_ns == kept
    (tmp_path / "a.callic" / "data" / "index.jsonl.zst").unlink()  # ENTRY records say the same
    assert run("unpack", tmp_path / "a.callic", "-o", tmp_path / "s", "--workers", 1).code == 3
    assert (tmp_path / "s" / "t" / "file").stat().st_mtime_ns == kept
