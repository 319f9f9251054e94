"""Reshape targets that are computed from dynamic shapes become constants with 0 (keep) and -1 (the rest).

Exporters write `x.view(y.size(0), -1, heads, size)` as ShapeOf, Gather and Concat; when `y` has the same first
dimension as `x`, that is `[0, -1, heads, size]`, and shape inference sees through it.
"""

from __future__ import annotations

import numpy as np

from lpir.ir.graph import Node, Value, known_value
from lpir.ir.model import Model
from lpir.ops.bases import Binary, Unary
from lpir.ops.boundary import constant
from lpir.ops.builder import make_node
from lpir.passes.rewrite import is_op, replace

# exporters compute a shape in a few steps
MAX_DEPTH = 16
# these keep the shape of their first input
KEEP = frozenset(("FakeQuantize", "MVN", "Softmax", "LogSoftmax", "Clamp", "Convert", "Gelu", "Swish", "PRelu"))


def resolve_reshapes(model: Model) -> int:
    """Gives Reshape a constant target where all but one of its dynamic parts are dimensions of its own input.

    Returns how many changed.
    """
    nodes = model.nodes()
    if not any(n.op.type_name == "Reshape" and known_value(n.inputs[1]) is None for n in nodes):
        return 0
    lengths = Lengths()
    changed = 0
    for node in nodes:
        node.infer()
        if node.op.type_name == "Reshape" and (target := lengths.constant_target(node)) is not None:
            shape = constant(target, np.int64)
            new = make_node("Reshape", node.inputs[0], shape, name=node.name, special_zero=True)
            replace(node.outputs[0], new.output)
            node = new
            changed += 1
        lengths.follow(node)
    return changed


class Lengths:
    """Which dynamic dimensions are the same one: each has a number, and copies share it."""

    def __init__(self) -> None:
        self.numbers: dict[int, list[int]] = {}
        # keeps the values alive, so that an id stays what it was
        self.values: list[Value] = []
        self.fresh = 0

    def of(self, value: Value) -> list[int]:
        """The number of each dimension of `value`."""
        if id(value) not in self.numbers:
            rank = value.shape.rank or 0
            self.numbers[id(value)] = list(range(self.fresh, self.fresh + rank))
            self.values.append(value)
            self.fresh += rank
        return self.numbers[id(value)]

    def follow(self, node: Node) -> None:
        """Numbers the dimensions that the output of `node` copies from its inputs."""
        if not node.inputs or len(node.outputs) != 1 or node.outputs[0].shape.rank is None:
            return
        numbers = self.of(node.outputs[0])
        for axis in range(len(numbers)):
            found = self.source(node, axis, len(numbers))
            if found is not None:
                numbers[axis] = found

    def source(self, node: Node, axis: int, rank: int) -> int | None:
        """The number of the input dimension that dimension `axis` of the output copies."""
        x = node.inputs[0]
        if isinstance(node.op, Unary) or node.op.type_name in KEEP:
            return self.of(x)[axis] if x.shape.rank == rank else None
        if isinstance(node.op, Binary):
            return self.broadcast(node, axis - rank)
        match node.op.type_name:
            case "MatMul":
                return self.matmul(node, axis - rank)
            case "Transpose":
                order = known_value(node.inputs[1])
                return None if order is None or order.size != rank else self.of(x)[int(order[axis])]
            case "Reshape":
                target = known_value(node.inputs[1])
                kept = target is not None and node.op.attributes()["special_zero"] and target.reshape(-1)[axis] == 0
                return self.of(x)[axis] if kept else None
            case "Gather":
                at, indices = known_value(node.inputs[2]), node.inputs[1]
                rows = at is not None and not at.any() and not node.op.attributes()["batch_dims"]
                return self.of(indices)[axis] if rows and axis < (indices.shape.rank or 0) else None
        return None

    def broadcast(self, node: Node, axis: int) -> int | None:
        """Dimension `axis` (from the end) of inputs that broadcast: unsure when two differ and either may be 1."""
        found = set()
        for value in node.inputs:
            if value.shape.rank is None:
                return None
            if value.shape.rank >= -axis and not is_one(value, axis):
                found.add(self.of(value)[axis])
        return found.pop() if len(found) == 1 else None

    def matmul(self, node: Node, axis: int) -> int | None:
        a, b = node.inputs
        attributes = node.op.attributes()
        if axis < -2:
            return self.broadcast(node, axis)
        if min(a.shape.rank or 0, b.shape.rank or 0) < 2:
            return None
        if axis == -2:
            return self.of(a)[-1 if attributes["transpose_a"] else -2]
        return self.of(b)[-2 if attributes["transpose_b"] else -1]

    def constant_target(self, node: Node) -> list[int] | None:
        """A target for a Reshape: 0 for a dimension that stays in its place, -1 for one that is left."""
        x, target = node.inputs
        if known_value(target) is not None or x.shape.rank is None:
            return None
        entries = self.entries(target)
        if entries is None or 0 in [n for n, is_length in entries if is_length]:
            return None
        own = self.of(x)
        resolved = []
        for axis, (number, is_length) in enumerate(entries):
            if is_length:
                resolved.append(number)
            else:
                resolved.append(0 if axis < len(own) and own[axis] == number else -1)
        return None if resolved.count(-1) > 1 else resolved

    def entries(self, target: Value, depth: int = 0) -> list[tuple[int, bool]] | None:
        """Each element of a shape: (length, True), or (number of a dynamic dimension, False); -1 is no dimension."""
        data = known_value(target)
        if data is not None:
            return [(int(v), True) for v in data.reshape(-1)]
        inputs = target.node.inputs
        if depth == MAX_DEPTH:
            return None
        if is_op(target, "Concat"):
            parts = [self.entries(v, depth + 1) for v in inputs]
            return None if None in parts else [e for p in parts if p is not None for e in p]
        if is_op(target, "Unsqueeze", "Squeeze", "Reshape", "Convert"):
            inner = self.entries(inputs[0], depth + 1)
            return inner if inner is not None and len(inner) == 1 else None
        if is_op(target, "Gather") and is_op(inputs[0], "ShapeOf"):
            source, index = inputs[0].node.inputs[0], known_value(inputs[1])
            rank = source.shape.rank
            if index is None or rank is None or np.any(index < -rank) or np.any(index >= rank):
                return None
            return [self.entry(source, int(i)) for i in index.reshape(-1)]
        one = target.shape.is_static and target.shape.to_static() in ((), (1,))
        return [(-1, False)] if one else None

    def entry(self, source: Value, axis: int) -> tuple[int, bool]:
        length = source.shape[axis]
        return (length.length, True) if length.is_static else (self.of(source)[axis], False)


def is_one(value: Value, axis: int) -> bool:
    return value.shape[axis].is_static and value.shape[axis].length == 1
