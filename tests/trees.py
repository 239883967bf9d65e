"""Small trees of real and generated files, and exact comparison of trees."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from callic_archive.archive.candidates import learned
from callic_archive.archive.codecs import CodecPlan
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.packing import PackRun, run_settings
from callic_archive.archive.reading import Archive
from callic_archive.archive.scan import Selection, scan
from callic_archive.archive.staging import Staging
from callic_archive.scheduling.pack import Resources, execute
from tests.doubles import DeflatePlan

SHARED = Path(os.environ.get("CALLIC_SHARED") or Path(__file__).parents[2] / "shared") / "data"


def smooth(height: int, width: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A gradient with a little noise, which differences shrink and Zstandard alone does not. Sample 0 is ``seed``."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 3, (channels, height, width))
    noise[:, 0, 0] = 0
    planes = [(rows + columns * (c + 2) + noise[c] + seed).astype(np.uint8) for c in range(channels)]
    return np.stack(planes, axis=2) if channels > 1 else planes[0]


def grainy(height: int, width: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A slope with as much noise as a sensor has: nothing that a program drew."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, channels))
    image = (40 + rows[:, :, None] / 2 + columns[:, :, None] + noise).clip(0, 255).astype(np.uint8)
    return image if channels > 1 else image[:, :, 0]


def write_pnm(path: Path, image: np.ndarray) -> Path:
    kind = b"P6" if image.ndim == 3 else b"P5"
    head = b"%s\n%d %d\n255\n" % (kind, image.shape[1], image.shape[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + image.tobytes())
    return path


def make_tree(root: Path) -> Path:
    """Files of all kinds that an archive must bring back."""
    root.mkdir(parents=True)
    write_pnm(root / "images" / "gray.pgm", smooth(40, 60))
    write_pnm(root / "images" / "colour.ppm", smooth(30, 50, 3, seed=7))
    np.save(root / "images" / "volume.npy", smooth(64, 64).astype(np.uint16) * 3)
    (root / "notes.txt").write_text("words " * 200)
    (root / "random.bin").write_bytes(np.random.default_rng(5).bytes(5000))
    (root / "empty").write_bytes(b"")
    (root / "void" / "deeper").mkdir(parents=True)
    (root / "link").symlink_to("notes.txt")
    (root / "dangling").symlink_to("/nowhere/at all")
    (root / "loop").symlink_to(".")
    (root / "copy.txt").write_text("words " * 200)
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o750)
    (root / "read-only").write_text("fixed")
    (root / "read-only").chmod(0o444)
    (root / "um läut \n line").write_text("odd name")
    with open(os.fsencode(root) + b"/not-\xff\xfe-utf8", "wb") as stream:
        stream.write(b"odder name")
    os.utime(root / "notes.txt", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "link", ns=(1, 987_654_321_000_000_001), follow_symlinks=False)
    (root / "void").chmod(0o700)
    os.utime(root / "void" / "deeper", ns=(5, 1_000_000_000_000_000_007))
    os.utime(root / "void", ns=(5, 1_100_000_000_000_000_009))
    return root


def snapshot(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything about a tree that an archive promises to keep, by relative path."""
    found: dict[bytes, tuple[object, ...]] = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                content: object = os.readlink(path)
                mode = 0
            elif stat.S_ISDIR(info.st_mode):
                content, mode = None, stat.S_IMODE(info.st_mode)
            else:
                with open(path, "rb") as stream:
                    content = stream.read()
                mode = stat.S_IMODE(info.st_mode)
            kind = stat.S_IFMT(info.st_mode)
            found[os.path.relpath(path, top)] = (kind, mode, info.st_mtime_ns, content)
    return found


class Silent:
    """A PackWatch that only remembers."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def stage(self, text: str) -> None:
        self.seen.append(text)

    def step(self, done: int, total: int) -> None:
        pass

    def planned(self, files: int, total_bytes: int) -> None:
        self.planned_files = files

    def packed(self, source: object, entry: object) -> None:
        pass

    def workers(self, running: int, workers: int) -> None:
        pass


def pack_tree(
    sources: list[Path] | Path,
    destination: Path,
    *,
    plan: CodecPlan | None = None,
    options: PackOptions | None = None,
    selection: Selection | None = None,
    resources: Resources | None = None,
    watch: Silent | None = None,
    shard_bytes: int = 8 << 30,
) -> PackRun:
    """Pack as the command does, in this process unless ``resources`` ask for more; the finished run."""
    paths = tuple(str(p) for p in (sources if isinstance(sources, list) else [sources]))
    plan, options = plan or DeflatePlan(), options or PackOptions(coder=learned)
    selection = selection or Selection()
    staging = Staging(destination)
    staging.check()
    found = scan(paths, selection, skip=staging.identities())
    settings = run_settings(paths, plan, options, selection)
    with staging:
        staging.open(settings)
        run = PackRun(staging, found, plan, options, settings, shard_bytes=shard_bytes)
        execute(run, resources or Resources(workers=1), watch or Silent())
    return run


def open_archive(path: Path) -> Archive:
    return Archive(path, DeflatePlan())
