"""The registry of lowering rules: one function a type of operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lpir.ir.graph import Node
from lpir.passes.lowprec.forms import Lowering

Rule = Callable[[Lowering, Node], None]
RULES: dict[str, Rule] = {}


def rule(*type_names: str) -> Callable[[Rule], Rule]:
    """Decorator: this function lowers operations of these types."""

    def register(function: Rule) -> Rule:
        for name in type_names:
            if name in RULES:
                raise TypeError(f"two lowering rules for {name}")
            RULES[name] = function
        return function

    return register


def attrs(node: Node) -> Any:
    """The node's operation, for its attributes: a rule knows which operation it is registered for."""
    return node.op


def copy_node(state: Lowering, node: Node) -> None:
    """The fallback: the public operation itself, on real numbers, channels first."""
    copy = state.emit_node(node.op, [state.real(v) for v in node.inputs], node.name)
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        state.set_real(old, new)
