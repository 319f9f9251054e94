"""Which values an epilogue can take: clamps that a saturating pack does anyway need not be computed.

A quantization ends in `cast(rint_i32(clamp(x, -z, 255 - z)) + z, u8)`. Where `x` is proved to stay far inside int32,
this is what saturating packs make of `rint_i32(x) + z`: two operations less on each value.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lpir.ir.graph import Value
from lpir.ir.types import f32, i32, u8
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import Elementwise, Table
from lpir.passes.lowprec.clamps import without_inner_clamps
from lpir.scalar.expr import Expr

Array = np.ndarray[Any, np.dtype[Any]]
Range = tuple[Array, Array]

# half of int32: room for the zero point, and for the roundings that interval arithmetic in float64 does not follow
SAFE = float(1 << 30)


def value_range(expr: Expr, leaves: Mapping[int, Range]) -> Range | None:
    """Smallest and largest value of `expr` from those of its leaves (arrays that broadcast), or None where unknown."""
    known: dict[int, Range | None] = {}
    for e in expr.walk():
        if e.fn == "const":
            value = np.asarray(float(e.value or 0))
            found: Range | None = (value, value)
        elif e.fn == "input":
            found = leaves.get(int(e.value or 0))
        else:
            found = _apply(e, [known[id(a)] for a in e.args], known)
        if found is not None and not (np.isfinite(found[0]).all() and np.isfinite(found[1]).all()):
            found = None
        if found is not None and e.type == i32 and (found[0].min() < -SAFE or found[1].max() > SAFE):
            found = None
        known[id(e)] = found
    return known[id(expr)]


def _apply(e: Expr, given: list[Range | None], known: Mapping[int, Range | None]) -> Range | None:
    fn = e.fn
    if fn == "lookup":
        entries = [float(a.value or 0) for a in e.args[1:]]
        return np.asarray(min(entries)), np.asarray(max(entries))
    if fn == "bitcast":
        magnitude = known.get(id(_unsigned(e)))
        largest = None if magnitude is None else np.maximum(-magnitude[0], magnitude[1])
        return None if largest is None else (-largest, largest)
    args = [g for g in given if g is not None]
    if len(args) < len(given):
        return None
    if fn in ("cast", "rint_i32", "rint"):
        low, high = np.floor(args[0][0]), np.ceil(args[0][1])
        fits = not e.type.is_integer or (low.min() >= e.type.limits[0] and high.max() <= e.type.limits[1])
        return (low, high) if fits and e.type.name != "boolean" else None
    if fn == "neg":
        return -args[0][1], -args[0][0]
    if fn == "abs":
        return np.maximum(np.maximum(args[0][0], -args[0][1]), 0.0), np.maximum(-args[0][0], args[0][1])
    if len(args) != 2:
        return None
    (a, b), (c, d) = args
    if fn == "add":
        return a + c, b + d
    if fn == "sub":
        return a - d, b - c
    if fn == "mul" and e.args[0] is e.args[1]:
        # a square: the two factors have one sign
        largest = np.maximum(a * a, b * b)
        return np.where((a <= 0) & (b >= 0), 0.0, np.minimum(a * a, b * b)), largest
    if fn == "div" and np.min(c) > 0:
        quotients = (a / c, a / d, b / c, b / d)
        return functools.reduce(np.minimum, quotients), functools.reduce(np.maximum, quotients)
    if fn == "mul":
        products = (a * c, b * c) if c is d else (a * c, b * c, a * d, b * d)
        return functools.reduce(np.minimum, products), functools.reduce(np.maximum, products)
    if fn == "minimum":
        return np.minimum(a, c), np.minimum(b, d)
    if fn == "maximum":
        return np.maximum(a, c), np.maximum(b, d)
    return None


def _unsigned(e: Expr) -> Expr | None:
    """`m` where `e` is m with the sign bit of another float: `bitcast(bitcast(m) | bitcast(x) & 2^31)`."""
    joined = e.args[0]
    if e.type != f32 or joined.fn != "or" or joined.args[0].fn != "bitcast" or joined.args[1].fn != "and":
        return None
    sign = joined.args[1].args[1]
    return joined.args[0].args[0] if sign.fn == "const" and sign.value == i32.limits[0] else None


def without_clamp(expr: Expr, leaves: Mapping[int, Range]) -> Expr | None:
    """The int32 expression that, saturated to u8, equals `expr`; None where `expr` has another form or no proof."""
    if expr.fn != "cast" or expr.type != u8 or expr.args[0].type != i32:
        return None
    total, zero_point = expr.args[0], 0
    rounded = total
    if total.fn == "add" and total.args[1].fn == "const":
        rounded, zero_point = total.args[0], int(total.args[1].value or 0)
    if rounded.fn != "rint_i32" or rounded.args[0].fn != "minimum" or rounded.args[0].args[0].fn != "maximum":
        return None
    upper, lower = rounded.args[0].args[1], rounded.args[0].args[0].args[1]
    if upper.fn != "const" or upper.value != 255 - zero_point or lower.fn != "const" or lower.value != -zero_point:
        return None
    inside = rounded.args[0].args[0].args[0]
    points = {i: low.astype(np.float32) for i, (low, high) in leaves.items() if np.array_equal(low, high)}
    bare = without_inner_clamps(inside, float(-zero_point), float(255 - zero_point), points)
    for candidate in (bare, inside):
        limits = value_range(candidate, leaves)
        if limits is not None and np.min(limits[0]) >= -SAFE and np.max(limits[1]) <= SAFE:
            code = Expr("rint_i32", (candidate,), i32)
            return code if rounded is total else Expr("add", (code, total.args[1]), i32)
    return None


def without_codes(expr: Expr, leaves: Mapping[int, Range]) -> Expr:
    """`expr` without steps that change no value: `cast(cast(x + z, u8), i32) - z` is `x` where `x + z` is a code."""
    new: dict[int, Expr] = {}
    for e in expr.walk():
        mine = Expr(e.fn, tuple(new[id(a)] for a in e.args), e.type, e.value) if e.args else e
        inner = mine.args[0] if mine.args else mine
        if (mine.fn, mine.type, inner.fn, inner.type) == ("cast", i32, "cast", u8):
            if inner.args[0].type == i32 and value_range(inner, leaves) is not None:
                mine = inner.args[0]
        elif (mine.fn, mine.type, inner.fn) == ("sub", i32, "add") and mine.args[1] == inner.args[1]:
            # int32 wraps around: what is added and taken away again never counts
            mine = inner.args[0]
        new[id(e)] = mine
    return new[id(expr)]


def largest_code(value: Value) -> int:
    """The largest code that a u8 tensor can hold, as far as the operation before it shows."""
    op = value.node.op
    table = constant_data(value.node.inputs[1] if isinstance(op, Table) else value)
    if table is not None:
        return int(table.max(initial=0))
    expr = op.expr if isinstance(op, Elementwise) else getattr(op, "epilogue", None)
    limit = 255
    if isinstance(expr, Expr) and expr.fn == "cast" and expr.type == u8 and expr.args[0].type == i32:
        code, zero_point = expr.args[0], 0
        if code.fn == "add" and code.args[1].fn == "const":
            code, zero_point = code.args[0], int(code.args[1].value or 0)
        if code.fn == "rint_i32" and code.args[0].fn == "minimum" and code.args[0].args[0].fn == "maximum":
            upper, lower = code.args[0].args[1], code.args[0].args[0].args[1]
            if upper.fn == lower.fn == "const" and float(lower.value or 0) + zero_point >= 0 <= zero_point:
                # a NaN becomes the zero point
                limit = max(zero_point, math.ceil(float(upper.value or 0)) + zero_point)
    return min(255, limit)


def sums_range(w: Array, zero_point: int | Array) -> Range:
    """Smallest and largest `sum((x - zero_point) * w)` of u8 `x` for each output channel, the last axis of `w`."""
    # bytes are added up as they are: a copy in float64 would be eight times as large; 128 is a byte without a sign
    is_bytes = w.dtype == np.int8
    sizes, kind = (np.abs(w).view(np.uint8), np.int32) if is_bytes else (np.abs(w), np.int64)
    axes = tuple(range(w.ndim - 1))
    total, size = (part.sum(axes, dtype=kind).astype(np.float64) for part in (w, sizes))
    low, high = (total - size) / 2, (total + size) / 2
    return low * (255 - zero_point) - high * zero_point, high * (255 - zero_point) - low * zero_point
