"""What is decided for an image before its tiles are coded: packing, plane groups, predictions, models, units.

All decisions are the encoder's own: a decoder is told their outcome. Those that need a measurement take it by exact inference
on blocks that are spread over the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.coding import tile_contexts
from callic_archive.codec.engine import Engine, PreparedModel, mixture_tables
from callic_archive.codec.prediction import (
    EarlierPlanes,
    Prediction,
    fit_likeness,
    fit_prediction,
    fixed,
    use_of,
)
from callic_archive.entropy.mixture import MixtureTables, ideal_bits
from callic_archive.errors import UnknownModel, UnsupportedImage
from callic_archive.images.planes import DTYPES, MAX_CHANNELS, Packing, choose_packing, plane_groups
from callic_archive.model.adapter import Adapter
from callic_archive.model.integer import NO_GUIDE, Geometry, Plane
from callic_archive.model.scaling import depth_of, unit_shift
from callic_archive.model.weights import IntegerModel, ModelSet

Image = NDArray[np.generic]
I32 = NDArray[np.int32]
Box = tuple[int, int, int, int]
#: Pixels a step of the encoder: enough for efficient matrix products, few enough to stay in cache.
ENCODER_ROWS = 4096
#: Sampling for decisions: this many blocks of this size, spread over the image; and for the choice between models, of
#: which there may be several.
SAMPLE_BLOCKS, SAMPLE_SIDE = 12, 96
CHOICE_BLOCKS, CHOICE_SIDE = 6, 64
#: Levels that a plane can have at most.
MOST_LEVELS = 1 << 16


@dataclass(frozen=True)
class GroupPlan:
    """What was decided for one plane group before its tiles are coded."""

    channels: tuple[int, ...]
    packings: tuple[Packing, ...]
    plane: Plane
    model: IntegerModel
    prediction: Prediction | None = None  # of groups of one plane only
    earlier: EarlierPlanes | None = None  # reads the planes that it draws on

    def levels(self, image: Image, box: tuple[int, int, int, int]) -> I32:
        """Packed levels (C, h, w) of a rectangle (top, left, bottom, right), and the guide behind them where there is one."""
        levels = packed_levels(image, box, self.channels, self.packings, self.prediction, self.earlier)
        if not self.plane.guide:
            return levels
        assert self.prediction is not None
        assert self.earlier is not None
        return np.concatenate([levels, self.prediction.guide(self.earlier, box)[None]])

    @property
    def bounds(self) -> tuple[list[int], list[int], list[int]]:
        """Shift, lowest and highest level of each channel, as the entropy coder takes them."""
        count = len(self.channels)
        return [self.plane.shift] * count, [p.low for p in self.packings], [p.high for p in self.packings]


def check_image(image: Image) -> Image:
    """(H, W, C) view of an image the codec takes. Raises UnsupportedImage."""
    if image.dtype.newbyteorder("=") not in DTYPES.values():
        raise UnsupportedImage(f"the codec takes uint8, uint16 and int16 samples, not {image.dtype}")
    wrong = image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= MAX_CHANNELS)
    if wrong or image.size == 0:
        raise UnsupportedImage(
            f"the codec takes (H, W) or (H, W, C) with 1 to {MAX_CHANNELS} channels, not shape {image.shape}"
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


def planes_together(image: Image) -> tuple[int, ...]:
    """How many planes the models code together that an image (H, W) or (H, W, C) needs, ascending; none where nothing
    varies. Planes wider than 8 bits are taken to be coded each alone."""
    planes = image if image.ndim == 3 else image[:, :, None]
    coded = [channel for channel, source in enumerate(find_copies(planes)) if source == channel]
    varied = [bool((planes[:, :, channel] != planes[0, 0, channel]).any()) for channel in coded]
    groups = plane_groups(len(coded), alone=image.itemsize > 1)
    return tuple(sorted({count for first, count in groups if any(varied[first : first + count])}))


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


def packed_levels(
    image: Image,
    box: Box,
    channels: Sequence[int],
    packings: Sequence[Packing],
    prediction: Prediction | None = None,
    earlier: EarlierPlanes | None = None,
) -> I32:
    """Packed levels (C, h, w) of a rectangle of some channels, or of what a prediction leaves of one."""
    top, left, bottom, right = box
    out = np.empty((len(channels), bottom - top, right - left), np.int32)
    for row, (channel, packing) in enumerate(zip(channels, packings, strict=True)):
        if prediction is None or earlier is None:
            out[row] = packing.pack(image[top:bottom, left:right, channel])
        else:
            out[row] = prediction.coded(image, channel, earlier, box)
    return out


def plan_group(
    image: Image,
    channels: Sequence[int],
    packings: Sequence[Packing],
    models: ModelSet | IntegerModel,
    prediction: Prediction | None = None,
    earlier: EarlierPlanes | None = None,
) -> GroupPlan:
    """Choose depth and unit shift of a plane group; its model is the one that was chosen, or the first that will do. Raises
    UnknownModel when no model codes that many planes."""
    model = models.for_channels(len(channels)) if isinstance(models, ModelSet) else models
    if model is None:
        raise UnknownModel(f"no model at hand codes {len(channels)} planes jointly")
    depth = max(depth_of(p.span) for p in packings)
    shifts = [
        unit_shift(packed_levels(image, box, channels, packings, prediction, earlier))
        for box in sample_boxes(image.shape[0], image.shape[1])
    ]
    guide = use_of(prediction) if model.guides else NO_GUIDE
    plane = Plane(int(np.median(shifts)), depth, 1 << (depth - 1), guide)
    return GroupPlan(tuple(channels), tuple(packings), plane, model, prediction, earlier)


@dataclass(frozen=True)
class ConstantGroup:
    """A plane group of one level a plane, which needs no code."""

    channels: tuple[int, ...]
    packings: tuple[Packing, ...]


Group = GroupPlan | ConstantGroup


@dataclass(frozen=True)
class ImagePlan:
    """``alone``: no planes are coded jointly. ``groups`` in coding order, without the copies."""

    alone: bool
    copies: tuple[int, ...]
    groups: tuple[Group, ...]


def plan_image(image: Image, models: ModelSet, engine: Engine, *, separate: bool = False) -> ImagePlan:
    """Decide for a whole image (H, W, C). Raises UnknownModel.

    Three planes of 8 bits are coded jointly, as colour images are what the joint model knows best. Wider ones, and those
    that are ``separate`` images rather than colours of one, are coded jointly, or each alone with predictions from those
    before it: whatever takes fewer bits on the sampled blocks.
    """
    copies = find_copies(image)
    coded = [c for c, source in enumerate(copies) if source == c]
    planner = _Planner(image, models, engine)
    split = [coded[first : first + count] for first, count in plane_groups(len(coded))]
    alone = (separate or image.dtype.itemsize > 1) and models.for_channels(1) is not None
    if len(split) < len(coded) and alone and models.for_channels(len(split[0])) is None:
        return ImagePlan(True, copies, tuple(planner.each_alone(coded, ())))
    if len(split) < len(coded) and alone:
        jointly = planner.group(split[0], ())
        singly = planner.each_alone(split[0], ())
        if sum(map(planner.bits, singly)) < planner.bits(jointly):
            return ImagePlan(True, copies, (*singly, *planner.each_alone(coded[3:], coded[:3])))
    groups = [planner.group(members, coded[: coded.index(members[0])]) for members in split]
    return ImagePlan(False, copies, tuple(groups))


def tied(plan: ImagePlan) -> list[int]:
    """Channels, ascending, that take fewer bits as they are coded with others, or with which others do."""
    found = {channel for pair in enumerate(plan.copies) if pair[0] != pair[1] for channel in pair}
    for group in plan.groups:
        if isinstance(group, ConstantGroup):
            continue
        if len(group.channels) > 1:
            found.update(group.channels)
        if group.prediction is not None:
            found.update(group.channels, group.prediction.planes)
    return sorted(found)


class _Planner:
    """Plans of the plane groups of one image, with their bits on the sampled blocks where they were asked for."""

    def __init__(self, image: Image, models: ModelSet, engine: Engine) -> None:
        self._image, self._models, self._engine = image, models, engine
        self._boxes = sample_boxes(image.shape[0], image.shape[1])
        self._packings: dict[int, Packing] = {}
        self._planes = EarlierPlanes(image, self._packings)
        self._bits: dict[int, tuple[float, Group]] = {}  # by identity; the group is kept, so that it stays unique
        self._chosen: dict[int, IntegerModel] = {}  # by planes that it codes jointly: those of one image are alike

    def _packing(self, channel: int) -> Packing:
        if channel not in self._packings:
            self._packings[channel] = choose_packing(self._image[:, :, channel])
        return self._packings[channel]

    def bits(self, group: Group) -> float:
        """Bits of the sampled blocks without an adapter."""
        if isinstance(group, ConstantGroup):
            return 0.0
        if id(group) not in self._bits:
            self._bits[id(group)] = estimate_bits(self._image, group, None, self._engine), group
        return self._bits[id(group)][0]

    def each_alone(self, channels: Sequence[int], before: Sequence[int]) -> list[Group]:
        """Groups of one plane each, predicted where that pays from those of ``before`` and each other."""
        earlier = list(before)
        groups = []
        for channel in channels:
            groups.append(self.group([channel], earlier))
            earlier.append(channel)
        return groups

    def group(self, members: Sequence[int], earlier: Sequence[int]) -> Group:
        """The plan of one group; ``earlier``: channels that are decoded before it."""
        image = self._image
        packings = tuple(self._packing(c) for c in members)
        if all(p.low == p.high for p in packings):
            return ConstantGroup(tuple(members), packings)
        plain = self._with_model(plan_group(image, members, packings, self._models))
        if len(members) > 1 or not earlier:
            return plain
        plans = [*self._guided(plain, earlier), plain, *self._predicted(plain, earlier)]
        return min(plans, key=self.bits) if len(plans) > 1 else plain  # the first of equals

    def _with_model(self, plan: GroupPlan) -> GroupPlan:
        """The plan with the model that codes a few blocks smallest, of those that may."""
        count = len(plan.channels)
        if count not in self._chosen:
            ways = [replace(plan, model=model) for model in self._models.candidates(count)]
            boxes = sample_boxes(self._image.shape[0], self._image.shape[1], CHOICE_BLOCKS, CHOICE_SIDE)
            bits = [estimate_bits(self._image, way, None, self._engine, boxes) if len(ways) > 1 else 0.0 for way in ways]
            self._chosen[count] = ways[int(np.argmin(bits))].model  # the first of equals
        return replace(plan, model=self._chosen[count])

    def _predicted(self, plain: GroupPlan, earlier: Sequence[int]) -> list[GroupPlan]:
        """The plan that codes what a prediction from earlier planes leaves of one, where there is any."""
        (channel,), (packing,) = plain.channels, plain.packings
        prediction = fit_prediction(channel, packing, earlier, self._planes, self._boxes)
        if prediction is None:
            return []
        prediction, highest = fixed(prediction, self._image, channel, self._planes)
        if highest >= MOST_LEVELS or abs(prediction.offset) >= MOST_LEVELS:
            return []
        coded = (Packing(0, 0, highest),)
        return [plan_group(self._image, [channel], coded, plain.model, prediction, self._planes)]

    def _guided(self, plain: GroupPlan, earlier: Sequence[int]) -> list[GroupPlan]:
        """The plan that codes a plane beside an earlier one that is like it, where the model takes a guide and there is one."""
        if not plain.model.guides:
            return []
        likeness = fit_likeness(plain.channels[0], plain.packings[0], earlier, self._planes, self._boxes)
        if likeness is None:
            return []
        return [plan_group(self._image, plain.channels, plain.packings, plain.model, likeness, self._planes)]


def estimate_bits(
    image: Image, plan: GroupPlan, adapter: Adapter | None, engine: Engine, boxes: Sequence[Box] = ()
) -> float:
    """Code length in bits of the sampled blocks, or of ``boxes``, by exact inference with the model and an adapter."""
    prepared, tables = engine.prepare(plan.model, adapter), mixture_tables(plan.model)

    def measure(box: tuple[int, int, int, int]) -> float:
        return _block_bits(plan.levels(image, box), plan, prepared, tables)

    return sum(engine.map(measure, boxes or sample_boxes(image.shape[0], image.shape[1])))


def _block_bits(levels: I32, plan: GroupPlan, prepared: PreparedModel, tables: MixtureTables) -> float:
    _, height, width = levels.shape
    shift, low, high = plan.bounds
    total = 0.0
    flat = levels[: len(plan.channels)].reshape(len(plan.channels), -1)
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
