"""Sizes under conventional lossless codecs of the same images, each proven by decoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from pipelines.benchmarks.eval_sets import Image, counted_images
from pipelines.benchmarks.record import Grid, context, load, say, write

NAME = "conventional"


@dataclass(frozen=True)
class Conventional:
    """A codec: how it encodes and decodes an image, and which images it takes."""

    title: str
    encode: Callable[[Image], bytes]
    decode: Callable[[bytes], Image]
    takes: Callable[[Image], bool] = lambda image: True


def _webp(image: Image) -> bool:
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (3, 4)


def _jpegxl(effort: int) -> Callable[[Image], bytes]:
    return lambda image: bytes(imagecodecs.jpegxl_encode(image, lossless=True, effort=effort, numthreads=1))


CODECS: dict[str, Conventional] = {
    "jxl7": Conventional("JPEG XL e7", _jpegxl(7), imagecodecs.jpegxl_decode),
    "jxl9": Conventional("JPEG XL e9", _jpegxl(9), imagecodecs.jpegxl_decode),
    "jpeg2000": Conventional(
        "JPEG 2000",
        lambda image: bytes(imagecodecs.jpeg2k_encode(image, level=0, reversible=True, numthreads=1)),
        imagecodecs.jpeg2k_decode,
    ),
    "webp": Conventional(
        "WebP",
        lambda image: bytes(imagecodecs.webp_encode(image, lossless=True, level=6)),
        imagecodecs.webp_decode,
        _webp,
    ),
    "png9": Conventional(
        "PNG 9", lambda image: bytes(imagecodecs.png_encode(image, level=9)), imagecodecs.png_decode
    ),
    "jpegls": Conventional(
        "JPEG-LS", lambda image: bytes(imagecodecs.jpegls_encode(image)), imagecodecs.jpegls_decode
    ),
}


def unsigned(image: Image) -> Image:
    """Signed samples moved up by 32768: not every codec takes them."""
    if image.dtype == np.int16:
        return (image.astype(np.int32) + 32768).astype(np.uint16)
    return np.ascontiguousarray(image)


def measure(codec: Conventional, paths: list[Path]) -> dict[str, Any] | None:
    """Bytes, samples and seconds of a set; None where the codec does not take all of it.

    ``main_*`` counts the first image of each file alone, without the overviews of a TIFF. Raises ValueError
    where a codec loses anything.
    """
    total = {"bytes": 0, "samples": 0, "main_bytes": 0, "main_samples": 0}
    start = time.process_time()
    for item in counted_images(paths):
        image = unsigned(item.image)
        if not codec.takes(image):
            return None
        data = codec.encode(image)
        decoded = codec.decode(data)
        if codec is CODECS["webp"] and image.shape[-1] == 4:  # leaves out an opaque alpha unless told
            decoded = imagecodecs.webp_decode(data, hasalpha=True)
        if decoded.dtype != image.dtype or not np.array_equal(decoded.reshape(image.shape), image):
            raise ValueError(f"{codec.title} does not restore image {item.number} of {item.path.name}")
        for prefix in ("", "main_") if item.number == 0 else ("",):
            total[f"{prefix}bytes"] += len(data)
            total[f"{prefix}samples"] += image.size
    return {**total, "cpu_seconds": round(time.process_time() - start, 1)}


def update(sets: dict[str, list[Path]], *, force: bool = False) -> dict[str, Any]:
    """Measure what is not yet recorded, by set and codec, and return the whole record."""
    record = load(NAME) or {"benchmark": NAME, "result": {}}
    for name, paths in sets.items():
        known = record["result"].setdefault(name, {})
        for key, codec in CODECS.items():
            if key in known and not force:
                continue
            known[key] = measure(codec, paths)
            found = known[key]
            bits = f"{8 * found['bytes'] / found['samples']:.3f} bpsp" if found else "does not take this set"
            say(f"{name}: {codec.title}: {bits}")
            write(NAME, {**record, **context()})
    return record


def bits(record: dict[str, Any], name: str, key: str, prefix: str = "") -> float | None:
    """Bits per sample of a set under a codec."""
    found = record.get("result", {}).get(name, {}).get(key)
    return 8 * found[f"{prefix}bytes"] / found[f"{prefix}samples"] if found else None


def grids(record: dict[str, Any]) -> list[Grid]:
    """The main images alone: these figures can be compared with tables that leave overviews out."""
    rows = []
    for name in record.get("result", {}):
        figures = [bits(record, name, key, "main_") for key in CODECS]
        rows.append((name, *("-" if value is None else f"{value:.3f}" for value in figures)))
    return [
        Grid(
            "Conventional codecs, bits per sample, overviews of TIFF files left out",
            ("set", *(codec.title for codec in CODECS.values())),
            rows,
        )
    ]
