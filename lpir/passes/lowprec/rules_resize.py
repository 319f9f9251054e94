"""Lowering of Interpolate and of transposed convolutions to operations that every device has."""

from __future__ import annotations

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.op import Array
from lpir.ir.types import f32
from lpir.ops.boundary import constant
from lpir.ops.builder import make_node
from lpir.ops.lowered import Elementwise, LoweredConvolution
from lpir.ops.reshaping import Reshape
from lpir.passes.lowprec.forms import Lowering, physical_axis
from lpir.passes.lowprec.rules import attrs, copy_node, rule
from lpir.passes.lowprec.rules_compute import IDENTITY
from lpir.passes.lowprec.rules_move import data_codes, give
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
    if any(s.weights is not None for s in steps):
        current, quant = state.real(x, last), None
        if state.has_codes(x):
            state.refuse(f"mode '{op.mode}' mixes values; only 'nearest' works on codes")
    else:
        current, quant = data_codes(state, x, last)
    for step in steps:
        axis = physical_axis(step.axis, rank, last)
        taken = [_take(state, current, step.places[:, t], axis) for t in range(step.places.shape[1])]
        current = taken[0] if step.weights is None else _weighted(state, taken, step.weights, axis, rank)
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
    weights = state.constant_of(w)
    if weights is None or x.element_type != f32:
        copy_node(state, node)
        return
    if state.low_precision and state.has_codes(x):
        state.refuse("transposed convolution has no INT8 form yet")
    op, grouped = attrs(node), node.op.type_name.startswith("Group")
    groups = weights.shape[0] if grouped else 1
    spatial = x.shape.to_static()[2:]
    kernel = weights.shape[-len(spatial) :]
    wanted = node.outputs[0].shape.to_static()[2:]
    begin, _ = op.placement(spatial, kernel, wanted if len(node.inputs) > 2 else None)
    spread = _spread(state, state.real(x, True), op.strides)
    lengths = [(n - 1) * s + 1 for n, s in zip(spatial, op.strides, strict=True)]
    pads_begin, pads_end = [], []
    for n, k, d, b, out in zip(lengths, kernel, op.dilations, begin, wanted, strict=True):
        reach = d * (k - 1)
        pads_begin.append(reach - b)
        pads_end.append(out + reach - n - (reach - b))
    spread, pads_begin, pads_end = _cropped(state, spread, pads_begin, pads_end)
    stored = constant(_mirrored(weights.astype(np.float32), grouped))
    ones = (1,) * len(spatial)
    lowered = LoweredConvolution(ones, tuple(op.dilations), tuple(pads_begin), tuple(pads_end), groups, 0, IDENTITY)
    state.set_real(node.outputs[0], state.emit(lowered, [spread, stored]), True)


def _spread(state: Lowering, x: Value, strides: tuple[int, ...]) -> Value:
    """`x [N, *S, C]` with `stride - 1` zeros after each element but the last of each spatial axis."""
    for i, stride in enumerate(strides):
        if stride == 1:
            continue
        shape, axis = list(x.shape.to_static()), i + 1
        split = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
        x = state.emit(Reshape(False), [x, constant(np.asarray(split, np.int64))])
        x = _pad(state, x, [0] * len(split), [stride - 1 if a == axis + 1 else 0 for a in range(len(split))])
        shape[axis] *= stride
        x = state.emit(Reshape(False), [x, constant(np.asarray(shape, np.int64))])
        x = _pad(state, x, [0] * len(shape), [1 - stride if a == axis else 0 for a in range(len(shape))])
    return x


def _pad(state: Lowering, x: Value, begin: list[int], end: list[int]) -> Value:
    fill = constant(np.zeros((), x.element_type.dtype), x.element_type)
    inputs = [x, constant(np.asarray(begin, np.int64)), constant(np.asarray(end, np.int64)), fill]
    return state.emit(make_node("Pad", *inputs, pad_mode="constant").op, inputs)


def _cropped(state: Lowering, x: Value, begin: list[int], end: list[int]) -> tuple[Value, list[int], list[int]]:
    """Negative pads become a crop of `x`."""
    if min((*begin, *end)) >= 0:
        return x, begin, end
    cut = [[0, *(min(p, 0) for p in pads), 0] for pads in (begin, end)]
    return _pad(state, x, *cut), [max(p, 0) for p in begin], [max(p, 0) for p in end]


def _mirrored(w: Array, grouped: bool) -> Array:
    """`[I, O, *K]`, or `[g, I, O, *K]` when grouped, as `[*K mirrored, I, g * O]`."""
    if not grouped:
        w = w[None]
    spatial = w.ndim - 3
    flipped = np.flip(w, axis=tuple(range(3, w.ndim)))
    moved = np.moveaxis(flipped, (1, 0, 2), (spatial, spatial + 1, spatial + 2))
    return np.ascontiguousarray(moved.reshape(*w.shape[3:], w.shape[1], w.shape[0] * w.shape[2]))
