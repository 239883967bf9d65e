"""PNG (third edition): gray and palettes of 1 to 16 bits, gray with alpha, RGB and RGBA, plain or interlaced.

The surround is the file without its image data, followed by the filter type of each row: signature, chunks
and all bytes before the first IDAT, then the types, then everything behind the last IDAT. The recipe holds
the sizes of the IDAT chunks and the zlib parameters that repeat the stream (``bytes``), or others
(``content``). A stream that no parameters repeat is ``bytes`` too where its differences from what was expected
(see ``deflate``) are few; they are the end of the surround.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, repeat
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, RebuildMismatch, SourceTooLarge, TruncatedSource
from callic_archive.images.bit_packing import pack_bits, packed_bytes, unpack_bits
from callic_archive.images.deflate.parameters import FALLBACK, Deflate, Stored
from callic_archive.images.deflate.recipe import describe, named, recreate, way_of
from callic_archive.images.layout import Image, runs_of, unrun
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed

Bytes = NDArray[np.uint8]
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> samples a pixel
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
Pass = tuple[int, int, int, int, int, int]  # first column and row, steps between them, columns, rows
_STEP = 1 << 20
_EXPANSION = 1032  # deflate cannot expand further
_LARGEST = 1 << 31  # largest width, height and chunk that the specification allows


def _chunk(data: memoryview, at: int) -> tuple[bytes, int, int]:
    """(type, offset of the contents, their length) of the chunk at ``at``; its CRC has been checked."""
    if at + 12 > len(data):
        raise TruncatedSource(f"the PNG ends at {len(data)}, inside a chunk that starts at {at}")
    length, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
    if length >= _LARGEST or not kind.isalpha():
        raise MalformedSource(f"at byte {at} of the PNG there is no chunk")
    end = at + 8 + length
    if end + 4 > len(data):
        raise TruncatedSource(
            f"the PNG chunk {kind.decode()} promises {length} bytes, the file ends before them"
        )
    if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
        raise MalformedSource(f"the checksum of the PNG chunk {kind.decode()} at byte {at} is wrong")
    return kind, at + 8, length


def _chunks(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """All chunks up to and with IEND."""
    at = 8
    while True:
        kind, start, length = _chunk(data, at)
        yield kind, start, length
        at = start + length + 4
        if kind == b"IEND":
            return


def _inflate(pieces: Sequence[memoryview], size: int) -> tuple[Bytes, int]:
    """Exactly ``size`` bytes of the zlib stream in ``pieces``, and how many bytes lie behind its end."""
    out = np.empty(size, np.uint8)
    engine, n, behind = zlib.decompressobj(), 0, 0
    try:
        for piece in pieces:
            if engine.eof:
                behind += len(piece)
                continue
            todo: memoryview | bytes = piece
            while not engine.eof:
                part = engine.decompress(todo, _STEP)
                if n + len(part) > size:
                    raise MalformedSource("the PNG's image data is longer than its header promises")
                out[n : n + len(part)] = np.frombuffer(part, np.uint8)
                n += len(part)
                todo = engine.unconsumed_tail
                if not todo and len(part) < _STEP:
                    break
            behind += len(engine.unused_data)
    except zlib.error as error:
        raise MalformedSource("the PNG's image data cannot be inflated: its deflate stream is broken") from error
    if n < size or not engine.eof:
        raise TruncatedSource(f"the PNG's image data has {n} bytes, its header promises {size}")
    return out, behind


def _geometry(data: memoryview, start: int, length: int) -> tuple[int, int, int, int, bool]:
    """(width, height, samples, bits a sample, interlaced) of the IHDR."""
    if length != 13:
        raise MalformedSource("the PNG header has another length than 13")
    width, height = (
        int.from_bytes(data[start : start + 4], "big"),
        int.from_bytes(data[start + 4 : start + 8], "big"),
    )
    depth, colour, method, filtering, interlace = data[start + 8 : start + 13]
    if not 0 < width < _LARGEST or not 0 < height < _LARGEST:
        raise MalformedSource(f"a PNG of {width} x {height} pixels cannot be")
    if colour not in (0, 2, 3, 4, 6) or depth not in (1, 2, 4, 8, 16) or method or filtering or interlace > 1:
        raise MalformedSource("the PNG header names a colour type, depth or method that does not exist")
    if (depth < 8 and colour not in (0, 3)) or (depth == 16 and colour == 3):
        raise MalformedSource(f"a PNG of colour type {colour} cannot have samples of {depth} bits")
    return width, height, _SAMPLES[colour], depth, bool(interlace)


def _passes(width: int, height: int, interlaced: bool) -> list[Pass]:
    """The passes that hold pixels: one, or up to seven when interlaced."""
    found = []
    for x, y, dx, dy in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            found.append((x, y, dx, dy, columns, rows))
    return found


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Split image data is not taken. An image of a palette has its indices as samples."""
    chunks = list(islice(_chunks(data), limits.max_blocks + 1))
    limits.check_blocks(len(chunks))
    if chunks[0][0] != b"IHDR":
        raise MalformedSource("the PNG does not start with its header")
    width, height, samples, bits, interlaced = _geometry(data, *chunks[0][1:])
    parts = [i for i, (kind, _, _) in enumerate(chunks) if kind == b"IDAT"]
    if not parts:
        raise MalformedSource("the PNG has no image data")
    if parts[-1] - parts[0] + 1 != len(parts) or any(kind == b"fdAT" for kind, _, _ in chunks):
        raise NotTaken("variant")  # image data in several places, or frames of an animation
    itemsize = -(-bits // 8)
    pieces = [data[start : start + length] for kind, start, length in chunks if kind == b"IDAT"]
    packed = sum(len(piece) for piece in pieces)
    passes = _passes(width, height, interlaced)
    size = sum(rows * (1 + packed_bytes(columns * samples, bits)) for *_, columns, rows in passes)
    limits.check_decoded(size, len(data))
    if bits < 8 and width * height > limits.max_ratio * len(data):
        raise NotTaken("constant")  # deflate serves it well; more may not be unfolded from so little
    if size > _EXPANSION * packed + 64:
        raise SourceTooLarge(f"{packed} bytes of image data cannot hold {size} bytes of rows")
    flat, behind = _inflate(pieces, size)
    if behind:
        raise NotTaken("variant")  # bytes behind the end of the stream, but inside its chunks
    stream = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
    found = describe(stream[2:-4], flat, int.from_bytes(stream[:2], "big"))
    image, kinds = _unfilter(flat, passes, (height, width), samples, bits)
    if image is None:
        raise NotTaken("variant")  # bits between the rows that are not 0
    before, after = chunks[parts[0]][1] - 8, chunks[parts[-1]][1] + chunks[parts[-1]][2] + 4
    common: dict[str, Any] = {
        "height": height, "width": width, "samples": samples, "itemsize": itemsize, "before": before,
        "interlaced": interlaced,
        "zlib_header": bytes(stream[:2]).hex(), "idat": runs_of([len(piece) for piece in pieces]),
    }  # fmt: skip
    if bits < 8:
        common["bits"] = bits
    surround = b"".join((data[:before], kinds, data[after:]))
    content = _parsed(image, surround, common, named(FALLBACK), b"", exact=False)
    if found is None:
        return content
    way, side = found
    parsed = _parsed(image, surround, common, way, side, exact=True)
    return replace(parsed, lighter=lambda: content) if side else parsed


def _parsed(
    image: Image, surround: bytes, common: Mapping[str, Any], way: Mapping[str, Any], side: bytes, exact: bool
) -> Parsed:
    recipe: dict[str, Any] = {**common, "exact": exact}
    if side:
        recipe |= way
    else:
        recipe |= {"deflate": dict(way), "zlib": zlib.ZLIB_RUNTIME_VERSION}
    volatile = frozenset({"zlib_header", "idat", "deflate", "exact", "zlib", "differences"})
    return Parsed("png", "bytes" if exact else "content", (image,), surround + side, recipe, volatile)


def _unfilter(
    flat: Bytes, passes: Sequence[Pass], size: tuple[int, int], samples: int, bits: int
) -> tuple[Image | None, bytes]:
    """The image, and the filter types of all rows. The filters are undone in ``flat`` itself.

    None where the unused bits at the end of a row are not all 0.
    """
    from callic_archive.images.png_filters import undo_filters

    kinds: list[bytes] = []
    parts: list[Image] = []
    at = 0
    for *_, columns, count in passes:
        pitch = 1 + packed_bytes(columns * samples, bits)
        rows = flat[at : at + count * pitch].reshape(count, pitch)
        at += count * pitch
        kinds.append(rows[:, 0].tobytes())
        broken = undo_filters(rows, max(1, samples * bits // 8))
        if broken >= 0:
            raise MalformedSource(f"row {broken} of the PNG has filter type {kinds[-1][broken]}")
        if bits < 8:
            parts.append(unpack_bits(rows[:, 1:], columns, bits))
            if not np.array_equal(pack_bits(parts[-1], bits), rows[:, 1:]):
                return None, b""
        else:
            parts.append(_image(rows, samples, bits // 8))
    if passes[0][2:4] == (1, 1):
        return parts[0], kinds[0]
    image: Image = np.empty((*size, *parts[0].shape[2:]), parts[0].dtype)
    for (x, y, dx, dy, _, _), part in zip(passes, parts, strict=True):
        image[y::dy, x::dx] = part
    return image, b"".join(kinds)


def _image(rows: Bytes, samples: int, itemsize: int) -> Image:
    """(H, W) or (H, W, C) from unfiltered rows; a view for 8 bits, native order and so a copy for 16."""
    height, pitch = rows.shape
    width = (pitch - 1) // (samples * itemsize)
    strides = (pitch, samples * itemsize, itemsize)
    image: Image = np.ndarray((height, width, samples), f">u{itemsize}", rows.data, 1, strides)
    image = image.astype(np.uint16) if itemsize == 2 else image
    return image[..., 0] if samples == 1 else image


def _filtered(image: Image, passes: Sequence[Pass], kinds: Bytes, samples: int, bits: int) -> Iterator[Bytes]:
    """The filtered rows of an image, a few at a time."""
    bpp = max(1, samples * bits // 8)
    from callic_archive.images.png_filters import apply_filters

    for x, y, dx, dy, columns, count in passes:
        part = image[y::dy, x::dx]
        pitch = packed_bytes(columns * samples, bits)
        above = np.zeros(pitch, np.uint8)
        step = max(1, _STEP // (1 + pitch))
        for start in range(0, count, step):
            some = np.ascontiguousarray(part[start : start + step], dtype=image.dtype.newbyteorder(">"))
            pixels = some.reshape(len(some), -1).view(np.uint8)
            pixels = pack_bits(pixels, bits) if bits < 8 else pixels
            yield apply_filters(pixels, above, kinds[start : start + step], bpp)
            above = pixels[-1]
        kinds = kinds[count:]


def _again(rows_of_image: Iterator[Bytes], side: memoryview, header: bytes) -> Iterator[bytes]:
    """The zlib stream of an image by its differences."""
    raw = b"".join(rows.tobytes() for rows in rows_of_image)
    yield header
    yield recreate({"differences": len(side)}, side, raw)
    yield zlib.adler32(raw).to_bytes(4, "big")


def _stream(rows_of_image: Iterator[Bytes], deflate: Deflate | Stored, header: bytes) -> Iterator[bytes]:
    """The zlib stream of an image in pieces."""
    engine, check = deflate.engine(), 1
    yield header
    for rows in rows_of_image:
        check = zlib.adler32(rows.data, check)
        yield engine.compress(rows.data)
    yield engine.flush()
    yield check.to_bytes(4, "big")


def _write_chunks(pieces: Iterator[bytes], sizes: Iterator[int], out: BinaryIO) -> None:
    """Write a stream as IDAT chunks of the given sizes; what is left over goes into one more chunk."""

    def write(body: bytes) -> None:
        out.write(len(body).to_bytes(4, "big") + b"IDAT" + body)
        out.write(zlib.crc32(body, zlib.crc32(b"IDAT")).to_bytes(4, "big"))

    waiting, size = bytearray(), next(sizes, _LARGEST)
    for piece in pieces:
        waiting += piece
        while len(waiting) >= size:
            write(bytes(waiting[:size]))
            del waiting[:size]
            size = next(sizes, _LARGEST)
    if waiting:
        write(bytes(waiting))


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """See ``source.rebuild``."""
    height, width, samples = (int(recipe[name]) for name in ("height", "width", "samples"))
    itemsize, before = int(recipe["itemsize"]), int(recipe["before"])
    bits = int(recipe.get("bits", 8 * itemsize))
    if "bits" in recipe and (bits not in (1, 2, 4) or samples != 1 or itemsize != 1):
        raise RebuildMismatch("the recipe names an impossible number of bits a sample")
    shape = (height, width) if samples == 1 else (height, width, samples)
    if len(images) != 1 or images[0].shape != shape or images[0].dtype != np.dtype(f"u{itemsize}"):
        raise RebuildMismatch(f"one image of shape {shape} with {itemsize} bytes a sample is needed")
    if bits < 8 and int(images[0].max(initial=0)) >> bits:
        raise RebuildMismatch(f"a sample of the image has more than {bits} bits")
    passes = _passes(width, height, bool(recipe["interlaced"]))
    lines = sum(rows for *_, rows in passes)
    end = len(surround) - int(recipe.get("differences", 0))
    if not before + lines <= end <= len(surround):
        raise RebuildMismatch("the surrounding bytes are too short for the recipe")
    raw = lines + sum(rows * packed_bytes(columns * samples, bits) for *_, columns, rows in passes)
    way = None if end < len(surround) else way_of(recipe["deflate"], raw)
    sizes: Iterator[int] = repeat(_STEP)
    header = b"\x78\x9c"
    if recipe["exact"]:
        lengths, header = unrun(recipe["idat"]), bytes.fromhex(recipe["zlib_header"])
        if lengths and min(lengths) < 0:
            raise RebuildMismatch("the recipe names chunks of negative size")
        sizes = iter(lengths)
    kinds = np.frombuffer(surround, np.uint8, lines, before)
    if before < 0 or int(kinds.max(initial=0)) > 4:
        raise RebuildMismatch("the surrounding bytes name a filter that there is not")
    rows = _filtered(images[0], passes, kinds, samples, bits)
    out.write(memoryview(surround)[:before])
    if way is None:
        stream = _again(rows, memoryview(surround)[end:], header)
    else:
        stream = _stream(rows, way, header)
    _write_chunks(stream, sizes, out)
    out.write(memoryview(surround)[before + lines : end])
