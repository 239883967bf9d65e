"""A JPEG stream in fewer bytes that give it back: by its coefficients, or else as JPEG XL; proven before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from callic_archive.archive import isolated
from callic_archive.archive.dct import jpeg_stream
from callic_archive.archive.jpeg_limits import memory_to_decode, memory_to_recode
from callic_archive.errors import ForeignCodecFailed, ForeignCodecMissing

MOST = 8 << 20  # bytes of a stream by coefficients: nothing interrupts its coding, which takes some four seconds a megabyte


#: Whether JPEG XL, which is ten times as fast, comes first: a matter of the whole run, deep below which streams are met.
_QUICK: ContextVar[bool] = ContextVar("quick", default=False)


@contextmanager
def recoding(*, quick: bool) -> Iterator[None]:
    """What is recoded within becomes JPEG XL where that can be had, if ``quick``; else coefficients, where that is possible."""
    before = _QUICK.set(quick)
    try:
        yield
    finally:
        _QUICK.reset(before)


def recoded(jpeg: bytes | memoryview, pixels: int) -> bytes | None:
    """A file that gives the stream back and is smaller, or None. ``pixels``: those that it declares."""
    if _QUICK.get():
        return _by_jpegxl(jpeg, pixels) or by_coefficients(jpeg)
    return by_coefficients(jpeg) or _by_jpegxl(jpeg, pixels)


def stream_of(packed: bytes, most: int) -> bytes:
    """The stream, of up to ``most`` bytes, of either kind of file. Raises ValueError, ForeignCodecMissing, ForeignCodecFailed."""
    if packed.startswith(jpeg_stream.MAGIC):
        return jpeg_stream.decode(packed, most)
    memory = memory_to_decode(max(most, len(packed)))
    return isolated.ask("decode_jpeg", packed, memory=memory, most=max(4096, most))


def by_coefficients(jpeg: bytes | memoryview) -> bytes | None:
    """The file without the help of any library; None where that fails or saves nothing."""
    if len(jpeg) > MOST:
        return None
    with suppress(ValueError, MemoryError):
        packed = jpeg_stream.encode(jpeg)
        if packed is not None and len(packed) < len(jpeg) and jpeg_stream.decode(packed, len(jpeg)) == jpeg:
            return packed
    return None


def _by_jpegxl(jpeg: bytes | memoryview, pixels: int) -> bytes | None:
    """The same by JPEG XL, where its library is."""
    with suppress(ForeignCodecFailed, ForeignCodecMissing):
        packed = isolated.ask("encode_jpeg", jpeg, memory=memory_to_recode(len(jpeg), pixels))
        if len(packed) < len(jpeg) and stream_of(packed, len(jpeg)) == jpeg:
            return packed
    return None
