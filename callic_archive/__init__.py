"""A lossless image archive whose learned codec computes in exact integers, so it decodes alike everywhere."""

from __future__ import annotations

import os
from importlib import import_module

TYPE_CHECKING = False  # for type checkers it is true; `typing` takes longer to load than all else here
if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

    from callic_archive.access.archive import OpenArchive, open_archive
    from callic_archive.access.images import decode_image, encode_image
    from callic_archive.access.zarr_store import ArchiveStore, zarr_store
    from callic_archive.archive.entries import Entry
    from callic_archive.errors import CallicError

__version__ = "0.1.0"

__all__ = [
    "ArchiveStore",
    "CallicError",
    "Entry",
    "OpenArchive",
    "__version__",
    "decode_image",
    "encode_image",
    "open_archive",
    "zarr_store",
]

# Public names are loaded when first used, so that importing the package costs next to nothing.
_HOMES = {
    "ArchiveStore": "access.zarr_store",
    "CallicError": "errors",
    "Entry": "archive.entries",
    "OpenArchive": "access.archive",
    "decode_image": "access.images",
    "encode_image": "access.images",
    "open_archive": "access.archive",
    "zarr_store": "access.zarr_store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def place_compiled_code(environment: MutableMapping[str, str], package: str | os.PathLike[str]) -> None:
    """Give numba a folder for compiled loops where it would find none and refuse to start.

    numba keeps them beside the package or in the user's cache. In a container with a read-only image and no
    home both are closed; then they go into a folder of this user's own below the temporary folder.
    ``NUMBA_CACHE_DIR`` wins.
    """
    home = environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME") or "/", ".cache")
    while not os.path.exists(home) and home != os.path.dirname(home):
        home = os.path.dirname(home)
    if "NUMBA_CACHE_DIR" in environment or os.access(package, os.W_OK) or os.access(home, os.W_OK):
        return
    import tempfile

    folder = f"callic-archive-compiled-{os.getuid()}"
    environment["NUMBA_CACHE_DIR"] = os.path.join(tempfile.gettempdir(), folder)


place_compiled_code(os.environ, os.path.dirname(os.path.abspath(__file__)))
