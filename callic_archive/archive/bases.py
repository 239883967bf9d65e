"""Pieces of files that resemble a piece of an earlier file: kept as what differs from it.

Slices of one scan have nearly the same header, sidecars of one study nearly the same text. The first piece of
a kind is stored as ever; later ones, where that saves something, as Zstandard frames made against it. What so
depends on a piece would be lost with it, so the first dependents are few, and before there are more the piece
is stored a second time: a damaged record never costs more than DEPENDENTS files besides its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import zstandard

from callic_archive.archive.packed import Piece
from callic_archive.archive.parts import Base, Place
from callic_archive.archive.verbatim import expand

LEAST, MOST = 96, 256 << 10  # bytes of a piece, before coding
SAVING = 64  # bytes that a reference to the base has to earn
DEPENDENTS = 8  # files that may depend on a record that has no copy
GENERATION = 1024  # files that may depend on two records
KINDS, BASES_OF_A_KIND = 16, 2  # kept in memory
LEVEL = 19


@dataclass
class _Known:
    raw: bytes
    piece: Piece
    places: tuple[Place, ...]
    uses: int = 0

    def base(self) -> Base:
        coding = "zstd" if self.piece.coding == "zstd" else "raw"
        return Base(self.places, coding, self.piece.size)  # type: ignore[arg-type]


class Bases:
    """The pieces that one shard's writer remembers."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[str, list[_Known]] = OrderedDict()

    def clear(self) -> None:
        """Forget everything; a new shard depends on no other."""
        self._kinds.clear()

    def shorten(self, piece: Piece, kind: str, copy: Callable[[bytes], Place]) -> tuple[Piece, Base | None]:
        """``piece``, perhaps coded against a remembered piece of its ``kind``.

        ``copy`` writes a payload once more and tells where it lies.
        """
        if piece.coding not in ("raw", "zstd") or not LEAST <= piece.size <= MOST:
            return piece, None
        known = self._kinds.get(kind, [])
        if not known or len(piece.payload) <= SAVING:
            return piece, None
        raw = expand(piece.payload, piece.coding, piece.size)
        best, found = None, piece
        for candidate in known:
            payload = _against(raw, candidate.raw)
            if len(payload) + SAVING < len(piece.payload) and (not best or len(payload) < len(found.payload)):
                best, found = candidate, Piece(piece.type, payload, "zstd", piece.size)
        if best is None or expand(found.payload, "zstd", piece.size, best.raw) != raw:
            return piece, None
        if best.uses == DEPENDENTS:
            best.places = (*best.places, copy(best.piece.payload))
        best.uses += 1
        if best.uses >= GENERATION:
            known.remove(best)
        return found, best.base()

    def remember(self, piece: Piece, kind: str, place: Place) -> None:
        """Take a piece that was stored for itself, so that others may be coded against it."""
        if piece.coding not in ("raw", "zstd") or not LEAST <= piece.size <= MOST:
            return
        known = self._kinds.setdefault(kind, [])
        self._kinds.move_to_end(kind)
        known.insert(0, _Known(expand(piece.payload, piece.coding, piece.size), piece, (place,)))
        del known[BASES_OF_A_KIND:]
        while len(self._kinds) > KINDS:
            self._kinds.popitem(last=False)


def _against(raw: bytes, base: bytes) -> bytes:
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=dictionary, write_content_size=True)
    return compressor.compress(raw)
