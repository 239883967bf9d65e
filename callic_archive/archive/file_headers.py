"""What a file that went through the codec says of its samples: its header, read out of the bytes around its images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from callic_archive.archive.entries import Entry
from callic_archive.archive.pieces import pictures_from
from callic_archive.archive.rejoining import form_of_share, piece_bytes, shares
from callic_archive.errors import RebuildMismatch
from callic_archive.images.layout import layouts_from_json
from callic_archive.images.sample_types import Header, Types, laid_out, tells_all, types_in, types_of
from callic_archive.images.source import Context
from callic_archive.images.splice import around, in_order

if TYPE_CHECKING:
    from callic_archive.archive.reading import Archive

_MOST = 256 << 20  # bytes around the images of a file that is cut; with more, something else is in it
Run = tuple[int, bytes]


def types_of_entry(archive: Archive, entry: Entry, context: Context | None) -> Types | None:
    """The types of the images of an entry, where its header tells more than ``entry.images`` does.

    ``context`` is what lies beside a chunk of a zarr array, or beside samples alone. Raises EntryDamaged and its kin.
    """
    format = entry.format or ""
    if all(tells_all(format, info.dtype) for info in entry.images):
        return None
    if entry.method == "pieces":
        header = Header(memoryview(b""), 0) if context is not None else _laid_out(archive, entry)
        return None if header is None else types_in(format, header, entry.recipe, context)
    surround = b"".join(archive.read_bytes(part) for part in entry.parts if part.stream is None)
    return types_of(format, entry.recipe, surround, context)


def _laid_out(archive: Archive, entry: Entry) -> Header | None:
    """A file that was cut, without its samples; None where too much else is in it, or its pieces do not fit."""
    rest = sum(piece.size for piece in entry.pieces if not piece.images)
    if rest > _MOST:
        return None
    try:
        runs = (run for share in shares(entry) for run in _runs(archive, share))
        return laid_out(runs, entry.size)
    except (RebuildMismatch, ValueError, LookupError, TypeError, OSError):
        return None


def _runs(archive: Archive, share: Entry) -> Iterator[Run]:
    """What a piece has besides samples, in its places in the file."""
    piece = share.pieces[0]
    if not piece.images:
        yield from _placed(share, [(0, bytes(piece_bytes(archive, share)[0]))])
        return
    form = form_of_share(archive, share)
    if piece.method == "image":
        surround = b"".join(archive.read_bytes(part) for part in share.parts[1:] if part.stream is None)
        yield from _placed(share, around(form, surround))
        return
    blocks = in_order(layouts_from_json(form["layouts"]))
    if sum(length for _, length, _, _ in blocks) < piece.size:
        data, at = bytes(piece_bytes(archive, share)[0]), 0
        gaps = []
        for offset, length, _, _ in [*blocks, (piece.size, 0, 0, 0)]:
            gaps += [(at, data[at:offset]), (offset, data[offset : offset + 1] if length else b"")]
            at = offset + length
        yield from _placed(share, gaps)


def _placed(share: Entry, runs: Iterator[Run] | list[Run]) -> Iterator[Run]:
    """Runs of a piece where they lie in the file."""
    spans = list(share.pieces[0].spans)
    begins = np.cumsum([0, *(length for _, length in spans)])
    for at, data in runs:
        number = int(np.searchsorted(begins, at, "right")) - 1
        while data and number < len(spans):
            within = at - int(begins[number])
            taken = data[: spans[number][1] - within]
            yield spans[number][0] + within, taken
            at, data, number = at + len(taken), data[len(taken) :], number + 1


def has_signed_bytes(archive: Archive, entry: Entry, number: int) -> bool:
    """Whether image ``number`` of a file that was cut has bytes with a sign, which are coded with that turned."""
    if pictures_from(entry.recipe)[number].dtype != "uint8":
        return False
    for share in shares(entry):
        for place, (of, _, _) in enumerate(share.pieces[0].images):
            if of == number:
                kinds = [
                    layout.dtype
                    for layout in layouts_from_json(form_of_share(archive, share)["layouts"])
                    for _ in range(layout.images)
                ]
                return place < len(kinds) and kinds[place] == "|i1"
    return False
