"""Masked depth-wise convolution for training: only the causal taps exist, in all three passes.

A general convolution multiplies the masked taps too, and its weight gradient on CPUs takes thirty times its
forward pass. Here the taps are a list, the layout is channels-last, and on CPUs the three passes are
compiled loops; other devices use the library's convolution with the taps scattered into a square kernel.

On CPUs ``fused.py`` has loops of its own; what it does not take comes here: odd widths, other kinds of blocks, calibration.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from callic_archive.model import depthwise_cpu


class _CpuDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, taps: Tensor) -> Tensor:
        x32, kernel32 = x.float().contiguous(), kernel.float().contiguous()
        out = torch.empty_like(x32)
        depthwise_cpu.forward(x32.numpy(), kernel32.numpy(), taps.numpy(), out.numpy())
        ctx.save_for_backward(x32, kernel32, taps)
        ctx.dtype = x.dtype
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x32, kernel32, taps = ctx.saved_tensors
        grad = grads[0].float().contiguous()
        grad_x = torch.empty_like(grad)
        # The gradient with respect to the input is the same convolution with mirrored taps.
        depthwise_cpu.forward(grad.numpy(), kernel32.numpy(), (-taps).numpy(), grad_x.numpy())
        partial = np.zeros((depthwise_cpu.row_count(grad.shape), *kernel32.shape), np.float32)
        depthwise_cpu.weight_gradient(x32.numpy(), grad.numpy(), taps.numpy(), partial)
        return grad_x.to(ctx.dtype), torch.from_numpy(partial.sum(0)), None


def masked_depthwise(x: Tensor, kernel: Tensor, taps: list[tuple[int, int]]) -> Tensor:
    """``out[n, i, j, c] = sum_t kernel[t, c] x[n, i + di_t, j + dj_t, c]``, zero outside.

    Args: x (N, H, W, C), kernel (T, C), taps T offsets (di, dj). Returns (N, H, W, C) of x's dtype.
    """
    if x.device.type == "cpu":
        out: Tensor = _CpuDepthwise.apply(x, kernel, torch.tensor(taps, dtype=torch.int64))  # type: ignore[no-untyped-call]
        return out
    radius = max(max(abs(di), abs(dj)) for di, dj in taps)
    size = 2 * radius + 1
    flat = torch.zeros(size * size, kernel.shape[1], device=x.device, dtype=kernel.dtype)
    index = torch.tensor([(di + radius) * size + dj + radius for di, dj in taps], device=x.device)
    square = flat.index_copy(0, index, kernel).t().reshape(-1, 1, size, size)
    y = F.conv2d(x.permute(0, 3, 1, 2), square.to(x.dtype), padding=radius, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1)
