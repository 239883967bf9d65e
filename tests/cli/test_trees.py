"""Options about trees: lists, borders of file systems, estimates, comparisons and parts."""

from __future__ import annotations

import datetime
import io
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from callic_archive.archive import estimate as estimate_module
from callic_archive.archive import jpeg_sampling
from callic_archive.archive.scan import scan
from callic_archive.archive.subset import parse_subset
from callic_archive.errors import UsageError
from tests.command import run, use_double
from tests.slides import jpeg, picture, slide
from tests.streams import capricious
from tests.trees import make_tree, smooth, snapshot, write_pnm


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


def paths(archive: Path) -> list[str]:
    ran = run("list", archive, "--json")
    return [event["path"] for event in ran.events if event["event"] == "entry"]


# -- lists ---------------------------------------------------------------------------------------------------


def test_a_list_keeps_the_folders_of_its_paths(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text(
        "tree/images/gray.pgm\n\n./tree//notes.txt\ntree/images/gray.pgm\ntree/void\n"
    )
    ran = run("pack", "--files-from", "list", "-o", "x.callic")
    assert ran.code == 0
    assert paths(tmp_path / "x.callic") == [
        "tree",
        "tree/images",
        "tree/images/gray.pgm",
        "tree/notes.txt",
        "tree/void",
        "tree/void/deeper",
    ]
    assert run("unpack", "x.callic", "-o", "out").code == 0
    kept, whole = snapshot(tmp_path / "out" / "tree"), snapshot(tree)
    assert kept == {path: whole[path] for path in kept}


@pytest.mark.parametrize("option", [(), ("--null",)])
def test_names_with_line_feeds_and_stray_bytes_come_with_nul_bytes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    names = [b"tree/um l\xc3\xa4ut \n line", b"tree/not-\xff\xfe-utf8"]
    monkeypatch.chdir(tmp_path)
    stdin = SimpleNamespace(buffer=io.BytesIO(b"\0".join(names) + b"\0"))
    monkeypatch.setattr("callic_archive.cli.pack.sys.stdin", stdin)
    assert run("pack", "--files-from", "-", *option, "-o", "x.callic").code == 0
    assert run("unpack", "x.callic", "-o", "out").code == 0
    assert sorted(snapshot(tmp_path / "out")) == sorted([b"tree", *names])


def test_a_list_beside_sources_and_absolute_paths(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{tree}/notes.txt\n")
    assert (
        run("pack", tree / "images", "--files-from", tmp_path / "list", "-o", tmp_path / "x.callic").code == 0
    )
    found = paths(tmp_path / "x.callic")
    assert f"{tree}/notes.txt".lstrip("/") in found
    assert "images/gray.pgm" in found


def test_listed_names_that_are_missing_or_lead_up_are_told(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree / "images")
    (tmp_path / "list").write_text("gray.pgm\nnothing\n../notes.txt\ngray.pgm/below\n")
    ran = run("pack", "--files-from", tmp_path / "list", "-o", tmp_path / "x.callic", "--json")
    assert ran.code == 1
    told = {e["path"]: e["code"] for e in ran.events if e["event"] == "problem"}
    assert told == dict.fromkeys(("nothing", "../notes.txt", "gray.pgm/below"), "E512")
    assert paths(tmp_path / "x.callic") == ["gray.pgm"]


def test_a_folder_is_no_list(tree: Path, tmp_path: Path) -> None:
    ran = run("pack", "--files-from", tree, "-o", tmp_path / "x.callic")
    assert ran.code == 2
    assert "is a folder; name it as a SOURCE" in ran.err
    assert not (tmp_path / "x.callic").exists()


def test_another_list_is_another_run(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("tree/notes.txt\n")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("callic_archive.archive.packing.PackRun.finish", stop)
        assert run("pack", "--files-from", "list", "-o", "x.callic").code == 130
    (tmp_path / "list").write_text("tree/copy.txt\n")
    assert run("pack", "--files-from", "list", "-o", "x.callic").code == 2
    (tmp_path / "list").write_text("tree/notes.txt\n")
    assert run("pack", "--files-from", "list", "-o", "x.callic").code == 0


@pytest.mark.parametrize(
    ("text", "more"), [("", []), ("\n\n", []), ("\0", ["--null"]), ("./\n.\n", []), ("", ["--dry-run"])]
)
def test_a_list_that_names_nothing_is_a_mistake(tree: Path, tmp_path: Path, text: str, more: list[str]) -> None:
    (tmp_path / "list").write_text(text)
    words = ("pack", "--files-from", tmp_path / "list", "-o", tmp_path / "x.callic", *more)
    ran = run(*words, "--json")
    assert (ran.code, ran.summary["error"]["code"]) == (2, "E001")
    assert f"list {tmp_path / 'list'} names nothing" in ran.err
    assert not list(tmp_path.glob("x.callic*"))
    assert run(*words, tree).code == 0  # beside a SOURCE it adds nothing


def test_a_missing_list_and_no_source(tmp_path: Path) -> None:
    assert run("pack", "--files-from", tmp_path / "none", "-o", tmp_path / "x.callic").code == 2
    assert run("pack", "-o", tmp_path / "x.callic").code == 2


# -- shapes of sources ---------------------------------------------------------------------------------------


def test_the_same_source_twice_overlapping_sources_and_a_destination_inside(
    tree: Path, tmp_path: Path
) -> None:
    out = tree / "images" / "x.callic"
    assert run("pack", tree, f"{tree}/", tree / "images", "-o", out).code == 0
    found = paths(out)
    assert len(found) == len(set(found))
    assert {"tree/images/gray.pgm", "images/gray.pgm"} <= set(found)
    assert not any("x.callic" in path for path in found)


def test_links_in_a_circle_and_special_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    (tree / "up").symlink_to("..")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "socket"))
        ran = run("pack", tree, "-o", tmp_path / "x.callic", "--json")
    assert ran.code == 1
    told = {Path(e["path"]).name: (e["code"], e["kept"]) for e in ran.events if e["event"] == "problem"}
    assert told == {"pipe": ("E513", False), "socket": ("E513", False)}
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    assert os.readlink(tmp_path / "out" / "tree" / "a") == "b"
    # what archives do not hold makes a tree no different from one
    assert run("verify", tmp_path / "x.callic", "--against", tmp_path).code == 0
    os.mkfifo(tree / "c")
    (tree / "a").unlink()
    os.mkfifo(tree / "a")
    ran = run("verify", tmp_path / "x.callic", "--against", tmp_path, "--json")
    assert ran.code == 2 or ran.code == 3
    assert {e["path"] for e in ran.events if e["event"] == "problem"} == {"tree/a", "tree"}


def test_other_file_systems_are_not_entered() -> None:
    if not os.path.ismount("/dev/shm") or not os.access("/dev", os.R_OK):
        pytest.skip("no file system is mounted on /dev/shm")
    inside = Path("/dev/shm") / f"callic-test-{os.getpid()}"
    inside.touch()
    try:
        entered = scan(["/dev"])
        kept = scan(["/dev"], one_file_system=True)
    finally:
        inside.unlink()
    name = f"dev/shm/{inside.name}"
    assert name in {source.path for source in entered.sources}
    found = {source.path: source.kind for source in kept.sources}
    assert name not in found
    assert found["dev/shm"] == "directory"
    assert any("mount points" in note for note in kept.notes)


def test_names_never_reach_the_terminal_raw(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("\x1b]0;owned\x07", "a\nE999 forged line", "\u202egnp.exe", "tab\there", "\x9b31m"):
        (tree / name).write_text("x")
    os.mkfifo(tree / "\x1b[2Jpipe\nforged")
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "-v")
    listed = run("list", tmp_path / "x.callic")
    checked = run("verify", tmp_path / "x.callic", "-v")
    (tree / "a\nE999 forged line").write_text("y")
    other = run("diff", tmp_path / "x.callic", tmp_path, "-v")
    for text in (ran.out, ran.err, listed.out, checked.err, other.err, other.out):
        assert not [c for c in text if not c.isprintable() and c != "\n"]
        assert not [line for line in text.splitlines() if line.startswith(("E999", "forged"))]
    assert "\\x1b" in ran.err
    assert len(listed.out.splitlines()) == 6


# -- estimates -----------------------------------------------------------------------------------------------


def test_an_estimate_comes_close_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    monkeypatch.setattr(estimate_module.estimate, "__defaults__", (300.0,))
    for number in range(12):
        write_pnm(tree / f"{number}.pgm", smooth(400, 500, seed=number))
    (tree / "words").write_text("some words and others " * 20_000)
    (tree / "noise").write_bytes(np.random.default_rng(1).bytes(300_000))
    ran = run("pack", tree, "-o", tmp_path / "x.callic", "--dry-run", "--json")
    assert ran.code == 0
    guess = ran.summary["estimate"]
    assert guess["is_estimate"] is True
    assert guess["sampled_images"] == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tree"]
    packed = run("pack", tree, "-o", tmp_path / "x.callic", "--json").summary
    assert guess["stored_bytes"] == pytest.approx(packed["stored_bytes"], rel=0.15)
    assert guess["archive_bytes"] == pytest.approx(packed["archive_bytes"], rel=0.15)
    assert guess["source_bytes"] == packed["source_bytes"]


@pytest.mark.parametrize(("window", "error"), [(1 << 20, 0.05), (40_000, 0.15)])
def test_an_estimate_knows_jpeg_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, error: float
) -> None:
    """Of slides, of documents, of what surrounds images, and of a broken file: as wholes, or through windows."""
    pytest.importorskip("imagecodecs")
    monkeypatch.setattr(jpeg_sampling, "WINDOW", window)
    monkeypatch.setattr(jpeg_sampling, "WHOLE", 3 * window)
    monkeypatch.setattr(estimate_module.estimate, "__defaults__", (300.0,))
    tiles = [jpeg(picture(64, 64, seed), quality=80) for seed in range(240)]
    label = io.BytesIO()
    with tifffile.TiffWriter(label) as file:
        file.write(picture(512, 512), photometric="rgb", compression="jpeg", tile=(64, 64))
        file.write(smooth(200, 200, 3), photometric="rgb")
    files = {
        "slide.svs": slide([tiles], 64, 16),
        "label.tif": label.getvalue(),
        "paper.pdf": b"%PDF" + b"".join(b"some words" * 9 + tile for tile in tiles[100:]),
        "cut.tif": slide([tiles[::-1]], 64, 16, tables=False)[:-700],
    }
    for name, data in files.items():
        tree = tmp_path / name[:3]
        tree.mkdir()
        (tree / name).write_bytes(data)
        ran = run("pack", tree, "-o", tmp_path / f"{name}.callic", "--dry-run", "--json")
        assert ran.code == 0
        packed = run("pack", tree, "-o", tmp_path / f"{name}.callic", "--json").summary
        assert packed["stored_bytes"] < 0.9 * len(data)
        guess = ran.summary["estimate"]
        assert guess["stored_bytes"] == pytest.approx(packed["stored_bytes"], rel=error), name
        assert guess["seconds"] > 0


def test_an_estimate_takes_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch, seconds=0.2)
    for number in range(200):
        write_pnm(tmp_path / "tree" / f"{number}.pgm", smooth(30, 30, seed=number))
    monkeypatch.setattr(estimate_module.estimate, "__defaults__", (1.0,))
    ran = run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--dry-run", "--json")
    guess = ran.summary["estimate"]
    assert guess["sample_seconds"] < 3
    assert 0 < guess["sampled_files"] < 20
    assert guess["seconds"] > 0


def test_estimates_of_nothing_and_of_unreadable_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    ran = run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--dry-run", "--json")
    assert ran.summary["estimate"]["ratio"] is None
    (tmp_path / "tree" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 100)
    (tmp_path / "tree" / "gone").write_bytes(b"x" * 100)
    found = scan([str(tmp_path / "tree")]).sources
    (tmp_path / "tree" / "gone").unlink()
    from callic_archive.archive.packed import PackOptions
    from tests.doubles import DeflatePlan

    guess = estimate_module.estimate(found, DeflatePlan(), PackOptions(), 1)
    assert 0 < guess.stored_bytes <= 808


# -- comparing -----------------------------------------------------------------------------------------------


def change_mode(tree: Path) -> None:
    (tree / "script").chmod(0o700)


def change_time(tree: Path) -> None:
    os.utime(tree / "void" / "deeper", ns=(1, 2))


def change_link_time(tree: Path) -> None:
    os.utime(tree / "link", ns=(1, 2), follow_symlinks=False)


def part_links(tree: Path) -> None:
    info = (tree / "twin.txt").stat()
    shutil.copy2(tree / "twin.txt", tree / ".new")
    keep_folder_time(tree, lambda: os.replace(tree / ".new", tree / "twin.txt"))
    os.utime(tree / "twin.txt", ns=(info.st_atime_ns, info.st_mtime_ns))


def keep_folder_time(folder: Path, step: Callable[[], object]) -> None:
    info = folder.stat()
    step()
    os.utime(folder, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "path", "words", "only_metadata"),
    [
        (change_mode, "tree/script", "mode", True),
        (change_time, "tree/void/deeper", "time of modification", True),
        (change_link_time, "tree/link", "time of modification", True),
        (part_links, "tree/twin.txt", "one file with", True),
        (
            lambda tree: (tree / "notes.txt").write_text("WORDS " * 200),
            "tree/notes.txt",
            "other bytes",
            False,
        ),
        (lambda tree: keep_folder_time(tree, (tree / "empty").unlink), "tree/empty", "missing", False),
        (lambda tree: keep_folder_time(tree, (tree / "new").touch), "tree/new", "not in the archive", False),
    ],
)
def test_every_promise_is_compared(
    tree: Path, tmp_path: Path, change: Callable[[Path], object], path: str, words: str, only_metadata: bool
) -> None:
    os.link(tree / "notes.txt", tree / "twin.txt")
    archive = tmp_path / "x.callic"
    assert run("pack", tree, "-o", archive).code == 0
    assert run("diff", archive, tmp_path).code == 0
    folder = tree.stat()
    change(tree)
    os.utime(tree, ns=(folder.st_atime_ns, folder.st_mtime_ns))
    for words_ in (("diff", archive, tmp_path), ("verify", archive, "--against", tmp_path)):
        ran = run(*words_, "--json")
        assert ran.code == 3
        told = {e["path"]: e["message"] for e in ran.events if e["event"] == "problem"}
        assert words in told[path]
        assert {e["code"] for e in ran.events if e["event"] == "problem"} == {"E505"}
    ran = run("diff", archive, tmp_path, "--contents-only")
    assert ran.code == (0 if only_metadata else 3)


def test_two_files_that_became_one_are_a_difference(tree: Path, tmp_path: Path) -> None:
    os.utime(tree / "copy.txt", ns=(1, (tree / "notes.txt").stat().st_mtime_ns))
    archive = tmp_path / "x.callic"
    assert run("pack", tree, "-o", archive).code == 0
    (tree / "copy.txt").unlink()
    os.link(tree / "notes.txt", tree / "copy.txt")
    ran = run("diff", archive, tmp_path, "--json")
    told = {e["path"]: e["message"] for e in ran.events if e["event"] == "problem"}
    assert "one file with 'tree/copy.txt' in the tree" in told["tree/notes.txt"]


def test_what_was_unpacked_is_what_was_packed(tree: Path, tmp_path: Path) -> None:
    (tree / "script").chmod(0o4750)
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 24)
        file.write(b"begin")
    os.link(tree / "sparse", tree / "void" / "same")
    assert run("pack", tree, "-o", tmp_path / "x.callic").code == 0
    ran = run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out", "--json")
    assert ran.code == 0
    assert [e for e in ran.events if e["event"] == "note" and "set-user-id" in e["message"]]
    ran = run("diff", tmp_path / "x.callic", tmp_path / "out", "--json")
    assert (ran.code, ran.summary["different"]) == (0, 0)
    # zeros where the archive has holes are the same; anything else there is not
    sparse = tmp_path / "out" / "tree" / "sparse"
    info = sparse.stat()
    with sparse.open("r+b") as file:
        file.seek(9_000_000)
        file.write(bytes(100_000))
        os.utime(sparse, ns=(1, info.st_mtime_ns))
        file.flush()
        assert run("diff", tmp_path / "x.callic", tmp_path / "out", "--contents-only").code == 0
        file.seek(9_050_000)
        file.write(b"x")
        file.flush()
    ran = run("diff", tmp_path / "x.callic", tmp_path / "out", "--contents-only")
    assert ran.code == 3


def test_other_compressed_bytes_are_no_difference_where_no_more_is_promised(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    path = tmp_path / "tree" / "a.png"
    path.write_bytes(costly_png(np.zeros((600, 600), np.uint8)))
    ran = run("pack", tmp_path / "tree", "-o", tmp_path / "x.callic", "--json")
    assert ran.summary["fidelity"] == {"bytes": 0, "content": 1}
    assert run("unpack", tmp_path / "x.callic", "-o", tmp_path / "out").code == 0
    back = tmp_path / "out" / "tree" / "a.png"
    assert back.read_bytes() != path.read_bytes()
    assert run("diff", tmp_path / "x.callic", tmp_path / "out").code == 0
    assert run("diff", tmp_path / "x.callic", tmp_path).code == 0
    other = np.zeros((600, 600), np.uint8)
    other[5, 5] += 1
    path.write_bytes(costly_png(other))
    ran = run("diff", tmp_path / "x.callic", tmp_path, "--contents-only", "--json")
    assert ran.code == 3
    assert "pixels" in next(e["message"] for e in ran.events if e["event"] == "problem")


def costly_png(image: np.ndarray) -> bytes:
    """A gray PNG whose stream costs so much to repeat that it cannot be worth it."""
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    body = b"\x78\x9c" + capricious(rows, 2, 0) + zlib.adler32(rows).to_bytes(4, "big")
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )



def test_diff_wants_an_archive_and_a_folder(tree: Path, tmp_path: Path) -> None:
    assert run("diff", tmp_path / "x.callic", tmp_path).code == 2
    assert run("pack", tree, "-o", tmp_path / "x.callic").code == 0
    assert run("diff", tmp_path / "x.callic", tmp_path / "nothing").code == 2
    ran = run("diff", tmp_path / "x.callic", tree, "--json")
    assert ran.code == 3
    assert ran.summary["different"] == len(paths(tmp_path / "x.callic"))


# -- parts ---------------------------------------------------------------------------------------------------


def test_all_parts_together_are_the_archive(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.callic"
    assert run("pack", tree, "-o", archive).code == 0
    seen: list[str] = []
    for number in range(1, 5):
        ran = run("verify", archive, "--subset", f"{number}/4", "--json")
        assert ran.code == 0
        assert ran.summary["subset"] == f"{number}/4"
        again = run("verify", archive, "--subset", f"{number}/4", "--json")
        found = [e["path"] for e in ran.events if e["event"] == "entry"]
        assert found == [e["path"] for e in again.events if e["event"] == "entry"]
        seen += found
    whole = run("verify", archive, "--json")
    assert sorted(seen) == sorted(e["path"] for e in whole.events if e["event"] == "entry")
    assert len(seen) == len(set(seen))


def test_damage_is_found_by_the_part_that_holds_it_and_by_no_other(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.callic"
    assert run("pack", tree, "-o", archive).code == 0
    from callic_archive.archive.reading import Archive

    with Archive(archive) as opened:
        ref = next(e for e in opened.entries if e.path == "tree/random.bin").parts[0].ref
    shard = archive / "data" / ref.shard
    data = bytearray(shard.read_bytes())
    data[ref.offset + ref.length - 20] ^= 1
    shard.write_bytes(data)
    codes = {}
    for number in range(1, 8):
        ran = run("verify", archive, "--subset", f"{number}/7", "--json")
        codes[number] = {e["path"] for e in ran.events if e["event"] == "problem"}
    holders = {number for number, found in codes.items() if "tree/random.bin" in found}
    hashers = {number for number, found in codes.items() if f"data/{ref.shard}" in found}
    assert len(holders) == len(hashers) == 1
    assert all(not found for number, found in codes.items() if number not in holders | hashers)


def test_percents_go_round() -> None:
    days = [datetime.date(2026, 1, 1) + datetime.timedelta(n) for n in range(20)]
    parts = [parse_subset("5%", day) for day in days]
    assert {part.number for part in parts} == set(range(1, 21))
    assert {part.count for part in parts} == {20}
    assert parse_subset("100%", days[0]).count == 1
    assert parse_subset("3/7", days[0]) == parse_subset("3/7", days[5])


@pytest.mark.parametrize(
    "text", ["0/7", "8/7", "7", "0%", "101%", "-1/3", "1/0", "1/99999", "a/b", "", "5 %"]
)
def test_parts_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_subset(text, datetime.date(2026, 1, 1))
