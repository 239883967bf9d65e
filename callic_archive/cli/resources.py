"""From the options about devices to what a run may use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from callic_archive.errors import UsageError

if TYPE_CHECKING:
    from callic_archive.scheduling.pack import Resources


def resources_of(
    *, device: str | None, gpus: int | None, workers: int | None, scheduler: str | None
) -> Resources:
    """Check and combine. Raises UsageError for contradictions, NoSuchDevice for a GPU that is not there."""
    from callic_archive.scheduling.devices import gpu_count, require_gpus
    from callic_archive.scheduling.pack import Resources

    if gpus and device == "cpu":
        raise UsageError("--gpus and --device cpu contradict each other; leave one of them out")
    if gpus and workers:
        raise UsageError("--workers counts CPU processes and --gpus GPU processes; give one of them")
    scheduler = scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS")
    if gpus:
        require_gpus(gpus)
    elif device == "cuda":
        require_gpus(1)
        gpus = gpu_count()
    elif device is None and not workers and scheduler is None:
        gpus = gpu_count()
    return Resources(workers=workers or 0, gpus=gpus or 0, scheduler=scheduler)
