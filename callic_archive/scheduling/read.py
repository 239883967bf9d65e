"""Carrying out unpack and verify: entries in batches, here or on workers."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from callic_archive.archive.codecs import DecoderPlan
from callic_archive.archive.entries import Entry
from callic_archive.archive.links import plan_links, without_mixed_up
from callic_archive.archive.reading import Archive, Contents
from callic_archive.archive.scan import Problem
from callic_archive.archive.unpacking import (
    ReadJob,
    ReadResult,
    Restored,
    UnpackJob,
    close_archives,
    restore_links,
    restore_rest,
    unpack_batch,
)
from callic_archive.archive.verifying import VerifyJob, verify_batch
from callic_archive.container.fs import Identity
from callic_archive.errors import StoppedEarly, WorkerKiller
from callic_archive.scheduling.cluster import usable_cores
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.plan import BATCH_SECONDS, CLUSTER_PAYS_FROM, PER_WORKER, SHORTEST_BATCH
from callic_archive.scheduling.run import Task, run_here, run_on_workers
from callic_archive.scheduling.signals import StopSignals

DECODE_SECOND_PER_MB = 8.0  # of samples
COPY_SECOND_PER_MB = 0.01
AGAIN = "what was restored is whole; run the same command again with --overwrite"

Job = TypeVar("Job")
Batch = tuple[Entry, ...]


def cost(entry: Entry) -> float:
    """Seconds to decode an entry, about."""
    samples = sum(part.size for part in entry.parts if part.stream is not None)
    return 0.002 + samples / 1e6 * DECODE_SECOND_PER_MB + entry.size / 1e6 * COPY_SECOND_PER_MB


def read_batches(entries: Iterable[Entry], workers: int, cheap: bool = False) -> tuple[list[Batch], float]:
    """Entries in batches of about equal length, in order, and the estimate for all of them in seconds."""
    weighted = [(entry, 0.002 if cheap else cost(entry)) for entry in entries]
    total = sum(weight for _, weight in weighted)
    target = min(BATCH_SECONDS, max(SHORTEST_BATCH, total / (PER_WORKER * max(1, workers))))
    batches: list[Batch] = []
    batch: list[Entry] = []
    filled = 0.0
    for entry, weight in weighted:
        if batch and filled + weight > target:
            batches.append(tuple(batch))
            batch, filled = [], 0.0
        batch.append(entry)
        filled += weight
    if batch:
        batches.append(tuple(batch))
    return batches, total


def halves(batch: Batch) -> list[Batch]:
    """A batch of more than one entry as two."""
    middle = len(batch) // 2
    return [part for part in (batch[:middle], batch[middle:]) if part]


@contextmanager
def _job(archive: Archive, plan: DecoderPlan, threads: int | None) -> Iterator[ReadJob]:
    with tempfile.TemporaryDirectory(prefix="callic-", ignore_cleanup_errors=True) as folder:
        contents = Contents(adapters=dict(archive.adapters), models=archive.needed_models())
        job = ReadJob(
            uuid.uuid4().hex, archive.root.absolute(), plan, contents, Path(folder) / "stop", threads
        )
        try:
            yield job
        finally:
            close_archives(job.token)


def unpack(
    archive: Archive,
    entries: Sequence[Entry],
    destination: Path,
    *,
    plan: DecoderPlan,
    overwrite: bool,
    resources: Resources,
    watch: Callable[[Restored], None],
    tick: Callable[[int, int], None],
) -> list[Problem]:
    """Restore ``entries`` below ``destination``; what went wrong with folders and links (files: ``watch``).

    Raises StoppedEarly and EnvironmentFailure; what was restored until then stays.
    """
    entries, problems = without_mixed_up(entries, destination)
    links = plan_links(entries, {entry.path: entry for entry in archive.entries})
    refused = {problem.path: problem for problem in links.refused}
    for entry in entries:
        if entry.path in refused:
            watch(Restored(entry, None, refused[entry.path]))
    leaders = {entry.link for entry in links.links}
    written: dict[str, Identity] = {}
    killers: dict[str, Problem] = {}  # another name of such a file must not be decoded here

    def noting(restored: Restored) -> None:
        if restored.problem is not None and restored.problem.code == WorkerKiller.code:
            killers[restored.entry.path] = restored.problem
        if restored.identity is not None and restored.entry.path in leaders:
            written[restored.entry.path] = restored.identity
        watch(restored)

    batches, seconds = read_batches(links.files, resources.processes)
    with _job(archive, plan, _threads(resources, batches, seconds)) as read:
        job = UnpackJob(read, destination.absolute(), overwrite)
        with _stoppable(read, AGAIN) as stop:
            _run(partial(unpack_batch, job), batches, seconds, resources, noting, tick, stop)
            if links.links and stop.requested is None:
                for entry in links.links:
                    if entry.link in killers:
                        watch(Restored(entry, None, replace(killers[entry.link], path=entry.path)))
                others = [entry for entry in links.links if entry.link not in killers]
                restore_links(job, others, written, watch)
        return [*problems, *restore_rest(job, entries)]


def verify(
    archive: Archive,
    entries: Sequence[Entry],
    *,
    plan: DecoderPlan,
    full: bool,
    resources: Resources,
    watch: Callable[[Restored], None],
    tick: Callable[[int, int], None],
) -> None:
    """Check the files among ``entries``; ``watch`` hears of each. Raises StoppedEarly and EnvironmentFailure."""
    files = [entry for entry in entries if entry.kind == "file"]
    batches, seconds = read_batches(files, resources.processes, cheap=not full)
    with _job(archive, plan, _threads(resources, batches, seconds)) as read:
        task = partial(verify_batch, VerifyJob(read, full))
        with _stoppable(read, "run the same command again") as stop:
            _run(task, batches, seconds, resources, watch, tick, stop)


def _threads(resources: Resources, batches: Sequence[Batch], seconds: float) -> int | None:
    if _cluster_pays(resources, batches, seconds):
        return resources.threads
    return min(resources.workers, usable_cores()) if resources.workers else None


def _cluster_pays(resources: Resources, batches: Sequence[Batch], seconds: float) -> bool:
    if resources.gpus or resources.scheduler:
        return bool(batches)
    return resources.processes > 1 and len(batches) > 1 and seconds > CLUSTER_PAYS_FROM


@contextmanager
def _stoppable(job: ReadJob, again: str) -> Iterator[StopSignals]:
    """Let SIGTERM and SIGUSR1 end the work inside in good order. Raises StoppedEarly behind it."""
    with StopSignals(job.stop_file.touch) as stop:
        yield stop
        if stop.requested is not None:
            raise StoppedEarly(f"stopped by {stop.requested}; {again}")


def _run(
    task: Task[Batch, ReadResult],
    batches: Sequence[Batch],
    seconds: float,
    resources: Resources,
    watch: Callable[[Restored], None],
    tick: Callable[[int, int], None],
    stop: StopSignals,
) -> None:
    if _cluster_pays(resources, batches, seconds):
        _run_on_workers(task, batches, resources, watch, tick, stop)
        return
    for outcome in run_here(task, batches, watch):
        if outcome.result is not None and outcome.result.left:
            break


def _run_on_workers(
    task: Task[Batch, ReadResult],
    batches: Sequence[Batch],
    resources: Resources,
    watch: Callable[[Restored], None],
    tick: Callable[[int, int], None],
    stop: StopSignals,
) -> None:
    with resources.cluster() as client:
        outcomes: Any = run_on_workers(
            client,
            task,
            batches,
            halves,
            stopping=lambda: stop.requested is not None,
            tick=tick,
            gpus=resources.gpus > 0,
        )
        for outcome in outcomes:
            if outcome.result is None:
                error = WorkerKiller("every worker process that decoded it ended")
                for entry in outcome.batch:
                    watch(Restored(entry, None, Problem.of(entry.path, error, kept=False)))
                continue
            for restored in outcome.result.restored:
                watch(restored)
