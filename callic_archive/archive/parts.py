"""Where the content of an entry lies: records, or places inside ENTRY records, and what each place holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from callic_archive.archive.codecs import StreamInfo
from callic_archive.container.layout import RecordRef, RecordType
from callic_archive.images.planes import MAX_CHANNELS

Json = Any
Coding = Literal["raw", "zstd", "jpeg", "jpegs", "codestream", "jpegxl", "webp", "samples", "segments", "wide", "dct"]
IMAGE_CODINGS = ("codestream", "jpegxl", "webp", "samples", "segments", "wide", "dct")
BY_MODELS = ("codestream", "wide")  # codings that may need models
BYTE_CODINGS = ("raw", "zstd", "jpeg", "jpegs")
MAX_SIZE = 1 << 62
MAX_TIME = 10**9 << 63  # nanoseconds from 1970, either way: systems count seconds with 64 bits
MAX_BASES = 4  # places that hold the same base; writers use two

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGEST_OR_START = re.compile(r"[0-9a-f]{16}(?:[0-9a-f]{48})?")


@dataclass(frozen=True, slots=True)
class Place:
    """A record's payload, or the bytes ``within`` (start, length) of it."""

    ref: RecordRef
    within: tuple[int, int] | None = None

    @property
    def stored(self) -> int:
        """Bytes that the archive spends on it; of a whole record with header and checksum."""
        return self.ref.length if self.within is None else self.within[1]

    def as_json(self) -> dict[str, Json]:
        """``record``, and ``within`` where there is one."""
        row: dict[str, Json] = {"record": self.ref.as_json()}
        if self.within is not None:
            row["within"] = list(self.within)
        return row

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Place:
        """Check and read what ``as_json`` wrote. Raises KeyError, TypeError, ValueError, IndexEntryInvalid."""
        ref = RecordRef.from_json(value["record"])
        within = value.get("within")
        if within is None:
            return cls(ref)
        if not isinstance(within, list) or len(within) != 2:
            raise ValueError("a place within a record is not [start, length]")
        start, length = (whole_number(number, "within", ref.length) for number in within)
        return cls(ref, (start, length))


@dataclass(frozen=True, slots=True)
class Base:
    """The bytes that a Zstandard frame was made against: they lie, alike, at each of ``places``."""

    places: tuple[Place, ...]
    coding: Literal["raw", "zstd"]
    size: int  # bytes before coding

    def as_json(self) -> dict[str, Json]:
        """The field ``base`` of a part."""
        return {
            "places": [place.as_json() for place in self.places],
            "coding": self.coding,
            "size": self.size,
        }

    @classmethod
    def from_json(cls, value: object) -> Base:
        """Check and read what ``as_json`` wrote. Raises KeyError, TypeError, ValueError, IndexEntryInvalid."""
        if not isinstance(value, Mapping) or not isinstance(value["places"], list):
            raise TypeError("the base of a part is not an object with places")
        if not 1 <= len(value["places"]) <= MAX_BASES:
            raise ValueError(f"a base lies at 1 to {MAX_BASES} places, not {len(value['places'])}")
        coding = one_of(value, "coding", ("raw", "zstd"))
        places = tuple(Place.from_json(place) for place in value["places"])
        return cls(places, coding, whole_number(value["size"], "size", MAX_SIZE))


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of an entry's content."""

    ref: RecordRef
    coding: Coding
    size: int  # bytes before coding; of an image: bytes of samples
    stream: StreamInfo | None = None  # of images
    within: tuple[int, int] | None = None
    base: Base | None = None

    @property
    def place(self) -> Place:
        """Where it lies."""
        return Place(self.ref, self.within)

    @property
    def stored(self) -> int:
        """Bytes that the archive spends on it; of a plane its share of those of the whole codestream."""
        stored, stream = self.place.stored, self.stream
        if stream is None or stream.plane is None:
            return stored
        number, count = stream.plane
        return stored * (number + 1) // count - stored * number // count

    @property
    def learned(self) -> bool:
        """Whether a codestream must be decoded for it."""
        if self.coding == "wide" and self.stream is not None:  # its coder is that of the high part
            return not self.stream.coder.startswith(("lib", "samples", "segments", "dct"))
        return self.coding == "codestream"

    @property
    def decoded(self) -> int:
        """Bytes of samples that decoding it may need: of a plane those of all planes of its codestream."""
        planes = 1 if self.stream is None or self.stream.plane is None else self.stream.plane[1]
        return self.size * planes

    @property
    def shards(self) -> set[str]:
        """Names of the shards without any of which it cannot be decoded."""
        needed = {self.ref.shard}
        if self.base is not None and len({place.ref.shard for place in self.base.places}) == 1:
            needed.add(self.base.places[0].ref.shard)
        return needed

    def as_json(self) -> dict[str, Json]:
        """An item of the field ``parts``."""
        return {**self.place.as_json(), **description(self)}

    @classmethod
    def from_json(cls, value: object) -> Part:
        """Check and read what ``as_json`` wrote. Raises KeyError, TypeError, ValueError, IndexEntryInvalid."""
        if not isinstance(value, Mapping):
            raise TypeError("a part is not an object")
        place = Place.from_json(value)
        return described_part(place, value)


def described_part(place: Place, value: Mapping[str, Json]) -> Part:
    """The part at ``place`` of which ``value`` tells the rest. Raises as ``Part.from_json``."""
    coding = cast("Coding", one_of(value, "coding", (*BYTE_CODINGS, *IMAGE_CODINGS)))
    inside = place.ref.type is RecordType.ENTRY
    if inside != (place.within is not None):
        raise ValueError("only what lies in ENTRY records lies within them")
    if not inside and (coding in IMAGE_CODINGS) != (place.ref.type is RecordType.CODESTREAM):
        raise ValueError(f"a {place.ref.type.name} record cannot have the coding {coding!r}")
    size = whole_number(value["size"], "size", MAX_SIZE)
    base = Base.from_json(value["base"]) if "base" in value else None
    if base is not None and coding != "zstd":
        raise ValueError(f"a part of coding {coding!r} has no base")
    stream = _stream(value["stream"]) if coding in IMAGE_CODINGS else None
    if stream is not None and stream.plane is not None and coding != "codestream":
        raise ValueError(f"an image of coding {coding!r} is no plane of another")
    return Part(place.ref, coding, size, stream, place.within, base)


def record_type(coding: str, method: str) -> RecordType:
    """The type of record that holds a part of this coding, where it has one to itself."""
    if coding in IMAGE_CODINGS:
        return RecordType.CODESTREAM
    return RecordType.SURROUND if method == "image" else RecordType.STORED


def description(part: Part) -> dict[str, Json]:
    """What a part is, without where it lies."""
    row: dict[str, Json] = {"coding": part.coding, "size": part.size}
    if part.base is not None:
        row["base"] = part.base.as_json()
    if part.stream is not None:
        stream = part.stream
        row["stream"] = {"shape": list(stream.shape), "dtype": stream.dtype, "coder": stream.coder}
        if stream.coded_dtype:
            row["stream"] |= {"coded_dtype": stream.coded_dtype, "meaning": stream.meaning}
        if stream.plane is not None:
            row["stream"]["plane"] = list(stream.plane)
        if part.coding in BY_MODELS:
            row["stream"] |= {
                "models": list(stream.models),
                "adapters": list(stream.adapters),
                "adapter_bytes": stream.adapter_bytes,
            }
    return row


def _stream(raw: Mapping[str, Json]) -> StreamInfo:
    shape = tuple(whole_number(extent, "shape", MAX_SIZE) for extent in raw["shape"])
    if not 2 <= len(shape) <= 3 or min(shape) < 1:
        raise ValueError(f"an image has the shape {shape}")
    plane = _plane(raw["plane"]) if "plane" in raw else None
    if plane is not None and (len(shape) != 2 or "coded_dtype" in raw):
        raise ValueError("a plane of a codestream is an image of one channel, with samples of its type")
    return StreamInfo(
        shape,
        str(raw["dtype"]),
        str(raw["coder"]),
        tuple(_digest_or_start(digest) for digest in raw.get("models", ())),
        tuple(_digest_or_start(digest) for digest in raw.get("adapters", ())),
        whole_number(raw.get("adapter_bytes", 0), "adapter_bytes", MAX_SIZE),
        str(raw.get("coded_dtype", "")),
        str(raw.get("meaning", "")),
        plane,
    )


def _plane(value: Json) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("the plane of a codestream is not [number, count]")
    count = whole_number(value[1], "plane", MAX_CHANNELS)
    if count < 2:
        raise ValueError(f"a codestream of {count} planes is that of one image")
    return whole_number(value[0], "plane", count - 1), count


# -- checks of single values, shared with the entries --------------------------------------------------------


def one_of(row: Mapping[str, Json], name: str, allowed: tuple[str, ...]) -> Any:
    """A field that is one of a few words. Raises ValueError."""
    if row[name] not in allowed:
        raise ValueError(f"{name} is {row[name]!r}, not one of {', '.join(allowed)}")
    return row[name]


def whole_number(value: object, name: str, most: int | None) -> int:
    """A whole number from 0 to ``most``, or of less than 62 bits. Raises TypeError, ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, not a whole number")
    if (most is not None and not 0 <= value <= most) or not -MAX_SIZE < value <= MAX_SIZE:
        raise ValueError(f"{name} is {value}, out of range")
    return value


def time_stamp(value: object) -> int:
    """A time in nanoseconds since 1970 that a system can have. Raises TypeError, ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a time is {value!r}, not a whole number")
    if not -MAX_TIME <= value < MAX_TIME:
        raise ValueError(f"a time is {value}, out of range")
    return value


def check_digest(value: object) -> str:
    """A SHA-256 in hexadecimal. Raises ValueError."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{value!r} is no SHA-256")
    return value


def _digest_or_start(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST_OR_START.fullmatch(value):
        raise ValueError(f"{value!r} is neither a SHA-256 nor the start of one")
    return value
