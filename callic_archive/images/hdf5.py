"""HDF5 files (HDF5 File Format Specification 3.0), and what is one: netCDF-4, MATLAB 7.3, Imaris, BigDataViewer, MINC 2.

Their structure is read by pyfive; what is taken apart are arrays of numbers with two axes or more, contiguous or in chunks,
through the filters shuffle, deflate, Zstandard, Blosc and Fletcher32. Everything else of the file is surrounding bytes.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from callic_archive.errors import SourceTooLarge, TruncatedSource
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed, ViewFile
from callic_archive.images.zarr_blocks import Group, Span, parse_groups, rebuild, single, within
from callic_archive.images.zarr_metadata import ChunkForm, stored_fill, stored_type
from callic_archive.images.zarr_steps import Step, step_of

__all__ = ["parse", "rebuild"]
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_USER_BLOCKS = (0, 512)  # where the superblock is looked for
_LEAST = 4096  # bytes of an array that is taken out
_MOST_OBJECTS = 1 << 17  # datasets and groups of one file
_READS, _READ_SHARE = 1 << 16, 4  # calls, and times the file's bytes, that reading the structure may take
_UNDEFINED = (1 << 64) - 1
_CONTIGUOUS, _CHUNKED = 1, 2  # classes of layout
_DEFLATE, _SHUFFLE, _FLETCHER32, _BLOSC, _ZSTD = 1, 2, 3, 32001, 32015  # filters
_TRUTH = "FALSETRUE"  # the names of truth values
_CHECKSUM = 4  # bytes behind a chunk with Fletcher32
_COMPRESSORS = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")  # of Blosc, by number


class _Frugal(ViewFile):
    """The file as pyfive reads it, but no more of it than a structure can take: a broken one may lead in circles."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self._calls, self._bytes = _READS + len(data) // 16, _READS + _READ_SHARE * len(data)

    def read(self, size: int | None = -1) -> bytes:
        """As of any file. Raises SourceTooLarge."""
        piece = super().read(size)
        self._calls, self._bytes = self._calls - 1, self._bytes - len(piece)
        if min(self._calls, self._bytes) < 0:
            raise SourceTooLarge("the structure of the HDF5 file leads in circles, or is larger than its data")
        return piece

    def forget(self) -> None:
        """Let go of the file, which a library that keeps its objects in circles would hold open."""
        self._data = memoryview(b"")


@dataclass(frozen=True)
class _Array:
    """One dataset: its shape, the bytes of its chunks, and where these lie by their places in the grid."""

    shape: tuple[int, ...]
    form: ChunkForm
    spans: dict[tuple[int, ...], Span]
    chunked: bool = True


def parse(data: memoryview, limits: Limits) -> Parsed:
    """See ``source.parse``. Raises NotTaken for files without such arrays, and those whose structure pyfive does not read."""
    groups = outline(data, limits)
    if not groups:
        raise NotTaken("no-pixels")
    return parse_groups(data, groups, limits, "hdf5")


def outline(data: memoryview, limits: Limits) -> list[Group]:
    """The arrays of the file, none decoded. Raises NotTaken and SourceError subclasses."""
    _check_end(data)
    arrays = _arrays(data)
    limits.check_images(len(arrays))
    limits.check_blocks(sum(len(array.spans) for array in arrays))
    found = []
    for array in arrays:
        found += within(array.shape, array.form, array.spans, limits) if array.chunked else _contiguous(array)
    return found


def _contiguous(array: _Array) -> list[Group]:
    """The one block of an array as the slices that it holds, below each other."""
    (span,) = array.spans.values()
    group = single(array.form, *span)
    if group is None:
        return []
    axes = [n for n in array.shape if n > 1]
    height = axes[-3] if group.layout.samples > 1 else axes[-2]
    return [replace(group, layout=replace(group.layout, frames=group.layout.height // height))]


def _check_end(data: memoryview) -> None:
    """Raises TruncatedSource where the superblock says that the file goes on."""
    at = next(at for at in _USER_BLOCKS if bytes(data[at : at + 8]) == _SIGNATURE)
    head = bytes(data[at : at + 64])
    if len(head) < 48 or head[8] > 3:
        raise NotTaken("variant")
    width, first = (head[13], 24) if head[8] < 2 else (head[9], 12)
    first += 4 if head[8] == 1 else 0
    if width != 8:
        raise NotTaken("variant")
    end = int.from_bytes(head[first + 16 : first + 24], "little")
    if end > len(data):
        raise TruncatedSource(f"the HDF5 file has {len(data)} bytes and should have {end}")


def _arrays(data: memoryview) -> list[_Array]:
    """The arrays of numbers, each once. Raises NotTaken where there are none and pyfive did not read all, and SourceTooLarge."""
    import pyfive

    found: dict[int, _Array] = {}
    unread, view = _Unread(), _Frugal(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            file = unread.or_none(pyfive.File, view)
            for dataset in () if file is None else _datasets(file, unread):
                for array in unread.or_none(_arrays_of, dataset, file.userblock_size) or ():
                    found.setdefault(min(start for start, _ in array.spans.values()), array)
        finally:
            view.forget()
    if unread.count and not found:
        raise NotTaken("variant")
    return list(found.values())


@dataclass
class _Unread:
    """How many objects pyfive did not read: of kinds that it does not know, or broken ones."""

    count: int = 0

    def or_none(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """What ``step`` gives. Raises SourceTooLarge."""
        try:
            return step(*arguments)
        except SourceTooLarge:
            raise
        except Exception:  # noqa: BLE001 - petabytes for an attribute among it; what a library raises that reads broken files in Python is no interface
            self.count += 1
            return None


def _datasets(file: Any, unread: _Unread) -> Iterator[Any]:
    """All that can be read, each reached by some path; no other file is looked into."""
    import pyfive

    left, seen, count = deque([file]), set[int](), 0
    while left:
        group = left.popleft()
        for name in group:
            count += 1
            if count > _MOST_OBJECTS:
                raise SourceTooLarge(f"the HDF5 file has more than {_MOST_OBJECTS} objects")
            one = unread.or_none(group.get_lazy_view, name)
            if isinstance(one, pyfive.Dataset):
                yield one
            elif isinstance(one, pyfive.Group):
                key = id(one._dataobjects)  # which pyfive keeps, one for each address
                if key not in seen:
                    seen.add(key)
                    left.append(one)


def _arrays_of(dataset: Any, base: int) -> list[_Array]:
    """What is taken of a dataset, whose addresses count from ``base``; nothing of those without numbers, of one axis, of a few
    bytes, or through filters that are not known. Chunks that went through fewer filters than others are an array apart."""
    shape, told = tuple(int(n) for n in dataset.shape), dataset.id
    if sum(n > 1 for n in shape) < 2 or told.layout_class not in (_CONTIGUOUS, _CHUNKED):
        return []
    dtype = np.dtype(dataset.dtype)
    if dtype.kind not in "iufb" or dtype.itemsize > 8 or math.prod(shape) * dtype.itemsize < _LEAST:
        return []
    truth = dtype.kind == "b" or _is_truth((dtype.metadata or {}).get("enum"))
    kind = "u1" if truth else f"{dtype.kind}{dtype.itemsize}"
    order = "|" if dtype.itemsize == 1 else ">" if dtype.str[0] == ">" else "<"
    type_ = order + stored_type(kind)
    meaning = "?" if truth else kind
    if told.layout_class == _CONTIGUOUS:
        start = int(told.data_offset)
        if start == _UNDEFINED:
            return []
        form = ChunkForm(shape, tuple(range(len(shape))), type_, meaning=meaning)
        return [_Array(shape, form, {(0,) * len(shape): (base + start, form.bytes)}, chunked=False)]
    chunk = tuple(int(n) for n in dataset.chunks)
    if len(chunk) != len(shape) or min(chunk) < 1:
        return []
    fill = stored_fill(np.asarray(dataset.fillvalue).item(), kind) if dataset.fillvalue is not None else 0
    spans: dict[int, dict[tuple[int, ...], Span]] = {}  # by the filters that were left out
    for number in range(told.get_num_chunks()):
        info = told.get_chunk_info(number)
        place = tuple(int(n) // c for n, c in zip(info.chunk_offset, chunk, strict=True))
        spans.setdefault(int(info.filter_mask), {})[place] = base + int(info.byte_offset), int(info.size)
    found = []
    for mask, some in spans.items():
        filters = [one for number, one in enumerate(told.filter_pipeline or ()) if not mask >> number & 1]
        through = _steps(filters, type_)
        if through is not None:
            found.append(_Array(shape, ChunkForm(chunk, tuple(range(len(chunk))), type_, *through, fill, meaning=meaning), some))
    if len(spans) > 1:  # what another array has is not missing in this one
        found = [replace(array, shape=(0,) * len(shape)) for array in found]
    return found


def _is_truth(enum: Mapping[str, Any] | None) -> bool:
    """Whether an enumeration is that of truth values, whose names pyfive cuts at the wrong places in newer files."""
    return len(enum or {}) == 2 and "".join(enum or {}).replace("\0", "").startswith(_TRUTH)


def _steps(filters: Sequence[Mapping[str, Any]], dtype: str) -> tuple[tuple[Step, ...], int] | None:
    """The filters of a chunk as steps, and the bytes of checksum behind it; None where one is not known."""
    steps: list[Step] = []
    tail = 0
    for one in filters:
        number, values = int(one["filter_id"]), [int(n) for n in one["client_data"]]
        if tail:
            return None  # nothing comes behind the checksum
        if number == _FLETCHER32:
            tail = _CHECKSUM
        elif number == _SHUFFLE:
            steps.append(step_of("shuffle", {"elementsize": values[0] if values else int(dtype[2])}, dtype))
        elif number == _DEFLATE:
            steps.append(step_of("zlib", {"level": values[0] if values else 6}, dtype))
        elif number == _ZSTD:
            steps.append(step_of("zstd", {"level": values[0] if values else 3}, dtype))
        elif number == _BLOSC and len(values) >= 7 and values[6] < len(_COMPRESSORS):
            config = {"typesize": values[2], "clevel": values[4], "shuffle": values[5], "cname": _COMPRESSORS[values[6]]}
            steps.append(step_of("blosc", config, dtype))
        else:
            return None
    return tuple(steps), tail


def sample_types(data: memoryview) -> list[str]:
    """The numpy type of the samples of each image. Raises NotTaken and SourceError subclasses."""
    return [group.sample_type for group in outline(data, Limits())]
