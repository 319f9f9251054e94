"""What a converted ONNX model looks like: names, shapes, quantization, control flow, external data."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lpir.frontends
from lpir.errors import UnsupportedError
from lpir.frontends.onnx import read_onnx
from lpir.ir.model import Model
from lpir.ir.shape import ANY
from lpir.ops.boundary import Constant
from lpir.passes.manager import transform
from tests.frontends.networks import build, evaluate, residual_network
from tests.tolerances import EXACT, assert_close

NODE = helper.make_node


def chain(model: Model) -> list[str]:
    return [n.op.type_name for n in model.nodes() if n.op.type_name not in ("Parameter", "Constant", "Result")]


def constant(value: object) -> np.ndarray:  # type: ignore[type-arg]
    op = value.node.op  # type: ignore[attr-defined]
    assert isinstance(op, Constant)
    return op.data


def test_names_and_dynamic_dimensions() -> None:
    model = read_onnx(residual_network())
    assert model.inputs[0].shape[0] == ANY
    assert str(model.inputs[0].type) == "f32[?,3,16,16]"
    assert model.input("x") is model.inputs[0]
    assert model.output("y") is model.outputs[0]
    assert str(model.outputs[0].type) == "f32[?,5]"
    names = {n.name for n in model.nodes()}
    assert {"stem", "bn", "relu6", "depthwise", "residual", "pool", "head"} <= names
    tensors = {t for n in model.nodes() for v in n.outputs for t in v.names}
    assert {"x", "c1", "n1", "s", "p", "y"} <= tensors


def test_names_survive_transform() -> None:
    model = transform(read_onnx(residual_network()))
    assert model.output("y") is model.outputs[0]
    assert {"stem", "relu6", "depthwise", "residual", "pool"} <= {n.name for n in model.nodes()}


def test_initializer_that_is_also_an_input_is_a_constant() -> None:
    proto = build([NODE("Add", ["x", "w"], ["y"])], {"x": [2], "w": [2]}, ["y"], {"w": np.ones(2, np.float32)})
    assert [v.names for v in read_onnx(proto).inputs] == [{"x"}]


def qdq(zero_point: np.ndarray, per_axis: bool = False) -> Model:  # type: ignore[type-arg]
    scale = np.full(zero_point.shape, 0.5, np.float32)
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "z"], ["q"], **({"axis": 1} if per_axis else {})),
        NODE("DequantizeLinear", ["q", "s", "z"], ["y"], **({"axis": 1} if per_axis else {})),
    ]
    return read_onnx(build(nodes, {"x": [1, 3, 4]}, ["y"], {"s": scale, "z": zero_point}))


@pytest.mark.parametrize(
    ("zero_point", "low", "high", "levels"),
    [
        (np.uint8(128), -64.0, 63.5, 256),
        (np.uint8(0), 0.0, 127.5, 256),
        (np.int8(0), -64.0, 63.5, 256),
        (np.int8(-128), 0.0, 127.5, 256),
        (np.uint16(32768), -16384.0, 16383.5, 65536),
        (np.int16(0), -16384.0, 16383.5, 65536),
    ],
)
def test_a_pair_is_one_fake_quantize(zero_point: np.generic, low: float, high: float, levels: int) -> None:
    model = qdq(np.asarray(zero_point))
    assert chain(model) == ["FakeQuantize"]
    node = model.results[0].inputs[0].node
    assert node.op.attributes()["levels"] == levels
    assert [float(constant(v)) for v in node.inputs[1:]] == [low, high, low, high]


def test_a_pair_per_axis_broadcasts() -> None:
    model = qdq(np.array([0, 128, 255], np.uint8), per_axis=True)
    node = model.results[0].inputs[0].node
    assert chain(model) == ["FakeQuantize"]
    assert constant(node.inputs[1]).shape == (1, 3, 1)
    assert constant(node.inputs[1]).reshape(-1).tolist() == [0.0, -64.0, -127.5]


def test_a_lone_quantize_linear_gives_codes() -> None:
    proto = build(
        [NODE("QuantizeLinear", ["x", "s", "z"], ["y"])],
        {"x": [4]},
        ["y"],
        {"s": np.float32(0.5), "z": np.uint8(128)},
        types={"y": TensorProto.UINT8},
    )
    model = read_onnx(proto)
    assert chain(model) == ["FakeQuantize", "Convert"]
    x = np.array([-100, -0.9, 0.4, 1000], np.float32)
    assert_close(evaluate(model, {"x": x})[0], np.array([0, 126, 129, 255], np.uint8), EXACT)


@pytest.mark.parametrize("zero", [0, 3])
def test_dequantized_weights_stay_compressed(zero: int) -> None:
    """Constant -> Convert -> [Subtract] -> Multiply survives the standard passes; int32 biases become float."""
    weights = np.arange(-12, 12, dtype=np.int8).reshape(2, 12)
    nodes = [
        NODE("DequantizeLinear", ["w", "s", "z"], ["wf"], axis=0),
        NODE("DequantizeLinear", ["b", "bs"], ["bf"]),
        NODE("Gemm", ["x", "wf", "bf"], ["y"], transB=1),
    ]
    constants = {
        "w": weights,
        "s": np.array([0.5, 0.25], np.float32),
        "z": np.full(2, zero, np.int8),
        "b": np.array([4, -4], np.int32),
        "bs": np.float32(0.25),
    }
    model = transform(read_onnx(build(nodes, {"x": [1, 12]}, ["y"], constants)))
    assert chain(model) == ["Convert", *(["Subtract"] if zero else []), "Multiply", "MatMul", "Add"]
    x = np.ones((1, 12), np.float32)
    real = (weights.astype(np.float32) - zero) * np.array([[0.5], [0.25]], np.float32)
    assert_close(evaluate(model, {"x": x})[0], x @ real.T + np.array([1, -1], np.float32), EXACT)


def test_blocked_int4_weights() -> None:
    codes = (np.arange(32) % 16 - 8).reshape(2, 16)
    proto = build(
        [NODE("DequantizeLinear", ["w", "s"], ["wf"], axis=1, block_size=8), NODE("MatMul", ["x", "wf"], ["y"])],
        {"x": [1, 2]},
        ["y"],
        {"s": np.array([[1, 2], [3, 4]], np.float32)},
        opset=21,
    )
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [2, 16], codes.reshape(-1)))
    model = transform(read_onnx(proto))
    assert chain(model) == ["Convert", "Multiply", "Reshape", "MatMul"]
    real = codes.astype(np.float32) * np.repeat([[1, 2], [3, 4]], 8, axis=1).astype(np.float32)
    x = np.array([[1, 2]], np.float32)
    assert_close(evaluate(model, {"x": x})[0], x @ real, EXACT)


def test_grouped_weights_keep_the_compressed_form() -> None:
    nodes = [
        NODE("DequantizeLinear", ["w", "s"], ["wf"], axis=0),
        NODE("Conv", ["x", "wf"], ["y"], group=2),
    ]
    weights = np.arange(16, dtype=np.int8).reshape(4, 2, 1, 2)
    constants = {"w": weights, "s": np.arange(1, 5).astype(np.float32)}
    model = read_onnx(build(nodes, {"x": [1, 4, 3, 3]}, ["y"], constants))
    assert chain(model) == ["Convert", "Multiply", "GroupConvolution"]
    node = next(n for n in model.nodes() if n.op.type_name == "GroupConvolution")
    assert str(node.inputs[1].shape) == "[2,2,2,1,2]"


def test_if_with_a_constant_condition_is_inlined() -> None:
    def branch(kind: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        return helper.make_graph([NODE(kind, ["x"], ["b"])], kind, [], [out])

    node = NODE("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Exp"))
    assert chain(read_onnx(build([node], {"x": [2]}, ["y"], {"c": np.array(False)}))) == ["Exp"]


def test_local_functions_are_written_out() -> None:
    proto = build([NODE("Twice", ["x"], ["y"], domain="own")], {"x": [2]}, ["y"])
    imports = [helper.make_opsetid("", 17)]
    body = [NODE("Add", ["a", "a"], ["b"])]
    proto.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], body, imports))
    assert chain(read_onnx(proto)) == ["Add"]


def test_operators_that_onnx_defines_by_others_are_written_out() -> None:
    model = read_onnx(build([NODE("AffineGrid", ["t", "s"], ["y"])], {"t": [2, 2, 3]}, ["y"], AFFINE, opset=20))
    assert "MatMul" in chain(model)


AFFINE = {"s": np.array([2, 1, 2, 2], np.int64)}


def test_all_unsupported_operators_are_listed_at_once(tmp_path: Path) -> None:
    nodes = [
        NODE("Det", ["x"], ["a"], name="first_det"),
        NODE("Det", ["x"], ["b"], name="second_det"),
        NODE("Mystery", ["a"], ["y"], name="odd", domain="elsewhere"),
    ]
    path = tmp_path / "model.onnx"
    onnx.save(build(nodes, {"x": [2, 2]}, ["y", "b"]), path)
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(path)
    message = str(caught.value)
    assert message.startswith(
        f"{path}: 2 operators are not supported: Det (2, first 'first_det'), elsewhere.Mystery (1"
    )


def test_external_data(tmp_path: Path) -> None:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    proto = build([NODE("MatMul", ["x", "w"], ["y"])], {"x": [1, 2]}, ["y"], {"w": weights})
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    model = read_onnx(path)
    assert_close(evaluate(model, {"x": np.ones((1, 2), np.float32)})[0], weights.sum(0, keepdims=True), EXACT)


def test_typed_fields_and_raw_bytes_agree() -> None:
    for kind, values in (
        (TensorProto.FLOAT16, [1.5, -2.0]),
        (TensorProto.BFLOAT16, [1.5, -2.0]),
        (TensorProto.INT4, [7, -8]),
    ):
        tensor = helper.make_tensor("w", kind, [2], values)
        proto = build([NODE("Cast", ["w"], ["y"], to=TensorProto.FLOAT)], {}, ["y"], opset=21)
        proto.graph.initializer.append(tensor)
        assert_close(evaluate(read_onnx(proto), {})[0], np.array(values, np.float32), EXACT)
        raw = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
        proto.graph.initializer[0].CopyFrom(raw)
        assert_close(evaluate(read_onnx(proto), {})[0], np.array(values, np.float32), EXACT)


def test_one_module_imports_onnx_and_only_when_needed() -> None:
    root = Path(lpir.frontends.__file__).parent
    importers = set()
    for path in root.rglob("*.py"):
        for item in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in item.names] if isinstance(item, ast.Import) else []
            names += [item.module or ""] if isinstance(item, ast.ImportFrom) else []
            if any(n == "onnx" or n.startswith("onnx.") for n in names):
                importers.add(path.name)
    assert importers == {"proto.py"}
    code = "import sys, lpir.frontends.onnx, lpir.frontends.onnx.proto; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root.parent.parent).returncode == 0
