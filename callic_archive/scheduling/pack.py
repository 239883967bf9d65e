"""Carrying out a pack run: here or on workers, stopped in good order, always resumable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol

from callic_archive.archive.collection import LEAST_FITTED, collection_adapters, may_hold, take_sample
from callic_archive.archive.commit import Finished
from callic_archive.archive.content import WHOLE_BELOW
from callic_archive.archive.entries import Entry
from callic_archive.archive.packer import (
    Batch,
    BatchResult,
    abandon_packers,
    finish_packers,
    pack_batch,
)
from callic_archive.archive.packing import Group, PackRun
from callic_archive.archive.scan import Source
from callic_archive.archive.tailoring import Stages, tailored
from callic_archive.archive.worth import weigh_again
from callic_archive.errors import StoppedEarly
from callic_archive.scheduling.cluster import local_cluster, running_cluster, usable_cores
from callic_archive.scheduling.plan import AnyBatch, Costs, Plan, cluster_pays, halves, plan_batches
from callic_archive.scheduling.run import run_here, run_on_workers
from callic_archive.scheduling.signals import StopSignals


@dataclass(frozen=True)
class Resources:
    """What a run may use."""

    workers: int = 0  # processes; 0: one a core
    gpus: int = 0  # with GPUs: one process each
    scheduler: str | None = None  # address or scheduler file of a running cluster

    @property
    def processes(self) -> int:
        """Worker processes on this machine."""
        return self.gpus or self.workers or usable_cores()

    @property
    def threads(self) -> int:
        """Threads of numerical libraries in each worker."""
        return max(1, usable_cores() // self.processes)

    def cluster(self) -> AbstractContextManager[Any]:
        """A client of the workers."""
        if self.scheduler is not None:
            return running_cluster(self.scheduler)
        return local_cluster(self.processes, threads=self.threads, gpus=self.gpus)


class PackWatch(Protocol):
    """Who wants to know how it goes."""

    def stage(self, text: str) -> None:
        """What is done now, in words."""
        ...

    def step(self, done: int, total: int) -> None:
        """Progress of a stage that has steps of its own."""
        ...

    def planned(self, files: int, total_bytes: int) -> None:
        """What is to be packed, already packed files left out."""
        ...

    def packed(self, source: Source, entry: Entry | None) -> None:
        """A file is done; None when it could not be read."""
        ...

    def workers(self, running: int, workers: int) -> None:
        """Batches being worked on, and workers."""
        ...


def execute(run: PackRun, resources: Resources, watch: PackWatch) -> Finished:
    """Pack everything that is left and finish the archive.

    Raises StoppedEarly after SIGTERM, SIGUSR1 or SIGHUP, KeyboardInterrupt, and EnvironmentFailure; whatever is
    raised, the staging folder can be gone on with.
    """
    with StopSignals(run.staging.request_stop) as stop:
        try:
            return _execute(run, resources, watch, stop)
        except BaseException:
            abandon_packers(run.job(None).token)
            run.abandon_own()
            raise


def _execute(run: PackRun, resources: Resources, watch: PackWatch, stop: StopSignals) -> Finished:
    watch.stage("looking at what is there")
    run.take_up()
    sample = cache(lambda: take_sample(run.scan.sources, run.staging.run))

    def step(done: int, total: int) -> None:
        watch.step(done, total)
        if stop.requested is not None:
            raise StoppedEarly(f"stopped by {stop.requested}; run the same command again to go on")

    worth = may_hold(run.scan.sources, LEAST_FITTED)
    found = tailored(run.staging, run.plan, worth, sample, Stages(watch.stage, step))
    run.plan, run.verdict, run.fitted = found.plan, found.verdict, found.fitted
    if run.plan.trains:
        watch.stage("fitting adapters to the collection")
        payloads = collection_adapters(run.staging, run.plan, run.scan.sources, sample, step)
        adapters = [payloads[digest] for digest in sorted(payloads)]
        if run.verdict.hoped:
            watch.stage("weighing the adapted models")
            run.verdict = weigh_again(run.staging.adapters, run.plan, adapters, sample, run.verdict)
            run.plan = run.plan.declining(run.verdict.declined)
        usable = run.plan.usable(adapters)
        run.plan = run.plan.with_adapters(usable)
        run.add_adapters({digest: payload for digest, payload in payloads.items() if payload in usable})
    sample.cache_clear()
    run.add_plain()
    plan = plan_batches(run.groups(), resources.processes, costs_of(run.plan))
    files = [source for batch in plan.batches for source in batch.sources]
    watch.planned(len(files), sum(source.size for source in files))
    if plan.batches and stop.requested is None:
        watch.stage("packing")
        if resources.scheduler is None and not resources.gpus and not cluster_pays(plan, resources.processes):
            _pack_here(run, plan, resources, watch)
        else:
            _pack_on_workers(run, plan, resources, watch, stop)
    while stop.requested is None and (again := run.add_links()):
        _pack_here(run, plan_batches(again, 1, costs_of(run.plan)), resources, watch)
    if stop.requested is not None:
        run.seal_own()
        raise StoppedEarly(
            f"stopped by {stop.requested} after {len(run.entries)} of {len(run.scan.sources)} entries; "
            "run the same command again to go on"
        )
    watch.stage("completing the archive")
    return run.finish()


def costs_of(plan: Any) -> Costs:
    """Estimates for a plan; adaptation to each image is by far the longest part of it."""
    adapt = plan.settings().get("adapt")
    return Costs(adapt_second_per_image=20.0 if adapt in ("image", "both", "all") else 0.0)


class _Work:
    """Batches that wait: files, those that may have to be cut a few at a time, and pieces before all others.

    Of a file that is cut there is a copy until its last piece is packed; so only as many are begun as are worked on.
    """

    def __init__(self, run: PackRun, batches: Iterable[Batch], most: int) -> None:
        self._run = run
        self._most = max(1, most)
        self._costs = costs_of(run.plan)
        self._large: deque[Batch] = deque()
        self._begun: set[str] = set()  # paths of files that may have to be cut
        self.waiting: deque[AnyBatch] = deque()
        self._add(batches)
        self._refill()

    def _add(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            large = any(source.size >= WHOLE_BELOW for source in batch.sources)
            (self._large if large else self.waiting).append(batch)

    def accept(self, batch: AnyBatch, result: BatchResult, watch: PackWatch) -> None:
        """Take a result, and let wait what follows from it."""
        self._run.accept(result)
        if isinstance(batch, Batch):
            self._begun.difference_update(source.path for source in batch.sources)
            # files that may have been bands of one scene and are not: as any other files
            self._add(plan_batches((Group((s,), ()) for s in result.loose), self._most, self._costs).batches)
        else:
            done, total = self._run.cuts.pieces
            if total:
                watch.step(done, total)
        self.waiting.extendleft(reversed(self._run.cuts.take()))
        self._refill()
        for source, entry in self._run.finished:
            watch.packed(source, entry)
        self._run.finished.clear()

    def _refill(self) -> None:
        while self._large and len(self._begun) + len(self._run.cuts) < self._most:
            batch = self._large.popleft()
            self._begun.update(source.path for source in batch.sources)
            self.waiting.appendleft(batch)


def _pack_here(run: PackRun, plan: Plan, resources: Resources, watch: PackWatch) -> None:
    # Few batches cannot keep several processes busy, but one image's tiles can keep all cores busy.
    threads = None if not resources.workers else min(resources.workers, usable_cores())
    job = run.job(threads)
    work = _Work(run, plan.batches, 1)
    for outcome in run_here(partial(pack_batch, job), work.waiting, watch.packed):
        if outcome.result is not None:
            work.accept(outcome.batch, outcome.result, watch)
            if outcome.result.left:
                break
    run.accept_sealed(finish_packers(job.token))


def _pack_on_workers(
    run: PackRun, plan: Plan, resources: Resources, watch: PackWatch, stop: StopSignals
) -> None:
    watch.stage("starting workers")
    job = run.job(resources.threads)
    with resources.cluster() as client:
        watch.stage("packing")
        work = _Work(run, plan.batches, resources.processes)
        outcomes = run_on_workers(
            client,
            partial(pack_batch, job),
            work.waiting,
            halves,
            stopping=lambda: stop.requested is not None,
            tick=watch.workers,
            gpus=resources.gpus > 0,
        )
        for outcome in outcomes:
            result = outcome.result
            if result is None:
                # Its single file, or piece of one, ended every process that took it: store it here, without
                # looking inside.
                result = pack_batch(job, replace(outcome.batch, verbatim=True))
            work.accept(outcome.batch, result, watch)
            if isinstance(outcome.batch, Batch):
                _tell(outcome.batch, result, watch)
        for sealed in client.run(finish_packers, job.token).values():
            run.accept_sealed(sealed)
    run.accept_sealed(finish_packers(job.token))


def _tell(batch: Batch, result: BatchResult, watch: PackWatch) -> None:
    entries = {entry.path: entry for entry in result.entries}
    left = {source.path for source in (*result.left, *result.loose)} | {cut.source.path for cut in result.cuts}
    for source in batch.sources:
        if source.path not in left:
            watch.packed(source, entries.get(source.path))
