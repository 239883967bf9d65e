"""Detached headers: files that tell how to read the samples in a file beside them, as the ``.hdr`` of a pair does.

Samples in files of their own have no form that could be recognised, and headers no need to tell the truth: each is looked
for by the name of the file that it may describe, and must name it where its format names any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, cast

from callic_archive.errors import SourceError
from callic_archive.images.layout import Layout
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Context, Limits, guarded

MAX_HEADER = 1 << 20  # bytes of a header
FOUND = ""  # the name of a header that there is none of: ``raster_search`` tells where samples lie
#: Endings of files that may have a header beside them; those without an ending may too.
_ENDINGS = frozenset({"img", "raw", "zraw", "dat", "bin", "bsq", "bil", "bip"})
_HEADERS = ("hdr", "mhd", "nhdr", "nrrd")


@dataclass(frozen=True)
class Detached:
    """What a header says of the samples in the file beside it."""

    sample_type: str  # the numpy type
    #: Where they lie in a file of so many bytes, counted from the first number: (start, length, limits).
    layouts: Callable[[int, int, Limits], list[Layout]]
    packing: Literal["", "gzip", "zlib"] = ""  # what holds them, if not the file itself
    begin: Callable[[memoryview], int] = lambda data: 0  # where that, or what is counted from, begins
    few: bool = False  # whether samples may be a small part of the file


def header_names(name: str) -> list[str]:
    """Names that the header of a file of this name would have, the likeliest first; none for most files."""
    bare = name[:-3] if name[-3:].lower() == ".gz" else name
    stem, dot, ending = bare.rpartition(".")
    if not dot or not stem:
        return [f"{name}.hdr"] if name and bare == name else []
    if ending.lower() not in _ENDINGS:
        return []
    found = [f"{stem}.{kind}" for kind in _HEADERS] + [f"{bare}.hdr"]
    if bare != name:
        found.insert(0, f"{stem}.hdr.gz")
    if ending.isupper():  # of systems that do not tell them apart
        found = [f"{stem}.HDR", *found]
    return found


def is_name(told: str, name: str) -> bool:
    """Whether a header that names the file ``told`` means the file ``name`` beside it."""
    return told.removeprefix("./") == name and "/" not in name


def is_header(context: Context) -> bool:
    """Whether a document is a header that means the file beside it, be it right or wrong."""
    try:
        detached(context)
    except NotTaken as reason:
        return reason.reason != "variant"
    except SourceError:
        return True
    return True


def is_packed(context: Context) -> bool:
    """Whether the samples must be unpacked as a whole, by what a header says."""
    try:
        return context.format == "raw" and detached(context).packing != ""
    except (NotTaken, SourceError):
        return False


def detached(context: Context) -> Detached:
    """What the header says. Raises NotTaken (``variant``: it means no such file) and SourceError subclasses."""
    document = memoryview(context.document)
    if context.name.lower().endswith(".gz"):
        document = memoryview(_inflated(document))
    if len(document) > MAX_HEADER:
        raise NotTaken("variant")
    found = import_module(f"callic_archive.images.{_module(context.name, document)}").detached
    return guarded(lambda: cast("Detached", found(document, context.key)), context.name, "")


def _inflated(document: memoryview) -> bytes:
    from callic_archive.images.gzip_file import body_start
    from callic_archive.images.streams import inflate_head

    return inflate_head(document[body_start(document) :], MAX_HEADER)


def _module(name: str, document: memoryview) -> str:
    """The module that reads such a header."""
    if name == FOUND:
        return "raster_search"
    kind = name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "hdr":
        return "envi" if bytes(document[:4]) == b"ENVI" else "nifti"
    return "metaimage" if kind == "mhd" else "nrrd"
