"""Folds multiplications into those before them: of a quantization into scale and bias, of a sum into its scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.ir.graph import Value
from lpir.ir.types import f32
from lpir.ops.boundary import constant, constant_data
from lpir.scalar.expr import Expr, const, input_, substitute

Array = np.ndarray[Any, np.dtype[Any]]


def fold_output_scale(epilogue: Expr, operands: list[Value], first: int) -> tuple[Expr, list[Value]]:
    """`rint(clamp((acc * scale + bias) * inverse))` becomes `rint(clamp(acc * scale' + bias'))`; a second product in
    place of the bias, of a residual, is folded alike.

    So does the last of several factors, `x * scale` for any x. The products are made in float64 and rounded once: one
    multiplication and one rounding less a value. `scale`, `bias` and `inverse` are literals or constant operands, such
    as one a channel; operand i is leaf `first + i`. Returns the epilogue and its operands.
    """
    folded = _fold_one(epilogue, operands, first)
    while folded is not None:
        epilogue, operands = folded
        folded = _fold_one(epilogue, operands, first)
    return epilogue, operands


def _fold_one(epilogue: Expr, operands: list[Value], first: int) -> tuple[Expr, list[Value]] | None:
    for rounded in epilogue.walk():
        product = _product(rounded)
        factor = _constant(product.args[1], operands, first) if product else None
        if product is None or factor is None:
            continue
        more = list(operands)
        inside = _times(product.args[0], factor, more, first)
        if inside is not None:
            return _used(_swap(epilogue, product, inside), more, first)
    return None


def _product(expr: Expr) -> Expr | None:
    """The `x * leaf` inside `rint_i32`, through clamps and the addition of a constant."""
    if expr.fn != "rint_i32":
        return None
    inner = expr.args[0]
    while inner.fn in ("minimum", "maximum", "add") and inner.args[1].fn == "const":
        inner = inner.args[0]
    return inner if inner.fn == "mul" and inner.args[1].fn in ("const", "input") else None


def _constant(leaf: Expr, operands: list[Value], first: int) -> Array | None:
    """The float32 value of a literal or of a constant operand, in float64."""
    if leaf.fn == "const":
        return np.asarray(float(leaf.value or 0))
    at = int(leaf.value or 0) - first
    data = constant_data(operands[at]) if leaf.fn == "input" and at >= 0 else None
    return None if data is None or data.dtype != np.float32 else data.astype(np.float64)


def _times(expr: Expr, factor: Array, operands: list[Value], first: int) -> Expr | None:
    """`expr * factor` for `x * scale`, `x * scale * y`, `acc * scale + bias` and `x * scale + y * scale`, or None for
    another form."""
    if expr.fn == "add":
        # a sum may be written either way around
        product, other = expr.args if expr.args[0].fn == "mul" else expr.args[::-1]
        if product.fn != "mul" or (other.fn != "mul" and not _is_sum(product.args[0])):
            return None
        scaled = _times(product, factor, operands, first)
        term = _times if other.fn == "mul" else _scaled_leaf
        offset = term(other, factor, operands, first)
        return None if scaled is None or offset is None else scaled + offset
    if expr.fn != "mul":
        return None
    scale = _scaled_leaf(expr.args[1], factor, operands, first)
    if scale is not None:
        return expr.args[0] * scale
    # `x * literal * y`: the literal comes last
    inner = expr.args[0]
    scale = _scaled_leaf(inner.args[1], factor, operands, first) if inner.fn == "mul" else None
    return None if scale is None else inner.args[0] * expr.args[1] * scale


def _is_sum(expr: Expr) -> bool:
    """Whether `expr` is an integer leaf as a float: a sum of products."""
    return expr.fn == "cast" and expr.args[0].fn == "input"


def join_factors(expr: Expr) -> Expr:
    """`expr` with `sum * a * b` and `sum * a / b`, a and b literals, as one multiplication."""
    rebuilt: dict[int, Expr] = {}
    for e in expr.walk():
        args = tuple(rebuilt[id(a)] for a in e.args)
        made = Expr(e.fn, args, e.type, e.value) if args else e
        if made.fn in ("mul", "div") and args[1].fn == "const" and _is_scaled_sum(args[0]):
            a, b = float(args[0].args[1].value or 0), float(args[1].value or 0)
            if made.fn == "mul" or b:
                joined = float(np.float32(a * b if made.fn == "mul" else a / b))
                made = args[0].args[0] * joined
        rebuilt[id(e)] = made
    return rebuilt[id(expr)]


def _is_scaled_sum(expr: Expr) -> bool:
    return expr.fn == "mul" and expr.type == f32 and _is_sum(expr.args[0]) and expr.args[1].fn == "const"


def _scaled_leaf(leaf: Expr, factor: Array, operands: list[Value], first: int) -> Expr | None:
    value = _constant(leaf, operands, first)
    if value is None:
        return None
    scaled = (value * factor).astype(np.float32)
    if scaled.size == 1:
        return const(float(scaled.reshape(())), f32)
    operands.append(constant(scaled))
    return input_(first + len(operands) - 1, f32)


def _swap(expr: Expr, old: Expr, new: Expr) -> Expr:
    """`expr` with the sub-expression `old` replaced."""
    rebuilt: dict[int, Expr] = {id(old): new}
    for e in expr.walk():
        if id(e) not in rebuilt:
            args = tuple(rebuilt[id(a)] for a in e.args)
            rebuilt[id(e)] = Expr(e.fn, args, e.type, e.value) if e.args else e
    return rebuilt[id(expr)]


def _used(epilogue: Expr, operands: list[Value], first: int) -> tuple[Expr, list[Value]]:
    """Without the operands that are read no more."""
    kept = [i - first for i in sorted(epilogue.inputs()) if i >= first]
    renamed = {first + old: input_(first + new, operands[old].element_type) for new, old in enumerate(kept)}
    return substitute(epilogue, renamed), [operands[i] for i in kept]
