"""Dask clusters: worker processes of this machine, or a cluster that runs already."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from callic_archive.errors import ClusterFailed, MissingPath, UsageError
from callic_archive.scheduling.devices import gpu_names
from callic_archive.scheduling.signals import ignore_in_worker, kept_from_children, postponed

START_TIMEOUT = 120.0  # seconds until worker processes must have come up
CONNECT_TIMEOUT = 30.0  # seconds until a running scheduler must have answered
_ADDRESS = re.compile(r"([a-z]+://)?([^/\[\]:\s]+|\[[^/\[\]\s]+\]):\d+/?")  # as Dask has them: tcp://HOST:PORT
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(threads: int) -> dict[str, str]:
    """Variables that must stand before a worker imports numpy: libraries read them once."""
    waiting = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")  # see cli/main.py
    return {name: str(threads) for name in _THREAD_VARIABLES} | {"OMP_WAIT_POLICY": waiting}


def _config(threads: int) -> dict[str, Any]:
    return {
        # A worker that dies is our business: its batch is tried again alone and halved (see run.py).
        "distributed.scheduler.allowed-failures": 0,
        # Native code may hold the interpreter lock longer than heartbeats wait. A process that is gone is
        # noticed by its closed connection.
        "distributed.scheduler.worker-ttl": None,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.comm.timeouts.tcp": "300s",
        "distributed.admin.log-format": "%(message)s",
        # What libraries read when they are loaded; it stays in this process too, where numba would take offence.
        "distributed.nanny.pre-spawn-environ": {
            name: value for name, value in worker_environment(threads).items() if not name.startswith("NUMBA")
        },
    }


def _worker_setup() -> Any:
    """A plugin that is set up in every worker, also in those that replace dead ones."""
    from distributed import WorkerPlugin

    class LeaveSignals(WorkerPlugin):
        name = "callic-leave-signals"

        def setup(self, worker: Any) -> None:
            ignore_in_worker()

    return LeaveSignals()


@contextmanager
def local_cluster(workers: int, *, threads: int, gpus: int = 0) -> Iterator[Any]:
    """A client of ``workers`` fresh processes with one task each, or of one process a GPU.

    Processes are spawned, never forked; each has ``threads`` threads for numerical libraries. Raises
    ClusterFailed.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    stack = ExitStack()
    try:
        with postponed():  # half a cluster cannot be ended in good order
            client = _start(stack, workers, threads, gpus)
        yield client
    finally:
        with postponed():
            stack.close()


def _start(stack: ExitStack, workers: int, threads: int, gpus: int) -> Any:
    """The client of a cluster that ends with ``stack``."""
    from multiprocessing import resource_tracker

    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster
    from distributed.utils import LoopRunner

    names: list[str | None] = [*gpu_names(gpus)] if gpus else [None] * workers
    memory = _memory_share(len(names))
    stack.enter_context(dask.config.set(_config(threads)))
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="callic-", ignore_cleanup_errors=True))
    loop = LoopRunner()
    with kept_from_children():
        loop.start()  # the thread that starts the workers
        resource_tracker.ensure_running()  # a process of the interpreter's own, which they need
    stack.callback(loop.stop)
    spec = {
        number: {
            "cls": Nanny,
            "options": {
                "host": "127.0.0.1",
                "protocol": "tcp://",
                "nthreads": 1,
                "memory_limit": memory,
                "dashboard": False,
                "local_directory": scratch,
                "silence_logs": logging.CRITICAL,
                "env": worker_environment(threads) | ({"CUDA_VISIBLE_DEVICES": name} if name else {}),
                "resources": {"GPU": 1} if name else {},
            },
        }
        for number, name in enumerate(names)
    }
    scheduler = {
        "cls": Scheduler,
        # its status page would take a fixed port, and warn of every other run on this machine
        "options": {
            "host": "127.0.0.1",
            "protocol": "tcp://",
            "port": 0,
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
        },
    }
    try:
        cluster = stack.enter_context(
            SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.CRITICAL, loop=loop.loop)
        )
        client = stack.enter_context(Client(cluster, set_as_default=False, timeout=START_TIMEOUT))
        client.wait_for_workers(len(names), timeout=START_TIMEOUT)
        client.register_plugin(_worker_setup())
    except (TimeoutError, OSError, RuntimeError) as error:
        raise ClusterFailed(
            f"the worker processes did not start ({type(error).__name__}: {error}); "
            "try --workers 1, or see `callic-archive doctor`"
        ) from error
    return client


def scheduler_address(text: str) -> str:
    """The address of a scheduler: ``text`` itself, or what the scheduler file of that name holds. Raises UsageError."""
    if _ADDRESS.fullmatch(text):
        return text
    failure: UsageError
    if not os.path.exists(text):
        failure = MissingPath(
            f"{text} is neither the address of a Dask scheduler, such as tcp://HOST:8786, nor a scheduler file that exists"
        )
        failure.paths = (text,)
        raise failure
    try:
        address = json.loads(Path(text).read_text("utf-8"))["address"]
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"the address in it is {address!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        failure = UsageError(f"{text} is no scheduler file such as Dask writes ({reason})")
        failure.paths = (text,)
        raise failure from error
    return str(address)


@contextmanager
def running_cluster(address: str) -> Iterator[Any]:
    """A client of a cluster that runs already: an address, or the path of a scheduler file. Raises
    ClusterFailed, UsageError.
    """
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    resolved = scheduler_address(address)
    with ExitStack() as stack:
        try:
            asyncio.run(_knock(resolved))  # a client that cannot connect is hard to get rid of
            with postponed():
                client = Client(address=resolved, set_as_default=False, timeout=CONNECT_TIMEOUT)
                stack.enter_context(_closed_at_leisure(client))
        except (TimeoutError, OSError, ValueError, TypeError, RuntimeError) as error:
            raise ClusterFailed(
                f"no Dask scheduler answers at {address} ({type(error).__name__}: {error}); "
                "check the address, or leave --scheduler out to use this machine alone"
            ) from error
        if not client.nthreads():
            raise ClusterFailed(f"the Dask scheduler at {address} has no workers; start some first")
        yield client


async def _knock(address: str) -> None:
    """Connect and hang up. Raises what connecting raises."""
    from distributed import Security
    from distributed.comm.core import connect

    how = Security().get_connection_args("client")
    comm = await connect(address, timeout=CONNECT_TIMEOUT, **how)
    await comm.close()


@contextmanager
def _closed_at_leisure(client: Any) -> Iterator[None]:
    try:
        yield
    finally:
        with postponed():
            client.close()


def _memory_share(workers: int) -> int:
    """Bytes a worker may use before it is ended, so that one poison image does not take the machine with it."""
    import psutil

    return int(psutil.virtual_memory().total * 0.9 / workers)
