"""ZIP, and so NPZ: members that hold image files, stored or deflated, taken apart where they lie.

Where members lie is read from the central directory (APPNOTE 6.3). Names, directories, checksums and every member that
is no image stay in the surrounding bytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from struct import unpack_from
from typing import Any, BinaryIO, cast

from callic_archive.errors import MalformedSource, SourceError, SourceTooLarge, TruncatedSource
from callic_archive.images import source
from callic_archive.images.layout import Image
from callic_archive.images.members import Member, join, rebuild_members
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import MEMBER_HEAD, Limits, Parsed, ViewFile
from callic_archive.images.streams import BEST, DEFAULT, FAST, find, inflate, inflate_head

_STORED, _DEFLATED, _ENCRYPTED = 0, 8, 1
_LEVELS = {2: BEST, 4: FAST, 6: FAST}  # bits 1 and 2 of the general purpose flags of a deflated member


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Archives without images, and broken ones, are not taken: ZIP is no image format."""
    try:
        with zipfile.ZipFile(cast("BinaryIO", ViewFile(data))) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, ValueError, LookupError, NotImplementedError, OSError) as error:
        raise NotTaken("members") from error
    limits.check_blocks(len(listed))
    members: list[Member] = []
    at = spent = 0
    for info in sorted(listed, key=lambda i: i.header_offset):
        if info.compress_type not in (_STORED, _DEFLATED) or info.flag_bits & _ENCRYPTED:
            continue
        try:
            start, end = _span(data, info)
            if start < at:
                continue  # shared bytes: an honest writer does not, and a bomb would be inflated many times
            at = end
            member = _member(data[start:end], start, info, limits, spent)
        except SourceTooLarge:
            raise
        except (SourceError, NotTaken):
            continue  # one broken member says nothing about the others: it stays as it is
        if member is not None:
            members.append(member)
            spent += info.file_size if member.deflate is not None else 0
    if not members:
        raise NotTaken("members")
    return join("zip", data, members, limits)


def _span(data: memoryview, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a member begin and end. Raises SourceError subclasses."""
    offset = info.header_offset
    if offset < 0 or offset + 30 > len(data) or bytes(data[offset : offset + 4]) != b"PK\3\4":
        raise MalformedSource("a member of the ZIP file is not where its directory says")
    name, extra = unpack_from("<HH", data, offset + 26)
    start = offset + 30 + name + extra
    if info.compress_size < 0 or start + info.compress_size > len(data):
        raise TruncatedSource("a member of the ZIP file ends behind the file")
    return start, start + info.compress_size


def _member(
    packed: memoryview, start: int, info: zipfile.ZipInfo, limits: Limits, spent: int
) -> Member | None:
    """A member as images, or None. Raises NotTaken and SourceError subclasses."""
    deflate, side, raw = None, b"", packed
    if info.compress_type == _DEFLATED:
        if not source.is_member(inflate_head(packed, MEMBER_HEAD)):
            return None
        raw, used = inflate(packed, limits, spent)
        if used != len(packed):
            return None
    elif not source.is_member(packed[:MEMBER_HEAD]):
        return None
    inner = source.parse_member(raw, limits)
    if info.compress_type == _DEFLATED:
        named = find(raw, packed, _LEVELS.get(info.flag_bits & 6, DEFAULT))
        if named is None:
            return None
        deflate, side = named
    return Member(start, start + len(packed), deflate, inner, side)


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_members(recipe, surround, images, out)
