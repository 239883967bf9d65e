"""Models made ready for one backend, kept between images: weights with an adapter merged in, and the coder's
tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from callic_archive.codec.meter import METER
from callic_archive.entropy.mixture import MixtureTables
from callic_archive.model.adapter import Adapter, merged
from callic_archive.model.integer import CpuModel, Geometry, Plane
from callic_archive.model.weights import IntegerModel

Backend = Literal["auto", "numpy", "torch"]
Item = TypeVar("Item")
Result = TypeVar("Result")
#: Prepared models kept; the least recently used goes first.
KEPT_MODELS = 20


class Tile(Protocol):
    """Activation caches of one tile, on some backend."""

    def parameters(self, rows: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Head and skip of a run of the scan order."""
        ...


class PreparedModel(Protocol):
    """Weights laid out for a backend."""

    def tile(self, geometry: Geometry, plane: Plane, levels: NDArray[np.int32]) -> Tile:
        """Begin a tile."""
        ...


@dataclass(frozen=True)
class Engine:
    """Where exact inference runs. ``numpy`` needs no torch; ``torch`` runs on any of its devices; results
    are the same."""

    backend: Backend = "auto"
    device: str = "cpu"
    threads: int | None = None

    @property
    def uses_torch(self) -> bool:
        """Whether the torch backend is chosen (on CPUs the numpy backend is the faster one)."""
        return self.backend == "torch" or (self.backend == "auto" and self.device != "cpu")

    @property
    def thread_count(self) -> int:
        """Tiles that are coded at the same time."""
        return self.threads or len(os.sched_getaffinity(0))

    def prepare(self, model: IntegerModel, adapter: Adapter | None) -> PreparedModel:
        """The model, with the adapter merged in, ready for this backend. Raises ModelError."""
        return _prepare(self.uses_torch, self.device, _Key(model, adapter))

    def map(self, function: Callable[[Item], Result], items: Sequence[Item], verb: str = "") -> list[Result]:
        """Apply ``function`` to independent tiles, in threads; the compiled loops and BLAS release the
        GIL. ``verb`` says on the meter what becomes of them."""
        count = min(self.thread_count, len(items))
        if verb:
            METER.begin(verb, len(items))

        def counted(item: Item) -> Result:
            result = function(item)
            if verb:
                METER.step()
            return result

        with _one_blas_thread():
            if count <= 1 or self.uses_torch:
                return [counted(item) for item in items]
            with ThreadPoolExecutor(count) as pool:
                return list(pool.map(counted, items))


class _Key:
    """Hashable (model, adapter) pair: both are named by digests."""

    def __init__(self, model: IntegerModel, adapter: Adapter | None) -> None:
        self.model, self.adapter = model, adapter
        self.name = (model.digest, adapter.digests if adapter else ())

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.name == other.name


@lru_cache(maxsize=KEPT_MODELS)
def _prepare(uses_torch: bool, device: str, key: _Key) -> PreparedModel:
    weights = merged(key.model.weights, key.adapter)
    if uses_torch:
        from callic_archive.model.integer_torch import TorchModel

        return TorchModel(weights, device)
    return CpuModel(weights)


@lru_cache(maxsize=KEPT_MODELS)
def _tables(digest: str, holder: _Tables) -> MixtureTables:
    return MixtureTables.from_dict(holder.arrays)


class _Tables:
    """Carries arrays through the cache, which is keyed by the model's digest alone."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = arrays

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tables)


def mixture_tables(model: IntegerModel) -> MixtureTables:
    """The entropy coder's tables that the model file carries, checked once."""
    return _tables(model.digest, _Tables(model.mixture))


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Tiles are the unit of parallel work: BLAS threads below them would only contend."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
