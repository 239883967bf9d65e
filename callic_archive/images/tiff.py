"""TIFF and BigTIFF: strips, tiles, contiguous, planar, integers of 8, 16 and 32 bits, all pages and SubIFDs.

Every page whose samples a model takes becomes images; the samples' bytes are cut out of the file. Pages of
other kinds (palettes, masks, float, JPEG) stay in the surround as they are. Uncompressed blocks are spliced;
blocks packed with LZW, deflate or PackBits are decoded, and coded again at rebuilding (see ``tiff_codecs``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.layout import Image, Layout, apart
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import stacked
from callic_archive.images.tiff_codecs import Packing, packings, parse_packed, rebuild_packed
from callic_archive.images.tiff_ifd import Directory, TiffReader

_WIDEST = 1 << 31  # pixels in a row or column; wider is a lie
_LARGE, _LEAST_SHARE = 16 << 20, 0.1  # of a large file at least this share must be samples that a model takes
_MAX_BANDS = 1024  # samples a pixel; imaging spectrometers have hundreds


def _kind(page: Directory) -> tuple[str, int] | None:
    """(sample type letter and size such as "u2", samples a pixel), or None for what no model takes."""
    samples = page.one(277, 1)
    bits = set(page.all(258).tolist()) or {1}
    formats = set(page.all(339).tolist()) or {1}
    photometric = page.one(262, 1)
    if len(bits) > 1 or len(formats) > 1 or not 1 <= samples <= _MAX_BANDS:
        return None
    depth, form = bits.pop(), formats.pop()
    sign = {1: "u", 2: "i", 4: "u"}.get(form)
    if depth in (32, 64) and form in (1, 2, 3, 4, 5, 6):
        sign = "u"  # bit patterns, of floats too
    elif depth not in (8, 16):
        return None
    if sign is None or page.one(32997, 1) != 1:
        return None
    if photometric == 3 or (photometric == 6 and samples == 3 and not _full_chroma(page)):
        return None
    return f"{sign}{depth // 8}", samples


def _full_chroma(page: Directory) -> bool:
    return bool(page.all(530).tolist() == [1, 1])  # YCbCrSubsampling is 2, 2 when absent


def _raster(page: Directory, reader: TiffReader, limits: Limits) -> tuple[Layout, Packing] | None:
    """The raster of one page, or None. Raises MalformedSource when its numbers contradict each other."""
    kind = _kind(page)
    packing = packings(page.one(259, 1), page.one(317, 1), page.one(266, 1))
    if kind is None or packing is None:
        return None
    (letter, samples), width, height = kind, page.one(256), page.one(257)
    if not 0 < width < _WIDEST or not 0 < height < _WIDEST:
        raise MalformedSource(f"the TIFF directory at {page.offset} promises {width} x {height} pixels")
    itemsize, planar = int(letter[1]), page.one(284, 1) == 2 and samples > 1
    split = apart(samples, itemsize)
    if itemsize > 2 and packing.predictor != 1:
        return None
    tiled = 322 in page.fields or 324 in page.fields
    if tiled:
        columns, rows = page.one(322), page.one(323)
        tags = (324, 325) if 324 in page.fields else (273, 279)
    else:
        columns, rows = width, min(page.one(278, height), height)
        tags = (273, 279)
    if not 0 < columns < _WIDEST or not 0 < rows < _WIDEST:
        raise MalformedSource(
            f"the TIFF directory at {page.offset} promises blocks of {columns} x {rows} pixels"
        )
    pitch = columns * (1 if planar else samples) * itemsize
    dtype = "|" + letter if itemsize == 1 else reader.order + letter
    blocks = -(-height // rows) * -(-width // columns) * (samples if planar else 1)
    limits.check_blocks(blocks)
    offsets, counts = page.all(tags[0]).tolist(), page.all(tags[1]).tolist()
    if len(offsets) < blocks:
        raise MalformedSource(
            f"the TIFF directory at {page.offset} needs {blocks} blocks, names offsets of {len(offsets)}"
        )
    if counts and len(counts) < blocks:
        raise MalformedSource(
            f"the TIFF directory at {page.offset} needs {blocks} blocks, names sizes of {len(counts)}"
        )
    offsets, counts = offsets[:blocks], counts[:blocks]
    if not all(offsets) or (counts and not all(counts)):
        return None  # sparse: blocks that were never written
    layout = Layout(
        height, width, samples, dtype, rows, columns, pitch,
        offsets=tuple(offsets), whole=tiled, planar=planar, split=split,
    )  # fmt: skip
    if packing.codec == "none":
        for k, count in enumerate(counts):
            if count < layout.raw_length(k):
                raise MalformedSource(
                    f"block {k} of the TIFF directory at {page.offset} has {count} bytes, "
                    f"its pixels need {layout.raw_length(k)}"
                )
        return layout, packing
    if not counts:
        raise MalformedSource(f"the TIFF directory at {page.offset} names no sizes of its compressed blocks")
    if max(counts) > len(reader.data):
        raise TruncatedSource(f"the TIFF directory at {page.offset} has a block larger than the file")
    layout = replace(layout, lengths=tuple(counts))
    if packing.codec == "lzw" and bytes(reader.data[offsets[0] : offsets[0] + 2])[:1] == b"\0":
        return None  # LZW of before 1993, least significant bit first
    return layout, packing


def parse(data: memoryview, limits: Limits) -> Parsed | None:
    """See ``source.parse``. Fidelity is ``bytes`` unless packed blocks cannot be repeated."""
    found = pages(data, limits)
    if not found:
        return None
    if all(packing.codec == "none" for _, packing in found):
        return parse_spliced("tiff", data, [layout for layout, _ in found], limits)
    return parse_packed(data, found, limits)


def pages(data: memoryview, limits: Limits) -> list[tuple[Layout, Packing]]:
    """Where the samples lie, and how they are packed; empty where ``parse`` gives None. Raises SourceError
    subclasses.
    """
    reader = TiffReader(data, limits)
    found = [_raster(page, reader, limits) for page in reader.directories()]
    taken = [page for page in found if page is not None]
    stored = sum(sum(layout.lengths) or layout.decoded_bytes for layout, _ in taken)
    if not taken or (len(data) > _LARGE and stored < _LEAST_SHARE * len(data)):
        return []
    if all(packing.codec == "none" for _, packing in taken):
        return [(x, taken[0][1]) for x in stacked([layout.merged() for layout, _ in taken])]
    alike = [(p, [x for x, _ in run]) for p, run in groupby(taken, key=lambda page: page[1])]
    return [(x, packing) for packing, run in alike for x in stacked(run)]


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``."""
    if "packings" in recipe:
        rebuild_packed(recipe, surround, images, out)
    else:
        rebuild_spliced(recipe, surround, images, out)
