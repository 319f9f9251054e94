"""Arithmetic, comparison, logic and type conversion."""

from __future__ import annotations

import numpy as np

from lpir.errors import UnsupportedError
from lpir.frontends.onnx.conversion import Call
from lpir.frontends.onnx.operators.quantization import moves_codes
from lpir.frontends.onnx.records import element_type
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value, known_value
from lpir.ir.types import boolean, i64

UNARY = {
    "Abs": "Abs",
    "Acos": "Acos",
    "Acosh": "Acosh",
    "Asin": "Asin",
    "Asinh": "Asinh",
    "Atan": "Atan",
    "Atanh": "Atanh",
    "BitwiseNot": "BitwiseNot",
    "Ceil": "Ceiling",
    "Cos": "Cos",
    "Cosh": "Cosh",
    "Erf": "Erf",
    "Exp": "Exp",
    "Floor": "Floor",
    "IsNaN": "IsNaN",
    "Log": "Log",
    "Neg": "Negative",
    "Not": "LogicalNot",
    "Sign": "Sign",
    "Sin": "Sin",
    "Sinh": "Sinh",
    "Sqrt": "Sqrt",
    "Tan": "Tan",
    "Tanh": "Tanh",
}
BINARY = {
    "Add": "Add",
    "And": "LogicalAnd",
    "BitwiseAnd": "BitwiseAnd",
    "BitwiseOr": "BitwiseOr",
    "BitwiseXor": "BitwiseXor",
    "Div": "Divide",
    "Equal": "Equal",
    "Greater": "Greater",
    "GreaterOrEqual": "GreaterEqual",
    "Less": "Less",
    "LessOrEqual": "LessEqual",
    "Mul": "Multiply",
    "Or": "LogicalOr",
    "Sub": "Subtract",
    "Xor": "LogicalXor",
}
VARIADIC = {"Sum": "Add", "Max": "Maximum", "Min": "Minimum"}


@operator(*UNARY)
def unary(c: Call) -> Value:
    return c.make(UNARY[c.operator.type], c[0])


@operator(*BINARY)
def binary(c: Call) -> Value:
    a, b = c[0], c[1]
    if c.has("axis") and c.integer("broadcast", 0):
        b = aligned(c, b, c.axis(0))
    if c.operator.type == "Div":
        # ONNX divides integers toward zero
        return c.make("Divide", a, b, m_pythondiv=False)
    return c.make(BINARY[c.operator.type], a, b)


def aligned(c: Call, b: Value, axis: int) -> Value:
    """Operator sets before 7: `b` broadcasts against the dimensions of the first input from `axis` on."""
    after = c.rank() - axis - c.rank(1)
    return c.make("Unsqueeze", b, c.const(list(range(c.rank(1), c.rank(1) + after)))) if after > 0 else b


@operator(*VARIADIC)
def variadic(c: Call) -> Value:
    result = c[0]
    for index in range(1, len(c.inputs)):
        result = c.make(VARIADIC[c.operator.type], result, c[index])
    return result


@operator("Mean")
def mean(c: Call) -> Value:
    return c.make("Divide", mean_sum(c), c.like(c[0], len(c.inputs)))


def mean_sum(c: Call) -> Value:
    result = c[0]
    for index in range(1, len(c.inputs)):
        result = c.make("Add", result, c[index])
    return result


@operator("Identity")
@moves_codes
def identity(c: Call) -> Value:
    return c[0]


@operator("Dropout")
def dropout(c: Call) -> list[Value]:
    """The input as it is, and a mask of ones when it is asked for."""
    training = c.maybe(2)
    if training is not None and bool(c.known(2, "training_mode").any()):
        raise UnsupportedError("training mode is not supported; export the model in evaluation mode")
    if len(c.operator.outputs) < 2:
        return [c[0]]
    ones = c.const(True, np.bool_)
    return [c[0], c.make("Broadcast", ones, c.make("ShapeOf", c[0], output_type=i64), mode="numpy")]


@operator("Pow")
def power(c: Call) -> Value:
    return c.make("Power", c[0], c.convert(c[1], c[0].element_type))


@operator("Mod")
def modulo(c: Call) -> Value:
    return c.make("Mod" if c.integer("fmod", 0) else "FloorMod", c[0], c[1])


@operator("Reciprocal")
def reciprocal(c: Call) -> Value:
    return c.make("Divide", c.like(c[0], 1), c[0])


@operator("Round")
def round_half_to_even(c: Call) -> Value:
    return c.make("Round", c[0], mode="half_to_even")


@operator("IsInf")
def is_infinite(c: Call) -> Value:
    negative, positive = bool(c.integer("detect_negative", 1)), bool(c.integer("detect_positive", 1))
    return c.make("IsInf", c[0], detect_negative=negative, detect_positive=positive)


@operator("Where")
def where(c: Call) -> Value:
    return c.make("Select", c[0], c[1], c[2])


@operator("Cast")
def cast(c: Call) -> Value:
    return converted(c, c[0], c.integer("to"))


def converted(c: Call, x: Value, number: int) -> Value:
    """`x` in the ONNX element type `number`; a float becomes true unless it is 0."""
    kind = element_type(number)
    if kind == boolean and x.element_type != boolean:
        return c.make("NotEqual", x, c.like(x, 0))
    return c.convert(x, kind)


@operator("CastLike")
def cast_like(c: Call) -> Value:
    return c.convert(c[0], c[1].element_type)


@operator("Clip")
def clip_attributes(c: Call) -> Value:
    lowest = float(np.finfo(np.float32).min)
    return c.make("Clamp", c[0], min=c.real("min", lowest), max=c.real("max", -lowest))


@operator("Clip", since=11)
def clip(c: Call) -> Value:
    """Clamp for constant float limits, else Maximum and Minimum (ONNX: the maximum wins when min > max)."""
    x, lo, hi = c[0], c.maybe(1), c.maybe(2)
    low, high = limit(c, 1, -np.inf), limit(c, 2, np.inf)
    if x.element_type.is_float and low is not None and high is not None and low <= high:
        return c.make("Clamp", x, min=low, max=high)
    if lo is not None:
        x = c.make("Maximum", x, lo)
    return x if hi is None else c.make("Minimum", x, hi)


def limit(c: Call, index: int, default: float) -> float | None:
    """A limit of Clip if it is known and finite; what stands for a missing one is the largest finite number."""
    if c.maybe(index) is None:
        return float(np.clip(default, np.finfo(np.float32).min, np.finfo(np.float32).max))
    value = known_value(c[index])
    return None if value is None or value.size != 1 else float(value.reshape(-1)[0])
