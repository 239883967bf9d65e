"""Samples in a file of their own, as they are or in one gzip or zlib stream: their form comes from the header beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from callic_archive.errors import SourceError, SourceTooLarge
from callic_archive.images.detached import Detached, detached
from callic_archive.images.gzip_file import likely_level, unpack_one
from callic_archive.images.layout import Image, Layout, layouts_from_json
from callic_archive.images.members import deflated, rebuild_members
from callic_archive.images.metaimage import inflated
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Context, Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.streams import DEFAULT, inflate

_FEW = 2  # samples must be this part of their file at least: a header may mean another


def parse(data: memoryview, context: Context, limits: Limits) -> Parsed:
    """See ``source.parse``. Raises NotTaken, also where the file is not as its header says, and SourceTooLarge."""
    try:
        header = detached(context)
        if not header.packing:
            return parse_spliced("raw", data, _layouts(header, data, limits), limits)
        start = header.begin(data)
        raw, begin, end = (inflated if header.packing == "zlib" else unpack_one)(data, start, limits)
        inner = parse_spliced("raw", raw, header.layouts(0, len(raw), limits), limits)
        likely = likely_level(data, start) if header.packing == "gzip" else bytes(data[start:begin])
        return deflated("raw", data, (begin, end), raw, inner, likely, limits)
    except SourceTooLarge:
        raise
    except SourceError as error:
        raise NotTaken("header") from error


def layouts(data: memoryview, context: Context, limits: Limits) -> list[Layout]:
    """Where the samples lie; nowhere where they are packed. Raises NotTaken and SourceError subclasses."""
    header = detached(context)
    return [] if header.packing else _layouts(header, data, limits)


def _layouts(header: Detached, data: memoryview, limits: Limits) -> list[Layout]:
    found = header.layouts(header.begin(data), len(data), limits)
    if not header.few and _FEW * sum(layout.decoded_bytes for layout in found) < len(data):
        raise NotTaken("few-samples")
    return found


def sample_type(context: Context) -> str:
    """The numpy type of the samples. Raises NotTaken and SourceError subclasses."""
    return detached(context).sample_type


def parse_again(data: memoryview, recipe: Mapping[str, Any], limits: Limits) -> Parsed:
    """See ``source.parse_again``."""
    if "members" not in recipe:
        return parse_spliced("raw", data, layouts_from_json(recipe["layouts"]), limits)
    (member,) = recipe["members"]
    begin = int(member["before"])
    raw, length = inflate(data[begin:], limits)
    inner = parse_spliced("raw", raw, layouts_from_json(member["recipe"]["layouts"]), limits)
    return deflated("raw", data, (begin, begin + length), raw, inner, DEFAULT, limits)


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    if "members" in recipe:
        rebuild_members(recipe, surround, images, out)
    else:
        rebuild_spliced(recipe, surround, images, out)
