"""One node in NumPy: the meaning that every device falls back on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpir.errors import LpirError, ModelError
from lpir.ir.graph import Node
from lpir.ir.op import Array


class Variables:
    """The state of a stateful model: what Assign wrote last, by variable id."""

    def __init__(self) -> None:
        self.values: dict[str, Array] = {}

    def reset(self) -> None:
        """Forgets all values, so that ReadValue takes its initial one."""
        self.values.clear()

    def read(self, op: Any, inputs: Sequence[Array]) -> Array:
        """What ReadValue gives: the last assigned value, its initial input, or zeros."""
        found = self.values.get(op.variable_id)
        if found is not None:
            return found
        if inputs:
            return inputs[0]
        shape = [d.lo for d in op.variable_shape] if op.variable_shape.rank else []
        return np.zeros(shape, op.variable_type.dtype)


def evaluate_node(node: Node, inputs: Sequence[Array], variables: Variables) -> list[Array]:
    """The outputs of one node. Raises ModelError that names the node when a result breaks the inferred types."""
    name = node.op.type_name
    if name == "ReadValue":
        return [variables.read(node.op, inputs)]
    if name == "Assign":
        variables.values[getattr(node.op, "variable_id", "")] = inputs[0].copy()
        return [inputs[0]]
    try:
        results = [np.asarray(r) for r in node.op.eval(*inputs)]
    except LpirError as error:
        raise type(error)(f"{node}: {error}") from error
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        shapes = ", ".join(f"{x.dtype}{list(x.shape)}" for x in inputs)
        raise ModelError(f"{node}: cannot be computed for {shapes}: {error}") from error
    for value, result in zip(node.outputs, results, strict=False):
        if result.dtype != value.element_type.dtype or not value.shape.allows(result.shape):
            raise ModelError(f"{node} gave {result.dtype}{list(result.shape)} where {value.type} was inferred")
    if len(results) < len(node.outputs):
        raise ModelError(f"{node} gave {len(results)} outputs, not {len(node.outputs)}")
    return results
