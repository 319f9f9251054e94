"""Comparisons, logic and bits, element by element. Each class states one scalar expression.

Source of the formulas: the OpenVINO operation set specification of the version that each class names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Case, TensorType, op
from lpir.ir.types import boolean
from lpir.ops.bases import Binary, Comparison, FloatUnary, Unary
from lpir.record import record
from lpir.scalar.expr import Expr, absolute, apply, const


@op
class Equal(Comparison):
    """`a == b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("eq", a, b)


@op
class NotEqual(Comparison):
    """`a != b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("ne", a, b)


@op
class Less(Comparison):
    """`a < b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("lt", a, b)


@op
class LessEqual(Comparison):
    """`a <= b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("le", a, b)


@op
class Greater(Comparison):
    """`a > b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("gt", a, b)


@op
class GreaterEqual(Comparison):
    """`a >= b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("ge", a, b)


class Logical(Binary):
    """Two booleans to one. A subclass states `expr`."""

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        for x in inputs:
            if x.type != boolean:
                raise ModelError(f"the inputs must be boolean, not {x.type}")
        return super().infer(inputs)

    @classmethod
    def cases(cls) -> list[Case]:
        a = np.array([[False, False], [True, True]])
        b = np.array([[False, True], [False, True]])
        return [Case(cls(), (a, b), "table"), Case(cls(), (a, b[0]), "broadcast")]


@op
class LogicalAnd(Logical):
    """`a and b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("and", a, b)


@op
class LogicalOr(Logical):
    """`a or b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("or", a, b)


@op
class LogicalXor(Logical):
    """`a != b` (opset1)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("xor", a, b)


@op
class LogicalNot(Unary):
    """`not x` (opset1), boolean."""

    def expr(self, x: Expr) -> Expr:
        return apply("not", x)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(cls(), (np.array([True, False, True]),), "boolean")]


class Bitwise(Binary):
    """Two integers (or booleans) to one, bit by bit. A subclass states `expr`."""

    version: ClassVar[str] = "opset13"

    @classmethod
    def cases(cls) -> list[Case]:
        a, b = np.arange(-6, 6, dtype=np.int32).reshape(3, 4), np.array([1, 7, -3, 12], np.int32)
        return [Case(cls(), (a, b), "i32"), Case(cls(), (a.astype(np.uint8), b.astype(np.uint8)), "u8")]


@op
class BitwiseAnd(Bitwise):
    """`a & b` (opset13)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("and", a, b)


@op
class BitwiseOr(Bitwise):
    """`a | b` (opset13)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("or", a, b)


@op
class BitwiseXor(Bitwise):
    """`a ^ b` (opset13)."""

    def expr(self, a: Expr, b: Expr) -> Expr:
        return apply("xor", a, b)


@op
class BitwiseNot(Unary):
    """`~x` (opset13); booleans: `not x`."""

    version: ClassVar[str] = "opset13"

    def expr(self, x: Expr) -> Expr:
        return apply("not", x)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(cls(), (np.arange(-6, 6, dtype=np.int32),), "i32")]


class Question(FloatUnary):
    """A question about a float, answered with a boolean. A subclass states `expr`."""

    version: ClassVar[str] = "opset10"

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(boolean, t.shape) for t in super().infer(inputs)]


@op
class IsNaN(Question):
    """Whether `x` is NaN (opset10)."""

    def expr(self, x: Expr) -> Expr:
        return apply("ne", x, x)


@op
class IsFinite(Question):
    """Whether `x` is neither infinite nor NaN (opset10)."""

    def expr(self, x: Expr) -> Expr:
        return apply("lt", absolute(x), math.inf)


@op
@record
class IsInf(Question):
    """Whether `x` is infinite, of the signs asked for (opset10)."""

    detect_negative: bool = True
    detect_positive: bool = True

    def expr(self, x: Expr) -> Expr:
        negative = apply("eq", x, -math.inf)
        positive = apply("eq", x, math.inf)
        if self.detect_negative and self.detect_positive:
            return apply("or", negative, positive)
        if self.detect_negative or self.detect_positive:
            return negative if self.detect_negative else positive
        return apply("and", negative, const(False, boolean))
