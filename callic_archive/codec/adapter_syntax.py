"""The coded form of an adapter: header, one scale a factor, one range-coded stream. Specification:
docs/format/codestream.md."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from callic_archive.codec.bytesio import Reader, Writer
from callic_archive.entropy.integers import best_scale, decode_weights, encode_weights
from callic_archive.entropy.mixture import MixtureTables
from callic_archive.entropy.range_coder import RangeDecoder, RangeEncoder
from callic_archive.errors import CodestreamError, DamagedModel
from callic_archive.model.adapter import FACTOR_LIMIT, Adapter, AdapterShape
from callic_archive.model.weights import ModelSet

MAGIC = b"\x8fCLA"
VERSION = 1
#: Scale byte of a factor that adaptation left alone altogether.
ALL_ZERO = 255
MAX_RANK = 64


def write_adapter(
    model_digest: str, shape: AdapterShape, differences: dict[str, NDArray[np.int32]], tables: MixtureTables
) -> Adapter:
    """Code factor differences, each factor under the scale that suits it best."""
    out, encoder = Writer(), RangeEncoder()
    out.raw(MAGIC)
    out.byte(VERSION)
    out.raw(bytes.fromhex(model_digest)[:8])
    for rank in (shape.rank_mcg, shape.rank_mlp, shape.rank_depthwise):
        out.byte(rank)
    for values in differences.values():
        if not values.any():
            out.byte(ALL_ZERO)
            continue
        scale = best_scale(values, tables, FACTOR_LIMIT)
        out.byte(scale)
        encode_weights(encoder, values, scale, tables, FACTOR_LIMIT)
    body = encoder.finish()
    out.varint(len(body))
    out.raw(body)
    payload = out.getvalue()
    return Adapter(model_digest, shape, differences, payload + zlib.crc32(payload).to_bytes(4, "little"))


def read_adapter(payload: bytes, models: ModelSet) -> Adapter:
    """Take a coded adapter apart. Raises DamagedModel, and UnknownModel when its model is not at hand."""
    if len(payload) < 8 or zlib.crc32(payload[:-4]) != int.from_bytes(payload[-4:], "little"):
        raise DamagedModel("an adapter is damaged: its CRC does not match")
    data = Reader(payload[:-4])
    try:
        if data.raw(4) != MAGIC or data.byte() != VERSION:
            raise DamagedModel("an adapter has an unknown form or version")
        model = models.find(data.raw(8))
        shape = AdapterShape(data.byte(), data.byte(), data.byte())
        if max(shape.rank_mcg, shape.rank_mlp, shape.rank_depthwise) > MAX_RANK:
            raise DamagedModel(f"an adapter's ranks exceed {MAX_RANK}")
        factors = shape.factors(model.weights.config)
        scales = [data.byte() for _ in factors]
        decoder = RangeDecoder(data.raw(data.varint(1 << 24)))
        if data.position != len(data.data):
            raise DamagedModel("bytes follow the end of an adapter")
        tables = MixtureTables.from_dict(model.mixture)
        differences = {}
        for (name, size), scale in zip(factors.items(), scales, strict=True):
            if scale == ALL_ZERO:
                differences[name] = np.zeros(size, np.int32)
            else:
                differences[name] = decode_weights(
                    decoder, size[0] * size[1], scale, tables, FACTOR_LIMIT
                ).reshape(size)
        decoder.finish()
    except CodestreamError as error:
        raise DamagedModel(f"an adapter does not decode: {error}") from error
    return Adapter(model.digest, shape, differences, bytes(payload))
