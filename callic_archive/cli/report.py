"""The one object that owns what happened: outcomes, counts, messages, JSON lines and the exit code.

Human text goes to standard output, with ``--json`` to standard error; JSON objects go to standard output, one
a line, each with the version of their form (``v``) and an ``event``. The last one is always a ``summary``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TextIO

from callic_archive.cli.redaction import Redaction
from callic_archive.errors import CallicError

if TYPE_CHECKING:
    from callic_archive.archive.scan import Problem

JSON_VERSION = 1
MOST_PROBLEMS = 50  # shown one by one as text; JSON has them all
_SEVERITY = (0, 1, 3, 4, 2, 75, 130)  # what a run that met several kinds of problem answers: the rightmost


class Report:
    """What a verb has to say. Created once a run by ``cli.running``."""

    def __init__(
        self,
        verb: str,
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        debug: bool = False,
        redact: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.verb = verb
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self.debug = debug
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.counts: Counter[str] = Counter()
        self.summary: dict[str, Any] = {}
        self.exit_code = 0
        self.stoppable = True  # whether a signal still ends the run
        self.print_over: Callable[[str], None] | None = None  # set while a progress display owns the terminal
        self._redaction = Redaction() if redact else None
        self._begin = time.monotonic()
        self._told: Counter[str] = Counter()

    # -- writing ---------------------------------------------------------------------------------------------

    def event(self, event: str, **fields: Any) -> None:
        """One JSON line, if JSON is wanted."""
        if self.as_json:
            line = {"v": JSON_VERSION, "event": event, "verb": self.verb, **fields}
            self.out.write(json.dumps(line, ensure_ascii=True) + "\n")
            self.out.flush()

    def text(self, line: str = "", *, always: bool = False) -> None:
        """A line of results for humans; kept back by ``--quiet``."""
        if not self.quiet or always:
            self._write(self.err if self.as_json else self.out, line)

    def note(self, line: str) -> None:
        """A remark beside the results; kept back by ``--quiet``."""
        self.event("note", message=self.clean(line))
        if not self.quiet:
            self._write(self.err, f"note: {one_line(self.clean(line))}")

    def detail(self, line: str) -> None:
        """A remark for ``--verbose`` alone."""
        if self.verbose:
            self._write(self.err, one_line(self.clean(line)))

    def _write(self, stream: TextIO, line: str) -> None:
        line = printable(line)
        if self.print_over is not None:
            self.print_over(line)
        else:
            stream.write(line + "\n")
            stream.flush()

    # -- paths -----------------------------------------------------------------------------------------------

    def path(self, path: str | os.PathLike[str]) -> str:
        """A path as it may be shown: with ``--redact-paths`` a token that is the same for the same path in
        this run.
        """
        return os.fspath(path) if self._redaction is None else self._redaction.token(path)

    def shown(self, path: str | os.PathLike[str]) -> str:
        """A path for a line of text: as ``path``, on one line whatever its name holds."""
        return one_line(self.path(path))

    def hide(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Paths of the command line, to be replaced wherever a message holds them."""
        if self._redaction is not None:
            self._redaction.hide(paths)

    def path_fields(self, path: str, field: str = "path") -> dict[str, str]:
        """A path as JSON fields; names that are not UTF-8 come with their bytes in base64."""
        from callic_archive.container.names import name_to_json

        return name_to_json(path, field) if self._redaction is None else {field: self.path(path)}

    def clean(self, message: str, *paths: str) -> str:
        """A message as it may be shown: with ``--redact-paths`` without ``paths`` and those of ``hide``."""
        return message if self._redaction is None else self._redaction.clean(message, paths)

    # -- the end ---------------------------------------------------------------------------------------------

    def past_stopping(self) -> None:
        """Nothing is left that a signal could stop: what was asked for is done, or it is told why not."""
        self.stoppable = False

    # -- outcomes --------------------------------------------------------------------------------------------

    def problem(self, problem: Problem) -> None:
        """One path that went wrong; the run goes on."""
        self.raise_exit(problem.exit_code)
        self.counts["problems"] += 1
        message = self.clean(problem.message, problem.path, *problem.others)
        self.event(
            "problem",
            code=problem.code,
            message=message,
            kept=problem.kept,
            **self.path_fields(problem.path),
        )
        self._told[problem.code] += 1
        if self._told.total() <= MOST_PROBLEMS or self.verbose:
            self._write(self.err, f"{self.shown(problem.path)}: {one_line(message)} [{problem.code}]")
        elif self._told.total() == MOST_PROBLEMS + 1:
            self._write(self.err, "further problems are only counted; --verbose or --json shows them all")

    def fail(self, error: CallicError) -> None:
        """The failure that ends the run."""
        self.exit_code = error.exit_code
        message = self.clean(str(error), *error.paths)
        self.summary["error"] = {"code": error.code, "message": message}
        self._write(self.err, f"callic-archive {self.verb}: {one_line(message)} [{error.code}]")
        if self.debug:
            trace = "".join(traceback.format_exception(error)).rstrip()
            cause: BaseException | None = error
            while cause is not None:  # each by itself: where a message begins tells what is a name in it
                if str(cause):
                    trace = trace.replace(str(cause), self.clean(str(cause), *error.paths))
                cause = cause.__cause__ or cause.__context__
            self._write(self.err, self.clean(trace, *error.paths))

    def raise_exit(self, code: int) -> None:
        """Note that the run can end no better than with ``code``."""
        if _SEVERITY.index(code) > _SEVERITY.index(self.exit_code):
            self.exit_code = code

    def finish(self) -> int:
        """Write the summary object; the exit code."""
        seconds = round(time.monotonic() - self._begin, 3)
        self.event(
            "summary",
            exit_code=self.exit_code,
            seconds=seconds,
            problems=self.counts["problems"],
            **self.summary,
        )
        return self.exit_code


def one_line(text: str) -> str:
    """As ``printable``, with line feeds and tabs shown too: a name cannot pretend to be another message."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control characters and stray bytes of names are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def size_text(count: float) -> str:
    """Bytes for humans: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def time_text(seconds: float) -> str:
    """Seconds for humans: 3.2 s, 4 min 10 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, noun: str) -> str:
    """``1 file``, ``2 files``, ``3 entries``."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}{'es' if noun.endswith('ch') else 's'}"
