"""Nodes by operation name: what importers and rewrites build graphs with."""

from __future__ import annotations

from typing import Any

from lpir.errors import UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.op import REGISTRY


def make_node(type_name: str, *inputs: Value, name: str = "", **attributes: Any) -> Node:
    """A new node of the operation `type_name`; `attributes` are the fields of its class.

    Raises UnsupportedError for an unknown operation, ModelError when inputs do not fit.
    """
    cls = REGISTRY.get(type_name)
    if cls is None:
        raise UnsupportedError(f"operation {type_name} is not part of lpir")
    return Node(cls(**attributes), inputs, name)


def make(type_name: str, *inputs: Value, name: str = "", **attributes: Any) -> Value:
    """The only output of a new node; see `make_node`."""
    return make_node(type_name, *inputs, name=name, **attributes).output
