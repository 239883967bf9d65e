"""File names as JSON fields, and paths that stay inside their destination by their text alone."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callic_archive.errors import InvalidName, UnsafePath


def name_to_json(name: str | bytes, field: str = "path") -> dict[str, str]:
    """A file name as JSON fields: ``{"path": text}``, with ``"path_base64"`` when its bytes are not UTF-8.

    The readable form of a name that is not UTF-8 shows each stray byte as ``\\xNN``. Raises InvalidName.
    """
    try:
        raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidName(f"the name {name!r} cannot be stored: {error.reason}") from error
    try:
        return {field: raw.decode("utf-8")}
    except UnicodeDecodeError:
        readable = raw.decode("utf-8", "backslashreplace")
        return {field: readable, f"{field}_base64": base64.b64encode(raw).decode("ascii")}


def name_from_json(entry: Mapping[str, Any], field: str = "path") -> str:
    """The name that ``name_to_json`` wrote, stray bytes as surrogate escapes (what ``os`` functions take).

    Raises InvalidName (E443) when the fields are missing or contradict each other.
    """
    readable, coded = entry.get(field), entry.get(f"{field}_base64")
    if not isinstance(readable, str) or not (coded is None or isinstance(coded, str)):
        raise InvalidName(f"an index entry has no readable {field!r}")
    if coded is None:
        try:
            readable.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidName(f"the {field} {readable!r} is no Unicode text") from error
        return readable
    try:
        raw = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidName(f"the {field}_base64 of {readable!r} is no base64") from error
    if name_to_json(raw, field) != {field: readable, f"{field}_base64": coded}:
        raise InvalidName(f"the {field} {readable!r} and its base64 form contradict each other")
    return raw.decode("utf-8", "surrogateescape")




def check_relative(path: str) -> tuple[str, ...]:
    """The parts of a relative path with ``/`` between them.

    Raises UnsafePath (E440) when it is empty or absolute, or has an empty part, ``.``, ``..`` or NUL.
    """
    parts = tuple(path.split("/"))
    if "\0" in path:
        raise UnsafePath(f"the path {path!r} holds a NUL byte")
    if any(part in ("", ".", "..") for part in parts):
        raise UnsafePath(f"the path {path!r} is absolute or not plain, and could leave the destination")
    return parts


def safe_join(root: Path, path: str) -> Path:
    """``root`` / ``path`` after ``check_relative``; symbolic links on disk are ExtractionRoot's matter."""
    return root.joinpath(*check_relative(path))


def link_leaves_root(path: str, target: str) -> bool:
    """Whether a symbolic link at ``path`` with this target would point out of the tree, by its text alone."""
    depth = len(check_relative(path)) - 1
    if target.startswith("/"):
        return True
    for part in target.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            return True
    return False
