"""GPUs: how many there are, and what a worker's environment must say to get one. Torch is imported only where
a GPU may be.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from glob import glob

from callic_archive.errors import NoSuchDevice


def maybe_gpu() -> bool:
    """Whether there is any sign of a GPU driver; costs microseconds."""
    if glob("/dev/nvidia[0-9]*") or os.path.exists("/dev/dxg") or os.path.exists("/dev/kfd"):
        return True
    return shutil.which("nvidia-smi") is not None


def gpu_count() -> int:
    """GPUs that torch can use here."""
    if not maybe_gpu():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def require_gpus(wanted: int) -> None:
    """Raise NoSuchDevice (E601) unless ``wanted`` GPUs are there."""
    found = gpu_count()
    if found >= wanted:
        return
    if found:
        raise NoSuchDevice(
            f"{wanted} GPUs were asked for, and {found} can be used here; ask for --gpus {found}"
        )
    if not maybe_gpu():
        raise NoSuchDevice(
            "a GPU was asked for, but this machine has none (no driver found); leave --gpus and --device out "
            "to use the CPU"
        )
    raise NoSuchDevice(
        "a GPU was asked for and a driver is there, but torch cannot use it: it may be a CPU-only build of "
        "torch, or a driver that is too old. `callic-archive doctor` tells more"
    )


def gpu_names(count: int) -> list[str]:
    """What to put into CUDA_VISIBLE_DEVICES for each of ``count`` workers; numbers, or the UUIDs that were
    given.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names: Sequence[str] = visible.split(",") if visible else [str(n) for n in range(count)]
    return [name.strip() for name in names[:count]]
