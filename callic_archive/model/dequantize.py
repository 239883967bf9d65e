"""IntegerWeights -> float MGCF: the model that adaptation and fine-tuning start from is the one that
decodes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callic_archive.model import tables
from callic_archive.model.mgcf import MGCF, Block
from callic_archive.model.traces import feature_units, head_units
from callic_archive.model.weights import Depthwise, IntegerWeights, Linear


def _floats(
    layer: Linear | Depthwise, values: NDArray[np.int32], in_fraction: int, out_fraction: int
) -> tuple[Tensor, Tensor]:
    """Weights (channels first) and bias of a layer in real units."""
    exponent = layer.shift.astype(np.float64) - in_fraction + out_fraction
    weight = values.astype(np.float64) * 2.0 ** -exponent[:, None]
    return torch.from_numpy(weight).float(), torch.from_numpy(
        layer.bias * 2.0 ** -(exponent + in_fraction)
    ).float()


@torch.no_grad()
def float_model(weights: IntegerWeights) -> MGCF:
    """A float model that computes what the integers compute, up to the rounding of activations."""
    config, stream, norm = weights.config, weights.stream_fraction, tables.NORM_FRACTION
    model = MGCF(config)
    model.skip.copy_(torch.from_numpy(weights.skip / 2.0**14).float())
    weight, bias = _floats(weights.embed, weights.embed.weight, 0, stream)
    model.embed.weight.copy_(weight / torch.from_numpy(feature_units(config)).float())
    model.embed.bias.copy_(bias)

    def put(target: torch.nn.Linear, layer: Linear, in_fraction: int, out_fraction: int) -> None:
        weight, bias = _floats(layer, layer.weight, in_fraction, out_fraction)
        target.weight.copy_(weight)
        target.bias.copy_(bias)

    for i, (block, source) in enumerate(zip(model.blocks, weights.blocks, strict=True)):
        assert isinstance(
            block, Block
        )  # LayerNorm keeps its initial gain 1 and bias 0: both are folded already
        f = weights.fractions[str(i)]
        put(block.mcg.a, source.a, norm, f["a"])
        put(block.mcg.v, source.v, norm, f["v"])
        put(block.mcg.o, source.o, f["product"], stream)
        put(block.up, source.up, norm, f["up"])
        put(block.down, source.down, f["gelu"], stream)
        kernel, kernel_bias = _floats(source.dw, source.dw.kernel.T, f["a"], f["dw"])
        block.mcg.kernel.copy_(kernel.t())
        block.mcg.kernel_bias.copy_(kernel_bias)
    weight, bias = _floats(weights.head, weights.head.weight, stream, 0)
    units = torch.from_numpy(head_units(model)).float()
    model.head.weight.copy_(weight / units[:, None])
    model.head.bias.copy_(bias / units)
    return model
