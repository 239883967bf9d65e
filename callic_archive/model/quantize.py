"""Float checkpoint -> IntegerWeights: post-training rounding with power-of-two steps.

8-bit weights (per output channel; of small models rounded to fewer distinct values), 10-bit activations (per
tensor), 16-bit residual stream. LayerNorm's gain and bias fold into the linear layers behind it. Fractions of
activations are those with the least squared error on calibration crops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from callic_archive.errors import InexactModel
from callic_archive.model import tables
from callic_archive.model.config import COMPAND_KNEE, EMBED_TAPS, GUIDE_FEATURES, MEAN_GAIN, MGCFConfig
from callic_archive.model.depthwise import masked_depthwise
from callic_archive.model.mgcf import MGCF, Block, PlaneStats
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


#: What fits below the saturation of the residual stream, in peaks that calibration saw.
HEADROOM = 2.0


@dataclass
class _Range:
    """Samples of one activation, from which its fraction is chosen."""

    samples: list[Tensor] = field(default_factory=list)
    products: Tensor | float = 0.0  # sum of x x^T, of the inputs of a linear layer
    count: int = 0
    fractions: dict[int, int] = field(default_factory=dict)  # those that were chosen, by the limit

    def add_inputs(self, values: Tensor) -> None:
        """Of vectors (..., in) that go into a linear layer."""
        rows = values.reshape(-1, values.shape[-1]).double()
        self.products, self.count = self.products + rows.T @ rows, self.count + len(rows)

    @property
    def moments(self) -> Float:
        """(in, in), the mean of x x^T."""
        assert isinstance(self.products, Tensor)
        return (self.products / self.count).numpy()

    def add(self, values: Tensor) -> None:
        flat = values.reshape(-1).float()
        stride = max(1, flat.numel() // 100_000)
        self.samples.append(flat[::stride].clone())
        self.samples.append(flat.abs().max().reshape(1))

    def fraction(self, limit: int) -> int:
        """Binary places with the least mean squared error at saturation ``+-limit``."""
        if limit in self.fractions:
            return self.fractions[limit]
        values = torch.cat(self.samples).double()
        errors = {}
        for places in range(-2, 15):
            scaled = values * 2.0**places
            errors[places] = float(
                (scaled.round().clamp(-limit, limit) / 2.0**places - values).square().mean()
            )
        self.fractions[limit] = min(errors, key=lambda p: errors[p])
        return self.fractions[limit]


#: What was seen of each activation, by its name.
Traces = dict[str, _Range]


def _bare(norm: torch.nn.LayerNorm, values: Tensor) -> Tensor:
    """What a LayerNorm gives before its gain and bias, which fold into the layer behind it."""
    return F.layer_norm(values, norm.normalized_shape, eps=norm.eps)


def _fold(norm: torch.nn.LayerNorm, layer: torch.nn.Linear) -> tuple[Float, Float]:
    """Weight and bias of ``layer`` with the LayerNorm's gain and bias folded in."""
    weight = layer.weight.double()
    return (weight * norm.weight.double()).numpy(), (
        weight @ norm.bias.double() + layer.bias.double()
    ).numpy()


def _rounded(weight: Float, most: int, moments: Float | None) -> Float:
    """Whole numbers of at most this magnitude for ``weight`` (out, in).

    With second moments of the inputs, columns are rounded one after the other and what that costs is spread over those
    still to come, which leaves the layer's outputs nearer to what they were (optimal brain surgeon; GPTQ, arXiv:2210.17323).
    """
    if moments is None:
        return np.clip(np.rint(weight), -most, most)
    size = len(moments)
    damped = moments + np.eye(size) * (1e-2 * np.trace(moments) / size + 1e-12)
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T  # upper
    left, found = weight.copy(), np.empty_like(weight)
    for j in range(size):
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
    inputs: int | NDArray[np.int64],
    exact: int = EXACT_FLOAT32,
    coarse: int = 0,
    moments: Float | None = None,
) -> Linear:
    """Round a layer. ``limit``: largest |weight|; ``inputs``: largest |input|, for the accumulator's bound
    ``exact``; ``coarse``: binary places of the weights that stay zero, so that the file compresses, while adapters are
    merged at full precision; ``moments`` (in, in): of the inputs, so that weights rounded later make up for earlier ones."""
    largest = np.maximum(np.abs(weight).max(axis=1), 1e-9)
    exponent = np.floor(np.log2(limit / largest)).astype(np.int64)
    # No further than a shift of 24 bits: a channel that is nearly zero needs no finer step.
    exponent = np.minimum(exponent, 24 + out_fraction - in_fraction)
    while True:
        scaled = weight * 2.0 ** (exponent - coarse)[:, None]
        rounded = _rounded(scaled, limit >> coarse, moments).astype(np.int64) << coarse
        bias_int = np.rint(bias * 2.0 ** (exponent + in_fraction)).astype(np.int64)
        over = ((np.abs(rounded) * inputs).sum(axis=1) >= exact) | (np.abs(rounded).max(axis=1) > limit)
        over |= np.abs(bias_int) >= 1 << 29
        if not over.any():
            break
        exponent = exponent - over
    shift = exponent + in_fraction - out_fraction
    if shift.min() < 0:
        raise InexactModel("a layer's weights are too large for its output fraction")
    return Linear(rounded.astype(np.int32), bias_int.astype(np.int32), shift.astype(np.int32))


def _quantize_depthwise(kernel: Float, bias: Float, in_fraction: int, out_fraction: int) -> Depthwise:
    layer = quantize_linear(kernel.T, bias, in_fraction, out_fraction, 127, tables.ACT_MAX)
    return Depthwise(np.ascontiguousarray(layer.weight.T), layer.bias, layer.shift)


@torch.no_grad()
def trace(model: MGCF, batches: list[tuple[Tensor, PlaneStats]]) -> Traces:
    """Run the float model on calibration crops, batches of levels (N, C, H, W) with their statistics, and sample every
    activation that gets a fraction."""
    model = model.cpu().eval()
    ranges: dict[str, _Range] = {}

    def see(name: str, values: Tensor) -> None:
        ranges.setdefault(name, _Range()).add(values)

    for x, stats in batches:
        features, _ = model.inputs(x, stats)
        y = model.embed(features)
        see("stream", y)
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            normal = block.norm1(y)
            ranges.setdefault(f"{i}.norm1", _Range()).add_inputs(_bare(block.norm1, y))
            a, v = block.mcg.a(normal), block.mcg.v(normal)
            see(f"{i}.a", a)
            see(f"{i}.v", v)
            z = masked_depthwise(a, block.mcg.kernel, block.mcg.taps) + block.mcg.kernel_bias
            see(f"{i}.dw", z)
            see(f"{i}.swish", F.silu(z))
            product = F.silu(z) * v
            see(f"{i}.product", product)
            ranges[f"{i}.product"].add_inputs(product)
            y = y + block.mcg.o(product)
            see("stream", y)
            ranges.setdefault(f"{i}.norm2", _Range()).add_inputs(_bare(block.norm2, y))
            hidden = block.up(block.norm2(y))
            see(f"{i}.up", hidden)
            see(f"{i}.gelu", F.gelu(hidden))
            ranges[f"{i}.gelu"].add_inputs(F.gelu(hidden))
            y = y + block.down(F.gelu(hidden))
            see("stream", y)
    return ranges


def finer_gates(traces: Traces, price: Callable[[], float]) -> None:
    """Give gates (swish) more binary places, block by block, as long as ``price``, of the model that is then rounded, falls.

    The mean squared error by which places are chosen is ruled by few large values, while most gates are small, and multiply
    (decision 0034). ``price`` may raise InexactModel.
    """
    least = price()
    for gate in (seen for name, seen in traces.items() if name.endswith(".swish")):
        while True:
            places = gate.fraction(tables.ACT_MAX)
            gate.fractions[tables.ACT_MAX] = places + 1
            try:
                found = price()
            except InexactModel:
                found = math.inf
            if found >= least:
                gate.fractions[tables.ACT_MAX] = places
                break
            least = found


def with_gates_of(traces: Traces, earlier: Traces) -> Traces:
    """``traces`` with the places that gates have in ``earlier`` ones of nearly the same model."""
    for name, seen in traces.items():
        if name.endswith(".swish"):
            seen.fractions = dict(earlier[name].fractions)
    return traces


def feature_units(config: MGCFConfig) -> Float:
    """What one is, of each integer feature, in those of the float model (features,)."""
    residual = np.full(EMBED_TAPS * config.channels, 2.0**-tables.COMPAND_OUT)
    guide = np.append(np.full(GUIDE_FEATURES - 1, 2.0**-tables.COMPAND_OUT), 1 / tables.GUIDED)
    return np.concatenate([residual, np.full(config.channels, 0.25), [1.0], *[guide] * config.guides])


def head_units(model: MGCF) -> Float:
    """Factors (outputs,) from float head outputs to the entropy coder's integer units."""
    k, c = model.config.mixtures, model.config.channels
    return np.concatenate(
        [
            np.full(k, 128.0),
            np.full(c * k, MEAN_GAIN * 256.0),
            np.full(c * k, 32.0 / math.log(2.0)),
            np.full(model.config.pairs * k, 256.0),
        ]
    )


def quantize(
    model: MGCF,
    calibration: list[tuple[Tensor, PlaneStats]] | Traces,
    *,
    weight_limit: int = 127,
    coarse: int = 0,
    report: Callable[[str], None] | None = None,
) -> IntegerWeights:
    """Round a trained model to integers and prove its bounds.

    ``calibration``: batches of levels (N, C, H, W) with their statistics, or what :func:`trace` gave of them;
    ``weight_limit`` and ``coarse``: of the blocks'
    weights, see :func:`quantize_linear`. Raises InexactModel.
    """
    config = model.config
    model = model.cpu().eval()
    ranges = calibration if isinstance(calibration, dict) else trace(model, calibration)
    stream_peak = max(float(torch.cat(r.samples).abs().max()) for n, r in ranges.items() if n == "stream")
    stream = max(4, min(12, math.floor(math.log2(tables.STREAM_MAX / (HEADROOM * stream_peak)))))
    if report:
        report(f"residual stream: peak {stream_peak:.1f}, {stream} binary places")
    norm = tables.NORM_FRACTION

    with torch.no_grad():
        embed = quantize_linear(
            model.embed.weight.double().numpy() * feature_units(config), model.embed.bias.double().numpy(), 0, stream, 1023,
            feature_limits(config),
        )  # fmt: skip
        blocks, fractions = [], {}
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            f = {
                p: ranges[f"{i}.{p}"].fraction(tables.ACT_MAX) for p in ("a", "v", "swish", "product", "gelu")
            }
            f["dw"] = ranges[f"{i}.dw"].fraction(tables.ACT_HALF - 1)
            f["up"] = ranges[f"{i}.up"].fraction(tables.ACT_HALF - 1)
            f["product"] = min(f["product"], f["swish"] + f["v"])
            fractions[str(i)] = f
            if report:
                report(f"block {i}: binary places {f}")
            w_a, b_a = _fold(block.norm1, block.mcg.a)
            w_v, b_v = _fold(block.norm1, block.mcg.v)
            w_up, b_up = _fold(block.norm2, block.up)

            def layer(weight: Float, bias: Float, inputs: str, places: int, out: int, i: int = i) -> Linear:
                return quantize_linear(
                    weight, bias, places, out, weight_limit, tables.ACT_MAX,
                    coarse=coarse, moments=ranges[f"{i}.{inputs}"].moments,
                )  # fmt: skip

            def plain(layer: torch.nn.Linear) -> tuple[Float, Float]:
                return layer.weight.double().numpy(), layer.bias.double().numpy()

            blocks.append(
                BlockWeights(
                    a=layer(w_a, b_a, "norm1", norm, f["a"]),
                    v=layer(w_v, b_v, "norm1", norm, f["v"]),
                    o=layer(*plain(block.mcg.o), "product", f["product"], stream),
                    dw=_quantize_depthwise(
                        block.mcg.kernel.double().numpy(),
                        block.mcg.kernel_bias.double().numpy(),
                        f["a"],
                        f["dw"],
                    ),
                    up=layer(w_up, b_up, "norm2", norm, f["up"]),
                    down=layer(*plain(block.down), "gelu", f["gelu"], stream),
                    product_shift=f["swish"] + f["v"] - f["product"],
                    swish=tables.activation_table("swish", f["dw"], f["swish"]),
                    gelu=tables.activation_table("gelu", f["up"], f["gelu"]),
                )
            )
        units = head_units(model)
        head = quantize_linear(
            model.head.weight.double().numpy() * units[:, None], model.head.bias.double().numpy() * units,
            stream, 0, 8191, tables.STREAM_MAX, 1 << 46,
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
