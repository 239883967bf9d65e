"""What is fuzzed of what users and unfinished runs say: lists of paths, regions, parts, settings and what was trained."""

from __future__ import annotations

import datetime
import json
import random

from callic_archive.access.regions import box_of, region_of
from callic_archive.archive.collection import trained
from callic_archive.archive.listed import read_list, usable
from callic_archive.archive.subset import parse_subset
from callic_archive.archive.unfinished import UnfinishedFolder
from tests.fuzzing.entry_targets import folder
from tests.fuzzing.mutate import broken, broken_json
from tests.fuzzing.targets import Target, Wrong, settled


def paths(data: bytes) -> str:
    """A list of paths: each is there once, none of the kept ones leads up."""
    names = read_list("-", iter([data[: len(data) // 2], data[len(data) // 2 :]]), null=data[:1] == b"\0")
    kept, problems = usable(names)
    if len(set(names)) != len(names) or any(".." in name.split("/") for name in kept):
        raise Wrong("a list of paths has twins, or paths that lead up")
    if len(kept) + len(problems) != len(names):
        raise Wrong("a path of a list is neither kept nor told")
    return f"{bool(kept)} {bool(problems)}"


def words(data: bytes) -> str:
    """A region of an image of 40 x 60 pixels, or a part of an archive."""
    text = data.decode("utf-8", "surrogateescape")

    def region() -> str:
        top, left, bottom, right = box_of(region_of(text), (40, 60, 3))
        if not (0 <= top < bottom <= 40 and 0 <= left < right <= 60):
            raise Wrong("a region leaves its image")
        return "region"

    def part() -> str:
        found = parse_subset(text, datetime.date(2026, 1, 1))
        if not 1 <= found.number <= found.count:
            raise Wrong("a part that there is not")
        return "part"

    return f"{settled(region)} {settled(part)}"


def settings(data: bytes) -> str:
    """Settings of an unfinished run that are compared with those of this one."""
    job = folder() / "job.json"
    job.write_bytes(data)
    unfinished = UnfinishedFolder(folder() / "none")

    def step() -> str:
        unfinished.compare_settings(unfinished.read_settings(job), {"sources": ["a"], "fidelity": "auto"})
        return "same"

    return settled(step)


def adapters(data: bytes) -> str:
    """The names of adapters that an earlier start of a run trained."""
    done = folder() / "trained.json"
    done.write_bytes(data)
    return "none" if (found := trained(done)) is None else f"{min(1, len(found))} adapters"


def break_text(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """As JSON where it is any, or as bytes."""
    try:
        value = json.loads(seed)
    except ValueError:
        return broken(seed, rng, others)
    return broken(seed, rng, others) if rng.random() < 0.5 else json.dumps(broken_json(value, rng)).encode()


TARGETS: dict[str, Target] = {
    "paths": Target(paths, lambda: [b"a/b\nc\n\n../d\ne\xff", b"\0a b\0c/../d\0c\0", b"/x/y\n"]),
    "words": Target(words, lambda: [b"1,2,30,40", b"1:30, :-2", b"2/7", b"12.5%", b"-30:,5:"]),
    "settings": Target(settings, lambda: [b'{"sources": ["a"], "fidelity": "auto"}', b"{}"], break_text),
    "adapters": Target(adapters, lambda: [b"[]", b'["' + b"ab" * 32 + b'"]'], break_text),
}
