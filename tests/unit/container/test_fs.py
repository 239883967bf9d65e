"""Durable writing, names that are not UTF-8, and extraction that cannot leave its destination."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callic_archive import errors
from callic_archive.container import fs, names
from callic_archive.container.extraction import ExtractionRoot
from callic_archive.container.names import name_from_json, name_to_json


@pytest.fixture
def root(tmp_path: Path) -> Iterator[ExtractionRoot]:
    (tmp_path / "outside").mkdir()
    with ExtractionRoot(tmp_path / "new" / "destination") as found:
        yield found


def put(root: ExtractionRoot, path: str, data: bytes, overwrite: bool = False) -> None:
    with root.create_file(path, overwrite=overwrite) as file:
        file.write(data)


# -- names -------------------------------------------------------------------------------------------------


def test_names_as_json() -> None:
    assert name_to_json("a/ü") == {"path": "a/ü"}
    assert name_to_json(b"a/\xff\\xff", "target") == {
        "target": "a/\\xff\\xff",
        "target_base64": "YS//XHhmZg==",
    }
    assert name_to_json("a\udcff") == name_to_json(b"a\xff")
    with pytest.raises(errors.InvalidName):
        name_to_json("\ud800")


@given(raw=st.binary())
def test_any_bytes_survive_as_a_name(raw: bytes) -> None:
    coded = name_to_json(raw)
    assert os.fsencode(name_from_json(coded)) == raw
    assert set(coded) == (
        {"path"} if "\\udc" not in ascii(name_from_json(coded)) else {"path", "path_base64"}
    )


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"path": 3},
        {"path": None},
        {"path": "a", "path_base64": 3},
        {"path": "a", "path_base64": "YQ=="},  # UTF-8 needs no base64
        {"path": "b\\xff", "path_base64": "Yf8="},  # another name
        {"path": "a\\xff", "path_base64": "Yf8"},
        {"path": "a\\xff", "path_base64": "Y!f8="},
        {"path": "\ud800"},
        {"path": "a\udcff"},
    ],
)
def test_contradicting_names_are_refused(entry: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidName):
        name_from_json(entry)


# -- paths -------------------------------------------------------------------------------------------------

UNSAFE = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../x",
    "a/..",
    ".",
    "./a",
    "a/.",
    "a//b",
    "a/",
    "a\0b",
    "//x",
]


@pytest.mark.parametrize("path", UNSAFE)
def test_unsafe_paths_are_refused_everywhere(root: ExtractionRoot, path: str) -> None:
    with pytest.raises(errors.UnsafePath):
        names.safe_join(Path("/destination"), path)
    with pytest.raises(errors.UnsafePath):
        put(root, path, b"")
    with pytest.raises(errors.UnsafePath):
        root.make_directory(path)
    with pytest.raises(errors.UnsafePath):
        root.make_symlink(path, "x")
    with pytest.raises(errors.UnsafePath):
        root.set_metadata(path, mode=0o644)


@pytest.mark.parametrize("path", ["a", "a/b", "...", "a/..b", " ", "a\\b", "C:", "a\nb", "a\udcff/b"])
def test_odd_but_safe_paths_are_taken(root: ExtractionRoot, path: str) -> None:
    assert names.safe_join(Path("/d"), path) == Path(f"/d/{path}")
    put(root, path, b"x")
    assert (root.root / path).read_bytes() == b"x"


@given(path=st.text(st.sampled_from("ab./\0"), max_size=12))
def test_a_path_that_passes_stays_below_the_root(path: str) -> None:
    try:
        joined = names.safe_join(Path("/d"), path)
    except errors.UnsafePath:
        return
    assert os.path.normpath(joined) == str(joined)
    assert str(joined).startswith("/d/")


@pytest.mark.parametrize(
    ("path", "target", "leaves"),
    [
        ("link", "file", False),
        ("a/link", "../file", False),
        ("a/link", "../../file", True),
        ("link", "..", True),
        ("link", "/abs", True),
        ("link", "a/../../x", True),
        ("link", "a/./b//../c", False),
    ],
)
def test_links_that_leave(path: str, target: str, leaves: bool) -> None:
    assert names.link_leaves_root(path, target) is leaves


# -- extraction --------------------------------------------------------------------------------------------


def test_a_tree_is_restored(root: ExtractionRoot) -> None:
    put(root, "a/b/c", b"content")
    root.make_directory("empty/inner")
    root.make_directory("a/b")
    root.make_symlink("a/link", "b/c")
    root.make_symlink("dangling", "/nowhere")
    root.set_metadata("a/b/c", mode=0o640, mtime_ns=1_234_567_890_123_456_789)
    root.set_metadata("a/link", mode=0o777, mtime_ns=5_000_000_000)
    root.set_metadata("a/b", mode=0o2750, mtime_ns=-1_000_000_000)
    base = root.root
    assert (base / "a/b/c").read_bytes() == b"content"
    assert os.readlink(base / "a/link") == "b/c"
    assert os.readlink(base / "dangling") == "/nowhere"
    assert (base / "empty/inner").is_dir()
    file, folder, link = (os.lstat(base / p) for p in ("a/b/c", "a/b", "a/link"))
    assert (stat.S_IMODE(file.st_mode), file.st_mtime_ns) == (0o640, 1_234_567_890_123_456_789)
    assert (stat.S_IMODE(folder.st_mode), folder.st_mtime_ns) == (0o2750, -1_000_000_000)
    assert link.st_mtime_ns == 5_000_000_000
    assert file.st_nlink == 1
    assert not [p for p in base.rglob("*") if ".tmp" in p.name]


def test_rights_are_not_handed_out(root: ExtractionRoot) -> None:
    put(root, "tool", b"")
    root.set_metadata("tool", mode=0o6755)
    assert stat.S_IMODE((root.root / "tool").stat().st_mode) == 0o755


def test_symbolic_links_are_never_followed(root: ExtractionRoot, tmp_path: Path) -> None:
    """An entry that plants a link and a later one that writes through it: the classic way out."""
    outside = tmp_path / "outside"
    (outside / "victim").write_bytes(b"precious")
    for target in (str(outside), "../../outside", "."):
        root.make_symlink("link", target, overwrite=True)
        for attempt in (
            lambda: put(root, "link/victim", b"evil"),
            lambda: put(root, "link/victim", b"evil", overwrite=True),
            lambda: root.make_directory("link/sub"),
            lambda: root.make_symlink("link/sub", "x"),
            lambda: root.set_metadata("link/victim", mode=0o777),
            lambda: root.make_directory("link"),
        ):
            with pytest.raises(errors.SymlinkInPath):
                attempt()
    root.make_symlink("file-link", str(outside / "victim"))
    with pytest.raises(errors.TargetExists):
        put(root, "file-link", b"evil")
    put(root, "file-link", b"replaced", overwrite=True)
    root.make_symlink("again", str(outside / "victim"))
    root.set_metadata("again", mode=0o777, mtime_ns=0)
    assert not (root.root / "file-link").is_symlink()
    assert [p.name for p in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_bytes() == b"precious"
    assert (outside / "victim").stat().st_mtime_ns != 0


def test_a_directory_swapped_for_a_link_meanwhile_leads_nowhere(root: ExtractionRoot, tmp_path: Path) -> None:
    root.make_directory("a")
    with root.create_file("a/file") as file:
        (root.root / "a").rename(root.root / "moved")
        (root.root / "a").symlink_to(tmp_path / "outside")
        file.write(b"x")
    assert (root.root / "moved/file").read_bytes() == b"x"
    assert list((tmp_path / "outside").iterdir()) == []


def test_existing_things_are_not_replaced_unasked(root: ExtractionRoot) -> None:
    put(root, "file", b"one")
    root.make_directory("folder")
    with pytest.raises(errors.TargetExists):
        put(root, "file", b"two")
    with pytest.raises(errors.TargetExists):
        root.make_symlink("file", "x")
    with pytest.raises(errors.SymlinkInPath):
        put(root, "file/below", b"")
    for overwrite in (False, True):
        with pytest.raises(errors.TargetExists):
            put(root, "folder", b"", overwrite=overwrite)
        with pytest.raises(errors.TargetExists):
            root.make_symlink("folder", "x", overwrite=overwrite)
    put(root, "file", b"three", overwrite=True)
    assert (root.root / "file").read_bytes() == b"three"


def test_an_existing_file_is_not_replaced_even_when_it_appears_late(root: ExtractionRoot) -> None:
    def late() -> None:
        with root.create_file("file") as file:
            (root.root / "file").write_bytes(b"theirs")
            file.write(b"ours")

    with pytest.raises(errors.TargetExists):
        late()
    assert [(p.name, p.read_bytes()) for p in root.root.iterdir()] == [("file", b"theirs")]


def test_what_killed_runs_left_is_swept_and_nothing_else(root: ExtractionRoot, tmp_path: Path) -> None:
    left = [".callic-0123456789abcdef.tmp", "d/.callic-fedcba9876543210.tmp", "d/.callic-00000000000000ab.tmp"]
    kept = [".callic-0123456789abcdef", ".callic-0123456789ABCDEF.tmp", "d/.callic-1.tmp", "e/.callic-0123456789abcdef.tmp"]
    for path in (*left[:2], *kept):
        put(root, path, b"begun")
    (root.root / left[2]).symlink_to("nowhere")
    (root.root / "d/.callic-0123456789abcdef.tmp").mkdir()  # no file of ours
    with root.create_shared("d/new") as (file, temporary):
        file.write(b"being written")
        for path in ("", "d", "missing", "d/new"):
            root.sweep(path)
        assert (root.root / "d" / temporary).exists()
    assert (root.root / "d/new").read_bytes() == b"being written"
    assert not any(os.path.lexists(root.root / path) for path in left)
    assert all((root.root / path).exists() for path in kept)
    assert (root.root / "d/.callic-0123456789abcdef.tmp").is_dir()


def test_a_file_that_was_swept_before_it_was_locked_is_begun_anew(
    root: ExtractionRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, swept = fcntl.flock, []

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_SH and not swept:
            swept.extend(root.root.glob(".callic-*.tmp"))
            swept[0].unlink()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    put(root, "a", b"all of it")
    assert len(swept) == 1
    assert (root.root / "a").read_bytes() == b"all of it"


def test_where_nothing_can_be_locked_nothing_is_swept(root: ExtractionRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    put(root, ".callic-0123456789abcdef.tmp", b"begun")
    root.sweep()
    assert (root.root / ".callic-0123456789abcdef.tmp").exists()


def test_a_failed_file_leaves_nothing_and_keeps_its_error(root: ExtractionRoot) -> None:
    put(root, "old", b"old")

    def fail(error: Exception) -> None:
        with root.create_file("old", overwrite=True) as file:
            file.write(b"half")
            raise error

    for error in (OSError(5, "the archive could not be read"), errors.RecordChecksumMismatch("bad")):
        with pytest.raises(type(error)) as caught:
            fail(error)
        assert caught.value is error
    assert [(p.name, p.read_bytes()) for p in root.root.iterdir()] == [("old", b"old")]


def test_files_beyond_the_allowed_size_are_an_environment_failure(root: ExtractionRoot) -> None:
    path = root.root / "f"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(errors.OutOfSpace):
            put(root, "f", bytes(100_000))
        with pytest.raises(errors.OutOfSpace):
            fs.atomic_write(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(root.root.iterdir()) == []


def test_a_destination_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.WriteFailure):
        ExtractionRoot(tmp_path / "file" / "below")


# -- durable writing ---------------------------------------------------------------------------------------


def test_atomic_write_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    fs.atomic_write(path, b"one")
    fs.atomic_write(path, iter([b"t", b"wo"]))
    assert path.read_bytes() == b"two"

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fs.atomic_write(path, broken())
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"two")]
    with pytest.raises(errors.WriteFailure):
        fs.atomic_write(tmp_path / "missing" / "f", b"")


def test_the_order_of_a_durable_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are on the storage before the name is, and the name before the call returns."""
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def note_rename(*args: object, **more: object) -> None:
        steps.append("rename")
        rename(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    fs.atomic_write(tmp_path / "f", b"x")
    assert steps == ["file", "rename", "directory"]


def test_a_folder_that_may_not_be_changed_is_named_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, whom modes do not stop."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    real = os.open

    def opened(path: object, flags: int, *more: object, **how: object) -> int:
        if flags & os.O_CREAT:
            refuse()
        return real(path, flags, *more, **how)  # type: ignore[arg-type]

    (tmp_path / "there").write_text("a file")
    (tmp_path / "folder").mkdir()
    with ExtractionRoot(tmp_path) as root:
        for name, replacement, step in (
            ("open", opened, lambda: root.create_file("folder/new").__enter__()),
            ("mkdir", refuse, lambda: root.make_directory("folder/new")),
            ("unlink", refuse, lambda: root.make_symlink("there", "elsewhere", overwrite=True)),
            ("symlink", refuse, lambda: root.make_symlink("folder/link", "elsewhere")),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, replacement)
                with pytest.raises(errors.WriteFailure, match="may not change the folder"):
                    step()
        with pytest.raises(errors.TargetExists, match="is a directory"):
            root.make_symlink("folder", "elsewhere", overwrite=True)
    assert (tmp_path / "there").read_text() == "a file"


def test_a_mode_that_is_right_needs_no_right_to_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    with ExtractionRoot(tmp_path) as root:
        monkeypatch.setattr(os, "fchmod", lambda *_: pytest.fail("the mode was set"))
        root.set_metadata("closed", mode=0o700, mtime_ns=10**18)
    assert (tmp_path / "closed").stat().st_mtime_ns == 10**18
