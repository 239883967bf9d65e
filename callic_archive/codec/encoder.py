"""Image -> codestream: packing, choice of adapter, one exact pass over every tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.codestream import (
    CODERS,
    MAX_TILE,
    PREFIX,
    Codestream,
    GroupHeader,
    digest_pixels,
    serialise,
)
from callic_archive.codec.coding import tile_contexts
from callic_archive.codec.engine import Backend, Engine, PreparedModel, mixture_tables
from callic_archive.codec.planning import (
    ENCODER_ROWS,
    ConstantGroup,
    GroupPlan,
    ImagePlan,
    check_image,
    estimate_bits,
    plan_image,
    tied,
)
from callic_archive.entropy.mixture import MixtureTables
from callic_archive.entropy.range_coder import RangeEncoder
from callic_archive.errors import InexactModel, UsageError
from callic_archive.images.planes import TileGrid
from callic_archive.model.adapter import Adapter
from callic_archive.model.integer import Geometry
from callic_archive.model.weights import ModelSet

Image = NDArray[np.generic]
I32 = NDArray[np.int32]
#: Largest tile side. A tile is the unit of random access, of threads and of memory (0.2 GB of caches at 512).
TILE = 512


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode. ``adapt="image"`` fits an adapter to each image (slow on CPUs) and keeps it only where
    it pays."""

    coder: Literal["range", "torchac"] = "range"
    adapt: Literal["none", "image"] = "none"
    steps: int = 50
    backend: Backend = "auto"
    device: str = "cpu"
    threads: int | None = None
    tile: int = TILE
    patch: int = TILE

    def __post_init__(self) -> None:
        if self.coder not in CODERS.values():
            raise UsageError(f"there is no coder {self.coder!r}, only {' and '.join(CODERS.values())}")
        if not (1 <= self.tile <= MAX_TILE and 1 <= self.patch <= MAX_TILE):
            raise UsageError(
                f"tiles and patches have 1 to {MAX_TILE} pixels a side, not {self.tile}, {self.patch}"
            )

    @property
    def engine(self) -> Engine:
        """Where inference runs."""
        return Engine(self.backend, self.device, self.threads)


def choose_adapter(
    image: Image, plan: GroupPlan, adapters: Sequence[Adapter], engine: Engine
) -> Adapter | None:
    """The candidate with the shortest estimated code for this plane group, or None where the base model is
    best."""
    fitting = [a for a in adapters if a.model_digest == plan.model.digest]
    if not fitting:
        return None
    best, best_bits = None, estimate_bits(image, plan, None, engine)
    for adapter in fitting:
        try:
            bits = estimate_bits(image, plan, adapter, engine)
        except InexactModel:
            continue  # merged weights would break a bound: such an adapter is no candidate
        if bits < best_bits:
            best, best_bits = adapter, bits
    return best


def encode_tile(
    levels: I32, patch: int, plan: GroupPlan, prepared: PreparedModel, tables: MixtureTables, coder: str
) -> bytes:
    """One tile's stream. ``levels`` (C, h, w), with the guide behind them where the plan has one."""
    height, width = levels.shape[1:]
    geometry = Geometry(height, width, min(height, patch), min(width, patch))
    shift, low, high = plan.bounds
    flat = levels[: len(plan.channels)].reshape(len(plan.channels), -1)
    if coder == "torchac":
        from callic_archive.entropy.torchac import TorchacEncoder

        encoder: RangeEncoder | TorchacEncoder = TorchacEncoder()
        least_rows = 1  # one stream a step: the decoder's steps are the groups
    else:
        encoder, least_rows = RangeEncoder(), ENCODER_ROWS
    contexts = tile_contexts(prepared, geometry, plan.plane, levels, least_rows)
    step = next(contexts)
    while True:
        symbols = np.ascontiguousarray(flat[:, step.rows].T)
        encoder.encode_pixels(step.head, step.skip, shift, low, high, tables, symbols)
        try:
            step = contexts.send(symbols)
        except StopIteration:
            return encoder.finish()


def _name(adapter: Adapter | None) -> bytes:
    """How a group header names an adapter that lies elsewhere; nothing where there is none."""
    return bytes.fromhex(adapter.digest)[:PREFIX] if adapter is not None else b""


def encode_image(
    image: Image,
    *,
    models: ModelSet,
    adapters: Sequence[Adapter] = (),
    options: EncodeOptions = EncodeOptions(),
) -> bytes:
    """Encode an image (H, W) or (H, W, C), C in 1..255, of uint8, uint16 or int16, any strides and byte
    order.

    ``adapters`` are candidates, taken only where they shorten the code; they must lie beside the codestream
    when it is decoded.
    Raises: UnsupportedImage, UnknownModel, InexactModel.
    """
    planes = check_image(image)
    return _coded(image, planes, plan_image(planes, models, options.engine), adapters, options)


def encode_bands(
    bands: Sequence[Image],
    *,
    models: ModelSet,
    adapters: Sequence[Adapter] = (),
    options: EncodeOptions = EncodeOptions(),
) -> tuple[bytes, tuple[int, ...]]:
    """Encode those of several images (H, W) of one size and type that take fewer bits together, as one image (H, W, C).

    The codestream, and the numbers of the images that are its planes, in order; empty where none gain. What gains is found
    by exact inference on sampled blocks, as predictions are; without a model for single planes none do. Images of a type
    or size that no codestream takes, and more than 255, raise what ``encode_image`` raises.
    """
    # Without a model for single planes nobody can say what they would take alone.
    chosen = list(range(len(bands))) if models.for_channels(1) is not None else []
    while len(chosen) > 1:
        # Plane by plane in memory: each is read on its own, and no second copy is made to look at one.
        image = np.stack([bands[number] for number in chosen]).transpose(1, 2, 0)
        planes = check_image(image)
        plan = plan_image(planes, models, options.engine, separate=True)
        related = tied(plan)
        if len(related) == len(chosen):
            return _coded(image, planes, plan, adapters, options), tuple(chosen)
        chosen = [chosen[plane] for plane in related]
    return b"", ()


def _coded(
    image: Image, planes: Image, chosen: ImagePlan, adapters: Sequence[Adapter], options: EncodeOptions
) -> bytes:
    """The codestream of an image, of which ``planes`` is the view (H, W, C), by its plan."""
    engine = options.engine
    grid = TileGrid.balanced(planes.shape[0], planes.shape[1], options.tile)
    headers: list[GroupHeader] = []
    streams: list[tuple[bytes, ...]] = []
    for plan in chosen.groups:
        if isinstance(plan, ConstantGroup):
            headers.append(GroupHeader(plan.packings, False))
            streams.append(())
            continue
        adapter = choose_adapter(planes, plan, adapters, engine)
        field, inside, under = _name(adapter), False, b""
        if options.adapt == "image":
            from callic_archive.codec.adapt import fit_image

            own = fit_image(planes, plan, adapter, engine, steps=options.steps)
            if own is not None:
                adapter = own
                field, inside, under = own.payload, True, _name(own.under)
        headers.append(
            GroupHeader(
                plan.packings, True, plan.plane.shift, plan.plane.depth,
                bytes.fromhex(plan.model.digest)[:PREFIX], field, inside, under, plan.prediction,
            )
        )  # fmt: skip
        prepared, tables = engine.prepare(plan.model, adapter), mixture_tables(plan.model)

        def encode_box(
            box: tuple[int, int, int, int], plan: GroupPlan = plan, prepared: PreparedModel = prepared,
            tables: MixtureTables = tables,
        ) -> bytes:  # fmt: skip
            return encode_tile(plan.levels(planes, box), options.patch, plan, prepared, tables, options.coder)

        streams.append(tuple(engine.map(encode_box, grid.boxes(), "encoded")))
    patch = (min(options.patch, grid.tile_height), min(options.patch, grid.tile_width))
    return serialise(
        Codestream(
            image.shape, planes.dtype.newbyteorder("="), options.coder, grid, patch,
            chosen.copies, tuple(headers), tuple(streams), digest_pixels(image), chosen.alone,
        )
    )  # fmt: skip
