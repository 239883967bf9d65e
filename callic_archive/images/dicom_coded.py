"""DICOM with encapsulated pixels whose codes can be made again: RLE, lossless JPEG, JPEG-LS and JPEG 2000.

The bytes that code pixels are cut out of the fragments, and all else stays: items, offset tables, the headers of frames,
padding. Each code that is cut out was made from the pixels once before; what differs in a bit stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import MalformedSource, RebuildMismatch
from callic_archive.images import dicom_rle, jpeg2000, jpeg_lossless, jpeg_ls
from callic_archive.images.dicom_items import Span, frames, items, part
from callic_archive.images.layout import Image, runs_of, unrun
from callic_archive.images.reasons import NotTaken
from callic_archive.images.source import Limits, Parsed
from callic_archive.images.stacks import stacks

RLE = "1.2.840.10008.1.2.5"
JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")  # the second may be without loss, too
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
SYNTAXES = (RLE, *JPEG, *JPEG_LS, *JPEG_2000)
# samples' bytes to code bytes: RLE cannot pass 64, JPEG with a bit a sample 16; JPEG-LS has runs of whole rows
RATIO = 160
_DTYPES = ("uint8", "uint16", "int16", "uint32")
_MOST_ENCODERS = 1 << 16
_MOST_KEPT = 0.5  # share of the coded bytes; beyond it taking the file apart gains nothing
# ["rle", name], ["jpeg", precision, predictor, restart, pad, [table in hexadecimal, ..]],
# ["openjpeg", resolutions, colour transform, bits, signed], or ["charls", bits, near, interleave]
Encoder = list[Any]


@dataclass(frozen=True)
class Geometry:
    """The frames as they are after decoding."""

    count: int
    height: int
    width: int
    samples: int
    dtype: str  # "uint8", "uint16" or "int16"; of RLE "uint32" too

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame."""
        return (self.height, self.width) + ((self.samples,) if self.samples > 1 else ())

    @property
    def frame_bytes(self) -> int:
        """Bytes of the samples of a frame."""
        return self.height * self.width * self.samples * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Code:
    """Bytes that an encoder makes again from a frame, or from a plane of it, and where they lie; nowhere: they are kept."""

    encoder: Encoder
    spans: list[Span]
    heads: bytes = b""  # kept before the code, in its surroundings


_KEPT = Code([], [])


def parse(
    data: memoryview, start: int, syntax: str, geometry: Geometry, extended: bytes, limits: Limits
) -> Parsed:
    """The file with its encapsulated pixels (first item at ``start``) taken apart.

    Raises NotTaken where that cannot be done, and SourceError subclasses.
    """
    found = items(data, start, limits)
    if not found:
        raise MalformedSource("the encapsulated DICOM pixels have no offset table")
    total = geometry.frame_bytes * geometry.count
    ratio = limits.max_ratio if syntax in JPEG_LS else min(limits.max_ratio, RATIO)
    replace(limits, max_ratio=ratio).check_decoded(total, len(data))
    first = b"" if syntax == RLE else b"\xff\x4f\xff\x51" if syntax in JPEG_2000 else b"\xff\xd8\xff"
    fragments = frames(data, found, geometry.count, extended, first)
    if fragments is None:
        raise NotTaken("variant")
    images = [
        np.empty((n * geometry.height, *geometry.shape[1:]), geometry.dtype) for _, n in _stacks(geometry)
    ]
    codes: list[Code] = []
    for frame, spans in enumerate(fragments):
        code = memoryview(b"".join(data[o : o + n] for o, n in spans))
        target = _frame(images, geometry, frame)
        codes += TAKERS[syntax](code, spans, target, geometry)
    lost = sum(n for _, n in found[1:]) - sum(n for code in codes for _, n in code.spans)
    if lost > _MOST_KEPT * sum(n for _, n in found[1:]) + 64 * len(found):
        raise NotTaken("encoder")
    return joined("dicom", data, geometry, images, codes)


def _stacks(geometry: Geometry) -> list[tuple[int, int]]:
    return list(stacks(geometry.count, geometry.height, geometry.width))


def _frame(images: Sequence[Image], geometry: Geometry, frame: int) -> Image:
    """The view (H, W, C) of one frame, in whichever stack it lies. All stacks but the last have as many frames."""
    each = images[0].shape[0] // geometry.height
    image, row = images[frame // each], frame % each * geometry.height
    rows: Image = image[row : row + geometry.height]
    return rows.reshape(geometry.height, geometry.width, geometry.samples)


def _plane(frame: Image, k: int) -> NDArray[np.uint8]:
    """Byte plane ``k`` of a frame (H, W, C), flat: sample after sample, of each the high byte first."""
    size = frame.dtype.itemsize
    shift = 8 * (size - 1 - k % size)
    plane: NDArray[np.uint8] = (frame[..., k // size].view(f"u{size}") >> shift).astype(np.uint8).reshape(-1)
    return plane


def _rle(code: memoryview, spans: list[Span], frame: Image, geometry: Geometry) -> list[Code]:
    size = frame.dtype.itemsize
    codes: list[Code] = []
    frame[...] = 0
    for k, (begin, end) in enumerate(dicom_rle.segments(code, geometry.samples * size)):
        plane = np.empty(geometry.height * geometry.width, np.uint8)
        used, heads = dicom_rle.decode(code[begin:end], plane)
        shifted = plane.reshape(geometry.height, -1).astype(f"u{size}") << np.array(
            8 * (size - 1 - k % size), f"u{size}"
        )
        frame[..., k // size].view(f"u{size}")[...] |= shifted
        own = code[begin : begin + used]
        place = part(spans, begin, begin + used)
        for name in dicom_rle.ENCODERS:
            if dicom_rle.encode(plane, geometry.width, name, b"") == own:
                codes.append(Code(["rle", name], place))
                break
        else:
            codes.append(Code(["rle", dicom_rle.PACKETS], place, heads.tobytes()))
    return codes


def _jpeg(code: memoryview, spans: list[Span], frame: Image, geometry: Geometry) -> list[Code]:
    header = jpeg_lossless.read_header(bytes(code))
    if header is None:
        raise NotTaken("coding")
    size = frame.dtype.itemsize
    told = (header.height, header.width, len(header.scan.tables))
    if told != (geometry.height, geometry.width, geometry.samples) or (header.scan.precision > 8) != (
        size == 2
    ):
        raise MalformedSource("a JPEG frame has another size than the DICOM attributes tell")
    wide = np.empty(frame.shape, np.uint16)
    jpeg_lossless.decode(bytes(code), header, wide)
    frame[...] = wide.view(np.int16) if frame.dtype == np.int16 else wide
    own = code[header.begin : header.end]
    if size == 1 and (wide > 255).any():
        raise NotTaken("variant")
    scan = header.scan
    for pad in (1, 0):
        try:
            made = jpeg_lossless.encode(wide, scan, pad, len(own) + 2)
        except RebuildMismatch:
            continue  # the other filling may have made it longer than the source
        if own[: len(made)] == made:
            encoder = [
                "jpeg",
                scan.precision,
                scan.predictor,
                scan.restart,
                pad,
                [t.hex() for t in scan.tables],
            ]
            return [Code(encoder, part(spans, header.begin, header.begin + len(made)))]
    return [_KEPT]


def _jpeg_2000(code: memoryview, spans: list[Span], frame: Image, geometry: Geometry) -> list[Code]:
    header = jpeg2000.read_header(bytes(code))
    if header.shape != (geometry.height, geometry.width, geometry.samples):
        raise MalformedSource("a JPEG 2000 frame has another size than the DICOM attributes tell")
    image = jpeg2000.decode(bytes(code), header)
    if image is None or image.dtype.itemsize != frame.dtype.itemsize:
        raise NotTaken("variant")
    frame[...] = image.view(frame.dtype)
    try:
        made = jpeg2000.encode(image, header.choices)
    except RebuildMismatch:
        return [_KEPT]
    if not made or code[header.begin : header.begin + len(made)] != made:
        return [_KEPT]
    use = header.choices
    encoder = ["openjpeg", use.resolutions, int(use.mct), use.bits, int(use.signed)]
    return [Code(encoder, part(spans, header.begin, header.begin + len(made)))]


def _jpeg_ls(code: memoryview, spans: list[Span], frame: Image, geometry: Geometry) -> list[Code]:
    whole = bytes(code)
    header = jpeg_ls.read_header(whole)
    if header.shape != (geometry.height, geometry.width, geometry.samples):
        raise MalformedSource("a JPEG-LS frame has another size than the DICOM attributes tell")
    image = jpeg_ls.decode(whole, header)
    if image is None or image.itemsize > frame.dtype.itemsize:
        raise NotTaken("variant")
    frame[...] = image.astype(f"u{frame.dtype.itemsize}").view(frame.dtype)
    try:
        made = jpeg_ls.encode(image, header.choices)
    except RebuildMismatch:
        return [_KEPT]
    if whole[header.begin : header.begin + len(made)] != made:
        return [_KEPT]
    use = header.choices
    encoder = ["charls", use.bits, use.near, use.interleave]
    return [Code(encoder, part(spans, header.begin, header.begin + len(made)))]


_Taker = Callable[[memoryview, list[Span], Image, Geometry], list[Code]]
TAKERS: dict[str, _Taker] = {
    RLE: _rle, **dict.fromkeys(JPEG, _jpeg), **dict.fromkeys(JPEG_LS, _jpeg_ls),
    **dict.fromkeys(JPEG_2000, _jpeg_2000),
}  # fmt: skip


def joined(
    kind: str, data: memoryview, geometry: Geometry, images: Sequence[Image], codes: Sequence[Code]
) -> Parsed:
    """The ``Parsed`` of the file ``data`` of format ``kind``, without what ``codes`` make again from ``images``."""
    encoders: list[Encoder] = []
    numbers: dict[str, int] = {}
    chosen: list[int] = []
    surround: list[memoryview | bytes] = []
    at = 0
    for code in codes:
        if not code.spans:
            chosen.append(-1)
            continue
        chosen.append(numbers.setdefault(str(code.encoder), len(encoders)))
        if chosen[-1] == len(encoders):
            encoders.append(code.encoder)
        for i, (offset, length) in enumerate(code.spans):
            surround.append(data[at:offset])
            if i == 0:
                surround.append(code.heads)
            at = offset + length
    surround.append(data[at:])
    spans = [span for code in codes for span in code.spans]
    recipe: dict[str, Any] = {
        "frames": geometry.count, "height": geometry.height, "width": geometry.width,
        "samples": geometry.samples, "dtype": geometry.dtype,
        "stack": images[0].shape[0] // geometry.height,
        "codes": runs_of(chosen), "encoders": encoders,
        "heads": runs_of([len(code.heads) for code in codes]),
        "spans": runs_of([len(code.spans) for code in codes]),
        "offsets": runs_of([offset for offset, _ in spans]), "lengths": runs_of([length for _, length in spans]),
    }  # fmt: skip
    return Parsed(kind, "bytes", tuple(images), b"".join(surround), recipe)


def _geometry(recipe: Mapping[str, Any], images: Sequence[Image]) -> Geometry:
    """The frames that a recipe tells of, once the images are those. Raises RebuildMismatch."""
    numbers = [int(recipe[name]) for name in ("frames", "height", "width", "samples")]
    count, height, width, samples = numbers
    geometry, each = Geometry(count, height, width, samples, str(recipe["dtype"])), int(recipe["stack"])
    if min(*numbers, each) < 1 or geometry.samples > 4 or geometry.dtype not in _DTYPES:
        raise RebuildMismatch("the recipe names frames that cannot be")
    if len(images) != -(-geometry.count // each):
        raise RebuildMismatch(f"the recipe needs {-(-geometry.count // each)} images, got {len(images)}")
    for i, image in enumerate(images):
        rows = min(each, geometry.count - i * each) * geometry.height
        if image.shape != (rows, *geometry.shape[1:]) or image.dtype != geometry.dtype:
            raise RebuildMismatch("an image has another shape or type than the frames of the recipe")
    return geometry


def rebuild(recipe: Mapping[str, Any], surround: bytes, images: Sequence[Image], out: BinaryIO) -> None:
    """The inverse of ``parse``. Raises RebuildMismatch when recipe and parts do not fit together."""
    geometry = _geometry(recipe, images)
    encoders = recipe["encoders"]
    chosen = unrun(recipe["codes"])
    heads, spans = unrun(recipe["heads"], len(chosen)), unrun(recipe["spans"], len(chosen))
    offsets, lengths = unrun(recipe["offsets"]), unrun(recipe["lengths"])
    per_frame, rest = divmod(len(chosen), geometry.count)
    if rest or len(encoders) > _MOST_ENCODERS or not len(heads) == len(spans) == len(chosen):
        raise RebuildMismatch("the recipe names another number of codes than its frames have")
    if len(offsets) != len(lengths) or sum(spans) != len(offsets) or min((*lengths, *heads, *spans, 0)) < 0:
        raise RebuildMismatch("the recipe names another number of places than its codes need")
    if max(chosen, default=-1) >= len(encoders):
        raise RebuildMismatch("the recipe names an encoder that it does not describe")
    around = memoryview(surround)
    place = position = used = 0
    for k, number in enumerate(chosen):
        if number < 0 or not spans[k]:
            continue
        places = range(place, place + spans[k])
        own = b""
        code = memoryview(b"")
        for j in places:
            gap = offsets[j] - position
            need = gap + (heads[k] if j == place else 0)
            if gap < 0 or used + need > len(around):
                raise RebuildMismatch("the surrounding bytes are too short for the recipe")
            out.write(around[used : used + gap])
            if j == place:
                own = bytes(around[used + gap : used + need])
                size = sum(lengths[i] for i in places)
                frame = _frame(images, geometry, k // per_frame)
                code = memoryview(_coded(frame, k % per_frame, encoders[number], own, size))
                if len(code) != size:
                    raise RebuildMismatch(f"a code of {size} bytes came out with {len(code)}")
            out.write(code[: lengths[j]])
            code = code[lengths[j] :]
            used, position = used + need, offsets[j] + lengths[j]
        place += spans[k]
    out.write(around[used:])


def _coded(frame: Image, k: int, encoder: Encoder, heads: bytes, size: int) -> bytes:
    """Code ``k`` of a frame. Raises RebuildMismatch."""
    if encoder[0] == "rle":
        if k >= frame.shape[2] * frame.dtype.itemsize:
            raise RebuildMismatch("the recipe names more codes than a frame has planes")
        return dicom_rle.encode(_plane(frame, k), frame.shape[1], str(encoder[1]), heads)
    if encoder[0] == "openjpeg" and not k:
        use = jpeg2000.Choices(int(encoder[1]), bool(encoder[2]), int(encoder[3]), bool(encoder[4]))
        kind = f"{'i' if use.signed else 'u'}{frame.dtype.itemsize}"
        return jpeg2000.encode(np.ascontiguousarray(frame).view(kind), use)
    if encoder[0] == "charls" and not k:
        choices = jpeg_ls.Choices(int(encoder[1]), int(encoder[2]), int(encoder[3]))
        return jpeg_ls.encode(np.ascontiguousarray(frame).view(f"u{frame.dtype.itemsize}"), choices)
    if encoder[0] != "jpeg" or k:
        raise RebuildMismatch("the recipe names a code that there is not")
    tables = tuple(bytes.fromhex(table) for table in encoder[5])
    scan = jpeg_lossless.Scan(int(encoder[1]), int(encoder[2]), int(encoder[3]), tables)
    wide = frame.view(np.uint16) if frame.dtype == np.int16 else frame.astype(np.uint16)
    return jpeg_lossless.encode(
        np.ascontiguousarray(wide), scan, int(encoder[4]), min(size, 8 * wide.nbytes + 4096)
    )
