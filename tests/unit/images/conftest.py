"""What every image test needs: take apart, put together, compare; and damage."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from callic_archive.errors import SourceError
from callic_archive.images import Parsed, images_equal, parse, rebuild
from callic_archive.images.layout import MOST_SAMPLES
from callic_archive.images.reasons import REASONS, NotTaken
from callic_archive.images.source import Context, examine


def _rebuilt(parsed: Parsed) -> bytes:
    # Decoders hand back images of their own, so strides and buffers of the parsed ones must not matter.
    images = [np.array(image, order="C") for image in parsed.images]
    out = io.BytesIO()
    rebuild(parsed.format, parsed.recipe, parsed.surround, images, out)
    return out.getvalue()


def _exact(data: bytes) -> Parsed:
    parsed = parse(data)
    assert parsed is not None
    assert parsed.fidelity == "bytes"
    assert _rebuilt(parsed) == data
    for image in parsed.images:
        assert image.ndim in (2, 3)
        assert image.ndim == 2 or 2 <= image.shape[2] <= MOST_SAMPLES
        assert image.dtype in (np.uint8, np.uint16, np.int16, np.uint32, np.uint64)
        assert image.dtype.isnative
    return parsed


def _content(data: bytes) -> Parsed:
    parsed = parse(data)
    assert parsed is not None
    assert parsed.fidelity == "content"
    again = parse(_rebuilt(parsed))
    assert again is not None
    assert images_equal(parsed, again)
    return parsed


def _damage(data: bytes, every: int = 1) -> dict[str, int]:
    """Cut ``data`` at many places and flip bytes: all must end in None, a SourceError or a proper image."""
    outcomes = {"error": 0, "none": 0, "image": 0}
    rng = np.random.default_rng(5)
    victims = [data[:n] for n in range(0, len(data), every)]
    for _ in range(150):
        broken = bytearray(data)
        broken[int(rng.integers(min(len(data), 400)))] ^= int(rng.integers(1, 256))
        victims.append(bytes(broken))
    for victim in victims:
        try:
            parsed = parse(victim)
        except SourceError:
            outcomes["error"] += 1
            continue
        outcomes["none" if parsed is None else "image"] += 1
        if parsed is not None and parsed.fidelity == "bytes":
            assert _rebuilt(parsed) == victim
    return outcomes


def _reason(data: bytes, context: Context | None = None) -> str:
    found = examine(data, context=context)
    assert isinstance(found, NotTaken)
    assert parse(data, context=context) is None
    assert found.reason in REASONS
    return found.reason


@pytest.fixture(scope="session")
def reason() -> Callable[..., str]:
    """Assert that a file is not taken apart; why."""
    return _reason


@pytest.fixture(scope="session")
def rebuilt() -> Callable[[Parsed], bytes]:
    """The file that the recipe gives."""
    return _rebuilt


@pytest.fixture(scope="session")
def exact() -> Callable[[bytes], Parsed]:
    """Parse, and assert that the file comes back byte for byte."""
    return _exact


@pytest.fixture(scope="session")
def content() -> Callable[[bytes], Parsed]:
    """Parse, and assert that a file of equal content comes back."""
    return _content


@pytest.fixture(scope="session")
def damage() -> Callable[..., dict[str, int]]:
    """Assert that no damaged copy ends in anything but None, a SourceError or an image."""
    return _damage


@pytest.fixture
def noise() -> Callable[..., np.ndarray[Any, Any]]:
    """Random samples, smooth enough that every packer packs them: noise(shape, dtype)."""
    rng = np.random.default_rng(3)

    def make(shape: tuple[int, ...], dtype: str = "u1") -> np.ndarray[Any, Any]:
        info = np.iinfo(dtype)
        return (rng.integers(info.min // 40, info.max // 40, shape) * 20).astype(dtype)

    return make
