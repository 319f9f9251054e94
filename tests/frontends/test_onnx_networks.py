"""Whole networks against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lpir.frontends.onnx import read_onnx
from lpir.passes.manager import transform
from tests.frontends.networks import Array, encoder_block, evaluate, onnxruntime_outputs, residual_network
from tests.tolerances import Tolerance, assert_close

DEEP_FLOAT = Tolerance("DEEP_FLOAT", "float32 through a network, sums in another order", rel=1e-4, of_max=2e-5)
FLIPPED_STEPS = Tolerance("FLIPPED_STEPS", "a tie that rounds the other way moves later steps", of_max=0.05)


def photo(batch: int = 2) -> Array:
    return np.random.default_rng(2).standard_normal((batch, 3, 16, 16)).astype(np.float32)


NETWORKS = {
    "residual": (residual_network, photo()),
    "encoder": (encoder_block, np.random.default_rng(3).standard_normal((2, 5, 16)).astype(np.float32)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("stage", ["as read", "transformed", "static and transformed"])
def test_float_network(name: str, stage: str) -> None:
    make, x = NETWORKS[name]
    proto = make()
    model = read_onnx(proto)
    if stage.startswith("static"):
        model.reshape(list(x.shape))
    if stage.endswith("transformed"):
        transform(model)
    assert_close(evaluate(model, {"x": x})[0], onnxruntime_outputs(proto, {"x": x})[0], DEEP_FLOAT)


def types_of(model: object) -> list[str]:
    return [n.op.type_name for n in model.nodes()]  # type: ignore[attr-defined]


def test_residual_network_becomes_few_operations() -> None:
    model = read_onnx(residual_network())
    model.reshape([1, 3, 16, 16])
    found = [t for t in types_of(transform(model)) if t not in ("Parameter", "Constant", "Result")]
    assert found == [
        *("Convolution", "Add", "Clamp", "GroupConvolution", "Add", "Relu", "Convolution", "Add"),
        *("MaxPool", "ReduceMean", "Reshape", "MatMul", "Add"),
    ]


def test_encoder_is_composed() -> None:
    found = types_of(transform(read_onnx(encoder_block())))
    assert found.count("MVN") == 1
    assert found.count("Gelu") == 1
    assert not {"Erf", "Sqrt", "Power", "Divide"} & set(found)


def quantized(tmp_path: Path, per_channel: bool, activations: str, weights: str, form: str = "QDQ") -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter([{"x": photo()}] * 2)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.rest, None)

    source, target = tmp_path / "float.onnx", tmp_path / "qdq.onnx"
    onnx.save(residual_network(), source)
    quantize_static(
        source,
        target,
        Photos(),
        quant_format=QuantFormat[form],
        per_channel=per_channel,
        activation_type=QuantType.from_string(activations),
        weight_type=QuantType.from_string(weights),
    )
    return onnx.load(target)


@pytest.mark.parametrize(
    ("per_channel", "activations", "weights"),
    [(False, "QUInt8", "QInt8"), (True, "QUInt8", "QInt8"), (True, "QInt8", "QInt8"), (False, "QUInt8", "QUInt8")],
)
def test_qdq_network(tmp_path: Path, per_channel: bool, activations: str, weights: str) -> None:
    proto = quantized(tmp_path, per_channel, activations, weights)
    x = photo()
    expected = onnxruntime_outputs(proto, {"x": x})[0]
    model = read_onnx(proto)
    assert_close(evaluate(model, {"x": x})[0], expected, FLIPPED_STEPS, "as read")
    transform(model)
    assert_close(evaluate(model, {"x": x})[0], expected, FLIPPED_STEPS, "transformed")
    found = types_of(model)
    assert found.count("FakeQuantize") >= 8
    for node in model.nodes():
        if node.op.type_name in ("Convolution", "GroupConvolution"):
            assert node.inputs[0].node.op.type_name == "FakeQuantize"
            assert node.inputs[1].node.op.type_name == "Multiply", "weights stay compressed"
            codes = node.inputs[1].node.inputs[0].node
            while codes.inputs:
                codes = codes.inputs[0].node
            assert codes.outputs[0].element_type.bits == 8


@pytest.mark.parametrize("per_channel", [False, True])
def test_qoperator_network(tmp_path: Path, per_channel: bool) -> None:
    """QLinear operators become float operators between FakeQuantize; codes do not come back."""
    proto = quantized(tmp_path, per_channel, "QUInt8", "QInt8", "QOperator")
    x = photo()
    model = transform(read_onnx(proto))
    assert_close(evaluate(model, {"x": x})[0], onnxruntime_outputs(proto, {"x": x})[0], FLIPPED_STEPS)
    real = [n for n in model.nodes() if n.op.type_name in ("Convolution", "GroupConvolution", "Add", "MaxPool")]
    assert all(n.inputs[0].element_type.is_float for n in real)
    assert "MaxPool" in {n.op.type_name for n in real}


def test_dynamically_quantized_network(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    source, target = tmp_path / "float.onnx", tmp_path / "dynamic.onnx"
    onnx.save(encoder_block(), source)
    quantize_dynamic(source, target)
    proto, x = onnx.load(target), NETWORKS["encoder"][1]
    assert "DynamicQuantizeLinear" in {n.op_type for n in proto.graph.node}
    model = transform(read_onnx(proto))
    assert_close(evaluate(model, {"x": x})[0], onnxruntime_outputs(proto, {"x": x})[0], FLIPPED_STEPS)
