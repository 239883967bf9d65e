"""JPEG streams (ITU-T T.81) inside other files: where they lie, told by their own markers alone.

Tiles of slides, frames of DICOM files, pictures in documents: whatever the container, a stream begins with SOI, its
segments tell their lengths, and coded data end at the first marker. So no container has to be understood, but for one
thing: DICOM may cut a stream into fragments, and the heads of the items between them are not part of it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
Span = tuple[int, int]  # offset and length
_BEGIN = re.compile(rb"\xff\xd8\xff")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # what ends coded data
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_ITEM = b"\xfe\xff\x00\xe0"
_HEAD_OF_ITEM = _ITEM + bytes(4)  # tag and length
_SOF, _SOF_TAKEN = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}), (0xC0, 0xC1, 0xC2)
_PROGRESSIVE = 0xC2
_DHT, _DQT, _DRI, _SOS, _EOI = 0xC4, 0xDB, 0xDD, 0xDA, 0xD9
_SKIPPED = frozenset({_DHT, _DQT, _DRI, 0xFE, *range(0xE0, 0xF0)})
_STEPS, _BYTES_A_STEP = 1 << 16, 64  # segments that are looked at: so many, and one more for so many bytes
_LOOKS = 8  # times that all bytes may be looked at, and items of DICOM walked over
_LONGEST_HEAD = 1 << 17  # bytes before coded data, up to which streams are joined
TALLEST = 65500  # rows of a joined stream; libjpeg takes no more


@dataclass(frozen=True)
class Jpeg:
    """What the markers of one stream say. Offsets are from its beginning; 0 stands for what it has not."""

    end: int  # bytes of the stream
    frame: int = 0  # where the segment SOF begins; none: a stream of tables alone
    process: int = 0  # the marker of that segment
    height: int = 0
    width: int = 0
    precision: int = 0
    sampling: tuple[tuple[int, int], ...] = ()  # horizontal and vertical, of each component
    scan: int = 0  # where the segment of the first scan begins,
    scan_end: int = 0  # and the marker behind its coded data
    coded: int = 0  # where its coded data begin
    scanned: int = 0  # components of that scan
    scans: int = 0
    restarts: tuple[Span, ...] = ()  # segments DRI before the first scan
    interval: int = 0  # units between restarts, as the last of them says
    quantization: bool = False  # whether it brings such tables
    huffman: bool = False

    @property
    def taken(self) -> bool:
        """Whether it may be recoded: 8 bits; one, three or four components; baseline, extended or progressive."""
        return (
            self.process in _SOF_TAKEN
            and self.precision == 8
            and len(self.sampling) in (1, 3, 4)
            and min(self.height, self.width, self.scans) > 0
            and all(1 <= n <= 4 for pair in self.sampling for n in pair)
        )

    @property
    def unit(self) -> tuple[int, int]:
        """Rows and columns of pixels that a unit (MCU) of its first scan covers."""
        if len(self.sampling) == 1:
            return 8, 8
        return 8 * max(v for _, v in self.sampling), 8 * max(h for h, _ in self.sampling)

    @property
    def units(self) -> int:
        """Units of the first scan."""
        rows, columns = self.unit
        return -(-self.height // rows) * -(-self.width // columns)

    @property
    def segments(self) -> int:
        """Pieces into which restarts cut the coded data, or 0 where streams like this cannot be joined."""
        joinable = (
            self.process in (0xC0, 0xC1)
            and self.scans == 1
            and self.scanned == len(self.sampling)
            and self.units < 1 << 16
            and self.coded <= _LONGEST_HEAD
        )
        if not joinable:
            return 0
        if not 0 < self.interval < self.units:
            return 1
        count, rest = divmod(self.units, self.interval)
        return 0 if rest else count

    @property
    def possible(self) -> bool:
        """Whether its coded data can hold as many blocks of 8x8 samples as its frame declares.

        Sizes may be forged, and libraries take memory for what is declared. No Huffman code is shorter than a bit, and the
        first value of each block has one of its own; in a sequential stream the end of each block has one too. Blank
        images come near it: with tables of their own, libjpeg codes them in 2 bits a block, progressive ones too.
        """
        if not self.sampling or any(n < 1 for pair in self.sampling for n in pair):
            return True  # no library takes it
        tall, wide = max(v for _, v in self.sampling), max(h for h, _ in self.sampling)
        blocks = sum(
            -(-self.height * v // (8 * tall)) * -(-self.width * h // (8 * wide)) for h, v in self.sampling
        )
        return blocks * (1 if self.process == _PROGRESSIVE else 2) <= 8 * (self.end - self.coded)

    @property
    def rows(self) -> int:
        """Rows that it takes in a joined stream: units are whole there."""
        return -(-self.height // self.unit[0]) * self.unit[0]


@dataclass(frozen=True)
class Stream:
    """One stream and where its bytes lie, in this order."""

    jpeg: Jpeg
    spans: tuple[Span, ...]

    def read(self, data: memoryview) -> bytes:
        """Its bytes."""
        return b"".join(data[at : at + length] for at, length in self.spans)


@dataclass(frozen=True)
class Tables:
    """Streams of tables for streams that lack them, and which of them are meant where that is known."""

    streams: tuple[bytes, ...] = ()
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # of streams, ascending
    numbers: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))  # of their tables
    begin: int = 0  # of the bytes that are looked at, in the file that ``places`` tell of

    def at(self, begin: int) -> Tables:
        """The same for bytes that begin there."""
        return replace(self, begin=begin)

    def number(self, offset: int) -> int | None:
        """Which tables are meant for the stream at ``offset`` of the bytes; None where that is not known."""
        i = int(np.searchsorted(self.places, offset + self.begin))
        if i < len(self.places) and int(self.places[i]) == offset + self.begin:
            return int(self.numbers[i])
        return None


@dataclass(frozen=True)
class Found:
    """Streams in the order of their places, without those of tables alone, which are in ``tables``."""

    streams: list[Stream] = field(default_factory=list)
    tables: list[bytes] = field(default_factory=list)
    open: int | None = None  # where a stream begins that goes on behind the end of the data


class _Ended(Exception):
    """The data end inside a stream."""


class _Steps:
    """How much may still be looked at; streams in streams in streams must not take for ever.

    ``left`` are segments, ``bytes`` those of coded data that were searched and of fragments that were joined, which many
    streams may claim for themselves; ``items`` are items of DICOM.
    """

    def __init__(self, size: int) -> None:
        self.left = _STEPS + size // _BYTES_A_STEP
        self.bytes = _LOOKS * size + _STEPS * _BYTES_A_STEP
        self.items = _LOOKS * size // len(_HEAD_OF_ITEM) + _STEPS

    @property
    def spent(self) -> bool:
        """Whether nothing more may be looked at."""
        return min(self.left, self.bytes, self.items) <= 0


def find(data: memoryview) -> Found:
    """All streams in ``data``."""
    found = Found()
    steps, at, begun = _Steps(len(data)), 0, None
    while not steps.spent and (match := _BEGIN.search(data, at)) is not None:
        start = match.start()
        at = start + 2
        spans = _fragments(data, start, steps)
        view = data[start:] if spans is None else memoryview(b"".join(data[a : a + n] for a, n in spans))
        try:
            jpeg = _read(view, steps)
        except _Ended:
            if begun is None:
                begun = start
            continue
        if jpeg is None:
            continue
        places = ((start, jpeg.end),) if spans is None else _first(spans, jpeg.end)
        at, begun = sum(places[-1]), None
        stream = Stream(jpeg, places)
        if jpeg.taken:
            found.streams.append(stream)
        elif not jpeg.frame:
            found.tables.append(stream.read(data))
    return Found(found.streams, found.tables, begun)


def read(data: memoryview) -> Jpeg | None:
    """The stream at the beginning of ``data``; None where there is no whole one."""
    if bytes(data[:2]) != SOI:
        return None
    try:
        return _read(data, _Steps(len(data)))
    except _Ended:
        return None


def _read(data: memoryview, steps: _Steps) -> Jpeg | None:
    """The stream at the beginning of ``data``, which is SOI. None for what is no stream; raises _Ended."""
    seen: dict[str, object] = {}
    restarts: list[Span] = []
    scans = 0
    at = 2
    while True:
        steps.left -= 1
        if steps.left < 0:
            return None
        if at + 2 > len(data):
            raise _Ended
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == _EOI:
            return Jpeg(at + 2, scans=scans, restarts=tuple(restarts), **seen)  # type: ignore[arg-type]
        if at + 4 > len(data):
            raise _Ended
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        following = at + 2 + length
        if length < 2 or not (marker in _SKIPPED or marker in _SOF or marker == _SOS):
            return None
        if following > len(data):
            raise _Ended
        body = data[at + 4 : following]
        if marker in _SOF:
            if "frame" in seen or not _frame(body, seen):
                return None
            seen |= {"frame": at, "process": marker}
        elif marker == _SOS:
            if "frame" not in seen or not len(body):
                return None
            end = _MARKER.search(data, following)
            steps.bytes -= (len(data) if end is None else end.start()) - following
            if end is None:
                raise _Ended
            if not scans:
                seen |= {"scan": at, "coded": following, "scan_end": end.start(), "scanned": body[0]}
            scans += 1
            following = end.start()
        elif marker == _DQT:
            seen["quantization"] = True
        elif marker == _DHT:
            seen["huffman"] = True
        elif marker == _DRI and not scans:
            seen["interval"] = int.from_bytes(body[:2], "big")
            restarts.append((at, 2 + length))
        at = following


def _frame(body: memoryview, seen: dict[str, object]) -> bool:
    """Take in the segment SOF."""
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        return False
    pairs = tuple((body[i] >> 4, body[i] & 15) for i in range(7, 7 + 3 * body[5], 3))
    seen |= {
        "precision": body[0], "height": int.from_bytes(body[1:3], "big"),
        "width": int.from_bytes(body[3:5], "big"), "sampling": pairs,
    }  # fmt: skip
    return True


def _fragments(data: memoryview, start: int, steps: _Steps) -> list[Span] | None:
    """Where ``start`` is the value of a DICOM item: its place and those of the items that go on with it."""
    if start < 8 or bytes(data[start - 8 : start - 4]) != _ITEM:
        return None
    spans: list[Span] = []
    at = start - 8
    while steps.items > 0 and bytes(data[at : at + 4]) == _ITEM:
        steps.items -= 1
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > len(data) or (spans and bytes(data[at + 8 : at + 10]) == SOI):
            break
        spans.append((at + 8, length))
        steps.bytes -= length
        at += 8 + length
    return spans if len(spans) > 1 else None


def _first(spans: list[Span], size: int) -> tuple[Span, ...]:
    """The places of the first ``size`` of the bytes in ``spans``."""
    kept: list[Span] = []
    for at, length in spans:
        taken = min(length, size)
        if taken:
            kept.append((at, taken))
        size -= taken
    return tuple(kept)


# -- several streams as one ----------------------------------------------------------------------------------


def with_tables(head: bytes, tables: bytes) -> bytes:
    """A stream, or its beginning, that lacks tables with those of a stream of tables before it."""
    return SOI + tables[2:-2] + head[2:]


def joined(jpeg: Jpeg, head: bytes, tables: bytes, codes: list[bytes]) -> bytes:
    """One tall stream of the coded data of several that have all of ``head`` alike; a restart lies before each.

    ``codes`` have ``jpeg.segments`` pieces each. ``tables`` is a stream of tables, or empty.
    """
    made = bytearray(head)
    height = jpeg.rows * len(codes)
    made[jpeg.frame + 5 : jpeg.frame + 7] = height.to_bytes(2, "big")
    interval = jpeg.units // jpeg.segments
    made[jpeg.scan : jpeg.scan] = b"\xff\xdd\0\4" + interval.to_bytes(2, "big")
    for at, length in reversed(jpeg.restarts):
        del made[at : at + length]
    whole = with_tables(bytes(made), tables) if tables else bytes(made)
    pieces = [piece for code in codes for piece in RESTART.split(code)]
    return whole + restarted(pieces) + EOI


def restarted(pieces: list[bytes]) -> bytes:
    """Pieces of coded data with numbered restarts between them."""
    made = [pieces[0]] if pieces else []
    for number, piece in enumerate(pieces[1:]):
        made += [bytes((0xFF, 0xD0 + number % 8)), piece]
    return b"".join(made)


def parted(code: bytes, count: int, segments: int) -> list[bytes] | None:
    """The coded data of ``count`` streams of ``segments`` pieces each that were joined; None for other numbers."""
    pieces = RESTART.split(code)
    if len(pieces) != count * segments:
        return None
    return [restarted(pieces[i : i + segments]) for i in range(0, len(pieces), segments)]


def place_in(spans: tuple[Span, ...], begin: int, end: int) -> list[Span]:
    """Where the bytes ``begin`` to ``end`` of a stream in ``spans`` lie."""
    starts = [0]
    for _, length in spans:
        starts.append(starts[-1] + length)
    found: list[Span] = []
    for i in range(max(0, bisect_right(starts, begin) - 1), len(spans)):
        low, high = max(begin, starts[i]), min(end, starts[i + 1])
        if low >= high:
            break
        found.append((spans[i][0] + low - starts[i], high - low))
    return found
