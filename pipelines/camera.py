"""Crops as other cameras would have taken them: other sharpness, tone, colours and noise than the training images have; and
smooth ones, as no camera takes them.

Base models meet images of sources that they were not trained on. Held-out images of the same sources do not tell how they fare
there (decision 0020), so crops are varied in training, and held-out ones too, for a figure of its own. Elevations, fields that
were computed and bands that were resampled have slopes without noise, which no image of the training sets has (0042).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Levels = NDArray[np.uint16]

#: Sides of the window that becomes a crop, relative to the crop: from enlarged to reduced to less than half.
SCALES = (0.6, 2.2)
#: Standard deviations, of the logarithms of gamma and of each channel's gain.
GAMMA, GAIN = 0.2, 0.08
#: Noise is added to this share of crops, with a standard deviation up to so many 256ths of the range.
NOISY, NOISE = 0.5, 4.0
#: Of surfaces: exponents of roughness (Hurst; 0.8 is a mountain's), bits of their range, noise in levels.
ROUGHNESS, RANGE, ROUNDED = (0.5, 1.8), (9.0, 16.0), (0.0, 1.5)
#: How much resampled crops are enlarged, and the bits that their range gains at most.
ENLARGED, STRETCHED = (1.4, 4.0), 6.0


def window_side(size: int, most: int, rng: np.random.Generator) -> int:
    """Side of the square that is to be resized to ``size``, at most ``most``; evenly spread in its logarithm."""
    low, high = np.log(SCALES[0]), np.log(SCALES[1])
    return int(np.clip(round(size * np.exp(rng.uniform(low, high))), 16, max(16, most)))


def retaken(window: Levels, size: int, top: int, rng: np.random.Generator) -> Levels:
    """A crop (C, size, size) with levels 0 to ``top`` from a window (C, H, W) of an image."""
    x = torch.from_numpy(window.astype(np.float32))[None]
    mode = ("bicubic", "bilinear", "area")[int(rng.integers(3))]
    antialias = {"antialias": True, "align_corners": False} if mode != "area" else {}
    x = F.interpolate(x, size=(size, size), mode=mode, **antialias)
    y = x[0].numpy().clip(0, top) / top
    if len(y) == 3 and rng.random() < 0.3:
        y = y[rng.permutation(3)]
    y = y ** np.exp(rng.normal(0, GAMMA)) * np.exp(rng.normal(0, GAIN, (len(y), 1, 1)))
    if rng.random() < NOISY:
        y = y + _grain(y, rng) * rng.uniform(0, NOISE) / 256
    levels: Levels = np.clip(np.rint(y * top), 0, top).astype(np.uint16)
    return levels


def _grain(y: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of unit size: white or soft, alike in all channels or not, stronger in light or not."""
    channels = len(y) if rng.random() < 0.6 else 1
    noise = rng.normal(0, 1, (channels, *y.shape[1:]))
    if rng.random() < 0.5:
        for axis in (1, 2):
            noise = (np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)) / 4
        noise /= noise.std() + 1e-9
    if rng.random() < 0.5:
        noise = noise * np.sqrt(np.clip(y, 0.02, 1.0))
    return np.broadcast_to(noise, y.shape)


def surface(size: int, rng: np.random.Generator) -> Levels:
    """A crop (1, size, size) of a surface made by chance: a relief or a field, with flats at its foot or none."""
    side = 2 * size  # of which a part is taken, as the whole repeats itself at its edges
    squares = np.fft.fftfreq(side)[:, None] ** 2 + np.fft.rfftfreq(side)[None] ** 2
    squares[0, 0] = 1.0
    spectrum = squares ** (-(rng.uniform(*ROUGHNESS) + 1) / 2) * np.exp(2j * np.pi * rng.random(squares.shape))
    spectrum[0, 0] = 0.0
    y = np.fft.irfft2(spectrum, (side, side))[:size, :size]
    y = (y - y.min()) / (np.ptp(y) + 1e-9)
    if rng.random() < 0.5:
        y = np.abs(2 * y - rng.uniform(0.5, 1.5)) ** rng.uniform(0.8, 1.5)  # ridges and valleys
    top = 2 ** rng.uniform(*RANGE) - 1
    noise = rng.normal(0, rng.uniform(*ROUNDED), y.shape) if rng.random() < 0.5 else 0.0
    levels = y / max(1.0, y.max()) * top + noise
    if rng.random() < 0.2:
        levels = np.maximum(levels, np.quantile(levels, rng.uniform(0.1, 0.5)))
    crop: Levels = np.rint(levels - levels.min()).clip(0, 65535).astype(np.uint16)[None]
    return crop


def resampled(window: Levels, size: int, top: int, rng: np.random.Generator) -> tuple[Levels, int]:
    """A crop (C, size, size) that was enlarged from a window's corner, its range stretched or not, and its highest level."""
    side = max(8, round(size / rng.uniform(*ENLARGED)))
    x = torch.from_numpy(window[:, :side, :side].astype(np.float32))[None]
    mode = "bicubic" if rng.random() < 0.6 else "bilinear"
    y = F.interpolate(x, size=(size, size), mode=mode, align_corners=False)[0].numpy()
    stretch = min(2 ** rng.uniform(0, STRETCHED), 65535 / top) if rng.random() < 0.5 else 1.0
    highest = round(top * stretch)
    crop: Levels = np.rint(y * stretch).clip(0, highest).astype(np.uint16)
    return crop, highest
