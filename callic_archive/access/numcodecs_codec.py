"""The numcodecs codec ``callic``, for zarr v2 arrays (as compressor) and everything else that uses numcodecs.

Registered by the entry point group ``numcodecs.codecs``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ensure_ndarray, ndarray_copy

from callic_archive.access.chunk_frame import FrameOptions, decode_chunk, encode_chunk


class Callic(Codec):  # type: ignore[misc]
    """Arrays of uint8, int8, bool, uint16 and int16 through the learned codec, others through Zstandard.

    ``coder`` is the entropy coder, ``level`` that of Zstandard. The shape of what is encoded serves the
    prediction; what is decoded are its bytes, in the order in which they lay in memory.
    """

    codec_id = "callic"

    def __init__(self, coder: Literal["range", "torchac"] = "range", level: int = 9) -> None:
        FrameOptions(coder, level)
        self.coder = coder
        self.level = level

    def encode(self, buf: Any) -> bytes:
        """The frame of an array or buffer. Raises TypeError for arrays of objects."""
        array = ensure_ndarray(buf)
        if array.dtype.hasobject:
            raise TypeError("the callic codec takes types of a fixed size; strings and objects need others")
        if array.flags.f_contiguous and not array.flags.c_contiguous:
            array = array.T  # as it lies in memory, which is what zarr's Fortran order expects back
        elif not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        return encode_chunk(array, FrameOptions(self.coder, self.level))

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The bytes that were encoded, in ``out`` where it is given. Raises CallicError on damage."""
        size = None if out is None else ensure_ndarray(out).nbytes
        return ndarray_copy(decode_chunk(ensure_bytes(buf), size), out)
