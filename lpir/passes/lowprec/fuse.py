"""Joins elementwise operations with each other and with the operation before them (its epilogue)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import Op
from lpir.ir.types import f32, u8
from lpir.ops.boundary import constant, constant_data
from lpir.ops.lowered import (
    Elementwise,
    LoweredConvolution,
    LoweredMatMul,
    LoweredNormalize,
    LoweredSoftmax,
    Pool,
    Reduce,
    Table,
    broadcast_shapes,
)
from lpir.ops.lowered_compressed import CompressedMatMul
from lpir.passes.lowprec.clamps import drop_inner_clamps
from lpir.passes.lowprec.scales import fold_output_scale
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import Expr, const, input_, substitute
from lpir.scalar.simplify import simplify

# operations with an epilogue, and how many inputs come before its operands
WITH_EPILOGUE: dict[type[Op], int] = {
    **{LoweredConvolution: 2, LoweredMatMul: 2, CompressedMatMul: 4},
    **{Pool: 1, Reduce: 1, LoweredSoftmax: 1, LoweredNormalize: 1},
}
# a dequantization has at most so many functions: cheaper to do again than to store its float result
CHEAP = 5
TRANSCENDENTAL = {"exp", "log", "erf", "tanh", "sin", "cos", "pow"}
# past this an expression's code costs more to compile than a pass over the tensor
MAX_FUNCTIONS = 96


def fuse(model: Model) -> None:
    """Merges elementwise chains, turns 8-bit unary chains into tables, and gives the rest to the operation before."""
    order = model.nodes()
    depths = _depths(order)
    for node in order:
        if isinstance(node.op, Elementwise):
            merge_into(node)
    for node in model.nodes():
        if isinstance(node.op, Elementwise):
            merge_last_quantization(node, depths)
    for node in model.nodes():
        if isinstance(node.op, Elementwise):
            make_table(node)
    for node in model.nodes():
        if isinstance(node.op, Elementwise):
            fuse_epilogue(node, depths)


def _depths(order: Sequence[Node]) -> dict[Node, int]:
    """How many nodes lie before each on the longest way to it: of two nodes, the deeper does not feed the other."""
    depths: dict[Node, int] = {}
    for node in order:
        depths[node] = max([depths[v.node] for v in node.inputs], default=-1) + 1
    return depths


def merge_into(node: Node) -> None:
    """Inlines scalar constants and elementwise producers into the expression of `node`.

    Not a quantization that the operation before it can do: of two that meet in an addition, one is better stored as
    codes than as the float numbers that the other's epilogue would read.
    """
    _merge(node, [v for v in node.inputs if not _is_hosted_quantization(v)])


def merge_last_quantization(node: Node, depths: Mapping[Node, int]) -> None:
    """Inlines, of the quantizations that `merge_into` left, the one that is computed last: `node` follows it there."""
    left = [v for v in node.inputs if _is_hosted_quantization(v) and all(use.node is node for use in v.uses)]
    if left:
        _merge(node, [_latest(left, depths)])


def _is_hosted_quantization(value: Value) -> bool:
    """Whether `value` is an elementwise result in 8 bits that `fuse_epilogue` would move into another operation."""
    producer = value.node
    if not isinstance(producer.op, Elementwise) or value.element_type != u8:
        return False
    return any(_takes_epilogue(v, producer) for v in producer.inputs)


def _merge(node: Node, chosen: list[Value]) -> None:
    """Inlines those of the elementwise producers of `chosen` inputs that are better computed inside `node`."""
    out = node.outputs[0]
    leaves: dict[int, Expr] = {}
    inputs: list[Value] = []

    def leaf(value: Value) -> Expr:
        for index, known in enumerate(inputs):
            if known is value:
                return input_(index, value.element_type)
        inputs.append(value)
        return input_(len(inputs) - 1, value.element_type)

    assert isinstance(node.op, Elementwise)
    size = len(node.op.expr.walk())
    for index, value in enumerate(node.inputs):
        producer = value.node
        if isinstance(producer.op, Elementwise) and value in chosen and _inlines(value, node, size):
            size += len(producer.op.expr.walk())
            leaves[index] = substitute(producer.op.expr, [leaf(v) for v in producer.inputs])
            node.source = [*producer.source, *(s for s in node.source if s not in producer.source)]
        else:
            leaves[index] = leaf(value)
    before = [v.node for v in node.inputs]
    _rewrite(node, substitute(node.op.expr, leaves), inputs, out)
    for producer in before:
        _drop_dead(producer)


def _drop_dead(node: Node) -> None:
    """A node that nobody reads stops reading others, so that their use lists tell the truth."""
    if isinstance(node.op, Elementwise) and not any(v.uses for v in node.outputs):
        before = [v.node for v in node.inputs]
        node.detach()
        for producer in before:
            _drop_dead(producer)


def _rewrite(node: Node, expr: Expr, inputs: list[Value], out: Value) -> None:
    """Gives `node` a new expression over new inputs: scalars become constants, unread inputs go."""
    expr, inputs = _inline_scalars(expr, inputs, out.shape.to_static())
    expr = drop_inner_clamps(simplify(expr))
    used = sorted(expr.inputs())
    kept = [inputs[i] for i in used]
    shapes = [v.shape.to_static() for v in kept]
    if not kept or broadcast_shapes(*shapes) != out.shape.to_static():
        used, kept = list(range(len(inputs))), inputs
    order = {old: input_(new, inputs[old].element_type) for new, old in enumerate(used)}
    # it gives what it gave before, so its type stays
    node.op = Elementwise(substitute(expr, order))
    node.set_inputs(kept)


def _inline_scalars(expr: Expr, inputs: list[Value], shape: tuple[int, ...]) -> tuple[Expr, list[Value]]:
    """Constants of one element become part of the expression, as long as the rest still has the output's shape."""
    table: dict[int, Expr] = {}
    for index, value in enumerate(inputs):
        data = constant_data(value)
        if data is not None and data.size == 1:
            table[index] = const(data.reshape(()).item(), value.element_type)
    rest = [v.shape.to_static() for i, v in enumerate(inputs) if i not in table]
    if not rest or broadcast_shapes(*rest) != shape:
        return expr, inputs
    return substitute(expr, table), inputs


def _inlines(value: Value, consumer: Node, size: int) -> bool:
    """Whether the elementwise producer of `value` is better computed inside `consumer`."""
    producer = value.node
    assert isinstance(producer.op, Elementwise)
    count = sum(1 for e in producer.op.expr.walk() if e.args)
    if size + count > MAX_FUNCTIONS:
        return False
    dequantizes = count <= CHEAP and any(v.element_type == u8 for v in producer.inputs)
    if dequantizes:
        return True
    alone = all(use.node is consumer for use in value.uses)
    return alone and value.shape == consumer.outputs[0].shape


def make_table(node: Node) -> None:
    """An expression over one 8-bit tensor and nothing else is a table of 256 entries, computed by the reference.

    Only what costs more than a lookup: results in 8 bits, or a function such as exp on the way.
    """
    assert isinstance(node.op, Elementwise)
    if len(node.inputs) != 1 or node.inputs[0].element_type != u8:
        return
    if node.op.expr.type != u8 and not any(e.fn in TRANSCENDENTAL for e in node.op.expr.walk()):
        return
    entries = evaluate(node.op.expr, [np.arange(256, dtype=np.uint8)])
    table = Node(Table(), [node.inputs[0], constant(entries)], node.name)
    _replace(node, table)


def fuse_epilogue(node: Node, depths: dict[Node, int]) -> None:
    """Moves the expression of `node` into the operation that computes its largest input."""
    assert isinstance(node.op, Elementwise)
    out = node.outputs[0]
    candidates = [v for v in node.inputs if _takes_epilogue(v, node)]
    if not candidates:
        return
    # the one computed last: everything else that the expression reads is there by then
    value = _latest(candidates, depths)
    producer = value.node
    op: Any = producer.op
    first = op.first_operand if isinstance(op, Pool) else 1
    fixed = WITH_EPILOGUE[type(op)]
    operands = list(producer.inputs[fixed:])
    leaves: dict[int, Expr] = {}
    for index, source in enumerate(node.inputs):
        if source is value:
            leaves[index] = op.epilogue
            continue
        if source not in operands:
            operands.append(source)
        leaves[index] = input_(first + operands.index(source), source.element_type)
    known = {i: constant_data(v) for i, v in enumerate(operands, first) if v.element_type == f32}
    points = {i: data for i, data in known.items() if data is not None}
    epilogue = drop_inner_clamps(simplify(substitute(node.op.expr, leaves)), points)
    epilogue, operands = fold_output_scale(epilogue, operands, first)
    fused = Node(_with_epilogue(op, epilogue), [*producer.inputs[:fixed], *operands], producer.name)
    fused.source = [*producer.source, *(s for s in node.source if s not in producer.source)]
    fused.outputs[0].quant = out.quant
    depths[fused] = depths[node]
    out.replace_all_uses_with(fused.outputs[0])
    node.detach()
    producer.detach()


def _takes_epilogue(value: Value, node: Node) -> bool:
    op = value.node.op
    if type(op) not in WITH_EPILOGUE or value.shape != node.outputs[0].shape:
        return False
    if any(use.node is not node for use in value.uses):
        return False
    if isinstance(op, Reduce) and not op.keep_dims and len(value.shape) == 0:
        return False
    shape = value.shape.to_static()
    return all(v is value or simple_operand(v, shape) for v in node.inputs)


def simple_operand(value: Value, shape: tuple[int, ...]) -> bool:
    """A scalar, a vector along the last axis, or a whole tensor: what every kernel can read."""
    own = value.shape.to_static()
    if own == shape or value.shape == () or all(n == 1 for n in own):
        return True
    return own[-1] == shape[-1] and all(n == 1 for n in own[:-1])


def _latest(candidates: Sequence[Value], depths: Mapping[Node, int]) -> Value:
    """Of several values the one that no other depends on being computed later."""
    return max(candidates, key=lambda v: depths[v.node])


def _with_epilogue(op: Op, epilogue: Expr) -> Op:
    replaced: Op = dataclasses.replace(op, epilogue=epilogue)  # type: ignore[call-arg]
    return replaced


def _replace(old: Node, new: Node) -> None:
    new.source = old.source
    new.outputs[0].quant = old.outputs[0].quant
    old.outputs[0].replace_all_uses_with(new.outputs[0])
    old.detach()
