"""The code length of MGCF and its gradient on CPUs: what a training step does beside its matrix products, it does once.

``fused_bits`` computes what ``MGCF.bits`` says; which is left to autograd elsewhere. Gains and offsets of LayerNorm become part
of the layer behind (small products that autograd follows); a and v come from one product; biases are added where a result
is read anyway; what goes into a product is stored as the product takes it; the way back starts from stored derivatives; and
the MLP goes through the caches in parts. On a processor with matrix units most of a step was spent between its products
(``docs/decisions/0027-fused-steps.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from callic_archive.model import blocks_cpu, ends_cpu
from callic_archive.model.config import EMBED_TAPS
from callic_archive.model.vectors import LANES

if TYPE_CHECKING:
    from callic_archive.model.mgcf import MGCF, PlaneStats

#: Tensors of one block: a and v, the kernel, o, up, down, each with its bias; which of them are matrices.
_PARTS, _MATRICES = 10, (0, 4, 6, 8)
#: Pixels of which the MLP's hidden layer is computed at once: few enough for the caches, enough for its products.
_AT_ONCE = 2048
Floats = NDArray[np.float32]


def can_fuse(x: Tensor, width: int) -> bool:
    """Whether ``fused_bits`` takes levels of this shape and place, for a network of this width."""
    if getattr(numba.config, "DISABLE_JIT", 0):  # vectors are for compiled code
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[-1] % LANES == 0 and width % blocks_cpu.STRIPE == 0


def fused_bits(model: MGCF, x: Tensor, stats: PlaneStats, kind: torch.dtype) -> Tensor:
    """Code length of every pixel in bits (N, H, W), from levels x (N, C, H, W), or with a guide behind them; ``kind``:
    bfloat16 for matrix products, or float32."""
    parts: list[Tensor] = []
    with torch.autocast("cpu", enabled=False):
        for module in model.blocks:
            block: Any = module
            gating = block.mcg
            w_av, b_av = torch.cat([gating.a.weight, gating.v.weight]), torch.cat([gating.a.bias, gating.v.bias])
            parts += [*_with_norm(block.norm1, w_av, b_av), gating.kernel, gating.kernel_bias, gating.o.weight, gating.o.bias]
            parts += [*_with_norm(block.norm2, block.up.weight, block.up.bias), block.down.weight, block.down.bias]
        ends = (model.skip, model.embed.weight, model.embed.bias, model.head.weight, model.head.bias)
        taps = np.array(block.mcg.taps, np.int64)
        channels = model.config.channels
        known: Callable[[Tensor], Tensor] | None = None
        if x.shape[1] > channels:
            known = partial(_told, x[:, channels:], stats)
        header = _Header.of(stats, x.shape[0])
        bits: Tensor = _Bits.apply(x[:, :channels], header, known, taps, model.config.mixtures, kind, *ends, *parts)  # type: ignore[no-untyped-call]
    return bits


def _with_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A layer that takes what ``add_normalise`` leaves: the gain and the offset of ``norm`` within its own."""
    return weight * norm.weight, bias + weight @ norm.bias


def _told(guide: Tensor, stats: PlaneStats, skip: Tensor) -> Tensor:
    """What a guide tells beside the skip prediction: features (GUIDE_FEATURES, P)."""
    from callic_archive.model.mgcf import guide_features

    found = guide_features(guide, skip, stats)
    return found.permute(1, 0, 2, 3).reshape(found.shape[1], -1)


@dataclass(frozen=True)
class _Header:
    """``PlaneStats`` as arrays (N,)."""

    shift: Floats
    depth: Floats
    mid: Floats
    top: Floats

    @staticmethod
    def of(stats: PlaneStats, count: int) -> _Header:
        parts = (stats.shift, stats.depth, stats.mid, stats.top)
        return _Header(*(p.detach().float().reshape(-1).expand(count).contiguous().numpy() for p in parts))


def _array(tensor: Tensor) -> NDArray[Any]:
    """A flat view for compiled loops; bfloat16 as uint16."""
    flat = tensor.detach().reshape(-1)
    return (flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat).numpy()


def _narrow(tensor: Tensor, kind: torch.dtype) -> Tensor:
    return tensor.detach().to(kind).contiguous()


def _pieces(pixels: int) -> list[slice]:
    return [slice(n, min(n + _AT_ONCE, pixels)) for n in range(0, pixels, _AT_ONCE)]


@dataclass(frozen=True)
class _Weights:
    """One block's tensors, matrices as products take them."""

    w_av: Tensor
    b_av: Tensor
    kernel: Tensor
    b_kernel: Tensor
    w_o: Tensor
    b_o: Tensor
    w_up: Tensor
    b_up: Tensor
    w_down: Tensor
    b_down: Tensor

    @staticmethod
    def of(parts: Sequence[Tensor], kind: torch.dtype) -> _Weights:
        return _Weights(*(_narrow(p, kind if n in _MATRICES else torch.float32) for n, p in enumerate(parts)))


@dataclass(frozen=True)
class _Kept:
    """What one block's forward pass leaves for its way back; all but the scales as products take it."""

    weights: _Weights
    hat1: Tensor
    scales1: Floats
    av: Tensor
    swish: Tensor
    slope: Tensor
    gated: Tensor
    hat2: Tensor
    scales2: Floats
    bend: Tensor
    hidden: Tensor


class _Trunk:
    """All blocks, over the pixels of some images: forth once, then back once."""

    def __init__(self, shape: tuple[int, int, int], width: int, taps: NDArray[np.int64], kind: torch.dtype) -> None:
        self.shape, self.width, self.taps, self.kind = (*shape, width), width, taps, kind
        self.pixels = shape[0] * shape[1] * shape[2]
        self.groups = blocks_cpu.groups_of(shape[0], width, numba.get_num_threads())
        self.kept: list[_Kept] = []

    def _fresh(self, columns: int) -> Tensor:
        return torch.empty(self.pixels, columns, dtype=self.kind)

    def _sums(self, columns: int) -> Floats:
        return np.zeros((blocks_cpu.chunks(self.pixels), columns), np.float32)

    def forward(self, stream: Tensor, first: Tensor, bias: Tensor, parts: Sequence[Tensor]) -> None:
        """``stream`` (P, D), float32: filled with what leaves the last block where ``first + bias`` enters the first."""
        flat, width = _array(stream), self.width
        y, last = first, bias

        def normalised() -> tuple[Tensor, Floats]:
            """The stream after what was last computed was added to it, as the next product takes it."""
            hat, scales = self._fresh(width), np.empty(self.pixels, np.float32)
            blocks_cpu.add_normalise(flat, _array(y), _array(last), _array(hat), scales, width)
            return hat, scales

        for n in range(0, len(parts), _PARTS):
            w = _Weights.of(parts[n : n + _PARTS], self.kind)
            hat1, scales1 = normalised()
            av = hat1 @ w.w_av.t()
            gated, swish, slope = (self._fresh(width) for _ in range(3))
            blocks_cpu.gate(
                _array(av), _array(w.b_av), _array(w.kernel), _array(w.b_kernel), self.taps, self.shape, self.groups,
                _array(gated), _array(swish), _array(slope),
            )  # fmt: skip
            y, last = gated @ w.w_o.t(), w.b_o
            hat2, scales2 = normalised()
            bend, hidden = self._fresh(w.w_up.shape[0]), self._fresh(w.w_up.shape[0])
            y, last = self._fresh(width), w.b_down
            for piece in _pieces(self.pixels):
                torch.mm(hat2[piece], w.w_up.t(), out=bend[piece])
                blocks_cpu.gelu(_array(bend[piece]), _array(w.b_up), _array(hidden[piece]), bend.shape[1])
                torch.mm(hidden[piece], w.w_down.t(), out=y[piece])
            self.kept.append(_Kept(w, hat1, scales1, av, swish, slope, gated, hat2, scales2, bend, hidden))
        blocks_cpu.add(flat, _array(y), _array(last), width)

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """From the gradient (P, D) of what left the last block, which is overwritten, to that of what entered the first, narrow;
        its sum over pixels; and those of all tensors of ``parts``."""
        flat, width = _array(grad), self.width
        narrow, sums = self._fresh(width), self._sums(width)
        blocks_cpu.narrow_gradient(flat, _array(narrow), sums, width)
        found: list[list[Tensor]] = []
        while self.kept:
            kept = self.kept.pop()
            w, columns = kept.weights, kept.bend.shape[1]
            of_b_down, of_down, of_up = _summed(sums), torch.zeros(width, columns), torch.zeros(columns, width)
            sums_up, back = np.zeros((blocks_cpu.chunks(_AT_ONCE), columns), np.float32), torch.empty_like(narrow)
            for piece in _pieces(self.pixels):
                of_down += narrow[piece].t() @ kept.hidden[piece]
                inner = narrow[piece] @ w.w_down
                blocks_cpu.times_slope(_array(inner), _array(kept.bend[piece]), sums_up, columns)
                of_up += inner.t() @ kept.hat2[piece]
                torch.mm(inner, w.w_up, out=back[piece])
            sums = self._sums(width)
            blocks_cpu.normalise_backward(flat, _array(back), _array(kept.hat2), kept.scales2, _array(narrow), sums, width)

            of_b_o, of_o = _summed(sums), narrow.t() @ kept.gated
            inner, of_av = narrow @ w.w_o, torch.empty_like(kept.av)
            sums_kernel = np.zeros((self.shape[0], w.kernel.numel()), np.float32)
            sums_gate = np.zeros((self.shape[0], 3 * width), np.float32)
            blocks_cpu.gate_backward(
                _array(inner), _array(kept.swish), _array(kept.slope), _array(kept.av), _array(w.b_av), _array(w.kernel),
                self.taps, self.shape, self.groups, _array(of_av), sums_kernel, sums_gate,
            )  # fmt: skip
            of_w_av, of_gate = of_av.t() @ kept.hat1, _summed(sums_gate)
            back, sums = of_av @ w.w_av, self._sums(width)
            blocks_cpu.normalise_backward(flat, _array(back), _array(kept.hat1), kept.scales1, _array(narrow), sums, width)
            of_kernel = _summed(sums_kernel).view_as(w.kernel)
            of_gating = [of_w_av, of_gate[: 2 * width], of_kernel, of_gate[2 * width :], of_o, of_b_o]
            found.append([*of_gating, of_up, _summed(sums_up), of_down, of_b_down])
        return narrow, _summed(sums), [g for block in reversed(found) for g in block]


def _summed(parts: Floats) -> Tensor:
    return torch.from_numpy(parts.sum(0))


class _Bits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, header: _Header, known: Callable[[Tensor], Tensor] | None,
        taps: NDArray[np.int64], mixtures: int, kind: torch.dtype,
        skip: Tensor, w_embed: Tensor, b_embed: Tensor, w_head: Tensor, b_head: Tensor, *parts: Tensor,
    ) -> Tensor:  # fmt: skip
        x = x.detach().contiguous()
        images, channels, height, columns = x.shape
        shape, pixels, width = (images, channels, height, columns), images * height * columns, w_embed.shape[0]
        features, guess = torch.empty(w_embed.shape[1], pixels, dtype=kind), torch.empty(shape)
        ends_cpu.features(
            _array(x), _array(skip), header.shift, header.depth, header.mid, shape, _array(features).reshape(-1), _array(guess)
        )
        own = (EMBED_TAPS + 1) * channels + 1
        if known is not None:
            features[own:] = known(guess)
        else:
            features[own:] = 0
        trunk = _Trunk((images, height, columns), width, taps, kind)
        stream = torch.zeros(pixels, width)
        trunk.forward(stream, features.t() @ _narrow(w_embed, kind).t(), b_embed, parts)
        # The distributions' parameters are kept in full precision; pixels lie side by side, for what comes next.
        head = torch.addmm(b_head.detach()[:, None], w_head.detach(), stream.t())
        bits, of_guess = torch.empty(images, height, columns), torch.empty(shape)
        ends_cpu.mixture(
            _array(head), _array(guess), _array(x), header.shift, header.top, shape, mixtures,
            _array(bits), _array(head), _array(of_guess),
        )  # fmt: skip
        ctx.state = (x, header, trunk, features, guess, stream, head, of_guess, _narrow(w_embed, kind), _narrow(w_head, kind))
        ctx.dtypes = [p.dtype for p in (skip, w_embed, b_embed, w_head, b_head, *parts)]
        return bits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, header, trunk, features, guess, stream, head, of_guess, w_embed, w_head = ctx.state
        ctx.state = None
        incoming = grads[0].float()
        of_head = (head * incoming.reshape(1, -1)).to(trunk.kind)
        of_guess = of_guess * incoming.unsqueeze(1)
        of_w_head = of_head @ stream.to(trunk.kind)
        narrow, of_b_embed, of_parts = trunk.backward((of_head.t() @ w_head).float())
        of_features = w_embed.t() @ narrow.t()
        of_w_embed = narrow.t() @ features.t()
        n, c, h, w = x.shape
        of_skip = np.zeros((n * h, c * 5), np.float32)
        ends_cpu.features_backward(
            _array(x), _array(guess), header.shift, header.mid, (n, c, h, w), _array(of_features), _array(of_guess), of_skip
        )
        every = [_summed(of_skip).view(c, 5), of_w_embed, of_b_embed, of_w_head, of_head.float().sum(1), *of_parts]
        return (None,) * 6 + tuple(g.to(kind) for g, kind in zip(every, ctx.dtypes, strict=True))
