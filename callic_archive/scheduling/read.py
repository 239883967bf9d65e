"""Carrying out unpack and verify: entries in batches, here or on workers."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from callic_archive.archive.codecs import DecoderPlan
from callic_archive.archive.entries import Entry, shares_of
from callic_archive.archive.links import plan_links, without_mixed_up
from callic_archive.archive.parts import Place
from callic_archive.archive.reading import Archive, Contents
from callic_archive.archive.refusals import refusals
from callic_archive.archive.rejoining import check_whole
from callic_archive.archive.resuming import names_of
from callic_archive.archive.scan import Problem
from callic_archive.archive.unpacking import (
    ReadJob,
    ReadResult,
    Restored,
    ShareJob,
    UnpackJob,
    close_archives,
    restore_links,
    restore_rest,
    restore_spread,
    unpack_batch,
    unpack_shares,
)
from callic_archive.archive.verifying import VerifyJob, verify_batch
from callic_archive.container.extraction import Identity
from callic_archive.errors import CallicError, StoppedEarly, WorkerKiller
from callic_archive.images.cutting import PIECE
from callic_archive.scheduling.cluster import usable_cores
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.plan import BATCH_SECONDS, CLUSTER_PAYS_FROM, PER_WORKER, SHORTEST_BATCH
from callic_archive.scheduling.run import Task, run_here, run_on_workers
from callic_archive.scheduling.signals import StopSignals

DECODE_SECOND_PER_MB = 8.0  # of samples
COPY_SECOND_PER_MB = 0.01
AGAIN = "what was restored is whole; run the same command again to go on"

Job = TypeVar("Job")
Batch = tuple[Entry, ...]


def cost(entry: Entry) -> float:
    """Seconds to decode an entry, about."""
    samples = sum(part.size for part in entry.parts if part.stream is not None)
    size = sum(piece.size for piece in entry.pieces) if entry.pieces else entry.size  # of a share less
    return 0.002 + samples / 1e6 * DECODE_SECOND_PER_MB + size / 1e6 * COPY_SECOND_PER_MB


def read_batches(entries: Iterable[Entry], workers: int, cheap: bool = False) -> tuple[list[Batch], float]:
    """Entries in batches of about equal length, in order, and the estimate for all of them in seconds."""
    weighted = [(entry, 0.002 if cheap else cost(entry)) for entry in entries]
    total = sum(weight for _, weight in weighted)
    target = min(BATCH_SECONDS, max(SHORTEST_BATCH, total / (PER_WORKER * max(1, workers))))
    batches: list[Batch] = []
    batch: list[Entry] = []
    shared: set[Place] = set()  # codestreams of which the batch has some planes: who has one, has them all
    filled = 0.0
    for entry, weight in weighted:
        own = {p.place for p in entry.parts if p.stream is not None and p.stream.plane is not None}
        if batch and filled + weight > target and not own & shared:
            batches.append(tuple(batch))
            batch, filled = [], 0.0
            shared.clear()
        shared |= own
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
    entries, problems = _without_refused(archive, entries, watch)
    entries, mixed_up = without_mixed_up(entries, destination)
    problems += mixed_up
    links = plan_links(entries)
    leaders = {entry.link for entry in links.links}
    written: dict[str, Identity] = {}
    killers: dict[str, Problem] = {}  # another name of such a file must not be decoded here

    def noting(restored: Restored) -> None:
        if restored.problem is not None and restored.problem.code == WorkerKiller.code:
            killers[restored.entry.path] = restored.problem
        if restored.identity is not None and restored.entry.path in leaders:
            written[restored.entry.path] = restored.identity
        watch(restored)

    large = _spread(links.files, resources)
    spread = {entry.path for entry, _ in large}
    small = [entry for entry in links.files if entry.path not in spread]
    batches, seconds = read_batches(small, resources.processes)
    threads = resources.threads if large else _threads(resources, batches, seconds)
    with _job(archive, plan, threads) as read, _Crew(resources) as crew:
        job = UnpackJob(read, destination.absolute(), overwrite, names_of(entries))
        with _stoppable(read, AGAIN) as stop:
            pays = bool(large) or _cluster_pays(resources, batches, seconds)
            crew.run(partial(unpack_batch, job), batches, pays, noting, tick, stop)
            for entry, shares in large:
                if stop.requested is None:
                    write = partial(_write_shares, crew, tick, stop)
                    noting(restore_spread(job, entry, shares, write))
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
) -> list[Problem]:
    """Check ``entries``; what is wrong with folders and links (files: ``watch``, which hears of each).

    Raises StoppedEarly and EnvironmentFailure.
    """
    entries, problems = _without_refused(archive, entries, watch)
    files = []
    for entry in entries:
        if entry.kind == "file":
            try:
                check_whole(entry)
                files.append(entry)
            except CallicError as error:
                watch(Restored(entry, None, Problem.of(entry.path, error, kept=False)))
    merging = _Merging(watch, _spread(files, resources) if full else [])
    batches, seconds = read_batches(merging.items(files), resources.processes, cheap=not full)
    with _job(archive, plan, _threads(resources, batches, seconds)) as read, _Crew(resources) as crew:
        task = partial(verify_batch, VerifyJob(read, full))
        with _stoppable(read, "run the same command again") as stop:
            pays = _cluster_pays(resources, batches, seconds)
            crew.run(task, batches, pays, merging, tick, stop)
    return problems


def _without_refused(
    archive: Archive, entries: Sequence[Entry], watch: Callable[[Restored], None]
) -> tuple[list[Entry], list[Problem]]:
    """Entries that some destination could take. Of the others ``watch`` hears the files; the problems of the rest."""
    refused = refusals(archive.entries)
    kept, problems = [], []
    for entry in entries:
        problem = refused.get(entry.path)
        if problem is None:
            kept.append(entry)
        elif entry.kind == "file":
            watch(Restored(entry, None, problem))
        else:
            problems.append(problem)
    return kept, problems


def _spread(files: Iterable[Entry], resources: Resources) -> list[tuple[Entry, list[Entry]]]:
    """Large files that several workers read, with their shares; none where there are no workers."""
    found = [(entry, shares_of(entry, PIECE // 2)) for entry in files if entry.method == "pieces"]
    found = [(entry, shares) for entry, shares in found if len(shares) > 1]
    several = resources.processes > 1 or resources.gpus or resources.scheduler
    seconds = sum(cost(entry) for entry, _ in found)
    return found if several and seconds > CLUSTER_PAYS_FROM else []


class _Merging:
    """Tells of files of which shares are verified once each, when all shares are."""

    def __init__(
        self, watch: Callable[[Restored], None], spread: Sequence[tuple[Entry, list[Entry]]]
    ) -> None:
        self._watch = watch
        self._spread = {entry.path: (entry, shares) for entry, shares in spread}
        self._done: dict[str, list[Restored]] = {}

    def items(self, files: Iterable[Entry]) -> list[Entry]:
        """The files, or their shares."""
        return [item for f in files for item in (self._spread[f.path][1] if f.path in self._spread else [f])]

    def __call__(self, restored: Restored) -> None:
        path = restored.entry.path
        if path not in self._spread:
            self._watch(restored)
            return
        entry, shares = self._spread[path]
        done = self._done.setdefault(path, [])
        done.append(restored)
        if len(done) == len(shares):
            problem = next((one.problem for one in done if one.problem is not None), None)
            self._watch(Restored(entry, None if problem else entry.fidelity, problem))


def _write_shares(
    crew: _Crew, tick: Callable[[int, int], None], stop: StopSignals, job: ShareJob, shares: list[Entry]
) -> list[Restored]:
    """Let workers write the shares of a large file. Raises StoppedEarly where they were stopped before its end."""
    done: list[Restored] = []
    crew.run(partial(unpack_shares, job), [(share,) for share in shares], True, done.append, tick, stop)
    if len(done) < len(shares):
        raise StoppedEarly(f"stopped by {stop.requested or 'a worker'}; {AGAIN}")
    return done


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
    """Let SIGTERM, SIGUSR1 and SIGHUP end the work inside in good order. Raises StoppedEarly behind it."""
    with StopSignals(job.stop_file.touch) as stop:
        yield stop
        if stop.requested is not None:
            raise StoppedEarly(f"stopped by {stop.requested}; {again}")


class _Crew:
    """Who carries out batches: this process, or workers that are started when first needed. A context manager."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def run(
        self,
        task: Task[Batch, ReadResult],
        batches: Sequence[Batch],
        on_workers: bool,
        watch: Callable[[Restored], None],
        tick: Callable[[int, int], None],
        stop: StopSignals,
    ) -> None:
        """Carry out ``batches``; ``watch`` hears of each entry."""
        if on_workers and batches:
            self._run_on_workers(task, batches, watch, tick, stop)
            return
        for outcome in run_here(task, batches, watch):
            if outcome.result is not None and outcome.result.left:
                break

    def _run_on_workers(
        self,
        task: Task[Batch, ReadResult],
        batches: Sequence[Batch],
        watch: Callable[[Restored], None],
        tick: Callable[[int, int], None],
        stop: StopSignals,
    ) -> None:
        if self._client is None:
            self._client = self._stack.enter_context(self._resources.cluster())
        outcomes: Any = run_on_workers(
            self._client,
            task,
            batches,
            halves,
            stopping=lambda: stop.requested is not None,
            tick=tick,
            gpus=self._resources.gpus > 0,
        )
        for outcome in outcomes:
            if outcome.result is None:
                error = WorkerKiller("every worker process that decoded it ended")
                for entry in outcome.batch:
                    watch(Restored(entry, None, Problem.of(entry.path, error, kept=False)))
                continue
            for restored in outcome.result.restored:
                watch(restored)
