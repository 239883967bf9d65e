"""Whatever a tree is called and wherever its links lead, it comes back: names, kinds, targets, holes, modes and times."""

from __future__ import annotations

import os
import stat
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from callic_archive.archive.comparing import compare_with
from callic_archive.archive.unpacking import Restored
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.read import unpack, verify
from tests.doubles import DeflatePlan
from tests.properties.effort import examples
from tests.trees import open_archive, pack_tree, snapshot

HERE = Resources(workers=1)
SHM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
ODD = [b"-rf", b"--", b"-", b"a\nb", b"\n", b" ", b"\t", b"*", b"?", b"~", b"$HOME", b"a\\b", b"\xff\xfe", b"\xc3", b"\x1b[2J",
       b"...", b"A", b"a", "ä".encode(), "a\u0308".encode(), b"a" * 255, b"\xe4" * 255, b"con", b"x.", b"%0A", b"bag-info.txt",
       b"\xed\xa0\x80", b"data", b".partial", b"index.jsonl.zst", b"c", b"0.0", b".zarray", b"zarr.json", b"ARCHIVE", b"archive",
       "\u202egnp.exe".encode(), "ﬁ".encode(), b"\r", b"\x7f", b"'\"`", b"0", b"shard-00000.cla", b"x.callic"]  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(ODD),
    st.binary(min_size=1, max_size=40)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda raw: raw not in (b".", b"..")),
)
TARGETS = st.one_of(
    st.sampled_from(
        [b".", b"..", b"/", b"../../../..", b"a" * 4000, b"/nowhere", b"//", b"\xff", b"a\nb", b"-", b"./a/../b", b"/dev/null"]
    ),
    st.binary(min_size=1, max_size=60).map(lambda raw: raw.replace(b"\0", b"_")),
    NAMES,
)  # fmt: skip
IMAGE = b"P5 12 9 255\n" + (np.add.outer(np.arange(9), np.arange(12)) * 3).astype("u1").tobytes()
CONTENTS = st.one_of(
    st.just(b""), st.binary(max_size=40), st.sampled_from([IMAGE, IMAGE[:-1], b"II*\0", b"PK\3\4"])
)
# Nanoseconds since 1970: the ends of 32 bits, of what archives of a second's precision have, of 64 bits as nanoseconds.
TIMES = st.one_of(
    st.sampled_from([0, 1, -1, -(10**9), -(2**31) * 10**9, (2**31) * 10**9, (2**32 + 5) * 10**9 + 1, 2**62, 2**62 + 1,
                     2**63 - 1, 10_413_792_000_123_456_789]),
    st.integers(-(2**31) * 10**9, 2**33 * 10**9),
)  # fmt: skip
INDEX = st.integers(0, 9)


@dataclass(frozen=True)
class Plan:
    """What a tree has; ``where`` picks a folder of those there are, ``which`` a file."""

    folders: list[list[bytes]]
    files: list[tuple[int, bytes, bytes, int, int]]  # where, name, content, mode, time
    sparse: list[tuple[int, bytes, int, list[tuple[int, bytes]]]]  # where, name, size, data
    links: list[tuple[int, bytes, bytes, int]]  # where, name, target, time
    twins: list[tuple[int, int, bytes]]  # where, which, name
    folder_times: list[tuple[int, int, int]]  # where, mode, time

    def plant(self, top: bytes) -> None:
        """Make the tree; what cannot be made, as a name is taken or too long, is left out."""
        places, made = [top], []
        for parts in self.folders:
            path = os.path.join(top, *parts)
            with suppress(OSError):
                os.makedirs(path, exist_ok=True)
                places.append(path)

        def free(where: int, name: bytes) -> bytes | None:
            path = os.path.join(places[where % len(places)], name)
            return None if os.path.lexists(path) else path

        for where, name, content, mode, time in self.files:
            if path := free(where, name):
                with open(path, "wb") as stream:
                    stream.write(content)
                os.chmod(path, mode)
                os.utime(path, ns=(time, time))
                made.append(path)
        for where, name, size, blocks in self.sparse:
            if path := free(where, name):
                with open(path, "wb") as stream:
                    for at, block in blocks:
                        stream.seek(at)
                        stream.write(block)
                    stream.truncate(size)
                made.append(path)
        for where, name, target, time in self.links:
            if path := free(where, name):
                os.symlink(target, path)
                os.utime(path, ns=(time, time), follow_symlinks=False)
        for where, which, name in self.twins:
            if made and (path := free(where, name)):
                os.link(made[which % len(made)], path)
        for where, mode, time in self.folder_times:
            os.chmod(places[where % len(places)], mode)
            os.utime(places[where % len(places)], ns=(time, time))


PLANS = st.builds(
    Plan,
    folders=st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=4),
    files=st.lists(st.tuples(INDEX, NAMES, CONTENTS, st.sampled_from([0o644, 0o400, 0o777, 0o1755]), TIMES), max_size=6),
    sparse=st.lists(
        st.tuples(INDEX, NAMES, st.integers(0, 1 << 22), st.lists(st.tuples(st.integers(0, 1 << 22), st.binary(max_size=5000)),
                                                                 max_size=3)),
        max_size=1),
    links=st.lists(st.tuples(INDEX, NAMES, TARGETS, TIMES), max_size=5),
    twins=st.lists(st.tuples(INDEX, INDEX, NAMES), max_size=3),
    folder_times=st.lists(st.tuples(INDEX, st.sampled_from([0o755, 0o700, 0o1777]), TIMES), max_size=3),
)  # fmt: skip
PAIRS = Plan(
    folders=[[b"A"], [b"a"], ["\u00e4".encode()], ["a\u0308".encode()], [b"d" * 200] * 20],
    files=[(0, b"x" * 255, b"1", 0o644, -1), (1, b"-", b"2", 0o400, 2**63), (2, b"\n", b"2", 0o644, 0),
           (5, b"deep", b"3", 0o644, 0), (3, b"same", IMAGE, 0o644, 5), (4, b"same", IMAGE, 0o644, 6)],
    sparse=[(0, b"all holes", 1 << 20, []), (1, b"holes", 3 << 20, [(1 << 20, b"middle")])],
    links=[(0, b"l1", b"l2", 1), (0, b"l2", b"l1", -5), (1, b"far", b"a" * 4000, 0), (2, b"self", b".", 2**62)],
    twins=[(1, 0, b"\xff"), (2, 0, b"third"), (0, 6, b"empty too"), (0, 7, b"holes too")],
    folder_times=[(1, 0o700, 10**19), (2, 0o1777, -(10**18))],
)  # fmt: skip


@examples(12)
@given(plan=PLANS)
@example(plan=PAIRS)
def test_any_tree(plan: Plan) -> None:
    with tempfile.TemporaryDirectory(dir=SHM) as place:
        source, restored, done = Path(place) / "source", Path(place) / "restored", list[Restored]()
        source.mkdir()
        plan.plant(os.fsencode(source))
        run = pack_tree(source, Path(place) / "a.callic")
        assert all(problem.kept for problem in run.problems)  # broken images are told, and kept
        how = {"plan": DeflatePlan(), "resources": HERE, "watch": done.append, "tick": lambda *_: None}
        with open_archive(Path(place) / "a.callic") as archive:
            assert archive.problems == []
            verify(archive, [e for e in archive.entries if e.kind == "file"], full=True, **how)
            assert unpack(archive, archive.entries, restored, overwrite=False, **how) == []
            assert [one.problem for one in done if one.problem] == []
            assert snapshot(restored / "source") == snapshot(source)
            assert names_of_one_file(restored / "source") == names_of_one_file(source)
            assert list(compare_with(archive, archive.entries, Path(place), watch=lambda _: None)) == []


def names_of_one_file(root: Path) -> set[frozenset[bytes]]:
    """The groups of paths that are names of one file."""
    groups = defaultdict[int, set[bytes]](set)
    for path in snapshot(root):
        info = os.lstat(os.path.join(os.fsencode(root), path))
        if stat.S_ISREG(info.st_mode):
            groups[info.st_ino].add(path)
    return {frozenset(group) for group in groups.values()}
