"""The index of an archive: ``index.jsonl.zst``, one JSON object a line in one Zstandard frame.

The same entries give the same bytes with the same Zstandard release. A reader meets caps before it meets
memory: a line, the whole decoded text, and the decoder's window are all bounded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from callic_archive import errors
from callic_archive.container import fs

LEVEL = 12
MAX_LINE = 16 << 20
MAX_TOTAL = 64 << 30
_MAX_WINDOW = 1 << 27
_WRITE_BLOCK = 1 << 20
# Four bytes of Zstandard can unfold to 128 KiB; so little is fed at a time that one step stays below 32 MiB.
_READ_BLOCK = 1 << 10


@dataclass(frozen=True)
class WrittenIndex:
    """What was written: number of entries, size in bytes and SHA-256 (hex) of the compressed file."""

    entries: int
    size: int
    sha256: str


def encode_line(entry: Mapping[str, Any]) -> bytes:
    """One line of the index: UTF-8, keys sorted, no spaces, line feed. Raises IndexEntryInvalid (E423)."""
    try:
        text = json.dumps(entry, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        line = text.encode("utf-8") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.IndexEntryInvalid(f"an index entry cannot be written as JSON: {error}") from error
    if len(line) > MAX_LINE:
        raise errors.IndexLineTooLong(f"an index entry takes {len(line)} bytes; the cap is {MAX_LINE}")
    return line


def write_index(path: Path, entries: Iterable[Mapping[str, Any]]) -> WrittenIndex:
    """Write all entries in the given order, atomically and durably; the caller sorts them.

    Raises IndexEntryInvalid (E423), IndexLineTooLong (E421), OutOfSpace and WriteFailure (E610, E611);
    nothing is left at ``path`` then, or what was there before.
    """
    import zstandard

    state = hashlib.sha256()
    size = count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        block = bytearray()
        for entry in entries:
            block += encode_line(entry)
            count += 1
            while len(block) >= _WRITE_BLOCK:  # equal steps, whatever the lines: the same bytes each time
                yield bytes(block[:_WRITE_BLOCK])
                del block[:_WRITE_BLOCK]
        yield bytes(block)

    def compressed() -> Iterator[bytes]:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            LEVEL, write_checksum=True, write_content_size=False
        )
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        for block in lines():
            yield compressor.compress(block)
        yield compressor.flush()

    def counted() -> Iterator[bytes]:
        nonlocal size
        for piece in compressed():
            state.update(piece)
            size += len(piece)
            yield piece

    fs.atomic_write(path, counted())
    return WrittenIndex(count, size, state.hexdigest())


def read_index(
    path: Path, *, max_line: int = MAX_LINE, max_total: int = MAX_TOTAL
) -> Iterator[dict[str, Any]]:
    """Yield the entries in file order; the caps are bytes after decompression.

    Raises IndexDamaged (E420), IndexLineTooLong (E421), IndexTooLarge (E422), IndexEntryInvalid (E423),
    ReadFailure (E612). Entries before a damaged place were yielded by then; they are whole, but the caller
    knows that some lack.
    """
    try:
        with path.open("rb") as file:
            yield from _entries(path.name, file, max_line, max_total)
    except OSError as error:
        raise errors.ReadFailure(f"cannot read {path}: {error.strerror or error}") from error


def _entries(name: str, file: BinaryIO, max_line: int, max_total: int) -> Iterator[dict[str, Any]]:
    number = 0
    rest = bytearray()
    for block in _decoded(name, file, max_total):
        begin = 0
        while (end := block.find(b"\n", begin)) >= 0:
            rest += block[begin:end]
            number += 1
            if len(rest) >= max_line:
                raise _too_long(name, number, max_line)
            yield decode_line(bytes(rest), f"line {number} of {name}")
            rest.clear()
            begin = end + 1
        rest += block[begin:]
        if len(rest) >= max_line:
            raise _too_long(name, number + 1, max_line)
    if rest:
        raise errors.IndexDamaged(f"{name} does not end with a whole line")


def _too_long(name: str, number: int, most: int) -> errors.IndexLineTooLong:
    return errors.IndexLineTooLong(f"line {number} of {name} is longer than the cap of {most} bytes")


def _decoded(name: str, file: BinaryIO, max_total: int) -> Iterator[bytes]:
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()
    total = 0
    while block := file.read(_READ_BLOCK):
        if decoder.eof:
            raise errors.IndexDamaged(f"{name} goes on after the end of its Zstandard frame")
        try:
            out = decoder.decompress(block)
        except zstandard.ZstdError as error:
            raise errors.IndexDamaged(f"{name} is damaged: {error}") from error
        total += len(out)
        if total > max_total:
            raise errors.IndexTooLarge(f"{name} unfolds to more than the cap of {max_total} bytes")
        yield out
    if not decoder.eof or decoder.unused_data:
        where = "goes on after the end of" if decoder.eof else "ends inside"
        raise errors.IndexDamaged(f"{name} {where} its Zstandard frame")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def decode_line(line: bytes, where: str) -> dict[str, Any]:
    """A line without its line feed as a JSON object. Raises IndexEntryInvalid (E423), naming ``where``."""
    try:
        entry = json.loads(
            line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_duplicates
        )
        if b"\\u" in line:  # half a surrogate pair is no character, and could be written nowhere
            json.dumps(entry, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise errors.IndexEntryInvalid(f"{where} is no JSON object: {error}") from error
    if not isinstance(entry, dict):
        raise errors.IndexEntryInvalid(f"{where} is no JSON object")
    return entry
