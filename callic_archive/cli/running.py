"""Around every verb: failures become messages and exit codes, a summary is always written, no traceback
unasked.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from callic_archive.cli.options import Common
from callic_archive.cli.report import Report
from callic_archive.errors import CallicError, EnvironmentFailure, Interrupted, StoppedEarly


def run_verb(
    verb: str,
    common: Common,
    body: Callable[[Report], None],
    *,
    resumable: bool = False,
    data_on_stdout: bool = False,
) -> NoReturn:
    """Call ``body`` and end the process with the exit code that fits.

    ``data_on_stdout``: standard output carries a file, so that all else goes to standard error.
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
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _stop)
    try:
        body(report)
    except CallicError as error:
        report.fail(error)
    except KeyboardInterrupt as error:
        again = (
            "run the same command again to go on where it was" if resumable else "nothing was changed by half"
        )
        report.fail(_from(Interrupted(f"interrupted; {again}"), error))
    except BrokenPipeError:
        _leave_pipe()
    except OSError as error:
        report.fail(_from(_system_failure(error), error))
    except MemoryError as error:
        text = "there is not enough memory; use fewer --workers or a larger machine"
        report.fail(_from(EnvironmentFailure(text), error))
    except Exception as error:  # noqa: BLE001  the last line of defence: a bug is reported, not dumped
        text = f"unexpected failure ({type(error).__name__}: {error}); --debug shows where, please report it"
        report.fail(_from(EnvironmentFailure(text), error))
    try:
        code = report.finish()
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_pipe()
    except OSError as error:  # the output itself cannot be written: a full disk, where it goes to a file
        _leave_output(error)
    sys.exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedEarly(f"stopped by {signal.Signals(number).name} before anything was begun; run it again")


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
