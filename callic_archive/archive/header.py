"""The first line of the index: what it says of the archive as a whole.

A reader believes none of it before its form was checked, here and nowhere else.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from callic_archive.archive.parts import check_digest, whole_number
from callic_archive.container.index import MAX_TOTAL
from callic_archive.errors import IndexEntryInvalid, NotAnArchive

Json = Any
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Header:
    """The archive as a whole."""

    software: str  # name and version of the program that packed it
    packed_at: str  # date and time
    entries: int  # lines of entries that follow
    settings: Mapping[str, Json] = field(default_factory=dict)  # what packing was told
    models_outside: tuple[str, ...] = ()  # digests of models that are needed and were left out
    format_version: int = FORMAT_VERSION

    def as_json(self) -> dict[str, Json]:
        """The line. Fields that say nothing are left out."""
        return {
            "kind": "archive",
            "format_version": self.format_version,
            "software": self.software,
            "packed_at": self.packed_at,
            "entries": self.entries,
            **({"models_outside": list(self.models_outside)} if self.models_outside else {}),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Json]) -> Header:
        """Check and read the line. Raises NotAnArchive for another version, IndexEntryInvalid (E423)."""
        version = row.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:  # other versions may have other fields
            raise NotAnArchive(
                f"the archive has format version {reprlib.repr(version)}; this program reads "
                f"version {FORMAT_VERSION}. Use a newer callic-archive"
            )
        try:
            return cls(
                _text(row, "software"),
                _text(row, "packed_at"),
                whole_number(row["entries"], "entries", MAX_TOTAL),  # no index has so many lines
                _object(row, "settings"),
                tuple(check_digest(digest) for digest in _list(row.get("models_outside", []), "models_outside")),
            )
        except KeyError as error:
            raise IndexEntryInvalid(f"its first line does not have the field {error}") from error
        except (TypeError, ValueError) as error:
            raise IndexEntryInvalid(f"its first line is not valid: {error}") from error


def _text(row: Mapping[str, Json], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{name} is {reprlib.repr(value)}, not a line of text")
    return value


def _object(row: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    value = row[name]
    if not isinstance(value, dict):
        raise TypeError(f"{name} is {reprlib.repr(value)}, not an object")
    return value


def _list(value: Json, name: str) -> list[Json]:
    if not isinstance(value, list):
        raise TypeError(f"{name} is {reprlib.repr(value)}, not a list")
    return value
