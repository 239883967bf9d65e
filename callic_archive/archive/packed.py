"""What packing one file gives, piece by piece, and what it may do for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from callic_archive.archive.candidates import Coder, smallest
from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.parts import Coding
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.errors import CallicError
from callic_archive.images.cutting import PIECE
from callic_archive.images.source import Limits

INLINE = 4096  # bytes of payload up to which a piece lies in its entry's own record
# bytes, about: of an entry's lines for one more piece, for its record where it has one, and for an image's digest
PIECE_COST, RECORD_COST, IMAGE_COST = 30, 80, 100


@dataclass(frozen=True)
class PackOptions:
    """What ``pack_one`` may do."""

    # "bytes" stores a file verbatim where only its content would come back
    fidelity: Literal["auto", "bytes"] = "auto"
    verify: bool = True  # False leaves out the decoding of codestreams, never the proof of the rebuilding
    limits: Limits = field(default_factory=Limits)
    piece_bytes: int = PIECE  # of the pieces of large files, about; files from four times as much are cut
    coder: Coder = smallest  # how images are coded
    quick_jpeg: bool = False  # whether JPEG streams go to JPEG XL, ten times as fast and a tenth larger
    bands: bool = True  # whether files that are bands of one scene are coded as one image


@dataclass(frozen=True)
class Piece:
    """The payload of one record and what it is."""

    type: RecordType
    payload: bytes
    coding: Coding
    size: int  # bytes before coding
    stream: StreamInfo | None = None
    written: RecordRef | None = None  # where it lies already, with what it shares its record with


@dataclass(frozen=True)
class Packed:
    """One file, ready to be written. ``pieces`` may be consumed once; large verbatim files are compressed on
    the way.
    """

    sha256: str
    size: int
    method: Literal["image", "stored", "sparse", "pieces", "none"]
    fidelity: Literal["bytes", "content"]
    pieces: Iterator[Piece]
    format: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    content_sha256: str | None = None
    failure: CallicError | None = None  # what went wrong with a file that claims to be an image, or
    reason: str | None = None  # one of ``REASONS``, why it was stored verbatim


def cost_of(payload: int) -> int:
    """Bytes that a piece of ``payload`` bytes costs an archive, about."""
    return payload + PIECE_COST + (RECORD_COST if payload > INLINE else 0)
