"""Lowering of Interpolate and of transposed convolutions to operations that every device has."""

from __future__ import annotations

import numpy as np

from lpir.ir.graph import Node, QuantType, Value
from lpir.ir.op import Array
from lpir.ir.types import f32
from lpir.ops.boundary import constant, constant_data
from lpir.ops.builder import make_node
from lpir.ops.lowered import Elementwise, LoweredConvolution
from lpir.ops.reshaping import Reshape
from lpir.passes.lowprec.forms import Lowering, dequantize, physical_axis
from lpir.passes.lowprec.rules import attrs, copy_node, rule
from lpir.passes.lowprec.rules_compute import IDENTITY, SCALED
from lpir.passes.lowprec.rules_move import data_codes, give
from lpir.passes.lowprec.weights import Weights, find_weights, max_products
from lpir.scalar.expr import Expr, input_


@rule("Interpolate")
def interpolate(state: Lowering, node: Node) -> None:
    """Nearest: one Gather an axis, on codes too. Otherwise a weighted sum of Gathers, on real numbers."""
    x, op = node.inputs[0], attrs(node)
    known = [state.constant_of(v) for v in node.inputs[1:]]
    rank = len(x.shape)
    if op.padded(rank) or any(k is None for k in known) or x.element_type != f32:
        copy_node(state, node)
        return
    steps = op.resampling(x.shape.to_static(), *known)
    last = state.prefers_last([x], rank)
    current, quant = data_codes(state, x, last)
    for step in steps:
        axis = physical_axis(step.axis, rank, last)
        taken = [_take(state, current, step.places[:, t], axis) for t in range(step.places.shape[1])]
        if step.weights is None:
            current = taken[0]
            continue
        if quant is not None:
            # codes are moved, and dequantized where they are mixed
            taken, quant = [state.emit(*dequantize(v, quant, last)) for v in taken], None
        current = _weighted(state, taken, step.weights, axis, rank)
    give(state, node.outputs[0], current, quant, last)


def _take(state: Lowering, x: Value, places: Array, axis: int) -> Value:
    inputs = [x, constant(places.astype(np.int64)), constant(np.int64(axis))]
    return state.emit(make_node("Gather", *inputs).op, inputs)


def _weighted(
    state: Lowering,
    taken: list[Value],
    weights: Array,
    axis: int,
    rank: int,
) -> Value:
    shape = [-1 if i == axis else 1 for i in range(rank)]
    total: Expr | None = None
    inputs: list[Value] = []
    for t, value in enumerate(taken):
        inputs += [value, constant(np.ascontiguousarray(weights[:, t].reshape(shape), np.float32))]
        term = input_(2 * t) * input_(2 * t + 1)
        total = term if total is None else total + term
    assert total is not None
    return state.emit(Elementwise(total), inputs)


@rule("ConvolutionBackpropData", "GroupConvolutionBackpropData")
def convolution_backprop(state: Lowering, node: Node) -> None:
    """A convolution of the input with `stride - 1` zeros between its elements, by the mirrored kernel."""
    x, w = node.inputs[:2]
    op, grouped = attrs(node), node.op.type_name.startswith("Group")
    if (id(w) not in state.known and constant_data(w) is None) or x.element_type != f32:
        copy_node(state, node)
        return
    found = _int8_backprop(state, node, grouped)
    if found is None:
        weights = state.constant_of(w)
        assert weights is not None
        source, zero_point, epilogue, operands = state.real(x, True), 0, IDENTITY, []
        kernel = weights.astype(np.float32)
    else:
        source, quant, kernel, scale = found
        state.precision = "INT8"
        zero_point, epilogue, operands = quant.zero_point, SCALED, [constant(scale)]
    groups = kernel.shape[0] if grouped else 1
    spatial, lengths = x.shape.to_static()[2:], kernel.shape[-(len(x.shape) - 2) :]
    wanted = node.outputs[0].shape.to_static()[2:]
    begin, _ = op.placement(spatial, lengths, wanted if len(node.inputs) > 2 else None)
    spread = _spread(state, source, op.strides, zero_point)
    pads_begin, pads_end = [], []
    for n, k, s, d, front, out in zip(spatial, lengths, op.strides, op.dilations, begin, wanted, strict=True):
        reach = d * (k - 1)
        pads_begin.append(reach - front)
        pads_end.append(out + front - (n - 1) * s - 1)
    spread, pads_begin, pads_end = _cropped(state, spread, pads_begin, pads_end)
    ones, pads = (1,) * len(spatial), (tuple(pads_begin), tuple(pads_end))
    lowered = LoweredConvolution(ones, tuple(op.dilations), *pads, groups, zero_point, epilogue)
    inputs = [spread, constant(_mirrored(kernel, grouped)), *operands]
    state.set_real(node.outputs[0], state.emit(lowered, inputs), True)


def _int8_backprop(state: Lowering, node: Node, grouped: bool) -> tuple[Value, QuantType, Array, Array] | None:
    """Codes, what they mean, the weights' codes and the scale of each output channel, or None with the reason noted."""
    x, w = node.inputs[:2]
    weights = find_weights(w) if state.low_precision else None
    quant = state.form(x).quant
    if not state.low_precision or (weights is None and quant is None):
        return None
    if not isinstance(weights, Weights):
        state.refuse(weights or "the weights are not 8-bit constants")
        return None
    if quant is None:
        state.refuse(f"the input '{x.name}' is not quantized: it has no FakeQuantize")
        return None
    scale = weights.scale_along((0, 2) if grouped else (1,))
    outputs = weights.codes.shape[0] * weights.codes.shape[2] if grouped else weights.codes.shape[1]
    depthwise = grouped and weights.codes.shape[:2] == (x.shape[1].length, 1) and quant.axis == 1
    if scale is None or not (quant.is_per_tensor or depthwise):
        state.refuse("a scale varies along the channels that are summed")
        return None
    if quant.zero_points is not None or not 0 <= quant.zero_point <= 255:
        state.refuse("the zero points differ along the channels, or zero has no code")
        return None
    if weights.codes.size // outputs > max_products(weights, quant):
        state.refuse(f"more than {max_products(weights, quant)} products in one sum could leave int32")
        return None
    codes = state.codes(x, True)
    assert codes is not None
    by_input = np.repeat(quant.scale, outputs // quant.scale.size).astype(np.float64)
    combined = np.broadcast_to(scale.reshape(-1), (outputs,)).astype(np.float64) * by_input
    return codes, quant, weights.codes, combined.astype(np.float32)


def _spread(state: Lowering, x: Value, strides: tuple[int, ...], zero: int) -> Value:
    """`x [N, *S, C]` with `stride - 1` elements `zero` after each element but the last of each spatial axis."""
    for i, stride in enumerate(strides):
        if stride == 1:
            continue
        shape, axis = list(x.shape.to_static()), i + 1
        split = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
        x = state.emit(Reshape(False), [x, constant(np.asarray(split, np.int64))])
        more = [stride - 1 if a == axis + 1 else 0 for a in range(len(split))]
        x = _pad(state, x, [0] * len(split), more, zero)
        shape[axis] *= stride
        x = state.emit(Reshape(False), [x, constant(np.asarray(shape, np.int64))])
        x = _pad(state, x, [0] * len(shape), [1 - stride if a == axis else 0 for a in range(len(shape))])
    return x


def _pad(state: Lowering, x: Value, begin: list[int], end: list[int], zero: int = 0) -> Value:
    fill = constant(np.full((), zero, x.element_type.dtype), x.element_type)
    inputs = [x, constant(np.asarray(begin, np.int64)), constant(np.asarray(end, np.int64)), fill]
    return state.emit(make_node("Pad", *inputs, pad_mode="constant").op, inputs)


def _cropped(state: Lowering, x: Value, begin: list[int], end: list[int]) -> tuple[Value, list[int], list[int]]:
    """Negative pads become a crop of `x`."""
    if min((*begin, *end)) >= 0:
        return x, begin, end
    front, back = ([0, *(min(p, 0) for p in pads), 0] for pads in (begin, end))
    return _pad(state, x, front, back), [max(p, 0) for p in begin], [max(p, 0) for p in end]


def _mirrored(w: Array, grouped: bool) -> Array:
    """`[I, O, *K]`, or `[g, I, O, *K]` when grouped, as `[*K mirrored, I, g * O]`."""
    if not grouped:
        w = w[None]
    spatial = w.ndim - 3
    flipped = np.flip(w, axis=tuple(range(3, w.ndim)))
    moved = np.moveaxis(flipped, (1, 0, 2), (spatial, spatial + 1, spatial + 2))
    return np.ascontiguousarray(moved.reshape(*w.shape[3:], w.shape[1], w.shape[0] * w.shape[2]))
