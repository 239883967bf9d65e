"""Executing batches: in this process, or on Dask workers, with the same functions and the same results.

A worker that dies takes nothing with it. What it was blamed for is tried again when everything else is done,
one batch at a time so that no innocent is blamed, and halved until the file that ends processes stands alone.
"""

from __future__ import annotations

import os
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from callic_archive.errors import CallicError, ClusterFailed, DeviceFailed

IN_FLIGHT = 3  # batches a worker: one it works on, two waiting beside it
TICK = 0.5  # seconds between looks at the clock
NO_WORKERS = 120.0  # seconds without any worker until the run is given up

B = TypeVar("B")
R = TypeVar("R")
B_in = TypeVar("B_in", contravariant=True)
R_out = TypeVar("R_out", covariant=True)


class Task(Protocol[B_in, R_out]):
    """Work on one batch; picklable. ``watch`` is called after each item where the task runs in this process."""

    def __call__(self, batch: B_in, watch: Callable[..., None] | None = None) -> R_out:
        """The result."""
        ...


@dataclass(frozen=True)
class Outcome(Generic[B, R]):
    """What became of a batch: a result, or None when its single item ended every process that took it."""

    batch: B
    result: R | None


def run_here(
    task: Task[B, R], batches: Sequence[B], watch: Callable[..., None] | None = None
) -> Iterator[Outcome[B, R]]:
    """One batch after the other in this process; a deque may get more meanwhile."""
    waiting = batches if isinstance(batches, deque) else deque(batches)
    while waiting:
        batch = waiting.popleft()
        yield Outcome(batch, task(batch, watch))


def run_on_workers(
    client: Any,
    task: Task[B, R],
    batches: Sequence[B],
    split: Callable[[B], list[B]],
    *,
    stopping: Callable[[], bool] = lambda: False,
    tick: Callable[[int, int], None] = lambda running, workers: None,
    gpus: bool = False,
) -> Iterator[Outcome[B, R]]:
    """Batches on the workers of ``client``, results as they come.

    Where ``batches`` is a deque, it is emptied, and whoever takes the results may put more into it meanwhile.
    ``stopping`` is asked before anything new is handed out. ``tick(batches running, workers)`` is called
    about twice a second. Raises what a task raised on purpose (CallicError), and ClusterFailed when no
    workers are left.
    """
    waiting = batches if isinstance(batches, deque) else deque(batches)
    suspects = deque[tuple[B, int]]()  # with the number of times each was lost
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    running: dict[str, tuple[Any, B, int]] = {}
    alive = time.monotonic()
    options: dict[str, Any] = {"resources": {"GPU": 1}} if gpus else {}

    def submit(batch: B, losses: int) -> None:
        future = client.submit(_on_worker, task, batch, pure=False, **options)
        running[future.key] = (future, batch, losses)
        future.add_done_callback(done.put)

    try:
        while running or ((waiting or suspects) and not stopping()):
            workers = len(client.nthreads())
            alive = time.monotonic() if workers else alive
            if time.monotonic() - alive > NO_WORKERS:
                raise ClusterFailed("all worker processes were lost; run the same command again to go on")
            while waiting and len(running) < IN_FLIGHT * max(1, workers) and not stopping():
                submit(waiting.popleft(), 0)
            if suspects and not waiting and not running and not stopping():
                submit(*suspects.popleft())
            tick(len(running), workers)
            try:
                future = done.get(timeout=TICK)
            except queue.Empty:
                continue
            _, batch, losses = running.pop(future.key)
            result = _judge(future)
            if result is not _LOST:
                yield Outcome(batch, result)
                continue
            parts = split(batch) if losses else [batch]
            if len(parts) == 1 and losses:
                yield Outcome(batch, None)
            else:
                suspects.extend((part, losses + 1) for part in parts)
    finally:
        for future, _, _ in running.values():
            future.cancel()


_LOST = object()  # the worker died, or its task failed in a way nobody planned for


def _on_worker(task: Task[B, R], batch: B) -> R:
    """Run in the worker. A GPU that failed cannot be trusted again, so its process ends; the nanny starts
    another.
    """
    try:
        return task(batch)
    except DeviceFailed:
        os._exit(70)


def _judge(future: Any) -> Any:
    if future.status == "finished":
        return future.result()
    if future.status == "cancelled":
        raise ClusterFailed("the scheduler was lost; run the same command again to go on where it was")
    error = future.exception()
    if isinstance(error, CallicError):
        raise error
    return _LOST
