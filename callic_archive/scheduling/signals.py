"""Ending in good order: SIGTERM and SIGUSR1 (Slurm's warning) ask for a stop after the record in hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
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


def ignore_in_worker() -> None:
    """Let a worker process leave signals to the process that leads it: a terminal or Slurm sends them to the
    whole group.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
