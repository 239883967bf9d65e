"""Float checkpoint -> IntegerWeights: post-training rounding with power-of-two steps.

8-bit weights (per output channel; of small models rounded to fewer distinct values), 10-bit activations (per
tensor), 16-bit residual stream. LayerNorm's gain and bias fold into the linear layers behind it. Fractions of
activations are those with the least squared error on calibration crops (``traces.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callic_archive.errors import InexactModel
from callic_archive.model import tables
from callic_archive.model.config import COMPAND_KNEE
from callic_archive.model.mgcf import MGCF, Block, PlaneStats
from callic_archive.model.steps import Steps, compensation, low_places, places_of, steps_of, variances_left
from callic_archive.model.traces import Inputs, Traces, feature_units, head_units, trace
from callic_archive.model.weights import (
    EXACT_FLOAT32,
    BlockWeights,
    Depthwise,
    IntegerWeights,
    Linear,
    check_exact,
    feature_limits,
)

Float = NDArray[np.float64]
#: Layers of a block, and what goes into each.
FED_BY = {"a": "norm1", "v": "norm1", "o": "product", "up": "norm2", "down": "gelu"}
#: What fits below the saturation of the residual stream, in peaks that calibration saw.
HEADROOM = 2.0
#: As many binary places below a shift of zero as no weight has that is stored.
LEAST_PLACES = 16


def layer_steps(traces: Traces, pixels: float) -> dict[str, Steps]:
    """How finely each layer of a model is rounded that codes so many pixels, by its name. ``traces``: with slopes."""
    found = {}
    for name, slopes in traces.slopes.items():
        block, _, part = name.rpartition(".")
        if part == "dw":  # a kernel's taps see one channel each, and nothing makes up for another
            variances = np.diag(traces.inputs[f"{block}.a"].covariance)[:, None]
        else:
            fed = name if not block else f"{block}.{FED_BY[part]}"
            variances = variances_left(traces.inputs[fed].covariance)
        found[name] = steps_of(slopes, variances, pixels)
    return found


def _fold(norm: torch.nn.LayerNorm, layer: torch.nn.Linear) -> tuple[Float, Float]:
    """Weight and bias of ``layer`` with the LayerNorm's gain and bias folded in."""
    weight = layer.weight.double()
    return (weight * norm.weight.double()).numpy(), (
        weight @ norm.bias.double() + layer.bias.double()
    ).numpy()


def _rounded(weight: Float, most: int, factor: Float | None) -> Float:
    """Whole numbers of at most this magnitude for ``weight`` (out, in).

    With the ``factor`` of its inputs (:func:`compensation`), columns are rounded one after the other and what that costs is
    spread over those still to come, which leaves the layer's outputs nearer to what they were (optimal brain surgeon; GPTQ,
    arXiv:2210.17323).
    """
    if factor is None:
        return np.clip(np.rint(weight), -most, most)
    left, found = weight.copy(), np.empty_like(weight)
    for j in range(len(factor)):
        found[:, j] = np.clip(np.rint(left[:, j]), -most, most)
        error = (left[:, j] - found[:, j]) / factor[j, j]
        left[:, j + 1 :] -= np.outer(error, factor[j, j + 1 :])
    return found


def quantize_linear(
    weight: Float,
    bias: Float,
    in_fraction: int,
    out_fraction: int,
    limit: int,
    largest_input: int | NDArray[np.int64],
    exact: int = EXACT_FLOAT32,
    coarse: int = 0,
    inputs: Inputs | None = None,
    steps: Steps | None = None,
) -> Linear:
    """Round a layer. ``limit``: largest |weight|; ``largest_input``: largest |input|, for the accumulator's bound
    ``exact``; ``coarse``: binary places of the weights that stay zero, so that the file compresses, while adapters are
    merged at full precision; ``inputs``: seen in calibration, so that weights rounded later, and the bias, make up for
    earlier ones; ``steps``: round as coarsely as these."""
    largest = np.maximum(np.abs(weight).max(axis=1), 1e-9)
    # No further than a shift of 24 bits: a channel that is nearly zero needs no finer step.
    finest = np.minimum(np.floor(np.log2(limit / largest)).astype(np.int64), 24 + out_fraction - in_fraction)
    finest -= coarse
    least = out_fraction - in_fraction - LEAST_PLACES  # at these, all that fits is zero
    if steps is not None:
        finest = np.minimum(finest, np.maximum(places_of(steps.rows), least))
    factor = compensation(inputs.covariance) if inputs is not None else None
    while True:
        if finest.min() < least:
            raise InexactModel("a layer's weights are too large for its output fraction")
        # Weights in units of 2^-finest, kept in such of 2^-kept: no shift is negative.
        kept = finest + coarse if steps is None else np.maximum(finest, out_fraction - in_fraction)
        rounded = _rounded(weight * 2.0 ** finest[:, None], limit >> coarse, factor)
        fixed = bias
        if inputs is not None:
            fixed = bias + (weight - rounded * 2.0 ** -finest[:, None]) @ inputs.mean
        low = low_places(steps.biases, kept + in_fraction) if steps is not None else np.zeros_like(kept)
        bias_int = np.rint(fixed * 2.0 ** (kept + in_fraction - low)).astype(np.int64) << low
        whole = rounded.astype(np.int64) << (kept - finest)[:, None]
        over = ((np.abs(whole) * largest_input).sum(axis=1) >= exact) | (np.abs(whole).max(axis=1) > limit)
        over |= np.abs(bias_int) >= 1 << 29
        if not over.any():
            break
        finest = finest - over
    shift = kept + in_fraction - out_fraction
    if shift.min() < 0:
        raise InexactModel("a layer's weights are too large for its output fraction")
    return Linear(whole.astype(np.int32), bias_int.astype(np.int32), shift.astype(np.int32))


def _quantize_depthwise(
    kernel: Float, bias: Float, in_fraction: int, out_fraction: int, steps: Steps | None
) -> Depthwise:
    layer = quantize_linear(kernel.T, bias, in_fraction, out_fraction, 127, tables.ACT_MAX, steps=steps)
    return Depthwise(np.ascontiguousarray(layer.weight.T), layer.bias, layer.shift)


def quantize(
    model: MGCF,
    calibration: list[tuple[Tensor, PlaneStats]] | Traces,
    *,
    weight_limit: int = 127,
    coarse: int = 0,
    steps: Mapping[str, Steps] | None = None,
    report: Callable[[str], None] | None = None,
) -> IntegerWeights:
    """Round a trained model to integers and prove its bounds.

    ``calibration``: batches of levels (N, C, H, W) with their statistics, or what :func:`trace` gave of them;
    ``weight_limit`` and ``coarse``: of the blocks' weights, see :func:`quantize_linear`; ``steps``: of :func:`layer_steps`,
    in place of ``coarse``, for models whose bytes count. Raises InexactModel.
    """
    config = model.config
    model = model.cpu().eval()
    traces = calibration if isinstance(calibration, Traces) else trace(model, calibration)
    stream_peak = float(torch.cat(traces.ranges["stream"].samples).abs().max())
    stream = max(4, min(12, math.floor(math.log2(tables.STREAM_MAX / (HEADROOM * stream_peak)))))
    if report:
        report(f"residual stream: peak {stream_peak:.1f}, {stream} binary places")
    norm = tables.NORM_FRACTION
    of = steps or {}

    with torch.no_grad():
        embed = quantize_linear(
            model.embed.weight.double().numpy() * feature_units(config), model.embed.bias.double().numpy(), 0, stream, 1023,
            feature_limits(config), inputs=traces.inputs["embed"] if steps else None, steps=of.get("embed"),
        )  # fmt: skip
        blocks, fractions = [], {}
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            f = {
                p: traces.fraction(f"{i}.{p}", tables.ACT_MAX) for p in ("a", "v", "swish", "product", "gelu")
            }
            f["dw"] = traces.fraction(f"{i}.dw", tables.ACT_HALF - 1)
            f["up"] = traces.fraction(f"{i}.up", tables.ACT_HALF - 1)
            f["product"] = min(f["product"], f["swish"] + f["v"])
            fractions[str(i)] = f
            if report:
                report(f"block {i}: binary places {f}")

            def layer(part: str, weight: Float, bias: Float, places: int, out: int, i: int = i) -> Linear:
                return quantize_linear(
                    weight, bias, places, out, weight_limit, tables.ACT_MAX,
                    coarse=0 if steps else coarse, inputs=traces.inputs[f"{i}.{FED_BY[part]}"], steps=of.get(f"{i}.{part}"),
                )  # fmt: skip

            def plain(layer: torch.nn.Linear) -> tuple[Float, Float]:
                return layer.weight.double().numpy(), layer.bias.double().numpy()

            blocks.append(
                BlockWeights(
                    a=layer("a", *_fold(block.norm1, block.mcg.a), norm, f["a"]),
                    v=layer("v", *_fold(block.norm1, block.mcg.v), norm, f["v"]),
                    o=layer("o", *plain(block.mcg.o), f["product"], stream),
                    dw=_quantize_depthwise(
                        block.mcg.kernel.double().numpy(),
                        block.mcg.kernel_bias.double().numpy(),
                        f["a"],
                        f["dw"],
                        of.get(f"{i}.dw"),
                    ),
                    up=layer("up", *_fold(block.norm2, block.up), norm, f["up"]),
                    down=layer("down", *plain(block.down), f["gelu"], stream),
                    product_shift=f["swish"] + f["v"] - f["product"],
                    swish=tables.activation_table("swish", f["dw"], f["swish"]),
                    gelu=tables.activation_table("gelu", f["up"], f["gelu"]),
                )
            )
        units = head_units(model)
        head = quantize_linear(
            model.head.weight.double().numpy() * units[:, None], model.head.bias.double().numpy() * units,
            stream, 0, 8191, tables.STREAM_MAX, 1 << 46,
            inputs=traces.inputs["head"] if steps else None, steps=of.get("head"),
        )  # fmt: skip
        skip = np.rint(model.skip.double().numpy() * 2**14).astype(np.int32)
    # LayerNorm's epsilon 1e-5 in units of the integer sum of squares: (16 * 2^stream)^2 * dim * 1e-5.
    eps = max(1 << 14, round(1e-5 * (16 * 2**stream) ** 2 * config.dim))
    weights = IntegerWeights(
        config, skip, embed, tuple(blocks), head,
        tables.compand_table(COMPAND_KNEE), tables.rsqrt_table(config.dim),
        eps, stream, fractions,
    )  # fmt: skip
    check_exact(weights)
    return weights
