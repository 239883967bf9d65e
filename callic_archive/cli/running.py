"""Around every verb: failures become messages and exit codes, a summary is always written, no traceback
unasked.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import click

from callic_archive.cli.options import NO_PATHS, Common
from callic_archive.cli.report import Report
from callic_archive.errors import CallicError, EnvironmentFailure, Interrupted, StoppedEarly
from callic_archive.scheduling.signals import ENDING, TWICE

AGAIN = 0.05  # seconds after which a stop that was dropped comes again
GOING_ON = "run the same command again to go on where it was"


def run_verb(
    verb: str,
    common: Common,
    body: Callable[[Report], None],
    *,
    after_stop: str = "nothing was changed",
    data_on_stdout: bool = False,
) -> NoReturn:
    """Call ``body`` and end the process with the exit code that fits.

    ``after_stop`` is what to tell whoever interrupted it. ``data_on_stdout``: standard output carries a file, so that all
    else goes to standard error.
    """
    report = Report(
        verb,
        as_json=common.as_json,
        quiet=common.quiet,
        verbose=common.verbose,
        debug=common.debug,
        redact=common.redact_paths,
        out=sys.stderr if data_on_stdout else None,
    )
    report.hide(given_paths())
    signals = _Signals(report)
    try:
        body(report)
        report.past_stopping()
    except BrokenPipeError:
        _leave_pipe()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the last line of defence: a bug is reported, not dumped
        report.past_stopping()
        report.fail(_failure(error, signals.first, after_stop))
    try:
        code = report.finish()
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_pipe()
    except OSError as error:  # the output itself cannot be written: a full disk, where it goes to a file
        _leave_output(error)
    for number in ENDING:  # while the interpreter takes itself down, too
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def given_paths() -> list[str]:
    """What the user named of files and folders, by options, arguments and variables."""
    context = click.get_current_context()
    found: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter.type, (click.Path, click.types.StringParamType)) and parameter.name not in NO_PATHS:
            found += [os.fspath(one) for one in (value if isinstance(value, tuple) else (value,)) if one]
    return found


class _Signals:
    """What a signal does, from now on: it ends what is done, as Ctrl-C does, until there is nothing left to stop."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.first: signal.Signals | None = None
        self._since = 0.0  # when that was
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        self._dropped, sys.unraisablehook = sys.unraisablehook, self._drop

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._report.stoppable:
            return
        if self.first is None:
            self.first, self._since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._since < TWICE:
            return
        raise KeyboardInterrupt  # for SIGTERM too: nothing takes that for a failure of what is worked on

    def _drop(self, what: sys.UnraisableHookArgs) -> None:
        """What was raised while a destructor ran, which Python drops. A stop among it comes again a moment later."""
        if not isinstance(what.exc_value, KeyboardInterrupt):
            self._dropped(what)
            return
        signal.signal(signal.SIGALRM, self._again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)

    def _again(self, number: int, frame: FrameType | None) -> None:
        if self._report.stoppable:
            raise KeyboardInterrupt


def _failure(error: BaseException, stopped: signal.Signals | None, after_stop: str) -> CallicError:
    """What ended the run. After a signal it is that, whatever a library made of it."""
    if isinstance(error, StoppedEarly):
        return error
    if stopped is not None or isinstance(error, KeyboardInterrupt):
        if stopped in (None, signal.SIGINT):
            return _from(Interrupted(f"interrupted; {after_stop}"), error)
        return _from(StoppedEarly(f"stopped by {stopped.name}; {after_stop}"), error)
    if isinstance(error, CallicError):
        return error
    if isinstance(error, OSError):
        return _from(_system_failure(error), error)
    if isinstance(error, MemoryError):
        text = "there is not enough memory; use fewer --workers or a larger machine"
        return _from(EnvironmentFailure(text), error)
    text = f"unexpected failure ({type(error).__name__}: {error}); --debug shows where, please report it"
    return _from(EnvironmentFailure(text), error)


def _from(failure: CallicError, cause: BaseException) -> CallicError:
    failure.__cause__ = cause
    return failure


def _system_failure(error: OSError) -> CallicError:
    from callic_archive.container.fs import write_failure

    return write_failure(error, error.filename or "the output")


def _leave_output(error: OSError) -> NoReturn:
    """Say on standard error what nobody could read on standard output."""
    failure = _system_failure(error)
    with suppress(OSError):
        sys.stderr.write(f"callic-archive: standard output cannot be written: {error.strerror} [{failure.code}]\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(failure.exit_code)


def _leave_pipe() -> NoReturn:
    """Who read our output went away, as ``head`` does: end quietly, as a process that SIGPIPE ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
