"""DICOM with native pixels, deflated, or coded as ``dicom_coded`` knows: any VR and byte order, with or without preamble.

pydicom finds Pixel Data and the attributes that describe it; it never writes. The pixel cells are cut out as
they lie, all allocated bits, so overlays and rubbish above Bits Stored survive (DICOM PS3.5, chapter 8).
Everything around them stays as it is, group lengths and private elements included.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, SourceError, TruncatedSource
from callic_archive.images import dicom_coded
from callic_archive.images.layout import Image, Layout
from callic_archive.images.members import Member, join, rebuild_members, usable
from callic_archive.images.source import Limits, Parsed, ViewFile
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import stacked
from callic_archive.images.streams import find, inflate

_PIXEL_DATA = 0x7FE00010
_IMPLICIT_LITTLE, _EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_EXPLICIT_BIG, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = (
    "RGB",
    "YBR_FULL",
)  # one sample of each kind a pixel; subsampled chroma is not native in this sense


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pydicom: its messages quote values, and what a patient is called belongs in no log."""
    import pydicom.config

    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _read(data: memoryview) -> tuple[Any, int]:
    """The data set up to its pixels, and the offset of the Pixel Data element. Raises MalformedSource."""
    import pydicom

    stream = ViewFile(data)
    try:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        return dataset, stream.tell()
    except Exception as error:  # pydicom raises many types on broken files, and none of them may end a run
        raise MalformedSource(
            f"the DICOM data set cannot be read: {type(error).__name__}: {error}"
        ) from error


def _number(dataset: Any, name: str, default: int | None = None) -> int:
    """An integer attribute. Raises MalformedSource when it is absent or no single number."""
    try:
        value = dataset.get(name)
        if value is None and default is not None:
            return default
        return int(value)
    except Exception as error:
        raise MalformedSource(f"the DICOM attribute {name} is missing or no number") from error


def _text(dataset: Any, name: str) -> str:
    """A text attribute, empty when absent. Raises MalformedSource when it cannot be read."""
    try:
        return str(dataset.get(name) or "").strip()
    except Exception as error:
        raise MalformedSource(f"the DICOM attribute {name} cannot be read") from error


def _transfer_syntax(dataset: Any) -> str | None:
    """The transfer syntax, judged from pydicom's reading where the file does not name one."""
    meta = getattr(dataset, "file_meta", None)
    named = _text(meta, "TransferSyntaxUID") if meta is not None else ""
    if named:
        return named
    implicit, little = dataset.original_encoding
    if implicit is None or little is None:
        return None
    if implicit:
        return _IMPLICIT_LITTLE if little else None
    return _EXPLICIT_LITTLE if little else _EXPLICIT_BIG


def _pixel_element(data: memoryview, at: int, syntax: str) -> tuple[str, int, int] | None:
    """(VR, offset of the value, its length) of Pixel Data at ``at``, or None when it is not there."""

    def number(start: int, size: int) -> int:
        return int.from_bytes(data[start : start + size], "big" if syntax == _EXPLICIT_BIG else "little")

    if at + (8 if syntax == _IMPLICIT_LITTLE else 12) > len(data) or number(at, 2) << 16 | number(at + 2, 2) != _PIXEL_DATA:
        return None
    if syntax == _IMPLICIT_LITTLE:
        return "OW", at + 8, number(at + 4, 4)
    vr = bytes(data[at + 4 : at + 6])
    if vr not in (b"OB", b"OW", b"UN"):
        raise MalformedSource(f"DICOM Pixel Data has the value representation {vr!r}")
    return vr.decode(), at + 12, number(at + 8, 4)


def parse(data: memoryview, limits: Limits) -> Parsed | None:
    """See ``source.parse``.

    Other compressed transfer syntaxes, palettes and files without pixels give None.
    """
    certain = bytes(data[128:132]) == b"DICM"
    try:
        with _quiet():
            return _parse(data, limits)
    except SourceError:
        if certain:
            raise
        return None  # without the magic it was only a guess that this is DICOM


def layouts(data: memoryview, limits: Limits) -> list[Layout]:
    """Where native samples lie; empty for all other DICOM. Raises SourceError subclasses."""
    found: list[Layout] = []
    try:
        with _quiet():
            _parse(data, limits, found.extend)
    except SourceError:
        if bytes(data[128:132]) == b"DICM":
            raise
    return found


def _parse(
    data: memoryview, limits: Limits, native_only: Callable[[list[Layout]], None] | None = None
) -> Parsed | None:
    """The file taken apart; with ``native_only`` that hears of native samples, and nothing else is done."""
    named, end = _meta(data)
    if named == _DEFLATED:
        return _deflated(data, end, limits) if native_only is None else None
    dataset, at = _read(data)
    syntax = _transfer_syntax(dataset)
    native = syntax in (_IMPLICIT_LITTLE, _EXPLICIT_LITTLE, _EXPLICIT_BIG)
    if syntax is None or not (native or (native_only is None and syntax in dicom_coded.SYNTAXES)):
        return None
    element = _pixel_element(data, at, syntax)
    if element is None:
        return None
    vr, start, length = element
    if (length == 0xFFFFFFFF) == native:
        return None  # not as the transfer syntax says
    allocated = _number(dataset, "BitsAllocated")
    samples = _number(dataset, "SamplesPerPixel", 1)
    photometric = _text(dataset, "PhotometricInterpretation")
    if syntax == dicom_coded.JPEG_2000 and photometric == "YBR_RCT":
        photometric = "RGB"  # the colour transform is undone in decoding
    if (allocated not in (8, 16)) or (samples, photometric in _GRAY, photometric in _COLOUR) not in (
        (1, True, False),
        (3, False, True),
    ):
        return None
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    frames = _number(dataset, "NumberOfFrames", 1)
    if not 0 < rows < 1 << 16 or not 0 < columns < 1 << 16 or frames < 1:
        raise MalformedSource(f"DICOM with {rows} rows, {columns} columns and {frames} frames")
    limits.check_images(frames)
    signed = _number(dataset, "PixelRepresentation", 0) == 1
    if not native:
        # Lossless JPEG stores its samples in no more than BitsStored bits, as non-negative numbers.
        kind = (
            "uint8"
            if allocated == 8
            else "int16"
            if signed and _number(dataset, "BitsStored", 16) == 16
            else "uint16"
        )
        geometry = dicom_coded.Geometry(frames, rows, columns, samples, kind)
        return dicom_coded.parse(
            data, start, syntax, geometry, _bytes(dataset, "ExtendedOffsetTable"), limits
        )
    if syntax == _EXPLICIT_BIG and allocated == 8 and vr == "OW":
        return None  # pairs of samples are swapped
    planar = samples == 3 and _number(dataset, "PlanarConfiguration", 0) == 1
    layout = _layout(rows, columns, samples, allocated // 8, signed, syntax == _EXPLICIT_BIG, planar)
    size = layout.decoded_bytes
    if size * frames > length:
        raise MalformedSource(f"DICOM Pixel Data has {length} bytes, its attributes promise {size * frames}")
    if start + length > len(data):
        raise TruncatedSource(f"DICOM Pixel Data promises {length} bytes, {len(data) - start} follow")
    found = stacked(
        [replace(layout, offsets=tuple(start + i * size + o for o in layout.offsets)) for i in range(frames)]
    )
    if native_only is not None:
        native_only(found)
        return None
    return parse_spliced("dicom", data, found, limits)


def _meta(data: memoryview) -> tuple[str, int]:
    """The transfer syntax that the file meta information names, empty when it does not, and where that ends.

    It is looked at before pydicom, which would inflate a deflated data set of any size.
    """
    at = 132 if bytes(data[128:132]) == b"DICM" else 0
    named = ""
    while at + 8 <= len(data) and bytes(data[at : at + 2]) == b"\2\0":
        vr = bytes(data[at + 4 : at + 6])
        if vr in (b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"UC", b"UR"):
            start, length = at + 12, int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            start, length = at + 8, int.from_bytes(data[at + 6 : at + 8], "little")
        if bytes(data[at : at + 4]) == b"\2\0\x10\0":
            named = bytes(data[start : start + length]).decode("latin-1").strip("\0 ")
        at = start + length
    return named, at


def _deflated(data: memoryview, at: int, limits: Limits) -> Parsed | None:
    """A file whose data set, from byte ``at`` on, is one deflate stream (PS3.5, annex A.5)."""
    raw, used = inflate(data[at:], limits)
    inner = _parse(raw, limits) if _meta(raw)[1] == 0 else None
    if inner is None or not usable(inner):
        return None
    named = find(raw, data[at : at + used])
    if named is None:
        return None
    return join("dicom", data, [Member(at, at + used, named[0], inner, named[1])], limits)


def _bytes(dataset: Any, name: str) -> bytes:
    """A binary attribute, empty when absent. Raises MalformedSource when it cannot be read."""
    try:
        return bytes(dataset.get(name) or b"")
    except Exception as error:
        raise MalformedSource(f"the DICOM attribute {name} cannot be read") from error


def _layout(
    rows: int, columns: int, samples: int, itemsize: int, signed: bool, big: bool, planar: bool
) -> Layout:
    """One frame as if it began at offset 0."""
    letter = f"{'i' if signed else 'u'}{itemsize}"
    dtype = "|" + letter if itemsize == 1 else (">" if big else "<") + letter
    plane = rows * columns * itemsize
    offsets = tuple(plane * s for s in range(samples)) if planar else (0,)
    pitch = columns * itemsize * (1 if planar else samples)
    return Layout(rows, columns, samples, dtype, rows, columns, pitch, offsets, planar=planar)


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    if "members" in recipe:
        rebuild_members(recipe, surround, images, out)
    elif "encoders" in recipe:
        dicom_coded.rebuild(recipe, surround, images, out)
    else:
        rebuild_spliced(recipe, surround, images, out)
