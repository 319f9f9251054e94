"""Reductions over axes."""

from __future__ import annotations

from lpir.errors import UnsupportedError
from lpir.frontends.onnx.conversion import Call
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value, known_value
from lpir.ir.types import boolean, u8

KINDS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceL1", "ReduceL2")
DERIVED = ("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")


@operator(*KINDS, *DERIVED)
def reduce_attribute(c: Call) -> Value:
    axes = c.integers("axes", tuple(range(c.rank())))
    return reduced(c, c.const(axes))


@operator(*KINDS, *DERIVED, since=18)
@operator("ReduceSum", since=13)
def reduce(c: Call) -> Value:
    """Axes are an input; without them all, or none with noop_with_empty_axes."""
    axes = c.maybe(1)
    if axes is not None:
        known = known_value(axes)
        if known is not None and known.size:
            return reduced(c, axes)
        if known is None and not (axes.shape.is_static and axes.shape.to_static() == (0,)):
            return reduced(c, axes)
    if not c.integer("noop_with_empty_axes", 0):
        return reduced(c, c.const(list(range(c.rank()))))
    elementwise = c.operator.type in (*DERIVED, "ReduceL1", "ReduceL2")
    return reduced(c, c.const([])) if elementwise else c[0]


def reduced(c: Call, axes: Value) -> Value:
    kind, x, keep = c.operator.type, c[0], bool(c.integer("keepdims", 1))
    if kind == "ReduceSumSquare":
        return c.make("ReduceSum", c.make("Multiply", x, x), axes, keep_dims=keep)
    if kind == "ReduceLogSum":
        return c.make("Log", c.make("ReduceSum", x, axes, keep_dims=keep))
    if kind == "ReduceLogSumExp":
        return log_sum_exp(c, axes, keep)
    if x.element_type == boolean:
        if kind not in ("ReduceMax", "ReduceMin"):
            raise UnsupportedError(f"{kind} of booleans is not supported")
        return c.convert(c.make(kind, c.convert(x, u8), axes, keep_dims=keep), boolean)
    return c.make(kind, x, axes, keep_dims=keep)


def log_sum_exp(c: Call, axes: Value, keep: bool) -> Value:
    """`log(sum(exp(x)))`, shifted by the largest element so that exp does not overflow."""
    x = c[0]
    top = c.make("ReduceMax", x, axes, keep_dims=True)
    total = c.make("ReduceSum", c.make("Exp", c.make("Subtract", x, top)), axes, keep_dims=True)
    result = c.make("Add", c.make("Log", total), top)
    return result if keep else c.make("Squeeze", result, axes)
