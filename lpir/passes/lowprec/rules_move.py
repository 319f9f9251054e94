"""Lowering of operations that only move data: on codes where there are some, in the layout that is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lpir.ir.graph import Node, QuantType, Value
from lpir.ops.bases import normalize_axis
from lpir.ops.boundary import constant
from lpir.ops.builder import make_node
from lpir.ops.reshaping import Reshape, Transpose
from lpir.passes.lowprec.forms import Lowering, channels_last, physical_axis, quantize
from lpir.passes.lowprec.rules import attrs, copy_node, rule
from lpir.passes.lowprec.rules_elementwise import elementwise, quant_types


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
    """On codes when all inputs share one meaning, or when a quantization follows: then it is done to the parts."""
    rank = len(node.outputs[0].shape)
    axis = normalize_axis(int(attrs(node).axis), rank)
    last = state.prefers_last(node.inputs, rank)
    quants = [state.form(v).quant for v in node.inputs]
    first = quants[0]
    shared = first is not None and first.is_per_tensor and all(q is not None and q.same_as(first) for q in quants)
    quant = first if shared else _quantization_behind(state, node.outputs[0])
    if any(q is not None for q in quants) and quant is None:
        state.refuse("the inputs are quantized in different ways")
    if quant is not None:
        parts = [_as_codes(state, v, quant, last) for v in node.inputs]
        state.precision = "INT8"
    else:
        parts = [state.real(v, last) for v in node.inputs]
    op = dataclasses.replace(attrs(node), axis=physical_axis(axis, rank, last))
    give(state, node.outputs[0], state.emit(op, parts), quant, last)


def _quantization_behind(state: Lowering, value: Value) -> QuantType | None:
    """The quantization that every reader of `value` begins with, if it is one to all 256 codes."""
    found: QuantType | None = None
    for use in value.uses:
        is_quantization = use.node.op.type_name == "FakeQuantize" and use.index == 0 and state.low_precision
        types = quant_types(state, use.node) if is_quantization else ""
        if isinstance(types, str) or types[2] != 256 or not types[0].is_per_tensor:
            return None
        if found is not None and not found.same_as(types[0]):
            return None
        found = types[0]
    return found


def _as_codes(state: Lowering, value: Value, quant: QuantType, last: bool) -> Value:
    """`value` in codes of a certain meaning."""
    own = state.form(value).quant
    codes = state.codes(value, last) if own is not None and own.same_as(quant) else None
    if codes is None:
        codes = state.emit(*quantize(state.real(value, last), quant, 256, last), name=value.node.name)
        codes.quant = quant
    return codes


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


MOVES = ("Slice", "StridedSlice", "Tile", "Broadcast", "DepthToSpace", "SpaceToDepth", "BatchToSpace")


@rule(*MOVES, "ShuffleChannels", "GatherElements", "GatherND", "Roll", "ReverseSequence")
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


@rule("SpaceToBatch")
def space_to_batch(state: Lowering, node: Node) -> None:
    """Padding, and a permutation of the axes that blocks are cut into."""
    x = node.inputs[0]
    known = [state.constant_of(v) for v in node.inputs[1:]]
    quant = state.form(x).quant
    if any(k is None for k in known):
        copy_node(state, node)
        return
    blocks, begin, end = ([int(n) for n in np.asarray(k).reshape(-1)] for k in known)
    if any((*begin, *end)) and quant is not None and not 0 <= quant.zero_point <= 255:
        source, quant = state.real(x), None
    else:
        source, quant = data_codes(state, x, False)
    if any((*begin, *end)):
        zero = np.full((), 0 if quant is None else quant.zero_point, source.element_type.dtype)
        pads = [constant(np.asarray(p, np.int64)) for p in (begin, end)]
        inputs = [source, *pads, constant(zero, source.element_type)]
        source = state.emit(make_node("Pad", *inputs, pad_mode="constant").op, inputs)
    shape, rank = source.shape.to_static(), len(blocks)
    cut = [n for length, block in zip(shape, blocks, strict=True) for n in (length // block, block)]
    order = [*range(1, 2 * rank, 2), *range(0, 2 * rank, 2)]
    turned = state.emit(Transpose(), [_shaped(state, source, cut), constant(order, np.int64)])
    give(state, node.outputs[0], _shaped(state, turned, node.outputs[0].shape.to_static()), quant)


def _shaped(state: Lowering, value: Value, shape: Sequence[int]) -> Value:
    return state.emit(Reshape(False), [value, constant(np.asarray(shape, np.int64))])


@rule("Convert")
def convert(state: Lowering, node: Node) -> None:
    """Between types of the same meaning nothing is done."""
    source = node.inputs[0]
    if node.outputs[0].element_type == source.element_type:
        state.forms[id(node.outputs[0])] = state.form(source)
        return
    elementwise(state, node)


def _plain(state: Lowering, value: Value) -> Value:
    return state.real(value, False)


def scalar(state: Lowering, value: Value) -> int:
    found = state.constant_of(value)
    return int(np.asarray(found).reshape(-1)[0])
