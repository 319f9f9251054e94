"""Arithmetic and conversions, element by element. Each class states one scalar expression.

Source of the formulas: the OpenVINO operation set specification of the version that each class names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.types import ElementType, boolean, f16, f32, f64, from_dtype, i8, i32, i64, u8
from lpir.ops.bases import Binary, ElementwiseOp, Unary, broadcast_as
from lpir.record import record
from lpir.scalar.expr import Expr, absolute, apply, cast, floor, input_, power, select


@op
class Add(Binary):
    """`a + b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return a + b


@op
class Subtract(Binary):
    """`a - b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return a - b


@op
class Multiply(Binary):
    """`a * b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return a * b


@op
@record
class Divide(Binary):
    """`a / b` (opset1). Integers: rounded down with `m_pythondiv`, else toward zero."""

    m_pythondiv: bool = True

    def expr(self, a: Expr, b: Expr) -> Expr:
        quotient = a / b
        if not (self.m_pythondiv and a.type.is_integer and a.type.is_signed):
            return quotient
        rest = a - quotient * b
        differs = apply("ne", apply("lt", rest, 0), apply("lt", b, 0))
        return select(apply("and", apply("ne", rest, 0), differs), quotient - 1, quotient)

    @classmethod
    def cases(cls) -> list[Case]:
        a, b = np.array([7, -7, 6, -6, 1], np.int32), np.array([2, 2, -4, 4, 3], np.int32)
        whole = [Case(cls(m_pythondiv=p), (a, b), f"i32 pythondiv={p}") for p in (True, False)]
        return [*super().cases(), *whole]


@op
class Maximum(Binary):
    """`b if b > a else a` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("maximum", a, b)


@op
class Minimum(Binary):
    """`b if b < a else a` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("minimum", a, b)


@op
class Power(Binary):
    """`a ** b` (opset1), as C's pow. Integers: through float64, toward zero."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        if a.type.is_integer:
            return cast(power(cast(a, f64), cast(b, f64)), a.type)
        return power(a, b)


@op
class Mod(Binary):
    """Remainder with the sign of `a` (opset1): `a - b * trunc(a / b)`."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("mod", a, b)


@op
class FloorMod(Binary):
    """Remainder with the sign of `b` (opset1): `a - b * floor(a / b)`."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("floor_mod", a, b)


@op
class SquaredDifference(Binary):
    """`(a - b) ** 2` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        d = a - b
        return d * d


@op
@record
class Select(ElementwiseOp):
    """`then if condition else otherwise` (opset1); condition is boolean, the others share a type."""

    arity: ClassVar[tuple[int, int | None]] = (3, 3)
    auto_broadcast: str = "numpy"

    def expression(self, types: Sequence[ElementType]) -> Expr:
        return select(input_(0, types[0]), input_(1, types[1]), input_(2, types[2]))

    def leaf_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        if self.auto_broadcast != "pdpd":
            return list(shapes)
        rank = len(shapes[1])
        return [s + (1,) * (rank - len(s)) for s in shapes]

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        condition, then, otherwise = inputs
        if condition.type != boolean:
            raise ModelError(f"the condition must be boolean, not {condition.type}")
        if then.type != otherwise.type:
            raise ModelError(f"the branches have different types: {then.type} and {otherwise.type}")
        shape = broadcast_as(self.auto_broadcast, then.shape, otherwise.shape)
        return [TensorType(then.type, broadcast_as(self.auto_broadcast, shape, condition.shape))]

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        mask = x % 3 == 0
        return [
            Case(cls(), (mask, x, -x), "f32"),
            Case(cls(), (mask[0], x, np.array(-1, np.float32)), "broadcast"),
            Case(cls(), (mask[:, :1], x[:1].astype(np.int64), np.arange(4)), "i64"),
        ]


@op
@record
class Convert(ElementwiseOp):
    """`x` as `destination_type` (opset1).

    Float to integer truncates and saturates (NaN gives 0), integer to narrower integer keeps the low bits, anything to
    boolean is `x != 0`.
    """

    destination_type: ElementType

    def expression(self, types: Sequence[ElementType]) -> Expr:
        return cast(input_(0, types[0]), self.destination_type)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(self.destination_type, inputs[0].shape)]

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.array([0.0, 0.5, -0.5, 1.75, -1.75, 100.25], np.float32)
        return [
            Case(cls(i32), (x,), "f32 to i32"),
            Case(cls(u8), (np.abs(x),), "f32 to u8"),
            Case(cls(i8), (x,), "f32 to i8"),
            Case(cls(f16), (x,), "f32 to f16"),
            Case(cls(f32), (np.arange(-4, 4, dtype=np.int8),), "i8 to f32"),
            Case(cls(f32), (np.arange(256, dtype=np.uint8),), "u8 to f32"),
            Case(cls(i64), (np.arange(-4, 4, dtype=np.int32),), "i32 to i64"),
            Case(cls(boolean), (np.array([0, 2, -1], np.int32),), "i32 to boolean"),
            Case(cls(f32), (np.array([True, False]),), "boolean to f32"),
        ]


@op
class ConvertLike(Op):
    """The first input as the type of the second (opset1); see Convert."""

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return Convert(from_dtype(inputs[1].dtype)).eval(inputs[0])

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(inputs[1].type, inputs[0].shape)]

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(cls(), (np.array([1.5, -2.5], np.float32), np.zeros(3, np.int32)), "f32 like i32")]


@op
class Abs(Unary):
    """`|x|` (opset1)."""

    def expr(self, x: Expr) -> Expr:
        return absolute(x)


@op
class Negative(Unary):
    """`-x` (opset1)."""

    def expr(self, x: Expr) -> Expr:
        return -x


@op
class Sign(Unary):
    """-1, 0 or 1 (opset1); NaN stays."""

    def expr(self, x: Expr) -> Expr:
        return apply("sign", x)


@op
class Floor(Unary):
    """The largest whole number that is not above `x` (opset1)."""

    def expr(self, x: Expr) -> Expr:
        return floor(x) if x.type.is_float else x


@op
class Ceiling(Unary):
    """The smallest whole number that is not below `x` (opset1)."""

    def expr(self, x: Expr) -> Expr:
        return apply("ceil", x) if x.type.is_float else x


@op
@record
class Round(Unary):
    """The nearest whole number (opset5). mode: "half_to_even" or "half_away_from_zero"."""

    version: ClassVar[str] = "opset5"
    mode: str = "half_to_even"

    def expr(self, x: Expr) -> Expr:
        if not x.type.is_float:
            return x
        if self.mode == "half_to_even":
            return apply("rint", x)
        if self.mode != "half_away_from_zero":
            raise ModelError(f"mode must be half_to_even or half_away_from_zero, not {self.mode!r}")
        size = absolute(x)
        whole = floor(size)
        # adding 0.5 first would round 0.49999997 up
        rounded = select(apply("ge", size - whole, 0.5), whole + 1.0, whole)
        rounded = select(apply("lt", size, math.inf), rounded, size)
        return select(apply("lt", x, 0.0), -rounded, rounded)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 8388609.0, -0.2, 3.7, np.inf, np.nan], np.float32)
        return [Case(cls(m), (x,), m) for m in ("half_to_even", "half_away_from_zero")]
