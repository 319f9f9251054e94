"""An operation for which no device has a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lpir.ir.graph import Node, Value
from lpir.ir.op import Arg, Array, Op, TensorType
from lpir.record import record


@record
class Foreign(Op):
    """`-x`, known to nobody."""

    type_name: ClassVar[str] = "Foreign"

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(inputs[0].type, inputs[0].shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return (-inputs[0],)


def foreign(x: Value, name: str = "middle") -> Value:
    """The operation on `x`."""
    return Node(Foreign(), [x], name).output
