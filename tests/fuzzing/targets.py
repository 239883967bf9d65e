"""What is fuzzed: each parser of image files and of the metadata beside them, and the only ways in which it may end.

A target takes bytes and returns what came of them, as a word; whatever it raises but a CallicError is a finding.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from callic_archive.archive.digests import sha256
from callic_archive.archive.pack_one import prove_rebuild
from callic_archive.archive.packed import PackOptions
from callic_archive.errors import CallicError
from callic_archive.images import parse
from callic_archive.images.detached import is_header
from callic_archive.images.raster_search import context_of
from callic_archive.images.reasons import NotTaken
from callic_archive.images.sample_types import types_of
from callic_archive.images.source import Context, Limits, Parsed
from callic_archive.images.zarr_metadata import array_form
from tests.fuzzing import seeds
from tests.fuzzing.mutate import broken, broken_json, mended_png

#: A file of a few kilobytes has no business with more. What it may ask for at all is bounded by its size.
LIMITS = Limits(max_decoded_bytes=64 << 20, max_member_bytes=64 << 20)


@dataclass(frozen=True)
class Target:
    """A parser: what to call, what good input looks like, and how to break it with more sense than by chance."""

    run: Callable[[bytes], str]
    seeds: Callable[[], list[bytes]]
    breaks: Callable[[bytes, random.Random, list[bytes]], bytes] = broken


class Wrong(AssertionError):
    """A parser took bytes and gave others back."""


def settled(step: Callable[[], str]) -> str:
    """What a step gives, or that it refused in order."""
    try:
        return step()
    except CallicError as error:
        return error.code


# -- image files --------------------------------------------------------------------------------------------------


def image(data: bytes, context: Context | None = None) -> str:
    """A file that is understood comes back, or the file says that it would not."""

    def step() -> str:
        parsed = parse(data, "", LIMITS, context)
        if parsed is None:
            return "left"
        # What comes to a rebuilder has been through JSON, and images were made anew.
        fresh = Parsed(parsed.format, parsed.fidelity, tuple(np.array(i, order="C") for i in parsed.images), parsed.surround,
                       json.loads(json.dumps(parsed.recipe)), parsed.volatile)  # fmt: skip
        try:
            came = prove_rebuild(fresh, sha256(data), PackOptions(limits=LIMITS))
        except CallicError as error:
            raise Wrong(f"{parsed.format} was taken apart, but: {error}") from error
        types = types_of(fresh.format, fresh.recipe, fresh.surround, context)
        if types is not None and len(types) != len(fresh.images):
            raise Wrong(f"{parsed.format} has {len(fresh.images)} images, and types of {len(types)}")
        if parsed.fidelity == "bytes" and came != "bytes":
            raise Wrong(f"{parsed.format} claims to come back byte for byte, and does not")
        return came

    return settled(step)


def chunk_of(data: bytes) -> tuple[Context, bytes]:
    """A chunk of a zarr array behind its metadata: name and document are part of the input."""
    head, _, rest = data.partition(b"\0\0\0")
    name, _, document = head.partition(b"\n")
    key, _, body = rest.partition(b"\0")
    return Context(name.decode("latin-1"), document, key.decode("latin-1")), body


def chunk(data: bytes) -> str:
    """A chunk of a zarr array."""
    context, body = chunk_of(data)
    return image(body, context)


def chunk_seeds() -> list[bytes]:
    return [
        b"\n".join((c.name.encode(), c.document)) + b"\0\0\0" + c.key.encode() + b"\0" + body
        for c, body in seeds.zarr_chunks()
    ]


def break_chunk(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The document as JSON, or bytes of the whole."""
    if rng.random() < 0.5:
        return broken(seed, rng, others)
    head, _, rest = seed.partition(b"\0\0\0")
    name, _, document = head.partition(b"\n")
    return name + b"\n" + json.dumps(broken_json(json.loads(document), rng)).encode() + b"\0\0\0" + rest


def raw_of(data: bytes) -> tuple[Context, bytes]:
    """Samples behind the header that lies beside them: names and length of that are part of the input."""
    name, key, rest, *_ = *data.split(b"\n", 2), b"", b""
    end = 2 + int.from_bytes(rest[:2], "big")
    return Context(name.decode("latin-1"), rest[2:end], key.decode("latin-1"), "raw"), rest[end:]


def raw(data: bytes) -> str:
    """Samples whose header is a file of its own."""
    context, body = raw_of(data)
    is_header(context)
    return image(body, context)


def raw_seeds() -> list[bytes]:
    return [
        b"\n".join((c.name.encode(), c.key.encode(), len(c.document).to_bytes(2, "big") + c.document + body))
        for c, body in seeds.raw_files()
    ]


def unknown(data: bytes) -> str:
    """A file of no known format, in which rasters may show."""
    context = context_of(lambda offset, length: data[offset : offset + length], len(data), "file")
    return "nothing" if context is None else image(data, context)


def metadata(data: bytes) -> str:
    """A metadata document alone."""

    def step() -> str:
        try:
            for name in ("zarr.json", ".zarray"):
                with suppress(NotTaken):
                    array_form(name, data)
                    return "array"
            return "left"
        except (ValueError, LookupError, TypeError, RecursionError, ArithmeticError):
            return "refused"  # what ``source.parse`` turns into MalformedSource

    return settled(step)


def metadata_seeds() -> list[bytes]:
    return [context.document for context, _ in seeds.zarr_chunks()]


def break_document(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    if rng.random() < 0.3:
        return broken(seed, rng, others)
    return json.dumps(broken_json(json.loads(seed), rng)).encode()


def break_png(seed: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Checksums made right again, or nothing behind them is reached."""
    data = broken(seed, rng, others)
    return mended_png(data) if rng.random() < 0.8 else data


def _images() -> Iterator[tuple[str, Target]]:
    for name, make in seeds.IMAGES.items():
        yield name, Target(image, make, break_png if name == "png" else broken)


TARGETS: dict[str, Target] = {
    **dict(_images()),
    "zarr-chunk": Target(chunk, chunk_seeds, break_chunk),
    "raw": Target(raw, raw_seeds),
    "unknown": Target(unknown, seeds.unknown_files),
    "zarr-metadata": Target(metadata, metadata_seeds, break_document),
}
