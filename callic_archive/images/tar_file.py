"""TAR (POSIX ustar and pax, GNU): members that are image files, taken apart where they lie.

Headers, names, padding and every member that is no image stay in the surrounding bytes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

from callic_archive.errors import SourceError, SourceTooLarge
from callic_archive.images import source
from callic_archive.images.layout import Image
from callic_archive.images.members import Member, join, rebuild_members
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import MEMBER_HEAD, Limits, Parsed, ViewFile


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Archives without images are not taken; of broken ones what comes before the break is, and
    of large ones what fits into memory."""
    members: list[Member] = []
    taken = count = at = 0
    for start, end in _spans(data):
        count += 1
        limits.check_blocks(count)
        if start < at or not source.is_member(data[start : min(end, start + MEMBER_HEAD)]):
            continue
        at = end
        try:
            inner = source.parse_member(data[start:end], limits)
        except SourceTooLarge:
            raise
        except (SourceError, NotTaken, *source.BROKEN):
            continue  # one broken member says nothing about the others: it stays as it is
        taken += sum(image.nbytes for image in inner.images)
        if taken > limits.max_member_bytes:
            break  # all of them lie in memory
        members.append(Member(start, end, None, inner))
    if not members:
        raise NotTaken("members")
    return join("tar", data, members, limits)


def _spans(data: memoryview) -> Iterator[tuple[int, int]]:
    """Where the bytes of files begin and end, in order."""
    try:
        with tarfile.open(fileobj=cast("BinaryIO", ViewFile(data)), mode="r:") as archive:
            for info in archive:
                end = info.offset_data + info.size
                if info.isreg() and not info.issparse() and info.offset_data < end <= len(data):
                    yield info.offset_data, end
    except (tarfile.TarError, ValueError, LookupError, OSError, EOFError):
        return


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_members(recipe, surround, images, out)
