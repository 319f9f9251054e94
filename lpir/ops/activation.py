"""Activation functions, element by element.

Source of the formulas: the OpenVINO operation set specification of the version that each class names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Case, TensorType, op
from lpir.ir.types import ElementType
from lpir.ops.bases import ElementwiseOp, FloatUnary, Unary, rounded_once
from lpir.record import record
from lpir.scalar.expr import Expr, absolute, apply, clamp, erf, exp, input_, less, log, maximum, minimum, select, tanh


def sigmoid(x: Expr) -> Expr:
    """`1 / (1 + e^-x)`."""
    return 1.0 / (exp(-x) + 1.0)


@op
class Relu(Unary):
    """`max(x, 0)` (opset1)."""

    def expr(self, x: Expr) -> Expr:
        return maximum(x, 0)


@op
class Sigmoid(FloatUnary):
    """`1 / (1 + e^-x)` (opset1)."""

    def expr(self, x: Expr) -> Expr:
        return sigmoid(x)


@op
@record
class Elu(FloatUnary):
    """`x if x >= 0 else alpha * (e^x - 1)` (opset1)."""

    alpha: float = 1.0

    def expr(self, x: Expr) -> Expr:
        return select(less(x, 0.0), (exp(x) - 1.0) * self.alpha, x)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.linspace(-6, 6, 25, dtype=np.float32)
        return [*super().cases(), Case(cls(alpha=0.3), (x,), "alpha")]


@op
@record
class Gelu(FloatUnary):
    """`x * Phi(x)` (opset7).

    ERF: `0.5 x (1 + erf(x / sqrt 2))`; TANH: `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    """

    version: ClassVar[str] = "opset7"
    approximation_mode: str = "ERF"

    def expr(self, x: Expr) -> Expr:
        mode = self.approximation_mode.upper()
        if mode == "ERF":
            inner = erf(x * math.sqrt(0.5))
        elif mode == "TANH":
            inner = tanh((x + x * x * x * 0.044715) * math.sqrt(2.0 / math.pi))
        else:
            raise ModelError(f"approximation_mode must be ERF or TANH, not {self.approximation_mode!r}")
        return x * 0.5 * (inner + 1.0)

    edges: ClassVar[bool] = False

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.linspace(-6, 6, 61, dtype=np.float32)
        return [*super().cases(), Case(cls("TANH"), (x,), "tanh")]


@op
class Swish(ElementwiseOp):
    """`x / (1 + e^(-beta x))` (opset4); beta is an optional scalar input, 1 without it."""

    version: ClassVar[str] = "opset4"
    arity: ClassVar[tuple[int, int | None]] = (1, 2)

    def expression(self, types: Sequence[ElementType]) -> Expr:
        return rounded_once(self.expr, *(input_(i, t) for i, t in enumerate(types)))

    def expr(self, x: Expr, beta: Expr | None = None) -> Expr:
        return x / (exp(-x if beta is None else -(x * beta)) + 1.0)

    def leaf_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [shapes[0], *([()] * (len(shapes) - 1))]

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if len(inputs) == 2 and inputs[1].type != inputs[0].type:
            raise ModelError(f"beta must be {inputs[0].type}, not {inputs[1].type}")
        return [TensorType(inputs[0].type, inputs[0].shape)]

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.linspace(-20, 20, 60, dtype=np.float32).reshape(3, 4, 5)
        return [Case(cls(), (x,), "plain"), Case(cls(), (x, np.array(1.7, np.float32)), "beta")]


@op
class HSwish(FloatUnary):
    """`x * min(max(x + 3, 0), 6) / 6` (opset4)."""

    version: ClassVar[str] = "opset4"
    edges: ClassVar[bool] = False

    def expr(self, x: Expr) -> Expr:
        return x * clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)


@op
class HSigmoid(FloatUnary):
    """`min(max(x + 3, 0), 6) / 6` (opset5)."""

    version: ClassVar[str] = "opset5"

    edges: ClassVar[bool] = False

    def expr(self, x: Expr) -> Expr:
        return clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)


@op
class Mish(FloatUnary):
    """`x * tanh(ln(1 + e^x))` (opset4).

    With `w = e^-|x|`, `tanh(ln(1 + e^x))` is `(1 + 2w) / (1 + 2w + 2w^2)` for x >= 0 and
    `(w^2 + 2w) / (w^2 + 2w + 2)` below: nothing overflows, nothing cancels.
    """

    version: ClassVar[str] = "opset4"
    edges: ClassVar[bool] = False

    def expr(self, x: Expr) -> Expr:
        w = exp(-absolute(x))
        negative = less(x, 0.0)
        top = select(negative, w * w + w * 2.0, w * 2.0 + 1.0)
        rest = select(negative, x * 0.0 + 2.0, w * w * 2.0)
        return x * (top / (top + rest))


@op
class SoftPlus(FloatUnary):
    """`ln(1 + e^x)` (opset4), as `max(x, 0) + ln(1 + e^-|x|)`, which cannot overflow."""

    version: ClassVar[str] = "opset4"

    edges: ClassVar[bool] = False

    def expr(self, x: Expr) -> Expr:
        return maximum(x, 0.0) + log(exp(-absolute(x)) + 1.0)


@op
class SoftSign(FloatUnary):
    """`x / (1 + |x|)` (opset9)."""

    version: ClassVar[str] = "opset9"
    edges: ClassVar[bool] = False

    def expr(self, x: Expr) -> Expr:
        return x / (absolute(x) + 1.0)


@op
@record
class Clamp(Unary):
    """`min(max(x, min), max)` (opset1). For integers the limits are rounded inward and kept inside the type."""

    min: float
    max: float

    def expr(self, x: Expr) -> Expr:
        if x.type.is_float:
            return clamp(x, self.min, self.max)
        low, high = x.type.limits
        lo = low if self.min <= low else math.ceil(self.min)
        hi = high if self.max >= high else math.floor(self.max)
        return minimum(maximum(x, lo), hi)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if not self.min <= self.max:
            raise ModelError(f"min ({self.min}) must not be above max ({self.max})")
        return super().infer(inputs)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.linspace(-2, 8, 41, dtype=np.float32)
        return [
            Case(cls(0.0, 6.0), (x,), "relu6"),
            Case(cls(-1.5, 2.5), (np.arange(-4, 5, dtype=np.int32),), "i32"),
            Case(cls(-math.inf, 1.0), (np.array([np.inf, -np.inf, 0.5], np.float32),), "one side"),
        ]


class Parametric(ElementwiseOp):
    """`f(x, parameters...)` with scalar parameters that are inputs."""

    def expr(self, *leaves: Expr) -> Expr:
        raise ModelError(f"{self.type_name} states no expression")

    def expression(self, types: Sequence[ElementType]) -> Expr:
        return rounded_once(self.expr, *(input_(i, t) for i, t in enumerate(types)))

    def leaf_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [shapes[0], *([()] * (len(shapes) - 1))]

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        for p in inputs[1:]:
            if p.type != inputs[0].type:
                raise ModelError(f"the parameters must be {inputs[0].type}, not {p.type}")
        return [TensorType(inputs[0].type, inputs[0].shape)]


@op
class HardSigmoid(Parametric):
    """`min(max(alpha x + beta, 0), 1)` (opset1); inputs x, alpha, beta."""

    arity: ClassVar[tuple[int, int | None]] = (3, 3)

    def expr(self, *leaves: Expr) -> Expr:
        x, alpha, beta = leaves
        return clamp(alpha * x + beta, 0.0, 1.0)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.linspace(-6, 6, 24, dtype=np.float32).reshape(2, 3, 4)
        return [Case(cls(), (x, np.array(0.2, np.float32), np.array(0.5, np.float32)), "plain")]


@op
class Selu(Parametric):
    """`lambda * (x if x > 0 else alpha * (e^x - 1))` (opset1); inputs x, alpha, lambda."""

    arity: ClassVar[tuple[int, int | None]] = (3, 3)

    def expr(self, *leaves: Expr) -> Expr:
        x, alpha, scale = leaves
        return scale * select(apply("gt", x, 0.0), x, alpha * (exp(x) - 1.0))

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.linspace(-6, 6, 24, dtype=np.float32).reshape(2, 3, 4)
        return [Case(cls(), (x, np.array([1.6732632], np.float32), np.array([1.050701], np.float32)), "plain")]


@op
class PRelu(ElementwiseOp):
    """`x if x >= 0 else slope * x` (opset1).

    A one-dimensional slope as long as axis 1 belongs to that axis; any other slope broadcasts NumPy-style.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def expression(self, types: Sequence[ElementType]) -> Expr:
        x, slope = (input_(i, t) for i, t in enumerate(types))
        return select(apply("lt", x, 0), x * slope, x)

    def leaf_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        x, slope = shapes
        if len(slope) == 1 and len(x) > 1 and slope[0] == x[1]:
            return [x, slope + (1,) * (len(x) - 2)]
        return [x, slope]

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if inputs[1].type != inputs[0].type:
            raise ModelError(f"the slope must be {inputs[0].type}, not {inputs[1].type}")
        return [TensorType(inputs[0].type, inputs[0].shape)]

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.linspace(-6, 6, 18, dtype=np.float32)
        slope = np.array([0.1, 0.25, -0.5], np.float32)
        return [
            Case(cls(), (x.reshape(1, 3, 6), slope), "per channel"),
            Case(cls(), (x.reshape(1, 3, 2, 3), slope), "channel before width"),
            Case(cls(), (x.reshape(6, 3), slope[:1]), "one slope"),
            Case(cls(), (x.reshape(1, 3, 6), slope.reshape(3, 1)), "numpy"),
        ]
