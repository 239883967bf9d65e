"""How far an image is, in words and as the engine counts it."""

from __future__ import annotations

import numpy as np
import pytest

from callic_archive.cli.options import Common
from callic_archive.cli.progress import Progress
from callic_archive.cli.report import Report
from callic_archive.codec.decoder import decode_image
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.codec.meter import METER, Meter
from tests.unit.model.builders import tiny_models


def test_only_what_takes_long_is_told() -> None:
    meter = Meter()
    assert meter.text() == ""
    meter.begin("encoded", 1)
    assert meter.text() == ""
    meter.begin("encoded", 3)
    assert meter.text() == "0 of 3 tiles encoded"
    meter.step()
    assert meter.text() == "1 of 3 tiles encoded"
    meter.step()
    meter.step()
    assert meter.text() == ""


def test_the_codec_counts_its_tiles() -> None:
    image = np.arange(9 * 8, dtype=np.uint8).reshape(9, 8) * 3
    raw = encode_image(image, models=tiny_models(), options=EncodeOptions(tile=4, threads=1))
    assert (METER.verb, METER.done, METER.total) == ("encoded", 6, 6)
    decode_image(raw, models=tiny_models(), threads=2, region=(0, 0, 3, 8))
    assert (METER.verb, METER.done, METER.total) == ("decoded", 2, 2)


def test_progress_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    common = Common(False, True, False, False, False, 30.0)
    with Progress(Report("pack"), common, "packed") as progress:
        progress.stage("packing")
        progress.planned(1, 1000)
        monkeypatch.setattr(METER, "verb", "encoded")
        monkeypatch.setattr(METER, "done", 4)
        monkeypatch.setattr(METER, "total", 9)
        assert progress.line() == "packing: 0 of 1 files, 0 B of 1.0 kB, 4 of 9 tiles encoded"
