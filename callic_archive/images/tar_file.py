"""TAR (POSIX ustar and pax, GNU): members that are image files, taken apart where they lie.

Headers, names, padding and every member that is no image stay in the surrounding bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from callic_archive.errors import SourceError, SourceTooLarge
from callic_archive.images import source
from callic_archive.images.layout import Image
from callic_archive.images.members import Member, join, rebuild_members
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import MEMBER_HEAD, Limits, Parsed

_BLOCK = 512
_FILES, _BARE = (b"0", b"\0", b"7"), (b"1", b"2", b"3", b"4", b"5", b"6")  # kinds of members: files, and those without bytes
_MOST_ZEROS = 2048  # blocks between two archives
_MOST_PAX = 1 << 20  # bytes of a pax header that are read


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
    """Where the bytes of files begin and end, in order: up to what is no header, over the zeros between archives that were put
    behind each other. Of names nothing is read."""
    at = zeros = 0
    told: int | None = None  # by the pax header before
    while at + _BLOCK <= len(data) and zeros <= _MOST_ZEROS:
        header = bytes(data[at : at + _BLOCK])
        at += _BLOCK
        if not any(header):
            zeros, told = zeros + 1, None
            continue
        size = _size(header)
        if size is None:
            return
        kind, zeros = header[156:157], 0
        if kind == b"S":  # GNU's map of holes goes on in blocks of its own
            more = header[482]
            while more and at + _BLOCK <= len(data):
                more = data[at + 504]
                at += _BLOCK
        size = told if told is not None and kind in _FILES else size
        end = at + size
        if end > len(data):
            return
        if kind in _BARE:
            end = at  # whatever they say
        elif kind in _FILES and at < end:
            yield at, end
        if kind in _FILES:
            told = None
        elif kind == b"x":
            told = _pax_size(bytes(data[at : min(end, at + _MOST_PAX)]))
        at = end + -(end - at) % _BLOCK


def _size(header: bytes) -> int | None:
    """Bytes of a member; None of what is no header: its checksum is wrong, or its size no number from 0."""
    field = header[124:136]
    try:
        told = int(header[148:156].split(b"\0")[0].strip() or b"0", 8)
        size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None
    blank = header[:148] + b" " * 8 + header[156:]
    signed = sum(blank) - 256 * sum(byte > 127 for byte in blank)  # as some wrote it
    return size if told in (sum(blank), signed) and size >= 0 else None


def _pax_size(records: bytes) -> int | None:
    """The size that a pax header tells of the next member, if any."""
    found = re.search(rb"(?:^|\n)[0-9]{1,20} size=([0-9]{1,18})\n", records)
    return int(found[1]) if found else None


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_members(recipe, surround, images, out)
