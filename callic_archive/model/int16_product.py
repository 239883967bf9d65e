"""Matrix products of 16-bit integers into 32-bit sums, at two to four times the speed of float32.

x86 processors multiply pairs of 16-bit integers and add both products in one instruction (``vpdpwssd``, or
``vpmaddwd`` and an addition where that is missing). No library offers a product of int16 matrices, so the inner
loop is written here, instruction by instruction, and compiled by numba. Sums never pass 2^24 (``check_exact``),
so they are the same integers that float32 products give; machines without these instructions use those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from callic_archive.model.processor import features

I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
#: Vectors side by side in one panel of columns.
VECTORS = 2


_FOUND = features()
_PAIR_SUM = bool(_FOUND.get("avx512bw") and _FOUND.get("avx512vnni"))
#: 32-bit lanes of a vector; 0 where there are no instructions for pairs.
LANES = 16 if _FOUND.get("avx512bw") else 8 if _FOUND.get("avx2") else 0
#: Columns of a panel.
PANEL = VECTORS * LANES
#: Rows that one pass of the inner loop takes: as many as leave their sums in registers.
TALL = 12 if LANES == 16 else 4
#: Inputs and sums need a multiple of this many rows.
ROWS = 4


def fits(weight: NDArray[Any]) -> bool:
    """Whether a product with this weight (inputs, outputs) can be made here."""
    inputs, outputs = weight.shape
    shape_fits = LANES > 0 and inputs % 2 == 0 and outputs % PANEL == 0
    return shape_fits and int(np.abs(weight).max(initial=0)) < 1 << 15


def pack(weight: NDArray[Any]) -> I32:
    """Weight (inputs, outputs) -> (panels, inputs / 2, PANEL): pairs of rows side by side, read front to back."""
    if not fits(weight):
        raise ValueError("this weight cannot be packed for products of 16-bit integers")
    inputs, outputs = weight.shape
    pairs = weight.astype(np.int16).reshape(inputs // 2, 2, outputs // PANEL, PANEL).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(pairs).view(np.int32)[..., 0]


def _inner_loop(rows: int) -> Any:
    """The product of ``rows`` rows with one panel, as an intrinsic function of compiled code."""

    @intrinsic
    def multiply(typing: Any, x: Any, row: Any, weight: Any, panel: Any, out: Any) -> Any:
        return types.void(x, types.int64, weight, types.int64, out), _generate(rows)

    return multiply


def _generate(rows: int) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lane, word = ir.IntType(32), ir.IntType(64)
        vector = ir.VectorType(lane, LANES)
        nothing, zeros = ir.Constant(vector, ir.Undefined), ir.Constant(vector, [0] * LANES)

        def number(value: int) -> Any:
            return ir.Constant(word, value)

        def array(index: int) -> Any:
            return context.make_array(signature.args[index])(context, builder, args[index])

        def address(of: Any, index: Any) -> Any:
            step = builder.extract_value(of.strides, 0)
            return builder.add(builder.ptrtoint(of.data, word), builder.mul(index, step))

        def pointer(to: Any, base: Any, offset: Any) -> Any:
            return builder.inttoptr(builder.add(base, offset), to.as_pointer())

        x, weight, out = array(0), array(2), array(4)
        row, panel = args[1], args[3]
        lines = [address(x, builder.add(row, number(r))) for r in range(rows)]
        columns = address(weight, panel)
        pairs = builder.extract_value(weight.shape, 1)
        before = builder.block
        loop, done = builder.append_basic_block("pair"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(word)
        k.add_incoming(number(0), before)
        sums = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(rows)]
        for line in sums:
            for total in line:
                total.add_incoming(zeros, before)
        here = builder.add(columns, builder.mul(k, number(4 * PANEL)))
        factors = [
            builder.load(pointer(vector, here, number(4 * LANES * v)), align=4) for v in range(VECTORS)
        ]
        add_pairs = _add_pairs(builder, vector)
        for r in range(rows):
            pair = builder.load(pointer(lane, lines[r], builder.mul(k, number(4))), align=2)
            first = builder.insert_element(nothing, pair, ir.Constant(lane, 0))
            everywhere = builder.shuffle_vector(first, nothing, zeros)
            for v in range(VECTORS):
                total = sums[r][v]
                sums[r][v] = add_pairs(total, everywhere, factors[v])
                total.add_incoming(sums[r][v], loop)
        following = builder.add(k, number(1))
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, pairs), loop, done)
        builder.position_at_end(done)
        column = builder.mul(panel, number(4 * PANEL))
        for r in range(rows):
            line = builder.add(address(out, builder.add(row, number(r))), column)
            for v in range(VECTORS):
                builder.store(sums[r][v], pointer(vector, line, number(4 * LANES * v)), align=4)
        return context.get_dummy_value()

    return generate


def _add_pairs(builder: Any, vector: Any) -> Any:
    """total + a[2i] b[2i] + a[2i+1] b[2i+1] in every lane, by the best instruction there is."""
    halves = ir.VectorType(ir.IntType(16), 2 * LANES)
    if _PAIR_SUM:
        kind = ir.FunctionType(vector, [vector, vector, vector])
        fused = builder.module.declare_intrinsic("llvm.x86.avx512.vpdpwssd.512", fnty=kind)
        return lambda total, a, b: builder.call(fused, [total, a, b])
    name = "llvm.x86.avx512.pmaddw.d.512" if LANES == 16 else "llvm.x86.avx2.pmadd.wd"
    plain = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(vector, [halves, halves]))
    return lambda total, a, b: builder.add(
        total, builder.call(plain, [builder.bitcast(a, halves), builder.bitcast(b, halves)])
    )


_tall, _low = _inner_loop(TALL), _inner_loop(ROWS)


@njit(cache=True, nogil=True)
def multiply(x: I16, weight: I32, out: I32) -> None:
    """out (M, outputs) = x (M, inputs) times a packed weight. M is a multiple of ROWS; all C-contiguous."""
    tall = x.shape[0] // TALL * TALL
    for panel in range(weight.shape[0]):
        for row in range(0, tall, TALL):
            _tall(x, row, weight, panel, out)
        for row in range(tall, x.shape[0], ROWS):
            _low(x, row, weight, panel, out)
