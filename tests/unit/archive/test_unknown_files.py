"""Files of formats that nobody reads, as sources: rasters in them go through the codec, and every byte comes back."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest

from callic_archive.access.archive import OpenArchive
from callic_archive.archive.collection import sample_of
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.scan import Selection, scan
from tests.doubles import DeflatePlan
from tests.unit.archive.test_detached_headers import round_trip
from tests.unit.images.test_raster_search import GRAY, HEAD, NOTHING, scene

BANDS = (40 * GRAY).astype("<u2")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    return tree


def test_what_is_found_is_coded_and_the_rest_is_kept(tree: Path, tmp_path: Path) -> None:
    (tree / "cells.nd9").write_bytes(HEAD + BANDS.tobytes() + b"<meta/>" * 99)
    (tree / "photo").write_bytes((scene(300, 331)).astype("u1").tobytes())
    for kind, data in NOTHING.items():
        (tree / kind).write_bytes(data)
    entries = round_trip(tree, tmp_path)
    assert {entries[name].method for name in ("cells.nd9", "photo")} == {"image"}
    assert {entries[name].format for name in ("cells.nd9", "photo")} == {"raw"}
    assert (entries["compressed"].method, entries["compressed"].format) == ("image", "gzip")
    assert {entries[kind].method for kind in NOTHING if kind != "compressed"} <= {"stored", "none"}
    assert all(entries[kind].reason is None for kind in ("random", "zeros", "text", "sound"))


def test_arrays_are_read_from_what_was_found(tree: Path, tmp_path: Path) -> None:
    data = HEAD + (BANDS.astype(np.int32) - 4000).astype(">i2").tobytes()
    (tree / "a.fts").write_bytes(data)
    round_trip(tree, tmp_path)
    with OpenArchive(tmp_path / "a.callic", plan=DeflatePlan()) as archive:
        array = archive.read_array("tree/a.fts")
        assert array.dtype == np.int16
        assert array.nbytes > 0.98 * BANDS.nbytes
        assert array.astype(">i2").tobytes() in data


def test_large_files_are_cut_where_rasters_were_found(tree: Path, tmp_path: Path) -> None:
    frames = np.concatenate([(40 * scene(400, 300)).astype("<u2") for _ in range(4)])
    (tree / "long.bin").write_bytes(HEAD[:352] + frames.tobytes() + HEAD)
    entry = round_trip(tree, tmp_path, PackOptions(piece_bytes=64 << 10))["long.bin"]
    assert (entry.method, entry.format) == ("pieces", "raw")


def test_samples_of_them_are_what_models_are_fitted_to(tree: Path) -> None:
    (tree / "cells.nd9").write_bytes(HEAD + BANDS.tobytes())
    (source,) = [found for found in scan([str(tree)], Selection()).sources if found.kind == "file"]
    images, size = sample_of(source)
    assert size == source.size
    assert sum(image.nbytes for image in images) > 0.95 * BANDS.nbytes


def test_a_file_of_a_known_format_that_is_not_read(tree: Path, tmp_path: Path) -> None:
    out = io.BytesIO()
    with h5py.File(out, "w", libver="latest") as file:  # with an index of chunks that nobody reads here
        file.create_dataset("image", data=BANDS, chunks=(100, 331))
    (tree / "new.h5").write_bytes(out.getvalue())
    (tree / "new-text.h5").write_bytes(out.getvalue()[:3000] + NOTHING["text"])
    entries = round_trip(tree, tmp_path)
    assert (entries["new.h5"].method, entries["new.h5"].format) == ("image", "raw")
    assert entries["new-text.h5"].method == "stored"


@pytest.mark.parametrize("start", [b"\0\2\0\0\0\2\0\0\x08\0\0\0", b"\2\0\0\0\0\2\0\0", b"\x08\0\0\0\xff\xff\xff\xff"])
def test_numbers_that_begin_like_a_data_set_are_no_dicom(start: bytes, tree: Path, tmp_path: Path) -> None:
    (tree / "volume.mrc").write_bytes(start.ljust(1024, b"\0") + BANDS.tobytes())
    entry = round_trip(tree, tmp_path)["volume.mrc"]
    assert (entry.method, entry.problem) == ("image", None)
