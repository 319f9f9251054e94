"""What an operation is. `ir` holds this abstract class and knows no concrete operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.shape import PartialShape
from lpir.ir.types import ElementType
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]


class TensorType(NamedTuple):
    """Element type and shape of a value."""

    element_type: ElementType
    shape: PartialShape

    def __str__(self) -> str:
        return f"{self.element_type}{self.shape}"


class Arg(NamedTuple):
    """What shape inference sees of one input; `value` is there when the input is known before the model runs."""

    type: ElementType
    shape: PartialShape
    value: Array | None = None


@record
class Case:
    """A sample of an operation for conformance tests: the operation and its input arrays."""

    op: Op
    inputs: tuple[Array, ...]
    name: str = ""


@record
class Op:
    """Base of all operations: a frozen dataclass whose fields are its XML attributes.

    `infer` gives the type of each output, `eval` computes the outputs with NumPy (the reference), `cases` are samples.
    """

    type_name: ClassVar[str] = ""
    version: ClassVar[str] = "opset1"
    # smallest and largest number of inputs (None: no limit)
    arity: ClassVar[tuple[int, int | None]] = (1, 1)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        """Types of the outputs. Raises ModelError when the inputs do not fit."""
        raise ModelError(f"{self.type_name} has no shape inference")

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        """The outputs for concrete inputs, in NumPy."""
        raise ModelError(f"{self.type_name} has no reference implementation")

    @classmethod
    def cases(cls) -> list[Case]:
        """Samples for conformance tests on every device."""
        return []

    def check_arity(self, count: int) -> None:
        """Raises ModelError unless `count` inputs are allowed."""
        lo, hi = self.arity
        if count < lo or (hi is not None and count > hi):
            wanted = str(lo) if lo == hi else f"{lo} to {hi}" if hi is not None else f"at least {lo}"
            raise ModelError(f"{self.type_name} takes {wanted} inputs, not {count}")

    def attributes(self) -> dict[str, Any]:
        """Field names and values, in order."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


AnyOp = TypeVar("AnyOp", bound=type[Op])
REGISTRY: dict[str, type[Op]] = {}
LOWERED: dict[str, type[Op]] = {}


def op(cls: AnyOp) -> AnyOp:
    """Class decorator: registers a public operation under its `type_name` (default: the class name)."""
    if "type_name" not in cls.__dict__:
        cls.type_name = cls.__name__
    if cls.type_name in REGISTRY:
        raise TypeError(f"operation {cls.type_name} is defined twice")
    REGISTRY[cls.type_name] = cls
    return cls


def lowered_op(cls: AnyOp) -> AnyOp:
    """Class decorator: registers an operation of the lowered dialect; it never appears in a file."""
    if "type_name" not in cls.__dict__:
        cls.type_name = cls.__name__
    LOWERED[cls.type_name] = cls
    return cls


def xml_name(name: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field whose XML attribute is called `name` (where Python cannot spell it)."""
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata={"xml": name})
    return dataclasses.field(default=default, metadata={"xml": name})


CaseMaker = Callable[[], list[Case]]
