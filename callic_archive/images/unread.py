"""Image files that are recognised by their first bytes, but not taken apart: why they are kept as they are."""

from __future__ import annotations

import re

from callic_archive.errors import TruncatedSource

_JPEG = b"\xff\xd8\xff"
_BEGINNINGS = (
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",  # JP2
    b"\xff\x4f\xff\x51",  # a JPEG 2000 codestream
    b"\x00\x00\x00\x0cJXL \r\n\x87\n",
    b"\xff\x0a",  # a JPEG XL codestream
)
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
# Markers that end a scan: no restart, and no byte that was stuffed, be it after JPEG's rule or JPEG-LS's.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_SCAN, _END = 0xDA, 0xD9


def reason_of(data: bytes | memoryview) -> str | None:
    """Why a file is kept as it is that nobody took apart; None of what claims to be no image."""
    head = bytes(data[:16])
    if head.startswith(_JPEG):
        return "jpeg-kind"
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    heif = head[4:8] == b"ftyp" and head[8:12] in _BRANDS
    return "no-reader" if webp or heif or head.startswith(_BEGINNINGS) else None


def check_jpeg_ends(data: bytes | memoryview) -> None:
    """Raises TruncatedSource where a JPEG file surely ends too early: in the coded data of a scan. What is broken otherwise, or
    no JPEG file, is not judged."""
    raw = bytes(data)
    if not raw.startswith(_JPEG):
        return
    at = 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        marker, length = raw[at + 1], int.from_bytes(raw[at + 2 : at + 4], "big")
        if marker < 0xC0 or 0xD0 <= marker <= _END or marker == 0xFF or length < 2:
            return
        at += 2 + length
        if marker == _SCAN and at <= len(raw):
            found = _MARKER.search(raw, at)
            if found is None:
                raise TruncatedSource("the JPEG file ends inside its coded data, without an end-of-image marker")
            at = found.start()
