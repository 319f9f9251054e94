"""A tiny immutable expression over scalars.

An elementwise operation, an epilogue and a quantization are all an `Expr`. NumPy evaluates it (`evaluate`), LLVM and
Triton print it. Every function below has one meaning on every device:

* arithmetic is done in the type of the operands, one rounding an operation, never contracted into a fused multiply-add;
* `minimum(a, b)` is `b if b < a else a` and `maximum(a, b)` is `b if b > a else a`: a NaN in `a` survives;
* `rint` rounds half to even; `rint_i32` rounds half to even into an int32 and gives INT32_MIN for NaN and anything
  outside int32 (what x86 `cvtps2dq` does);
* an integer cast to a narrower integer keeps the low bits;
* `lookup(i, e0, ... e15)` is constant number `i mod 16`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Union

from lpir.ir.types import ElementType, boolean, f32, i32

Scalar = Union["Expr", float, int, bool]
_set = object.__setattr__

# name -> number of arguments. "same": the arguments and the result share one type.
SAME = {
    **dict.fromkeys(("add", "sub", "mul", "div", "minimum", "maximum", "pow", "mod", "floor_mod"), 2),
    **dict.fromkeys(("neg", "abs", "sign", "floor", "ceil", "rint", "sqrt"), 1),
    **dict.fromkeys(("exp", "log", "erf", "tanh", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh"), 1),
    **dict.fromkeys(("asinh", "acosh", "atanh"), 1),
    **dict.fromkeys(("and", "or", "xor"), 2),
    "not": 1,
    **dict.fromkeys(("shl", "shr"), 2),
}
COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
CONVERT = ("cast", "bitcast", "rint_i32")
FUNCTIONS = (*SAME, *COMPARE, *CONVERT, "select", "lookup", "input", "const")
# entries of a `lookup`: one register of AVX-512, two of AVX2
ENTRIES = 16


class Expr:
    """One scalar: `fn` applied to `args`, of element type `type`. Immutable.

    `fn == "input"`: leaf number `value`; `fn == "const"`: the constant `value`; otherwise a name of `FUNCTIONS`.
    """

    # thousands are made for a model: a frozen dataclass takes half as long again, and hashes all below it each time
    __slots__ = ("_below", "_hash", "args", "fn", "type", "value")
    fn: str
    args: tuple[Expr, ...]
    type: ElementType
    value: float | int | bool | None
    # what `walk` found below this expression, and its hash, once they were asked for
    _below: tuple[Expr, ...]
    _hash: int

    def __init__(
        self, fn: str, args: tuple[Expr, ...], type: ElementType, value: float | int | bool | None = None
    ) -> None:
        _set(self, "fn", fn)
        _set(self, "args", args)
        _set(self, "type", type)
        _set(self, "value", value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Expr is immutable")

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Expr):
            return self is other
        same = self.fn == other.fn and self.type is other.type and self.value == other.value
        return same and self.args == other.args

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            _set(self, "_hash", hash((self.fn, self.args, self.type, self.value)))
            return self._hash

    def __repr__(self) -> str:
        return f"Expr({self.fn!r}, {self.args!r}, {self.type!r}, {self.value!r})"

    def __add__(self, other: Scalar) -> Expr:
        return apply("add", self, other)

    def __radd__(self, other: Scalar) -> Expr:
        return apply("add", other, self)

    def __sub__(self, other: Scalar) -> Expr:
        return apply("sub", self, other)

    def __rsub__(self, other: Scalar) -> Expr:
        return apply("sub", other, self)

    def __mul__(self, other: Scalar) -> Expr:
        return apply("mul", self, other)

    def __rmul__(self, other: Scalar) -> Expr:
        return apply("mul", other, self)

    def __truediv__(self, other: Scalar) -> Expr:
        return apply("div", self, other)

    def __rtruediv__(self, other: Scalar) -> Expr:
        return apply("div", other, self)

    def __neg__(self) -> Expr:
        return apply("neg", self)

    def __str__(self) -> str:
        if self.fn == "input":
            return f"x{self.value}"
        if self.fn == "const":
            return f"{self.value!r}"
        extra = f":{self.type.name}" if self.fn in CONVERT else ""
        return f"{self.fn}{extra}({', '.join(map(str, self.args))})"

    def walk(self) -> tuple[Expr, ...]:
        """Every sub-expression once, arguments before their users."""
        try:
            return (*self._below, self)
        except AttributeError:
            _set(self, "_below", _below(self))
            return (*self._below, self)

    def over(self, args: tuple[Expr, ...]) -> Expr:
        """The same function of other arguments; of the same ones, this object."""
        return self if all(map(is_, args, self.args)) else Expr(self.fn, args, self.type, self.value)

    def inputs(self) -> dict[int, ElementType]:
        """Number and type of every leaf that is read."""
        return {int(e.value or 0): e.type for e in self.walk() if e.fn == "input"}


def _below(expr: Expr) -> tuple[Expr, ...]:
    """`Expr.walk` without the expression itself."""
    done: dict[int, Expr] = {}
    stack = list(reversed(expr.args))
    while stack:
        e = stack[-1]
        height = len(stack)
        for a in reversed(e.args):
            if id(a) not in done:
                stack.append(a)
        if len(stack) == height:
            done.setdefault(id(e), e)
            stack.pop()
    return tuple(done.values())


@functools.lru_cache(1024)
def input_(index: int, type: ElementType = f32) -> Expr:
    """Leaf number `index`."""
    return Expr("input", (), type, index)


def const(value: float | int | bool, type: ElementType = f32) -> Expr:
    """A constant of `type`."""
    return Expr("const", (), type, value)


def apply(fn: str, *args: Scalar) -> Expr:
    """`fn` of `args`; Python numbers take the type of the first `Expr` among them. Raises TypeError on mixed types."""
    kinds = [a.type for a in args if isinstance(a, Expr)]
    if not kinds:
        raise TypeError(f"{fn}: at least one argument must be an Expr")
    # the type of select's condition says nothing about its branches
    own = kinds[1:] if fn == "select" and isinstance(args[0], Expr) and len(kinds) > 1 else kinds
    full = tuple(a if isinstance(a, Expr) else const(a, own[0]) for a in args)
    checked = full[1:] if fn == "select" else full
    if len({a.type for a in checked}) != 1:
        raise TypeError(f"{fn}: arguments have different types: {', '.join(a.type.name for a in full)}")
    if fn in SAME:
        if len(full) != SAME[fn]:
            raise TypeError(f"{fn} takes {SAME[fn]} arguments, not {len(full)}")
        return Expr(fn, full, full[0].type)
    if fn in COMPARE:
        return Expr(fn, full, boolean)
    if fn == "select":
        return Expr(fn, full, full[1].type)
    raise TypeError(f"unknown function {fn!r}")


def _make(fn: str) -> Callable[..., Expr]:
    def call(*args: Scalar) -> Expr:
        return apply(fn, *args)

    call.__name__ = fn
    return call


minimum, maximum, power = _make("minimum"), _make("maximum"), _make("pow")
absolute, floor, ceil, rint, sqrt = _make("abs"), _make("floor"), _make("ceil"), _make("rint"), _make("sqrt")
exp, log, erf, tanh = _make("exp"), _make("log"), _make("erf"), _make("tanh")
less, greater, equal, select = _make("lt"), _make("gt"), _make("eq"), _make("select")


def cast(x: Expr, type: ElementType) -> Expr:
    """`x` converted to `type`: float to integer truncates, integer to narrower integer keeps the low bits."""
    return x if x.type == type else Expr("cast", (x,), type)


def bitcast(x: Expr, type: ElementType) -> Expr:
    """The bits of `x` read as `type` of the same width."""
    return x if x.type == type else Expr("bitcast", (x,), type)


def rint_i32(x: Expr) -> Expr:
    """`x` (f32) rounded half to even into an int32; INT32_MIN for NaN and out-of-range values."""
    return Expr("rint_i32", (x,), i32)


def lookup(index: Expr, entries: Sequence[float]) -> Expr:
    """f32 entry `index mod 16` (i32) of 16."""
    return Expr("lookup", (index, *(const(e) for e in entries)), f32)


def clamp(x: Expr, lo: float, hi: float) -> Expr:
    """`minimum(maximum(x, lo), hi)`; NaN survives."""
    return minimum(maximum(x, lo), hi)


def substitute(e: Expr, leaves: Mapping[int, Expr] | Sequence[Expr]) -> Expr:
    """`e` with input `i` replaced by `leaves[i]` (a mapping may leave some as they are)."""
    table = dict(enumerate(leaves)) if isinstance(leaves, Sequence) else leaves
    if all(leaf.fn == "input" and leaf.value == i for i, leaf in table.items()):
        return e
    new: dict[int, Expr] = {}
    # what `walk` will find, in its order
    order: dict[int, Expr] = {}
    for node in e.walk():
        if node.args:
            made = node.over(tuple([new[id(a)] for a in node.args]))
        else:
            made = table.get(int(node.value or 0), node) if node.fn == "input" else node
            if made.args:
                order.update([(id(below), below) for below in made.walk()])
        new[id(node)] = order[id(made)] = made
    found = new[id(e)]
    if found is not e and found.args:
        order.pop(id(found))
        _set(found, "_below", tuple(order.values()))
    return found
