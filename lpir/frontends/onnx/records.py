"""What an ONNX file says, as plain records: the rest of the importer sees no protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lpir.errors import ModelError, UnsupportedError
from lpir.ir.op import Array
from lpir.ir.shape import PartialShape
from lpir.ir.types import ElementType, bf16, boolean, f16, f32, f64, i4, i8, i16, i32, i64, u4, u8, u16, u32, u64
from lpir.record import record


@record
class Tensor:
    """A constant with its element type."""

    data: Array
    element_type: ElementType


@record
class TensorInfo:
    """Name and type of a graph input or output; unknown parts are dynamic."""

    name: str
    element_type: ElementType
    shape: PartialShape


@dataclass
class Operator:
    """One ONNX node. Attributes are int, float, str, bytes, tuples of them, Tensor or Graph."""

    type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        where = f"{self.domain}." if self.domain else ""
        return f"{where}{self.type} '{self.name}'"


@dataclass
class Graph:
    """One ONNX graph: the model's or the body of a control-flow operator."""

    name: str
    operators: list[Operator]
    initializers: dict[str, Tensor]
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    # types that the file states for inner tensors
    infos: dict[str, TensorInfo] = field(default_factory=dict)


@dataclass
class OnnxModel:
    """A whole file: its graph and the operator set versions by domain ("" is ONNX's own)."""

    graph: Graph
    opsets: dict[str, int]
    origin: str
    producer: str = ""


# numbers of onnx.TensorProto.DataType
ELEMENT_TYPES = {
    1: f32,
    2: u8,
    3: i8,
    4: u16,
    5: i16,
    6: i32,
    7: i64,
    9: boolean,
    10: f16,
    11: f64,
    12: u32,
    13: u64,
    16: bf16,
    21: u4,
    22: i4,
}
_OTHER = {8: "string", 14: "complex64", 15: "complex128", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2"}
_OTHER |= {20: "float8e5m2fnuz", 23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2"}


def element_type(number: int) -> ElementType:
    """The element type with an ONNX number. Raises UnsupportedError or, for nonsense, ModelError."""
    if number in ELEMENT_TYPES:
        return ELEMENT_TYPES[number]
    if number in _OTHER:
        raise UnsupportedError(f"element type {_OTHER[number]} is not supported")
    raise ModelError(f"{number} is not an ONNX element type")
