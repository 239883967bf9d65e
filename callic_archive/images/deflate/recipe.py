"""How a deflate stream is made again from what it decodes to: by zlib's parameters, or by differences.

    found = describe(body, raw)                  # (recipe, side) or None
    body = recreate(recipe, side, raw)           # the same bytes

A recipe is a small JSON object; ``side`` is kept beside it (with the surrounding bytes). docs/format/deflate.md describes
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from callic_archive.errors import RebuildMismatch
from callic_archive.images.deflate.parameters import Deflate, Stored, search
from callic_archive.images.layout import runs_of, unrun

Recipe = dict[str, Any]
_DEAREST = 2  # differences may take half of the stream, and beyond that ...
_FREE = 512  # ... so many bytes; what they are worth is decided where the images' size is known


def named(way: Deflate | Stored) -> Recipe:
    """zlib's parameters, or stored blocks, as JSON."""
    return {"stored": runs_of(way.lengths)} if isinstance(way, Stored) else asdict(way)


def way_of(recipe: Mapping[str, Any], size: int) -> Deflate | Stored:
    """The inverse of ``named`` for ``size`` raw bytes. Raises RebuildMismatch."""
    if "stored" not in recipe:
        return Deflate(**recipe)
    way = Stored(unrun(recipe["stored"]))
    if sum(way.lengths) != size:
        raise RebuildMismatch("the recipe stores more or fewer bytes than the image has")
    return way


def most_side(stream: int) -> int:
    """Bytes that the differences of a stream of so many bytes may have."""
    return stream // _DEAREST + _FREE


def describe(
    body: bytes | memoryview,
    raw: bytes | memoryview | np.ndarray[Any, np.dtype[np.uint8]],
    header: int | None = None,
) -> tuple[Recipe, bytes] | None:
    """(recipe, side) of the raw deflate stream ``body`` that decodes to ``raw``; see ``parameters.search`` for ``header``.

    None when ``body`` is no such stream, goes on behind it, or costs more than ``most_side``.
    """
    raws, view = np.frombuffer(raw, np.uint8), memoryview(body).cast("B")
    way = search(raws, view, header)
    if way is not None:
        return named(way), b""
    side = differences(view, raws)
    return None if side is None else ({"differences": len(side)}, side)


def differences(body: memoryview, raw: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes | None:
    """The differences of ``body``, all of which must be one raw deflate stream of ``raw``, or None."""
    from callic_archive.images.deflate.differences import Writer

    writer = Writer()
    used = writer.add(body, raw, most_side(len(body)))
    return writer.finish() if used == len(body) else None


def recreate(recipe: Mapping[str, Any], side: bytes | memoryview, raw: bytes | memoryview) -> bytes:
    """The stream that ``describe`` saw. Raises RebuildMismatch when recipe, side and raw do not fit together."""
    if "differences" in recipe:
        from callic_archive.images.deflate.differences import Reader

        if len(side) != int(recipe["differences"]):
            raise RebuildMismatch(
                "the differences of a deflate stream have another length than the recipe says"
            )
        return Reader(side).next(raw)
    try:
        engine = way_of(recipe, len(raw)).engine()
        return bytes(engine.compress(raw) + engine.flush())
    except (TypeError, ValueError) as error:
        raise RebuildMismatch(f"no deflate stream can be made like that: {error}") from error
