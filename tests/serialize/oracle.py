"""OpenVINO and a plain interpreter, to compare files and answers with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.op import Array, Case
from lpir.ir.types import from_dtype
from lpir.ops.boundary import Result, constant, parameter
from lpir.serialize.xml_write import to_bytes

CORE = ov.Core()
# the network as it is written: f32 arithmetic and no integer transformations
AS_WRITTEN = {"LP_TRANSFORMS_MODE": "NO", "INFERENCE_PRECISION_HINT": "f32"}


def evaluate(model: Model, *arrays: Array) -> list[Array]:
    """The outputs, each operation by its own `eval`."""
    values: dict[tuple[int, int], Array] = {(id(p), 0): a for p, a in zip(model.parameters, arrays, strict=True)}
    for node in model.nodes():
        if node.op.type_name != "Parameter":
            outputs = node.op.eval(*(values[id(v.node), v.index] for v in node.inputs))
            values.update({(id(node), i): np.asarray(a) for i, a in enumerate(outputs)})
    return [values[id(r), 0] for r in model.results]


def in_openvino(model: Model) -> ov.Model:
    """The model as OpenVINO reads it from the bytes that lpir writes."""
    xml, weights = to_bytes(model)
    return CORE.read_model(xml, tensor(weights))


def tensor(weights: bytes) -> ov.Tensor:
    return ov.Tensor(np.frombuffer(weights or b"\0", np.uint8).copy())


def run_openvino(model: ov.Model | Path, *arrays: Array) -> list[Array]:
    """The outputs on OpenVINO's CPU device."""
    compiled = CORE.compile_model(model, "CPU", AS_WRITTEN)
    found = compiled(list(arrays))
    return [np.array(found[i]) for i in range(len(compiled.outputs))]


def structure(model: ov.Model) -> list[Any]:
    """What two equal OpenVINO models have in common, without the order of independent nodes."""
    rows = []
    for op in model.get_ops():
        sources = [
            (v.get_source_output().get_node().get_friendly_name(), v.get_source_output().get_index())
            for v in op.inputs()
        ]
        outputs = [(str(v.get_element_type()), str(v.get_partial_shape()), sorted(v.get_names())) for v in op.outputs()]
        info = op.get_type_info()
        attributes = {k: v for k, v in op.get_attributes().items() if k != "value"}
        rows.append((op.get_friendly_name(), info.name, info.version_id, repr(attributes), sources, outputs))
    return sorted(rows, key=repr)


def one_operation(case: Case) -> tuple[Model, list[Array]]:
    """A model around one operation: the first input is a Parameter, the others are Constants. And the input arrays."""
    parameters = []
    inputs = []
    for index, array in enumerate(case.inputs):
        if index == 0:
            parameters.append(parameter(array.shape, from_dtype(array.dtype), "x"))
            inputs.append(parameters[0].output)
        else:
            inputs.append(constant(array, name=f"input {index}"))
    node = Node(case.op, inputs, "op")
    results = [Node(Result(), [value], f"result {i}") for i, value in enumerate(node.outputs)]
    return Model(results, parameters, case.op.type_name), list(case.inputs[:1])
