"""The fused training step on CPUs against autograd over the model as it is written down."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor

from callic_archive.model import mgcf
from callic_archive.model.config import MGCFConfig
from callic_archive.model.dequantize import float_model
from callic_archive.model.fused import can_fuse
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.weights import ModelSet


def network(channels: int, dim: int, kernel: int = 7, depth: int = 2) -> MGCF:
    torch.manual_seed(channels)
    model = MGCF(MGCFConfig(channels=channels, dim=dim, depth=depth, kernel=kernel))
    with torch.no_grad():
        for parameter in model.parameters():  # no gradient is nought
            parameter.add_(0.03 * torch.randn_like(parameter))
    return model


def picture(count: int, channels: int, height: int, width: int) -> Tensor:
    """Crops of a photograph, its darkest and lightest pixels cut, so that both ends of the range occur."""
    levels = np.clip(data.astronaut().astype(np.int64) * 5 // 4 - 32, 0, 255)
    levels = np.concatenate([levels, levels[..., :1]], 2)
    crops = [levels[40 * n : 40 * n + height, 60 * n : 60 * n + width, :channels] for n in range(count)]
    return torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32))


def gradients(
    model: MGCF, x: Tensor, stats: PlaneStats, *, narrow: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
        bits = model.bits(x, stats)
    (bits * torch.linspace(0.5, 1.5, bits.numel()).view_as(bits)).mean().backward()
    return bits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def off(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm().clamp_min(1e-12))


def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mgcf, "can_fuse", lambda *_: False)


@pytest.mark.parametrize(
    ("channels", "dim", "kernel", "shape"),
    [
        (3, 64, 7, (2, 13, 32)),
        (1, 32, 7, (3, 2, 16)),
        (4, 32, 3, (1, 5, 16)),
        (2, 96, 5, (2, 1, 48)),
        (1, 128, 9, (1, 20, 16)),
    ],
)
def test_fused_and_plain_agree(
    channels: int, dim: int, kernel: int, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = network(channels, dim, kernel), picture(shape[0], channels, *shape[1:])
    stats = PlaneStats.eight_bit(shape[0])
    bits, found = gradients(model, x, stats)
    unfused(monkeypatch)
    true_bits, true = gradients(model, x, stats)
    assert torch.allclose(bits, true_bits, rtol=1e-4, atol=1e-4)
    assert found.keys() == true.keys()
    assert max(off(found[name], true[name]) for name in true) < 1e-3


def test_planes_of_many_bits_and_a_shift_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(1, 32), picture(2, 1, 8, 32) * 150
    x += torch.randint(0, 150, x.shape, generator=torch.Generator().manual_seed(1))
    stats = PlaneStats(*(torch.tensor(v) for v in ([3.0, 5.0], [16.0, 15.0], [32768.0, 9000.0], [65535.0, 38399.0])))
    bits, found = gradients(model, x, stats)
    unfused(monkeypatch)
    true_bits, true = gradients(model, x, stats)
    assert torch.allclose(bits, true_bits, rtol=1e-4, atol=1e-4)
    assert max(off(found[name], true[name]) for name in true) < 1e-3


@pytest.mark.parametrize("name", ["rgb8-tiny", "gray16-tiny"])
def test_bfloat16_loses_less_than_autocast_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (shipped,) = (m for m in ModelSet.default() if m.name == name)
    model = float_model(shipped.weights).requires_grad_(True)
    x, stats = picture(2, shipped.channels, 32, 32), PlaneStats.eight_bit(2)
    _, found = gradients(model, x, stats, narrow=True)
    unfused(monkeypatch)
    _, cast = gradients(model, x, stats, narrow=True)
    _, true = gradients(model, x, stats)
    errors = {name: (off(found[name], true[name]), off(cast[name], true[name])) for name in true}
    assert sum(ours for ours, _ in errors.values()) < sum(theirs for _, theirs in errors.values()), errors


def test_groups_of_channels_change_nothing() -> None:
    model, x, stats = network(1, 128), picture(1, 1, 16, 16), PlaneStats.eight_bit(1)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        bits, alone = gradients(model, x, stats)
        numba.set_num_threads(min(4, numba.config.NUMBA_NUM_THREADS))
        same, together = gradients(model, x, stats)
    finally:
        numba.set_num_threads(before)
    assert torch.equal(bits, same)
    assert all(off(together[name], alone[name]) < 1e-5 for name in alone)


def test_what_does_not_fit_goes_the_plain_way() -> None:
    assert can_fuse(torch.zeros(1, 1, 3, 32), 64)
    assert not can_fuse(torch.zeros(1, 1, 3, 17), 64)
    assert not can_fuse(torch.zeros(1, 1, 3, 32), 24)
    assert not can_fuse(torch.zeros(1, 1, 3, 32, dtype=torch.float64), 64)
    bits, found = gradients(network(1, 24), picture(1, 1, 5, 7), PlaneStats.eight_bit(1))
    assert bits.shape == (1, 5, 7)
    assert all(torch.isfinite(g).all() for g in found.values())


def test_a_block_of_another_kind_is_not_fused() -> None:
    class Halved(mgcf.MCG):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * super().forward(x)

    model, x, stats = network(1, 32), picture(1, 1, 4, 16), PlaneStats.eight_bit(1)
    before = model.bits(x, stats)
    for block in model.blocks:
        block.mcg.__class__ = Halved  # type: ignore[union-attr]
    after = model.bits(x, stats)
    assert not torch.allclose(before, after)
