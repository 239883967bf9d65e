"""What calibration sees of a float model's activations, by which it is rounded to integers: their range, the covariance of what
goes into each layer, and how the code length depends on what comes out of it."""

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
from callic_archive.model.config import EMBED_TAPS, GUIDE_FEATURES, MEAN_GAIN, MGCFConfig
from callic_archive.model.depthwise import masked_depthwise
from callic_archive.model.mgcf import MGCF, Block, PlaneStats, mixture_bits

Float = NDArray[np.float64]


@dataclass
class Range:
    """Samples of one activation, from which its fraction is chosen."""

    samples: list[Tensor] = field(default_factory=list)
    fractions: dict[int, int] = field(default_factory=dict)  # those that were chosen, by the limit

    def add(self, values: Tensor) -> None:
        flat = values.detach().reshape(-1).float()
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


@dataclass
class Inputs:
    """First and second moments of vectors (..., in) that go into a layer."""

    products: Tensor | float = 0.0
    total: Tensor | float = 0.0
    count: int = 0

    def add(self, values: Tensor) -> None:
        rows = values.detach().reshape(-1, values.shape[-1]).float()
        for some in rows.split(1 << 13):  # sums of few in float32, of many in float64
            self.products, self.total = self.products + (some.T @ some).double(), self.total + some.sum(0).double()
        self.count += len(rows)

    @property
    def mean(self) -> Float:
        """(in,)."""
        assert isinstance(self.total, Tensor)
        found: Float = (self.total / self.count).numpy()
        return found

    @property
    def covariance(self) -> Float:
        """(in, in)."""
        assert isinstance(self.products, Tensor)
        found: Float = (self.products / self.count).numpy() - np.outer(self.mean, self.mean)
        return found


@dataclass
class Traces:
    """``ranges`` of activations; ``inputs`` of layers, and ``slopes``, the mean squares of the gradient (out,) of a pixel's code
    length, in nats, by their outputs, by the layers' names; empty where they were not asked for. The embedding's inputs and the
    head's outputs count in the units that they have among integers."""

    ranges: dict[str, Range] = field(default_factory=dict)
    inputs: dict[str, Inputs] = field(default_factory=dict)
    slopes: dict[str, Float] = field(default_factory=dict)

    def see(self, name: str, values: Tensor) -> None:
        self.ranges.setdefault(name, Range()).add(values)

    def goes_in(self, name: str, values: Tensor) -> None:
        self.inputs.setdefault(name, Inputs()).add(values)

    def fraction(self, name: str, limit: int) -> int:
        """Binary places of an activation that saturates at ``+-limit``."""
        return self.ranges[name].fraction(limit)


def trace(model: MGCF, batches: list[tuple[Tensor, PlaneStats]], *, slopes: bool = False) -> Traces:
    """Run the float model on calibration crops, batches of levels (N, C, H, W) with their statistics, and sample every
    activation that gets a fraction, and with ``slopes`` gradients too."""
    model = model.cpu().eval()
    traces, pixels = Traces(), 0
    sums: dict[str, Tensor] = {}
    for x, stats in batches:
        with torch.set_grad_enabled(slopes):
            outputs, head, skip = _run(model, x, stats, traces)
            if not slopes:
                continue
            pixels += x.shape[0] * x.shape[2] * x.shape[3]
            bits = mixture_bits(head, skip, x[:, : model.config.channels], stats, model.config)
            found = torch.autograd.grad(math.log(2) * bits.sum(), list(outputs.values()))
        for name, gradient in zip(outputs, found, strict=True):
            squares = gradient.reshape(-1, gradient.shape[-1]).square().sum(0, dtype=torch.float64)
            sums[name] = sums[name] + squares if name in sums else squares
    traces.slopes = {name: (total / pixels).numpy() for name, total in sums.items()}
    if slopes:
        traces.slopes["head"] /= np.square(head_units(model))
    return traces


def _run(model: MGCF, x: Tensor, stats: PlaneStats, traces: Traces) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The outputs of all layers by their names, the head's, and the skip prediction, of which ``traces`` sees what it needs."""
    features, skip = model.inputs(x, stats)
    traces.goes_in("embed", features / torch.from_numpy(feature_units(model.config)))
    y = model.embed(features)
    outputs = {"embed": y}
    traces.see("stream", y)
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        traces.goes_in(f"{i}.norm1", _bare(block.norm1, y))
        normal = block.norm1(y)
        a, v = block.mcg.a(normal), block.mcg.v(normal)
        z = masked_depthwise(a, block.mcg.kernel, block.mcg.taps) + block.mcg.kernel_bias
        gate = F.silu(z)
        product = gate * v
        o = block.mcg.o(product)
        y = y + o
        traces.goes_in(f"{i}.norm2", _bare(block.norm2, y))
        up = block.up(block.norm2(y))
        hidden = F.gelu(up)
        down = block.down(hidden)
        for name, values in (("a", a), ("v", v), ("dw", z), ("swish", gate), ("product", product), ("up", up), ("gelu", hidden)):
            traces.see(f"{i}.{name}", values)
        for name, values in (("a", a), ("product", product), ("gelu", hidden)):
            traces.goes_in(f"{i}.{name}", values)
        traces.see("stream", y)
        y = y + down
        traces.see("stream", y)
        outputs |= {f"{i}.a": a, f"{i}.v": v, f"{i}.dw": z, f"{i}.o": o, f"{i}.up": up, f"{i}.down": down}
    traces.goes_in("head", y)
    head = F.linear(y.float(), model.head.weight.float(), model.head.bias.float())
    return outputs | {"head": head}, head, skip


def _bare(norm: torch.nn.LayerNorm, values: Tensor) -> Tensor:
    """What a LayerNorm gives before its gain and bias, which fold into the layer behind it."""
    return F.layer_norm(values.detach(), norm.normalized_shape, eps=norm.eps)


def finer_gates(traces: Traces, price: Callable[[], float]) -> None:
    """Give gates (swish) more binary places, block by block, as long as ``price``, of the model that is then rounded, falls.

    The mean squared error by which places are chosen is ruled by few large values, while most gates are small, and multiply
    (decision 0034). ``price`` may raise InexactModel.
    """
    least = price()
    for gate in (seen for name, seen in traces.ranges.items() if name.endswith(".swish")):
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
    for name, seen in traces.ranges.items():
        if name.endswith(".swish"):
            seen.fractions = dict(earlier.ranges[name].fractions)
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
