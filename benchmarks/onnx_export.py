"""A float network as ONNX in the form that exporters write, so that every engine gets the same layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpir.errors import UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ops.boundary import constant_data

Array = np.ndarray[Any, np.dtype[Any]]

SIMPLE = {
    **{"Add": "Add", "Multiply": "Mul", "Subtract": "Sub", "Divide": "Div"},
    **{"Relu": "Relu", "Sigmoid": "Sigmoid", "Unsqueeze": "Unsqueeze", "Reshape": "Reshape"},
}
TYPES = {"f32": TensorProto.FLOAT, "i64": TensorProto.INT64}
OPSET, IR_VERSION = 17, 8


def export_onnx(model: Model, path: Path) -> None:
    """Writes `model` (float32 but for indices, one output) as ONNX opset 17. Raises UnsupportedError for other
    operations.

    A bias becomes part of its Conv or Gemm, a mean over the picture GlobalAveragePool + Flatten, a scaled and shifted
    MVN LayerNormalization, Gelu the erf and products that exporters write.
    """
    writer = _Writer()
    for node in model.nodes():
        writer.write(node)
    graph = helper.make_graph(
        writer.nodes,
        model.name,
        [_described(v, v.node.name) for v in model.inputs],
        [_described(model.outputs[0], "output")],
        writer.initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION), path)


def _described(value: Value, name: str) -> Any:
    return helper.make_tensor_value_info(name, TYPES[value.element_type.name], list(value.shape.to_static()))


class _Writer:
    """ONNX nodes and initializers, and the name of each value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names: dict[int, str] = {}

    def write(self, node: Node) -> None:
        kind = node.op.type_name
        if kind == "Parameter":
            self.names[id(node.outputs[0])] = node.name
        elif kind == "Result":
            self.emit("Identity", [self.name(node.inputs[0])], "output", node)
        elif kind != "Constant" and id(node.outputs[0]) not in self.names:
            out = self.names[id(node.outputs[0])] = node.name
            bias = self.bias_of(node)
            if bias is not None:
                self.names[id(bias.outputs[0])] = out
            getattr(self, f"write_{kind}", self.write_simple)(node, out, bias)

    def name(self, value: Value) -> str:
        """The ONNX name of a value; a constant becomes an initializer."""
        if id(value) not in self.names:
            # constants need no name of their own, and may share the one of their kind
            name = value.node.name if value.node.name != "Constant" else f"constant{len(self.initializers)}"
            self.names[id(value)] = self.initializer(_constant(value), name)
        return self.names[id(value)]

    def initializer(self, array: Array, name: str) -> str:
        self.initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def emit(self, kind: str, inputs: Sequence[str], out: str, node: Node, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [out], f"{out}/{kind}", **attributes))

    def bias_of(self, node: Node) -> Node | None:
        """The Add of one constant a channel that alone follows a convolution or matrix product."""
        uses = list(node.outputs[0].uses)
        if node.op.type_name not in ("Convolution", "GroupConvolution", "MatMul") or len(uses) != 1:
            return None
        add = uses[0].node
        if add.op.type_name != "Add" or constant_data(add.inputs[1]) is None:
            return None
        return add

    def write_simple(self, node: Node, out: str, _bias: Node | None) -> None:
        if node.op.type_name not in SIMPLE:
            raise UnsupportedError(f"{node} has no ONNX form here")
        self.emit(SIMPLE[node.op.type_name], [self.name(v) for v in node.inputs], out, node)

    def write_Convolution(self, node: Node, out: str, bias: Node | None) -> None:
        op: Any = node.op
        weight, groups = _constant(node.inputs[1]), 1
        if op.type_name == "GroupConvolution":
            groups = weight.shape[0]
            weight = weight.reshape(-1, *weight.shape[2:])
        inputs = [self.name(node.inputs[0]), self.initializer(weight, f"{node.name}.weight")]
        if bias is not None:
            inputs.append(self.initializer(_constant(bias.inputs[1]).reshape(-1), f"{node.name}.bias"))
        pads = [*op.pads_begin, *op.pads_end]
        geometry = {"strides": list(op.strides), "dilations": list(op.dilations), "pads": pads}
        self.emit("Conv", inputs, out, node, group=groups, **geometry)

    write_GroupConvolution = write_Convolution

    def write_MatMul(self, node: Node, out: str, bias: Node | None) -> None:
        op: Any = node.op
        if len(node.inputs[0].shape) > 2:
            self.write_batched(node, out, bias)
            return
        inputs = [self.name(node.inputs[0]), self.initializer(_constant(node.inputs[1]), f"{node.name}.weight")]
        if bias is not None:
            inputs.append(self.initializer(_constant(bias.inputs[1]).reshape(-1), f"{node.name}.bias"))
        self.emit("Gemm", inputs, out, node, transA=int(op.transpose_a), transB=int(op.transpose_b))

    def write_batched(self, node: Node, out: str, bias: Node | None) -> None:
        """MatMul, and Add for a bias: weights as [inputs, outputs]."""
        op: Any = node.op
        weight = constant_data(node.inputs[1])
        if op.transpose_a or (op.transpose_b and weight is None):
            raise UnsupportedError(f"{node} has no ONNX form here")
        right = self.name(node.inputs[1]) if weight is None else f"{node.name}.weight"
        if weight is not None:
            self.initializer(weight.T if op.transpose_b else weight, right)
        if bias is None:
            self.emit("MatMul", [self.name(node.inputs[0]), right], out, node)
            return
        self.emit("MatMul", [self.name(node.inputs[0]), right], f"{out}.product", node)
        self.emit("Add", [self.name(bias.inputs[1]), f"{out}.product"], out, node)

    def write_MVN(self, node: Node, out: str, _bias: Node | None) -> None:
        op: Any = node.op
        scale = node.outputs[0].uses[0].node
        shift = scale.outputs[0].uses[0].node
        vectors = [constant_data(n.inputs[1]) for n in (scale, shift)]
        kinds = scale.op.type_name, shift.op.type_name
        if (
            kinds != ("Multiply", "Add")
            or any(v is None for v in vectors)
            or _constant(node.inputs[1]).tolist() != [-1]
        ):
            raise UnsupportedError(f"{node} has no ONNX form here")
        for other in (scale, shift):
            self.names[id(other.outputs[0])] = out
        inputs = [node.inputs[0], scale.inputs[1], shift.inputs[1]]
        self.emit("LayerNormalization", [self.name(v) for v in inputs], out, node, axis=-1, epsilon=op.eps)

    def write_Gelu(self, node: Node, out: str, _bias: Node | None) -> None:
        x = self.name(node.inputs[0])
        numbers = {"root": np.sqrt(2.0), "one": 1.0, "half": 0.5}
        root, one, half = (self.initializer(np.array(v, np.float32), f"{out}.{n}") for n, v in numbers.items())
        self.emit("Div", [x, root], f"{out}.scaled", node)
        self.emit("Erf", [f"{out}.scaled"], f"{out}.erf", node)
        self.emit("Add", [f"{out}.erf", one], f"{out}.sum", node)
        self.emit("Mul", [x, f"{out}.sum"], f"{out}.twice", node)
        self.emit("Mul", [f"{out}.twice", half], out, node)

    def write_Gather(self, node: Node, out: str, _bias: Node | None) -> None:
        axis = int(_constant(node.inputs[2]).reshape(()))
        self.emit("Gather", [self.name(v) for v in node.inputs[:2]], out, node, axis=axis)

    def write_Convert(self, node: Node, out: str, _bias: Node | None) -> None:
        op: Any = node.op
        self.emit("Cast", [self.name(node.inputs[0])], out, node, to=TYPES[op.destination_type.name])

    def write_Softmax(self, node: Node, out: str, _bias: Node | None) -> None:
        op: Any = node.op
        self.emit("Softmax", [self.name(node.inputs[0])], out, node, axis=op.axis)

    def write_Transpose(self, node: Node, out: str, _bias: Node | None) -> None:
        self.emit("Transpose", [self.name(node.inputs[0])], out, node, perm=_constant(node.inputs[1]).tolist())

    def write_Clamp(self, node: Node, out: str, _bias: Node | None) -> None:
        op: Any = node.op
        limits = [self.initializer(np.array(v, np.float32), f"{out}.{n}") for n, v in (("lo", op.min), ("hi", op.max))]
        self.emit("Clip", [self.name(node.inputs[0]), *limits], out, node)

    def write_MaxPool(self, node: Node, out: str, _bias: Node | None) -> None:
        op: Any = node.op
        pads = [*op.pads_begin, *op.pads_end]
        kernel, strides = list(op.kernel), list(op.strides)
        self.emit("MaxPool", [self.name(node.inputs[0])], out, node, kernel_shape=kernel, strides=strides, pads=pads)

    def write_ReduceMean(self, node: Node, out: str, _bias: Node | None) -> None:
        op: Any = node.op
        if _constant(node.inputs[1]).tolist() != [2, 3] or op.keep_dims:
            raise UnsupportedError(f"{node} has no ONNX form here")
        self.emit("GlobalAveragePool", [self.name(node.inputs[0])], f"{out}.pool", node)
        self.emit("Flatten", [f"{out}.pool"], out, node)


def _constant(value: Value) -> Array:
    data = constant_data(value)
    if data is None:
        raise UnsupportedError(f"{value.node} must be a constant to be written as ONNX here")
    return data
