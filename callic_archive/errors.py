"""Every failure a user can meet, in one hierarchy.

Each class carries the code under which ``docs/format/errors.md`` describes it, and the exit code with which the
command line answers when the failure ends a run. Code ranges: E0xx usage, E1xx sources and image files,
E2xx codestreams and entropy coding, E3xx models and adapters, E4xx container, E5xx archive, E6xx environment.
"""

from __future__ import annotations

from typing import ClassVar


class CallicError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` is a full sentence for the user."""

    code: ClassVar[str] = "E000"
    exit_code: ClassVar[int] = 1


# -- E0xx: usage ---------------------------------------------------------------------------------------------


class UsageError(CallicError):
    """The command or call cannot mean anything: wrong option, missing path, existing destination."""

    code = "E001"
    exit_code = 2


# -- E1xx: sources and image files ----------------------------------------------------------------------------


class SourceError(CallicError):
    """A source file cannot be read or lies about itself. The file is kept verbatim when its bytes can be read."""

    code = "E100"
    exit_code = 1


# -- E2xx: codestreams and entropy coding ---------------------------------------------------------------------


class CodestreamError(CallicError):
    """A codestream breaks its specification."""

    code = "E200"
    exit_code = 3


# -- E3xx: models and adapters ---------------------------------------------------------------------------------


class ModelError(CallicError):
    """A model or adapter file is missing, damaged, or breaks a bound that exactness rests on."""

    code = "E300"
    exit_code = 3


# -- E4xx: container -------------------------------------------------------------------------------------------


class ContainerError(CallicError):
    """A shard, index or bag breaks its specification."""

    code = "E400"
    exit_code = 3


# -- E5xx: archive ---------------------------------------------------------------------------------------------


class ArchiveError(CallicError):
    """An archive as a whole cannot be used as asked."""

    code = "E500"
    exit_code = 3


# -- E6xx: environment -----------------------------------------------------------------------------------------


class EnvironmentFailure(CallicError):
    """The machine lacks what the run needs: a GPU, disk space, a cluster, a library."""

    code = "E600"
    exit_code = 4
