"""Asking the child process that runs third-party codecs; it is started when first needed, and again when it died."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from callic_archive.archive.foreign import ANSWER, DONE, MISSING, REQUEST
from callic_archive.errors import ForeignCodecFailed, ForeignCodecMissing

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
    crashes, or takes too long.
    """
    head = json.dumps({"operation": operation, "memory": memory, **header}).encode()
    size = memoryview(body).nbytes
    with _lock:
        child = _running()
        timer = threading.Timer(SECONDS + max(memory, size) / BYTES_A_SECOND, child.kill)
        timer.start()
        try:
            status, answer = _exchange(child, REQUEST.pack(len(head), size) + head, body, most)
        except (OSError, ValueError) as error:
            stop()
            raise ForeignCodecFailed(
                f"the process that ran a library to {operation.replace('_', ' ')} ended ({error})"
            ) from error
        except BaseException:
            stop()  # interrupted between question and answer
            raise
        finally:
            timer.cancel()
    if status == MISSING:
        raise ForeignCodecMissing(f"the package imagecodecs is needed and cannot be loaded ({_text(answer)})")
    if status != DONE:
        raise ForeignCodecFailed(f"the library refused to {operation.replace('_', ' ')}: {_text(answer)}")
    return answer


def _text(answer: bytes) -> str:
    return answer[:300].decode("utf-8", "replace")


def _running() -> subprocess.Popen[bytes]:
    global _child
    if _child is None or _child.poll() is not None:
        _child = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
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
        raise ValueError(f"exit status {child.wait()}")
    status, length = ANSWER.unpack(start)
    if length > most:
        raise ValueError(f"an answer of {length} bytes is longer than the {most} expected")
    answer = child.stdout.read(length)
    if len(answer) < length:
        raise ValueError(f"exit status {child.wait()}")
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
