"""A source file taken apart into images and the bytes around them, and put together again.

``parse`` recognises a file by its first bytes and hands it to the module of that format family; each of those
offers the same two functions, ``parse`` and ``rebuild``. Nothing here writes a file through an imaging
library: samples are cut out of the file as byte ranges and everything else is kept as it stands (see
``splice``).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, BinaryIO, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, RebuildMismatch, SourceError, SourceTooLarge
from callic_archive.images.reasons import NotTaken

Json = Any  # what json.loads may return; kept loose so that recipes stay readable
Image = NDArray[Any]
T = TypeVar("T")


# Why there is a limit for files that are not cut into pieces, and what to do.
WHOLE = "it would lie in memory as a whole, so uncompress it first (files of TIFF, NIfTI or NPY are cut), or use fewer workers"


@dataclass(frozen=True)
class Limits:
    """What a file may ask for before it is refused with ``SourceTooLarge``.

    All sizes are checked before allocation.
    """

    max_decoded_bytes: int = 64 << 30  # bytes of samples of all images of one file
    max_ratio: int = (
        4096  # decoded bytes / bytes of the file; deflate itself cannot pass 1032, LZW about 2700
    )
    max_images: int = 1 << 16  # pages, frames or directories of one file
    max_blocks: int = 1 << 22  # strips or tiles of one file
    # bytes of a file inside a gzip or ZIP file, once inflated: these lie in memory
    max_member_bytes: int = 8 << 30

    def check_decoded(self, decoded: int, source: int) -> None:
        """Refuse ``decoded`` bytes of samples promised by a file of ``source`` bytes.

        Raises SourceTooLarge.
        """
        if decoded > self.max_decoded_bytes:
            raise SourceTooLarge(
                f"the file promises {decoded} bytes of samples, the limit is {self.max_decoded_bytes}; {WHOLE}"
            )
        if decoded > self.max_ratio * max(source, 1):
            raise SourceTooLarge(
                f"{source} bytes cannot be trusted to hold {decoded} bytes of samples "
                f"(limit: {self.max_ratio} times the file)"
            )

    def check_images(self, count: int) -> None:
        """Refuse a file with more than ``max_images`` images. Raises SourceTooLarge."""
        if count > self.max_images:
            raise SourceTooLarge(f"the file promises {count} images, the limit is {self.max_images}")

    def check_blocks(self, count: int) -> None:
        """Refuse a file with more than ``max_blocks`` strips or tiles. Raises SourceTooLarge."""
        if count > self.max_blocks:
            raise SourceTooLarge(f"the file promises {count} blocks, the limit is {self.max_blocks}")


class ViewFile(io.RawIOBase):
    """A read-only file over a buffer, without copying the buffer: what libraries are given to read."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position. Raises OSError where that lies before the file, as files do."""
        target = offset + (0, self._at, len(self._data))[whence]
        if target < 0:
            raise OSError("a position before the file")
        self._at = target
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Bytes from the position on."""
        end = len(self._data) if size is None or size < 0 else self._at + size
        piece = bytes(self._data[self._at : end])
        self._at += len(piece)
        return piece


@dataclass(frozen=True)
class Parsed:
    """A file as images, surrounding bytes, and the recipe that joins them.

    ``images`` have shape (H, W) or (H, W, C) with C in 2..4, dtype uint8, uint16 or int16 in native byte
    order, and any strides; they may be views of the input. ``fidelity`` says what ``rebuild`` is expected to
    give: ``bytes`` the very file, ``content`` a file with equal pixels and metadata whose compressed bytes
    may differ. The last ``differences`` (a key of the recipe, absent for 0) bytes of ``surround`` tell of
    compressed bytes alone; ``lighter`` gives the same file without them and of ``content`` fidelity.
    """

    format: str
    fidelity: Literal["bytes", "content"]
    images: tuple[Image, ...]
    surround: bytes
    recipe: dict[str, Json]
    volatile: frozenset[str] = field(
        default=frozenset(), repr=False
    )  # recipe keys that describe compression alone
    lighter: Callable[[], Parsed | None] | None = field(default=None, repr=False, compare=False)

    @property
    def essential(self) -> memoryview:
        """The surround without what tells of compressed bytes alone."""
        return memoryview(self.surround)[: len(self.surround) - int(self.recipe.get("differences", 0))]


@dataclass(frozen=True)
class Context:
    """What lies beside a file and tells how to read it: a chunk of a zarr array does not describe itself, nor do samples
    whose header is a file of its own.

    All that is needed to put the file together again goes into the recipe; the context serves ``parse`` alone.
    """

    name: str  # of the document: ``.zarray``, ``zarr.json``, or that of a header
    document: bytes
    key: str  # path of the file below the document's folder
    format: Literal["zarr", "raw"] = "zarr"  # what the file is by it: ``raw`` where it is samples alone


_STREAM = (struct.error, zlib.error)
#: What parsers raise of broken files besides SourceError, NotTaken and MemoryError.
BROKEN = (ValueError, LookupError, TypeError, RecursionError, ArithmeticError, *_STREAM)
_MODULES = {
    "npy": "callic_archive.images.npy",
    "pnm": "callic_archive.images.pnm",
    "bmp": "callic_archive.images.bmp",
    "png": "callic_archive.images.png",
    "tiff": "callic_archive.images.tiff",
    "dicom": "callic_archive.images.dicom",
    "nifti": "callic_archive.images.nifti",
    "mgh": "callic_archive.images.mgh",
    "nrrd": "callic_archive.images.nrrd",
    "metaimage": "callic_archive.images.metaimage",
    "gzip": "callic_archive.images.gzip_file",
    "zip": "callic_archive.images.zip_file",
    "tar": "callic_archive.images.tar_file",
    "hdf5": "callic_archive.images.hdf5",
    "jp2": "callic_archive.images.coded_file",
    "jls": "callic_archive.images.coded_file",
    "ljpeg": "callic_archive.images.coded_file",
    "zarr": "callic_archive.images.zarr_chunk",
    "raw": "callic_archive.images.raw_file",
}
_SEARCH = "callic_archive.images.raster_search"
# A ZIP may be a zarr store, which comes back by the recipe of its chunks, or hold image files.
_PARSERS: dict[str, tuple[str, ...]] = {kind: (module,) for kind, module in _MODULES.items()}
_PARSERS["zip"] = ("callic_archive.images.zarr_zip", _MODULES["zip"])
_WRAPPERS = ("gzip", "zip", "tar")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_FRAMES = {0xF7: "jls", 0xC3: "ljpeg"}  # markers of frames
_FIRST_ELEMENT = 1024  # bytes of the first element of a bare DICOM data set, at most
HEAD = 544  # first bytes of a file that ``sniff`` looks at
MEMBER_HEAD = 512 << 10  # first bytes of a file inside another that tell whether it is taken apart


def sniff(data: memoryview | bytes) -> str | None:
    """The format family that the first bytes of a file claim, or None.

    DICOM without its preamble counts as a claim.
    """
    head = bytes(data[:16])
    if head.startswith(_HDF5) or bytes(data[512:520]) == _HDF5:
        return "hdf5"  # MATLAB writes 512 bytes of its own before it
    if bytes(data[128:132]) == b"DICM":
        return "dicom"  # first, because the preamble before it may be the header of a TIFF
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head[:3] == b"P7\n":
        return "pnm"
    if head[:2] in (b"P4", b"P5", b"P6") and head[2:3] in (b" ", b"\t", b"\r", b"\n", b"#"):
        return "pnm"
    if _looks_like_bare_dicom(head):
        return "dicom"
    if head[:2] == b"BM" and len(head) == 16:
        return "bmp"
    if head[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if head[:4] == b"PK\3\4":
        return "zip"
    if bytes(data[257:262]) == b"ustar":
        return "tar"
    if head[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or head[:4] == b"\xff\x4f\xff\x51":
        return "jp2"
    if head[:3] == b"\xff\xd8\xff":
        return _lossless_jpeg(bytes(data[:HEAD]))
    if head[:7] == b"NRRD000":
        return "nrrd"
    if head[:10] == b"ObjectType" or head[:5] == b"NDims":
        return "metaimage"
    if _looks_like_nifti(data):
        return "nifti"
    if _looks_like_mgh(data):
        return "mgh"
    return None


def _lossless_jpeg(head: bytes) -> str | None:
    """JPEG-LS and lossless JPEG, by the frame header; None of other JPEG files."""
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _FRAMES:
            return _FRAMES[marker]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _looks_like_nifti(data: memoryview | bytes) -> bool:
    size = bytes(data[:4])
    if size in (b"\x5c\1\0\0", b"\0\0\1\x5c"):
        return bytes(data[344:348]) == b"n+1\0"
    return size in (b"\x1c\2\0\0", b"\0\0\2\x1c") and bytes(data[4:8]) == b"n+2\0"


def _looks_like_mgh(data: memoryview | bytes) -> bool:
    # There is no magic number, so all that is known of the header must fit: version, sizes, type, whether it has axes.
    head = bytes(data[:30])
    if len(head) < 30 or head[:4] != b"\0\0\0\1":
        return False
    *sizes, kind, _, axes = struct.unpack_from(">6ih", head, 4)
    return min(sizes) > 0 and 0 <= kind <= 10 and axes in (0, 1)


def _looks_like_bare_dicom(head: bytes) -> bool:
    # A data set without preamble starts with group 0002 or 0008, in either byte order, and a low element number; its first
    # element names its type, or else (never in the other byte order) is short.
    if len(head) < 8:
        return False
    typed = head[4:6].isalpha() and head[4:6].isupper()
    if head[1] == 0 and head[0] in (2, 8):
        return head[3] == 0 and head[2] <= 0x18 and (typed or int.from_bytes(head[4:8], "little") <= _FIRST_ELEMENT)
    return head[0] == 0 and head[1] in (2, 8) and head[2] == 0 and head[3] <= 0x18 and typed


def parse(
    data: memoryview | bytes, name: str = "", limits: Limits | None = None, context: Context | None = None
) -> Parsed | None:
    """Take a file apart; None where it is kept as it is (``examine`` tells why).

    ``data`` is the whole file, usually a view of a memory map; images may be views of it. ``name`` serves
    messages only. With a ``context`` the file is what that says, whatever its first bytes look like; but a header beside it
    counts only where the file is as that says.
    Raises a SourceError subclass when the file claims a supported format but is truncated, lies or asks for
    too much.
    """
    found = examine(data, name, limits, context)
    return found if isinstance(found, Parsed) else None


def examine(
    data: memoryview | bytes, name: str = "", limits: Limits | None = None, context: Context | None = None
) -> Parsed | NotTaken | None:
    """As ``parse``, with the reason why a file is kept as it is; None of what claims to be no image at all."""
    if context is not None and context.format == "raw":
        found = _examined(data, name, limits, context)
        return found if isinstance(found, Parsed) else _examined(data, name, limits, None) or found
    return _examined(data, name, limits, context)


def _examined(
    data: memoryview | bytes, name: str, limits: Limits | None, context: Context | None
) -> Parsed | NotTaken | None:
    view = memoryview(data).cast("B")
    kind = context.format if context is not None else sniff(view)
    if kind not in _PARSERS:
        return None
    arguments = (limits or Limits(),) if context is None else (context, limits or Limits())
    first: NotTaken | None = None
    for module in _PARSERS[kind]:
        step: Callable[[], Parsed | None] = partial(import_module(module).parse, view, *arguments)
        try:
            found = guarded(step, name or kind, name)
        except NotTaken as reason:
            first = first or reason
            continue
        if found is not None:
            return found
    return first


def parse_again(
    data: memoryview | bytes, format: str, recipe: Mapping[str, Json], limits: Limits | None = None
) -> Parsed | None:
    """Take a file apart that ``rebuild`` wrote from ``recipe``, to compare it with what it was written from.

    What else ``parse`` needs a context for is known from the recipe. Raises a SourceError subclass.
    """
    view = memoryview(data).cast("B")
    if format not in ("zarr", "raw"):
        return parse(view, "", limits)
    module = import_module(_MODULES[format])
    try:
        return guarded(
            lambda: cast("Parsed | None", module.parse_again(view, recipe, limits or Limits())), format, ""
        )
    except NotTaken:
        return None


def guarded(step: Callable[[], T], what: str, name: str) -> T:
    """What ``step`` gives; whatever a broken file makes it raise is a SourceError. Raises NotTaken too."""
    try:
        return step()
    except SourceError as error:
        if name:
            raise type(error)(f"{name}: {error}") from error
        raise
    except BROKEN as error:
        # A broken file that slipped past a check is still a broken file, never a crash of the run.
        raise MalformedSource(f"{what}: {type(error).__name__}: {error}") from error


def is_member(head: memoryview | bytes) -> bool:
    """Whether a file inside another, of which ``head`` has the first ``MEMBER_HEAD`` bytes, may be taken apart there.

    Arrays of what no codec takes are told by their headers, before they are inflated for nothing.
    """
    kind = sniff(head)
    if kind is None:
        return cast("bool", import_module(_SEARCH).shows(memoryview(head)))
    if kind not in ("nifti", "mgh", "npy"):
        return kind not in _WRAPPERS
    try:
        return import_module(_MODULES[kind]).parse(memoryview(head), Limits()) is not None
    except NotTaken:
        return False
    except (SourceError, ValueError, LookupError, TypeError, RecursionError, ArithmeticError, struct.error):
        return True  # most likely because it is no more than the head


def parse_member(data: memoryview, limits: Limits) -> Parsed:
    """Like ``parse``, of a file inside another of which all bytes must come back.

    Raises NotTaken, also for wrappers in wrappers, and SourceError subclasses.
    """
    kind = sniff(data)
    if kind is None:
        return cast("Parsed", import_module(_SEARCH).parse_unknown(data, limits))
    if kind in _WRAPPERS:
        raise NotTaken("members")
    parsed = cast("Parsed | None", import_module(_MODULES[kind]).parse(data, limits))
    if parsed is None or "members" in parsed.recipe or not parsed.images:
        raise NotTaken("members")
    if parsed.fidelity != "bytes":
        raise NotTaken("encoder")
    return parsed


def rebuild_member(
    format: str, recipe: Mapping[str, Json], surround: bytes, images: Sequence[Image], out: BinaryIO
) -> None:
    """Like ``rebuild``, of a file inside another: such have no members of their own. Raises RebuildMismatch."""
    if format in _WRAPPERS or "members" in recipe:
        raise RebuildMismatch("the recipe has members within members")
    rebuild(format, recipe, surround, images, out)


def rebuild(
    format: str, recipe: Mapping[str, Json], surround: bytes, images: Sequence[Image], out: BinaryIO
) -> None:
    """Write the file that ``parse`` took apart to ``out``.

    Raises RebuildMismatch when the parts do not fit together.
    """
    if format not in _MODULES:
        raise RebuildMismatch(f"no image format is called {format!r}")
    module = import_module(_MODULES[format])
    try:
        module.rebuild(recipe, surround, images, out)
    except (
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        AttributeError,
        RuntimeError,
        *_STREAM,
    ) as error:
        raise RebuildMismatch(
            f"{format}: the recipe cannot be followed: {type(error).__name__}: {error}"
        ) from error


def images_equal(a: Parsed, b: Parsed) -> bool:
    """Content equality: format, pixels, shapes, dtypes and all metadata; only compressed bytes may differ."""
    if a.format != b.format or len(a.images) != len(b.images) or a.essential != b.essential:
        return False
    volatile = a.volatile | b.volatile
    if {k: v for k, v in a.recipe.items() if k not in volatile} != {
        k: v for k, v in b.recipe.items() if k not in volatile
    }:
        return False
    return all(
        x.dtype == y.dtype and x.shape == y.shape and np.array_equal(x, y)
        for x, y in zip(a.images, b.images, strict=True)
    )
