"""Which coding an image gets: the learned one, JPEG XL, WebP, areas of one value, filtered Zstandard, images of fewer bits, or
the coefficients of a JPEG stream that it was decoded from.

The learned model was trained on what sensors record, and there it wins: JPEG XL takes its place only where a quick look says
that it may be smaller. What a program drew (screenshots, masks, labels, diagrams) shows itself in a look at a few blocks:
most samples follow exactly from their neighbours, or there are few colours. Then all conventional coders are tried, the cheap
efforts first, and large images are coded by the model only where a sample says that it may win.

The thresholds were chosen on training images, screenshots and images made by code; see the page on benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from callic_archive.archive import filtered, image_coding, wide
from callic_archive.archive.codecs import Codec, Image, StreamInfo
from callic_archive.archive.dct import coding as dct
from callic_archive.archive.dct.recovery import recovered, seems_decoded
from callic_archive.archive.digests import same_image
from callic_archive.archive.parts import Coding
from callic_archive.archive.segments import decode_segments, encode_segments
from callic_archive.errors import ForeignCodecFailed, ForeignCodecMissing, UnknownModel

BLOCKS, SIDE = 12, 96  # of the look
DRAWN_EXACT = (
    0.65  # share of pixels that a plane through three neighbours hits, from which an image looks drawn
)
DRAWN_NEAR = 0.95  # or misses by one at most, as in computed gradients,
DRAWN_COLOURS, DRAWN_GRAYS = 256, 64  # and colours in the blocks, up to which it does
TINY = 16 << 10  # bytes of samples up to which everything is tried
SIMPLE = 1 << 20  # bytes of samples up to which filtered Zstandard is tried, and beyond for images that repeat themselves
PROBED_FROM = 4 * BLOCKS * SIDE * SIDE  # pixels from which the model is tried on a sample first
HOPELESS = 1.3  # times JPEG XL's size of the sample, from which the model does not see the whole image
CLOSE = 2.0  # times the model's size, up to which JPEG XL at effort 7 is followed by effort 9
MOST = 512 << 20  # bytes of samples that are given to a library
BLANK = 16 << 10  # bytes of samples that filtered Zstandard codes in one, beyond a thousand of them: nothing is worth a search
FAR = 0.75  # of what a quick search for repeats makes of near ones, that must be left with far ones too,
REPEATS = 1.25  # and times the size of another coding, up to which a thorough search is worth its time
LEAST = 200  # bytes of filtered Zstandard, up to which an image is not split
CLEAR = 0.85  # of filtered Zstandard's size, up to which an image by its parts is not compared with JPEG XL of its floats
NEAR = 1.045  # times the size by a model, up to which JPEG XL at effort 7 is followed by 9, which takes up to 9 % less
NOISY = 0.9  # of its bytes, from which the low part of an image is noise to any coding
FAR_ABOVE = 1.5  # times the size by areas, from which of JPEG XL at effort 7 nothing more is tried
MUCH_LESS = 0.6  # times JPEG XL at effort 3, up to which coefficients are the smallest
FEW_WRONG = 0.25  # of the pixels of an image by coefficients, at most
OWN = 24  # bytes by which a foreign coding must beat filtered Zstandard: that needs no further library


@dataclass(frozen=True)
class Coded:
    """An image as bytes. ``proven``: they were decoded and compared already."""

    payload: bytes
    coding: Coding
    stream: StreamInfo
    proven: bool


@dataclass(frozen=True)
class Look:
    """What a few blocks of an image show."""

    exact: float  # share of pixels equal to left + above - above left, in every channel
    near: float  # share of pixels that differ from it by one at most
    colours: int

    def drawn(self, channels: int) -> bool:
        """Whether a program drew the image, rather than a sensor recorded it."""
        few = self.colours <= (DRAWN_GRAYS if channels == 1 else DRAWN_COLOURS)
        return few or self.exact >= DRAWN_EXACT or self.near >= DRAWN_NEAR


class Coder(Protocol):
    """How an image becomes bytes; lets ``pack_one`` be tested with any."""

    def __call__(self, image: Image, codec: Codec) -> Coded:
        """The smallest coding found."""
        ...


def look_at(image: Image) -> Look:
    """Look at up to BLOCKS blocks spread over the image (H, W) or (H, W, C)."""
    hits = close = seen = 0
    colours: set[bytes] = set()
    for block in _blocks(image):
        x = block.astype(np.int32)
        off = np.abs(x[1:, :-1] + x[:-1, 1:] - x[:-1, :-1] - x[1:, 1:]).max(axis=2)
        hits += int(np.count_nonzero(off == 0))
        close += int(np.count_nonzero(off <= 1))
        seen += off.size
        pixels = np.ascontiguousarray(block).reshape(-1, block.shape[2])
        keys = pixels.view(np.dtype((np.void, pixels.shape[1] * pixels.itemsize))).ravel()
        colours.update(key.tobytes() for key in np.unique(keys))
    return Look(hits / max(1, seen), close / max(1, seen), len(colours))


def _blocks(image: Image) -> list[NDArray[np.generic]]:
    planes = image if image.ndim == 3 else image[:, :, None]
    height, width = planes.shape[:2]
    if height * width <= BLOCKS * SIDE * SIDE:
        return [planes]
    blocks = []
    for index in range(BLOCKS):  # a low-discrepancy walk, as the encoder's own
        top = int((0.5 + index * 0.7548776662) % 1.0 * max(1, height - SIDE))
        left = int((0.5 + index * 0.5698402910) % 1.0 * max(1, width - SIDE))
        blocks.append(planes[top : top + SIDE, left : left + SIDE])
    return blocks


def smallest(image: Image, codec: Codec) -> Coded:
    """The smallest coding of an image that is worth its search. Raises what the learned codec raises."""
    return _coded(image, codec, look=True)


def preferring_models(image: Image, codec: Codec) -> Coded:
    """The same, but what a sensor recorded goes to its model whatever JPEG XL makes of it. Raises as ``smallest``."""
    return _coded(image, codec, look=False)


def _coded(image: Image, codec: Codec, *, look: bool) -> Coded:
    narrow = image_coding.narrowed(image)
    if narrow is not None:
        coded = _coded(narrow[0], codec, look=look)
        stream = coded.stream
        told = StreamInfo(
            stream.shape, image.dtype.name, stream.coder, stream.models, stream.adapters,
            stream.adapter_bytes, stream.dtype, narrow[1],
        )  # fmt: skip
        return Coded(coded.payload, coded.coding, told, coded.proven)
    if image.itemsize > 2:
        return _wide(image, codec, look=look)
    seen = look_at(image)
    tiny = image.nbytes <= TINY
    if seen.colours == 1 and image.nbytes > SIMPLE:
        blank = _own(image)
        if _size(blank) <= 1000 + image.nbytes // BLANK:
            return blank
    by_coefficients = _by_coefficients(image) if look and not tiny else None
    if by_coefficients is not None:
        quick = _foreign(image, "jpegxl", 3)
        if quick is None or _size(by_coefficients) <= MUCH_LESS * _size(quick):
            return by_coefficients
        return min((by_coefficients, _usual(image, codec, seen, tiny=tiny, look=look)), key=_size)
    return _usual(image, codec, seen, tiny=tiny, look=look)


def _usual(image: Image, codec: Codec, seen: Look, *, tiny: bool, look: bool) -> Coded:
    """The smallest coding of an image of up to 16 bits whose coefficients are not known."""
    channels = image.shape[2] if image.ndim == 3 else 1
    if not tiny and (image.nbytes > MOST or not seen.drawn(channels)):
        found = _if_modelled(image, codec)
        if found is None:
            return _conventional(image, codec)
        return _or_own(image, _or_jpegxl(image, found) if look else found)
    return _conventional(image, codec, tiny=tiny, drawn=True)


def _wide(image: Image, codec: Codec, *, look: bool) -> Coded:
    """The smallest coding of an image of more than 16 bits a sample: by images of fewer bits, filtered Zstandard, or, where
    that does not clearly win, JPEG XL if it holds floats.
    """
    own = _own(image)
    if _size(own) <= LEAST:
        return own
    found = [own, *(_by_parts(image, split, codec, _size(own), look=look) for split in wide.splits(image))]
    best = min((coded for coded in found if coded is not None), key=_size)
    if image.itemsize == 4 and image.nbytes <= MOST and _size(best) > CLEAR * _size(own):
        best = min((coded for coded in (best, *_efforts(image, _size(best))) if coded is not None), key=_size)
    return best


def _by_parts(image: Image, split: wide.Split, codec: Codec, other: int, *, look: bool) -> Coded | None:
    """The image by those that it was split into; None where that takes more than ``other`` bytes, or does not come back."""
    table = None if split.table is None else _own(split.table)
    low = None if split.low is None else _own(split.low)
    if sum(_size(coded) for coded in (table, low) if coded is not None) >= other:
        return None
    if low is not None and split.low is not None and split.low.itemsize <= 2 and _size(low) < NOISY * split.low.nbytes:
        low = min(low, _foreign(split.low, "jpegxl", 7) or low, key=_size)
    high = _coded(split.high, codec, look=look)
    coded = [part for part in (table, high, low) if part is not None]
    payload = wide.form(split, [(part.coding, part.payload) for part in coded])
    seen = high.stream
    stream = StreamInfo(
        tuple(int(n) for n in image.shape), image.dtype.name, seen.coder, seen.models, seen.adapters, seen.adapter_bytes
    )
    return Coded(payload, "wide", stream, False)


def for_models(images: Sequence[Image]) -> list[Image]:
    """What of images the learned codec is given: nothing of those that were decoded from JPEG streams."""
    return [seen_by_models(image) for image in images if not seems_decoded(image)]


def seen_by_models(image: Image) -> Image:
    """What of an image the learned codec is given: the image, one of its values in fewer bits, or its high part."""
    if image.itemsize <= 2:
        return image
    narrow = image_coding.narrowed(image)
    if narrow is not None:
        return narrow[0]
    return wide.splits(image)[0].high


def recorded(image: Image) -> bool:
    """Whether ``smallest`` leaves an image to the model alone, as a sensor recorded it."""
    if image.itemsize > 2 or not TINY < image.nbytes <= MOST or seems_decoded(image):
        return False
    return not look_at(image).drawn(image.shape[2] if image.ndim == 3 else 1)


def _conventional(image: Image, codec: Codec, *, tiny: bool = False, drawn: bool = False) -> Coded:
    """The smallest of all codings, of which those that cannot be are left out."""
    areas = _areas(image) if drawn else None
    quick = _foreign(image, "jpegxl", 7)
    if quick is None:  # not installed, or it failed: the others have to do
        found = [areas, _if_modelled(image, codec), _own(image)]
        return min((coded for coded in found if coded is not None), key=_size)
    if areas is not None and _size(quick) > FAR_ABOVE * _size(areas):
        return _or_own(image, areas, always=image.nbytes <= SIMPLE)
    found = [areas, quick]
    model = _if_modelled(image, codec) if tiny or _may_win(image, codec) else None
    found.append(model)
    repeats = False
    if model is None or tiny or _size(quick) <= CLOSE * _size(model):
        effort = image_coding.thorough(image, _size(quick))
        repeats = effort < 9
        found.append(_foreign(image, "jpegxl", effort))
        if (
            image.dtype == np.uint8
            and image.ndim == 3
            and image.shape[2] in (3, 4)
            and max(image.shape) < 16384
        ):
            found.append(_foreign(image, "webp", 6))
    best = min((coded for coded in found if coded is not None), key=_size)
    return _or_own(image, best, always=repeats or image.nbytes <= SIMPLE)


def _or_own(image: Image, best: Coded, *, always: bool = False) -> Coded:
    """The best coding, or filtered Zstandard where that is no larger. Nothing else finds what comes again far away, as slices
    do of a volume that hardly changes; where nothing does, a quick search shows it at a hundredth of the time of a model."""
    if always or _repeats_far(image, _size(best)):
        own = _own(image)
        foreign = best.coding in ("jpegxl", "webp")
        if _size(own) < _size(best) or (foreign and _size(own) <= _size(best) + OWN):
            return own
    return best


def _or_jpegxl(image: Image, found: Coded) -> Coded:
    """The learned coding, or JPEG XL where that is smaller: instruments that nobody thought of record what no model has seen,
    and so do programs that have been at an image (demosaicing, JPEG). Effort 7 tells where that may be, of large images
    on the blocks of the look.
    """
    if image.nbytes > MOST or _jpegxl_of_sample(image) > NEAR * _size(found):
        return found
    return min((coded for coded in (found, *_efforts(image, _size(found))) if coded is not None), key=_size)


def _jpegxl_of_sample(image: Image) -> float:
    """Bytes that effort 7 takes of the image, about; endless where it cannot be asked."""
    if image.shape[0] * image.shape[1] < PROBED_FROM:
        return _or_endless(_foreign(image, "jpegxl", 7))
    sample = np.concatenate(_blocks(image), axis=0)
    sample = sample[:, :, 0] if image.ndim == 2 else sample
    quick, more, whole = (
        _or_endless(_foreign(part, "jpegxl", effort)) for part, effort in ((sample, 3), (sample, 7), (image, 3))
    )
    return whole * more / quick if more < math.inf else math.inf


def _or_endless(coded: Coded | None) -> float:
    return math.inf if coded is None else _size(coded)


def _efforts(image: Image, other: int) -> list[Coded | None]:
    """JPEG XL at effort 7, and, where that comes near ``other`` bytes, at 9."""
    usual = _foreign(image, "jpegxl", 7)
    if usual is None or _size(usual) > NEAR * other:
        return [usual]
    return [usual, _foreign(image, "jpegxl", image_coding.thorough(image, _size(usual)))]


def _repeats_far(image: Image, size: int) -> bool:
    far = filtered.repeats_coded(image)
    return far <= REPEATS * size and far <= FAR * filtered.repeats_coded(image, near=True)


def _may_win(image: Image, codec: Codec) -> bool:
    """Whether the model deserves to see the whole image: tried on the blocks of the look, where that is cheaper."""
    if image.shape[0] * image.shape[1] < PROBED_FROM:
        return True
    sample = np.concatenate(_blocks(image)[::3], axis=0)
    sample = sample[:, :, 0] if image.ndim == 2 else sample
    quick = _foreign(sample, "jpegxl", 7)
    try:
        return quick is None or len(codec.encode(sample)) <= HOPELESS * _size(quick)
    except UnknownModel:
        return False


def _size(coded: Coded) -> int:
    return len(coded.payload)


def learned(image: Image, codec: Codec) -> Coded:
    """The learned coding, whatever the image shows."""
    payload = codec.encode(image)
    return Coded(payload, "codestream", codec.inspect(payload), False)


def _if_modelled(image: Image, codec: Codec) -> Coded | None:
    """The learned coding, or None where its model was declined, as it would save less than it takes."""
    try:
        return learned(image, codec)
    except UnknownModel:
        return None


def _own(image: Image) -> Coded:
    payload = filtered.encode_samples(image)
    back = filtered.decode_samples(payload, image.shape, image.dtype.name)
    if not same_image(image, back):
        raise AssertionError("filtered samples did not come back")
    return Coded(payload, "samples", _info(image, image_coding.SAMPLES), True)


def _by_coefficients(image: Image) -> Coded | None:
    """By the coefficients of the JPEG stream that it was decoded from; None where there seems to be none."""
    found = recovered(image)
    if found is None:
        return None
    rest = dct.differences_of(image, found.image)
    if rest is None:
        payload, coder = dct.payload_of(found.stream, found.form), image_coding.DCT
    elif _share_wrong(found.form.decoded_of(rest)) > FEW_WRONG:
        return None
    else:
        kinds = [_own(rest), _areas(rest), _foreign(rest, "jpegxl", 7)]
        best = min((coded for coded in kinds if coded is not None), key=_size)
        payload = dct.payload_of(found.stream, found.form, best.coding, best.payload)
        coder = f"{image_coding.DCT} {best.coding}"
    stream = _info(image, coder)
    if not same_image(image, image_coding.decode_image(payload, "dct", stream, None)):
        return None
    return Coded(payload, "dct", stream, True)


def _share_wrong(rest: Image) -> float:
    """Of the pixels of differences."""
    return float(np.mean(rest.any(axis=2) if rest.ndim == 3 else rest != 0))


def _areas(image: Image) -> Coded | None:
    """By areas of one value each; None of an image of many values."""
    payload = encode_segments(image) if image.nbytes <= MOST else None
    if payload is None or not same_image(image, decode_segments(payload, image.shape, image.dtype.name)):
        return None
    return Coded(payload, "segments", _info(image, image_coding.SEGMENTS), True)


def _foreign(image: Image, coding: str, effort: int) -> Coded | None:
    """Through a library; None where it is not installed, refuses, or does not give back what it got."""
    try:
        payload = image_coding.encode_foreign(image, coding, effort)
        back = image_coding.decode_foreign(payload, coding, image.shape, image.dtype.name)
        name = image_coding.library(coding)
    except (ForeignCodecMissing, ForeignCodecFailed):
        return None
    if not same_image(image, back):
        return None
    return Coded(payload, cast("Coding", coding), _info(image, name), True)


def _info(image: Image, coder: str) -> StreamInfo:
    return StreamInfo(tuple(int(n) for n in image.shape), image.dtype.name, coder, (), ())
