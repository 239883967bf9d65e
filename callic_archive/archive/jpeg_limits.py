"""What recoding a JPEG stream may take: its size is its own word, and libraries take memory for it before they read on."""

from __future__ import annotations

from callic_archive.images.jpeg_streams import Jpeg

#: Pixels of a JPEG stream that is recoded: JPEG XL takes 16 to 20 bytes of memory for each.
MOST_PIXELS = 128 << 20
_SAMPLES = 8  # bytes of samples that a byte of JPEG stands for, about
_BLANK = 512  # pixels at most that a byte of JPEG stands for: a bit for each block of 8x8 (``Jpeg.possible``)
_LESS = 4  # times less than coding, decoding takes: 14 to 18 bytes of address space a pixel, not 51 to 57


def recodable(jpeg: Jpeg) -> bool:
    """Whether a library may be asked to recode it."""
    return jpeg.height * jpeg.width <= MOST_PIXELS and jpeg.possible


def memory_to_recode(size: int, pixels: int) -> int:
    """Bytes of samples, as ``isolated.ask`` counts them, for a JPEG stream of ``size`` bytes with ``pixels``."""
    return max(_SAMPLES * size, pixels)


def memory_to_decode(size: int) -> int:
    """The same for giving back a stream of ``size`` bytes, of which nothing else is known."""
    return max(_SAMPLES * size, min(MOST_PIXELS, _BLANK * size) // _LESS)
