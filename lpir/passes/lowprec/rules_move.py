"""Lowering of operations that only move data: on codes where there are some, in the layout that is there."""

from __future__ import annotations

import dataclasses

import numpy as np

from lpir.ir.graph import Node, QuantType, Value
from lpir.ops.bases import normalize_axis
from lpir.ops.boundary import constant
from lpir.ops.reshaping import Reshape, Transpose
from lpir.passes.lowprec.forms import Lowering, channels_last, physical_axis
from lpir.passes.lowprec.rules import attrs, rule


def data_codes(state: Lowering, value: Value, last: bool) -> tuple[Value, QuantType | None]:
    """Codes with their meaning (per tensor) if there are some, else real numbers with None."""
    quant = state.form(value).quant
    if quant is not None and quant.is_per_tensor:
        codes = state.codes(value, last)
        assert codes is not None
        state.precision = "INT8"
        return codes, quant
    return state.real(value, last), None


def give(state: Lowering, value: Value, lowered: Value, quant: QuantType | None, last: bool = False) -> None:
    """Records what a moving operation produced."""
    if quant is None:
        state.set_real(value, lowered, last)
    else:
        state.set_codes(value, lowered, quant, last)


@rule("Reshape", "Squeeze", "Unsqueeze")
def reshape(state: Lowering, node: Node) -> None:
    """One Reshape with a constant target."""
    source, quant = data_codes(state, node.inputs[0], False)
    target = constant(np.asarray(node.outputs[0].shape.to_static(), np.int64))
    give(state, node.outputs[0], state.emit(Reshape(False), [source, target]), quant)


@rule("Transpose")
def transpose(state: Lowering, node: Node) -> None:
    """A permutation of what is there: from channels last it may be nothing at all."""
    x = node.inputs[0]
    rank = len(x.shape)
    found = state.constant_of(node.inputs[1])
    order = [int(i) for i in np.asarray(found).reshape(-1)] if found is not None else []
    order = order or list(range(rank))[::-1]
    last = state.prefers_last([x], rank)
    source, quant = data_codes(state, x, last)
    if last:
        stored = channels_last(rank)
        order = [stored.index(i) for i in order]
    if order == list(range(rank)):
        give(state, node.outputs[0], source, quant)
        return
    give(state, node.outputs[0], state.emit(Transpose(), [source, constant(order, np.int64)]), quant)


@rule("Concat")
def concat(state: Lowering, node: Node) -> None:
    """On codes when all inputs share one meaning."""
    rank = len(node.outputs[0].shape)
    axis = normalize_axis(int(attrs(node).axis), rank)
    last = state.prefers_last(node.inputs, rank)
    quants = [state.form(v).quant for v in node.inputs]
    first = quants[0]
    shared = first is not None and first.is_per_tensor and all(q is not None and q.same_as(first) for q in quants)
    if any(q is not None for q in quants) and not shared:
        state.refuse("the inputs are quantized in different ways")
    if shared:
        parts = [c for v in node.inputs if (c := state.codes(v, last)) is not None]
        state.precision = "INT8"
    else:
        parts = [state.real(v, last) for v in node.inputs]
    op = dataclasses.replace(attrs(node), axis=physical_axis(axis, rank, last))
    give(state, node.outputs[0], state.emit(op, parts), first if shared else None, last)


@rule("Split", "VariadicSplit")
def split(state: Lowering, node: Node) -> None:
    """The axis follows the layout."""
    x = node.inputs[0]
    rank = len(x.shape)
    axis = normalize_axis(scalar(state, node.inputs[1]), rank)
    last = state.prefers_last([x], rank)
    source, quant = data_codes(state, x, last)
    rest = [_plain(state, v) for v in node.inputs[2:]]
    lowered = state.emit_node(node.op, [source, constant(physical_axis(axis, rank, last), np.int64), *rest])
    for old, new in zip(node.outputs, lowered.outputs, strict=True):
        give(state, old, new, quant, last)


@rule("Slice", "StridedSlice", "Tile", "Broadcast", "DepthToSpace", "SpaceToDepth", "ShuffleChannels", "GatherElements")
def move(state: Lowering, node: Node) -> None:
    """The public operation itself, channels first, on codes or real numbers."""
    source, quant = data_codes(state, node.inputs[0], False)
    lowered = state.emit(node.op, [source, *(_plain(state, v) for v in node.inputs[1:])])
    give(state, node.outputs[0], lowered, quant)


@rule("TopK")
def top_k(state: Lowering, node: Node) -> None:
    """On codes where there are some: they are ordered as what they stand for, and have the same ties."""
    source, quant = data_codes(state, node.inputs[0], False)
    lowered = state.emit_node(node.op, [source, _plain(state, node.inputs[1])])
    give(state, node.outputs[0], lowered.outputs[0], quant)
    state.set_real(node.outputs[1], lowered.outputs[1])


@rule("Pad")
def pad(state: Lowering, node: Node) -> None:
    """On codes a constant 0 is the zero point; other values are padded as real numbers."""
    op, x = attrs(node), node.inputs[0]
    value = state.constant_of(node.inputs[3]) if len(node.inputs) > 3 else np.zeros((), np.float32)
    is_constant = op.pad_mode == "constant"
    zero = not is_constant or (value is not None and not np.asarray(value).any())
    rank = len(x.shape)
    last = state.prefers_last([x], rank)
    order = channels_last(rank) if last else tuple(range(rank))
    begins = [np.asarray(state.constant_of(v)).reshape(-1) for v in node.inputs[1:3]]
    amounts = [constant(b[list(order)].astype(np.int64)) for b in begins]
    quant = state.form(x).quant
    if quant is not None and zero and quant.is_per_tensor and 0 <= quant.zero_point <= 255:
        codes, quant = data_codes(state, x, last)
        assert quant is not None
        fill = constant(np.asarray(quant.zero_point, np.uint8))
        give(state, node.outputs[0], state.emit(op, [codes, *amounts, fill]), quant, last)
        return
    fills = [_plain(state, v) for v in node.inputs[3:]]
    give(state, node.outputs[0], state.emit(op, [state.real(x, last), *amounts, *fills]), None, last)


@rule("Convert")
def convert(state: Lowering, node: Node) -> None:
    """Between types of the same meaning nothing is done."""
    source = node.inputs[0]
    if node.outputs[0].element_type == source.element_type:
        state.forms[id(node.outputs[0])] = state.form(source)
        return
    from lpir.passes.lowprec.rules_elementwise import elementwise

    elementwise(state, node)


def _plain(state: Lowering, value: Value) -> Value:
    return state.real(value, False)


def scalar(state: Lowering, value: Value) -> int:
    found = state.constant_of(value)
    return int(np.asarray(found).reshape(-1)[0])
