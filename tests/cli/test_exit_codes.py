"""Every documented exit code, each with its message and its summary object."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from callic_archive.archive.reading import Archive
from callic_archive.cli import resources
from callic_archive.cli.verbs import EXIT_CODES
from callic_archive.container.reader import ShardReader
from callic_archive.errors import Interrupted, NoSuchDevice, StoppedEarly
from tests.command import Ran, finish, run, start, use_double
from tests.trees import SHARED, make_tree, open_archive, smooth, snapshot, write_pnm


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def archive(tree: Path, tmp_path: Path) -> Path:
    assert run("pack", tree, "-o", tmp_path / "x.callic", "-q").code == 0
    return tmp_path / "x.callic"


def corrupt(archive: Path) -> str:
    """Flip a byte of an image's last part; the path of its entry."""
    listing = run("list", archive, "*.pgm", "--json").events
    path = next(event["path"] for event in listing if event.get("kind") == "pnm")
    with open_archive(archive) as opened:
        part = next(entry for entry in opened.entries if entry.path == path).parts[-1]
    shard = archive / "data" / part.ref.shard
    data = bytearray(shard.read_bytes())
    data[part.ref.offset + part.ref.length - 20] ^= 4  # before the checksum
    shard.write_bytes(data)
    return str(path)


# -- 0 -------------------------------------------------------------------------------------------------------


def test_0_all_done(tree: Path, tmp_path: Path) -> None:
    packed = run("pack", tree, "-o", tmp_path / "x.callic", "--json")
    assert packed.code == packed.summary["exit_code"] == 0
    assert run("verify", tmp_path / "x.callic").code == 0
    assert run("verify", tmp_path / "x.callic", "--quick").code == 0
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    assert run("list", tmp_path / "x.callic").code == 0
    assert run("info", tmp_path / "x.callic").code == 0


def test_0_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    packed = run("pack", tmp_path / "void", "-o", tmp_path / "x.callic", "--json")
    assert packed.code == 0
    assert packed.summary["files"] == 0
    assert run("verify", tmp_path / "x.callic").code == 0
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "void").is_dir()


# -- 1 -------------------------------------------------------------------------------------------------------


def assert_1_and_kept(ran: Ran, path: Path, archive: Path, tmp_path: Path) -> None:
    assert ran.code == ran.summary["exit_code"] == 1
    problem = next(event for event in ran.events if event["event"] == "problem")
    assert problem["path"] == str(path)
    assert problem["kept"] is True
    assert problem["code"].startswith("E1")
    assert str(path) in ran.err
    assert problem["message"] in ran.err
    assert run("verify", archive).code == 0
    assert run("unpack", archive, "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out" / path.relative_to(tmp_path)).read_bytes() == path.read_bytes()


@pytest.mark.shared
@pytest.mark.parametrize(
    "sample",
    ["eval/kodak/05.png", "eval/microscopy/banana0005.tif", "eval/ct/I210", "eval/kodak/05.png:tail"],
)
def test_1_a_truncated_image_is_kept_and_named(sample: str, tmp_path: Path) -> None:
    name, _, tail = sample.partition(":")
    original = SHARED / name
    if not original.exists():
        pytest.skip(f"{original} is not there (set CALLIC_SHARED)")
    data = original.read_bytes()
    path = tmp_path / "tree" / original.name
    path.parent.mkdir()
    path.write_bytes(data[: len(data) - 3] if tail else data[: len(data) // 2])
    write_pnm(tmp_path / "tree" / "good.pgm", smooth(40, 40))
    ran = run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--json")
    assert_1_and_kept(ran, path, tmp_path / "x.callic", tmp_path)
    assert ran.summary["images"] == 1


def test_1_an_unreadable_file_is_named_and_missing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def failing(path: object, *arguments: object, **keywords: object) -> int:
        if str(path).endswith("notes.txt"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", failing)
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--json")
    monkeypatch.setattr(os, "open", real)
    assert ran.code == 1
    (problem,) = [event for event in ran.events if event["event"] == "problem"]
    assert (problem["code"], problem["kept"], problem["path"]) == ("E512", False, str(tree / "notes.txt"))
    assert "Permission denied" in problem["message"]
    assert ran.summary["missing"] == 1
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0


def test_1_a_special_file_is_named_and_left_out(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tree / "pipe")
    ran = run("pack", tree, "-o", tmp_path / "x.callic")
    assert ran.code == 1
    assert "named pipe" in ran.err
    assert "E513" in ran.err


def test_1_a_bug_in_the_codec_costs_one_file(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch, raises_on=7)
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--json")
    assert ran.code == 1
    assert [event["code"] for event in ran.events if event["event"] == "problem"] == ["E511"]
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)


# -- 2 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["pack", "-o", "x"], "nothing to pack"),
        (["pack", "here"], "name the archive"),
        (["pack", "here", "-o", "x", "--adapt", "much"], "much"),
        (["pack", "here", "-o", "x", "--workers", "0"], "workers"),
        (["unpack", "x"], "Missing option"),
        (["verify", "x", "--deep"], "--deep"),
        (["sing"], "sing"),
        (["verify", "x", "--quick", "--full"], "--full and --quick exclude each other"),
        (["verify", "x", "--contents-only"], "--against"),
    ],
)
def test_2_wrong_words(words: list[str], text: str) -> None:
    ran = run(*words)
    assert ran.code == 2
    assert text in ran.err
    with_json = run(*words, "--json")
    assert with_json.code == 2
    assert with_json.summary["exit_code"] == 2
    assert text in with_json.summary["error"]["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["pack", "tree", "-o", ""],
        ["pack", "", "-o", "y.callic"],
        ["pack", "--files-from", "", "-o", "y.callic"],
        ["train", "tree", "-o", ""],
        ["unpack", "x.callic", "-o", ""],
        ["salvage", "x.callic", "-o", ""],
        ["salvage", "x.callic", "-o", "out", "--report", ""],
        ["verify", ""],
        ["verify", "x.callic", "--against", ""],
        ["diff", "x.callic", ""],
        ["models", "list", ""],
    ],
)
def test_2_an_empty_path_is_no_folder(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    ran = run(*words, "--json")
    assert ran.code == 2
    assert ran.summary["error"]["code"] == "E001"
    assert "a path is empty" in ran.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("place", [".", "/", "./", "tree/.."])
@pytest.mark.parametrize("verb", ["pack", "train", "report"])
def test_2_a_folder_is_no_name_of_what_is_to_be_made(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    words = ["salvage", archive, "-o", "out", "--report"] if verb == "report" else [verb, "tree", "-o"]
    ran = run(*words, place, "--json")
    assert ran.code == 2
    assert ran.summary["error"]["code"] in ("E001", "E003")
    assert "unexpected" not in ran.err
    assert snapshot(tmp_path) == before


def test_2_a_report_in_no_folder(archive: Path, tmp_path: Path) -> None:
    ran = run("salvage", archive, "-o", tmp_path / "out", "--report", tmp_path / "none" / "report.json")
    assert ran.code == 2
    assert "is no folder" in ran.err
    assert not (tmp_path / "out").exists()


def test_an_option_of_the_command_line_wins_over_a_variable(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLIC_ARCHIVE_VERIFY_QUICK", "1")
    assert run("verify", archive, "--json").summary["depth"] == "quick"
    assert run("verify", archive, "--full", "--json").summary["depth"] == "full"
    monkeypatch.setenv("CALLIC_ARCHIVE_VERIFY_FULL", "1")
    assert run("verify", archive, "--quick", "--json").summary["depth"] == "quick"
    assert run("verify", archive).code == 2


@pytest.mark.parametrize("verb", ["unpack", "verify", "list", "info"])
def test_2_a_missing_archive(verb: str, tmp_path: Path) -> None:
    ran = run(
        verb, tmp_path / "none.callic", "--json", *(["-o", tmp_path / "out"] if verb == "unpack" else [])
    )
    assert ran.code == 2
    assert ran.summary["error"]["code"] == "E002"
    assert "does not exist" in ran.err
    assert not (tmp_path / "out").exists()


def test_2_a_missing_source(tmp_path: Path) -> None:
    ran = run("pack", tmp_path / "none", "-o", tmp_path / "x.callic", "--json")
    assert ran.code == 2
    assert ran.summary["error"]["code"] == "E002"
    assert list(tmp_path.iterdir()) == []


def test_2_an_existing_destination_is_untouched(tree: Path, archive: Path) -> None:
    before = snapshot(archive)
    ran = run("pack", tree, "-o", archive, "--json")
    assert ran.code == 2
    assert ran.summary["error"]["code"] == "E003"
    assert "exists already" in ran.err
    assert snapshot(archive) == before


def test_2_existing_files_are_untouched(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "tree").mkdir(parents=True)
    (tmp_path / "out" / "tree" / "notes.txt").write_text("mine")
    ran = run("unpack", archive, "-o", tmp_path / "out")
    assert ran.code == 2
    assert "--overwrite" in ran.err
    assert [p.name for p in (tmp_path / "out" / "tree").iterdir()] == ["notes.txt"]
    assert run("unpack", archive, "-o", tmp_path / "out", "--overwrite").code == 0


@pytest.mark.parametrize("given", ["option", "variable"])
def test_2_a_scheduler_that_is_none(
    given: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--scheduler", "nofile.json"] if given == "option" else []
    if given == "variable":
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "nofile.json")
    begin = time.monotonic()
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--json", *more)
    assert (ran.code, ran.summary["error"]["code"]) == (2, "E002")
    assert time.monotonic() - begin < 20
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "x.callic.partial").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("salvage {a} -o out --report missing/r.json", "E002"),
        ("salvage {a} -o out --report .", "E001"),
        ("salvage {a} -o out --report {a}/r.json", "E001"),
        ("salvage {a} -o out --report notes/r.json", "E002"),
        ("salvage {a} -o notes", "E001"),
        ("salvage {a} -o notes/deeper/out", "E001"),
        ("salvage {a} -o {a}/data/out", "E001"),
        ("salvage {a} -o {a}/new.callic", "E001"),
        ("salvage {a} -o missing/new.callic", "E002"),
        ("unpack {a} -o notes", "E001"),
        ("unpack {a} -o notes/out", "E001"),
        ("unpack {a} -o notes --region 0:9,0:9", "E001"),
        ("pack tree -o missing/y.callic", "E002"),
        ("train tree -o missing/m.safetensors", "E002"),
    ],
)
@pytest.mark.parametrize("closed", [False, True])
def test_what_cannot_be_written_is_told_before_anything_is_read(
    words: str, code: str, closed: bool, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("something was read")

    for reading in (Archive, ShardReader):
        monkeypatch.setattr(reading, "__init__", read)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("a file")
    if closed:  # the same, where nobody may write
        (tmp_path / "missing").mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode, **_: not (mode & os.W_OK and Path(path).name == "missing"))
    ran = run(*words.format(a=archive).split(), "--json")
    refused = closed and "missing" in words
    assert (ran.code, ran.summary["error"]["code"]) == ((4, "E611") if refused else (2, code)), ran.err
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("**/*.partial"))


def test_2_a_pattern_without_match(archive: Path, tmp_path: Path) -> None:
    assert run("unpack", archive, "*.jpg", "-o", tmp_path / "out").code == 2
    assert run("list", archive, "*.jpg").code == 2


# -- 3 -------------------------------------------------------------------------------------------------------


def test_3_a_flipped_byte_is_found_named_and_contained(tree: Path, archive: Path, tmp_path: Path) -> None:
    path = corrupt(archive)
    for depth in ("--full", "--quick"):
        ran = run("verify", archive, depth, "--json")
        assert ran.code == ran.summary["exit_code"] == 3
        named = {event["path"] for event in ran.events if event["event"] == "problem"}
        assert path in named
        assert ran.summary["damaged"] == 1
        assert path in ran.err
    ran = run("unpack", archive, "-o", tmp_path / "out", "--json")
    assert ran.code == 3
    assert [event["path"] for event in ran.events if event["event"] == "problem"] == [path]
    expected = snapshot(tree)
    del expected[os.fsencode(path.removeprefix("tree/"))]
    assert snapshot(tmp_path / "out" / "tree") == expected


def test_3_a_tree_that_differs(archive: Path, tree: Path, tmp_path: Path) -> None:
    (tree / "notes.txt").write_text("other")
    ran = run("verify", archive, "--quick", "--against", tmp_path)
    assert ran.code == 3
    assert "tree/notes.txt" in ran.err
    assert "E505" in ran.err


def test_3_what_is_no_archive(tree: Path, tmp_path: Path) -> None:
    ran = run("verify", tree, "--json")
    assert ran.code == 3
    assert ran.summary["error"]["code"] == "E501"


# -- 4 -------------------------------------------------------------------------------------------------------


def test_4_no_such_gpu(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callic_archive.scheduling.devices.maybe_gpu", lambda: False)
    for words in (["--gpus", "1"], ["--device", "cuda"]):
        ran = run("pack", tree, "-o", tmp_path / "x.callic", *words, "--json")
        assert ran.code == NoSuchDevice.exit_code == 4
        assert ran.summary["error"]["code"] == "E601"
        assert "leave --gpus and --device out" in ran.err
    assert not (tmp_path / "x.callic.partial").exists()


def test_4_the_file_size_limit_is_reached_and_the_run_can_go_on(tmp_path: Path) -> None:
    import resource

    for number in range(4):
        write_pnm(tmp_path / "tree" / f"{number}.pgm", smooth(300, 300, seed=number))
    (tmp_path / "tree" / "big.bin").write_bytes(os.urandom(400_000))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    words = ("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--json")
    ran = finish(start(*words, preexec_fn=limit))
    assert ran.code == 4, ran.err
    assert ran.summary["error"]["code"] == "E610"
    assert "free or grant space" in ran.err
    assert not (tmp_path / "x.callic").exists()
    again = finish(start(*words))
    assert again.code == 0, again.err
    assert run("verify", tmp_path / "x.callic").code == 0


def test_4_nothing_can_be_written(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def read_only(self: Path, *arguments: object, **keywords: object) -> None:
        if ".partial" in str(self) or self.name == "out":
            raise OSError(30, "Read-only file system", str(self))
        real(self, *arguments, **keywords)  # type: ignore[arg-type]

    assert run("pack", tree, "-o", tmp_path / "x.callic").code == 0
    monkeypatch.setattr(Path, "mkdir", read_only)
    packed = run("pack", tree, "-o", tmp_path / "y.callic", "--json")
    assert (packed.code, packed.summary["error"]["code"]) == (4, "E611")
    assert "Read-only file system" in packed.err
    unpacked = run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out", "--json")
    assert (unpacked.code, unpacked.summary["error"]["code"]) == (4, "E611")


# -- 75 and 130 ----------------------------------------------------------------------------------------------


def begin_slow(tmp_path: Path, files: int = 30) -> tuple[tuple[object, ...], Path]:
    for number in range(files):
        write_pnm(tmp_path / "tree" / f"{number:02}.pgm", smooth(50, 50, seed=number))
    words = ("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--json", "--workers", "1")
    return words, tmp_path / "x.callic.partial" / "data"


def wait_for_entries(data: Path, process: object) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if sum(path.stat().st_size for path in data.glob("shard-*")) > 4000:
            return
        time.sleep(0.05)
    raise AssertionError("the run wrote nothing")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_75_a_signal_ends_the_run_after_the_file_in_hand(number: signal.Signals, tmp_path: Path) -> None:
    words, data = begin_slow(tmp_path)
    process = start(*words, behaviour="seconds=0.15")
    wait_for_entries(data, process)
    process.send_signal(number)
    ran = finish(process)
    assert ran.code == StoppedEarly.exit_code == 75, ran.err
    assert ran.summary["exit_code"] == 75
    assert number.name in ran.summary["error"]["message"]
    assert "run the same command again" in ran.err
    assert not (tmp_path / "x.callic").exists()
    done = ran.summary["files"]
    assert 0 < done < 30
    again = finish(start(*words))
    assert again.code == 0, again.err
    assert again.summary["resumed"] >= done
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0


def test_130_an_interrupt_ends_the_run_at_once(tmp_path: Path) -> None:
    words, data = begin_slow(tmp_path)
    process = start(*words, behaviour="seconds=0.15")
    wait_for_entries(data, process)
    process.send_signal(signal.SIGINT)
    ran = finish(process)
    assert ran.code == Interrupted.exit_code == 130, ran.err
    assert ran.summary["error"]["code"] == "E611" or ran.summary["error"]["code"] == "E621"
    assert "Traceback" not in ran.err
    again = finish(start(*words))
    assert again.code == 0, again.err
    assert again.summary["resumed"] > 0
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0


def test_the_codes_are_documented() -> None:
    for code in (0, 1, 2, 3, 4, 75, 130):
        assert f"\n  {code} " in EXIT_CODES
    text = " ".join(run("--help").out.split())
    for line in EXIT_CODES.splitlines()[2:9]:
        assert " ".join(line.split()) in text


@pytest.mark.parametrize("option", ["--append", "--update", "-u"])
def test_whoever_wants_to_add_to_an_archive_is_told_what_to_do(tmp_path: Path, option: str) -> None:
    ran = run("pack", tmp_path, "-o", tmp_path / "x.callic", option, "--json")
    assert ran.code == 2
    assert ran.summary["error"]["code"] == "E001"
    for text in (ran.err, ran.summary["error"]["message"]):
        assert option in text
        assert "Nothing is added to a finished archive" in text
        assert "callic-archive diff" in text
    assert "Nothing is added" not in run("pack", tmp_path, "-o", tmp_path / "x.callic", "--whatever").err
    assert "Nothing is added" not in run("unpack", tmp_path, "-o", tmp_path / "y", option).err


def test_what_would_not_fit_into_memory_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    Image.fromarray(smooth(300, 300)).save(tree / "a.png")
    np.savez_compressed(tree / "b.npz", a=smooth(300, 300))
    Image.fromarray(smooth(50, 50)).save(tree / "small.png")
    monkeypatch.setattr("callic_archive.cli.resources.LEAST_WHOLE", 1000)
    memory = SimpleNamespace(total=60_000 * resources.COPIES * 2)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--workers", 2, "--json")
    assert ran.code == 1
    problems = {Path(e["path"]).name: e for e in ran.events if e["event"] == "problem"}
    assert set(problems) == {"a.png", "b.npz"}
    for problem in problems.values():
        assert (problem["code"], problem["kept"]) == ("E103", True)
        assert "the limit is 54000" in problem["message"] or "more than 54000 bytes" in problem["message"]
        assert "uncompress it first" in problem["message"]
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    assert run("pack", tree, "-o", tmp_path / "y.callic", "--workers", 1, "--json").code == 0
