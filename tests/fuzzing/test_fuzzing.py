"""Parsers of untrusted bytes, on broken copies of good input: it refuses in order, or what it took comes back.

In processes of their own, with bounds of memory and processor time; the inputs are the same on every run. Longer runs:
``python -m tests.fuzzing``.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzzing.__main__ import targets
from tests.fuzzing.mutate import broken, broken_json, mended_png
from tests.fuzzing.parsers import PARSERS

ROOT = Path(__file__).parents[2]
# Broken inputs of each target: a few seconds of processor time each.
GROUPS: dict[str, dict[str, int]] = {
    "plain images": {"bmp": 3000, "pnm": 2000, "npy": 1500, "nifti": 800, "mgh": 800, "nrrd": 800, "metaimage": 800, "raw": 500},
    "rasters in unknown files": {"unknown": 60},
    "compressed images": {"png": 1500, "tiff": 230},
    "DICOM": {"dicom": 60, "dicom-coded": 100, "coded-file": 300},
    "wrappers": {"gzip": 500, "zip": 70, "tar": 300, "zarr-zip": 110, "hdf5": 150, "zarr-chunk": 300, "zarr-metadata": 1500},
    "archives": {
        "recipe": 4000,
        "differences": 8000,
        "shard": 1500,
        "index": 6000,
        "row": 6000,
        "entry-record": 6000,
        "bag": 1500,
    },
    "coded data in files": {
        "jpeg-streams": 500,
        "jpeg-tables": 800,
        "jpegs-made": 60,
        "jpegs": 300,
        "jpeg-by-coefficients": 400,
        "jpeg-coded": 400,
        "frame-jpeg": 300,
        "frame-jpeg-ls": 400,
        "frame-jpeg-2000": 500,
        "frame-rle": 3000,
        "packed-block": 1000,
        "deflate": 300,
        "wide": 1000,
        "segments": 1000,
        "dct": 600,
    },
    "large files": {"geometry": 3000, "outline": 250, "outline-chunk": 400, "outline-raw": 400, "piece": 400},
    "reading archives": {"entry": 400, "salvage": 40},
    "words": {"paths": 1500, "words": 1500, "settings": 800, "adapters": 800},
    "codec": {"codestream": 1500, "adapter": 4000, "model": 500, "packed-model": 3000, "chunk-frame": 2000},
}
HANGS = 900.0  # seconds after which a process is ended from outside: something below Python goes on for ever


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_parser(group: str, tmp_path: Path) -> None:
    current = tmp_path / "current"
    targets = [f"{name}:{count}" for name, count in GROUPS[group].items()]
    words = [sys.executable, "-m", "tests.fuzzing", *targets, "--modules", "--current", str(current)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANGS, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"a parser hangs with the input {current.read_bytes()[:2000]!r}")
    if done.returncode not in (0, 1):
        last = current.read_bytes()[:2000] if current.exists() else b"(none)"
        pytest.fail(f"all ended with {done.returncode} at the input {last!r}: {done.stderr[-2000:]}")
    found = {row["target"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert {name: row["findings"] for name, row in found.items() if row["findings"]} == {}
    for name, count in GROUPS[group].items():
        assert found[name]["inputs"] > count
        assert len(found[name]["outcomes"]) > 1, f"of {name} nothing was refused, or nothing was taken"
        told = {module for module, names in PARSERS.items() if name in names}
        assert told <= set(found[name]["modules"]), f"good input of {name} does not reach what it should"


def test_every_target_is_run() -> None:
    assert sorted(targets()) == sorted(name for group in GROUPS.values() for name in group)


def test_the_same_seed_breaks_the_same_way() -> None:
    data, value = bytes(range(200)), {"a": [1, 2, {"b": None}], "c": "text"}
    first = [broken(data, random.Random(n), [data]) for n in range(300)]
    assert first == [broken(data, random.Random(n), [data]) for n in range(300)]
    assert len(set(first)) > 200
    assert all(len(one) < 6000 for one in first)
    changed = [broken_json(value, random.Random(n)) for n in range(200)]
    assert changed == [broken_json(value, random.Random(n)) for n in range(200)]
    assert sum(one != value for one in changed) > 150
    assert value == {"a": [1, 2, {"b": None}], "c": "text"}


def test_mended_png_is_whole() -> None:
    from tests.fuzzing.seeds import png

    for data in png():
        assert mended_png(data) == data
