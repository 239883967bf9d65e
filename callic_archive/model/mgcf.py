"""The float MGCF (Masked Gated ConvFormer): training and RPFT run on it, decoding never loads it.

The whole model is in this file. Source: CALLIC (arXiv 2412.17464), sections "Masked Gated ConvFormer" and
"Pre-trained Settings"; departures are noted where they stand and measured in ``docs/decisions``.

Layout: features -> embedding -> depth x [LayerNorm -> MCG -> residual -> LayerNorm -> MLP -> residual] ->
head.
Everything but the depth-wise convolution acts on single pixels, so tensors are kept channels-last: (N, H, W,
C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callic_archive.model.config import (
    COMPAND_KNEE,
    COMPAND_LIMIT,
    EMBED_TAPS,
    GUIDE_FEATURES,
    GUIDE_TAPS,
    LOG_SCALE_MAX,
    LOG_SCALE_MIN,
    MEAN_GAIN,
    TAPS,
    MGCFConfig,
    causal_taps,
)
from callic_archive.model.depthwise import masked_depthwise
from callic_archive.model.fused import can_fuse, fused_bits


@dataclass(frozen=True)
class PlaneStats:
    """What the codestream header tells about a plane group; the model conditions on it.

    ``shift``: (N,) or scalar, unit = 2^shift levels. ``depth``: (N,), bits of the value range (at least 8).
    ``mid``: (N,), the level that stands in for pixels before the first. ``top``: (N,), the largest level
    (the least is 0). ``guide``: (N,), how the plane behind the levels is used: 0 not at all, 1 as a likeness of what is
    coded, -1 as what was subtracted from it; None where no plane is there.
    """

    shift: Tensor
    depth: Tensor
    mid: Tensor
    top: Tensor
    guide: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> PlaneStats:
        """Apply ``function`` to every tensor: slicing, moving between devices."""
        guide = function(self.guide) if self.guide is not None else None
        return PlaneStats(function(self.shift), function(self.depth), function(self.mid), function(self.top), guide)

    @staticmethod
    def eight_bit(n: int, device: torch.device | str = "cpu") -> PlaneStats:
        """Statistics of plain 8-bit data: unit of one level, mid-gray 128."""
        full = torch.full((n,), 0.0, device=device)
        return PlaneStats(full, full + 8, full + 128, full + 255)


def neighbours(x: Tensor, mid: Tensor) -> Tensor:
    """Causal neighbours of every pixel, with neighbours outside the patch replaced by the nearest known one.

    Args: x (N, C, H, W) levels; mid (N,). Returns (6, N, C, H, W) in the order of ``TAPS``.
    Replacement keeps differences small at borders (a zero would look like an edge of full contrast).
    """
    first_col = torch.cat([mid.view(-1, 1, 1).expand(-1, x.shape[1], 1), x[:, :, :-1, 0]], dim=2)  # (N, C, H)
    west = torch.cat([first_col.unsqueeze(-1), x[..., :-1]], dim=-1)
    north = torch.cat([west[:, :, :1], x[:, :, :-1]], dim=2)
    north_west = torch.cat([north[..., :1], north[..., :-1]], dim=-1)
    north_west = torch.cat([west[:, :, :1], north_west[:, :, 1:]], dim=2)
    north_east = torch.cat([north[..., 1:], north[..., -1:]], dim=-1)
    north_east = torch.cat([west[:, :, :1], north_east[:, :, 1:]], dim=2)
    west2 = torch.cat([west[..., :2], x[..., :-2]], dim=-1)[..., : x.shape[-1]]
    north2 = torch.cat([north[:, :, :2], x[:, :, :-2]], dim=2)[:, :, : x.shape[2]]
    return torch.stack([west, north, north_west, north_east, west2, north2])


def compand(units: Tensor) -> Tensor:
    """``knee * asinh(d / knee)`` of residuals in units, cut at the limit: edges stay visible without
    drowning noise."""
    return COMPAND_KNEE * torch.asinh(units.clamp(-COMPAND_LIMIT, COMPAND_LIMIT) / COMPAND_KNEE)


def guide_features(guide: Tensor, skip: Tensor, stats: PlaneStats) -> Tensor:
    """What a guide tells: how its neighbours differ from it, it from the skip prediction, and its use.

    Args: guide and skip (N, 1, H, W) levels. Returns (N, GUIDE_FEATURES, H, W), zeros where no guide is used. A neighbour
    outside the patch differs by nothing. No gradient goes into the skip prediction.
    """
    assert stats.guide is not None
    n, _, h, w = guide.shape
    padded = F.pad(guide, (1, 1, 1, 1), value=math.nan)
    around = torch.cat([padded[:, :, 1 + di : 1 + di + h, 1 + dj : 1 + dj + w] for di, dj in GUIDE_TAPS], 1)
    differences = torch.cat([torch.nan_to_num(around - guide), guide - skip.detach()], 1)
    use = stats.guide.view(-1, 1, 1, 1)
    told = compand(differences * torch.exp2(-stats.shift).view(-1, 1, 1, 1)) * use.abs()
    return torch.cat([told, use.expand(n, 1, h, w)], 1)


class MCG(nn.Module):
    """Masked convolutional gating (Eq. 5): ``W_O (swish(DWConv(W_A X)) * W_V X)``."""

    def __init__(self, config: MGCFConfig) -> None:
        super().__init__()
        self.a = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.taps = causal_taps(config.kernel, include_group=True)
        self.kernel = nn.Parameter(
            torch.empty(len(self.taps), config.dim)
        )  # (taps, C): masked taps do not exist
        self.kernel_bias = nn.Parameter(torch.zeros(config.dim))
        nn.init.uniform_(self.kernel, -1 / config.kernel, 1 / config.kernel)

    def forward(self, x: Tensor) -> Tensor:  # (N, H, W, C) -> (N, H, W, C)
        gate = F.silu(masked_depthwise(self.a(x), self.kernel, self.taps) + self.kernel_bias.to(x.dtype))
        out: Tensor = self.o(gate * self.v(x))
        return out


class Block(nn.Module):
    """LayerNorm -> MCG -> residual -> LayerNorm -> MLP -> residual."""

    def __init__(self, config: MGCFConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.mcg = MCG(config)
        self.norm2 = nn.LayerNorm(config.dim)
        self.up = nn.Linear(config.dim, config.hidden)
        self.down = nn.Linear(config.hidden, config.dim)

    def forward(self, x: Tensor) -> Tensor:  # (N, H, W, C) float32 -> same
        x = x + self.mcg(self.norm1(x)).float()
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x)))).float()
        return out


class MGCF(nn.Module):
    """Masked Gated ConvFormer over C jointly coded planes."""

    def __init__(self, config: MGCFConfig = MGCFConfig()) -> None:
        super().__init__()
        self.config = config
        self.skip = nn.Parameter(
            torch.zeros(config.channels, len(TAPS) - 1)
        )  # weights of all taps but the first (W)
        self.embed = nn.Linear(config.features, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.Linear(config.dim, config.outputs)
        self._start()

    def _start(self) -> None:
        """Initial values: where training starts decides most when compute is short (method, section 1)."""
        c, k = self.config.channels, self.config.mixtures
        with torch.no_grad():
            # Least-squares weights of natural images lie near W + N - NW; pretraining refines them.
            self.skip.copy_(torch.tensor([0.75, -0.45, 0.15, -0.05, -0.1]).expand(c, -1))
            self.embed.weight[:, : EMBED_TAPS * c].uniform_(-0.25, 0.25)
            self.embed.weight[:, EMBED_TAPS * c :].uniform_(-0.02, 0.02)
            self.embed.weight[:, 5 * c + 1 :] = 0.0  # a guide is learned to be heeded
            for block in self.blocks:
                assert isinstance(block, Block)
                block.mcg.o.weight.mul_(0.5)
                block.down.weight.mul_(0.5)
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[k + c * k : k + 2 * c * k] = torch.linspace(0.0, 2.2, k).repeat(c)
            coefficients = self.head.bias[k + 2 * c * k :]  # pairs (1,0), (2,0), (2,1), ...
            index = 0
            for later in range(1, c):
                for earlier in range(later):
                    coefficients[index * k : (index + 1) * k] = 0.85 if earlier == later - 1 else 0.0
                    index += 1

    def predict(self, taps: Tensor) -> Tensor:
        """Linear skip prediction. Args: taps (6, N, C, H, W) levels. Returns (N, C, H, W); weights sum to
        one."""
        delta = taps[1:] - taps[:1]
        skip: Tensor = taps[0] + torch.einsum("ct,tnchw->nchw", self.skip, delta)
        return skip

    def inputs(self, x: Tensor, stats: PlaneStats) -> tuple[Tensor, Tensor]:
        """Features of the embedding (N, H, W, features) and the skip prediction (N, C, H, W), from levels
        (N, C, H, W), with a guide behind them (N, C + 1, H, W)."""
        x, guide = x[:, : self.config.channels], x[:, self.config.channels :]
        n, c, h, w = x.shape
        taps = neighbours(x, stats.mid)
        skip = self.predict(taps)
        unit = torch.exp2(-stats.shift).view(-1, 1, 1, 1)
        residuals = compand((taps[:EMBED_TAPS] - skip) * unit)  # (4, N, C, H, W)
        level = (taps[0] - stats.mid.view(-1, 1, 1, 1)) * torch.exp2(8 - stats.depth).view(-1, 1, 1, 1)
        shift = stats.shift.view(-1, 1, 1, 1).expand(n, 1, h, w) * 4
        features = torch.cat(
            [residuals.permute(1, 0, 2, 3, 4).reshape(n, EMBED_TAPS * c, h, w), level, shift], 1
        )
        if self.config.guides:
            told = guide_features(guide, skip, stats) if guide.shape[1] else features.new_zeros(n, GUIDE_FEATURES, h, w)
            features = torch.cat([features, told], 1)
        return features.permute(0, 2, 3, 1), skip

    def forward(self, x: Tensor, stats: PlaneStats) -> tuple[Tensor, Tensor]:
        """Mixture parameters (N, H, W, outputs) float32 and skip prediction (N, C, H, W) from levels (N, C,
        H, W)."""
        features, skip = self.inputs(x, stats)
        y = self.embed(features).float()
        for block in self.blocks:
            y = block(y)
        with torch.autocast(device_type=x.device.type, enabled=False):
            return F.linear(y.float(), self.head.weight.float(), self.head.bias.float()), skip

    def bits(self, x: Tensor, stats: PlaneStats) -> Tensor:
        """Code length of every pixel in bits (N, H, W), all channels together, from levels x (N, C, H, W), or with a guide
        behind them (N, C + 1, H, W)."""
        gated = all(type(block) is Block and type(block.mcg) is MCG for block in self.blocks)  # variants may differ
        if gated and can_fuse(x, self.config.dim):
            kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
            return fused_bits(self, x, stats, kind)
        head, skip = self(x, stats)
        return mixture_bits(head, skip, x[:, : self.config.channels], stats, self.config)


def mixture_bits(head: Tensor, skip: Tensor, x: Tensor, stats: PlaneStats, config: MGCFConfig) -> Tensor:
    """Code length (N, H, W) in bits under the discretised logistic mixture with residual channel
    conditioning.

    As PixelCNN++ (arXiv 1701.05517, section 2.1), but channel c is conditioned on the *residuals* of earlier
    channels:
    ``mean_c = S_c + m_c + sum_j coef_cj (x_j - mean_j)``. Args: head (N, H, W, outputs), skip and x (N, C,
    H, W).
    """
    k, c = config.mixtures, config.channels
    unit = torch.exp2(-stats.shift).view(-1, 1, 1, 1)
    logits, means, scales, coefs = head.split([k, c * k, c * k, config.pairs * k], dim=-1)
    total = F.log_softmax(logits, dim=-1)
    errors: list[Tensor] = []
    pair = 0
    for ch in range(c):
        target = ((x[:, ch] - skip[:, ch]) * unit[..., 0]).unsqueeze(-1)  # (N, H, W, 1), in units
        centred = target - MEAN_GAIN * means[..., ch * k : (ch + 1) * k]
        for error in errors:
            centred = centred - coefs[..., pair * k : (pair + 1) * k] * error
            pair += 1
        errors.append(centred)
        inverse = torch.exp(-scales[..., ch * k : (ch + 1) * k].clamp(LOG_SCALE_MIN, LOG_SCALE_MAX))
        half = 0.5 * unit * inverse
        middle = centred * inverse
        # s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)). The lowest and the highest level own their whole tail.
        inside_low = (x[:, ch] > 0).unsqueeze(-1).to(head.dtype)
        inside_high = (x[:, ch] < stats.top.view(-1, 1, 1)).unsqueeze(-1).to(head.dtype)
        log_mass = (
            inside_high * F.logsigmoid(middle + half)
            + inside_low * F.logsigmoid(half - middle)
            + inside_low * inside_high * torch.log(-torch.expm1(-2 * half.clamp_min(1e-9)))
        )
        total = total + log_mass
    return torch.logsumexp(total, dim=-1) * (-1 / math.log(2))
