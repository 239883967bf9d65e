"""What lies beside a file and tells how to read it, found on disk or in an archive: the array metadata of a
zarr store, of which the file may be a chunk, or the header of the samples that it holds; or, for want of either, what its bytes
look like.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable

from callic_archive.archive.content import OpenFile
from callic_archive.images.detached import header_names, is_header
from callic_archive.images.raster_search import context_of
from callic_archive.images.source import Context, sniff
from callic_archive.images.zarr_metadata import DOCUMENTS, MAX_DOCUMENT, is_key_folder, may_be_key

_LEVELS = 34  # parts of a chunk's key at most
_KEPT = 32  # documents remembered: the files of one array come one after the other

Read = Callable[[str], bytes | None]


class ContextFinder:
    """Looks for the metadata document of the array to which a file may belong, else for a header beside it.

    Not for several threads.
    """

    def __init__(self, read: Read) -> None:
        """``read`` gives the bytes of the document at a path, None when there is none."""
        self._read = read
        self._known: OrderedDict[str, dict[str, bytes]] = OrderedDict()

    def of(self, path: str, levels: int = _LEVELS) -> Context | None:
        """The context of the file at ``path``; that of an array is looked for at most ``levels`` folders up.

        Most files are dismissed by their names alone, without a look at the disk.
        """
        return self._of_array(path, levels) or self._of_header(path)

    def of_file(self, file: OpenFile, levels: int = _LEVELS) -> Context | None:
        """The context of a file at hand; where it is of no known format, that of rasters that show in it. Raises OSError."""
        found = self.of(file.file, levels)
        if found is not None or file.extents is not None or sniff(file.head()) is not None:
            return found
        return context_of(file.window, file.size, os.path.basename(file.file))

    def _of_header(self, path: str) -> Context | None:
        above, slash, name = path.rpartition("/")
        for header in header_names(name):
            document = self._read(f"{above}{slash}{header}")
            if document is not None:
                context = Context(header, document, name, "raw")
                if is_header(context):
                    return context
        return None

    def _of_array(self, path: str, levels: int) -> Context | None:
        parts = path.split("/")
        if not may_be_key(parts[-1]):
            return None
        for level in range(1, min(len(parts) - 1, levels, _LEVELS) + 1):
            found = self._documents("/".join(parts[:-level]))
            if found:
                # Some stores have the documents of both versions; keys that begin with c are of version 3.
                names = [
                    name
                    for name in (DOCUMENTS[::-1] if parts[-level][0] == "c" else DOCUMENTS)
                    if name in found
                ]
                return Context(names[0], found[names[0]], "/".join(parts[-level:]))
            if not is_key_folder(parts[-level - 1]):
                return None
        return None

    def _documents(self, folder: str) -> dict[str, bytes]:
        if folder in self._known:
            self._known.move_to_end(folder)
            return self._known[folder]
        read = {name: self._read(f"{folder}/{name}") for name in DOCUMENTS}
        found = {name: document for name, document in read.items() if document is not None}
        self._known[folder] = found
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found


def read_beside(path: str) -> bytes | None:
    """The document at ``path`` of the file system, cut off behind the longest that is understood; no link is followed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with os.fdopen(fd, "rb", closefd=False) as stream:
            return stream.read(MAX_DOCUMENT + 1)
    except OSError:
        return None
    finally:
        os.close(fd)
