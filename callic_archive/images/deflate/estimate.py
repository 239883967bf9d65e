"""Which limits a compressor had, as far as its stream tells: a short list, to be tried on the stream's beginning."""

from __future__ import annotations

from dataclasses import replace

from callic_archive.images.deflate.matcher import Limits
from callic_archive.images.deflate.parser import STORED, Stream

# style, good, patient, nice, chain of zlib's levels 1 to 9.
_ZLIB = (
    (0, 4, 4, 8, 4), (0, 4, 5, 16, 8), (0, 4, 6, 32, 32), (1, 4, 4, 16, 16), (1, 8, 16, 32, 32),
    (1, 8, 16, 128, 128), (1, 8, 32, 128, 256), (1, 32, 128, 258, 1024), (1, 32, 258, 258, 4096),
)  # fmt: skip
# style, nice, chain of compressors that weigh length against distance (libdeflate's levels 5 to 9).
_WEIGHING = ((2, 30, 16), (2, 65, 35), (2, 130, 100), (3, 65, 35), (3, 258, 600))
_FULL = 32506  # zlib's largest distance with its largest window
_SIZES = frozenset((1 << k) - 1 for k in range(7, 17))


def variants(stream: Stream, limits: Limits) -> list[Limits]:
    """What else to try once the best of the likely limits are known."""
    found = []
    coded = stream.blocks[:, 1] != STORED
    if coded.sum() < 2:  # no full block tells how large the hash is
        found.append(replace(limits, bits=16, tokens=32767))
    if (stream.blocks[~coded, 3] == 0).any():
        found += [replace(x, forget=1) for x in (limits, *found)]
    return found


def likely_limits(stream: Stream) -> list[Limits]:
    """Limits to try on a stream, the likeliest first; never empty."""
    lengths = (stream.tokens >> 16) & 0x3FF
    matches = lengths > 0
    coded = stream.blocks[stream.blocks[:, 1] != STORED]
    full = int(coded[:-1, 3].max()) if len(coded) > 1 else 0
    base = Limits()
    if full:
        base = replace(base, tokens=min(full, (1 << 20) - 1))
        if full in _SIZES:
            base = replace(
                base, bits=min(max((full + 1).bit_length(), 8), 16)
            )  # both follow from zlib's memory level
    if not matches.any():
        return [replace(base, reach=0, chain=1)]
    distances = stream.tokens[matches] & 0xFFFF
    longest = int(distances.max())
    if longest == 1:
        return [replace(base, style=0, patient=258, reach=1, chain=1, nice=258)]
    shortest = int(lengths[matches].min())
    window = max((longest + 262 - 1).bit_length(), 9)
    reach = (1 << window) - 262 if longest <= _FULL else 32768
    short = lengths[matches] == 3
    near = int(distances[short].max()) if short.any() else 0
    base = replace(base, reach=reach, shortest=6 if shortest > 5 else 3)
    found = [
        replace(
            base, style=style, good=good, patient=patient, nice=nice, chain=chain,
            near=4096 if style and near <= 4096 else 32768,
        )
        for style, good, patient, nice, chain in _ZLIB
    ]  # fmt: skip
    found = [found[i] for i in (5, 8, 0, 2, 4, 3, 6, 7, 1)]
    found += [
        replace(
            base, style=style, nice=nice, patient=nice, chain=chain, shortest=max(3, min(shortest, 6)),
            near=8192 if near <= 8192 else 32768, first=0,
        )
        for style, nice, chain in _WEIGHING
    ]  # fmt: skip
    return found
