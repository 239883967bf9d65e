"""Slides made by code: TIFFs of JPEG tiles, whole or with their tables in JPEGTables, as scanners write them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image


def picture(height: int = 48, width: int = 64, seed: int = 0, channels: int = 3) -> np.ndarray[Any, Any]:
    """A noisy slope (H, W) or (H, W, C), uint8."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] + rng.integers(
        0, 30, channels
    )
    noisy = ((slope + rng.integers(0, 12, slope.shape)) % 256).astype("u1")
    return noisy[..., 0] if channels == 1 else noisy


def jpeg(image: np.ndarray[Any, Any] | None = None, **options: Any) -> bytes:
    """A JPEG file as Pillow writes it; four channels are CMYK."""
    out = io.BytesIO()
    image = picture() if image is None else image
    whole = Image.frombytes("CMYK", image.shape[1::-1], image.tobytes()) if image.shape[2:] == (4,) else Image.fromarray(image)
    whole.save(out, "JPEG", **options)
    return out.getvalue()


def forged(code: bytes) -> bytes:
    """A JPEG stream that declares the largest size there is."""
    at = max(code.find(b"\xff\xc0"), code.find(b"\xff\xc2"))
    return code[: at + 5] + b"\xff" * 4 + code[at + 9 :]


def parted_tables(code: bytes) -> tuple[bytes, bytes]:
    """A JPEG stream as a stream of its tables and one without them."""
    tables, rest, at = b"", b"", 2
    while True:
        length = 2 + int.from_bytes(code[at + 2 : at + 4], "big")
        segment = code[at : at + length]
        if segment[1] in (0xDB, 0xC4):
            tables += segment
        elif segment[1] == 0xDA:
            return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + code[at:]
        elif not 0xE0 <= segment[1] < 0xF0:
            rest += segment
        at += length


def slide(
    pages: Sequence[Sequence[bytes]], side: int, across: int, *, tables: bool = True, big: bool = False
) -> bytes:
    """A TIFF of ``pages``, each the JPEG tiles of ``side`` pixels, ``across`` in a row."""
    out = bytearray(
        struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    )
    link = len(out) - (8 if big else 4)
    number, word = ("<Q", 16) if big else ("<I", 4)
    for tiles in pages:
        parts = [parted_tables(tile) for tile in tiles]
        offsets = []
        for whole, (_, short) in zip(tiles, parts, strict=True):
            offsets.append(len(out))
            out += short if tables else whole
        counts = [len(short if tables else whole) for whole, (_, short) in zip(tiles, parts, strict=True)]
        down = -(-len(tiles) // across)
        fields = {
            256: (4, [side * across]), 257: (4, [side * down]), 258: (3, [8, 8, 8]), 259: (3, [7]), 262: (3, [6]),
            277: (3, [3]), 322: (3, [side]), 323: (3, [side]), 324: (word, offsets), 325: (word, counts),
        }  # fmt: skip
        if tables:
            fields[347] = (7, list(parts[0][0]))
        entries = b""
        for tag, (kind, values) in fields.items():
            body = struct.pack(f"<{len(values)}{ {3: 'H', 4: 'I', 7: 'B', 16: 'Q'}[kind] }", *values)
            if len(body) > (8 if big else 4):
                out += b"\0" * (len(out) % 2)
                place = struct.pack(number, len(out))
                out += body
            else:
                place = body.ljust(8 if big else 4, b"\0")
            entries += struct.pack("<HH" + number[1], tag, kind, len(values)) + place
        out += b"\0" * (len(out) % 2)
        out[link : link + (8 if big else 4)] = struct.pack(number, len(out))
        out += struct.pack("<Q" if big else "<H", len(fields)) + entries
        link = len(out)
        out += bytes(8 if big else 4)
    return bytes(out)
