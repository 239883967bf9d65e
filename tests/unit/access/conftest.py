"""Codecs of this package, known to zarr and numcodecs even where the package is not installed by its wheel."""

from __future__ import annotations

import numcodecs
import pytest
from zarr.registry import register_codec

from callic_archive.access.numcodecs_codec import Callic
from callic_archive.access.zarr_codec import CallicCodec


@pytest.fixture(scope="session")
def registered() -> None:
    """What the entry points do."""
    register_codec("callic", CallicCodec, qualname="callic_archive.access.zarr_codec.CallicCodec")
    numcodecs.register_codec(Callic)
