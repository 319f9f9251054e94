"""Parts of networks that stay float because INT8 loses more there than it gains."""

from __future__ import annotations

from collections.abc import Iterator

from lpir.ir.graph import Node, Value
from lpir.ops.boundary import constant_data
from lpir.quantize.structure import Structure, ancestors, descendants, is_linear, through_movement
from lpir.quantize.traits import CONVOLUTIONS, FLOAT_IN_TRANSFORMERS, MOVEMENT, POST_PROCESSING

GATES = frozenset({"Sigmoid", "HSigmoid", "HardSigmoid", "Clamp"})
POOLED = frozenset({"ReduceMean", "AvgPool", "AdaptiveAvgPool"})
WEIGHTED = frozenset({*CONVOLUTIONS, "MatMul"})


def ignored_nodes(structure: Structure, transformer: bool) -> dict[int, str]:
    """id of each node that is to stay float -> why, in words."""
    found: dict[int, str] = {}
    for node in structure.nodes:
        if node.op.type_name == "Multiply":
            for part in squeeze_and_excite(structure, node):
                found[id(part)] = "part of a squeeze-and-excite block"
        elif node.op.type_name in POST_PROCESSING:
            for part in post_processing(node):
                found[id(part)] = f"post-processing around {node}"
        elif transformer and node.op.type_name == "MatMul":
            if _is_weighted_sum_of_attention(node):
                found[id(node)] = "attention probabilities x values"
            elif _is_rotary(node):
                found[id(node)] = "angles of rotary position embedding"
    if transformer:
        for node in structure.nodes:
            if node.op.type_name in FLOAT_IN_TRANSFORMERS:
                found.setdefault(id(node), f"{node.op.type_name} stays float in a transformer")
    return found


def squeeze_and_excite(structure: Structure, multiply: Node) -> Iterator[Node]:
    """The layers between the pooling and the gate of `x * gate(linear(act(linear(pool(x)))))`; not the Multiply."""
    for gate in multiply.inputs:
        second = structure.root(through_movement(gate))
        first = _linear_before(structure, second)
        if first is None or _linear_source(first) is None or not is_linear(second.node):
            continue
        pooled = through_movement(first.node.inputs[0])
        if structure.root(pooled).node.op.type_name not in POOLED:
            continue
        inside = _between(structure, gate, second)
        if any(n.op.type_name in GATES for n in inside):
            yield from (second.node, first.node)
            yield from inside
            yield from _between(structure, second.node.inputs[0], first)


def _linear_before(structure: Structure, value: Value) -> Value | None:
    """The output of the linear layer that feeds the linear layer of `value` through elementwise functions only."""
    if _linear_source(value) is None:
        return None
    before = structure.root(through_movement(value.node.inputs[0]))
    return before if is_linear(before.node) else None


def _linear_source(value: Value) -> Value | None:
    node = value.node
    return node.inputs[0] if is_linear(node) and constant_data(node.inputs[1]) is not None else None


def _between(structure: Structure, end: Value, start: Value) -> list[Node]:
    """The nodes that compute `end` from `start`, where `end` is a function of `start` alone."""
    found: list[Node] = []
    stack = [end]
    seen: set[int] = {id(start.node)}
    while stack:
        node = stack.pop().node
        if id(node) in seen or node.op.type_name == "Constant":
            continue
        seen.add(id(node))
        found.append(node)
        stack.extend(v for v in node.inputs if structure.is_data(v))
    return found


def post_processing(node: Node) -> Iterator[Node]:
    """`node` (TopK, NMS, ...), all after it, and all before it down to the last layers with weights."""
    yield node
    yield from descendants(node)
    for value in node.inputs:
        yield from (n for n in ancestors(value, WEIGHTED) if n.op.type_name not in WEIGHTED)


def _is_weighted_sum_of_attention(node: Node) -> bool:
    return any(through_movement(v).node.op.type_name == "Softmax" for v in node.inputs)


def _is_rotary(node: Node) -> bool:
    stack = [node]
    while stack:
        for use in stack.pop().output.uses:
            kind = use.node.op.type_name
            if kind in ("Sin", "Cos"):
                return True
            if kind in MOVEMENT and len(use.node.outputs) == 1:
                stack.append(use.node)
    return False
