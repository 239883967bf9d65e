"""Arrays have the types that other software reads from the same files."""

from __future__ import annotations

import gzip
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import tifffile
import zarr
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from callic_archive.access.archive import OpenArchive
from callic_archive.archive.candidates import learned
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.packing import PackRun
from tests.command import run, use_double
from tests.doubles import DeflatePlan
from tests.trees import pack_tree
from tests.unit.images.test_dicom import dicom as native
from tests.unit.images.test_dicom_coded import dicom as coded
from tests.unit.images.test_dicom_coded import jls, rle_code

TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8")
SMALL = PackOptions(coder=learned, piece_bytes=16 << 10)


def values(dtype: str, *shape: int, low: int = -120) -> np.ndarray:
    """A slope through zero, with a little noise, that every type but the unsigned ones can hold."""
    steps = np.indices(shape).sum(axis=0) + np.random.default_rng(1).integers(0, 3, shape)
    steps = steps % 120 if np.dtype(dtype).kind == "u" else steps % 240 + low
    return (steps * 1.5 if np.dtype(dtype).kind in "fc" else steps).astype(dtype)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, expected)


def compare(tree: Path, expected: dict[str, np.ndarray], options: PackOptions | None = None) -> PackRun:
    """Pack, read every array, and a region of each."""
    packed = pack_tree(tree, tree.parent / "x.callic", options=options)
    with OpenArchive(tree.parent / "x.callic", plan=DeflatePlan()) as archive:
        for name, array in expected.items():
            for page in range(archive.page_count(f"tree/{name}")):
                whole = array if array.ndim == 2 or array.shape[2:] == (3,) else array[page]
                same(archive.read_array(f"tree/{name}", page), whole)
                part = archive.read_array(f"tree/{name}", page, (2, 3, 20, 30))
                same(part, whole[2:20, 3:30])
    return packed


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


# -- DICOM, as pydicom reads it ----------------------------------------------------------------------------------


def pydicom_array(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data), force=True).pixel_array


def dicom_files() -> dict[str, bytes]:
    found = {f"native-{kind}.dcm": native(values(kind, 40, 50)) for kind in ("u1", "i1", "u2", "i2", "u4", "i4")}
    for kind in ("u1", "i1", "u2", "i2"):
        array = values(kind, 40, 50)[None]
        found[f"rle-{kind}.dcm"] = coded([rle_code(frame) for frame in array], array, RLELossless)
    film = np.stack([values("i2", 40, 50, low=-n) for n in range(12)])
    found["rle-film.dcm"] = coded([rle_code(frame) for frame in film], film, RLELossless)
    for bits in (8, 10, 12, 16):
        kind = "i1" if bits == 8 else "i2"
        array = values(kind, 40, 50)[None]
        cells = array[0].view(f"u{array.itemsize}") & np.array((1 << bits) - 1, f"u{array.itemsize}")
        found[f"jls-{bits}.dcm"] = coded([jls(cells, bits)], array, JPEGLSLossless, stored=bits)
        if bits > 8:
            code = imagecodecs.ljpeg_encode(cells, bitspersample=bits)
            found[f"jpeg-{bits}.dcm"] = coded([code], array, JPEGLosslessSV1, stored=bits)
            code = imagecodecs.jpeg2k_encode(
                array[0], level=0, codecformat="j2k", reversible=True, bitspersample=bits, numthreads=1
            )
            found[f"jpeg2000-{bits}.dcm"] = coded([code], array, JPEG2000Lossless, stored=bits)
    return found


def test_dicom_has_the_sign_that_its_header_tells(tree: Path) -> None:
    expected = {}
    for name, data in dicom_files().items():
        (tree / name).write_bytes(data)
        kind = pydicom.dcmread(io.BytesIO(data), force=True)
        try:
            expected[name] = pydicom_array(data)
        except (RuntimeError, NotImplementedError):  # no plugin of pydicom here
            size = kind.BitsAllocated // 8
            expected[name] = values(f"i{size}", 40, 50)
        if kind.PixelRepresentation:
            assert expected[name].min() < 0
    run_ = compare(tree, expected)
    formats = {entry.path: entry.format for entry in run_.entries.values() if entry.kind == "file"}
    through = {path for path, format in formats.items() if format == "dicom"}
    assert {"tree/native-i2.dcm", "tree/rle-i1.dcm", "tree/rle-i2.dcm", "tree/rle-film.dcm"} <= through


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(("dtype", "stored"), [("u1", 6), ("u2", 12), ("u2", 16), ("u4", 20)])
def test_bits_beyond_those_that_are_stored_are_none_of_the_samples(tree: Path, dtype: str, stored: int, signed: int) -> None:
    """Overlays lie there, and some writers leave signs out."""
    raw = np.random.default_rng(stored).integers(0, np.iinfo(dtype).max, (40, 50), dtype)
    data = native(raw, BitsStored=stored, HighBit=stored - 1, PixelRepresentation=signed)
    (tree / "native.dcm").write_bytes(data)
    expected = {"native.dcm": pydicom_array(data)}
    assert expected["native.dcm"].max() < 1 << stored
    ds = pydicom.dcmread(io.BytesIO(data), force=True)
    if dtype != "u4":
        ds.compress(RLELossless)
        ds.save_as(tree / "rle.dcm", enforce_file_format=True)
        expected["rle.dcm"] = pydicom_array((tree / "rle.dcm").read_bytes())
    compare(tree, expected)


@pytest.mark.parametrize(("name", "vr", "dtype"), [("FloatPixelData", "OF", "f4"), ("DoubleFloatPixelData", "OD", "f8")])
def test_floats_of_dicom(tree: Path, name: str, vr: str, dtype: str) -> None:
    array = values(dtype, 40, 50)
    ds = pydicom.dcmread(io.BytesIO(native(np.zeros((40, 50), f"u{array.itemsize}"))), force=True)
    del ds.PixelData
    setattr(ds, name, array.tobytes())
    ds[name].VR = vr
    pydicom.dcmwrite(tree / "map.dcm", ds, enforce_file_format=False)
    same(pydicom_array((tree / "map.dcm").read_bytes()), array)
    compare(tree, {"map.dcm": array})


# -- TIFF, as tifffile reads it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiff(tree: Path, order: str, compression: str | None) -> None:
    expected = {}
    for kind in TYPES:
        array = values(kind, 40, 50)
        tifffile.imwrite(tree / f"{kind}.tif", array, byteorder=order, compression=compression, photometric="minisblack")
        expected[f"{kind}.tif"] = tifffile.imread(tree / f"{kind}.tif")
        assert expected[f"{kind}.tif"].dtype.str[1:] == array.dtype.str[1:]
    compare(tree, expected)


def test_pages_of_one_tiff_may_differ(tree: Path) -> None:
    """Some of them lie below each other in one image: their bits are alike."""
    kinds = ("f4", "u4", "i4") * 4
    with tifffile.TiffWriter(tree / "mixed.tif") as out:
        for kind in kinds:
            out.write(values(kind, 40, 50), photometric="minisblack", contiguous=False)
    pack_tree(tree, tree.parent / "x.callic")
    with OpenArchive(tree.parent / "x.callic", plan=DeflatePlan()) as archive:
        assert len(archive["tree/mixed.tif"].images) == 1
        for page, kind in enumerate(kinds):
            same(archive.read_array("tree/mixed.tif", page), values(kind, 40, 50))


def test_bands_of_wide_samples(tree: Path) -> None:
    array = values("f4", 6, 40, 50)
    tifffile.imwrite(tree / "bands.tif", array.transpose(1, 2, 0), planarconfig="contig", photometric="minisblack")
    compare(tree, {"bands.tif": array})


# -- volumes and arrays --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_nifti(tree: Path, packed: bool) -> None:
    expected = {}
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16"):
        array = values(kind, 12, 40, 50)
        name = f"{kind}.nii{'.gz' if packed else ''}"
        nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4), dtype=array.dtype), tree / name)
        same(np.asanyarray(nibabel.load(tree / name).dataobj).T, array)
        expected[name] = array
    compare(tree, expected)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd(tree: Path, encoding: str) -> None:
    expected = {}
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"):
        array = values(kind, 9, 40, 50)
        nrrd.write(str(tree / f"{kind}.nrrd"), array, {"encoding": encoding}, index_order="C")
        expected[f"{kind}.nrrd"], _ = nrrd.read(str(tree / f"{kind}.nrrd"), index_order="C")
        same(expected[f"{kind}.nrrd"], array)
    compare(tree, expected)


def test_metaimage(tree: Path) -> None:
    import zlib

    words = {"i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "i4": "INT", "u4": "UINT", "i8": "LONG_LONG", "f4": "FLOAT",
             "f8": "DOUBLE"}  # fmt: skip
    expected = {}
    for kind, word in words.items():
        array = values(kind, 3, 40, 50)
        for packed in (False, True):
            raw = zlib.compress(array.tobytes()) if packed else array.tobytes()
            head = (
                "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
                f"CompressedData = {packed}\nDimSize = 50 40 3\nElementType = MET_{word}\nElementDataFile = LOCAL\n"
            )
            (tree / f"{kind}-{packed}.mha").write_bytes(head.encode() + raw)
            expected[f"{kind}-{packed}.mha"] = array
    compare(tree, expected)


def test_arrays_of_numpy_by_themselves_and_in_other_files(tree: Path) -> None:
    expected: dict[str, np.ndarray] = {}
    arrays = {kind: values(kind, 5, 40, 50) for kind in TYPES} | {"b1": values("u1", 5, 40, 50) > 60}
    for kind, array in arrays.items():
        np.save(tree / f"{kind}.npy", array)
        (tree / f"{kind}.npy.gz").write_bytes(gzip.compress((tree / f"{kind}.npy").read_bytes()))
        np.save(tree / f"big-{kind}.npy", array.astype(array.dtype.newbyteorder(">")))
        expected |= dict.fromkeys((f"{kind}.npy", f"{kind}.npy.gz", f"big-{kind}.npy"), array)
    compare(tree, expected)


def test_members_of_a_zip_have_types_of_their_own(tree: Path) -> None:
    kinds = ("f4", "u2", "f2", "i4", "c8")
    np.savez_compressed(tree / "all.npz", **{f"a{n}": values(kind, 40, 50) for n, kind in enumerate(kinds)})
    tifffile.imwrite(tree / "f.tif", values("f8", 40, 50))
    with zipfile.ZipFile(tree / "more.zip", "w") as out:
        out.write(tree / "f.tif", "f.tif")
        out.writestr("i.npy", gzip.compress(b"no image"))
    pack_tree(tree, tree.parent / "x.callic")
    with OpenArchive(tree.parent / "x.callic", plan=DeflatePlan()) as archive:
        for page, kind in enumerate(kinds):
            same(archive.read_array("tree/all.npz", page), values(kind, 40, 50))
        same(archive.read_array("tree/more.zip"), values("f8", 40, 50))


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_of_zarr(tree: Path, version: int) -> None:
    expected = {}
    for kind in (*TYPES, "b1"):
        array = values("u1", 40, 50) > 60 if kind == "b1" else values(kind, 40, 50)
        store = zarr.create_array(
            str(tree / kind), shape=array.shape, chunks=array.shape, dtype=array.dtype, zarr_format=version
        )
        store[...] = array
        expected[f"{kind}/{'0.0' if version == 2 else 'c/0/0'}"] = array
    compare(tree, expected)


def test_arrays_of_a_zipped_store(tree: Path) -> None:
    kinds = ("f4", "i4", "u2", "f2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zarr.storage.ZipStore(tree / "all.zip", mode="w") as store:
            group = zarr.create_group(store)
            for kind in kinds:
                one = group.create_array(kind, shape=(40, 50), chunks=(40, 50), dtype=kind, compressors=None)
                one[...] = values(kind, 40, 50)
    pack_tree(tree, tree.parent / "x.callic")
    with OpenArchive(tree.parent / "x.callic", plan=DeflatePlan()) as archive:
        assert archive["tree/all.zip"].format == "zarr"
        found = [archive.read_array("tree/all.zip", page) for page in range(len(kinds))]
    for array in found:
        same(array, values(array.dtype.str[1:], 40, 50))
    assert {array.dtype for array in found} == {np.dtype(kind) for kind in kinds}


# -- where the header lies elsewhere ---------------------------------------------------------------------------------


def large_files(tree: Path, noisy: bool) -> dict[str, np.ndarray]:
    """Files that are cut into pieces; of noise they are stored as they are."""
    expected: dict[str, np.ndarray] = {}

    def many(kind: str) -> np.ndarray:
        if noisy:
            raw = np.random.default_rng(5).integers(0, 256, 256 * 320 * np.dtype(kind).itemsize, np.uint8)
            return raw.view(kind).reshape(256, 320) if np.dtype(kind).kind in "ui" else values(kind, 256, 320)
        return values(kind, 256, 320)

    for kind in ("i1", "u1", "i4", "f4", "c8"):
        array = expected[f"{kind}.npy"] = many(kind)
        np.save(tree / f"{kind}.npy", array)
        for name, options in (
            ("strips", {"rowsperstrip": 16}), ("tiles", {"tile": (64, 64)}),
            ("packed", {"tile": (64, 64), "compression": "zlib"}), ("lzw", {"rowsperstrip": 16, "compression": "lzw"}),
        ):  # fmt: skip
            tifffile.imwrite(tree / f"{name}-{kind}.tif", array, photometric="minisblack", **options)
            expected[f"{name}-{kind}.tif"] = array
        if kind != "c8":
            nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4), dtype=array.dtype), tree / f"{kind}.nii")
            expected[f"{kind}.nii"] = array
        store = zarr.create_array(
            str(tree / f"z-{kind}"), shape=array.shape, shards=array.shape, chunks=(64, 64), dtype=array.dtype,
            zarr_format=3,
        )  # fmt: skip
        store[...] = array
        expected[f"z-{kind}/c/0/0"] = array
    for kind in ("i1", "i4"):
        (tree / f"{kind}.dcm").write_bytes(native(expected[f"{kind}.npy"]))
        expected[f"{kind}.dcm"] = expected[f"{kind}.npy"]
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [False, True])
def test_files_that_are_cut(tree: Path, noisy: bool) -> None:
    expected = large_files(tree, noisy)
    done = compare(tree, expected, SMALL)
    methods = {entry.path: entry.method for entry in done.entries.values()}
    assert sum(methods[f"tree/{name}"] == "pieces" for name in expected) > len(expected) // 2


def test_files_that_are_stored_as_they_are(tree: Path) -> None:
    noise = np.random.default_rng(2).integers(0, 1 << 32, (40, 50), np.uint32)
    arrays = {kind: noise.view(kind) for kind in ("u4", "i4")} | {"f4": noise.astype("f4") * np.float32(np.pi)}
    expected = {}
    for kind, array in arrays.items():
        tifffile.imwrite(tree / f"{kind}.tif", array, photometric="minisblack")
        np.save(tree / f"{kind}.npy", array)
        expected |= {f"{kind}.tif": array, f"{kind}.npy": array}
    done = compare(tree, expected)
    assert "stored" in {entry.method for entry in done.entries.values()}


def test_regions_are_written_in_these_types(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)
    arrays: dict[str, Any] = {kind: values(kind, 40, 50) for kind in TYPES}
    for kind, array in arrays.items():
        tifffile.imwrite(tree / f"{kind}.tif", array, photometric="minisblack")
    assert run("pack", tree, "-o", tree.parent / "x.callic").code == 0
    ran = run("unpack", tree.parent / "x.callic", "-o", tree.parent / "out", "--region", "2:20,3:30")
    assert ran.code == 0, ran.err
    for kind, array in arrays.items():
        same(np.load(tree.parent / "out" / "tree" / f"{kind}.tif.npy"), array[2:20, 3:30])
