"""How much work packing puts into small files: points of the measured curve of time against size (decision 0009)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

AdaptMode = Literal["none", "image", "collection", "both", "model", "all"]
EffortName = Literal["fast", "default", "max"]
EFFORTS: tuple[EffortName, ...] = ("fast", "default", "max")
#: Steps for an image's own adapter under ``max``: twice the default, for the last few tenths of a percent.
MAX_IMAGE_STEPS = 100
#: Times as many steps of fitting models to the collection under ``max``.
MAX_TIMES = 3


@dataclass(frozen=True)
class Effort:
    """What to adapt, and how long. ``steps``: of every adaptation, None leaves it to the sizes at hand;
    ``image_steps``: of an image's own adapter, where that differs; ``bands``: whether to look for files that are bands of
    one scene; ``quick``: whether the smaller models do, at half the time (decision 0024), and JPEG XL for JPEG streams;
    ``longer``: times as many steps of fitting models as usual (decision 0026)."""

    adapt: AdaptMode
    steps: int | None = None
    image_steps: int | None = None
    bands: bool = True
    quick: bool = False
    longer: int = 1

    def with_adapters(self) -> Effort:
        """The same where models are to be used as they are: they are the user's, or the archive will not carry them."""
        instead: dict[AdaptMode, AdaptMode] = {"model": "collection", "all": "both"}
        return replace(self, adapt=instead.get(self.adapt, self.adapt))


def effort_of(
    name: EffortName, *, on_gpu: bool, adapt: AdaptMode | None = None, steps: int | None = None
) -> Effort:
    """The settings of an effort; ``adapt`` and ``steps`` that a user gave win over it."""
    usual: dict[EffortName, AdaptMode] = {
        "fast": "none",
        "default": "all" if on_gpu else "model",
        "max": "all",
    }
    longer = MAX_IMAGE_STEPS if name == "max" and steps is None else None
    times = MAX_TIMES if name == "max" and steps is None else 1
    return Effort(adapt or usual[name], steps, longer, bands=name != "fast", quick=name == "fast", longer=times)
