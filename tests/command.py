"""Running the command line in tests: in this process, or as a process of its own with the model-free codec."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from callic_archive.cli.main import main
from tests.doubles import DeflatePlan

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ran:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        assert self.events[-1]["event"] == "summary"
        return self.events[-1]


def use_double(patch: pytest.MonkeyPatch, **behaviour: Any) -> None:
    """Let pack and unpack use the model-free codec."""
    patch.setattr("callic_archive.cli.pack.codec_plan", lambda **_: DeflatePlan(**behaviour))
    patch.setattr("callic_archive.cli.unpack.decoder_plan", lambda *_, **__: DeflatePlan())


def run(*words: object) -> Ran:
    """Run a command in this process."""
    out, err = StringIO(), StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    code = ended.value.code
    return Ran(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def start(*words: object, behaviour: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start a command as a process; ``behaviour`` are arguments of DeflatePlan, as Python text."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CALLIC_TEST_DOUBLE": f"dict({behaviour})"}
    command: Sequence[str] = [sys.executable, str(Path(__file__)), *(str(word) for word in words)]
    further = options.pop("preexec_fn", None)

    def prepare() -> None:
        # A shell starts what runs in its background with SIGINT ignored, and processes pass that on.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if further is not None:
            further()

    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=prepare, **options,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout: float = 60) -> Ran:
    """Wait for a started command."""
    out, err = process.communicate(timeout=timeout)
    return Ran(process.returncode, out, err)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch_:
        use_double(patch_, **eval(os.environ["CALLIC_TEST_DOUBLE"]))
        main()
