"""Drops clamps that a later quantization makes needless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lpir.scalar.expr import Expr

Array = np.ndarray[Any, np.dtype[Any]]


def drop_inner_clamps(expr: Expr, points: Mapping[int, Array] | None = None) -> Expr:
    """`rint(clamp(clamp(x, a, b) * c + d, lo, hi))` is `rint(clamp(x * c + d, lo, hi))` where a and b land outside.

    `points`: leaves that are constants, such as a c for each channel. Exact, not approximate: see
    `without_inner_clamps`. NaN passes through both.
    """
    points = points or {}
    order = expr.walk()
    if all(_drop(node, points) is node for node in order if node.fn == "rint_i32"):
        return expr
    new: dict[int, Expr] = {}
    for node in order:
        rebuilt = node.over(tuple([new[id(a)] for a in node.args]))
        new[id(node)] = _drop(rebuilt, points) if node.fn == "rint_i32" else rebuilt
    return new[id(expr)]


def _drop(node: Expr, points: Mapping[int, Array]) -> Expr:
    clamped = node.args[0]
    outer = _clamp(clamped)
    if outer is None:
        return node
    inside = without_inner_clamps(*outer, points)
    if inside is outer[0]:
        return node
    lower = Expr("maximum", (inside, clamped.args[0].args[1]), inside.type)
    return Expr("rint_i32", (Expr("minimum", (lower, clamped.args[1]), inside.type),), node.type)


def without_inner_clamps(expr: Expr, low: float, high: float, points: Mapping[int, Array]) -> Expr:
    """`expr` without a clamp inside it, where `rint(expr)` is clamped to `low .. high` in any case.

    Multiplication by positive constants and addition are monotone in float32: what lies outside the inner limit lands
    outside of where the limit lands. `points`: constants among the leaves, a value a channel.
    """
    path: list[tuple[Expr, Array]] = []
    node = expr
    while node.fn in ("mul", "add"):
        other = node.args[1]
        value = np.asarray(other.value, np.float32) if other.fn == "const" else points.get(int(other.value or 0))
        if other.fn not in ("const", "input") or value is None or (node.fn == "mul" and np.min(value) <= 0):
            break
        path.append((node, value))
        node = node.args[0]
    core = node
    while core.fn in ("minimum", "maximum") and core.args[1].fn == "const":
        landed: Array = np.asarray(core.args[1].value, np.float32)
        for step, value in reversed(path):
            landed = landed * value if step.fn == "mul" else landed + value
        landed = np.rint(landed)
        if np.max(landed) > low if core.fn == "maximum" else np.min(landed) < high:
            break
        core = core.args[0]
    if core is node:
        return expr
    for step, _ in reversed(path):
        core = Expr(step.fn, (core, step.args[1]), step.type)
    return core


def _clamp(expr: Expr) -> tuple[Expr, float, float] | None:
    """The inside and the limits of `minimum(maximum(x, lo), hi)` with constant limits."""
    if expr.fn != "minimum" or expr.args[1].fn != "const" or expr.args[0].fn != "maximum":
        return None
    inner = expr.args[0]
    if inner.args[1].fn != "const":
        return None
    return inner.args[0], float(inner.args[1].value or 0), float(expr.args[1].value or 0)
