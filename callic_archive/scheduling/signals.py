"""Ending in good order: SIGTERM and SIGUSR1 (Slurm's warning) ask for a stop after the record in hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignals:
    """While active, the signals set ``requested`` and call ``on_stop`` once. Only the main thread can install
    handlers.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, on_stop: Callable[[], object], signals: Sequence[signal.Signals] = SIGNALS) -> None:
        self._on_stop = on_stop
        self._signals = tuple(signals)
        self._before: dict[int, Any] = {}
        self.requested: str | None = None  # name of the signal

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = signal.Signals(number).name
            self._on_stop()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def postponed() -> Iterator[None]:
    """Let signals that come meanwhile take effect when the block has ended: what it does must not be done by half.

    A second SIGINT does not wait: whoever presses Ctrl-C twice means it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        handler = before[number]
        if number == signal.SIGINT and number in waiting and callable(handler):
            handler(number, frame)
        waiting.append(number)

    for ending in _ENDING:
        if (handler := signal.getsignal(ending)) is not None:
            before[ending] = handler
            signal.signal(ending, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(waiting):
            signal.raise_signal(number)


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Let the threads and processes that are started inside hear no signal that ends a run, from their first instant on:
    what a thread has blocked, those that it starts inherit.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_ENDING, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_in_worker() -> None:
    """Let a worker process leave signals to the process that leads it: a terminal or Slurm sends them to the
    whole group.
    """
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
