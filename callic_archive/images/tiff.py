"""TIFF and BigTIFF: strips, tiles, contiguous, planar, integers and floats of 1 to 64 bits, all pages and SubIFDs.

Every page whose samples are taken becomes images; the samples' bytes are cut out of the file. Pages of other kinds
(JPEG, fax codes, subsampled chroma) stay in the surround as they are. Uncompressed blocks are spliced; blocks packed with
LZW, deflate, PackBits or Zstandard are decoded, and coded again at rebuilding (see ``tiff_packed``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images.bit_packing import packed_bytes
from callic_archive.images.layout import Image, Layout, apart
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import stacked
from callic_archive.images.tiff_codecs import NONE, Packing, packings
from callic_archive.images.tiff_ifd import Directory, TiffReader
from callic_archive.images.tiff_packed import parse_packed, rebuild_packed

_WIDEST = 1 << 31  # pixels in a row or column; wider is a lie
_LARGE, _LEAST_SHARE = 16 << 20, 0.1  # of a large file at least this share must be samples that a model takes
_SIGNS, _FLOAT = {1: "u", 2: "i", 4: "u"}, 3  # by SampleFormat
_MAX_BANDS = 1024  # samples a pixel; imaging spectrometers have hundreds


@dataclass(frozen=True)
class _Kind:
    """How the samples of a page are taken."""

    letter: str  # sample type and size, such as "u2"
    bits: int  # of samples that share bytes, else 0
    samples: int  # a pixel


def _kind(page: Directory) -> _Kind:
    """The samples of a page. Raises NotTaken."""
    samples = page.one(277, 1)
    bits = set(page.all(258).tolist()) or {1}
    formats = set(page.all(339).tolist()) or {1}
    photometric = page.one(262, 1)
    if len(bits) > 1 or len(formats) > 1 or not 1 <= samples <= _MAX_BANDS or page.one(32997, 1) != 1:
        raise NotTaken("samples")
    if photometric == 6 and samples == 3 and not _full_chroma(page):
        raise NotTaken("colour")
    depth, form = bits.pop(), formats.pop()
    if depth in (8, 16) and form in _SIGNS:
        return _Kind(f"{_SIGNS[form]}{depth // 8}", 0, samples)
    if (depth == 16 and form == _FLOAT) or (depth in (32, 64) and 1 <= form <= 6):
        return _Kind(f"u{depth // 8}", 0, samples)  # bit patterns
    if 1 <= depth <= 15 and form in (1, 4):
        return _Kind("u1" if depth < 8 else "u2", depth, samples)
    raise NotTaken("samples")


def _full_chroma(page: Directory) -> bool:
    return bool(page.all(530).tolist() == [1, 1])  # YCbCrSubsampling is 2, 2 when absent


def _raster(page: Directory, reader: TiffReader, limits: Limits) -> tuple[Layout, Packing]:
    """The raster of one page. Raises NotTaken, and MalformedSource when its numbers contradict each other."""
    packing = packings(page.one(259, 1), page.one(317, 1), page.one(266, 1))
    kind, width, height = _kind(page), page.one(256), page.one(257)
    if not 0 < width < _WIDEST or not 0 < height < _WIDEST:
        raise MalformedSource(f"the TIFF directory at {page.offset} promises {width} x {height} pixels")
    samples, itemsize = kind.samples, int(kind.letter[1])
    planar = page.one(284, 1) == 2 and samples > 1
    split = apart(samples, itemsize)
    if kind.bits and packing.predictor != NONE:
        raise NotTaken("coding")
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
    pitch = packed_bytes(columns * (1 if planar else samples), kind.bits or 8 * itemsize)
    # samples that share bytes begin with their highest bits, whatever the byte order
    dtype = ("|" if itemsize == 1 else ">" if kind.bits else reader.order) + kind.letter
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
        raise NotTaken("sparse")  # blocks that were never written
    layout = Layout(
        height, width, samples, dtype, rows, columns, pitch,
        offsets=tuple(offsets), whole=tiled, planar=planar, split=split, bits=kind.bits,
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
        raise NotTaken("coding")  # LZW of before 1993, least significant bit first
    return layout, packing


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Fidelity is ``bytes`` unless packed blocks cannot be repeated."""
    found = pages(data, limits)
    if all(packing.codec == "none" for _, packing in found):
        return parse_spliced("tiff", data, [layout for layout, _ in found], limits)
    return parse_packed(data, found, limits)


def pages(data: memoryview, limits: Limits) -> list[tuple[Layout, Packing]]:
    """Where the samples lie, and how they are packed. Raises NotTaken and SourceError subclasses."""
    return _stacks([(layout, packing) for layout, packing, _ in _taken(data, limits)])


def sample_types(data: memoryview, limits: Limits, there: int) -> list[tuple[str, ...]]:
    """What the samples of each image that ``parse`` gives are, of each page in it; the samples themselves are not looked
    at. Of ``data`` no more than ``there`` bytes are others than zeros. Raises NotTaken and SourceError subclasses.
    """
    taken = _taken(data, limits, there)
    left = iter(_meaning(page, layout.dtype[0]) for layout, _, page in taken)
    found: list[tuple[str, ...]] = []
    for layout, _ in _stacks([(layout, packing) for layout, packing, _ in taken]):
        found += [tuple(islice(left, layout.frames))] * layout.images
    return found


def _meaning(page: Directory, order: str) -> str:
    """The numpy type of the samples of a page. Complex integers, for which there is none, are their bits."""
    depth, form = page.one(258, 1), page.one(339, 1)
    letter = f"{order}c" if (form, depth) == (6, 64) else {2: "i", 3: "f"}.get(form, "u")
    return f"{letter}{-(-depth // 8)}"


def _taken(
    data: memoryview, limits: Limits, there: int | None = None
) -> list[tuple[Layout, Packing, Directory]]:
    """The pages that become images. Raises NotTaken and SourceError subclasses."""
    reader = TiffReader(data, limits)
    if there is not None:  # tables do not lie where nothing is
        reader.budget = min(reader.budget, 2 * there + 4096)
    taken: list[tuple[Layout, Packing, Directory]] = []
    left: NotTaken | None = None
    for page in reader.directories():
        try:
            taken.append((*_raster(page, reader, limits), page))
        except NotTaken as reason:
            left = left or reason  # of the first page
    stored = sum(sum(layout.lengths) or layout.decoded_bytes for layout, _, _ in taken)
    if not taken:
        raise left or NotTaken("no-pixels")
    if len(data) > _LARGE and stored < _LEAST_SHARE * len(data):
        raise left or NotTaken("few-samples")
    return taken


def _stacks(taken: Sequence[tuple[Layout, Packing]]) -> list[tuple[Layout, Packing]]:
    """The rasters of pages, small ones below each other."""
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
