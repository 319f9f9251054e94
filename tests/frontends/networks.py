"""Small ONNX networks for tests, and a runner that evaluates a Model node by node with NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpir.ir.model import Model

Array = np.ndarray[Any, np.dtype[Any]]


def evaluate(model: Model, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs by `op.eval` in topological order; checks every type and shape against inference."""
    values: dict[int, tuple[Array, ...]] = {}
    for node in model.nodes():
        if node.op.type_name == "Parameter":
            values[id(node)] = (np.asarray(feeds[node.name]),)
            continue
        values[id(node)] = node.op.eval(*[values[id(v.node)][v.index] for v in node.inputs])
        for value, array in zip(node.outputs, values[id(node)], strict=True):
            assert value.element_type.dtype == array.dtype, (node, value.type, array.dtype)
            assert value.shape.allows(array.shape), (node, value.type, array.shape)
    return [values[id(r)][0] for r in model.results]


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """An ONNX model of float inputs (unless `types` says otherwise) and outputs of unstated shape."""
    kinds = types or {}
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    domains = {n.domain for n in nodes if n.domain}
    opsets = [helper.make_opsetid("", opset), *[helper.make_opsetid(d, 1) for d in domains]]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def onnxruntime_outputs(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime computes, without its graph optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(None, dict(feeds))]


def residual_network() -> onnx.ModelProto:
    """Convolution, batch normalization, depthwise, residual add, pooling, flatten by shape arithmetic, Gemm."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    constants: dict[str, Any] = {
        "w1": rng.standard_normal((8, 3, 3, 3), np.float32) * np.float32(0.2),
        "w2": rng.standard_normal((8, 1, 3, 3), np.float32) * np.float32(0.3),
        "b2": rng.standard_normal(8, np.float32),
        "w3": rng.standard_normal((8, 8, 1, 1), np.float32) * np.float32(0.3),
        "fc": rng.standard_normal((5, 8), np.float32),
        "fb": rng.standard_normal(5, np.float32),
        "six": np.float32(6),
        "zero": np.float32(0),
        "first": np.int64(0),
        "axis": np.array([0], np.int64),
        "rest": np.array([-1], np.int64),
    }
    for name in ("gamma", "beta", "mean"):
        constants[name] = rng.standard_normal(8, np.float32)
    constants["variance"] = rng.random(8, np.float32) + np.float32(0.5)
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c1", "gamma", "beta", "mean", "variance"], ["n1"], name="bn"),
        node("Clip", ["n1", "zero", "six"], ["r1"], name="relu6"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], name="depthwise", group=8, pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["r2"], name="relu"),
        node("Conv", ["r2", "w3"], ["c3"], name="project"),
        node("Add", ["c3", "r1"], ["s"], name="residual"),
        node("MaxPool", ["s"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["p"], ["g"], name="gap"),
        node("Shape", ["g"], ["shape"]),
        node("Gather", ["shape", "first"], ["batch"]),
        node("Unsqueeze", ["batch", "axis"], ["batch1"]),
        node("Concat", ["batch1", "rest"], ["target"], axis=0),
        node("Reshape", ["g", "target"], ["flat"], name="flatten"),
        node("Gemm", ["flat", "fc", "fb"], ["y"], name="head", transB=1),
    ]
    return build(nodes, {"x": ["batch", 3, 16, 16]}, ["y"], constants)


def encoder_block() -> onnx.ModelProto:
    """A transformer encoder block as opset-14 exporters write it: decomposed LayerNorm, GELU and attention."""
    rng = np.random.default_rng(1)
    node = helper.make_node
    constants: dict[str, Any] = {
        "two": np.float32(2),
        "eps": np.float32(1e-5),
        "root2": np.float32(np.sqrt(2)),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "heads": np.array([0, 0, 4, 4], np.int64),
        "joined": np.array([0, 0, 16], np.int64),
        "scale": np.float32(0.5),
        "gamma": rng.standard_normal(16, np.float32),
        "beta": rng.standard_normal(16, np.float32),
    }
    for name, shape in {"wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "w1": (16, 32), "w2": (32, 16)}.items():
        constants[name] = rng.standard_normal(shape, np.float32) * np.float32(0.2)
    constants["b1"] = rng.standard_normal(32, np.float32)
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[-1]),
        node("Sub", ["x", "m"], ["d"]),
        node("Pow", ["d", "two"], ["d2"]),
        node("ReduceMean", ["d2"], ["var"], axes=[-1]),
        node("Add", ["var", "eps"], ["ve"]),
        node("Sqrt", ["ve"], ["sd"]),
        node("Div", ["d", "sd"], ["n"]),
        node("Mul", ["n", "gamma"], ["ng"]),
        node("Add", ["ng", "beta"], ["ln"]),
    ]
    for part in "qkv":
        nodes.append(node("MatMul", ["ln", f"w{part}"], [part]))
        nodes.append(node("Reshape", [part, "heads"], [f"{part}4"]))
        nodes.append(node("Transpose", [f"{part}4"], [f"{part}t"], perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]))
    nodes += [
        node("MatMul", ["qt", "kt"], ["qk"]),
        node("Mul", ["qk", "scale"], ["scores"]),
        node("Softmax", ["scores"], ["p"], axis=-1),
        node("MatMul", ["p", "vt"], ["a"]),
        node("Transpose", ["a"], ["at"], perm=[0, 2, 1, 3]),
        node("Reshape", ["at", "joined"], ["aj"]),
        node("Add", ["aj", "x"], ["r"]),
        node("MatMul", ["r", "w1"], ["h0"]),
        node("Add", ["h0", "b1"], ["h"]),
        node("Div", ["h", "root2"], ["hs"]),
        node("Erf", ["hs"], ["e"]),
        node("Add", ["e", "one"], ["e1"]),
        node("Mul", ["h", "e1"], ["he"]),
        node("Mul", ["he", "half"], ["gelu"]),
        node("MatMul", ["gelu", "w2"], ["o"]),
        node("Add", ["o", "r"], ["y"]),
    ]
    return build(nodes, {"x": ["batch", "tokens", 16]}, ["y"], constants, opset=14)
