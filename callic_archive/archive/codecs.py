"""What the archive asks of an image codec.

The archive sees a codec only through these protocols, so that it can be tested, and read, without a model. A
plan is small and travels to worker processes; what it opens holds loaded models and stays where it was
opened. ``learned_codec`` has the one that ships.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from callic_archive.images.planes import DecodedPlanes

Image = NDArray[Any]
Json = Any
#: When images are coded by the learned codec: ``auto``, where that saves more than its model takes.
Learned = Literal["auto", "always", "never"]
Box = tuple[int, int, int, int]  # top, left, bottom, right: pixels, the last two not included


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a codestream says about itself."""

    shape: tuple[int, ...]  # (H, W) or (H, W, C)
    dtype: str
    coder: str
    models: tuple[str, ...]  # SHA-256 of the model files it was coded with
    adapters: tuple[str, ...]  # SHA-256 of the adapters that lie outside it
    adapter_bytes: int = 0  # of an adapter that lies inside it
    coded_dtype: str = ""  # where narrower samples were coded: their type,
    meaning: str = ""  # and whether those of ``dtype`` are their ``integer`` or ``float`` values
    plane: tuple[int, int] | None = None  # (number, count) where the image is one of the codestream's planes

    @property
    def samples(self) -> int:
        """Number of samples: pixels times channels."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


class Decoder(Protocol):
    """Turns codestreams back into images."""

    def decode(self, codestream: bytes, region: Box | None = None) -> Image:
        """The image, exactly, or the part of it that lies in ``region``.

        Raises CallicError on a damaged stream or a missing model.
        """
        ...

    def decode_plane(
        self,
        codestream: bytes,
        plane: int,
        known: DecodedPlanes | None = None,
        region: Box | None = None,
    ) -> DecodedPlanes:
        """One plane of an image (H, W, C), or its ``region``, and whatever else had to be decoded for it.

        What an earlier call gave (``known``, of the same codestream and region) is added to. Raises as ``decode``.
        """
        ...

    def inspect(self, codestream: bytes) -> StreamInfo:
        """Read the header alone."""
        ...


class Codec(Decoder, Protocol):
    """Turns images into codestreams and back."""

    def encode(self, image: Image) -> bytes:
        """The codestream of an image of shape (H, W) or (H, W, C), dtype uint8, uint16 or int16."""
        ...

    def encode_bands(self, bands: Sequence[Image]) -> tuple[bytes, tuple[int, ...]]:
        """One codestream (H, W, C) for those of several images (H, W) of one size and type that gain by it.

        With it the numbers of the images that are its planes, in order; none where no two gain.
        """
        ...


class CodecPlan(Protocol):
    """How to get a codec in another process. Picklable."""

    def open(self, *, threads: int | None = None) -> Codec:
        """Load models; ``threads`` bounds those of one call, None leaves it to the codec."""
        ...

    def settings(self) -> dict[str, Json]:
        """What decides the bytes that are produced; a run is only ever resumed with the same."""
        ...

    def model_files(self) -> Mapping[str, Path]:
        """SHA-256 to file of every model that codestreams may name."""
        ...

    @property
    def trains(self) -> bool:
        """Whether adapters are to be fitted to the collection before packing."""
        ...

    def train(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> Mapping[str, bytes]:
        """Fit adapters to a sample of the collection: SHA-256 to payload, empty when none pays.

        ``total_pixels`` (height times width) of the whole collection decide how large an adapter pays.
        ``progress(step, steps)``.
        """
        ...

    def usable(self, payloads: Sequence[bytes]) -> tuple[bytes, ...]:
        """Those adapters whose models are not declined."""
        ...

    @property
    def fits_models(self) -> bool:
        """Whether models are to be fitted to the collection before packing, in place of those that it then carries."""
        ...

    def steps_to_fit(self, total_pixels: int) -> int:
        """Steps of training that fitting one model to a collection of so many pixels takes; 0 where none is fitted."""
        ...

    def fit_models(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None], folder: Path
    ) -> Mapping[str, bytes]:
        """Fit the models to a sample of the collection: SHA-256 of a model to the file of the one to use in its place.

        Those that would not save are left out. ``total_pixels`` and ``progress`` as for ``train``; where it was stopped, the
        next call goes on from what it left in ``folder``.
        """
        ...

    def with_fitted(self, files: Mapping[str, Path]) -> CodecPlan:
        """The same plan with ``files`` in place of the models of these SHA-256."""
        ...

    def families(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> list[list[int]]:
        """Numbers of images that want models of their own together, the first list with the most bytes; one list of all
        where one model of a kind will do. ``total_pixels`` and ``progress`` as for ``train``.
        """
        ...

    def with_rivals(self, files: Mapping[str, Path], left: Collection[str]) -> CodecPlan:
        """The same plan with more models, ``files`` (SHA-256 to file), of which each image takes the one that codes it
        smallest, and without those of SHA-256 ``left``."""
        ...

    def with_adapters(self, payloads: Sequence[bytes]) -> CodecPlan:
        """The same plan with adapters that each image may use."""
        ...

    @property
    def weighs_models(self) -> bool:
        """Whether models are to be declined that save less than they take in the archive."""
        ...

    def models_for(self, image: Image) -> tuple[str, ...] | None:
        """SHA-256 of the models that an image (H, W) or (H, W, C) is coded with; None where one is not at hand."""
        ...

    def declining(self, digests: Collection[str]) -> CodecPlan:
        """The same plan without these models: what needs them is left to other coders."""
        ...

    @property
    def fits_images(self) -> bool:
        """Whether an adapter is to be fitted to each image."""
        ...

    def for_pieces(self, payloads: Sequence[bytes]) -> CodecPlan:
        """The plan for the pieces of one large image: ``payloads`` may be used too, and none is fitted."""
        ...


class DecoderPlan(Protocol):
    """How to get a decoder for an archive that brings its own models. Picklable."""

    def open(
        self,
        models: Sequence[Path],
        adapters: Sequence[bytes],
        *,
        threads: int | None = None,
        needed: Collection[str] = (),
    ) -> Decoder:
        """A decoder that knows ``models`` (files) and ``adapters`` (payloads of ADAPTER records).

        ``needed``: digests, or their first digits, of models that entries were coded with; those that are not among
        ``models`` are to be found elsewhere.
        """
        ...
