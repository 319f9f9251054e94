"""Picking and placing elements: gather, scatter, top-k, one-hot, masks."""

from __future__ import annotations

import numpy as np

from lpir.errors import UnsupportedError
from lpir.frontends.onnx.conversion import Call
from lpir.frontends.onnx.operators.quantization import moves_codes
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value
from lpir.ir.types import i64


@operator("Gather")
@moves_codes
def gather(c: Call) -> Value:
    return c.make("Gather", c[0], c[1], c.const(c.axis(0)), batch_dims=0)


@operator("GatherElements")
def gather_elements(c: Call) -> Value:
    return c.make("GatherElements", c[0], c[1], axis=c.axis(0))


@operator("GatherND")
def gather_nd(c: Call) -> Value:
    return c.make("GatherND", c[0], c[1], batch_dims=c.integer("batch_dims", 0))


REDUCTIONS = {"none": "none", "add": "sum", "mul": "prod", "min": "min", "max": "max"}


def reduction(c: Call) -> str:
    mode = c.text("reduction", "none")
    if mode not in REDUCTIONS:
        raise UnsupportedError(f"reduction {mode!r} is not supported")
    return REDUCTIONS[mode]


@operator("ScatterElements", "Scatter")
def scatter_elements(c: Call) -> Value:
    axis = c.const(c.axis(0))
    return c.make("ScatterElementsUpdate", c[0], c[1], c[2], axis, reduction=reduction(c), use_init_val=True)


@operator("ScatterND")
def scatter_nd(c: Call) -> Value:
    return c.make("ScatterNDUpdate", c[0], c[1], c[2], reduction=reduction(c))


@operator("OneHot")
def one_hot(c: Call) -> Value:
    """OneHot; `values` is [off, on]; a negative index counts from the end."""
    off, on = (c.make("Squeeze", v, c.const([0])) for v in c.make_all("Split", c[2], c.const(0), num_splits=2))
    depth = c.convert(c[1], i64)
    if c.rank(1) == 1:
        depth = c.make("Squeeze", depth, c.const([0]))
    indices = c.convert(c[0], i64)
    wrapped = c.make("Add", indices, depth)
    indices = c.make("Select", c.make("Less", indices, c.const(0)), wrapped, indices)
    return c.make("OneHot", indices, depth, on, off, axis=c.axis(-1, c.rank() + 1))


@operator("NonZero")
def non_zero(c: Call) -> Value:
    return c.make("NonZero", c[0], output_type=i64)


@operator("TopK")
def top_k_attribute(c: Call) -> list[Value]:
    return top(c, c.const(c.integer("k")))


@operator("TopK", since=10)
def top_k(c: Call) -> list[Value]:
    return top(c, c.make("Squeeze", c[1], c.const([0])) if c.rank(1) == 1 else c[1])


def top(c: Call, k: Value) -> list[Value]:
    mode = "max" if c.integer("largest", 1) else "min"
    sort = "value" if c.integer("sorted", 1) else "none"
    axis = c.axis(-1)
    return c.make_all("TopK", c[0], k, axis=axis, mode=mode, sort=sort, index_element_type=i64, stable=True)


ARG = {"ArgMax": "max", "ArgMin": "min"}


@operator(*ARG)
def arg_extreme(c: Call) -> Value:
    """Index of the first (or last) extreme element along an axis."""
    x, axis, last = c[0], c.axis(0), bool(c.integer("select_last_index", 0))
    if last:
        x = c.make("Slice", x, c.const([-1]), c.const([np.iinfo(np.int64).min]), c.const([-1]), c.const([axis]))
    mode = ARG[c.operator.type]
    order = {"mode": mode, "sort": "value", "stable": True}
    index = c.make_all("TopK", x, c.const(1), axis=axis, index_element_type=i64, **order)[1]
    if last:
        shape = c.make("ShapeOf", x, output_type=i64)
        length = c.make("Gather", shape, c.const(axis), c.const(0), batch_dims=0)
        index = c.make("Subtract", c.make("Subtract", length, c.const(1)), index)
    return index if c.integer("keepdims", 1) else c.make("Squeeze", index, c.const([axis]))


@operator("CumSum")
def cumulative_sum(c: Call) -> Value:
    axis = c[1] if c.rank(1) == 0 else c.make("Squeeze", c[1], c.const([0]))
    exclusive, reverse = bool(c.integer("exclusive", 0)), bool(c.integer("reverse", 0))
    return c.make("CumSum", c[0], axis, exclusive=exclusive, reverse=reverse)


@operator("Trilu")
def triangle(c: Call) -> Value:
    """The upper (or lower) triangle of the last two dimensions, zeros elsewhere."""
    x, rank = c[0], c.rank()
    shape = c.make("ShapeOf", x, output_type=i64)
    rows, columns = (
        c.make("Range", c.const(0), length(c, shape, axis), c.const(1), output_type=i64)
        for axis in (rank - 2, rank - 1)
    )
    k = c.maybe(1) or c.const(0)
    if k.shape.rank == 1:
        k = c.make("Squeeze", k, c.const([0]))
    diagonal = c.make("Add", c.make("Unsqueeze", rows, c.const([1])), k)
    kind = "GreaterEqual" if c.integer("upper", 1) else "LessEqual"
    inside = c.make(kind, c.make("Unsqueeze", columns, c.const([0])), diagonal)
    return c.make("Select", inside, x, c.like(x, 0))


def length(c: Call, shape: Value, axis: int) -> Value:
    """One element of a shape, as a scalar."""
    return c.make("Gather", shape, c.const(axis), c.const(0), batch_dims=0)


@operator("EyeLike")
def identity_matrix(c: Call) -> Value:
    """Ones on diagonal `k` of a matrix of the input's shape."""
    from lpir.frontends.onnx.records import element_type

    shape = c.make("ShapeOf", c[0], output_type=i64)
    rows, columns = (
        c.make("Range", c.const(0), length(c, shape, axis), c.const(1), output_type=i64) for axis in (0, 1)
    )
    diagonal = c.make("Add", c.make("Unsqueeze", rows, c.const([1])), c.const(c.integer("k", 0)))
    inside = c.make("Equal", c.make("Unsqueeze", columns, c.const([0])), diagonal)
    kind = element_type(c.integer("dtype")) if c.has("dtype") else c[0].element_type
    return c.make("Select", inside, c.const(1, kind), c.const(0, kind))


@operator("Compress", since=9)
def compress(c: Call) -> Value:
    """The slices along `axis` whose condition is true."""
    x = c[0]
    if c.has("axis"):
        axis = c.axis(0)
    else:
        x, axis = c.make("Reshape", x, c.const([-1]), special_zero=False), 0
    chosen = c.make("Squeeze", c.make("NonZero", c[1], output_type=i64), c.const([0]))
    return c.make("Gather", x, chosen, c.const(axis), batch_dims=0)


@operator("ReverseSequence")
def reverse_sequence(c: Call) -> Value:
    batch, time = c.integer("batch_axis", 1), c.integer("time_axis", 0)
    return c.make("ReverseSequence", c[0], c[1], batch_axis=batch, seq_axis=time)
