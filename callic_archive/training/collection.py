"""Crops out of a collection that is larger than memory: windows of its images, taken again and again.

Files are visited in a fixed random order. From each, plane groups are taken exactly as the encoder would code
them with the model in training: same groups, same packing, same statistics. Windows of them are kept up to a
budget; where the collection has more, the oldest give way to new ones while training goes on.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from callic_archive.archive.collection import images_of
from callic_archive.archive.scan import Source
from callic_archive.codec.crops import Crops, Levels, Statistics, collate, random_crop
from callic_archive.codec.planning import check_image, find_copies, plan_group
from callic_archive.errors import CallicError, NothingToTrain
from callic_archive.images.planes import choose_packing, plane_groups
from callic_archive.images.source import Image
from callic_archive.model.weights import IntegerModel, ModelSet

#: Bytes of windows kept in memory, and the side of the largest.
POOL_BYTES, WINDOW = 192 << 20, 512
#: Windows taken from one file at most, so that no single file fills the pool.
WINDOWS_A_FILE = 16
#: Smallest side of a plane that training looks at: below it there is more border than content.
LEAST_SIDE = 16
#: Share of the files that is held out, and how much of them is looked at.
HELD_OUT, HELD_CROPS, HELD_SIDE = 1 / 8, 32, 128
MOST_HELD_FILES = 4096
#: Files that are opened to find out which model a collection is for.
LOOKED_AT = 48
#: Steps between two visits of further files.
REFRESH_STEPS = 20


@dataclass(frozen=True)
class Window:
    """Levels (C, H, W) of a part of an image, and the statistics of the plane group it belongs to."""

    planes: Levels
    stats: Statistics


@dataclass(frozen=True)
class Parts:
    """Crops to train on and crops held out, with the numbers of files they come from. ``within``: so few files
    hold images that each is split by its rows."""

    train: CollectionCrops
    held: dict[str, Crops]
    files: int
    held_files: int
    within: bool = False


def in_fixed_order(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The files by the digest of their paths: an order as good as random, the same in every run."""
    files = [source for source in sources if source.kind == "file" and source.size]
    files.sort(key=lambda source: hashlib.sha256(source.path.encode("utf-8", "surrogateescape")).digest())
    return tuple(files)


def take_parts(
    model: IntegerModel,
    sources: Sequence[Source],
    seed: int,
    progress: Callable[[int, int], None],
    stopping: Callable[[], bool],
) -> Parts:
    """Hold out about an eighth of the files, or more where the first of them hold no image, and fill a pool
    from the others. Raises NothingToTrain; with ``stopping`` the parts may be empty.
    """
    files = in_fixed_order(sources)
    count = max(1, round(len(files) * HELD_OUT))
    held = held_crops(model, files[:count], (0.0, 1.0), stopping)
    while not held and count < len(files) and not stopping():
        more = files[count : 2 * count]
        held, count = held_crops(model, more, (0.0, 1.0), stopping), count + len(more)
    train = CollectionCrops(model, files[count:], (0.0, 1.0), seed)
    train.fill(progress, stopping)
    if not train.empty or stopping():
        return Parts(train, held, len(files) - count, count)
    # Hardly any file holds an image: what there is gives its lowest rows.
    train = CollectionCrops(model, files, (0.0, 1 - HELD_OUT), seed)
    train.fill(progress, stopping)
    held = held_crops(model, files, (1 - HELD_OUT, 1.0), stopping)
    if (train.empty or not held) and not stopping():
        raise NothingToTrain(
            f"no image here would be coded with {model.name}, or what there is is too small to hold a part of it "
            "out; training takes 8- and 16-bit images of formats that packing understands"
        )
    return Parts(train, held, len(files), len(files), within=True)


def samples_by_planes(sources: Sequence[Source], stopping: Callable[[], bool]) -> dict[int, int]:
    """Samples that models of 1 and of 3 planes would code, in a part of the files spread over all."""
    files = [source for source in sources if source.kind == "file" and source.size]
    found = {1: 0, 3: 0}
    order = np.random.default_rng(0).permutation(len(files))
    for number in order[: 8 * LOOKED_AT].tolist():
        if stopping():
            break
        images = images_of(files[number])
        for image in images:
            for members in _coded_groups(image):
                found[len(members)] += image.shape[0] * image.shape[1] * len(members)
        if sum(found.values()) > 64 << 20:
            break
    return found


def _coded_groups(image: Image) -> Iterator[list[int]]:
    """Channels of each plane group that the encoder would code (copies and constant planes are not)."""
    planes = check_image(image)
    coded = [c for c, source in enumerate(find_copies(planes)) if source == c]
    for first, count in plane_groups(len(coded)):
        members = coded[first : first + count]
        if any(planes[:, :, c].min() != planes[:, :, c].max() for c in members):
            yield members


def windows_of(
    image: Image, models: ModelSet, limit: int, rng: np.random.Generator, rows: tuple[float, float] = (0, 1)
) -> Iterator[Window]:
    """At most ``limit`` windows of the plane groups that ``models`` code, from a share of the rows.

    The image is (H, W) or (H, W, C). Small images are one window, larger ones give random parts.
    """
    planes = check_image(image)
    top, bottom = int(planes.shape[0] * rows[0]), int(planes.shape[0] * rows[1])
    height, width = bottom - top, planes.shape[1]
    if min(height, width) < LEAST_SIDE:
        return
    for members in _coded_groups(image):
        if models.for_channels(len(members)) is None:
            continue
        packings = [choose_packing(planes[:, :, c]) for c in members]
        plan = plan_group(planes, members, packings, models)
        stats = (plan.plane.shift, plan.plane.depth, plan.plane.mid, max(p.high for p in packings), 0)
        h, w = min(height, WINDOW), min(width, WINDOW)
        above, aside = int(rng.integers(height % h + 1)), int(rng.integers(width % w + 1))
        places = [
            (top + above + i, aside + j)
            for i in range(0, height - above - h + 1, h)
            for j in range(0, width - aside - w + 1, w)
        ]
        for number in rng.permutation(len(places))[:limit].tolist():
            i, j = places[number]
            yield Window(plan.levels(planes, (i, j, i + h, j + w)).astype(np.uint16), stats)


@dataclass
class CollectionCrops:
    """Random crops of a collection for one model: a ``BatchSource``."""

    model: IntegerModel
    files: tuple[Source, ...]
    rows: tuple[float, float]
    seed: int
    pool_bytes: int = POOL_BYTES
    _windows: deque[Window] = field(default_factory=deque)
    _bytes: int = 0
    _next: int = 0
    _batches: int = 0
    _whole: bool = False  # every file was visited and all windows fit

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._order = self._rng.permutation(len(self.files)).tolist()
        self._models = ModelSet([self.model])
        self._weights: np.ndarray[tuple[int], np.dtype[np.float64]] = np.zeros(0)

    def fill(self, progress: Callable[[int, int], None], stopping: Callable[[], bool]) -> None:
        """Visit files until the pool is full or there are no more."""
        dropped = False
        while self._next < len(self.files) and not stopping():
            dropped |= self._visit()
            progress(self._next, len(self.files))
            if self._bytes >= self.pool_bytes:
                break
        self._whole = self._next >= len(self.files) and not dropped

    @property
    def empty(self) -> bool:
        """Whether no image was found."""
        return not self._windows

    @property
    def megapixels(self) -> float:
        """Pixels in the pool, in millions."""
        return float(sum(w.planes[0].size for w in self._windows)) / 1e6

    def _visit(self) -> bool:
        """Take windows of the next file, wholly or in part, and let the oldest go; whether anything was left
        out."""
        source = self.files[self._order[self._next % len(self.files)]]
        self._next += 1
        taken = left = 0
        for image in images_of(source):
            if taken >= WINDOWS_A_FILE:
                left += 1
                break
            try:
                found = list(windows_of(image, self._models, WINDOWS_A_FILE - taken, self._rng, self.rows))
            except (CallicError, MemoryError):
                continue  # packing will report it
            area = sum(w.planes[0].size for w in found)
            left += area < 0.9 * image.shape[0] * image.shape[1] * (self.rows[1] - self.rows[0])
            for window in found:
                self._windows.append(window)
                self._bytes += window.planes.nbytes
            taken += len(found)
        while self._bytes > self.pool_bytes and len(self._windows) > 1:
            self._bytes -= self._windows.popleft().planes.nbytes
            left += 1
        self._weights = np.zeros(0)
        return left > 0

    def batch(self, count: int, size: int) -> Crops:
        """``count`` crops (N, C, size, size) float32 with statistics, drawn by area."""
        self._batches += 1
        if not self._whole and self._batches % REFRESH_STEPS == 0:
            self._visit()
        if not self._weights.size:
            area = np.array([w.planes[0].size for w in self._windows], float)
            self._weights = area / area.sum()
        chosen = self._rng.choice(self._weights.size, count, p=self._weights).tolist()
        windows = [self._windows[n] for n in chosen]
        return collate([random_crop(w.planes, size, self._rng) for w in windows], [w.stats for w in windows])


def held_crops(
    model: IntegerModel, files: Sequence[Source], rows: tuple[float, float], stopping: Callable[[], bool]
) -> dict[str, Crops]:
    """Fixed crops of the held-out files, by the size of their planes: few sizes, so that they can be stacked."""
    rng, models = np.random.default_rng(1), ModelSet([model])
    groups: dict[tuple[int, ...], list[Window]] = {}
    count = 0
    for source in files[:MOST_HELD_FILES]:
        if count >= HELD_CROPS or stopping():
            break
        each = max(1, HELD_CROPS // max(1, min(len(files), HELD_CROPS)))
        taken = 0
        for image in images_of(source):
            if taken >= each:
                break
            try:
                found = list(windows_of(image, models, each - taken, rng, rows))
            except (CallicError, MemoryError):
                continue
            for window in found:
                h, w = (min(HELD_SIDE, extent) for extent in window.planes.shape[1:])
                top, left = (window.planes.shape[1] - h) // 2, (window.planes.shape[2] - w) // 2
                part = np.ascontiguousarray(window.planes[:, top : top + h, left : left + w])
                groups.setdefault(part.shape, []).append(Window(part, window.stats))
            taken += len(found)
            count += len(found)
    return {
        "x".join(map(str, shape[1:])): collate([w.planes for w in ws], [w.stats for w in ws])
        for shape, ws in groups.items()
    }
