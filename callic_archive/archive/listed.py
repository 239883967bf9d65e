"""Lists of paths to pack, as ``find`` and other programs print them: one a line, or ended by NUL bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from callic_archive.archive.scan import Problem
from callic_archive.errors import MissingPath, ReadFailure, SourceUnreadable, UsageError

MOST_BYTES = 1 << 30  # of one list


def read_list(file: str, standard_input: Iterable[bytes], *, null: bool = False) -> list[str]:
    """The paths that ``file`` (``-``: standard input) holds, in order, each once.

    They end with NUL bytes when ``null`` says so or any is there, else with line feeds; empty ones mean
    nothing. Raises MissingPath, ReadFailure, and UsageError for a list beyond all measure.
    """
    raw = b"".join(standard_input) if file == "-" else _bytes(Path(file))
    if len(raw) > MOST_BYTES:
        raise UsageError(f"the list {file} is larger than {MOST_BYTES >> 20} MiB; pack the folders instead")
    names = raw.split(b"\0" if null or b"\0" in raw else b"\n")
    return list(dict.fromkeys(os.fsdecode(name) for name in names if name))


def usable(names: Iterable[str]) -> tuple[list[str], list[Problem]]:
    """Paths that can be packed under their own name, and the problem of each that cannot.

    Absolute paths are stored without the leading ``/``; those that lead up by ``..`` have no place in an
    archive.
    """
    kept: list[str] = []
    problems: list[Problem] = []
    for name in names:
        if ".." in name.split("/"):
            text = "a listed path may not hold '..', so it is missing from the archive"
            problems.append(Problem.of(name, SourceUnreadable(text), kept=False))
        else:
            kept.append(name)
    return kept, problems


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingPath(f"the list {path} does not exist; check the spelling") from error
    except IsADirectoryError as error:
        raise UsageError(f"--files-from wants a file that lists paths, and {path} is a folder; name it as a SOURCE") from error
    except OSError as error:
        raise ReadFailure(f"cannot read the list {path}: {error.strerror or error}") from error
