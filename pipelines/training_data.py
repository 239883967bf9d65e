"""Training sets: images in memory, random crops with their plane statistics, and a fixed held-out split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from callic_archive.codec.crops import Statistics, collate, random_crop, statistics
from callic_archive.model.mgcf import PlaneStats
from callic_archive.model.scaling import MAX_SHIFT, unit_shift
from pipelines.camera import resampled, retaken, surface, window_side
from pipelines.scenes import SCENES, predicted_planes, scene

#: Sampling weight of each training folder (relative). Folders of gray planes taken from RGB images are
#: marked ``rgb:``; ``bands:`` are what predictions leave of bands (decision 0014).
RGB_DOMAINS = {"rgb8/natural": 0.55, "rgb8/histology": 0.27, "rgb8/satellite": 0.18}
GRAY_DOMAINS = {
    "gray16/ct-philips": 0.20,
    "gray16/mr-t1": 0.10,
    "gray16/mr-uih": 0.10,
    "gray16/micro-cellprofiler": 0.10,
    "gray16/micro-neubias": 0.05,
    "gray16/landsat8": 0.12,
    "gray16/sat-misc": 0.10,
    "gray16/naip-nir": 0.06,
    "bands:gray16": 0.12,
    "rgb:rgb8/natural": 0.09,
    "rgb:rgb8/histology": 0.04,
    "rgb:rgb8/satellite": 0.04,
}


@dataclass(frozen=True)
class Sample:
    """One training image: planes (C, H, W) of packed levels, with their number of levels."""

    name: str
    planes: NDArray[np.uint16]
    levels: int


def _load(path: Path, gray_from_rgb: bool) -> list[Sample]:
    with Image.open(path) as image:
        array = np.asarray(image.convert("RGB") if "rgb8" in str(path) else image)
    if "rgb8" in str(path):
        planes = array.transpose(2, 0, 1)
        if gray_from_rgb:
            return [Sample(f"{path.name}:G", np.ascontiguousarray(planes[1:2]).astype(np.uint16), 256)]
        return [Sample(path.name, np.ascontiguousarray(planes).astype(np.uint16), 256)]
    gray = array.reshape(array.shape[0], array.shape[1]).astype(np.int64)
    if array.dtype == np.uint8:
        return [Sample(path.name, gray[None].astype(np.uint16), 256)]
    gray -= gray.min()
    used = np.unique(gray)
    if (
        used.size * 2 <= gray.max() + 1
    ):  # unused levels: the codec codes the rank of the value, so does training
        gray = np.searchsorted(used, gray)
    return [Sample(path.name, gray[None].astype(np.uint16), int(gray.max()) + 1)]


def _predicted(root: Path, name: str, files: list[str]) -> list[Sample]:
    planes = predicted_planes(scene(root, files))
    return [Sample(f"{name}:{i}", levels[None], count) for i, (levels, count) in enumerate(planes)]


def held_out(name: str) -> bool:
    """A fixed eighth of the images (by name) is never trained on."""
    return hashlib.sha256(name.split(":")[0].encode()).digest()[0] < 32


def load_domains(root: Path, domains: dict[str, float]) -> dict[str, list[Sample]]:
    """All samples of each domain below ``root`` (the ``train`` folder). Raises FileNotFoundError for a
    missing folder."""
    loaded: dict[str, list[Sample]] = {}
    for domain in domains:
        if domain.startswith("bands:"):
            loaded[domain] = [s for name, files in SCENES.items() for s in _predicted(root, name, files)]
            continue
        folder = root / domain.removeprefix("rgb:")
        paths = sorted(p for p in folder.iterdir() if p.suffix in {".png", ".webp"})
        loaded[domain] = [s for p in paths for s in _load(p, domain.startswith("rgb:"))]
    return loaded


class CropSource:
    """Random crops for training and a fixed list of crops for evaluation."""

    def __init__(self, root: Path, channels: int, seed: int, varied: float = 0.0, smooth: float = 0.0) -> None:
        """``varied``: share of the crops that are taken as by other cameras, ``smooth``: of those of single planes that no
        camera took (``pipelines/camera.py``)."""
        self.varied, self.smooth = varied, smooth if channels == 1 else 0.0
        self.domains = RGB_DOMAINS if channels == 3 else GRAY_DOMAINS
        self.channels = channels
        self.rng = np.random.default_rng(seed)
        loaded = load_domains(root, self.domains)
        self.train = {d: [s for s in v if not held_out(s.name)] for d, v in loaded.items()}
        self.valid = {d: [s for s in v if held_out(s.name)] for d, v in loaded.items()}
        self.area = {d: np.array([s.planes[0].size for s in v], float) for d, v in self.train.items()}
        self.counts = {d: (len(self.train[d]), len(self.valid[d])) for d in self.domains}

    def batch(self, count: int, size: int) -> tuple[torch.Tensor, PlaneStats]:
        """``count`` crops (N, C, size, size) float32 with statistics; smaller images are padded by
        reflection."""
        names = list(self.domains)
        weights = np.array([self.domains[d] for d in names])
        crops, stats = [], []
        for d in self.rng.choice(len(names), count, p=weights / weights.sum()):
            area = self.area[names[d]]
            sample = self.train[names[d]][int(self.rng.choice(area.size, p=area / area.sum()))]
            if self.smooth and self.rng.random() < self.smooth:
                crop, stat = _smooth(sample, size, self.rng)
            else:
                crop = self._crop(sample, size)
                stat = statistics(crop, sample.levels)
            if self.channels == 1:
                crop, stat = self._augment_levels(crop, stat)
            crops.append(crop)
            stats.append(stat)
        return collate(crops, stats)

    def _crop(self, sample: Sample, size: int) -> NDArray[np.uint16]:
        """A crop, varied or not; never of samples whose levels are not light: few, ranks, or what predictions leave."""
        light = sample.levels >= 200 and sample.name.split(":")[0] not in SCENES
        if not (light and self.varied and self.rng.random() < self.varied):
            return random_crop(sample.planes, size, self.rng)
        most = min(sample.planes.shape[1:])
        window = random_crop(sample.planes, window_side(size, most, self.rng), self.rng)
        return retaken(window, size, sample.levels - 1, self.rng)

    def _augment_levels(
        self, crop: NDArray[np.uint16], stat: Statistics
    ) -> tuple[NDArray[np.uint16], Statistics]:
        """Vary what differs between devices: inverted display, fewer bits, and a unit that was chosen a
        little off."""
        shift, depth, mid, top, guide = stat
        draw = self.rng.random()
        if draw < 0.1:
            crop = (top - crop.astype(np.int64)).astype(np.uint16)
        elif draw < 0.25 and depth > 9:
            drop = int(self.rng.integers(1, depth - 8 + 1))
            crop = (crop >> drop).astype(np.uint16)
            depth, mid, top, shift = depth - drop, mid >> drop, top >> drop, unit_shift(crop)
        if self.rng.random() < 0.3:
            shift = int(np.clip(shift + self.rng.integers(-1, 2), 0, MAX_SHIFT))
        return crop, (shift, depth, mid, top, guide)

    def validation(self, per_domain: int, size: int) -> dict[str, tuple[torch.Tensor, PlaneStats]]:
        """Central crops of held-out images, the same in every run; of colour images crops as other cameras
        take them too, and of others smooth ones."""
        result = {}
        for domain, samples in self.valid.items():
            if self.channels == 3:
                result[f"varied:{domain}"] = self._varied(samples[: 2 * per_domain], size)
            elif samples and not domain.startswith("bands:"):
                rng = np.random.default_rng(7)
                result[f"smooth:{domain}"] = _collated([_smooth(s, size, rng) for s in samples[:per_domain]])
            crops, stats = [], []
            for sample in samples[:per_domain]:
                _, h, w = sample.planes.shape
                if h < size or w < size:
                    continue
                top, left = (h - size) // 2, (w - size) // 2
                crops.append(np.ascontiguousarray(sample.planes[:, top : top + size, left : left + size]))
                stats.append(statistics(sample.planes, sample.levels))
            if crops:
                result[domain] = collate(crops, stats)
        return result

    @staticmethod
    def _varied(samples: list[Sample], size: int) -> tuple[torch.Tensor, PlaneStats]:
        rng = np.random.default_rng(7)
        crops = []
        for sample in samples:
            window = random_crop(sample.planes, window_side(size, min(sample.planes.shape[1:]), rng), rng)
            crops.append(retaken(window, size, sample.levels - 1, rng))
        return collate(crops, [statistics(crop, 256) for crop in crops])


def _smooth(sample: Sample, size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint16], Statistics]:
    """A surface, or a crop of an image that was enlarged, with its statistics."""
    if rng.random() < 0.5 or sample.levels < 200:
        crop = surface(size, rng)
        return crop, statistics(crop, int(crop.max()) + 1)
    crop, highest = resampled(random_crop(sample.planes, size, rng), size, sample.levels - 1, rng)
    return crop, statistics(crop, highest + 1)


def _collated(crops: list[tuple[NDArray[np.uint16], Statistics]]) -> tuple[torch.Tensor, PlaneStats]:
    return collate([crop for crop, _ in crops], [stat for _, stat in crops])
