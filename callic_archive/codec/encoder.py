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
from callic_archive.entropy.mixture import MixtureTables, ideal_bits
from callic_archive.entropy.range_coder import RangeEncoder
from callic_archive.errors import InexactModel, UnknownModel, UnsupportedImage, UsageError
from callic_archive.images.planes import DTYPES, Packing, TileGrid, choose_packing, plane_groups
from callic_archive.model.adapter import Adapter
from callic_archive.model.integer import Geometry, Plane
from callic_archive.model.scaling import depth_of, unit_shift
from callic_archive.model.weights import IntegerModel, ModelSet

Image = NDArray[np.generic]
I32 = NDArray[np.int32]
#: Largest tile side. A tile is the unit of random access, of threads and of memory (0.2 GB of caches at 512).
TILE = 512
#: Pixels a step of the encoder: enough for efficient matrix products, few enough to stay in cache.
ENCODER_ROWS = 4096
#: Sampling for decisions (unit shift, adapters): this many blocks of this size, spread over the image.
SAMPLE_BLOCKS, SAMPLE_SIDE = 12, 96


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


@dataclass(frozen=True)
class GroupPlan:
    """What was decided for one plane group before its tiles are coded."""

    channels: tuple[int, ...]
    packings: tuple[Packing, ...]
    plane: Plane
    model: IntegerModel

    def levels(self, image: Image, box: tuple[int, int, int, int]) -> I32:
        """Packed levels (C, h, w) of a rectangle (top, left, bottom, right)."""
        top, left, bottom, right = box
        out = np.empty((len(self.channels), bottom - top, right - left), np.int32)
        for row, (channel, packing) in enumerate(zip(self.channels, self.packings, strict=True)):
            out[row] = packing.pack(image[top:bottom, left:right, channel])
        return out

    @property
    def bounds(self) -> tuple[list[int], list[int], list[int]]:
        """Shift, lowest and highest level of each channel, as the entropy coder takes them."""
        count = len(self.channels)
        return [self.plane.shift] * count, [p.low for p in self.packings], [p.high for p in self.packings]


def check_image(image: Image) -> Image:
    """(H, W, C) view of an image the codec takes. Raises UnsupportedImage."""
    if image.dtype.newbyteorder("=") not in DTYPES.values():
        raise UnsupportedImage(f"the codec takes uint8, uint16 and int16 samples, not {image.dtype}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= 4) or image.size == 0:
        raise UnsupportedImage(
            f"the codec takes (H, W) or (H, W, C) with 1 to 4 channels, not shape {image.shape}"
        )
    return image if image.ndim == 3 else image[:, :, None]


def find_copies(image: Image) -> tuple[int, ...]:
    """For every channel the first one with the same samples (gray stored as RGB is coded once)."""
    copies: list[int] = []
    for channel in range(image.shape[2]):
        same = (
            earlier
            for earlier in range(channel)
            if copies[earlier] == earlier
            and np.array_equal(image[0, :, earlier], image[0, :, channel])
            and np.array_equal(image[:, :, earlier], image[:, :, channel])
        )
        copies.append(next(same, channel))
    return tuple(copies)


def sample_boxes(
    height: int, width: int, count: int = SAMPLE_BLOCKS, side: int = SAMPLE_SIDE
) -> list[tuple[int, int, int, int]]:
    """Up to ``count`` rectangles spread over an image, or the whole image where it is small."""
    if height * width <= count * side * side:
        return [(0, 0, height, width)]
    boxes = []
    for index in range(count):  # a low-discrepancy walk: no grid that could align with the image's own period
        top = int((0.5 + index * 0.7548776662) % 1.0 * max(1, height - side))
        left = int((0.5 + index * 0.5698402910) % 1.0 * max(1, width - side))
        boxes.append((top, left, min(height, top + side), min(width, left + side)))
    return boxes


def plan_group(
    image: Image, channels: Sequence[int], packings: Sequence[Packing], models: ModelSet
) -> GroupPlan:
    """Choose model, depth and unit shift of a plane group. Raises UnknownModel when no model codes that many
    planes."""
    model = models.for_channels(len(channels))
    if model is None:
        raise UnknownModel(f"no model at hand codes {len(channels)} planes jointly")
    depth = max(depth_of(p.span) for p in packings)
    shifts = []
    for top, left, bottom, right in sample_boxes(image.shape[0], image.shape[1]):
        part = np.stack(
            [p.pack(image[top:bottom, left:right, c]) for c, p in zip(channels, packings, strict=True)]
        )
        shifts.append(unit_shift(part))
    shift = int(np.median(shifts))
    return GroupPlan(tuple(channels), tuple(packings), Plane(shift, depth, 1 << (depth - 1)), model)


def estimate_bits(image: Image, plan: GroupPlan, adapter: Adapter | None, engine: Engine) -> float:
    """Code length in bits of the sampled blocks, by exact inference with the model and an adapter."""
    prepared, tables = engine.prepare(plan.model, adapter), mixture_tables(plan.model)

    def measure(box: tuple[int, int, int, int]) -> float:
        return _block_bits(plan.levels(image, box), plan, prepared, tables)

    return sum(engine.map(measure, sample_boxes(image.shape[0], image.shape[1])))


def _block_bits(levels: I32, plan: GroupPlan, prepared: PreparedModel, tables: MixtureTables) -> float:
    _, height, width = levels.shape
    shift, low, high = plan.bounds
    total = 0.0
    flat = levels.reshape(levels.shape[0], -1)
    geometry = Geometry(height, width, height, width)
    contexts = tile_contexts(prepared, geometry, plan.plane, levels, ENCODER_ROWS)
    step = next(contexts)
    while True:
        symbols = np.ascontiguousarray(flat[:, step.rows].T)
        total += float(ideal_bits(step.head, step.skip, shift, low, high, tables, symbols).sum())
        try:
            step = contexts.send(symbols)
        except StopIteration:
            return total


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
    """One tile's stream. ``levels`` (C, h, w)."""
    count, height, width = levels.shape
    geometry = Geometry(height, width, min(height, patch), min(width, patch))
    shift, low, high = plan.bounds
    flat = levels.reshape(count, -1)
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


def _adapter_field(adapter: Adapter | None, inside: bool) -> bytes:
    """What a group header says of its adapter: nothing, the adapter itself, or the start of its digest."""
    if adapter is None:
        return b""
    return adapter.payload if inside else bytes.fromhex(adapter.digest)[:PREFIX]


def encode_image(
    image: Image,
    *,
    models: ModelSet,
    adapters: Sequence[Adapter] = (),
    options: EncodeOptions = EncodeOptions(),
) -> bytes:
    """Encode an image (H, W) or (H, W, C), C in 1..4, of uint8, uint16 or int16, any strides and byte order.

    ``adapters`` are candidates, taken only where they shorten the code; they must lie beside the codestream
    when it is decoded.
    Raises: UnsupportedImage, UnknownModel, InexactModel.
    """
    planes = check_image(image)
    dtype = planes.dtype.newbyteorder("=")
    engine = options.engine
    height, width = planes.shape[:2]
    copies = find_copies(planes)
    coded = [c for c, source in enumerate(copies) if source == c]
    grid = TileGrid.balanced(height, width, options.tile)
    headers: list[GroupHeader] = []
    streams: list[tuple[bytes, ...]] = []
    for first, count in plane_groups(len(coded)):
        members = coded[first : first + count]
        packings = tuple(choose_packing(planes[:, :, c]) for c in members)
        if all(p.low == p.high for p in packings):
            headers.append(GroupHeader(packings, False))
            streams.append(())
            continue
        plan = plan_group(planes, members, packings, models)
        adapter, inside = choose_adapter(planes, plan, adapters, engine), False
        if options.adapt == "image":
            from callic_archive.codec.adapt import fit_image

            own = fit_image(planes, plan, adapter, engine, steps=options.steps)
            if own is not None:
                adapter, inside = own, True
        headers.append(
            GroupHeader(
                packings, True, plan.plane.shift, plan.plane.depth, bytes.fromhex(plan.model.digest)[:PREFIX],
                _adapter_field(adapter, inside), inside,
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
            image.shape, dtype, options.coder, grid, patch,
            copies, tuple(headers), tuple(streams), digest_pixels(image),
        )
    )  # fmt: skip
