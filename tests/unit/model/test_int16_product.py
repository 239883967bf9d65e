"""Products of int16 matrices: the integers that int64 gives, for all shapes and at the limits of the type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from callic_archive.model import int16_product as product
from callic_archive.model.integer import CpuModel
from callic_archive.model.weights import ModelSet
from tests.unit.model.builders import GRAY, RGB, random_weights

needs_vectors = pytest.mark.skipif(product.LANES == 0, reason="no instructions for pairs of 16-bit integers")


@needs_vectors
@pytest.mark.parametrize("rows", [4, 8, 12, 16, 20, 24, 28, 100])
@pytest.mark.parametrize(("inputs", "panels"), [(2, 1), (6, 3), (128, 4), (130, 1)])
def test_equals_int64(rows: int, inputs: int, panels: int) -> None:
    rng = np.random.default_rng(rows + inputs)
    for largest_x, largest_w in ((511, 127), (1023, 32767), (32767, 1)):
        x = rng.integers(-largest_x, largest_x + 1, (rows, inputs)).astype(np.int16)
        weight = rng.integers(-largest_w, largest_w + 1, (inputs, panels * product.PANEL))
        out = np.full((rows, weight.shape[1]), -7, np.int32)
        product.multiply(x, product.pack(weight), out)
        expected = x.astype(np.int64) @ weight
        assert np.array_equal(out, expected.astype(np.int32))  # wraps as int32 does, where it must


@needs_vectors
def test_no_other_byte_is_written() -> None:
    room = np.full((20, product.PANEL), -7, np.int32)
    x = np.ones((12, 4), np.int16)
    product.multiply(x, product.pack(np.ones((4, product.PANEL), np.int64)), room[4:16])
    room[4:16] -= 11
    assert (room == -7).all()


@needs_vectors
@pytest.mark.parametrize("weight", [np.zeros((3, 64)), np.zeros((2, 63)), np.full((2, 64), 1 << 15)])
def test_what_does_not_fit_is_refused(weight: np.ndarray) -> None:  # type: ignore[type-arg]
    assert not product.fits(weight)
    with pytest.raises(ValueError, match="16-bit"):
        product.pack(weight)


@needs_vectors
def test_the_shipped_models_use_them() -> None:
    for model in ModelSet.default():
        assert CpuModel(model.weights).short == (model.weights.config.dim >= product.PANEL), model.name
    assert CpuModel(random_weights(RGB, 1)).short
    assert CpuModel(random_weights(GRAY, 1)).short == (product.PANEL <= 16)  # its matrices have 16 columns
    assert not CpuModel(random_weights(RGB, 1), short=False).short


@pytest.mark.parametrize("setting", ["NUMBA_CPU_NAME", "NUMBA_DISABLE_JIT"])
def test_nothing_is_assumed_where_numba_compiles_for_another_processor(setting: str) -> None:
    value = {"NUMBA_CPU_NAME": "generic", "NUMBA_DISABLE_JIT": "1"}[setting]
    code = "from callic_archive.model import int16_product as p; print(p.LANES)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={setting: value}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"


@needs_vectors
@pytest.mark.parametrize("missing", [["avx512vnni"], ["avx512vnni", "avx512bw"]])
def test_older_processors_give_the_same(missing: list[str], tmp_path: Path) -> None:
    """As if the processor lacked its newest instructions; compiled code goes to a cache of its own."""
    code = f"""
import llvmlite.binding as llvm, numpy as np
found = llvm.get_host_cpu_features()
for name in {missing}:
    found[name] = False
llvm.get_host_cpu_features = lambda: found
from callic_archive.model import int16_product as product
rng = np.random.default_rng(1)
x = rng.integers(-511, 512, (28, 64)).astype(np.int16)
weight = rng.integers(-127, 128, (64, 2 * product.PANEL))
out = np.zeros((28, 2 * product.PANEL), np.int32)
product.multiply(x, product.pack(weight), out)
assert np.array_equal(out, x.astype(np.int64) @ weight)
print(product.LANES)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert int(done.stdout) == (8 if "avx512bw" in missing else product.LANES)
