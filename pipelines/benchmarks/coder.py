"""What the entropy coders add to the ideal code length of the integer CDFs, and their time a symbol."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.codestream import inspect
from callic_archive.codec.coding import Distribution, tile_contexts
from callic_archive.codec.encoder import TILE, EncodeOptions, encode_image
from callic_archive.codec.engine import Engine, mixture_tables
from callic_archive.codec.planning import ENCODER_ROWS, GroupPlan, plan_group
from callic_archive.entropy.mixture import MixtureTables, ideal_bits
from callic_archive.entropy.range_coder import RangeDecoder, RangeEncoder
from callic_archive.entropy.torchac import TorchacDecoder, TorchacEncoder
from callic_archive.images.planes import TileGrid, choose_packing
from callic_archive.model.integer import Geometry
from callic_archive.model.weights import ModelSet
from pipelines.benchmarks.eval_sets import Image, centre, kodak
from pipelines.benchmarks.record import Grid, percent, say

NAME = "coder"
I32 = NDArray[np.int32]


@dataclass
class Tally:
    """Sums over tiles. Seconds are processor time of the coder's calls alone."""

    symbols: int = 0
    ideal_bits: float = 0.0
    stream_bytes: int = 0
    codestream_bytes: int = 0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    wrong: int = 0
    images: list[int] = field(default_factory=list)


def _steps(plan: GroupPlan, levels: I32, least_rows: int) -> list[tuple[Distribution, I32]]:
    """Distributions and symbols of a tile, as the codec makes them."""
    prepared = Engine("numpy").prepare(plan.model, None)
    height, width = levels.shape[1:]
    contexts = tile_contexts(prepared, Geometry(height, width, height, width), plan.plane, levels, least_rows)
    flat, steps = levels.reshape(levels.shape[0], -1).copy(), []
    step = next(contexts)
    while True:
        symbols = np.ascontiguousarray(flat[:, step.rows].T)
        steps.append((step, symbols))
        try:
            step = contexts.send(symbols)
        except StopIteration:
            return steps


def _code(
    steps: list[tuple[Distribution, I32]], plan: GroupPlan, tables: MixtureTables, coder: str, tally: Tally
) -> None:
    """Encode and decode a tile's symbols, and add up."""
    shift, low, high = plan.bounds
    encoder: RangeEncoder | TorchacEncoder = RangeEncoder() if coder == "range" else TorchacEncoder()
    start = time.thread_time()
    for step, symbols in steps:
        encoder.encode_pixels(step.head, step.skip, shift, low, high, tables, symbols)
    stream = encoder.finish()
    tally.encode_seconds += time.thread_time() - start
    tally.stream_bytes += len(stream)
    for step, symbols in steps:
        tally.ideal_bits += float(ideal_bits(step.head, step.skip, shift, low, high, tables, symbols).sum())
        tally.symbols += symbols.size
    decoder: RangeDecoder | TorchacDecoder = (
        RangeDecoder(stream) if coder == "range" else TorchacDecoder(stream)
    )
    start = time.thread_time()
    decoded = [decoder.decode_pixels(step.head, step.skip, shift, low, high, tables) for step, _ in steps]
    decoder.finish()
    tally.decode_seconds += time.thread_time() - start
    tally.wrong += sum(not np.array_equal(a, b) for a, (_, b) in zip(decoded, steps, strict=True))


def _image(image: Image, number: int, coder: str, tally: Tally, whole: bool) -> None:
    models = ModelSet.default()
    plan = plan_group(image, range(3), [choose_packing(image[:, :, c]) for c in range(3)], models)
    tables = mixture_tables(plan.model)
    before = tally.stream_bytes
    for box in TileGrid.balanced(image.shape[0], image.shape[1], TILE).boxes():
        steps = _steps(plan, plan.levels(image, box), ENCODER_ROWS if coder == "range" else 1)
        _code(steps, plan, tables, coder, tally)
    tally.images.append(number)
    if whole:
        info = inspect(encode_image(image, models=models, options=EncodeOptions(coder="range")))
        tally.codestream_bytes += info.pixel_bytes + info.header_bytes
        if info.pixel_bytes != tally.stream_bytes - before:
            raise RuntimeError("the codec's streams are not those that were measured")


def measure(images: int, torchac_images: int, crop: int | None) -> dict[str, Any]:
    """Both coders on the first Kodak images. The first image of each coder is coded once before, to
    compile and load."""
    results = {}
    for coder, count in (("range", images), ("torchac", torchac_images)):
        if not count:
            continue
        warm = centre(kodak(1), 64)
        _image(warm, 0, coder, Tally(), False)
        tally = Tally()
        for number in range(1, count + 1):
            say(f"{coder}: Kodak {number:02d}")
            image = kodak(number)
            _image(
                image if crop is None else centre(image, crop),
                number,
                coder,
                tally,
                number == 1 and coder == "range",
            )
        results[coder] = vars(tally)
    return {"coders": results, "crop": crop}


def grids(record: dict[str, Any]) -> list[Grid]:
    """One row a coder."""
    rows = []
    for coder, tally in record["result"]["coders"].items():
        over = 100 * (8 * tally["stream_bytes"] / tally["ideal_bits"] - 1)
        rows.append(
            (
                coder,
                f"{len(tally['images'])}",
                f"{tally['symbols']:,}",
                f"{tally['ideal_bits'] / tally['symbols']:.4f}",
                f"{8 * tally['stream_bytes'] / tally['symbols']:.4f}",
                percent(over, 4),
                f"{1e9 * tally['encode_seconds'] / tally['symbols']:,.0f}",
                f"{1e9 * tally['decode_seconds'] / tally['symbols']:,.0f}",
                "no" if tally["wrong"] else "yes",
            )
        )
    note = (
        "Seconds are processor time of one core, in the coder alone. torchac writes one stream a step and "
        "channel, as the codec does."
    )
    if record["result"]["crop"]:
        note += f" Centres of {record['result']['crop']} pixels a side."
    columns = (
        "coder",
        "Kodak images",
        "symbols",
        "ideal bpsp",
        "coded bpsp",
        "overhead",
        "encode ns/symbol",
        "decode ns/symbol",
        "decoded equal",
    )
    title = "Entropy coders against the ideal code length of the integer CDFs"
    return [Grid(title, columns, rows, note)]
