"""Smaller expressions with the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lpir.ir.types import ElementType
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import Expr, const

# functions that every device computes to the same bits; only these are folded
FOLDABLE = frozenset(
    {
        *("add", "sub", "mul", "div", "minimum", "maximum", "neg", "abs", "sign", "floor", "ceil", "rint", "sqrt"),
        *("and", "or", "xor", "not", "shl", "shr", "select", "cast", "bitcast", "rint_i32"),
        *("eq", "ne", "lt", "le", "gt", "ge"),
    }
)
Rule = Callable[[Expr], "Expr | None"]


def simplify(expr: Expr) -> Expr:
    """`expr` with constants folded, neutral operations dropped and equal sub-expressions shared.

    No result changes in any bit, for any input; only the payload of a NaN may.
    """
    table: dict[tuple[object, ...], Expr] = {}
    new: dict[int, Expr] = {}
    for node in expr.walk():
        if node.args:
            found = _reduce(_intern(node, tuple([new[id(a)] for a in node.args]), table), table)
        else:
            found = _intern(node, (), table)
        new[id(node)] = found
    return new[id(expr)]


def _intern(node: Expr, args: tuple[Expr, ...], table: dict[tuple[object, ...], Expr]) -> Expr:
    """The one object for this expression: equal expressions become identical."""
    # repr tells 0.0 from -0.0 and True from 1
    key = (node.fn, node.type, *map(id, args)) if args else (node.fn, node.type, repr(node.value))
    found = table.get(key)
    if found is None:
        found = table[key] = node.over(args)
    return found


def _reduce(node: Expr, table: dict[tuple[object, ...], Expr]) -> Expr:
    """Applies rules until none fits."""
    while node.args:
        smaller = _fold(node)
        for rule in RULES.get(node.fn, ()) if smaller is None else ():
            smaller = rule(node)
            if smaller is not None:
                break
        if smaller is None:
            return node
        args = tuple(_reduce(_intern(a, a.args, table), table) for a in smaller.args)
        node = _intern(smaller, args, table)
    return node


def _fold(node: Expr) -> Expr | None:
    for a in node.args:
        if a.fn != "const":
            return None
    if node.fn not in FOLDABLE:
        return None
    return const(evaluate(node, ()).item(), node.type)


def _is(e: Expr, value: float) -> bool:
    """Whether `e` is the constant `value`, with the same sign of zero."""
    if e.fn != "const" or e.value is None or e.type.name == "boolean":
        return False
    return e.value == value and math.copysign(1, e.value) == math.copysign(1, value)


def _add(e: Expr) -> Expr | None:
    a, b = e.args
    # x + 0.0 turns -0.0 into 0.0; x + -0.0 changes nothing
    neutral = -0.0 if e.type.is_float else 0.0
    return a if _is(b, neutral) else b if _is(a, neutral) else None


def _sub(e: Expr) -> Expr | None:
    a, b = e.args
    return a if _is(b, 0.0) else None


def _mul(e: Expr) -> Expr | None:
    a, b = e.args
    return a if _is(b, 1) else b if _is(a, 1) else None


def _div(e: Expr) -> Expr | None:
    a, b = e.args
    if _is(b, 1):
        return a
    # the reciprocal of a power of two is exact, and so is the product wherever the quotient was
    if e.type.is_float and b.fn == "const" and b.value and math.isfinite(b.value):
        inverse = np.asarray(1.0 / b.value, e.type.dtype)
        tiny = float(np.finfo(np.float32).tiny) if e.type.name in ("f32", "f64") else 1e-3
        exact_power = abs(math.frexp(b.value)[0]) == 0.5
        if exact_power and tiny <= abs(float(inverse)) <= 1 / tiny and tiny <= abs(b.value) <= 1 / tiny:
            return Expr("mul", (a, const(float(inverse), e.type)), e.type)
    return None


def _neg(e: Expr) -> Expr | None:
    return e.args[0].args[0] if e.args[0].fn == "neg" else None


def _abs(e: Expr) -> Expr | None:
    (a,) = e.args
    if a.fn == "abs":
        return a
    return Expr("abs", a.args, e.type) if a.fn == "neg" and e.type.is_float else None


def _number(e: Expr) -> float | None:
    """A constant that is not NaN."""
    if e.fn != "const" or e.value is None or math.isnan(e.value):
        return None
    return e.value


def _bound(e: Expr) -> Expr | None:
    """Nested bounds with constants become one; a lower bound moves inside an upper one above it."""
    a, b = e.args
    if a is b:
        return a
    outer = _number(b)
    if outer is None or a.fn not in ("minimum", "maximum"):
        return None
    inner = _number(a.args[1])
    if inner is None:
        return None
    if a.fn == e.fn:
        moved = outer < inner if e.fn == "minimum" else outer > inner
        return Expr(e.fn, (a.args[0], b if moved else a.args[1]), e.type)
    if e.fn == "maximum" and outer < inner:
        return Expr("minimum", (Expr("maximum", (a.args[0], b), e.type), a.args[1]), e.type)
    return None


def _holds(wide: ElementType, narrow: ElementType) -> bool:
    """Whether the integer type `wide` has every value of the integer type `narrow`."""
    if not (wide.is_integer and narrow.is_integer):
        return False
    return wide.limits[0] <= narrow.limits[0] and narrow.limits[1] <= wide.limits[1]


def _cast(e: Expr) -> Expr | None:
    (a,) = e.args
    if a.type == e.type:
        return a
    if a.fn != "cast" or not _holds(a.type, a.args[0].type):
        return None
    source = a.args[0]
    return source if source.type == e.type else Expr("cast", (source,), e.type)


def _bitcast(e: Expr) -> Expr | None:
    (a,) = e.args
    if a.type == e.type:
        return a
    if a.fn == "bitcast":
        return a.args[0] if a.args[0].type == e.type else Expr("bitcast", a.args, e.type)
    return None


def _select(e: Expr) -> Expr | None:
    condition, a, b = e.args
    if a is b:
        return a
    if condition.fn == "const":
        return a if condition.value else b
    return None


def _rint(e: Expr) -> Expr | None:
    """Rounding what is whole already."""
    (a,) = e.args
    if a.fn not in ("rint", "floor", "ceil"):
        return None
    return (
        Expr("rint_i32", a.args, e.type) if e.fn == "rint_i32" and a.fn == "rint" else a if e.fn != "rint_i32" else None
    )


RULES: dict[str, tuple[Rule, ...]] = {
    "add": (_add,),
    "sub": (_sub,),
    "mul": (_mul,),
    "div": (_div,),
    "neg": (_neg,),
    "abs": (_abs,),
    "minimum": (_bound,),
    "maximum": (_bound,),
    "cast": (_cast,),
    "bitcast": (_bitcast,),
    "select": (_select,),
    "rint": (_rint,),
    "floor": (_rint,),
    "ceil": (_rint,),
    "rint_i32": (_rint,),
}
