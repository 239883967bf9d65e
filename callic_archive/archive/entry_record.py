"""The payload of an ENTRY record: an entry's line of the index, shortened, and small parts of its content.

    payload = varint n  n digests of 32 bytes  varint h  h bytes of raw DEFLATE  small parts

What is deflated is the entry's JSON without what the record says anyway: its path is the record's key, its
digests are numbers of the list before, and parts that lie right before the record need only their lengths.
A preset dictionary, itself part of the format, makes the rest of a line a third of what it would be.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.entries import Entry
from callic_archive.archive.parts import (
    BY_MODELS,
    BYTE_CODINGS,
    IMAGE_CODINGS,
    Base,
    Coding,
    Part,
    Place,
    described_part,
    description,
    one_of,
    record_type,
    whole_number,
)
from callic_archive.container.layout import (
    RECORD_OVERHEAD,
    RecordRef,
    RecordType,
    decode_varint,
    encode_varint,
)
from callic_archive.container.names import name_to_json
from callic_archive.errors import ContainerError, EntryDamaged

Json = Any
MAX_TEXT = 16 << 20  # bytes of an entry's JSON; see the cap of an index line
MAX_DIGESTS = 1 << 16
START = 16  # hexadecimal digits of a model or adapter, as codestreams name them

#: Preset dictionary (RFC 1950, 1951) of the DEFLATE streams. Changing a byte of it changes the format.
DICTIONARY = (
    b'{"kind":"directory","kind":"symlink","target":"../problem":{"code":"E102","message":"the file ends'
    b'"shape":[1024,1024],"shape":[256,256,3],"int16","uint8","adapter_bytes":0,"adapters":[],"coder":"torchac",'
    b'"samples zstd","libjxl 0.11.2","coding":"samples","coding":"jpegxl","coding":"jpeg",'
    b'"recipe":{"before":33,"deflate":{"level":9,"memory":9,"strategy":1,"window":15},"exact":true,"height":512,'
    b'"idat":[[8192,0,2],[65536,0,1]],"interlaced":false,"itemsize":1,"samples":3,"width":512,"zlib":"1.3.1",'
    b'"zlib_header":"78da"},"format":"jpeg","format":"png","format":"bmp","format":"pnm","format":"npy",'
    b'"content_sha256":1,"fidelity":"content","fidelity":"bytes","format":"dicom","kind":"file","method":"image",'
    b'"mode":436,"mtime_ns":1764000000000000000,"parts":[{"base":{"coding":"zstd","places":[{"record":['
    b'],"within":[0,0]}],"size":0},{"coding":"raw","inline":100,"size":100}],"sha256":0,"size":100}'
    b'"recipe":{"layouts":[{"block_columns":384,"block_rows":384,"dtype":"|u1","dtype":"<u2","flip":true,'
    b'"order":[2,1,0],"planar":true,"whole":true,"lengths":[['
    b'"height":512,"offsets":[[1024,0,1]],"pitch":768,"samples":1,"width":512}]},'
    b'"content_sha256":1,"fidelity":"bytes","format":"tiff","kind":"file","method":"image","mode":420,'
    b'"mtime_ns":1700000000000000000,"parts":[{"coding":"zstd","inline":250,"size":1000},{"coding":"codestream",'
    b'"length":65536,"size":262144,"stream":{"adapter_bytes":0,"adapters":[],"coder":"range","dtype":"uint16",'
    b'"models":["0123456789abcdef"],"shape":[512,512]}}],"recipe":{"layouts":[{"block_columns":512,'
    b'"block_rows":512,"dtype":">u2","height":512,"offsets":[[512,0,1]],"pitch":1024,"samples":1,"width":512}]},'
    b'"sha256":0,"size":262656}{"fidelity":"bytes","kind":"file","method":"stored","mode":420,'
    b'"mtime_ns":1760000000000000000,"parts":[{"coding":"zstd","length":'
    b'"parts":[{"coding":"raw","inline":400,"size":400}],"sha256":0,"size":400}'
)


@dataclass(frozen=True, slots=True)
class Inline:
    """A part that is to lie inside the ENTRY record."""

    payload: bytes
    coding: Coding
    size: int
    stream: StreamInfo | None = None
    base: Base | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record will be written."""

    shard: str
    offset: int
    sequence: int


def encode_entry(
    entry: Entry, parts: Sequence[Part | Inline], at: Position
) -> tuple[bytes, list[tuple[int, int]]]:
    """The payload of the ENTRY record of ``entry`` with ``parts``, and the place of each inline part in it.

    Raises EntryDamaged where it would be longer than any reader takes.
    """
    digests: list[str] = []
    row = entry.as_json()
    for name in name_to_json(entry.path):
        del row[name]
    for name in ("sha256", "content_sha256"):
        if name in row:
            row[name] = _number_of(digests, row[name])
    if entry.kind == "file":
        row["parts"] = _short_parts(parts, at)
    text = json.dumps(row, sort_keys=True, separators=(",", ":")).encode()
    if len(text) > MAX_TEXT:
        raise EntryDamaged(f"an entry takes {len(text)} bytes of text, more than {MAX_TEXT}")
    engine = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    packed = engine.compress(text) + engine.flush()
    head = b"".join(
        (encode_varint(len(digests)), *map(bytes.fromhex, digests), encode_varint(len(packed)), packed)
    )
    places, end = [], len(head)
    for part in parts:
        if isinstance(part, Inline):
            places.append((end, len(part.payload)))
            end += len(part.payload)
    return head + b"".join(part.payload for part in parts if isinstance(part, Inline)), places


def finished_parts(
    parts: Sequence[Part | Inline], ref: RecordRef, places: Sequence[tuple[int, int]]
) -> tuple[Part, ...]:
    """The parts with inline ones as they lie in the written record ``ref``."""
    left = iter(places)
    return tuple(
        part
        if isinstance(part, Part)
        else Part(ref, part.coding, part.size, part.stream, next(left), part.base)
        for part in parts
    )


def decode_entry(payload: bytes, key: str, ref: RecordRef) -> Entry:
    """The entry of the ENTRY record ``ref``. Raises EntryDamaged (E502)."""
    try:
        digests, text, start = _open(payload)
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError("it is not a JSON object")
        for name in ("sha256", "content_sha256"):
            if name in row:
                row[name] = digests[whole_number(row[name], name, len(digests) - 1)]
        if row.get("kind") == "file":
            parts = _whole_parts(row["parts"], row["method"], ref, start, len(payload))
            row["parts"] = [part.as_json() for part in parts]
        for name in ("path", "path_base64"):
            row.pop(name, None)
        return Entry.from_json({**row, **name_to_json(key)})
    except EntryDamaged:
        raise
    except (LookupError, TypeError, ValueError, RecursionError, zlib.error, ContainerError) as error:
        raise EntryDamaged(f"the ENTRY record of {key!r} is not valid: {error}") from error


def _open(payload: bytes) -> tuple[list[str], bytes, int]:
    """Digests, JSON text, and where the small parts begin."""
    count, at = decode_varint(payload, 0)
    if count > MAX_DIGESTS or at + 32 * count > len(payload):
        raise ValueError("it has fewer digests than it says")
    digests = [payload[at + 32 * i : at + 32 * i + 32].hex() for i in range(count)]
    length, at = decode_varint(payload, at + 32 * count)
    if at + length > len(payload):
        raise ValueError("it ends inside its text")
    engine = zlib.decompressobj(-15, DICTIONARY)
    text = engine.decompress(payload[at : at + length], MAX_TEXT)
    if not engine.eof or engine.unused_data:
        raise ValueError("its text is longer than allowed, or does not end where it should")
    return digests, text, at + length


def _number_of(digests: list[str], digest: str) -> int:
    if digest not in digests:
        digests.append(digest)
    return digests.index(digest)


# -- parts ---------------------------------------------------------------------------------------------------


def _short_parts(parts: Sequence[Part | Inline], at: Position) -> list[dict[str, Json]]:
    rows: list[dict[str, Json]] = []
    offset, sequence = at.offset, at.sequence
    for part in reversed(parts):
        if isinstance(part, Inline):
            bare = Part(_NOWHERE, part.coding, part.size, part.stream, None, part.base)
            row = {"inline": len(part.payload), **_short_description(bare, at.shard)}
        else:
            row = _short_description(part, at.shard)
            end = part.ref.offset + part.ref.length
            follows = part.ref.shard == at.shard and part.within is None
            if follows and end == offset and part.ref.sequence == sequence - 1:
                offset, sequence = part.ref.offset, sequence - 1
                row["length"] = part.ref.length
            else:
                row |= _short_place(part.place, at.shard)
        rows.append(row)
    return rows[::-1]


_NOWHERE = RecordRef("", 0, 0, RecordType.ENTRY, 0)


def _short_description(part: Part, shard: str) -> dict[str, Json]:
    row = description(part)
    if part.base is not None:
        row["base"] |= {"places": [_short_place(place, shard) for place in part.base.places]}
    if part.coding in BY_MODELS and part.stream is not None:
        row["stream"]["models"] = [digest[:START] for digest in part.stream.models]
        row["stream"]["adapters"] = [digest[:START] for digest in part.stream.adapters]
    return row


def _short_place(place: Place, shard: str) -> dict[str, Json]:
    row = place.as_json()
    if place.ref.shard == shard:
        ref = place.ref
        row["record"] = [ref.offset, ref.length, ref.type.name.lower(), ref.sequence]
    return row


def _whole_parts(rows: Json, method: Json, ref: RecordRef, start: int, end: int) -> list[Part]:
    if not isinstance(rows, list):
        raise TypeError("parts is not a list")
    offset, sequence, parts = ref.offset, ref.sequence, []
    for row in reversed(rows):
        row = dict(row)
        if "base" in row:
            row["base"] = {**row["base"], "places": [_long(p, ref.shard) for p in row["base"]["places"]]}
        if "inline" in row:
            end -= whole_number(row["inline"], "inline", end - start)
            place = Place(ref, (end, row["inline"]))
        elif "length" in row:
            length = whole_number(row["length"], "length", offset)
            offset, sequence = offset - length, sequence - 1
            if length < RECORD_OVERHEAD or offset < 0 or sequence < 0:
                raise ValueError("a part would lie before its shard")
            place = Place(RecordRef(ref.shard, offset, length, _type_of(row, method), sequence))
        else:
            place = Place.from_json(_long(row, ref.shard))
        parts.append(described_part(place, row))
    if end != start:
        raise ValueError("bytes of the record belong to no part")
    return parts[::-1]


def _type_of(row: Mapping[str, Json], method: Json) -> RecordType:
    return record_type(one_of(row, "coding", (*BYTE_CODINGS, *IMAGE_CODINGS)), method)


def _long(row: Mapping[str, Json], shard: str) -> dict[str, Json]:
    record = row["record"]
    if isinstance(record, list):
        offset, length, kind, sequence = record
        record = {"shard": shard, "offset": offset, "length": length, "type": kind, "sequence": sequence}
    return {**row, "record": record}
