"""A lossless image archive whose learned codec computes in exact integers, so it decodes alike everywhere."""

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

__version__ = "0.1.0"


def place_compiled_code(environment: MutableMapping[str, str], package: Path) -> None:
    """Give numba a folder for compiled loops where it would find none and refuse to start.

    numba keeps them beside the package or in the user's cache. In a container with a read-only image and no
    home both are closed; then they go into a folder of this user's own below the temporary folder.
    ``NUMBA_CACHE_DIR`` wins.
    """
    home = Path(environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or "/") / ".cache")
    while not home.exists() and home != home.parent:
        home = home.parent
    if "NUMBA_CACHE_DIR" in environment or os.access(package, os.W_OK) or os.access(home, os.W_OK):
        return
    environment["NUMBA_CACHE_DIR"] = str(
        Path(tempfile.gettempdir()) / f"callic-archive-compiled-{os.getuid()}"
    )


place_compiled_code(os.environ, Path(__file__).parent)
