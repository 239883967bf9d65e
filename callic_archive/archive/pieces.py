"""What an entry says of the pieces that its file was cut into: where each lies in the file, and what proves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from callic_archive.archive.parts import MAX_SIZE, check_digest, one_of, whole_number

Json = Any
Runs = tuple[tuple[int, int, int], ...]  # (first, step, count)
MOST_SPANS = 1 << 24  # of all pieces of a file
MOST_IMAGES = 1 << 16  # of a file
_RANGES = {
    "uint8": (0, 0xFF), "uint16": (0, 0xFFFF), "int16": (-0x8000, 0x7FFF),
    "uint32": (0, 0xFFFFFFFF), "uint64": (0, (1 << 64) - 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a file that was cut: its pieces hold parts of it, all else of it is ``fill``."""

    shape: tuple[int, ...]
    dtype: str
    fill: int = 0

    def as_json(self) -> dict[str, Json]:
        """An item of the field ``images``."""
        row: dict[str, Json] = {"shape": list(self.shape), "dtype": self.dtype}
        return row | ({"fill": self.fill} if self.fill else {})

    @classmethod
    def from_json(cls, row: Mapping[str, Json]) -> Picture:
        """Check and read what ``as_json`` wrote. Raises KeyError, TypeError, ValueError."""
        shape = tuple(whole_number(extent, "shape", MAX_SIZE) for extent in row["shape"])
        if not 2 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError(f"an image has the shape {shape}")
        dtype = one_of(row, "dtype", tuple(_RANGES))
        fill = row.get("fill", 0)
        low, high = _RANGES[dtype]
        if type(fill) is not int or not low <= fill <= high:
            raise ValueError(f"an image of {dtype} is filled with {str(fill)[:40]}")
        return cls(shape, dtype, fill)


@dataclass(frozen=True, slots=True)
class PieceRow:
    """One piece: its bytes, and the next ``parts`` parts of the entry hold them."""

    offsets: Runs  # of its spans in the file, in order
    lengths: Runs
    size: int
    sha256: str
    method: Literal["image", "stored"]
    fidelity: Literal["bytes", "content"]
    parts: int
    images: tuple[tuple[int, int, int], ...] = ()  # (number, top, left) of each
    content_sha256: str | None = None  # of pieces with the method ``image``

    @property
    def first(self) -> int:
        """Offset of its first byte in the file."""
        return self.offsets[0][0]

    @property
    def spans(self) -> Iterator[tuple[int, int]]:
        """(offset, length) in the file, in the order of the piece's bytes."""
        return zip(_numbers(self.offsets), _numbers(self.lengths), strict=True)

    def as_json(self) -> dict[str, Json]:
        """An item of the field ``pieces``."""
        row: dict[str, Json] = {
            "spans": [[list(run) for run in self.offsets], [list(run) for run in self.lengths]],
            "sha256": self.sha256,
            "method": self.method,
            "parts": self.parts,
        }
        if self.images:
            row["images"] = [list(image) for image in self.images]
        if self.content_sha256 is not None:
            row["content_sha256"] = self.content_sha256
        return row | ({"fidelity": self.fidelity} if self.fidelity != "bytes" else {})

    @classmethod
    def from_json(cls, row: Mapping[str, Json], size: int, images: int) -> PieceRow:
        """Check and read what ``as_json`` wrote, of a file of ``size`` bytes and so many images.

        Raises KeyError, TypeError, ValueError.
        """
        offsets, lengths = (_runs(runs) for runs in row["spans"])
        if sum(n for *_, n in offsets) != sum(n for *_, n in lengths) or not offsets:
            raise ValueError("a piece has no spans, or another number of offsets than of lengths")
        if _least(offsets) < 0 or _least(lengths) < 1 or _most(offsets) >= size or _most(lengths) > size:
            raise ValueError("a piece lies beyond its file")
        method = one_of(row, "method", ("image", "stored"))
        placed = tuple(
            (
                whole_number(number, "the number of an image", images - 1),
                whole_number(top, "top", MAX_SIZE),
                whole_number(left, "left", MAX_SIZE),
            )
            for number, top, left in row.get("images", ())
        )
        if method == "image" and not placed:
            raise ValueError("a piece of images has none")
        digest = check_digest(row["content_sha256"]) if method == "image" else None
        fidelity = one_of(row, "fidelity", ("bytes", "content")) if "fidelity" in row else "bytes"
        total = sum(count * first + step * (count * (count - 1) // 2) for first, step, count in lengths)
        parts = whole_number(row["parts"], "parts", MAX_SIZE)
        return cls(
            offsets, lengths, whole_number(total, "the size of a piece", size), check_digest(row["sha256"]),
            method, cast("Literal['bytes', 'content']", fidelity), parts, placed, digest,
        )  # fmt: skip


def pictures_from(recipe: Mapping[str, Json]) -> tuple[Picture, ...]:
    """The images of an entry whose file was cut. Raises KeyError, TypeError, ValueError."""
    rows = recipe["images"]
    if not isinstance(rows, list) or len(rows) > MOST_IMAGES:
        raise ValueError("the images of a file are no list, or too many")
    return tuple(Picture.from_json(row) for row in rows)


def pieces_from(rows: Json, size: int, images: int, parts: int) -> tuple[PieceRow, ...]:
    """The pieces of an entry with so many parts. Raises KeyError, TypeError, ValueError."""
    if not isinstance(rows, list):
        raise TypeError("pieces is not a list")
    pieces = tuple(PieceRow.from_json(row, size, images) for row in rows)
    if sum(piece.parts for piece in pieces) != parts:
        raise ValueError("its pieces have another number of parts")
    if sum(count for piece in pieces for *_, count in piece.offsets) > MOST_SPANS:
        raise ValueError(f"its pieces lie at more than {MOST_SPANS} places")
    return pieces


def in_order(pieces: Sequence[PieceRow]) -> bool:
    """Whether the pieces, one after the other, are bytes of a file without a step back or a gap."""
    end = pieces[0].first if pieces else 0
    for piece in pieces:
        for offset, length in piece.spans:
            if offset != end:
                return False
            end += length
    return True


def covers(pieces: Sequence[PieceRow], size: int) -> bool:
    """Whether pieces are a whole file of ``size`` bytes, each byte of it once."""
    if sum(piece.size for piece in pieces) != size:
        return False
    end = 0
    for offset, length in sorted(span for piece in pieces for span in piece.spans):
        if offset != end:
            return False
        end += length
    return end == size


def _runs(values: Json) -> Runs:
    runs = []
    for first, step, count in values:
        numbers = (
            whole_number(first, "a span", MAX_SIZE),
            whole_number(step, "a step", None),
            whole_number(count, "a count", MOST_SPANS),
        )
        if numbers[2] < 1:
            raise ValueError("a run of spans is empty")
        runs.append(numbers)
    return tuple(runs)


def _numbers(runs: Runs) -> Iterator[int]:
    for first, step, count in runs:
        for n in range(count):
            yield first + step * n


def _least(runs: Runs) -> int:
    return min(min(first, first + step * (count - 1)) for first, step, count in runs)


def _most(runs: Runs) -> int:
    return max(max(first, first + step * (count - 1)) for first, step, count in runs)
