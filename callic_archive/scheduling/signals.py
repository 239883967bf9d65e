"""Ending in good order: SIGTERM, SIGUSR1 (Slurm's warning) and SIGHUP (a terminal that went away) ask for a stop after the
record in hand."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)  # what asks a run to end
TWICE = 0.5  # seconds; what comes sooner belongs to the first one: `timeout` sends a signal to a process and to its group


class StopSignals:
    """While active, the signals set ``requested`` and call ``on_stop`` once; a second SIGINT does what it did before. Those that
    are ignored, as ``nohup`` has it, stay so. Only the main thread can install handlers.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

    def __init__(self, on_stop: Callable[[], object], signals: Sequence[signal.Signals] = SIGNALS) -> None:
        self._on_stop = on_stop
        self._signals = tuple(signals)
        self._before: dict[int, Any] = {}
        self.requested: str | None = None  # name of the signal
        self._since = 0.0  # when that was

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = signal.Signals(number).name
            self._since = time.monotonic()
            self._on_stop()
        elif number == signal.SIGINT and time.monotonic() - self._since > TWICE:
            usual = self._before.get(number)
            if callable(usual):
                usual(number, frame)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


@contextmanager
def postponed() -> Iterator[None]:
    """Let signals that come meanwhile take effect when the block has ended: what it does must not be done by half.

    A second SIGINT does not wait: whoever presses Ctrl-C again means it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: dict[int, float] = {}  # since when
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        handler = before[number]
        since = waiting.setdefault(number, time.monotonic())
        if number == signal.SIGINT and time.monotonic() - since > TWICE and callable(handler):
            handler(number, frame)

    for ending in ENDING:
        if (handler := signal.getsignal(ending)) is not None:
            before[ending] = handler
            signal.signal(ending, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Let the threads and processes that are started inside hear no signal that ends a run, from their first instant on:
    what a thread has blocked, those that it starts inherit.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_in_worker() -> None:
    """Let a worker process leave signals to the process that leads it: a terminal or Slurm sends them to the
    whole group.
    """
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
