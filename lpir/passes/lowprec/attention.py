"""Joins the two products of attention and the softmax between them to one operation.

    Transpose -> MatMul -> [scale, mask] -> Softmax -> MatMul -> [Transpose -> Reshape -> Elementwise]

The scores then never leave the cache, and the transposes that separate heads become strides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32, u8
from lpir.ops.boundary import constant, constant_data
from lpir.ops.lowered import Elementwise, LoweredMatMul, LoweredSoftmax
from lpir.ops.lowered_attention import IDENTITY, LoweredAttention
from lpir.passes.lowprec.clamps import drop_inner_clamps
from lpir.passes.lowprec.scales import fold_output_scale, join_factors
from lpir.scalar.expr import Expr, input_, substitute
from lpir.scalar.simplify import simplify

# orders of a Transpose that lead from [B, rows, H, columns] to [B, H, rows, columns], and to [B, H, columns, rows]
EXCHANGED, TURNED = (0, 2, 1, 3), (0, 2, 3, 1)
STRAIGHT, FLIPPED = (0, 1, 2, 3), (0, 1, 3, 2)


def join_attention(model: Model) -> None:
    """Replaces every softmax between two matrix products that can be computed a head at a time."""
    for node in model.nodes():
        if isinstance(node.op, LoweredSoftmax):
            _join(node)


@dataclass
class _Scores:
    """What a softmax reads: the product of q and k, and what becomes of its sums."""

    product: Node
    expr: Expr
    operands: list[Value]
    between: list[Node]


def _join(softmax: Node) -> None:
    weights = softmax.outputs[0]
    if softmax.op != LoweredSoftmax(IDENTITY) or len(weights.shape) != 4 or len(weights.uses) != 1:
        return
    second = weights.uses[0].node
    scores = _scores(softmax.inputs[0])
    if scores is None or not _is_product_with_values(second, weights):
        return
    first = scores.product
    assert isinstance(first.op, LoweredMatMul)
    q, k = _heads(first.inputs[0], False), _heads(first.inputs[1], not first.op.transpose_b)
    v = _heads(second.inputs[1], False)
    readable = _is_readable(scores.operands, weights) and _is_readable(second.inputs[2:], second.outputs[0])
    if q is None or k is None or v is None or not readable or not _fits(first, second):
        return
    assert isinstance(second.op, LoweredMatMul)
    out, axis, after = _turned_output(second)
    op = LoweredAttention(
        (q[1], k[1], v[1], axis),
        first.op.a_zero_point,
        first.op.b_zero_point,
        len(scores.operands),
        join_factors(scores.expr),
        second.op.epilogue,
    )
    inputs = [q[0], k[0], v[0], *scores.operands, *second.inputs[2:]]
    joined = Node(op, inputs, first.name)
    # what others read too is a step of its own
    turned = [n for n in (*q[2], *k[2], *v[2]) if len(n.outputs[0].uses) == 1]
    for node in (first, *scores.between, softmax, second, *after, *turned):
        joined.source += [s for s in node.source if s not in joined.source]
    joined.outputs[0].quant = out.quant
    out.replace_all_uses_with(joined.outputs[0])
    _drop(out.node)
    _take_following(joined)


def _drop(node: Node) -> None:
    """Detaches a node that nobody reads, and what only it read."""
    if any(v.uses for v in node.outputs) or not node.inputs:
        return
    before = [v.node for v in node.inputs]
    node.detach()
    for producer in before:
        _drop(producer)


def _scores(x: Value) -> _Scores | None:
    """The product behind `x`, directly or below one elementwise operation."""
    if len(x.uses) != 1:
        return None
    node = x.node
    if isinstance(node.op, LoweredMatMul):
        return _Scores(node, node.op.epilogue, list(node.inputs[2:]), [])
    if not isinstance(node.op, Elementwise):
        return None
    products = [v for v in node.inputs if isinstance(v.node.op, LoweredMatMul) and v.shape == x.shape]
    if len(products) != 1 or len(products[0].uses) != 1:
        return None
    product = products[0].node
    assert isinstance(product.op, LoweredMatMul)
    operands = list(product.inputs[2:])
    leaves: dict[int, Expr] = {}
    for index, value in enumerate(node.inputs):
        if value is products[0]:
            leaves[index] = product.op.epilogue
            continue
        if value not in operands:
            operands.append(value)
        leaves[index] = input_(1 + operands.index(value), value.element_type)
    return _Scores(product, simplify(substitute(node.op.expr, leaves)), operands, [node])


def _is_product_with_values(node: Node, weights: Value) -> bool:
    op = node.op
    return (
        isinstance(op, LoweredMatMul)
        and not op.transpose_b
        and node.inputs[0] is weights
        and weights not in node.inputs[1:]
    )


def _fits(first: Node, second: Node) -> bool:
    """Whether kernels can compute the two products as one: element types, shapes and operands."""
    q, k, v = first.inputs[0], first.inputs[1], second.inputs[1]
    types = q.element_type, k.element_type, v.element_type
    if types not in ((u8, u8, f32), (f32, f32, f32)) or first.outputs[0].element_type != f32:
        return False
    shapes = [x.shape.to_static() for x in (q, k, v)]
    # codes are multiplied four at a time
    return all(s[:2] == shapes[0][:2] for s in shapes) and (types[0] == f32 or shapes[0][3] % 4 == 0)


def _is_readable(operands: Sequence[Value], like: Value) -> bool:
    """Whether every operand is one element or has the whole last axis of `like`."""
    width = like.shape[-1].length
    shapes = [v.shape.to_static() for v in operands]
    return all(math.prod(s) == 1 or s[-1] == width for s in shapes)


def _heads(value: Value, flipped: bool) -> tuple[Value, int, list[Node]] | None:
    """The tensor behind transposes, its head axis and those transposes; `flipped`: the product reads `value` as
    `[B, H, columns, rows]`."""
    order: tuple[int, ...] = STRAIGHT
    source, passed = value, []
    while source.node.op.type_name == "Transpose" and (found := constant_data(source.node.inputs[1])) is not None:
        own = tuple(int(i) for i in np.asarray(found).reshape(-1))
        order = tuple(own[i] for i in order) if len(own) == 4 else order
        passed.append(source.node)
        source = source.node.inputs[0]
    if len(source.shape) != 4:
        return None
    known: dict[tuple[int, ...], int] = {FLIPPED: 1, TURNED: 2} if flipped else {STRAIGHT: 1, EXCHANGED: 2}
    return (source, known[order], passed) if order in known else None


def _turned_output(product: Node) -> tuple[Value, int, list[Node]]:
    """What the attention gives instead of the product: its transpose where nothing else reads it."""
    out = product.outputs[0]
    along = all(math.prod(v.shape.to_static()[:-1]) == 1 for v in product.inputs[2:])
    if len(out.uses) == 1 and along:
        node = out.uses[0].node
        if node.op.type_name == "Transpose" and _heads(node.outputs[0], False) is not None:
            order = constant_data(node.inputs[1])
            if order is not None and tuple(int(i) for i in order.reshape(-1)) == EXCHANGED:
                return node.outputs[0], 2, [node]
    return out, 1, []


def _take_following(joined: Node) -> None:
    """Moves an elementwise operation with constants from behind the reshape that joins the heads into the epilogue."""
    out = joined.outputs[0]
    if len(out.uses) != 1 or out.uses[0].node.op.type_name != "Reshape":
        return
    reshape = out.uses[0].node
    shape, flat = out.shape.to_static(), reshape.outputs[0].shape.to_static()
    if flat[-1] != shape[-1] * shape[-2] or len(reshape.outputs[0].uses) != 1:
        return
    follower = reshape.outputs[0].uses[0].node
    if not isinstance(follower.op, Elementwise) or follower.outputs[0].shape != reshape.outputs[0].shape:
        return
    op = joined.op
    assert isinstance(op, LoweredAttention)
    leaves: dict[int, Expr] = {}
    operands: list[Value] = []
    first = len(joined.inputs) - 3 - op.score_operands + 1
    for index, value in enumerate(follower.inputs):
        if value is reshape.outputs[0]:
            leaves[index] = op.epilogue
            continue
        data = constant_data(value)
        if data is None or data.size not in (1, flat[-1]) or data.shape[-1:] not in ((), (1,), flat[-1:]):
            return
        of_heads = data.reshape(shape[-2:]) if data.size == flat[-1] else data.reshape(())
        leaves[index] = input_(first + len(operands), value.element_type)
        operands.append(constant(np.ascontiguousarray(of_heads), value.element_type))
    epilogue = drop_inner_clamps(simplify(substitute(follower.op.expr, leaves)))
    own = 3 + op.score_operands
    epilogue, operands = fold_output_scale(epilogue, [*joined.inputs[own:], *operands], 1)
    node = Node(dataclasses.replace(op, epilogue=epilogue), [*joined.inputs[:own], *operands], joined.name)
    node.source = [*joined.source, *(s for s in follower.source if s not in joined.source)]
    flattened = Node(reshape.op, [node.outputs[0], reshape.inputs[1]], reshape.name)
    flattened.source = reshape.source
    flattened.outputs[0].quant = follower.outputs[0].quant
    follower.outputs[0].replace_all_uses_with(flattened.outputs[0])
    _drop(follower)
