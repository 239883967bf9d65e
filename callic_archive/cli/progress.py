"""How far a run is: bars on a terminal, one plain line an interval anywhere else, nothing with ``--quiet``."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from callic_archive.cli.options import Common
from callic_archive.cli.report import Report, plural, size_text, time_text
from callic_archive.codec.meter import METER


class Progress:
    """Counts of a run and its display. Use as a context manager; the display ends with it."""

    def __init__(self, report: Report, common: Common, what: str) -> None:
        self.report = report
        self.what = what  # "packed", "restored", "verified"
        self.stage_text = "starting"
        self.files = self.total_files = 0
        self.bytes = self.total_bytes = 0
        self.stored = 0
        self.running = self.workers = 0
        self.done: float | None = None  # share of work that is not counted in bytes
        self.begin = time.monotonic()
        self._display: _Bars | _Lines | None = None
        if not common.quiet:
            if sys.stderr.isatty():
                self._display = _Bars(self)
            else:
                self._display = _Lines(self, common.progress_interval)

    def __enter__(self) -> Self:
        if self._display is not None:
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def _refresh(self) -> None:
        if self._display is not None:
            self._display.refresh()

    # -- what others tell ------------------------------------------------------------------------------------

    def stage(self, text: str) -> None:
        """What is done now, in words."""
        self.stage_text, self.done = text, None
        self.report.event("stage", stage=text)
        self._refresh()

    def step(self, done: int, total: int) -> None:
        """Progress of a stage that has steps of its own."""
        self.stage_text = f"{self.stage_text.split(' (')[0]} (step {done} of {total})"
        self._refresh()

    def found(self, count: int) -> None:
        """So many things were found, of nobody knows how many."""
        self.stage_text = f"{self.stage_text.split(' (')[0]} ({count:,} found)"
        self._refresh()

    def share(self, text: str, done: float) -> None:
        """What is done now, and which share of it: for work that is not counted in bytes."""
        self.stage_text, self.done = text, done
        self._refresh()

    def planned(self, files: int, total_bytes: int) -> None:
        """What is to be done."""
        self.total_files, self.total_bytes = files, total_bytes
        self.begin = time.monotonic()
        self._refresh()

    def advance(self, source_bytes: int, stored_bytes: int) -> None:
        """One more file is done."""
        self.files += 1
        self.bytes += source_bytes
        self.stored += stored_bytes
        self._refresh()

    def state(self, running: int, workers: int) -> None:
        """Batches being worked on, and workers."""
        if (running, workers) != (self.running, self.workers):
            self.running, self.workers = running, workers
            self._refresh()

    @property
    def within(self) -> str:
        """How far the current image is, where this process codes it itself."""
        return METER.text()

    # -- as text ---------------------------------------------------------------------------------------------

    @property
    def remaining(self) -> float | None:
        """Seconds until the end at the pace so far; None before there is a pace."""
        elapsed = time.monotonic() - self.begin
        if not self.bytes or elapsed < 1:
            return None
        return elapsed * (self.total_bytes - self.bytes) / self.bytes

    def line(self) -> str:
        """All of it on one line."""
        if not self.total_files:
            return self.stage_text
        parts = [
            f"{self.stage_text}: {self.files} of {self.total_files} files",
            f"{size_text(self.bytes)} of {size_text(self.total_bytes)}",
        ]
        if self.stored and self.what == "packed":
            parts.append(f"ratio {self.bytes / self.stored:.2f}")
        if self.workers:
            parts.append(plural(self.workers, "worker"))
        if self.within:
            parts.append(self.within)
        if self.remaining is not None and self.files < self.total_files:
            parts.append(f"about {time_text(self.remaining)} left")
        return ", ".join(parts)


class _Lines:
    """One plain line an interval, from a thread of its own, so that long files do not look like a standstill."""

    def __init__(self, progress: Progress, interval: float) -> None:
        self._progress = progress
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            stamp = time.strftime("%H:%M:%S")
            with suppress(OSError, ValueError):  # a log that cannot be written must not end the work
                sys.stderr.write(f"{stamp} {self._progress.line()}\n")
                sys.stderr.flush()

    def refresh(self) -> None:
        """The thread looks for itself."""

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=5)


class _Bars:
    """A bar over bytes, with files, ratio so far, time left and workers beside it."""

    def __init__(self, progress: Progress) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._progress = progress
        console = Console(stderr=True, highlight=False)
        self._rich = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[done]}"),
            TextColumn("{task.fields[more]}", style="dim"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            expand=True,
        )
        self._task: Any = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="progress", daemon=True)

    def start(self) -> None:
        self._rich.start()
        self._task = self._rich.add_task("starting", total=None, done="", more="")
        self._progress.report.print_over = self._print
        self._thread.start()

    def _look(self) -> None:
        """Nobody calls while one large image is being coded, and that can take hours."""
        while not self._ended.wait(1):
            self.refresh()

    def _print(self, line: str) -> None:
        self._rich.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        if self._task is None:
            return
        p = self._progress
        more = []
        if p.stored and p.what == "packed":
            more.append(f"ratio {p.bytes / p.stored:.2f}")
        if p.workers:
            more.append(f"{plural(p.running, 'batch')}, {plural(p.workers, 'worker')}")
        if p.within:
            more.append(p.within)
        if p.remaining is not None and p.files < p.total_files:
            more.append(f"{time_text(p.remaining)} left")
        done = f"{p.files}/{p.total_files} files, {size_text(p.bytes)} of {size_text(p.total_bytes)}"
        self._rich.update(
            self._task,
            description=p.stage_text,
            total=p.total_bytes or None if p.done is None else 1.0,
            completed=p.bytes if p.done is None else p.done,
            done=done if p.total_files else "",
            more=", ".join(more),
        )

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=5)
        self._progress.report.print_over = None
        self._rich.stop()
