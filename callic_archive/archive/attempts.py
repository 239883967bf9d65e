"""Steps that may fail for one file alone: whatever they raise becomes a failure of that file, and packing goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from callic_archive.errors import CallicError, DeviceFailed, EnvironmentFailure, UnexpectedFailure

T = TypeVar("T")


def attempt(step: Callable[[], T]) -> T | CallicError:
    """What ``step`` gives, or the failure that it is for this one file."""
    try:
        return step()
    except EnvironmentFailure:
        raise
    except CallicError as error:
        return error
    except MemoryError as error:
        return UnexpectedFailure(f"there was not enough memory to look into it ({error})")
    except Exception as error:
        if is_device_failure(error):
            raise DeviceFailed(f"the GPU failed: {type(error).__name__}: {error}") from error
        failure = UnexpectedFailure(f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure


def is_device_failure(error: BaseException) -> bool:
    """Whether an error of torch leaves the process with a GPU that cannot be trusted any more."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OutOfMemoryError", "AcceleratorError"}) or "CUDA error" in str(error)
