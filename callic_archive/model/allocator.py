"""Keep freed memory between training steps.

Otherwise glibc returns every large tensor to the system and faults it in anew: a quarter of a training step
on CPUs was seen in page faults. Only glibc is touched; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_KEEP = (1 << 31) - 1
_DEFAULT = 128 << 10


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, freed memory stays with the process; at the end it goes back to the system."""
    try:
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        tune = None if libc is None else libc.mallopt
    except (OSError, AttributeError):  # no glibc (musl has no mallopt)
        tune = None
    if libc is None or tune is None:
        yield
        return
    tune(_TRIM_THRESHOLD, _KEEP)
    tune(_MMAP_THRESHOLD, _KEEP)
    try:
        yield
    finally:
        tune(_TRIM_THRESHOLD, _DEFAULT)
        tune(_MMAP_THRESHOLD, _DEFAULT)
        libc.malloc_trim(0)
