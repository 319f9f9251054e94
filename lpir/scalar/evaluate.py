"""Expressions in NumPy: the meaning that every device keeps to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lpir.ir.types import ElementType
from lpir.scalar.expr import Expr

Array = np.ndarray[Any, np.dtype[Any]]

INT32_MIN = -(2**31)


def evaluate(expr: Expr, inputs: Sequence[Array]) -> Array:
    """`expr` with leaf `i` = `inputs[i]`, broadcast NumPy-style; result of type `expr.type`."""
    values: dict[int, Array] = {}
    with np.errstate(all="ignore"):
        for node in expr.walk():
            if node.fn == "input":
                values[id(node)] = np.asarray(inputs[int(node.value or 0)])
            elif node.fn == "const":
                values[id(node)] = np.asarray(node.value, node.type.dtype)
            else:
                args = [values[id(a)] for a in node.args]
                result = _call(node, args)
                values[id(node)] = np.asarray(result).astype(node.type.dtype, copy=False)
    result = values[id(expr)]
    shape = np.broadcast_shapes(*(np.shape(inputs[i]) for i in expr.inputs())) if expr.inputs() else ()
    return np.broadcast_to(result, shape).copy() if result.shape != shape else result


def _call(node: Expr, args: list[Array]) -> Array:
    fn = node.fn
    if fn == "cast":
        return _cast(args[0], node.args[0].type, node.type)
    if fn == "bitcast":
        return np.ascontiguousarray(args[0]).view(node.type.dtype).reshape(args[0].shape)
    if fn == "rint_i32":
        return _rint_i32(args[0])
    if fn == "select":
        return np.where(args[0], args[1], args[2])
    if fn == "div" and node.type.is_integer:
        return _integer_div(*args)
    return FUNCTIONS[fn](*args)


def _cast(x: Array, source: ElementType, target: ElementType) -> Array:
    if target.name == "boolean":
        nonzero: Array = x != 0
        return nonzero
    if source.is_float and target.is_integer:
        # out-of-range floats saturate and NaN becomes 0, so that no platform's own answer leaks in
        lo, hi = target.limits
        clipped = np.clip(np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0), float(lo), float(hi))
        safe: Array = np.where(clipped >= float(hi), float(lo), clipped).astype(target.dtype)
        return np.where(clipped >= float(hi), np.asarray(hi, target.dtype), safe)
    return x.astype(target.dtype)


def _rint_i32(x: Array) -> Array:
    rounded = np.rint(x)
    inside = (rounded >= INT32_MIN) & (rounded < 2**31)
    return np.where(inside, np.where(inside, rounded, 0).astype(np.int32), np.int32(INT32_MIN))


def _integer_div(a: Array, b: Array) -> Array:
    """Truncation toward zero, as C does."""
    safe = np.where(b == 0, 1, b)
    quotient = np.abs(a) // np.abs(safe)
    return np.where(b == 0, 0, np.where((a < 0) != (safe < 0), -quotient, quotient))


def _minimum(a: Array, b: Array) -> Array:
    return np.where(b < a, b, a)


def _maximum(a: Array, b: Array) -> Array:
    return np.where(b > a, b, a)


def _lookup(index: Array, *entries: Array) -> Array:
    return np.asarray(np.stack(entries)[index & (len(entries) - 1)])


def _float_or_same(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """For f16 and bf16: compute in float32 and round once."""

    def call(x: Array) -> Array:
        return fn(x.astype(np.float32)) if x.dtype.itemsize == 2 and x.dtype.kind != "i" else fn(x)

    return call


def _erf(x: Array) -> Array:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x.astype(np.float64)), np.float64)


FUNCTIONS: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "minimum": _minimum,
    "maximum": _maximum,
    "pow": np.power,
    "mod": np.fmod,
    "floor_mod": np.mod,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "rint": np.rint,
    "sqrt": _float_or_same(np.sqrt),
    "exp": _float_or_same(np.exp),
    "log": _float_or_same(np.log),
    "erf": _erf,
    "tanh": _float_or_same(np.tanh),
    "sin": _float_or_same(np.sin),
    "cos": _float_or_same(np.cos),
    "tan": _float_or_same(np.tan),
    "asin": _float_or_same(np.arcsin),
    "acos": _float_or_same(np.arccos),
    "atan": _float_or_same(np.arctan),
    "sinh": _float_or_same(np.sinh),
    "cosh": _float_or_same(np.cosh),
    "asinh": _float_or_same(np.arcsinh),
    "acosh": _float_or_same(np.arccosh),
    "atanh": _float_or_same(np.arctanh),
    "lookup": _lookup,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.bitwise_not,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
