"""The learned codec as the archive sees it: what a codestream says that it needs, and decoders that have it or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from callic_archive.archive.learned_codec import CallicDecoderPlan, CallicPlan
from callic_archive.codec.adapt import AdaptOptions, train_adapters
from callic_archive.errors import UnknownModel
from callic_archive.model.adapter import AdapterShape
from callic_archive.model.weights import ModelSet
from tests.unit.model.builders import CONFORMANCE

MODEL = CONFORMANCE / "model-gray.safetensors"


def _texture(side: int, slant: float) -> np.ndarray:
    i, j = np.indices((side, side))
    values = 128 + 60 * np.sin(2.1 * i + slant * j) * np.cos(1.3 * j)
    values += np.random.default_rng(1).normal(0, 2, (side, side))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def test_an_image_whose_adapter_lies_on_that_of_the_collection_needs_both(tmp_path: Path) -> None:
    models = ModelSet.from_paths([MODEL])
    few = AdaptOptions(steps=12, patches=4, shape=AdapterShape(2, 2, 1), threads=1)
    (shared,) = train_adapters([_texture(128, 0.0)], models=models, options=few, total_pixels=1e9)
    plan = CallicPlan(adapt="both", steps=25, models=(MODEL,)).with_adapters([shared.payload])
    codec, image = plan.open(threads=1), _texture(192, 0.2)
    raw = codec.encode(image)
    told = codec.inspect(raw)
    assert told.models == (next(iter(models)).digest,)
    assert told.adapters == (shared.digest,)
    assert told.adapter_bytes > 0
    assert len(raw) < len(CallicPlan(models=(MODEL,)).with_adapters([shared.payload]).open(threads=1).encode(image))
    inside = tmp_path / f"{told.models[0]}.safetensors"  # models inside archives are named by their SHA-256
    inside.write_bytes(MODEL.read_bytes())
    reader = CallicDecoderPlan()
    assert np.array_equal(reader.open([inside], [shared.payload], threads=1).decode(raw), image)
    with pytest.raises(UnknownModel, match=shared.digest[:16]):
        reader.open([inside], [], threads=1).decode(raw)
