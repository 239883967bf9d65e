"""Large files whose pieces are being packed: what is left to do of each, and its entry once all is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from callic_archive.archive.codecs import CodecPlan
from callic_archive.archive.entries import Entry, joined, relocated
from callic_archive.archive.pack_pieces import CutFile, PieceBatch, batches_of, remove_copy
from callic_archive.archive.scan import Source
from callic_archive.images import cutting


@dataclass
class _Open:
    cut: CutFile
    shares: dict[int, Entry] = field(default_factory=dict)  # by the offset of their first byte
    twins: list[CutFile] = field(default_factory=list)  # files of the same bytes


class CutFiles:
    """All of a run; not for several threads."""

    def __init__(self) -> None:
        self.known: dict[str, list[Entry]] = {}  # by path: shares that an earlier run packed
        self._open: dict[str, _Open] = {}  # by path
        self._ready: list[PieceBatch] = []

    def __len__(self) -> int:
        """Files of which pieces are missing."""
        return len(self._open)

    @property
    def pieces(self) -> tuple[int, int]:
        """Pieces that are done, and all pieces, of the files that are open."""
        return (
            sum(len(one.shares) for one in self._open.values()),
            sum(len(one.cut.pieces) for one in self._open.values()),
        )

    def begin(self, cut: CutFile, plan: CodecPlan) -> bool:
        """Take up a file; False where another one has the same bytes, or where it was taken up before."""
        path = cut.entry.path
        if path in self._open:
            remove_copy(cut.copy)
            return False
        for other in self._open.values():
            if other.cut.entry.sha256 == cut.entry.sha256:
                remove_copy(cut.copy)
                other.twins.append(cut)
                return False
        one = self._open[path] = _Open(cut)
        known = {
            share.pieces[0].first: share for share in self.known.pop(path, ()) if _same(share, cut.entry)
        }
        left: list[cutting.Piece] = []
        for piece in cut.pieces:
            share = known.get(piece.first)
            if share is not None and _is(share, piece):
                one.shares[piece.first] = share
            else:
                left.append(piece)
        self._ready += batches_of(cut, left, plan.for_pieces([*cut.adapters.values()]))
        return True

    def add(self, share: Entry) -> None:
        """A piece is packed; the first share of each counts."""
        one = self._open.get(share.path)
        if one is not None:
            one.shares.setdefault(share.pieces[0].first, share)

    def take(self) -> list[PieceBatch]:
        """What is to be packed, and was not taken yet."""
        ready, self._ready = self._ready, []
        return ready

    def completed(self) -> Iterator[tuple[Source, Entry]]:
        """Files of which all pieces are there now, each once, with their entries."""
        for path, one in list(self._open.items()):
            if len(one.shares) < len(one.cut.pieces):
                continue
            del self._open[path]
            remove_copy(one.cut.copy)
            entry = joined(one.cut.entry, one.shares.values())
            yield one.cut.source, entry
            for twin in one.twins:
                yield twin.source, relocated(twin.entry, entry)


def _same(share: Entry, entry: Entry) -> bool:
    return (share.size, share.sha256, share.format) == (entry.size, entry.sha256, entry.format)


def _is(share: Entry, piece: cutting.Piece) -> bool:
    row = share.pieces[0]
    images = tuple((image.number, image.top, image.left) for image in piece.images)
    return (row.offsets, row.lengths, row.images) == (piece.offsets, piece.lengths, images)
