"""Walks an ONNX graph and calls the converter of each operator."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import lpir.ops  # noqa: F401  registers the operations
from lpir.errors import LpirError, ModelError, UnsupportedError
from lpir.frontends.missing import missing_message
from lpir.frontends.onnx.records import Graph, OnnxModel, Operator, Tensor
from lpir.frontends.onnx.table import find
from lpir.ir.graph import Node, Value, known_value
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.ir.types import ElementType
from lpir.ops.boundary import Constant, Parameter, Result, constant
from lpir.ops.builder import make_node
from lpir.record import record

# what a converter may stumble over when a file states nonsense
NONSENSE = (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, ArithmeticError)


@record
class Quantized:
    """A tensor of codes that QuantizeLinear made from `real`.

    `rounded`: `real` holds only values that codes stand for.
    """

    real: Value
    scale: Value
    zero_point: Value | None
    element_type: ElementType
    axis: int
    rounded: bool = False


@dataclass
class Call:
    """One operator with its inputs as values: what a converter sees."""

    operator: Operator
    inputs: list[Value | None]
    version: int
    converter: Conversion
    made: list[Node] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.operator.name

    def __getitem__(self, index: int) -> Value:
        """Input `index`. Raises ModelError when the file leaves it out."""
        value = self.maybe(index)
        if value is None:
            raise ModelError(f"input {index} is missing")
        return value

    def maybe(self, index: int) -> Value | None:
        """Input `index`, or None when it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def rank(self, index: int = 0) -> int:
        """Rank of an input. Raises UnsupportedError when it is dynamic."""
        return rank_of(self[index])

    def axis(self, default: int, rank: int | None = None) -> int:
        """Attribute `axis`, counted from the front."""
        return front(self.integer("axis", default), self.rank() if rank is None else rank)

    def get(self, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
        value = self.operator.attributes.get(name, default)
        if value is None or not isinstance(value, kind):
            raise ModelError(f"attribute '{name}' is {'missing' if value is None else 'of the wrong kind'}")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self.get(name, int, default))

    def real(self, name: str, default: float | None = None) -> float:
        return float(self.get(name, (float, int), default))

    def text(self, name: str, default: str | None = None) -> str:
        return str(self.get(name, str, default))

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        return tuple(int(v) for v in self.get(name, tuple, default))

    def has(self, name: str) -> bool:
        return name in self.operator.attributes

    def known(self, index: int, what: str) -> Array:
        """The value of an input that must be known now. Raises UnsupportedError otherwise."""
        value = known_value(self[index])
        if value is None:
            raise UnsupportedError(f"{what} (input {index}) must be a constant")
        return value

    def known_ints(self, index: int, what: str) -> list[int]:
        return [int(v) for v in self.known(index, what).reshape(-1)]

    def make(self, type_name: str, *inputs: Value, **attributes: Any) -> Value:
        """The output of a new node."""
        return self.make_all(type_name, *inputs, **attributes)[0]

    def make_all(self, type_name: str, *inputs: Value, **attributes: Any) -> list[Value]:
        """All outputs of a new node."""
        node = make_node(type_name, *inputs, name=f"{self.name}/{type_name}", **attributes)
        self.made.append(node)
        return node.outputs

    def const(self, data: Any, dtype: Any = np.int64) -> Value:
        """A new constant; i64 unless `dtype` says otherwise."""
        return constant(data, dtype, f"{self.name}/Constant")

    def like(self, value: Value, data: Any) -> Value:
        """A new constant of the element type of `value`."""
        return self.const(data, value.element_type)

    def convert(self, value: Value, to: ElementType) -> Value:
        """`value` in the element type `to`."""
        return value if value.element_type == to else self.make("Convert", value, destination_type=to)

    def body(self, graph: Graph) -> list[Value]:
        """The outputs of a sub-graph, converted in place: it sees the tensors around it."""
        return self.converter.inline(graph, self.converter.scope)


def rank_of(value: Value) -> int:
    rank = value.shape.rank
    if rank is None:
        raise UnsupportedError(f"the rank of '{value.name}' must be known")
    return rank


def front(axis: int, rank: int) -> int:
    """`axis` counted from the front. Raises ModelError when it is outside a tensor of `rank`."""
    if not -rank <= axis < max(rank, 1):
        raise ModelError(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % max(rank, 1)


class Conversion:
    """The conversion of one file."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.scope: dict[str, Value] = {}
        # id of a value of codes -> how it was quantized; the graph keeps the value alive
        self.quantized: dict[int, tuple[Value, Quantized]] = {}

    def run(self) -> Model:
        """The model. Raises UnsupportedError or ModelError that names the file."""
        graph = self.model.graph
        try:
            self.check_supported(graph)
            parameters = self.parameters(graph)
            results = []
            for info, value in zip(graph.outputs, self.inline(graph, {}, self.scope), strict=True):
                value.names.add(info.name)
                result = Node(Result(), [value], f"{info.name}/Result")
                result.outputs[0].names.add(info.name)
                results.append(result)
            if not results:
                raise ModelError("the graph has no outputs")
            model = Model(results, parameters, graph.name or "model")
            model.detach_unused()
            model.validate()
        except LpirError as error:
            raise type(error)(f"{self.model.origin}: {error}") from None
        except RecursionError:
            raise ModelError(f"{self.model.origin}: the graph is nested too deep") from None
        return model

    def check_supported(self, graph: Graph) -> None:
        missing = [
            (f"{o.domain}.{o.type}" if o.domain else o.type, o.name)
            for o in all_operators(graph)
            if find(o.domain, o.type, self.version(o.domain)) is None
        ]
        if missing:
            raise UnsupportedError(missing_message("", missing).removeprefix(": "))

    def version(self, domain: str) -> int:
        return self.model.opsets.get(domain, 1)

    def parameters(self, graph: Graph) -> list[Node]:
        parameters = []
        for info in graph.inputs:
            if info.name in self.scope:
                raise ModelError(f"two inputs are called '{info.name}'")
            if info.name in graph.initializers:
                continue
            node = Node(Parameter(info.shape, info.element_type), (), info.name)
            node.output.names.add(info.name)
            self.scope[info.name] = node.output
            parameters.append(node)
        return parameters

    def inline(self, graph: Graph, outer: dict[str, Value], scope: dict[str, Value] | None = None) -> list[Value]:
        """Converts all operators of `graph` and returns its outputs."""
        before = self.scope
        self.scope = {**outer} if scope is None else scope
        try:
            for name, tensor in graph.initializers.items():
                self.scope[name] = constant_of(tensor, name)
            for operator in ordered(graph, set(self.scope)):
                self.convert(operator)
            missing = [o.name for o in graph.outputs if o.name not in self.scope]
            if missing:
                raise ModelError(f"nothing produces the outputs {', '.join(missing)}")
            return [self.scope[o.name] for o in graph.outputs]
        finally:
            self.scope = before

    def convert(self, operator: Operator) -> None:
        version = self.version(operator.domain)
        function = find(operator.domain, operator.type, version)
        call = Call(operator, [self.scope[n] if n else None for n in operator.inputs], version, self)
        try:
            if function is None:
                raise UnsupportedError("there is no converter")
            made = function(call)
            outputs = [made] if isinstance(made, Value) else made
            if len([o for o in operator.outputs if o]) > len(outputs):
                raise UnsupportedError(f"only {len(outputs)} of its outputs are supported")
        except LpirError as error:
            raise type(error)(f"{operator}: {error}") from None
        except NONSENSE as error:
            raise ModelError(f"{operator}: its attributes or inputs do not fit: {error}") from error
        for node in call.made:
            if any(v.node is node for v in outputs):
                node.name = operator.name
        for name, value in zip(operator.outputs, outputs, strict=False):
            if name:
                value.names.add(name)
                self.scope[name] = value


def constant_of(tensor: Tensor, name: str) -> Value:
    """The value of a new Constant."""
    value = Node(Constant(tensor.data, tensor.element_type), (), name or "Constant").output
    if name:
        value.names.add(name)
    return value


def all_operators(graph: Graph) -> Iterable[Operator]:
    """Every operator of a graph and of the bodies in it."""
    for operator in graph.operators:
        yield operator
        for value in operator.attributes.values():
            if isinstance(value, Graph):
                yield from all_operators(value)


def captured(operator: Operator) -> set[str]:
    """Names of the tensors that an operator reads, those of its bodies included."""
    names = {n for n in operator.inputs if n}
    for value in operator.attributes.values():
        if isinstance(value, Graph):
            names |= outside(value)
    return names


def outside(body: Graph) -> set[str]:
    """Names of the tensors around a body that it reads."""
    names = {n for o in body.operators for n in captured(o)} | {o.name for o in body.outputs}
    names -= {n for o in body.operators for n in o.outputs} | set(body.initializers)
    return names - {i.name for i in body.inputs}


def ordered(graph: Graph, defined: set[str]) -> list[Operator]:
    """The operators, each after those it reads.

    Raises ModelError for a tensor that two operators produce, that none produces, and for a cycle.
    """
    producer: dict[str, int] = {}
    for index, operator in enumerate(graph.operators):
        for name in operator.outputs:
            if name and (name in producer or name in defined):
                raise ModelError(f"tensor '{name}' is produced twice (again by {operator})")
            if name:
                producer[name] = index
    waits: list[int] = []
    readers: dict[int, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        reads = captured(operator)
        undefined = sorted(n for n in reads if n not in producer and n not in defined)
        if undefined:
            raise ModelError(f"{operator} reads tensor '{undefined[0]}', which nothing produces")
        sources = {producer[n] for n in reads if n in producer}
        waits.append(len(sources))
        for source in sources:
            readers.setdefault(source, []).append(index)
    # a heap keeps the order of the file wherever it is right
    ready = [i for i, n in enumerate(waits) if n == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            waits[reader] -= 1
            if waits[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) != len(graph.operators):
        stuck = next(o for i, o in enumerate(graph.operators) if waits[i])
        raise ModelError(f"the graph has a cycle through {stuck}")
    return [graph.operators[i] for i in order]
