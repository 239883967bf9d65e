"""gzip (RFC 1952): one member or many that hold an image file, as with ``.nii.gz``; many also as BGZF has them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, SourceError, TruncatedSource
from callic_archive.images import gzip_chain, source
from callic_archive.images.layout import Image
from callic_archive.images.members import Member, deflated, join, rebuild_members
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import HEAD, MEMBER_HEAD, Limits, Parsed
from callic_archive.images.streams import BEST, DEFAULT, FAST, inflate, inflate_head

MAGIC = b"\x1f\x8b\x08"
_MOST_MEMBERS = 1 << 20
_HEADER_CRC, _EXTRA, _NAME, _COMMENT, _RESERVED = 2, 4, 8, 16, 0xE0


def body_start(data: memoryview, at: int = 0) -> int:
    """Where the deflate stream of the gzip member at ``at`` begins. Raises TruncatedSource, MalformedSource."""
    if len(data) < at + 18:
        raise TruncatedSource("the gzip file ends inside its header")
    if bytes(data[at : at + 3]) != MAGIC or data[at + 3] & _RESERVED:
        raise MalformedSource("the gzip header is broken")
    flags, start = data[at + 3], at + 10
    if flags & _EXTRA:
        start += 2 + int.from_bytes(data[start : start + 2], "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            end = bytes(data[start : start + (1 << 16)]).find(b"\0")
            if end < 0:
                raise MalformedSource("the gzip header has a text without end")
            start += end + 1
    start += 2 if flags & _HEADER_CRC else 0
    if start + 8 > len(data):
        raise TruncatedSource("the gzip file ends inside its header")
    return start


def likely_level(data: memoryview, at: int = 0) -> bytes:
    """What the header's extra flags say about the level, for ``streams.find``."""
    return {2: BEST, 4: FAST}.get(data[at + 8], DEFAULT)


def unpack(data: memoryview, limits: Limits, at: int = 0, spent: int = 0) -> tuple[memoryview, int, int]:
    """What the gzip member at ``at`` holds, and where its deflate stream begins and ends.

    ``spent`` bytes count against the limit already.

    Raises SourceError subclasses: also where the checksum or the length behind the stream are wrong.
    """
    start = body_start(data, at)
    raw, length = inflate(data[start:], limits, spent)
    end = start + length
    if end + 8 > len(data):
        raise TruncatedSource("the gzip file ends inside its checksum")
    told = (int.from_bytes(data[end : end + 4], "little"), int.from_bytes(data[end + 4 : end + 8], "little"))
    if told != (zlib.crc32(raw), len(raw) & 0xFFFFFFFF):
        raise MalformedSource("the gzip file does not hold what its checksum says")
    return raw, start, end


def unpack_one(data: memoryview, start: int, limits: Limits) -> tuple[memoryview, int, int]:
    """``unpack``, where the file has that member alone. Raises NotTaken where more follow, and SourceError subclasses."""
    if bytes(data[start : start + 3]) != MAGIC:
        raise MalformedSource("samples are said to be gzipped, and are not")
    raw, begin, end = unpack(data, limits, start)
    if bytes(data[end + 8 : end + 10]) == MAGIC[:2]:
        raise NotTaken("variant")  # their joint contents are no single deflate stream
    return raw, begin, end


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Other contents than images, and streams that cannot be made again, are not taken."""
    head = inflate_head(data[body_start(data) :], MEMBER_HEAD)
    claimed = source.is_member(head)
    if not claimed and len(head) >= HEAD:
        raise NotTaken("members")
    try:
        return _parse(data, limits)
    except SourceError as error:
        if claimed:
            raise
        raise NotTaken("members") from error  # the first member was too short to tell


def _parse(data: memoryview, limits: Limits) -> Parsed:
    raw, start, end = unpack(data, limits)
    if bytes(data[end + 8 : end + 11]) == MAGIC:
        return _parse_chain(data, raw, gzip_chain.Piece(start, end, len(raw)), limits)
    inner = source.parse_member(raw, limits)
    return deflated("gzip", data, (start, end), raw, inner, likely_level(data), limits)


def _parse_chain(
    data: memoryview, first: memoryview, piece: gzip_chain.Piece, limits: Limits
) -> Parsed:
    """A file of several members; what follows the last, zeros mostly, is kept."""
    pieces, whole = [piece], bytearray(first)
    looked = False
    while True:
        if not looked and len(whole) >= HEAD:
            looked = True
            if not source.is_member(bytes(whole[:HEAD])):
                raise NotTaken("members")
        at = pieces[-1].end + 8
        if bytes(data[at : at + 3]) != MAGIC:
            break
        if len(pieces) >= _MOST_MEMBERS:
            raise NotTaken("variant")
        raw, start, end = unpack(data, limits, at, len(whole))
        pieces.append(gzip_chain.Piece(start, end, len(raw)))
        whole += raw
    if not looked and not source.is_member(bytes(whole[:HEAD])):
        raise NotTaken("members")
    joined = memoryview(whole).toreadonly()
    inner = source.parse_member(joined, limits)
    found = gzip_chain.describe(data, pieces, joined, int.from_bytes(likely_level(data), "big"))
    if found is None:
        raise NotTaken("encoder")
    return join("gzip", data, [Member(piece.start, pieces[-1].end, found[0], inner, found[1])], limits)


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    rebuild_members(recipe, surround, images, out)
