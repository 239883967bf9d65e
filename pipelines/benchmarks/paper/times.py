"""Table 2: what CCI and RPFT save. Each row is measured beside the same reference, the codec's encoder.

The reference (one full pass and the range coder) runs before and after every row, so that other load on the
machine hits both sides, and rows that were measured on different days can still stand in one table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from callic_archive.codec.adapt import collect, fit
from callic_archive.codec.codestream import parse
from callic_archive.codec.coding import tile_contexts
from callic_archive.codec.decoder import decode_tile
from callic_archive.codec.encoder import EncodeOptions, encode_image, encode_tile
from callic_archive.codec.engine import Engine, PreparedModel, Tile, mixture_tables
from callic_archive.codec.planning import GroupPlan
from callic_archive.entropy.range_coder import RangeEncoder
from callic_archive.model.adapter import Adapter
from callic_archive.model.integer import Geometry, Plane, scan_order
from callic_archive.model.weights import ModelSet
from pipelines.benchmarks.eval_sets import Image, centre, kodak
from pipelines.benchmarks.paper import quoted
from pipelines.benchmarks.paper.adapting import PAPER, recorded
from pipelines.benchmarks.paper.budget import limit_threads
from pipelines.benchmarks.paper.kept import Kept
from pipelines.benchmarks.record import Grid, model_digests

NAME = "paper-times"
I32 = NDArray[np.int32]


@dataclass(frozen=True)
class FullMaps:
    """A prepared model without CCI: every step computes all maps of the tile anew."""

    model: PreparedModel

    def tile(self, geometry: Geometry, plane: Plane, levels: I32) -> Tile:
        """Begin a tile."""
        return _FullTile(self.model, geometry, plane, levels)


class _FullTile:
    def __init__(self, model: PreparedModel, geometry: Geometry, plane: Plane, levels: I32) -> None:
        self.model, self.geometry, self.plane, self.levels = model, geometry, plane, levels
        self.order, _ = scan_order(geometry)
        self.place = np.empty(len(self.order), np.int64)
        self.place[self.order] = np.arange(len(self.order))

    def parameters(self, rows: I32) -> tuple[I32, NDArray[np.int64]]:
        """Head and skip of some pixels; the rest of the maps is thrown away, as it is without caches."""
        head, skip = self.model.tile(self.geometry, self.plane, self.levels).parameters(self.order)
        chosen = self.place[rows]
        return head[chosen], skip[chosen]


def encode_in_steps(levels: I32, patch: int, plan: GroupPlan, prepared: PreparedModel) -> bytes:
    """One tile's stream, coded group by group, as an encoder must whose inference is not exact."""
    count, height, width = levels.shape
    shift, low, high = plan.bounds
    tables, flat, encoder = mixture_tables(plan.model), levels.reshape(count, -1), RangeEncoder()
    geometry = Geometry(height, width, min(height, patch), min(width, patch))
    contexts = tile_contexts(prepared, geometry, plan.plane, levels, 1)
    step = next(contexts)
    while True:
        symbols = np.ascontiguousarray(flat[:, step.rows].T)
        encoder.encode_pixels(step.head, step.skip, shift, low, high, tables, symbols)
        try:
            step = contexts.send(symbols)
        except StopIteration:
            return encoder.finish()


class Bench:
    """One image, and every way to code it, each proven to give the same stream or the same levels."""

    def __init__(self, image: Image, patch: int, steps: int, threads: int) -> None:
        self.image, self.patch, self.steps, self.threads = image, patch, steps, threads
        self.models = ModelSet.default()
        found = collect([image], self.models, 4096, 0)
        if len(found) != 1:
            raise ValueError("table 2 needs an image of one plane group and of 64 pixels a side at least")
        self.patches, plans = next(iter(found.values()))
        self.plan = plans[0][1]
        self.levels = self.plan.levels(image, (0, 0, *image.shape[:2]))
        self.prepared = Engine("numpy").prepare(self.plan.model, None)
        self.tables = mixture_tables(self.plan.model)
        self.stream = self.encode()
        whole = encode_image(
            image,
            models=self.models,
            options=EncodeOptions(tile=max(image.shape[:2]), patch=patch, threads=1),
        )
        self.header = parse(whole).groups[0]
        self.warm_up()

    def warm_up(self) -> None:
        """Load and compile what the rows use, so that none of them pays for it."""
        self.decode(self.prepared)
        self.encode_steps(self.prepared)
        options = replace(PAPER, steps=1, patches=1, threads=self.threads)
        fit(self.plan.model, self.patches, 1.0, options)

    def encode(self, adapter: Adapter | None = None) -> bytes:
        """The codec's way: one full pass."""
        prepared = Engine("numpy").prepare(self.plan.model, adapter)
        return encode_tile(self.levels, self.patch, self.plan, prepared, self.tables, "range")

    def encode_steps(self, prepared: PreparedModel) -> None:
        """Group by group; the same stream. Raises RuntimeError if it differs."""
        if encode_in_steps(self.levels, self.patch, self.plan, prepared) != self.stream:
            raise RuntimeError("coding in steps gave another stream than one full pass")

    def decode(self, prepared: PreparedModel) -> None:
        """The same levels. Raises RuntimeError if they differ."""
        size, patch = self.levels.shape[1:], (self.patch, self.patch)
        levels = decode_tile(
            self.stream, (size[0], size[1]), patch, self.header, prepared, self.tables, "range"
        )
        if not np.array_equal(levels, self.levels):
            raise RuntimeError("decoding gave other levels")

    def fit(self, start_share: float) -> Adapter:
        """An adapter by RPFT with the paper's shape and schedule; start share 1 leaves RPFT out."""
        options = replace(PAPER, steps=self.steps, start_share=start_share, threads=self.threads)
        pixels = float(self.image.shape[0] * self.image.shape[1])
        return fit(self.plan.model, self.patches, pixels, options)

    def timed(self, function: Callable[[], Any], repeats: int) -> dict[str, Any]:
        """Least processor seconds of a few runs, beside those of the reference around them."""
        reference, own = [self._seconds(self.encode)[0]], []
        result: Any = None
        for _ in range(repeats):
            seconds, result = self._seconds(function)
            own.append(seconds)
            reference.append(self._seconds(self.encode)[0])
        found = {"cpu_seconds": min(own), "reference_cpu_seconds": min(reference), "repeats": repeats}
        if isinstance(result, Adapter):
            found["adapter_bits"] = 8 * len(result.payload)
            found["pixel_bits"] = 8 * len(self.encode(result))
            found["weights"] = sum(value.size for value in result.differences.values())
        return found

    @staticmethod
    def _seconds(function: Callable[[], Any]) -> tuple[float, Any]:
        start = time.process_time()
        result = function()
        return time.process_time() - start, result


#: Rows as measured: label -> (what runs, whether it takes minutes and so runs once).
ROWS: dict[str, tuple[Callable[[Bench], Callable[[], Any]], bool]] = {
    "encode": (lambda b: b.encode, False),
    "decode": (lambda b: lambda: b.decode(b.prepared), False),
    "encode in steps with CCI": (lambda b: lambda: b.encode_steps(b.prepared), False),
    "encode without CCI": (lambda b: lambda: b.encode_steps(FullMaps(b.prepared)), True),
    "decode without CCI": (lambda b: lambda: b.decode(FullMaps(b.prepared)), True),
    "adapt with RPFT": (lambda b: lambda: b.fit(0.2), True),
    "adapt without RPFT": (lambda b: lambda: b.fit(1.0), True),
}


def update(
    number: int, side: int, patch: int, steps: int, repeats: int, threads: int, name: str = NAME,
    *, again: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measure the rows that are not recorded yet. Image: the centre of Kodak ``number``."""
    settings = {
        "image": f"Kodak {number:02d}, centre {side}x{side}",
        "patch": patch,
        "steps": steps,
        "threads": threads,
        "options": recorded(PAPER),
        "models": model_digests(),
    }
    kept = Kept(name, settings, again=again)
    if set(ROWS) <= set(kept.result):
        return kept.record()
    limit_threads(threads)
    with threadpool_limits(1, user_api="blas"):
        bench = Bench(centre(kodak(number), side), patch, steps, threads)
        for label, (make, slow) in ROWS.items():
            row = {"samples": int(bench.image.size), "stream_bits": 8 * len(bench.stream)}
            run = make(bench)
            kept.measure(
                label,
                lambda run=run, slow=slow, row=row: {**row, **bench.timed(run, 1 if slow else repeats)},  # type: ignore[misc]
            )
    return kept.record()


def grid(record: dict[str, Any]) -> Grid:
    """The paper's rows: bits, then encoding and decoding as seconds and as times one encoding pass."""
    found = record["result"]

    def ratio(*labels: str) -> float | None:
        if not all(label in found for label in labels):
            return None
        return float(sum(found[x]["cpu_seconds"] / found[x]["reference_cpu_seconds"] for x in labels))

    def seconds(*labels: str) -> str:
        if not all(label in found for label in labels):
            return "not measured yet"
        return f"{sum(found[x]['cpu_seconds'] for x in labels):.2f}"

    def bits(label: str, adapted: bool) -> str:
        if label not in found:
            return "-"
        row = found[label]
        total = row["pixel_bits"] + row["adapter_bits"] if adapted else row["stream_bits"]
        return f"{total / row['samples']:.3f}"

    lines = (
        ("MGCF", bits("encode", False), ("encode",), ("decode",)),
        ("MGCF, encoded in steps with CCI", "", ("encode in steps with CCI",), ()),
        ("MGCF without CCI", "", ("encode without CCI",), ("decode without CCI",)),
        ("CALLIC", bits("adapt with RPFT", True), ("adapt with RPFT", "encode"), ("decode",)),
        ("CALLIC without RPFT", bits("adapt without RPFT", True), ("adapt without RPFT", "encode"), ("decode",)),
    )  # fmt: skip
    base = quoted.TABLE2["MGCF"].encode
    rows = []
    for title, bpsp, encode, decode in lines:
        times: list[str] = []
        for labels in (encode, decode):
            value = ratio(*labels) if labels else None
            times += [seconds(*labels) if labels else "-", f"{value:.2f}" if value is not None else "-"]
        printed = quoted.TABLE2.get(title)
        quote = f"{printed.encode / base:.2f} / {printed.decode / base:.2f}" if printed else "-"
        rows.append((title, bpsp or "-", *times, quote))
    s = record["settings"]
    note = (
        f"{s['image']}, patches of {s['patch']}x{s['patch']}, {s['steps']} steps of adaptation in which each takes "
        f"its whole share of the patches, {s['threads']} threads for adaptation and one for coding. Processor seconds; "
        "ratios are to one encoding pass that ran beside each row. Inference here is exact, so encoding takes one full "
        "pass and needs no CCI; without CCI every map was computed at every step, for real. The adapter is not "
        "dropped where it does not pay. Quoted: the paper's seconds, encoding and decoding, as ratios to its MGCF encoding."
    )
    weights = {found[x]["weights"] for x in found if "weights" in found[x]}
    if weights:
        note += f" The adapter has {max(weights):,} weights."
    columns = (
        "method", "bpsp", "encode, CPU s", "encode, ratio", "decode, CPU s", "decode, ratio",
        "paper's ratios (quoted)",
    )  # fmt: skip
    return Grid("Table 2: times with and without CCI and RPFT", columns, rows, note)
