"""Codestream -> image. Imports neither training code nor torch (unless that backend is asked for)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.adapter_syntax import read_adapter
from callic_archive.codec.codestream import MAX_PIXELS, Box, Codestream, GroupHeader, digest_pixels, parse
from callic_archive.codec.coding import tile_contexts
from callic_archive.codec.engine import Backend, Engine, PreparedModel, mixture_tables
from callic_archive.codec.prediction import EarlierPlanes, use_of
from callic_archive.entropy.mixture import MixtureTables
from callic_archive.entropy.range_coder import RangeDecoder
from callic_archive.errors import (
    CodestreamError,
    CodestreamSyntaxError,
    MismatchedAdapter,
    PixelMismatch,
    UnknownModel,
    UsageError,
)
from callic_archive.images.planes import DecodedPlanes, Packing
from callic_archive.model.adapter import Adapter
from callic_archive.model.integer import NO_GUIDE, Geometry, Plane
from callic_archive.model.weights import IntegerModel, ModelSet

Image = NDArray[np.generic]


def _find_adapter(
    group: GroupHeader, model: IntegerModel, models: ModelSet, adapters: Mapping[str, Adapter]
) -> Adapter | None:
    if not group.adapter:
        return None
    if not group.inside:
        return _of_model(_named(group.adapter, adapters), model)
    own = _of_model(read_adapter(group.adapter, models), model)
    return replace(own, under=_of_model(_named(group.under, adapters), model)) if group.under else own


def _named(prefix: bytes, adapters: Mapping[str, Adapter]) -> Adapter:
    found = next((a for a in adapters.values() if a.digest.startswith(prefix.hex())), None)
    if found is None:
        raise UnknownModel(
            f"this codestream needs the adapter {prefix.hex()}…, which is not among those at hand"
        )
    return found


def _of_model(adapter: Adapter, model: IntegerModel) -> Adapter:
    if adapter.model_digest != model.digest:
        raise MismatchedAdapter("the adapter was made for another model than the one the codestream names")
    return adapter


def decode_tile(
    stream: bytes,
    size: tuple[int, int],
    patch: tuple[int, int],
    group: GroupHeader,
    prepared: PreparedModel,
    tables: MixtureTables,
    coder: str,
    guide: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """Levels (C, h, w) of one tile, beside a ``guide`` (h, w) where the model sees one. Raises CodestreamError when the stream
    is damaged."""
    count = len(group.packings)
    levels = np.zeros((count + (guide is not None), *size), np.int32)
    if guide is not None:
        levels[count] = guide
    shift = [group.shift] * count
    low, high = [p.low for p in group.packings], [p.high for p in group.packings]
    if coder == "torchac":
        from callic_archive.entropy.torchac import TorchacDecoder

        decoder: RangeDecoder | TorchacDecoder = TorchacDecoder(stream)
    else:
        decoder = RangeDecoder(stream)
    geometry = Geometry(*size, min(size[0], patch[0]), min(size[1], patch[1]))
    use = use_of(group.prediction) if guide is not None else NO_GUIDE
    contexts = tile_contexts(prepared, geometry, Plane(group.shift, group.depth, group.mid, use), levels, 1)
    step = next(contexts)
    while True:
        symbols = decoder.decode_pixels(step.head, step.skip, shift, low, high, tables)
        try:
            step = contexts.send(symbols)
        except StopIteration:
            break
    decoder.finish()
    return levels[:count]


def own_packings(group: GroupHeader) -> tuple[Packing, ...]:
    """Packings of a group's planes themselves, not of what predictions leave of them."""
    return group.packings if group.prediction is None else (group.prediction.packing,)


def _samples(levels: NDArray[np.int32], group: GroupHeader, index: int, dtype: np.dtype[np.generic],
             earlier: EarlierPlanes, box: Box) -> Image:  # fmt: skip
    """Samples of a plane's levels (h, w) at ``box`` of the output, which ``earlier`` reads."""
    packing = group.packings[index]
    if group.prediction is None or not group.prediction.subtracted:
        return packing.unpack(levels, dtype)
    own = group.prediction.packing
    predicted = group.prediction.base(earlier, box) + levels
    if predicted.min() < own.low or predicted.max() > own.high:
        raise CodestreamSyntaxError("a predicted level leaves its range: the codestream is damaged")
    return own.unpack(predicted.astype(np.int32), dtype)


def _decode_into(
    out: Image,
    origin: tuple[int, int],
    tiles: list[int],
    stream: Codestream,
    models: ModelSet,
    adapters: Mapping[str, Adapter],
    engine: Engine,
    wanted: Collection[int] | None = None,
) -> None:
    """Write the samples of ``tiles`` into out (H, W, C), whose pixel (0, 0) is ``origin`` of the image.

    Given ``wanted``, only these channels, with their whole groups; what they draw on must be among them, or in ``out``.
    """
    boxes = stream.boxes()
    packings: dict[int, Packing] = {}  # of the planes decoded so far
    earlier = EarlierPlanes(out, packings)
    for group, channels, streams in zip(stream.groups, stream.group_channels(), stream.streams, strict=True):
        if wanted is not None and not any(channel in wanted for channel in channels):
            packings |= zip(channels, own_packings(group), strict=True)
            continue
        if not group.learned:
            for channel, packing in zip(channels, group.packings, strict=True):
                out[:, :, channel] = packing.unpack(np.array([packing.low], np.int32), stream.dtype)[0]
            packings |= zip(channels, group.packings, strict=True)
            continue
        model = models.find(group.model)
        if model.channels != len(channels):
            raise CodestreamError(f"the model {model.name} does not code {len(channels)} planes jointly")
        if group.prediction is not None and not group.prediction.subtracted and not model.guides:
            raise CodestreamError(f"the model {model.name} takes no guide, and a plane is said to be coded beside one")
        prepared = engine.prepare(model, _find_adapter(group, model, models, adapters))
        tables = mixture_tables(model)

        def decode_number(
            number: int, group: GroupHeader = group, channels: list[int] = channels,
            streams: tuple[bytes, ...] = streams,
            prepared: PreparedModel = prepared, tables: MixtureTables = tables, guides: int = model.guides,
        ) -> None:  # fmt: skip
            top, left, bottom, right = boxes[number]
            guide = None
            if group.prediction is not None and guides:  # of the whole tile: `out` reaches beyond the region
                here = (top - origin[0], left - origin[1], bottom - origin[0], right - origin[1])
                guide = group.prediction.guide(earlier, here)
            levels = decode_tile(
                streams[number],
                (bottom - top, right - left),
                stream.patch,
                group,
                prepared,
                tables,
                stream.coder,
                guide,
            )
            # Only the part of the tile that lies inside `out`.
            row, column = max(0, origin[0] - top), max(0, origin[1] - left)
            to_row, to_column = top + row - origin[0], left + column - origin[1]
            rows = min(bottom - top - row, out.shape[0] - to_row)
            columns = min(right - left - column, out.shape[1] - to_column)
            for index, channel in enumerate(channels):
                part = levels[index, row : row + rows, column : column + columns]
                box = (to_row, to_column, to_row + rows, to_column + columns)
                out[box[0] : box[2], box[1] : box[3], channel] = _samples(
                    part, group, index, stream.dtype, earlier, box
                )

        engine.map(decode_number, tiles, "decoded")
        packings |= zip(channels, own_packings(group), strict=True)
    for channel, source in enumerate(stream.copies):
        if source != channel and (wanted is None or channel in wanted):
            out[:, :, channel] = out[:, :, source]


def decode_image(
    codestream: bytes | memoryview,
    *,
    models: ModelSet,
    adapters: Mapping[str, Adapter] = {},
    backend: Backend = "auto",
    device: str = "cpu",
    threads: int | None = None,
    region: Box | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image:
    """Decode a codestream to the image that was encoded: same shape, dtype and samples.

    ``region`` (top, left, bottom, right) decodes only the tiles it touches. ``adapters``: by any key; found
    by their digests.
    Raises: CodestreamError and its kin on damage, UnknownModel when a model or adapter is missing,
    PixelMismatch when the decoded samples do not have the recorded digest (whole images only; every tile
    read has its CRC checked).
    """
    engine = Engine(backend, device, threads)
    stream = parse(codestream, max_pixels=max_pixels, region=region)
    part = _part(stream, region, models)
    out = _room((*part.size, stream.channels), stream)
    _decode_into(out, part.origin, part.tiles, stream, models, adapters, engine)
    out = out[part.window]
    image = out if len(stream.shape) == 3 else out[:, :, 0]
    if region is None and digest_pixels(image) != stream.pixel_digest:
        raise PixelMismatch(
            "the decoded pixels do not have the recorded digest: the codestream or a model is damaged"
        )
    return image


def decode_plane(
    codestream: bytes | memoryview,
    plane: int,
    known: DecodedPlanes | None = None,
    *,
    models: ModelSet,
    adapters: Mapping[str, Adapter] = {},
    backend: Backend = "auto",
    device: str = "cpu",
    threads: int | None = None,
    region: Box | None = None,
    max_pixels: int = MAX_PIXELS,
) -> DecodedPlanes:
    """Decode plane number ``plane`` of an image (H, W, C), or the ``region`` of it, and what it depends on.

    ``known``: planes that an earlier call for the same codestream and region gave; no plane is decoded twice, and the new ones
    are added to it. Every tile that is read has its CRC checked, the digest of all samples is not.
    Raises: as ``decode_image``, but for PixelMismatch; UsageError where the image has no such plane.
    """
    engine = Engine(backend, device, threads)
    stream = parse(codestream, max_pixels=max_pixels, region=region)
    if not 0 <= plane < stream.channels:
        raise UsageError(f"the codestream has {stream.channels} planes, and none numbered {plane}")
    part = _part(stream, region, models)
    if known is None:
        # Planes one after another: what nobody asks for is never touched, and takes no memory.
        canvas = _room((stream.channels, *part.size), stream).transpose(1, 2, 0)
        known = DecodedPlanes(canvas[part.window], set(), canvas)
    elif known.canvas.shape != (*part.size, stream.channels):
        raise UsageError("the planes that are known belong to another codestream")
    needed = _needed(stream, plane) - known.done
    _decode_into(known.canvas, part.origin, part.tiles, stream, models, adapters, engine, needed)
    known.done |= needed
    return known


def _needed(stream: Codestream, plane: int) -> set[int]:
    """The channels that must be decoded for one: itself, its group, and all that these are predicted or copied from."""
    groups = {
        channel: (channels, group.prediction.planes if group.prediction is not None else ())
        for group, channels in zip(stream.groups, stream.group_channels(), strict=True)
        for channel in channels
    }
    found: set[int] = set()
    pending = [plane]
    while pending:
        channel = pending.pop()
        if channel in found:
            continue
        found.add(channel)
        source = stream.copies[channel]
        together, drawn_on = groups[source]
        pending += [source, *together, *drawn_on]
    return found


@dataclass(frozen=True)
class _Part:
    """What is decoded for a region: ``tiles``, into a canvas of this ``size`` whose pixel (0, 0) is ``origin`` of the image, and
    the ``window`` of it that was asked for."""

    tiles: list[int]
    origin: tuple[int, int]
    size: tuple[int, int]
    window: tuple[slice, slice] = (slice(None), slice(None))


def _part(stream: Codestream, region: Box | None, models: ModelSet) -> _Part:
    """The part for a region, or for the whole image; with planes that are guides its tiles are needed wholly. Raises
    UsageError."""
    height, width = stream.shape[:2]
    if region is None:
        return _Part(list(range(len(stream.boxes()))), (0, 0), (height, width))
    top, left, bottom, right = region
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise UsageError(f"the region {region} does not lie within the image of {height} x {width} pixels")
    tiles = stream.tiles_of(region)
    if not any(_guided(group, models) for group in stream.groups):
        return _Part(tiles, (top, left), (bottom - top, right - left))
    boxes = [stream.boxes()[number] for number in tiles]
    above, before = min(box[0] for box in boxes), min(box[1] for box in boxes)
    size = max(box[2] for box in boxes) - above, max(box[3] for box in boxes) - before
    window = slice(top - above, bottom - above), slice(left - before, right - before)
    return _Part(tiles, (above, before), size, window)


def _guided(group: GroupHeader, models: ModelSet) -> bool:
    """Whether a group's model sees what was predicted. Of a model that is not at hand nobody can say; it will be asked for."""
    if group.prediction is None:
        return False
    with suppress(UnknownModel):
        return bool(models.find(group.model).guides)
    return False


def _room(shape: tuple[int, ...], stream: Codestream) -> Image:
    try:
        return np.empty(shape, stream.dtype)
    except MemoryError as error:
        height, width = stream.shape[:2]
        raise CodestreamError(f"an image of {height} x {width} pixels does not fit into memory") from error
