"""A look into large files: some of their pieces, taken apart one by one, where whole files would not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from callic_archive.errors import SourceError
from callic_archive.images import cutting
from callic_archive.images.outline import Outline, outline
from callic_archive.images.pieces import parse_piece
from callic_archive.images.source import Context, Limits, Parsed


@dataclass(frozen=True)
class Sampled:
    """A piece of a large file, and the bytes of the file that it is."""

    parsed: Parsed
    bytes: int


def outline_if_large(
    data: bytes | memoryview, context: Context | None, limits: Limits, piece: int = cutting.PIECE
) -> Outline | None:
    """The outline of a file that is large enough to be cut, or None."""
    found = outline(data, context, limits)
    return found if found is not None and cutting.is_large(found, piece) else None


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
