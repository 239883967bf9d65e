"""What a piece of a file of unknown format looks like: samples of which type, how many a pixel, and how long a row.

Rows show in the differences of neighbouring samples: they are like those one row above, so their correlation has a peak there.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import zstandard

from callic_archive.images.raster_costs import (
    Form,
    Samples,
    Values,
    apart,
    bits_beside,
    bits_in_rows,
    run_bytes,
    values_of,
    wrapped,
)

#: Types that are looked for, and the places in their bytes where samples may begin.
TYPES = {
    "|u1": (0,), "<u2": (0, 1), ">u2": (0, 1), "<u4": (0, 1, 2, 3), ">u4": (0, 1, 2, 3), "<u8": (0, 4), ">u8": (0, 4),
}  # fmt: skip
_COMMON = ("|u1", "<u2", ">u2", "<u4", ">u4")
_PIXELS = (1, 2, 3, 4)  # samples
_TYPES_TRIED, _LIKELY = 3, 1.2  # types; times the bits along the row of the best of them
_LEAST_ROW, _PEAKS, _CLEAR = 16, 12, 5.0  # samples; peaks that are tried; times what chance makes of them
_NEAR = 4  # pixels between rows that are looked at together
_ALIKE = 1.01  # times the bits of the best: shorter rows are taken first, as two rows are a row as well
_ODD = 1.003  # times the bits: what is as likely at the usual place and in the usual order is so
_WIDE = 1.08  # likewise of wide samples, which may be several narrow ones
_GAIN = 1.1  # of what Zstandard makes of it a raster may take at most, as models do better than this prediction, and
_ROWS = 0.985  # of what samples take when they are predicted along the row alone
_BLANK = 0.02  # of its bytes Zstandard leaves where there is nothing to see
_LEVEL = 9
_GLANCE = 32 << 10  # bytes
_COMPRESSED, _TEXT = 0.97, 1.6  # of its bytes Zstandard leaves; times what it leaves, if samples are predicted


def may_be(raw: memoryview) -> bool:
    """Whether a window of a file is worth a look, by some bytes in its middle: neither compressed nor text."""
    some = raw[max(0, len(raw) - _GLANCE) // 2 // 8 * 8 :][:_GLANCE]
    packed = len(zstandard.ZstdCompressor(level=1).compress(some)) / len(some)
    if packed > _COMPRESSED:
        return False
    return min(_along(some, _COMMON))[0] < _TEXT * 8 * packed or packed < _BLANK


def look(raw: memoryview) -> Form | None:
    """The form of samples of which a window of a file consists; None where it is no raster, or a blank one."""
    packed = len(zstandard.ZstdCompressor(level=_LEVEL).compress(raw))
    if packed < _BLANK * len(raw):
        return None
    best: tuple[float, Form] | None = None
    ways = sorted(_along(_some(raw), TYPES))
    for along, dtype, at, pixel in ways[:_TYPES_TRIED]:
        if along > _LIKELY * ways[0][0]:
            break
        found = _rows(values_of(raw[at:], dtype), dtype, pixel)
        if found is not None and (best is None or _odd(dtype, at) * found[0] < best[0]):
            best = _odd(dtype, at) * found[0], found[1]
    if best is None or best[0] > _GAIN * 8 * packed / len(raw):
        return None
    return best[1]


def _some(raw: memoryview) -> memoryview:
    """Parts of a window, as one that tells of types as well."""
    last = (len(raw) - _GLANCE) // 8 * 8
    return raw if last < 3 * _GLANCE else memoryview(b"".join(raw[at : at + _GLANCE] for at in (0, last // 16 * 8, last)))


def _along(raw: memoryview, types: Collection[str]) -> list[tuple[float, str, int, int]]:
    """Bits a byte where samples are predicted along the row, for types, places and samples a pixel, the best of each type."""
    found = []
    for dtype in types:
        ways = []
        for at in TYPES[dtype]:
            values = values_of(raw[at:], dtype)
            for pixel in _PIXELS:
                bits = bits_beside(values.samples, dtype, pixel)
                ways.append((_odd(dtype, at) * _rate(bits, values.table, dtype), dtype, at, pixel))
        found.append(min(ways))
    return found


def _odd(dtype: str, at: int) -> float:
    """What the bits of samples count in which the usual way to lie is not seen."""
    return (_ODD if at else 1.0) * (_ODD if dtype[0] == ">" else 1.0) * (_WIDE if dtype[2] in "48" else 1.0)


def _rate(bits: Samples, table: float, dtype: str) -> float:
    """Bits a byte."""
    return (float(bits.sum()) + table) / (len(bits) * run_bytes(dtype)) if len(bits) else 8.0


def _rows(values: Values, dtype: str, pixel: int) -> tuple[float, Form] | None:
    """The row at which prediction takes fewest bits a byte; None where rows are of no help."""
    samples = values.samples
    along = _rate(bits_beside(samples, dtype, pixel), values.table, dtype)
    peaks = _peaks(samples, dtype, pixel)
    tried = [(_rate(bits_in_rows(samples, dtype, pixel, row), values.table, dtype), row) for row in peaks]
    if not tried:
        return None
    least, row = min(tried)
    if least > _ROWS * along:
        return None
    # What lies above to the right may say more of a sample than what lies above, but is less like it.
    near = range(max(pixel, row - _NEAR * pixel), row + _NEAR * pixel + 1, pixel)
    row = min(near, key=lambda other: apart(samples, dtype, other))
    row = min((part for rate, part in tried if row % part == 0 and rate <= _ALIKE * least), default=row)
    return least, Form(dtype, pixel, row // pixel)


def _peaks(samples: Samples, dtype: str, pixel: int) -> list[int]:
    """Lengths of rows, in samples, at which differences along the row are like those a row before."""
    differences = wrapped(samples[pixel:] - samples[:-pixel], dtype).astype(np.float64)
    # a few strong edges would tell of nothing but themselves
    differences = np.sign(differences) * np.log1p(np.abs(differences))
    differences -= differences.mean()
    count = len(differences)
    longest = count // 4
    spectrum = np.fft.rfft(differences, 2 * count)
    like = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[: longest + 1]
    like /= np.arange(count, count - longest - 1, -1)  # each place by the number of pairs that it has
    lags = np.arange(longest + 1)
    clear = (lags >= _LEAST_ROW) & (lags % pixel == 0) & (like > _CLEAR * like[0] / np.sqrt(count))
    before, after = np.roll(like, pixel), np.roll(like, -pixel)
    found = np.flatnonzero(clear & (like >= before) & (like >= after))
    order = found[np.argsort(-like[found], kind="stable")][:_PEAKS]
    return [int(row) for row in order]
