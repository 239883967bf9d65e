"""Sixteen floats at a time: functions against numpy's in double precision, and bfloat16 as torch rounds it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from numpy.typing import NDArray

from callic_archive.model import vectors
from callic_archive.model.vectors import LANES, choose, constant, exp, load, log, root, signed, store, total

Floats = NDArray[np.float32]


def applied(function: Any, x: Floats) -> Floats:
    """``function`` on every vector of ``x``."""

    @njit
    def loop(x: Floats, out: Floats) -> None:
        for n in range(0, x.size, LANES):
            store(out, n, function(load(x, n)))

    out = np.empty_like(x)
    loop(x, out)
    return out


@pytest.mark.parametrize(
    ("function", "true", "values"),
    [
        (exp, np.exp, np.linspace(-86, 86, 4096)),
        (exp, np.exp, np.linspace(-1, 1, 4096)),
        (log, np.log, np.exp(np.linspace(-80, 80, 4096))),
        (root, np.sqrt, np.exp(np.linspace(-80, 80, 4096))),
    ],
)
def test_functions_are_right_to_the_last_places(
    function: Any, true: Callable[[Any], Any], values: NDArray[np.float64]
) -> None:
    x = values.astype(np.float32)
    expected = true(x.astype(np.float64))
    assert np.all(np.abs(applied(function, x) - expected) <= 3e-7 * np.abs(expected) + 1e-12)


def test_the_logarithm_near_one_keeps_its_precision() -> None:
    x = (1 + np.linspace(-1e-3, 1e-3, 4096)).astype(np.float32)
    expected = np.log(x.astype(np.float64))
    assert np.all(np.abs(applied(log, x) - expected) <= 3e-7 * np.abs(expected))


def test_the_exponential_neither_overflows_nor_vanishes() -> None:
    found = applied(exp, np.array([-1e30, -np.inf, 1e30, np.inf] * 4, np.float32))
    assert np.all(np.isfinite(found))
    assert np.all(found > 0)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    # every way to round: ties to even on both sides, carries into the exponent, both signs, zero
    bits = np.arange(0x3F7F_0000, 0x3F81_0000, 0x101, dtype=np.uint32)
    x = np.concatenate([bits, bits | 0x8000_0000, np.arange(0x4000_8000, 0x4010_8000, 0x8000, dtype=np.uint32)])
    x = np.concatenate([x, np.zeros(-x.size % LANES, np.uint32)]).view(np.float32)
    narrow = np.empty(x.size, np.uint16)

    @njit
    def there_and_back(x: Floats, narrow: NDArray[np.uint16], out: Floats) -> None:
        for n in range(0, x.size, LANES):
            store(narrow, n, load(x, n))
            store(out, n, load(narrow, n))

    out = np.empty_like(x)
    there_and_back(x, narrow, out)
    expected = torch.from_numpy(x).bfloat16()
    assert np.array_equal(narrow, expected.view(torch.uint16).numpy())
    assert np.array_equal(out, expected.float().numpy())


def test_a_processor_without_the_instruction_rounds_alike(tmp_path: Path) -> None:
    """As on one that has nothing but what every x86-64 processor has; other architectures have no such name."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the name of a processor is needed, and this one is of x86-64")
    code = """
import numpy as np, torch
from numba import njit
from callic_archive.model import vectors
from callic_archive.model.vectors import load, store
assert not vectors._ROUNDS_TO_BFLOAT
@njit
def narrow(x, out):
    for n in range(0, x.size, 16):
        store(out, n, load(x, n))
x = np.random.default_rng(1).standard_normal(4096).astype(np.float32)
out = np.empty(x.size, np.uint16)
narrow(x, out)
assert np.array_equal(out, torch.from_numpy(x).bfloat16().view(torch.uint16).numpy())
"""
    settings = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    command, env = [sys.executable, "-c", code], {**os.environ, **settings}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lanes_are_summed_chosen_and_signed() -> None:
    x = np.arange(-8, 8, dtype=np.float32)

    @njit
    def sums(x: Floats) -> float:
        return total(load(x, 0))

    assert sums(x) == -8

    @njit(inline="always")
    def halved_below(v: Any) -> Any:
        return choose(v, v, v * constant(0.5))

    assert np.array_equal(applied(halved_below, x), np.where(x >= 0, x, x / 2))

    @njit(inline="always")
    def ones(v: Any) -> Any:
        return signed(constant(1.0), v)

    assert np.array_equal(applied(ones, x), np.where(x >= 0, 1, -1))
    assert vectors.LANES == 16
