"""Deflate streams as differences from what was expected, many in one: they share what is learned on the way.

writer = Writer()
used = writer.add(body, raw)          # bytes of the stream at the start of body, or None: no valid stream, or too dear
side = writer.finish()

reader = Reader(side)
body = reader.next(raw)               # in the order in which they were added
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import RebuildMismatch
from callic_archive.images.deflate import coder
from callic_archive.images.deflate.blocks import CONTEXTS, STREAM, code_blocks, empty_strings
from callic_archive.images.deflate.estimate import likely_limits, variants
from callic_archive.images.deflate.matcher import BITS, CHAIN, WIDTHS, WORK, Limits, sound
from callic_archive.images.deflate.parser import Stream, parse

Bytes = NDArray[np.uint8]
# Tokens of a stream on which limits are tried, and how many of them go on to the next round.
_ROUNDS = ((4000, 6), (16000, 3), (64000, 1))
_WELL, _WORK_A_BYTE = (
    256,
    14,
)  # bytes of differences that count as none; 2^14 strings looked at count as one more
_LAST, _PERFECT = (
    _ROUNDS[-1][0],
    40,
)  # bytes of differences, mostly the limits, of a stream that is guessed right
_SEARCHES = 12  # streams of one writer on which limits are tried
_SLACK = 1 << 16  # bytes that a stream may have beyond twice its raw size


def _bytes(data: bytes | memoryview | Bytes) -> Bytes:
    """A read-only view, whatever ``data`` is: the compiled functions exist for one kind of array."""
    view = np.frombuffer(data, np.uint8)
    view.flags.writeable = False
    return view


def _most_work(raw: int) -> int:
    """Strings that may be looked at for so many raw bytes: zlib's slowest level is far below on all but odd data."""
    return min(400 * raw, (1 << 31) + 48 * raw) + (1 << 22)


def _code_limits(c: coder.Coder, b: Bytes, p: coder.Contexts, limits: NDArray[np.int64], new: bool) -> None:
    """The limits of a stream: those of the one before, or new ones."""
    if coder.bit(c, b, p, STREAM, int(new)):
        for i, width in enumerate(WIDTHS):
            limits[i] = coder.plain(c, b, width, limits[i])


class _State:
    """A coder with its contexts, and room for searches."""

    def __init__(self) -> None:
        self.c, self.p = coder.coder(), coder.contexts(CONTEXTS)
        self.s = np.zeros(8, np.int64)
        self.w = np.zeros(3, np.int64)
        self.limits = Limits().array()
        self._strings = empty_strings(int(self.limits[BITS]))

    def strings(self, bits: int) -> NDArray[np.int32]:
        """Room for the strings of a search with this hash."""
        if len(self._strings) < len(empty_strings(bits)):
            self._strings = empty_strings(bits)
        return self._strings


class Writer:
    """Takes streams and what they decode to, and gives the differences. Not for use from several threads."""

    def __init__(self) -> None:
        self._state = _State()
        self._searches = 0
        self._kept = self._state.c, self._state.p, self._state.limits
        self._buffer: Bytes = np.empty(1 << 12, np.uint8)
        coder.start(self._state.c, self._buffer, coder.ENCODE)

    @property
    def size(self) -> int:
        """Bytes of differences so far, about."""
        return int(self._state.c[coder.PLACE])

    def add(
        self, data: bytes | memoryview | Bytes, raw: bytes | memoryview | Bytes, most: int | None = None
    ) -> int | None:
        """Take the raw deflate stream at the start of ``data``, which must decode to exactly ``raw``.

        Returns its length in bytes. None, and nothing is taken, when there is no such stream, or when its differences
        would have more than ``most`` bytes (half of the stream and 1 KiB if not given).
        """
        stream = parse(_bytes(data), _bytes(raw))
        if stream is None or len(stream.body) > 2 * len(raw) + _SLACK:
            return None
        room = len(stream.body) // 2 + 1024 if most is None else most
        used = int(self._state.c[coder.PLACE])
        if used + room + 64 > len(self._buffer):
            self._buffer = np.concatenate((self._buffer[:used], np.empty(used + room + 64, np.uint8)))
        raws = _bytes(raw)
        best = self._choose(stream, raws)
        while True:
            kept = self._kept = self._state.c.copy(), self._state.p.copy(), self._state.limits.copy()
            status = self._code(stream, raws, best, len(stream.tokens) + 1)
            if status == coder.OK and int(self._state.c[coder.PLACE]) - used <= room:
                return len(stream.body)
            self._state.c, self._state.p, self._state.limits = kept
            if status != coder.BUSY or best[CHAIN] < 8:
                return None
            best = best.copy()
            best[CHAIN] >>= 3  # the chain: such data take too long with one of this length

    def undo(self) -> None:
        """Forget the last stream that was taken; once after each."""
        self._state.c, self._state.p, self._state.limits = self._kept

    def _choose(self, stream: Stream, raw: Bytes) -> NDArray[np.int64]:
        """The limits that are best on the beginning of a stream."""
        if self._searches >= _SEARCHES:
            return self._state.limits
        self._searches += 1
        choices = likely_limits(stream)
        for most, kept in _ROUNDS:
            if len(choices) == 1 or len(stream.tokens) == 0:
                break
            costs = [self._cost(stream, raw, limits.array(), most) for limits in choices]
            order = sorted(range(len(choices)), key=costs.__getitem__)
            choices = [choices[i] for i in order[: 1 if most >= len(stream.tokens) else kept]]
            if costs[order[0]] <= _PERFECT and self._cost(stream, raw, choices[0].array(), _LAST) <= _PERFECT:
                choices = choices[:1]  # nothing can be guessed better
        best = choices[0]
        others = variants(stream, best)
        if others:
            costs = [self._cost(stream, raw, limits.array(), _LAST) for limits in (best, *others)]
            best = (best, *others)[costs.index(min(costs))]
        return best.array()

    def _cost(self, stream: Stream, raw: Bytes, limits: NDArray[np.int64], most: int) -> int:
        """Bytes that the first ``most`` tokens of a stream cost with these limits; the state is left as it is."""
        state = self._state
        kept = state.c, state.p, state.limits
        state.c, state.p, state.limits = kept[0].copy(), kept[1].copy(), kept[2].copy()
        before = int(state.c[coder.PLACE] + state.c[coder.RUN])
        status = self._code(stream, raw, limits, most)
        cost = int(state.c[coder.PLACE] + state.c[coder.RUN]) - before
        state.c, state.p, state.limits = kept
        if status != coder.OK:
            return 1 << 60
        # Where nothing predicts well, what little the longest chains save is not worth their time.
        return cost + (int(state.s[WORK]) >> _WORK_A_BYTE if cost > _WELL else 0)

    def _code(self, stream: Stream, raw: Bytes, limits: NDArray[np.int64], most: int) -> int:
        """Code a stream; returns the coder's status."""
        state = self._state
        new = bool((state.limits != limits).any())
        state.limits = limits.copy()
        _code_limits(state.c, self._buffer, state.p, state.limits, new)
        coder.number(state.c, self._buffer, state.p, STREAM + 1, len(stream.body))
        code_blocks(
            state.c, self._buffer, state.p, raw, state.strings(int(limits[BITS])), state.s, state.limits, stream.tokens,
            stream.blocks, stream.body, stream.end, self._buffer[:0], state.w, _most_work(len(raw)), most,
        )  # fmt: skip
        return int(state.c[coder.STATUS])

    def finish(self) -> bytes:
        """The differences of all streams. The writer takes no more."""
        c = self._state.c
        room = int(c[coder.PLACE] + c[coder.RUN]) + 16
        if room > len(self._buffer):
            self._buffer = np.concatenate((self._buffer, np.empty(room - len(self._buffer), np.uint8)))
        return self._buffer[: int(coder.finish(c, self._buffer))].tobytes()


class Reader:
    """Gives streams back, in the order in which they were added."""

    def __init__(self, side: bytes | memoryview) -> None:
        self._state, self._side = _State(), np.array(_bytes(side))
        coder.start(self._state.c, self._side, coder.DECODE)

    def next(self, raw: bytes | memoryview | Bytes) -> bytes:
        """The next stream, which decodes to ``raw``. Raises RebuildMismatch when the differences do not fit to that."""
        state, raws = self._state, _bytes(raw)
        _code_limits(state.c, self._side, state.p, state.limits, False)
        size = int(coder.number(state.c, self._side, state.p, STREAM + 1, 0))
        if size > 2 * len(raws) + _SLACK or len(raws) >= 1 << 31 or not sound(state.limits):
            raise RebuildMismatch("the differences of a deflate stream ask for the impossible")
        out = np.empty(size, np.uint8)
        tokens = np.empty(len(raws) + 1, np.int32)
        state.w[:] = 0
        code_blocks(
            state.c, self._side, state.p, raws, state.strings(int(state.limits[BITS])), state.s, state.limits, tokens,
            np.empty((0, 5), np.int64), raws[:0], 0, out, state.w, 2 * _most_work(len(raws)), 1 << 62,
        )  # fmt: skip
        if int(state.c[coder.STATUS]) != coder.OK or int(state.w[0]) != size:
            raise RebuildMismatch("the differences of a deflate stream do not fit to what it decodes to")
        return out.tobytes()
