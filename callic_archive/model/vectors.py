"""Sixteen float32 at a time inside compiled loops: what the loops of training are written in.

A compiler that is left to find vectors by itself does so in some loops and not in others. Here a vector is a type
(``F32x16``) that numba hands on to LLVM as such; processors with narrower registers get it in parts. Arrays hold float32,
or bfloat16 as the uint16 with the same bits, and ``load`` and ``store`` convert between them, rounding to nearest even.

Source of the polynomials: of ``exp`` the Taylor series on half a binade, to degree 6 (relative error below 2e-7); of ``log``
Moshier's ``logf`` (Cephes, netlib.org/cephes), likewise to a last place or two.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils
from numba.core.datamodel import models

from callic_archive.model.processor import features

#: What these decorators make is called from compiled code only, which no checker of types follows.
intrinsic: Any = extending.intrinsic
inlined: Any = njit(inline="always")
LANES = 16
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)
_HALVES = ir.VectorType(ir.IntType(16), LANES)


#: Without an instruction for it, LLVM would call a function that is nowhere.
_ROUNDS_TO_BFLOAT = bool(features().get("avx512bf16"))


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat16, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"


class _F32x16(types.Type):
    def __init__(self) -> None:
        super().__init__(name="F32x16")


F32x16 = _F32x16()


@extending.register_model(_F32x16)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)  # type: ignore[no-untyped-call]


def _words(values: int) -> ir.Constant:
    return ir.Constant(_WORDS, [values] * LANES)


def _call(builder: Any, name: str, result: Any, arguments: list[Any], **options: Any) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments, **options)


def _pointer(context: Any, builder: Any, kind: Any, place: Any, vector: Any) -> Any:
    array, index = place
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _rounded(builder: Any, vector: Any) -> Any:
    """Float32 lanes as bits of the nearest bfloat16, ties to even."""
    if _ROUNDS_TO_BFLOAT:
        return builder.bitcast(builder.fptrunc(vector, ir.VectorType(_BFloat(), LANES)), _HALVES)
    bits = builder.bitcast(vector, _WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    carried = builder.add(bits, builder.add(odd, _words(0x7FFF)))
    return builder.trunc(builder.lshr(carried, _words(16)), _HALVES)


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Elements ``index`` to ``index + 15`` of a one-dimensional array of float32 or bfloat16; nothing is checked."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if array.dtype == types.float32:
            found = builder.load(_pointer(context, builder, array, arguments, _FLOATS))
            found.align = 4
            return found
        found = builder.load(_pointer(context, builder, array, arguments, _HALVES))
        found.align = 2
        return builder.bitcast(builder.shl(builder.zext(found, _WORDS), _words(16)), _FLOATS)

    return F32x16(array, types.intp), build


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """The counterpart of ``load``."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where, vector = arguments[:2], arguments[2]
        if array.dtype == types.float32:
            done = builder.store(vector, _pointer(context, builder, array, where, _FLOATS))
            done.align = 4
        else:
            done = builder.store(_rounded(builder, vector), _pointer(context, builder, array, where, _HALVES))
            done.align = 2
        return context.get_dummy_value()

    return types.void(array, types.intp, F32x16), build


@intrinsic
def broadcast(typing: Any, value: Any) -> Any:
    """A float32 in all lanes."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, ir.Constant(_WORDS, [0] * LANES))

    return F32x16(types.float32), build


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """The sum of all lanes."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(ir.FloatType(), 0.0)
        name = "llvm.vector.reduce.fadd.v16f32"
        return _call(builder, name, ir.FloatType(), [zero, arguments[0]], fastmath=("reassoc",))

    return types.float32(F32x16), build


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once where the processor can."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, "llvm.fmuladd.v16f32", _FLOATS, list(arguments))

    return F32x16(F32x16, F32x16, F32x16), build


def _elementwise(name: str) -> Any:
    @intrinsic
    def function(typing: Any, a: Any, b: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if name in ("<", ">"):
                return builder.select(builder.fcmp_ordered(name, *arguments), *arguments)
            return getattr(builder, name)(*arguments)

        return F32x16(F32x16, F32x16), build

    return function


smaller = _elementwise("<")
larger = _elementwise(">")


@intrinsic
def magnitude(typing: Any, value: Any) -> Any:
    """The absolute value."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], _WORDS)
        return builder.bitcast(builder.and_(bits, _words(0x7FFFFFFF)), _FLOATS)

    return F32x16(F32x16), build


@intrinsic
def signed(typing: Any, magnitude: Any, sign: Any) -> Any:
    """``magnitude`` (not negative) with the sign of ``sign``."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        size, sign = (builder.bitcast(a, _WORDS) for a in arguments)
        return builder.bitcast(builder.or_(size, builder.and_(sign, _words(0x80000000))), _FLOATS)

    return F32x16(F32x16, F32x16), build


@intrinsic
def _nearest(typing: Any, value: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, "llvm.rint.v16f32", _FLOATS, list(arguments))

    return F32x16(F32x16), build


@intrinsic
def _times_power(typing: Any, value: Any, exponent: Any) -> Any:
    """``value * 2^exponent`` for whole exponents that leave it a normal number."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        steps = builder.shl(builder.fptosi(arguments[1], _WORDS), _words(23))
        return builder.bitcast(builder.add(builder.bitcast(arguments[0], _WORDS), steps), _FLOATS)

    return F32x16(F32x16, F32x16), build


@intrinsic
def choose(typing: Any, test: Any, a: Any, b: Any) -> Any:
    """``a`` where ``test`` is not negative, elsewhere ``b``."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">=", arguments[0], ir.Constant(_FLOATS, [0.0] * LANES)), *arguments[1:])

    return F32x16(F32x16, F32x16, F32x16), build


@intrinsic
def root(typing: Any, value: Any) -> Any:
    """The square root."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, "llvm.sqrt.v16f32", _FLOATS, list(arguments))

    return F32x16(F32x16), build


def _binades(builder: Any, value: Any) -> tuple[Any, Any]:
    """The bits of a positive number, and the power of two (as integers) that brings it into [sqrt(1/2), sqrt(2))."""
    bits = builder.bitcast(value, _WORDS)
    return bits, builder.ashr(builder.sub(bits, _words(0x3F3504F3)), _words(23))


@intrinsic
def _exponent(typing: Any, value: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sitofp(_binades(builder, arguments[0])[1], _FLOATS)

    return F32x16(F32x16), build


@intrinsic
def _significand(typing: Any, value: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits, exponent = _binades(builder, arguments[0])
        return builder.bitcast(builder.sub(bits, builder.shl(exponent, _words(23))), _FLOATS)

    return F32x16(F32x16), build


def _register(function: Callable[..., Any], name: str) -> None:
    vectors = _elementwise(name)

    @extending.overload(function)
    def implement(a, b):  # type: ignore[no-untyped-def]  # numba wants the signature of what it returns
        if a is F32x16 and b is F32x16:
            return lambda a, b: vectors(a, b)
        return None


_register(operator.add, "fadd")
_register(operator.sub, "fsub")
_register(operator.mul, "fmul")
_register(operator.truediv, "fdiv")


@inlined
def constant(value: float) -> Any:
    """A number in all lanes, as float32."""
    return broadcast(np.float32(value))


@inlined
def exp(x: Any) -> Any:
    """e^x; beyond +-87 as at the end of that range, so that nothing overflows."""
    x = larger(smaller(x, constant(87.0)), constant(-87.0))
    n = _nearest(x * constant(1.4426950408889634))
    r = fma(n, constant(-0.693359375), x)  # ln 2 in two parts: n times the first has no error
    r = fma(n, constant(2.12194440e-4), r)
    p = fma(r, constant(1 / 720), constant(1 / 120))
    p = fma(r, p, constant(1 / 24))
    p = fma(r, p, constant(1 / 6))
    p = fma(r, p, constant(0.5))
    p = fma(r, p, constant(1.0))
    return _times_power(fma(r, p, constant(1.0)), n)


@inlined
def log(x: Any) -> Any:
    """The natural logarithm of positive, normal numbers."""
    n, f = _exponent(x), _significand(x) - constant(1.0)
    p = fma(f, constant(7.0376836292e-2), constant(-1.1514610310e-1))
    p = fma(f, p, constant(1.1676998740e-1))
    p = fma(f, p, constant(-1.2420140846e-1))
    p = fma(f, p, constant(1.4249322787e-1))
    p = fma(f, p, constant(-1.6668057665e-1))
    p = fma(f, p, constant(2.0000714765e-1))
    p = fma(f, p, constant(-2.4999993993e-1))
    p = fma(f, p, constant(3.3333331174e-1))
    square = f * f
    low = fma(n, constant(-2.12194440e-4), fma(square, constant(-0.5), square * f * p))
    return fma(n, constant(0.693359375), f + low)
