"""The registry of lowering rules: one function a type of operation."""

from __future__ import annotations

from collections.abc import Callable

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
