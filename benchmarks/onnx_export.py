"""A float convolutional network as ONNX in the form that exporters write, so that every engine gets the same layers."""

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

SIMPLE = {"Add": "Add", "Multiply": "Mul", "Relu": "Relu", "Sigmoid": "Sigmoid"}
OPSET, IR_VERSION = 17, 8


def export_onnx(model: Model, path: Path) -> None:
    """Writes `model` (float32, one input, one output) as ONNX opset 17. Raises UnsupportedError for other operations.

    A bias becomes part of its Conv or Gemm, a mean over the picture GlobalAveragePool + Flatten.
    """
    writer = _Writer()
    for node in model.nodes():
        writer.write(node)
    shapes = [list(v.shape.to_static()) for v in (model.inputs[0], model.outputs[0])]
    graph = helper.make_graph(
        writer.nodes,
        model.name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shapes[0])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shapes[1])],
        writer.initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION), path)


class _Writer:
    """ONNX nodes and initializers, and the name of each value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names: dict[int, str] = {}

    def write(self, node: Node) -> None:
        kind = node.op.type_name
        if kind == "Parameter":
            self.names[id(node.outputs[0])] = "input"
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
            self.names[id(value)] = self.initializer(_constant(value), value.node.name)
        return self.names[id(value)]

    def initializer(self, array: Array, name: str) -> str:
        self.initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def emit(self, kind: str, inputs: Sequence[str], out: str, node: Node, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [out], f"{node.name}/{kind}", **attributes))

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
        inputs = [self.name(node.inputs[0]), self.initializer(_constant(node.inputs[1]), f"{node.name}.weight")]
        if bias is not None:
            inputs.append(self.initializer(_constant(bias.inputs[1]).reshape(-1), f"{node.name}.bias"))
        self.emit("Gemm", inputs, out, node, transA=int(op.transpose_a), transB=int(op.transpose_b))

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
