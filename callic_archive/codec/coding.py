"""The one context generator that drives both directions: it yields distributions and receives symbols.

The encoder sends the symbols it knows, the decoder those it has just read; neither has code of its own that
says in which order pixels come or what a distribution depends on, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.engine import PreparedModel
from callic_archive.model.integer import Geometry, Plane, scan_order

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Distribution:
    """Mixture parameters of a run of pixels: head (M, outputs) and skip (M, C); ``rows`` are their flat
    indices."""

    rows: I32
    head: I32
    skip: I64


Contexts = Generator[Distribution, I32, None]


def tile_contexts(
    model: PreparedModel, geometry: Geometry, plane: Plane, levels: I32, least_rows: int
) -> Contexts:
    """Distributions of a tile in coding order; send back the symbols (M, C) of each.

    ``levels`` (C, h, w) is filled in as symbols arrive; a guide behind them stays as it is. ``least_rows``: pixels a step at
    least; the decoder passes 1 (group by group), the encoder, whose levels are all known, passes thousands.
    """
    order, starts = scan_order(geometry)
    tile = model.tile(geometry, plane, levels)
    flat = levels.reshape(levels.shape[0], -1)
    begin, last = 0, len(starts) - 1
    while begin < last:
        end = begin + 1
        if least_rows > 1:
            end = int(np.searchsorted(starts, starts[begin] + least_rows, side="left"))
            end = min(max(end, begin + 1), last)
        rows = order[starts[begin] : starts[end]]
        head, skip = tile.parameters(rows)
        symbols = yield Distribution(rows, head, skip)
        flat[: symbols.shape[1], rows] = symbols.T
        begin = end
