"""Peak memory of packing one large image, measured over the whole process tree; and how soon small things
are done."""

from __future__ import annotations

import json
import math
import os
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
TILE, SHARD = 512, 16384  # pixels a side of the tiles and zarr shards of large images
TIMED = "CALLIC_TIMED"  # tells ``timed`` which codec runs, and where it notes its seconds
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
        self._cpu: dict[int, float] = {}
        self.done = threading.Event()

    @property
    def cpu(self) -> float:
        """Seconds of processor time of all processes, as far as they were seen."""
        return sum(self._cpu.values())

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
                    spent = process.cpu_times()
                    self._cpu[process.pid] = spent.user + spent.system
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


def _tile(top: int, left: int, bits: int, noise: NDArray[Any]) -> NDArray[Any]:
    """A square of the same slopes and noise, made where it is needed: no image of a gigapixel is ever in memory."""
    scale = 1 if bits == 8 else 16
    across = 40 * np.sin((left + np.arange(TILE)) / 97.0)
    down = 30 * np.sin((top + np.arange(TILE)) / 61.0)
    slopes = 100 + across[None] + down[:, None]
    tile: NDArray[Any] = np.clip((slopes + noise) * scale, 0, 255 * scale)
    return tile.astype(np.uint8 if bits == 8 else np.uint16)


def write_large(folder: Path, side: int, bits: int, kind: str) -> int:
    """A tiled TIFF or a store of large zarr shards with ``side`` pixels a side, a multiple of TILE; how many images."""
    rng = np.random.default_rng(3)
    noise = [rng.integers(-6, 7, (2, TILE, TILE)).sum(axis=0) for _ in range(16)]
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)

    def tile(top: int, left: int) -> NDArray[Any]:
        return _tile(top, left, bits, noise[(top // TILE * 7 + left // TILE * 3) % 16])

    if kind == "tiff":
        tiles = (tile(y, x) for y in range(0, side, TILE) for x in range(0, side, TILE))
        tifffile.imwrite(
            folder / "image.tif", tiles, shape=(side, side), dtype=dtype, tile=(TILE, TILE),
            photometric="minisblack", bigtiff=True,
        )  # fmt: skip
        return 1
    import zarr

    shard = min(side, SHARD)
    store = zarr.create_array(
        str(folder / "image.zarr"), shape=(side, side), shards=(shard, shard), chunks=(TILE, TILE),
        dtype=dtype.name, zarr_format=3,
    )  # fmt: skip
    for top in range(0, side, shard):
        for left in range(0, side, shard):
            height, width = min(shard, side - top), min(shard, side - left)
            part = np.empty((height, width), dtype)
            for y in range(0, height, TILE):
                for x in range(0, width, TILE):
                    part[y : y + TILE, x : x + TILE] = tile(top + y, left + x)
            store[top : top + height, left : left + width] = part
    return (-(-side // shard)) ** 2


def _phase(verb: list[str], codec: str, workers: int | None) -> dict[str, Any]:
    """Run one command, sample its process tree, and tell the codec's share of its processor time."""
    times = WORK / "times"
    times.write_text("")
    crew = ["--workers", str(workers)] if workers else []
    command = [sys.executable, "-m", "pipelines.benchmarks.timed", *verb, *crew, "--json", "--quiet"]
    say(f"{verb[0]}")
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), TIMED: json.dumps([codec, str(times)])}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        peak = TreePeak(process.pid)
        peak.start()
        out, _ = process.communicate()
        peak.done.set()
        peak.join()
    seconds = time.monotonic() - start
    summary = json.loads(out.splitlines()[-1])
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {summary}")
    in_codec = sum(float(line) for line in times.read_text().split())
    return {
        "seconds": seconds,
        "peak_rss": peak.rss,
        "peak_pss": peak.pss,
        "largest_process": peak.single,
        "processes": peak.processes,
        "cpu_seconds": peak.cpu,
        "codec_cpu_seconds": in_codec,
        "bits_per_sample": summary.get("bits_per_sample"),
        "images": summary.get("images"),
    }


def pack_peak(
    megapixels: float, bits: int, kind: str, adapt: str, workers: int | None, codec: str = "learned",
    back: bool = True,
) -> dict[str, Any]:
    """Pack, and with ``back`` verify and unpack, one synthetic image with the command line, and sample the process tree of
    each.
    """
    shutil.rmtree(WORK, ignore_errors=True)
    source = WORK / "large"
    source.mkdir(parents=True)
    side = round(math.sqrt(megapixels * 1e6))
    if kind == "png" or side < 4 * TILE:
        write_image(source / f"image.{kind[:3]}", synthetic(side, bits), kind)
        images = 1
    else:
        side = side // TILE * TILE
        images = write_large(source, side, bits, kind)
    file_bytes = sum(p.stat().st_size for p in source.rglob("*") if p.is_file())
    archive = str(WORK / "large.callic")
    say(f"{side}x{side} pixels, {bits} bits, {kind}, --adapt {adapt}, the codec {codec}")
    packed = _phase(
        ["pack", str(source), "-o", archive, "--adapt", adapt, "--learned", "always"], codec, workers
    )
    if packed["images"] != images:
        raise RuntimeError(f"{packed['images']} of {images} images went through the codec")
    shutil.rmtree(source)
    came: dict[str, Any] = {}
    if back:
        came["verify"] = _phase(["verify", "--full", archive], codec, workers)
        came["unpack"] = _phase(["unpack", archive, "-o", str(WORK / "again")], codec, workers)
    shutil.rmtree(WORK)
    return {
        "megapixels": side * side / 1e6,
        "bits": bits,
        "format": kind,
        "adapt": adapt,
        "codec": codec,
        "file_bytes": file_bytes,
        **packed,
        **came,
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
        words = ["pack", str(source), "-o", str(WORK / f"{number}.callic"), "--quiet", "--learned", "always"]
        packs.append(_timed([*PROGRAM, *words]))
        say(f"pack of one 64x64 image: {packs[-1]:.1f} s" + (" (warm-up)" if number == 0 else ""))
    shutil.rmtree(WORK)
    return {
        "help": statistics.median(helps),
        "pack": statistics.median(packs[1:]),
        "first_pack": packs[0],
        "repeats": repeats,
    }


def update(
    megapixels: float, bits: int, kind: str, adapt: str, workers: int | None, codec: str = "learned",
    back: bool = True,
) -> dict[str, Any]:
    """Measure and add to the record, one line a size and setting."""
    record = load(NAME) or {"benchmark": NAME, "result": {"packs": {}}}
    if codec == "learned":
        record["result"]["small"] = {**small_things(), "context": context()}
    label = f"{megapixels:g} Mpx {bits} bit {kind} {adapt}" + (f" {workers} workers" if workers else "")
    label += "" if codec == "learned" else f", codec {codec}"
    record["result"]["packs"][label] = {
        **pack_peak(megapixels, bits, kind, adapt, workers, codec, back),
        "context": context(),
    }
    record |= context()
    write(NAME, record)
    return record


def _share(phase: dict[str, Any]) -> str:
    spent = phase.get("cpu_seconds")
    return f"{100 * phase['codec_cpu_seconds'] / spent:.0f} %" if spent else "-"


def grids(record: dict[str, Any]) -> list[Grid]:
    """Peaks in GiB, and the small things."""
    gib = 1 << 30
    rows = []
    packs = sorted(record["result"]["packs"].items(), key=lambda item: float(item[1]["megapixels"]))
    for label, pack in packs:
        for verb, phase in (("pack", pack), ("verify --full", pack.get("verify")), ("unpack", pack.get("unpack"))):
            if phase is not None:
                rows.append(
                    (
                        label,
                        f"{pack['file_bytes'] / 1e6:.0f}",
                        verb,
                        f"{phase['seconds']:.0f}",
                        _share(phase),
                        f"{phase['peak_rss'] / gib:.2f}",
                        f"{phase['peak_pss'] / gib:.2f}",
                        f"{phase['largest_process'] / gib:.2f}",
                        f"{phase['processes']}",
                    )
                )
    columns = (
        "one synthetic gray image",
        "file MB",
        "command",
        "seconds",
        "of processor time in the codec",
        "peak GiB, sum of resident sizes",
        "peak GiB, shared pages once",
        "largest process GiB",
        "processes",
    )
    tables = [
        Grid(
            "Memory, whole process tree",
            columns,
            rows,
            "Target: 2 GiB, whatever the size of the image. The codec `deflate` is the tests': it shows what lies "
            "around a codec.",
        )
    ]
    small = record["result"].get("small")
    if small is not None:
        tables.append(
            Grid(
                "Small things",
                ("what", "seconds", "target"),
                [
                    ("`callic-archive --help`", f"{small['help']:.2f}", "0.5"),
                    ("pack one 64x64 image, warm", f"{small['pack']:.1f}", "5"),
                ],
                f"Medians of {small['repeats']} runs, each a process of its own.",
            )
        )
    return tables
