"""Files in a file: members that lie in it deflated or as they are, each of them taken apart by itself.

A gzip file has one, a ZIP file several; the samples of a gzipped NRRD and the data set of a deflated DICOM file are
members of their files as well. All other bytes, checksums and names among them, surround the members.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from callic_archive.errors import RebuildMismatch
from callic_archive.images import source
from callic_archive.images.gzip_chain import ChainSink, side_bytes
from callic_archive.images.layout import Image
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.streams import DeflateSink, find

_MOST_MEMBERS = 1 << 16


@dataclass(frozen=True)
class Member:
    """Bytes ``start`` to ``end`` of a file, and what they hold when inflated (``deflate`` None: as they are)."""

    start: int
    end: int
    deflate: Mapping[str, Any] | None
    inner: Parsed
    side: bytes = b""  # what ``deflate`` needs beside it: differences, of chains what lies between streams


def join(kind: str, data: memoryview, members: Sequence[Member], limits: Limits) -> Parsed:
    """The ``Parsed`` of the file ``data`` with ``members`` in ascending order. Raises SourceTooLarge."""
    images = tuple(image for member in members for image in member.inner.images)
    limits.check_images(len(images))
    limits.check_decoded(sum(image.nbytes for image in images), len(data))
    surround: list[memoryview | bytes] = []
    entries: list[dict[str, Any]] = []
    at = 0
    for member in members:
        inner = member.inner
        surround += [data[at : member.start], inner.surround, member.side]
        entries.append(
            {"before": member.start - at, "surround": len(inner.surround), "images": len(inner.images),
             "format": inner.format, "recipe": inner.recipe}
        )  # fmt: skip
        at = member.end
    surround.append(data[at:])
    streams = [None if member.deflate is None else dict(member.deflate) for member in members]
    recipe = {"members": entries, "streams": streams, "zlib": zlib.ZLIB_RUNTIME_VERSION}
    # What follows a member in a ZIP file tells its packed length, so another stream would be another content there.
    volatile = frozenset({"zlib"} if kind == "zip" else {"zlib", "streams"})
    return Parsed(kind, "bytes", images, b"".join(surround), recipe, volatile)


def deflated(
    kind: str, data: memoryview, span: tuple[int, int], raw: memoryview, inner: Parsed, likely: bytes, limits: Limits
) -> Parsed:
    """The ``Parsed`` of the file ``data``, of which bytes ``span`` are the deflate stream of ``raw``, taken apart as ``inner``.

    ``likely`` as for ``streams.find``. Raises NotTaken where the stream cannot be made again.
    """
    named = find(raw, data[span[0] : span[1]], likely)
    if named is None:
        raise NotTaken("encoder")
    return join(kind, data, [Member(*span, named[0], inner, named[1])], limits)


def rebuild_members(
    recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO
) -> None:
    """The inverse of ``join``. Raises RebuildMismatch when recipe and parts do not fit together."""
    members, streams = recipe["members"], recipe["streams"]
    if len(members) != len(streams) or len(members) > _MOST_MEMBERS:
        raise RebuildMismatch("the recipe names another number of members than of streams, or too many")
    counts = [(int(m["before"]), int(m["surround"]), int(m["images"])) for m in members]
    if any(min(numbers) < 0 for numbers in counts):
        raise RebuildMismatch("the recipe names negative numbers of bytes or images")
    sides = sides_of(recipe)
    if min(sides, default=0) < 0:
        raise RebuildMismatch("the recipe names a negative number of differences")
    if sum(a + b for a, b, _ in counts) + sum(sides) > len(surround) or sum(c for _, _, c in counts) != len(images):
        raise RebuildMismatch("the members of the recipe need other images, or more surrounding bytes")
    rest = memoryview(surround)
    used = 0
    for member, stream, (before, around, count), side in zip(members, streams, counts, sides, strict=True):
        out.write(rest[:before])
        own = bytes(rest[before : before + around])
        rest = rest[before + around :]
        sink = None if stream is None else _sink(stream, rest[:side], out)
        target = out if sink is None else cast("BinaryIO", sink)
        source.rebuild_member(member["format"], member["recipe"], own, images[used : used + count], target)
        if sink is not None:
            sink.finish()
        rest, used = rest[side:], used + count
    out.write(rest)


def sides_of(recipe: Mapping[str, Any]) -> list[int]:
    """Bytes that follow those around each member, and tell of its stream. Raises RebuildMismatch."""
    return [_side_bytes(stream) for stream in recipe["streams"]]


def _side_bytes(stream: Mapping[str, Any] | None) -> int:
    if stream is None:
        return 0
    return side_bytes(stream) if "pieces" in stream else int(stream.get("differences", 0))


def _sink(stream: Mapping[str, Any], side: memoryview, out: BinaryIO) -> ChainSink | DeflateSink:
    return ChainSink(stream, side, out) if "pieces" in stream else DeflateSink(stream, side, out)
