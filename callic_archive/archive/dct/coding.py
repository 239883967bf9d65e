"""Images by the coefficients of the JPEG streams that they were decoded from: the coding ``dct``.

docs/format/dct.md is the specification. What decoding does not give back (edges of parts, what somebody drew over an image) is
kept as an image of differences, which is zero nearly everywhere.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive.dct.decoding import (
    GRAY,
    RGB,
    TRANSFORMED,
    Layout,
    Table,
    pixels_of,
)  # fmt: skip
from callic_archive.archive.dct.estimation import Stream
from callic_archive.archive.dct.form import TRANSPOSED, Form
from callic_archive.archive.dct.recovery import MOST_PIXELS
from callic_archive.archive.dct.tables import STANDARD

Image = NDArray[Any]

_HEAD = struct.Struct("<BBBI")  # kind, places, sampling; bytes of the coefficients
_OWN = 0  # of a table that is none of STANDARD
_CODINGS = ("", "jpegxl", "samples", "segments")  # of differences


@dataclass(frozen=True)
class Coefficients:
    """What a payload holds: an image but for its differences, and these as they are coded (``""``: there are none)."""

    image: Image
    coding: str
    differences: memoryview


def payload_of(found: Stream, form: Form = Form(), coding: str = "", differences: bytes = b"") -> bytes:
    """The bytes of an image; ``coding`` and its bytes give the image modulo 256 less what is decoded."""
    from callic_archive.archive.dct.coefficients import encode_coefficients

    layout = found.layout
    coded = encode_coefficients(found.planes, found.tables)
    kind = layout.colour | layout.chroma << 2 | layout.ends_below << 4 | layout.ends_right << 5 | _CODINGS.index(coding) << 6
    sampling = (layout.down - 1) | (layout.across - 1) << 1 | form.turn << 2 | form.reverse << 5
    head = _HEAD.pack(kind, layout.top << 4 | layout.left, sampling, len(coded))
    head += b"" if form.alpha is None else bytes([form.alpha])
    tables = b"".join(map(_table_bytes, found.tables[: _tables(layout)]))
    return head + tables + coded + differences


def read(payload: bytes, shape: tuple[int, ...], dtype: str) -> Coefficients:
    """The inverse of ``payload_of`` for an image of that shape. Raises ValueError for any other payload."""
    from callic_archive.archive.dct.coefficients import decode_coefficients

    if dtype != "uint8" or len(payload) < _HEAD.size:
        raise ValueError("an image by coefficients is cut off, or not of bytes")
    kind, places, sampling, length = _HEAD.unpack_from(payload)
    colour, chroma = kind & 3, kind >> 2 & 3
    channels = ((), (2,)) if colour == GRAY else ((3,), (4,))
    if chroma > TRANSFORMED or sampling > 63 or len(shape) < 2 or shape[2:] not in channels or 0 in shape:
        raise ValueError("an image by coefficients has no such components")
    if shape[0] * shape[1] > MOST_PIXELS:
        raise ValueError("an image by coefficients is larger than any that a packer codes so")
    at = _HEAD.size
    form = Form(sampling >> 2 & 7, bool(sampling & 32))
    if shape[2:] == channels[1]:
        form, at = replace(form, alpha=payload[at] if at < len(payload) else 0), at + 1
    if colour == GRAY and form.reverse:
        raise ValueError("an image by coefficients has no channels to reverse")
    height, width = shape[1::-1] if form.turn & TRANSPOSED else shape[:2]
    layout = Layout(
        height, width, colour, 1 + (sampling & 1), 1 + (sampling >> 1 & 1), chroma, places >> 4, places & 15,
        bool(kind & 16), bool(kind & 32),
    )  # fmt: skip
    tables: list[Table] = []
    for _ in range(_tables(layout)):
        table, at = _read_table(payload, at)
        tables.append(table)
    tables += [tables[-1]] * (layout.components - len(tables))
    if at + length > len(payload):
        raise ValueError("an image by coefficients is cut off")
    planes = decode_coefficients(
        payload[at : at + length], [layout.blocks(component) for component in range(layout.components)], tables
    )
    image = form.image_of(pixels_of(planes, tables, layout))
    return Coefficients(image, _CODINGS[kind >> 6], memoryview(payload)[at + length :])


def differences_of(image: Image, decoded: Image) -> Image | None:
    """The image modulo 256 less what is decoded; None where they are equal."""
    differences: Image = image - decoded
    return differences if differences.any() else None


def _tables(layout: Layout) -> int:
    """How many there are: Cb and Cr have one."""
    return {GRAY: 1, RGB: 3}.get(layout.colour, 2)


def _table_bytes(table: Table) -> bytes:
    same = np.flatnonzero((table == STANDARD).all(axis=1))
    return bytes([same[0] + 1]) if len(same) else bytes([_OWN]) + table.astype(np.uint8).tobytes()


def _read_table(payload: bytes, at: int) -> tuple[Table, int]:
    number = payload[at] if at < len(payload) else 255
    if number == _OWN:
        table = np.frombuffer(payload[at + 1 : at + 65], np.uint8).astype(np.uint16)
        if len(table) == 64 and table.all():
            return table, at + 65
    elif number <= len(STANDARD):
        return STANDARD[number - 1], at + 1
    raise ValueError("an image by coefficients has no such table")


