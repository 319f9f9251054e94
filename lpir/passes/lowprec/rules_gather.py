"""Lowering of Gather: a table of compressed rows (an embedding) stays codes in memory."""

from __future__ import annotations

import math

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.op import Array
from lpir.ir.types import f32, i32, u8
from lpir.ops.bases import normalize_axis
from lpir.ops.boundary import constant
from lpir.ops.lowered import Elementwise
from lpir.ops.reshaping import Reshape
from lpir.passes.lowprec.forms import Lowering
from lpir.passes.lowprec.rules import attrs, rule
from lpir.passes.lowprec.rules_move import data_codes, give, scalar
from lpir.passes.lowprec.weights import Grouped, Weights, find_grouped, find_weights
from lpir.scalar.expr import Expr, cast, input_

# x >> y
SHIFTED = Expr("shr", (input_(0, u8), input_(1, u8)), u8)


@rule("Gather")
def gather(state: Lowering, node: Node) -> None:
    """A table of 8-bit or 4-bit rows: codes, scales and zero points are gathered, then decoded."""
    data, indices, axis_value = node.inputs
    axis = normalize_axis(scalar(state, axis_value), len(data.shape))
    if axis == 0 and int(attrs(node).batch_dims) == 0 and data.element_type == f32 and id(data) in state.known:
        weights = find_weights(data)
        if isinstance(weights, Weights) and weights.codes.dtype == np.int8 and _per_row(weights):
            _gather_rows(state, node, weights)
            return
        grouped = find_grouped(data, 1)
        if isinstance(grouped, Grouped):
            _gather_groups(state, node, grouped)
            return
    source, quant = data_codes(state, data, False)
    give(state, node.outputs[0], state.emit(node.op, [source, state.real(indices), constant(axis, np.int64)]), quant)


def _per_row(weights: Weights) -> bool:
    return math.prod(weights.scale.shape[1:]) == 1 and weights.scale.ndim in (0, weights.codes.ndim)


def _rows(state: Lowering, node: Node, table: Array) -> Value:
    """The rows of `table` that the node reads."""
    return state.emit(node.op, [constant(table), state.real(node.inputs[1]), constant(np.int64(0))])


def _gather_rows(state: Lowering, node: Node, weights: Weights) -> None:
    """One scale a row, and zero points that are part of the codes."""
    state.precision = "INT8"
    rows = _rows(state, node, weights.codes)
    table = np.broadcast_to(weights.scale, (weights.codes.shape[0], *[1] * (weights.codes.ndim - 1)))
    scale = _rows(state, node, np.ascontiguousarray(table))
    expr = cast(cast(input_(0, rows.element_type), i32), f32) * input_(1, f32)
    state.set_real(node.outputs[0], state.emit(Elementwise(expr), [rows, scale]))


def _gather_groups(state: Lowering, node: Node, table: Grouped) -> None:
    """A scale and a zero point for each group of a row: `(f32(code) - zero_point) * scale`."""
    state.precision = "INT8"
    groups, lowest = table.scale.shape[1], 0
    places = node.inputs[1].shape.to_static()
    if table.element_type.bits == 4 and table.codes.shape[1] % 2 == 0:
        # two codes to a byte, counted from the lowest one
        lowest = -table.element_type.limits[0]
        nibbles = (table.codes.astype(np.int8) + np.int8(lowest)).astype(np.uint8)
        pairs = _rows(state, node, nibbles[:, ::2] | nibbles[:, 1::2] << np.uint8(4))
        column = _shaped(state, pairs, (*pairs.shape.to_static(), 1))
        low = Expr("and", (SHIFTED, Expr("const", (), u8, 15)), u8)
        rows = state.emit(Elementwise(low), [column, constant(np.array([0, 4], np.uint8))])
    else:
        rows = _rows(state, node, table.codes.astype(np.int8 if table.element_type.is_signed else np.uint8))
    cut = _shaped(state, rows, (*places, groups, table.codes.shape[1] // groups))
    scale, zero = (
        _shaped(state, _rows(state, node, x), (*places, groups, 1))
        for x in (table.scale, table.zero_point + np.float32(lowest))
    )
    expr = (cast(cast(input_(0, rows.element_type), i32), f32) - input_(1, f32)) * input_(2, f32)
    real = state.emit(Elementwise(expr), [cut, zero, scale])
    state.set_real(node.outputs[0], _shaped(state, real, node.outputs[0].shape.to_static()))


def _shaped(state: Lowering, value: Value, shape: tuple[int, ...]) -> Value:
    return state.emit(Reshape(False), [value, constant(np.asarray(shape, np.int64))])
