"""Images that are planes of one codestream: each is decoded once, however many files of the set are read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from callic_archive.archive.codecs import Box, Decoder, Image, StreamInfo
from callic_archive.archive.image_coding import DTYPES
from callic_archive.archive.parts import Part, Place
from callic_archive.errors import EntryDamaged
from callic_archive.images.planes import DecodedPlanes

KEPT = 512 << 20  # bytes of samples of decoded planes; two band sets of the largest size


class DecodedBands:
    """Decoded planes of the codestreams that were read last. Threads may share it: none waits for another."""

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Place, DecodedPlanes] = OrderedDict()

    def image(
        self, decoder: Decoder, read: Callable[[], bytes], part: Part, region: Box | None = None
    ) -> Image:
        """The image (H, W) of a part that is a plane, or its ``region``; ``read`` gives the whole codestream.

        Raises CallicError, ValueError.
        """
        stream = part.stream
        if stream is None or stream.plane is None:
            raise EntryDamaged("a part that is no plane of a codestream was to be decoded as one")
        number = stream.plane[0]
        known = self._known(part.place, number, take=region is None)
        if known is not None and number in known.done:
            _check(known.samples.shape, known.samples.dtype.name, stream)
        else:
            payload = read()
            info = decoder.inspect(payload)
            _check(info.shape, info.dtype, stream)
            if region is not None:
                part_of = decoder.decode_plane(payload, number, None, region)
                return np.array(part_of.samples[:, :, number], order="C")
            known = decoder.decode_plane(payload, number, known)
            self._keep(part.place, known)
        top, left, bottom, right = region or (0, 0, *stream.shape)
        return np.array(known.samples[top:bottom, left:right, number], order="C")

    def _known(self, place: Place, number: int, *, take: bool) -> DecodedPlanes | None:
        """Planes of a codestream, this one among them; or, to ``take``, others, which then nobody else adds to."""
        with self._lock:
            known = self._kept.get(place)
            if known is None or number in known.done:
                return known
            return self._kept.pop(place) if take else None

    def _keep(self, place: Place, known: DecodedPlanes) -> None:
        if known.samples.nbytes > self._most:
            return
        with self._lock:
            self._kept[place] = known
            self._kept.move_to_end(place)
            while sum(one.samples.nbytes for one in self._kept.values()) > self._most:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._kept.clear()


def _check(shape: tuple[int, ...], dtype: str, stream: StreamInfo) -> None:
    count = stream.plane[1] if stream.plane is not None else 0
    if (shape, dtype) != ((*stream.shape, count), stream.dtype) or dtype not in DTYPES:
        raise EntryDamaged("a codestream holds planes of another number, shape or type than the index says")
