"""Shape of one MGCF model: what training, quantisation and exact inference agree on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

#: Causal neighbours, as (row, column) offsets, in the order in which every feature vector lists them.
TAPS: tuple[tuple[int, int], ...] = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))
#: The first four lie inside the masked 3x3 kernel of the embedding; all six feed the linear skip prediction.
EMBED_TAPS = 4
#: Pixels of a guide, a plane that is known before, around the pixel that is coded: what they differ from the one at its place.
GUIDE_TAPS: tuple[tuple[int, int], ...] = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
#: Features of a guide: those differences, the pixel at the place itself, and how the guide is used (``Plane.guide``).
GUIDE_FEATURES = len(GUIDE_TAPS) + 2
#: Knee of the companding of residual features, in units: linear below, logarithmic above.
COMPAND_KNEE = 16.0
#: Residual features are cut at this many units (the integer table ends there).
COMPAND_LIMIT = 1023.9375
#: One head output moves a mean by this many units ("scaled mean outputs": larger steps make early training
#: unstable).
MEAN_GAIN = 8.0
#: Log-scales of the mixture, in nats relative to the unit; the integer tables span the same range.
LOG_SCALE_MIN, LOG_SCALE_MAX = -256 / 32 * math.log(2), 383 / 32 * math.log(2)
#: LayerNorm's integer sums are exact up to this width; the other two bound what a hostile file can ask for.
MAX_DIM, MAX_DEPTH, MAX_MLP_RATIO = 4096, 64, 16


@dataclass(frozen=True)
class MGCFConfig:
    """Hyper-parameters of the Masked Gated ConvFormer (paper: channels 3, dim 128, depth 3, kernel 7,
    mixtures 5). ``guides``: planes that may be known before; one beside a single channel, or none."""

    channels: int = 3
    dim: int = 128
    depth: int = 3
    kernel: int = 7
    mlp_ratio: int = 4
    mixtures: int = 5
    guides: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= 4:
            raise ValueError(f"a model codes 1 to 4 channels jointly, not {self.channels}")
        if self.guides not in (0, 1) or (self.guides and self.channels != 1):
            raise ValueError(f"a model of one channel may have one guide, others none: {self}")
        if self.kernel % 2 == 0 or not 3 <= self.kernel <= 15:
            raise ValueError(f"kernel must be odd and within 3..15, not {self.kernel}")
        if min(self.dim, self.depth, self.mlp_ratio, self.mixtures) < 1 or self.mixtures > 16:
            raise ValueError(f"dim, depth, mlp_ratio and mixtures must be positive (mixtures <= 16): {self}")
        if self.dim > MAX_DIM or self.depth > MAX_DEPTH or self.mlp_ratio > MAX_MLP_RATIO:
            raise ValueError(
                f"dim, depth or mlp_ratio is beyond {MAX_DIM}, {MAX_DEPTH}, {MAX_MLP_RATIO}: {self}"
            )

    @property
    def hidden(self) -> int:
        """Width of the MLP's hidden layer."""
        return self.dim * self.mlp_ratio

    @property
    def pairs(self) -> int:
        """Number of channel pairs (later, earlier) that carry a conditioning coefficient."""
        return self.channels * (self.channels - 1) // 2

    @property
    def features(self) -> int:
        """Inputs of the embedding: companded residuals of four taps, one level a channel, the unit shift, and those of guides."""
        return EMBED_TAPS * self.channels + self.channels + 1 + GUIDE_FEATURES * self.guides

    @property
    def outputs(self) -> int:
        """Head outputs: K logits, C*K means, C*K log-scales, pairs*K coefficients (50 for RGB, 15 for
        gray)."""
        return self.mixtures * (1 + 2 * self.channels + self.pairs)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, as stored in a model file, which names guides only where there are any."""
        return {name: value for name, value in asdict(self).items() if name != "guides" or value}


def causal_taps(kernel: int, *, include_group: bool) -> list[tuple[int, int]]:
    """(row, column) offsets that a masked kernel may see under the scan ``group(i, j) = 2 i + j``.

    A tap (di, dj) reaches group ``g + dj + 2 di``. Type B (``include_group=False``) allows earlier groups
    only, type A also the current group. Offsets come in raster order, so they agree with a flattened kernel.
    """
    radius = kernel // 2
    limit = 0 if include_group else -1
    return [
        (di, dj)
        for di in range(-radius, radius + 1)
        for dj in range(-radius, radius + 1)
        if dj + 2 * di <= limit
    ]
