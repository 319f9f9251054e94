"""Lowering of ScaledDotProductAttention: two matrix products around a softmax."""

from __future__ import annotations

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.types import boolean, f32
from lpir.ops.boundary import constant
from lpir.ops.lowered import Elementwise, LoweredMatMul, LoweredSoftmax
from lpir.passes.lowprec.forms import Lowering
from lpir.passes.lowprec.rules import attrs, copy_node, rule
from lpir.passes.lowprec.rules_compute import IDENTITY
from lpir.passes.lowprec.rules_matmul import int8_product
from lpir.scalar.expr import input_, select


@rule("ScaledDotProductAttention")
def attention(state: Lowering, node: Node) -> None:
    """`softmax(query key^T * scale + mask) value`; the first product in INT8 where query and key have codes."""
    query, key, value = node.inputs[:3]
    if query.element_type != f32:
        copy_node(state, node)
        return
    scale = query.shape[-1].length ** -0.5
    if len(node.inputs) > 4:
        given = state.constant_of(node.inputs[4])
        if given is None:
            copy_node(state, node)
            return
        scale = float(given.reshape(()))
    found = int8_product(state, query, key, False, True, scale)
    if found is None:
        product = LoweredMatMul(True, 0, 0, IDENTITY * float(np.float32(scale)))
        found = product, [state.real(query), state.real(key)]
    masked = _masked(state, node, state.emit(*found))
    weights = state.emit(LoweredSoftmax(IDENTITY), [masked])
    result = state.emit(LoweredMatMul(False, 0, 0, IDENTITY), [weights, state.real(value)])
    state.set_real(node.outputs[0], result)


def _masked(state: Lowering, node: Node, scores: Value) -> Value:
    if attrs(node).causal:
        seen = np.tri(*scores.shape.to_static()[-2:], dtype=np.bool_)
        expr = select(input_(1, boolean), input_(0), -np.inf)
        return state.emit(Elementwise(expr), [scores, constant(seen)])
    if len(node.inputs) < 4:
        return scores
    mask = state.real(node.inputs[3])
    if mask.element_type == boolean:
        return state.emit(Elementwise(select(input_(1, boolean), input_(0), -np.inf)), [scores, mask])
    return state.emit(Elementwise(input_(0) + input_(1)), [scores, mask])
