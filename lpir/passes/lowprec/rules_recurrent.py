"""Lowering of LSTM, GRU and RNN: one product for the inputs of all steps, then the recurrence of each direction."""

from __future__ import annotations

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.op import Array
from lpir.ir.types import f32, i32
from lpir.ops.boundary import constant
from lpir.ops.builder import make_node
from lpir.ops.lowered import Elementwise, LoweredMatMul
from lpir.ops.lowered_recurrent import Recurrence
from lpir.ops.reshaping import Reshape
from lpir.passes.lowprec.forms import Lowering
from lpir.passes.lowprec.rules import attrs, copy_node, rule
from lpir.passes.lowprec.rules_compute import IDENTITY
from lpir.scalar.expr import input_


@rule("LSTMSequence", "GRUSequence", "RNNSequence", "LSTMCell", "GRUCell", "RNNCell")
def recurrent(state: Lowering, node: Node) -> None:
    """A cell is a sequence of one step. Weights must be constant."""
    op, sequence = attrs(node), node.op.type_name.endswith("Sequence")
    weights = [state.constant_of(v) for v in node.inputs[-3:]]
    if any(w is None for w in weights) or node.inputs[0].element_type != f32:
        copy_node(state, node)
        return
    w, r, b = (np.asarray(a) if sequence else np.asarray(a)[None] for a in weights)
    batch, steps = (*node.inputs[0].shape.to_static()[:-1], 1)[:2]
    x = _shaped(state, state.real(node.inputs[0]), (batch, steps, w.shape[2]))
    lengths = _lengths(state, node.inputs[1 + op.states], steps) if sequence else []
    found = []
    for d in range(len(w)):
        states = [_direction(state, v, d, sequence) for v in node.inputs[1 : 1 + op.states]]
        bias, rest = op.split_bias(b[d])
        extra = [] if rest is None else [constant(np.ascontiguousarray(rest))]
        inputs = [_gates(state, x, w[d], bias), constant(np.ascontiguousarray(r[d].T)), *states, *extra, *lengths]
        reverse = sequence and (op.direction == "reverse" or d == 1)
        found.append(state.emit_node(Recurrence(op.cell_kind, reverse, bool(lengths)), inputs).outputs)
    for i, out in enumerate(node.outputs):
        parts = [outputs[i if sequence else i + 1] for outputs in found]
        state.set_real(out, _stacked(state, parts) if sequence else parts[0])


def _gates(state: Lowering, x: Value, w: Array, bias: Array) -> Value:
    """`x W^T + bias` for all steps."""
    product = state.emit(LoweredMatMul(False, 0, 0, IDENTITY), [x, constant(np.ascontiguousarray(w.T))])
    return state.emit(Elementwise(input_(0) + input_(1)), [product, constant(np.ascontiguousarray(bias))])


def _lengths(state: Lowering, value: Value, steps: int) -> list[Value]:
    """The lengths of the sequences as i32, unless all of them are known to be whole."""
    known = state.constant_of(value)
    if known is not None and (np.asarray(known) >= steps).all():
        return []
    convert = make_node("Convert", state.real(value), destination_type=i32)
    return [state.emit(convert.op, convert.inputs)]


def _direction(state: Lowering, value: Value, index: int, sequence: bool) -> Value:
    """A state `[B, H]` of one direction of `[B, D, H]`."""
    real = state.real(value)
    if not sequence:
        return real
    inputs = [real, constant(np.int64(index)), constant(np.int64(1))]
    return state.emit(make_node("Gather", *inputs).op, inputs)


def _stacked(state: Lowering, parts: list[Value]) -> Value:
    """The directions' results along a new axis 1."""
    shape = parts[0].shape.to_static()
    column = [_shaped(state, p, (shape[0], 1, *shape[1:])) for p in parts]
    return column[0] if len(column) == 1 else state.emit(make_node("Concat", *column, axis=1).op, column)


def _shaped(state: Lowering, value: Value, shape: tuple[int, ...]) -> Value:
    return state.emit(Reshape(False), [value, constant(np.asarray(shape, np.int64))])
