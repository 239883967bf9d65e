"""Files that resemble each other: stored as differences, and what damage then costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from callic_archive.archive.bases import DEPENDENTS
from callic_archive.archive.entries import Entry
from callic_archive.archive.packed import INLINE
from callic_archive.archive.reading import INDEX
from callic_archive.archive.unpacking import Restored
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.read import unpack, verify
from tests.doubles import DeflatePlan
from tests.trees import open_archive, pack_tree, snapshot

NOISE = np.random.default_rng(5).integers(97, 123, 9000, np.uint8).tobytes()


def sidecars(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"s{number:02}.json").write_bytes(b'{"slice": %d}' % number + NOISE)
    return folder


def entries(archive: Path) -> list[Entry]:
    with open_archive(archive) as opened:
        return [entry for entry in opened.entries if entry.kind == "file"]


def lost(archive: Path) -> list[str]:
    done: list[Restored] = []
    with open_archive(archive) as opened:
        verify(
            opened, opened.entries, plan=DeflatePlan(), full=True, resources=Resources(workers=1),
            watch=done.append, tick=lambda running, workers: None,
        )  # fmt: skip
    return sorted(restored.entry.path for restored in done if restored.problem)


def flip(archive: Path, entry: Entry) -> None:
    place = entry.parts[0].place
    shard = archive / "data" / place.ref.shard
    data = bytearray(shard.read_bytes())
    data[place.ref.offset + place.ref.length - 40] ^= 1
    shard.write_bytes(data)


def test_all_but_the_first_are_small_and_come_back(tmp_path: Path) -> None:
    pack_tree(sidecars(tmp_path / "t", 40), tmp_path / "x.callic")
    found = entries(tmp_path / "x.callic")
    own = [entry for entry in found if entry.parts[0].base is None]
    assert len(own) == 1
    assert own[0].packed_size > INLINE
    assert all(entry.packed_size < 100 for entry in found if entry is not own[0])
    (tmp_path / "x.callic" / "data" / INDEX).unlink()
    with open_archive(tmp_path / "x.callic") as opened:
        rest = unpack(
            opened, opened.entries, tmp_path / "out", plan=DeflatePlan(), overwrite=False,
            resources=Resources(workers=1), watch=lambda restored: None, tick=lambda running, workers: None,
        )  # fmt: skip
    assert rest == []
    assert snapshot(tmp_path / "out" / "t") == snapshot(tmp_path / "t")


@pytest.mark.parametrize("count", [5, 40])
def test_a_damaged_record_costs_few_files(tmp_path: Path, count: int) -> None:
    pack_tree(sidecars(tmp_path / "t", count), tmp_path / "x.callic")
    found = entries(tmp_path / "x.callic")
    base = next(entry for entry in found if entry.parts[0].base is None)
    flip(tmp_path / "x.callic", base)
    assert base.path in lost(tmp_path / "x.callic")
    assert len(lost(tmp_path / "x.callic")) == min(count, DEPENDENTS + 1)


def test_a_damaged_dependent_costs_itself(tmp_path: Path) -> None:
    pack_tree(sidecars(tmp_path / "t", 5), tmp_path / "x.callic")
    victim = next(entry for entry in entries(tmp_path / "x.callic") if entry.parts[0].base is not None)
    flip(tmp_path / "x.callic", victim)
    assert lost(tmp_path / "x.callic") == [victim.path]


def test_files_that_do_not_resemble_depend_on_nothing(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for number in range(4):
        text = np.random.default_rng(number).integers(97, 123, 9000, np.uint8).tobytes()
        (tmp_path / "t" / f"{number}.txt").write_bytes(text)
    pack_tree(tmp_path / "t", tmp_path / "x.callic")
    assert all(entry.parts[0].base is None for entry in entries(tmp_path / "x.callic"))
