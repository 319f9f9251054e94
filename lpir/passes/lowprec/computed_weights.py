"""Convolutions whose weights the model computes: a matrix product of what lies under the taps with the weights.

    x [N, *S, C] -> under each tap [N, P, groups, taps, C / groups] -> [N, groups, P, taps * C / groups]
    w [groups, O / groups, C / groups, *K] -> [groups, O / groups, taps * C / groups]

P output positions; in INT8 where both are codes, padding then being the zero point. Depthwise ones stay convolutions,
in float: each of their products would have one column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lpir.ir.graph import Node, QuantType, Value
from lpir.ir.types import f32, i32
from lpir.ops.boundary import constant
from lpir.ops.builder import make_node
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul
from lpir.ops.reshaping import Reshape, Transpose
from lpir.passes.lowprec.forms import Lowering
from lpir.passes.lowprec.weights import max_products
from lpir.scalar.expr import cast, input_


def convolve(state: Lowering, node: Node, op: LoweredConvolution) -> None:
    """Lowers `node`, whose geometry is `op`'s."""
    x, w = node.inputs
    groups, shape = op.groups, w.shape.to_static()
    channels = x.shape[1].length // groups
    spatial = shape[len(shape) - len(op.strides) :]
    taps, outputs = math.prod(spatial), math.prod(shape) // (groups * channels * math.prod(spatial))
    if channels == 1 and outputs == 1:
        _depthwise(state, node, op)
        return
    quants = _quants(state, x, w, taps * channels)
    if quants is None:
        left, right, zeros, epilogue = state.real(x, True), state.real(w), (0, 0), input_(0, f32)
    else:
        codes = state.codes(x, True), state.codes(w, False)
        assert codes[0] is not None
        assert codes[1] is not None
        left, right = codes[0], codes[1]
        zeros = quants[0].zero_point, quants[1].zero_point
        scale = math.prod(float(q.scale.reshape(())) for q in quants)
        epilogue = cast(input_(0, i32), f32) * float(np.float32(scale))
        state.precision = "INT8"
    out = (x.shape[0].length, *node.outputs[0].shape.to_static()[2:])
    rows = _under_taps(state, _padded(state, left, op, zeros[0]), op, spatial, out[1:])
    right = _shaped(state, right, (groups, outputs, channels, taps))
    right = _shaped(state, _transposed(state, right, (0, 1, 3, 2)), (groups, outputs, taps * channels))
    product = state.emit(LoweredMatMul(True, *zeros, epilogue), [rows, right])
    moved = product if groups == 1 else _transposed(state, product, (0, 2, 1, 3))
    state.set_real(node.outputs[0], _shaped(state, moved, (*out, groups * outputs)), True)


def _depthwise(state: Lowering, node: Node, op: LoweredConvolution) -> None:
    x, w = node.inputs
    if state.low_precision and state.has_codes(x):
        state.refuse("each channel has a product of its own with weights that are not constant: float is faster")
    shape = w.shape.to_static()
    taps = shape[len(shape) - len(op.strides) :]
    kernel = _transposed(state, _shaped(state, state.real(w), (op.groups, math.prod(taps))), (1, 0))
    inputs = [state.real(x, True), _shaped(state, kernel, (*taps, 1, op.groups))]
    state.set_real(node.outputs[0], state.emit(op, inputs), True)


def _quants(state: Lowering, x: Value, w: Value, products: int) -> list[QuantType] | None:
    """What the codes of input and weights mean, or None (with the reason noted) where one of them is float."""
    found = [state.form(v).quant for v in (x, w)]
    quants = [q for q in found if q is not None]
    if not quants or not state.low_precision:
        return None
    if len(quants) < 2:
        missing = (w if found[0] else x).name
        state.refuse(f"the input '{missing}' is not quantized: it has no FakeQuantize")
    elif not all(q.is_per_tensor for q in quants):
        state.refuse("a scale varies, and the weights are not constant")
    elif not 0 <= quants[0].zero_point <= 255:
        state.refuse(f"padding has no code: the zero point is {quants[0].zero_point}")
    elif products > (limit := max_products(None, *quants)):
        state.refuse(f"more than {limit} products in one sum could leave int32")
    else:
        return quants
    return None


def _padded(state: Lowering, x: Value, op: LoweredConvolution, zero: int) -> Value:
    if not any((*op.pads_begin, *op.pads_end)):
        return x
    pads = [constant(np.array([0, *p, 0], np.int64)) for p in (op.pads_begin, op.pads_end)]
    inputs = [x, *pads, constant(np.full((), zero, x.element_type.dtype), x.element_type)]
    return state.emit(make_node("Pad", *inputs, pad_mode="constant").op, inputs)


def _under_taps(state: Lowering, x: Value, op: LoweredConvolution, spatial: Sequence[int], out: Sequence[int]) -> Value:
    """`[N, groups, P, taps * C / groups]` of a padded `[N, *S, C]`."""
    shape = x.shape.to_static()
    batch, channels, positions, taps = shape[0], shape[-1] // op.groups, math.prod(out), math.prod(spatial)
    axes = constant(np.arange(1, len(shape) - 1))
    parts = []
    for offset in np.ndindex(*spatial):
        begin = np.array(offset) * np.array(op.dilations)
        end = begin + (np.array(out) - 1) * np.array(op.strides) + 1
        inputs = [x, constant(begin), constant(end), constant(np.array(op.strides)), axes]
        part = state.emit(make_node("Slice", *inputs).op, inputs)
        parts.append(_shaped(state, part, (batch, positions, op.groups, 1, channels)))
    whole = parts[0] if taps == 1 else state.emit(make_node("Concat", *parts, axis=3).op, parts)
    if op.groups > 1:
        whole = _transposed(state, whole, (0, 2, 1, 3, 4))
    return _shaped(state, whole, (batch, op.groups, positions, taps * channels))


def _shaped(state: Lowering, value: Value, shape: Sequence[int]) -> Value:
    return state.emit(Reshape(False), [value, constant(np.asarray(shape, np.int64))])


def _transposed(state: Lowering, value: Value, order: Sequence[int]) -> Value:
    return state.emit(Transpose(), [value, constant(order, np.int64)])
