"""The zarr v3 codec ``callic``: a serializer that codes chunks with the learned codec.

    zarr.create_array(store, shape=..., chunks=..., dtype="uint16", serializer=CallicCodec(), compressors=None)

Registered by the entry point group ``zarr.codecs``, so that arrays open wherever the package is installed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON, parse_named_configuration

from callic_archive.access.chunk_frame import FrameOptions, decode_chunk, encode_chunk

NAME = "callic"


@dataclass(frozen=True)
class CallicCodec(ArrayBytesCodec):
    """Chunks of uint8, int8, bool, uint16 and int16 go through the learned codec, others through Zstandard.

    ``coder`` is the entropy coder, ``level`` that of Zstandard. Two axes are an image, a last axis of 2 to 4
    its channels; further axes are stacked in height. Each chunk takes the form that is smallest.
    """

    is_fixed_size = False

    coder: Literal["range", "torchac"] = "range"
    level: int = 9

    def __post_init__(self) -> None:
        FrameOptions(self.coder, self.level)

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Read the codec's JSON form. Raises ValueError and TypeError."""
        _, configuration = parse_named_configuration(data, NAME, require_configuration=False)
        return cls(**(configuration or {}))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, JSON]:
        """The codec's JSON form."""
        return {"name": NAME, "configuration": {"coder": self.coder, "level": self.level}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse types whose values lie elsewhere than in the chunk. Raises TypeError."""
        if dtype.to_native_dtype().hasobject:
            raise TypeError("the callic codec takes types of a fixed size; strings and objects need others")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before a chunk is coded."""
        raise NotImplementedError

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        chunk = chunk_data.as_numpy_array()
        little = np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("<"))
        frame = encode_chunk(little, FrameOptions(self.coder, self.level))
        return chunk_spec.prototype.buffer.from_bytes(frame)

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype = chunk_spec.dtype.to_native_dtype()
        size = int(np.prod(chunk_spec.shape, dtype=object)) * dtype.itemsize
        raw = decode_chunk(memoryview(chunk_data.to_bytes()), size)
        chunk = raw.view(dtype.newbyteorder("<")).reshape(chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(chunk.astype(dtype, copy=False))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)
