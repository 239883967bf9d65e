"""An archive as a read-only mapping of paths to entries, from which single files and regions are read."""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from callic_archive.access.pages import Page, pages_of
from callic_archive.access.regions import Region, box_of
from callic_archive.archive.codecs import DecoderPlan
from callic_archive.archive.context import ContextFinder
from callic_archive.archive.entries import Entry
from callic_archive.archive.file_headers import has_signed_bytes, types_of_entry
from callic_archive.archive.learned_codec import CallicDecoderPlan
from callic_archive.archive.reading import Archive, naming
from callic_archive.archive.scan import Problem
from callic_archive.archive.unpacking import OTHER_BYTES
from callic_archive.errors import DigestMismatch, NoSuchImage, SourceError, UnknownPath
from callic_archive.images.sample_types import Types, types_of
from callic_archive.images.source import Context, parse, sniff
from callic_archive.images.zarr_metadata import MAX_DOCUMENT

Image = NDArray[Any]
_Read = tuple[tuple[Image, ...], Mapping[str, Any], Types | None]
_KEPT = 256 << 20  # bytes of samples of a file that are kept for the next page of it
_REMEMBERED = 1024  # files whose headers were read


class OpenArchive(Mapping[str, Entry]):
    """A finished archive, open for reading. A context manager that threads may share.

    As a mapping it tells what is there (``archive["scans/a.tif"].size``) without decoding anything: size,
    times, digest, fidelity, and by ``entry.images`` shape and type of each image of a file that went through
    the codec.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        threads: int | None = None,
        models: Sequence[str | os.PathLike[str]] = (),
        plan: DecoderPlan | None = None,
    ) -> None:
        """See ``open_archive``; ``plan`` is another way to decode images."""
        extra = tuple(Path(model) for model in models)
        own = plan or CallicDecoderPlan(device=device, extra=extra)
        self._archive = Archive(Path(path), own, threads=threads)
        self._entries = {entry.path: entry for entry in self._archive.entries}
        self._found: dict[str, list[Page]] = {}  # pages of files, once their headers were read
        self._last: tuple[str, _Read] | None = None  # what was read of a file that is stored as it is

    # -- what is there ---------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The archive's folder."""
        return self._archive.root

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was wrong with the index itself; entries it lost are missing here."""
        return tuple(self._archive.problems)

    def __getitem__(self, path: str) -> Entry:
        """The entry of a path. Raises UnknownPath (E021), which is a KeyError."""
        try:
            return self._entries[path]
        except (KeyError, TypeError):
            raise UnknownPath(f"the archive has no entry {path!r}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<archive {str(self.path)!r} of {len(self)} entries>"

    # -- contents --------------------------------------------------------------------------------------------

    def read_bytes(self, path: str) -> bytes:
        """A file as ``unpack`` restores it, compared with the digests that were stored at packing.

        Where the entry's fidelity is ``content``, that may be other compressed bytes than the source had.
        Raises UnknownPath, NoSuchImage for folders and links, EntryDamaged, DigestMismatch.
        """
        entry = self._file(path)
        out = io.BytesIO()
        fidelity = self._archive.restore(entry, out)
        if fidelity != entry.fidelity:
            raise DigestMismatch(f"{path}: {OTHER_BYTES}")
        return out.getvalue()

    def read_array(self, path: str, page: int = 0, region: Region | None = None) -> Image:
        """Page number ``page`` of a file, (H, W) or (H, W, C), or a region of it.

        Pages are those of the file: slices and frames count one by one, also where many were coded as one image.
        Samples have the type of the file in the byte order of this machine: integers of 8 to 64 bits, with or without
        sign, floats of 16 to 64, complex numbers, truth values. Of images that the learned codec holds only the tiles
        that ``region`` touches are decoded; each was checked by its CRC, and whole images also by the digest of their
        samples. Files that were stored as they are, but whose format is understood, are read from their bytes. Regions
        are slices of rows and columns, or (top, left, bottom, right); see ``regions``.
        Raises UnknownPath, NoSuchImage, RegionError, EntryDamaged, DigestMismatch.
        """
        entry = self._file(path)
        if entry.is_image:
            found = _numbered(self._pages(entry), page, path)
            whole = entry.images[found.image].shape
            box = None if region is None else box_of(region, found.shape(whole))
            return found.samples(self._archive.image(entry, found.image, found.box(whole, box)))
        images, recipe, types = self._parsed(entry)
        found = _numbered(pages_of(recipe, [image.shape for image in images], types), page, path)
        image = images[found.image]
        box = None if region is None else box_of(region, found.shape(image.shape))
        box = found.box(image.shape, box)
        if box is not None:
            top, left, bottom, right = box
            image = image[top:bottom, left:right]
        return found.samples(np.array(image, order="C"))

    def has_image(self, path: str) -> bool:
        """Whether a file may hold images for ``read_array``: it went through the codec, or looks like one."""
        entry = self[path]
        if entry.method != "stored" or not entry.parts:
            return entry.is_image
        if self._context(entry) is not None:
            return True
        with naming(entry):
            part = entry.parts[0]
            return sniff(self._archive.read_bytes(part)) is not None

    def page_count(self, path: str) -> int:
        """How many pages ``read_array`` can give of a file; files stored as they are must be read for it."""
        entry = self._file(path)
        if entry.is_image:
            return len(pages_of(entry.recipe, [info.shape for info in entry.images]))
        images, recipe, _ = self._parsed(entry)
        return len(pages_of(recipe, [image.shape for image in images]))

    def _file(self, path: str) -> Entry:
        entry = self[path]
        if entry.kind != "file":
            kind = "a folder" if entry.kind == "directory" else f"a link to {entry.target!r}"
            raise NoSuchImage(f"{path} is {kind}, not a file")
        return entry

    def _context(self, entry: Entry) -> Context | None:
        found = ContextFinder(self._document).of(entry.path)
        # A file that is not as the header beside it says may have been taken apart by what it says of itself.
        return None if found is not None and entry.is_image and entry.format != found.format else found

    def _document(self, path: str) -> bytes | None:
        entry = self._entries.get(path)
        readable = entry is not None and entry.kind == "file" and (entry.size or 0) <= MAX_DOCUMENT
        return self.read_bytes(path) if readable else None

    def _pages(self, entry: Entry) -> list[Page]:
        """The pages of a file that went through the codec, with the types that its header tells."""
        found = self._found.get(entry.path)
        if found is None:
            with naming(entry):
                types = types_of_entry(self._archive, entry, self._context(entry))
                found = pages_of(entry.recipe, [info.shape for info in entry.images], types)
                if entry.method == "pieces":
                    turned = [has_signed_bytes(self._archive, entry, n) for n in range(len(entry.images))]
                    found = [replace(page, signed=turned[page.image]) for page in found]
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[entry.path] = found
        return found

    def _parsed(self, entry: Entry) -> _Read:
        """The images of a file that is stored as it is; those of the last one are kept, as pages are asked for one by one."""
        last = self._last
        if last is not None and last[0] == entry.path:
            return last[1]
        self._last = None
        found = self._read(entry)
        if sum(image.nbytes for image in found[0]) <= _KEPT:
            self._last = entry.path, found
        return found

    def _read(self, entry: Entry) -> _Read:
        context = self._context(entry)
        try:
            parsed = parse(self.read_bytes(entry.path), context=context)
        except SourceError as error:
            raise NoSuchImage(f"{entry.path} holds no image that can be read: {error}") from error
        if parsed is None:
            return (), {}, None
        return parsed.images, parsed.recipe, types_of(parsed.format, parsed.recipe, parsed.surround, context)

    # -- end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the archive's files; reading afterwards opens them again."""
        self._last = None
        self._archive.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _numbered(found: Sequence[Page], page: int, path: str) -> Page:
    if not isinstance(page, SupportsIndex):
        raise NoSuchImage(f"{path} has no image {page!r}; images of a file are counted in whole numbers from 0")
    page = operator.index(page)
    if not 0 <= page < len(found):
        have = (
            f"those it holds are numbered 0 to {len(found) - 1}"
            if found
            else "it holds none that the codec takes"
        )
        raise NoSuchImage(f"{path} has no image {page}; {have}")
    return found[page]


def open_archive(
    path: str | os.PathLike[str],
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    models: Sequence[str | os.PathLike[str]] = (),
) -> OpenArchive:
    """Open a finished archive for reading, with the models that it carries.

    ``threads`` bounds those of one decoding; by default as many as there are cores. ``models`` are files of models
    that the archive was packed without and that do not ship. Raises MissingPath and NotAnArchive.
    """
    return OpenArchive(path, device=device, threads=threads, models=models)
