"""Public corpora of odd, broken and hostile files, and the evaluation images: none crashes, all come back.

Pixels are compared with those that pillow, tifffile and pydicom read, so that the images are the real ones.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image as Pillow

from callic_archive.errors import SourceError
from callic_archive.images import Parsed, images_equal, parse
from callic_archive.images.stacks import FEWEST

SHARED = Path(os.environ.get("CALLIC_SHARED", Path(__file__).parents[4] / "shared")) / "data"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared image data is not at {SHARED}"),
]
# The least number of files that must come back byte for byte: a parser that gives up on all does not pass.
FOLDERS = {
    "robustness/pngsuite": 230,
    "robustness/image_tiff": 165,
    "robustness/dicom_pydicom": 78,
    "robustness/nifti_nibabel": 16,
    "eval/ct": 12,
    "eval/mr": 10,
    "eval/satellite_16bit": 5,
    "eval/satellite_rgb": 9,
    "eval/microscopy": 8,
    "eval/histology": 5,
}


def files(folder):
    found = sorted(path for path in (SHARED / folder).rglob("*") if path.is_file())
    return found[::3] if folder == "eval/histology" else found  # enough of a kind, and deflating takes time


def reference(parsed: Parsed, data: bytes):
    """The first image as another library reads it, or None where it cannot or means something else by it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if parsed.format == "dicom":
                ds = pydicom.dcmread(io.BytesIO(data), force=True)
                if "TransferSyntaxUID" not in ds.file_meta or ds.PhotometricInterpretation == "YBR_FULL_422":
                    return None
                array = ds.pixel_array
                frames = int(ds.get("NumberOfFrames", 1))
                # many small frames lie below each other
                return array.reshape(parsed.images[0].shape) if frames >= FEWEST else array[0] if frames > 1 else array
            if parsed.format == "tiff":
                with tifffile.TiffFile(io.BytesIO(data)) as tif:
                    page = tif.pages[0]
                    if page.compression == 1 and page.predictor != 1:
                        return None  # libtiff ignores the predictor, and so does the parser
                    array = page.asarray()
                    planar = page.planarconfig == 2 and page.samplesperpixel > 1
                    return array.transpose(1, 2, 0) if planar else array
            image = Pillow.open(io.BytesIO(data))
            if "bits" in parsed.recipe and image.mode != "P":
                return None  # pillow spreads the samples over eight bits
            array = np.asarray(image)
            return array if array.shape == parsed.images[0].shape else None
        except Exception:
            return None


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder(folder, rebuilt):
    logging.getLogger("tifffile").disabled = True
    outcomes: Counter[str] = Counter()
    messages: list[str] = []
    compared = around = 0
    for path in files(folder):
        data = path.read_bytes()
        try:
            parsed = parse(data)
        except SourceError as error:
            outcomes["error"] += 1
            messages.append(str(error))
            continue
        if parsed is None:
            outcomes["none"] += 1
            continue
        outcomes[parsed.fidelity] += 1
        around += parsed.format in ("gzip", "zip", "tar")  # what lies in them has no reader here
        again = rebuilt(parsed)
        if parsed.fidelity == "bytes":
            assert hashlib.sha256(again).digest() == hashlib.sha256(data).digest(), path.name
        else:
            second = parse(again)
            assert second is not None
            assert images_equal(parsed, second), path.name
        # What fuzzers made has no suffix, and every reader sees other pixels in it.
        expected = reference(parsed, data) if path.suffix or parsed.format == "dicom" else None
        if expected is not None and expected.dtype == parsed.images[0].dtype:
            np.testing.assert_array_equal(parsed.images[0], expected, err_msg=path.name)
            compared += 1
    assert all(messages)
    assert outcomes["bytes"] >= FOLDERS[folder], outcomes
    assert compared >= (outcomes["bytes"] - around) // 3, (compared, around, outcomes)


def test_a_few_photographs(rebuilt):
    for path in files("eval/kodak")[:3]:
        data = path.read_bytes()
        parsed = parse(memoryview(data), path.name)
        assert parsed is not None
        np.testing.assert_array_equal(parsed.images[0], np.asarray(Pillow.open(path)))
        if parsed.fidelity == "bytes":
            assert rebuilt(parsed) == data
        else:
            np.testing.assert_array_equal(
                np.asarray(Pillow.open(io.BytesIO(rebuilt(parsed)))), parsed.images[0]
            )
