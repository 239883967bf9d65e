"""Files that are one image coded without loss: JPEG 2000 (JP2, or its codestream alone), JPEG-LS, lossless JPEG.

Their code is made again from the pixels, as that of DICOM's frames is (``dicom_coded``); boxes and headers stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from callic_archive.errors import MalformedSource, TruncatedSource
from callic_archive.images import dicom_coded, jpeg2000, jpeg_lossless, jpeg_ls
from callic_archive.images.dicom_coded import Geometry
from callic_archive.images.layout import Image
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed, sniff

_SYNTAX = {"jp2": dicom_coded.JPEG_2000[0], "jls": dicom_coded.JPEG_LS[0], "ljpeg": dicom_coded.JPEG[0]}
_BOXES = 12  # bytes of the box that a JP2 file begins with
_MOST_BOXES = 1 << 10
_MOST_SAMPLES = 4


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Raises NotTaken for what is coded with loss or by encoders that none at hand repeats."""
    kind = str(sniff(data))
    start, end = _codestream(data) if kind == "jp2" else (0, len(data))
    code = data[start:end]
    geometry = _geometry(kind, bytes(code))
    syntax = _SYNTAX[kind]
    ratio = limits.max_ratio if kind == "jls" else min(limits.max_ratio, dicom_coded.RATIO)
    if geometry.frame_bytes > ratio * len(data):
        raise NotTaken("constant")  # legal: a blank image takes next to nothing
    limits.check_decoded(geometry.frame_bytes, len(data))
    image = np.empty(geometry.shape, geometry.dtype)
    target = image.reshape(geometry.height, geometry.width, geometry.samples)
    codes = dicom_coded.TAKERS[syntax](code, [(start, end - start)], target, geometry)
    if not any(one.spans for one in codes):
        raise NotTaken("encoder")
    return dicom_coded.joined(kind, data, geometry, [image], codes)


def _codestream(data: memoryview) -> tuple[int, int]:
    """Where the codestream of a JP2 file begins and ends (ITU-T T.800, annex I). Raises SourceError subclasses."""
    if bytes(data[:4]) == b"\xff\x4f\xff\x51":
        return 0, len(data)
    at = _BOXES
    for _ in range(_MOST_BOXES):
        if at + 8 > len(data):
            break
        length, head = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = len(data) if length == 0 else at + length
        if end < at + head or end > len(data):
            raise TruncatedSource(f"a box of the JP2 file ends at {end}, the file has {len(data)} bytes")
        if bytes(data[at + 4 : at + 8]) == b"jp2c":
            return at + head, end
        at = end
    raise MalformedSource("the JP2 file has no codestream")


def _geometry(kind: str, code: bytes) -> Geometry:
    """What the headers of a code say of its samples. Raises NotTaken and SourceError subclasses."""
    signed = False
    if kind == "jp2":
        header = jpeg2000.read_header(code)
        bits, signed, sizes = header.choices.bits, header.choices.signed, header.shape
    elif kind == "jls":
        told = jpeg_ls.read_header(code)
        if told.choices.near:
            raise NotTaken("lossy")
        bits, sizes = told.choices.bits, told.shape
    else:
        found = jpeg_lossless.read_header(code)
        if found is None:
            raise NotTaken("coding")
        bits, sizes = found.scan.precision, (found.height, found.width, len(found.scan.tables))
    height, width, samples = sizes
    if min(sizes) < 1 or samples > _MOST_SAMPLES or not 1 <= bits <= 16 or (signed and bits <= 8):
        raise NotTaken("samples")
    return Geometry(1, height, width, samples, "uint8" if bits <= 8 else "int16" if signed else "uint16")


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``: the file byte for byte."""
    dicom_coded.rebuild(recipe, surround, images, out)
