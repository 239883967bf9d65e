"""Files that no library writes but the formats allow: fields in any order, blocks anywhere, any byte order and stride."""

from __future__ import annotations

import io
import random
import struct
import warnings
from dataclasses import dataclass

import numpy as np
import pydicom
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from callic_archive.images import parse
from tests.properties.effort import examples
from tests.properties.test_images_round_trip import written_again
from tests.properties.test_volumes_round_trip import nifti

FAST = examples(40)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)


def tiff_of(array: np.ndarray, order: str, big: bool, rows: int, rng: random.Random) -> bytes:
    """A TIFF with its tags, strips, tables and gaps in an order of chance, the directory before or behind them."""
    height, width = array.shape[:2]
    samples = array.shape[2] if array.ndim == 3 else 1
    stored = array.astype(array.dtype.newbyteorder(order))
    strips = [stored[y : y + rows].tobytes() for y in range(0, height, rows)]
    word, entry = ("Q", 20) if big else ("I", 12)
    head = 16 if big else 8
    kind = 16 if big else 4
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]), 257: (3, [height]), 258: (3, [8 * array.itemsize] * samples), 259: (3, [1]),
        262: (3, [2 if samples == 3 else 1]), 277: (3, [samples]), 278: (4, [rows]), 284: (3, [1]),
        339: (3, [2 if array.dtype.kind == "i" else 1] * samples), 273: (kind, [0] * len(strips)),
        279: (4, [len(s) for s in strips]), 305: (2, list(b"made by chance\0")), 65000: (4, [7, 8, 9]),
    }  # fmt: skip
    letters = {2: "B", 3: "H", 4: "I", 16: "Q"}
    size = (8 if big else 2) + entry * len(tags) + (8 if big else 4)
    pieces: list[tuple[object, bytes | int]] = [("ifd", size)] + [
        (("strip", n), strip) for n, strip in enumerate(strips)
    ]
    inline = struct.calcsize(word)
    pieces += [
        (("table", tag), len(values) * struct.calcsize(letters[form]))
        for tag, (form, values) in tags.items()
        if len(values) * struct.calcsize(letters[form]) > inline
    ]
    rng.shuffle(pieces)
    places, at = {}, head
    for name, content in pieces:
        at += rng.randrange(4) * 2  # gaps, at even places as the specification wants
        places[name] = at
        at += content if isinstance(content, int) else len(content)
        at += at % 2
    tags[273] = (kind, [places[("strip", n)] for n in range(len(strips))])
    out = bytearray(rng.randbytes(at + rng.randrange(5)))
    mark = b"II" if order == "<" else b"MM"
    begin = (
        struct.pack(order + "HHHQ", 43, 8, 0, places["ifd"])
        if big
        else struct.pack(order + "HI", 42, places["ifd"])
    )
    out[:head] = mark + begin
    rows_of_tags = sorted(tags) if rng.random() < 0.5 else rng.sample(sorted(tags), len(tags))
    directory = struct.pack(order + ("Q" if big else "H"), len(tags))
    for tag in rows_of_tags:
        form, values = tags[tag]
        packed = struct.pack(f"{order}{len(values)}{letters[form]}", *values)
        directory += struct.pack(f"{order}HH{word}", tag, form, len(values))
        if len(packed) > inline:
            out[places[("table", tag)] : places[("table", tag)] + len(packed)] = packed
            directory += struct.pack(order + word, places[("table", tag)])
        else:
            directory += packed.ljust(inline, b"\0")
    directory += struct.pack(order + word, 0)
    out[places["ifd"] : places["ifd"] + len(directory)] = directory
    for number, strip in enumerate(strips):
        out[places[("strip", number)] : places[("strip", number)] + len(strip)] = strip
    return bytes(out)


@FAST
@given(
    data=st.data(), shape=SHAPES, samples=st.sampled_from([(), (3,), (4,)]), order=st.sampled_from("<>"),
    dtype=st.sampled_from(["u1", "u2", "i2", "u4", "i4"]), big=st.booleans(), rows=st.integers(1, 30),
    seed=st.integers(0, 1 << 30),
)  # fmt: skip
def test_tiff_with_tags_and_strips_in_any_order(data, shape, samples, order, dtype, big, rows, seed):
    array = data.draw(hnp.arrays(np.dtype(dtype), shape + samples))
    source = tiff_of(array, order, big, rows, random.Random(seed))
    parsed = parse(source)
    assert parsed is not None
    assert parsed.fidelity == "bytes"
    assert written_again(parsed) == source
    expected = array.view("u4") if array.itemsize == 4 else array  # wide samples are bit patterns
    np.testing.assert_array_equal(parsed.images[0], expected)


@FAST
@given(
    data=st.data(), shape=hnp.array_shapes(min_dims=2, max_dims=4, max_side=9), order=st.sampled_from("<>"),
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]), turn=st.booleans(),
    step=st.integers(1, 3), back=st.booleans(), version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)  # fmt: skip
def test_npy_of_any_strides(data, shape, order, dtype, turn, step, back, version):
    array = data.draw(
        hnp.arrays(np.dtype(order + dtype), shape, elements={"allow_nan": False} if dtype[0] == "f" else None)
    )
    array = array[::-step] if back else array[::step]
    array = array.T if turn else array
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    parsed = parse(out.getvalue())
    if parsed is None:  # of what has no two axes that are longer than one
        return
    assert parsed.fidelity == "bytes"
    assert written_again(parsed) == out.getvalue()
    assert sum(image.nbytes for image in parsed.images) == array.nbytes


# -- TIFF: pages, directories beside them, types of fields --------------------------------------------------------

LETTERS = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}


@dataclass
class Directory:
    """One IFD: fields by tag, each (type, values); the strips of its image, if it has one; the next one in its chain."""

    fields: dict[int, tuple[int, list[int]]]
    strips: list[bytes]
    follower: int | None = None  # its place in the list of all
    links: tuple[tuple[int, int], ...] = ()  # (tag, place of a directory that it points to)


def page_of(array: np.ndarray, order: str, rng: random.Random, big: bool) -> Directory:
    """The directory of an image in strips, with types of fields as writers choose them."""
    height, width = array.shape[:2]
    samples = array.shape[2] if array.ndim == 3 else 1
    rows = rng.choice([1, 2, 3, height, 2 * height + 1])
    stored = array.astype(array.dtype.newbyteorder(order))
    strips = [stored[y : y + rows].tobytes() for y in range(0, height, rows)]
    whole = [3, 4, 16] if big else [3, 4]
    fields = {
        256: (rng.choice(whole), [width]), 257: (rng.choice(whole), [height]), 258: (3, [8 * array.itemsize] * samples),
        259: (3, [1]), 262: (3, [2 if samples == 3 else rng.randrange(2)]), 266: (3, [1]), 277: (3, [samples]),
        278: (rng.choice(whole), [rows]), 273: (rng.choice(whole), [0] * len(strips)),
        279: (rng.choice(whole), [len(strip) for strip in strips]), 65001: (7, list(rng.randbytes(rng.randrange(1, 30)))),
    }  # fmt: skip
    if samples == 4:
        fields[338] = (3, [0])
    for tag in (259, 266, 258 if array.itemsize == 1 and samples == 1 and rows == height else 259):
        if tag != 258 and rng.random() < 0.2:
            fields.pop(tag, None)  # what a reader knows without being told
    return Directory(fields, strips)


def tiff_from(directories: list[Directory], order: str, big: bool, rng: random.Random) -> bytes:
    """All of it in an order of chance, with gaps between and bytes behind; the first directory is the head's."""
    word, size_of_field, head = ("Q", 20, 16) if big else ("I", 12, 8)
    inline = struct.calcsize(word)
    pieces: list[tuple[tuple[int, str, int], int]] = []
    for number, one in enumerate(directories):
        for tag, place in one.links:
            one.fields[tag] = (16 if big else 4, [place])
        size = (8 if big else 2) + size_of_field * len(one.fields) + inline
        pieces.append(((number, "directory", 0), size))
        pieces += [((number, "strip", n), len(strip)) for n, strip in enumerate(one.strips)]
        for tag, (kind, values) in one.fields.items():
            taken = len(values) * struct.calcsize(LETTERS[kind])
            if taken > inline:
                pieces.append(((number, "table", tag), taken))
    rng.shuffle(pieces)
    places, at = {}, head
    for name, taken in pieces:
        at += rng.randrange(4) * 2
        places[name] = at
        at += taken + taken % 2
    out = bytearray(rng.randbytes(at + rng.choice((0, 1, 2, 77))))
    first = places[0, "directory", 0]
    mark = b"II" if order == "<" else b"MM"
    out[:head] = mark + (
        struct.pack(order + "HHHQ", 43, 8, 0, first) if big else struct.pack(order + "HI", 42, first)
    )
    for number, one in enumerate(directories):
        kind = one.fields[273][0] if 273 in one.fields else 0
        if kind:
            one.fields[273] = (kind, [places[number, "strip", n] for n in range(len(one.strips))])
        for tag, place in one.links:
            one.fields[tag] = (16 if big else 4, [places[place, "directory", 0]])
        text = struct.pack(order + ("Q" if big else "H"), len(one.fields))
        tags = sorted(one.fields) if rng.random() < 0.6 else rng.sample(sorted(one.fields), len(one.fields))
        for tag in tags:
            form, values = one.fields[tag]
            packed = struct.pack(f"{order}{len(values)}{LETTERS[form]}", *values)
            text += struct.pack(f"{order}HH{word}", tag, form, len(values))
            if len(packed) > inline:
                table = places[number, "table", tag]
                out[table : table + len(packed)] = packed
                text += struct.pack(order + word, table)
            else:
                text += packed.ljust(inline, b"\0")
        last = 0 if one.follower is None else places[one.follower, "directory", 0]
        text += struct.pack(order + word, last)
        begin = places[number, "directory", 0]
        out[begin : begin + len(text)] = text
        for n, strip in enumerate(one.strips):
            begin = places[number, "strip", n]
            out[begin : begin + len(strip)] = strip
    return bytes(out)


@FAST
@given(
    data=st.data(), pages=st.integers(1, 4), order=st.sampled_from("<>"), big=st.booleans(), seed=st.integers(0, 1 << 30),
    beside=st.sampled_from(["nothing", "private", "thumbnail"]),
)  # fmt: skip
def test_tiff_of_pages_and_directories_beside_them(data, pages, order, big, seed, beside):
    """Pages in any order of the file, and directories that only a field points to, with images or without."""
    rng = random.Random(seed)
    arrays = [
        data.draw(hnp.arrays(np.dtype(data.draw(st.sampled_from(["u1", "u2"]))), data.draw(SHAPES) + data.draw(
            st.sampled_from([(), (3,), (4,)])))) for _ in range(pages)
    ]  # fmt: skip
    directories = [page_of(array, order, rng, big) for array in arrays]
    for number, one in enumerate(directories[:-1]):
        one.follower = number + 1
    thumbnail = np.arange(12, dtype=np.uint8).reshape(3, 4)
    if beside == "private":
        exif = Directory({36864: (7, [48, 50, 51, 48]), 37500: (7, list(rng.randbytes(40)))}, [])
        directories.append(exif)
        directories[0].links = ((34665, len(directories) - 1),)
    elif beside == "thumbnail":
        directories.append(page_of(thumbnail, order, rng, big))
        directories[0].links = ((330, len(directories) - 1),)
    largest = max((v for d in directories for _, values in d.fields.values() for v in values), default=0)
    assert largest < 1 << 16  # so that short fields hold all of it
    source = tiff_from(directories, order, big, rng)
    parsed = parse(source)
    assert parsed is not None
    assert parsed.fidelity == "bytes"
    assert written_again(parsed) == source
    expected = [*arrays, thumbnail] if beside == "thumbnail" else arrays
    found = sorted(parsed.images, key=lambda image: image.tobytes())
    # pages of equal form become one image, so what counts are all samples
    assert sum(image.size for image in found) == sum(array.size for array in expected)
    every = b"".join(sorted(bytes([v]) for image in found for v in image.astype("<u2").tobytes()))
    assert every == b"".join(sorted(bytes([v]) for array in expected for v in array.astype("<u2").tobytes()))


# -- DICOM --------------------------------------------------------------------------------------------------------

SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
ODD_TEXT = st.text("aZ ^=0123", max_size=9)


def inner(depth: int, undefined: bool, private: bytes) -> Dataset:
    """A data set of a sequence, with sequences in it, of undefined length or not."""
    ds = Dataset()
    ds.PatientID = "7" * (depth % 3)
    ds.add_new(0x00091002, "UN", private)
    if depth:
        ds.ReferencedImageSequence = Sequence([inner(depth - 1, undefined, private) for _ in range(depth % 2 + 1)])
        ds["ReferencedImageSequence"].is_undefined_length = undefined
    ds.is_undefined_length_sequence_item = undefined
    return ds


@FAST
@given(
    data=st.data(), shape=SHAPES, frames=st.integers(1, 3), dtype=st.sampled_from(["u1", "u2", "i2"]),
    colour=st.booleans(), planar=st.integers(0, 1), bits=st.integers(1, 16), syntax=st.sampled_from(SYNTAXES),
    preamble=st.booleans(), words=st.booleans(), behind=st.booleans(), private=st.binary(max_size=20),
    depth=st.integers(0, 3), undefined=st.booleans(), text=ODD_TEXT,
)  # fmt: skip
def test_dicom(data, shape, frames, dtype, colour, planar, bits, syntax, preamble, words, behind, private, depth,
               undefined, text):  # fmt: skip
    """Native pixels in every transfer syntax, with private groups and sequences before and elements behind them."""
    full = (frames, *shape) + ((3,) if colour else ())
    array = data.draw(hnp.arrays(np.dtype(dtype), full))
    big = syntax.endswith(".2.2")
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns, ds.NumberOfFrames = *shape, frames
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = planar
    ds.BitsAllocated = 8 * array.itemsize
    ds.BitsStored = min(bits, ds.BitsAllocated)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(dtype == "i2")
    stored = np.moveaxis(array, 3, 1) if colour and planar else array
    raw = stored.astype(array.dtype.newbyteorder(">" if big else "<")).tobytes()
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    ds["PixelData"].VR = "OW" if words or array.itemsize == 2 or syntax == SYNTAXES[0] else "OB"
    if big and array.itemsize == 1:
        ds["PixelData"].VR = "OB"  # bytes in words would be swapped
    private += b"\0" * (len(private) % 2)
    ds.add_new(0x00091001, "OB", private)
    ds.add_new(0x00081030, "LO", text)
    if depth:
        ds.ReferencedStudySequence = Sequence([inner(depth, undefined, private)])
        ds["ReferencedStudySequence"].is_undefined_length = undefined
    if behind:
        ds.add_new(0xFFFCFFFC, "OB", b"\0\0")
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # texts that the standard forbids are the point
        pydicom.dcmwrite(out, ds, enforce_file_format=True, overwrite=True)
    source = out.getvalue() if preamble or syntax.endswith(".99") else out.getvalue()[132:]
    parsed = parse(source)
    assert parsed is not None
    assert written_again(parsed) == source
    assert sum(image.size for image in parsed.images) == array.size


# -- NIfTI --------------------------------------------------------------------------------------------------------

CODES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 32: "c8", 64: "f8", 128: "u1", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
         1280: "u8", 1792: "c16", 2304: "u1"}  # fmt: skip
WIDTHS = {128: 3, 2304: 4}  # bytes of a voxel of these colours


@FAST
@given(
    code=st.sampled_from(sorted(CODES)), shape=st.lists(st.integers(1, 7), min_size=2, max_size=4), order=st.sampled_from("<>"),
    slope=st.sampled_from([0.0, 1.0, -2.5, float("nan")]), inter=st.sampled_from([0.0, 7.0]), seed=st.integers(0, 99),
    extensions=st.lists(st.tuples(st.sampled_from([0, 2, 4, 6]), st.binary(max_size=40)), max_size=2), pair=st.booleans(),
)  # fmt: skip
def test_nifti_of_any_type(code, shape, order, slope, inter, seed, extensions, pair):
    """All types, with scaling and extensions: it comes back, or is left as it is. Of pairs the headers are left, too."""
    kind = np.dtype(CODES[code])
    size = int(np.prod(shape)) * kind.itemsize * WIDTHS.get(code, 1)
    blocks = b""
    for number, text in extensions:
        text += b"\0" * (-(len(text) + 8) % 16)
        blocks += struct.pack(order + "ii", len(text) + 8, number) + text
    voxels = np.random.default_rng(seed).bytes(size)
    source = bytearray(nifti(np.zeros(shape, "u1"), 1, order, b"", len(blocks)))[: 352 + len(blocks)]
    struct.pack_into(order + "hh", source, 70, code, 8 * kind.itemsize * WIDTHS.get(code, 1))
    struct.pack_into(order + "ff", source, 112, slope, inter)
    source[348] = bool(extensions)
    source[352:] = blocks
    if pair:
        source[344:348] = b"ni1\0"
        struct.pack_into(order + "f", source, 108, 0.0)
        assert parse(bytes(source)) is None
        return
    whole = bytes(source) + voxels
    parsed = parse(whole)
    if parsed is None:
        assert kind.kind in "fc" or kind.itemsize > 4 or sum(n > 1 for n in shape) < 2
        return
    assert parsed.fidelity == "bytes"
    assert written_again(parsed) == whole
    assert sum(image.nbytes for image in parsed.images) == size


# -- NPY that holds no samples ------------------------------------------------------------------------------------

RECORDS = [
    np.dtype([("a", "<i2"), ("b", ">f4")]), np.dtype([("x", "u1", (2, 2))]), np.dtype("S3"), np.dtype("<U2"), np.dtype("M8[s]"),
    np.dtype("?"), np.dtype("c8"), np.dtype("f2"), np.dtype("V5"),
]  # fmt: skip


@FAST
@given(dtype=st.sampled_from(RECORDS), shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
       fortran=st.booleans(), tail=st.binary(max_size=5))  # fmt: skip
def test_npy_of_other_types_is_left_or_comes_back(dtype, shape, fortran, tail):
    array = np.zeros(shape, dtype, order="F" if fortran else "C")
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's word on the version that structures need
        np.save(out, array)
    source = out.getvalue() + tail
    parsed = parse(source)
    if parsed is not None:
        assert parsed.fidelity == "bytes"
        assert written_again(parsed) == source
