"""A model that takes a guide, made of one that does not: it says the same until it is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from callic_archive.model.config import GUIDE_FEATURES
from callic_archive.model.weights import IntegerModel, IntegerWeights, load_model, model_file


def with_guide(model: IntegerModel) -> IntegerModel:
    """``model``, of one channel, with features of a guide that it does not heed yet."""
    if model.guides:
        return model
    return load_model(model_file(f"{model.name}-guided", guided(model.weights), model.mixture, _record(model)))


def guided(weights: IntegerWeights) -> IntegerWeights:
    """The same weights, and zeros for the features of a guide."""
    embed = weights.embed
    heeded = np.pad(embed.weight, ((0, 0), (0, GUIDE_FEATURES)))
    return replace(weights, config=replace(weights.config, guides=1), embed=replace(embed, weight=heeded))


def _record(model: IntegerModel) -> dict[str, object]:
    return {name: model.metadata[name] for name in ("training", "licence") if name in model.metadata}
