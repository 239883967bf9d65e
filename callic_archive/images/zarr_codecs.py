"""The codecs of zarr chunks: undone within known bounds, and applied again with what the recipe names.

A step is a name with its numbers (``zarr_metadata.Step``). Every step's output size follows from its input's
or is bounded before memory is taken: headers that promise another size than the array's metadata are refused.
Encoding goes through numcodecs with one thread, so that the same step makes the same bytes at every call.
"""

from __future__ import annotations

import bz2
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zstandard

from callic_archive.errors import MalformedSource, RebuildMismatch
from callic_archive.images.zarr_steps import Step

GZIP_HEADER = 10  # bytes before the deflate stream: magic, method, flags, time, hints; kept as they are
_GZIP_START = b"\x1f\x8b\x08\x00"  # no flags: nothing else stands between header and stream
_BLOSC_HEADER = 16
_BLOSC_LOCK = threading.Lock()
_OTHER_LEVELS = (6, 9, 1, 5)  # of deflate: what writers use that ignore the level they record
_MAX_WINDOW = 1 << 27
_MOST_BLOCKS = 1 << 14  # blocks of a Blosc frame whose order a recipe tells
_ARGUMENTS = {
    "delta": 1, "shuffle": 1, "crc32": 0, "adler32": 0, "zlib": 1, "gzip": 1, "bz2": 1, "lz4": 1, "zstd": 2, "blosc": 5,
}  # fmt: skip


def sizes(steps: Sequence[Step], size: int) -> list[int]:
    """Bytes before each step, for an array of ``size`` bytes; behind a compressor none is known (-1)."""
    found = []
    for step in steps:
        found.append(size)
        if step[0] in ("crc32", "adler32"):
            size = size + 4 if size >= 0 else -1
        elif step[0] not in ("delta", "shuffle"):
            size = -1
    return found


def decode(steps: Sequence[Step], code: memoryview, size: int) -> bytes:
    """Undo all steps. The result has ``size`` bytes, or MalformedSource is raised.

    Only the last step may be one whose output size is unknown, or everything that follows a compressor must
    keep sizes; other chains are refused.
    """
    raw: bytes | memoryview = code
    for step, expected in zip(reversed(steps), reversed(sizes(steps, size)), strict=True):
        if expected < 0:
            raise MalformedSource("one compressor follows another")
        raw = _undo(step, memoryview(raw), expected)
        if len(raw) != expected:
            raise MalformedSource(f"a chunk unfolds to {len(raw)} bytes and not to {expected}")
    if len(raw) != size:
        raise MalformedSource(f"a chunk has {len(raw)} bytes and not {size}")
    return bytes(raw)


def _undo(step: Step, code: memoryview, size: int) -> bytes | memoryview:
    name = step[0]
    if name == "zlib":
        return _inflate(code, size, 15)
    if name == "gzip":
        raw = _inflate(code[:-8], size, -15)
        if bytes(code[-8:]) != _gzip_trailer(raw):
            raise MalformedSource("the checksum of a gzip chunk is wrong")
        return raw
    if name == "bz2":
        engine = bz2.BZ2Decompressor()
        try:
            raw = engine.decompress(code, size + 1)
        except OSError as error:
            raise MalformedSource(f"a bzip2 chunk is broken: {error}") from error
        return _complete(raw, engine)
    if name == "zstd":
        return _undo_zstd(code, size)
    if name == "lz4":
        return _undo_lz4(code, size)
    if name == "blosc":
        return _undo_blosc(code, size)
    if name == "crc32" or name == "adler32":
        checksum = zlib.crc32(code[4:]) if name == "crc32" else zlib.adler32(code[4:])
        if bytes(code[:4]) != checksum.to_bytes(4, "little"):
            raise MalformedSource("the checksum of a chunk is wrong")
        return code[4:]
    if name == "shuffle":
        return _unshuffle(np.frombuffer(code, np.uint8), int(step[1]))
    if name == "delta":
        differences = np.frombuffer(code, f"<u{step[1]}")
        return np.cumsum(differences, dtype=differences.dtype).tobytes()
    raise MalformedSource(f"there is no codec {name!r}")


def _complete(raw: bytes, engine: Any) -> bytes:
    """``raw``, if the stream that gave it has its end there. Raises MalformedSource."""
    if not engine.eof or engine.unused_data:
        raise MalformedSource("a compressed chunk goes on beyond its samples, or ends before them")
    return raw


def _inflate(code: memoryview, size: int, bits: int) -> bytes:
    engine = zlib.decompressobj(bits)
    raw = engine.decompress(code, size + 1)
    if len(raw) == size and not engine.eof:  # the end of the stream may be still to come
        raw += engine.decompress(engine.unconsumed_tail, 1)
    return _complete(raw, engine)


def _gzip_trailer(raw: bytes) -> bytes:
    return zlib.crc32(raw).to_bytes(4, "little") + (len(raw) & 0xFFFFFFFF).to_bytes(4, "little")


def _undo_zstd(code: memoryview, size: int) -> bytes:
    try:
        raw: bytes = (
            zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(code).read(size + 1)
        )
        if len(raw) != size:
            raise MalformedSource(f"a Zstandard chunk unfolds to {len(raw)} bytes and not to {size}")
        engine = zstandard.ZstdDecompressor(
            max_window_size=_MAX_WINDOW
        ).decompressobj()  # known to be small now
        return _complete(engine.decompress(code), engine)
    except zstandard.ZstdError as error:
        raise MalformedSource(f"a Zstandard chunk is broken: {error}") from error


def _undo_lz4(code: memoryview, size: int) -> bytes:
    import numcodecs

    if len(code) < 4 or int.from_bytes(code[:4], "little") != size:
        raise MalformedSource(f"an LZ4 chunk promises another size than {size} bytes")
    try:
        return bytes(numcodecs.LZ4().decode(bytes(code)))
    except RuntimeError as error:
        raise MalformedSource(f"an LZ4 chunk is broken: {error}") from error


def _undo_blosc(code: memoryview, size: int) -> bytes:
    import numcodecs

    if len(code) < _BLOSC_HEADER:
        raise MalformedSource("a Blosc chunk ends inside its header")
    told, block, packed = (int.from_bytes(code[i : i + 4], "little") for i in (4, 8, 12))
    if told != size or packed != len(code) or not 0 < block <= max(told, 1):
        raise MalformedSource(f"a Blosc chunk promises another size than {size} bytes")
    try:
        return bytes(numcodecs.Blosc().decode(bytes(code)))
    except (RuntimeError, ValueError) as error:
        raise MalformedSource(f"a Blosc chunk is broken: {error}") from error


def _unshuffle(code: Any, size: int) -> bytes:
    whole = len(code) // size * size
    return bytes(code[:whole].reshape(size, -1).T.tobytes() + code[whole:].tobytes())


def _shuffle(raw: Any, size: int) -> bytes:
    whole = len(raw) // size * size
    return bytes(raw[:whole].reshape(-1, size).T.tobytes() + raw[whole:].tobytes())


# -- applying ------------------------------------------------------------------------------------------------


def encode(steps: Sequence[Step], raw: bytes) -> bytes:
    """Apply all steps. Raises RebuildMismatch for a step that there is not."""
    for step in steps:
        raw = _apply(step, raw)
    return raw


def check_step(value: Any) -> Step:
    """A step as a recipe holds it. Raises RebuildMismatch."""
    known = isinstance(value, (list, tuple)) and value and value[0] in _ARGUMENTS
    count = len(value) - 1 if known else 0
    if not known or (
        count != _ARGUMENTS[value[0]] and (value[0] != "blosc" or not 5 < count <= 5 + _MOST_BLOCKS)
    ):
        raise RebuildMismatch("the recipe names a codec that there is not")
    numbers = value[2:] if value[0] == "blosc" else value[1:]
    if not all(type(n) is int and abs(n) <= 1 << 31 for n in numbers):
        raise RebuildMismatch("the recipe names a codec with impossible numbers")
    if (value[0] == "delta" and value[1] not in (1, 2, 4, 8)) or (
        value[0] == "shuffle" and not 1 <= value[1] <= 64
    ):
        raise RebuildMismatch("the recipe names a codec with impossible numbers")
    return tuple(value)


def _apply(step: Step, raw: bytes) -> bytes:
    name, numbers = step[0], [n for n in step[1:] if isinstance(n, int)]
    if name == "zlib":
        return zlib.compress(raw, numbers[0])
    if name == "gzip":
        engine = zlib.compressobj(numbers[0], zlib.DEFLATED, -15, 8)
        return engine.compress(raw) + engine.flush() + _gzip_trailer(raw)
    if name == "bz2":
        return bz2.compress(raw, numbers[0])
    if name == "crc32":
        return zlib.crc32(raw).to_bytes(4, "little") + raw
    if name == "adler32":
        return zlib.adler32(raw).to_bytes(4, "little") + raw
    if name == "shuffle":
        return _shuffle(np.frombuffer(raw, np.uint8), numbers[0])
    if name == "delta":
        values = np.frombuffer(raw, f"<u{numbers[0]}").copy()
        values[1:] -= values[:-1].copy()
        return values.tobytes()
    if name == "zstd":
        import numcodecs

        return bytes(numcodecs.Zstd(level=numbers[0], checksum=bool(numbers[1])).encode(raw))
    if name == "lz4":
        import numcodecs

        return bytes(numcodecs.LZ4(acceleration=numbers[0]).encode(raw))
    if name == "blosc":
        return _apply_blosc(str(step[1]), numbers, raw)
    raise RebuildMismatch(f"there is no codec {name!r}")


def block_order(frame: bytes | memoryview) -> list[int] | None:
    """The blocks of a Blosc frame by their places in it; None for frames without blocks, or broken ones.

    Writers with threads put the blocks there in the order in which they got ready.
    """
    size, block = int.from_bytes(frame[4:8], "little"), int.from_bytes(frame[8:12], "little")
    if len(frame) < _BLOSC_HEADER or frame[2] & 2 or not block:  # 2: the chunk is only copied
        return None
    count = -(-size // block)
    if not 0 < count <= _MOST_BLOCKS or _BLOSC_HEADER + 4 * count > len(frame):
        return None
    starts = np.frombuffer(frame, "<u4", count, _BLOSC_HEADER)
    order: list[int] = np.argsort(starts, kind="stable").tolist()
    return order


def _reordered(frame: bytes, order: Sequence[int]) -> bytes:
    """A frame whose blocks lie one after the other, with its blocks in another order. Raises RebuildMismatch."""
    if block_order(frame) != list(range(len(order))) or sorted(order) != list(range(len(order))):
        raise RebuildMismatch("the recipe orders the blocks of a chunk in an impossible way")
    starts = [*np.frombuffer(frame, "<u4", len(order), _BLOSC_HEADER).tolist(), len(frame)]
    moved = np.empty(len(order), "<u4")
    pieces, at = [], starts[0]
    for number in order:
        moved[number] = at
        pieces.append(frame[starts[number] : starts[number + 1]])
        at += len(pieces[-1])
    return b"".join([frame[:_BLOSC_HEADER], moved.tobytes(), *pieces])


def _apply_blosc(cname: str, numbers: Sequence[int], raw: bytes) -> bytes:
    import numcodecs
    from numcodecs import blosc

    level, shuffle, block, size, *order = numbers
    codec = numcodecs.Blosc(cname=cname, clevel=level, shuffle=shuffle, blocksize=block)
    values = np.frombuffer(raw, np.dtype((np.void, size)) if size not in (1, 2, 4, 8) else f"u{size}")
    with _BLOSC_LOCK:  # with threads, the blocks of a chunk would come in the order in which they get ready
        before, blosc.use_threads = blosc.use_threads, False
        try:
            frame = bytes(codec.encode(values))
        finally:
            blosc.use_threads = before
    return _reordered(frame, order) if order else frame


# -- finding what repeats a chunk ----------------------------------------------------------------------------


def variants(steps: tuple[Step, ...], code: memoryview) -> Iterator[tuple[Step, ...]]:
    """Chains that may have made ``code``: the recorded one, then those of writers that took liberties."""
    if not steps:
        yield steps
        return
    last = steps[-1]
    if last[0] == "blosc" and len(code) >= _BLOSC_HEADER:
        order = block_order(code)
        moved = () if order is None or order == sorted(order) else tuple(order)
        told, size = int.from_bytes(code[8:12], "little"), max(1, code[3])
        # Blosc multiplies the wanted size of blocks by that of an element where it splits them.
        for block, each in dict.fromkeys([last[4:6], (0, size), (told // size, size), (told, size)]):
            yield (*steps[:-1], (*last[:4], block, each, *moved))
        return
    yield steps
    if last[0] in ("zlib", "gzip"):
        yield from ((*steps[:-1], (last[0], level)) for level in _OTHER_LEVELS if level != last[1])


def has_gzip_header(code: memoryview) -> bool:
    """Whether a gzip chunk begins with the plain header of ten bytes."""
    return len(code) >= GZIP_HEADER + 8 and bytes(code[:4]) == _GZIP_START


def libraries() -> dict[str, str]:
    """Versions of what encodes. For information: the digest of the source decides."""
    import numcodecs
    from numcodecs import blosc

    return {
        "numcodecs": str(numcodecs.__version__),
        "blosc": str(blosc.VERSION_STRING),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }
