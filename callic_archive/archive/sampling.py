"""A look into large files: some of their pieces, taken apart one by one, where whole files would not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from callic_archive.errors import SourceError
from callic_archive.images import cutting
from callic_archive.images.jpeg_streams import find
from callic_archive.images.outline import Outline, outline
from callic_archive.images.pieces import parse_piece
from callic_archive.images.source import Context, Limits, Parsed

_WITH_STREAMS = ("tiff", "dicom")  # formats whose samples may be JPEG streams
_WINDOW = 4 << 20


@dataclass(frozen=True)
class Sampled:
    """A piece of a large file, and the bytes of the file that it is."""

    parsed: Parsed
    bytes: int


def outline_if_large(
    data: bytes | memoryview, context: Context | None, limits: Limits, piece: int = cutting.PIECE
) -> Outline | None:
    """The outline of a file that is large enough to be cut, or None; without rasters where JPEG streams take their place."""
    found = outline(data, context, limits, empty=True)
    if found is None or not cutting.is_large(found, piece):
        return None
    return found if found.rasters or (found.format in _WITH_STREAMS and has_streams(data)) else None


def has_streams(data: bytes | memoryview) -> bool:
    """Whether JPEG streams lie in any of a few windows."""
    view = memoryview(data).cast("B")
    starts = (0, max(0, len(view) // 2 - _WINDOW // 2), max(0, len(view) - _WINDOW))
    return any(find(view[start : start + _WINDOW]).streams for start in starts)


def some_pieces(
    data: bytes | memoryview, found: Outline, most: int, piece: int = cutting.PIECE
) -> Iterator[Sampled]:
    """Up to ``most`` pieces with images, spread over the file; none of a file that cannot be cut."""
    view = memoryview(data).cast("B")
    coded = [part for part in cutting.cut(found, piece) or () if part.images]
    step = max(1, -(-len(coded) // most))
    for part in coded[step // 2 :: step]:
        raw = b"".join(view[offset : offset + length] for offset, length in cutting.spans_of(part))
        with suppress(SourceError):
            parsed = parse_piece(found.format, part.form, raw)
            if parsed is not None and parsed.images:
                yield Sampled(parsed, part.size)
