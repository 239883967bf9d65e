"""A real lossless codec that needs no model, deflate of differences, to test what lies around a codec."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from callic_archive.archive.codecs import Box, Image, StreamInfo
from callic_archive.errors import CodestreamError
from callic_archive.images.planes import DecodedPlanes


class DeflateCodec:
    """Implements ``archive.codecs.Codec``."""

    def __init__(self, plan: DeflatePlan) -> None:
        self.plan = plan

    def encode(self, image: Image) -> bytes:
        if self.plan.seconds:
            time.sleep(self.plan.seconds)
        if self.plan.dies_on is not None and int(image.flat[0]) == self.plan.dies_on:
            os._exit(9)
        if self.plan.raises_on is not None and int(image.flat[0]) == self.plan.raises_on:
            raise ZeroDivisionError("a bug in the codec")
        samples = image.view(f"u{image.itemsize}").copy()
        if self.plan.lies_on is not None and int(image.flat[0]) == self.plan.lies_on:
            samples = samples + 1
        header = json.dumps([list(image.shape), image.dtype.name]).encode()
        samples[1:] -= samples[:-1].copy()
        samples[:, 1:] -= samples[:, :-1].copy()
        body = header + b"\n" + zlib.compress(samples.tobytes(), self.plan.level)
        return body + zlib.crc32(body).to_bytes(4, "little")

    def decode(self, codestream: bytes, region: Box | None = None) -> Image:
        if zlib.crc32(codestream[:-4]) != int.from_bytes(codestream[-4:], "little"):
            raise CodestreamError("the test codec's stream is damaged")
        header, body = codestream[:-4].split(b"\n", 1)
        shape, dtype = json.loads(header)
        kind = np.dtype(dtype)
        differences = np.frombuffer(zlib.decompress(body), f"u{kind.itemsize}").reshape(shape)
        samples = differences.cumsum(axis=1, dtype=differences.dtype).cumsum(axis=0, dtype=differences.dtype)
        image: Image = samples.view(kind)
        return image if region is None else image[region[0] : region[2], region[1] : region[3]].copy()

    def encode_bands(self, bands: Sequence[Image]) -> tuple[bytes, tuple[int, ...]]:
        if not self.plan.joins:
            return b"", ()
        return self.encode(np.stack(bands, axis=2)), tuple(range(len(bands)))

    def decode_plane(
        self, codestream: bytes, plane: int, known: DecodedPlanes | None = None, region: Box | None = None
    ) -> DecodedPlanes:
        image = self.decode(codestream, region)
        return DecodedPlanes(image, set(range(image.shape[2])), image)

    def inspect(self, codestream: bytes) -> StreamInfo:
        shape, dtype = json.loads(codestream.split(b"\n", 1)[0])
        return StreamInfo(tuple(shape), dtype, "deflate", (), ())


@dataclass(frozen=True)
class DeflatePlan:
    """Implements ``CodecPlan`` and ``DecoderPlan``. The first sample of an image can make it misbehave."""

    seconds: float = 0.0
    dies_on: int | None = None
    raises_on: int | None = None
    lies_on: int | None = None
    adapters: tuple[bytes, ...] = ()
    trains: bool = False

    def open(self, *_: Any, threads: int | None = None, needed: Collection[str] = ()) -> DeflateCodec:
        return DeflateCodec(self)

    def settings(self) -> dict[str, Any]:
        return {"coder": "deflate"}

    def model_files(self) -> Mapping[str, Path]:
        return {}

    def train(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> Mapping[str, bytes]:
        return {}

    fits_models: bool = False

    def steps_to_fit(self, total_pixels: int) -> int:
        return 0

    def fit_models(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None], folder: Path
    ) -> Mapping[str, bytes]:
        return {}

    def with_fitted(self, files: Mapping[str, Path]) -> DeflatePlan:
        return self

    def families(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> list[list[int]]:
        return [list(range(len(images)))]

    def with_rivals(self, files: Mapping[str, Path], left: Collection[str]) -> DeflatePlan:
        return self

    fits_images: bool = False
    weighs_models: bool = False

    def models_for(self, image: Image) -> tuple[str, ...] | None:
        return ()

    def usable(self, payloads: Sequence[bytes]) -> tuple[bytes, ...]:
        return tuple(payloads)

    def declining(self, digests: Collection[str]) -> DeflatePlan:
        return self

    level: int = 9  # of deflate
    joins: bool = False  # whether files that are offered as bands of one scene are coded as one image

    def for_pieces(self, payloads: Sequence[bytes]) -> DeflatePlan:
        return replace(self, adapters=(*self.adapters, *payloads))

    def with_adapters(self, payloads: Sequence[bytes]) -> DeflatePlan:
        return replace(self, adapters=tuple(payloads))
