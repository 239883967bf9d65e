"""Zarr array metadata, versions 2 and 3, read with suspicion: how the bytes of one chunk become samples.

A chunk does not describe itself; the document beside it does (``.zarray``, ``zarr.json``). Only what decides
about a chunk's bytes is read. Every answer is one of three: a ``ChunkForm``; NotTaken for what is kept as it is
(structures, unknown codecs, variable chunks); MalformedSource for a document that contradicts
itself. Specifications: zarr-specs, core protocol v2 and v3, sharding codec 1.0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from callic_archive.errors import MalformedSource
from callic_archive.images.reasons import NotTaken
from callic_archive.images.zarr_steps import Step, check_outermost, step_of

Json = Any
MAX_DOCUMENT = 4 << 20  # bytes of a metadata document
DOCUMENTS = (".zarray", "zarr.json")
_MAX_AXES = 32
_MAX_EXTENT = 1 << 31
_MAX_CODECS = 16
_MAX_DEPTH = 4  # shards in shards
_KEY = re.compile(r"(?:c[./])?(?:0|[1-9]\d{0,18})(?:[./](?:0|[1-9]\d{0,18})){0,31}")
_V2_TYPE = re.compile(r"[<>|]([ui][1248]|b1|f[248]|c8)")
_V3_TYPES = {
    "bool": "u1", "uint8": "u1", "int8": "i1", "uint16": "u2", "int16": "i2", "uint32": "u4", "int32": "i4",
    "uint64": "u8", "int64": "i8", "float16": "f2", "float32": "f4", "float64": "f8", "complex64": "c8",
}  # fmt: skip


@dataclass(frozen=True)
class ShardForm:
    """How a shard is divided: inner chunks, or shards again, and the index of 16 bytes each, at its end or its
    start.
    """

    inner: ChunkForm
    parts: tuple[int, ...]  # shape of the inner chunks, its axes those of the shard
    byte_order: str  # of the index: "<" or ">"
    tail: int  # bytes of checksum behind the index
    at_end: bool


@dataclass(frozen=True)
class ChunkForm:
    """The bytes of one chunk: an array in C order of ``shape``, sent through ``steps`` one after the other."""

    shape: tuple[int, ...]  # as the samples lie in memory: transposes and Fortran order are applied
    axes: tuple[int, ...]  # axis of the array that each axis of ``shape`` is
    dtype: str  # one of layout.DTYPES: wide and floating point samples are bit patterns
    steps: tuple[Step, ...] = ()
    tail: int = 0  # bytes of checksum behind the last step's code
    fill: int = 0
    shard: ShardForm | None = None
    meaning: str = ""  # the numpy type of the samples, without byte order

    @property
    def itemsize(self) -> int:
        """Bytes a sample."""
        return int(self.dtype[2])

    @property
    def bytes(self) -> int:
        """Bytes before the first step."""
        return math.prod(self.shape) * self.itemsize

    @property
    def sample_type(self) -> str:
        """The numpy type of the samples, of complex ones with its byte order."""
        inner = self
        while inner.shard is not None:
            inner = inner.shard.inner
        return inner.dtype[0] + self.meaning if self.meaning[:1] == "c" else self.meaning


@dataclass(frozen=True)
class ArrayForm:
    """One array: its chunks' form, and how their keys are written."""

    chunk: ChunkForm
    grid: tuple[int, ...]  # chunks along each axis of the array
    prefix: str  # "c" for the default keys of version 3, else empty
    separator: str

    def is_key(self, key: str) -> bool:
        """Whether ``key``, a path below the array's folder, is that of a chunk."""
        if not _KEY.fullmatch(key):
            return False
        lead = self.prefix + self.separator if self.prefix else ""
        if not key.startswith(lead) or key.startswith("c") != bool(lead):
            return False
        rest = key[len(lead) :]
        other = "/" if self.separator == "." else "."
        return other not in rest and len(rest.split(self.separator)) == len(self.chunk.shape)

    def place(self, key: str) -> tuple[int, ...]:
        """The chunk's place in the grid; ``key`` must be that of a chunk."""
        return tuple(int(n) for n in re.split(r"[./]", key.removeprefix("c")) if n)


def may_be_key(name: str) -> bool:
    """Whether the last part of a path could be (the end of) a chunk's key."""
    return _KEY.fullmatch(name) is not None


def is_key_folder(name: str) -> bool:
    """Whether a folder's name could be a part of a chunk's key."""
    return name == "c" or (name.isascii() and name.isdigit())


def array_form(name: str, document: bytes) -> ArrayForm:
    """The array that a metadata document named ``name`` describes.

    Raises NotTaken for groups and what else is not taken, and MalformedSource.
    """
    found = _described(name, document)
    if isinstance(found, str):
        raise NotTaken(found)
    return found


@lru_cache(maxsize=8)  # the chunks of an array come one after the other
def _described(name: str, document: bytes) -> ArrayForm | str:
    """The array, or why it is not taken. Raises MalformedSource."""
    if len(document) > MAX_DOCUMENT:
        raise MalformedSource(f"the metadata document {name} has more than {MAX_DOCUMENT} bytes")
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MalformedSource(
            f"the metadata document {name} is not JSON that can be read: {error}"
        ) from error
    if not isinstance(found, dict):
        raise MalformedSource(f"the metadata document {name} is no JSON object")
    try:
        return _version_2(found) if name == ".zarray" else _version_3(found)
    except NotTaken as reason:
        return reason.reason
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"{name} lacks {error}" if isinstance(error, KeyError) else f"{name}: {error}"
        raise MalformedSource(f"the metadata document {what}") from error


def _extents(value: Json, what: str, least: int = 1) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _MAX_AXES:
        raise ValueError(f"{what} is no list of at most {_MAX_AXES} numbers")
    if not all(type(n) is int and least <= n < 1 << 62 for n in value):
        raise ValueError(f"{what} holds something else than sizes")
    return tuple(value)


def _chunk_shape(value: Json, shape: tuple[int, ...]) -> tuple[int, ...]:
    found = _extents(value, "the chunk shape")
    if len(found) != len(shape):
        raise ValueError(f"chunks have {len(found)} axes and the array has {len(shape)}")
    if max(found, default=1) >= _MAX_EXTENT or math.prod(found) >= 1 << 40:
        raise ValueError("chunks are larger than any file")
    return found


def _grid(shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-whole // part) for whole, part in zip(shape, chunk, strict=True))


def _mapping(value: Json, what: str) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise TypeError(f"{what} is no JSON object")
    return value


def stored_fill(value: Json, kind: str) -> int:
    """The value of missing chunks as a sample of the type of ``stored_type``; 0 where it cannot be told."""
    size = 8 * int(kind[1:])
    if kind[0] in "ui":
        least = -(1 << size - 1) if kind[0] == "i" else 0
        if not isinstance(value, (int, bool)) or not least <= value < least + (1 << size):
            return 0
        return int(value) % (1 << size) if size > 16 else int(value)
    if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,16}", value):
        bits = int(value, 16)
        return bits if bits < 1 << size else 0
    if kind[0] != "f" or not isinstance(value, (int, float, str)):
        return 0
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return 0
    with np.errstate(over="ignore"):
        return int(np.array(number).astype(f"<{kind}").view(f"<u{kind[1]}"))


def stored_type(kind: str) -> str:
    """The type of samples as they are taken: what is wide or floating point as its bit patterns."""
    return kind if kind[1] in "12" and kind[0] != "f" else "u" + kind[1]


# -- version 2 -----------------------------------------------------------------------------------------------


def _version_2(found: Mapping[str, Json]) -> ArrayForm:
    if found["zarr_format"] != 2:
        raise ValueError("it has not the format version 2")
    shape = _extents(found["shape"], "the shape", 0)
    chunk = _chunk_shape(found["chunks"], shape)
    dtype = found["dtype"]
    order = found["order"]
    separator = found.get("dimension_separator", ".")
    if order not in ("C", "F") or separator not in (".", "/"):
        raise ValueError("order or dimension_separator is none that there is")
    filters, compressor = found["filters"], found["compressor"]
    if filters is not None and not isinstance(filters, list):
        raise TypeError("filters is no list")
    match = _V2_TYPE.fullmatch(dtype) if isinstance(dtype, str) else None
    if match is None:
        raise NotTaken("samples")
    if not shape:
        raise NotTaken("axes")
    kind = match[1].replace("b", "u")
    order_of_bytes = "|" if kind.endswith("1") else dtype[0]
    if order_of_bytes == "|" and not kind.endswith("1"):
        raise NotTaken("samples")
    steps: list[Step] = []
    for config in [*(filters or ()), *([compressor] if compressor is not None else ())]:
        if len(steps) == _MAX_CODECS:
            raise NotTaken("coding")
        config = _mapping(config, "a codec")
        steps.append(step_of(config["id"], config, order_of_bytes + kind))
    axes = tuple(range(len(chunk)))
    axes = axes[::-1] if order == "F" else axes
    fill = stored_fill(found["fill_value"], kind)
    stored = order_of_bytes + stored_type(kind)
    meaning = "?" if match[1] == "b1" else match[1]
    form = ChunkForm(tuple(chunk[a] for a in axes), axes, stored, tuple(steps), 0, fill, meaning=meaning)
    check_outermost(form.steps)
    return ArrayForm(form, _grid(shape, chunk), "", separator)


# -- version 3 -----------------------------------------------------------------------------------------------


def _named(value: Json) -> tuple[str, Mapping[str, Json]]:
    """Name and configuration of an extension point."""
    if isinstance(value, str):
        return value, {}
    value = _mapping(value, "an extension point")
    if not isinstance(value["name"], str):
        raise TypeError("the name of an extension point is no text")
    return value["name"], _mapping(value.get("configuration") or {}, "a configuration")


def _version_3(found: Mapping[str, Json]) -> ArrayForm:
    if found["zarr_format"] != 3:
        raise ValueError("it has not the format version 3")
    if found["node_type"] != "array":
        raise NotTaken("no-pixels")
    shape = _extents(found["shape"], "the shape", 0)
    grid, grid_config = _named(found["chunk_grid"])
    keys, keys_config = _named(found["chunk_key_encoding"])
    kind = _V3_TYPES.get(found["data_type"]) if isinstance(found["data_type"], str) else None
    if kind is None:
        raise NotTaken("samples")
    if grid != "regular" or keys not in ("default", "v2") or found.get("storage_transformers"):
        raise NotTaken("variant")
    chunk = _chunk_shape(grid_config["chunk_shape"], shape)
    separator = keys_config.get("separator", "/" if keys == "default" else ".")
    if separator not in (".", "/"):
        raise ValueError("the separator of chunk keys is neither . nor /")
    if not shape:
        raise NotTaken("axes")
    fill = stored_fill(found.get("fill_value"), kind)
    meaning = "?" if found["data_type"] == "bool" else kind
    bare = ChunkForm(chunk, tuple(range(len(chunk))), f"|{stored_type(kind)}", fill=fill, meaning=meaning)
    form = _through(found["codecs"], bare, kind)
    prefix = "c" if keys == "default" else ""
    return ArrayForm(form, _grid(shape, chunk), prefix, separator)


def _through(codecs: Json, form: ChunkForm, kind: str, depth: int = 0) -> ChunkForm:
    """``form`` after a list of codecs, of samples that are a ``kind``; ``depth`` counts the shards around it."""
    if not isinstance(codecs, list) or not codecs:
        raise ValueError("codecs is no list of codecs")
    if len(codecs) > _MAX_CODECS:
        raise NotTaken("coding")
    serialised = False
    for value in codecs:
        name, config = _named(value)
        if form.shard is not None:
            raise NotTaken("coding")  # a whole shard packed once more
        if name == "transpose" and not serialised and not form.steps:
            form = _transposed(config["order"], form)
        elif name == "bytes" and not serialised:
            serialised = True
            order = {"little": "<", "big": ">", None: None}[config.get("endian")]
            if form.itemsize > 1:
                if order is None or (form.steps and order == ">"):
                    raise NotTaken("coding")
                form = replace(form, dtype=order + form.dtype[1:])
        elif name == "sharding_indexed" and not serialised and not form.steps:
            serialised = True
            if depth >= _MAX_DEPTH:
                raise NotTaken("coding")
            form = replace(form, shard=_shard(config, form, kind, depth + 1))
        elif name == "crc32c" and serialised:
            form = replace(form, tail=form.tail + 4)
        else:
            order = form.dtype[0] if serialised else "<" if form.itemsize > 1 else "|"
            step = step_of(name.removeprefix("numcodecs."), config, order + kind, serialised)
            if form.tail:
                raise NotTaken("coding")
            form = replace(form, steps=(*form.steps, step))
    if not serialised:
        raise NotTaken("coding")
    check_outermost(form.steps)
    return form


def _transposed(order: Json, form: ChunkForm) -> ChunkForm:
    count = len(form.shape)
    if order in ("C", "F"):
        order = list(range(count))[:: -1 if order == "F" else 1]
    if not isinstance(order, list) or sorted(_extents(order, "the order", 0)) != list(range(count)):
        raise ValueError("the order of a transpose names each axis not once")
    return replace(form, shape=tuple(form.shape[a] for a in order), axes=tuple(form.axes[a] for a in order))


def _shard(config: Mapping[str, Json], form: ChunkForm, kind: str, depth: int) -> ShardForm:
    shape = _chunk_shape(config["chunk_shape"], form.shape)
    if any(whole % part for whole, part in zip(form.shape, shape, strict=True)):
        raise ValueError("the chunks of a shard do not divide it")
    inner = _through(config["codecs"], replace(form, shape=shape), kind, depth)
    index = [_named(codec) for codec in _list(config["index_codecs"])]
    names = [name for name, _ in index]
    location = config.get("index_location", "end")
    if location not in ("start", "end"):
        raise ValueError("the index of a shard lies neither at its start nor at its end")
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise NotTaken("coding")
    if inner.shard is not None and inner.axes != form.axes:
        raise NotTaken("coding")
    order = {"little": "<", "big": ">"}[index[0][1]["endian"]]
    return ShardForm(inner, shape, order, 4 * (len(names) - 1), location == "end")


def _list(value: Json) -> Sequence[Json]:
    if not isinstance(value, list):
        raise TypeError("a list of codecs is none")
    return value
