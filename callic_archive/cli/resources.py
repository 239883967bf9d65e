"""From the options about devices to what a run may use."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from callic_archive.errors import UsageError

if TYPE_CHECKING:
    from callic_archive.images.source import Limits
    from callic_archive.scheduling.pack import Resources

COPIES = 8  # bytes of memory for each byte of a file that is decoded, compared and coded as a whole, at most
LEAST_WHOLE = 256 << 20  # bytes that every machine takes


def resources_of(
    *, device: str | None, gpus: int | None, workers: int | None, scheduler: str | None
) -> Resources:
    """Check and combine. Raises UsageError for contradictions, and for a scheduler that is none; NoSuchDevice for a
    GPU that is not there.
    """
    from callic_archive.scheduling.cluster import scheduler_address
    from callic_archive.scheduling.devices import gpu_count, require_gpus
    from callic_archive.scheduling.pack import Resources

    if gpus and device == "cpu":
        raise UsageError("--gpus and --device cpu contradict each other; leave one of them out")
    if gpus and workers:
        raise UsageError("--workers counts CPU processes and --gpus GPU processes; give one of them")
    scheduler = scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS") or None
    if scheduler is not None:
        scheduler_address(scheduler)  # before anything is begun
    if gpus:
        require_gpus(gpus)
    elif device == "cuda":
        require_gpus(1)
        gpus = gpu_count()
    elif device is None and not workers and scheduler is None:
        gpus = gpu_count()
    return Resources(workers=workers or 0, gpus=gpus or 0, scheduler=scheduler)


def uses_gpu(device: str | None) -> bool:
    """Whether what one process does is done on a GPU. Raises NoSuchDevice."""
    from callic_archive.scheduling.devices import gpu_count, require_gpus

    if device == "cuda":
        require_gpus(1)
    return device == "cuda" or (device is None and gpu_count() > 0)


def limits_of(resources: Resources) -> Limits:
    """What a file may ask for that cannot be cut into pieces: as much as a worker's share of this machine's memory bears.

    Workers of a cluster elsewhere have the usual limits: nobody here knows their memory.
    """
    import psutil

    from callic_archive.images.source import Limits

    usual = Limits()
    if resources.scheduler is not None:
        return usual
    share = psutil.virtual_memory().total * 9 // 10 // max(1, resources.processes)
    room = max(LEAST_WHOLE, share // COPIES)
    return replace(
        usual,
        max_member_bytes=min(usual.max_member_bytes, room),
        max_decoded_bytes=min(usual.max_decoded_bytes, room),
    )
