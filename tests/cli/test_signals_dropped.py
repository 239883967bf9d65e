"""A stop that comes while Python runs a destructor, whose exceptions it drops, is not lost."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from callic_archive.cli import running
from callic_archive.cli.report import Report


class _Late:
    """Something that is taken down while the signal arrives."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # where Python sees to signals
            pass


def test_a_stop_that_a_destructor_swallows_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {number: signal.getsignal(number) for number in (*running.ENDING, signal.SIGALRM)}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # and so put back
    begin = time.monotonic()
    try:
        signals = running._Signals(Report("verify"))
        late = _Late()
        del late
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert signals.first == signal.SIGTERM
    assert time.monotonic() - begin < 10


def test_other_exceptions_of_destructors_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_value))
    kept = {number: signal.getsignal(number) for number in running.ENDING}
    try:
        running._Signals(Report("verify"))
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)

    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    Broken()
    assert [str(error) for error in told] == ["broken"]
