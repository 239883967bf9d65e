"""Hard links, sparse files, odd and long names, changing sources: kept, given back, or told."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from callic_archive.archive import content
from callic_archive.archive.content import OpenFile, opened, reaching
from callic_archive.archive.entries import Entry
from callic_archive.archive.packer import Packer
from callic_archive.archive.reading import INDEX
from callic_archive.archive.unpacking import Restored, select
from callic_archive.container.index import read_index, write_index
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.read import unpack, verify
from tests.doubles import DeflatePlan
from tests.trees import open_archive, pack_tree, smooth, snapshot, write_pnm

HERE = Resources(workers=1)
TIB = 1 << 40


def restore(
    archive: Path, destination: Path, *patterns: str, overwrite: bool = False
) -> tuple[list[Restored], dict[str, str]]:
    """What was restored, and path to code of all that went wrong."""
    done: list[Restored] = []
    with open_archive(archive) as found:
        rest = unpack(
            found,
            select(found.entries, patterns),
            destination,
            plan=DeflatePlan(),
            overwrite=overwrite,
            resources=HERE,
            watch=done.append,
            tick=lambda running, workers: None,
        )
        problems = [*found.problems, *rest, *(r.problem for r in done if r.problem)]
    return done, {problem.path: problem.code for problem in problems}


def sound(archive: Path) -> bool:
    done: list[Restored] = []
    with open_archive(archive) as found:
        verify(
            found,
            found.entries,
            plan=DeflatePlan(),
            full=True,
            resources=HERE,
            watch=done.append,
            tick=lambda running, workers: None,
        )
    return bool(done) and all(r.problem is None for r in done)


def entries_of(archive: Path) -> dict[str, Entry]:
    with open_archive(archive) as found:
        assert not found.problems
        return {entry.path: entry for entry in found.entries}


def inodes(root: Path) -> dict[str, int]:
    return {p.relative_to(root).as_posix(): p.stat().st_ino for p in root.rglob("*") if p.is_file()}


# -- hard links ----------------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    image = write_pnm(tree / "b" / "image.pgm", smooth(60, 60))
    (tree / "a").mkdir()
    os.link(image, tree / "a" / "again.pgm")
    os.link(image, tree / "third.pgm")
    write_pnm(tree / "equal.pgm", smooth(60, 60))  # the same bytes in a file of its own
    (tree / "empty").touch()
    os.link(tree / "empty", tree / "void")
    (tmp_path / "outside").write_text("another name lies elsewhere")
    os.link(tmp_path / "outside", tree / "inside")
    os.utime(image, ns=(1, 1_400_000_000_000_000_123))
    return tree


def test_one_file_with_several_names_comes_back_as_one(linked: Path, tmp_path: Path) -> None:
    run = pack_tree(linked, tmp_path / "x.callic")
    assert run.problems == []
    found = entries_of(tmp_path / "x.callic")
    assert {p: e.link for p, e in found.items() if e.link} == {
        "tree/b/image.pgm": "tree/a/again.pgm",
        "tree/third.pgm": "tree/a/again.pgm",
        "tree/void": "tree/empty",
    }
    assert len({e.parts for p, e in found.items() if p.endswith(".pgm")}) == 1
    done, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert problems == {}
    assert len(done) == 7
    assert snapshot(tmp_path / "out" / "tree") == snapshot(linked)
    ino = inodes(tmp_path / "out" / "tree")
    assert ino["a/again.pgm"] == ino["b/image.pgm"] == ino["third.pgm"] != ino["equal.pgm"]
    assert ino["empty"] == ino["void"]
    assert (tmp_path / "out/tree/inside").stat().st_nlink == 1
    assert sound(tmp_path / "x.callic")
    # a second time over what is there
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out", overwrite=True)
    assert problems == {}
    assert snapshot(tmp_path / "out" / "tree") == snapshot(linked)
    assert not list((tmp_path / "out").rglob(".callic-*"))
    assert (tmp_path / "out/tree/third.pgm").stat().st_nlink == 3


def test_a_selection_without_the_first_name_is_linked_among_itself(linked: Path, tmp_path: Path) -> None:
    pack_tree(linked, tmp_path / "x.callic")
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out", "tree/third.pgm", "image.pgm")
    assert problems == {}
    ino = inodes(tmp_path / "out" / "tree")
    assert set(ino) == {"third.pgm", "b/image.pgm"}
    assert len(set(ino.values())) == 1


def test_a_first_name_that_is_in_the_way_does_not_cost_the_others(linked: Path, tmp_path: Path) -> None:
    pack_tree(linked, tmp_path / "x.callic")
    (tmp_path / "out/tree/a").mkdir(parents=True)
    (tmp_path / "out/tree/a/again.pgm").write_text("foreign")
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert problems == {"tree/a/again.pgm": "E506"}
    ino = inodes(tmp_path / "out" / "tree")
    assert ino["third.pgm"] == ino["b/image.pgm"] != ino["a/again.pgm"]
    assert (tmp_path / "out/tree/third.pgm").read_bytes() == (linked / "third.pgm").read_bytes()
    assert (tmp_path / "out/tree/a/again.pgm").read_text() == "foreign"


def test_a_destination_without_hard_links_gets_copies_and_says_so(
    linked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_tree(linked, tmp_path / "x.callic")

    def refusing(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refusing)
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert problems == dict.fromkeys(("tree/b/image.pgm", "tree/third.pgm", "tree/void"), "E507")
    assert snapshot(tmp_path / "out" / "tree") == snapshot(linked)


def test_links_survive_a_run_that_was_cut(
    linked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Packer._file
    count = 0

    def cut(self: Packer, *arguments: object) -> object:
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Packer, "_file", cut)
    with pytest.raises(KeyboardInterrupt):
        pack_tree(linked, tmp_path / "x.callic")
    monkeypatch.undo()
    run = pack_tree(linked, tmp_path / "x.callic")
    assert run.resumed
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert problems == {}
    assert snapshot(tmp_path / "out" / "tree") == snapshot(linked)
    assert (tmp_path / "out/tree/third.pgm").stat().st_nlink == 3


def test_where_the_first_name_vanishes_the_next_one_stands_for_the_file(
    linked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Packer._file

    def vanish(self: Packer, source: object, *arguments: object) -> object:
        (linked / "a" / "again.pgm").unlink(missing_ok=True)
        return real(self, source, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Packer, "_file", vanish)
    run = pack_tree(linked, tmp_path / "x.callic")
    assert [(p.path, p.code) for p in run.problems] == [(str(linked / "a/again.pgm"), "E512")]
    found = entries_of(tmp_path / "x.callic")
    assert "tree/a/again.pgm" not in found
    assert found["tree/third.pgm"].link == "tree/b/image.pgm"


def rewrite(archive: Path, path: str, /, **fields: object) -> None:
    """Forge the index line of one entry."""
    rows = [
        {**row, **fields} if row.get("path") == path else row for row in read_index(archive / "data" / INDEX)
    ]
    write_index(archive / "data" / INDEX, rows)


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../outside",
        "tree/../../outside",
        "tree/planted",
        "tree/equal.pgm",  # the same bytes, another file: mode and time are not those of the entry
        "tree/third.pgm",  # itself
        "tree/void",  # another name, not a file
        "tree/a",  # a folder
        "tree/nothing",
    ],
)
def test_a_forged_hard_link_is_refused(linked: Path, tmp_path: Path, target: str) -> None:
    pack_tree(linked, tmp_path / "x.callic")
    rewrite(tmp_path / "x.callic", "tree/third.pgm", link=target)
    (tmp_path / "out" / "tree").mkdir(parents=True)
    (tmp_path / "out" / "outside").write_text("precious")
    (tmp_path / "out" / "tree" / "planted").write_text("precious")
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert problems == {"tree/third.pgm": "E504"}
    assert not (tmp_path / "out/tree/third.pgm").exists()
    assert (tmp_path / "out/outside").stat().st_nlink == 1
    assert (tmp_path / "out/tree/planted").stat().st_nlink == 1


def test_a_file_swapped_before_it_is_linked_is_not_linked(
    linked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone replaces what was restored by a link to a file of theirs, or of somebody else."""
    pack_tree(linked, tmp_path / "x.callic")
    (tmp_path / "secret").write_text("secret")
    out = tmp_path / "out" / "tree"
    from callic_archive.scheduling import read

    real = read.restore_links

    def swapping(*arguments: object) -> None:
        (out / "a/again.pgm").unlink()
        os.symlink(tmp_path / "secret", out / "a/again.pgm")
        (out / "empty").unlink()
        (out / "empty").write_text("foreign")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(read, "restore_links", swapping)
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert problems == dict.fromkeys(("tree/b/image.pgm", "tree/third.pgm", "tree/void"), "E504")
    assert not (out / "third.pgm").exists()
    assert (tmp_path / "secret").stat().st_nlink == 1
    assert not list((tmp_path / "out").rglob(".callic-*"))


# -- sparse files --------------------------------------------------------------------------------------------


def make_sparse(path: Path, size: int, *blocks: tuple[int, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for offset, data in blocks:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    if path.stat().st_blocks * 512 + (64 << 10) > size:
        pytest.skip("the file system of the temporary folder has no sparse files")
    return path


def test_a_terabyte_of_holes_costs_nothing(tmp_path: Path) -> None:
    noise = os.urandom(1 << 20)
    try:
        make_sparse(tmp_path / "tree" / "disk.img", TIB, (1 << 20, noise), (TIB // 2, b"middle"))
    except OSError:
        pytest.skip("the file system of the temporary folder takes no files of 1 TiB")
    make_sparse(tmp_path / "tree" / "all holes", 1 << 30)
    begin = time.monotonic()
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    assert run.problems == []
    found = entries_of(tmp_path / "x.callic")
    disk = found["tree/disk.img"]
    assert (disk.method, disk.size) == ("sparse", TIB)
    assert disk.packed_size < 2 << 20
    assert found["tree/all holes"].extents == ()
    assert sound(tmp_path / "x.callic")
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert time.monotonic() - begin < 30
    assert problems == {}
    back = tmp_path / "out" / "tree" / "disk.img"
    assert back.stat().st_size == TIB
    assert back.stat().st_blocks * 512 < 2 << 20
    assert back.stat().st_mtime_ns == (tmp_path / "tree" / "disk.img").stat().st_mtime_ns
    with back.open("rb") as file:
        assert os.pread(file.fileno(), 1 << 20, 1 << 20) == noise
        assert os.pread(file.fileno(), 8, TIB // 2 - 1) == b"\0middle\0"
    assert (tmp_path / "out/tree/all holes").stat().st_blocks == 0
    with opened(str(back)) as again, opened(str(tmp_path / "tree" / "disk.img")) as first:
        assert again.extents == first.extents


def test_equal_sparse_files_are_stored_once(tmp_path: Path) -> None:
    blocks = ((1 << 20, os.urandom(5000)),)
    make_sparse(tmp_path / "tree" / "a", 1 << 24, *blocks)
    make_sparse(tmp_path / "tree" / "b", 1 << 24, *blocks)
    make_sparse(tmp_path / "tree" / "longer", 1 << 25, *blocks)
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    found = entries_of(tmp_path / "x.callic")
    assert found["tree/a"].parts == found["tree/b"].parts != found["tree/longer"].parts
    assert len({found[f"tree/{name}"].sha256 for name in ("a", "b", "longer")}) == 2
    assert restore(tmp_path / "x.callic", tmp_path / "out")[1] == {}
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tmp_path / "tree")


def test_a_sparse_image_is_coded_and_gets_its_holes_again(tmp_path: Path) -> None:
    """A PGM of which some rows are a hole."""
    image = smooth(1024, 1024)
    head = b"P5\n1024 1024\n255\n"
    rows = image.tobytes()
    make_sparse(
        tmp_path / "tree" / "a.pgm",
        len(head) + len(rows),
        (0, head + rows[: 600 << 10]),
        (1000 << 10, b"end"),
    )
    with (tmp_path / "tree" / "a.pgm").open("rb") as file:
        plain = file.read()
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    entry = entries_of(tmp_path / "x.callic")["tree/a.pgm"]
    assert entry.method == "image"
    assert entry.extents
    assert restore(tmp_path / "x.callic", tmp_path / "out")[1] == {}
    back = tmp_path / "out" / "tree" / "a.pgm"
    assert back.read_bytes() == plain
    assert back.stat().st_blocks * 512 < 800 << 10
    # the same bytes without holes, in the same archive, share the records and have no holes
    (tmp_path / "tree" / "dense.pgm").write_bytes(plain)
    pack_tree(tmp_path / "tree", tmp_path / "y.callic")
    found = entries_of(tmp_path / "y.callic")
    assert found["tree/a.pgm"].parts == found["tree/dense.pgm"].parts
    assert found["tree/dense.pgm"].extents is None


@pytest.mark.parametrize(
    "extents",
    [
        None,
        [[0, 5]],
        [[1 << 20, 5000], [1 << 20, 1]],
        [[-1, 5000]],
        [[1 << 24, 5000]],
        [[1 << 20, 0], [1 << 20, 5000]],
        [[True, 5000]],
        [["0", 5000]],
        [[0, 2500], [2000, 2500]],
        [[0]],
        7,
        [[n, 1] for n in range(0, 2 * content.MOST_EXTENTS + 2, 2)],
    ],
    ids=lambda value: str(value)[:30],
)
def test_extents_that_lie_are_refused(tmp_path: Path, extents: object) -> None:
    make_sparse(tmp_path / "tree" / "a", 1 << 24, (1 << 20, os.urandom(8192)))
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    rewrite(tmp_path / "x.callic", "tree/a", extents=extents)
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert problems == {"tree/a": "E502"}


def test_moved_extents_do_not_pass_the_digest_and_a_size_beyond_all_disks_costs_one_file(
    tmp_path: Path,
) -> None:
    make_sparse(tmp_path / "tree" / "a", 1 << 24, (1 << 20, os.urandom(8192)))
    make_sparse(tmp_path / "tree" / "b", 1 << 24, (1 << 20, os.urandom(8192)))
    (tmp_path / "tree" / "fine").write_text("fine")
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    rewrite(tmp_path / "x.callic", "tree/a", extents=[[2 << 20, 8192]])
    rewrite(tmp_path / "x.callic", "tree/b", size=1 << 61)
    _, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert problems["tree/a"] == "E503"
    assert problems["tree/b"] in ("E503", "E506")
    assert (tmp_path / "out" / "tree" / "fine").read_text() == "fine"
    assert os.listdir(tmp_path / "out" / "tree") == ["fine"]


def test_many_extents_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MOST_EXTENTS", 10)
    found = content._joined([(n * n * 100, 50) for n in range(1, 40)])
    assert len(found) <= 10
    assert found[0][0] == 100
    assert sum(found[-1]) == 39 * 39 * 100 + 50
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(found))


# -- sources that change while they are read -----------------------------------------------------------------


def changing(monkeypatch: pytest.MonkeyPatch, change: object) -> None:
    """Call ``change(path)`` after the first piece of each file was read."""
    real = OpenFile.pieces

    def pieces(self: OpenFile, *arguments: object, **options: object) -> Iterator[bytes]:
        for number, piece in enumerate(real(self, *arguments, **options)):  # type: ignore[arg-type]
            yield piece
            if number == 0:
                change(Path(self.file))  # type: ignore[operator]

    monkeypatch.setattr(OpenFile, "pieces", pieces)
    monkeypatch.setattr(content, "PIECE", 1 << 14)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more" * 5000)


def shrink(path: Path) -> None:
    os.truncate(path, 20_000)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(30_000)
        file.write(b"other bytes")
    os.utime(path, ns=(1, time.time_ns() + 5_000_000_000))


def swap(path: Path) -> None:
    other = path.with_name(f"{path.name}.new")
    other.write_bytes(b"x" * path.stat().st_size)
    os.replace(other, path)


def vanish(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("whole_below", [64 << 20, 1000], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["image", "plain"])
@pytest.mark.parametrize(
    ("change", "words"),
    [(grow, "grew"), (shrink, "shrank"), (overwrite, "changed"), (swap, "another file"), (vanish, "removed")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_source_that_changes_is_told_and_what_is_kept_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: object, words: str, kind: str, whole_below: int
) -> None:
    for module in ("packer", "content"):
        monkeypatch.setattr(f"callic_archive.archive.{module}.WHOLE_BELOW", whole_below)
    path = tmp_path / "tree" / "a"
    if kind == "image":
        write_pnm(path, smooth(300, 300))
    else:
        path.parent.mkdir()
        path.write_bytes(os.urandom(90_000))
    changing(monkeypatch, change)
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    monkeypatch.undo()
    assert run.problems
    assert {(p.path, p.kept, p.exit_code) for p in run.problems} == {(str(path), True, 1)}
    (problem,) = [p for p in run.problems if p.code == "E514"]
    assert words in problem.message
    # whatever was kept, its digest is that of what was kept
    assert sound(tmp_path / "x.callic")
    assert restore(tmp_path / "x.callic", tmp_path / "out")[1] == {}


def test_a_read_error_in_the_middle_costs_that_file_and_is_no_write_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callic_archive.archive.packer.WHOLE_BELOW", 1000)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "bad").write_bytes(os.urandom(90_000))
    (tmp_path / "tree" / "good").write_bytes(os.urandom(90_000))

    def failing(path: Path) -> None:
        if path.name == "bad":
            raise OSError(5, "Input/output error")

    changing(monkeypatch, failing)
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    assert [(Path(p.path).name, p.code, p.kept, p.exit_code) for p in run.problems] == [
        ("bad", "E512", False, 1)
    ]
    assert "Input/output error" in run.problems[0].message
    assert set(entries_of(tmp_path / "x.callic")) == {"tree", "tree/good"}
    assert sound(tmp_path / "x.callic")


# -- names and shapes of trees -------------------------------------------------------------------------------


def deep_folder(top: Path, levels: int, name: str) -> None:
    """Make a chain of folders whose path is longer than a system call takes."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    file = os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    os.write(file, b"found")
    os.symlink("leaf", "link", dir_fd=fd)
    os.link("leaf", "other", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(file)
    os.close(fd)


@pytest.fixture
def deep_place(tmp_path: Path) -> Iterator[Path]:
    """A folder that is gone afterwards: what is so deep can not be removed by recursion."""
    place = tmp_path / "place"
    place.mkdir()
    yield place
    subprocess.run(["rm", "-rf", place], check=True)


@pytest.mark.parametrize(
    ("levels", "name"), [(2000, "d"), (40, "n" * 255)], ids=["2000 levels", "long names"]
)
def test_paths_longer_than_a_system_call_takes(deep_place: Path, levels: int, name: str) -> None:
    tmp_path = deep_place
    deep_folder(tmp_path / "tree", levels, name)
    run = pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    assert run.problems == []
    assert len(run.entries) == levels + 4
    done, problems = restore(tmp_path / "x.callic", tmp_path / "out")
    assert problems == {}
    assert len(done) == 2
    leaf = "/".join([str(tmp_path / "out" / "tree"), *[name] * levels, "leaf"])
    with opened(leaf) as file:
        assert file.read() == b"found"
        assert file.info.st_nlink == 2
    with reaching(leaf.removesuffix("leaf") + "link") as (folder, last):
        assert os.readlink(last, dir_fd=folder) == "leaf"


def test_names_that_other_systems_refuse(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    names = [
        "con",
        "a:b",
        'q"?*<>|',
        "back\\slash",
        " lead",
        "trail ",
        "dot.",
        "new\nline",
        "\x1b[31mred",
        "-rf",
    ]
    names += ["n" * 255, "ü" * 127, "a", "A", "~", "$HOME", "\u202egnp.exe"]
    for number, name in enumerate(names):
        (tree / name).write_text(str(number))
    for raw in (b"\xff", b"caf\xe9", b"\xed\xa0\x80", bytes(range(128, 250))):
        Path(os.fsdecode(os.fsencode(tree) + b"/" + raw)).write_text("bytes")
    run = pack_tree(tree, tmp_path / "x.callic")
    assert run.problems == []
    assert restore(tmp_path / "x.callic", tmp_path / "out")[1] == {}
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    assert len(snapshot(tree)) == len(names) + 4


# -- destinations that mix up names --------------------------------------------------------------------------


def test_names_that_the_destination_mixes_up_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "Dir").mkdir(parents=True)
    (tree / "dir").mkdir()
    (tree / "Dir" / "x").write_text("1")
    (tree / "dir" / "X").write_text("2")
    (tree / "ü").write_text("composed")
    (tree / "u\u0308").write_text("decomposed")
    pack_tree(tree, tmp_path / "x.callic")
    assert restore(tmp_path / "x.callic", tmp_path / "out")[1] == {}
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    monkeypatch.setattr("callic_archive.archive.links._tells_case_apart", lambda _: False)
    _, problems = restore(tmp_path / "x.callic", tmp_path / "folded")
    assert problems == {"tree/dir/X": "E504", "tree/ü": "E504"}
    assert (tmp_path / "folded/tree/Dir/x").read_text() == "1"


def test_a_path_that_the_index_has_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("first")
    (tmp_path / "tree" / "b").write_text("other")
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    rewrite(tmp_path / "x.callic", "tree/b", path="tree/a")
    done, problems = restore(tmp_path / "x.callic", tmp_path / "out", overwrite=True)
    assert problems == {"tree/a": "E502"}
    assert (tmp_path / "out/tree/a").read_text() == "first"
    assert len(done) == 1


def test_a_link_and_a_file_through_it(tmp_path: Path) -> None:
    """An index in which a name is a link out of the destination, and a folder with a file in it."""
    (tmp_path / "tree" / "door").mkdir(parents=True)
    (tmp_path / "tree" / "door" / "file").write_text("payload")
    (tmp_path / "tree" / "exit").symlink_to("elsewhere")
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    (tmp_path / "victim").mkdir()
    index = tmp_path / "x.callic" / "data" / INDEX
    rows = [row for row in read_index(index) if row.get("path") != "tree/door"]
    rows[0]["entries"] -= 1
    for row in rows:
        if row.get("path") == "tree/exit":
            row |= {"path": "tree/door", "target": str(tmp_path / "victim")}
    write_index(index, sorted(rows, key=lambda row: str(row.get("path", ""))))
    for overwriting in (False, True):
        _, problems = restore(tmp_path / "x.callic", tmp_path / "out", overwrite=overwriting)
        assert problems == {"tree/door/file": "E504"}
        assert list((tmp_path / "victim").iterdir()) == []


def test_links_planted_in_the_destination_lead_no_entry_out(linked: Path, tmp_path: Path) -> None:
    pack_tree(linked, tmp_path / "x.callic")
    victim = tmp_path / "victim"
    victim.mkdir()
    for planted in ("b", "a"):  # of the first name of a file, and of its others
        out = tmp_path / f"out-{planted}"
        (out / "tree").mkdir(parents=True)
        (out / "tree" / planted).symlink_to(victim)
        _, problems = restore(tmp_path / "x.callic", out, overwrite=True)
        assert set(problems.values()) == {"E506"}
        assert set(problems) <= {"tree/b", "tree/b/image.pgm", "tree/a", "tree/a/again.pgm"}
        assert list(victim.iterdir()) == []
        assert (out / "tree/third.pgm").read_bytes() == (linked / "third.pgm").read_bytes()


def test_a_hard_link_field_survives_json(linked: Path, tmp_path: Path) -> None:
    pack_tree(linked, tmp_path / "x.callic")
    entry = entries_of(tmp_path / "x.callic")["tree/third.pgm"]
    odd = replace(entry, link="tree/caf\udce9")
    assert Entry.from_json(odd.as_json()) == odd
