"""Codecs of zarr arrays as steps: a name and numbers, as metadata documents tell them and recipes hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from callic_archive.images.reasons import NotTaken

Step = tuple[str | int, ...]  # a codec's name and its numbers
Json = Any
_BLOSC = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")
_BLOSC_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


def _integer(value: Json, low: int, high: int, what: str) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} is {str(value)[:40]}, not a whole number from {low} to {high}")
    return value


def check_outermost(steps: Sequence[Step]) -> None:
    """Raises NotTaken unless gzip, whose header stays beside its code, comes last if at all."""
    if any(step[0] == "gzip" for step in steps[:-1]):
        raise NotTaken("coding")


def step_of(name: Json, config: Mapping[str, Json], dtype: str, serialised: bool = True) -> Step:
    """A codec as a step; ``dtype`` is that of the array. Raises NotTaken, and ValueError on nonsense."""
    step = _known_step(name, config, dtype, serialised)
    if step is None:
        raise NotTaken("coding")
    return step


def _known_step(name: Json, config: Mapping[str, Json], dtype: str, serialised: bool) -> Step | None:
    size = int(dtype[2])
    if name == "delta":
        same = all(
            isinstance(t, str) and t.lstrip("<|=") == dtype[1:]
            for t in (config["dtype"], config.get("astype") or config["dtype"])
        )
        return ("delta", size) if same and dtype[0] != ">" and dtype[1] in "ui" else None
    if not serialised:
        return None
    if name == "shuffle":
        return ("shuffle", _integer(config.get("elementsize", 4), 1, 64, "elementsize"))
    if name in ("crc32", "adler32"):
        return (name,) if config.get("location", "start") in ("start", None) else None
    if name in ("zlib", "gzip"):
        return (name, _integer(config.get("level", 1), -1, 9, "level"))
    if name == "bz2":
        return (name, _integer(config.get("level", 1), 1, 9, "level"))
    if name == "lz4":
        return (name, _integer(config.get("acceleration", 1), -(1 << 30), 1 << 30, "acceleration"))
    if name == "zstd":
        level = _integer(config.get("level", 0), -(1 << 20), 22, "level")
        return (name, level, int(bool(config.get("checksum", False))))
    if name == "blosc":
        return _blosc(config, size)
    return None


def _blosc(config: Mapping[str, Json], size: int) -> Step:
    cname, shuffle = config.get("cname", "lz4"), config.get("shuffle", 1)
    if cname not in _BLOSC:
        raise ValueError("blosc names a compressor that there is not")
    if isinstance(shuffle, str):
        shuffle = _BLOSC_SHUFFLES[shuffle]
    size = _integer(config.get("typesize") or size, 1, 255, "typesize")
    shuffle = _integer(shuffle, -1, 2, "shuffle")
    if shuffle == -1:
        shuffle = 2 if size == 1 else 1
    level = _integer(config.get("clevel", 5), 0, 9, "clevel")
    return (
        "blosc",
        cname,
        level,
        shuffle,
        _integer(config.get("blocksize", 0), 0, 1 << 31, "blocksize"),
        size,
    )
