"""Which images of a collection want models of their own: those that would have the weights of a model changed alike.

A collection of several kinds of image is fitted badly by one model. Nobody needs to tell which kinds there are: the gradient
of its code length says how an image would have the weights changed. Images of one scanner agree about that, and those of
different ones have little in common. So images are put together until what is still apart saves more than its models take
(Ward's criterion, on code lengths).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from callic_archive.codec.crops import Levels, collate
from callic_archive.codec.planning import check_image, find_copies, packed_levels
from callic_archive.images.planes import choose_packing, plane_groups
from callic_archive.model.dequantize import float_model
from callic_archive.model.mgcf import MGCF
from callic_archive.model.packed_file import pack_model
from callic_archive.model.scaling import depth_of, unit_shift
from callic_archive.model.weights import IntegerModel, ModelSet

Image = NDArray[Any]
F64 = NDArray[np.float64]
#: Images that are looked at; and crops of each, half of them for each of two gradients: what these share is no chance.
MOST_LOOKED_AT = 240
CROPS, FEW_CROPS, MANY_IMAGES, SIDE = 16, 8, 64, 64
#: Families at most, as each image is tried with the models of all.
MOST_FAMILIES = 8
#: Of the code of two families, what models of their own save for each unit of squared distance between their mean gradients
#: (decision 0032); at most; and what they must save of the smaller one's to be worth the time.
SAVED, MOST_SAVED, LEAST_SAVED = 0.005, 0.15, 0.015
#: Unit of gradients, in bits a sample: what those of eight crops of a usual image differ by from draw to draw.
UNIT = 0.0033
#: Bytes of samples below which no two families can be worth two models.
LEAST_BYTES = 1 << 20
SEED = 20261126
#: By the number of those smaller: the model whose gradients are looked at, which has weights enough to tell kinds of image
#: apart; and that whose bytes a family must earn: two with smaller ones do without what they would pay for together.
LOOKED_WITH, PAID_FOR = 1, 2


def _of(models: Sequence[IntegerModel], number: int) -> IntegerModel:
    """Model ``number`` of those of one number of planes, the smallest first; the last where there are fewer."""
    return models[min(number, len(models) - 1)]


class _Look(NamedTuple):
    """How an image would have the weights of a model changed, seen twice, and the bytes of its code by that model."""

    code: float
    gradients: tuple[F64, F64]


def families(
    images: Sequence[Image],
    models: ModelSet,
    *,
    scale: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Numbers of images (H, W) or (H, W, C) that want models of their own together, each list ascending, the first with the
    most bytes; one list of all numbers where one model will do, else perhaps without some of many.

    ``scale``: bytes of the whole collection for one of these images'. ``progress(image, images)`` may raise to stop.
    """
    everything = [list(range(len(images)))]
    if len(images) < 2 or scale * sum(image.nbytes for image in images) < LEAST_BYTES:
        return everything
    numbers = sorted(np.random.default_rng(SEED).permutation(len(images))[:MOST_LOOKED_AT].tolist())
    crops = CROPS if len(numbers) <= MANY_IMAGES else FEW_CROPS
    sizes = {count: models.by_size(count) for count in (1, 3)}
    floats = {count: float_model(_of(some, LOOKED_WITH).weights).train() for count, some in sizes.items() if some}
    seen: list[dict[int, _Look]] = []
    for done, number in enumerate(numbers):
        seen.append(_look(check_image(images[number]), floats, crops, number))
        if progress:
            progress(done + 1, len(numbers))
    costs = {count: float(len(pack_model(_of(some, PAID_FOR).raw))) for count, some in sizes.items() if some}
    scale *= len(images) / len(numbers)
    found = _families(seen, costs, scale)
    return [[numbers[place] for place in places] for places in found] if len(found) > 1 else everything


def _look(image: Image, models: Mapping[int, MGCF], crops: int, seed: int) -> dict[int, _Look]:
    """What an image (H, W, C) shows, by the planes that a model codes jointly: of the first planes of each kind."""
    copies = find_copies(image)
    coded = [channel for channel, source in enumerate(copies) if source == channel]
    groups = plane_groups(len(coded), alone=image.itemsize > 1)
    found: dict[int, _Look] = {}
    for first, count in groups:
        members = coded[first : first + count]
        if count in found or count not in models or all((image[:, :, c] == image[0, 0, c]).all() for c in members):
            continue
        planes = count * sum(other == count for _, other in groups)
        code, gradients = _gradients(image, members, models[count], crops, seed)
        found[count] = _Look(code * planes * image.shape[0] * image.shape[1] / 8, gradients)
    return found


def _gradients(image: Image, members: Sequence[int], model: MGCF, crops: int, seed: int) -> tuple[float, tuple[F64, F64]]:
    """Bits a sample of random crops, and the gradients of it by the biases of ``model`` for either half of the crops: they
    say what all weights would, in a fortieth of the numbers."""
    rng = np.random.default_rng((SEED, seed))
    packings = [choose_packing(image[:, :, channel]) for channel in members]
    height, width = image.shape[:2]
    levels: list[Levels] = []
    for _ in range(crops):
        top, left = int(rng.integers(max(1, height - SIDE + 1))), int(rng.integers(max(1, width - SIDE + 1)))
        box = (top, left, min(height, top + SIDE), min(width, left + SIDE))
        crop = packed_levels(image, box, members, packings).astype(np.uint16)
        short = ((0, 0), (0, SIDE - crop.shape[1]), (0, SIDE - crop.shape[2]))
        levels.append(np.pad(crop, short, mode="symmetric"))
    depth = max(depth_of(packing.span) for packing in packings)
    shift = int(np.median([unit_shift(crop) for crop in levels]))
    statistics = (shift, depth, 1 << (depth - 1), max(packing.high for packing in packings), 0)
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    bits, found = 0.0, []
    for half in (levels[0::2], levels[1::2]):
        loss = model.bits(*collate(half, [statistics] * len(half))).mean() / len(members)
        gradients = torch.autograd.grad(loss, biases)
        bits += float(loss.detach()) / 2
        found.append(torch.cat([gradient.flatten() for gradient in gradients]).double().numpy())
    return bits, (found[0], found[1])


def _families(seen: Sequence[Mapping[int, _Look]], costs: Mapping[int, float], scale: float) -> list[list[int]]:
    """Places in ``seen`` that are to have models together. ``costs``: bytes of a model."""
    pairs = {count: _Pairs([look.get(count) for look in seen], scale) for count in costs}
    members = [[place] for place in range(len(seen))]
    while len(members) > 1:
        net = np.zeros((len(members), len(members)))
        for count, some in pairs.items():
            net += some.losses() - some.both() * costs[count]
        code = sum(some.code for some in pairs.values())
        assert not isinstance(code, int)
        net -= LEAST_SAVED * np.minimum.outer(code, code) * (np.add.reduce([some.both() for some in pairs.values()]) > 0)
        net[np.tril_indices(len(members))] = np.inf
        first, second = map(int, np.unravel_index(net.argmin(), net.shape))
        if net[first, second] >= 0 and len(members) <= MOST_FAMILIES:
            break
        members[first] += members.pop(second)
        for some in pairs.values():
            some.merge(first, second)
    order = sorted(range(len(members)), key=lambda n: -sum(float(some.code[n]) for some in pairs.values()))
    return [sorted(members[n]) for n in order]


class _Pairs:
    """Families, at first of one image each, as one model codes them: their bytes, and how far apart their gradients lie.

    Products are those of gradients of different crops, so that chance adds nothing to them, in one image neither.
    """

    def __init__(self, looks: Sequence[_Look | None], scale: float) -> None:
        self.code: F64 = np.array([scale * look.code if look else 0.0 for look in looks])
        one, other = _in_units_of_chance(looks)
        products = one @ other.T / one.shape[1]
        self._sums = np.outer(self.code, self.code) * (products + products.T) / 2

    def both(self) -> NDArray[np.bool_]:
        """(n, n): whether both families need this model."""
        return np.logical_and.outer(self.code > 0, self.code > 0)

    def losses(self) -> F64:
        """(n, n): bytes that two families would lose by sharing a model."""
        code = np.maximum(self.code, 1e-9)
        products = self._sums / np.outer(code, code)
        own = products.diagonal()
        apart = np.maximum(own[:, None] + own[None, :] - 2 * products, 0.0)
        loss: F64 = np.minimum(SAVED * apart, MOST_SAVED) * np.outer(self.code, self.code) / np.add.outer(code, code)
        return loss

    def merge(self, first: int, second: int) -> None:
        """Put the second family to the first."""
        self.code[first] += self.code[second]
        self.code = np.delete(self.code, second)
        self._sums[first] += self._sums[second]
        self._sums[:, first] += self._sums[:, second]
        self._sums = np.delete(np.delete(self._sums, second, 0), second, 1)


def _in_units_of_chance(looks: Sequence[_Look | None]) -> tuple[F64, F64]:
    """Gradients (images, weights) of either half of the crops, each weight's in units of what it usually differs by between
    halves; zeros where there is none. So weights that matter little count as much as others, an image that the model knows
    well, whose gradient is but chance, lies near zero, and one that has larger gradients than others spoils nothing."""
    size = next((look.gradients[0].size for look in looks if look), 1)
    one, other = (np.array([look.gradients[half] if look else np.zeros(size) for look in looks]) for half in (0, 1))
    by_chance = one - other
    level = np.sqrt((by_chance**2).mean(axis=1, keepdims=True))
    shape = np.sqrt(((by_chance / np.where(level > 0, level, 1.0)) ** 2).mean(axis=0))
    shape /= np.sqrt((shape**2).mean()) or 1.0
    unit = np.maximum(UNIT * (shape + 1e-2 * shape.max()), 1e-12)
    return one / unit, other / unit
