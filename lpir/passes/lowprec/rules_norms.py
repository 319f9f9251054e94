"""Lowering of normalizations, norms, and other operations that come down to sums and elementwise arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.types import boolean, f32, i32, u8
from lpir.ops.bases import normalize_axis
from lpir.ops.boundary import constant
from lpir.ops.builder import make_node
from lpir.ops.lowered import Elementwise, LoweredNormalize, Pool, Reduce
from lpir.ops.reshaping import Reshape
from lpir.passes.lowprec.forms import Lowering, physical_axis
from lpir.passes.lowprec.rules import attrs, copy_node, rule
from lpir.scalar.expr import Expr, absolute, cast, equal, exp, input_, log, maximum, select, sqrt

X, Y = input_(0), input_(1)


def _axes(state: Lowering, node: Node) -> list[int] | None:
    """The axes that input 1 names, or None for what is not float32 or not known."""
    x, found = node.inputs[0], state.constant_of(node.inputs[1])
    if found is None or x.element_type != f32 or not len(x.shape):
        return None
    return sorted({normalize_axis(int(a), len(x.shape)) for a in np.asarray(found).reshape(-1)})


def _shaped(state: Lowering, value: Value, shape: Sequence[int]) -> Value:
    return state.emit(Reshape(False), [value, constant(np.asarray(shape, np.int64))])


@rule("ReduceL1", "ReduceL2")
def norm(state: Lowering, node: Node) -> None:
    """`sum(|x|)`, `sqrt(sum(x^2))`."""
    axes = _axes(state, node)
    if not axes:
        copy_node(state, node)
        return
    squared = node.op.type_name == "ReduceL2"
    terms = state.emit(Elementwise(X * X if squared else absolute(X)), [state.real(node.inputs[0])])
    op = Reduce("sum", tuple(axes), bool(attrs(node).keep_dims), 0, sqrt(X) if squared else X)
    state.set_real(node.outputs[0], state.emit(op, [terms]))


@rule("NormalizeL2")
def normalize_l2(state: Lowering, node: Node) -> None:
    """`x / sqrt(sum(x^2) + eps)`, in the layout that is there."""
    axes, op = _axes(state, node), attrs(node)
    if not axes:
        copy_node(state, node)
        return
    x, rank = node.inputs[0], len(node.inputs[0].shape)
    last = state.prefers_last([x], rank)
    real, eps = state.real(x, last), float(np.float32(op.eps))
    inner = X + eps if op.eps_mode == "add" else maximum(X, eps)
    physical = tuple(sorted(physical_axis(a, rank, last) for a in axes))
    length = state.emit(Reduce("sum", physical, True, 0, sqrt(inner)), [state.emit(Elementwise(X * X), [real])])
    state.set_real(node.outputs[0], state.emit(Elementwise(X / Y), [real, length]), last)


@rule("GroupNormalization")
def group_normalization(state: Lowering, node: Node) -> None:
    """Each group is a row of a normalization; scale and bias of a channel follow."""
    x, scale, bias = node.inputs
    op, shape = attrs(node), x.shape.to_static()
    if x.element_type != f32 or 0 in shape:
        copy_node(state, node)
        return
    rows = _shaped(state, state.real(x), (shape[0], op.num_groups, math.prod(shape[1:]) // op.num_groups))
    normal = state.emit(LoweredNormalize(1, True, float(op.epsilon), "INSIDE_SQRT", X), [rows])
    columns = [_shaped(state, state.real(v), (shape[1], *[1] * (len(shape) - 2))) for v in (scale, bias)]
    state.set_real(
        node.outputs[0], state.emit(Elementwise(X * Y + input_(2)), [_shaped(state, normal, shape), *columns])
    )


@rule("LRN")
def local_response(state: Lowering, node: Node) -> None:
    """The sum of squares is a pooling along each axis; behind the last one it is scaled and the bias added."""
    x, op, axes = node.inputs[0], attrs(node), _axes(state, node)
    shape = x.shape.to_static()
    if not axes:
        copy_node(state, node)
        return
    real = state.real(x)
    sums = state.emit(Elementwise(X * X), [real])
    pads = (((op.size - 1) // 2,), (op.size // 2,))
    for axis in axes:
        scale = float(np.float32(op.alpha / op.size ** len(axes)))
        inner = X * scale + float(np.float32(op.bias)) if axis == axes[-1] else X
        rows = _shaped(state, sums, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])))
        sums = state.emit(Pool((1,), (1,), *pads, "avg", (op.size,), False, 0, inner), [rows])
    divided = X * exp(log(Y) * float(np.float32(-op.beta)))
    state.set_real(node.outputs[0], state.emit(Elementwise(divided), [real, _shaped(state, sums, shape)]))


@rule("ReduceLogicalAnd", "ReduceLogicalOr")
def logical_reduction(state: Lowering, node: Node) -> None:
    """The least, or the largest, of zeros and ones."""
    x, found = node.inputs[0], state.constant_of(node.inputs[1])
    if found is None or 0 in (len(x.shape), *x.shape.to_static()):
        copy_node(state, node)
        return
    axes = sorted({normalize_axis(int(a), len(x.shape)) for a in np.asarray(found).reshape(-1)})
    kind = "min" if node.op.type_name == "ReduceLogicalAnd" else "max"
    numbers = state.emit(Elementwise(cast(input_(0, boolean), u8)), [state.real(x)])
    op = Reduce(kind, tuple(axes), bool(attrs(node).keep_dims), 0, input_(0, i32))
    result = state.emit(op, [numbers])
    state.set_real(node.outputs[0], state.emit(Elementwise(equal(input_(0, i32), 1)), [result]))


@rule("OneHot")
def one_hot(state: Lowering, node: Node) -> None:
    """A comparison with the numbers of the classes."""
    indices, depth, on, off = node.inputs
    found = state.constant_of(depth)
    if found is None or 0 in node.outputs[0].shape.to_static():
        copy_node(state, node)
        return
    rank = len(indices.shape) + 1
    axis, kind, value = normalize_axis(int(attrs(node).axis), rank), indices.element_type, on.element_type
    shape = list(indices.shape.to_static())
    column = _shaped(state, state.real(indices), [*shape[:axis], 1, *shape[axis:]])
    count = int(np.asarray(found).reshape(-1)[0])
    classes = np.arange(count, dtype=kind.dtype).reshape([-1 if a == axis else 1 for a in range(rank)])
    expr: Expr = select(equal(input_(0, kind), input_(1, kind)), input_(2, value), input_(3, value))
    values = [_shaped(state, state.real(v), [1] * rank) for v in (on, off)]
    state.set_real(node.outputs[0], state.emit(Elementwise(expr), [column, constant(classes), *values]))


@rule("ConvertLike")
def convert_like(state: Lowering, node: Node) -> None:
    """A Convert to the type of the other input."""
    x, to = node.inputs[0], node.outputs[0].element_type
    if x.element_type == to:
        state.forms[id(node.outputs[0])] = state.form(x)
        return
    convert = make_node("Convert", state.real(x), destination_type=to)
    state.set_real(node.outputs[0], state.emit(convert.op, convert.inputs))
