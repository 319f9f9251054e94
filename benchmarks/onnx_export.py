"""A float convolutional network as ONNX, so that ONNX Runtime can be timed on the very same layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpir.errors import UnsupportedError
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ops.boundary import constant_data

SIMPLE = {"Add": "Add", "Multiply": "Mul", "Relu": "Relu", "Sigmoid": "Sigmoid"}


def export_onnx(model: Model, path: Path) -> None:
    """Writes `model` (float32, one input, one output) as ONNX opset 17. Raises UnsupportedError for other operations."""
    names: dict[int, str] = {}
    nodes: list[Any] = []
    initializers: list[Any] = []

    def initializer(array: np.ndarray[Any, Any], name: str) -> str:
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    for index, node in enumerate(model.nodes()):
        kind, out = node.op.type_name, f"t{index}"
        for value in node.outputs:
            names[id(value)] = out
        data = constant_data(node.outputs[0])
        if kind == "Parameter":
            names[id(node.outputs[0])] = "input"
        elif data is not None:
            used = any(use.node.op.type_name in (*SIMPLE, "MatMul") for use in node.outputs[0].uses)
            if used:
                initializer(data, out)
        elif kind == "Result":
            nodes.append(helper.make_node("Identity", [names[id(node.inputs[0])]], ["output"]))
        else:
            nodes.append(_operator(node, [names[id(v)] for v in node.inputs], out, initializer))
    shapes = [list(v.shape.to_static()) for v in (model.inputs[0], model.outputs[0])]
    graph = helper.make_graph(
        nodes,
        model.name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shapes[0])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shapes[1])],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _operator(node: Node, inputs: list[str], out: str, initializer: Any) -> Any:
    kind, op = node.op.type_name, node.op
    if kind in SIMPLE:
        return helper.make_node(SIMPLE[kind], inputs, [out], node.name)
    if kind in ("Convolution", "GroupConvolution"):
        weight = constant_data(node.inputs[1])
        assert weight is not None
        groups = weight.shape[0] if kind == "GroupConvolution" else 1
        flat = weight.reshape(-1, *weight.shape[2:]) if groups > 1 else weight
        pads = [*op.pads_begin, *op.pads_end]  # type: ignore[attr-defined]
        return helper.make_node(
            "Conv",
            [inputs[0], initializer(flat, f"{out}.weight")],
            [out],
            node.name,
            group=groups,
            pads=pads,
            strides=list(op.strides),  # type: ignore[attr-defined]
            dilations=list(op.dilations),  # type: ignore[attr-defined]
        )
    if kind == "Clamp":
        limits = [initializer(np.float32(v), f"{out}.{n}") for n, v in (("lo", op.min), ("hi", op.max))]  # type: ignore[attr-defined]
        return helper.make_node("Clip", [inputs[0], *limits], [out], node.name)
    if kind == "MaxPool":
        pads = [*op.pads_begin, *op.pads_end]  # type: ignore[attr-defined]
        return helper.make_node(
            "MaxPool",
            [inputs[0]],
            [out],
            node.name,
            kernel_shape=list(op.kernel),  # type: ignore[attr-defined]
            strides=list(op.strides),  # type: ignore[attr-defined]
            pads=pads,
        )
    if kind == "ReduceMean":
        axes = constant_data(node.inputs[1])
        assert axes is not None
        keep = int(op.keep_dims)  # type: ignore[attr-defined]
        return helper.make_node("ReduceMean", [inputs[0]], [out], node.name, axes=axes.tolist(), keepdims=keep)
    if kind == "MatMul":
        weight = constant_data(node.inputs[1])
        assert weight is not None
        flip = op.transpose_b  # type: ignore[attr-defined]
        return helper.make_node(
            "MatMul", [inputs[0], initializer(weight.T if flip else weight, f"{out}.weight")], [out], node.name
        )
    raise UnsupportedError(f"{node} has no ONNX form here")
