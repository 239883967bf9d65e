"""``callic-archive doctor``: what this machine can do, and what to mend."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import click

from callic_archive import __version__
from callic_archive.cli import options
from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, size_text
from callic_archive.cli.running import run_verb

_PACKAGES = (
    "numpy",
    "numba",
    "torch",
    "dask",
    "distributed",
    "imagecodecs",
    "tifffile",
    "pydicom",
    "pyfive",
    "zstandard",
    "torchac",
)
_LITTLE_SPACE = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""


@click.command(short_help="Check this machine and say what to mend.")
@options.common_options
def doctor(common: Common, **values: Any) -> None:
    """Check this machine: exact backends, models, GPUs, versions, disk; say what to mend.

    The exit code is 4 when something keeps archives from being made or read here.
    """
    run_verb("doctor", common, lambda report: _doctor(report, **values))


def _doctor(report: Report) -> None:
    failed = 0
    for check in (_program, _packages, _machine, _models, _exactness, _gpus, _space):
        for finding in _guarded(check):
            failed += finding.state == "fail"
            report.event("finding", **finding.__dict__)
            report.text(f"{finding.state:5} {finding.what:22} {finding.detail}", always=True)
            if finding.advice:
                report.text(f"{'':5} {'':22} -> {finding.advice}", always=True)
    report.summary |= {"failed": failed}
    if failed:
        report.raise_exit(4)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  what cannot be examined is itself a finding
        yield Finding(check.__name__.strip("_"), "fail", f"{type(error).__name__}: {error}")


def _program() -> Iterator[Finding]:
    yield Finding("callic-archive", "ok", __version__)
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield Finding("python", "ok", f"{platform.python_version()} on {system} ({sys.executable})")


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "fail", "not installed", f"pip install {name}")


def _machine() -> Iterator[Finding]:
    import psutil

    from callic_archive.scheduling.cluster import usable_cores

    cores, memory = usable_cores(), psutil.virtual_memory()
    yield Finding("cpu", "ok", f"{cores} of {os.cpu_count()} cores usable")
    state: Literal["ok", "warn"] = "ok" if memory.available > 2 << 30 else "warn"
    advice = "" if state == "ok" else "large images need about 2 GB a worker; use fewer --workers"
    detail = f"{size_text(memory.available)} of {size_text(memory.total)} free"
    yield Finding("memory", state, detail, advice)


def _models() -> Iterator[Finding]:
    from callic_archive.model.weights import ModelSet

    for model in ModelSet.default():
        yield Finding(
            f"model {model.name}", "ok", f"{model.digest[:16]}, {size_text(len(model.file_bytes()))}"
        )


def _exactness() -> Iterator[Finding]:
    from callic_archive.codec.exactness import check_backends

    for found in check_backends():
        state: Literal["ok", "fail"] = "ok" if found.exact else "fail"
        advice = "" if found.exact else "do not pack or unpack with this backend; report it with this output"
        yield Finding(f"exact {found.name}/{found.device}", state, found.detail or "same bits", advice)


def _gpus() -> Iterator[Finding]:
    from callic_archive.scheduling.devices import gpu_count, maybe_gpu

    if not maybe_gpu():
        yield Finding("gpu", "ok", "none; the CPU is used")
        return
    import torch

    count = gpu_count()
    if not count:
        advice = "install a build of torch for this driver, or go on with the CPU"
        yield Finding("gpu", "warn", f"a driver is there, torch {torch.__version__} cannot use it", advice)
    for number in range(count):
        yield Finding(f"gpu {number}", "ok", torch.cuda.get_device_name(number))


def _space() -> Iterator[Finding]:
    for what, folder in (("disk here", os.getcwd()), ("temporary files", tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        little = free < _LITTLE_SPACE
        writable = os.access(folder, os.W_OK)
        state: Literal["ok", "warn"] = "warn" if little or not writable else "ok"
        detail = f"{size_text(free)} free in {folder}" + ("" if writable else ", not writable")
        advice = "" if state == "ok" else "free some, or work in another folder"
        yield Finding(what, state, detail, advice)
