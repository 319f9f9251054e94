"""Facts about a float graph that quantizer placement needs."""

from __future__ import annotations

from collections.abc import Iterator

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ops.bases import ElementwiseOp
from lpir.quantize.traits import CONVOLUTIONS, MOVEMENT


class Structure:
    """Which values are data (depend on the inputs' values), and which are a function of one other value."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.nodes = model.nodes()
        self._data: set[int] = set()
        self._roots: dict[int, Value] = {}
        for node in self.nodes:
            if self._is_data(node):
                self._data.add(id(node))
            for value in node.outputs:
                self._roots[id(value)] = self._root_of(node, value)

    def is_data(self, value: Value) -> bool:
        """Whether the value is a float tensor that changes with the model's inputs (not only with their shapes)."""
        return id(value.node) in self._data and value.element_type.is_float

    def root(self, value: Value) -> Value:
        """The value that this one is computed from element by element, constants aside; itself if there are two."""
        return self._roots[id(value)]

    def _is_data(self, node: Node) -> bool:
        kind = node.op.type_name
        if kind == "Parameter":
            return True
        if kind in ("ShapeOf", "Constant"):
            return False
        return any(id(v.node) in self._data for v in node.inputs)

    def _root_of(self, node: Node, value: Value) -> Value:
        if not isinstance(node.op, ElementwiseOp):
            return value
        roots = {id(self.root(v)): self.root(v) for v in node.inputs if id(v.node) in self._data}
        if len(roots) != 1:
            return value
        root = next(iter(roots.values()))
        return root if root.shape.rank == value.shape.rank else value


def is_linear(node: Node) -> bool:
    return node.op.type_name in CONVOLUTIONS or node.op.type_name == "MatMul"


def through_movement(value: Value) -> Value:
    """The value before any reshapes, transposes and the like."""
    while value.node.op.type_name in MOVEMENT and value.node.op.type_name != "Concat":
        value = value.node.inputs[0]
    return value


def ancestors(value: Value, stop: frozenset[str] = frozenset()) -> Iterator[Node]:
    """Every node before `value`, each once; does not go beyond nodes of the types `stop`, which are given too."""
    stack, seen = [value.node], {id(value.node)}
    while stack:
        node = stack.pop()
        yield node
        if node.op.type_name in stop:
            continue
        for source in node.inputs:
            if id(source.node) not in seen:
                seen.add(id(source.node))
                stack.append(source.node)


def descendants(node: Node) -> Iterator[Node]:
    """Every node after `node`, each once."""
    stack, seen = [node], {id(node)}
    while stack:
        for value in stack.pop().outputs:
            for use in value.uses:
                if id(use.node) not in seen:
                    seen.add(id(use.node))
                    stack.append(use.node)
                    yield use.node
