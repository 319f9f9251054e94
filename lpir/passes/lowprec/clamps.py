"""Drops clamps that a later quantization makes needless."""

from __future__ import annotations

from operator import is_

import numpy as np

from lpir.scalar.expr import Expr


def drop_inner_clamps(expr: Expr) -> Expr:
    """`rint(clamp(clamp(x, a, b) * c + d, lo, hi))` is `rint(clamp(x * c + d, lo, hi))` where a and b land outside.

    Exact, not approximate: float multiplication and addition are monotone, so a value below `a` lands at or below where
    `a` lands, and `rint` takes that to `lo` either way. NaN passes through both.
    """
    order = expr.walk()
    if not any(node.fn == "rint_i32" for node in order):
        return expr
    new: dict[int, Expr] = {}
    for node in order:
        args = tuple([new[id(a)] for a in node.args])
        rebuilt = node if all(map(is_, args, node.args)) else Expr(node.fn, args, node.type, node.value)
        new[id(node)] = _drop(rebuilt) if node.fn == "rint_i32" else rebuilt
    return new[id(expr)]


def _drop(node: Expr) -> Expr:
    clamped = node.args[0]
    outer = _clamp(clamped)
    if outer is None:
        return node
    scaled, low, high = outer
    core, factor, offset = scaled, np.float32(1), np.float32(0)
    if core.fn == "add" and core.args[1].fn == "const":
        core, offset = core.args[0], np.float32(core.args[1].value)
    if core.fn == "mul" and core.args[1].fn == "const" and float(core.args[1].value or 0) > 0:
        core, factor = core.args[0], np.float32(core.args[1].value)
    stripped = core
    while stripped.fn in ("minimum", "maximum") and stripped.args[1].fn == "const":
        landed = float(np.rint(np.float32(np.float32(stripped.args[1].value) * factor) + offset))
        if landed > low if stripped.fn == "maximum" else landed < high:
            break
        stripped = stripped.args[0]
    if stripped is core:
        return node
    inside = _swap(scaled, core, stripped)
    lower = Expr("maximum", (inside, clamped.args[0].args[1]), inside.type)
    return Expr("rint_i32", (Expr("minimum", (lower, clamped.args[1]), inside.type),), node.type)


def _swap(expr: Expr, old: Expr, new: Expr) -> Expr:
    """`expr`, a chain of first arguments that ends in `old`, ending in `new`."""
    if expr is old:
        return new
    return Expr(expr.fn, (_swap(expr.args[0], old, new), *expr.args[1:]), expr.type, expr.value)


def _clamp(expr: Expr) -> tuple[Expr, float, float] | None:
    """The inside and the limits of `minimum(maximum(x, lo), hi)` with constant limits."""
    if expr.fn != "minimum" or expr.args[1].fn != "const" or expr.args[0].fn != "maximum":
        return None
    inner = expr.args[0]
    if inner.args[1].fn != "const":
        return None
    return inner.args[0], float(inner.args[1].value or 0), float(expr.args[1].value or 0)
