"""DICOM with native pixels, deflated, or coded as ``dicom_coded`` knows: any VR and byte order, with or without preamble.

Native samples have 1, 8, 16, 32 or 64 bits and are integers or floats.
pydicom finds Pixel Data and the attributes that describe it; it never writes. The pixel cells are cut out as
they lie, all allocated bits, so overlays and rubbish above Bits Stored survive (DICOM PS3.5, chapter 8).
Everything around them stays as it is, group lengths and private elements included.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from callic_archive.errors import MalformedSource, SourceError, TruncatedSource
from callic_archive.images import dicom_coded
from callic_archive.images.layout import Image, Layout
from callic_archive.images.members import Member, join, rebuild_members
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed, ViewFile
from callic_archive.images.splice import parse_spliced, rebuild_spliced
from callic_archive.images.stacks import stacked
from callic_archive.images.streams import find, inflate

_PIXEL_DATA, _FLOATS, _DOUBLES = 0x7FE00010, 0x7FE00008, 0x7FE00009
_WIDE = {_FLOATS: (b"OF", 32), _DOUBLES: (b"OD", 64)}  # VR, and bits allocated
_IMPLICIT_LITTLE, _EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_EXPLICIT_BIG, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_JPEG_FAMILY, _LOSSY = "1.2.840.10008.1.2.4.", ("50", "51", "53", "55", "91", "93", "203", "111", "112")
_FILMS = tuple(str(n) for n in range(100, 110))  # MPEG-2, MPEG-4 and HEVC
_ONE = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")  # samples of one kind: gray values, or indices
_THREE = ("RGB", "YBR_FULL")  # one sample of each kind a pixel
_HALVED = "YBR_FULL_422"  # two luma samples, then the chroma that both pixels share


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


def _word(data: memoryview, at: int, size: int, syntax: str) -> int:
    return int.from_bytes(data[at : at + size], "big" if syntax == _EXPLICIT_BIG else "little")


def _tag(data: memoryview, at: int, syntax: str) -> int:
    """The tag of the element at ``at``; no tag of pixels at the end of the file."""
    return _word(data, at, 2, syntax) << 16 | _word(data, at + 2, 2, syntax)


@dataclass(frozen=True)
class _Element:
    """The element that holds the samples."""

    vr: bytes
    start: int  # of its value
    length: int
    tag: int = _PIXEL_DATA


def _pixel_element(data: memoryview, at: int, syntax: str) -> _Element:
    """The element of samples that begins at ``at``. Raises MalformedSource, TruncatedSource."""
    tag = _tag(data, at, syntax)
    if at + (8 if syntax == _IMPLICIT_LITTLE else 12) > len(data):
        raise TruncatedSource("the DICOM file ends inside the head of its Pixel Data")
    if syntax == _IMPLICIT_LITTLE:
        return _Element(b"OW", at + 8, _word(data, at + 4, 4, syntax), tag)
    vr = bytes(data[at + 4 : at + 6])
    if vr not in ((b"OB", b"OW", b"UN") if tag == _PIXEL_DATA else (_WIDE[tag][0], b"UN")):
        raise MalformedSource(f"DICOM Pixel Data has the value representation {vr!r}")
    return _Element(vr, at + 12, _word(data, at + 8, 4, syntax), tag)


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Other compressed transfer syntaxes and files without pixels are not taken."""
    try:
        with _quiet():
            found = _examined(data, limits)
            if isinstance(found, Parsed):
                return found
            return parse_spliced("dicom", data, found, limits)
    except SourceError as error:
        if bytes(data[128:132]) == b"DICM":
            raise
        raise NotTaken("variant") from error  # without the magic it was only a guess that this is DICOM


def layouts(data: memoryview, limits: Limits) -> list[Layout]:
    """Where native samples lie. Raises NotTaken for all other DICOM, and SourceError subclasses."""
    with _quiet():
        found = _examined(data, limits, native_only=True)
    return found if isinstance(found, list) else []


def _examined(data: memoryview, limits: Limits, native_only: bool = False) -> Parsed | list[Layout]:
    """Where native samples lie, or the file taken apart where they are coded.

    Raises NotTaken, with ``native_only`` of all that is coded, and SourceError subclasses.
    """
    named, end = _meta(data)
    if named == _DEFLATED:
        if native_only:
            raise NotTaken("coding")
        return _deflated(data, end, limits)
    dataset, at = _read(data)
    syntax = _transfer_syntax(dataset)
    native = syntax in (_IMPLICIT_LITTLE, _EXPLICIT_LITTLE, _EXPLICIT_BIG)
    if syntax is None:
        raise NotTaken("no-pixels")
    if _tag(data, at, syntax) not in (_PIXEL_DATA, *_WIDE):
        raise NotTaken("no-pixels")
    if not native and (native_only or syntax not in dicom_coded.SYNTAXES):
        raise NotTaken(_why(syntax))
    element = _pixel_element(data, at, syntax)
    if not element.length:
        raise NotTaken("no-pixels")
    if (element.length == 0xFFFFFFFF) == native:
        raise NotTaken("variant")  # not as the transfer syntax says
    form = _form(dataset, element, syntax)
    limits.check_images(form.frames)
    if not native:
        return _coded(data, dataset, element, syntax, form, limits)
    if form.allocated < 8 or (syntax == _EXPLICIT_BIG and form.allocated == 8):
        swapped = syntax == _EXPLICIT_BIG and element.vr == b"OW"  # each pair of bytes
        if swapped or (form.allocated == 1 and form.columns % 8):
            raise NotTaken("samples")
    planar = form.samples == 3 and _number(dataset, "PlanarConfiguration", 0) == 1
    layout = _layout(form, syntax == _EXPLICIT_BIG, planar)
    size = layout.count * layout.raw_length(0)
    if size * form.frames > element.length:
        raise MalformedSource(
            f"DICOM Pixel Data has {element.length} bytes, its attributes promise {size * form.frames}"
        )
    start = element.start
    if start + element.length > len(data):
        raise TruncatedSource(f"DICOM Pixel Data promises {element.length} bytes, {len(data) - start} follow")
    return stacked(
        [
            replace(layout, offsets=tuple(start + i * size + o for o in layout.offsets))
            for i in range(form.frames)
        ]
    )


def _why(syntax: str) -> str:
    """The reason why a transfer syntax is not read."""
    family, _, last = syntax.rpartition(".")
    lossy = family + "." == _JPEG_FAMILY and (last in _LOSSY or last in _FILMS)
    return "lossy" if lossy else "coding"


@dataclass(frozen=True)
class _Form:
    """What the attributes say of the samples; ``samples`` and ``columns`` as they lie in the file."""

    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int  # bits: 1, 8, 16, 32 or 64
    signed: bool


def _form(dataset: Any, element: _Element, syntax: str) -> _Form:
    """The attributes. Raises NotTaken for what no image is made of, MalformedSource."""
    if element.tag in _WIDE:
        allocated = _WIDE[element.tag][1]
    else:
        allocated = _number(dataset, "BitsAllocated")
    samples = _number(dataset, "SamplesPerPixel", 1)
    photometric = _text(dataset, "PhotometricInterpretation")
    if syntax in dicom_coded.JPEG_2000 and photometric in ("YBR_RCT", "YBR_ICT"):
        photometric = "RGB"  # the colour transform is undone in decoding
    if allocated not in (1, 8, 16, 32, 64) or (allocated == 1 and samples != 1):
        raise NotTaken("samples")
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    frames = _number(dataset, "NumberOfFrames", 1)
    if not 0 < rows < 1 << 16 or not 0 < columns < 1 << 16 or frames < 1:
        raise MalformedSource(f"DICOM with {rows} rows, {columns} columns and {frames} frames")
    halved = samples == 3 and photometric == _HALVED and allocated == 8 and not columns % 2
    if halved and syntax in (_IMPLICIT_LITTLE, _EXPLICIT_LITTLE, _EXPLICIT_BIG):
        columns, samples = columns // 2, 4
    elif (samples, photometric in _ONE, photometric in _THREE) not in ((1, True, False), (3, False, True)):
        raise NotTaken("colour")
    signed = _number(dataset, "PixelRepresentation", 0) == 1
    return _Form(frames, rows, columns, samples, allocated, signed and allocated <= 16)


def sample_type(header: memoryview) -> tuple[str, int]:
    """The numpy type of the samples, and in how many low bits of each they lie (0: in all).

    ``header`` is the file up to its pixels and the head of their element. Raises NotTaken and SourceError subclasses.
    """
    with _quiet():
        dataset, at = _read(header)
        syntax = _transfer_syntax(dataset)
        if syntax is None:
            raise NotTaken("no-pixels")
        tag = _tag(header, at, syntax)
        if tag in _WIDE:
            return f"f{_WIDE[tag][1] // 8}", 0
        allocated = _number(dataset, "BitsAllocated")
        if allocated < 8:
            return "u1", 0
        signed = _number(dataset, "PixelRepresentation", 0) == 1
        stored = _number(dataset, "BitsStored", allocated)
        return f"{'i' if signed else 'u'}{allocated // 8}", stored if 0 < stored < allocated else 0


def _coded(
    data: memoryview, dataset: Any, element: _Element, syntax: str, form: _Form, limits: Limits
) -> Parsed:
    """Encapsulated pixels. Raises NotTaken and SourceError subclasses."""
    if form.allocated not in (8, 16) and (form.allocated, syntax) != (32, dicom_coded.RLE):
        raise NotTaken("samples")
    # Lossless JPEG stores its samples in no more than BitsStored bits, as non-negative numbers.
    signed = form.allocated == 16 and form.signed and _number(dataset, "BitsStored", 16) == 16
    kind = f"{'int' if signed else 'uint'}{form.allocated}"
    geometry = dicom_coded.Geometry(form.frames, form.rows, form.columns, form.samples, kind)
    extended = _bytes(dataset, "ExtendedOffsetTable")
    return dicom_coded.parse(data, element.start, syntax, geometry, extended, limits)


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


def _deflated(data: memoryview, at: int, limits: Limits) -> Parsed:
    """A file whose data set, from byte ``at`` on, is one deflate stream (PS3.5, annex A.5)."""
    raw, used = inflate(data[at:], limits)
    if _meta(raw)[1]:
        raise NotTaken("variant")
    found = _examined(raw, limits)
    inner = found if isinstance(found, Parsed) else parse_spliced("dicom", raw, found, limits)
    named = find(raw, data[at : at + used])
    if named is None:
        raise NotTaken("encoder")
    return join("dicom", data, [Member(at, at + used, named[0], inner, named[1])], limits)


def _bytes(dataset: Any, name: str) -> bytes:
    """A binary attribute, empty when absent. Raises MalformedSource when it cannot be read."""
    try:
        return bytes(dataset.get(name) or b"")
    except Exception as error:
        raise MalformedSource(f"the DICOM attribute {name} cannot be read") from error


def _layout(form: _Form, big: bool, planar: bool) -> Layout:
    """One frame as if it began at offset 0."""
    rows, columns, samples = form.rows, form.columns, form.samples
    if form.allocated == 1:
        return Layout(rows, columns, 1, "|u1", rows, columns, columns // 8, (0,), bits=1, lowest_first=True)
    itemsize = form.allocated // 8
    letter = f"{'i' if form.signed else 'u'}{itemsize}"
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
