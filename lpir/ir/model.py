"""A model: a graph with named inputs and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lpir.errors import InputError, ModelError
from lpir.ir.graph import Node, Value
from lpir.ir.op import Op, TensorType
from lpir.ir.shape import DimensionLike, PartialShape
from lpir.ir.types import ElementType

ShapeLike = PartialShape | Sequence[DimensionLike] | str


class Model:
    """A graph between `parameters` and `results` (nodes); `sinks` are nodes without outputs that must run."""

    def __init__(
        self,
        results: Iterable[Node],
        parameters: Iterable[Node],
        name: str = "model",
        sinks: Iterable[Node] = (),
    ) -> None:
        self.results = list(results)
        self.parameters = list(parameters)
        self.sinks = list(sinks)
        self.name = name
        self.rt_info: dict[str, Any] = {}

    @property
    def inputs(self) -> list[Value]:
        """The values that the caller gives, in order."""
        return [p.outputs[0] for p in self.parameters]

    @property
    def outputs(self) -> list[Value]:
        """The outputs of the Result nodes, in order; each carries the tensor names of what it returns."""
        return [r.outputs[0] for r in self.results]

    def nodes(self) -> list[Node]:
        """All nodes, each after the nodes that it reads; parameters first. Raises ModelError on a cycle."""
        done: dict[Node, None] = {}
        begun: set[Node] = set()
        # parameters are visited first, so they lead
        stack = [*reversed(self.sinks), *reversed(self.results), *reversed(self.parameters)]
        while stack:
            node = stack[-1]
            height = len(stack)
            for value in reversed(node.inputs):
                if value.node not in done:
                    stack.append(value.node)
            if len(stack) == height:
                done[node] = None
                stack.pop()
            elif node in begun:
                raise ModelError(f"the graph has a cycle through {node}")
            else:
                begun.add(node)
        return list(done)

    get_ops = nodes
    get_ordered_ops = nodes

    def input(self, key: int | str = 0) -> Value:
        """The input at a position, or with a tensor or node name. Raises InputError that lists what there is."""
        return _find(self.inputs, key, "input")

    def output(self, key: int | str = 0) -> Value:
        """The output at a position, or with a tensor or node name. Raises InputError that lists what there is."""
        return _find(self.outputs, key, "output")

    def validate(self) -> None:
        """Infers all types again, in order. Raises ModelError that names the node."""
        for node in self.nodes():
            node.infer()

    validate_nodes_and_infer_types = validate

    def reshape(self, shapes: ShapeLike | Mapping[int | str, ShapeLike]) -> None:
        """Gives inputs new shapes and infers the rest. A single shape is for a model with one input.

        Raises ModelError, and leaves the model as it was, when a shape does not fit.
        """
        if not isinstance(shapes, Mapping):
            if len(self.inputs) != 1:
                raise InputError(f"the model has {len(self.inputs)} inputs; give a dict of input -> shape")
            shapes = {0: shapes}
        before = [(p, p.op) for p in self.parameters]
        try:
            for key, shape in shapes.items():
                node = self.input(key).node
                node.op = _with_shape(node.op, PartialShape.of(shape))
            self.validate()
        except Exception:
            for node, op in before:
                node.op = op
            self.validate()
            raise

    def clone(self, replace: Callable[[Node, list[Value]], list[Value] | None] | None = None) -> Model:
        """A copy that shares only operations (immutable) and constant data; types stay as they are.

        `replace(node, new_inputs)` may give the values that stand for a node's outputs in the copy; then types are
        inferred.
        """
        values: dict[int, list[Value]] = {}
        copies: dict[int, Node] = {}
        for node in self.nodes():
            inputs = [values[id(v.node)][v.index] for v in node.inputs]
            given = replace(node, inputs) if replace else None
            if given is not None:
                values[id(node)] = given
                continue
            copies[id(node)] = copy_node(node, inputs, keep_types=replace is None)
            values[id(node)] = copies[id(node)].outputs
        model = Model(
            [copies[id(n)] for n in self.results],
            [copies[id(n)] for n in self.parameters],
            self.name,
            [copies[id(n)] for n in self.sinks],
        )
        model.rt_info = dict(self.rt_info)
        return model

    def detach_unused(self) -> int:
        """Nodes that no result or sink needs stop reading the values of this model; returns how many did.

        They are not part of `nodes()`, but would still count among the `uses` of a value.
        """
        order = self.nodes()
        alive = {id(n) for n in order}
        unused = {id(u.node): u.node for n in order for v in n.outputs for u in v.uses if id(u.node) not in alive}
        for node in unused.values():
            node.detach()
        return len(unused)

    def get_rt_info(self) -> dict[str, Any]:
        return self.rt_info

    def dump(self) -> str:
        """One line a node, for people and golden files."""
        names = {id(n): f"%{i}" for i, n in enumerate(self.nodes())}
        lines = []
        for node in self.nodes():
            args = ", ".join(names[id(v.node)] + (f":{v.index}" if v.index else "") for v in node.inputs)
            types = ", ".join(str(v.type) for v in node.outputs)
            attrs = ", ".join(f"{k}={_short(v)}" for k, v in node.op.attributes().items())
            lines.append(f"{names[id(node)]} = {node.op.type_name}({args}){{{attrs}}} -> {types}  # {node.name}")
        return "\n".join(lines) + "\n"

    def __repr__(self) -> str:
        ins = ", ".join(f"{v.name}: {v.type}" for v in self.inputs)
        outs = ", ".join(f"{v.name}: {v.type}" for v in self.outputs)
        return f"<Model '{self.name}'\ninputs: {ins}\noutputs: {outs}>"


def copy_node(node: Node, inputs: Iterable[Value], keep_types: bool = False) -> Node:
    """The same operation on other inputs, with names, rt_info and quantization kept.

    `keep_types`: the inputs have the same types as before, so nothing is inferred.
    """
    copy = Node(node.op, inputs, node.name, [v.type for v in node.outputs] if keep_types else None)
    copy.rt_info = dict(node.rt_info)
    copy.source = list(node.source)
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.names = set(old.names)
        new.rt_info = dict(old.rt_info)
        new.quant = old.quant
    return copy


def names_of(value: Value) -> set[str]:
    """Every name that finds an input or output: tensor names and the node's friendly name."""
    names = {value.node.name, *value.names}
    if value.node.op.type_name == "Result":
        source = value.node.inputs[0]
        names |= {source.node.name, *source.names}
    return names


def _find(values: list[Value], key: int | str, what: str) -> Value:
    if isinstance(key, int) and -len(values) <= key < len(values):
        return values[key]
    found = [v for v in values if isinstance(key, str) and key in names_of(v)]
    if len(found) != 1:
        have = ", ".join(f"{i}: {' / '.join(sorted(names_of(v)))}" for i, v in enumerate(values))
        raise InputError(f"the model has no {what} {key!r}; it has {have or 'none'}")
    return found[0]


def _with_shape(op: Op, shape: PartialShape) -> Op:
    return dataclasses.replace(op, shape=shape)  # type: ignore[call-arg]


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array{list(value.shape)}"
    return str(value)


def tensor_type(element_type: ElementType, shape: ShapeLike) -> TensorType:
    """A TensorType from anything that looks like a shape."""
    return TensorType(element_type, PartialShape.of(shape))
