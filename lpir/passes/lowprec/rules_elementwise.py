"""Lowering of FakeQuantize and of every operation that states an expression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lpir.ir.graph import Node, QuantType, Value
from lpir.ir.types import f32, u8
from lpir.ops.bases import ElementwiseOp
from lpir.ops.boundary import constant
from lpir.ops.lowered import Elementwise
from lpir.passes.lowprec.forms import Lowering, quantize
from lpir.passes.lowprec.rules import RULES, attrs, copy_node, rule
from lpir.scalar.expr import Expr, apply, input_, maximum, minimum, rint, select

# how far from a whole number a zero point may lie and still be taken for it: limits are float32
ZERO_POINT_SLACK = 1e-3


@rule("FakeQuantize")
def fake_quantize(state: Lowering, node: Node) -> None:
    """Codes where limits allow 8-bit ones; the formula as it stands otherwise."""
    x = node.inputs[0]
    found = quant_types(state, node) if state.low_precision else None
    if isinstance(found, str):
        state.refuse(found)
    if not isinstance(found, tuple):
        _as_is(state, node)
        return
    incoming, outgoing, levels = found
    state.precision = "INT8"
    form = state.form(x)
    same = form.quant is not None and form.quant.same_as(incoming) and levels == 256
    if same:
        codes = state.codes(x)
        assert codes is not None
        state.set_codes(node.outputs[0], codes, outgoing, True in form.codes)
        return
    last = state.prefers_last([x], len(x.shape))
    op, inputs = quantize(state.real(x, last), incoming, levels, last)
    state.set_codes(node.outputs[0], state.emit(op, inputs), outgoing, last)


def quant_types(state: Lowering, node: Node) -> tuple[QuantType, QuantType, int] | str:
    """What codes mean before and after a FakeQuantize, and how many there are; or why 8 bits cannot hold it."""
    levels = int(attrs(node).levels)
    if not 2 <= levels <= 256:
        return f"{levels} levels do not fit into 8 bits"
    if node.inputs[0].element_type != f32:
        return f"the input is {node.inputs[0].element_type}, not f32"
    arrays = [state.constant_of(v) for v in node.inputs[1:]]
    limits = [a.astype(np.float64) for a in arrays if a is not None]
    if len(limits) != 4:
        return "the limits are computed by the model"
    if not all(np.isfinite(a).all() for a in limits):
        return "a limit is not finite"
    rank = len(node.inputs[0].shape)
    low = _quant_type(limits[0], limits[1], levels, rank)
    high = _quant_type(limits[2], limits[3], levels, rank)
    if isinstance(low, str) or isinstance(high, str):
        return low if isinstance(low, str) else str(high)
    return low, high, levels


def _quant_type(low: np.ndarray, high: np.ndarray, levels: int, rank: int) -> QuantType | str:
    low, high = np.broadcast_arrays(low, high)
    if not (low < high).all():
        return "a range is empty or reversed"
    scale = (high - low) / (levels - 1)
    zero = -low / scale
    whole = np.rint(zero)
    if np.abs(zero - whole).max() > ZERO_POINT_SLACK:
        return f"zero is not on a level: the zero point would be {zero.reshape(-1)[0]:.4g}"
    zero_point = int(whole.reshape(-1)[0])
    if np.abs(whole).max() > 2**15:
        return "zero lies too far outside the range"
    if scale.size == 1:
        return QuantType(u8, scale.astype(np.float32).reshape(()), zero_point)
    axes = [i for i, n in enumerate(scale.shape) if n > 1]
    if len(axes) > 1 or scale.ndim > rank:
        return "the range varies along more than one axis"
    vector, axis = scale.astype(np.float32).reshape(-1), axes[0] + rank - scale.ndim
    # not np.unique, which imports numpy.ma
    if (whole == zero_point).all():
        return QuantType(u8, vector, zero_point, axis)
    if whole.min() < 0 or whole.max() > 255:
        return "the channels have different zero points, and not all of them are codes"
    return QuantType(u8, vector, 0, axis, whole.astype(np.int32).reshape(-1))


def fake_quantize_expr(x: Expr, il: Expr, ih: Expr, ol: Expr, oh: Expr, levels: int) -> Expr:
    """FakeQuantize's formula as it stands, one rounding an operation."""
    steps = float(levels - 1)
    inside = rint((x - il) / (ih - il) * steps) / steps * (oh - ol) + ol
    above = select(apply("gt", x, maximum(il, ih)), oh, inside)
    return select(apply("le", x, minimum(il, ih)), ol, above)


def _as_is(state: Lowering, node: Node) -> None:
    if node.inputs[0].element_type != f32:
        copy_node(state, node)
        return
    x, il, ih, ol, oh = (input_(i, f32) for i in range(5))
    shapes = [v.shape.to_static() for v in node.inputs]
    _broadcast(state, node, fake_quantize_expr(x, il, ih, ol, oh, int(attrs(node).levels)), shapes)


def elementwise(state: Lowering, node: Node) -> None:
    """Any operation that states an expression, in the layout that its inputs prefer."""
    if any(v.element_type.bits < 8 for v in (*node.inputs, *node.outputs)):
        copy_node(state, node)
        return
    # what is not constant is read as codes, and dequantized in registers
    if all(state.has_codes(v) or state.constant_of(v) is not None for v in node.inputs):
        state.precision = "INT8"
    op = attrs(node)
    shapes = op.leaf_shapes([v.shape.to_static() for v in node.inputs])
    _broadcast(state, node, op.expression([v.element_type for v in node.inputs]), shapes)


def _broadcast(state: Lowering, node: Node, expr: Expr, shapes: Sequence[tuple[int, ...]]) -> None:
    rank = len(node.outputs[0].shape)
    last = state.prefers_last(node.inputs, rank)
    used = expr.inputs()
    inputs: list[Value] = []
    for index, (value, shape) in enumerate(zip(node.inputs, shapes, strict=True)):
        if index not in used:
            inputs.append(constant(np.zeros((), value.element_type.dtype), value.element_type))
        elif not last and value.shape.to_static() == shape and len(shape) <= rank:
            inputs.append(state.real(value))
        else:
            inputs.append(state.aligned(value, shape, rank, last))
    state.set_real(node.outputs[0], state.emit(Elementwise(expr), inputs), last)


def register_elementwise() -> None:
    """One rule serves every operation that states an expression."""
    from lpir.ir.op import REGISTRY

    for name, cls in REGISTRY.items():
        if issubclass(cls, ElementwiseOp) and name not in RULES:
            RULES[name] = elementwise
