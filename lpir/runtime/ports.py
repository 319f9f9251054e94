"""Inputs and outputs of a compiled model: how they are named, and what fits them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from lpir.errors import InputError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model, copy_node, names_of
from lpir.ir.op import Arg, Array, Op, TensorType
from lpir.ir.shape import PartialShape
from lpir.ir.types import ElementType
from lpir.record import record
from lpir.runtime.tensor import Tensor

Key = int | str | Value


class Port:
    """One input or output: its value in the model, all names that find it, and its type."""

    def __init__(self, index: int, value: Value, other: Value) -> None:
        self.index = index
        self.value = value
        # the value of the model that the user holds
        self.other = other
        self.names = frozenset(names_of(value))
        self.type = value.element_type
        self.dtype = value.element_type.dtype
        self.shape = value.shape
        self.lengths = value.shape.to_static() if value.shape.is_static else None

    @property
    def any_name(self) -> str:
        """One name to print: a tensor name if there is one."""
        return min(self.value.names) if self.value.names else self.value.node.name

    def __str__(self) -> str:
        return f"{self.index}: {self.any_name!r} {self.type}{self.shape}"

    def accept(self, given: Any) -> Array:
        """`given` as a contiguous array of this port's type. Raises InputError that says what is expected."""
        try:
            array = given.data if isinstance(given, Tensor) else np.asarray(given)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"input {self} cannot take a {type(given).__name__}: {error}") from None
        if array.dtype != self.dtype:
            array = self._cast(array)
        if array.shape != self.lengths and not self.shape.allows(array.shape):
            raise InputError(f"input {self} cannot take shape {list(array.shape)}{self._hint(array)}")
        return array if array.flags.c_contiguous else np.ascontiguousarray(array).reshape(array.shape)

    def _cast(self, array: Array) -> Array:
        kind = array.dtype.kind
        wants_float = self.type.is_float
        if kind in "fiub" and (wants_float or kind == "b"):
            return array.astype(self.dtype)
        if kind in "iu" and self.type.is_integer:
            lo, hi = self.type.limits
            if not array.size or (int(array.min()) >= lo and int(array.max()) <= hi):
                return array.astype(self.dtype)
            raise InputError(f"input {self} cannot hold values {array.min()}..{array.max()}")
        if array.dtype.name in ("bfloat16", "float16") and wants_float:
            return array.astype(self.dtype)
        raise InputError(f"input {self} cannot take values of type {array.dtype}; convert them to {self.dtype} first")

    def _hint(self, array: Array) -> str:
        if self.shape.rank is not None and array.ndim == self.shape.rank - 1 and self.shape[0].allows(1):
            return "; the batch dimension is missing: array[None] adds it"
        if self.shape.rank is not None and array.ndim != self.shape.rank:
            return f": it has {array.ndim} dimensions, {self.shape.rank} are expected"
        return "; Model.reshape() changes it"


def ports_of(own: Sequence[Value], others: Sequence[Value]) -> list[Port]:
    """Ports in order."""
    return [Port(i, a, b) for i, (a, b) in enumerate(zip(own, others, strict=True))]


class Ports(Sequence[Port]):
    """The inputs, or the outputs, of a compiled model, found by position, name or value."""

    def __init__(self, what: str, own: Sequence[Value], others: Sequence[Value]) -> None:
        self.what = what
        self.items = ports_of(own, others)
        self._by_name: dict[str, list[Port]] = {}
        for port in self.items:
            for name in port.names:
                self._by_name.setdefault(name, []).append(port)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Port]:
        return iter(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def find(self, key: Key) -> Port:
        """The port at a position, with a name, or of a value. Raises InputError that lists the ports."""
        if isinstance(key, int | np.integer) and -len(self.items) <= key < len(self.items):
            return self.items[key]
        if isinstance(key, str):
            found = self._by_name.get(key, [])
            if len(found) == 1:
                return found[0]
            if found:
                raise InputError(f"the name {key!r} belongs to several {self.what}s; use a position: {self}")
        if isinstance(key, Value):
            for port in self.items:
                if key in (port.value, port.other):
                    return port
        shown = repr(key.name) if isinstance(key, Value) else repr(key)
        raise InputError(f"unknown {self.what} {shown}; the model has {self}")

    def has(self, key: Key) -> bool:
        """Whether `find` gives a port."""
        try:
            self.find(key)
        except InputError:
            return False
        return True

    def __str__(self) -> str:
        return ", ".join(map(str, self.items)) or f"no {self.what}s"

    def bind(self, given: Any) -> list[Array | None]:
        """What a call was given, in port order: a mapping, a sequence in order, or the only input itself.

        An input that a mapping leaves out is None. Raises InputError.
        """
        if isinstance(given, Mapping):
            bound: list[Array | None] = [None] * len(self.items)
            for key, value in given.items():
                port = self.find(key)
                if bound[port.index] is not None:
                    raise InputError(f"input {port} is given twice")
                bound[port.index] = port.accept(value)
            return bound
        if isinstance(given, list | tuple) and not (len(self.items) == 1 and _is_one_array(given, self.items[0])):
            if len(given) != len(self.items):
                raise InputError(f"{len(given)} inputs were given, the model has {len(self.items)}: {self}")
            return [port.accept(value) for port, value in zip(self.items, given, strict=True)]
        if len(self.items) != 1:
            raise InputError(f"one array was given, the model has {len(self.items)} inputs: {self}")
        return [self.items[0].accept(given)]


def _is_one_array(given: Sequence[Any], port: Port) -> bool:
    """Whether a list is nested numbers for the only input, not a list of inputs."""
    if len(given) != 1:
        return len(given) > 1 and not any(isinstance(x, np.ndarray | Tensor) for x in given)
    inner, depth = given[0], 1
    while isinstance(inner, list | tuple) and inner:
        inner, depth = inner[0], depth + 1
    return depth == port.shape.rank and not isinstance(inner, np.ndarray | Tensor)


class Results(Mapping[Value, Array]):
    """Outputs of an inference, found by position, name or value; iterates over the output values."""

    def __init__(self, ports: Ports, arrays: Sequence[Array]) -> None:
        self._ports = ports
        self._arrays = list(arrays)

    def __getitem__(self, key: Key) -> Array:
        return self._arrays[self._ports.find(key).index]

    def __iter__(self) -> Iterator[Value]:
        return (p.value for p in self._ports)

    def __len__(self) -> int:
        return len(self._arrays)

    def names(self) -> tuple[frozenset[str], ...]:
        """The names of each output."""
        return tuple(p.names for p in self._ports)

    def to_tuple(self) -> tuple[Array, ...]:
        return tuple(self._arrays)

    def to_dict(self) -> dict[Value, Array]:
        return dict(self.items())

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{p}: {a!r}" for p, a in zip(self._ports, self._arrays, strict=True)) + "}"


def model_ports(own: Model, users: Model) -> tuple[Ports, Ports]:
    """Input and output ports of a compiled copy of the model that the user holds."""
    return Ports("input", own.inputs, users.inputs), Ports("output", own.outputs, users.outputs)


@record
class PortFacts:
    """An input or output of a model of which nothing else is known."""

    node: str
    names: frozenset[str]
    type: ElementType
    shape: PartialShape | tuple[int, ...]


@record
class Boundary(Op):
    """Stands where something is of which only the type is known."""

    type_name: ClassVar[str] = "Boundary"
    arity: ClassVar[tuple[int, int | None]] = (0, 0)
    shape: PartialShape
    element_type: ElementType

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(self.element_type, self.shape)]


def model_of_ports(name: str, inputs: Sequence[PortFacts], outputs: Sequence[PortFacts]) -> Model:
    """A model of nothing but inputs and outputs: it can be asked, and not run."""
    return Model(map(_boundary, outputs), map(_boundary, inputs), name)


def ends_of(model: Model) -> Model:
    """The inputs and outputs of a model with their names, and nothing between them: it can be asked, and not run."""
    results = []
    for node in model.results:
        source = node.inputs[0]
        stand_in = _boundary(PortFacts(source.node.name, frozenset(source.names), source.element_type, source.shape))
        results.append(copy_node(node, stand_in.outputs, keep_types=True))
    ends = Model(results, [copy_node(node, (), keep_types=True) for node in model.parameters], model.name)
    ends.rt_info = dict(model.rt_info)
    return ends


def _boundary(facts: PortFacts) -> Node:
    node = Node(Boundary(PartialShape.of(facts.shape), facts.type), (), facts.node)
    node.outputs[0].names = set(facts.names)
    return node
