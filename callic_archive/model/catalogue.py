"""The models at hand: those that ship, with their training records, and files that users name.

Records of the shipped models lie in ``records/``, a link to ``manifests/models/``, which an installed package
carries too. A file made by ``callic-archive train`` holds its record itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from callic_archive.errors import DamagedModel, UnsuitableModel
from callic_archive.model.packed_file import pack_model
from callic_archive.model.weights import IntegerModel, ModelSet, load_model

#: Plane counts that images ever need a model for: three channels together, every other one alone.
USED_PLANES = (1, 3)
#: Least digits of a digest that name a shipped model.
LEAST_DIGITS = 8


@dataclass(frozen=True)
class ModelInfo:
    """A model with what is known of it. ``record``: training, held-out figures, licence, as its maker wrote
    them."""

    model: IntegerModel
    shipped: bool
    record: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return len(self.model.raw)

    @property
    def archive_bytes(self) -> int:
        """What it adds to an archive, which holds it compressed."""
        return len(pack_model(self.model.raw))


def describe(model: IntegerModel, *, shipped: bool = False) -> ModelInfo:
    """What the file itself and, for a shipped model, its record say."""
    record = {k: model.metadata[k] for k in _RECORD if k in model.metadata}
    if shipped:
        kept = _record(model.name)
        if kept.get("sha256") == model.digest:
            record |= {k: kept[k] for k in _RECORD if k in kept}
    return ModelInfo(model, shipped, record)


_RECORD = ("training", "held_out", "price_of_integers_percent", "licence")


def _record(name: str) -> dict[str, Any]:
    packaged = resources.files("callic_archive.model").joinpath("records", f"{name}.json")
    try:
        return dict(json.loads(packaged.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # a record is for people; what decides is checked elsewhere


def shipped_models() -> list[ModelInfo]:
    """The models inside this package. Raises DamagedModel."""
    return [describe(model, shipped=True) for model in ModelSet.default()]


def find_model(text: str) -> ModelInfo:
    """The model that a user means by a name, a file, or the first digits of a shipped model's SHA-256.

    A file whose name is a SHA-256, as inside archives, must have it. Raises UnsuitableModel where there is none,
    DamagedModel, InexactModel.
    """
    shipped = shipped_models()
    for info in shipped:
        if text == info.model.name:
            return info
    path = Path(text)
    if path.is_file():
        stem = path.name.split(".")[0]
        digest = stem if len(stem) == 64 and set(stem) <= set("0123456789abcdef") else None
        model = load_model(path, digest=digest)
        return describe(model, shipped=any(model.digest == info.model.digest for info in shipped))
    if len(text) >= LEAST_DIGITS:
        found = [info for info in shipped if info.model.digest.startswith(text.lower())]
        if len(found) == 1:
            return found[0]
    names = ", ".join(info.model.name for info in shipped)
    what = "is a folder, not a model file" if path.is_dir() else "is no model at hand and no file"
    raise UnsuitableModel(f"{text} {what}; the models that ship are {names}")


def models_for_packing(texts: Sequence[str], *, quick: bool = False) -> tuple[ModelInfo, ...]:
    """The models of a run: those named, and shipped ones for the plane counts that none of them codes; ``quick``: the
    smaller ones.

    Raises UnsuitableModel for planes that no image needs or that two of them code, and as :func:`find_model`.
    """
    chosen: dict[int, ModelInfo] = {}
    for text in texts:
        info = find_model(text)
        planes = info.model.channels
        if planes not in USED_PLANES:
            raise UnsuitableModel(
                f"{text} codes {planes} planes together, which no image needs: three channels are coded together, "
                "every other one alone"
            )
        rival = chosen.get(planes)
        if rival is not None and rival.model.digest != info.model.digest:
            raise UnsuitableModel(
                f"{rival.model.name} and {info.model.name} both code {planes} planes, and an archive uses one "
                "model for each; give one of them"
            )
        chosen[planes] = info
    shipped = ModelSet.default()
    for model in shipped.smaller() if quick else shipped:
        chosen.setdefault(model.channels, describe(model, shipped=True))
    if any(info.model.path is None for info in chosen.values()):
        raise DamagedModel("a model has no file that an archive could carry")
    return tuple(chosen.values())
