"""The learned codec of this package, as the archive asks for codecs: plans that travel, and what they open.

Models are loaded, and ``callic_archive.codec`` imported, only where a plan is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from callic_archive.archive.codecs import Box, Codec, CodecPlan, Decoder, Image, Json, Learned, StreamInfo
from callic_archive.images.planes import DecodedPlanes


@dataclass(frozen=True)
class CallicPlan:
    """The learned codec of this package: shipped models, or model files named by the user."""

    coder: Literal["range", "torchac"] = "range"
    adapt: Literal["none", "image", "collection", "both", "model", "all"] = "none"
    steps: int | None = None
    image_steps: int | None = None  # of an image's own adapter, where that differs from ``steps``
    longer: int = 1  # times as many steps of fitting models as usual
    device: Literal["cpu", "cuda"] = "cpu"
    models: tuple[Path, ...] = ()
    digests: tuple[str, ...] = ()  # of ``models``, where a file that changes meanwhile must be noticed
    adapters: tuple[bytes, ...] = field(default=(), repr=False)
    learned: Learned = "always"
    declined: tuple[str, ...] = ()  # digests of models that are not to be used
    fitted: tuple[tuple[str, Path], ...] = ()  # digests of models, and the files of those that take their places
    rivals: tuple[tuple[str, Path], ...] = ()  # digests and files of models of which each image takes whatever is smallest
    quick: bool = False  # without the largest model for each number of planes

    def open(self, *, threads: int | None = None) -> Codec:
        """Load the models and check their digests. Raises ModelError, TorchacUnavailableError."""
        return _CallicCodec(self, threads)

    def settings(self) -> dict[str, Json]:
        """Coder, adaptation and models; the device is left out, since the bytes decode anywhere."""
        return {
            "coder": self.coder,
            "adapt": self.adapt,
            "steps": self.steps,
            "image_steps": self.image_steps,
            "longer": self.longer,
            "models": sorted(self.model_files()),
            "learned": self.learned,
            "quick": self.quick,
        }

    @property
    def trains(self) -> bool:
        """Whether adapters are to be fitted to the collection before packing."""
        return self.adapt in ("collection", "both") and bool(self._used())

    def train(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> Mapping[str, bytes]:
        """Fit adapters to a sample of the collection; see CodecPlan."""
        from callic_archive.codec.adapt import AdaptOptions, collection_steps, train_adapters

        steps = collection_steps(total_pixels) if self.steps is None else self.steps
        options = AdaptOptions(steps=steps, device=self.device)
        adapters = train_adapters(
            [image for image in images if self.models_for(image) is not None],
            models=self._used(),
            options=options,
            total_pixels=total_pixels,
            progress=progress,
        )
        return {adapter.digest: adapter.payload for adapter in adapters}

    def usable(self, payloads: Sequence[bytes]) -> tuple[bytes, ...]:
        """Those adapters whose models are not declined."""
        from callic_archive.codec.adapter_syntax import read_adapter
        from callic_archive.errors import UnknownModel

        models, found = self._used(), []
        for payload in payloads:
            with suppress(UnknownModel):
                read_adapter(payload, models)
                found.append(payload)
        return tuple(found)

    @property
    def fits_models(self) -> bool:
        """Whether models are to be fitted to the collection before packing."""
        return self.adapt in ("model", "all") and bool(self._used())

    def steps_to_fit(self, total_pixels: int) -> int:
        """Steps of training that fitting one model takes; see CodecPlan."""
        from callic_archive.codec.fitting import fitting_steps

        if not self.fits_models:
            return 0
        return self.longer * fitting_steps(total_pixels) if self.steps is None else self.steps

    def fit_models(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None], folder: Path
    ) -> Mapping[str, bytes]:
        """Fit the models to a sample of the collection; see CodecPlan."""
        from callic_archive.codec.fitting import FitOptions, fit_models

        fitted = fit_models(
            [image for image in images if self.models_for(image) is not None],
            models=self._used(),
            options=FitOptions(steps=self.steps, longer=self.longer, device=self.device),
            total_pixels=total_pixels,
            progress=progress,
            folder=folder,
        )
        return {digest: model.raw for digest, model in fitted.items()}

    def with_fitted(self, files: Mapping[str, Path]) -> CodecPlan:
        """The same plan with ``files`` in place of these models; see CodecPlan."""
        return replace(self, fitted=tuple(sorted(files.items())))

    def families(
        self, images: Sequence[Image], total_pixels: int, progress: Callable[[int, int], None]
    ) -> list[list[int]]:
        """Numbers of images that want models of their own together; see CodecPlan."""
        from callic_archive.codec.families import families

        sampled = sum(image.shape[0] * image.shape[1] for image in images)
        scale = max(1.0, total_pixels / max(1, sampled))
        return families(images, self._used(), scale=scale, progress=progress)

    def with_rivals(self, files: Mapping[str, Path], left: Collection[str]) -> CodecPlan:
        """The same plan with more models that compete for each image; see CodecPlan."""
        return replace(self, rivals=tuple(sorted(files.items())), declined=tuple(sorted(left)))

    def with_adapters(self, payloads: Sequence[bytes]) -> CodecPlan:
        """The same plan with adapters that each image may use."""
        return replace(self, adapters=tuple(payloads))

    @property
    def fits_images(self) -> bool:
        """Whether an adapter is to be fitted to each image."""
        return self.adapt in ("image", "both", "all")

    def for_pieces(self, payloads: Sequence[bytes]) -> CodecPlan:
        """The plan for the pieces of one large image; see CodecPlan."""
        return replace(self, adapt="none", adapters=(*self.adapters, *payloads))

    @property
    def weighs_models(self) -> bool:
        """Whether models are to be declined that save less than they take; see CodecPlan."""
        return self.learned == "auto"

    def models_for(self, image: Image) -> tuple[str, ...] | None:
        """SHA-256 of the models that an image is coded with; see CodecPlan."""
        from callic_archive.codec.planning import planes_together

        models = self._used()
        found = [models.for_channels(count) for count in planes_together(image)]
        digests = tuple(model.digest for model in found if model is not None)
        return digests if len(digests) == len(found) else None

    def declining(self, digests: Collection[str]) -> CodecPlan:
        """The same plan without these models; see CodecPlan."""
        return replace(self, declined=tuple(sorted({*self.declined, *digests})))

    def _used(self) -> Any:
        """The models that are not declined."""
        return self._at_hand().without(self.declined)

    def _at_hand(self) -> Any:
        return _chosen_models(self.models, self.digests, self.quick, self.fitted, self.rivals)

    def model_files(self) -> Mapping[str, Path]:
        """SHA-256 to file, in the order of preference."""
        return {model.digest: Path(model.path) for model in self._at_hand()}


@dataclass(frozen=True)
class CallicDecoderPlan:
    """The learned codec's decoder, with the models that an archive carries."""

    device: Literal["cpu", "cuda"] = "cpu"
    lenient: bool = False  # take this program's own models too, and do without what is damaged
    extra: tuple[Path, ...] = ()  # model files of the user, for archives that left theirs out

    def open(
        self,
        models: Sequence[Path],
        adapters: Sequence[bytes],
        *,
        threads: int | None = None,
        needed: Collection[str] = (),
    ) -> Decoder:
        """Load the models and check their digests. Raises ModelError."""
        from callic_archive.errors import DamagedModel, InexactModel

        if self.lenient:
            models, adapters = _usable([*models, *self.extra], adapters)
        else:
            models = _with_missing(models, self.extra, needed)
        plan = CallicPlan(device=self.device, models=tuple(models), adapters=tuple(adapters))
        try:
            return _CallicCodec(plan, threads)
        except (DamagedModel, InexactModel):
            whole, damaged = _whole_models(models)
            plan = replace(plan, models=tuple(_with_missing(whole, self.extra, needed)))
            return _CallicCodec(plan, threads, damaged)


def _whole_models(models: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The models that are whole, and what is wrong with each of the others: a damaged one costs its own images alone."""
    from callic_archive.errors import CallicError
    from callic_archive.model.weights import load_model

    whole: list[Path] = []
    damaged: list[str] = []
    for path in models:
        try:
            load_model(path)
            whole.append(path)
        except CallicError as error:
            damaged.append(f"the model file {path.name[:16]} of the archive is damaged: {error}")
    return whole, tuple(damaged)


def _with_missing(models: Sequence[Path], extra: Sequence[Path], needed: Collection[str]) -> list[Path]:
    """``models``, and what is needed beside them: of the user's files, else of the models that ship.

    What is nowhere is left to the images that need it: others can be read without. Raises DamagedModel, InexactModel.
    """
    models = [path for path in models if model_is_whole(path)]  # else it is as good as missing
    inside = {path.name.split(".")[0] for path in models}
    missing = sorted(start for start in needed if not any(digest.startswith(start) for digest in inside))
    if not missing:
        return list(models)
    from callic_archive.model.weights import ModelSet, load_model

    at_hand = [load_model(path) for path in extra] + list(ModelSet.default())
    chosen = (next((model for model in at_hand if model.digest.startswith(start)), None) for start in missing)
    return [*models, *(model.path for model in chosen if model is not None and model.path is not None)]


def model_is_whole(path: Path) -> bool:
    """Whether a model inside an archive has the SHA-256 that it is named by."""
    from callic_archive.errors import ModelError
    from callic_archive.model.weights import read_model_bytes

    try:
        return hashlib.sha256(read_model_bytes(path)).hexdigest() == path.name.split(".")[0]
    except ModelError:
        return False


def _usable(models: Sequence[Path], adapters: Sequence[bytes]) -> tuple[list[Path], list[bytes]]:
    """Models that are whole, those of this program among them, and the adapters that fit one."""
    from callic_archive.codec.adapter_syntax import read_adapter
    from callic_archive.errors import CallicError
    from callic_archive.model.weights import ModelSet, load_model

    kept = [model.path for model in ModelSet.default() if model.path is not None]
    for path in models:
        with suppress(CallicError):
            load_model(path)
            kept.append(path)
    known = ModelSet.from_paths(kept)
    whole = []
    for payload in adapters:
        with suppress(CallicError):
            read_adapter(payload, known)
            whole.append(payload)
    return kept, whole


def _model_set(paths: Sequence[Path], digests: Sequence[str] = ()) -> Any:
    from callic_archive.model.weights import ModelSet

    return ModelSet.from_paths(list(paths), digests) if paths else ModelSet.default()


@lru_cache(maxsize=8)  # asked for each image that is weighed
def _chosen_models(
    paths: tuple[Path, ...],
    digests: tuple[str, ...],
    quick: bool,
    fitted: tuple[tuple[str, Path], ...],
    rivals: tuple[tuple[str, Path], ...],
) -> Any:
    from callic_archive.model.weights import ModelSet, load_model

    models, files = _model_set(paths, digests), dict(fitted)
    models = models.smaller() if quick else models
    first = [load_model(path, digest=digest) for digest, path in rivals]
    others = [load_model(files[model.digest]) if model.digest in files else model for model in models]
    return ModelSet([*first, *others], [model.digest for model in first])


class _CallicCodec:
    """The functions of ``callic_archive.codec`` with their models loaded once."""

    def __init__(self, plan: CallicPlan, threads: int | None, damaged: tuple[str, ...] = ()) -> None:
        from callic_archive.codec.adapter_syntax import read_adapter
        from callic_archive.errors import UnknownModel

        self._plan = plan
        self._damaged = damaged  # models that are not among the others, and why
        self._threads = threads
        self._models = plan._used()
        if plan.coder != "range":
            from callic_archive.entropy.torchac import load_backend

            load_backend()  # a coder that is not to be had here is no failure of the first image
        adapters = []
        for payload in plan.adapters:
            with suppress(UnknownModel):  # images that need it will say that their model is not at hand
                adapters.append(read_adapter(payload, self._models))
        self._digests = [model.digest for model in self._models]
        self._adapters = {adapter.digest: adapter for adapter in adapters}

    def encode(self, image: Image) -> bytes:
        from callic_archive.codec.encoder import encode_image

        return encode_image(
            image, models=self._models, adapters=tuple(self._adapters.values()), options=self._options()
        )

    def encode_bands(self, bands: Sequence[Image]) -> tuple[bytes, tuple[int, ...]]:
        from callic_archive.codec.encoder import encode_bands

        return encode_bands(
            bands, models=self._models, adapters=tuple(self._adapters.values()), options=self._options()
        )

    def _options(self) -> Any:
        from callic_archive.codec.encoder import EncodeOptions

        plan = self._plan
        options: dict[str, Any] = {"coder": plan.coder, "device": plan.device, "threads": self._threads}
        if plan.fits_images:
            options["adapt"] = "image"
            steps = plan.image_steps or plan.steps
            if steps is not None:
                options["steps"] = steps
        return EncodeOptions(**options)

    def decode(self, codestream: bytes, region: Box | None = None) -> Image:
        from callic_archive.codec.decoder import decode_image
        from callic_archive.errors import UnknownModel

        try:
            return decode_image(
                codestream,
                models=self._models,
                adapters=self._adapters,
                device=self._plan.device,
                threads=self._threads,
                region=region,
            )
        except UnknownModel as error:
            if not self._damaged:
                raise
            raise UnknownModel(f"{error}; {'; '.join(self._damaged)}") from error

    def decode_plane(
        self,
        codestream: bytes,
        plane: int,
        known: DecodedPlanes | None = None,
        region: Box | None = None,
    ) -> DecodedPlanes:
        from callic_archive.codec.decoder import decode_plane

        return decode_plane(
            codestream,
            plane,
            known,
            models=self._models,
            adapters=self._adapters,
            device=self._plan.device,
            threads=self._threads,
            region=region,
        )

    def inspect(self, codestream: bytes) -> StreamInfo:
        from callic_archive.codec.codestream import inspect

        info = inspect(codestream)
        return StreamInfo(
            tuple(int(extent) for extent in info.shape),
            np.dtype(info.dtype).name,
            str(info.coder),
            tuple(_whole(prefix, self._digests) for prefix in info.model_digests),
            tuple(_whole(prefix, self._adapters) for prefix in info.adapter_digests),
            int(info.adapter_bytes),
        )


def _whole(prefix: str, digests: Iterable[str]) -> str:
    """The digest at hand that begins with ``prefix``; codestreams name models by the first bytes of their
    digest.
    """
    return next((digest for digest in digests if digest.startswith(prefix)), prefix)
