"""RLE Lossless of DICOM (PS3.5, annex G): byte planes of a frame, each a PackBits code of its own.

Encoders split runs and literals as they like. Where none of those known repeats a code, the head bytes of its packets are
kept, which with the plane itself give any code again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, RebuildMismatch, TruncatedSource

Bytes = NDArray[np.uint8]
ENCODERS = ("libtiff", "imagecodecs", "runs2", "runs3", "pairs3")
PACKETS = "packets"  # no encoder: the packets' head bytes are told
_HEADER = 64


@njit(cache=True)
def _decode(code: Any, plane: Any, heads: Any) -> Any:
    """(bytes of the code, packets) that fill ``plane``; -1 bytes when it ends too early or goes beyond."""
    n: Any = 0
    i: Any = 0
    packets: Any = 0
    while n < len(plane):
        if i >= len(code):
            return -1, packets
        head: Any = np.int64(code[i])
        heads[packets] = head
        packets += 1
        i += 1
        if head < 128:
            size: Any = head + 1
            if n + size > len(plane) or i + size > len(code):
                return -1, packets
            for j in range(size):
                plane[n + j] = code[i + j]
            i += size
            n += size
        elif head > 128:
            size = 257 - head
            if n + size > len(plane) or i >= len(code):
                return -1, packets
            for j in range(size):
                plane[n + j] = code[i]
            i += 1
            n += size
    return i, packets


@njit(cache=True)
def _encode(plane: Any, heads: Any, out: Any) -> Any:
    """Write the code with these head bytes; returns its length, or -1 when they do not fit the plane."""
    n: Any = 0
    i: Any = 0
    for k in range(len(heads)):
        head: Any = np.int64(heads[k])
        out[n] = head
        n += 1
        size: Any = head + 1 if head < 128 else 257 - head if head > 128 else 0
        if i + size > len(plane):
            return -1
        if head < 128:
            for j in range(size):
                out[n + j] = plane[i + j]
            n += size
        elif head > 128:
            out[n] = plane[i]
            n += 1
        i += size
    return n if i == len(plane) else -1


@njit(cache=True)
def _greedy(plane: Any, columns: int, least: int, pairs: bool, out: Any) -> Any:
    """Every run of at least ``least`` equal bytes becomes runs, all between them literals; rows stand alone.

    ``pairs``: two equal bytes that end a row are a run as well (GDCM).
    """
    n: Any = 0
    for start in range(0, len(plane), columns):
        end = min(start + columns, len(plane))
        i = start
        literal: Any = -1  # where the head byte of the open literal lies
        while i < end:
            size = 1
            while size < 128 and i + size < end and plane[i + size] == plane[i]:
                size += 1
            if size >= least or (pairs and size == 2 and i + 2 == end):
                out[n] = 257 - size
                out[n + 1] = plane[i]
                n += 2
                i += size
                literal = -1
                continue
            if literal < 0 or out[literal] == 127:
                literal = n
                out[n] = 255
                n += 1
            out[literal] = (np.int64(out[literal]) + 1) & 255
            out[n] = plane[i]
            n += 1
            i += 1
    return n


def segments(code: memoryview, planes: int) -> list[tuple[int, int]]:
    """Begin and end of each segment of a frame. Raises MalformedSource when its header tells others."""
    if len(code) < _HEADER:
        raise TruncatedSource("a frame of DICOM RLE ends inside its header")
    header = np.frombuffer(code[:_HEADER], "<u4").tolist()
    begins = header[1 : 1 + planes]
    if header[0] != planes or begins[0] < _HEADER or sorted(set(begins)) != begins or begins[-1] > len(code):
        raise MalformedSource(f"a frame of DICOM RLE needs {planes} segments, its header tells others")
    return list(zip(begins, [*begins[1:], len(code)], strict=True))


def decode(code: memoryview, plane: Bytes) -> tuple[int, Bytes]:
    """Fill ``plane`` (flat); the bytes of the code, and the head bytes of its packets. Raises MalformedSource."""
    heads = np.empty(len(code), np.uint8)
    used, packets = _decode(np.frombuffer(code, np.uint8), plane, heads)
    if used < 0:
        raise MalformedSource("a segment of DICOM RLE does not decode to the pixels of its frame")
    return int(used), heads[:packets]


def encode(plane: Bytes, columns: int, encoder: str, heads: bytes) -> bytes:
    """The code of a plane (flat) with rows of ``columns`` bytes. Raises RebuildMismatch."""
    if encoder == PACKETS:
        out = np.empty(len(plane) + len(heads) + 1, np.uint8)
        length = int(_encode(plane, np.frombuffer(heads, np.uint8), out))
        if length < 0:
            raise RebuildMismatch("the packets of the recipe do not fit the pixels")
        return out[:length].tobytes()
    if encoder == "libtiff":
        from callic_archive.images.tiff_lzw import packbits_encode

        return packbits_encode(plane, columns)
    if encoder == "imagecodecs":
        import imagecodecs

        return bytes(imagecodecs.packbits_encode(plane.reshape(-1, columns)))
    if encoder in ("runs2", "runs3", "pairs3"):
        out = np.empty(2 * len(plane) + 2, np.uint8)
        return out[: int(_greedy(plane, columns, int(encoder[-1]), encoder == "pairs3", out))].tobytes()
    raise RebuildMismatch("the recipe names an encoder of RLE that there is not")
