"""Equal computations are done once."""

from __future__ import annotations

from typing import Any

from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ops.boundary import Constant

# larger constants are not compared: equal weights are rare, and comparing them costs
COMPARED_BYTES = 4096
# nodes with an identity, an effect, or a new answer each time
UNIQUE = frozenset(("Parameter", "Result", "Assign", "ReadValue", "RandomUniform", "Multinomial"))


def merge_equal_nodes(model: Model) -> int:
    """Merges nodes with the same operation and inputs, and equal small constants; returns how many went."""
    seen: dict[Any, Node] = {}
    merged = 0
    for node in model.nodes():
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            for old, new in zip(node.outputs, first.outputs, strict=True):
                old.replace_all_uses_with(new)
            node.detach()
            merged += 1
    return merged


def _key(node: Node) -> Any:
    op = node.op
    if op.type_name in UNIQUE:
        return None
    if isinstance(op, Constant):
        if op.data.nbytes > COMPARED_BYTES:
            return None
        return ("Constant", op.element_type, op.data.shape, op.data.tobytes())
    return (op, *((id(v.node), v.index) for v in node.inputs))
