"""Peak memory of packing one large image, measured over the whole process tree; and how soon small things
are done."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import psutil
import tifffile
from numpy.typing import NDArray

from pipelines.benchmarks.record import ROOT, SCRATCH, Grid, context, load, say, write

NAME = "memory"
WORK = SCRATCH / "memory"
INTERVAL = 0.25  # seconds between samples of the tree
PROGRAM = [sys.executable, "-m", "callic_archive.cli.main"]


class TreePeak(threading.Thread):
    """Samples the memory of a process and all that it starts.

    ``rss``: resident bytes summed (pages that processes share are counted in each), ``pss``: shared pages
    counted
    once, ``single``: the largest process.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root = psutil.Process(pid)
        self.rss = self.pss = self.single = self.processes = 0
        self.done = threading.Event()

    def run(self) -> None:
        """Until ``done`` is set or the process is gone."""
        while not self.done.wait(INTERVAL):
            try:
                tree = [self.root, *self.root.children(recursive=True)]
            except psutil.Error:
                return
            rss, pss = [], []
            for process in tree:
                try:
                    full = process.memory_full_info()
                except (psutil.Error, OSError):
                    continue
                rss.append(full.rss)
                pss.append(full.pss)
            self.rss, self.pss = max(self.rss, sum(rss)), max(self.pss, sum(pss))
            self.single = max([self.single, *rss])
            self.processes = max(self.processes, len(rss))


def synthetic(side: int, bits: int) -> NDArray[Any]:
    """A gray image with slopes and noise of a few levels, made in rows so that it costs no more than
    itself."""
    dtype = np.uint8 if bits == 8 else np.uint16
    out = np.empty((side, side), dtype)
    rng = np.random.default_rng(3)
    scale = 1 if bits == 8 else 16
    columns = 40 * np.sin(np.arange(side) / 97.0) + 100
    for row in range(side):
        noise = rng.integers(-6, 7, side) + rng.integers(-6, 7, side)
        out[row] = np.clip((columns + 30 * math.sin(row / 61.0) + noise) * scale, 0, 255 * scale)
    return out


def write_image(path: Path, image: NDArray[Any], kind: str) -> None:
    """As an uncompressed TIFF, or as a PNG."""
    if kind == "tiff":
        tifffile.imwrite(path, image, photometric="minisblack")
    else:
        path.write_bytes(imagecodecs.png_encode(image, level=1))


def pack_peak(megapixels: float, bits: int, kind: str, adapt: str, workers: int | None) -> dict[str, Any]:
    """Pack one synthetic image with the command line and sample its process tree."""
    shutil.rmtree(WORK, ignore_errors=True)
    source = WORK / "large"
    source.mkdir(parents=True)
    side = round(math.sqrt(megapixels * 1e6))
    image = synthetic(side, bits)
    write_image(source / f"image.{'tif' if kind == 'tiff' else 'png'}", image, kind)
    file_bytes = sum(p.stat().st_size for p in source.iterdir())
    del image
    crew = ["--workers", str(workers)] if workers else []
    command = [
        *PROGRAM,
        "pack",
        str(source),
        "-o",
        str(WORK / "large.callic"),
        "--adapt",
        adapt,
        *crew,
        "--json",
        "--quiet",
    ]
    say(f"packing {side}x{side} pixels, {bits} bits, {kind}, --adapt {adapt}")
    start = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        peak = TreePeak(process.pid)
        peak.start()
        out, _ = process.communicate()
        peak.done.set()
        peak.join()
    seconds = time.monotonic() - start
    summary = json.loads(out.splitlines()[-1])
    if process.returncode or summary.get("images") != 1:
        raise RuntimeError(f"exit code {process.returncode}: {summary}")
    shutil.rmtree(WORK)
    return {
        "megapixels": side * side / 1e6,
        "bits": bits,
        "format": kind,
        "adapt": adapt,
        "file_bytes": file_bytes,
        "bits_per_sample": summary.get("bits_per_sample"),
        "seconds": seconds,
        "peak_rss": peak.rss,
        "peak_pss": peak.pss,
        "largest_process": peak.single,
        "processes": peak.processes,
    }


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[-3:]} ended with {done.returncode}: {done.stderr.decode()[-800:]}")
    return time.perf_counter() - start


def small_things(repeats: int = 5) -> dict[str, Any]:
    """Median seconds of ``--help``, and of packing one 64x64 image when everything is compiled and cached."""
    shutil.rmtree(WORK, ignore_errors=True)
    source = WORK / "small"
    source.mkdir(parents=True)
    write_image(source / "image.png", synthetic(64, 8), "png")
    helps = [_timed([*PROGRAM, "--help"]) for _ in range(repeats + 1)][1:]
    packs = []
    for number in range(repeats + 1):
        packs.append(_timed([*PROGRAM, "pack", str(source), "-o", str(WORK / f"{number}.callic"), "--quiet"]))
        say(f"pack of one 64x64 image: {packs[-1]:.1f} s" + (" (warm-up)" if number == 0 else ""))
    shutil.rmtree(WORK)
    return {
        "help": statistics.median(helps),
        "pack": statistics.median(packs[1:]),
        "first_pack": packs[0],
        "repeats": repeats,
    }


def update(megapixels: float, bits: int, kind: str, adapt: str, workers: int | None) -> dict[str, Any]:
    """Measure and add to the record, one line a size and setting."""
    record = load(NAME) or {"benchmark": NAME, "result": {"packs": {}}}
    record["result"]["small"] = {**small_things(), "context": context()}
    label = f"{megapixels:g} Mpx {bits} bit {kind} {adapt}" + (f" {workers} workers" if workers else "")
    record["result"]["packs"][label] = {
        **pack_peak(megapixels, bits, kind, adapt, workers),
        "context": context(),
    }
    record |= context()
    write(NAME, record)
    return record


def grids(record: dict[str, Any]) -> list[Grid]:
    """Peaks in GiB, and the small things."""
    gib = 1 << 30
    rows = [
        (
            label,
            f"{pack['file_bytes'] / 1e6:.0f}",
            f"{pack['seconds']:.0f}",
            f"{pack['peak_rss'] / gib:.2f}",
            f"{pack['peak_pss'] / gib:.2f}",
            f"{pack['largest_process'] / gib:.2f}",
            f"{pack['processes']}",
        )
        for label, pack in sorted(
            record["result"]["packs"].items(), key=lambda item: float(item[1]["megapixels"])
        )
    ]
    columns = (
        "one synthetic gray image",
        "file MB",
        "pack s",
        "peak GiB, sum of resident sizes",
        "peak GiB, shared pages once",
        "largest process GiB",
        "processes",
    )
    small = record["result"]["small"]
    return [
        Grid(
            "Memory of `callic-archive pack`, whole process tree",
            columns,
            rows,
            "Target: 2 GiB at 100 megapixels.",
        ),
        Grid(
            "Small things",
            ("what", "seconds", "target"),
            [
                ("`callic-archive --help`", f"{small['help']:.2f}", "0.5"),
                ("pack one 64x64 image, warm", f"{small['pack']:.1f}", "5"),
            ],
            f"Medians of {small['repeats']} runs, each a process of its own.",
        ),
    ]
