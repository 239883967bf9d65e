"""A part of an archive as a read-only zarr store: ``zarr.open(zarr_store("scans.callic", "scans/brain.zarr"))``.

Keys are the paths below the prefix. A chunk is decoded when it is asked for, and then as a whole: files that
hold many chunks (shards) are kept for a while, so that reading them chunk after chunk decodes them once.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from callic_archive.access.archive import OpenArchive, open_archive
from callic_archive.errors import NoSuchEntry

CACHE_BYTES = 256 << 20  # of files of which parts were asked for


class ArchiveStore(Store):
    """The files of an archive below ``prefix``, for zarr. Closing it closes the archive only if it opened it."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, archive: OpenArchive, prefix: str = "", *, owner: bool = False) -> None:
        """See ``zarr_store``."""
        super().__init__(read_only=True)
        self._archive = archive
        self._prefix = prefix.strip("/")
        self._owner = owner
        lead = f"{self._prefix}/" if self._prefix else ""
        self._keys = {
            path[len(lead) :]: path
            for path, entry in archive.items()
            if entry.kind == "file" and path.startswith(lead)
        }
        if not self._keys:
            raise NoSuchEntry(f"no file of the archive lies below {prefix!r}")
        self._children: dict[str, set[str]] = {}
        for key in self._keys:
            folder, _, name = key.rpartition("/")
            while name and name not in self._children.setdefault(folder, set()):
                self._children[folder].add(name)
                folder, _, name = folder.rpartition("/")
        self._parts: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._reading: dict[str, threading.Lock] = {}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ArchiveStore)
            and self._archive.path == other._archive.path
            and self._prefix == other._prefix
        )

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"callic://{self._archive.path}/{self._prefix}"

    def __repr__(self) -> str:
        return f"ArchiveStore({str(self)!r})"

    def with_read_only(self, read_only: bool = False) -> ArchiveStore:
        """The same store. Raises ValueError when it should be writable."""
        if not read_only:
            raise ValueError("an archive is never changed: this store is read-only")
        return ArchiveStore(self._archive, self._prefix)

    # -- reading ---------------------------------------------------------------------------------------------

    def _whole(self, key: str) -> bytes:
        return self._archive.read_bytes(self._keys[key])

    def _cached(self, key: str) -> bytes:
        """A file of which only a part is wanted now, and probably others soon."""
        with self._lock:
            if key in self._parts:
                self._parts.move_to_end(key)
                return self._parts[key]
            mine = self._reading.setdefault(key, threading.Lock())
        with mine:  # whoever comes second finds it below
            with self._lock:
                found = self._parts.get(key)
            if found is None:
                found = self._whole(key)
                with self._lock:
                    self._parts[key] = found
                    self._reading.pop(key, None)
                    while len(self._parts) > 1 and sum(map(len, self._parts.values())) > CACHE_BYTES:
                        self._parts.popitem(last=False)
            return found

    def _read(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        if key not in self._keys:
            return None
        if wanted is None:
            return self._whole(key)
        value = self._cached(key)
        if isinstance(wanted, RangeByteRequest):
            return value[wanted.start : wanted.end]
        if isinstance(wanted, OffsetByteRequest):
            return value[wanted.offset :]
        if isinstance(wanted, SuffixByteRequest):
            return value[max(0, len(value) - wanted.suffix) :]
        raise ValueError(f"unknown request {wanted!r}")

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a key or a part of them, None where there is none. Raises EntryDamaged."""
        await self._ensure_open()
        found = await asyncio.to_thread(self._read, key, byte_range)
        return None if found is None else prototype.buffer.from_bytes(found)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several keys or parts, in order."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is a file of this key."""
        return key in self._keys

    async def getsize(self, key: str) -> int:
        """Bytes of a file, without decoding it. Raises FileNotFoundError."""
        if key not in self._keys:
            raise FileNotFoundError(key)
        return self._archive[self._keys[key]].size

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        for key in self._keys:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin with ``prefix``."""
        for key in self._keys:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names of what lies directly below ``prefix``."""
        for name in sorted(self._children.get(prefix.strip("/"), ())):
            yield name

    # -- writing: never --------------------------------------------------------------------------------------

    async def set(self, key: str, value: Buffer) -> None:
        """Refused. Raises ValueError."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refused. Raises ValueError."""
        self._check_writable()

    def close(self) -> None:
        """Forget cached files, and close the archive where this store opened it."""
        with self._lock:
            self._parts.clear()
        if self._owner:
            self._archive.close()
        super().close()


def zarr_store(archive: OpenArchive | str | os.PathLike[str], prefix: str = "") -> ArchiveStore:
    """A zarr tree inside an archive as a read-only store for ``zarr.open``.

    ``archive``: an open archive, or the path of one. ``prefix``: the tree's path in it, such as
    ``scans/brain.zarr``; only files below it are keys. Raises NoSuchEntry when there are none, MissingPath
    and NotAnArchive.
    """
    if isinstance(archive, OpenArchive):
        return ArchiveStore(archive, prefix)
    return ArchiveStore(open_archive(archive), prefix, owner=True)
