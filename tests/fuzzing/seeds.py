"""Good files of every kind that is parsed, small and made by code."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import h5py
import imagecodecs
import jpeg_ls as charls
import nibabel
import numpy as np
import tifffile
import zarr
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, RLELossless

from callic_archive.images.source import Context
from tests.streams import COMPRESSORS, flushed
from tests.trees import grainy
from tests.unit.images.test_dicom_coded import dicom, jls, jpeg_2000, jpeg_code, rle_code

GRAY = grainy(12, 15)
RGB = grainy(9, 11, 3)
WIDE = (grainy(12, 15).astype(np.uint16) << 4) + 7


def _png(image: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    made = Image.fromarray(image)
    (made.convert(mode) if mode else made).save(out, "PNG", **options)
    return out.getvalue()


def _flushed_png() -> bytes:
    """A PNG whose stream no parameters of zlib repeat."""
    data = _png(GRAY)
    at = data.index(b"IDAT") - 4
    raw = zlib.decompress(data[at + 8 : at + 8 + int.from_bytes(data[at : at + 4], "big")])
    stream = b"\x78\x9c" + flushed(raw, [20, 90]) + zlib.adler32(raw).to_bytes(4, "big")
    chunk = b"IDAT" + stream
    return (
        data[:at]
        + len(stream).to_bytes(4, "big")
        + chunk
        + zlib.crc32(chunk).to_bytes(4, "big")
        + _png(GRAY)[-12:]
    )


def png() -> list[bytes]:
    return [
        _png(GRAY), _png(RGB, compress_level=1), _png(RGB, "RGBA"), _png(GRAY, "P"), _png(GRAY, "1"), _png(GRAY, "LA"),
        _png(WIDE), _flushed_png(),
    ]  # fmt: skip


def _tiff(image: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, image, **options)
    return out.getvalue()


def tiff() -> list[bytes]:
    stack = np.stack([WIDE, WIDE + 1])
    found = [
        _tiff(GRAY), _tiff(RGB, photometric="rgb"), _tiff(stack, photometric="minisblack"), _tiff(WIDE, byteorder=">"),
        _tiff(GRAY, bigtiff=True), _tiff(RGB, photometric="rgb", planarconfig="contig", tile=(16, 16)),
        _tiff(np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate"),
        _tiff(WIDE.astype(np.int32), rowsperstrip=4),
    ]  # fmt: skip
    for name in ("zlib", "lzw", "packbits"):
        found.append(_tiff(GRAY, compression=name, rowsperstrip=5))
    found += [_tiff(WIDE, compression=name, predictor=True) for name in ("zlib", "lzw", "zstd")]
    found += [_tiff(GRAY > 90, **more) for more in ({}, {"tile": (16, 16)}, {"compression": "packbits"})]
    found += [_tiff(WIDE * np.float32(0.1), compression="zlib", predictor=3), _tiff(WIDE.astype(np.float16))]
    palette = np.zeros((3, 256), np.uint16)
    return [*found, _tiff(GRAY, photometric="palette", colormap=palette)]


def bmp() -> list[bytes]:
    made = []
    for image in (GRAY, RGB, GRAY > 90):
        out = io.BytesIO()
        Image.fromarray(image).save(out, "BMP")
        made.append(out.getvalue())
    return made


def pnm() -> list[bytes]:
    return [
        b"P5 15 12 255\n" + GRAY.tobytes(),
        b"P4 15 12\n" + np.packbits(GRAY > 90, axis=1).tobytes(),
        b"P6\n# a comment\n11 9\n255\n" + RGB.tobytes(),
        b"P5 15 12 4095\n" + WIDE.astype(">u2").tobytes() + b"P5 1 1 255\n\7",
        b"P7\nWIDTH 15\nHEIGHT 12\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\n" + GRAY.tobytes(),
    ]


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npy() -> list[bytes]:
    return [
        _npy(GRAY), _npy(WIDE.astype(">u2")), _npy(np.asfortranarray(WIDE)), _npy(np.stack([GRAY] * 3)), _npy(WIDE * 1.5),
    ]  # fmt: skip


def nifti() -> list[bytes]:
    volume = np.stack([WIDE] * 3, axis=2).astype(np.int16)
    made = [kind(volume, np.eye(4)).to_bytes() for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image)]
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">u2")
    made.append(nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4)).to_bytes())
    return [*made, nibabel.Nifti1Image(volume.astype(np.uint16), np.eye(4), header).to_bytes()]


def mgh() -> list[bytes]:
    volume = np.stack([WIDE] * 3, axis=2)
    made = [nibabel.MGHImage(volume.astype(kind), np.eye(4)).to_bytes() for kind in ("i2", "f4")]
    return [*made, made[0][:284] + volume.astype(">i2").tobytes(order="F") + b"behind"]


def coded_files() -> list[bytes]:
    """JPEG 2000 in boxes and alone, JPEG-LS and lossless JPEG, each one frame."""
    boxes = imagecodecs.jpeg2k_encode(RGB, level=0, codecformat="jp2", reversible=True)
    return [bytes(boxes), jpeg_2000(WIDE), jls(GRAY), jpeg_code(WIDE, 2)]


def hdf5() -> list[bytes]:
    image = np.arange(80 * 60, dtype=np.uint16).reshape(80, 60)
    seeds = []
    for options in ({}, {"libver": "v108"}, {"userblock_size": 512}):
        out = io.BytesIO()
        with h5py.File(out, "w", **options) as file:
            file["plain"] = image
            group = file.create_group("group", track_order=True)
            for name, more in (("a", {}), ("b", {"fletcher32": True, "shuffle": True}), ("c", {"fillvalue": 5})):
                made = group.create_dataset(name, (2, 80, 60), "i2", chunks=(1, 40, 32), compression="gzip", **more)
                made[0] = image
            group.create_dataset("deep", data=np.stack([image] * 3), chunks=(2, 40, 32), compression="gzip")
        seeds.append(out.getvalue())
    return seeds


def nrrd() -> list[bytes]:
    head = "NRRD0004\ntype: uint16\ndimension: 2\nsizes: 15 12\nendian: little\nencoding: {}\n\n"
    return [
        head.format("raw").encode() + WIDE.astype("<u2").tobytes(),
        head.format("gzip").encode() + gzip.compress(WIDE.astype("<u2").tobytes(), mtime=0),
        b"NRRD0005\n# about\ntype: uchar\ndimension: 3\n"
        b"sizes: 3 11 9\nkinds: RGB-color space space\nencoding: raw\nkey:=value\n\n" + RGB.tobytes(),
    ]


def metaimage() -> list[bytes]:
    head = (
        "ObjectType = Image\nNDims = {}\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = {}\n"
        "DimSize = {}\nElementNumberOfChannels = {}\nElementType = {}\nElementDataFile = LOCAL\n"
    )
    return [
        head.format(2, False, "15 12", 1, "MET_USHORT").encode() + WIDE.astype("<u2").tobytes(),
        head.format(2, True, "15 12", 1, "MET_SHORT").encode() + zlib.compress(WIDE.astype("<u2").tobytes(), 2),
        head.format(2, False, "11 9", 3, "MET_UCHAR_ARRAY").encode() + RGB.tobytes(),
    ]


def _native(image: np.ndarray, syntax: str, **fields: object) -> bytes:
    """A DICOM file with native pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns = image.shape[:2]
    ds.SamplesPerPixel = 3 if image.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if image.ndim == 3 else "MONOCHROME2"
    if image.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * image.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    ds.PixelData = image.tobytes() + b"\0" * (image.nbytes % 2)
    ds["PixelData"].VR = "OW" if image.itemsize == 2 else "OB"
    ds.PatientName = "A^B"
    inner = Dataset()
    inner.PatientID = "7"
    ds.ReferencedImageSequence = [inner]
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def dicom_native() -> list[bytes]:
    return [
        _native(WIDE, "1.2.840.10008.1.2.1"), _native(RGB, "1.2.840.10008.1.2.1"), _native(WIDE, "1.2.840.10008.1.2"),
        _native(WIDE, "1.2.840.10008.1.2.1")[128 + 4 :], _native(GRAY, "1.2.840.10008.1.2.1.99"),
    ]  # fmt: skip


def jpeg_ls_codes() -> list[bytes]:
    made = []
    for image, near, interleave in (
        (GRAY, 0, 0), (WIDE, 0, 0), (RGB, 0, 0), (RGB, 2, 1), (RGB, 0, 2),
    ):  # fmt: skip
        height, width, samples = (*image.shape, 1)[:3]
        raw = np.moveaxis(image, 2, 0) if interleave == 0 and samples > 1 else image
        bits = 8 * image.itemsize
        made.append(
            bytes(charls.encode_buffer(raw.tobytes(), height, width, samples, bits, near, interleave))
        )
    return made


def dicom_coded() -> list[bytes]:
    stack = np.stack([WIDE, WIDE + 3])
    return [
        dicom([rle_code(frame) for frame in stack], stack, RLELossless),
        dicom([jpeg_code(WIDE)], WIDE[None], JPEGLosslessSV1),
        dicom([imagecodecs.ljpeg_encode(WIDE, bitspersample=16)], WIDE[None], JPEGLosslessSV1),
        dicom([jpeg_2000(WIDE, resolutions=2)], WIDE[None], JPEG2000Lossless),
        dicom(jpeg_ls_codes()[1:2], WIDE[None], JPEGLSLossless),
        dicom(jpeg_ls_codes()[3:4], RGB[None], JPEGLSNearLossless),
    ]


def bgzf(raw: bytes, size: int) -> bytes:
    """As bgzip writes it: members that tell their length, and an empty one at the end; one flushed on the way."""
    out = b""
    for at in [*range(0, len(raw), size), len(raw)]:
        part = raw[at : at + size]
        body = flushed(part, [9, 50]) if at == size else COMPRESSORS["zlib 6"](part)
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0"
        out += head + (len(body) + 25).to_bytes(2, "little") + body
        out += zlib.crc32(part).to_bytes(4, "little") + len(part).to_bytes(4, "little")
    return out


def gz() -> list[bytes]:
    named = io.BytesIO()
    with gzip.GzipFile("a.nii", "wb", 5, named, 1) as stream:
        stream.write(nifti()[0])
    raw = _npy(WIDE)
    joined = gzip.compress(raw[:200], mtime=0) + gzip.compress(raw[200:], 1, mtime=0)
    return [
        gzip.compress(raw, mtime=0), named.getvalue(), gzip.compress(tiff()[0], 1, mtime=5), bgzf(raw, 150), joined,
    ]  # fmt: skip


def _zip(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(
                zipfile.ZipInfo(name), data, zipfile.ZIP_STORED if len(name) > 3 else zipfile.ZIP_DEFLATED
            )
    return out.getvalue()


def zipped() -> list[bytes]:
    out = io.BytesIO()
    np.savez_compressed(out, a=WIDE, b=GRAY)
    return [out.getvalue(), _zip(a=_npy(WIDE), notes=b"words", picture=png()[0]), _zip(a=gzip.compress(b"x"))]


def tarred() -> list[bytes]:
    """In the formats of GNU and pax, and cut off within a member."""
    found = []
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name, data in (("a.npy", _npy(WIDE)), ("words", b"words"), ("name" * 40 + ".png", png()[0])):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        found.append(out.getvalue())
    return [*found, found[0][:-11000]]


@lru_cache(maxsize=1)
def _zarr() -> tuple[list[tuple[Context, bytes]], list[bytes]]:
    """Chunks with their contexts, and zipped stores."""
    chunks: list[tuple[Context, bytes]] = []
    zips = []
    array = np.stack([WIDE, WIDE + 1])
    ways: list[dict[str, object]] = [
        {"zarr_format": 2, "compressors": None}, {"zarr_format": 2}, {"zarr_format": 3},
        {"zarr_format": 3, "shards": (2, 12, 30), "compressors": zarr.codecs.GzipCodec()},
        {"zarr_format": 3, "compressors": zarr.codecs.BloscCodec(cname="lz4")},
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for number, way in enumerate(ways):
            root = Path(folder) / str(number)
            made = zarr.create_array(
                store=str(root), shape=(2, 12, 30), chunks=(1, 12, 15), dtype="uint16", **way
            )
            made[...] = np.concatenate([array, array], axis=2)
            document = next(p for p in root.iterdir() if p.name in (".zarray", "zarr.json"))
            files = sorted(
                p for p in root.rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr.json"))
            )
            key = files[0].relative_to(root).as_posix()
            chunks.append((Context(document.name, document.read_bytes(), key), files[0].read_bytes()))
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as packed:
                for path in sorted(p for p in root.rglob("*") if p.is_file()):
                    packed.writestr(zipfile.ZipInfo(path.relative_to(root).as_posix()), path.read_bytes())
            zips.append(out.getvalue())
    return chunks, zips


def raw_files() -> list[tuple[Context, bytes]]:
    """Samples with the headers beside them."""
    volume = np.stack([WIDE] * 3)
    shape = "DimSize = 15 12 3\nElementType = MET_USHORT\n"
    meta = "ObjectType = Image\nNDims = 3\nBinaryData = True\nHeaderSize = {}\nCompressedData = {}\n"
    meta += shape + "ElementDataFile = "
    nrrd_head = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 15 12 3\nendian: little\nencoding: {}\nline skip: 1\ndata file: "
    envi = "ENVI\ndescription = {{\n a = b }}\nsamples = 15\nlines = 12\nbands = 3\nheader offset = 2\ndata type = 12\n"
    envi += "interleave = {}\nbyte order = 0\n"
    found = [
        ("a.mhd", meta.format(-1, False) + "a.raw", "a.raw", b"xy" + volume.tobytes()),
        ("a.mhd", meta.format(0, True) + "./a.zraw", "a.zraw", zlib.compress(volume.tobytes(), 2)),
        ("a.nhdr", nrrd_head.format("raw") + "a.raw", "a.raw", b"line\n" + volume.tobytes()),
        ("a.nhdr", nrrd_head.format("gz") + "a.raw.gz", "a.raw.gz", b"\n" + gzip.compress(volume.tobytes(), mtime=0)),
        *(("a.hdr", envi.format(way), "a", b"xy" + volume.tobytes() + b"z") for way in ("bsq", "bil", "bip")),
    ]
    made = [(Context(name, head.encode(), key, "raw"), data) for name, head, key, data in found]
    for kind in (nibabel.Nifti1Pair, nibabel.Nifti2Pair, nibabel.AnalyzeImage):
        files = kind.make_file_map()
        for file in files.values():
            file.fileobj = io.BytesIO()
        kind(volume.T.astype(np.int16), np.eye(4)).to_file_map(files)
        head, data = (files[part].fileobj.getvalue() for part in ("header", "image"))
        made.append((Context("a.hdr", head, "a.img", "raw"), data))
        made.append((Context("a.hdr.gz", gzip.compress(head), "a.img.gz", "raw"), gzip.compress(data, mtime=0)))
    return made


def unknown_files() -> list[bytes]:
    """Rasters behind headers of no format."""
    field = grainy(150, 220).astype(np.uint16)
    return [
        b"MYSCAN 1.0".ljust(352, b"\1") + (90 * field).astype(dtype).tobytes() + b"the end" for dtype in ("<u2", ">i2", "<f4")
    ] + [np.stack([field, field, field // 2], axis=-1).astype("u1").tobytes()]


def zarr_chunks() -> list[tuple[Context, bytes]]:
    return _zarr()[0]


def zarr_zips() -> list[bytes]:
    return _zarr()[1]


IMAGES = {
    "png": png, "tiff": tiff, "bmp": bmp, "pnm": pnm, "npy": npy, "nifti": nifti, "mgh": mgh, "nrrd": nrrd, "dicom": dicom_native,
    "hdf5": hdf5, "coded-file": coded_files,
    "metaimage": metaimage,
    "dicom-coded": dicom_coded, "gzip": gz, "zip": zipped, "tar": tarred, "zarr-zip": zarr_zips,
}  # fmt: skip
