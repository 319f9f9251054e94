"""Joins a quantization to the normalization before it, whose float result others read too."""

from __future__ import annotations

import dataclasses

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import u8
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import Elementwise, LoweredNormalize
from lpir.passes.lowprec.fuse import simple_operand
from lpir.scalar.expr import Expr, input_, substitute


def give_codes_too(model: Model) -> None:
    """A normalization of which one reader wants codes gives them as its second output, in one pass over the tensor."""
    for node in model.nodes():
        if isinstance(node.op, LoweredNormalize):
            _join(node, node.op)


def _join(node: Node, op: LoweredNormalize) -> None:
    out = node.outputs[0]
    readers = [use.node for use in out.uses if _quantizes(use.node, out)]
    if op.second is not None or not readers:
        return
    reader = readers[0]
    assert isinstance(reader.op, Elementwise)
    operands = list(node.inputs[1:])
    leaves: dict[int, Expr] = {}
    for index, value in enumerate(reader.inputs):
        if value is out:
            leaves[index] = input_(0, out.element_type)
            continue
        if value not in operands:
            operands.append(value)
        leaves[index] = input_(1 + operands.index(value), value.element_type)
    second = substitute(reader.op.expr, leaves)
    joined = Node(dataclasses.replace(op, second=second), [node.inputs[0], *operands], node.name)
    joined.source = [*node.source, *(s for s in reader.source if s not in node.source)]
    for before, after in ((out, joined.outputs[0]), (reader.outputs[0], joined.outputs[1])):
        after.quant = before.quant
    reader.outputs[0].replace_all_uses_with(joined.outputs[1])
    reader.detach()
    out.replace_all_uses_with(joined.outputs[0])
    node.detach()


def _quantizes(node: Node, value: Value) -> bool:
    """Whether a node makes codes of `value` and of constants that are read beside it."""
    if not isinstance(node.op, Elementwise) or node.outputs[0].element_type != u8:
        return False
    shape = value.shape.to_static()
    others = [v for v in node.inputs if v is not value]
    known = all(constant_data(v) is not None and simple_operand(v, shape) for v in others)
    return known and node.outputs[0].shape == value.shape
