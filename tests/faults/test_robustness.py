"""Odd, broken and hostile files of public corpora go through packing: nothing crashes, hangs, or comes back wrong."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.robustness import OUTCOMES, survey, table

SHARED = Path(os.environ.get("CALLIC_SHARED", Path(__file__).parents[3] / "shared")) / "data/robustness"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared image data is not at {SHARED}"),
]
SLOWEST = 120.0  # seconds; none of these files is large
# How many files of each folder must at least be understood and come back byte for byte.
FOLDERS = {"dicom_pydicom": 60, "nifti_nibabel": 8, "image_tiff": 80, "openslide": 0, "pngsuite": 240}


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder(folder):
    results = list(survey([SHARED / folder]))
    counts = Counter(result.outcome for result in results)
    assert [f"{r.path}: {r.wrong}" for r in results if r.wrong] == []
    assert [r.path for r in results if r.seconds > SLOWEST] == []
    assert all(r.reason for r in results if r.outcome == "verbatim, named")
    assert counts["image/bytes"] + counts["not smaller"] >= FOLDERS[folder], table(results)
    assert set(counts) <= set(OUTCOMES)
