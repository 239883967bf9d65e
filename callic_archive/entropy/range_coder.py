"""The range coder: an encoder and a decoder that stop and resume between any two symbols.

The code value is a number in [0, 1), written big-endian in base 256. The encoder keeps the interval
``[low, low + range)`` that all coded symbols leave::

    0                low                 low + range                     2^64
    |-----------------|=======================|----------------------------|

    step  = range >> bits    A symbol [cum, cum + freq) / 2^bits narrows the interval; while range < 2^56 the
    low  += step * cum       top byte of low goes out. So 2^56 <= range < 2^64 before each symbol, and at
    range = step * freq      28 bits step >= 2^28: the part of the range lost to rounding is below 2^-28.

Carries propagate into the bytes already written. ``finish`` appends at most one byte, and for given symbols
there is exactly one valid byte string: the decoder rejects every other ending.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from callic_archive.entropy import kernels
from callic_archive.entropy.kernels import I32, I64, U8
from callic_archive.entropy.mixture import MixtureTables, check_parameters, intervals
from callic_archive.errors import (
    EntropyInputError,
    StreamCorruptError,
    StreamTrailingError,
    StreamTruncatedError,
)

MAX_SYMBOL_BYTES = 4  # a 28-bit symbol moves range from 2^56 to 2^28 at the least
_START_RANGE = (1 << 64) - 1
_MASK = (1 << 64) - 1


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= kernels.PROB_BITS:
        raise EntropyInputError(f"Probabilities have 1 to {kernels.PROB_BITS} bits, not {bits}.")


def _integers(values: npt.ArrayLike) -> I64:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise EntropyInputError(f"A list of integers is needed, not {array.dtype} {array.shape}.")
    return np.ascontiguousarray(array, np.int64)


def _raise_status(status: int) -> None:
    if status == kernels.TRUNCATED:
        raise StreamTruncatedError("The entropy-coded stream ends before its last symbol.")
    if status == kernels.CORRUPT:
        raise StreamCorruptError("The entropy-coded stream holds a value that no encoder writes.")


class RangeEncoder:
    """Collects symbols into one byte string. Not safe for use from several threads at once."""

    def __init__(self) -> None:
        self._state = np.array([0, _START_RANGE, 0], np.uint64)  # low, range, bytes written
        self._buffer: U8 = np.empty(1 << 12, np.uint8)
        self._finished = False

    def _reserve(self, symbols: int) -> None:
        if self._finished:
            raise EntropyInputError("The encoder is finished and takes no more symbols.")
        used = int(self._state[2])
        need = used + MAX_SYMBOL_BYTES * symbols + 1
        if need > self._buffer.size:
            grown = np.empty(max(need, 2 * self._buffer.size), np.uint8)
            grown[:used] = self._buffer[:used]
            self._buffer = grown

    def _append(self, cums: I32, freqs: I32, bits: int) -> None:
        self._reserve(cums.size)
        kernels.encode_intervals(cums, freqs, bits, self._state, self._buffer)

    def encode_pixels(
        self,
        head: npt.NDArray[np.integer],
        skip: npt.NDArray[np.integer],
        shift: npt.ArrayLike,
        lo: npt.ArrayLike,
        hi: npt.ArrayLike,
        tables: MixtureTables,
        symbols: npt.NDArray[np.integer],
    ) -> None:
        """Code ``symbols`` (n, C) int32, lo <= symbol <= hi, pixel by pixel and channel by channel.

        Arguments as in :func:`callic_archive.entropy.mixture.check_parameters`. Raises EntropyInputError and
        then leaves the encoder as it was.
        """
        cums, freqs = intervals(head, skip, shift, lo, hi, tables, symbols)
        self._append(cums.reshape(-1), freqs.reshape(-1), kernels.PROB_BITS)

    def encode_symbols(self, cum: npt.ArrayLike, freq: npt.ArrayLike, bits: int) -> None:
        """Code plain intervals [cum, cum + freq) / 2^bits, each (n,), freq >= 1, bits in 1..28.

        A whole interval, freq = 2^bits, is no step of the coder and costs nothing.
        """
        _check_bits(bits)
        cums, freqs = _integers(cum), _integers(freq)
        whole = 1 << bits
        if cums.shape != freqs.shape or np.any(
            (cums < 0) | (freqs < 1) | (freqs > whole) | (cums > whole) | (cums > whole - freqs)
        ):
            raise EntropyInputError("Intervals must be non-empty and lie within 0 .. 2^bits.")
        self._append(cums.astype(np.int32), freqs.astype(np.int32), bits)

    def encode_uniform(self, values: npt.ArrayLike, bits: int) -> None:
        """Code equally likely integers 0 <= value < 2^bits, bits in 1..28."""
        array = _integers(values)
        self.encode_symbols(array, np.ones_like(array), bits)

    def finish(self) -> bytes:
        """End the stream and return it. No further symbols can be coded."""
        self._reserve(0)
        self._finished = True
        low, span, length = (int(v) for v in self._state)
        if low + span > 1 << 64:
            # 2^64 lies inside, and its digits are the zeros that a decoder finds after the end.
            kernels.add_carry(self._buffer, length)
        elif low:
            self._buffer[length] = ((low - 1) >> 56) + 1
            length += 1
        return self._buffer[:length].tobytes()


class RangeDecoder:
    """Reads the symbols of one byte string back. Every call returns symbols or raises a CodestreamError."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data: U8 = np.frombuffer(bytes(data), np.uint8)
        first = int.from_bytes(bytes(data[:8]).ljust(8, b"\0"), "big")
        self._state = np.array([first, _START_RANGE, 8], np.uint64)  # code - low, range, bytes fetched
        self._failed = False

    def _check(self, status: int) -> None:
        if status != kernels.OK:
            self._failed = True
            _raise_status(status)

    def _ready(self) -> None:
        if self._failed:
            raise StreamCorruptError("The entropy-coded stream has already failed to decode, or is finished.")

    def decode_pixels(
        self,
        head: npt.NDArray[np.integer],
        skip: npt.NDArray[np.integer],
        shift: npt.ArrayLike,
        lo: npt.ArrayLike,
        hi: npt.ArrayLike,
        tables: MixtureTables,
    ) -> I32:
        """Decode (n, C) int32 symbols; the mirror of :meth:`RangeEncoder.encode_pixels`.

        Raises StreamTruncatedError and StreamCorruptError.
        """
        self._ready()
        p = check_parameters(head, skip, shift, lo, hi)
        symbols = np.empty((p.n, p.layout.channels), np.int32)
        status = kernels.decode_pixels(
            p.head, p.skip, p.shift, p.lo, p.hi, tables.exp, tables.inv_mantissa, tables.sigmoid,
            tables.quantile, symbols, self._state, self._data,
        )  # fmt: skip
        self._check(status)
        return symbols

    def decode_symbols(self, cdf: npt.ArrayLike, n: int, bits: int) -> I64:
        """Decode ``n`` indices into one table ``cdf`` (L + 1,): cdf[0] = 0, strictly rising, cdf[L] = 2^bits.

        Index i was coded by ``encode_symbols(cdf[i], cdf[i + 1] - cdf[i], bits)``.
        """
        self._ready()
        _check_bits(bits)
        table = _integers(cdf)
        ends = (0, 1 << bits)
        if table.size < 2 or (table[0], table[-1]) != ends or np.any(np.diff(table) < 1):
            raise EntropyInputError("A symbol table must rise strictly from 0 to 2^bits.")
        symbols = np.empty(n, np.int64)
        self._check(kernels.decode_intervals(table, bits, symbols, self._state, self._data))
        return symbols

    def decode_uniform(self, n: int, bits: int) -> I64:
        """Decode ``n`` integers of ``bits`` bits each, coded by :meth:`RangeEncoder.encode_uniform`."""
        self._ready()
        _check_bits(bits)
        values = np.empty(n, np.int64)
        self._check(kernels.decode_uniform(bits, values, self._state, self._data))
        return values

    def finish(self) -> None:
        """Check that the stream ends exactly here, as an encoder would have ended it.

        Raises StreamTruncatedError or StreamTrailingError. No further symbols can be decoded.
        """
        self._ready()
        self._failed = True
        code, span, fetched = (int(v) for v in self._state)
        length = self._data.size
        emitted = fetched - 8
        if emitted > length:
            raise StreamTruncatedError("The entropy-coded stream ends before its last symbol.")
        if emitted == length:
            return  # every symbol taken left code < span, so the zeros after the end lie in the interval
        last = int(self._data[emitted]) << 56
        low = (last - code) & _MASK
        if length > emitted + 1 or low == 0 or low + span > 1 << 64 or code >> 56:
            raise StreamTrailingError("The entropy-coded stream goes on after its last symbol.")
