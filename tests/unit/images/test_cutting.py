"""Large files cut into pieces: every byte of the file in one piece, every pixel at its place."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import BytesCodec, GzipCodec, ShardingCodec, ZstdCodec
from zarr.storage import LocalStore

from callic_archive.errors import SourceError
from callic_archive.images.cutting import Piece, cut, spans_of
from callic_archive.images.outline import Outline, has_outline, outline
from callic_archive.images.pieces import parse_piece, piece_images
from callic_archive.images.source import Context, parse, rebuild

SMALL = 60_000
RNG = np.random.default_rng(1)


def slopes(height: int, width: int, channels: int = 1, dtype: Any = np.uint8) -> np.ndarray:
    image = (np.add.outer(np.arange(height), np.arange(width)) // 7)[..., None] * np.arange(1, channels + 1)
    image = (image + RNG.integers(0, 5, image.shape)).astype(dtype)
    return image if channels > 1 else image[..., 0]


def tiff(image: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, image, **options)
    return out.getvalue()


def planes(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.moveaxis(slopes(300, 260, channels, dtype), -1, 0)


def npy(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, image)
    return out.getvalue()


def pgm(image: np.ndarray) -> bytes:
    return b"P5\n%d %d\n65535\n" % image.shape[::-1] + image.astype(">u2").tobytes()


def bmp(height: int = 401, width: int = 133) -> bytes:
    pitch = (width * 3 + 3) // 4 * 4
    rows = np.full((height, pitch), 9, np.uint8)
    rows[:, : width * 3] = slopes(height, width, 3).reshape(height, -1)
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, rows.size, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + rows.size, 0, 0, 54) + sizes + rows.tobytes()


def nifti() -> bytes:
    volume = slopes(40 * 60, 50).reshape(40, 60, 50)
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, 50, 60, 40, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 2, 8)
    struct.pack_into("<f", head, 108, 352)
    head[344:348] = b"n+1\0"
    return bytes(head) + volume.tobytes()


def dicom() -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7.3"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 64, 80, 20
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = slopes(64 * 20, 80, 1, np.uint16).tobytes()
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def shuffled_tiles() -> bytes:
    """A TIFF whose tiles lie in the file in another order than in the image."""
    data = bytearray(tiff(slopes(512, 640), tile=(64, 64), photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        offsets, tag = list(page.dataoffsets), page.tags["TileOffsets"]
        tiles = [bytes(data[o : o + 4096]) for o in offsets]
        order = RNG.permutation(len(offsets))
        for place, tile in enumerate(order):
            data[offsets[place] : offsets[place] + 4096] = tiles[tile]
            struct.pack_into("<I", data, tag.valueoffset + 4 * int(tile), offsets[place])
    return bytes(data)


def hdf5(*images: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for number, image in enumerate(images):
            file.create_dataset(f"group/{number}", data=image, **options)
        file["words"] = "some words"
    return out.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "HDF5, contiguous": lambda: hdf5(slopes(300, 400), slopes(200, 320, dtype="<i2")),
    "HDF5, deflated chunks": lambda: hdf5(slopes(500, 400, dtype="<u2"), chunks=(64, 80), compression="gzip", shuffle=True),
    "HDF5, checked chunks": lambda: hdf5(slopes(250, 400, dtype=">u2"), slopes(90, 200), chunks=(50, 64), fletcher32=True),
    "HDF5, volumes": lambda: hdf5(slopes(9 * 80, 90, dtype="<f4").reshape(9, 80, 90), chunks=(3, 40, 45), compression=4),
    "HDF5, ragged volumes": lambda: hdf5(
        slopes(21 * 70, 93, dtype="<u2").reshape(21, 70, 93), chunks=(4, 32, 40), compression=4, fletcher32=True
    ),
    "HDF5, bare volumes": lambda: hdf5(slopes(13 * 70, 93).reshape(13, 70, 93), chunks=(4, 32, 40)),
    "strips": lambda: tiff(slopes(500, 400), photometric="minisblack"),
    "tiles": lambda: tiff(slopes(500, 400, 3), photometric="rgb", tile=(64, 64)),
    "tiles in any order": shuffled_tiles,
    "deflate and differences": lambda: tiff(
        slopes(500, 400, 3), photometric="rgb", tile=(64, 64), compression="zlib", predictor=True
    ),
    "lzw": lambda: tiff(slopes(500, 400, 3), photometric="rgb", rowsperstrip=16, compression="lzw"),
    "planar": lambda: tiff(planes(3), photometric="rgb", planarconfig="separate", tile=(64, 64)),
    "six bands": lambda: tiff(
        planes(6, np.uint16), photometric="minisblack", planarconfig="separate", tile=(64, 64)
    ),
    "big-endian BigTIFF": lambda: tiff(
        slopes(300, 260, 3, np.uint16), photometric="rgb", bigtiff=True, byteorder=">"
    ),
    "many pages": lambda: tiff(slopes(30 * 100, 70).reshape(30, 100, 70), photometric="minisblack"),
    "npy": lambda: npy(slopes(500, 400)),
    "wide npy": lambda: npy(slopes(600, 1500)),
    "npy in Fortran order": lambda: npy(np.asfortranarray(slopes(500, 400))),
    "npy of planes": lambda: npy(np.moveaxis(slopes(300, 260, 3), -1, 0).copy()),
    "npy of floats": lambda: npy(slopes(300, 200).astype(np.float32)),
    "pgm": lambda: pgm(slopes(300, 260, 1, np.uint16)),
    "bmp": bmp,
    "nifti": nifti,
    "dicom": dicom,
}


def check(data: bytes, context: Context | None = None, piece: int = SMALL) -> tuple[Outline, list[Piece]]:
    """Take the file apart by its pieces and put it together again, and compare with the whole of it."""
    whole = parse(data, context=context)
    found = outline(data, context)
    assert whole is not None
    assert found is not None
    pieces = cut(found, piece)
    assert pieces is not None
    again = bytearray(len(data))
    images = [np.full(r.shape, r.fill, r.layout.native) for r in found.rasters for _ in range(r.layout.images)]
    assert [i.shape for i in images] == [i.shape for i in whole.images]
    seen = 0
    for part in pieces:
        raw = b"".join(data[o : o + n] for o, n in spans_of(part))
        assert len(raw) == part.size
        seen += part.size
        back = raw
        if part.images:
            parsed = parse_piece(found.format, part.form, raw)
            assert parsed is not None
            assert parsed.fidelity == "bytes"
            out = io.BytesIO()
            rebuild(parsed.format, parsed.recipe, parsed.surround, parsed.images, out)
            back = out.getvalue()
            for place, image, same in zip(
                part.images, parsed.images, piece_images(found.format, part.form, raw), strict=True
            ):
                assert np.array_equal(image, same)
                bottom, right = place.top + image.shape[0], place.left + image.shape[1]
                images[place.number][place.top : bottom, place.left : right] = image
        for offset, length in spans_of(part):
            again[offset : offset + length], back = back[:length], back[length:]
    assert seen == len(data)
    assert bytes(again) == data
    for image, same in zip(images, whole.images, strict=True):
        assert np.array_equal(image, same)
    return found, pieces


@pytest.mark.parametrize("name", FILES)
def test_every_byte_and_pixel_is_in_one_piece(name: str) -> None:
    data = FILES[name]()
    assert has_outline(data[:544])
    _, pieces = check(data)
    assert len(pieces) >= 3
    assert max(piece.size for piece in pieces) <= 4 * SMALL


def sharded(path: Path, image: np.ndarray, rows: int = 0, **options: Any) -> tuple[bytes, Context]:
    """The bytes of a shard that is the whole array, of which the first ``rows`` rows are written."""
    array = zarr.create_array(
        str(path), shape=image.shape, shards=image.shape, chunks=(64, 64), dtype=image.dtype, zarr_format=3,
        **options,
    )  # fmt: skip
    array[: rows or image.shape[0]] = image[: rows or image.shape[0]]
    key = "c/0/0"
    return (path / key).read_bytes(), Context("zarr.json", (path / "zarr.json").read_bytes(), key)


@pytest.mark.parametrize("rows", [0, 300])
@pytest.mark.parametrize("compressor", ["auto", None, GzipCodec(level=5), ZstdCodec(level=3)])
def test_shards(tmp_path: Path, compressor: Any, rows: int) -> None:
    options = {} if compressor == "auto" else {"compressors": compressor}
    data, context = sharded(tmp_path, slopes(512, 512), rows, **options)
    _, pieces = check(data, context)
    assert len(pieces) >= 4


def test_shards_in_shards(tmp_path: Path) -> None:
    image = slopes(512, 384)
    inner = ShardingCodec(chunk_shape=(32, 64), codecs=[BytesCodec(), ZstdCodec(level=3)])
    with pytest.warns(DeprecationWarning, match="create"):
        array = zarr.Array.create(
            LocalStore(tmp_path), shape=image.shape, chunk_shape=image.shape, dtype="uint8", zarr_format=3,
            codecs=[ShardingCodec(chunk_shape=(128, 128), codecs=[inner])], fill_value=0,
        )  # fmt: skip
    array[...] = image
    context = Context("zarr.json", (tmp_path / "zarr.json").read_bytes(), "c/0/0")
    data = (tmp_path / "c/0/0").read_bytes()
    found, pieces = check(data, context)
    assert found.rasters[0].layout.count == (512 // 32) * (384 // 64)
    assert len(pieces) >= 3
    whole = parse(data, context=context)
    assert whole is not None
    assert np.array_equal(whole.images[0], image)


def test_what_cannot_be_cut_is_left_whole() -> None:
    one = tiff(slopes(900, 900), photometric="minisblack", rowsperstrip=900, compression="zlib")
    found = outline(one)
    assert found is not None
    assert cut(found, 40_000) is None  # a single strip of 800 kB, packed
    assert outline(b"II*\0" + bytes(100)) is None
    assert outline(b"\x89PNG\r\n\x1a\n" + bytes(100)) is None
    assert outline(npy(slopes(500, 400))[:-1]) is None  # cut off


@pytest.mark.parametrize(
    "spoil",
    [
        lambda form: form | {"layouts": [form["layouts"][0] | {"offsets": [[10**9, 0, 1]]}]},
        lambda form: form | {"layouts": [form["layouts"][0] | {"height": 1 << 40}]},
        lambda form: {"layouts": 5},
        lambda form: {},
        lambda form: form | {"packings": [["deflate", 7]]},
        lambda form: form | {"packings": [["none", 1]], "layouts": []},
        lambda form: form | {"steps": [[["nothing"]]], "missing": [[]], "fill": [0]},
    ],
)
def test_hostile_forms_are_refused(spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    data = npy(slopes(500, 400))
    found = outline(data)
    assert found is not None
    pieces = cut(found, SMALL)
    assert pieces is not None
    piece = next(piece for piece in pieces if piece.images)
    raw = b"".join(data[o : o + n] for o, n in spans_of(piece))
    with pytest.raises(SourceError):
        parse_piece("npy", spoil(dict(piece.form)), raw)
