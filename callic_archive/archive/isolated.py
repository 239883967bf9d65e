"""Asking the child process that runs third-party codecs; it is started when first needed, and again when it died.

Signals are for the process that asks: those that end a run in good order (a terminal, Slurm and systemd send them to all
processes of a run) must not end the child, whose death would then look like a file that no library takes.
"""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from callic_archive.archive.foreign import ANSWER, DONE, LEFT_TO_THE_PARENT, MISSING, REQUEST
from callic_archive.errors import EnvironmentFailure, ForeignCodecFailed, ForeignCodecMissing

SECONDS, BYTES_A_SECOND = 60.0, 20_000  # how long a request may take: effort 9 codes some 300 kB/s
MOST_ANSWER = 1 << 31
COMMAND = (sys.executable, "-m", "callic_archive.archive.foreign")

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None


def ask(
    operation: str, body: bytes | memoryview, *, memory: int, most: int = MOST_ANSWER, **header: Any
) -> bytes:
    """The answer to one request.

    ``memory`` bytes of samples bound the child's memory and time, ``most`` the answer. Raises
    ForeignCodecMissing where the library is not installed, ForeignCodecFailed when it refuses its input,
    crashes, or takes too long; EnvironmentFailure where it cannot be started.
    """
    head = json.dumps({"operation": operation, "memory": memory, **header}).encode()
    size = memoryview(body).nbytes
    seconds = SECONDS + max(memory, size) / BYTES_A_SECOND
    request = REQUEST.pack(len(head), size) + head
    with _lock:
        try:
            try:
                status, answer = _answer(request, body, most, seconds)
            except _Died:  # once may be anybody's doing, such as who sends SIGKILL; twice is the request's
                status, answer = _answer(request, body, most, seconds)
        except (_Died, ValueError) as error:
            raise ForeignCodecFailed(
                f"the process that ran a library to {operation.replace('_', ' ')} ended ({error})"
            ) from error
    if status == MISSING:
        raise ForeignCodecMissing(f"the package imagecodecs is needed and cannot be loaded ({_text(answer)})")
    if status != DONE:
        raise ForeignCodecFailed(f"the library refused to {operation.replace('_', ' ')}: {_text(answer)}")
    return answer


def _text(answer: bytes) -> str:
    return answer[:300].decode("utf-8", "replace")


class _Died(Exception):
    """The child ended before it had answered, and not because it took too long."""


def _answer(request: bytes, body: bytes | memoryview, most: int, seconds: float) -> tuple[int, bytes]:
    """Status and answer. Raises _Died, and ValueError after a child that was too slow or said too much was ended."""
    child = _running()
    answered, late = threading.Event(), threading.Event()

    def watch() -> None:
        # Seconds are counted one by one, so that those in which all processes were stopped (Ctrl-Z) do not count.
        for _ in range(int(seconds)):
            if answered.wait(1):
                return
        if not answered.wait(seconds % 1):
            late.set()
            child.kill()

    watching = threading.Thread(target=watch, name="foreign", daemon=True)
    watching.start()
    try:
        return _exchange(child, request, body, most)
    except (OSError, _Died) as error:
        stop()
        if late.is_set():
            raise ValueError(f"it took more than {seconds:.0f} s") from error
        raise _Died(str(error)) from error
    except BaseException:
        stop()  # interrupted between question and answer
        raise
    finally:
        answered.set()
        watching.join()


def _running() -> subprocess.Popen[bytes]:
    global _child
    if _child is None or _child.poll() is not None:
        # Blocked until the child ignores them: a process inherits what the thread that starts it has blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_PARENT)
        try:
            _child = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            text = f"no process can be started to run image libraries in: {error.strerror or error}"
            raise EnvironmentFailure(text) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _child


def _exchange(
    child: subprocess.Popen[bytes], head: bytes, body: bytes | memoryview, most: int
) -> tuple[int, bytes]:
    if child.stdin is None or child.stdout is None:
        raise ValueError("it has no pipes")
    child.stdin.write(head)
    child.stdin.write(body)
    child.stdin.flush()
    start = child.stdout.read(ANSWER.size)
    if len(start) < ANSWER.size:
        raise _Died(f"exit status {child.wait()}")
    status, length = ANSWER.unpack(start)
    if length > most:
        stop()
        raise ValueError(f"an answer of {length} bytes is longer than the {most} expected")
    answer = child.stdout.read(length)
    if len(answer) < length:
        raise _Died(f"exit status {child.wait()}")
    return status, answer


def stop() -> None:
    """End the child process, if there is one."""
    global _child
    child, _child = _child, None
    if child is not None:
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        child.wait()


atexit.register(stop)
