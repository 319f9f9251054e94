"""Nodes and values with use lists that cannot be wrong: only `Node` changes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lpir.errors import LpirError, ModelError
from lpir.ir.op import Arg, Array, Op, TensorType
from lpir.ir.shape import PartialShape
from lpir.ir.types import ElementType
from lpir.record import record


@record(eq=False)
class QuantType:
    """How 8-bit codes stand for real numbers: `real = scale * (code - zero_point)`.

    `scale` is a float32 scalar array, or a vector along `axis`. Where the zero points differ along it too, they are in
    `zero_points` (int32), and `zero_point` is 0.
    """

    element_type: ElementType
    scale: Array
    zero_point: int
    axis: int | None = None
    zero_points: Array | None = None

    @property
    def is_per_tensor(self) -> bool:
        return self.scale.size == 1

    def same_as(self, other: QuantType) -> bool:
        """Whether both give every code the same meaning."""
        return (
            self.element_type == other.element_type
            and self.zero_point == other.zero_point
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and _same(self.zero_points, other.zero_points)
        )


def _same(a: Array | None, b: Array | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


class Use(NamedTuple):
    """Input number `index` of `node` reads the value."""

    node: Node
    index: int  # type: ignore[assignment]


class Value:
    """One output of a node: its type, tensor names, and who reads it."""

    __slots__ = ("_uses", "index", "names", "node", "quant", "rt_info", "type")

    def __init__(self, node: Node, index: int, type: TensorType) -> None:
        self.node = node
        self.index = index
        self.type = type
        self.names: set[str] = set()
        self.rt_info: dict[str, Any] = {}
        self.quant: QuantType | None = None
        # who reads it, in the order in which they came: the id of a node and the number of its input -> the node
        self._uses: dict[tuple[int, int], Node] = {}

    @property
    def uses(self) -> list[Use]:
        return [Use(node, index) for (_, index), node in self._uses.items()]

    @property
    def element_type(self) -> ElementType:
        return self.type.element_type

    @property
    def shape(self) -> PartialShape:
        return self.type.shape

    @property
    def name(self) -> str:
        """A name to print: the node's, with the port when it has several outputs."""
        return self.node.name if len(self.node.outputs) == 1 else f"{self.node.name}:{self.index}"

    def replace_all_uses_with(self, other: Value, keep_names: bool = True) -> None:
        """Every reader of this value reads `other` instead; tensor names move along."""
        for use in self.uses:
            use.node.set_input(use.index, other)
        if keep_names:
            other.names |= self.names
            self.names = set()

    def __repr__(self) -> str:
        return f"<{self.name}: {self.type}>"


class Node:
    """An operation with its inputs."""

    __slots__ = ("_inputs", "name", "op", "outputs", "rt_info", "source")

    def __init__(
        self, op: Op, inputs: Iterable[Value] = (), name: str = "", types: Sequence[TensorType] | None = None
    ) -> None:
        """`types`: of the outputs, where they are known already; else they are inferred."""
        self.op = op
        self.name = name or op.type_name
        self.rt_info: dict[str, Any] = {}
        # names of the public nodes that this one stands for
        self.source: list[str] = []
        self._inputs = tuple(inputs)
        self._read()
        self.outputs: list[Value] = []
        if types is None:
            self.infer()
        else:
            self.outputs = [Value(self, i, t) for i, t in enumerate(types)]

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self._inputs

    @property
    def output(self) -> Value:
        """The only output. Raises ModelError when there are several."""
        if len(self.outputs) != 1:
            raise ModelError(f"{self} has {len(self.outputs)} outputs")
        return self.outputs[0]

    def set_input(self, index: int, value: Value) -> None:
        self._inputs[index]._uses.pop((id(self), index), None)
        self._inputs = (*self._inputs[:index], value, *self._inputs[index + 1 :])
        value._uses[id(self), index] = self

    def set_inputs(self, values: Iterable[Value]) -> None:
        """Replaces all inputs; their number may change."""
        new = tuple(values)
        self.detach()
        self._inputs = new
        self._read()

    def detach(self) -> None:
        """Stops reading every input."""
        for index, value in enumerate(self._inputs):
            value._uses.pop((id(self), index), None)
        self._inputs = ()

    def _read(self) -> None:
        for index, value in enumerate(self._inputs):
            value._uses[id(self), index] = self

    def infer(self) -> None:
        """Sets the types of the outputs from the inputs. Raises ModelError that names this node."""
        try:
            self.op.check_arity(len(self._inputs))
            types = self.op.infer([arg_of(v) for v in self._inputs])
        except LpirError as error:
            raise type(error)(f"{self}: {error}") from None
        except (IndexError, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise ModelError(f"{self}: the inputs or attributes do not fit: {error}") from error
        for index, tensor_type in enumerate(types):
            if index < len(self.outputs):
                self.outputs[index].type = tensor_type
            else:
                self.outputs.append(Value(self, index, tensor_type))

    def __repr__(self) -> str:
        return f"{self.op.type_name} '{self.name}'"


# arrays up to this many elements are followed through shape computations
FOLLOWED = 4096


def arg_of(value: Value) -> Arg:
    """What shape inference sees of `value`."""
    return Arg(value.element_type, value.shape, known_value(value))


def known_value(value: Value) -> Array | None:
    """The value if it can be computed before the model runs (small constants and what follows from them)."""
    data = getattr(value.node.op, "data", None)
    return data if isinstance(data, np.ndarray) else _known(value, {}, DEPTH)


# a longer chain of shape arithmetic than this is left to constant folding
DEPTH = 64


def _known(value: Value, memo: dict[int, Array | None], depth: int) -> Array | None:
    if id(value) not in memo:
        memo[id(value)] = None
        memo[id(value)] = _compute(value, memo, depth)
    return memo[id(value)]


def _compute(value: Value, memo: dict[int, Array | None], depth: int) -> Array | None:
    node = value.node
    constant = getattr(node.op, "data", None)
    if isinstance(constant, np.ndarray):
        return constant
    static = getattr(node.op, "static_value", None)
    if static is not None:
        found: Array | None = static([v.shape for v in node.inputs])
        return found
    if depth == 0 or not node.inputs or not value.shape.is_static or value.element_type.is_float:
        return None
    if math.prod(value.shape.to_static()) > FOLLOWED:
        return None
    arrays = []
    for source in node.inputs:
        array = _known(source, memo, depth - 1)
        if array is None or array.size > FOLLOWED:
            return None
        arrays.append(array)
    return np.asarray(node.op.eval(*arrays)[value.index])
