"""The command line with a codec that notes its processor time: ``python -m pipelines.benchmarks.timed WORDS``.

The variable CALLIC_TIMED holds, as JSON, the codec (``learned``, or ``deflate``: the fast one of the tests) and a file, to which
every call of the codec, in any process, adds a line with its seconds of processor time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from callic_archive.archive.codecs import Box, Codec, CodecPlan, Image, StreamInfo
from callic_archive.images.planes import DecodedPlanes

T = TypeVar("T")


@dataclass(frozen=True)
class TimedPlan:
    """Implements ``CodecPlan`` and ``DecoderPlan`` around another plan of either kind."""

    plan: Any
    times: str

    def open(self, *arguments: Any, **options: Any) -> TimedCodec:
        """The codec of the plan inside, timed."""
        return TimedCodec(self.plan.open(*arguments, **options), self.times)

    def settings(self) -> dict[str, Any]:
        """Of the plan inside."""
        return dict(self.plan.settings())

    def model_files(self) -> Mapping[str, Path]:
        """Of the plan inside."""
        return dict(self.plan.model_files())

    @property
    def trains(self) -> bool:
        """Of the plan inside."""
        return bool(self.plan.trains)

    @property
    def fits_images(self) -> bool:
        """Of the plan inside."""
        return bool(self.plan.fits_images)

    @property
    def weighs_models(self) -> bool:
        """Of the plan inside."""
        return bool(self.plan.weighs_models)

    def models_for(self, image: Image) -> tuple[str, ...] | None:
        """Of the plan inside."""
        found: tuple[str, ...] | None = self.plan.models_for(image)
        return found

    def usable(self, payloads: Sequence[bytes]) -> tuple[bytes, ...]:
        """Of the plan inside."""
        return tuple(self.plan.usable(payloads))

    @property
    def fits_models(self) -> bool:
        """Of the plan inside."""
        return bool(self.plan.fits_models)

    def steps_to_fit(self, total_pixels: int) -> int:
        """Of the plan inside."""
        return int(self.plan.steps_to_fit(total_pixels))

    def fit_models(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None], folder: Path
    ) -> Mapping[str, bytes]:
        """By the plan inside, timed."""
        return _timed(self.times, lambda: dict(self.plan.fit_models(images, total_pixels, progress, folder)))

    def with_fitted(self, files: Mapping[str, Path]) -> CodecPlan:
        """The plan inside with fitted models."""
        return replace(self, plan=self.plan.with_fitted(files))

    def families(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> list[list[int]]:
        """By the plan inside, timed."""
        return _timed(self.times, lambda: list(self.plan.families(images, total_pixels, progress)))

    def with_rivals(self, files: Mapping[str, Path], left: Collection[str]) -> CodecPlan:
        """The plan inside with more models."""
        return replace(self, plan=self.plan.with_rivals(files, left))

    def declining(self, digests: Collection[str]) -> CodecPlan:
        """The plan inside without some models."""
        return replace(self, plan=self.plan.declining(digests))

    def train(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> Mapping[str, bytes]:
        """By the plan inside, timed."""
        return _timed(self.times, lambda: dict(self.plan.train(images, total_pixels, progress)))

    def with_adapters(self, payloads: Sequence[bytes]) -> CodecPlan:
        """The plan inside with adapters."""
        return replace(self, plan=self.plan.with_adapters(payloads))

    def for_pieces(self, payloads: Sequence[bytes]) -> CodecPlan:
        """The plan inside for pieces."""
        return replace(self, plan=self.plan.for_pieces(payloads))


class TimedCodec:
    """Implements ``Codec``."""

    def __init__(self, codec: Codec, times: str) -> None:
        self._codec, self._times = codec, times

    def encode(self, image: Image) -> bytes:
        """Timed."""
        return _timed(self._times, lambda: self._codec.encode(image))

    def decode(self, codestream: bytes, region: Box | None = None) -> Image:
        """Timed."""
        return _timed(self._times, lambda: self._codec.decode(codestream, region))

    def encode_bands(self, bands: Sequence[Image]) -> tuple[bytes, tuple[int, ...]]:
        """Timed."""
        return _timed(self._times, lambda: self._codec.encode_bands(bands))

    def decode_plane(
        self, codestream: bytes, plane: int, known: DecodedPlanes | None = None, region: Box | None = None
    ) -> DecodedPlanes:
        """Timed."""
        return _timed(self._times, lambda: self._codec.decode_plane(codestream, plane, known, region))

    def inspect(self, codestream: bytes) -> StreamInfo:
        """Of the codec inside."""
        return self._codec.inspect(codestream)


def _timed(times: str, step: Callable[[], T]) -> T:
    begin = time.process_time()
    try:
        return step()
    finally:
        line = f"{time.process_time() - begin:.6f}\n".encode()
        fd = os.open(times, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, line)  # in one step, so that lines of several processes do not mix
        finally:
            os.close(fd)


def main() -> None:
    """Run the command with the codec of CALLIC_TIMED."""
    from callic_archive.cli import main as command
    from callic_archive.cli import pack, unpack
    from pipelines.benchmarks import timed  # by its name, for other processes to find its classes

    codec, times = json.loads(os.environ["CALLIC_TIMED"])
    encoding, decoding = pack.codec_plan, unpack.decoder_plan
    if codec == "deflate":
        from tests.doubles import DeflatePlan

        fast = DeflatePlan(level=1)
        encoding, decoding = (lambda **_: fast), (lambda *_: fast)
    pack.codec_plan = lambda **options: timed.TimedPlan(encoding(**options), times)
    unpack.decoder_plan = lambda *options: timed.TimedPlan(decoding(*options), times)
    command.main()


if __name__ == "__main__":
    main()
