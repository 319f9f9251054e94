"""Where data enters and leaves a graph: Parameter, Constant, Result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, ClassVar

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.op import Arg, Array, Op, TensorType, op
from lpir.ir.shape import PartialShape
from lpir.ir.types import ElementType, from_dtype
from lpir.record import record


@op
@record
class Parameter(Op):
    """An input of the model."""

    arity: ClassVar[tuple[int, int | None]] = (0, 0)
    shape: PartialShape
    element_type: ElementType

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(self.element_type, self.shape)]


@op
class Result(Op):
    """An output of the model; passes its input on."""

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(inputs[0].type, inputs[0].shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0],)


@op
@record(eq=False)
class Constant(Op):
    """A tensor that is part of the model. Two Constants are equal only if they are the same object.

    `data` may be a read-only view of a mapped file; `element_type` tells types apart that share a NumPy type (u1, u8).
    """

    type_name: ClassVar[str] = "Constant"
    arity: ClassVar[tuple[int, int | None]] = (0, 0)
    data: Array
    element_type: ElementType = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not isinstance(self.data, np.ndarray):
            object.__setattr__(self, "data", np.asarray(self.data))
        if self.element_type is None:
            object.__setattr__(self, "element_type", from_dtype(self.data.dtype))

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(self.element_type, PartialShape.of(self.data.shape))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return (self.data,)


def constant(data: Any, dtype: Any = None, name: str = "") -> Value:
    """A new Constant node's value. `dtype`: NumPy type or ElementType of the data."""
    if isinstance(dtype, ElementType):
        return Node(Constant(np.asarray(data, dtype.dtype), dtype), (), name or "Constant").output
    return Node(Constant(np.asarray(data, dtype)), (), name or "Constant").output


def parameter(shape: Any, element_type: ElementType, name: str = "Parameter") -> Node:
    """A new Parameter node."""
    return Node(Parameter(PartialShape.of(shape), element_type), (), name)


def constant_data(value: Value) -> Array | None:
    """The array of a Constant's output, or None."""
    return value.node.op.data if isinstance(value.node.op, Constant) else None
