"""Files that are bands of one scene as one codestream: each file names it and the plane that is its own.

Nothing else of a file depends on the others: each is read, taken apart and proven as ever. Whoever does not belong,
because it changed, is broken, shows something else, or gains nothing, is packed by itself.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from callic_archive.archive.attempts import attempt
from callic_archive.archive.band_sets import MOST_BYTES
from callic_archive.archive.candidates import recorded
from callic_archive.archive.codecs import Codec, Image
from callic_archive.archive.content import WHOLE_BELOW, opened
from callic_archive.archive.digests import same_image, sha256
from callic_archive.archive.entries import Entry
from callic_archive.archive.image_coding import decode_image
from callic_archive.archive.likeness import alike
from callic_archive.archive.pack_one import Taken, take_apart, with_images
from callic_archive.archive.packed import Packed, PackOptions, Piece, cost_of
from callic_archive.archive.sampling import outline_if_large
from callic_archive.archive.scan import Source
from callic_archive.container.layout import RecordType
from callic_archive.errors import CallicError, ProofFailed, SourceError
from callic_archive.images.planes import DecodedPlanes


@dataclass(frozen=True)
class Member:
    """A file that was read and taken apart: its entry without content, its bytes and their SHA-256."""

    source: Source
    entry: Entry
    data: bytes | memoryview
    digest: str
    taken: Taken

    @property
    def images(self) -> Sequence[Image]:
        """Its images; the first is the band, further ones are overviews of it."""
        return self.taken.parsed.images


@dataclass(frozen=True)
class CodedBands:
    """Files of one set. Of their pieces, those of a codestream they share hold the same bytes, of ``payloads``."""

    files: tuple[tuple[Member, Packed], ...]
    payloads: tuple[bytes, ...]


def read_member(source: Source, options: PackOptions, copies: Path) -> Member | None:
    """A file as a member of a set, read in full; None where it has to be packed by itself, whatever the reason.

    ``copies``: a folder for the private copy of a large one. Raises EnvironmentFailure.
    """
    try:
        with opened(source.file) as file:
            if file.extents is not None:
                return None
            if file.size < WHOLE_BELOW:
                data: bytes | memoryview = file.read()
                digest = sha256(data)
            else:
                data, digest = file.private_copy(copies)
            if file.change() is not None or len(data) != file.size:
                return None
            entry = Entry(source.path, "file", stat.S_IMODE(file.info.st_mode), file.info.st_mtime_ns)
    except OSError:
        return None
    try:
        if outline_if_large(data, None, options.limits, options.piece_bytes) is not None:
            return None
    except SourceError:
        return None
    taken = attempt(lambda: take_apart(data, digest, options, None, None))
    if not isinstance(taken, Taken):
        return None
    images = taken.parsed.images
    if any(image.ndim != 2 for image in images) or not recorded(images[0]):
        return None
    return Member(source, entry, data, digest, taken)


def related(members: Sequence[Member]) -> list[list[Member]]:
    """Members that show the same detail in images of equal size and type: sets of two or more."""
    kinds: dict[tuple[object, ...], list[Member]] = defaultdict(list)
    for member in members:
        kinds[tuple((image.shape, image.dtype.name) for image in member.images)].append(member)
    result = []
    for some in kinds.values():
        result += [[some[number] for number in numbers] for numbers in alike([member.images[0] for member in some])]
    return result


def code_bands(members: Sequence[Member], codec: Codec, options: PackOptions) -> CodedBands | CallicError:
    """Code a set; files that gain nothing are not among those that come back. The failure where that fails."""
    return attempt(lambda: _coded(list(members), codec, options))


def _coded(members: list[Member], codec: Codec, options: PackOptions) -> CodedBands:
    while len(members) > 1:
        bands = _shared([member.images[0] for member in members], codec, options)
        members = [members[number] for number in bands.planes]
        shared = [replace(bands, planes=tuple(range(len(members))))]
        for number in range(1, len(members[0].images) if members else 0):
            shared.append(_shared([member.images[number] for member in members], codec, options))
        packed = [_packed(member, at, shared, codec, options) for at, member in enumerate(members)]
        kept = [(m, p) for m, p in zip(members, packed, strict=True) if p is not None]
        if len(kept) == len(members):
            return CodedBands(tuple(kept), tuple(one.payload for one in shared if one.payload))
        members = [member for member, _ in kept]  # the others are smaller as they are
    return CodedBands((), ())


@dataclass(frozen=True)
class _Shared:
    """A codestream, and the numbers of the members whose images are its planes, in order."""

    payload: bytes
    planes: tuple[int, ...]


def _shared(images: Sequence[Image], codec: Codec, options: PackOptions) -> _Shared:
    payload, planes = codec.encode_bands(images)
    known: DecodedPlanes | None = None
    for plane, number in enumerate(planes if options.verify else ()):
        known = codec.decode_plane(payload, plane, known)
        if not same_image(images[number], known.samples[:, :, plane]):
            raise ProofFailed(f"plane {plane} of {len(planes)} bands did not come back as it was")
    return _Shared(payload, planes)


def _packed(
    member: Member, at: int, shared: Sequence[_Shared], codec: Codec, options: PackOptions
) -> Packed | None:
    """Member number ``at`` of the set; None where it is smaller as it is."""
    streams: list[Piece] = []
    pixels = 0
    for number, (image, one) in enumerate(zip(member.images, shared, strict=True)):
        if at in one.planes:
            count = len(one.planes)
            info = codec.inspect(one.payload)
            if info.shape != (*image.shape, count):
                raise ProofFailed(f"a codestream of {count} bands has the shape {info.shape}")
            stream = replace(info, shape=tuple(image.shape), plane=(one.planes.index(at), count))
            streams.append(Piece(RecordType.CODESTREAM, one.payload, "codestream", image.nbytes, stream))
            pixels += -(-cost_of(len(one.payload)) // count)
            continue
        coded = options.coder(image, codec)
        piece = Piece(RecordType.CODESTREAM, coded.payload, coded.coding, image.nbytes, coded.stream)
        if options.verify and not coded.proven:
            back = decode_image(coded.payload, coded.coding, coded.stream, codec)
            if not same_image(image, back):
                raise ProofFailed(f"image {number} did not come back from its codestream as it was")
        streams.append(piece)
        pixels += cost_of(len(coded.payload))
    return with_images(member.data, member.digest, member.taken, streams, pixels, options)


def read_members(
    sources: Sequence[Source], options: PackOptions, copies: Path, stopping: Callable[[], bool]
) -> list[Member]:
    """The files that may be a set, as far as one may hold them in memory. Raises EnvironmentFailure."""
    members: list[Member] = []
    total = 0
    for source in sources:
        if stopping():
            break
        member = read_member(source, options, copies)
        size = sum(image.nbytes for image in member.images) if member is not None else 0
        if member is None or total + size > MOST_BYTES + MOST_BYTES // 2:  # overviews are a third more
            continue
        members.append(member)
        total += size
    return _trusted(members, options)


def _trusted(members: list[Member], options: PackOptions) -> list[Member]:
    """Members whose files are so large that readers believe them what they decode, which is the planes of all."""
    kept = sorted(members, key=lambda member: len(member.data))
    while kept:
        try:
            most = len(kept) * sum(image.nbytes for image in kept[0].images)
            options.limits.check_decoded(most, len(kept[0].data))
            break
        except SourceError:
            kept.pop(0)
    left = {id(member) for member in kept}
    return [member for member in members if id(member) in left]
